"""Shell: keeps one HIT of this peer callable, and knows whether it is.

It carries out what ``keeper`` and ``reachable`` say: looks for servers in the overlays and among
the neighbours, tests and registers; asks neighbours to knock; watches the host.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

from hipctl import (
    AssociationFailed,
    Event,
    HipError,
    Hit,
    Host,
    Nat,
    Reachability,
    RegistrationEnded,
    RegistrationRefused,
    RegistrationType,
    Woke,
)
from hipctl.sansio import Driver
from overlay import keeper, reachable
from overlay.advice import ADDRESS_TOLD, Advice, Seen, what_limits, why_nobody_calls
from overlay.keeper import Keep, Keeper, Probe, Register, Search, Try, Unregister
from overlay.knocking import Knocked
from overlay.reachable import Changed, Examine, Facts, Reach, Reachable
from overlay.scout import Home, Scout
from overlay.servers import (
    CONTROL,
    DATA,
    RELAYS,
    RENDEZVOUS,
    RENDEZVOUS_SERVERS,
    THROUGH,
    Server,
    Wants,
)
from overlay.whereabouts import Whereabouts
from overlay.witnesses import Witnesses

_log = logging.getLogger(__name__)

LOOK: Final = 2.0  # seconds between looks at the host
JUMP: Final = 5.0  # seconds by which our clocks part when this machine has slept, or was set
HEAD_START: Final = 3.0  # seconds for which a public address needs no servers before it is proven
HIDING: Final = 10.0  # seconds in which other servers may be found before our address is told
CUT_OFF: Final = 180.0  # seconds in which silence of all may be our own network's
UNSTEADY: Final = 3600.0  # seconds after which few may rely on their servers again
MOST_FRIENDS: Final = 8  # of whom the host counts no more
DISCOVERED: Final = 2  # servers that must say where they see us
PASSES: Final = 60.0  # seconds for which we believe that a server passes calls on
DOUBTS: Final = 2  # neighbours that must say that it doesn't, and none that it does
PING_SECONDS: Final = 3.0
REGISTER_SECONDS: Final = 3.0
NAMES: Final = {CONTROL: "control relay", DATA: "data relay", RENDEZVOUS: "rendezvous server"}
DISCOVERY: Final = RegistrationType.CANDIDATE_DISCOVERY


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
        self._visible, self._hides = visible, hides
        self._hid_at: float | None = None  # when servers last made us callable while we hide
        self._silent_at = 0.0  # when we last seemed to be cut off from everybody
        self._wall, self._rng = wall, rng
        self.keeper = Keeper()
        self.reachable = Reachable()
        self._scout = Scout(host, local, self._homes, rng)
        self._witnesses = Witnesses(host, self._homes)
        self._whereabouts = Whereabouts(host, self._homes, wall)
        self._passed: dict[Hit, float] = {}  # when a server was seen to pass calls on, or might
        self._place: Reachability | None = None
        self._lacked_at: float | None = None  # when there last were no servers for a while, here
        self._hidden = True
        self._many = False  # there were more than we can befriend; tables forget who falls silent
        self._friends: tuple[Hit, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._since = 0.0  # when we came here, monotonic seconds
        self._asked = False  # somebody was asked for servers since
        self._gap = 0.0  # our wall clock minus the monotonic one
        self._running = False

    async def __aenter__(self) -> Self:
        """Begin; nothing is waited for."""
        loop = asyncio.get_running_loop()
        self._now, self._since = loop.time, loop.time()
        self._gap = self._wall() - self._since
        self._driver = Driver[keeper.Action](self.keeper, self._on_keeper)
        self._examiner = Driver[reachable.Action](self.reachable, self._on_reachable)
        self._unwatch = self._host.watch(self._on_event)
        self._running = True
        self._place = self._host.reachability()
        self._whereabouts.recall()
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
        return None if self.reach is Reach.UNKNOWN else self.reach is not Reach.NONE

    @property
    def hidden(self) -> bool:
        """Whether strangers don't learn our address now."""
        return self._hidden

    def why(self) -> list[Advice]:
        """What is missing where nobody can call us; empty where somebody can."""
        return why_nobody_calls(self._seen()) if self.reach is Reach.NONE else []

    def status(self) -> dict[str, Any]:
        """What ``p2psip status`` shows; JSON-ready."""
        return {
            "callable": self.callable,
            "reach": self.reach.value,
            "why": [advice.to_json() for advice in self.why()],
            "servers": [_row(each, each.rtt) for each in self.keeper.serving(*NAMES)],
        }

    async def check(self) -> dict[str, Any]:
        """What ``p2psip netcheck`` shows: asks neighbours and servers now. JSON-ready."""
        servers = self.keeper.serving(*NAMES)
        knocks, rtts = await asyncio.gather(
            self._witnesses.ask(
                reachable.ASKED,
                (self._place or Reachability()).direct,
                {server.hit for server in servers},  # who sees us where we are, not at a relay
            ),
            asyncio.gather(*(self._ping(server.hit) for server in servers)),
        )
        # a neighbour knocks for us once at a time
        through = [await self._knocks_through(server.hit, 1) for server in servers]
        discovered = await self._discover()
        place = self._host.reachability()
        for hit in discovered:
            self._spawn(self._cancel(hit, frozenset((DISCOVERY,))), "unregister")
        nat = place.nat
        if nat is Nat.UNKNOWN and self.reachable.proven and not place.mapped:
            nat = Nat.NONE
        verdicts = Counter(verdict for _, verdict in knocks)
        seen = dataclasses.replace(self._seen(), verdicts=verdicts or self.reachable.verdicts)
        problems = []
        if self.reach is Reach.NONE:
            problems = why_nobody_calls(seen)
        elif self.reach is Reach.SERVED:
            problems = what_limits(seen)
        elif self._hides and self.reach is Reach.DIRECT:
            problems = [ADDRESS_TOLD]
        return {
            "hit": str(self._local),
            "callable": self.callable,
            "reach": self.reach.value,
            "nat": nat.value,
            "addresses": [_text(address) for address in place.addresses],
            "mapped": [
                {"protocol": protocol, "address": _text(address)}
                for protocol, address in place.mapped
            ],
            "routers": [_router(row) for row in place.routers],
            "reflexive": [
                {"by": str(hit), "address": _text(address)} for hit, address in place.reflexive
            ],
            "knocks": [_knock(*each) for each in knocks],
            "servers": [
                _row(each, rtt) | {"knocks": [_knock(*said) for said in asked]}
                for each, rtt, asked in zip(servers, rtts, through, strict=True)
            ],
            "problems": [advice.to_json() for advice in problems],
        }

    async def _discover(self) -> list[Hit]:
        """Let so many servers tell where they see us that the kind of NAT can be known.

        Returns:
            Who was asked (RFC 9028 §4.2), and may forget us again.
        """
        place = self._host.reachability()
        told = {hit for hit, _ in place.reflexive}
        others = [s for s in self.keeper.servers if s.rtt is not None and s.hit not in told]
        others.sort(key=lambda server: server.distance)
        hits = [server.hit for server in others]
        if len(told) + len(hits) < DISCOVERED and place.mapped:  # who is mapped tests none
            found = await self._scout.search(visible=True)
            hits += [each.hit for each in found if each.hit not in {*told, *hits}]
        asked = hits[: max(DISCOVERED - len(told), 0)]
        await asyncio.gather(*(self._ask_where(hit) for hit in asked))
        return asked

    async def _ask_where(self, hit: Hit) -> None:
        with contextlib.suppress(HipError, TimeoutError):
            await self._host.register(hit, [DISCOVERY], local=self._local, timeout=PING_SECONDS)

    def _seen(self) -> Seen:
        machine, place = self.reachable, self._place or Reachability()
        wanted = frozenset(self.keeper.wants) & frozenset(THROUGH)
        return Seen(
            facts=machine.facts,
            proven=machine.proven,
            verdicts=machine.verdicts,
            silent=machine.silent,
            nat=place.nat,
            mapped=bool(place.mapped),
            met=any(home.node.engine.has_others() for home in self._homes),
            known=sum(bool(server.types & wanted) for server in self.keeper.servers),
            refusals=tuple(self.keeper.refusals.values()),
            searched=self.keeper.searched,
            visible=self._visible,
            rendezvous=self._scout.rendezvous,
            data=len(self.keeper.serving(DATA)),
        )

    # --- what happens

    def _on_event(self, event: Event) -> None:
        if not self._running:
            return
        if isinstance(event, RegistrationEnded) and event.local == self._local:
            self._feed(lambda now: self.keeper.on_ended(event.server, event.type, now))
        if isinstance(event, Woke):
            self._examiner.feed(self.reachable.on_network)
        self._look()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self._look()

    def _look(self) -> None:
        """See where we are, and who is there."""
        place, now = self._host.reachability(), self._now()
        slept = abs(self._wall() - now - self._gap) > JUMP
        self._gap = self._wall() - now
        moved = self._place is not None and _is_elsewhere(place, self._place)
        self._place = place
        if slept or moved:
            self._since, self._asked = now, False
            if moved:
                self._lacked_at = None
            self._examiner.feed(self.reachable.on_network)
            self._feed(self.keeper.on_network)
        for server in list(self.keeper.servers):
            if server.retry > now and self._heard(server.hit) > server.failed:
                self._feed(partial(self.keeper.on_seen, server.hit))
        self._settle()
        self._whereabouts.keep(self._met()[:MOST_FRIENDS])
        friends = self._whom_to_befriend()
        if friends != self._friends:
            self._friends = friends
            self._host.befriend(friends, local=self._local)

    def _whom_to_befriend(self) -> tuple[Hit, ...]:
        """With whom a way is kept open by ourselves, for whom strangers don't reach.

        In an overlay of few that is everybody: no server need be awake when two of them are. In
        a larger one it is those whom we heard last, as long as no server makes us callable.
        """
        if self.reachable.proven or self._hidden:
            return ()
        if self._many and self.keeper.serving(*THROUGH):
            return ()
        return tuple(sorted(self._met()[:MOST_FRIENDS]))

    def _met(self) -> list[Hit]:
        """Everybody in our overlays of whom we know, the latest first."""
        met = (hit for home in self._homes for hit in home.node.engine.met())
        return [hit for hit in dict.fromkeys(met) if hit not in self._host.hits]

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
        hidden = self._hidden = self._is_hidden(place)
        self._host.hide(self._local, hidden=hidden)
        facts = Facts(
            network=bool(place.addresses),
            direct=bool(place.direct) and not hidden,
            neighbours=len(self._witnesses.neighbours()),
            through=len(self.keeper.serving(*THROUGH)),
        )
        if facts != self.reachable.facts:
            self._examiner.feed(lambda now: self.reachable.on_facts(facts, now))
        for home in self._homes:
            home.providers.open(self.reachable.proven is not False)
        ways = self._ways()
        self._driver.feed(lambda now: self.keeper.want(ways, now))

    def _is_hidden(self, place: Reachability) -> bool:
        """Whether strangers don't learn our address, which servers make needless.

        Where there are none, it is told: somebody must be able to call us. Among few, servers
        that come and go are some of themselves, and the address is what they find each other by
        when those sleep: it must be known by then.
        """
        now = self._now()
        if not self._hides:
            return False
        if self._must_hide(place, now):
            lacked = self._lacked_at is not None and now < self._lacked_at + UNSTEADY
            return not (lacked and place.addresses and not self._many)
        if now >= max(self._since, self._hid_at or self._since) + HIDING:
            self._lacked_at = now
        return False

    def _must_hide(self, place: Reachability, now: float) -> bool:
        """Whether servers make us callable, or may do so in a moment."""
        if self.keeper.serving(*THROUGH):
            self._hid_at = now
        if not place.addresses:  # nobody hears it now; with the network servers may come back
            self._hid_at = None if self._hid_at is None else now
            return True
        if self._hid_at is not None:
            if self._is_cut_off(self._hid_at, now):
                self._silent_at = now
            return now < max(self._hid_at, self._silent_at) + HIDING
        likely = bool(self.keeper.servers) or not self._asked
        looking = likely and now < self._since + HEAD_START
        return looking and bool(self._host.groups(place.direct))

    def _is_cut_off(self, since: float, now: float) -> bool:
        """Whether nobody of many has said anything since: servers may be back when we are."""
        if now >= since + CUT_OFF or not self._many:
            return False
        contacts = (each for home in self._homes for each in home.node.engine.table.contacts())
        return all(contact.heard <= since for contact in contacts)

    def _ways(self) -> tuple[Wants, ...]:
        proven, place = self.reachable.proven, self._place
        if proven and not self._hides:
            return ()
        early = proven is None and self._now() - self._since < HEAD_START
        if early and not self._hides and place is not None and self._host.groups(place.direct):
            return ()
        return (RENDEZVOUS_SERVERS, RELAYS) if self._visible else (RELAYS,)

    # --- what the machines want

    def _on_keeper(self, action: keeper.Action) -> None:
        match action:
            case Search():
                self._spawn(self._search(), "search")
            case Try(hit):
                self._spawn(self._test(hit), "test")
            case Register(hit, types):
                self._spawn(self._register(hit, types), "register")
            case Unregister(hit, types):
                self._spawn(self._unregister(hit, types), "unregister")
            case Probe(hit):
                self._spawn(self._probe(hit), "probe")
            case Keep(hit):
                server = self.keeper.servers.get(hit)
                self._scout.keep(hit, server.types if server is not None else ())

    def _on_reachable(self, action: reachable.Action) -> None:
        match action:
            case Examine(count, round_):
                self._spawn(self._examine(count, round_), "examine")
            case Changed(reach):
                if reach is Reach.NONE:
                    _log.warning("nobody can call %s; see: p2psip status", self._local)
                else:
                    _log.info("%s can be called %s", self._local, reach.value)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    async def _search(self) -> None:
        since, somebody = self._since, bool(self._witnesses.neighbours())
        found = await self._scout.search(visible=self._visible)
        self._asked |= somebody and since == self._since
        self._feed(lambda now: self.keeper.on_found(found, now, searched=True))

    # --- dealing with one server

    async def _test(self, hit: Hit) -> None:
        rtt = await self._ping(hit)
        types = self._scout.offered(hit)
        if not self._visible:
            types -= {RENDEZVOUS}
        self._feed(lambda now: self.keeper.on_tested(hit, rtt, types, now))

    async def _probe(self, hit: Hit) -> None:
        rtt = await self._ping(hit)
        if rtt is not None and not await self._passes(hit):
            self._feed(lambda now: self.keeper.on_useless(hit, "it passes no calls on", now))
        else:
            self._feed(lambda now: self.keeper.on_probed(hit, rtt, now))

    async def _knocks_through(self, hit: Hit, count: int) -> list[tuple[Hit, Knocked]]:
        """Let neighbours knock at us by way of a server."""
        contact = self._host.through(self._local, hit)
        return await self._witnesses.ask(count, contact, without=(hit,))

    async def _passes(self, hit: Hit) -> bool:
        """Whether a relay passes on to us what strangers say, as far as neighbours can tell.

        What passes a rendezvous server is answered directly: NATs before neighbours may stop that.
        """
        now, server = self._now(), self.keeper.servers.get(hit)
        relays = server is not None and CONTROL in server.held
        if not relays or now < self._passed.get(hit, float("-inf")) + PASSES:
            return True
        asked = await self._knocks_through(hit, reachable.ASKED)
        said = Counter(verdict for _, verdict in asked)
        if said[Knocked.NO] >= DOUBTS and not said[Knocked.YES]:
            return False
        serving = {server.hit for server in self.keeper.serving(*THROUGH)}
        self._passed = {server: at for server, at in self._passed.items() if server in serving}
        self._passed[hit] = now
        return True

    async def _ping(self, hit: Hit) -> float | None:
        node = self._scout.node(hit)
        return None if node is None else await node.ping(hit, PING_SECONDS)

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


def _row(server: Server, rtt: float | None) -> dict[str, Any]:
    """One server, JSON-ready."""
    return {
        "hit": str(server.hit),
        "for": sorted(NAMES[type_] for type_ in server.held),
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
    }


def _knock(by: Hit, said: Knocked) -> dict[str, str]:
    """What a neighbour said that knocked, JSON-ready."""
    return {"by": str(by), "result": said.value}


def _router(row: Mapping[str, object]) -> dict[str, object]:
    """What came of asking one router for a mapping, JSON-ready."""
    said = {key.replace(" ", "_"): value for key, value in row.items()}
    match said.get("external"):
        case (str(ip), int(port)):
            said["external"] = _text((ip, port))
    return said


def _text(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _is_elsewhere(place: Reachability, before: Reachability) -> bool:
    return (
        set(place.addresses) != set(before.addresses)
        or set(place.mapped) != set(before.mapped)
        or place.direct != before.direct
    )
