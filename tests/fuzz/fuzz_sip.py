"""Any bytes as SIP: malformed with a reason, or a message to read, answer, write and handle.

python tests/fuzz/fuzz_sip.py -max_total_time=60
"""

import contextlib
import random

from sipgw.errors import MalformedMessage, TooManyTransactions
from sipgw.headers import CSeq, NameAddr, Uri, Via, split_list
from sipgw.message import Request, parse, reply
from sipgw.registrar import Registrar
from sipgw.transaction import RequestReceived
from sipgw.transactions import TransactionLayer
from sipgw.validate import validate, validate_response

_ACCESSORS = ("via", "vias", "from_", "to", "cseq", "call_id", "contacts", "routes", "expires")
_CLIENT = ("127.0.0.1", 5062)

SEEDS = [
    b"REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bK1;rport"
    b'\r\nFrom: "A" <sip:a@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\nCall-ID: 1@h\r\n'
    b"CSeq: 1 REGISTER\r\nContact: <sip:a@127.0.0.1:5062>;expires=60, *\r\nExpires: 60\r\n\r\n",
    b"INVITE sip:b@example.com;x SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK2"
    b",\r\n SIP/2.0/TCP g\r\n"
    b"f: sip:a@h;tag=1\r\nt: sip:b@h\r\ni: 2\r\nCSeq: 2 INVITE\r\nRoute: <sip:h;lr>\r\n"
    b"l: 3\r\n\r\nv=0",
    b"CANCEL sip:b@example.com;x SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK2\r\n"
    b"f: sip:a@h;tag=1\r\nt: sip:b@h\r\ni: 2\r\nCSeq: 2 CANCEL\r\n\r\n",
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK3\r\n"
    b"From: <sip:a@h>;tag=1\r\n"
    b"To: <sip:b@h>;tag=2\r\nCall-ID: 9@h\r\nCSeq: 1 INVITE\r\nContact: <sip:b@[::1]>\r\n\r\n",
]


def test_one_input(data: bytes) -> None:
    """Take the bytes for a datagram, and its text for each kind of header value."""
    _machines(data)
    try:
        message = parse(data)
    except MalformedMessage:
        _values(data.decode("latin-1"))
        return
    for name in _ACCESSORS:
        with contextlib.suppress(MalformedMessage):
            getattr(message, name)
    if isinstance(message, Request):
        validate(message)
        parse(reply(message, 400, to_tag="x").encode())
    else:
        validate_response(message)
    written = message.encode()
    assert parse(written).encode() == written
    for _, value in message.headers:
        _values(value)


def _values(text: str) -> None:
    split_list(text)
    for reader in (Uri.parse, NameAddr.parse, Via.parse, CSeq.parse):
        with contextlib.suppress(MalformedMessage):
            value = reader(text)
            assert str(reader(str(value))) == str(value)


def _machines(data: bytes) -> None:
    layer = TransactionLayer(random.Random(0).randbytes, sent_by="127.0.0.1:5060", limit=2)
    registrar = Registrar(lambda aor: True)
    with contextlib.suppress(TooManyTransactions):
        layer.send_request(_outgoing(), _CLIENT, 0.0)
    for now in (0.0, 0.1):
        for event in layer.on_datagram(data, _CLIENT, now):
            if isinstance(event, RequestReceived):
                outcome = registrar.on_register(event.request, event.source, now)
                response = outcome.response(event.request, event.transaction.tag)
                layer.respond(event.transaction, response, now)
    while (at := layer.deadline()) is not None:
        layer.on_time(at)
    assert len(layer) == 0


def _outgoing() -> Request:
    request = Request("INVITE", "sip:b@h")
    for name, value in (("From", "<sip:a@h>;tag=1"), ("To", "<sip:b@h>"), ("Call-ID", "9@h")):
        request.headers.add(name, value)
    request.headers.add("CSeq", "1 INVITE")
    return request


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
