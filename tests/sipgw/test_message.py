import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw.errors import MalformedMessage
from sipgw.message import Request, Response, is_keepalive, parse, reply
from sipgw.validate import validate

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


def test_a_changed_message_keeps_everything_else_as_it_was() -> None:
    message = request(REGISTER)
    message.headers.set("Call-ID", "2@h")
    message.headers.prepend("Via", "SIP/2.0/UDP top")
    assert message.headers.pop("v") == "SIP/2.0/UDP top"
    assert message.headers.pop("via") == "SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bKa1;rport"
    assert message.headers.remove("f") == 1
    message.headers.add("Subject", "lunch")
    message.headers.replace_first("Via", "SIP/2.0/UDP changed")
    message.headers.replace_first("X-New", "1")
    assert message.encode() == (
        b"REGISTER sip:example.com SIP/2.0\r\n"
        b"X-New: 1\r\n"
        b"Via: SIP/2.0/UDP changed\r\n"
        b"Via: SIP/2.0/UDP h3\r\n"
        b"t: <sip:alice@example.com>\r\n"
        b"Call-ID: 2@h\r\n"
        b"CSeq: 7\r\n  REGISTER\r\n"
        b"X-Unknown:   kept  as it is \r\n"
        b"l: 0\r\n"
        b"Subject: lunch\r\n\r\n"
    )


def test_set_leaves_one_header_of_several_and_pop_of_none_is_none() -> None:
    message = request(REGISTER)
    message.headers.set("Via", "SIP/2.0/UDP one")
    assert message.headers.lines("via") == ["SIP/2.0/UDP one"]
    assert next(iter(message.headers)) == ("via", "SIP/2.0/UDP one")
    assert message.headers.pop("route") is None
    assert message.headers.first("route") is None
    assert message.headers.all("route") == []
    assert "Route" not in message.headers


def test_a_typed_value_follows_its_header() -> None:
    message = request(REGISTER)
    assert not message.to.tag
    message.headers.set("To", "<sip:bob@example.com>;tag=new")
    assert (message.to.tag, message.to.uri.user) == ("new", "bob")
    with pytest.raises(MalformedMessage, match="bad CSeq"):
        request(REGISTER.replace(b"7\r\n  REG", b"x\r\n  REG")).cseq  # noqa: B018


def test_a_line_break_in_a_value_cannot_begin_another_header() -> None:
    message = Request("MESSAGE", "sip:a@b")
    message.headers.add("Subject", "x\r\nEvil: 1\n\rVia: 2")
    encoded = parse(message.encode())
    assert encoded.headers.names == ["subject", "content-length"]
    answer = Response(200, "fine\r\nEvil: 1")
    assert parse(answer.encode()).headers.names == ["content-length"]


def test_the_body_and_its_length_agree() -> None:
    message = request(REGISTER)
    message.set_body("text/plain", b"hello")
    again = parse(message.encode())
    assert (again.body, again.content_type) == (b"hello", "text/plain")
    assert again.headers.all("content-length") == ["5"]
    again.set_body("", b"")
    assert "content-type" not in parse(again.encode()).headers


def test_what_follows_the_body_is_dropped_and_a_short_body_is_a_defect() -> None:
    data = REGISTER.replace(b"l: 0", b"l: 5")
    assert parse(data + b"hello, world").body == b"hello"
    assert parse(data + b"hell").defect == "body shorter than Content-Length"
    assert parse(REGISTER.replace(b"l: 0", b"l: +0")).defect == "bad Content-Length"
    assert parse(REGISTER.replace(b"l: 0", b"l: 0\r\nl: 0")).defect is None


def test_a_copy_changes_on_its_own() -> None:
    message = request(REGISTER)
    twin = message.copy()
    twin.headers.remove("via")
    twin.uri = "sip:other"
    assert message.encode() == REGISTER
    response = reply(message, 180)
    response.copy().headers.remove("to")
    assert "to" in response.headers


def test_a_100_carries_the_timestamp_and_no_tag() -> None:
    data = REGISTER.replace(b"l: 0", b"Timestamp: 54\r\nl: 0")
    trying = reply(request(data), 100, to_tag="y")
    assert (trying.headers.first("timestamp"), trying.to.tag) == ("54", None)
    assert "timestamp" not in reply(request(data), 200).headers


def test_a_tag_that_is_there_is_not_doubled() -> None:
    data = REGISTER.replace(b"t: <sip:alice@example.com>", b"To: <sip:a;tag=u@h> ; TAG = q")
    assert reply(request(data), 200, to_tag="y").to.tag == "q"
    data = REGISTER.replace(b"t: <sip:alice@example.com>", b"To: <sip:a;tag=u@h>")
    assert reply(request(data), 200, to_tag="y").to.tag == "y"


def test_keepalives_are_told_from_messages() -> None:
    assert is_keepalive(b"\r\n\r\n")
    assert is_keepalive(b"\0")
    assert is_keepalive(b"")
    assert not is_keepalive(b"x")
    assert parse(b"\r\n\r\n" + REGISTER).encode() == REGISTER


ACCESSORS = ["via", "vias", "from_", "to", "call_id", "cseq", "contacts", "routes"]
ACCESSORS += ["record_routes", "content_type", "expires", "max_forwards"]
names = st.sampled_from(["Via", "v", "To", "From", "f", "CSeq", "Call-ID", "Contact", "X-Y", "l"])
values = st.text(alphabet='sip:a@b;,<>"\\ =1é*\udc80', max_size=20).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
messages = st.builds(
    lambda start, lines, body: (
        start + b"".join(b"\r\n" + n.encode() + b": " + v for n, v in lines) + b"\r\n\r\n" + body
    ),
    st.sampled_from([b"INVITE sip:a@b SIP/2.0", b"SIP/2.0 200 OK", b"OPTIONS  sip:x SIP/9.1 "]),
    st.lists(st.tuples(names, values), max_size=8),
    st.binary(max_size=20),
)


def mutated(pair: tuple[bytes, list[tuple[int, bytes]]]) -> bytes:
    data, changes = pair
    for at, new in changes:
        data = data[:at] + new + data[at + 1 :]
    return data


changes = st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2)), max_size=4)


@given(st.binary(max_size=100) | messages | st.tuples(messages, changes).map(mutated))
def test_any_bytes_are_a_message_that_can_be_read_and_written_or_malformed(data: bytes) -> None:
    try:
        message = parse(data)
    except MalformedMessage:
        return
    for name in ACCESSORS:
        with contextlib.suppress(MalformedMessage):
            getattr(message, name)
    if isinstance(message, Request):
        validate(message)
        parse(reply(message, 400, to_tag="x").encode())
    once = message.encode()
    again = parse(once)
    assert again.encode() == once
    assert again.headers.names == message.headers.names
    assert again.body == message.body
