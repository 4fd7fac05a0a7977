import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.swarm import EPOCH, identity, node_record, overlay_info

from hipctl import Hit
from overlay.errors import RecordRefused
from overlay.messages import Code
from overlay.records import Record, check_record, node_key, sign_record
from overlay.storage import Forget, Limits, Persist, Storage
from overlay.store import MAX_CONTACTS, MemoryStore, SqliteStore, Store

OVERLAY = overlay_info()
FRIEND = identity(9).hit


def storage(limits: Limits | None = None, refused: str = "") -> Storage:
    def check(record: Record, wall: float) -> None:
        if refused:
            raise RecordRefused(refused)

    return Storage(OVERLAY.id, check, limits)


def record(who: int = 1, seq: int = 1, created: float = EPOCH) -> Record:
    return node_record(identity(who), OVERLAY, seq, created)


def anything(who: int, subkey: bytes, *, size: int = 10, kind: str = "SVC") -> Record:
    key = node_key(OVERLAY.id, identity(0).hit)
    now = int(EPOCH)
    return sign_record(
        identity(who), OVERLAY.id, kind, key, subkey, 1, now, now + 600, bytes(size)
    )


def near(key: bytes) -> bool:
    return True


def offer(held: Storage, data: bytes | Record, sender: Hit = FRIEND) -> Code:
    return held.offer(data, sender, EPOCH, near).code


def test_the_newest_of_a_slot_stays_and_an_older_one_is_told_so() -> None:
    held = storage()
    old, new = record(seq=1), record(seq=2)
    first = held.offer(old.raw, FRIEND, EPOCH, near)
    assert (first.code, first.changes) == (Code.STORED, (Persist(old),))
    assert offer(held, old.raw) is Code.HELD
    assert offer(held, new) is Code.STORED
    assert offer(held, old) is Code.STALE
    assert held.values(new.key, "NODE", EPOCH) == [new]
    assert held.values(new.key, "REG", EPOCH) == []
    assert held.value(new.key, new.slot, EPOCH) == new
    assert len(held) == 1
    assert held.bytes == len(new.raw)


def test_of_two_records_with_one_seq_all_keep_the_same_and_count_it() -> None:
    one = record(seq=5)
    other = node_record(identity(1), OVERLAY, 5, EPOCH + 1)
    kept = set()
    for first, second in ((one, other), (other, one)):
        held = storage()
        offer(held, first)
        offer(held, second)
        kept.add(held.values(one.key, None, EPOCH)[0].raw)
        assert held.counters["equivocation"] == 1
    assert len(kept) == 1


def test_nobody_else_can_accuse_an_owner_of_equivocation() -> None:
    one, other = record(seq=5), node_record(identity(1), OVERLAY, 5, EPOCH + 1)
    kept, lost = sorted((one, other), key=lambda r: r.digest)
    held = Storage(OVERLAY.id, lambda record, wall: check_record(record, OVERLAY, wall))
    assert offer(held, kept) is Code.STORED
    assert offer(held, lost.raw[:-64] + bytes(63) + b"\1") is Code.REFUSED
    assert held.counters["equivocation"] == 0
    assert offer(held, lost) is Code.STALE
    assert held.counters["equivocation"] == 1


def test_each_reason_to_refuse() -> None:
    good = record()
    assert offer(storage(), b"\xc1") is Code.MALFORMED
    stray = node_record(identity(1), overlay_info("other.example"), 1, EPOCH)
    assert offer(storage(), stray) is Code.REFUSED
    assert storage().offer(good, FRIEND, EPOCH + 9_999, near).reason == "expired"
    assert storage().offer(good, FRIEND, EPOCH, lambda key: False).code is Code.TOO_FAR
    assert storage(refused="signature").offer(good, FRIEND, EPOCH, near).reason == "signature"
    assert offer(storage(Limits(total=10)), good) is Code.QUOTA
    assert offer(storage(Limits(owner=10)), good) is Code.QUOTA
    assert offer(storage(Limits(keys=0)), good) is Code.QUOTA
    assert offer(storage(Limits(sender=10)), good) is Code.QUOTA
    assert offer(storage(Limits(sender=10)), good, good.owner_hit) is Code.STORED  # its own
    assert offer(storage(), anything(1, b"", kind="WHAT")) is Code.QUOTA


def test_a_key_has_so_many_slots_as_its_kind_says() -> None:
    held = storage()
    codes = [offer(held, anything(n, b"")) for n in range(66)]
    assert codes == [Code.STORED] * 64 + [Code.QUOTA] * 2


def test_what_our_own_disk_kept_is_charged_to_nobody() -> None:
    held = storage(Limits(sender=1_000))
    for who in range(1, 10):
        assert held.offer(record(who), None, EPOCH, near).code is Code.STORED
    assert len(held.expire(EPOCH + 8_000)) == 9
    assert held.bytes == 0


