import pytest

from sipgw.errors import MalformedMessage
from sipgw.message import Request, Response, parse, reply

REGISTER = (
    b"REGISTER sip:example.com SIP/2.0\r\n"
    b"v: SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bKa1;rport, SIP/2.0/UDP h2;branch=z9hG4bKa2\r\n"
    b"Via: SIP/2.0/UDP h3\r\n"
    b"t: <sip:alice@example.com>\r\n"
    b'F: "Alice, the \\"first\\"" <sip:alice@example.com>;tag=x\r\n'
    b"Call-ID: 1@h\r\n"
    b"CSeq: 7\r\n  REGISTER\r\n"
    b"X-Unknown:   kept  as it is \r\n"
    b"l: 0\r\n\r\n"
)


def request(data: bytes) -> Request:
    message = parse(data)
    assert isinstance(message, Request)
    return message


def test_a_message_comes_out_as_it_went_in() -> None:
    assert parse(REGISTER).encode() == REGISTER


def test_headers_are_found_by_any_spelling() -> None:
    message = request(REGISTER)
    assert message.headers.first("FROM") == message.headers.first("f")
    assert message.from_.display == 'Alice, the "first"'
    assert message.cseq.number == 7
    assert [via.host for via in message.vias] == ["127.0.0.1", "h2", "h3"]
    assert message.headers.first("x-unknown") == "kept  as it is"


def test_a_reply_copies_what_section_8_2_6_says_and_tags_to() -> None:
    response = reply(request(REGISTER), 200, to_tag="y")
    assert response.reason == "OK"
    again = parse(response.encode())
    assert isinstance(again, Response)
    assert again.to.tag == "y"
    assert [via.host for via in again.vias] == ["127.0.0.1", "h2", "h3"]
    assert "x-unknown" not in again.headers


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "headers do not end"),
        (b"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n", "headers do not end"),
        (b"hello\r\n\r\n", "bad request line"),
        (b"INVITE sip:a@b SIP/2.0\r\nVia: x\nTo: y\r\n\r\n", "bare line break"),
        (b"SIP/2.0 4294967301 better\r\n\r\n", "bad status line"),
        (b"SIP/7.0 200 OK\r\n\r\n", "response of another version"),
        (b"OPT<IONS sip:a@b SIP/2.0\r\n\r\n", "bad method"),
        (b"OPTIONS sip:a SIP/2.0\r\n" + b"A: b\r\n" * 257 + b"\r\n", "too many headers"),
        (b"OPTIONS sip:a SIP/2.0\r\n\r\n" + bytes(65_536), "message too large"),
    ],
)
def test_what_cannot_be_represented_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        parse(data)
