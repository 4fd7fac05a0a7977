"""SVC records: who may say that it offers what, and where that stands."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import HostIdentity
from overlay.admission import Credentials
from overlay.canonical import encode
from overlay.constants import MAX_CREDENTIALS, MAX_RECORD
from overlay.errors import MalformedRecord, RecordRefused
from overlay.keys import (
    MAX_DEPTH,
    bucket_of,
    depth_for,
    node_id,
    record_key,
    service_key,
)
from overlay.kinds import Svc
from overlay.overlayfile import OverlayInfo, found_overlay
from overlay.records import Record, check_record, sign_record, sign_tombstone
from sim.people import ALICE, ALICE_AOR, BOB, DAY, DOMAIN, ENROLLED, WALL, certificate, counted

OPEN = found_overlay(DOMAIN, rng=counted)
CONTACT = b"c" * 80
SHOWN = Credentials(ALICE.delegation, (certificate(ALICE, ALICE_AOR),)).encode()


def svc(overlay: OverlayInfo = OPEN, depth: int = 0, by: HostIdentity = ALICE.device) -> Svc:
    bucket = bucket_of(node_id(overlay.id, by.hit), depth)
    credentials = SHOWN if overlay is ENROLLED else b""
    return Svc("relay", depth, bucket, 0, CONTACT, 9, credentials)


def signed(
    payload: Svc,
    overlay: OverlayInfo = OPEN,
    by: HostIdentity = ALICE.device,
    *,
    key: bytes | None = None,
    subkey: bytes = b"",
    life: int = 3600,
) -> Record:
    key = key or record_key(overlay.id, *payload.place(by.hit))
    data = payload.encode()
    return sign_record(by, overlay.id, "SVC", key, subkey, 1, WALL, WALL + life, data)


def refusal(record: Record, overlay: OverlayInfo = OPEN, wall: float = WALL) -> str:
    with pytest.raises(RecordRefused) as caught:
        check_record(record, overlay, wall)
    return caught.value.reason


@pytest.mark.parametrize("depth", [0, 1, 7, 16])
@pytest.mark.parametrize("overlay", [OPEN, ENROLLED], ids=["open", "enrolled"])
def test_who_is_let_in_may_offer_something_in_its_own_bucket(
    overlay: OverlayInfo, depth: int
) -> None:
    payload = svc(overlay, depth)
    record = signed(payload, overlay)
    assert check_record(record, overlay, WALL) == payload
    assert record.key == service_key(overlay.id, "relay", depth, payload.bucket)
    assert len(record.raw) <= MAX_RECORD


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (signed(svc(), subkey=b"2"), "bad subkey"),
        (signed(svc(), life=3601), "lifetime"),
        (signed(svc(), key=service_key(OPEN.id, "rvs", 0, 0)), "wrong key"),
        (signed(replace(svc(depth=4), bucket=svc(depth=4).bucket ^ 1)), "another bucket"),
        (signed(svc(depth=9), by=BOB.device), "another bucket"),
    ],
)
def test_one_hit_has_one_place_under_a_key(record: Record, reason: str) -> None:
    assert refusal(record) == reason


@pytest.mark.parametrize(
    ("payload", "by", "reason"),
    [
        (replace(svc(ENROLLED), credentials=b""), ALICE.device, "no delegation"),
        (
            replace(svc(ENROLLED), credentials=Credentials(ALICE.delegation).encode()),
            ALICE.device,
            "no certificate",
        ),
        (svc(ENROLLED), BOB.device, "delegation for another device"),
        (replace(svc(ENROLLED), credentials=b"\1"), ALICE.device, "credentials: no array"),
    ],
)
def test_who_is_not_let_in_fills_no_place_of_an_enrolled_overlay(
    payload: Svc, by: HostIdentity, reason: str
) -> None:
    assert refusal(signed(payload, ENROLLED, by), ENROLLED) == reason


def test_what_is_shown_in_an_open_overlay_must_hold_too() -> None:
    other = Credentials(BOB.delegation).encode()
    assert refusal(signed(replace(svc(), credentials=other))) == "delegation for another device"
    own = Credentials(ALICE.delegation).encode()
    check_record(signed(replace(svc(), credentials=own)), OPEN, WALL)


def test_credentials_that_have_ended_carry_no_record() -> None:
    short = ALICE.account.delegate(ALICE.device.hit, WALL + DAY, 1)
    shown = Credentials(short, (certificate(ALICE, ALICE_AOR, life=60),)).encode()
    record = signed(replace(svc(ENROLLED), credentials=shown), ENROLLED)
    check_record(record, ENROLLED, WALL + 59)
    assert refusal(record, ENROLLED, WALL + 61) == "certificate expired"


@pytest.mark.parametrize("overlay", [OPEN, ENROLLED], ids=["open", "enrolled"])
def test_a_tombstone_takes_the_place(overlay: OverlayInfo) -> None:
    record = signed(svc(overlay), overlay)
    gone = sign_tombstone(ALICE.device, record, 2, WALL + 5, overlay)
    payload = check_record(gone, overlay, WALL + 5)
    assert isinstance(payload, Svc)
    assert payload.gone
    assert gone.tombstone
    assert not record.tombstone
    assert gone.slot == record.slot
    assert gone.key == record.key
    assert gone.expires >= record.expires


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["relay", 0, 0, 0, b"", 0],
        ["Relay", 0, 0, 0, b"", 0, b""],
        ["", 0, 0, 0, b"", 0, b""],
        ["relay", 17, 0, 0, b"", 0, b""],
        ["relay", -1, 0, 0, b"", 0, b""],
        ["relay", 2, 4, 0, b"", 0, b""],
        ["relay", 0, 1, 0, b"", 0, b""],
        ["relay", 0, 0, 65_536, b"", 0, b""],
        ["relay", 0, 0, 0, bytes(81), 0, b""],
        ["relay", 0, 0, 0, b"", 65_536, b""],
        ["relay", 0, 0, 0, b"", 0, bytes(MAX_CREDENTIALS + 1)],
        ["relay", True, 0, 0, b"", 0, b""],
        [b"relay", 0, 0, 0, b"", 0, b""],
    ],
)
def test_another_form_is_malformed(fields: list[object]) -> None:
    with pytest.raises(MalformedRecord):
        Svc.decode(encode(fields))


def test_a_payload_may_grow_at_its_end() -> None:
    assert Svc.decode(svc().encode()[:0] + encode(["relay", 0, 0, 1, b"x", 2, b"", 3])) == Svc(
        "relay", 0, 0, 1, b"x", 2
    )


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,15}", fullmatch=True),
    st.integers(0, 16),
    st.binary(min_size=20, max_size=20),
    st.tuples(st.integers(0, 65_535), st.binary(max_size=80), st.integers(0, 65_535)),
    st.binary(max_size=MAX_CREDENTIALS),
)
def test_a_payload_survives_its_bytes(
    type_: str, depth: int, id_: bytes, offered: tuple[int, bytes, int], shown: bytes
) -> None:
    made = Svc(type_, depth, bucket_of(id_, depth), *offered, shown)
    assert Svc.decode(made.encode()) == made


@settings(max_examples=60)
@given(st.integers(0, len(svc(ENROLLED).encode()) - 1), st.integers(1, 255))
def test_a_changed_payload_is_refused_or_says_what_its_owner_signed(at: int, change: int) -> None:
    data = bytearray(svc(ENROLLED, 3).encode())
    data[at % len(data)] ^= change
    try:
        changed = Svc.decode(bytes(data))
    except MalformedRecord:
        return
    assert Svc.decode(changed.encode()) == changed
    try:
        changed.check(ALICE.device.hit, b"", WALL + 60, ENROLLED, WALL)
    except RecordRefused:
        return
    # what no signature covers here is covered by the record's own
    assert changed.bucket == svc(ENROLLED, 3).bucket >> (3 - min(changed.depth, 3))


@given(st.binary(min_size=20, max_size=20), st.integers(1, MAX_DEPTH))
def test_each_bucket_lies_within_the_larger_one(id_: bytes, depth: int) -> None:
    assert bucket_of(id_, depth) >> 1 == bucket_of(id_, depth - 1)
    assert 0 <= bucket_of(id_, depth) < 2**depth


def test_buckets_are_as_many_as_the_overlay_needs() -> None:
    assert [depth_for(n) for n in (1, 512, 1023, 1024, 2048, 10_000, 1e9)] == [
        0,
        0,
        0,
        1,
        2,
        4,
        16,
    ]
