"""One node of one overlay: Kademlia whose nodes are HITs. Pure: bytes and time in, actions out.

It serves what greeted neighbours ask, keeps the table true, runs the operations of ``operations``
and keeps records where they belong when nodes come and go.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from hipctl import Hit
from hipctl.sansio import Timers
from overlay.acquaintances import Acquaintances
from overlay.clock import CLOCKS, Clock
from overlay.environment import Action, Environment, Finished, Joined, Learn, Settings
from overlay.exploring import REFRESH_LOOK, Exploring
from overlay.greeting import Greeting
from overlay.knocking import KnockAt, Knocking
from overlay.lookup import Candidate, Lookup
from overlay.messages import Code, Field, Kind
from overlay.neighbourhood import Alarm, Neighbourhood
from overlay.operations import SILENT, Ask, Get, Operation, Outcome, Put
from overlay.records import Record
from overlay.routing import Contact, Table
from overlay.rpc import (
    Answered,
    Asked,
    Failed,
    Greeted,
    Late,
    Output,
    Refused,
    Rpc,
    Send,
)
from overlay.serving import SPREAD, Serving
from overlay.session import Session
from overlay.storage import Storage
from overlay.transfers import Transfers

GET_WIDTH: Final = 8  # so many of the nearest must say no before nobody is found
TRANSFER_PAUSE: Final = 0.02
MAX_REPAIRED: Final = 4_096
EXPIRE_PAUSE: Final = 0.02


class Kademlia:
    """The engine of one node.

    Every input takes ``now`` (monotonic seconds) and ``wall`` (Unix seconds), and returns actions.

    Attributes:
        rearmed: whether ``deadline`` may have come nearer; who drives us clears it.
    """

    def __init__(
        self, environment: Environment, greeting: Greeting, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.counters: Counter[str] = Counter()
        self.rearmed = True
        self._env = environment
        self._local = environment.local
        self.table = Table(
            environment.node_id(environment.local),
            self.settings.k,
            per_group=self.settings.per_group,
        )
        self.storage = Storage(environment.overlay_id, environment.check, self.settings.limits)
        self._serving = Serving(self.table, self.storage, self.settings.replicas, self.counters)
        self._knocking = Knocking(self.counters)
        self.rpc = Rpc(
            greeting,
            environment.contact,
            environment.admit,
            environment.connected,
            environment.rng,
            shown=environment.shown,
            shows=environment.shows,
        )
        self._clock = Clock(self.rpc)
        self._exploring = Exploring(
            self, self.table, self.settings.k, environment.rng, self._lookup
        )
        self._timers: Timers[Any] = Timers()
        self._handles: dict[int, Any] = {}
        self._events: deque[Output] = deque()
        self._out: list[Action] = []
        self._known = Acquaintances(self.table, environment.node_id, self.rpc.sessions)
        self._neighbourhood = Neighbourhood(
            self,
            environment,
            self.table,
            self._known,
            sessions=self.rpc.sessions,
            exploring=self._exploring,
            counters=self.counters,
        )
        self._seeds = self._neighbourhood.seeds
        self._transfers = Transfers(self.table, self.storage, self.settings.replicas)
        self._repaired: set[bytes] = set()
        self._now = 0.0
        self._wall = 0.0
        self._draining = False

    # --- inputs

    def _enter(self, now: float, wall: float) -> None:
        self._now = now
        if self._clock.jumped(now, wall):
            self.counters["clock jumped"] += 1
            self._wall = wall
            for contact in list(islice(self.table.contacts(), CLOCKS)):
                self._ask(SILENT, None, contact.hit, Kind.HELLO, {})
        self._wall = wall + self.offset

    @property
    def offset(self) -> float:
        """Our neighbours' clocks minus ours, seconds."""
        return self._clock.offset

    def _leave(self) -> list[Action]:
        self._drain()
        out, self._out = self._out, []
        return out

    def join(
        self,
        seeds: Iterable[tuple[Hit, bytes]],
        now: float,
        wall: float,
        known: Iterable[tuple[Hit, bytes]] = (),
    ) -> list[Action]:
        """Enter the overlay through anybody of ``seeds`` and ``known`` (HIT, contact).

        We may be among them. Without others we are the overlay. Whoever doesn't answer is tried
        again for ever, with growing gaps, as long as nobody is known: some of the seeds each
        time, and those whom we once met in turn.
        """
        self._enter(now, wall)
        self._neighbourhood.begin(seeds, known, now)
        self._set("refresh", now + REFRESH_LOOK)
        if len(self._seeds):
            self._neighbourhood.knock(now)
        else:
            self._out.append(Joined(0))
        return self._leave()

    def relocate(self, hit: Hit, contact: bytes, now: float, wall: float) -> list[Action]:
        """A seed may be reached at ``contact`` now; it is asked at once if we know nobody."""
        self._enter(now, wall)
        self._neighbourhood.relocate(hit, contact)
        return self._leave()

    def on_datagram(self, data: bytes, source: Hit, now: float, wall: float) -> list[Action]:
        """A datagram of this overlay came from ``source``; its tag is off."""
        self._enter(now, wall)
        self._events.extend(self.rpc.on_message(data, source, now, wall))
        return self._leave()

    def on_moved(self, now: float, wall: float) -> list[Action]:
        """Our contact is another one now: neighbours hear of it at once."""
        self._enter(now, wall)
        self._neighbourhood.tell()
        return self._leave()

    def on_down(self, hit: Hit, now: float, wall: float) -> list[Action]:
        """The association with ``hit`` ended, or could not be made."""
        self._enter(now, wall)
        self._events.extend(self.rpc.on_down(hit))
        return self._leave()

    def on_up(self, hit: Hit, now: float, wall: float) -> list[Action]:
        """There is an association with ``hit``: perhaps it was silent, and is back."""
        self._enter(now, wall)
        self._neighbourhood.on_up(hit)
        return self._leave()

    def on_woke(self, now: float, wall: float) -> list[Action]:
        """We have slept: those whom we lost may be back, and those we know be gone."""
        self._enter(now, wall)
        self._neighbourhood.on_woke(now)
        return self._leave()

    def get(self, handle: Any, kind: str, key: bytes, now: float, wall: float) -> list[Action]:
        """Find the records of ``kind`` under ``key``; Finished carries ``handle``."""
        self._enter(now, wall)
        if len(self._repaired) > MAX_REPAIRED:
            self._repaired.clear()
        held = self.storage.values(key, kind, self._wall)
        lookup = self._lookup(int.from_bytes(key, "big"), GET_WIDTH, self.settings.paths)
        self._start(Get(self, lookup, kind, held, self._repaired), handle)
        return self._leave()

    def put(self, handle: Any, record: Record, now: float, wall: float) -> list[Action]:
        """Store a record of ours; Finished carries ``handle`` and the number of receipts."""
        self._enter(now, wall)
        lookup = self._lookup(int.from_bytes(record.key, "big"), self.settings.replicas)
        self._start(Put(self, lookup, record, self.settings.replicas), handle)
        return self._leave()

    def ask_one(  # noqa: PLR0917
        self,
        handle: Any,
        hit: Hit,
        kind: Kind,
        fields: dict[int, Any],
        now: float,
        wall: float,
    ) -> list[Action]:
        """Ask ``hit`` one thing; Finished carries ``handle``, whatever it came to."""
        self._enter(now, wall)
        self._start(Ask(self, hit, kind, fields), handle)
        return self._leave()

    def on_knocked(
        self, knock: KnockAt, reached: bool | str | bytes, now: float, wall: float
    ) -> list[Action]:
        """See ``Knocking.on_knocked``."""
        self._enter(now, wall)
        answer = self._knocking.on_knocked(knock.hit, knock.request_id, reached)
        self._out.append(Send(knock.hit, answer))
        return self._leave()

    def has_others(self) -> bool:
        """Whether anybody else is known who may be in the overlay."""
        return len(self._seeds) + len(self.table) > 0

    def contact(self, hit: Hit) -> bytes:
        """How somebody through whom we come in may be reached; empty if that isn't known."""
        return self._seeds.contact(hit)

    def met(self) -> list[Hit]:
        """Everybody whom we know to be in the overlay, awake or not, the latest first."""
        heard = sorted(self.table.contacts(), key=lambda contact: -contact.heard)
        return list(dict.fromkeys((*(contact.hit for contact in heard), *self._seeds.all())))

    def told_of(self) -> list[Hit]:
        """Whom we spoke with or wanted to, also those for whom the table has no place."""
        return list(self.rpc.sessions)

    def restore(self, records: Iterable[bytes], wall: float) -> None:
        """Take back what the disk kept; each is judged anew."""
        for raw in records:
            self.storage.offer(raw, None, wall, lambda key: True)

    def deadline(self) -> float | None:
        """When ``on_time`` wants to be called next."""
        one, other = self.rpc.deadline(), self._timers.deadline()
        if one is None or other is None:
            return one if other is None else other
        return min(one, other)

    def on_time(self, now: float, wall: float) -> list[Action]:
        """Fire what is due."""
        self._enter(now, wall)
        self.rearmed = True
        self._events.extend(self.rpc.on_time(now))
        self._drain()
        for name in self._timers.expired(now):
            match name:
                case "liveness":
                    self._neighbourhood.on_liveness(now)
                    self._expire()
                case "rejoin":
                    self._neighbourhood.on_rejoin(now)
                case "refresh":
                    self._set("refresh", now + REFRESH_LOOK)
                    self._exploring.refresh(now)
                case "transfer":
                    self._on_transfer()
                case "expire":
                    self._expire()
                case _:
                    name.on_time()
        return self._leave()

    def _set(self, name: Any, at: float) -> None:
        self._timers.set(name, at)
        self.rearmed = True

    # --- what operations ask (operations.Asker)

    def ask(self, operation: Operation, what: Any, to: Hit, kind: int, fields: Any) -> None:
        """See Asker."""
        self._ask(operation, what, to, kind, fields)

    def _ask(self, operation: Operation, what: Any, to: Hit, kind: int, fields: Any) -> None:
        self.rearmed = True
        session = self.rpc.sessions.get(to)
        if session is None or not session.greeted:
            known = self._known.get(to)
            if known is not None and known.contact:
                self._out.append(Learn(to, known.contact))
        self._events.extend(
            self.rpc.request(
                to, kind, fields, (operation, what), self._now, self._wall - self.offset
            )
        )

    def candidates(self, nodes: Iterable[tuple[Hit, bytes]]) -> list[Candidate]:
        """See Asker."""
        introduce = self._known.introduce
        return [introduce(hit, contact) for hit, contact in nodes if hit != self._local]

    def verified(self, record: Record) -> bool:
        """See Asker."""
        self._env.check(record, self._wall)
        return True

    def finish(self, operation: Operation, outcome: Outcome) -> None:
        """See Asker."""
        handle = self._handles.pop(id(operation), None)
        if handle is not None:
            self._out.append(Finished(handle, outcome))

    def end(self, operation: Operation) -> None:
        """See Asker."""
        self._timers.stop(operation)
        if self._exploring.ended(operation, self._now):
            self._out.append(Joined(len(self.table)))
            self._exploring.fill()

    def wait(self, operation: Operation, seconds: float) -> None:
        """See Asker."""
        self._set(operation, self._now + seconds)

    def distance(self, target: int) -> int:
        """See Asker."""
        return int(self.table.node.long_id) ^ target

    def store_here(self, record: Record) -> Code:
        """See Asker."""
        return self._store(record, self._local)

    def _store(self, record: bytes | Record, sender: Hit) -> Code:
        outcome = self._serving.offer(record, sender, self._wall)
        self._out.extend(outcome.changes)
        return outcome.code

    def _lookup(self, target: int, width: int, paths: int = 1) -> Lookup:
        settings = self.settings
        self.table.touch(target, self._now)
        start = self.table.nearest(target, width + SPREAD * paths)
        trusted = [contact for contact in start if not contact.failures]
        return Lookup(target, trusted or start, alpha=settings.alpha, width=width, paths=paths)

    def _start(self, operation: Operation, handle: Any = None) -> None:
        if handle is not None:
            self._handles[id(operation)] = handle
        operation.start()

    # --- events of rpc

    def _drain(self) -> None:
        events = self._events
        while events:
            event = events.popleft()
            kind = type(event)
            if kind is Send:
                self._out.append(event)  # type: ignore[arg-type]
            elif kind is Answered:
                self._on_answered(event)  # type: ignore[arg-type]
            elif kind is Asked:
                self._on_asked(event)  # type: ignore[arg-type]
            else:
                self._on_event(event)

    def _on_event(self, event: Output) -> None:
        match event:
            case Greeted(session):
                self._on_greeted(session)
            case Refused((operation, what), hit, code, reason):
                self.counters["refused: " + _code_name(code)] += 1
                operation.on_failed(what, hit, reason or _code_name(code))
            case Late((operation, what), hit):
                operation.on_late(what, hit)
            case Failed((operation, what), hit, reason):
                self._neighbourhood.on_silence(hit, reason, self._now)
                operation.on_failed(what, hit, reason)

    def _on_answered(self, event: Answered) -> None:
        operation, what = event.token
        self._neighbourhood.heard(event.session, self._now)
        operation.on_answered(what, event.session.hit, event.fields)

    def _on_greeted(self, session: Session) -> None:
        self._neighbourhood.greeted(session, self._now)
        self._clock.correct(self.table.contacts())
        if self._seeds.find(session.hit):
            self._exploring.look_again(self._now)

    # --- what the neighbourhood asks (neighbourhood.Ground)

    def say(self, hit: Hit, kind: Kind) -> None:
        """See Ground."""
        self._ask(SILENT, None, hit, kind, {})

    def act(self, action: Action) -> None:
        """See Ground."""
        self._out.append(action)

    def set_alarm(self, alarm: Alarm, at: float | None) -> None:
        """See Ground."""
        if at is None:
            self._timers.stop(alarm)
        else:
            self._set(alarm, at)

    # --- records follow the nodes

    def transfer(self, node: Contact, heard: float | None = None) -> None:
        """See Ground."""
        since = lost = float("inf")
        session = self.rpc.sessions.get(node.hit)
        if heard is not None and session is not None and session.since:
            since = session.since - (session.offset or 0.0) + self.offset  # by its clock
            lost = self._wall - (self._now - heard) if heard else lost
        if self._transfers.begin(node, since, lost, came=heard is not None):
            self._set("transfer", self._now + TRANSFER_PAUSE)

    def _expire(self) -> None:
        """Drop a slice of what has expired; the rest a moment later."""
        self._out.extend(self.storage.expire(self._wall))
        at = self.storage.expires()
        if at is not None and at <= self._wall:
            self._set("expire", self._now + EXPIRE_PAUSE)

    def _on_transfer(self) -> None:
        for contact, record in self._transfers.step(self._wall):
            self._ask(SILENT, None, contact.hit, Kind.STORE, {_RECORD: record.raw})
        if self._transfers:
            self._set("transfer", self._now + TRANSFER_PAUSE)

    # --- serving

    def _on_asked(self, event: Asked) -> None:
        self._neighbourhood.heard(event.session, self._now)
        if event.message.kind == Kind.KNOCK:
            self._on_knock(event)
            return
        answer, changes = self._serving.answer(event, self._wall)
        self._out.extend(changes)
        self._out.append(Send(event.session.hit, answer))

    def _on_knock(self, event: Asked) -> None:
        hit, message = event.session.hit, event.message
        contact = message.fields.get(_CONTACT, b"")
        asked = self._knocking.on_asked(hit, message.request_id, contact, self._now)
        if isinstance(asked, bytes):
            self._out.append(Send(hit, asked))
        elif asked is not None:
            self._out.append(asked)

    # --- for status

    def neighbours(self) -> Sequence[Contact]:
        """Who is in the table, nearest to us first."""
        own: int = self.table.node.long_id
        return self.table.nearest(own, len(self.table))

    def session(self, hit: Hit) -> Session | None:
        """The session with a neighbour that has greeted, if there is one."""
        session = self.rpc.sessions.get(hit)
        return session if session is not None and session.greeted else None


def _code_name(code: int) -> str:
    try:
        return Code(code).name.lower()
    except ValueError:
        return "unknown code"


_RECORD, _CONTACT = int(Field.RECORD), int(Field.CONTACT)
