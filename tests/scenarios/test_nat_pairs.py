"""Every kind of NAT with every other: a datagram arrives, and directly where that is possible."""

import asyncio

import pytest
from scenarios.nat_pairs import KINDS, Pair, first_datagram, pair, row

from sim.ladder import of_internet
from sim.loop import simulate
from sim.nats import Kind

RELAYED = {
    frozenset({Kind.SYMMETRIC}),
    frozenset({Kind.SYMMETRIC, Kind.PORT_RESTRICTED}),
    frozenset({Kind.SYMMETRIC, Kind.DOUBLE}),
}


@pytest.mark.parametrize("other", KINDS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("one", KINDS, ids=lambda kind: kind.value)
def test_a_datagram_arrives_and_the_path_gets_direct_where_it_can(one: Kind, other: Kind) -> None:
    async def main() -> tuple[float, dict[str, object], Pair]:
        async with pair(one, other) as there:
            took = await first_datagram(there)
            await asyncio.sleep(8)
            return took, row(there.a, there.b), there

    took, found, there = simulate(main)
    expected = frozenset({one, other}) in RELAYED
    assert found["relayed"] is expected, of_internet(there.internet)
    assert took < 2
