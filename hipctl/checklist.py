"""The pairs of our and a peer's candidates that are checked (RFC 8445 §6.1.2).

There is one checklist an association; foundations, and so the states that they need, are not used
(RFC 9028 §4.6.2). A pair is known by its path: reflexive candidates of ours stand in it with their
bases, relayed ones with their relay.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hipctl.actions import Address, Path, Relayed
from hipctl.candidates import Candidate, is_ipv6, is_loopback, mapped_to, priority
from hipctl.constants import CandidateKind
from hipctl.contact import is_public

PAIRS_MAX: Final = 100  # RFC 9028 §4.6.2
BOTH: Final = 2  # relays of a pair that goes through one of either side
LEARNED_MAX: Final = 16  # pairs with peer-reflexive candidates of the peer's


class PairState(Enum):
    """RFC 8445 §6.1.2.6."""

    FROZEN = "not to be checked: another pair was nominated"
    WAITING = "to be checked"
    IN_PROGRESS = "a check is on its way"
    SUCCEEDED = "answered"
    FAILED = "not answered"


@dataclass(slots=True, eq=False)
class Pair:
    """One of our candidates with one of the peer's.

    Attributes:
        path: between which addresses its checks go.
        local: our candidate, from which the checks leave.
        remote: the peer's.
        seen: ours as the peer saw it; ``local`` before the first answer.
        learned: the peer's candidate is peer-reflexive: found by a check, not told.
        state: see PairState.
        number: of the newest check in progress; 0 if there is none.
        asked_at: when the newest check was sent first.
        rtt: seconds that the newest answer took, or None.
        valid_at: when it was answered; None before, and after doubts.
        valid_since: the same, of the first answer.
        heard_at: when the peer's newest check came along the pair.
        nominated: the peer has nominated it, and we have not selected it yet.
    """

    path: Path
    local: Candidate
    remote: Candidate
    seen: Candidate
    learned: bool = False
    state: PairState = PairState.WAITING
    number: int = 0
    asked_at: float = 0.0
    rtt: float | None = None
    valid_at: float | None = None
    valid_since: float = 0.0
    heard_at: float = float("-inf")
    nominated: bool = False

    @property
    def relays(self) -> int:
        """How many relays packets go through, of both sides; 0: the pair is direct."""
        return (self.local.via is not None) + (self.remote.kind is CandidateKind.RELAYED)

    @property
    def through(self) -> frozenset[str]:
        """At which IP addresses these relays are."""
        ours = {self.local.via[0]} if self.local.via is not None else set()
        theirs = self.remote.kind is CandidateKind.RELAYED
        return frozenset(ours | {self.remote.address[0]} if theirs else ours)

    def forget(self) -> None:
        """What was answered before says nothing now, nor will an answer under way be awaited."""
        self.number, self.valid_at, self.nominated = 0, None, False


@dataclass(slots=True)
class Checklist:
    """The pairs of one association.

    Attributes:
        controlling: our role.
        ours: our candidates.
        theirs: the peer's, as it told us.
        mute: IP addresses of relays that pass checks on, and no data.
    """

    controlling: bool
    ours: Sequence[Candidate]
    theirs: Sequence[Candidate]
    _pairs: dict[Path, Pair]
    mute: frozenset[str] = frozenset()

    @classmethod
    def formed(
        cls, controlling: bool, ours: Iterable[Candidate], theirs: Iterable[Candidate]
    ) -> "Checklist":
        """Form pairs, prune them, and keep the 100 of the highest priorities (§6.1.2.2 - 2.5)."""
        made = cls(controlling, tuple(ours), tuple(theirs), {})
        pairs: dict[Path, Pair] = {}
        for local in made.ours:
            for remote in made.theirs:
                if _match(local, remote):
                    pair = Pair(_path(local, remote), local, remote, local)
                    known = pairs.get(pair.path)
                    if known is None or made.priority(pair) > made.priority(known):
                        pairs[pair.path] = pair
        best = sorted(pairs.values(), key=made.priority, reverse=True)[:PAIRS_MAX]
        made._pairs = {pair.path: pair for pair in best}
        return made

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def priority(self, pair: Pair) -> int:
        """The pair's 64-bit priority (§6.1.2.3)."""
        ours, theirs = pair.seen.priority, pair.remote.priority
        g, d = (ours, theirs) if self.controlling else (theirs, ours)
        return min(g, d) << 32 | 2 * max(g, d) + (g > d)

    def rank(self, pair: Pair) -> tuple[bool, int, int]:
        """Smallest for the pair to use first: fewer relays, then a higher priority."""
        return self.is_mute(pair), pair.relays, -self.priority(pair)

    def is_mute(self, pair: Pair) -> bool:
        """Whether a relay of the pair passes no data."""
        return bool(self.mute & pair.through)

    def silence(self, pair: Pair) -> bool:
        """The pair's relays pass no data; False: there are no other relays to be tried.

        When all have turned out to be so, each has another turn.
        """
        others = [one.through for one in self if one.through and not one.through & pair.through]
        if not others:
            return False
        self.mute |= pair.through
        if all(through & self.mute for through in others):
            self.mute = pair.through
        return True

    def find(self, path: Path) -> Pair | None:
        """The pair that checks along ``path`` belong to; a source of None stands for any."""
        found = self._pairs.get(path)
        if found is not None:
            return found
        return next((pair for pair in self._pairs.values() if same(pair.path, path)), None)

    def learn(self, path: Path, shown: int) -> Pair | None:
        """Add the pair of a check that came along a path that we didn't know (§7.3.1.3).

        Args:
            path: (ours, where the check came from).
            shown: its CANDIDATE_PRIORITY.

        Returns:
            None if it came through a relay that is not our data relay: those relay the base
            exchange, and are not to be checked (RFC 9028 §4.5).
        """
        local = self._local(path)
        if local is None:
            return None
        address = (path.to[0], path.to[1])
        told = [candidate for candidate in self.theirs if candidate.address == address]
        remote = told[0] if told else Candidate(address, CandidateKind.PEER_REFLEXIVE, shown)
        pair = Pair(path, local, remote, local, learned=not told)
        self._make_room()
        self._pairs[path] = pair
        return pair

    def beside(self, pair: Pair) -> None:
        """A new candidate that was learned through a relay may be reached directly, too.

        It is so when the peer's NAT has lost its mappings, and gives the same new one to all.
        """
        if not pair.learned or pair.local.via is None:
            return
        for local in self.ours:
            path = _path(local, pair.remote)
            if local.via is None and _match(local, pair.remote) and self.find(path) is None:
                self._make_room(pair)
                self._pairs[path] = Pair(path, local, pair.remote, local, learned=True)

    def _local(self, path: Path) -> Candidate | None:
        """Our candidate at which a check along ``path`` came."""
        if isinstance(path.to, Relayed):
            via = path.to.via
            return next((candidate for candidate in self.ours if candidate.via == via), None)
        direct = [candidate for candidate in self.ours if candidate.via is None]
        for candidate in direct:
            if path.source is not None and candidate.base == path.source:
                return candidate
        address = path.source
        if address is None:
            alike = (one for one in direct if is_ipv6(one.base or one.address) is is_ipv6(path.to))
            return next(alike, _somewhere(path))
        return Candidate(address, CandidateKind.HOST, priority(CandidateKind.HOST, 0), address)

    def _make_room(self, spared: Pair | None = None) -> None:
        learned = [pair for pair in self._pairs.values() if pair.learned]
        if len(learned) >= LEARNED_MAX:
            self._drop(learned, spared)
        if len(self._pairs) >= PAIRS_MAX:
            self._drop(sorted(self._pairs.values(), key=self.priority), spared)

    def _drop(self, pairs: Iterable[Pair], spared: Pair | None) -> None:
        """Drop the first of those of least use; what the peer's checks show is of some."""
        victim = min(
            (pair for pair in pairs if pair is not spared),
            key=lambda pair: (pair.valid_at is not None, _USE[pair.state], pair.heard_at),
        )
        victim.state = PairState.FROZEN  # wherever it is still queued
        victim.forget()
        del self._pairs[victim.path]

    def next_waiting(self, *, varied: bool, twice: bool) -> Pair | None:
        """The WAITING pair of the highest priority (§6.1.4.2).

        Args:
            varied: of the kind of which the fewest were checked.
            twice: also of those that go through relays of both sides.
        """
        waiting = [pair for pair in self._pairs.values() if pair.state is PairState.WAITING]
        if not twice:
            waiting = [pair for pair in waiting if pair.relays < BOTH]
        if varied and waiting:
            had = Counter(
                _kind(pair) for pair in self._pairs.values() if pair.state is not PairState.WAITING
            )
            fewest = min(had[_kind(pair)] for pair in waiting)
            waiting = [pair for pair in waiting if had[_kind(pair)] == fewest]
        return max(waiting, key=self.priority, default=None)

    def answered(self, pair: Pair, mapped: Address, now: float) -> None:
        """The pair is valid; ``mapped`` is which of our candidates the peer saw (§7.2.5.3)."""
        if pair.valid_at is None:
            pair.valid_since = now
        pair.valid_at = now
        pair.seen = mapped_to(self.ours, (mapped[0], mapped[1]), pair.local)


