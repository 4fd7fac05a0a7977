"""What base exchanges show and ask for, for all overlays of a host."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Admission, EngineConfig, Hit, HostConfigRefused, HostIdentity, Shown
from hipctl.constants import EccCurve
from overlay.accounts import AccountKey
from overlay.admission import Credentials
from overlay.canonical import encode
from overlay.errors import CredentialsRefused
from overlay.messages import overlay_tag
from overlay.overlayfile import OverlayInfo, found_overlay
from overlay.reception import Reception, pack, shown_for, unpack
from sim.people import (
    ALICE,
    ALICE_AOR,
    BOB,
    BOB_AOR,
    CA,
    DAY,
    ENROLLED,
    OTHER_CA,
    WALL,
    certificate,
    counted,
    identity,
)

CONFIG = EngineConfig()
OPEN = found_overlay("open.example", rng=counted)
SECOND = found_overlay("second.example", ca=CA.host_id, admission="enrolled", rng=counted)
TAG = overlay_tag(ENROLLED.id)
DER = certificate(ALICE, ALICE_AOR, overlay=ENROLLED)
GOOD = Credentials(ALICE.delegation, (DER,))
BOBS = Credentials(BOB.delegation, (certificate(BOB, BOB_AOR, overlay=ENROLLED),))
BARE = Credentials(ALICE.delegation)
PEER = ALICE.device.hit


def reception(*members: tuple[OverlayInfo, Credentials], public: bool = False) -> Reception:
    """That of Bob's device, whose nodes know nobody and whose clock is right."""
    made = Reception(CONFIG, public=public)
    for info, credentials in members:
        made.open(BOB.device, info, credentials)
        made.attach(BOB.device.hit, info, lambda hit: False, lambda: 0.0)
    return made


STRICT = reception((ENROLLED, BOBS))


def judged(
    shown: Shown, at: Reception = STRICT, wall: float = WALL, peer: Hit = PEER
) -> Admission:
    return at.admit(BOB.device.hit, peer, shown, wall)


def showing(credentials: Credentials, info: OverlayInfo = ENROLLED) -> Shown:
    return pack([(overlay_tag(info.id), credentials)])


def test_what_is_packed_is_unpacked_overlay_by_overlay() -> None:
    found = {TAG: GOOD, b"12345678": BARE, b"87654321": BOBS}
    shown = pack(found.items())
    assert unpack(shown) == found
    assert shown.certificates == (DER, *BOBS.certificates)
    assert shown_for(TAG, shown) == GOOD.encode()
    assert shown_for(b"absent!!", shown) is None
    assert shown_for(TAG, None) is None


def test_who_has_no_delegation_shows_nothing() -> None:
    assert not pack([(TAG, Credentials())])


def test_a_usual_enrolled_peer_s_exchange_travels_unfragmented() -> None:
    assert Reception(CONFIG).open(BOB.device, ENROLLED, BOBS)


@pytest.mark.parametrize(
    "fields",
    [
        [TAG, ALICE.delegation.raw],
        [TAG, ALICE.delegation.raw, 2],
        [TAG, ALICE.delegation.raw, 0],
        [TAG, ALICE.delegation.raw, -1],
        [TAG, None, 1],
        [TAG[:7], ALICE.delegation.raw, 1],
        [TAG, ALICE.delegation.raw, 1, TAG, ALICE.delegation.raw, 0],
        [TAG, b"no delegation", 1],
        [TAG, [ALICE.delegation.raw], 1],
    ],
)
def test_another_form_is_refused_and_lets_nobody_in(fields: list[object]) -> None:
    shown = Shown((DER,), encode(fields))
    with pytest.raises(CredentialsRefused):
        unpack(shown)
    assert shown_for(TAG, shown) is None
    for at in (STRICT, reception((OPEN, Credentials()))):
        assert judged(shown, at) is Admission.INVALID_CERTIFICATE


