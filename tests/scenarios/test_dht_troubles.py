"""Overlays in the field: cut in two, asleep, awake with wrong clocks, lied to."""

import asyncio
import hashlib
import socket
import sys
from dataclasses import replace
from typing import Any

import pytest
from scenarios.swarm import EPOCH, Swarm, identity, node_record
from scenarios.test_dht_hostile import turn
from scenarios.test_dht_small import Device, devices

from hipctl import Hit
from overlay import LookupFailed, NotFound
from overlay.admission import Admitted, Credentials
from overlay.constants import FOREVER
from overlay.greeting import Greeting
from overlay.messages import Field, Kind, encode_answer
from overlay.node import Node
from overlay.overlayfile import Seed
from overlay.records import Record, node_id
from overlay.rpc import Asked
from overlay.storage import Limits
from overlay.store import MemoryStore
from sim.hits import HitNet
from sim.loop import simulate

LATENCY = (0.025, 0.075)


def cut(net: HitNet, island: set[Hit]) -> None:
    """Let nothing pass between ``island`` and the others."""
    net.reaches = lambda source, to: (source in island) == (to in island)


def test_two_halves_that_were_cut_apart_find_together_again() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=LATENCY))
        await swarm.grow(16)
        await asyncio.sleep(20)
        island = {node.local for node in swarm.nodes[:8]}
        cut(swarm.net, island)
        await asyncio.sleep(1800)
        for node in swarm.nodes:  # cut off for long enough to know only its own half
            assert {c.hit for c in node.engine.table.contacts()} <= (
                island if node.local in island else {n.local for n in swarm.nodes[8:]}
            )
        records = [swarm.record(node) for node in swarm.nodes]
        for node, record in zip(swarm.nodes, records, strict=True):
            await node.put(record)
        swarm.net.reaches = None
        await asyncio.sleep(240)
        for node in swarm.nodes:
            assert len(node.engine.table) == 15
            for record in records:
                assert [r.raw for r in await node.get("NODE", record.key)] == [record.raw]
        await swarm.stop()

    simulate(main)


def test_a_newcomer_is_handed_thousands_of_records_and_stays() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=LATENCY))
        await swarm.grow(2)
        records = [swarm.record(node) for node in swarm.nodes]
        records += [
            node_record(identity(1_000 + n), swarm.overlay, 1, swarm.wall()) for n in range(1500)
        ]
        for node in swarm.nodes:
            for record in records:
                node.engine._store(record, node.local)
        await asyncio.sleep(300)
        node = await swarm.add()
        await node.joined()
        await asyncio.sleep(60)
        for other in swarm.nodes[:2]:
            assert other.engine.counters["contact removed"] == 0
        assert len(node.engine.storage) == len(records)
        assert not node.engine.rpc.counters["neighbour asks too much"]
        await swarm.stop()

    simulate(main)


def test_who_slept_is_registered_again_as_soon_as_it_wakes() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two = await devices(net, 2)
        loop = asyncio.get_running_loop()
        slept = 7200.0  # the monotonic clock stands still meanwhile, as Linux' does
        for device in (one, two):
            device.node._clock = lambda: EPOCH + loop.time() + slept
        await asyncio.sleep(12)
        (target,) = await one.directory.resolve(two.aor)
        assert target.expires > EPOCH + slept + 3000

    simulate(main)


def test_a_clock_that_is_set_right_later_is_not_corrected_twice() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        everybody = await devices(net, 3)
        tablet = Device(net, 8, (everybody[0].identity.hit,))
        loop = asyncio.get_running_loop()
        tablet.node._clock = loop.time  # 1970
        await tablet.start()
        await tablet.directory.publish(tablet.aor, 5060)
        await asyncio.sleep(60)
        tablet.node._clock = lambda: EPOCH + loop.time()  # NTP has found a server
        await asyncio.sleep(60)
        assert abs(tablet.node.engine.offset) < 5
        (target,) = await tablet.directory.resolve(everybody[2].aor)
        assert target.hit == everybody[2].identity.hit
        (target,) = await everybody[1].directory.resolve(tablet.aor)
        assert target.hit == tablet.identity.hit

    simulate(main)


