"""Keeps the servers that make us callable: two of a kind, replaced when they fall silent.

Pure. The shell searches, tests, registers and probes as the actions say, and tells what it came
to, always. A server has one thing to do at a time, so that it never holds two registrations of us
that exclude each other (RENDEZVOUS and RELAY_UDP_HIP, RFC 9028 §7.8).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from hipctl import Hit, RegistrationFailure, RegistrationType
from hipctl.sansio import Timers
from overlay.servers import RETRY_FIRST, THROUGH, Found, Server, Servers, Task, Wants, is_better

PROBE: Final = 10.0  # seconds between two signs of life that a server owes us
PROBE_FIRST: Final = 2.0  # the same after the first registration: it may do nothing for us
MISSES: Final = 2  # of them in a row, the second at once, that tell of its death
SETTLE: Final = 0.3  # seconds that a first test waits for better ones
SLOW: Final = 1.0  # seconds after which a registration that hangs gets a companion
TESTS: Final = 6  # at a time
SEARCH_FIRST, SEARCH_MOST = 1.0, 60.0  # seconds between searches while we lack servers
CALM: Final = 300.0  # the same while we lack only data relays, for nobody may offer them
IMPROVE_FIRST, IMPROVE = 60.0, 900.0  # seconds between looks for nearer ones
IMPROVE_TESTS: Final = 12  # that one such look takes
FULL_RETRY: Final = 60.0  # seconds until one that refused us is asked again
USELESS_RETRY: Final = 300.0  # until one that did nothing for us
STEADY, FORGIVEN = 600.0, 3600.0  # seconds after a failure, a refusal: worth a change of ways
PROVEN: Final = 60.0  # seconds after which a server that serves us counts as good


class Search(NamedTuple):
    """Action: find servers, then ``on_found`` with ``searched``."""


class Try(NamedTuple):
    """Action: associate, measure a round trip, see what it offers; then ``on_tested``."""

    hit: Hit


class Register(NamedTuple):
    """Action: register, then ``on_registered`` or ``on_refused``."""

    hit: Hit
    types: frozenset[RegistrationType]


class Unregister(NamedTuple):
    """Action: cancel these registrations, then ``on_unregistered``."""

    hit: Hit
    types: frozenset[RegistrationType]


class Probe(NamedTuple):
    """Action: let it give a sign of life, then ``on_probed``."""

    hit: Hit


class Keep(NamedTuple):
    """Action: remember it over restarts."""

    hit: Hit


Action = Search | Try | Register | Unregister | Probe | Keep
_Name = Literal["search", "improve", "probe", "settle", "slow"] | Hit


class Keeper:
    """The servers of one HIT.

    Attributes:
        servers: all that are known.
        wants: how many we want of each type.
        refusals: why those said no that did, the latest of each.
        searched: whether a search has ended since we began.
    """

    def __init__(self) -> None:
        self.servers = Servers()
        self.wants: Wants = {}
        self.refusals: dict[Hit, str] = {}
        self.searched = False
        self._useless: set[Hit] = set()  # refusals that hold until a probe shows otherwise
        self._ways: Sequence[Wants] = ()
        self._timers: Timers[_Name] = Timers()
        self._out: list[Action] = []
        self._now = 0.0
        self._searching = False
        self._gap = SEARCH_FIRST
        self._settled = False  # we have waited long enough for tests
        self._improving = 0  # tests that a look for nearer ones may still make

    # --- what the shell tells

    def want(self, ways: Sequence[Wants], now: float) -> list[Action]:
        """What we need from now on: the first of these ways that somebody offers; () nothing."""
        self._now = now
        if tuple(ways) != tuple(self._ways):
            self._ways = tuple(ways)
            self._choose()
            self._hurry()
        return self._leave()

    def on_found(self, found: Iterable[Found], now: float, *, searched: bool) -> list[Action]:
        """Servers that may serve us.

        Args:
            found: each of them.
            now: monotonic seconds.
            searched: ``Search`` is done with it.
        """
        self._now = now
        if searched:
            self._searching, self.searched = False, True
        for each in found:
            gone = self.servers.add(each, now)
            if gone is not None:
                self.refusals.pop(gone, None)
                self._useless.discard(gone)
                self._timers.stop(gone)
        self._choose_anew()
        return self._leave()

    def on_tested(
        self, hit: Hit, rtt: float | None, types: Collection[RegistrationType], now: float
    ) -> list[Action]:
        """What a test came to.

        Args:
            hit: whom.
            rtt: seconds; None: it did not answer.
            types: what it offers.
            now: monotonic seconds.
        """
        self._now = now
        server = self._done(hit, "test")
        if server is not None and rtt is None:
            self._fail(server)
        elif server is not None:
            server.rtt, server.tested, server.types = rtt, now, frozenset(types)
            server.failures = 0
            self._settle()
            self._choose_anew()
        return self._leave()

    def on_registered(
        self, hit: Hit, granted: Collection[RegistrationType], now: float
    ) -> list[Action]:
        """A server serves us with these; what is missing of them it refused."""
        self._now = now
        server = self._done(hit, "register")
        if server is not None:
            if not server.held:
                server.since = now
            server.held |= set(granted)
            server.types -= server.pending - set(granted)
            server.pending = frozenset()
            if hit not in self._useless:
                self.refusals.pop(hit, None)
            self._timers.set(hit, now + PROVEN)
            if "probe" not in self._timers:
                self._timers.set("probe", now + PROBE_FIRST)
        return self._leave()

    def on_refused(self, hit: Hit, failure: int | None, reason: str, now: float) -> list[Action]:
        """A registration came to nothing.

        Args:
            hit: with whom.
            failure: a RegistrationFailure or another number; None: it did not answer.
            reason: in words.
            now: monotonic seconds.
        """
        self._now = now
        server = self._done(hit, "register")
        if server is not None:
            self.refusals[hit] = reason
            if failure == RegistrationFailure.TYPE_UNAVAILABLE:
                server.types -= server.pending
            server.pending = frozenset()
            self._fail(server, RETRY_FIRST if failure is None else FULL_RETRY)
        return self._leave()

    def on_unregistered(self, hit: Hit, now: float) -> list[Action]:
        """``Unregister`` is done."""
        self._now = now
        self._done(hit, "unregister")
        return self._leave()

    def on_ended(self, hit: Hit, type_: RegistrationType, now: float) -> list[Action]:
        """A server serves us no more with this, as the host has noticed."""
        self._now = now
        server = self.servers.get(hit)
        if server is not None and type_ in server.held:
            server.held.discard(type_)
            if not server.held and server.retry <= now:
                self._fail(server)
            self._hurry()
        return self._leave()

    def on_probed(self, hit: Hit, rtt: float | None, now: float) -> list[Action]:
        """What a probe came to: seconds, or silence."""
        self._now = now
        server = self._done(hit, "probe")
        if server is not None and rtt is not None:
            server.rtt = rtt if server.rtt is None else server.rtt + (rtt - server.rtt) / 4
            server.failures = server.missed = 0
            if hit in self._useless:
                self._useless.discard(hit)
                self.refusals.pop(hit, None)
        elif server is not None:
            server.missed += 1
            if server.held and server.missed < MISSES:
                self._probe(server)
            else:
                server.missed = 0
                self._fail(server)
                if server.held:
                    self._release(server, frozenset(server.held))
                self._hurry()
        return self._leave()

    def on_useless(self, hit: Hit, reason: str, now: float) -> list[Action]:
        """A probe has shown that a server answers, but doesn't do what it granted.

        Args:
            hit: whom.
            reason: in words.
            now: monotonic seconds.
        """
        self._now = now
        server = self._done(hit, "probe")
        if server is not None:
            self.refusals[hit] = reason
            self._useless.add(hit)
            server.missed = 0
            self._fail(server, USELESS_RETRY)
            if server.held:
                self._release(server, frozenset(server.held))
            self._hurry()
        return self._leave()

    def on_seen(self, hit: Hit, now: float) -> list[Action]:
        """A server that had failed gave a sign of life: it may be tried again at once."""
        self._now = now
        server = self.servers.get(hit)
        if server is not None and server.retry > now and hit not in self.refusals:
            server.failures, server.retry = 0, float("-inf")
        return self._leave()

    def on_network(self, now: float) -> list[Action]:
        """Our own network is another one: who failed may be reached now, and who served not."""
        self._now = now
        for server in self.servers:
            server.failures, server.retry, server.tested = 0, float("-inf"), float("-inf")
            if server.held and not server.task:
                self._probe(server)
        self._hurry()
        return self._leave()

    def deadline(self) -> float | None:
        """When ``on_time`` wants to be called next."""
        return self._timers.deadline()

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        self._now = now
        for name in self._timers.expired(now):
            match name:
                case "probe":
                    self._probe_all()
                case "improve":
                    self._look_for_better()
                case "settle":
                    self._settled = True
                case "search" | "slow":
                    pass  # each step looks at it
                case hit:
                    self._on_server_time(self.servers.get(hit))
        return self._leave()

    def _on_server_time(self, server: Server | None) -> None:
        """It may be tried again, which each step looks at; or it has served us for a while."""
        if server is not None and server.held and self._now - server.since >= PROVEN:
            server.good = True
            self._out.append(Keep(server.hit))

    # --- what others ask

    def serving(self, *types: RegistrationType) -> list[Server]:
        """Who serves us with any of these types, nearest first."""
        found = [server for server in self.servers if server.held & set(types)]
        return sorted(found, key=lambda server: server.distance)

    # --- what follows

    def _leave(self) -> list[Action]:
        self._step()
        out, self._out = self._out, []
        return out

    def _step(self) -> None:
        """Begin whatever should be under way now."""
        stays = self._stays()
        for server in self.servers:
            unwanted = frozenset(t for t in server.held if t not in self.wants and t not in stays)
            if unwanted and not server.task:
                self._release(server, unwanted)
        for type_, count in self.wants.items():
            self._shed(type_, count)
        lacking = [type_ for type_ in self.wants if self._lack(type_)]
        if not lacking:
            self._settled = False
            self._gap = SEARCH_FIRST
            self._timers.stop("search")
            if self.wants and "improve" not in self._timers:
                self._timers.set("improve", self._now + IMPROVE_FIRST)
            self._improve()
        elif not self._registers(lacking):
            tests = self._test(lacking, TESTS)
            if tests and any(self.servers.best(type_, self._now) for type_ in lacking):
                self._settle()  # what was tested before need not wait long for these
            self._search(lacking)
        self._test(self._better(), TESTS)

    def _lack(self, type_: RegistrationType) -> int:
        """How many more registrations of a type to begin now."""
        count, holders = self.wants[type_], self.servers.holders(type_)
        slow = any(s.pending and self._now - s.began >= SLOW for s in holders)
        return max(count - len(holders), int(slow and len(holders) == count))

    def _registers(self, lacking: Sequence[RegistrationType]) -> bool:
        """Register with the best that were tested; whether that fills all that lacks."""
        testing = self.servers.doing("test")
        if testing and not self._settled:
            return False
        filled = True
        for type_ in lacking:
            for _ in range(self._lack(type_)):
                chosen = self.servers.best(type_, self._now)
                if chosen is None or (testing and self.servers.crowds(chosen, type_)):
                    filled = False
                    break
                offered = chosen.types - chosen.held
                self._register(chosen, (t for t in lacking if t in offered and self._lack(t)))
        return filled

    def _register(self, server: Server, types: Iterable[RegistrationType]) -> None:
        server.pending = frozenset(types)
        self._begin(server, "register")
        self._timers.set("slow", self._now + SLOW)  # a companion may be due then
        self._out.append(Register(server.hit, server.pending))

    def _settle(self) -> None:
        if not self._settled and "settle" not in self._timers:
            self._timers.set("settle", self._now + SETTLE)

    def _test(self, types: Collection[RegistrationType], most: int) -> int:
        """Try some that could serve us with these; how many."""
        places = max(min(TESTS - self.servers.doing("test"), most), 0)
        chosen = self.servers.untested(types, self._now)[:places]
        for server in chosen:
            self._begin(server, "test")
            self._out.append(Try(server.hit))
        return len(chosen)

    def _search(self, lacking: Collection[RegistrationType]) -> None:
        """Search if nothing else is under way, with growing gaps."""
        busy = self.servers.doing("test", "register")
        if self._searching or busy or "search" in self._timers:
            return
        calm = self.searched and not any(type_ in THROUGH for type_ in lacking)
        self._searching = True
        self._out.append(Search())
        gap, self._gap = self._gap, min(2 * self._gap, SEARCH_MOST)
        self._timers.set("search", self._now + (CALM if calm else gap))

    def _shed(self, type_: RegistrationType, count: int) -> None:
        """Let go of the worst of those that are more than we want."""
        holders = [server for server in self.servers if type_ in server.held]
        while len(holders) > count:
            worst = self.servers.worst(holders)
            if worst.task:
                return  # later
            holders.remove(worst)
            self._release(worst, frozenset((type_,)))

    def _release(self, server: Server, types: frozenset[RegistrationType]) -> None:
        server.held -= types
        self._begin(server, "unregister")
        self._out.append(Unregister(server.hit, types))

    def _probe_all(self) -> None:
        holders = [server for server in self.servers if server.held]
        for server in holders:
            if not server.task:
                self._probe(server)
        if holders:
            self._timers.set("probe", self._now + PROBE)

    def _probe(self, server: Server) -> None:
        self._begin(server, "probe")
        self._out.append(Probe(server.hit))

    def _look_for_better(self) -> None:
        if self.wants:
            self._timers.set("improve", self._now + IMPROVE)
            self._improving = IMPROVE_TESTS
            if not self._searching:
                self._searching = True
                self._out.append(Search())

    def _improve(self) -> None:
        """Try what the look has found, then take the best in place of the worst that serves."""
        if not self._improving or self._searching:
            return
        self._improving -= self._test(self.wants, self._improving)
        if self.servers.doing("test"):
            return
        self._improving = 0
        for type_, count in self.wants.items():
            holders = self.servers.holders(type_)
            chosen = self.servers.best(type_, self._now)
            if len(holders) != count or chosen is None:
                continue
            worst = self.servers.worst(holders)
            if is_better(chosen, worst, [holder for holder in holders if holder is not worst]):
                offered = chosen.types - chosen.held
                self._register(chosen, (t for t in self.wants if t in worst.held & offered))
                return  # the worst goes when this one serves us

    def _choose_anew(self) -> None:
        """As long as nobody makes us callable, another way may do; else it must be sure."""
        served = any((server.held | server.pending) & set(THROUGH) for server in self.servers)
        if not served or any(self._is_sure(type_) for type_ in self._better()):
            self._choose()

    def _better(self) -> list[RegistrationType]:
        """By what we would rather be called than by what we want now."""
        ways = list(self._ways)
        before = ways[: ways.index(self.wants)] if self.wants in ways else []
        return [type_ for way in before for type_ in way if type_ in THROUGH]

    def _is_sure(self, type_: RegistrationType) -> bool:
        """Whether somebody new would do this for us, as far as a test and the past can tell."""
        able = self.servers.able(type_, self._now)
        return any(not s.held and self._now - s.failed >= self._steady(s) for s in able)

    def _steady(self, server: Server) -> float:
        """How long ago its last failure must be: to refuse, or to be of no use, says more."""
        rest = float("inf") if server.hit in self._useless else FORGIVEN
        return rest if server.hit in self.refusals else STEADY

    def _stays(self) -> Wants:
        """The way by which we are called until somebody serves us in the one that we want.

        When nobody is about to, it is what we want.
        """
        wanted, servers = self.wants.keys() & THROUGH, tuple(self.servers)
        calls = {type_ for server in servers for type_ in server.held if type_ in THROUGH}
        way = next((way for way in self._ways if calls & way.keys()), {})
        if not wanted or wanted & way.keys() or any(s.held & wanted for s in servers):
            return {}
        coming = any(s.pending & wanted for s in servers) or any(map(self._is_sure, wanted))
        self.wants = self.wants if coming else way or self.wants
        return way

    def _choose(self) -> None:
        """Take the first of the ways that somebody offers, or the first."""
        offered = self.servers.offered(self._now)
        first: Wants = self._ways[0] if self._ways else {}
        possible = (way for way in self._ways if any(t in offered for t in way if t in THROUGH))
        self.wants = next(possible, first)

    # --- small things

    def _hurry(self) -> None:
        """The next search comes at once if it is needed."""
        self._gap = SEARCH_FIRST
        self._timers.stop("search")

    def _begin(self, server: Server, task: Task) -> None:
        server.task, server.began = task, self._now

    def _done(self, hit: Hit, task: Task) -> Server | None:
        """The server whose task this was; None: nothing of ours."""
        server = self.servers.get(hit)
        if server is None or server.task != task:
            return None
        server.task = ""
        return server

    def _fail(self, server: Server, first: float = RETRY_FIRST) -> None:
        server.fails(self._now, first)
        self._timers.set(server.hit, server.retry)
