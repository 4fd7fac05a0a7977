"""What is wrong in ``kademlia`` 2.2.3, and isn't here: each defect shown there, then mended.

The numbers are those of the design's table. Where a defect lies in the package's network code,
its parts are run in this process without sockets.
"""

import asyncio
import hashlib
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from kademlia.crawling import NodeSpiderCrawl, RPCFindResponse, ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node as PackageNode
from kademlia.protocol import KademliaProtocol
from kademlia.routing import KBucket
from kademlia.routing import RoutingTable as PackageTable
from kademlia.storage import ForgetfulStorage
from kademlia.utils import digest
from scenarios.swarm import Swarm

from hipctl import Hit
from overlay import LookupFailed
from overlay.lookup import Lookup
from overlay.messages import Code, encode_answer, parse
from overlay.routing import Bucket, Contact, Ping, Table
from overlay.rpc import Send
from sim.hits import HitNet
from sim.loop import simulate


def ids(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(20) for _ in range(count)]


def hit_of(node_id: bytes) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + node_id[:12])


def ours(count: int, seed: int = 1) -> Table:
    own, *others = ids(count + 1, seed)
    table = Table(own)
    for node_id in others:
        table.add_contact(Contact(node_id, hit_of(node_id)), 0.0)
    return table


class _NoPing:
    async def call_ping(self, node: Any) -> None:
        return None


def theirs(count: int, seed: int = 1) -> PackageTable:
    own, *others = ids(count + 1, seed)
    table = PackageTable(_NoPing(), 20, PackageNode(own))
    for node_id in others:
        table.add_contact(PackageNode(node_id, node_id.hex(), 1))
    return table


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.set_event_loop(None)


def test_d1_the_nearest_neighbours_are_exactly_those() -> None:
    async def package() -> int:
        table = theirs(50)
        known = [node for bucket in table.buckets for node in bucket.get_nodes()]
        exact = 0
        for target in ids(100, seed=9):
            goal = PackageNode(target)
            nearest = sorted(known, key=goal.distance_to)[:20]
            found = table.find_neighbors(goal)
            exact += [n.id for n in found] == [n.id for n in nearest]
        return exact

    assert asyncio.run(package()) < 25

    async def stops_early() -> list[bytes]:
        table = PackageTable(_NoPing(), 2, PackageNode(b"\xff" * 20))
        for lead in (0x00, 0x01, 0x80, 0x81, 0xC0, 0xC1, 0xE0, 0xE1):
            table.add_contact(PackageNode(bytes([lead]) * 20, str(lead), 1))
        return [node.id for node in table.find_neighbors(PackageNode(b"\xff" * 20), k=8)]

    assert len(asyncio.run(stops_early())) < 8  # though it knows eight

    table = ours(1000)
    for target in ids(100, seed=9):
        number = int.from_bytes(target, "big")
        nearest = sorted(table.contacts(), key=lambda c: c.long_id ^ number)[:20]
        assert table.find_neighbors(PackageNode(target)) == nearest
        assert table.nearest(number, 8) == nearest[:8]


def test_d2_a_lookup_does_not_wait_for_its_slowest_node() -> None:
    asked: list[str] = []

    class Slow:
        async def call_find_node(self, peer: Any, node: Any) -> tuple[bool, list[Any]]:
            asked.append(peer.ip)
            await asyncio.sleep(5.0 if peer.ip == "slow" else 0.1)
            return (True, [])

    async def package() -> float:
        peers = [PackageNode(i, "slow" if n == 1 else "fast", n) for n, i in enumerate(ids(6))]
        goal = PackageNode(peers[1].id)
        began = asyncio.get_running_loop().time()
        await NodeSpiderCrawl(Slow(), goal, peers, 20, 3).find()
        return asyncio.get_running_loop().time() - began

    assert simulate(package) >= 5.0

    contacts = [Contact(i, hit_of(i)) for i in ids(6)]
    lookup = Lookup(contacts[1].long_id, contacts, alpha=3, width=20)
    first = lookup.next()
    assert first[0] is contacts[1]
    for contact in first[1:]:
        lookup.on_answer(contact.hit)
    assert len(lookup.next()) == 2  # the slow one's place is taken neither yet …
    lookup.on_late(contacts[1].hit)
    assert len(lookup.next()) == 1  # … nor lost once it is late
    lookup.on_late(contacts[1].hit)
    for contact in contacts[2:] + contacts[:1]:
        lookup.on_answer(contact.hit)
    assert lookup.done()


