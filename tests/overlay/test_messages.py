import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit
from overlay.errors import MalformedMessage
from overlay.messages import (
    MAX_ANSWER,
    MAX_NODES,
    Code,
    Field,
    Kind,
    UnsupportedMessage,
    encode_answer,
    encode_error,
    encode_nodes,
    encode_request,
    parse,
    read_nodes,
)

ID = b"\1\2\3\4\5\6\7\x08"

hits = st.binary(min_size=12, max_size=12).map(lambda tail: b"\x20\x01\x00\x22" + tail)
nodes = st.lists(st.tuples(hits, st.binary(max_size=80)), max_size=MAX_NODES).map(
    lambda pairs: tuple(item for pair in pairs for item in pair)
)
fields = st.fixed_dictionaries(
    {},
    optional={
        Field.VERSION: st.integers(0, 2**32),
        Field.CONTACT: st.binary(max_size=80),
        Field.TARGET: st.binary(min_size=20, max_size=20),
        Field.RECORD_KIND: st.text("ABCDEFG", max_size=8),
        Field.SLOT: st.tuples(hits, st.binary(max_size=32)),
        Field.NODES: nodes,
        Field.VALUES: st.lists(st.binary(max_size=50), max_size=3).map(tuple),
        Field.CODE: st.integers(0, 255),
        Field.REASON: st.text(max_size=20).filter(str.isprintable),
    },
)


@settings(max_examples=60)
@given(st.sampled_from([k for k in Kind if k is not Kind.ERROR]), fields, st.booleans())
def test_what_is_encoded_is_parsed_again(
    kind: Kind, given: dict[int, object], answer: bool
) -> None:
    encode = encode_answer if answer else encode_request
    plain = {int(number): value for number, value in given.items()}
    message = parse(encode(kind, ID, plain))
    assert (message.kind, message.answer, message.request_id) == (kind, answer, ID)
    assert message.fields == plain


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        parse(data)
    except MalformedMessage as error:
        assert error.reason


@settings(max_examples=60)
@given(fields, st.integers(0, 200))
def test_a_truncated_message_is_malformed(given: dict[int, object], cut: int) -> None:
    data = encode_request(Kind.GET, ID, {int(number): value for number, value in given.items()})
    with pytest.raises(MalformedMessage):
        parse(data[: min(cut, len(data) - 1)])


def test_a_reason_that_would_drive_a_terminal_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        parse(encode_answer(Kind.STORE, ID, {int(Field.REASON): "full\x1b[2J"}))


def test_an_unknown_even_field_is_ignored_and_an_odd_one_refused() -> None:
    assert parse(encode_request(Kind.PING, ID, {200: "new"})).fields == {}
    with pytest.raises(UnsupportedMessage) as caught:
        parse(encode_request(Kind.PING, ID, {201: "new"}))
    assert caught.value.request_id == ID


@pytest.mark.parametrize(
    "body",
    [
        {Field.TARGET: b"short"},
        {Field.TARGET: "text of twenty chars"},
        {Field.NODES: [b"\x20\x01\x00\x22" + bytes(12)]},
        {Field.NODES: [bytes(16), b""]},
        {Field.NODES: [b"\x20\x01\x00\x22" + bytes(12), bytes(81)]},
        {Field.CODE: -1},
        {Field.CODE: True},
        {Field.VALUES: b"not a list"},
        {Field.DIGESTS: [[b"\x20\x01\x00\x22" + bytes(12), b"", 1]]},
        {"text": 1},
        {-2: 1},
        {2.5: 1},
        {b"x": 1},
    ],
)
def test_a_field_of_a_wrong_type_makes_the_message_malformed(body: dict[object, object]) -> None:
    with pytest.raises(MalformedMessage):
        parse(msgpack.packb((4, ID, body)))


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb((1, b"short", {})),
        msgpack.packb((1, ID)),
        msgpack.packb((1, ID, {}, 4)),
        msgpack.packb(("1", ID, {})),
        msgpack.packb((True, ID, {})),
        msgpack.packb((1, ID, [])),
        b"\x93\x01\xc4\x08" + ID + b"\xdf\xff\xff\xff\xff",
        b"\x93\x01\xc4\x08" + ID + b"\x81\x01" + b"\x91" * 600,
        b"\x93\x01\xc4\x08" + ID + b"\x81\x01\xd6\xff\x00\x00\x00\x00",
        bytes(3000),
    ],
)
def test_what_is_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(data)


def test_eight_nodes_with_the_longest_contacts_fit_one_answer() -> None:
    pairs = [(b"\x20\x01\x00\x22" + bytes([n]) * 12, bytes(80)) for n in range(20)]
    flat = encode_nodes(pairs, MAX_ANSWER - 32)
    assert len(flat) >= 16
    data = encode_answer(Kind.FIND_NODE, ID, {int(Field.NODES): flat})
    assert len(data) <= MAX_ANSWER
    assert read_nodes(parse(data).fields[Field.NODES]) == [
        (Hit(hit), contact) for hit, contact in pairs[: len(flat) // 2]
    ]


def test_an_error_says_why_in_few_words() -> None:
    message = parse(encode_error(ID, Code.NOT_ADMITTED, "x" * 500))
    assert message.answer
    assert message.fields == {Field.CODE: Code.NOT_ADMITTED, Field.REASON: "x" * 80}
