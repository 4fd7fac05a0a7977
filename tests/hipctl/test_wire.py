import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket
from hipctl.wire import Reader, checksum, frame, padding, unframe


@given(st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_a_frame_is_as_long_as_the_rfc_s_formula_says_and_comes_back(
    code: int, raw: bytes
) -> None:
    framed = frame(code, raw)
    assert len(framed) == 11 + len(raw) - (len(raw) + 3) % 8
    reader = Reader(framed)
    assert unframe(reader) == (code, raw)
    reader.end()


@given(st.binary(max_size=60), st.data())
def test_a_frame_cut_short_is_malformed(raw: bytes, data: st.DataObject) -> None:
    framed = frame(1, raw)
    cut = data.draw(st.integers(0, len(framed) - 1))
    with pytest.raises(MalformedPacket):
        unframe(Reader(framed[:cut]))


def test_a_reader_says_where_it_stopped() -> None:
    reader = Reader(b"abcdef", 1, 5)
    assert reader.take(2) == b"bc"
    assert reader.left == 2
    with pytest.raises(MalformedPacket) as caught:
        reader.uint(3)
    assert caught.value.offset == 3
    with pytest.raises(MalformedPacket, match="bytes left over at byte 3"):
        reader.end()
    assert reader.rest() == b"de"
    reader.end()


def test_padding_brings_a_parameter_to_a_multiple_of_eight() -> None:
    assert [padding(n) for n in range(9)] == [4, 3, 2, 1, 0, 7, 6, 5, 4]


def slow_checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(data[i] << 8 | data[i + 1] for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(min_size=8, max_size=100), st.sampled_from([4, 16]), st.randoms())
def test_the_checksum_is_the_internet_s(packet: bytes, size: int, random: object) -> None:
    source, destination = bytes(range(size)), bytes(range(7, 7 + size))
    pseudo = source + destination + len(packet).to_bytes(4, "big") + b"\0\0\0\x8b"
    expected = slow_checksum(pseudo + packet[:4] + b"\0\0" + packet[6:])
    assert checksum(packet, source, destination) == expected
