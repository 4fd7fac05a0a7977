"""Devices as peers compose them, on the Internet and at home behind NATs, in virtual time."""

import asyncio
import random
from collections.abc import Iterable

from scenarios.swarm import EPOCH, identity, overlay_info
from scenarios.test_dht_small import account_key

from hipctl import Hit, Offer, RegistrationType
from overlay.accounts import self_certifying_aor
from overlay.admission import Account, Credentials
from overlay.callability import Callability
from overlay.directory import Directory
from overlay.node import Node
from overlay.overlayfile import Seed
from overlay.providers import Providers
from overlay.publisher import Publisher
from overlay.reachable import Reach
from overlay.scout import Home
from overlay.store import MemoryStore
from sim.hits import HitNet, SimHost

RELAY = {RegistrationType.RELAY_UDP_HIP: Offer(), RegistrationType.RELAY_UDP_ESP: Offer()}
RVS = {RegistrationType.RENDEZVOUS: Offer()}


class Resident:
    """One device; it may sleep and wake, and keeps its disk.

    Attributes:
        site: its LAN; None: on the Internet itself.
        offers: what it does for others while it is up.
        advertised: kinds that it advertises.
    """

    def __init__(
        self,
        town: "Town",
        number: int,
        *,
        site: str | None,
        offers: dict[RegistrationType, Offer],
        advertised: tuple[str, ...],
        visible: bool,
        hides: bool,
        group: bytes | None,
    ) -> None:
        self.town = town
        self.identity = identity(number)
        self.hit = self.identity.hit
        self.host: SimHost = town.net.host(self.hit, group=group)
        self.host.site = site
        self.offers, self.advertised = offers, advertised
        self.visible, self.hides = visible, hides
        self.account = account_key(number)
        self.delegation = self.account.delegate(self.hit, int(EPOCH) + 86_400 * 300, 1)
        self.aor = self_certifying_aor(self.account.hit, town.overlay.domain)
        self.store = MemoryStore()
        self.seeds: tuple[Hit, ...] = ()
        self.awake = False
        self.woke = 0.0

    async def wake(self) -> "Resident":
        loop = asyncio.get_running_loop()
        self.awake, self.woke = True, loop.time()
        self.host.start()
        for seed in self.seeds:
            if seed not in self.host.learnt:
                self.host.learn(seed, b"sim:" + seed)
        self.node = Node(
            self.host,
            self.hit,
            self.town.overlay,
            Credentials(self.delegation),
            self.store,
            seeds=[Seed(seed, "192.0.2.1", 10500) for seed in self.seeds],
            wall=lambda: EPOCH + loop.time(),
            rng=self.town.random.randbytes,
        )
        await self.node.__aenter__()
        self.publisher = await Publisher(self.node, self.identity).__aenter__()
        account = Account((self.delegation,))
        self.directory = await Directory(self.node, self.publisher, account).__aenter__()
        self.providers = Providers(self.node, self.publisher)
        self.callability = Callability(
            self.host,
            self.hit,
            [Home(self.node, self.providers)],
            visible=self.visible,
            hides=self.hides,
            wall=lambda: EPOCH + loop.time(),
            rng=self.town.random.randbytes,
        )
        await self.callability.__aenter__()
        self.host.offer(self.offers)
        for kind in self.advertised:
            self.providers.advertise(kind, 0, lambda: 100)
        await self.directory.publish(self.aor, 5060)
        return self

    async def sleep(self) -> None:
        """Vanish; nothing is withdrawn."""
        self.awake = False
        self.host.stop()
        await self.callability.__aexit__()
        await self.directory.__aexit__()
        await self.publisher.__aexit__()
        await self.node.__aexit__()

    @property
    def reach(self) -> Reach:
        return self.callability.reach

    def servers(self, *types: RegistrationType) -> set[Hit]:
        wanted = types or tuple(RegistrationType)
        return {r.server for r in self.host.registrations() if r.type in wanted}

    async def calls(self, other: "Resident") -> bool:
        """Whether a call begins: the name is found, and an association comes up."""
        try:
            targets = await self.directory.resolve(other.aor)
            await self.host.connect(targets[0].hit, timeout=3.0)
        except Exception:
            return False
        return targets[0].hit == other.hit


class Town:
    """All residents of one overlay; the first that is on the Internet is everybody's seed."""

    def __init__(self, seed: int = 1, *, latency: tuple[float, float] = (0.01, 0.06)) -> None:
        self.net = HitNet(latency=latency, seed=seed)
        self.random = random.Random(seed)
        self.overlay = overlay_info()
        self.residents: list[Resident] = []

    def add(
        self,
        *,
        site: str | None = None,
        offers: dict[RegistrationType, Offer] | None = None,
        advertised: Iterable[str] = (),
        visible: bool = False,
        hides: bool = False,
        group: bytes | None = None,
    ) -> Resident:
        made = Resident(
            self,
            len(self.residents),
            site=site,
            offers=offers or {},
            advertised=tuple(advertised),
            visible=visible,
            hides=hides,
            group=group,
        )
        self.residents.append(made)
        made.seeds = tuple(r.hit for r in self.residents[:2] if r is not made)
        return made

    def relay(self, *, group: bytes | None = None, hides: bool = False) -> Resident:
        return self.add(offers=RELAY, advertised=("relay",), group=group, hides=hides)

    def homes(self, count: int, *, visible: bool = False) -> list[Resident]:
        return [self.add(site=f"home {n}", visible=visible) for n in range(count)]

    async def wake(self, *some: Resident) -> None:
        for resident in some or self.residents:
            await resident.wake()
            await asyncio.sleep(0.2)

    async def stop(self) -> None:
        for resident in self.residents:
            if resident.awake:
                await resident.sleep()