def test_d3_a_lost_packet_evicts_nobody() -> None:
    async def package() -> bool:
        protocol = KademliaProtocol(PackageNode(ids(1)[0]), ForgetfulStorage(), 20)
        peer = PackageNode(ids(2)[1], "192.0.2.1", 1)
        protocol.router.add_contact(peer)
        protocol.handle_call_response((False, None), peer)  # what one time-out does
        return bool(protocol.router.is_new_node(peer))

    assert asyncio.run(package())

    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        swarm = Swarm(net)
        await swarm.grow(2)
        lost = iter([True, True])
        net.reaches = lambda one, other: not next(lost, False)
        assert await swarm.nodes[1].get("NODE", bytes(20)) == []
        assert len(swarm.nodes[1].engine.table) == 1
        assert swarm.nodes[1].engine.rpc.counters["request sent again"] >= 2
        await swarm.stop()

    simulate(main)


class _DeadProtocol:
    """A network in which nodes are found, and then store nothing."""

    def __init__(self, peers: list[PackageNode], stored: bool) -> None:
        self.router = self
        self._peers, self._stored = peers, stored

    def find_neighbors(self, node: Any, k: int = 20) -> list[PackageNode]:
        return self._peers

    async def call_find_node(self, peer: Any, node: Any) -> tuple[bool, list[Any] | None]:
        return (self._stored, [] if self._stored else None)

    async def call_store(self, *_: Any) -> tuple[bool, None]:
        return (False, None)


def _server(stored: bool) -> Server:
    server = Server()
    server.node = PackageNode(b"\xff" * 20)
    server.protocol = _DeadProtocol([PackageNode(b"\1" * 20, "192.0.2.1", 1)], stored)
    return server


def test_d4_a_put_that_nobody_stored_is_an_error() -> None:
    assert asyncio.run(_server(stored=True).set_digest(bytes(20), b"value")) is True

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(3)
        for node in swarm.nodes:
            node.engine.storage._limits = type(node.engine.storage._limits)(total=0)
        with pytest.raises(LookupFailed, match="overlay quota"):
            await swarm.nodes[1].put(swarm.record(swarm.nodes[1]))
        await swarm.stop()

    simulate(main)


def test_d5_a_put_among_dead_neighbours_is_no_value_error() -> None:
    with pytest.raises(ValueError, match="max"):
        asyncio.run(_server(stored=False).set_digest(bytes(20), b"value"))

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(3)
        for node in swarm.nodes[1:]:
            swarm.host(node).stop()
        assert await swarm.nodes[0].put(swarm.record(swarm.nodes[0])) == 1  # we hold it ourselves
        await swarm.stop()

    simulate(main)


def test_d6_what_is_handed_over_is_chosen_by_its_key_not_by_the_keys_hash() -> None:
    async def package() -> list[bytes]:
        own, key = bytes(19) + b"\1", bytes(20)  # we are the nearest that anybody knows
        protocol = KademliaProtocol(PackageNode(own), ForgetfulStorage(), 1)
        protocol.router.add_contact(PackageNode(b"\xff" * 20, "192.0.2.9", 1))
        protocol.storage[key] = b"value"
        handed: list[bytes] = []

        async def call_store(node: Any, dkey: bytes, value: bytes) -> None:
            handed.append(dkey)

        protocol.call_store = call_store
        hashed = int.from_bytes(digest(key), "big")
        new = bytes(19) + b"\2"
        # a newcomer at the key's very side: whether it gets the value depends on another number
        protocol.welcome_if_new(PackageNode(new, "192.0.2.2", 1))
        await asyncio.sleep(0)
        nearer = hashed ^ int.from_bytes(new, "big") < hashed ^ int.from_bytes(b"\xff" * 20, "big")
        ours_first = hashed ^ 1 < hashed ^ int.from_bytes(b"\xff" * 20, "big")
        assert bool(handed) == (nearer and ours_first)
        return handed

    asyncio.run(package())

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(10)
        records = [swarm.record(node) for node in swarm.nodes]
        for node, record in zip(swarm.nodes, records, strict=True):
            await node.put(record)
        newcomer = await swarm.add()
        await asyncio.sleep(30)
        assert {r.key for r in newcomer.engine.storage} == {r.key for r in records}
        await swarm.stop()

    simulate(main)


