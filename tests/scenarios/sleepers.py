"""Overlays of few whole peers behind NATs, each asleep most of the time, who call each other.

    outcome = simulate(lambda: run(Plan(kinds=family(3), seed=1)))
    print(outcome)

Peers are real, with real hosts and real keys, on the machines of ``sim.nats``. A call is what a
gateway does before it sends INVITE, and a round trip: resolve, associate, ask and be answered.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hipctl import (
    AssociationUp,
    EngineConfig,
    Event,
    HipError,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
)
from overlay.accounts import AccountKey, self_certifying_aor
from overlay.admission import Account
from overlay.builtin import RelayService, RendezvousService
from overlay.config import (
    HostTable,
    IdentityTable,
    JoinedOverlay,
    OverlayTable,
    PeerTable,
    Profile,
)
from overlay.contacts import ContactBook
from overlay.errors import OverlayError
from overlay.overlayfile import Seed, found_overlay
from overlay.peer import LocalPeer
from overlay.services import Service
from overlay.store import MemoryStore
from sim.ladder import of_internet
from sim.machines import Machine
from sim.mapper import machine_mapper
from sim.nats import Internet, Kind

WALL = 1_800_000_000.0  # Unix seconds at the beginning
PORT = 5060
HIP_PORT = 10_500
DOMAIN = "family.example"
REACHABLE = {Kind.PUBLIC, Kind.MAPPED}
OFFERED = ("rvs", "relay")  # services of whoever is reachable

_HIT = re.compile(r"2001:2[0-9a-f:]+[0-9a-f]")
_SLEPT = "one of them fell asleep"
_MOST_FAILURES = 1_000
_MOST_LADDERS = 3
_BEFORE = 10.0  # seconds of a ladder before the call
_AGAIN = 0.5  # seconds until a question is asked once more (T1 of RFC 3261)
_TRY = 2.0  # seconds that one attempt may take of whoever tries until it works
_PAUSE = 0.25  # and between two of them


def family(size: int, *, symmetric: bool = False) -> tuple[Kind, ...]:
    """Where the peers of an overlay of that size are: one NAT of all maps ports.

    Args:
        size: how many.
        symmetric: whether some are behind symmetric NATs: between those and port-restricted
            ones nothing goes without a data relay.
    """
    others = [Kind.PORT_RESTRICTED, Kind.ENDPOINT_INDEPENDENT, Kind.ADDRESS_RESTRICTED]
    if symmetric:
        others.insert(1, Kind.SYMMETRIC)
    return (Kind.MAPPED, *(others[i % len(others)] for i in range(size - 1)))


@dataclass(frozen=True)
class Plan:
    """What happens; times in seconds.

    Attributes:
        kinds: where each peer is.
        seed: of everything random.
        seconds: how long they sleep and call, after ``forming``.
        awake: mean of the times awake, which are exponentially distributed.
        asleep: the same, asleep; 0 for those who never sleep.
        forming: at first all are awake for so long.
        every: mean time between two calls.
        settled: who is awake for so long counts as awake.
        patience: of who calls.
        quits: the share of sleeps in which the program ends without a word and starts again.
        loss: probability per datagram, on the Internet.
        acquainted: whether each has the others among its contacts, as families do.
        clock_stops: whether a sleeping machine's monotonic clock stands still, as on Linux.
    """

    kinds: tuple[Kind, ...]
    seed: int = 1
    seconds: float = 600.0
    awake: float = 90.0
    asleep: float = 210.0
    forming: float = 60.0
    every: float = 3.0
    settled: float = 5.0
    patience: float = 10.0
    quits: float = 0.0
    loss: float = 0.0
    acquainted: bool = True
    clock_stops: bool = True

    @property
    def always(self) -> bool:
        """Whether two who are awake can talk also while nobody whom others can reach is.

        Contacts know where each other was, and their NATs let each other's packets in; but not
        symmetric ones.
        """
        return self.acquainted and Kind.SYMMETRIC not in self.kinds


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        calls: by "who could be reached" (bool) and what became of them.
        failures: (when, caller, callee, why), the first of them.
        called_after: seconds from waking until another reached the waker, of those who woke while
            somebody was awake, and unless that is ``always`` so, one of these could be reached;
            infinite where it slept again before.
        calls_after: seconds from waking until the waker reached another, of the same.
        exchanges: base exchanges that were completed.
        ladders: what was on the wire around the first failures.
    """

    plan: Plan
    calls: dict[bool, Counter[str]] = field(
        default_factory=lambda: {k: Counter() for k in (True, False)}
    )
    failures: list[tuple[float, int, int, str]] = field(default_factory=list)
    called_after: list[float] = field(default_factory=list)
    calls_after: list[float] = field(default_factory=list)
    exchanges: int = 0
    ladders: list[str] = field(default_factory=list)

    def success(self, reachable: bool = True) -> float:
        """The share of calls that succeeded, of those that were tried; not a number of none."""
        tried = self.tried(reachable)
        return self.calls[reachable]["succeeded"] / tried if tried else nan

    def tried(self, reachable: bool = True) -> int:
        """How many calls there were that nobody's sleep interrupted."""
        calls = self.calls[reachable]
        return calls.total() - calls["interrupted"]

    def _why(self, failure: tuple[float, int, int, str]) -> str:
        """A failure in general terms."""
        _, caller, callee, reason = failure
        kinds = self.plan.kinds
        return f"{kinds[caller].value} to {kinds[callee].value}: {_HIT.sub('HIT', reason)}"

    def __str__(self) -> str:
        """A figure of each, in a few lines."""
        plan = self.plan
        lines = [
            f"{len(plan.kinds)} peers ({', '.join(kind.value for kind in plan.kinds)}), "
            f"seed {plan.seed}, {plan.seconds / 60:g} min:"
        ]
        for reachable, where in ((True, "one of the awake can be reached"), (False, "none can")):
            calls = self.calls[reachable]
            if calls.total():
                lines.append(
                    f"  calls where {where}: {self.success(reachable):.2%}, {dict(calls)}"
                )
        for name, found in (("called", self.called_after), ("calls", self.calls_after)):
            if found:
                at = ", ".join(f"p{p} {percentile(found, p):.2f} s" for p in (50, 95, 99))
                lines.append(f"  from waking until it {name}: {at} (of {len(found)})")
        why = Counter(map(self._why, self.failures))
        lines += [f"  failed {times} times: {reason}" for reason, times in why.most_common(9)]
        lines.append(f"  base exchanges: {self.exchanges / (plan.seconds / 60):.1f} a minute")
        return "\n".join(lines)


