"""Which records we hold for others, and why. Pure: the shell keeps a copy on disk.

A record gets in if it is near enough, within its quotas, newer than what its slot holds, and what
its kind demands; the signature is looked at last, because it costs most.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hipctl import Hit
from overlay.errors import MalformedRecord, RecordRefused
from overlay.messages import Code
from overlay.records import KINDS, Record, equivocates, newer

Slot = tuple[str, Hit, bytes]

SLICE = 256  # records that one call of ``expire`` looks at


class Persist(NamedTuple):
    """Action: keep ``record`` on disk."""

    record: Record


class Forget(NamedTuple):
    """Action: remove a record from disk."""

    key: bytes
    slot: Slot


class Outcome(NamedTuple):
    """What became of an offered record.

    Attributes:
        code: for the STORE answer.
        reason: constant, in words; empty when stored.
        record: the parsed record, unless it was malformed.
        changes: for the disk.
    """

    code: Code
    reason: str = ""
    record: Record | None = None
    changes: tuple[Persist | Forget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Byte quotas of one overlay.

    Attributes:
        total: all records.
        owner: all of one owner.
        sender: all that one neighbour handed over, but what is its own.
        keys: how many keys.
    """

    total: int = 64 * 2**20
    owner: int = 64 * 2**10
    sender: int = 8 * 2**20
    keys: int = 65_536


class _Held:
    __slots__ = ("record", "sender")

    def __init__(self, record: Record, sender: Hit | None) -> None:
        self.record = record
        self.sender = sender