def test_who_is_certified_comes_in_and_who_shows_nothing_is_asked_to() -> None:
    assert judged(showing(GOOD)) is Admission.ACCEPTED
    assert judged(Shown()) is Admission.CREDENTIALS_REQUIRED
    assert judged(Shown((DER,))) is Admission.CREDENTIALS_REQUIRED  # for whom would it speak?
    assert judged(showing(GOOD, SECOND)) is Admission.CREDENTIALS_REQUIRED


FOREIGN = certificate(
    ALICE,
    ALICE_AOR,
    ca=OTHER_CA,
    overlay=found_overlay("example.org", ca=OTHER_CA.host_id, admission="enrolled", rng=counted),
)


@pytest.mark.parametrize(
    ("shown", "wall"),
    [
        (showing(BARE), WALL),
        (showing(GOOD), WALL + 181 * DAY),
        (showing(GOOD), WALL - DAY),
        (showing(Credentials(ALICE.delegation, (FOREIGN,))), WALL),
        (showing(Credentials(ALICE.delegation, BOBS.certificates)), WALL),
        (showing(BOBS), WALL),
        (showing(Credentials(ALICE.delegation, (DER[:-1] + bytes([DER[-1] ^ 1]),))), WALL),
    ],
    ids=["none", "expired", "too early", "foreign", "another's", "stolen", "forged"],
)
def test_a_certificate_that_does_not_hold_is_said_to_be_invalid(shown: Shown, wall: float) -> None:
    assert judged(shown, wall=wall) is Admission.INVALID_CERTIFICATE


def test_any_overlay_that_lets_a_peer_in_is_enough() -> None:
    both = reception((ENROLLED, BOBS), (OPEN, Credentials()))
    assert judged(Shown(), both) is Admission.ACCEPTED
    assert judged(showing(BARE), both) is Admission.ACCEPTED
    two = reception((ENROLLED, BOBS), (SECOND, BOBS))
    assert judged(showing(GOOD), two) is Admission.ACCEPTED
    assert judged(Shown(), two) is Admission.CREDENTIALS_REQUIRED


def test_what_is_shown_to_an_open_overlay_must_hold() -> None:
    stolen = pack([(overlay_tag(OPEN.id), BOBS)])
    assert judged(stolen, reception((OPEN, Credentials()))) is Admission.INVALID_CERTIFICATE


def test_a_hit_without_an_overlay_lets_everybody_in_and_shows_nothing() -> None:
    other = identity(77).hit
    assert STRICT.admit(other, PEER, Shown(), WALL) is Admission.ACCEPTED
    assert not STRICT.shown(other, PEER, WALL)


def test_a_clock_that_is_not_set_yet_refuses_nobody_for_being_early() -> None:
    woken = Reception(CONFIG)
    woken.open(BOB.device, ENROLLED, BOBS)
    assert judged(showing(GOOD), woken, wall=0.0) is Admission.ACCEPTED
    assert judged(showing(GOOD), woken, wall=WALL + 181 * DAY) is Admission.INVALID_CERTIFICATE
    assert judged(showing(BARE), woken, wall=0.0) is Admission.INVALID_CERTIFICATE
    woken.attach(BOB.device.hit, ENROLLED, lambda hit: False, lambda: float(WALL))
    assert judged(showing(GOOD), woken, wall=0.0) is Admission.ACCEPTED
    assert judged(showing(GOOD), woken, wall=181.0 * DAY) is Admission.INVALID_CERTIFICATE