def test_what_expires_gives_its_room_back() -> None:
    held = storage(Limits(owner=700))
    assert offer(held, anything(1, b"a", size=200)) is Code.STORED
    assert offer(held, anything(1, b"b", size=200)) is Code.QUOTA
    at = held.expires()
    assert at == int(EPOCH) + 600
    assert held.values(anything(1, b"a").key, None, at) == []
    (gone,) = held.expire(at)
    assert isinstance(gone, Forget)
    assert gone.slot[2] == b"a"
    assert (held.bytes, len(held), held.expires()) == (0, 0, None)
    assert offer(held, anything(1, b"b", size=200)) is Code.STORED


def test_a_slot_written_again_and_again_takes_the_room_of_one() -> None:
    held = storage()
    for seq in range(1, 2_000):
        assert offer(held, record(seq=seq)) is Code.STORED
    assert len(held._expiry) < 600
    assert len(held) == 1
    assert len(held.expire(EPOCH + 8_000)) == 1
    assert len(held) == 0


def test_the_expiry_of_a_version_does_not_take_the_next_one_along() -> None:
    held = storage()
    offer(held, record(seq=1))
    offer(held, record(seq=2, created=EPOCH + 1_000))
    assert held.expire(EPOCH + 7_500) == []
    assert len(held) == 1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=20))
def test_the_books_balance_whatever_is_offered(offers: list[tuple[int, int, bool]]) -> None:
    held = storage(Limits(owner=900, total=1_400, sender=900))
    for who, seq, own in offers:
        made = record(who, seq)
        offer(held, made, made.owner_hit if own else FRIEND)
        records = list(held)
        assert held.bytes == sum(len(r.raw) for r in records) <= 1_400
        for r in records:
            assert held._by_owner[r.owner_hit] <= 900
    while (at := held.expires()) is not None:
        held.expire(at)
    assert held.bytes == 0
    assert not held._by_owner
    assert not held._by_sender


def stores(tmp_path: Path) -> list[Store]:
    return [MemoryStore(), SqliteStore(tmp_path / "store")]


def test_what_a_store_is_given_it_gives_back(tmp_path: Path) -> None:
    one, two = record(1), record(2)
    for store in stores(tmp_path):
        store.change(OVERLAY.id, [Persist(one), Persist(two)])
        store.change(OVERLAY.id, [Forget(one.key, one.slot), Persist(two)])
        store.remember(OVERLAY.id, identity(1).hit, b"here", 5.0)
        store.remember(OVERLAY.id, identity(2).hit, b"there", 6.0)
        if isinstance(store, SqliteStore):
            store.close()
            store = SqliteStore(tmp_path / "store")  # noqa: PLW2901
        assert store.load(OVERLAY.id, EPOCH) == [two.raw]
        assert store.load(bytes(32), EPOCH) == []
        assert [hit for hit, _ in store.contacts(OVERLAY.id)] == [identity(2).hit, identity(1).hit]
        assert store.load(OVERLAY.id, EPOCH + 9_999) == []
        store.close()
        store.close()


def test_a_store_remembers_a_bounded_number_of_contacts(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        for n in range(3 * MAX_CONTACTS):
            hit = Hit(b"\x20\x01\x00\x22" + n.to_bytes(12, "big"))
            store.remember(OVERLAY.id, hit, b"x", float(n))
        if isinstance(store, SqliteStore):
            store.close()
            store = SqliteStore(tmp_path / "store")  # noqa: PLW2901
        known = store.contacts(OVERLAY.id)
        assert len(known) == MAX_CONTACTS
        assert known[0][0][-1] == (3 * MAX_CONTACTS - 1) % 256
        store.close()


def test_contacts_on_disk_stay_few_while_the_peer_runs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "records.sqlite")
    for number in range(5 * MAX_CONTACTS):
        hit = Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))
        store.remember(OVERLAY.id, hit, b"here", EPOCH + number)
    store.close()
    with sqlite3.connect(tmp_path / "records.sqlite") as file:
        (count,) = file.execute("SELECT count(*) FROM contacts").fetchone()
        (oldest,) = file.execute("SELECT min(heard) FROM contacts").fetchone()
    file.close()
    assert count <= 2 * MAX_CONTACTS
    assert oldest > EPOCH + 2 * MAX_CONTACTS


def test_the_store_is_its_owners_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    store.close()


def test_a_record_with_a_broken_signature_is_not_taken_back_from_disk() -> None:
    held = storage(refused="signature")
    broken = replace(record(), sig=bytes(64))
    assert offer(held, broken) is Code.REFUSED


@pytest.mark.parametrize("data", [b"", b"\x9c", bytes(1_200)])
def test_malformed_records_are_counted(data: bytes) -> None:
    held = storage()
    assert offer(held, data) is Code.MALFORMED
    assert sum(held.counters.values()) == 1