def test_one_neighbour_with_a_clock_of_the_future_does_not_lock_the_others_out() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        loop = asyncio.get_running_loop()
        liar = Device(net, 0)
        liar.node.engine.rpc.greeting = Greeting(Credentials().encode(), bytes(8))
        liar.node._clock = lambda: EPOCH + loop.time() + 3650 * 86_400
        await liar.start()
        one = await Device(net, 1, (liar.identity.hit,)).start()
        await asyncio.sleep(2)
        honest = [await Device(net, n, (one.identity.hit,)).start() for n in (2, 3)]
        for device in (one, *honest):
            await device.directory.publish(device.aor, 5060)
        await asyncio.sleep(120)
        for device in (one, *honest):
            assert abs(device.node.engine.offset) < 5
        (target,) = await honest[0].directory.resolve(one.aor)
        assert target.hit == one.identity.hit

    simulate(main)


def test_a_registration_that_only_we_held_is_put_again_when_others_are_back() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two, three = await devices(net, 3)
        await asyncio.sleep(600)
        cut(net, {one.identity.hit})
        one.publisher.hurry(one.aor)  # refreshed while it is cut off
        await asyncio.sleep(20)
        net.reaches = None
        two.node.engine.storage._keys.clear()  # and what the others hold is over
        three.node.engine.storage._keys.clear()
        await asyncio.sleep(100)
        assert [t.hit for t in await two.directory.resolve(one.aor)] == [one.identity.hit]

    simulate(main)


def test_a_seed_that_comes_up_late_is_found_though_many_dead_contacts_are_remembered() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        store = MemoryStore()
        first, second = identity(0).hit, identity(1).hit
        swarm = Swarm(net)
        for number in range(150):
            store.remember(swarm.overlay.id, net.hit(5_000 + number), b"sim:dead", EPOCH)
        net.host(first).stop()
        net.hosts[first].open(first, 1, lambda *_: None)
        net.host(second).learn(first, b"sim:" + first)
        loop = asyncio.get_running_loop()

        def node(hit: Hit, store: MemoryStore, seeds: tuple[Hit, ...]) -> Node:
            return Node(
                net.hosts[hit],
                hit,
                swarm.overlay,
                store=store,
                seeds=[Seed(seed, "192.0.2.1", 10500) for seed in seeds],
                wall=lambda: EPOCH + loop.time(),
            )

        async with node(second, store, (first,)) as late:
            await asyncio.sleep(100)
            net.hosts[first].start()
            async with node(first, MemoryStore(), ()):
                async with asyncio.timeout(35):
                    await late.joined()

    simulate(main)


def test_a_seed_whose_name_has_no_address_at_boot_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        swarm = Swarm(net)
        loop = asyncio.get_running_loop()
        await swarm.add()
        first = swarm.nodes[0].local
        online = False

        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            if not online:
                raise OSError("Temporary failure in name resolution")
            net.hosts[identity(1).hit].learn(first, b"sim:" + first)
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", port))]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        host = net.host(identity(1).hit)
        late = Node(
            host,
            identity(1).hit,
            swarm.overlay,
            seeds=[Seed(first, "seed.example", 10500)],
            wall=swarm.wall,
        )
        async with late:
            await asyncio.sleep(100)
            online = True
            async with asyncio.timeout(70):
                await late.joined()

    simulate(main)


def test_who_waits_for_a_join_when_the_node_stops_is_told_so() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        swarm = Swarm(net)
        node = await swarm.add(seeds=(net.hit(77),))
        asking = asyncio.create_task(node.get("NODE", bytes(20)))
        await asyncio.sleep(0.5)
        await node.__aexit__(None, None, None)
        async with asyncio.timeout(10):
            with pytest.raises(LookupFailed):
                await asking

    simulate(main)


