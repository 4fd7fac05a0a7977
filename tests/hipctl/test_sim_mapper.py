"""The simulated port mapper: tells what its router grants, and when that changes."""

import asyncio
from collections.abc import Sequence

from sim.loop import simulate
from sim.mapper import CHECK, machine_mapper
from sim.nats import Internet, Kind
from sim.net import Address


def test_a_mapper_tells_what_the_router_grants_and_when_that_changes() -> None:
    async def main() -> None:
        internet = Internet(seed=1)
        home = internet.place(Kind.MAPPED)
        assert home.router
        machine = internet.machine("a", home)
        told: list[Sequence[Address]] = []
        mapper = machine_mapper(machine)(told.append)
        inner = (machine.ips[0], 10500)
        machine.call(mapper.start, [inner])
        await asyncio.sleep(10_000)
        assert told == [[(home.router.four.ip, 10500)]]
        assert mapper.describe()[0]["external"] == told[0][0]
        home.router.reboot(renumbered=True)
        await asyncio.sleep(CHECK + 1)
        assert told[1:] == [[(home.router.four.ip, 10500)]]
        assert told[0] != told[1]
        machine.move(internet.place(Kind.SYMMETRIC))
        machine.call(mapper.moved, [(machine.ips[0], 10500)])
        await asyncio.sleep(1)
        assert told[2:] == [[]]
        assert mapper.describe() == []
        mapper.close()
        mapper.close()

    simulate(main)


def test_a_mapping_is_freed_at_the_end() -> None:
    async def main() -> None:
        internet = Internet(seed=1)
        home = internet.place(Kind.MAPPED)
        assert home.router
        machine = internet.machine("a", home)
        mapper = machine_mapper(machine)(lambda _: None)
        machine.call(mapper.start, [(machine.ips[0], 10500)])
        await asyncio.sleep(1)
        outer = (home.router.four.ip, 10500)
        loop = asyncio.get_running_loop()
        assert home.router.four.inbound(("45.9.9.9", 1), outer, loop.time())
        machine.call(mapper.close)
        await asyncio.sleep(1)
        assert home.router.four.inbound(("45.9.9.9", 1), outer, loop.time()) is None
        await machine.halt()

    simulate(main)
