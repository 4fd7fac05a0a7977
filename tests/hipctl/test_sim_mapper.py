"""The simulated port mapper: tells what its router grants, and when that changes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hipctl.mapped import Mapped
from sim.loop import simulate
from sim.machines import Machine
from sim.mapper import CHECK, machine_mapper
from sim.nats import Internet, Kind, Router
from sim.net import Address

PORT = 10_500


def run(scenario: Callable[[Internet, Machine, Router], Awaitable[None]]) -> None:
    async def main() -> None:
        internet = Internet(seed=1)
        home = internet.place(Kind.MAPPED)
        assert home.router
        await scenario(internet, internet.machine("a", home), home.router)

    simulate(main)


def test_a_mapper_tells_what_the_router_grants_and_when_that_changes() -> None:
    async def scenario(internet: Internet, machine: Machine, router: Router) -> None:
        told: list[list[Address]] = []

        def on_change(found: Sequence[Mapped]) -> None:
            told.append([each.external for each in found])

        mapper = machine_mapper(machine)(PORT, on_change)
        await machine.run(mapper.start([(ip, PORT) for ip in machine.ips]))
        await asyncio.sleep(10_000)
        six = (machine.ips[1], PORT)  # a pinhole in the firewall
        assert told == [[(router.four.ip, PORT), six]]
        assert [row["external"] for row in mapper.describe()] == told[0]
        router.reboot(renumbered=True)
        await asyncio.sleep(CHECK + 1)
        assert told[1:] == [[(router.four.ip, PORT), six]]
        assert told[0] != told[1]
        machine.move(internet.place(Kind.SYMMETRIC))
        machine.call(mapper.moved, [(machine.ips[0], PORT)])
        await asyncio.sleep(1)
        assert told[2:] == [[]]
        assert mapper.mapped == []
        await machine.run(mapper.close())

    run(scenario)


def test_a_mapping_is_deleted_at_the_end() -> None:
    async def scenario(internet: Internet, machine: Machine, router: Router) -> None:
        mapper = machine_mapper(machine)(PORT, lambda _: None)
        await machine.run(mapper.start([(machine.ips[0], PORT)]))
        await asyncio.sleep(1)
        outer, stranger = (router.four.ip, PORT), ("45.9.9.9", 1)
        assert router.four.inbound(stranger, outer, internet.now())
        for _ in range(2):
            await machine.run(mapper.close())
        await asyncio.sleep(1)
        assert router.four.inbound(stranger, outer, internet.now()) is None

    run(scenario)
