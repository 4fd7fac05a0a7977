"""Where peers were last is written when it changes, and remembered of so many."""

from collections.abc import Container
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


class Everybody:
    """Whom an overlay has met: all."""

    def __contains__(self, hit: object) -> bool:
        return True


def home(store: MemoryStore, number: int = 0, met: Container[Hit] = Everybody()) -> Any:
    return SimpleNamespace(
        node=SimpleNamespace(
            store=store,
            overlay=SimpleNamespace(id=bytes([number]) * 32),
            engine=SimpleNamespace(met=lambda: met),
        )
    )


def made(host: Noted, *homes: Any) -> LastSeen:
    return LastSeen(host, homes, lambda: 1_800_000_000.0)  # type: ignore[arg-type]


def test_another_start_knows_where_they_were() -> None:
    host, store = Noted(), MemoryStore()
    made(host, home(store)).keep([hit(1), hit(2)])
    made(host, home(store)).recall()
    assert host.recalled == {hit(1): b"here", hit(2): b"here"}


def test_however_many_come_and_go_few_are_remembered() -> None:
    host = Noted()
    kept = made(host, home(MemoryStore()))
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
    kept = made(host, home(store))
    try:
        kept.keep([hit(1)])
    except OSError:
        store.full = False
    kept.keep([hit(1)])
    made(host, home(store)).recall()
    assert host.recalled == {hit(1): b"here"}


def test_no_overlay_is_told_of_who_is_in_another_only() -> None:
    host, store = Noted(), MemoryStore()
    one, other = home(store, 1, {hit(1), hit(3)}), home(store, 2, {hit(2), hit(3)})
    made(host, one, other).keep([hit(1), hit(2), hit(3)])
    for only, known in [(one, {hit(1), hit(3)}), (other, {hit(2), hit(3)})]:
        host.recalled.clear()
        made(host, only).recall()
        assert host.recalled.keys() == known
