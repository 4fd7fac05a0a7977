"""Shell: keeps one HIT of this peer callable, and knows whether it is.

It carries out what ``keeper`` and ``reachable`` say: looks for servers in the overlays and among
the neighbours, tests and registers; asks neighbours to knock; watches the host.
"""

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Self

from hipctl import (
    AssociationFailed,
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
from overlay.advice import Advice, Seen, what_limits, why_nobody_calls
from overlay.errors import OverlayError
from overlay.keeper import Keep, Keeper, Probe, Register, Search, Try, Unregister
from overlay.knocking import Knocked
from overlay.node import Node
from overlay.providers import Providers
from overlay.reachable import Changed, Examine, Facts, Reach, Reachable
from overlay.routing import Contact
from overlay.servers import (
    CONTROL,
    DATA,
    RELAYS,
    RENDEZVOUS,
    RENDEZVOUS_SERVERS,
    THROUGH,
    Found,
    Server,
    Wants,
)

_log = logging.getLogger(__name__)

LOOK: Final = 5.0  # seconds between looks at the host
HEAD_START: Final = 3.0  # seconds for which a public address needs no servers before it is proven
PING_SECONDS: Final = 3.0
REGISTER_SECONDS: Final = 3.0
KINDS: Final = {"relay": frozenset((CONTROL, DATA)), "rvs": frozenset((RENDEZVOUS,))}
NAMES: Final = {CONTROL: "control relay", DATA: "data relay", RENDEZVOUS: "rendezvous server"}


class Home(NamedTuple):
    """One overlay in which the HIT takes part."""

    node: Node
    providers: Providers


class Callability:
    """Keeps one HIT callable.

    Args:
        host: the HIP host.
        local: the HIT.
        homes: its overlays.
        visible: whether strangers may see our address: rendezvous servers will do.
        rng: random bytes.
    """

    def __init__(
        self,
        host: Host,
        local: Hit,
        homes: Sequence[Home],
        *,
        visible: bool = False,
        rng: Callable[[int], bytes],
    ) -> None:
        self._host = host
        self._local = local
        self._homes = tuple(homes)
        self._visible = visible
        self._rng = rng
        self.keeper = Keeper()
        self.reachable = Reachable()
        self._known: dict[Hit, tuple[Node, bytes]] = {}  # servers: whose they are, their contact
        self._rendezvous = False  # there are such servers, but we must not use them
        self._place: Reachability | None = None
        self._asked: Counter[Hit] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = 0.0
        self._running = False

    async def __aenter__(self) -> Self:
        """Begin; nothing is waited for."""
        loop = asyncio.get_running_loop()
        self._now, self._began = loop.time, loop.time()
        self._driver = Driver[keeper.Action](self.keeper, self._on_keeper)
        self._examiner = Driver[reachable.Action](self.reachable, self._on_reachable)
        self._unwatch = self._host.watch(self._on_event)
        self._running = True
        self._place = self._host.reachability()
        self._recall()
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
            self._ask(reachable.ASKED),
            asyncio.gather(*(self._ping(server.hit) for server in servers)),
        )
        place = self._place or Reachability()
        verdicts = Counter(verdict for _, verdict in knocks)
        seen = dataclasses.replace(self._seen(), verdicts=verdicts or self.reachable.verdicts)
        if self.reach is Reach.NONE:
            problems = why_nobody_calls(seen)
        else:
            problems = what_limits(seen) if self.reach is Reach.SERVED else []
        return {
            "hit": str(self._local),
            "callable": self.callable,
            "reach": self.reach.value,
            "nat": place.nat.value,
            "addresses": [_text(address) for address in place.addresses],
            "mapped": [
                {"protocol": protocol, "address": _text(address)}
                for protocol, address in place.mapped
            ],
            "reflexive": [
                {"by": str(hit), "address": _text(address)} for hit, address in place.reflexive
            ],
            "knocks": [{"by": str(hit), "result": said.value} for hit, said in knocks],
            "servers": [_row(each, rtt) for each, rtt in zip(servers, rtts, strict=True)],
            "problems": [advice.to_json() for advice in problems],
        }

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
            rendezvous=self._rendezvous,
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
        place = self._host.reachability()
        if self._place is not None and _is_elsewhere(place, self._place):
            self._place = place
            self._examiner.feed(self.reachable.on_network)
            self._feed(self.keeper.on_network)
        self._place = place
        self._settle()

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
        facts = Facts(
            network=bool(place.addresses),
            direct=bool(place.direct),
            neighbours=sum(1 for _ in self._neighbours()),
            through=len(self.keeper.serving(*THROUGH)),
        )
        if facts != self.reachable.facts:
            self._examiner.feed(lambda now: self.reachable.on_facts(facts, now))
        for home in self._homes:
            home.providers.open(self.reachable.proven is not False)
        ways = self._ways()
        self._driver.feed(lambda now: self.keeper.want(ways, now))

    def _ways(self) -> tuple[Wants, ...]:
        proven, place = self.reachable.proven, self._place
        if proven:
            return ()
        early = proven is None and self._now() - self._began < HEAD_START
        if early and place is not None and self._host.groups(place.direct):
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
                self._keep(hit)

    def _on_reachable(self, action: reachable.Action) -> None:
        match action:
            case Examine(count, round_):
                self._spawn(self._examine(count, round_), "examine")
            case Changed(reach):
                log = _log.warning if reach is Reach.NONE else _log.info
                log("%s can be called: %s", self._local, reach.value)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    # --- looking for servers

    async def _search(self) -> None:
        found: dict[Hit, Found] = {}
        for home in self._homes:
            for kind in KINDS:
                for each in await self._providers(home, kind):
                    before = found.get(each.hit)
                    types = each.types | (before.types if before else frozenset())
                    found[each.hit] = each._replace(types=types)
            found |= {each.hit: each for each in self._offering(home)}
        usable = set(RELAYS) | (set(RENDEZVOUS_SERVERS) if self._visible else set())
        self._rendezvous = any(RENDEZVOUS in each.types for each in found.values())
        offers = [each._replace(types=each.types & usable) for each in found.values()]
        offers = [each for each in offers if each.types]
        offers.sort(key=lambda each: self._rng(4))  # not everybody asks the same one first
        self._feed(lambda now: self.keeper.on_found(offers, now, searched=True))

    async def _providers(self, home: Home, kind: str) -> list[Found]:
        """Those whose SVC records say so."""
        try:
            providers = await home.providers.find(kind)
        except OverlayError:
            return []
        for each in providers:
            self._known[each.hit] = home.node, each.contact
        return [
            Found(each.hit, KINDS[kind], self._host.groups(each.contact), each.capacity > 0)
            for each in providers
        ]

    def _offering(self, home: Home) -> list[Found]:
        """Those of our neighbours that said so in the exchange."""
        found = []
        for contact in home.node.engine.table.contacts():
            types = self._offered(contact.hit)
            if types and contact.hit not in self._host.hits:
                self._known[contact.hit] = home.node, contact.contact
                found.append(Found(contact.hit, types, contact.groups, proven=True))
        return found

    def _offered(self, hit: Hit) -> frozenset[RegistrationType]:
        offered = self._host.offered(hit, local=self._local) or frozenset()
        return offered & frozenset(NAMES)

    def _recall(self) -> None:
        """Begin with those who served us before."""
        found = []
        for home in self._homes:
            node = home.node
            for hit, contact, types in node.store.servers(node.overlay.id):
                if hit not in self._host.hits:
                    self._known[hit] = node, contact
                    node.learn(hit, contact)
                    known = frozenset(t for t in NAMES if t in types)
                    found.append(Found(hit, known, self._host.groups(contact), good=True))
        self._driver.feed(lambda now: self.keeper.on_found(found, now, searched=False))

    def _keep(self, hit: Hit) -> None:
        if hit in self._known:
            node, contact = self._known[hit]
            server = self.keeper.servers.get(hit)
            types = server.types if server is not None else ()
            node.store.keep_server(node.overlay.id, hit, contact, types, node.wall())

    # --- dealing with one server

    async def _test(self, hit: Hit) -> None:
        rtt = await self._ping(hit)
        types = self._offered(hit)
        if not self._visible:
            types -= {RENDEZVOUS}
        self._feed(lambda now: self.keeper.on_tested(hit, rtt, types, now))

    async def _probe(self, hit: Hit) -> None:
        rtt = await self._ping(hit)
        self._feed(lambda now: self.keeper.on_probed(hit, rtt, now))

    async def _ping(self, hit: Hit) -> float | None:
        if hit not in self._known:
            return None
        return await self._known[hit][0].ping(hit, PING_SECONDS)

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
        try:
            async with asyncio.timeout(REGISTER_SECONDS):
                await self._host.unregister(hit, types, local=self._local)
        except (HipError, TimeoutError):
            pass  # it is dead, or will notice
        self._feed(lambda now: self.keeper.on_unregistered(hit, now))

    # --- asking neighbours

    def _neighbours(self) -> "list[tuple[Home, Contact]]":
        """Those who seem to be there."""
        return [
            (home, contact)
            for home in self._homes
            for contact in home.node.engine.table.contacts()
            if not contact.failures
        ]

    async def _examine(self, count: int, round_: int) -> None:
        verdicts = [verdict for _, verdict in await self._ask(count)]
        self._examined(lambda now: self.reachable.on_examined(round_, verdicts, now))

    async def _ask(self, count: int) -> list[tuple[Hit, Knocked]]:
        """Let so many neighbours knock at us, those outside of our LAN if there are any."""
        place = self._place
        if place is None or not place.direct:
            return []
        asked = [
            (home, contact)
            for home, contact in self._neighbours()
            if self._host.connected(contact.hit)
        ]
        asked = [each for each in asked if each[1].groups] or asked
        chosen = _spread(sorted(asked, key=lambda each: self._asked[each[1].hit]), count)
        self._asked.update(contact.hit for _, contact in chosen)
        if len(self._asked) > 1024:
            self._asked.clear()
        answers = await asyncio.gather(
            *(home.node.ask_to_knock(contact.hit, place.direct) for home, contact in chosen)
        )
        return [(contact.hit, said) for (_, contact), said in zip(chosen, answers, strict=True)]


def _row(server: Server, rtt: float | None) -> dict[str, Any]:
    """One server, JSON-ready."""
    return {
        "hit": str(server.hit),
        "for": sorted(NAMES[type_] for type_ in server.held),
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
    }


def _text(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _is_elsewhere(place: Reachability, before: Reachability) -> bool:
    return (
        set(place.addresses) != set(before.addresses)
        or set(place.mapped) != set(before.mapped)
        or place.direct != before.direct
    )


def _spread(neighbours: Sequence[tuple[Home, Contact]], count: int) -> list[tuple[Home, Contact]]:
    """The first ``count``, but as many places as possible among them."""
    chosen: list[tuple[Home, Contact]] = []
    seen: set[bytes] = set()
    rest = []
    for each in neighbours:
        if each[1].groups & seen:
            rest.append(each)
        else:
            chosen.append(each)
            seen |= each[1].groups
    return [*chosen, *rest][:count]