@settings(max_examples=60)
@given(st.data())
def test_mutated_credentials_neither_raise_nor_let_in(data: st.DataObject) -> None:
    parts = [DER, showing(GOOD).delegation]
    part = data.draw(st.integers(0, 1))
    changed = bytearray(parts[part])
    at = data.draw(st.integers(0, len(changed) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if how == "flip":
        changed[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del changed[at:]
    else:
        changed[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    parts[part] = bytes(changed)
    assert judged(Shown((parts[0],), parts[1])) is not Admission.ACCEPTED


@given(st.lists(st.binary(max_size=40), max_size=3), st.binary(max_size=60))
def test_any_bytes_are_refused(certificates: list[bytes], delegation: bytes) -> None:
    shown = Shown(tuple(certificates), delegation)
    assert judged(shown) is not Admission.ACCEPTED
    assert shown_for(TAG, shown) is None


# --- what is shown


def test_one_overlay_is_shown_to_whoever_we_ask_and_to_no_stranger() -> None:
    hit = BOB.device.hit
    assert STRICT.shown(hit, PEER, WALL) == showing(BOBS)
    assert not STRICT.shown(hit, None, WALL)
    assert reception((ENROLLED, BOBS), public=True).shown(hit, None, WALL) == showing(BOBS)


def test_nobody_hears_of_an_overlay_that_does_not_concern_it() -> None:
    hit = BOB.device.hit
    two = reception((OPEN, BOBS), (ENROLLED, BOBS))
    assert not two.shown(hit, PEER, WALL)
    two.attach(hit, ENROLLED, lambda peer: peer == PEER, lambda: 0.0)
    assert set(unpack(two.shown(hit, PEER, WALL))) == {TAG}
    assert not two.shown(hit, identity(5).hit, WALL)
    named = showing(GOOD, OPEN)
    assert set(unpack(two.shown(hit, PEER, WALL, named))) == {overlay_tag(OPEN.id)}
    assert not two.shown(hit, PEER, WALL, Shown())
    assert not two.shown(hit, PEER, WALL, Shown((b"",), b"no delegation"))


def test_what_does_not_fit_beside_the_first_waits_for_hello() -> None:
    hit = BOB.device.hit
    many = reception((OPEN, BOBS), (SECOND, BOBS), (ENROLLED, BOBS))
    for info in (OPEN, SECOND, ENROLLED):
        many.attach(hit, info, lambda peer: True, lambda: 0.0)
    assert set(unpack(many.shown(hit, PEER, WALL))) == {overlay_tag(SECOND.id)}


def large(length: int) -> Credentials:
    """Of a P-384 account, with a long certificate."""
    account = AccountKey(HostIdentity.from_secret(9, EccCurve.NIST_P384))
    return Credentials(account.delegate(BOB.device.hit, WALL + DAY, 1), (bytes(length),))


def test_an_open_overlay_s_credentials_wait_for_hello_when_they_are_long() -> None:
    made = Reception(CONFIG)
    assert made.open(BOB.device, OPEN, large(700))
    assert not made.shown(BOB.device.hit, PEER, WALL)
    insisting = Reception(CONFIG)
    assert not insisting.open(BOB.device, ENROLLED, large(700))
    assert insisting.shown(BOB.device.hit, PEER, WALL)


def test_what_fits_no_packet_is_refused_at_start() -> None:
    with pytest.raises(HostConfigRefused, match=r"credentials .* do not fit .* beside the key"):
        Reception(CONFIG).open(BOB.device, ENROLLED, large(1_500))


def test_of_many_certificates_the_exchange_shows_some_and_hello_all() -> None:
    names = [f"sip:bob{n}@{ENROLLED.domain}" for n in range(2)]
    ders = tuple(certificate(BOB, name, overlay=ENROLLED) for name in names)
    made = Reception(CONFIG)
    assert made.open(BOB.device, ENROLLED, Credentials(BOB.delegation, ders))
    shown = made.shown(BOB.device.hit, PEER, WALL)
    assert shown == showing(Credentials(BOB.delegation, ders[:1]))
    assert made.admit(BOB.device.hit, BOB.device.hit, shown, WALL) is Admission.ACCEPTED
    assert shown_for(TAG, shown) != Credentials(BOB.delegation, ders).encode()
