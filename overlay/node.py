"""One overlay over one Endpoint: the shell around the engine ``kademlia``.

Several overlays may share a HIT: each datagram begins with its overlay's tag, and one small
switchboard per (host, HIT) hands it to the Node that registered that tag.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from hipctl import (
    AssociationDown,
    AssociationUp,
    ContactChanged,
    Endpoint,
    Event,
    Hides,
    Hit,
    Host,
    Rejected,
    Woke,
    contact_from_addresses,
)
from overlay.admission import Admitted, Credentials, admit
from overlay.environment import Action, Environment, Finished, Joined, Learn, Remember, Settings
from overlay.errors import LookupFailed, NotStored
from overlay.greeting import Greeting
from overlay.kademlia import Kademlia
from overlay.knocking import ELSEWHERE, HIDES, KNOCK_SECONDS, KnockAt, Knocked, knocked
from overlay.messages import OVERLAY_PORT, TAG_LENGTH, Field, Kind, overlay_tag
from overlay.operations import Outcome
from overlay.overlayfile import OverlayInfo, Seed
from overlay.reception import shown_for
from overlay.records import Record, check_record, node_id
from overlay.rpc import Send
from overlay.storage import Forget, Persist
from overlay.store import MemoryStore, Store

_log = logging.getLogger(__name__)

JOIN_PATIENCE: Final = 1.5  # seconds that a get or put waits for a join that is under way
RESTORE_SLICE: Final = 32  # records from disk that are judged in one go
LOCATE_EVERY: Final = 30.0  # seconds between lookups of the seeds' names while nobody is known

MAX_LEARNT: Final = 4_096  # HITs

OnMessage = Callable[[bytes, Hit], None]


class Switchboard:
    """The Endpoint that the overlays of one HIT share."""

    _all: "dict[tuple[int, Hit], Switchboard]" = {}  # noqa: RUF012  one per (host, HIT) in use

    def __init__(self, host: Host, local: Hit) -> None:
        self._place = (id(host), local)
        self._host = host  # kept, so that its id stays its own
        self._nodes: dict[bytes, OnMessage] = {}
        self.unknown = 0
        self.endpoint: Endpoint = host.open(local, OVERLAY_PORT, self._on_datagram)

    @classmethod
    def register(cls, host: Host, local: Hit, tag: bytes, on_message: OnMessage) -> "Switchboard":
        """Hand what carries ``tag`` to ``on_message``, until ``leave``.

        Raises:
            PortInUse: somebody else has the port.
            ValueError: a Node of this overlay is registered already.
        """
        board = cls._all.get((id(host), local))
        if board is None:
            board = cls._all[id(host), local] = cls(host, local)
        if tag in board._nodes:
            raise ValueError("this overlay has a node on this HIT already")
        board._nodes[tag] = on_message
        return board

    def leave(self, tag: bytes) -> None:
        """Take the tag away; the last one closes the Endpoint."""
        self._nodes.pop(tag, None)
        if not self._nodes and self._all.get(self._place) is self:
            del self._all[self._place]
            self.endpoint.close()

    def _on_datagram(self, data: bytes, source: Hit, port: int) -> None:
        on_message = self._nodes.get(data[:TAG_LENGTH])
        if on_message is None or port != OVERLAY_PORT:
            self.unknown += 1
        else:
            on_message(data[TAG_LENGTH:], source)


class Node:
    """Our node in one overlay.

    Attributes:
        seeds: those of the overlay file, and the profile's.

    Args:
        host: the HIP host.
        local: which of its HITs takes part.
        overlay: which overlay.
        credentials: what the first RPC on an association shows.
        store: where records, sequence numbers and contacts survive; in memory if None.
        settings: parameters of Kademlia.
        seeds: peers to join through, besides those of the overlay file.
        wall: Unix seconds.
        rng: random bytes.
    """

    def __init__(  # noqa: PLR0917
        self,
        host: Host,
        local: Hit,
        overlay: OverlayInfo,
        credentials: Credentials | None = None,
        store: Store | None = None,
        settings: Settings | None = None,
        *,
        seeds: Sequence[Seed] = (),
        wall: Callable[[], float] = time.time,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.host = host
        self.local = local
        self.overlay = overlay
        self.store: Store = store or MemoryStore()
        self.seeds = tuple(dict.fromkeys((*overlay.seeds, *seeds)))
        self._clock = wall
        self._tag = overlay_tag(overlay.id)
        self._shows = (credentials or Credentials()).encode()
        settings = settings or Settings(per_group=2 if overlay.admission == "open" else None)
        environment = Environment(
            local=local,
            overlay_id=overlay.id,
            node_id=lambda hit: node_id(overlay.id, hit),
            contact=lambda: host.contact(local),
            groups=host.groups,
            admit=lambda data, hit, wall: admit(Credentials.parse(data), overlay, hit, wall),
            connected=host.connected,
            check=lambda record, wall: check_record(record, overlay, wall),
            rng=rng,
            shown=lambda hit: shown_for(self._tag, host.credentials(hit, local=local)),
            shows=lambda hit: shown_for(self._tag, host.shows(hit, local=local)) == self._shows,
        )
        self.engine = Kademlia(environment, Greeting(self._shows, rng(8), int(wall())), settings)
        self._learnt: OrderedDict[Hit, None] = OrderedDict()
        self._joined = asyncio.Event()
        self._handle: asyncio.TimerHandle | None = None
        self._armed = float("inf")
        self._waiting: set[asyncio.Future[Outcome]] = set()
        self._joining: asyncio.Task[None] | None = None
        self._knocks: set[asyncio.Task[None]] = set()
        self._running = False

    # --- starting and stopping

    async def __aenter__(self) -> Self:
        """Open the port and begin to join; joining goes on behind.

        Raises:
            PortInUse: the overlay port of our HIT is taken.
        """
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._board = Switchboard.register(self.host, self.local, self._tag, self._on_message)
        self._endpoint = self._board.endpoint
        self._unwatch = self.host.watch(self._on_event)
        self._running = True
        self._joining = asyncio.create_task(self._join(), name="join")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._running = False
        tasks = [*self._knocks, *([self._joining] if self._joining else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._unwatch()
        self._board.leave(self._tag)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(LookupFailed("this node has stopped"))

    async def _join(self) -> None:
        raw = self.store.load(self.overlay.id, self._clock())
        for start in range(0, len(raw), RESTORE_SLICE):
            self.engine.restore(raw[start : start + RESTORE_SLICE], self._clock())
            await asyncio.sleep(0)  # a signature costs 0.1 ms: let others in between
        known = dict(self.store.contacts(self.overlay.id))
        others = [seed for seed in self.seeds if seed.hit not in self.host.hits]
        named = [seed for seed in others if not _is_address(seed.host)]
        seeds = {
            seed.hit: known.get(seed.hit, b"") if seed in named else _contact_at(seed, [seed.host])
            for seed in others
        }
        now = self._loop.time()
        self._perform(self.engine.join(seeds.items(), now, self._clock(), known.items()))
        while named:  # a name has no address before there is a network, and another one later
            if not len(self.engine.table):
                await asyncio.gather(*(self._locate(seed) for seed in named))
            await asyncio.sleep(LOCATE_EVERY)

    async def _locate(self, seed: Seed) -> None:
        """Look up where a seed is now."""
        try:
            found = await self._loop.getaddrinfo(seed.host, seed.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            _log.warning("seed %s: %s", seed.host, error)
            return
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:2]
        if contact := _contact_at(seed, addresses):
            now, wall = self._loop.time(), self._clock()
            self._perform(self.engine.relocate(seed.hit, contact, now, wall))

    @property
    def abroad(self) -> bool:
        """Whether our overlay begins elsewhere than on this LAN, as far as we know."""
        others = (seed for seed in self.seeds if seed.hit not in self.host.hits)
        return any(is_abroad(seed, self.host) for seed in others)

    async def joined(self) -> None:
        """Return once the table is filled as far as it can be; at once in an overlay of one."""
        await self._joined.wait()

    def show(self, credentials: Credentials) -> None:
        """Show these from now on; who needs to know asks again (see ``greet``)."""
        self._shows = credentials.encode()
        rpc = self.engine.rpc
        rpc.greeting = dataclasses.replace(rpc.greeting, credentials=self._shows)

    def meet(self, hit: Hit, contact: bytes) -> None:
        """``hit`` may be in this overlay: it is greeted, as long as we know nobody."""
        now, wall = self._loop.time(), self._clock()
        self._perform(self.engine.relocate(hit, contact, now, wall))

    # --- what the peer asks

    async def get(self, kind: str, key: bytes) -> list[Record]:
        """Find the records of ``kind`` under ``key``.

        Returns:
            Verified records, the newest of each slot; empty if nobody has any.

        Raises:
            LookupFailed: nobody could be asked.
        """
        await self._wait_for_join()
        future = self._expect()
        now, wall = self._loop.time(), self._clock()
        self._perform(self.engine.get(future, kind, key, now, wall))
        outcome = await future
        if outcome.records or outcome.answered or self._alone():
            return list(outcome.records)
        raise LookupFailed(f"nobody in the overlay {self.overlay.domain} answered")

    async def put(self, record: Record) -> int:
        """Store a record of ours at the nodes nearest to its key.

        Returns:
            How many hold it now, we among them perhaps; at least 1.

        Raises:
            NotStored: nobody holds it; the message says why.
            LookupFailed: this node has stopped.
        """
        await self._wait_for_join()
        future = self._expect()
        now, wall = self._loop.time(), self._clock()
        self._perform(self.engine.put(future, record, now, wall))
        outcome = await future
        if outcome.receipts:
            return outcome.receipts
        raise NotStored(outcome.reasons)

    async def greet(
        self, hit: Hit, timeout: float = 1.0, *, anew: bool = False
    ) -> Admitted | None:
        """Exchange HELLO with ``hit`` if need be; what it proved, or None.

        Args:
            hit: whom.
            timeout: seconds.
            anew: also if it has greeted before: it may have got new credentials since.
        """
        if anew or self.engine.session(hit) is None:
            try:
                async with asyncio.timeout(timeout):
                    await self._ask(hit, Kind.HELLO, {})
            except (TimeoutError, LookupFailed):
                return None
        return self.credentials_of(hit)

    async def ping(self, hit: Hit, timeout: float = 3.0) -> float | None:
        """Seconds that ``hit`` takes to answer; None: it doesn't.

        Args:
            hit: whom; an association is made if need be.
            timeout: seconds, for exchange and HELLO too where they are due.
        """
        try:
            async with asyncio.timeout(timeout):
                if self.engine.session(hit) is None:
                    await self._ask(hit, Kind.HELLO, {})
                began = self._loop.time()
                outcome = await self._ask(hit, Kind.PING, {})
        except (TimeoutError, LookupFailed):
            return None
        return self._loop.time() - began if outcome.answered else None

    async def ask_to_knock(self, hit: Hit, contact: bytes, timeout: float = 7.0) -> Knocked:
        """Whether ``hit``, a neighbour, reaches us as a stranger would.

        Args:
            hit: whom to ask.
            contact: ours, with the locators that it shall try.
            timeout: seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                outcome = await self._ask(hit, Kind.KNOCK, {int(Field.CONTACT): contact})
        except (TimeoutError, LookupFailed):
            return Knocked.SILENT
        return knocked(outcome.fields.get(Field.REACHED), outcome.reasons)

    async def ask_where(self, hit: Hit, timeout: float = 3.0) -> None:
        """Let ``hit``, a neighbour, tell our host where it sees us."""
        with contextlib.suppress(TimeoutError, LookupFailed):
            async with asyncio.timeout(timeout):
                outcome = await self._ask(hit, Kind.KNOCK, {})
            if seen := outcome.fields.get(Field.SEEN):
                self.host.seen(hit, seen)

    async def _ask(self, hit: Hit, kind: Kind, fields: dict[int, Any]) -> Outcome:
        future = self._expect()
        now, wall = self._loop.time(), self._clock()
        self._perform(self.engine.ask_one(future, hit, kind, fields, now, wall))
        return await future

    async def _knock(self, knock: KnockAt) -> None:
        reached: bool | str | bytes
        try:
            if knock.contact:
                reached = await self.host.knock(knock.hit, knock.contact, KNOCK_SECONDS)
            else:
                reached = self.host.sees(knock.hit)
        except Hides:
            reached = HIDES
        except Rejected:
            reached = ELSEWHERE
        if self._running:
            now, wall = self._loop.time(), self._clock()
            self._perform(self.engine.on_knocked(knock, reached, now, wall))

    def credentials_of(self, hit: Hit) -> Admitted | None:
        """What ``hit`` proved in its HELLO, as long as it holds; None without one."""
        session = self.engine.session(hit)
        if session is None or session.admitted is None or session.admitted.expires <= self.wall():
            return None
        return session.admitted

    def learn(self, hit: Hit, contact: bytes) -> None:
        """Let the host know how ``hit`` may be reached, and remember that we know it."""
        if hit not in self.host.hits:
            self._learnt[hit] = None
            self._learnt.move_to_end(hit)
            if len(self._learnt) > MAX_LEARNT:
                self._learnt.popitem(last=False)
            self.host.learn(hit, contact)

    def knows(self, hit: Hit) -> bool:
        """Whether ``hit`` is somebody's in this overlay, as far as we remember."""
        return hit in self._learnt or hit in self.engine.rpc.sessions

    def offset(self) -> float | None:
        """What corrects our clock, seconds; None as long as our neighbours have not told."""
        return self.engine.offset if self.engine.rpc.calibrated else None

    def now(self) -> float:
        """Monotonic seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Unix seconds, corrected by the neighbours' clocks."""
        return self._clock() + self.engine.offset

    def estimated_size(self) -> float:
        """About how many nodes the overlay has, ours among them."""
        return self.engine.table.estimated_size()

    def status(self) -> dict[str, Any]:
        """What ``p2psip status`` shows; JSON-ready."""
        engine = self.engine
        return {
            "domain": self.overlay.domain,
            "node_id": engine.table.node.id.hex(),
            "hit": str(self.local),
            "joined": self._joined.is_set(),
            "contacts": len(engine.table),
            "buckets": len(engine.table.buckets),
            "records": len(engine.storage),
            "bytes": engine.storage.bytes,
            "clock_offset": round(engine.offset, 1),
            "neighbours": [
                {
                    "hit": str(contact.hit),
                    "connected": self.host.connected(contact.hit),
                    "rtt_ms": self._rtt_ms(contact.hit),
                }
                for contact in engine.neighbours()[:20]
            ],
            "counters": dict(engine.rpc.counters + engine.counters + engine.storage.counters),
        }

    def _rtt_ms(self, hit: Hit) -> float | None:
        session = self.engine.session(hit)
        return round(session.srtt * 1000, 3) if session is not None and session.srtt else None

    def _alone(self) -> bool:
        return self._joined.is_set() and not self.engine.has_others()

    async def _wait_for_join(self) -> None:
        if not self._running:
            raise LookupFailed("this node has stopped")
        if not self._joined.is_set():
            patience = JOIN_PATIENCE
            if not len(self.engine.table):  # perhaps nobody is awake: no call shall wait for that
                patience = max(self._began + JOIN_PATIENCE - self._loop.time(), 0.0)
            try:
                async with asyncio.timeout(patience):
                    await self._joined.wait()
            except TimeoutError:
                pass  # what we hold ourselves may do
            if not self._running:
                raise LookupFailed("this node has stopped")

    def _expect(self) -> "asyncio.Future[Outcome]":
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    # --- between engine and host

    def _on_message(self, data: bytes, source: Hit) -> None:
        self._perform(self.engine.on_datagram(data, source, self._loop.time(), self._clock()))

    def _on_event(self, event: Event) -> None:
        if not self._running:
            return
        now, wall = self._loop.time(), self._clock()
        match event:
            case ContactChanged():
                self._perform(self.engine.on_moved(now, wall))
            case AssociationDown(local=self.local):
                self._perform(self.engine.on_down(event.peer, now, wall))
            case AssociationUp(local=self.local):
                self._perform(self.engine.on_up(event.peer, now, wall))
            case Woke():
                self._perform(self.engine.on_woke(now, wall))

    def _perform(self, actions: Iterable[Action]) -> None:
        changes: list[Persist | Forget] = []
        tag, send = self._tag, self._endpoint.send
        for action in actions:
            if type(action) is Send:
                send(tag + action.data, action.to, OVERLAY_PORT)
            else:
                self._perform_rare(action, changes)
        if changes:
            self.store.change(self.overlay.id, changes)
        if self.engine.rearmed:
            self._arm()

    def _perform_rare(self, action: Action, changes: list[Persist | Forget]) -> None:
        match action:
            case Finished(handle, outcome):
                if not handle.done():
                    handle.set_result(outcome)
            case Learn(hit, contact):
                self.learn(hit, contact)
            case Remember(hit, contact):
                self.store.remember(self.overlay.id, hit, contact, self._clock())
            case Joined():
                self._joined.set()
            case KnockAt():
                task = self._loop.create_task(self._knock(action), name="knock")
                self._knocks.add(task)
                task.add_done_callback(self._knocks.discard)
            case Persist() | Forget():
                changes.append(action)

    def _arm(self) -> None:
        """Let the clock ring no later than the engine wants; ringing too early does no harm."""
        self.engine.rearmed = False
        at = self.engine.deadline()
        if at is None or not self._running or (self._handle is not None and self._armed <= at):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._armed = at
        self._handle = self._loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._handle = None
        self._armed = float("inf")
        self._perform(self.engine.on_time(self._loop.time(), self._clock()))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_abroad(seed: Seed, host: Host) -> bool:
    """Whether a seed is elsewhere than on this LAN, as far as its address tells."""
    return not _is_address(seed.host) or bool(host.groups(_contact_at(seed, [seed.host])))


def _contact_at(seed: Seed, addresses: Sequence[str]) -> bytes:
    """A seed's contact; empty if it can't be reached at these addresses."""
    try:
        return contact_from_addresses([(address, seed.port) for address in addresses])
    except ValueError as error:
        _log.warning("seed %s: %s", seed.host, error)
        return b""
