"""Shell: keeps one HIT of this peer callable, and knows whether it is.

It carries out what ``keeper`` and ``reachable`` say: looks for servers in the overlays and among
the neighbours, tests and registers; asks neighbours to knock; watches the host.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Self

from hipctl import (
    AssociationFailed,
    AssociationUp,
    Event,
    HipError,
    Hit,
    Host,
    Reachability,
    RegistrationEnded,
    RegistrationRefused,
    RegistrationType,
    Woke,
)
from hipctl.sansio import Driver
from overlay import keeper, reachable
from overlay.advice import Advice
from overlay.hiding import MOST_FRIENDS, Hiding, Sight, befriended, in_turn
from overlay.keeper import Keep, Keeper, Probe, Register, Search, Try, Unregister
from overlay.knocking import passes
from overlay.lastseen import LastSeen
from overlay.netcheck import Netcheck
from overlay.reachable import Changed, Examine, Facts, Reach, Reachable
from overlay.scout import Home, Scout
from overlay.servers import CONTROL, DATA, RENDEZVOUS, THROUGH, Server
from overlay.witnesses import Witnesses

_log = logging.getLogger(__name__)

LOOK: Final = 2.0  # seconds between looks at the host
JUMP: Final = 5.0  # seconds by which our clocks part when this machine has slept, or was set
PASSES: Final = 15.0  # seconds for which we believe that a server passes calls on
SOON: Final = 3.0  # seconds until that is asked again of one that has never been seen to
DOUBT: Final = 60.0  # in which others have to say again that it doesn't
REGISTER_SECONDS: Final = 3.0


class Callability:
    """Keeps one HIT callable.

    Args:
        host: the HIP host.
        local: the HIT.
        homes: its overlays.
        visible: whether strangers may see our address: rendezvous servers will do.
        hides: whether contacts don't name our address, where servers make us callable without.
        wall: Unix seconds.
        rng: random bytes.
    """

    def __init__(
        self,
        host: Host,
        local: Hit,
        homes: Sequence[Home],
        *,
        visible: bool = False,
        hides: bool = False,
        wall: Callable[[], float],
        rng: Callable[[int], bytes],
    ) -> None:
        self._host = host
        self._local = local
        self._homes = tuple(homes)
        self._visible = visible
        self._wall, self._rng = wall, rng
        self.keeper = Keeper()
        self.reachable = Reachable()
        self._scout = Scout(host, local, self._homes, rng)
        self._witnesses = Witnesses(host, self._homes)
        self._hiding = Hiding(visible=visible, hides=hides)
        self._netcheck = Netcheck(
            host,
            local,
            self._homes,
            keeper=self.keeper,
            reachable=self.reachable,
            scout=self._scout,
            witnesses=self._witnesses,
            visible=visible,
            hides=hides,
            place=lambda: self._place or Reachability(),
            forget=lambda hit, types: self._spawn(self._cancel(hit, types), "unregister"),
        )
        self._last_seen = LastSeen(host, self._homes, wall)
        self._passed: dict[Hit, float] = {}  # when a server was seen to pass calls on
        self._doubted: dict[Hit, float] = {}  # when it was said first that it does not
        self._suspects: set[Hit] = set()  # who did not, and counts for nothing until it does
        self._place: Reachability | None = None
        self._hidden = True
        self.secluded = hides
        self._many = False  # there were more than we can befriend; tables forget who falls silent
        self._friends: tuple[Hit, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: Counter[str] = Counter()  # what broke in an unforeseen way, by its name
        self._gap = 0.0  # our wall clock minus the monotonic one
        self._running = False

    async def __aenter__(self) -> Self:
        """Begin; nothing is waited for."""
        loop = self._loop = asyncio.get_running_loop()
        self._now = loop.time
        self._hiding.on_network(self._now(), moved=False)
        self._gap = self._wall() - self._now()
        self._driver = Driver[keeper.Action](self.keeper, self._on_keeper)
        self._examiner = Driver[reachable.Action](self.reachable, self._on_reachable)
        self._unwatch = self._host.watch(self._on_event)
        self._running = True
        self._place = self._host.reachability()
        self._last_seen.recall()
        self._driver.feed(
            lambda now: self.keeper.on_found(self._scout.recall(), now, searched=False)
        )
        self._examiner.feed(self.reachable.start)
        self._look()
        self._spawn(self._look_on(), "look")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop; servers forget us when the host closes its associations."""
        self._running = False
        self._unwatch()
        self._driver.close()
        self._examiner.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what others ask

    @property
    def reach(self) -> Reach:
        """How we can be called."""
        return self.reachable.reach

    @property
    def callable(self) -> bool | None:
        """Whether we can be called; None: not known yet."""
        return self.reachable.callable

    @property
    def hidden(self) -> bool:
        """Whether what we publish doesn't name our address now."""
        return self._hidden

    @property
    def told(self) -> bool:
        """Whether whoever begins an association with us may learn our address now."""
        return self._hiding.told

    def why(self) -> list[Advice]:
        """What is missing where nobody can call us; empty where somebody can."""
        return self._netcheck.why()

    def status(self) -> dict[str, Any]:
        """What ``p2psip status`` shows; JSON-ready."""
        return {**self._netcheck.status(), "failures": dict(self.failures)}

    async def check(self) -> dict[str, Any]:
        """What ``p2psip netcheck`` shows: asks neighbours and servers now. JSON-ready."""
        return await self._netcheck.check()

    # --- what happens

    def _on_event(self, event: Event) -> None:
        if not self._running:
            return
        if isinstance(event, RegistrationEnded) and event.local == self._local:
            self._feed(lambda now: self.keeper.on_ended(event.server, event.type, now))
        if isinstance(event, AssociationUp) and event.local == self._local and self.secluded:
            found = self._scout.seed(event.peer)
            self._feed(lambda now: self.keeper.on_found(found, now, searched=False))
        if isinstance(event, Woke):
            self._examiner.feed(self.reachable.on_network)
        self._look_once()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self._look_once()

    def _look_once(self) -> None:
        """Look; whatever breaks then, the next look comes."""
        try:
            self._look()
        except Exception as error:
            self._failed("look", error)

    def _look(self) -> None:
        """See where we are, and who is there."""
        place, now = self._host.reachability(), self._now()
        slept = abs(self._wall() - now - self._gap) > JUMP
        self._gap = self._wall() - now
        moved = self._place is not None and _is_elsewhere(place, self._place)
        self._place = place
        if slept or moved:
            self._hiding.on_network(now, moved=moved)
            self._examiner.feed(self.reachable.on_network)
            self._feed(self.keeper.on_network)
        for server in list(self.keeper.servers):
            if server.retry > now and self._heard(server.hit) > server.failed:
                self._feed(partial(self.keeper.on_seen, server.hit))
        self._settle()
        try:
            self._last_seen.keep(self._met()[:MOST_FRIENDS])
        except Exception as error:  # as in ``_on_keeper``
            self._failed("keep", error)
        friends = self._whom_to_befriend()
        if friends != self._friends:
            self._host.befriend(friends, local=self._local)
            self._friends = friends

    def _whom_to_befriend(self) -> tuple[Hit, ...]:
        """See ``befriended``; none where strangers reach us, or must not know where we are."""
        if self.reachable.proven or not self._hiding.told:
            return ()
        return befriended(self._met(), many=self._many, served=bool(self._serving()))

    def _met(self) -> list[Hit]:
        """Everybody in our overlays of whom we know, the latest of each overlay first."""
        met = in_turn([home.node.engine.met() for home in self._homes])
        return [hit for hit in met if hit not in self._host.hits]

    def _are_many(self) -> bool:
        """Whether our overlays have more others than we can befriend, as far as we have seen."""
        told = {hit for home in self._homes for hit in home.node.engine.told_of()}
        return len(told.union(self._met()).difference(self._host.hits)) > MOST_FRIENDS

    def _heard(self, hit: Hit) -> float:
        """When a server last gave a sign of life in an overlay, monotonic seconds."""
        node = self._scout.node(hit)
        session = node.engine.session(hit) if node is not None else None
        if session is None or session.node is None:
            return float("-inf")
        heard: float = max(session.answered, session.node.heard)
        return heard

    def _feed(self, step: Callable[[float], list[keeper.Action]]) -> None:
        if self._running:
            self._driver.feed(step)
            self._settle()

    def _examined(self, step: Callable[[float], list[reachable.Action]]) -> None:
        if self._running:
            self._examiner.feed(step)
            self._settle()

    def _settle(self) -> None:
        """Let each machine know what the other has found."""
        place = self._place or Reachability()
        self._many = self._many or self._are_many()
        sight = Sight(
            network=bool(place.addresses),
            served=bool(self._serving()),
            relayed=bool(self.keeper.serving(DATA)),
            known=bool(self.keeper.servers),
            public=self._is_public,
            many=self._many,
            silent=self._is_silent,
        )
        hidden = self._hidden = self._hiding.hidden(sight, self._now())
        self.secluded = self._hiding.secluded(sight, self._now(), hidden=hidden)
        untold = hidden or (self.secluded and any(home.node.abroad for home in self._homes))
        self._host.hide(self._local, hidden=untold)
        self._seclude()
        facts = Facts(
            network=bool(place.addresses),
            direct=bool(place.direct) and not untold,
            neighbours=len(self._witnesses.neighbours()),
            through=len(self._serving()),
        )
        if facts != self.reachable.facts:
            self._examiner.feed(lambda now: self.reachable.on_facts(facts, now))
        for home in self._homes:
            home.providers.open(self.reachable.proven is not False)
        ways = self._hiding.ways(self.reachable.proven, self._is_public, self._now())
        self._driver.feed(lambda now: self.keeper.want(ways, now))

    def _seclude(self) -> None:
        """Hide from those with whom we begin, or don't; never from servers and seeds."""
        tried = (each.hit for each in self.keeper.servers if each.good or each.task or each.held)
        seeds = (seed.hit for home in self._homes for seed in home.node.seeds)
        self._host.seclude(self._local, {*seeds, *tried} if self.secluded else None)

    def _is_public(self) -> bool:
        """Whether we have an address that others could be told."""
        return self._place is not None and bool(self._host.groups(self._place.direct))

    def _is_silent(self, since: float) -> bool:
        """Whether none of those whom we know has said anything since."""
        contacts = (each for home in self._homes for each in home.node.engine.table.contacts())
        return all(contact.heard <= since for contact in contacts)

    # --- what the machines want

    def _on_keeper(self, action: keeper.Action) -> None:
        match action:
            case Search():
                self._ask(
                    "search",
                    self._search(),
                    lambda now: self.keeper.on_found((), now, searched=True),
                )
            case Try(hit):
                self._seclude()
                self._ask(
                    "test", self._test(hit), lambda now: self.keeper.on_tested(hit, None, (), now)
                )
            case Register(hit, types):
                self._ask(
                    "register",
                    self._register(hit, types),
                    lambda now: self.keeper.on_refused(hit, None, "an error of ours", now),
                )
            case Unregister(hit, types):
                self._ask(
                    "unregister",
                    self._unregister(hit, types),
                    lambda now: self.keeper.on_unregistered(hit, now),
                )
            case Probe(hit):  # if it breaks, that says nothing of the server
                self._ask(
                    "probe",
                    self._probe(hit),
                    lambda now: self.keeper.on_probed(hit, self._rtt(hit), now),
                )
            case Keep(hit):
                server = self.keeper.servers.get(hit)
                try:
                    self._scout.keep(hit, server.types if server is not None else ())
                except Exception as error:  # the disk's trouble is none of who calls us
                    self._failed("keep", error)

    def _on_reachable(self, action: reachable.Action) -> None:
        match action:
            case Examine(count, round_):
                self._spawn(
                    self._examine(count, round_),
                    "examine",
                    lambda: self._examined(
                        lambda now: self.reachable.on_examined(round_, (), now)
                    ),
                )
            case Changed(reach):
                if reach is Reach.NONE:
                    _log.warning("nobody can call %s; see: p2psip status", self._local)
                else:
                    _log.info("%s can be called %s", self._local, reach.value)

    def _ask(
        self,
        name: str,
        work: Coroutine[Any, Any, None],
        otherwise: Callable[[float], list[keeper.Action]],
    ) -> None:
        """Do what the keeper asks for; if it breaks, the keeper is told otherwise."""
        self._spawn(work, name, partial(self._feed, otherwise))

    def _spawn(
        self,
        work: Coroutine[Any, Any, None],
        name: str,
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """Do some work behind.

        Args:
            work: what to do.
            name: for logs.
            otherwise: tells the machine, which waits for an answer, that it broke; it tries again
                with the gaps that it has for failures.
        """
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, otherwise))

    def _ended(self, otherwise: Callable[[], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed(task.get_name(), error)
            otherwise()

    def _failed(self, name: str, error: Exception) -> None:
        """Count what nobody has foreseen; say it, but ever more seldom."""
        self.failures[name] += 1
        times = self.failures[name]
        if times.bit_count() == 1:
            _log.error("%s failed (%d times)", name, times, exc_info=error)

    def _rtt(self, hit: Hit) -> float | None:
        server = self.keeper.servers.get(hit)
        return None if server is None else server.rtt

    async def _search(self) -> None:
        since, somebody = self._hiding.since, bool(self._witnesses.neighbours())
        found = await self._scout.search(visible=self._visible)
        self._hiding.on_searched(since, somebody=somebody)
        self._feed(lambda now: self.keeper.on_found(found, now, searched=True))

    # --- dealing with one server

    async def _test(self, hit: Hit) -> None:
        rtt = await self._scout.ping(hit)
        types = self._scout.offered(hit)
        if not self._visible:
            types -= {RENDEZVOUS}
        self._feed(lambda now: self.keeper.on_tested(hit, rtt, types, now))

    async def _probe(self, hit: Hit) -> None:
        rtt = await self._scout.ping(hit)
        if rtt is not None and not await self._passes(hit):
            self._feed(lambda now: self.keeper.on_useless(hit, "it passes no calls on", now))
        else:
            self._feed(lambda now: self.keeper.on_probed(hit, rtt, now))

    async def _passes(self, hit: Hit) -> bool:
        """Whether a server passes on to us what strangers say, as far as anybody can tell.

        All who can tell must say twice that it does not, unless we saw ourselves that it does.
        """
        now, server = self._now(), self.keeper.servers.get(hit)
        held = server.held if server is not None else set()
        if (
            held.isdisjoint(THROUGH)
            or now < max(self._passed.get(hit, float("-inf")), self._saw(hit)) + PASSES
        ):
            self._doubted.pop(hit, None)
            self._suspects.discard(hit)
            return True
        serving = {each.hit for each in self.keeper.serving(*THROUGH)}
        again = hit in self._suspects or now < self._doubted.get(hit, float("-inf")) + DOUBT
        count, relays = reachable.ASKED if again else 1, CONTROL in held
        asked = await self._witnesses.through(self._local, hit, count, serving, relays=relays)
        said = passes([verdict for _, verdict in asked])
        if said is False and not again and hit not in self._passed:
            again = True
            await asyncio.sleep(SOON)
            asked = await self._witnesses.through(
                self._local, hit, reachable.ASKED, serving, relays=relays
            )
            said = passes([verdict for _, verdict in asked])
        self._passed = {each: at for each, at in self._passed.items() if each in serving}
        self._doubted = {each: at for each, at in self._doubted.items() if each in serving}
        if said:
            self._passed[hit] = now
            self._doubted.pop(hit, None)
            self._suspects.discard(hit)
        elif said is False and again and await self._scout.ping(hit) is not None:
            self._suspects = {each for each in self._suspects if self.keeper.servers.get(each)}
            self._suspects.add(hit)
            return False
        elif said is False:  # for the first time; or it is silent, or we are cut off
            self._doubted[hit] = now
        return True

    def _serving(self) -> list[Server]:
        """Those by which we are called, but for suspects."""
        there = self.keeper.serving(*THROUGH)
        return [each for each in there if each.hit not in self._suspects]

    def _saw(self, hit: Hit) -> float:
        """When somebody last began an association with us by way of that server."""
        pair = self._local, hit
        rows = [row for row in self._host.registrations() if (row.local, row.server) == pair]
        return max((row.passed for row in rows), default=float("-inf"))

    async def _register(self, hit: Hit, types: frozenset[RegistrationType]) -> None:
        try:
            async with asyncio.timeout(REGISTER_SECONDS + 1):
                granted = await self._host.register(
                    hit, types, local=self._local, timeout=REGISTER_SECONDS
                )
        except RegistrationRefused as error:
            failure, reason = error.failure, str(error)
            self._feed(lambda now: self.keeper.on_refused(hit, failure, reason, now))
        except (AssociationFailed, TimeoutError):
            self._feed(lambda now: self.keeper.on_refused(hit, None, "no answer", now))
        else:
            got = [each.type for each in granted]
            self._feed(lambda now: self.keeper.on_registered(hit, got, now))

    async def _unregister(self, hit: Hit, types: frozenset[RegistrationType]) -> None:
        await self._cancel(hit, types)
        self._feed(lambda now: self.keeper.on_unregistered(hit, now))

    async def _cancel(self, hit: Hit, types: frozenset[RegistrationType]) -> None:
        with contextlib.suppress(HipError, TimeoutError):  # it is dead, or will notice
            async with asyncio.timeout(REGISTER_SECONDS):
                await self._host.unregister(hit, types, local=self._local)

    async def _examine(self, count: int, round_: int) -> None:
        place = self._place or Reachability()
        verdicts = [said for _, said in await self._witnesses.ask(count, place.direct)]
        self._examined(lambda now: self.reachable.on_examined(round_, verdicts, now))


def _is_elsewhere(place: Reachability, before: Reachability) -> bool:
    return (
        set(place.addresses) != set(before.addresses)
        or set(place.mapped) != set(before.mapped)
        or place.direct != before.direct
    )
