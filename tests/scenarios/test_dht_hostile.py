"""Nodes that lie, garble, flood or have no right to be there; and two overlays on one HIT."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgpack
import pytest
from scenarios.swarm import EPOCH, Swarm, identity, node_record, overlay_info

from hipctl import Hit
from overlay import LookupFailed
from overlay.admission import Credentials
from overlay.messages import OVERLAY_PORT, Code, Field, Kind, encode_answer, encode_request, parse
from overlay.node import Node
from overlay.overlayfile import OverlayInfo, Seed
from overlay.records import Record
from overlay.rpc import Asked, Send
from sim.hits import HitNet
from sim.loop import simulate
from sim.people import ALICE, ALICE_AOR, ENROLLED, WALL, certificate

LATENCY = (0.025, 0.075)
Evil = Callable[[Asked], bytes]


def turn(node: Node, evil: Evil) -> None:
    """Make ``node`` answer what ``evil`` says; its HELLOs stay honest."""
    engine = node.engine

    def on_asked(event: Asked) -> None:
        engine._neighbourhood.heard(event.session, engine._now)
        engine._out.append(Send(event.session.hit, evil(event)))

    engine._on_asked = on_asked  # type: ignore[method-assign]


def garbage(event: Asked) -> bytes:
    kind, request_id = int(event.message.kind), event.message.request_id
    bodies = [
        {},
        {14: [b"\xff" * 40]},
        {14: 7},
        {12: [b"x"]},
        {12: [bytes(16), b""]},
        {16: [[bytes(16), b"", -1, b""]]},
        {16: [], 18: 2**63},
        {20: 0, 22: "x" * 300},
        [],
        None,
    ]
    body = bodies[request_id[0] % len(bodies)]
    data: bytes = msgpack.packb((kind + 64, request_id, body))
    return data if request_id[1] % 4 else data[:-1] + b"\xc1"


def forgetful(event: Asked) -> bytes:
    """It stores nothing, says that it did, and knows nobody."""
    fields = {int(Field.CODE): 0} if event.message.kind == Kind.STORE else {}
    return encode_answer(event.message.kind, event.message.request_id, fields)


def forger(record: Record) -> Evil:
    forged = record.raw[:-1] + bytes([record.raw[-1] ^ 1])

    def evil(event: Asked) -> bytes:
        fields: dict[int, object] = {int(Field.CODE): 0}
        if event.message.kind == Kind.GET:
            fields = {int(Field.VALUES): [forged]}
        return encode_answer(event.message.kind, event.message.request_id, fields)

    return evil


async def _swarm(count: int, seed: int = 1) -> Swarm:
    swarm = Swarm(HitNet(latency=LATENCY), seed=seed)
    await swarm.grow(count)
    await asyncio.sleep(20)
    return swarm


@pytest.mark.parametrize("evil", [garbage, forgetful, "forger"])
def test_a_fifth_of_the_nodes_lying_changes_no_answer(evil: Evil | str) -> None:
    async def main() -> None:
        swarm = await _swarm(50)
        records = []
        for node in swarm.nodes[:20]:
            records.append(swarm.record(node))
            await node.put(records[-1])
        liars = swarm.random.sample(swarm.nodes, 10)
        for node in liars:
            turn(node, evil if callable(evil) else forger(records[0]))
        honest = [node for node in swarm.nodes if node not in liars]
        good = 0
        for _ in range(100):
            node, record = swarm.random.choice(honest), swarm.random.choice(records)
            good += [r.raw for r in await node.get("NODE", record.key)] == [record.raw]
        assert good == 100
        for node in honest[:10]:  # and puts still find honest replicas
            newer = swarm.record(node, seq=2)
            await node.put(newer)
            (found,) = await swarm.random.choice(honest).get("NODE", newer.key)
            assert found.raw == newer.raw
        await swarm.stop()

    simulate(main)


def test_one_hostile_answer_never_raises_out_of_get() -> None:
    async def main() -> None:
        swarm = await _swarm(2)
        turn(swarm.nodes[0], garbage)
        for number in range(60):
            with suppress(LookupFailed):
                assert await swarm.nodes[1].get("NODE", bytes([number]) * 20) == []
        await swarm.stop()

    simulate(main)


def test_any_bytes_at_the_overlay_port_are_counted_or_answered() -> None:
    async def main() -> None:
        swarm = await _swarm(3)
        net = swarm.net
        stranger = net.host()
        stranger.learn(swarm.nodes[0].local, b"sim:" + swarm.nodes[0].local)
        answers: list[bytes] = []
        endpoint = stranger.open(
            stranger.hits[0], OVERLAY_PORT, lambda data, hit, port: answers.append(data)
        )
        tag = swarm.overlay.id[:8]
        before = sum(swarm.nodes[0].engine.rpc.counters.values())
        for data in (
            b"",
            b"\x93",
            bytes(2000),
            tag,
            tag + b"\xc1",
            tag + swarm.random.randbytes(60),
        ):
            endpoint.send(data, swarm.nodes[0].local, OVERLAY_PORT)
        endpoint.send(
            tag + encode_request(Kind.PING, b"12345678", {}), swarm.nodes[0].local, 10600
        )
        endpoint.send(tag + encode_request(33, b"12345678", {}), swarm.nodes[0].local, 10600)
        endpoint.send(tag + encode_request(2, b"12345678", {33: 1}), swarm.nodes[0].local, 10600)
        await asyncio.sleep(1)
        codes = [parse(answer[8:]).fields[Field.CODE] for answer in answers]
        assert codes == [Code.NOT_GREETED, Code.UNSUPPORTED, Code.UNSUPPORTED]
        assert sum(swarm.nodes[0].engine.rpc.counters.values()) >= before + 6
        assert stranger.hits[0] not in swarm.nodes[0].engine.rpc.sessions
        await swarm.stop()

    simulate(main)


def test_a_neighbour_that_floods_is_not_served_beyond_its_rate() -> None:
    async def main() -> None:
        swarm = await _swarm(3)
        one, two = swarm.nodes[:2]
        sent = swarm.net.counters["sent"]
        for number in range(3000):
            request = encode_request(Kind.PING, number.to_bytes(8, "big"), {})
            two._endpoint.send(two._tag + request, one.local, OVERLAY_PORT)
        await asyncio.sleep(0.5)
        assert swarm.net.counters["sent"] - sent < 3000 + 600
        assert one.engine.rpc.counters["neighbour asks too much"] > 2000
        await swarm.stop()

    simulate(main)


def test_who_is_not_enrolled_gets_in_neither_way() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.02, 0.02))
        loop = asyncio.get_running_loop()

        def node(who: int | None, seeds: tuple[Hit, ...] = ()) -> Node:
            if who is None:
                hit = ALICE.device.hit
                shown = Credentials(ALICE.delegation, (certificate(ALICE, ALICE_AOR),))
            else:
                hit, shown = identity(who).hit, Credentials()
            host = net.host(hit)
            for seed in seeds:
                host.learn(seed, b"sim:" + seed)
            return Node(
                host,
                hit,
                ENROLLED,
                shown,
                seeds=[Seed(seed, "192.0.2.1", 10500) for seed in seeds],
                wall=lambda: WALL + loop.time(),
            )

        async with node(None) as member:
            await member.joined()
            async with node(5, (member.local,)) as stranger:
                await asyncio.sleep(5)
                assert not stranger.engine.table.by_id
                assert not member.engine.table.by_id
                assert member.credentials_of(stranger.local) is None
                with pytest.raises(LookupFailed):
                    await stranger.get("NODE", bytes(20))
                # and a member that is lured to a stranger does not take it for one either
                member.host.learn(stranger.local, b"sim:" + stranger.local)
                assert await member.greet(stranger.local) is None

    simulate(main)


def test_two_overlays_share_a_hit_and_a_port_and_nothing_else() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.02, 0.02))
        loop = asyncio.get_running_loop()
        infos = [overlay_info("one.example"), overlay_info("two.example")]
        hosts = [net.host(identity(n).hit) for n in range(2)]
        hosts[1].learn(hosts[0].hits[0], b"sim:" + hosts[0].hits[0])

        def node(number: int, info: OverlayInfo) -> Node:
            seeds = [Seed(hosts[0].hits[0], "192.0.2.1", 10500)] if number else []
            return Node(
                hosts[number],
                hosts[number].hits[0],
                info,
                seeds=seeds,
                wall=lambda: EPOCH + loop.time(),
            )

        nodes = [[node(n, info) for n in range(2)] for info in infos]
        for pair in nodes:
            for one in pair:
                await one.__aenter__()
        await asyncio.sleep(3)
        record = node_record(identity(1), infos[0], 1, EPOCH)
        assert await nodes[0][1].put(record) == 2
        assert len(await nodes[0][0].get("NODE", record.key)) == 1
        assert await nodes[1][0].get("NODE", record.key) == []
        assert nodes[0][0].engine.table.node.id != nodes[1][0].engine.table.node.id
        with pytest.raises(ValueError, match="already"):
            await node(0, infos[0]).__aenter__()
        for pair in nodes:
            for one in pair:
                await one.__aexit__(None, None, None)
        assert not hosts[0].endpoints
        assert not hosts[1].endpoints

    simulate(main)
