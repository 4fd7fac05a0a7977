"""One lookup, as a value: whom to ask next, what an answer or its absence changes, when to stop.

There is no barrier: α requests are in flight, and one whose soft deadline passes is replaced but
may still answer. With d > 1 the lookup keeps d paths that never ask the same node, so that a liar
can spoil only the path that met it (S/Kademlia's idea).

The lookup knows nothing of records, RPCs or clocks: the engine feeds it and obeys it.
"""

from bisect import insort
from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from hipctl import Hit


class Candidate(Protocol):
    """What a lookup needs to know of a node."""

    long_id: int
    hit: Hit


class State(Enum):
    """What became of one candidate."""

    NEW = auto()
    ASKED = auto()
    LATE = auto()  # its soft deadline passed: somebody else was asked in its place
    SILENT = auto()  # and once more: nobody waits for it any longer, but it may still answer
    ANSWERED = auto()
    FAILED = auto()


class _Entry:
    __slots__ = ("candidate", "distance", "state")

    def __init__(self, candidate: Candidate, distance: int) -> None:
        self.candidate = candidate
        self.distance = distance
        self.state = State.NEW

    def __lt__(self, other: "_Entry") -> bool:
        return self.distance < other.distance


class Path:
    """One of the disjoint paths: the candidates it may ask, nearest first."""

    __slots__ = ("_entries", "_limit", "_width", "in_flight")

    def __init__(self, width: int, limit: int) -> None:
        self._entries: list[_Entry] = []
        self._width = width
        self._limit = limit
        self.in_flight = 0

    def begin(self, entries: list[_Entry]) -> None:
        """Take the first candidates, nearest first, each another node."""
        self._entries = entries[: self._limit]

    def add(self, entry: _Entry) -> bool:
        """Take a candidate; False if it is too far to matter in a list that is full."""
        entries = self._entries
        if len(entries) >= self._limit:
            # who was asked stays, else it would be asked again when somebody tells of it anew
            at = next(
                (i for i in reversed(range(len(entries))) if entries[i].state is State.NEW), -1
            )
            if at < 0 or entries[at].distance < entry.distance:
                return False
            del entries[at]
        insort(self._entries, entry)
        return True

    def next(self, alpha: int, most: int) -> list[_Entry]:
        """The nearest unasked ones, as many as fit in flight; they count as asked now."""
        chosen: list[_Entry] = []
        seen = 0
        for entry in self._entries:
            if self.in_flight >= alpha or seen >= self._width or len(chosen) >= most:
                break
            if entry.state is State.NEW:
                entry.state = State.ASKED
                self.in_flight += 1
                chosen.append(entry)
            if entry.state not in (State.FAILED, State.SILENT):
                seen += 1
        return chosen

    def done(self) -> bool:
        """Whether the ``width`` nearest that are not given up have all answered.

        As long as nobody has answered at all, the silent ones are waited for.
        """
        seen = 0
        silent = False
        for entry in self._entries:
            if seen >= self._width:
                return True
            if entry.state is State.FAILED:
                continue
            if entry.state is State.SILENT:
                silent = True
                continue
            if entry.state is not State.ANSWERED:
                return False
            seen += 1
        return seen > 0 or not silent

    def answered(self) -> list[_Entry]:
        """Who answered, nearest first."""
        return [entry for entry in self._entries if entry.state is State.ANSWERED]


class Lookup:
    """A search for the nodes nearest to one id.

    Args:
        target: the id, as a number.
        start: whom we know; the nearest are asked first.
        alpha: requests in flight on each path.
        width: the lookup has converged when so many of the nearest have answered.
        paths: disjoint paths; each converges on its own.
        limit: candidates kept on a path; further ones displace the farthest.
    """

    def __init__(
        self,
        target: int,
        start: Iterable[Candidate],
        *,
        alpha: int = 3,
        width: int = 20,
        paths: int = 1,
        limit: int = 128,
    ) -> None:
        self.target = target
        self.alpha = alpha
        self.width = width
        self.asked = 0
        self._entries: dict[Hit, tuple[_Entry, Path]] = {}
        self._paths = [Path(width, limit) for _ in range(paths)]
        entries = sorted([_Entry(candidate, candidate.long_id ^ target) for candidate in start])
        for number, path in enumerate(self._paths):
            mine = entries[number::paths]
            path.begin(mine)
            for entry in mine:
                self._entries[entry.candidate.hit] = (entry, path)

    def _add(self, candidate: Candidate, path: Path) -> bool:
        if candidate.hit in self._entries:
            return False
        entry = _Entry(candidate, candidate.long_id ^ self.target)
        if path.add(entry):
            self._entries[candidate.hit] = (entry, path)
            return True
        return False

    def add(self, nodes: Iterable[Candidate]) -> None:
        """Take further candidates, which nobody's answer brought."""
        for number, candidate in enumerate(nodes):
            self._add(candidate, self._paths[number % len(self._paths)])

    def next(self, most: int = 1_000) -> list[Candidate]:
        """Whom to ask now, ``most`` at most; they count as asked.

        Empty when in flight is full, or at the end.
        """
        chosen: list[Candidate] = []
        for path in self._paths:
            chosen += [e.candidate for e in path.next(self.alpha, most - len(chosen))]
        self.asked += len(chosen)
        return chosen

    def knows(self, hit: Hit) -> bool:
        """Whether ``hit`` is a candidate already."""
        return hit in self._entries

    def _settle(self, hit: Hit, state: State) -> _Entry | None:
        found = self._entries.get(hit)
        if found is None:
            return None
        entry, path = found
        if entry.state is State.ASKED:
            path.in_flight -= 1
        entry.state = state
        return entry

    def on_answer(self, hit: Hit, nodes: Iterable[Candidate] = ()) -> None:
        """``hit`` answered, late or not, and told of ``nodes``; they belong to its path."""
        found = self._entries.get(hit)
        if found is None or found[0].state in (State.NEW, State.ANSWERED):
            return
        self._settle(hit, State.ANSWERED)
        for candidate in nodes:
            self._add(candidate, found[1])

    def on_late(self, hit: Hit) -> None:
        """A soft deadline of ``hit`` passed: replace it; the second time, give it up."""
        found = self._entries.get(hit)
        if found is None:
            return
        if found[0].state is State.ASKED:
            self._settle(hit, State.LATE)
        elif found[0].state is State.LATE:
            self._settle(hit, State.SILENT)

    def on_failed(self, hit: Hit) -> None:
        """``hit`` will not answer, or its answer was no good."""
        self._settle(hit, State.FAILED)

    @property
    def in_flight(self) -> int:
        """Requests that are waited for, late ones not counted."""
        return sum(path.in_flight for path in self._paths)

    def done(self) -> bool:
        """Whether every path has converged, or has nobody left to ask."""
        return all(path.done() for path in self._paths)

    def answered(self) -> list[Candidate]:
        """Everybody who answered, nearest first."""
        entries = [entry for path in self._paths for entry in path.answered()]
        return [entry.candidate for entry in sorted(entries)]

    def failed(self) -> int:
        """How many were given up."""
        return sum(e.state in (State.FAILED, State.SILENT) for e, _ in self._entries.values())
