"""Invitations: tokens, proofs, marks, and the book of those that were given away."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError, CredentialsRefused
from overlay.invitations import (
    INVITATIONS,
    MARK_LENGTH,
    MAX_INVITATIONS,
    PROOF_LENGTH,
    SECRET_LENGTH,
    Invitation,
    InvitationBook,
    Invited,
    has_mark,
    make_token,
    mark_of,
    prove,
    proves,
    read_token,
    token_id,
    write_token,
)
from sim.people import ALICE, BOB, ENROLLED, OVERLAY, WALL, identity

GUEST, MEMBER, OTHER = ALICE.device.hit, BOB.device.hit, identity(3).hit
SECRET = bytes(range(SECRET_LENGTH))
secrets = st.binary(min_size=SECRET_LENGTH, max_size=SECRET_LENGTH)


def book(folder: Path, *invitations: Invitation) -> InvitationBook:
    made = InvitationBook(folder / INVITATIONS)
    for invitation in invitations:
        made.add(invitation, WALL)
    return made


GOOD = Invitation(SECRET, OVERLAY.id, WALL + 3_600)
PROOF = prove(SECRET, GUEST, MEMBER)


@given(secrets)
def test_a_token_is_read_however_it_was_typed(secret: bytes) -> None:
    text = write_token(secret)
    assert [len(group) for group in text.split("-")] == [4] * 6
    for typed in (text, text.upper(), text.replace("-", " "), f" {text.replace('-', '')}\n"):
        assert read_token(typed) == secret


@given(st.text(max_size=40))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        secret = read_token(text)
    except CredentialsRefused:
        return
    assert len(secret) == SECRET_LENGTH


@pytest.mark.parametrize("text", ["", "aaaa", "aaaa-" * 6 + "a", "0189-" * 6, "ä" * 24])
def test_what_is_no_token_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(CredentialsRefused, match="24 letters and digits"):
        read_token(text)


def test_tokens_are_of_120_random_bits() -> None:
    assert len({make_token(os.urandom) for _ in range(100)}) == 100
    assert len(read_token(make_token(os.urandom))) * 8 == 120


@given(secrets, secrets)
def test_a_proof_holds_for_its_token_and_two_hits_only(secret: bytes, other: bytes) -> None:
    proof = prove(secret, GUEST, MEMBER)
    assert len(proof) == PROOF_LENGTH
    assert proves(proof, secret, GUEST, MEMBER)
    assert not proves(proof, secret, MEMBER, GUEST)
    assert not proves(proof, secret, OTHER, MEMBER)  # who has overheard it
    assert not proves(proof, secret, GUEST, OTHER)  # to whom it was shown on the LAN
    assert proves(proof, other, GUEST, MEMBER) is (secret == other)
    assert secret not in proof


def test_the_book_finds_what_a_proof_invites_to(tmp_path: Path) -> None:
    made = book(tmp_path, GOOD)
    assert made.check(PROOF, GUEST, MEMBER, WALL) == Invited(SECRET, OVERLAY.id)
    assert made.refused == {}


@pytest.mark.parametrize(
    ("proof", "wall", "why"),
    [
        (b"", WALL, "missing"),
        (PROOF[:-1], WALL, "malformed"),
        (PROOF + b"x", WALL, "malformed"),
        (prove(SECRET[::-1], GUEST, MEMBER), WALL, "unknown"),
        (PROOF, WALL + 3_600, "expired"),
        (prove(SECRET, OTHER, MEMBER), WALL, "not of who shows it"),
        (token_id(SECRET) + bytes(32), WALL, "not of who shows it"),
    ],
)
def test_what_does_not_hold_is_refused_and_counted(
    tmp_path: Path, proof: bytes, wall: float, why: str
) -> None:
    made = book(tmp_path, GOOD)
    assert made.check(proof, GUEST, MEMBER, wall) is None
    assert made.refused == {why: 1}


@given(st.binary(max_size=2 * PROOF_LENGTH))
def test_any_bytes_are_a_proof_or_counted(data: bytes) -> None:
    made = InvitationBook(Path("/nowhere/at/all"))
    assert made.check(data, GUEST, MEMBER, WALL) is None
    assert made.refused.total() == 1


def test_a_running_peer_sees_what_a_command_has_added(tmp_path: Path) -> None:
    running = book(tmp_path)
    assert running.check(PROOF, GUEST, MEMBER, WALL) is None
    book(tmp_path, GOOD)
    assert running.check(PROOF, GUEST, MEMBER, WALL) is not None
    (tmp_path / INVITATIONS).unlink()
    assert running.check(PROOF, GUEST, MEMBER, WALL) is None


def test_the_file_is_private_and_forgets_what_has_expired(tmp_path: Path) -> None:
    made = book(tmp_path, GOOD)
    assert (tmp_path / INVITATIONS).stat().st_mode & 0o777 == 0o600
    later = Invitation(SECRET[::-1], OVERLAY.id, WALL + 9_999)
    made.add(later, WALL + 3_601)
    text = (tmp_path / INVITATIONS).read_text()
    assert write_token(later.secret) in text
    assert write_token(SECRET) not in text


def test_there_are_so_many_open_invitations_and_no_more(tmp_path: Path) -> None:
    made = book(tmp_path)
    for number in range(MAX_INVITATIONS):
        made.add(Invitation(number.to_bytes(SECRET_LENGTH, "big"), OVERLAY.id, WALL + 9), WALL)
    with pytest.raises(ConfigError, match="64 invitations are open"):
        made.add(GOOD, WALL)


@pytest.mark.parametrize(
    "text",
    [
        "no TOML",
        "invitation = 7",
        "[[invitation]]\ntoken = 7",
        '[[invitation]]\ntoken = "x"\noverlay = "00"\nexpires = 1',
        f'[[invitation]]\ntoken = "{write_token(SECRET)}"\noverlay = "zz"\nexpires = 1',
        f'[[invitation]]\ntoken = "x"\noverlay = "{OVERLAY.id.hex()}"\nexpires = 1',
    ],
)
def test_a_spoilt_file_invites_nobody_and_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / INVITATIONS).write_text(text)
    made = book(tmp_path)
    assert made.check(PROOF, GUEST, MEMBER, WALL) is None
    with pytest.raises(ConfigError, match="remove it"):
        made.add(GOOD, WALL)
    assert (tmp_path / INVITATIONS).read_text() == text


def test_invitations_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    made = [
        Invitation(number.to_bytes(SECRET_LENGTH, "big"), OVERLAY.id, WALL + 9)
        for number in range(16)
    ]
    with ThreadPoolExecutor(16) as many:
        done = list(many.map(lambda each: book(tmp_path).add(each, WALL), made))
    assert len(done) == 16
    kept = book(tmp_path)
    for each in made:
        assert kept.check(prove(each.secret, GUEST, MEMBER), GUEST, MEMBER, WALL) is not None


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        book(tmp_path / "file", GOOD)


def test_members_know_each_other_by_the_mark_and_strangers_see_noise() -> None:
    mark = mark_of(OVERLAY.id, MEMBER) + mark_of(ENROLLED.id, MEMBER)
    assert has_mark(mark, OVERLAY.id, MEMBER)
    assert has_mark(mark, ENROLLED.id, MEMBER)
    assert not has_mark(mark, bytes(32), MEMBER)
    assert not has_mark(mark, OVERLAY.id, OTHER)  # it is nobody else's
    assert not has_mark(b"", OVERLAY.id, MEMBER)
    assert mark_of(OVERLAY.id, MEMBER) != mark_of(OVERLAY.id, OTHER)  # nor tells who belongs


@given(st.binary(max_size=1_000))
def test_any_bytes_are_a_mark_or_none(mark: bytes) -> None:
    assert not has_mark(mark, bytes(32), MEMBER)
    assert len(mark_of(bytes(32), MEMBER)) == MARK_LENGTH
