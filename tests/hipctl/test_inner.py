"""UDP, fragments and echoes as they ride inside ESP."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import inner
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit
from hipctl.inner import Echo, Reassembly, fragment, parse_echo, parse_udp, pseudo_header, udp

A, B = Hit.parse("2001:22::a:1"), Hit.parse("2001:22:ffff::b")
PSEUDO = pseudo_header(A, B)
PORTS = st.integers(0, 65_535)
SOURCES = st.integers(1, 65_535)


def words(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv6_pseudo_header(next_header: int, length: int) -> bytes:
    return A + B + length.to_bytes(4, "big") + bytes([0, 0, 0, next_header])


@given(SOURCES, PORTS, st.binary(max_size=400))
def test_udp_round_trip_with_the_checksum_of_rfc_1071(source: int, to: int, data: bytes) -> None:
    payload = udp(PSEUDO, source, to, data)
    assert payload[6:8] != b"\0\0"
    assert words(ipv6_pseudo_header(17, len(payload)) + payload) == 0xFFFF
    assert parse_udp(PSEUDO, payload) == (source, to, data)
    assert parse_udp(pseudo_header(B, A), payload) == (source, to, data)


@given(st.binary(max_size=100), st.data())
def test_a_changed_bit_is_a_wrong_checksum(data: bytes, draw: st.DataObject) -> None:
    payload = bytearray(udp(PSEUDO, 1, 2, data))
    bit = draw.draw(st.integers(0, len(payload) * 8 - 1).filter(lambda i: i // 8 not in (4, 5)))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Rejected, match="checksum"):
        parse_udp(PSEUDO, bytes(payload))


def test_a_missing_checksum_is_refused() -> None:
    payload = udp(PSEUDO, 1, 2, b"")
    with pytest.raises(Rejected, match="checksum"):
        parse_udp(PSEUDO, payload[:6] + b"\0\0")


def test_a_source_port_to_which_nobody_can_answer_is_refused() -> None:
    with pytest.raises(Rejected, match="port 0"):
        parse_udp(PSEUDO, udp(PSEUDO, 0, 2, b"no reply expected"))


def test_padding_behind_the_datagram_is_ignored() -> None:
    assert parse_udp(PSEUDO, udp(PSEUDO, 1, 2, b"abc") + bytes(9)) == (1, 2, b"abc")


@given(st.binary(max_size=100))
def test_any_bytes_are_udp_or_refused(data: bytes) -> None:
    with pytest.raises((MalformedPacket, Rejected)):
        parse_udp(PSEUDO, data)
    with pytest.raises((MalformedPacket, Rejected)):
        parse_echo(PSEUDO, data)


@given(st.sampled_from([128, 129]), PORTS, PORTS, st.binary(max_size=200))
def test_echo_round_trip(kind: int, identifier: int, sequence: int, data: bytes) -> None:
    echo = Echo(kind, identifier, sequence, data)
    message = echo.encode(PSEUDO)
    assert words(ipv6_pseudo_header(58, len(message)) + message) == 0xFFFF
    assert parse_echo(PSEUDO, message) == echo


def test_other_icmpv6_is_refused() -> None:
    message = Echo(1, 0, 0, b"").encode(PSEUDO)
    with pytest.raises(Rejected, match="type"):
        parse_echo(PSEUDO, message)


@given(st.binary(min_size=1, max_size=5_000), st.integers(16, 1_300), st.randoms())
@settings(max_examples=60)
def test_fragments_in_any_order_become_the_payload(
    payload: bytes, limit: int, rng: random.Random
) -> None:
    pieces = fragment(17, payload, limit, 7)
    assert all(len(piece) <= limit for piece in pieces)
    rng.shuffle(pieces)
    reassembly = Reassembly()
    results = [reassembly.add("owner", piece, 0.0) for piece in pieces]
    assert results[-1] == (17, payload)
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert reassembly.bytes_held == 0


def test_the_longest_payload_fits() -> None:
    payload = udp(PSEUDO, 1, 2, bytes(inner.LONGEST_DATAGRAM))
    reassembly = Reassembly()
    *_, whole = [reassembly.add("owner", f, 0.0) for f in fragment(17, payload, 1_200, 1)]
    assert whole == (17, payload)


def test_overlap_drops_the_whole_datagram() -> None:
    reassembly = Reassembly()
    first, second, _last = fragment(17, bytes(40), 24, 1)
    for piece in (first, second):
        reassembly.add("owner", piece, 0.0)
    with pytest.raises(Rejected, match="overlap"):
        reassembly.add("owner", second, 0.0)
    assert (reassembly.bytes_held, reassembly.given_up) == (0, 1)


def test_data_beyond_the_last_fragment_is_overlap() -> None:
    long, short = fragment(17, bytes(64), 40, 1), fragment(17, bytes(24), 16, 1)
    for order in ([short[-1], long[-1]], [long[-1], short[-1]]):
        reassembly = Reassembly()
        reassembly.add("owner", order[0], 0.0)
        with pytest.raises(Rejected, match="overlap"):
            reassembly.add("owner", order[1], 0.0)


def test_open_datagrams_are_bounded_and_time_out() -> None:
    reassembly = Reassembly()
    pieces = [fragment(17, bytes(32), 24, number) for number in range(9)]
    for first, *_ in pieces:
        assert reassembly.add("owner", first, 0.0) is None
    assert reassembly.given_up == 1  # the oldest, of this owner
    assert reassembly.bytes_held == 8 * 16
    assert reassembly.add("other", pieces[0][0], 1.0) is None
    assert reassembly.add("owner", pieces[8][1], 1.0) == (17, bytes(32))
    assert reassembly.add("other", pieces[1][0], inner.REASSEMBLY_SECONDS) is None
    assert reassembly.given_up == 1 + 7
    reassembly.forget("owner")
    reassembly.forget("other")
    assert reassembly.bytes_held == 0


def test_lost_fragments_do_not_stop_the_datagrams_after_them() -> None:
    reassembly = Reassembly()
    whole = 0
    for number in range(1_000):  # a second's worth; each tenth datagram loses its end
        first, last = fragment(17, bytes(32), 24, number)
        reassembly.add("owner", first, number / 1_000)
        if number % 10:
            whole += reassembly.add("owner", last, number / 1_000) is not None
    assert whole == 900
    assert reassembly.bytes_held <= 8 * 16


def test_memory_for_all_associations_is_bounded() -> None:
    reassembly = Reassembly()
    far = fragment(17, bytes(65_000), 1_200, 1)[-1]
    for owner in range(1_000):
        reassembly.add(owner, far, 0.0)
        assert reassembly.bytes_held <= inner.OPEN_BYTES
    assert reassembly.given_up > 800


@given(st.lists(st.binary(max_size=64), max_size=30))
@settings(max_examples=60)
def test_any_fragments_keep_the_books_balanced(pieces: list[bytes]) -> None:
    reassembly = Reassembly()
    for number, piece in enumerate(pieces):
        with suppress(MalformedPacket, Rejected):
            reassembly.add(number % 3, piece, float(number))
    assert reassembly.bytes_held <= inner.OPEN_BYTES
    for owner in range(3):
        reassembly.forget(owner)
    assert reassembly.bytes_held == 0
