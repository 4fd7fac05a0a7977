"""Where peers were last is written when it changes, and remembered of so many."""

from types import SimpleNamespace
from typing import Any

from hipctl import Hit
from overlay.lastseen import LastSeen
from overlay.store import MAX_CONTACTS, MemoryStore


class Noted:
    """A host that is told where peers were, and knows where they are."""

    def __init__(self) -> None:
        self.recalled: dict[Hit, bytes] = {}
        self.at = b"here"

    def last_seen(self, peer: Hit) -> bytes:
        return self.at

    def recall(self, peer: Hit, contact: bytes) -> None:
        self.recalled[peer] = contact


def hit(number: int) -> Hit:
    return Hit(bytes([0x20, 1, 0, 0x20]) + number.to_bytes(12, "big"))


def home(store: MemoryStore) -> Any:
    return SimpleNamespace(
        node=SimpleNamespace(store=store, overlay=SimpleNamespace(id=bytes(32)))
    )


def made(host: Noted, store: MemoryStore) -> LastSeen:
    return LastSeen(host, [home(store)], lambda: 1_800_000_000.0)  # type: ignore[arg-type]


def test_another_start_knows_where_they_were() -> None:
    host, store = Noted(), MemoryStore()
    made(host, store).keep([hit(1), hit(2)])
    made(host, store).recall()
    assert host.recalled == {hit(1): b"here", hit(2): b"here"}


def test_however_many_come_and_go_few_are_remembered() -> None:
    host = Noted()
    kept = made(host, MemoryStore())
    for number in range(5 * MAX_CONTACTS):
        kept.keep([hit(number)])
    assert len(kept._kept) <= MAX_CONTACTS


class Full(MemoryStore):
    """A disk that is full for a while."""

    full = True

    def remember(self, overlay_id: bytes, hit: Hit, contact: bytes, wall: float) -> None:
        if self.full:
            raise OSError("full")
        super().remember(overlay_id, hit, contact, wall)


def test_what_could_not_be_written_is_written_later() -> None:
    host, store = Noted(), Full()
    kept = made(host, store)
    try:
        kept.keep([hit(1)])
    except OSError:
        store.full = False
    kept.keep([hit(1)])
    made(host, store).recall()
    assert host.recalled == {hit(1): b"here"}