def test_d7_depth_is_of_the_range_and_who_answers_moves_to_the_tail() -> None:
    theirs_bucket = KBucket(0, 2**160, 20)
    theirs_bucket.add_node(PackageNode(b"\x80" + bytes(19)))
    theirs_bucket.add_node(PackageNode(b"\x80" + bytes(18) + b"\1"))
    assert theirs_bucket.depth() == 159  # though the range fixes nothing

    bucket = Bucket(0, 2**160 - 1, 20)
    for tail in (b"\0", b"\1"):
        bucket.add_node(Contact(b"\x80" + bytes(18) + tail, hit_of(bytes(19) + tail)))
    assert bucket.depth() == 0
    assert [half.depth() for half in bucket.split()] == [1, 1]

    table = ours(3)
    (bucket,) = table.buckets
    head = bucket.head()
    table.heard(head, 100.0)
    assert list(bucket.nodes.values())[-1] is head


def test_d7_a_full_bucket_pings_its_head_and_keeps_whoever_answers() -> None:
    own = bytes(20)
    table = Table(own, k=2, quiet=10.0)
    far = [
        Contact(b"\x80" + bytes(18) + bytes([n]), hit_of(bytes(19) + bytes([n])))
        for n in (1, 2, 3)
    ]
    near = Contact(b"\1" + bytes(19), hit_of(b"\1" * 20))
    for contact in (near, *far[:2]):
        assert table.add_contact(contact, 0.0) == []
    assert table.add_contact(far[2], 5.0) == []  # the head was heard only just now
    assert table.add_contact(far[2], 70.0) == [Ping(far[0])]
    table.heard(far[0], 70.1)
    assert far[2].long_id not in table.by_id
    table.remove_contact(far[1])
    assert far[2].long_id in table.by_id  # it had waited for the place


def test_d8_a_bucket_holds_both_ends_of_its_range() -> None:
    async def package() -> tuple[int, ...]:
        table = PackageTable(_NoPing(), 1, PackageNode(bytes(20)))
        table.add_contact(PackageNode(b"\1" * 20, "a", 1))
        table.add_contact(PackageNode(b"\xf0" * 20, "b", 1))
        edge = PackageNode(table.buckets[0].range[1].to_bytes(20, "big"))
        assert table.buckets[0].has_in_range(edge)
        index: int = table.get_bucket_for(edge)
        return (index,)

    assert asyncio.run(package()) == (1,)  # the next one

    table = ours(500)
    for index, bucket in enumerate(table.buckets):
        lower, upper = bucket.range
        assert table.bucket_index(lower) == table.bucket_index(upper) == index
        assert all(lower <= c.long_id <= upper for c in bucket.nodes.values())
    assert table.buckets[0].range[0] == 0
    assert table.buckets[-1].range[1] == 2**160 - 1


@pytest.mark.parametrize("reply", [{}, {"value": ["list"]}, [["x"]]])
def test_d9_a_hostile_reply_does_not_raise_out_of_a_get(reply: Any) -> None:
    async def package() -> None:
        class Hostile:
            async def call_find_value(self, peer: Any, node: Any) -> tuple[bool, Any]:
                return (True, reply)

        peers = [PackageNode(i, "192.0.2.1", 1) for i in ids(2)]
        await ValueSpiderCrawl(Hostile(), PackageNode(bytes(20)), peers, 20, 3).find()

    with pytest.raises((TypeError, AttributeError, IndexError, KeyError, ValueError)):
        asyncio.run(package())
    assert RPCFindResponse  # ours: tests/scenarios/test_dht_hostile.py sends all of these


def test_d10_a_forged_value_is_not_believed_and_a_local_replica_hides_nothing() -> None:
    async def package() -> Any:
        class Liar:
            stored: Any = None

            async def call_find_value(self, peer: Any, node: Any) -> tuple[bool, Any]:
                return (True, {"value": "forged"})

        peers = [PackageNode(i, "192.0.2.1", 1) for i in ids(2)]
        return await ValueSpiderCrawl(Liar(), PackageNode(bytes(20)), peers, 20, 3).find()

    assert asyncio.run(package()) == "forged"
    server = Server()
    server.storage[digest("key")] = "old"
    assert asyncio.run(server.get("key")) == "old"  # it asks nobody

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(4)
        owner, reader = swarm.nodes[1], swarm.nodes[2]
        old, new = swarm.record(owner, 1), swarm.record(owner, 2)
        await owner.put(old)
        assert old.key in set(reader.engine.storage.keys())
        swarm.net.reaches = lambda one, other: other != reader.local
        await owner.put(new)
        swarm.net.reaches = None
        (found,) = await reader.get("NODE", old.key)
        assert found.seq == 2
        await swarm.stop()

    simulate(main)


