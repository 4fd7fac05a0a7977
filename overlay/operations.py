"""What a node asks others for: find the nearest, get records, put a record.

Each operation owns one Lookup and is fed by the engine with what its requests came to. It speaks
to the engine through ``Asker``, so that it can be tested against a list.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from hipctl import Hit
from overlay.errors import MalformedRecord, RecordRefused
from overlay.lookup import Candidate, Lookup
from overlay.messages import Code, Digest, Field, Kind, read_digests, read_nodes
from overlay.records import Record, newer
from overlay.storage import Slot

PATIENCE: Final = 1.5  # seconds after which a get makes do with the answers it has
LAST_PATIENCE: Final = 3.5  # and after which it gives up without any
PUT_PATIENCE: Final = 4.0  # seconds for each of the two halves of a put
CHECKED: Final = 3  # holders that a get wants to hear, to know which value is the newest
MORE: Final = 4  # nodes that it asks behind the returned value to hear so many
REPAIRS: Final = 3  # stale replicas that one get brings up to date
MAX_FETCHES: Final = 64  # records that one list of digests makes us fetch
MAX_RECORDS: Final = 256  # of one get

_TARGET, _NODES, _VALUES = int(Field.TARGET), int(Field.NODES), int(Field.VALUES)
_DIGESTS, _TOTAL, _SLOT = int(Field.DIGESTS), int(Field.TOTAL), int(Field.SLOT)
_KIND, _SKIP, _RECORD = int(Field.RECORD_KIND), int(Field.SKIP), int(Field.RECORD)
_CODE, _REASON, _COUNT = int(Field.CODE), int(Field.REASON), int(Field.COUNT)


class Outcome(NamedTuple):
    """How an operation ended.

    Attributes:
        records: of a get: verified, the newest of each slot.
        receipts: of a put: how many nodes hold the record.
        answered: how many nodes answered at all.
        reasons: why not, and how often.
        fields: of the answer, where one node was asked one thing.
    """

    records: tuple[Record, ...] = ()
    receipts: int = 0
    answered: int = 0
    reasons: Counter[str] = Counter()  # noqa: RUF012  never written to
    fields: Mapping[int, Any] = {}


class Asker(Protocol):
    """What an operation needs of the engine."""

    def ask(self, operation: "Operation", what: Any, to: Hit, kind: int, fields: Any) -> None:
        """Send a request; what it comes to is told with ``what``."""

    def candidates(self, nodes: Iterable[tuple[Hit, bytes]]) -> list[Candidate]:
        """Recompute the ids of nodes that somebody told of; without ourselves."""

    def verified(self, record: Record) -> bool:
        """Whether a record may be believed now."""

    def finish(self, operation: "Operation", outcome: Outcome) -> None:
        """Tell who asked for it; the operation may go on behind."""

    def end(self, operation: "Operation") -> None:
        """The operation waits for nothing any more."""

    def wait(self, operation: "Operation", seconds: float) -> None:
        """Call ``on_time`` once after ``seconds``."""

    def distance(self, target: int) -> int:
        """Our own distance to ``target``."""

    def store_here(self, record: Record) -> Code:
        """Offer a record to our own storage."""


class Operation(Protocol):
    """What the engine tells an operation."""

    def start(self) -> None:
        """Begin."""

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """A request was answered."""

    def on_late(self, what: Any, hit: Hit) -> None:
        """A soft deadline passed."""

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """A request was refused, or will not be answered."""

    def on_time(self) -> None:
        """What ``wait`` asked for."""


class Silent:
    """An operation that nobody waits for: pings, hand-overs, read-repair."""

    def start(self) -> None:
        """See Operation."""

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """See Operation."""

    def on_late(self, what: Any, hit: Hit) -> None:
        """See Operation."""

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """See Operation."""

    def on_time(self) -> None:
        """See Operation."""


class Find:
    """Find the nodes nearest to an id, and meet them."""

    def __init__(self, asker: Asker, lookup: Lookup) -> None:
        self._asker = asker
        self._lookup = lookup
        self._ended = False
        self._fields = {_TARGET: lookup.target.to_bytes(20, "big"), _COUNT: lookup.width}

    def start(self) -> None:
        """See Operation."""
        self._asker.wait(self, 4 * PUT_PATIENCE)
        self._step()

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """See Operation."""
        nodes = self._asker.candidates(read_nodes(fields.get(_NODES, ())))
        self._lookup.on_answer(hit, nodes)
        self._step()

    def on_late(self, what: Any, hit: Hit) -> None:
        """See Operation."""
        self._lookup.on_late(hit)
        self._step()

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """See Operation."""
        self._lookup.on_failed(hit)
        self._step()

    def on_time(self) -> None:
        """See Operation."""
        self._end()

    def _step(self) -> None:
        if self._ended:
            return
        for candidate in self._lookup.next():
            self._asker.ask(self, None, candidate.hit, Kind.FIND_NODE, self._fields)
        if self._lookup.done():
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._asker.finish(self, Outcome(answered=len(self._lookup.answered())))
            self._asker.end(self)


class Get:
    """Get the records under a key.

    The first valid answer is returned at once; the search goes on behind for newer ones, and
    brings nodes up to date that held older ones, or none.
    """

    def __init__(
        self, asker: Asker, lookup: Lookup, kind: str, held: Sequence[Record], cached: set[bytes]
    ) -> None:
        self._asker = asker
        self._lookup = lookup
        self._kind = kind
        self._key = lookup.target.to_bytes(20, "big")
        self._fields: dict[int, Any] = {_TARGET: self._key, _KIND: kind}
        self._best: dict[Slot, Record] = {record.slot: record for record in held}
        self._seen: dict[bytes, Record | None] = {record.raw: record for record in held}
        self._holds: dict[Hit, dict[Slot, int]] = {}
        self._fetching: dict[Hit, int] = {}  # digests that were sent, still to be fetched
        self._fetched: Counter[Hit] = Counter()
        self._skipped: Counter[Hit] = Counter()
        self._returned = False
        self._ended = False
        self._late = False
        self._inquired = self._inquiring = False
        self._more = 0
        self._behind = False  # whether the search goes on behind the returned value
        self._repaired = cached
        self._reasons: Counter[str] = Counter()

    def start(self) -> None:
        """See Operation."""
        self._asker.wait(self, PATIENCE)
        self._step()

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """See Operation."""
        if what == "nodes":
            self._inquiring = False
            self._lookup.add(self._asker.candidates(read_nodes(fields.get(_NODES, ()))))
        else:
            self._on_values(what, hit, fields)
        self._step()

    def _on_values(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        if what is not None:
            self._fetching[hit] -= 1
        good = self._take(hit, fields.get(_VALUES, ()))
        if what is None:
            if not good:
                self._reasons["answered what is not true"] += 1
                self._lookup.on_failed(hit)
            else:
                self._holds.setdefault(hit, {})
                nodes = fields.get(_NODES)
                self._lookup.on_answer(
                    hit, self._asker.candidates(read_nodes(nodes)) if nodes else ()
                )
        if good and _DIGESTS in fields:
            self._fetch(hit, read_digests(fields[_DIGESTS]), fields.get(_TOTAL, 0))

    def on_late(self, what: Any, hit: Hit) -> None:
        """See Operation."""
        if what is None:
            self._lookup.on_late(hit)
        self._step()

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """See Operation."""
        if what is None:
            self._lookup.on_failed(hit)
        elif what == "nodes":
            self._inquiring = False
        else:
            self._fetching[hit] -= 1
        self._reasons[reason] += 1
        self._step()

    def on_time(self) -> None:
        """See Operation."""
        if self._returned and not self._behind:
            self._behind = True
            self._asker.wait(self, PATIENCE)
            self._step()
        elif self._late or self._holds or self._best:
            self._return()
            self._end()
        else:
            self._late = True
            self._asker.wait(self, LAST_PATIENCE - PATIENCE)

    def _take(self, hit: Hit, values: Iterable[bytes]) -> bool:
        """Take the records of an answer; False if one of them is no good."""
        for raw in values:
            if raw not in self._seen:
                if len(self._seen) >= MAX_RECORDS:
                    return True
                self._seen[raw] = self._read(raw)
            record = self._seen[raw]
            if record is None:
                return False
            self._holds.setdefault(hit, {})[record.slot] = record.seq
            best = self._best.get(record.slot)
            if best is None or (best is not record and newer(record, best)):
                self._best[record.slot] = record
        return True

    def _read(self, raw: bytes) -> Record | None:
        try:
            record = Record.parse(raw)
        except MalformedRecord as error:
            self._reasons[error.reason] += 1
            return None
        if record.key != self._key or record.kind != self._kind:
            self._reasons["another key"] += 1
            return None
        try:
            return record if self._asker.verified(record) else None
        except RecordRefused as error:
            self._reasons[error.reason] += 1
            return None

    def _fetch(self, hit: Hit, digests: list[Digest], total: int) -> None:
        """An answer did not fit one datagram: fetch from its sender what we lack."""
        holds = self._holds.setdefault(hit, {})
        for digest in digests:
            slot: Slot = (self._kind, digest.owner, digest.subkey)
            best = self._best.get(slot)
            if best is not None and best.seq >= digest.seq:
                holds[slot] = digest.seq
            elif self._fetched[hit] < MAX_FETCHES:
                self._ask_more(hit, {_SLOT: (digest.owner, digest.subkey)})
        self._skipped[hit] += len(digests)
        if digests and self._skipped[hit] < min(total, MAX_FETCHES):
            self._ask_more(hit, {_SKIP: self._skipped[hit]})

    def _ask_more(self, hit: Hit, more: dict[int, Any]) -> None:
        self._fetched[hit] += 1
        self._fetching[hit] = self._fetching.get(hit, 0) + 1
        self._asker.ask(self, "fetch", hit, Kind.GET, {**self._fields, **more})

    def _step(self) -> None:
        if self._ended:
            return
        lookup = self._lookup
        if not self._returned and self._best and self._complete():
            self._return()
            self._asker.wait(self, 0.0)  # who waits for the value comes first
            return
        if not self._returned or self._more > 0:
            for candidate in lookup.next(self._more if self._returned else MAX_RECORDS):
                self._asker.ask(self, None, candidate.hit, Kind.GET, self._fields)
                self._more -= self._returned
        if any(self._fetching.values()) or self._inquiring:
            return
        if lookup.done() or (self._returned and not lookup.in_flight):
            self._return()
            holders = [hit for hit, holds in self._holds.items() if holds]
            if self._inquired or not 0 < len(holders) < CHECKED:
                self._repair()
                self._end()
            else:
                self._inquire(holders[0])

    def _inquire(self, holder: Hit) -> None:
        """Too few hold it of those we know: a holder knows the others."""
        self._inquired = self._inquiring = True
        self._more = MORE
        self._asker.ask(self, "nodes", holder, Kind.FIND_NODE, {_TARGET: self._key, _COUNT: MORE})

    def _complete(self) -> bool:
        """Whether somebody's answer is complete; our own copy alone could hide a newer one."""
        return any(holds and not self._fetching.get(hit) for hit, holds in self._holds.items())

    def _return(self) -> None:
        if not self._returned:
            self._returned = True
            records = tuple(self._best.values())
            self._asker.finish(self, Outcome(records, 0, len(self._holds), reasons=self._reasons))

    def _repair(self) -> None:
        """Hand the newest to those who answered and lack it, a few, and each only once a while."""
        repairs = 0
        nearest = [candidate.hit for candidate in self._lookup.answered()[: CHECKED + 1]]
        for slot, record in self._best.items():
            for hit in nearest:
                if repairs >= REPAIRS or self._holds.get(hit, {}).get(slot, -1) >= record.seq:
                    continue
                mark = hit + record.key
                if mark not in self._repaired:
                    self._repaired.add(mark)
                    self._asker.ask(SILENT, None, hit, Kind.STORE, {_RECORD: record.raw})
                    repairs += 1

    def _end(self) -> None:
        self._ended = True
        self._asker.end(self)