_USE: Final = {
    PairState.FROZEN: 0,
    PairState.FAILED: 0,
    PairState.IN_PROGRESS: 1,
    PairState.WAITING: 2,
    PairState.SUCCEEDED: 3,
}


def _kind(pair: Pair) -> tuple[int, CandidateKind]:
    return pair.relays, pair.remote.kind


def same(one: Path, other: Path) -> bool:
    """Whether two paths are the same as far as we know; see Path about a source of None.

    Through a relay of ours it is the relay that counts.
    """
    if one.to != other.to:
        return False
    if isinstance(one.to, Relayed) or one.source is None or other.source is None:
        return True
    return one.source == other.source


def _match(local: Candidate, remote: Candidate) -> bool:
    """Whether packets could go between the two."""
    ours = local.address if local.via is not None else local.base or local.address
    if is_ipv6(ours) is not is_ipv6(remote.address):
        return False
    if ours == remote.address and local.via is None:  # one relay may lend both the same
        return False
    if is_loopback(ours[0]) is not is_loopback(remote.address[0]):
        return False
    if local.via is None and is_ipv6(ours):
        return True
    return not is_public(ours[0]) or is_public(remote.address[0])  # no way back, nor there


def _path(local: Candidate, remote: Candidate) -> Path:
    if local.via is not None:
        return Path(local.base, Relayed(remote.address, local.via))
    return Path(local.base, remote.address)


def _somewhere(path: Path) -> Candidate:
    """Ours, when all that we know is that a check reached us."""
    unknown = ("::", 0) if is_ipv6(path.to) else ("0.0.0.0", 0)  # noqa: S104 - binds nothing
    return Candidate(unknown, CandidateKind.HOST, priority(CandidateKind.HOST, 0))