def percentile(found: Sequence[float], p: int) -> float:
    """The smallest value that ``p`` percent don't exceed."""
    ordered = sorted(found)
    return ordered[min(len(ordered) * p // 100, len(ordered) - 1)]


class Gateway:
    """In place of the SIP gateway: answers questions at its port, and asks."""

    def __init__(self, peer: Any, table: Mapping[str, Any]) -> None:
        self._peer = peer
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._numbers = count()

    async def start(self) -> None:
        for aor, hit in self._peer.aors().items():
            self._endpoint = self._peer.host.open(hit, PORT, self._on_datagram)
            await self._peer.publish(aor, PORT)

    async def stop(self) -> None:
        self._endpoint.close()

    def status(self) -> Mapping[str, Any]:
        return {}

    async def call(self, aor: str, patience: float) -> None:
        """Resolve, associate, ask, and be answered.

        Raises:
            OverlayError, HipError, TimeoutError: it did not come to that.
        """
        async with asyncio.timeout(patience):
            target = (await self._peer.resolve(aor))[-1]
            self._peer.host.disclose(target.hit)  # as the gateway does: our user calls it
            await self._peer.host.connect(target.hit, timeout=patience)
            number = next(self._numbers).to_bytes(4, "big")
            answered = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                while not answered.done():
                    self._endpoint.send(b"?" + number, target.hit, target.port)
                    await asyncio.wait([answered], timeout=_AGAIN)
            finally:
                del self._waiting[number]

    def _on_datagram(self, data: bytes, source: Hit, port: int) -> None:
        if data[:1] == b"?":
            self._peer.host.disclose(source)  # as the gateway does: our user answers
            self._endpoint.send(b"!" + data[1:], source, port)
        elif (answered := self._waiting.get(data[1:])) and not answered.done():
            answered.set_result(None)


class _Point:
    """An entry point."""

    def __init__(self, name: str, found: Callable[..., Service]) -> None:
        self.name = name
        self.load = lambda: found


_SERVICES = [
    _Point("sip", Gateway),
    _Point("rvs", RendezvousService),
    _Point("relay", RelayService),
]


class Sleeper:
    """One peer and its machine.

    Attributes:
        since: when it woke last.
        running: whether its programs were started and have not ended.
    """

    def __init__(self, world: "World", number: int, kind: Kind) -> None:
        self.number = number
        self.kind = kind
        self.identity = HostIdentity.from_secret(90_000 + number)
        account = AccountKey(HostIdentity.from_secret(91_000 + number))
        self.account = Account((account.delegate(self.identity.hit, int(WALL) + 30_000_000, 1),))
        self.aor = self_certifying_aor(account.hit, DOMAIN)
        internet = world.internet
        self.machine: Machine = internet.machine(
            f"peer{number}", internet.place(kind, f"home{number}")
        )
        self.machine.clock_stops = world.plan.clock_stops
        self.address = self._outer()
        self.since = 0.0
        self.running = False
        self.store = MemoryStore()
        self.host: LocalHost
        self.peer: LocalPeer
        self._world = world

    @property
    def gateway(self) -> Gateway:
        """Of the peer that runs now."""
        found = self.peer._services["sip"]
        assert isinstance(found, Gateway)
        return found

    async def start(self) -> None:
        """Start host and peer, as new programs on this machine."""
        loop, rng = asyncio.get_running_loop(), self._world.random.randbytes
        self.host = LocalHost(
            [self.identity],
            HostConfig(engine=EngineConfig(k=1, first_generation=int(WALL + loop.time()))),
            open_port=self.machine.open,
            watch=self.machine.watch,
            map_port=machine_mapper(self.machine),
            rng=rng,
        )
        served = OFFERED if self.kind in REACHABLE else ()
        self.peer = LocalPeer(
            self._world.profile(self, ["sip", *served]),
            host=self.host,
            identities={"device": self.identity},
            store=self.store,
            installed=_SERVICES,  # type: ignore[arg-type]
            now=self.machine.loop.time,
            wall=lambda: WALL + loop.time(),
            rng=rng,
        )
        self.host.watch(self._world.on_event)
        await self.machine.run(self.host.__aenter__())
        await self.machine.run(self.peer.__aenter__())
        self.running = True

    async def stop(self) -> None:
        """End both as somebody would who stops a peer."""
        self.machine.wake()
        if self.running:
            await self.machine.run(self.peer.__aexit__())
            await self.machine.run(self.host.__aexit__())
            await self.die()

    async def die(self) -> None:
        """End both without a word."""
        self.running = False
        await self.machine.halt()

    def told(self) -> str:
        """What the peer says is missing for it to be called, "" if nothing is."""
        status = self.machine.call(self.peer.status)
        return "; ".join(advice["missing"] for advice in status["why"])

    def _outer(self) -> tuple[str, int]:
        assert self.machine.at
        router = self.machine.at.router
        if router is None:
            return self.machine.ips[0], HIP_PORT
        return router.four.ip, HIP_PORT


class World:
    """All of it; ``async with World(plan) as world``.

    Attributes:
        sleepers: the peers, with growing numbers.
        outcome: what was measured.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self._when = random.Random(
            plan.seed
        )  # who sleeps and calls when; peers draw from the other
        self.internet = Internet(seed=plan.seed, loss=plan.loss, families="4")
        self.info = found_overlay(DOMAIN, rng=lambda n: bytes(range(1, n + 1)))
        self.sleepers = [Sleeper(self, number, kind) for number, kind in enumerate(plan.kinds)]
        self.outcome = Outcome(plan)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ups = 0
        self._folder = TemporaryDirectory()
        self._contacts = Path(self._folder.name, "contacts.toml")
        if plan.acquainted:
            book = ContactBook(self._contacts)
            for sleeper in self.sleepers:
                book.add(f"peer{sleeper.number}", sleeper.aor)

    async def __aenter__(self) -> "World":
        for sleeper in self.sleepers:
            await sleeper.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for sleeper in self.sleepers:
            await sleeper.stop()
        self._folder.cleanup()

    def profile(self, sleeper: Sleeper, services: list[str]) -> Profile:
        """What a person would have: the overlay's file names whom one can reach."""
        here = [s for s in self.sleepers if s.kind in REACHABLE] or self.sleepers[:1]
        joined = JoinedOverlay(
            name="main",
            table=OverlayTable(
                identity="device",
                file=Path("overlay.toml"),
                services={name: {} for name in services},
            ),
            info=self.info,
            account=sleeper.account,
            seeds=tuple(Seed(s.identity.hit, *s.address) for s in here if s is not sleeper),
        )
        return Profile(
            path=Path("profile.toml"),
            peer=PeerTable(contacts=self._contacts),
            host=HostTable(),
            identities={"device": IdentityTable(key=Path("device.pem"))},
            overlays={"main": joined},
        )

    async def measure(self) -> Outcome:
        """Let them sleep, wake and call."""
        await asyncio.sleep(self.plan.forming)
        before = self._ups
        if self.plan.asleep:
            for sleeper in self.sleepers:
                self._begin(self._live(sleeper))
        calling = self._begin(self._call_at_random())
        await asyncio.sleep(self.plan.seconds)
        calling.cancel()
        self.outcome.exchanges = (self._ups - before) // 2  # both ends tell
        return self.outcome

    def ready(self) -> list[Sleeper]:
        """Who is awake and has been so for a while."""
        now = asyncio.get_running_loop().time()
        return [s for s in self.sleepers if self.awake(s) and now >= s.since + self.plan.settled]

    def awake(self, *sleepers: Sleeper) -> bool:
        """Whether all of them are."""
        return not any(s.machine.asleep for s in sleepers)

    # what goes on

    def _reachable(self) -> bool:
        """Whether somebody is awake whom others can reach."""
        return any(s.kind in REACHABLE and self.awake(s) for s in self.sleepers)

    async def _live(self, sleeper: Sleeper) -> None:
        plan, rng = self.plan, random.Random(self._when.random())
        if rng.random() < plan.asleep / (plan.asleep + plan.awake):
            await self._sleep(sleeper, rng)
        while True:
            await asyncio.sleep(rng.expovariate(1 / plan.awake))
            await self._sleep(sleeper, rng)
            others = [other for other in self.ready() if other is not sleeper]
            if others and (self.plan.always or self._reachable()):
                other = rng.choice(others)
                self._begin(self._until_called(other, sleeper, self.outcome.called_after))
                self._begin(self._until_called(sleeper, other, self.outcome.calls_after))

    async def _sleep(self, sleeper: Sleeper, rng: random.Random) -> None:
        quits = rng.random() < self.plan.quits
        if quits:
            await sleeper.die()
        sleeper.machine.sleep()
        await asyncio.sleep(rng.expovariate(1 / self.plan.asleep))
        sleeper.machine.wake()
        sleeper.since = asyncio.get_running_loop().time()
        if quits:
            await sleeper.start()

    async def _call_at_random(self) -> None:
        while True:
            await asyncio.sleep(self._when.expovariate(1 / self.plan.every))
            ready = self.ready()
            if len(ready) > 1:
                self._begin(self._call(*self._when.sample(ready, 2)))

    async def _call(self, caller: Sleeper, callee: Sleeper) -> None:
        began = asyncio.get_running_loop().time()
        reachable = self._reachable()
        why = await self._try(caller, callee, self.plan.patience)
        became = "succeeded" if not why else "interrupted" if why == _SLEPT else "failed"
        self.outcome.calls[reachable][became] += 1
        if became == "failed" and len(self.outcome.failures) < _MOST_FAILURES:
            self.outcome.failures.append((began, caller.number, callee.number, why))
            if len(self.outcome.ladders) < _MOST_LADDERS:
                title = f"{began:.3f}: {caller.machine.name} calls {callee.machine.name}: {why}\n"
                drawn = of_internet(self.internet, since=began - _BEFORE)
                self.outcome.ladders.append(title + drawn)

    async def _until_called(self, caller: Sleeper, callee: Sleeper, times: list[float]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while why := await self._try(caller, callee, _TRY):
            if why == _SLEPT:
                if loop.time() - began > self.plan.settled:  # it would have been longer than that
                    times.append(float("inf"))
                return
            await asyncio.sleep(_PAUSE)
        times.append(loop.time() - began)

    async def _try(self, caller: Sleeper, callee: Sleeper, patience: float) -> str:
        """Call; why it came to nothing, "" if it did."""
        if not self.awake(caller, callee):
            return _SLEPT
        calling = asyncio.ensure_future(
            caller.machine.run(caller.gateway.call(callee.aor, patience))
        )
        calling.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not calling.done():
            await asyncio.wait([calling], timeout=0.1)
            if not self.awake(caller, callee):
                calling.cancel()
                return _SLEPT
        try:
            calling.result()
        except (OverlayError, HipError) as error:
            return f"{type(error).__name__}: {error}"
        except TimeoutError:
            return "no answer"
        return ""

    def on_event(self, event: Event) -> None:
        self._ups += isinstance(event, AssociationUp)

    def _begin(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def run(plan: Plan) -> Outcome:
    """Build a world, and measure."""
    async with World(plan) as world:
        return await world.measure()
