"""A host says where routers let others reach it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hipctl import (
    ContactChanged,
    EngineConfig,
    Event,
    HostConfig,
    HostIdentity,
    LocalHost,
    Offer,
    RegistrationEnded,
    RegistrationType,
)
from hipctl.contact import contact_from_addresses
from hipctl.interfaces import OnChange
from hipctl.mapped import Address, Mapped, Protocol
from hipctl.portmap import OnChange as OnMapped
from hipctl.portmap import PortMapper
from hipctl.rtnetlink import LinkAddress
from sim.loop import simulate
from sim.net import Net

KEY = HostIdentity(ec.derive_private_key(5, ec.SECP256R1()))
HOME: Address = ("10.0.0.1", 10500)
OUTER: Address = ("5.9.1.1", 10777)
SIX: Address = ("2400::1", 10500)
MADE = Mapped(OUTER, HOME, Protocol.PCP, "10.0.0.254", 7_200.0, 7_200.0)
PINHOLE = Mapped(SIX, SIX, Protocol.UPNP, "fe80::1%eth0", 3_600.0, 3_600.0)


class Router(PortMapper):
    """Maps what the test wants."""

    def __init__(self, port: int, on_change: OnMapped) -> None:
        super().__init__(port, on_change)
        self.port, self.tell = port, on_change
        self.did: list[object] = []
        self.made: list[Mapped] = []

    def make(self, *mapped: Mapped) -> None:
        self.made = list(mapped)
        self.tell(mapped)

    async def start(self, addresses: Sequence[Address]) -> None:
        self.did.append(("start", list(addresses)))

    async def close(self) -> None:
        self.did.append("close")

    def moved(self, addresses: Sequence[Address]) -> None:
        self.did.append(("moved", list(addresses)))

    @property
    def announced(self) -> list[Mapped]:
        return self.made

    def describe(self) -> list[dict[str, object]]:
        return [{"router": "10.0.0.254"}]


class Machine:
    """A ``roaming.Watch`` at some addresses."""

    def __init__(self, *ips: str) -> None:
        self.ips = ips
        self.tell: OnChange = lambda found: None

    def watch(self, on_change: OnChange) -> "Machine":
        self.tell = on_change
        return self

    def open(self, loop: asyncio.AbstractEventLoop) -> list[LinkAddress]:
        return [LinkAddress(ip, 3) for ip in self.ips]

    def close(self) -> None:
        pass


def with_host(scenario: Any, **chosen: Any) -> list[Router]:
    routers: list[Router] = []

    def map_port(port: int, on_change: OnMapped) -> Router:
        routers.append(Router(port, on_change))
        return routers[-1]

    async def run() -> None:
        machine = Machine(HOME[0], SIX[0])
        config = HostConfig(**chosen)
        async with LocalHost(
            [KEY], config, open_port=Net().open, watch=machine.watch, map_port=map_port
        ) as host:
            await scenario(host, machine, routers)

    simulate(run)
    return routers


def test_routers_are_asked_once_ports_are_open_told_of_moves_and_left_in_the_end() -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        machine.tell([LinkAddress("10.7.0.1", 3)])
        await asyncio.sleep(0.1)

    (router,) = with_host(scenario)
    assert router.port == 10_500
    assert router.did == [("start", [HOME, SIX]), ("moved", [("10.7.0.1", 10_500)]), "close"]


@pytest.mark.parametrize("ip", ["224.0.0.1", "255.255.255.255", "2001:2f::1", "ff0e::1"])
def test_a_router_that_claims_to_be_nowhere_takes_nothing_from_a_contact(ip: str) -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        routers[0].make(replace(MADE, external=(ip, 10_500)))
        assert host.contact(KEY.hit) == contact_from_addresses([SIX])
        assert host.reachability().direct == contact_from_addresses([SIX])

    with_host(scenario)


def test_a_contact_says_the_mapped_address_as_soon_as_there_is_one() -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        events: list[Event] = []
        host.watch(events.append)
        assert host.contact(KEY.hit) == contact_from_addresses([SIX])
        routers[0].make(MADE, PINHOLE)
        assert host.contact(KEY.hit) == contact_from_addresses([OUTER, SIX])
        assert events == [ContactChanged()]
        assert host.engine.mapped == ((OUTER, HOME), (SIX, SIX))
        place = host.reachability()
        assert place.mapped == (("PCP", OUTER), ("UPnP", SIX))
        assert place.direct == contact_from_addresses([OUTER, SIX])
        assert place.routers == ({"router": "10.0.0.254"},)
        routers[0].make()
        assert host.contact(KEY.hit) == contact_from_addresses([SIX])
        assert host.reachability().mapped == ()

    with_host(scenario)


def test_where_locators_are_not_told_the_mapped_one_is_not_either() -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        routers[0].make(MADE)
        assert host.contact(KEY.hit) == contact_from_addresses([])

    with_host(scenario, locators=False)


@pytest.mark.parametrize(
    "chosen", [{"port_mapping": False}, {"watch": False}, {"listen": (HOME,)}], ids=str
)
def test_nobody_is_asked_where_that_is_not_wanted(chosen: dict[str, Any]) -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        assert routers == []
        assert host.reachability().routers == ()

    with_host(scenario, **chosen)


def test_simulated_ports_ask_no_real_router() -> None:
    async def run() -> None:
        machine = Machine(HOME[0])
        async with LocalHost([KEY], open_port=Net().open, watch=machine.watch) as host:
            assert host.reachability().routers == ()

    simulate(run)


RELAYED: Address = ("5.9.1.1", 40_000)
ELSEWHERE: Address = ("5.9.1.99", 40_001)
ESP = RegistrationType.RELAY_UDP_ESP


def at(address: Address, port: int) -> Mapped:
    return Mapped(address, (HOME[0], port), Protocol.PCP, "10.0.0.254", 7_200.0, 7_200.0)


def test_behind_a_router_clients_share_one_relayed_port_that_it_maps() -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        data = host.engine.serving.data
        host.offer({ESP: Offer()})
        await asyncio.sleep(0.1)
        assert len(routers) == 1, "nothing is to be asked for yet"
        routers[0].make(MADE)
        await asyncio.sleep(0.1)
        _, router = routers
        assert router.did == [("start", [(HOME[0], router.port)])]
        assert data.shared is None
        router.make(at(RELAYED, router.port))
        assert data.shared == RELAYED
        assert data.free == 0
        machine.tell([LinkAddress("10.7.0.1", 3)])
        await asyncio.sleep(0.1)
        assert router.did[1:] == [("moved", [("10.7.0.1", router.port)])]
        router.make(at(ELSEWHERE, router.port), at(RELAYED, router.port))
        assert data.shared == RELAYED, "it is still there"
        router.make()
        assert data.shared is None

    _, router = with_host(scenario)
    assert router.did[-1] == "close"


@pytest.mark.parametrize(
    "chosen", [{"announce": (OUTER,)}, {"port_mapping": False}], ids=["announced", "not asked"]
)
def test_where_no_router_is_asked_each_has_its_own(chosen: dict[str, Any]) -> None:
    async def scenario(host: LocalHost, machine: Machine, routers: list[Router]) -> None:
        host.offer({ESP: Offer()})
        if routers:
            routers[0].make(MADE)
        await asyncio.sleep(0.1)
        assert len(routers) <= 1
        assert host.engine.serving.data.shared is None
        assert host.engine.serving.data.free

    with_host(scenario, **chosen)


def test_a_client_whose_relayed_address_is_no_more_is_told_and_gets_another() -> None:
    async def run() -> None:
        net, routers = Net(), list[Router]()

        def map_port(port: int, on_change: OnMapped) -> Router:
            routers.append(Router(port, on_change))
            return routers[-1]

        machine, config = Machine(HOME[0]), HostConfig(engine=EngineConfig(k=1))
        named = HostConfig(listen=(("10.0.0.2", 10_500),), engine=EngineConfig(k=1))
        other = HostIdentity(ec.derive_private_key(6, ec.SECP256R1()))
        async with (
            LocalHost(
                [KEY], config, open_port=net.open, watch=machine.watch, map_port=map_port
            ) as host,
            LocalHost([other], named, open_port=net.open) as client,
        ):
            events: list[Event] = []
            client.watch(events.append)
            host.offer({ESP: Offer()})
            routers[0].make(MADE)
            await asyncio.sleep(0.1)
            routers[1].make(at(RELAYED, routers[1].port))
            client.learn(KEY.hit, contact_from_addresses([HOME]))
            [row] = await client.register(KEY.hit, [ESP])
            assert row.relayed == RELAYED
            routers[1].make(at(ELSEWHERE, routers[1].port))
            await asyncio.sleep(2)
            assert [e.type for e in events if isinstance(e, RegistrationEnded)] == [ESP]
            assert not host.served()
            await asyncio.sleep(120)
            [again] = [each for each in client.registrations() if each.type == ESP]
            assert again.relayed == ELSEWHERE

    simulate(run)
