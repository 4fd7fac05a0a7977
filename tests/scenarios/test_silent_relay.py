"""A relay that passes control packets, and checks with them, but no data; and peers on hold."""

import asyncio
from collections.abc import Mapping
from itertools import pairwise

import pytest
from scenarios.nat_pairs import Pair, first_datagram, pair, row

from hipctl import LocalHost
from sim.loop import simulate
from sim.nats import Kind
from sim.net import Address

STRICT = Kind.SYMMETRIC, Kind.SYMMETRIC  # only relays carry data between these
NO_DATA = "relay passes no data"
LIMIT = 10.0  # seconds until another relay has had its turn


def relays(there: Pair) -> set[str]:
    """Where they are."""
    return {ip for each in there.servers for ip, _ in each.reachability().addresses}


def used(there: Pair) -> str:
    """Where the relay in use is."""
    found: Mapping[str, object] = row(there.a, there.b)
    ends = [
        end[0] for key in ("via", "address") if isinstance(end := found.get(key), list | tuple)
    ]
    (ip,) = relays(there).intersection(ends)
    return ip


def drop_data(there: Pair, to: set[LocalHost], through: set[str]) -> None:
    """From now on these relays pass nothing but control packets on to these hosts."""
    homes = {ip for host in to for _, (ip, _) in host.reachability().reflexive}

    def passes(data: bytes, source: Address, target: Address) -> bytes | None:
        lost = source[0] in through and target[0] in homes and data[:4] != bytes(4)
        return None if lost else data

    there.internet.core.net.filter = passes


async def heard(
    one: LocalHost, other: LocalHost, seconds: float, every: float, port: int = 9
) -> list[float]:
    """One speaks, the other says nothing; when that heard something, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    came: list[float] = []
    ear = other.open(other.hits[0], port, lambda *_: came.append(loop.time() - began))
    mouth = one.open(one.hits[0], port, lambda *_: None)
    while loop.time() - began < seconds:
        mouth.send(b"hello?", other.hits[0], port)
        await asyncio.sleep(every)
    mouth.close()
    ear.close()
    return came


@pytest.mark.parametrize("began", [True, False], ids=["who began", "the other"])
@pytest.mark.parametrize("way", ["both", "there", "back"])
def test_where_a_relay_passes_no_data_another_has_its_turn(way: str, began: bool) -> None:
    async def main() -> None:
        async with pair(*STRICT) as there:
            await first_datagram(there)
            await asyncio.sleep(5)
            before = used(there)
            one, other = (there.a, there.b) if began else (there.b, there.a)
            to = {"both": {one, other}, "there": {other}, "back": {one}}[way]
            drop_data(there, to, {before})
            came = await heard(one, other, LIMIT, 0.5)
            assert used(there) != before
            assert came[-1] > LIMIT - 1
            assert one.counters()[NO_DATA] == 1

    simulate(main)


@pytest.mark.parametrize("every", [0.02, 1.0])
def test_a_peer_that_says_nothing_is_left_on_its_path(every: float) -> None:
    async def main() -> None:
        async with pair(*STRICT) as there:
            await first_datagram(there)
            await heard(there.b, there.a, 1, every)  # then it is on hold
            before = there.a.counters()["path changed"]
            assert len(await heard(there.a, there.b, 15, every)) > 14 / every
            after = there.a.counters()
            assert after["path changed"] == before
            assert NO_DATA not in after
            assert after.get("silence", 0) < 5

    simulate(main)


def test_where_no_relay_passes_data_each_has_its_turn_and_not_all_the_time() -> None:
    async def main() -> None:
        async with pair(*STRICT) as there:
            await first_datagram(there)
            drop_data(there, {there.a, there.b}, relays(there))
            await heard(there.a, there.b, 60, 1)
            tried = there.a.counters()[NO_DATA]
            assert 2 <= tried <= 8
            there.internet.core.net.filter = None
            assert await heard(there.a, there.b, 1, 0.5)

    simulate(main)


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "passes no data"])
def test_a_relay_that_had_passed_no_data_takes_over_when_the_other_fails(dies: bool) -> None:
    async def main() -> None:
        async with pair(*STRICT) as there:
            await first_datagram(there)
            await asyncio.sleep(5)
            first = used(there)
            drop_data(there, {there.a, there.b}, {first})
            await asyncio.gather(
                heard(there.a, there.b, LIMIT, 0.1), heard(there.b, there.a, LIMIT, 0.1, port=8)
            )
            second = used(there)
            assert second != first
            drop_data(there, {there.a, there.b}, {second})
            if dies:
                there.internet.core.net.filter = lambda data, source, target: (
                    None if second in {source[0], target[0]} else data
                )
            came = await heard(there.b, there.a, LIMIT, 0.02)  # who listens only, notices nothing
            assert used(there) == first
            assert max(b - a for a, b in pairwise([0.0, *came])) < (3 if dies else 8)

    simulate(main)


def test_a_peer_that_is_away_for_a_while_leaves_the_relay_as_good_as_before() -> None:
    async def main() -> None:
        async with pair(*STRICT) as there:
            await first_datagram(there)
            await asyncio.sleep(2)
            homes = {ip for _, (ip, _) in there.b.reachability().reflexive}
            there.internet.core.net.filter = lambda data, source, target: (
                None if homes & {source[0], target[0]} else data
            )
            await heard(there.a, there.b, 6, 0.1)
            there.internet.core.net.filter = None
            assert len(await heard(there.a, there.b, 2, 0.1)) > 18
            assert NO_DATA not in there.a.counters()

    simulate(main)
