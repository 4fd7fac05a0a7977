"""A host goes along when its machine's addresses change: the shell, and two hosts in a call."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hipctl import (
    ContactChanged,
    Event,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
    contact_from_addresses,
)
from hipctl.actions import Action
from hipctl.interfaces import OnChange
from hipctl.rtnetlink import LinkAddress
from sim.loop import simulate
from sim.net import Address, Net

KEYS = [HostIdentity(ec.derive_private_key(n, ec.SECP256R1())) for n in (5, 6)]
A, B = (key.hit for key in KEYS)
OLD, NEW, SIX = "10.0.0.1", "10.7.0.1", "2400::1"
FAR: Address = ("10.0.1.1", 10500)
FAR_SIX: Address = ("2400:9::1", 10500)
ANYWHERE = (("0.0.0.0", 10500), ("::", 10500))


@dataclass
class Machine:
    """A ``roaming.Watch`` whose addresses the test chooses."""

    ips: list[str]
    tell: OnChange = field(init=False)
    watched: bool = False

    def watch(self, on_change: OnChange) -> "Machine":
        self.tell = on_change
        return self

    def open(self, loop: asyncio.AbstractEventLoop) -> list[LinkAddress]:
        self.watched = True
        return self.found()

    def close(self) -> None:
        self.watched = False

    def found(self) -> list[LinkAddress]:
        return [LinkAddress(ip, 3) for ip in self.ips]

    def move(self, *ips: str) -> None:
        self.ips = list(ips)
        self.tell(self.found())


@dataclass
class Pair:
    net: Net
    machine: Machine
    a: LocalHost
    b: LocalHost
    heard: list[tuple[float, bytes]]
    events: list[Event]

    async def talk(self, seconds: float) -> None:
        """50 datagrams a second each way, each with its time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        here, there = (
            host.open(hit, 0, lambda data, *_: self.heard.append((loop.time(), data)))
            for host, hit in ((self.a, A), (self.b, B))
        )
        while loop.time() < end:
            here.send(b"to b", B, there.port)
            there.send(b"to a", A, here.port)
            await asyncio.sleep(0.02)

    def longest(self, who: bytes, first: float, last: float) -> float:
        times = [at for at, data in self.heard if data == who and first <= at < last]
        return max(b - a for a, b in pairwise([first, *times, last]))


def with_pair(scenario: Any, *ips: str) -> None:
    async def run() -> None:
        net, machine = Net(latency=0.01), Machine(list(ips))
        there = HostConfig(listen=(FAR, FAR_SIX))
        here = HostConfig(listen=ANYWHERE, announce_private=True)
        async with (
            LocalHost(KEYS[:1], here, open_port=net.open, watch=machine.watch) as a,
            LocalHost(KEYS[1:], there, open_port=net.open) as b,
        ):
            pair = Pair(net, machine, a, b, [], [])
            a.watch(pair.events.append)
            a.learn(B, contact_from_addresses([FAR, FAR_SIX]))
            await a.connect(B)
            await scenario(pair)
        assert not machine.watched
        assert not net.ports

    simulate(run)


def sent_to_b(pair: Pair, since: float) -> set[str]:
    return {frm[0] for at, frm, to, _ in pair.net.log if at >= since and to in {FAR, FAR_SIX}}