class Put:
    """Store a record at the nodes nearest to its key, and count their receipts."""

    def __init__(self, asker: Asker, lookup: Lookup, record: Record, replicas: int) -> None:
        self._asker = asker
        self._lookup = lookup
        self._record = record
        self._replicas = replicas
        self._find = {_TARGET: record.key, _COUNT: replicas + 2}
        self._store = {_RECORD: record.raw}
        self._storing = False
        self._ended = False
        self._waiting: dict[Hit, int] = {}  # STOREs without answer -> soft deadlines passed
        self._spare: list[Hit] = []
        self._receipts = 0
        self._reasons: Counter[str] = Counter()

    def start(self) -> None:
        """See Operation."""
        self._asker.wait(self, PUT_PATIENCE)
        self._step()

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """See Operation."""
        if what is None:
            nodes = self._asker.candidates(read_nodes(fields.get(_NODES, ())))
            self._lookup.on_answer(hit, nodes)
        elif hit in self._waiting:
            del self._waiting[hit]
            code = fields.get(_CODE, Code.MALFORMED)
            if code in (Code.STORED, Code.HELD):
                self._receipts += 1
            else:
                self._lost(str(fields.get(_REASON, code)))
        self._step()

    def on_late(self, what: Any, hit: Hit) -> None:
        """See Operation."""
        if what is None:
            self._lookup.on_late(hit)
        elif hit in self._waiting:
            self._waiting[hit] += 1
            if self._waiting[hit] == 2:
                self._lost("no answer")
        self._step()

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """See Operation."""
        if what is None:
            self._lookup.on_failed(hit)
        elif self._waiting.pop(hit, 2) < 2:
            self._lost(reason)
        self._step()

    def on_time(self) -> None:
        """See Operation."""
        if self._storing:
            self._end()
        else:
            self._begin_storing()
            self._step()

    def _lost(self, reason: str) -> None:
        """One replica fell out: the next nearest takes its place."""
        self._reasons[reason] += 1
        if self._spare:
            self._store_at(self._spare.pop(0))

    def _store_at(self, hit: Hit) -> None:
        self._waiting[hit] = 0
        self._asker.ask(self, "store", hit, Kind.STORE, self._store)

    def _step(self) -> None:
        if self._ended:
            return
        if not self._storing:
            for candidate in self._lookup.next():
                self._asker.ask(self, None, candidate.hit, Kind.FIND_NODE, self._find)
            if self._lookup.done():
                self._begin_storing()
        if self._storing and all(late >= 2 for late in self._waiting.values()):
            self._end()

    def _begin_storing(self) -> None:
        self._storing = True
        self._asker.wait(self, PUT_PATIENCE)
        answered = self._lookup.answered()
        target = self._lookup.target
        ours = self._asker.distance(target)
        nearer = sum(candidate.long_id ^ target < ours for candidate in answered)
        places = self._replicas
        if nearer < places:  # we are one of them
            code = self._asker.store_here(self._record)
            if code in (Code.STORED, Code.HELD):
                self._receipts += 1
                places -= 1
            else:
                self._reasons[f"here: {code.name.lower()}"] += 1
        hits = [candidate.hit for candidate in answered]
        self._spare = hits[places:]
        for hit in hits[:places]:
            self._store_at(hit)

    def _end(self) -> None:
        self._ended = True
        answered = len(self._lookup.answered())
        self._asker.finish(self, Outcome((), self._receipts, answered, self._reasons))
        self._asker.end(self)


class Ask(Silent):
    """Ask one node one thing."""

    def __init__(self, asker: Asker, hit: Hit, kind: int, fields: dict[int, Any]) -> None:
        self._asker = asker
        self._hit = hit
        self._kind = kind
        self._fields = fields

    def start(self) -> None:
        """See Operation."""
        self._asker.ask(self, None, self._hit, self._kind, self._fields)

    def on_answered(self, what: Any, hit: Hit, fields: dict[int, Any]) -> None:
        """See Operation."""
        self._asker.finish(self, Outcome(answered=1, fields=fields))

    def on_failed(self, what: Any, hit: Hit, reason: str) -> None:
        """See Operation."""
        self._asker.finish(self, Outcome(reasons=Counter((reason,))))


SILENT: Final = Silent()
