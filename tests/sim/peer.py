"""Peers whose overlay is a dict: ``overlay.services.Peer`` over SimHosts of ``sim.hits``.

world = World(seed=1)
alice, bob = world.peer("sip:alice@example.org"), world.peer("sip:bob@example.org")
service = SipService(alice, {})
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hipctl import Hit, Host
from overlay import (
    Contacts,
    Evidence,
    LookupFailed,
    NotFound,
    Provider,
    Target,
    Trace,
    Verdict,
)
from overlay.policy import ContactsFirst, Policy
from sim.hits import HitNet, SimHost

LIFETIME = 3600


@dataclass
class SimContacts:
    """Petnames in a dict, keys in lower case."""

    names: dict[str, str] = field(default_factory=dict)

    def uri(self, name: str) -> str | None:
        return self.names.get(name.lower())


@dataclass
class SimTrace:
    """Every mark, in order: (time, call, step, detail)."""

    marks: list[tuple[float, str, str, str]] = field(default_factory=list)

    def mark(self, call: str, step: str, detail: str = "") -> None:
        self.marks.append((asyncio.get_running_loop().time(), call, step, detail))

    def steps(self) -> list[str]:
        return [step for _, _, step, _ in self.marks]


@dataclass
class World:
    """What all peers share: the network of HITs, and who is registered under which AoR.

    Attributes:
        delay: seconds that a lookup takes.
        fails: whether lookups fail (LookupFailed) for now.
        hangs: whether lookups never end for now.
    """

    seed: int = 0
    domain: str = "example.org"
    net: HitNet = field(default_factory=HitNet)
    delay: float = 0.05
    fails: bool = False
    hangs: bool = False
    held: dict[str, set[Hit]] = field(default_factory=dict)
    published: dict[str, dict[Hit, int]] = field(default_factory=dict)
    offered: dict[str, dict[Hit, int]] = field(default_factory=dict)

    def peer(self, *aors: str) -> "SimPeer":
        return SimPeer(self, self.net.host(), aors)

    async def ask(self) -> None:
        await asyncio.sleep(1e6 if self.hangs else self.delay)
        if self.fails:
            raise LookupFailed("nobody answered")


class SimPeer:
    """One peer; ``policy`` and ``blocked`` may be set by tests."""

    def __init__(self, world: World, host: SimHost, aors: Sequence[str]) -> None:
        self.world = world
        self.sim = host
        self.book = SimContacts()
        self.marks = SimTrace()
        self.policy: Policy = ContactsFirst()
        self.blocked: set[str] = set()
        self.judged: list[Evidence] = []
        self.puts: list[tuple[str, str]] = []
        self._aors = dict.fromkeys(aors, host.hits[0])
        for aor in aors:
            world.held.setdefault(aor, set()).add(host.hits[0])

    @property
    def host(self) -> Host:
        return self.sim

    @property
    def hit(self) -> Hit:
        return self.sim.hits[0]

    @property
    def domains(self) -> Sequence[str]:
        return (self.world.domain,)

    @property
    def contacts(self) -> Contacts:
        return self.book

    @property
    def trace(self) -> Trace:
        return self.marks

    def aors(self) -> Mapping[str, Hit]:
        return self._aors

    async def resolve(self, aor: str) -> list[Target]:
        await self.world.ask()
        found = self.world.published.get(aor)
        if not found:
            raise NotFound(aor)
        for hit in found:
            self.sim.learn(hit, self.world.net.hosts[hit].contact(hit))
        return [Target(aor, hit, port, hit, LIFETIME) for hit, port in found.items()]

    async def connect(self, peer: Hit, *, local: Hit, timeout: float = 5.0) -> None:
        await self.sim.connect(peer, local=local, timeout=timeout)

    async def owns(self, aor: str, hit: Hit) -> bool:
        if aor not in self._aors:
            await asyncio.sleep(self.world.delay)
        return hit in self.world.held.get(aor, ())

    async def publish(self, aor: str, port: int) -> None:
        if aor not in self._aors:
            raise NotFound(aor)
        self.puts.append(("publish", aor))
        self.world.published.setdefault(aor, {})[self.hit] = port

    async def withdraw(self, aor: str) -> None:
        self.puts.append(("withdraw", aor))
        self.world.published.get(aor, {}).pop(self.hit, None)

    def advertise(self, kind: str, port: int = 0, capacity: Callable[[], int] = lambda: 0) -> None:
        self.world.offered.setdefault(kind, {})[self.hit] = port

    async def unadvertise(self, kind: str) -> None:
        self.world.offered.get(kind, {}).pop(self.hit, None)

    async def find(self, kind: str) -> list[Provider]:
        await self.world.ask()
        found = self.world.offered.get(kind, {}).items()
        hosts = self.world.net.hosts
        return [
            Provider(hit, kind, port, 0, LIFETIME, hosts[hit].contact(hit))
            for hit, port in found
            if hit != self.hit
        ]

    def judge(self, evidence: Evidence) -> Verdict:
        self.judged.append(evidence)
        if evidence.caller in self.blocked:
            return Verdict.REFUSE
        return self.policy.judge(evidence)
