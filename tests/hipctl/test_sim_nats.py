"""Each kind of NAT does what its name says, found out as RFC 5780 does."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sim.ladder import of_internet
from sim.loop import simulate
from sim.machines import Machine, MachinePort
from sim.nats import NATS, OPEN_PORT, Behaviour, Internet, Kind, Nat
from sim.net import Address

EI, AD, APD = Behaviour


@dataclass
class Client:
    """A UDP program: what it heard, with its sources."""

    port: MachinePort
    heard: list[tuple[bytes, Address]]

    @classmethod
    async def on(cls, machine: Machine, number: int = 5000, ip: str = "0.0.0.0") -> "Client":
        heard: list[tuple[bytes, Address]] = []
        port = await machine.open((ip, number), lambda *got: heard.append(got), Counter())
        return cls(port, heard)

    async def ask(self, to: Address, data: bytes = b"?") -> tuple[bytes, Address] | None:
        """Send, wait, and return the answer."""
        self.heard.clear()
        self.port.send(data, to)
        await asyncio.sleep(1)
        return self.heard[0] if self.heard else None

    async def seen_as(self, server: Address) -> Address:
        """Our address as a STUN server says it."""
        answer = await self.ask(server)
        assert answer
        host, _, port = answer[0].decode().rpartition(" ")
        return host, int(port)


@dataclass
class Stun:
    """RFC 5780's server: two addresses with two ports each.

    It says where a request came from; b"ip" is answered from the other address, b"port" from the
    other port of the same one.
    """

    ports: dict[Address, MachinePort] = field(default_factory=dict)

    @classmethod
    async def on(cls, internet: Internet, six: bool) -> "Stun":
        made = cls()
        for name in ("stun", "other"):
            machine = internet.machine(name)
            ip = machine.ips[six]
            for number in (3478, 3479):
                address = (ip, number)
                made.ports[address] = await machine.open(address, made.answer(address), Counter())
        return made

    @property
    def addresses(self) -> list[Address]:
        """(ip, port), (ip, other port), (other ip, port), (other ip, other port)."""
        return list(self.ports)

    def answer(self, at: Address) -> Callable[[bytes, Address], None]:
        def on_datagram(data: bytes, source: Address) -> None:
            places = self.addresses
            place = places.index(at)
            place ^= {b"ip": 3, b"port": 1}.get(data, 0)
            self.ports[places[place]].send(b"%s %d" % (source[0].encode(), source[1]), source)

        return on_datagram


async def mapping_of(client: Client, stun: Stun) -> Behaviour:
    """RFC 5780 §4.3."""
    first, _, other_ip, other_both = stun.addresses
    one = await client.seen_as(first)
    two = await client.seen_as(other_ip)
    if one == two:
        return EI
    return AD if two == await client.seen_as(other_both) else APD


async def filtering_of(client: Client, stun: Stun) -> Behaviour:
    """RFC 5780 §4.4."""
    if await client.ask(stun.addresses[0], b"ip"):
        return EI
    return AD if await client.ask(stun.addresses[0], b"port") else APD


def run(scenario: Callable[[Internet], Awaitable[None]], **kwargs: Any) -> Internet:
    internet = Internet(seed=1, **kwargs)

    async def main() -> None:
        await scenario(internet)

    simulate(main)
    return internet


KINDS = [
    (Kind.PUBLIC, EI, EI),
    (Kind.MAPPED, EI, APD),
    (Kind.ENDPOINT_INDEPENDENT, EI, EI),
    (Kind.ADDRESS_RESTRICTED, EI, AD),
    (Kind.PORT_RESTRICTED, EI, APD),
    (Kind.SYMMETRIC, APD, APD),
    (Kind.DOUBLE, EI, APD),
    (Kind.FORGETFUL, EI, APD),
]


@pytest.mark.parametrize(("kind", "mapping", "filtering"), KINDS, ids=str)
def test_every_kind_maps_and_filters_as_it_is_called(
    kind: Kind, mapping: Behaviour, filtering: Behaviour
) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.place(kind)
        client = await Client.on(internet.machine("a", home))
        assert await mapping_of(client, stun) is mapping
        other = await Client.on(internet.machine("b", home), 5001)  # with no mapping yet
        if kind is not Kind.PUBLIC:
            assert (await filtering_of(other, stun)) is filtering
            assert await client.seen_as(stun.addresses[0]) != (client.port.machine.ips[0], 5000)

    run(scenario)


@pytest.mark.parametrize("mapping", Behaviour)
@pytest.mark.parametrize("filtering", Behaviour)
def test_mapping_and_filtering_can_be_combined(mapping: Behaviour, filtering: Behaviour) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.lan(Nat(mapping=mapping, filtering=filtering))
        client = await Client.on(internet.machine("a", home))
        assert await filtering_of(client, stun) is filtering
        assert await mapping_of(client, stun) is mapping

    run(scenario)


@pytest.mark.parametrize(("kind", "filtering"), [(k, f) for k, _, f in KINDS[1:]], ids=str)
def test_ipv6_is_filtered_but_keeps_its_addresses(kind: Kind, filtering: Behaviour) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=True)
        machine = internet.machine("a", internet.place(kind))
        client = await Client.on(machine, ip="::")
        assert await filtering_of(client, stun) is filtering
        assert await client.seen_as(stun.addresses[0]) == (machine.ips[1], 5000)

    run(scenario)


async def two_homes(internet: Internet, kind: Kind) -> tuple[Client, Client]:
    a = await Client.on(internet.machine("a", internet.place(kind, "here")))
    b = await Client.on(internet.machine("b", internet.place(kind, "there")))
    return a, b


@pytest.mark.parametrize(
    ("kind", "through"),
    [(k, k not in {Kind.SYMMETRIC, Kind.BLOCKED}) for k in Kind if k is not Kind.PUBLIC],
    ids=str,
)
def test_a_hole_can_be_punched_into_all_but_symmetric_nats(kind: Kind, through: bool) -> None:
    async def scenario(internet: Internet) -> None:
        server = await Client.on(internet.machine("server"), OPEN_PORT)
        a, b = await two_homes(internet, kind)
        here = (server.port.machine.ips[0], OPEN_PORT)
        outer: list[Address] = []
        for client in (a, b):
            await client.ask(here)
            outer.append(server.heard[0][1])
            server.heard.clear()
        a.port.send(b"knock", outer[1])
        b.port.send(b"knock", outer[0])
        await asyncio.sleep(1)
        a.port.send(b"in", outer[1])
        await asyncio.sleep(1)
        assert ((b"in", outer[0]) in b.heard) is through

    run(scenario)


def test_homes_have_the_same_private_addresses_and_reach_only_their_own() -> None:
    async def scenario(internet: Internet) -> None:
        a, b = await two_homes(internet, Kind.ENDPOINT_INDEPENDENT)
        assert a.port.machine.ips[0] == b.port.machine.ips[0] == "192.168.1.2"
        neighbour = await Client.on(internet.machine("c", a.port.machine.at), 5000)
        neighbour.port.send(b"hi", ("192.168.1.2", 5000))
        await asyncio.sleep(1)
        assert a.heard == [(b"hi", ("192.168.1.3", 5000))]
        assert not b.heard
        neighbour.port.send(b"hi", ("192.168.1.77", 5000))  # nobody's
        await asyncio.sleep(1)

    run(scenario)


def test_udp_leaves_a_blocked_place_only_to_one_port() -> None:
    async def scenario(internet: Internet) -> None:
        server = internet.machine("server")
        good, bad = await Client.on(server, OPEN_PORT), await Client.on(server, 10500)
        a = await Client.on(internet.machine("a", internet.place(Kind.BLOCKED)))
        for number in (OPEN_PORT, 10500):
            a.port.send(b"hi", (server.ips[0], number))
        await asyncio.sleep(1)
        assert [data for data, _ in good.heard] == [b"hi"]
        assert bad.heard == []
        good.port.send(b"back", good.heard[0][1])
        await asyncio.sleep(1)
        assert a.heard

    run(scenario)


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_forgetful_nat_forgets_after_its_lifetime(refreshed: bool) -> None:
    nat = replace(NATS[Kind.FORGETFUL], inbound_refreshes=refreshed)

    async def scenario(internet: Internet) -> None:
        server = await Client.on(internet.machine("server"))
        a = await Client.on(internet.machine("a", internet.lan(nat)))
        await a.ask((server.port.machine.ips[0], 5000))
        outer = server.heard[0][1]
        for _ in range(3):
            a.heard.clear()
            server.port.send(b"still there?", outer)
            await asyncio.sleep(20)
        assert bool(a.heard) is refreshed
        await asyncio.sleep(15)
        a.heard.clear()
        server.port.send(b"now?", outer)
        await asyncio.sleep(1)
        assert not a.heard

    run(scenario)


@pytest.mark.parametrize("hairpin", [True, False])
def test_hairpin(hairpin: bool) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.lan(Nat(hairpin=hairpin))
        a = await Client.on(internet.machine("a", home))
        b = await Client.on(internet.machine("b", home), 5001)
        here, there = [await each.seen_as(stun.addresses[0]) for each in (a, b)]
        b.heard.clear()
        a.port.send(b"hi", there)
        await asyncio.sleep(1)
        assert b.heard == ([(b"hi", here)] if hairpin else [])

    run(scenario)


@pytest.mark.parametrize("preserve", [True, False])
def test_ports_are_preserved_where_they_are_free(preserve: bool) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.lan(Nat(preserve=preserve))
        seen = [
            await (await Client.on(internet.machine(name, home))).seen_as(stun.addresses[0])
            for name in "abc"
        ]
        assert (seen[0][1] == 5000) is preserve
        assert len(set(seen)) == 3

    run(scenario)


@pytest.mark.parametrize("six", [False, True])
def test_a_mapping_that_was_asked_for_lets_everybody_in_until_it_ends(six: bool) -> None:
    async def scenario(internet: Internet) -> None:
        home = internet.place(Kind.MAPPED)
        assert home.router
        machine = internet.machine("a", home)
        a = await Client.on(machine, ip=["0.0.0.0", "::"][six])
        inner = (machine.ips[six], 5000)
        stranger = await Client.on(internet.machine("stranger"), ip=["0.0.0.0", "::"][six])
        outer = home.router.ask(inner, 600)
        assert outer
        assert (outer == inner) is six
        for lasts in (True, False):
            a.heard.clear()
            stranger.port.send(b"hi", outer)
            await asyncio.sleep(1)
            assert bool(a.heard) is lasts
            await asyncio.sleep(600)
        assert home.router.ask(inner, 600) == outer
        a.port.send(b"from the mapping", (stranger.port.machine.ips[six], 5000))
        await asyncio.sleep(1)
        assert stranger.heard == [(b"from the mapping", outer)]
        assert internet.place(Kind.SYMMETRIC).router.ask(inner, 600) is None  # type: ignore[union-attr]

    run(scenario)


@pytest.mark.parametrize("renumbered", [False, True])
def test_a_reboot_loses_all_mappings(renumbered: bool) -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.place(Kind.MAPPED)
        assert home.router
        machine = internet.machine("a", home)
        a = await Client.on(machine)
        home.router.ask((machine.ips[0], 5000), 6_000)
        before = await a.seen_as(stun.addresses[0])
        home.router.reboot(seconds=5, renumbered=renumbered)
        assert await a.ask(stun.addresses[0]) is None
        await asyncio.sleep(5)
        a.heard.clear()
        stun.ports[stun.addresses[0]].send(b"hi", before)
        await asyncio.sleep(1)
        assert not a.heard
        after = await a.seen_as(stun.addresses[0])
        assert (after == before) is not renumbered

    run(scenario)


def test_each_direction_of_a_line_can_be_bad() -> None:
    async def scenario(internet: Internet) -> None:
        stun = await Stun.on(internet, six=False)
        home = internet.place(Kind.PORT_RESTRICTED)
        assert home.router
        a = await Client.on(internet.machine("a", home))
        loop = asyncio.get_running_loop()

        async def seconds() -> float:
            began = loop.time()
            a.heard.clear()
            a.port.send(b"?", stun.addresses[0])
            while not a.heard and loop.time() < began + 5:  # noqa: ASYNC110  in virtual time
                await asyncio.sleep(0.001)
            return round(loop.time() - began, 2)

        assert await seconds() == 0.04
        home.router.up = internet.line(latency=0.3)
        assert await seconds() == 0.34
        home.router.down = internet.line(latency=0.5)
        assert await seconds() == 0.84
        home.router.down.loss = 1.0
        assert await seconds() > 4

    run(scenario)


def test_who_moves_has_other_addresses_and_what_is_under_way_is_lost() -> None:
    async def scenario(internet: Internet) -> None:
        told: list[list[str]] = []
        machine = internet.machine("a")
        watch = machine.watch(lambda links: told.append([each.ip for each in links]))
        watch.open(asyncio.get_running_loop())
        a = await Client.on(machine)
        other = await Client.on(internet.machine("b"))
        old = machine.ips[0]
        other.port.send(b"hi", (old, 5000))
        machine.move(internet.place(Kind.SYMMETRIC))
        await asyncio.sleep(1)
        assert not a.heard
        assert told == [machine.ips]
        machine.move(None)
        await asyncio.sleep(1)
        assert told[1:] == [[]]
        a.port.send(b"into the void", (other.port.machine.ips[0], 5000))
        await asyncio.sleep(1)
        assert a.port.counters == {"send failed: ENETUNREACH": 1}
        watch.close()
        machine.move(internet.core)
        await asyncio.sleep(1)
        assert len(told) == 2
        assert old not in machine.ips

    run(scenario)


def test_a_table_forgets_what_is_dead_when_there_is_much() -> None:
    async def scenario(internet: Internet) -> None:
        home = internet.place(Kind.SYMMETRIC)
        assert home.router
        a = await Client.on(internet.machine("a", home))
        for number in range(3_000):
            a.port.send(b"?", ("45.9.9.9", number + 1))
            await asyncio.sleep(1)
        assert len(home.router.four) < 1_100

    run(scenario)


def test_a_ladder_shows_every_hop_and_what_routers_refuse() -> None:
    async def scenario(internet: Internet) -> None:
        stranger = await Client.on(internet.machine("stranger"))
        home = internet.place(Kind.PORT_RESTRICTED, "home")
        assert home.router
        a = await Client.on(internet.machine("a", home))
        await a.ask((stranger.port.machine.ips[0], 5000), b"\xff")
        stranger.port.send(b"\xff", (home.router.four.ip, 9))
        await asyncio.sleep(1)

    internet = run(scenario)
    drawn = of_internet(internet, hosts=["a", "home-router", "stranger"]).splitlines()
    assert [line.split(None, 1)[1] for line in drawn[-4:]] == [
        "|- keepalive -->|               |",
        "|               |- keepalive -->|",
        "|               |<- keepalive --|",
        "|               * drops, in: no mapping, or filtered",
    ]
