"""Who offers what: SVC records of whole nodes in virtual time."""

import asyncio

import pytest
from scenarios.swarm import Swarm, identity

from overlay import ConfigError, Provider
from overlay.constants import SERVICE_LIFE
from overlay.node import Node
from overlay.providers import Providers
from overlay.publisher import Publisher
from overlay.records import Svc, service_key, sign_record
from sim.hits import HitNet
from sim.loop import simulate


class Member:
    """A node of a swarm with its records and services."""

    def __init__(self, swarm: Swarm, node: Node) -> None:
        self.node = node
        self.publisher = Publisher(node, swarm.identity(node))
        self.providers = Providers(node, self.publisher)

    async def start(self) -> "Member":
        await self.publisher.__aenter__()
        return self

    async def stop(self) -> None:
        await self.publisher.__aexit__(None, None, None)


async def members(swarm: Swarm, count: int) -> list[Member]:
    await swarm.grow(count)
    await asyncio.sleep(2)
    return [await Member(swarm, node).start() for node in swarm.nodes]


def room() -> int:
    return 7


def test_what_one_advertises_the_others_find_until_it_is_withdrawn() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=(0.02, 0.08), seed=3), seed=3)
        one, other, third = await members(swarm, 3)
        one.providers.advertise("relay", 0, room)
        other.providers.advertise("voicemail", 5070, room)
        await asyncio.sleep(2)
        assert one.providers.advertised() == {"relay": 3}
        (found,) = await third.providers.find("relay")
        host = swarm.host(one.node)
        assert found == Provider(
            one.node.local, "relay", 0, 7, found.expires, host.contact(one.node.local)
        )
        assert 0 < found.expires - swarm.wall() <= SERVICE_LIFE
        assert swarm.host(third.node).learnt[one.node.local] == found.contact
        assert [p.port for p in await third.providers.find("voicemail")] == [5070]
        assert await one.providers.find("relay") == []  # of itself it knows
        await one.providers.unadvertise("relay")
        assert await third.providers.find("relay") == []
        assert one.providers.advertised() == {}
        await one.providers.unadvertise("relay")

    simulate(main)


def test_services_are_withdrawn_when_their_peer_stops() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(seed=5), seed=5)
        one, other = await members(swarm, 2)
        one.providers.advertise("relay", 0, room)
        await asyncio.sleep(1)
        assert await other.providers.find("relay")
        await one.stop()
        assert await other.providers.find("relay") == []

    simulate(main)


def test_a_record_is_refreshed_at_half_its_life_with_the_capacity_of_then() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(seed=6), seed=6)
        one, other = await members(swarm, 2)
        left = 9
        one.providers.advertise("relay", 0, lambda: left)
        await asyncio.sleep(1)
        (first,) = await other.providers.find("relay")
        left = 100_000
        await asyncio.sleep(SERVICE_LIFE / 2 + 30)
        (then,) = await other.providers.find("relay")
        assert (first.capacity, then.capacity) == (9, 65_535)
        assert then.expires >= first.expires + SERVICE_LIFE / 2

    simulate(main)


def test_a_record_dies_with_its_owner_within_its_life() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(seed=8), seed=8)
        one, other, _ = await members(swarm, 3)
        one.providers.advertise("relay", 0, room)
        await asyncio.sleep(1)
        swarm.host(one.node).stop()
        await asyncio.sleep(SERVICE_LIFE + 5)
        assert await other.providers.find("relay") == []

    simulate(main)


@pytest.mark.parametrize("kind", ["", "Relay", "a" * 17, "re lay", "-x", "rélai"])
def test_what_is_no_type_of_service_is_refused(kind: str) -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(seed=5), seed=5)
        (one,) = await members(swarm, 1)
        with pytest.raises(ConfigError, match="no type of service"):
            one.providers.advertise(kind, 0, room)

    simulate(main)


def test_who_finds_a_full_bucket_goes_deeper_and_is_found_there_by_its_neighbours() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=(0.01, 0.03), seed=9), seed=9)
        crowd = await members(swarm, 4)
        # 64 others stand there already
        for number in range(64):
            who = identity(10_000 + number)
            wall = int(swarm.wall())
            svc = Svc("relay", 0, 0, 0, b"sim:" + who.hit)
            key = service_key(swarm.overlay.id, "relay", 0, 0)
            record = sign_record(
                who,
                swarm.overlay.id,
                "SVC",
                key,
                b"",
                1,
                wall,
                wall + SERVICE_LIFE,
                svc.encode(),
            )
            for member in crowd:
                member.node.engine.storage.offer(record, None, wall, lambda key: True)
        crowd[0].providers.advertise("relay", 0, lambda: 500)
        await asyncio.sleep(10)
        assert crowd[0].providers.advertised()["relay"] >= 1
        first = crowd[0].providers
        deep = crowd[0].publisher.record("service relay in its bucket")
        assert deep is not None
        assert Svc.decode(deep.payload).depth == 1
        found = {
            member.node.local: [p.hit for p in await member.providers.find("relay")]
            for member in crowd[1:]
        }
        own = first._id[0] >> 7
        for member in crowd[1:]:
            same = member.providers._id[0] >> 7 == own
            assert (crowd[0].node.local in found[member.node.local]) is same

    simulate(main)


def test_what_is_rare_is_found_from_every_bucket() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=(0.01, 0.05), seed=4), seed=4)
        crowd = await members(swarm, 48)
        crowd[5].providers.advertise("rvs", 0, room)
        await asyncio.sleep(20)
        for member in crowd[6:]:
            assert [p.hit for p in await member.providers.find("rvs")] == [crowd[5].node.local]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overlay.keys.BUCKET_NODES", 8)
        simulate(main)


@pytest.mark.slow
def test_in_a_larger_overlay_providers_are_found_wherever_one_asks() -> None:
    """With buckets of 16 nodes, as in an overlay of thousands."""

    async def main() -> None:
        swarm = Swarm(HitNet(latency=(0.01, 0.05), seed=4), seed=4)
        crowd = await members(swarm, 96)
        for member in crowd[::3]:
            member.providers.advertise("relay", 0, room)
        await asyncio.sleep(20)
        depths = {
            Svc.decode(record.payload).depth
            for member in crowd[::3]
            if (record := member.publisher.record("service relay in its bucket"))
        }
        assert depths <= {1, 2, 3}
        assert max(depths) >= 2
        for member in crowd[1::3]:
            found = await member.providers.find("relay")
            assert len(found) >= 4
            assert all(p.hit in swarm.net.hosts for p in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overlay.keys.BUCKET_NODES", 16)
        simulate(main)


def test_the_size_of_an_overlay_is_guessed_well_enough() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(seed=2), seed=2)
        await swarm.grow(5)
        await asyncio.sleep(1)
        assert {node.estimated_size() for node in swarm.nodes} == {5.0}
        await swarm.grow(95)
        await asyncio.sleep(5)
        guesses = sorted(node.estimated_size() for node in swarm.nodes)
        assert 70 < guesses[50] < 140
        assert guesses[5] > 40
        assert guesses[94] < 220

    simulate(main)