def phantoms(overlay_id: bytes, targets: list[bytes]) -> Any:
    """It tells of twenty nodes nearer to the key than anybody, none of which is there."""
    table: dict[bytes, list[bytes]] = {}
    made = [b"\x20\x01\x00\x22" + n.to_bytes(12, "big") for n in range(20_000)]
    ids = {hit: int.from_bytes(node_id(overlay_id, hit), "big") for hit in made}
    for key in targets:
        target = int.from_bytes(key, "big")
        nearest = sorted(made, key=lambda hit: ids[hit] ^ target)[:16]
        table[key] = [part for hit in nearest for part in (hit, b"sim:" + hit)]

    def evil(event: Asked) -> bytes:
        key = event.message.fields.get(Field.TARGET, b"")
        fields: dict[int, Any] = {int(Field.NODES): table.get(key, [])}
        if event.message.kind == Kind.STORE:
            fields = {int(Field.CODE): 0}
        return encode_answer(event.message.kind, event.message.request_id, fields)

    return evil


def test_nodes_that_tell_of_phantoms_hide_nothing() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=LATENCY))
        await swarm.grow(50)
        await asyncio.sleep(20)
        records = []
        for node in swarm.nodes[:20]:
            records.append(swarm.record(node))
            await node.put(records[-1])
        liars = swarm.random.sample(swarm.nodes, 10)
        evil = phantoms(swarm.overlay.id, [record.key for record in records])
        for node in liars:
            turn(node, evil)
        honest = [node for node in swarm.nodes if node not in liars]
        good = 0
        for _ in range(100):
            node, record = swarm.random.choice(honest), swarm.random.choice(records)
            good += [r.raw for r in await node.get("NODE", record.key)] == [record.raw]
        assert good == 100
        await swarm.stop()

    simulate(main)


def test_a_caller_with_many_forged_names_costs_few_lookups() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two, three = await devices(net, 3)
        before = net.counters["sent"]
        caller = two.identity.hit
        strangers = [f"{three.aor.split('@')[0][:-1]}{c}@p2p.example" for c in "abcdefgh"]
        names = [aor.replace("sip:", f"sip:x{n}") for n in range(40) for aor in strangers]
        answers = await asyncio.gather(*(one.directory.owns(aor, caller) for aor in names))
        assert not any(answers)
        assert net.counters["sent"] - before < 100
        assert await one.directory.owns(three.aor, three.identity.hit)  # others are still heard
        assert await one.directory.owns(two.aor, caller)

    simulate(main)


def test_withdrawn_and_published_at_once_is_published() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two = await devices(net, 2)
        for _ in range(5):
            going = asyncio.create_task(two.directory.withdraw(two.aor))
            await asyncio.sleep(0)
            await two.directory.publish(two.aor, 5070)
            await going
            await asyncio.sleep(1)
            assert [t.port for t in await one.directory.resolve(two.aor)] == [5070]
        await two.directory.withdraw(two.aor)
        with pytest.raises(NotFound):
            await one.directory.resolve(two.aor)

    simulate(main)


def test_neighbours_hear_of_a_move_and_tell_others_the_new_place() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two, three = await devices(net, 3)
        moved = b"sim:" + two.identity.hit + b"moved"
        two.host.contact = lambda hit: moved  # type: ignore[method-assign]
        await asyncio.sleep(30)
        for device in (one, three):
            (found,) = [
                contact
                for contact in device.node.engine.neighbours()
                if contact.hit == two.identity.hit
            ]
            assert found.contact == moved
            assert device.host.learnt[two.identity.hit] == moved
            known = dict(device.node.store.contacts(device.overlay.id))
            assert known[two.identity.hit] == moved

    simulate(main)


def test_idle_days_leave_no_trace_in_memory() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two, three = await devices(net, 3)
        await asyncio.sleep(7_200)

        def sizes(device: Device) -> dict[str, int]:
            engine, directory = device.node.engine, device.directory
            return {
                "heap": len(engine.rpc._heap),
                "pending": len(engine.rpc._pending),
                "sessions": len(engine.rpc.sessions),
                "timers": len(engine._timers._at),
                "handles": len(engine._handles),
                "known": len(engine._known),
                "repaired": len(engine._repaired),
                "expiry": len(engine.storage._expiry),
                "records": len(engine.storage),
                "owners": len(directory._owners) + len(directory._asking),
                "lost": len(engine._seeds._lost),
                "waiting": len(device.node._waiting),
            }

        before = [sizes(device) for device in (one, two, three)]
        sent = net.counters["sent"]
        await asyncio.sleep(86_400)
        assert net.counters["sent"] - sent < 3 * 12 * 1_440
        for device, old in zip((one, two, three), before, strict=True):
            for name, size in sizes(device).items():
                assert size <= old[name] + 8, name

    simulate(main)