def test_d11_a_node_id_is_computed_and_never_told() -> None:
    async def package() -> bool:
        protocol = KademliaProtocol(PackageNode(ids(1)[0]), ForgetfulStorage(), 20)
        protocol.rpc_ping(("192.0.2.6", 6), b"\xaa" * 20)  # whatever the packet says
        return bool(protocol.router.is_new_node(PackageNode(b"\xaa" * 20)))

    assert not asyncio.run(package())

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(5)
        for node in swarm.nodes:
            for contact in node.engine.table.contacts():
                covered = b"p2psip/nid/1" + swarm.overlay.id + contact.hit
                assert contact.id == hashlib.sha256(covered).digest()[:20]
        await swarm.stop()

    simulate(main)


def test_d12_nobody_overwrites_anothers_record_and_expiry_is_the_owners() -> None:
    storage = ForgetfulStorage()
    storage[b"key"] = "Alice's"
    storage[b"key"] = "Mallory's"
    assert storage[b"key"] == "Mallory's"

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(4)
        owner, mallory = swarm.nodes[1], swarm.nodes[2]
        record = swarm.record(owner)
        await owner.put(record)
        forged = type(record).parse(
            record.raw.replace(bytes(owner.local), bytes(mallory.local), 1)
        )
        with pytest.raises(LookupFailed, match="no free slot"):
            await mallory.put(forged)
        (found,) = await mallory.get("NODE", record.key)
        assert found.raw == record.raw
        await asyncio.sleep(7_100)  # many upkeeps later
        assert await mallory.get("NODE", record.key) == []
        assert all(record.key not in set(node.engine.storage.keys()) for node in swarm.nodes)
        await swarm.stop()

    simulate(main)


def test_d13_an_answer_counts_only_from_the_hit_that_was_asked() -> None:
    async def package() -> Any:
        protocol = KademliaProtocol(PackageNode(ids(1)[0]), ForgetfulStorage(), 20)
        future = asyncio.get_running_loop().create_future()
        timeout = asyncio.get_running_loop().call_later(5, lambda: None)
        protocol._outstanding[b"m" * 20] = (future, timeout)
        protocol._accept_response(b"m" * 20, "forged", ("203.0.113.66", 666))
        timeout.cancel()
        return await future

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asyncio.run(package()) == (True, "forged")

    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(3)
        one, two, three = swarm.nodes
        engine, now = one.engine, asyncio.get_running_loop().time()
        (ping,) = [
            action
            for action in engine.get("handle", "NODE", bytes(20), now, swarm.wall())
            if isinstance(action, Send) and action.to == two.local
        ]
        asked = parse(ping.data)
        answer = encode_answer(asked.kind, asked.request_id, {})
        pending = engine.rpc.in_flight()
        engine.on_datagram(answer, three.local, now, swarm.wall())
        assert engine.rpc.in_flight() == pending
        assert engine.rpc.counters["answer from another HIT"] == 1
        engine.on_datagram(answer, two.local, now, swarm.wall())
        assert engine.rpc.in_flight() == pending - 1
        assert Code.NOT_GREETED  # who asks without HELLO: test_rpc.py
        await swarm.stop()

    simulate(main)


def test_d14_tables_are_filled_after_a_join() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet())
        await swarm.grow(60)
        await asyncio.sleep(20)
        last = swarm.nodes[-1].engine.table
        everybody = [node.engine.table.node.long_id for node in swarm.nodes[:-1]]
        for bucket in last.buckets:
            inside = sum(bucket.range[0] <= i <= bucket.range[1] for i in everybody)
            assert len(bucket) >= min(inside, 20) - 1
        await swarm.stop()

    simulate(main)


def test_d15_no_pure_room_reads_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> float:
        raise AssertionError("somebody read the clock")

    monkeypatch.setattr(time, "monotonic", read)
    with pytest.raises(AssertionError):
        KBucket(0, 1, 20)
    table = ours(100)
    table.touch(5, 7.0)
    assert table.lonely_buckets(6.0)
    assert len(table.refresh_targets(6.0, random.Random(1).randbytes)) == len(table.buckets) - 1
