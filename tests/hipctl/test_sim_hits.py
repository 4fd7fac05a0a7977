"""The simulated hosts keep what hipctl.interface promises."""

import asyncio

import pytest

from hipctl.errors import AssociationFailed, PortInUse
from hipctl.interface import AssociationDown, AssociationUp, Event, Host
from sim.hits import HitNet, SimHost
from sim.loop import simulate


def acquainted(net: HitNet) -> tuple[SimHost, SimHost]:
    a, b = net.host(), net.host()
    a.learn(b.hits[0], b.contact(b.hits[0]))
    return a, b


def test_a_datagram_waits_for_the_association_and_arrives() -> None:
    async def scenario() -> None:
        a, b = acquainted(HitNet(latency=(0.05, 0.05)))
        heard: list[tuple[float, bytes, int]] = []
        loop = asyncio.get_running_loop()
        b.open(b.hits[0], 7, lambda data, hit, port: heard.append((loop.time(), data, port)))
        events: list[Event] = []
        b.watch(events.append)
        source = a.open(a.hits[0], 0, lambda *_: None)
        source.send(b"one", b.hits[0], 7)
        await asyncio.sleep(1)
        source.send(b"two", b.hits[0], 7)
        await asyncio.sleep(1)
        assert [(round(at, 3), data) for at, data, _ in heard] == [(0.25, b"one"), (1.05, b"two")]
        assert events == [AssociationUp(b.hits[0], a.hits[0], 0.2)]
        assert a.connected(b.hits[0])
        assert b.connected(a.hits[0])

    simulate(scenario)


def test_nobody_there_is_an_association_failed() -> None:
    async def scenario() -> None:
        a, b = acquainted(HitNet())
        b.stop()
        events: list[Event] = []
        a.watch(events.append)
        with pytest.raises(AssociationFailed):
            await a.connect(b.hits[0], timeout=1)
        with pytest.raises(AssociationFailed, match="no contact"):
            await a.connect(a.net.hit(99))
        await asyncio.sleep(9)
        assert [type(event) for event in events] == [AssociationDown, AssociationDown]
        b.start()
        await a.connect(b.hits[0])

    simulate(scenario)


def test_the_same_seed_gives_the_same_run() -> None:
    async def scenario() -> int:
        net = HitNet(latency=(0.01, 0.2), loss=0.3, seed=5)
        a, b = acquainted(net)
        await a.connect(b.hits[0])
        b.open(b.hits[0], 7, lambda *_: None)
        end = a.open(a.hits[0], 8, lambda *_: None)
        for _ in range(100):
            end.send(b"", b.hits[0], 7)
        await asyncio.sleep(1)
        assert net.counters["lost"] + b.counts["received"] == 100
        return b.counts["received"]

    assert 50 < simulate(scenario) == simulate(scenario) < 90


def test_a_port_is_held_once_and_own_hits_need_no_network() -> None:
    async def scenario() -> None:
        host: Host = HitNet().host()
        hit = host.hits[0]
        heard: list[bytes] = []
        end = host.open(hit, 7, lambda data, *_: heard.append(data))
        with pytest.raises(PortInUse):
            host.open(hit, 7, lambda *_: None)
        end.send(b"me", hit, 7)
        assert heard == []
        await asyncio.sleep(0)
        assert heard == [b"me"]
        end.close()
        end.close()
        host.open(hit, 7, lambda *_: None)

    simulate(scenario)