def test_a_move_with_an_overlap_is_not_heard() -> None:
    async def scenario(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        talking = asyncio.create_task(pair.talk(8))
        await asyncio.sleep(3)
        pair.machine.move(NEW, OLD)
        await asyncio.sleep(1)
        pair.machine.move(NEW)
        await asyncio.sleep(0.1)
        moved = loop.time()
        await talking
        for who in (b"to a", b"to b"):
            assert pair.longest(who, 1, 8) <= 0.06
        assert sent_to_b(pair, moved) == {NEW}

    with_pair(scenario, OLD)


def test_after_a_while_without_any_address_the_call_goes_on_at_the_new_one() -> None:
    async def scenario(pair: Pair) -> None:
        talking = asyncio.create_task(pair.talk(8))
        await asyncio.sleep(3)
        pair.machine.move()
        await asyncio.sleep(2)
        pair.machine.move(NEW)
        await talking
        for who in (b"to a", b"to b"):
            assert pair.longest(who, 5, 8) <= 0.2
        assert pair.events.count(ContactChanged()) == 1
        assert Hit(B) in {row_peer(row) for row in pair.a.status()}

    def row_peer(row: dict[str, object]) -> Hit:
        return Hit.parse(str(row["peer"]))

    with_pair(scenario, OLD)


def test_from_ipv4_to_ipv6() -> None:
    async def scenario(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        talking = asyncio.create_task(pair.talk(8))
        await asyncio.sleep(3)
        pair.machine.move(OLD, SIX)
        await asyncio.sleep(1)
        pair.machine.move(SIX)
        await asyncio.sleep(0.2)
        moved = loop.time()
        await talking
        for who in (b"to a", b"to b"):
            assert pair.longest(who, 1, 8) <= 0.1
        assert sent_to_b(pair, moved) == {SIX}

    with_pair(scenario, OLD)


def test_a_contact_that_stays_is_no_event() -> None:
    async def scenario(pair: Pair) -> None:
        before = pair.a.contact(A)
        pair.machine.move(OLD)  # a route has changed
        await asyncio.sleep(0.1)
        assert ContactChanged() not in pair.events
        pair.machine.move(NEW)
        await asyncio.sleep(0.1)
        assert pair.events.count(ContactChanged()) == 1
        assert pair.a.contact(A) == contact_from_addresses([(NEW, 10500)]) != before

    with_pair(scenario, OLD)


def test_of_many_changes_at_once_the_last_one_counts() -> None:
    async def scenario(pair: Pair) -> None:
        for ip in (NEW, OLD, "10.3.0.1", "10.4.0.1"):
            pair.machine.move(ip)
        await asyncio.sleep(0.1)
        assert pair.a.contact(A) == contact_from_addresses([("10.4.0.1", 10500)])
        assert {ip for ip, _ in pair.net.ports} == {
            "0.0.0.0",
            "::",
            "10.4.0.1",
            FAR[0],
            FAR_SIX[0],
        }

    with_pair(scenario, OLD)


def test_nobody_watches_where_addresses_are_named_or_that_is_not_wanted() -> None:
    async def scenario() -> None:
        for config in (HostConfig(listen=(FAR,)), HostConfig(listen=ANYWHERE, watch=False)):
            net, machine = Net(), Machine([OLD])
            async with LocalHost(KEYS[:1], config, open_port=net.open, watch=machine.watch):
                assert not machine.watched
                assert len(net.ports) == len(config.listen)

    simulate(scenario)


def test_a_machine_without_a_network_is_nowhere() -> None:
    """Though its ports are bound to all the addresses that it hasn't got."""

    async def scenario() -> None:
        net, machine = Net(), Machine([])
        config = HostConfig(listen=ANYWHERE, announce_private=True)
        async with LocalHost(KEYS[:1], config, open_port=net.open, watch=machine.watch) as host:
            assert (host.reachability().addresses, host.reachability().direct) == ((), b"")
            machine.move(OLD)
            await asyncio.sleep(2)
            assert host.reachability().addresses == ((OLD, 10500),)
            assert host.reachability().direct
            machine.move()
            await asyncio.sleep(2)
            assert (host.reachability().addresses, host.reachability().direct) == ((), b"")

    simulate(scenario)


@pytest.mark.parametrize("private", [True, False])
def test_private_addresses_are_told_to_peers_unless_that_is_not_wanted(private: bool) -> None:
    async def scenario() -> None:
        net, machine = Net(), Machine([OLD, SIX])
        config = HostConfig(listen=ANYWHERE, private_locators=private)
        async with LocalHost(KEYS[:1], config, open_port=net.open, watch=machine.watch) as host:
            told: list[Sequence[Address]] = []
            take = host.engine.set_locators

            def set_locators(addresses: Sequence[Address], now: float) -> list[Action]:
                told.append(addresses)
                return take(addresses, now)

            host.engine.set_locators = set_locators  # type: ignore[method-assign]
            machine.move(NEW, SIX)
            await asyncio.sleep(0.1)
            assert told == [[(NEW, 10500), (SIX, 10500)] if private else [(SIX, 10500)]]

    simulate(scenario)
