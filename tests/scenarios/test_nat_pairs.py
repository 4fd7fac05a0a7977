"""Every kind of NAT with every other: a datagram arrives, and directly where that is possible."""

import asyncio

import pytest
from scenarios.nat_pairs import KINDS, first_datagram, pair, row

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
    async def main() -> None:
        async with pair(one, other) as there:
            took = await first_datagram(there)
            await asyncio.sleep(8)
            assert row(there.a, there.b)["relayed"] is (frozenset({one, other}) in RELAYED)
            assert took < 2

    simulate(main)


def test_what_fails_prints_its_packets(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with pair(Kind.SYMMETRIC, Kind.PUBLIC) as there:
            await first_datagram(there, limit=0.01)

    with pytest.raises(AssertionError, match="it never came"):
        simulate(main)
    heading, *rows = capsys.readouterr().out.strip().splitlines()
    assert {"alice", "bob", "server1"} <= set(heading.split())
    assert any("- I1 " in each for each in rows)
