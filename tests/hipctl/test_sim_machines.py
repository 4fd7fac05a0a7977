"""Simulated machines: what sleeps does nothing, and goes on where it was."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from hipctl import EngineConfig, HostConfig, HostConfigRefused, HostIdentity, LocalHost
from hipctl.contact import contact_from_addresses
from sim.loop import simulate
from sim.machines import Machine
from sim.nats import Internet, Kind
from sim.net import Address

KEYS = [HostIdentity.from_secret(n) for n in (81, 82)]
A, B = (key.hit for key in KEYS)


def run(scenario: Callable[[Internet], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(Internet(seed=1))

    simulate(main)


def host(machine: Machine, key: HostIdentity) -> LocalHost:
    config = HostConfig(engine=EngineConfig(k=1))
    return LocalHost([key], config, open_port=machine.open, watch=machine.watch)


@pytest.mark.parametrize("clock_stops", [True, False])
def test_programs_stand_still_while_their_machine_sleeps(clock_stops: bool) -> None:
    async def scenario(internet: Internet) -> None:
        loop = asyncio.get_running_loop()
        machine = internet.machine("a")
        machine.clock_stops = clock_stops
        ticks: list[tuple[float, float]] = []

        async def tick() -> None:
            for _ in range(6):
                await asyncio.sleep(10)
                ticks.append((loop.time(), asyncio.get_running_loop().time()))

        ticking = asyncio.create_task(machine.run(tick()))
        await asyncio.sleep(25)
        machine.sleep()
        await asyncio.sleep(100)
        assert len(ticks) == 2
        machine.wake()
        await ticking
        outside = [10, 20, 130, 140, 150, 160] if clock_stops else [10, 20, 125, 135, 145, 155]
        slept = 100 if clock_stops else 0
        inside = [at - slept * (at > 25) for at in outside]
        assert ticks == [pytest.approx(each) for each in zip(outside, inside, strict=True)]

    run(scenario)


def test_a_sleeping_machine_neither_sends_nor_receives() -> None:
    async def scenario(internet: Internet) -> None:
        heard: list[bytes] = []
        a, b = internet.machine("a"), internet.machine("b")
        port = await a.open(("0.0.0.0", 7), lambda data, _: heard.append(data), Counter())
        other = await b.open(("0.0.0.0", 7), lambda data, _: heard.append(data), Counter())
        here, there = (a.ips[0], 7), (b.ips[0], 7)
        b.sleep()
        port.send(b"lost", there)
        other.send(b"never sent", here)
        await asyncio.sleep(1)
        b.wake()
        await asyncio.sleep(1)
        assert heard == []
        port.send(b"heard", there)
        b.move(internet.core)
        await asyncio.sleep(1)
        assert heard == []
        port.send(b"heard", (b.ips[0], 7))
        await asyncio.sleep(1)
        assert heard == [b"heard"]

    run(scenario)


def test_what_a_sleeper_sent_before_still_arrives() -> None:
    async def scenario(internet: Internet) -> None:
        heard: list[float] = []
        loop = asyncio.get_running_loop()
        a, b = internet.machine("a", internet.place(Kind.PORT_RESTRICTED)), internet.machine("b")
        await b.open(("0.0.0.0", 7), lambda *_: heard.append(loop.time()), Counter())
        port = await a.open(("0.0.0.0", 7), lambda *_: None, Counter())
        a.call(port.send, b"last words", (b.ips[0], 7))
        a.sleep()
        await asyncio.sleep(1)
        assert heard == [pytest.approx(0.021)]

    run(scenario)


def test_a_program_that_is_cancelled_ends_when_its_machine_wakes() -> None:
    async def scenario(internet: Internet) -> None:
        machine = internet.machine("a")
        log: list[str] = []

        async def program() -> None:
            try:
                await asyncio.sleep(50)
            finally:
                log.append("ended")

        task = asyncio.create_task(machine.run(program()))
        await asyncio.sleep(1)
        machine.sleep()
        task.cancel()
        await asyncio.sleep(100)
        assert log == []
        machine.wake()
        await asyncio.sleep(0.1)
        assert log == ["ended"]
        with pytest.raises(ZeroDivisionError):
            await machine.run(_failing())
        assert machine.call(asyncio.get_running_loop) is machine.loop

    run(scenario)


async def _failing() -> None:
    async with asyncio.timeout(5):
        await asyncio.sleep(1)
    raise ZeroDivisionError


def test_a_machine_that_is_halted_has_no_programs() -> None:
    async def scenario(internet: Internet) -> None:
        machine = internet.machine("a")
        task = asyncio.create_task(machine.run(asyncio.sleep(1e6)))
        await asyncio.sleep(1)
        machine.sleep()
        await machine.halt()
        with pytest.raises(asyncio.CancelledError):
            await task
        await machine.halt()

    run(scenario)


def test_ports_are_as_those_of_an_operating_system() -> None:
    async def scenario(internet: Internet) -> None:
        machine = internet.machine("a")
        heard: list[tuple[str, bytes, Address]] = []
        wide = await machine.open(
            ("0.0.0.0", 0), lambda *got: heard.append(("*", *got)), Counter()
        )
        assert wide.address[1] >= 49_152
        ip = machine.ips[0]
        narrow = await wide.beside(ip, 1, lambda *got: heard.append(("one", *got)))
        wide.send(b"to ourselves", narrow.address)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        narrow.close()
        wide.send(b"again", narrow.address)
        await asyncio.sleep(1)
        assert heard == [
            ("one", b"to ourselves", narrow.address),
            ("*", b"again", narrow.address),
        ]
        for taken in [("0.0.0.0", wide.address[1]), ("45.9.9.9", 1)]:
            with pytest.raises(HostConfigRefused):
                await machine.open(taken, lambda *_: None, Counter())

    run(scenario)


def test_two_real_hosts_associate_sleep_and_go_on() -> None:
    async def scenario(internet: Internet) -> None:
        public, home = internet.machine("a"), internet.machine("b", internet.place(Kind.SYMMETRIC))
        a, b = host(public, KEYS[0]), host(home, KEYS[1])
        heard: list[bytes] = []
        await public.run(a.__aenter__())
        await home.run(b.__aenter__())
        home.call(b.learn, A, contact_from_addresses([(public.ips[0], 10500)]))
        a.open(A, 7, lambda data, *_: heard.append(data))
        end = b.open(B, 8, lambda *_: None)
        await home.run(b.connect(A))
        home.call(end.send, b"one", A, 7)
        await asyncio.sleep(1)
        home.sleep()
        await asyncio.sleep(300)
        home.wake()
        home.call(end.send, b"two", A, 7)
        await asyncio.sleep(1)
        assert heard == [b"one", b"two"]
        assert a.contact(A) == contact_from_addresses([(ip, 10500) for ip in public.ips])
        for machine, each in ((public, a), (home, b)):
            await machine.run(each.__aexit__())
            await machine.halt()

    run(scenario)
