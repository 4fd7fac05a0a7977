"""An association with somebody who may be elsewhere by now."""

import asyncio

import pytest

from hipctl import AssociationFailed, Hit
from overlay.connecting import STALE, connect
from sim.hits import HitNet, SimHost
from sim.loop import simulate

US, PEER = (Hit(bytes.fromhex("2001002200") + bytes((n,)) * 11) for n in (1, 2))
LATENCY = 0.03


class Shifting(SimHost):
    """A host that goes on asking for as long as somebody waits, as the real one does."""

    async def connect(self, peer: Hit, *, local: Hit | None = None, timeout: float = 5.0) -> None:
        until = asyncio.get_running_loop().time() + timeout
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                return await super().connect(peer, local=local, timeout=min(left, 0.5))
            except AssociationFailed:
                if left <= 0.5 or peer not in self.learnt:
                    raise
                self._done.pop(peer, None)


class World:
    """Two hosts; what is known of the peer leads nowhere until it is looked up."""

    def __init__(self, *, finds: bool, known: bool = True, seconds: float = 0.1) -> None:
        net = HitNet(latency=(LATENCY, LATENCY))
        self.host = net.hosts[US] = Shifting(net, (US,), None)
        self.peer: SimHost = net.host(PEER)
        self.host.strict = True
        self.asked: list[float] = []
        self._finds, self._seconds = finds, seconds
        if known:
            self.host.learn(PEER, self.peer.contact(PEER))

    async def look_up(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked.append(loop.time())
        await asyncio.sleep(self._seconds)
        if self._finds:
            self.host.learn(PEER, self.peer.contact(PEER))
            self.peer.start()

    async def connect(self, timeout: float = 5.0) -> float:
        """Seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await connect(self.host, PEER, local=US, look_up=self.look_up, timeout=timeout)
        return loop.time() - began


def test_who_answers_is_not_looked_up() -> None:
    async def main() -> None:
        world = World(finds=True)
        assert await world.connect() < STALE
        assert await world.connect() == 0.0
        await asyncio.sleep(10)
        assert world.asked == []

    simulate(main)


def test_who_does_not_answer_is_looked_up_and_asked_again() -> None:
    async def main() -> None:
        world = World(finds=True)
        world.peer.stop()
        assert STALE < await world.connect() < 3
        assert len(world.asked) == 1
        assert world.host.connected(PEER)

    simulate(main)


def test_of_whom_nothing_is_known_is_looked_up_at_once() -> None:
    async def main() -> None:
        world = World(finds=True, known=False)
        assert await world.connect() < STALE + 0.5
        assert len(world.asked) == 1

    simulate(main)


@pytest.mark.parametrize("seconds", [0.1, 60.0])
def test_who_is_nowhere_costs_no_more_than_the_timeout(seconds: float) -> None:
    async def main() -> None:
        world = World(finds=False, seconds=seconds)
        world.peer.stop()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(AssociationFailed):
            await world.connect(timeout=2.0)
        assert loop.time() - began == pytest.approx(2.0, abs=0.1)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        assert not [task for task in others if not task.done()]

    simulate(main)


def test_giving_up_leaves_nothing_behind() -> None:
    async def main() -> None:
        world = World(finds=True)
        world.peer.stop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await world.connect()
        await asyncio.sleep(10)
        assert world.asked == []

    simulate(main)
