"""Names with meaning: who answers for an AoR, who may speak as it, and our own registrations.

The shell keeps what we publish alive: it signs anew at half the life of a record, and at once
when our port or our contact has changed.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from hipctl import ContactChanged, Event, Hit, HostIdentity
from overlay.accounts import split_aor
from overlay.admission import Account
from overlay.constants import CLOCK_TOLERANCE, NODE_LIFE, REG_LIFE
from overlay.errors import LookupFailed, MalformedRecord, NotFound, RecordRefused
from overlay.node import Node
from overlay.records import (
    NodeInfo,
    Record,
    Reg,
    aor_key,
    check_record,
    node_key,
    sign_record,
    sign_tombstone,
)
from overlay.services import Target

_log = logging.getLogger(__name__)

LOOK: Final = 5.0  # seconds between looks at our own contact
FIRST_RETRY: Final = 1.0  # seconds after a put that nobody took
MOST_RETRY: Final = 60.0
OWNS_NOT: Final = 3.0  # seconds for which "no" is believed
MAX_OWNERS: Final = 1_024  # (AoR, HIT) pairs remembered
MAX_ASKING: Final = 128  # lookups of owners at a time …
MAX_ASKING_EACH: Final = 4  # … and for one HIT, which may claim any name
MAX_PUBLISHED: Final = 64  # AoRs of one peer
WITHDRAW_PATIENCE: Final = 1.7  # seconds that tombstones may take when we stop (of 3 in all): a
# neighbour that has just died costs a lookup its two soft deadlines

_NODE: Final = ""  # among the AoRs that we publish: our NODE record


@dataclass(slots=True)
class _Published:
    """One record that we keep alive.

    Attributes:
        port: of the service, 0 for NODE.
        contact: ours, as the record says.
        record: as it was signed last.
        due: monotonic seconds of the next put.
        retry: seconds until the next try after a failure.
        failed: whether nobody took it; ``due`` is the next try then.
        again: when to put it once more because one node alone holds it, monotonic seconds.
        held: how many nodes hold it.
    """

    port: int
    contact: bytes = b""
    record: Record | None = None
    due: float = 0.0
    retry: float = FIRST_RETRY
    failed: bool = False
    again: float = float("inf")
    held: int = 0

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


class Directory:
    """The names of one overlay, as our device sees them.

    Args:
        node: our node there.
        identity: our device's, the one by which the node takes part.
        account: whose device it is, or None to take part without a name.
        announce: whether our NODE record is kept in the overlay.
    """

    def __init__(
        self,
        node: Node,
        identity: HostIdentity,
        account: Account | None = None,
        *,
        announce: bool = True,
    ) -> None:
        self._node = node
        self._host = node.host
        self._overlay = node.overlay
        self._identity = identity
        self._account = account
        self._published: dict[str, _Published] = {_NODE: _Published(0)} if announce else {}
        self._owners: dict[tuple[str, Hit], tuple[bool, float]] = {}
        self._asking: dict[tuple[str, Hit], asyncio.Task[bool]] = {}
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to keep our records alive."""
        self._loop = asyncio.get_running_loop()
        self._unwatch = self._host.watch(self._on_event)
        self._task = asyncio.create_task(self._keep(), name="directory")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop; what is published is withdrawn, unless that takes too long."""
        self._unwatch()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for asking in self._asking.values():
            asking.cancel()
        try:
            async with asyncio.timeout(WITHDRAW_PATIENCE):
                await asyncio.gather(*(self.withdraw(aor) for aor in list(self._published)))
        except TimeoutError:
            _log.info("not all registrations could be withdrawn in time")

    # --- what the peer asks

    def names(self) -> Mapping[str, bytes | None]:
        """AoRs that our account holds here -> the certificate that a REG carries, or None."""
        if self._account is None:
            return {}
        return self._account.names(self._overlay, self._node.wall())

    def published(self) -> dict[str, int]:
        """AoRs that we keep in the overlay -> how many nodes hold each."""
        return {aor: entry.held for aor, entry in self._published.items() if aor != _NODE}

    async def resolve(self, aor: str) -> list[Target]:
        """Find the devices behind a canonical AoR, verified, nearest expiry last.

        ``node.learn`` was called for each.

        Raises:
            NotFound: nobody is registered under it, or it is of another domain.
            LookupFailed: the overlay could not be asked.
        """
        if split_aor(aor)[1] != self._overlay.domain:
            raise NotFound(f"{aor} is not of the domain {self._overlay.domain}")
        own = self._own_target(aor)
        try:
            records = await self._node.get("REG", aor_key(self._overlay.id, aor))
        except LookupFailed:
            if own is None:
                raise
            records = []
        targets = {target.hit: target for record in records if (target := self._target(record))}
        targets.pop(self._node.local, None)  # of ourselves we know better
        if own is not None:
            targets[own.hit] = own
        if not targets:
            raise NotFound(f"nobody is registered as {aor}")
        return sorted(targets.values(), key=lambda target: -target.expires)

    def _target(self, record: Record) -> Target | None:
        try:
            reg = check_record(record, self._overlay, self._node.wall())
        except RecordRefused:  # it has expired on the way
            return None
        if not isinstance(reg, Reg) or reg.gone:
            return None
        if record.owner_hit not in self._host.hits and reg.contact:
            self._node.learn(record.owner_hit, reg.contact)
        account = reg.delegation.account.hit
        return Target(reg.aor, record.owner_hit, reg.port, account, record.expires)

    def _own_target(self, aor: str) -> Target | None:
        entry = self._published.get(aor)
        if entry is None or self._account is None:
            return None
        expires = entry.record.expires if entry.record else int(self._node.wall()) + REG_LIFE
        return Target(aor, self._node.local, entry.port, self._account.hit, expires)

    async def reach(self, hit: Hit) -> bool:
        """Look up the NODE record of ``hit`` and learn its contact; False if there is none."""
        try:
            records = await self._node.get("NODE", node_key(self._overlay.id, hit))
        except LookupFailed:
            return False
        for record in records:
            try:
                info = NodeInfo.decode(record.payload)
            except MalformedRecord:
                continue
            if not info.gone and record.owner_hit == hit:
                self._node.learn(hit, info.contact)
                return True
        return False

    async def owns(self, aor: str, hit: Hit) -> bool:
        """Whether ``hit`` may speak as the canonical ``aor``; may take a lookup, never raises."""
        if hit == self._node.local:
            return aor in self.names()
        if split_aor(aor)[1] != self._overlay.domain:
            return False
        if self._proved(aor, hit):
            return True
        now = self._loop.time()
        known = self._owners.get((aor, hit))
        if known is not None and known[1] > now:
            return known[0]
        return await self._ask_once(aor, hit)

    async def _ask_once(self, aor: str, hit: Hit) -> bool:
        """Ask, or wait for whoever asks the same already; False to who claims too many names."""
        asking = self._asking.get((aor, hit))
        if asking is None:
            claims = sum(other == hit for _, other in self._asking)
            if claims >= MAX_ASKING_EACH or len(self._asking) >= MAX_ASKING:
                return False
            asking = asyncio.create_task(self._learn_owner(aor, hit), name="owner")
            self._asking[aor, hit] = asking
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if asking.cancelled():  # we stop
                return False
            raise

    async def _learn_owner(self, aor: str, hit: Hit) -> bool:
        try:
            answer, seconds = await self._ask_owner(aor, hit)
        finally:
            del self._asking[aor, hit]
        if len(self._owners) >= MAX_OWNERS:
            del self._owners[next(iter(self._owners))]
        self._owners[aor, hit] = (answer, self._loop.time() + seconds)
        return answer

    def _proved(self, aor: str, hit: Hit) -> bool:
        admitted = self._node.credentials_of(hit)
        return admitted is not None and aor in admitted.aors

    async def _ask_owner(self, aor: str, hit: Hit) -> tuple[bool, float]:
        """Ask ``hit`` for its credentials, then the overlay; the answer and how long it holds."""
        if self._host.connected(hit):
            await self._node.greet(hit, anew=True)
            if self._proved(aor, hit):
                return True, OWNS_NOT  # the session remembers it for as long as it holds
        try:
            targets = await self.resolve(aor)
        except (NotFound, LookupFailed):
            return False, OWNS_NOT
        for target in targets:
            if target.hit == hit:
                return True, max(target.expires - self._node.wall(), 0.0)
        return False, OWNS_NOT

    async def publish(self, aor: str, port: int) -> None:
        """Keep in the overlay that ``aor`` answers at ``port`` of our HIT, until ``withdraw``.

        Returns at once; the put goes on behind and is retried.

        Raises:
            NotFound: our account does not hold ``aor``.
        """
        if aor not in self.names():
            raise NotFound(f"{aor} is not a name of this peer")
        entry = self._published.get(aor)
        if entry is None:
            if len(self._published) > MAX_PUBLISHED:
                raise NotFound("too many names are published")
            self._published[aor] = _Published(port)
        elif entry.port == port:
            return
        else:
            entry.port, entry.due = port, 0.0
        self._kick.set()

    async def withdraw(self, aor: str) -> None:
        """Take ``aor`` out of the overlay (a tombstone); harmless when it is not in."""
        entry = self._published.pop(aor, None)
        if entry is None or entry.record is None:
            return
        try:
            seq = await self._reserve(entry.record)
            created = int(self._node.wall())
            await self._node.put(
                sign_tombstone(self._identity, entry.record, seq, created, self._overlay)
            )
        except (LookupFailed, RecordRefused) as error:
            _log.info("%s was not withdrawn: %s", aor or "NODE", error)

    # --- keeping our records alive

    async def _keep(self) -> None:
        await self._node.joined()
        while True:
            self._kick.clear()
            now = self._loop.time()
            contact = self._host.contact(self._node.local)
            for entry in self._published.values():
                moved = entry.record is not None and entry.contact != contact
                again = entry.again <= now and len(self._node.engine.table) > 0
                if moved or again or entry.overtaken(self._node.wall()):
                    entry.due = now
            if not contact and _NODE in self._published:  # nothing to tell yet
                self._published[_NODE].due = now + LOOK
            due = [aor for aor, entry in self._published.items() if entry.due <= now]
            await asyncio.gather(*(self._put(aor, contact) for aor in due))
            try:
                async with asyncio.timeout(self._pause()):
                    await self._kick.wait()
            except TimeoutError:
                pass

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ContactChanged):
            self._kick.set()

    def _pause(self) -> float:
        """Seconds until something may be due."""
        now = self._loop.time()
        gaps = [entry.due - now for entry in self._published.values()]
        return max(min([*gaps, LOOK]), 0.01)

    async def _put(self, aor: str, contact: bytes) -> None:
        entry = self._published.get(aor)
        if entry is None:
            return
        try:
            record = await self._sign(aor, entry.port, contact)
            if self._published.get(aor) is not entry:
                return  # withdrawn meanwhile
            entry.record, entry.contact = record, contact
            entry.held = await self._node.put(record)
        except (LookupFailed, RecordRefused, NotFound) as error:
            _log.warning("%s could not be registered: %s", aor or "NODE", error)
            entry.failed, entry.due = True, entry.later(self._loop.time())
            return
        entry.failed = False
        if entry.held > 1:
            entry.retry, entry.again = FIRST_RETRY, float("inf")
        else:  # only we perhaps: others come back, and don't know that they lack it
            entry.again = entry.later(self._loop.time())
        if aor == _NODE or entry.port == Reg.decode(record.payload).port:  # not changed meanwhile
            entry.due = self._loop.time() + (record.expires - record.created) / 2

    async def _sign(self, aor: str, port: int, contact: bytes) -> Record:
        """Sign the newest version of a record of ours.

        Raises:
            RecordRefused: it would be too long.
            NotFound: our account lost the name, or its delegation of us has ended.
        """
        overlay, local = self._overlay, self._node.local
        wall = self._node.wall()
        created = int(wall)
        if aor == _NODE:
            kind, key, expires = "NODE", node_key(overlay.id, local), created + NODE_LIFE
            payload = NodeInfo(contact).encode()
        else:
            reg = self._reg(aor, port, contact, wall)
            kind, key = "REG", aor_key(overlay.id, aor)
            expires = min(created + REG_LIFE, reg.ceiling(overlay, wall))
            payload = reg.encode()
        seq = await self._node.store.reserve(overlay.id, key, kind, local, b"", wall)
        return sign_record(
            self._identity, overlay.id, kind, key, b"", seq, created, expires, payload
        )

    def _reg(self, aor: str, port: int, contact: bytes, wall: float) -> Reg:
        names = self.names()
        delegation = self._account.delegation_of(self._node.local, wall) if self._account else None
        if delegation is None or aor not in names:
            raise NotFound(f"this device has no right to {aor} now")
        return Reg(aor, delegation, names[aor], port, contact)

    async def _reserve(self, record: Record) -> int:
        kind, owner, subkey = record.slot
        return await self._node.store.reserve(
            self._overlay.id, record.key, kind, owner, subkey, self._node.wall()
        )
