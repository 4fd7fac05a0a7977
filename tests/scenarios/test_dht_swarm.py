"""A hundred nodes in virtual time: what must hold when all is well, when nodes die, under loss."""

import asyncio
from statistics import median

import pytest
from scenarios.swarm import Swarm, identity, node_record, overlay_info

from hipctl import Hit
from overlay import LookupFailed
from overlay.node import Node
from overlay.overlayfile import Seed
from overlay.records import Record
from sim.hits import HitNet
from sim.loop import simulate

N = 100
LATENCY = (0.025, 0.075)  # one way; the mean round trip is 100 ms
RTT = 0.1


async def _ready(net: HitNet, count: int = N, *, seed: int = 1) -> Swarm:
    swarm = Swarm(net, seed=seed)
    await swarm.grow(count)
    await asyncio.sleep(20)
    return swarm


async def _put_all(swarm: Swarm, count: int = 40) -> list[Record]:
    records = []
    for node in swarm.nodes[:count]:
        record = swarm.record(node)
        assert await node.put(record) >= 10
        records.append(record)
    await asyncio.sleep(2)
    return records


async def _get_all(
    swarm: Swarm, nodes: list[Node], records: list[Record], count: int = 150
) -> tuple[int, list[float]]:
    loop = asyncio.get_running_loop()
    good, times = 0, []
    for _ in range(count):
        node, record = swarm.random.choice(nodes), swarm.random.choice(records)
        began = loop.time()
        found = await node.get("NODE", record.key)
        times.append(loop.time() - began)
        good += [r.raw for r in found] == [record.raw]
    return good, sorted(times)


def test_every_get_and_put_of_a_healthy_overlay_succeeds() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        swarm = await _ready(net)
        sent = net.counters["sent"]
        records = await _put_all(swarm)
        assert (net.counters["sent"] - sent) / len(records) <= 65
        sent = net.counters["sent"]
        good, times = await _get_all(swarm, swarm.nodes, records)
        await asyncio.sleep(2)
        assert good == 150
        assert median(times) <= 2 * RTT
        assert (net.counters["sent"] - sent) / 150 <= 16
        await swarm.stop()

    simulate(main)


def test_tables_are_as_full_as_k_allows() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY))
        ids = [node.engine.table.node.long_id for node in swarm.nodes]
        for node in swarm.nodes:
            for bucket in node.engine.table.buckets:
                inside = sum(bucket.range[0] <= i <= bucket.range[1] for i in ids)
                inside -= bucket.has_in_range(node.engine.table.node)
                # somebody who joined at the same moment may be missing
                assert len(bucket) >= min(inside, 20) - 2
        await swarm.stop()

    simulate(main)


def test_records_survive_when_a_third_of_the_nodes_is_killed_at_once() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        swarm = await _ready(net)
        records = await _put_all(swarm)
        left = swarm.kill(0.3)
        good, times = await _get_all(swarm, left, records)
        assert good == 150
        assert median(times) <= 4 * RTT
        assert times[-1] <= 2.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        node = left[0]
        assert await node.put(swarm.record(node, seq=2)) >= 6
        assert loop.time() - began <= 2.0
        await swarm.stop()

    simulate(main)


def test_half_of_the_nodes_killed_leaves_the_records_findable() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), seed=3)
        records = await _put_all(swarm)
        left = swarm.kill(0.5)
        good, times = await _get_all(swarm, left, records)
        assert good >= 149
        assert times[int(0.95 * len(times))] <= 15 * RTT
        await swarm.stop()

    simulate(main)


def test_five_percent_loss_costs_time_and_nothing_else() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        swarm = await _ready(net)
        net.loss = 0.05
        records = await _put_all(swarm)
        good, times = await _get_all(swarm, swarm.nodes, records)
        assert good == 150
        assert median(times) <= 2 * RTT
        await swarm.stop()

    simulate(main)


def test_nobody_is_thrown_out_because_of_lost_datagrams() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        swarm = await _ready(net, 20)
        net.loss = 0.05
        await asyncio.sleep(3600)
        assert all(len(node.engine.table) >= 15 for node in swarm.nodes)
        await swarm.stop()

    simulate(main)