class Storage:
    """The records of one overlay, by key and slot.

    Args:
        overlay_id: 32 bytes.
        check: judges a record by itself (``check_record`` with its overlay); raises
            RecordRefused.
        limits: byte quotas.
    """

    def __init__(
        self,
        overlay_id: bytes,
        check: Callable[[Record, float], object],
        limits: Limits | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.bytes = 0
        self._overlay_id = overlay_id
        self._check = check
        self._limits = limits or Limits()
        self._count = 0
        self._keys: dict[bytes, dict[Slot, _Held]] = {}
        self._expiry: list[tuple[int, bytes, Slot]] = []
        self._by_owner: Counter[Hit] = Counter()
        self._by_sender: Counter[Hit] = Counter()

    def __len__(self) -> int:
        return self._count

    def keys(self) -> list[bytes]:
        """All keys."""
        return list(self._keys)

    def __iter__(self) -> Iterator[Record]:
        for slots in list(self._keys.values()):
            for held in list(slots.values()):
                yield held.record

    def offer(
        self, data: bytes | Record, sender: Hit | None, wall: float, near: Callable[[bytes], bool]
    ) -> Outcome:
        """Store a record if it may be stored.

        Args:
            data: its bytes, or a record that was parsed already.
            sender: the neighbour that hands it over; None for our own disk.
            wall: Unix seconds, corrected.
            near: whether we are among those who should hold a key.
        """
        outcome = self._judge(data, sender, wall, near)
        if outcome.code is not Code.STORED and outcome.code is not Code.HELD:
            self.counters[outcome.reason] += 1
        return outcome

    def _judge(  # noqa: C901, PLR0911  one return for each reason
        self, data: bytes | Record, sender: Hit | None, wall: float, near: Callable[[bytes], bool]
    ) -> Outcome:
        try:
            record = data if isinstance(data, Record) else Record.parse(data)
        except MalformedRecord as error:
            return Outcome(Code.MALFORMED, error.reason)
        if record.overlay_id != self._overlay_id:
            return Outcome(Code.REFUSED, "of another overlay", record)
        if record.expires <= wall:
            return Outcome(Code.REFUSED, "expired", record)
        if not near(record.key):
            return Outcome(Code.TOO_FAR, "too far", record)
        slots = self._keys.get(record.key)
        held = slots.get(record.slot) if slots else None
        if held is not None:
            if held.record.raw == record.raw:
                return Outcome(Code.HELD, "", record)
            if not newer(record, held.record):
                return self._older(record, held.record, wall)
        if excess := self._excess(record, sender, held, slots):
            return Outcome(Code.QUOTA, excess, record)
        try:
            self._check(record, wall)
        except RecordRefused as error:
            return Outcome(Code.REFUSED, error.reason, record)
        if held is not None and equivocates(record, held.record):
            self.counters["equivocation"] += 1
        return Outcome(Code.STORED, "", record, (self._put(record, sender, held),))

    def _older(self, record: Record, held: Record, wall: float) -> Outcome:
        if record.seq == held.seq and record.body == held.body:
            return Outcome(Code.HELD, "", held)  # signed twice: the same statement
        if equivocates(record, held):
            try:
                self._check(record, wall)  # or anybody could accuse an owner
            except RecordRefused as error:
                return Outcome(Code.REFUSED, error.reason, record)
            self.counters["equivocation"] += 1
        return Outcome(Code.STALE, "a newer one is held", held)

    def _excess(  # noqa: PLR0911  likewise
        self,
        record: Record,
        sender: Hit | None,
        held: _Held | None,
        slots: dict[Slot, _Held] | None,
    ) -> str:
        limits = self._limits
        size = len(record.raw) - (len(held.record.raw) if held else 0)
        if held is None:
            kind = KINDS.get(record.kind)
            if kind is None:
                return "unknown kind"
            if slots and sum(slot[0] == record.kind for slot in slots) >= kind.slots:
                return "no free slot"
            if not slots and len(self._keys) >= limits.keys:
                return "too many keys"
        if self.bytes + size > limits.total:
            return "overlay quota"
        if self._by_owner[record.owner_hit] + size > limits.owner:
            return "owner quota"
        if sender is None or sender == record.owner_hit:
            return ""
        return "sender quota" if self._by_sender[sender] + size > limits.sender else ""

    def _put(self, record: Record, sender: Hit | None, held: _Held | None) -> Persist:
        if held is not None:
            self._account(held, -1)
        else:
            self._count += 1
        entry = _Held(record, sender)
        self._keys.setdefault(record.key, {})[record.slot] = entry
        self._account(entry, 1)
        heapq.heappush(self._expiry, (record.expires, record.key, record.slot))
        if len(self._expiry) > 2 * self._count + SLICE:  # mostly versions that were replaced
            self._expiry = [
                (held.record.expires, key, slot)
                for key, slots in self._keys.items()
                for slot, held in slots.items()
            ]
            heapq.heapify(self._expiry)
        return Persist(record)

    def _account(self, held: _Held, sign: int) -> None:
        size = sign * len(held.record.raw)
        owner, sender = held.record.owner_hit, held.sender
        self.bytes += size
        self._by_owner[owner] += size
        if self._by_owner[owner] <= 0:
            del self._by_owner[owner]
        if sender is not None and sender != owner:
            self._by_sender[sender] += size
            if self._by_sender[sender] <= 0:
                del self._by_sender[sender]

    def values(self, key: bytes, kind: str | None, wall: float) -> list[Record]:
        """What we hold under ``key`` that has not expired; of ``kind`` only, if given."""
        slots = self._keys.get(key)
        if not slots:
            return []
        return [
            held.record
            for slot, held in slots.items()
            if held.record.expires > wall and (kind is None or slot[0] == kind)
        ]

    def value(self, key: bytes, slot: Slot, wall: float) -> Record | None:
        """What we hold in one slot, unless it has expired."""
        held = self._keys.get(key, {}).get(slot)
        return held.record if held is not None and held.record.expires > wall else None

    def expires(self) -> int | None:
        """When the next record may expire, Unix seconds."""
        return self._expiry[0][0] if self._expiry else None

    def expire(self, wall: float) -> list[Forget]:
        """Drop what has expired, a slice of it; call again while ``expires`` lies behind."""
        gone: list[Forget] = []
        for _ in range(SLICE):
            if not self._expiry or self._expiry[0][0] > wall:
                break
            _, key, slot = heapq.heappop(self._expiry)
            slots = self._keys.get(key, {})
            held = slots.get(slot)
            if held is None or held.record.expires > wall:
                continue  # replaced by a newer one, which has its own entry
            del slots[slot]
            if not slots:
                self._keys.pop(key, None)
            self._account(held, -1)
            self._count -= 1
            gone.append(Forget(key, slot))
        return gone
