"""Ten peers behind NATs of every kind and two public ones form an overlay: any calls any."""

from itertools import permutations

import pytest
from scenarios.sleepers import Plan, World

from sim.ladder import of_internet
from sim.loop import simulate
from sim.nats import Kind

PATIENCE = 10.0  # seconds of whoever calls
BEHIND = (
    Kind.MAPPED,
    Kind.ENDPOINT_INDEPENDENT,
    Kind.ADDRESS_RESTRICTED,
    Kind.PORT_RESTRICTED,
    Kind.SYMMETRIC,
    Kind.DOUBLE,
    Kind.ENDPOINT_INDEPENDENT,
    Kind.PORT_RESTRICTED,
    Kind.SYMMETRIC,
    Kind.DOUBLE,
)


@pytest.mark.slow
def test_each_of_ten_behind_nats_and_two_in_public_calls_each_other() -> None:
    async def main() -> tuple[int, list[str], str]:
        kinds = (Kind.PUBLIC, Kind.PUBLIC, *BEHIND)
        async with World(Plan(kinds=kinds, asleep=0, seconds=0)) as world:
            await world.measure()
            tried, failed = 0, []
            for caller, callee in permutations(world.sleepers, 2):
                tried += 1
                calling = caller.machine.run(caller.gateway.call(callee.aor, PATIENCE))
                try:
                    await calling
                except Exception as error:  # all that fail are told, not the first
                    failed.append(f"{caller.machine.name} to {callee.machine.name}: {error!r}")
            return tried, failed, of_internet(world.internet)[-20_000:] if failed else ""

    tried, failed, ladder = simulate(main)
    assert tried == 12 * 11
    assert not failed, ladder