def test_an_idle_overlay_is_nearly_silent() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        swarm = await _ready(net, 60)
        await asyncio.sleep(600)
        sent, octets = net.counters["sent"], net.counters["bytes"]
        await asyncio.sleep(3600)
        minutes = 60 * len(swarm.nodes)
        assert (net.counters["sent"] - sent) / minutes <= 12
        assert (net.counters["bytes"] - octets) / minutes <= 2_500
        await swarm.stop()

    simulate(main)


def test_a_node_that_joins_later_is_handed_the_records_nearest_to_it() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), 40)
        records = await _put_all(swarm, 40)
        await asyncio.sleep(200)
        newcomers = [await swarm.add() for _ in range(10)]
        await asyncio.sleep(60)
        missing = 0
        for node in newcomers:
            held = {record.key for record in node.engine.storage}
            for record in records:
                target = int.from_bytes(record.key, "big")
                ids = [n.engine.table.node.long_id ^ target for n in swarm.nodes]
                mine = node.engine.table.node.long_id ^ target
                if sorted(ids).index(mine) < 6:
                    missing += record.key not in held
        assert missing == 0
        await swarm.stop()

    simulate(main)


def test_what_a_node_held_is_handed_on_when_it_dies() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), 40)
        records = await _put_all(swarm, 20)
        for _ in range(4):  # slowly, each time a fifth of what is left
            left = [node for node in swarm.nodes if swarm.host(node).up]
            for node in swarm.random.sample(left, 5):
                swarm.host(node).stop()
            await asyncio.sleep(1500)
        left = [node for node in swarm.nodes if swarm.host(node).up]
        for record in records:
            held = sum(record.key in {r.key for r in node.engine.storage} for node in left)
            assert held >= 8
        await swarm.stop()

    simulate(main)


def test_a_newer_version_is_what_everybody_reads_soon() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), 50)
        node = swarm.nodes[7]
        await node.put(swarm.record(node, seq=1))
        await asyncio.sleep(1)
        newer = swarm.record(node, seq=2)
        await node.put(newer)
        for reader in swarm.nodes:
            (found,) = await reader.get("NODE", newer.key)
            assert found.seq == 2
        await swarm.stop()

    simulate(main)


def test_a_restarted_node_is_greeted_again_and_its_old_neighbours_still_answer() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), 12)
        record = swarm.record(swarm.nodes[3])
        await swarm.nodes[3].put(record)
        old = swarm.nodes[5]
        await old.__aexit__(None, None, None)
        host = swarm.host(old)
        host.stop()
        host.start()
        seed: Hit = swarm.nodes[0].local
        fresh = Node(
            host,
            old.local,
            swarm.overlay,
            settings=swarm.settings,
            seeds=[Seed(seed, "192.0.2.1", 10500)],
            wall=swarm.wall,
            rng=swarm.random.randbytes,
        )
        await fresh.__aenter__()
        swarm.nodes[5] = fresh
        # one that has not noticed the restart asks first
        (found,) = await swarm.nodes[9].get("NODE", record.key)
        assert found.raw == record.raw
        await fresh.joined()
        (found,) = await fresh.get("NODE", record.key)
        assert found.raw == record.raw
        await asyncio.sleep(5)
        assert len(fresh.engine.table) == 11
        await swarm.stop()

    simulate(main)


def test_the_model_counts_real_bytes() -> None:
    async def main() -> None:
        net = HitNet(latency=LATENCY)
        net.logging = True
        swarm = await _ready(net, 30)
        await _put_all(swarm, 10)
        assert max(len(data) for *_, data in net.log) <= 1_250
        await swarm.stop()

    simulate(main)


def test_a_record_of_another_overlay_is_not_stored() -> None:
    async def main() -> None:
        swarm = await _ready(HitNet(latency=LATENCY), 5)
        stray = node_record(identity(0), overlay_info("other.example"), 1, swarm.wall())
        with pytest.raises(LookupFailed, match="of another overlay"):
            await swarm.nodes[0].put(stray)
        await swarm.stop()

    simulate(main)
