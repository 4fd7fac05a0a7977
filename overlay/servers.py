"""The servers that may make us callable, as far as we know them: a bounded table, and who is best.

Near ones are better; but two that serve us with the same should not be in one place, where they
would fall silent together.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from hipctl import Hit, RegistrationType

FRESH: Final = 1800.0  # seconds for which a test counts
RETRY_FIRST, RETRY_MOST = 2.0, 600.0  # seconds until one that failed is tried again
MAX_SERVERS: Final = 64
BETTER: Final = 0.7  # of the round trip, and …
BETTER_BY: Final = 0.015  # … so many seconds less: worth a change
MOST_FAILURES: Final = 16  # that are counted

Task = Literal["", "test", "register", "unregister", "probe"]


class Found(NamedTuple):
    """One server that may serve us.

    Attributes:
        hit: its HIT.
        types: what it says it offers.
        groups: opaque labels of where it is; two that share one are near each other.
        room: whether it has room for more, as far as it said.
        good: it has served us well before.
        proven: it said so itself, in an exchange with us.
    """

    hit: Hit
    types: frozenset[RegistrationType]
    groups: frozenset[bytes] = frozenset()
    room: bool = True
    good: bool = False
    proven: bool = False


@dataclass(slots=True)
class Server:
    """What we know of one server.

    Attributes:
        hit: its HIT.
        types: what it offers: as it was said, and since a test as it said itself.
        groups: see Found, as the next three.
        rtt: seconds of a round trip, None until tested.
        tested: when, monotonic seconds.
        failures: in a row.
        missed: probes in a row.
        failed: when it did last, monotonic seconds.
        retry: before when it is not tried again, monotonic seconds.
        held: what it does for us.
        since: from when on, monotonic seconds.
        task: what is under way.
        pending: what we are registering for.
        began: when the task began, monotonic seconds.
    """

    hit: Hit
    types: frozenset[RegistrationType]
    groups: frozenset[bytes]
    room: bool
    good: bool
    proven: bool
    rtt: float | None = None
    tested: float = float("-inf")
    failures: int = 0
    missed: int = 0
    failed: float = float("-inf")
    retry: float = float("-inf")
    held: set[RegistrationType] = field(default_factory=set)
    since: float = 0.0
    task: Task = ""
    pending: frozenset[RegistrationType] = frozenset()
    began: float = 0.0

    @property
    def distance(self) -> float:
        """Its round trip, for comparisons: infinite if it isn't known."""
        return float("inf") if self.rtt is None else self.rtt

    def fails(self, now: float, first: float = RETRY_FIRST) -> None:
        """It failed: it rests for ``first`` seconds, and longer each time."""
        self.failed = now
        self.retry = now + min(first * 2**self.failures, RETRY_MOST)
        self.failures = min(self.failures + 1, MOST_FAILURES)
        self.rtt = None


class Servers:
    """The table; those that serve us are never forgotten."""

    def __init__(self) -> None:
        self._all: dict[Hit, Server] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Server]:
        return iter(self._all.values())

    def get(self, hit: Hit) -> Server | None:
        """What we know of it."""
        return self._all.get(hit)

    def add(self, found: Found, now: float) -> Hit | None:
        """Note what was found.

        Returns:
            Who was forgotten for it.
        """
        server = self._all.get(found.hit)
        if server is None:
            gone = self._make_room()
            self._all[found.hit] = Server(*found)
            return gone
        if server.tested < now - FRESH:
            server.types |= found.types
        server.groups, server.room = found.groups or server.groups, found.room
        server.good |= found.good
        server.proven = found.proven
        return None

    def _make_room(self) -> Hit | None:
        if len(self._all) < MAX_SERVERS:
            return None
        idle = [server for server in self if not server.held and not server.task]
        worst = max(idle, key=lambda s: (s.failures, not s.good, s.distance), default=None)
        if worst is None:
            return None
        del self._all[worst.hit]
        return worst.hit

    def holders(self, type_: RegistrationType) -> list[Server]:
        """Who serves us with this type, or may soon: we are registering."""
        return [server for server in self if type_ in server.held | server.pending]

    def able(self, type_: RegistrationType, now: float) -> list[Server]:
        """Who was tested, and could serve us with one type more.

        Who is our rendezvous server can't be our relay, nor the other way round.
        """
        return [
            server
            for server in self
            if type_ in server.types - server.held
            and not (RENDEZVOUS in server.held or (type_ == RENDEZVOUS and server.held))
            and not server.task
            and server.retry <= now
            and server.rtt is not None
            and server.tested >= now - FRESH
        ]

    def best(self, type_: RegistrationType, now: float) -> Server | None:
        """The best of them."""
        holders = self.holders(type_)
        return min(self.able(type_, now), key=lambda server: _score(server, holders), default=None)

    def worst(self, holders: Collection[Server]) -> Server:
        """The one of them that we would miss least; there is one."""
        return max(
            holders, key=lambda s: _score(s, [other for other in holders if other is not s])
        )

    def crowds(self, server: Server, type_: RegistrationType) -> bool:
        """Whether it is near one that serves us with this type already."""
        return _is_near(server, self.holders(type_))

    def untested(self, types: Collection[RegistrationType], now: float) -> list[Server]:
        """Who says that it offers one of these and should be tested, most promising first."""
        wanted = set(types)
        found = [
            server
            for server in self
            if server.types & wanted
            and not server.task
            and not server.held & wanted
            and server.retry <= now
            and (server.rtt is None or server.tested < now - FRESH)
        ]
        return sorted(found, key=lambda s: (not s.good, not s.proven, s.failures, not s.room))

    def offered(self, now: float) -> frozenset[RegistrationType]:
        """What those offer that may be tried now."""
        offered: set[RegistrationType] = set()
        for server in self:
            if server.retry <= now:
                offered |= server.types
        return frozenset(offered)

    def doing(self, *tasks: Task) -> int:
        """How many have one of these tasks under way."""
        return sum(server.task in tasks for server in self)


def is_better(chosen: Server, worst: Server, others: Collection[Server]) -> bool:
    """Whether ``chosen`` beside the others is worth letting ``worst`` go."""
    near, was_near = _is_near(chosen, others), _is_near(worst, others)
    if near != was_near:
        return was_near
    nearer = chosen.distance < BETTER * worst.distance
    return nearer and chosen.distance < worst.distance - BETTER_BY


def _is_near(server: Server, others: Collection[Server]) -> bool:
    return any(server.groups & other.groups for other in others if other is not server)


def _score(server: Server, others: Collection[Server]) -> tuple[bool, bool, float]:
    """Less is better: away from the others first, with room, then near us."""
    return _is_near(server, others), not server.room and not server.held, server.distance


Wants = Mapping[RegistrationType, int]
"""How many servers of each type."""

RENDEZVOUS = RegistrationType.RENDEZVOUS
CONTROL = RegistrationType.RELAY_UDP_HIP
DATA = RegistrationType.RELAY_UDP_ESP
THROUGH: Final = (RENDEZVOUS, CONTROL)  # by these we are called
RELAYS: Final[Wants] = {CONTROL: 2, DATA: 2}
RENDEZVOUS_SERVERS: Final[Wants] = {RENDEZVOUS: 2}
