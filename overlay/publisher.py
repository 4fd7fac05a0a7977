"""Keeps records of ours in an overlay: signs them, puts them, tries again, refreshes, withdraws.

A record is signed anew at half of its life, and at once when our contact has changed or its maker
says something else.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from hipctl import ContactChanged, Event, HostIdentity
from overlay.constants import CLOCK_TOLERANCE
from overlay.errors import LookupFailed, NotFound, NotStored, RecordRefused
from overlay.keys import record_key
from overlay.kinds import KINDS, Payload
from overlay.node import Node
from overlay.records import Record, sign_record, sign_tombstone

_log = logging.getLogger(__name__)

LOOK: Final = 5.0  # seconds between looks at our own contact
FIRST_RETRY: Final = 1.0  # seconds after a put that nobody took
MOST_RETRY: Final = 60.0
MAX_PUBLISHED: Final = 96  # records of one peer in one overlay
WITHDRAW_PATIENCE: Final = 1.7  # seconds that tombstones may take when we stop (of 3 in all): a
# neighbour that has just died costs a lookup its two soft deadlines


class Draft(NamedTuple):
    """A record before it is signed.

    Attributes:
        kind: a row of KINDS.
        payload: typed.
        subkey: at most 32 bytes.
    """

    kind: str
    payload: Payload
    subkey: bytes = b""


Make = Callable[[bytes], Draft | None]
"""``make(contact)``: what the record shall say now; None: nothing, and what it said is over.

It raises NotFound where we have no right to it any more.
"""


@dataclass(slots=True)
class _Entry:
    """One record that we keep alive.

    Attributes:
        make: its maker.
        mark: what it says besides our contact; an equal mark needs no put.
        on_refused: told why nobody took it, and how often.
        contact: ours, when we last tried.
        record: as it was signed last.
        due: monotonic seconds of the next put.
        retry: seconds until the next try after a failure.
        failed: whether it could not be put; ``due`` is the next try then.
        again: when to put it once more because one node alone holds it, monotonic seconds.
        held: how many nodes hold it.
        busy: whether it is being put.
    """

    make: Make
    mark: object
    on_refused: Callable[[Counter[str]], None] | None = None
    contact: bytes = b""
    record: Record | None = None
    due: float = 0.0
    retry: float = FIRST_RETRY
    failed: bool = False
    again: float = float("inf")
    held: int = 0
    busy: bool = False

    def later(self, now: float) -> float:
        """When the next try is, after a gap that grows."""
        gap, self.retry = self.retry, min(2 * self.retry, MOST_RETRY)
        return now + gap

    def overtaken(self, wall: float) -> bool:
        """Whether the clock was set, or stood still, so that half of its life isn't ahead."""
        if self.record is None or self.failed:
            return False
        created, expires = self.record.created, self.record.expires
        return wall > (created + expires) / 2 or wall < created - CLOCK_TOLERANCE


