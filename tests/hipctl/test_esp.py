"""ESP against the golden captures, RFC 4303's replay window, and anything a network can send."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket, Rejected
from hipctl.esp import (
    LAST_SEQUENCE,
    SUITES,
    WINDOW,
    InboundSa,
    OutboundSa,
    SequenceExhausted,
    keymat_length,
    payload_limit,
)

VECTORS = Path(__file__).parent.parent / "vectors"
ALL = sorted(SUITES)
SPI = 0x1F3F6462


def keymat(suite: int) -> bytes:
    return bytes(range(keymat_length(suite)))


def pair(suite: int = 13) -> tuple[OutboundSa, InboundSa]:
    return OutboundSa(suite, SPI, keymat(suite)), InboundSa(suite, SPI, keymat(suite))


def test_each_direction_draws_the_keys_that_the_rfcs_name() -> None:
    assert {suite: keymat_length(suite) for suite in ALL} == {13: 16 + 4, 9: 32 + 32, 8: 16 + 32}


@pytest.mark.parametrize(
    ("name", "suite", "cipher_key"),
    [
        ("ecdsa-p256-ecdh-p256", 8, 16),
        ("ecdsa-p384-ecdh-p384", 8, 16),
        ("ecdsa-p384-ecdh-p256", 9, 32),
    ],
)
def test_golden_packets_open_with_the_keys_that_follow_hips_own(
    name: str, suite: int, cipher_key: int
) -> None:
    golden = json.loads((VECTORS / f"{name}.json").read_text())
    material = bytes.fromhex(golden["keymat_hex"])
    packets = [
        (p["src"], bytes.fromhex(p["hex"])) for p in golden["packets"] if p["kind"] == "ESP"
    ]
    i1 = next(bytes.fromhex(p["hex"]) for p in golden["packets"] if p["kind"] == "I1")
    initiator = next(p["src"] for p in golden["packets"] if p["kind"] == "I1")
    initiator_is_greater = i1[8:24] > i1[24:40]
    skip = 2 * (cipher_key + 48)  # both hosts' HIP cipher key and HMAC-SHA-384 key
    length = keymat_length(suite)
    gl, lg = material[skip : skip + length], material[skip + length : skip + 2 * length]
    sas: dict[str, InboundSa] = {}
    for source, packet in packets:
        key = gl if (source == initiator) is initiator_is_greater else lg
        sa = sas.setdefault(source, InboundSa(suite, int.from_bytes(packet[:4], "big"), key))
        next_header, payload = sa.open(packet)
        assert next_header == 58
        assert payload[0] in (128, 129)
    assert len(packets) == 4
    assert {sa.packets for sa in sas.values()} == {2}


@pytest.mark.parametrize("suite", ALL)
@given(
    next_header=st.integers(0, 255),
    payload=st.one_of(st.binary(max_size=300), st.just(b"x" * 9000)),
)
@settings(max_examples=60)
def test_what_was_sealed_opens(suite: int, next_header: int, payload: bytes) -> None:
    sender, receiver = pair(suite)
    for _ in range(3):
        packet = sender.seal(next_header, payload)
        assert packet[:4] == SPI.to_bytes(4, "big")
        assert receiver.open(packet) == (next_header, payload)
    assert sender.packets == receiver.packets == receiver.highest == 3


def test_gcm_packet_is_laid_out_as_rfc_4106_says() -> None:
    sender, _ = pair(13)
    sender.seal(17, b"")
    packet = sender.seal(17, bytes(172 + 8))
    assert packet[4:8] == b"\0\0\0\2"
    assert packet[8:16] == b"\0\0\0\0\0\0\0\2"
    assert len(packet) == 8 + 8 + 184 + 16


@pytest.mark.parametrize("suite", ALL)
def test_equal_payloads_never_look_equal(suite: int) -> None:
    sender, _ = pair(suite)
    packets = [sender.seal(17, bytes(32)) for _ in range(50)]
    assert len({packet[8:24] for packet in packets}) == 50
    assert len({packet[24:40] for packet in packets}) == 50


@pytest.mark.parametrize("suite", ALL)
@given(data=st.data())
@settings(max_examples=60)
def test_any_flipped_bit_is_rejected_and_does_not_move_the_window(
    suite: int, data: st.DataObject
) -> None:
    sender, receiver = pair(suite)
    packet = bytearray(sender.seal(17, b"payload"))
    bit = data.draw(st.integers(32, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    with pytest.raises((Rejected, MalformedPacket)):
        receiver.open(bytes(packet))
    assert receiver.packets == receiver.highest == 0
    packet[bit // 8] ^= 1 << bit % 8
    assert receiver.open(bytes(packet)) == (17, b"payload")


@pytest.mark.parametrize("suite", ALL)
@given(st.binary(max_size=120))
@settings(max_examples=100)
def test_any_bytes_are_refused_with_a_reason(suite: int, data: bytes) -> None:
    _, receiver = pair(suite)
    with pytest.raises((Rejected, MalformedPacket)):
        receiver.open(data)


@pytest.mark.parametrize("suite", ALL)
def test_keys_of_another_length_are_a_mistake_of_ours(suite: int) -> None:
    for kind in (OutboundSa, InboundSa):
        with pytest.raises(ValueError, match="KEYMAT"):
            kind(suite, SPI, bytes(15))


def test_a_replay_is_rejected() -> None:
    sender, receiver = pair()
    packets = [sender.seal(17, b"") for _ in range(5)]
    for packet in packets:
        receiver.open(packet)
    for packet in packets:
        with pytest.raises(Rejected, match="replayed"):
            receiver.open(packet)
    assert receiver.packets == 5


def test_the_window_is_as_wide_as_it_says() -> None:
    sender, receiver = pair()
    packets = [sender.seal(17, b"") for _ in range(WINDOW + 1)]
    receiver.open(packets[-1])
    with pytest.raises(Rejected, match="older"):
        receiver.open(packets[0])
    receiver.open(packets[1])
    with pytest.raises(Rejected, match="replayed"):
        receiver.open(packets[1])


def test_sequence_number_zero_is_never_accepted() -> None:
    sender, receiver = pair()
    sender.packets = -1
    packet = sender.seal(17, b"")
    with pytest.raises(Rejected):
        receiver.open(packet)
    sender.packets = 9
    receiver.open(sender.seal(17, b""))
    with pytest.raises(Rejected):
        receiver.open(packet)


STEPS = st.lists(
    st.one_of(st.integers(1, 40), st.integers(WINDOW - 3, WINDOW + 3), st.integers(1, 4 * WINDOW)),
    min_size=1,
    max_size=40,
)


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_the_window_accepts_exactly_what_a_set_of_numbers_would(sequences: list[int]) -> None:
    sender, receiver = pair()
    seen: set[int] = set()
    for sequence in sequences:
        sender.packets = sequence - 1
        packet = sender.seal(17, b"")
        fresh = sequence not in seen and sequence > max(seen, default=0) - WINDOW
        if fresh:
            receiver.open(packet)
            seen.add(sequence)
        else:
            with pytest.raises(Rejected):
                receiver.open(packet)
    assert receiver.packets == len(seen)


def test_the_sequence_space_ends() -> None:
    sender, receiver = pair()
    sender.packets = LAST_SEQUENCE - 1
    receiver.open(sender.seal(17, b"last"))
    with pytest.raises(SequenceExhausted):
        sender.seal(17, b"one too many")
    assert sender.packets == LAST_SEQUENCE


@pytest.mark.parametrize("suite", ALL)
@given(st.integers(200, 1500))
@settings(max_examples=40)
def test_the_payload_limit_just_fits(suite: int, room: int) -> None:
    sender, _ = pair(suite)
    limit = payload_limit(suite, room)
    assert len(sender.seal(17, bytes(limit))) <= room
    assert len(sender.seal(17, bytes(limit + 1))) > room


def test_padding_that_does_not_count_up_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = pair()
    bad = [[b"\x07\x01\x11"] * 4] * 256
    monkeypatch.setattr("hipctl.esp._TRAILERS_4", bad)
    with pytest.raises(MalformedPacket, match="padding"):
        receiver.open(sender.seal(17, b"x"))
    monkeypatch.setattr("hipctl.esp._TRAILERS_4", [[b"\xfe\x11"] * 4] * 256)  # longer than all
    with pytest.raises(MalformedPacket, match="padding"):
        receiver.open(sender.seal(17, b"ab"))
