"""How an overlay's file is handed to who was invited, and to nobody else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import Hit
from overlay.canonical import encode
from overlay.errors import CredentialsRefused
from overlay.invitations import Invited, seal_welcome
from overlay.lobby import BURST, MAX_GUESTS, NONCE_LENGTH, Lobby, Request, fits
from overlay.overlayfile import OverlayInfo, Seed, certify_overlay, format_overlay
from sim.people import ALICE, BOB, CA, OVERLAY, WALL, counted, identity

GUEST, MEMBER, STRANGER = ALICE.device.hit, BOB.device.hit, identity(3).hit
SECRET = bytes(range(15))
INFO = certify_overlay(
    replace(OVERLAY, seeds=(Seed(MEMBER, "192.0.2.7", 10500),)), CA, WALL, counted
)
REQUEST = Request(GUEST, MEMBER, SECRET, counted(NONCE_LENGTH))


def lobby(info: OverlayInfo = INFO) -> Lobby:
    """That of a member who has invited GUEST."""

    def invited(guest: Hit) -> Invited | None:
        return Invited(SECRET, INFO.id) if guest == GUEST else None

    return Lobby(MEMBER, invited, lambda identifier: info if identifier == info.id else None)


def test_who_was_invited_gets_the_file_as_it_is() -> None:
    room = lobby()
    answer = room.on_datagram(REQUEST.question(), GUEST, 0.0)
    assert answer is not None
    assert REQUEST.read(answer) == INFO
    assert room.counts == {"handed out": 1}


@pytest.mark.parametrize(
    ("guest", "info"), [(STRANGER, INFO), (GUEST, replace(INFO, id=bytes(32)))]
)
def test_who_was_not_invited_or_elsewhere_gets_no_byte_of_it(
    guest: Hit, info: OverlayInfo
) -> None:
    room = lobby(info)
    answer = room.on_datagram(REQUEST.question(), guest, 0.0)
    assert answer is not None
    assert len(answer) <= len(REQUEST.question())
    assert room.counts == {"refused": 1}
    with pytest.raises(CredentialsRefused, match="not known there, or has ended"):
        REQUEST.read(answer)


LONG = replace(
    INFO,
    seeds=tuple(
        Seed(identity(number).hit, ".".join(["x" * 60] * 4 + [f"h{number}"]), 10500)
        for number in range(64)
    ),
    ca=INFO.ca * 16,
    successions=(bytes(700),) * 15,
)


def test_a_file_that_is_too_long_is_not_sent_and_the_guest_hears_why() -> None:
    assert fits(INFO)
    assert not fits(LONG)
    room = lobby(LONG)
    answer = room.on_datagram(REQUEST.question(), GUEST, 0.0)
    assert answer is not None
    assert len(answer) <= len(REQUEST.question())
    assert room.counts == {"too long": 1}
    with pytest.raises(CredentialsRefused, match="longer than 32768 bytes"):
        REQUEST.read(answer)
    text = format_overlay(LONG).encode()  # from a member that sends it all the same
    proof = seal_welcome(SECRET, GUEST, MEMBER, REQUEST.nonce + text)
    with pytest.raises(CredentialsRefused, match="longer than 32768 bytes"):
        REQUEST.read(encode([2, REQUEST.nonce, text, proof]))


def test_answers_are_few_a_guest_and_guests_are_bounded() -> None:
    room = lobby()
    answers = [room.on_datagram(REQUEST.question(), STRANGER, 0.0) for _ in range(50)]
    assert sum(answer is not None for answer in answers) == BURST
    assert room.counts["too often"] == 50 - BURST
    assert room.on_datagram(REQUEST.question(), GUEST, 0.0) is not None  # another's buckets
    for number in range(3 * MAX_GUESTS):
        room.on_datagram(REQUEST.question(), Hit(number.to_bytes(16, "big")), 0.0)
    assert len(room._guests) == MAX_GUESTS


def test_another_file_than_the_members_is_refused() -> None:
    text = format_overlay(INFO).encode()
    good = seal_welcome(SECRET, GUEST, MEMBER, REQUEST.nonce + text)
    assert REQUEST.read(encode([2, REQUEST.nonce, text, good])) == INFO
    for proof in (
        bytes(32),
        b"",
        seal_welcome(bytes(15), GUEST, MEMBER, REQUEST.nonce + text),
        seal_welcome(SECRET, GUEST, STRANGER, REQUEST.nonce + text),
        seal_welcome(SECRET, MEMBER, GUEST, REQUEST.nonce + text),
        seal_welcome(SECRET, GUEST, MEMBER, bytes(8) + text),
        seal_welcome(SECRET, GUEST, MEMBER, REQUEST.nonce + text[1:]),
    ):
        with pytest.raises(CredentialsRefused, match="does not know the invitation"):
            REQUEST.read(encode([2, REQUEST.nonce, text, proof]))


@pytest.mark.parametrize("text", [b"\xff", b"", b"id = 7"])
def test_a_file_that_is_none_is_refused_in_a_sentence(text: bytes) -> None:
    proof = seal_welcome(SECRET, GUEST, MEMBER, REQUEST.nonce + text)
    with pytest.raises(CredentialsRefused):
        REQUEST.read(encode([2, REQUEST.nonce, text, proof]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode([]),
        encode([3]),
        encode([3, bytes(8)]),  # answers another question
        encode([2, bytes(8), b"", b""]),
        encode([5, REQUEST.nonce]),
        encode([2, REQUEST.nonce, "text", b""]),
        encode([None, REQUEST.nonce]),
        REQUEST.question(),
    ],
)
def test_what_is_no_answer_is_waited_past(data: bytes) -> None:
    assert REQUEST.read(data) is None


@given(st.binary(max_size=200))
def test_any_bytes_upset_neither_side(data: bytes) -> None:
    room = lobby()
    if data != REQUEST.question():
        answer = room.on_datagram(data, GUEST, 0.0)
        assert answer is None or data[:2] == REQUEST.question()[:2]
    try:
        assert REQUEST.read(data) is None
    except CredentialsRefused:
        assert REQUEST.nonce in data


@given(st.lists(st.one_of(st.integers(), st.binary(max_size=40), st.none()), max_size=5))
def test_any_array_upsets_neither_side(values: list[object]) -> None:
    try:
        data = encode(values)
    except OverflowError:
        return
    lobby().on_datagram(data, STRANGER, 0.0)
    assert REQUEST.read(data) is None or REQUEST.nonce in values