class Publisher:
    """Our records in one overlay, by names that are the caller's own.

    Args:
        node: our node there.
        identity: our device's, the one by which the node takes part.

    Attributes:
        failures: what broke in an unforeseen way, by the name of the record.
    """

    def __init__(self, node: Node, identity: HostIdentity) -> None:
        self._node = node
        self._host = node.host
        self._overlay = node.overlay
        self._identity = identity
        self._entries: dict[str, _Entry] = {}
        self._kick = asyncio.Event()
        self.failures: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to keep records alive."""
        self._loop = asyncio.get_running_loop()
        self._unwatch = self._host.watch(self._on_event)
        self._task = asyncio.create_task(self._keep(), name="publisher")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop; what is published is withdrawn, unless that takes too long."""
        self._unwatch()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(WITHDRAW_PATIENCE):
                await asyncio.gather(*(self.withdraw(name) for name in list(self._entries)))
        except TimeoutError:
            _log.info("not all records could be withdrawn in time")

    # --- what others ask

    def publish(
        self,
        name: str,
        make: Make,
        mark: object = None,
        on_refused: Callable[[Counter[str]], None] | None = None,
    ) -> None:
        """Keep a record in the overlay until ``withdraw``; the put goes on behind and is retried.

        Args:
            name: the caller's own, for logs too.
            make: its maker.
            mark: what it says besides our contact; where an equal one stands, nothing happens.
            on_refused: told why nobody took it, and how often each.

        Raises:
            NotFound: we keep too many already.
        """
        entry = self._entries.get(name)
        if entry is None:
            if len(self._entries) >= MAX_PUBLISHED:
                raise NotFound("too many names are published")
            self._entries[name] = _Entry(make, mark, on_refused)
        elif entry.mark == mark:
            return
        else:
            entry.make, entry.mark, entry.due = make, mark, 0.0
        self._kick.set()

    def hurry(self, name: str) -> None:
        """Sign and put a record anew now; harmless where there is none."""
        if name in self._entries:
            self._entries[name].due = 0.0
            self._kick.set()

    async def withdraw(self, name: str) -> None:
        """Take a record out of the overlay (a tombstone); harmless when it is not in."""
        entry = self._entries.pop(name, None)
        if entry is not None and entry.record is not None:
            await self._bury(name, entry.record)

    def mark(self, name: str) -> object:
        """What ``publish`` was told last; None where there is none."""
        entry = self._entries.get(name)
        return None if entry is None else entry.mark

    def record(self, name: str) -> Record | None:
        """The record as it was signed last."""
        entry = self._entries.get(name)
        return None if entry is None else entry.record

    def held(self) -> dict[str, int]:
        """What we keep in the overlay -> how many nodes hold each."""
        return {name: entry.held for name, entry in self._entries.items()}

    # --- keeping them alive

    async def _keep(self) -> None:
        await self._node.joined()
        async with asyncio.TaskGroup() as putting:
            while True:
                self._kick.clear()
                try:
                    self._put_due(putting)
                    pause = self._pause()
                except Exception as error:  # the next look may be a better one
                    self._failed("looking at records", error)
                    pause = LOOK
                try:
                    async with asyncio.timeout(pause):
                        await self._kick.wait()
                except TimeoutError:
                    pass

    def _put_due(self, putting: asyncio.TaskGroup) -> None:
        """Begin to put what is due."""
        now = self._loop.time()
        contact = self._host.contact(self._node.local)
        for name, entry in self._entries.items():
            if not entry.busy and self._is_due(entry, contact, now):
                entry.busy = True
                putting.create_task(self._put(name, entry, contact), name="put")

    def _is_due(self, entry: _Entry, contact: bytes, now: float) -> bool:
        moved = entry.record is not None and entry.contact != contact
        again = entry.again <= now and len(self._node.engine.table) > 0
        return entry.due <= now or moved or again or entry.overtaken(self._node.wall())

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ContactChanged):
            self._kick.set()

    def _pause(self) -> float:
        """Seconds until something may be due."""
        now = self._loop.time()
        gaps = [entry.due - now for entry in self._entries.values() if not entry.busy]
        return max(min([*gaps, LOOK]), 0.01)

    async def _put(self, name: str, entry: _Entry, contact: bytes) -> None:
        try:
            await self._put_once(name, entry, contact)
        except (LookupFailed, RecordRefused, NotFound) as error:
            _log.warning("%s could not be registered: %s", name, error)
            entry.failed, entry.due = True, entry.later(self._loop.time())
            if isinstance(error, NotStored) and entry.on_refused is not None:
                self._tell(name, entry.on_refused, error.reasons)
        except Exception as error:
            self._failed(name, error)
            entry.failed, entry.due = True, entry.later(self._loop.time())
        finally:
            entry.busy = False
            self._kick.set()  # what was said meanwhile may be due

    def _tell(
        self, name: str, on_refused: Callable[[Counter[str]], None], reasons: Counter[str]
    ) -> None:
        try:
            on_refused(reasons)
        except Exception as error:
            self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        """Count what nobody has foreseen; say it, but ever more seldom."""
        self.failures[name] += 1
        times = self.failures[name]
        if times.bit_count() == 1:
            _log.error("%s failed (%d times)", name, times, exc_info=error)

    async def _put_once(self, name: str, entry: _Entry, contact: bytes) -> None:
        old, entry.contact = entry.record, contact
        entry.due = entry.again = float("inf")  # ``publish`` and ``hurry`` may set it anew
        draft = entry.make(contact)
        if draft is None:
            entry.failed, entry.due = True, self._loop.time() + LOOK
            if old is not None and contact:  # without a contact there is nobody to tell
                entry.record = None
                await self._bury(name, old)
            return
        record = await self._sign(draft)
        if self._entries.get(name) is not entry:
            return  # withdrawn meanwhile
        entry.record = record
        entry.held = await self._node.put(record)
        entry.failed = False
        if entry.held > 1:
            entry.retry, entry.again = FIRST_RETRY, float("inf")
        else:  # only we perhaps: others come back, and don't know that they lack it
            entry.again = entry.later(self._loop.time())
        half = self._loop.time() + (record.expires - record.created) / 2
        entry.due = min(entry.due, half)
        if old is not None and old.key != record.key and self._entries.get(name) is entry:
            await self._bury(name, old)  # it moved to another key

    async def _sign(self, draft: Draft) -> Record:
        """Sign the newest version of a record of ours.

        Raises:
            RecordRefused: it would be too long, or what proves our right has ended.
            LookupFailed: its sequence number can't be kept.
        """
        overlay, local, payload = self._overlay, self._node.local, draft.payload
        wall = self._node.wall()
        created = int(wall)
        key = record_key(overlay.id, *payload.place(local))
        expires = min(created + KINDS[draft.kind].life, payload.ceiling(overlay, wall))
        seq = await self._node.store.reserve(
            overlay.id, key, draft.kind, local, draft.subkey, wall
        )
        return sign_record(
            self._identity,
            overlay.id,
            draft.kind,
            key,
            draft.subkey,
            seq,
            created,
            expires,
            payload.encode(),
        )

    async def _bury(self, name: str, record: Record) -> None:
        kind, owner, subkey = record.slot
        try:
            seq = await self._node.store.reserve(
                self._overlay.id, record.key, kind, owner, subkey, self._node.wall()
            )
            created = int(self._node.wall())
            await self._node.put(
                sign_tombstone(self._identity, record, seq, created, self._overlay)
            )
        except (LookupFailed, RecordRefused) as error:
            _log.info("%s was not withdrawn: %s", name, error)
        except Exception as error:
            self._failed(name, error)
