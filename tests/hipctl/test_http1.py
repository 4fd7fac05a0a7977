"""One HTTP exchange with a router: well-behaved, sloppy, or hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket
from hipctl.http1 import LONGEST_HEAD, Exchange
from hipctl.mapped import Fetch, Uplink, Url

UPLINK = Uplink("192.168.77.2", "192.168.77.1")
GET = Fetch(UPLINK, 1, Url("192.168.77.1", 43_829, "/rootDesc.xml"))
POST = Fetch(UPLINK, 2, Url("fe80::1%eth0", 80, "/ctl"), "urn:x#Do", b"<a/>")
LONGEST = 1_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def test_requests_are_plain() -> None:
    assert Exchange(GET, LONGEST).request == (
        b"GET /rootDesc.xml HTTP/1.1\r\nHost: 192.168.77.1:43829\r\nConnection: close\r\n\r\n"
    )
    assert Exchange(POST, LONGEST).request == (
        b"POST /ctl HTTP/1.1\r\nHost: [fe80::1]:80\r\nConnection: close\r\n"
        b'Content-Type: text/xml; charset="utf-8"\r\nContent-Length: 4\r\n'
        b'SOAPAction: "urn:x#Do"\r\n\r\n<a/>'
    )


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        OK.replace(b"\r\n", b"\n"),
        b"HTTP/1.0 200 OK\r\n\r\nhello",  # until the connection ends
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        OK + b"more",
    ],
)
def test_replies_come_whole_or_in_pieces(reply: bytes) -> None:
    for size in (1, 7, len(reply)):
        exchange = Exchange(GET, LONGEST)
        for at in range(0, len(reply), size):
            if not exchange.done:
                exchange.feed(reply[at : at + size])
        if not exchange.done:
            exchange.feed(b"")
        assert (exchange.status, exchange.body, exchange.done) == (200, b"hello", True)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        OK[:-1],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * (LONGEST + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (LONGEST_HEAD + 1),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_a_hostile_reply_ends_the_exchange(reply: bytes) -> None:
    exchange = Exchange(GET, LONGEST)
    with pytest.raises(MalformedPacket):  # noqa: PT012  whichever it is
        exchange.feed(reply)
        exchange.feed(b"")


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda b: b"HTTP/1.1 200 OK\r\n" + b))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    exchange = Exchange(GET, LONGEST)
    try:
        exchange.feed(data)
        if not exchange.done:
            exchange.feed(b"")
    except MalformedPacket:
        return
    assert exchange.done
    assert len(exchange.body) <= LONGEST