def test_nothing_stalls_the_loop_with_ten_thousand_records() -> None:
    async def main() -> None:
        swarm = Swarm(HitNet(latency=LATENCY))
        await swarm.grow(20)
        node = swarm.nodes[0]
        engine = node.engine
        record = swarm.record(node)
        engine.storage._check = lambda *_: None
        wall = swarm.wall()
        engine.storage._limits = Limits(owner=2**30)
        for n in range(10_000):
            key = hashlib.sha256(b"%d" % n).digest()[:20]
            copy = replace(record, key=key, raw=record.raw + key, expires=int(wall) + 900)
            engine.storage.offer(copy, None, wall, lambda key: True)
        assert len(engine.storage) >= 10_000
        most = 0
        step = engine.on_time

        def counted(now: float, wall: float) -> Any:
            nonlocal most
            calls = 0

            def called(*_: object) -> None:
                nonlocal calls
                calls += 1

            sys.setprofile(called)
            try:
                actions = step(now, wall)
            finally:
                sys.setprofile(None)
            most = max(most, calls)
            return actions

        engine.on_time = counted  # type: ignore[method-assign]
        await (await swarm.add()).joined()
        swarm.host(swarm.nodes[1]).stop()
        await asyncio.sleep(1_200)
        assert len(engine.storage) < 10
        assert most < 10_000, "calls of functions in one step"
        await swarm.stop()

    simulate(main)


def test_a_neighbour_that_sheds_our_load_is_not_taken_for_dead() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.02, 0.02))
        one, two = await devices(net, 2)
        asking = []
        for _ in range(1_500):  # 500 calls a second
            asking.append(asyncio.create_task(one.directory.resolve(two.aor)))
            await asyncio.sleep(0.002)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert two.node.engine.rpc.counters["neighbour asks too much"]
        assert one.node.engine.counters["contact removed"] == 0
        assert all(isinstance(answer, list | LookupFailed) for answer in answers)
        await asyncio.sleep(5)
        assert await one.directory.resolve(two.aor)

    simulate(main)


def test_a_peer_whose_friends_all_sleep_does_not_wait_for_them_at_each_call() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        loop = asyncio.get_running_loop()
        one = await Device(net, 0, (net.hit(900),)).start()
        await one.directory.publish(one.aor, 5060)
        await asyncio.sleep(60)
        began = loop.time()
        (target,) = await one.directory.resolve(one.aor)
        assert target.hit == one.identity.hit
        with pytest.raises(LookupFailed):
            await one.directory.resolve("sip:nobody@p2p.example")
        assert loop.time() - began < 0.1

    simulate(main)


def test_one_slow_put_does_not_hold_up_the_other_names() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        everybody = await devices(net, 3)
        directory = everybody[1].directory
        put = directory._node.put

        async def slow(record: Record) -> int:
            if record.kind == "NODE":
                await asyncio.sleep(60)
            return await put(record)

        directory._node.put = slow  # type: ignore[method-assign]
        for name in ("NODE", everybody[1].aor):
            everybody[1].publisher.hurry(name)
        await directory.withdraw(everybody[1].aor)
        await directory.publish(everybody[1].aor, 5070)
        await asyncio.sleep(5)
        assert [t.port for t in await everybody[2].directory.resolve(everybody[1].aor)] == [5070]

    simulate(main)


def test_a_caller_that_came_back_with_another_name_is_asked_for_it() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, _ = await devices(net, 2)
        caller = await Device(net, 4, (one.identity.hit,)).start()  # it never registers
        await asyncio.sleep(2)
        session = one.node.engine.session(caller.identity.hit)
        assert session is not None
        session.credentials = Credentials().encode()  # as it showed them before its restart
        session.admitted = Admitted(None, (), FOREVER)
        assert await one.directory.owns(caller.aor, caller.identity.hit)

    simulate(main)
