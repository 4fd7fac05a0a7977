"""A machine that has slept: who notices, and what it does first."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from hipctl import EngineConfig, Event, HostConfig, HostIdentity, LocalHost, Woke
from hipctl.constants import PacketType
from hipctl.contact import contact_from_addresses
from hipctl.state import State
from hipctl.waking import LOOK, Waking
from sim.engines import both_ways, established
from sim.loop import simulate
from sim.machines import Machine
from sim.nats import Internet, Kind

WALL = 1_800_000_000.0


class Told:
    """A Waking on a machine, and what it has told."""

    def __init__(self, machine: Machine) -> None:
        self.slept: list[float] = []
        self.machine = machine
        self.shift = 0.0
        self.waking = Waking(self.slept.append)
        outside = asyncio.get_running_loop()
        self.waking.wall = lambda: WALL + outside.time() + self.shift
        self.waking.open(machine.loop)

    async def sleep(self, seconds: float) -> None:
        self.machine.sleep()
        await asyncio.sleep(seconds)
        self.machine.wake()
        await asyncio.sleep(LOOK)


def run(scenario: Callable[[Told], Awaitable[None]], clock_stops: bool = True) -> None:
    async def main() -> None:
        machine = Internet().machine("a")
        machine.clock_stops = clock_stops
        await scenario(Told(machine))

    simulate(main)


@pytest.mark.parametrize("clock_stops", [True, False])
def test_sleep_is_noticed_whether_the_clock_stands_still_or_not(clock_stops: bool) -> None:
    async def scenario(told: Told) -> None:
        for seconds in (300, 10, 86_400):
            await asyncio.sleep(30)
            assert told.slept == []
            await told.sleep(seconds)
            (slept,) = told.slept
            assert seconds - LOOK <= slept <= seconds
            told.slept.clear()
        told.waking.close()
        await told.sleep(100)
        told.waking.look()
        assert told.slept == []

    run(scenario, clock_stops)


def test_a_clock_that_is_put_right_and_a_busy_moment_are_no_sleep() -> None:
    async def scenario(told: Told) -> None:
        await told.sleep(3)
        told.shift = -5_000.0
        await asyncio.sleep(10)
        told.shift += 2.0
        await asyncio.sleep(10)
        assert told.slept == []
        told.waking.close()
        told.waking.close()

    run(scenario)


def test_whoever_hints_at_it_is_believed_at_once() -> None:
    async def scenario(told: Told) -> None:
        told.machine.sleep()
        await asyncio.sleep(60)
        told.machine.wake()
        told.waking.look()
        assert told.slept == [60]
        told.waking.close()

    run(scenario)


def test_who_wakes_asks_its_peers_and_keeps_those_that_kept_it() -> None:
    net, a, b = established()
    net.wire.clear()
    net.perform(a, a.engine.woke(net.now))
    net.run(net.now + 5)
    assert {seen.kind for seen in net.wire} == {PacketType.UPDATE}
    both_ways(net, a, b)


def test_who_wakes_finds_out_soon_that_it_was_forgotten() -> None:
    net, a, b = established()
    net.restart(b)
    net.introduce(a, b)
    net.perform(a, a.engine.woke(net.now))
    net.run(net.now + 3)
    assert net.state(a, b) is State.ESTABLISHED
    both_ways(net, a, b)


def test_an_attempt_that_sleep_held_up_goes_on_at_once() -> None:
    net, a, b = established()
    net.restart(a)
    net.introduce(a, b)
    net.dead = {b.address}
    net.connect(a, b)
    net.run(net.now + 5)
    net.dead = set()
    net.perform(a, a.engine.woke(net.now))
    net.run(net.now + 0.3)
    assert net.state(a, b) is State.ESTABLISHED


KEYS = [HostIdentity.from_secret(n) for n in (83, 84)]
A, B = (key.hit for key in KEYS)


class Two(NamedTuple):
    public: Machine
    home: Machine
    a: LocalHost
    b: LocalHost


def with_two(scenario: Callable[[Two], Awaitable[None]], tells: bool) -> None:
    async def main() -> None:
        outside = asyncio.get_running_loop()
        internet = Internet(seed=1)
        public = internet.machine("public")
        home = internet.machine("home", internet.place(Kind.FORGETFUL))
        home.tells = tells
        hosts = []
        for machine, key in zip((public, home), KEYS, strict=True):
            config = HostConfig(engine=EngineConfig(k=1))
            host = LocalHost([key], config, open_port=machine.open, watch=machine.watch)
            host._waking.wall = lambda: WALL + outside.time()
            await machine.run(host.__aenter__())
            hosts.append(host)
        home.call(hosts[1].learn, A, contact_from_addresses([(public.ips[0], 10500)]))
        await home.run(hosts[1].connect(A))
        await scenario(Two(public, home, *hosts))
        for machine, host in zip((public, home), hosts, strict=True):
            await machine.run(host.__aexit__())
            await machine.halt()

    simulate(main)


@pytest.mark.parametrize(("tells", "soon"), [(True, 0.2), (False, LOOK + 0.2)])
def test_who_wakes_behind_a_nat_that_forgot_it_is_reached_soon(tells: bool, soon: float) -> None:
    async def scenario(two: Two) -> None:
        heard: list[bytes] = []
        events: list[Event] = []
        two.b.watch(events.append)
        two.b.open(B, 7, lambda data, *_: heard.append(data))
        end = two.a.open(A, 7, lambda *_: None)
        await asyncio.sleep(5)
        two.home.sleep()
        await asyncio.sleep(400)
        two.home.wake()
        await asyncio.sleep(soon)
        two.public.call(end.send, b"good morning", B, 7)
        await asyncio.sleep(0.1)
        assert heard == [b"good morning"]
        (woke,) = [event for event in events if isinstance(event, Woke)]
        assert 398 <= woke.seconds <= 400.001

    with_two(scenario, tells)


def test_who_wakes_elsewhere_finds_out_as_soon_that_it_was_forgotten() -> None:
    net, a, b = established()
    both_ways(net, a, b)  # the round trip is known
    net.restart(b)
    net.perform(a, a.engine.woke(net.now))
    net.move(a, ("192.0.2.77", 10500))
    net.run(net.now + 3)
    both_ways(net, a, b)
