"""Many overlay nodes on one simulated network, for tests."""

import asyncio
import random
from collections.abc import Callable
from functools import cache

from hipctl import Hit, HostIdentity
from overlay.environment import Settings
from overlay.node import Node
from overlay.overlayfile import OverlayInfo, Seed
from overlay.records import NodeInfo, Record, node_key, sign_record
from overlay.store import Store
from sim.hits import HitNet, SimHost

EPOCH = 1_800_000_000.0  # Unix seconds at virtual time 0


@cache
def identity(number: int) -> HostIdentity:
    return HostIdentity.from_secret(7_000 + number)


def overlay_info(name: str = "p2p.example") -> OverlayInfo:
    return OverlayInfo(name.encode().ljust(32, b"\x07"), name, "open")


def node_record(who: HostIdentity, overlay: OverlayInfo, seq: int, wall: float) -> Record:
    """A NODE record; the sequence number is in its contact, so that versions differ."""
    payload = NodeInfo(b"sim:" + who.hit + seq.to_bytes(4, "big")).encode()
    created, key = int(wall), node_key(overlay.id, who.hit)
    return sign_record(who, overlay.id, "NODE", key, b"", seq, created, created + 7_000, payload)


class Swarm:
    """Nodes that joined one overlay through node 0."""

    def __init__(
        self, net: HitNet, *, seed: int = 1, settings: Settings | None = None, first: int = 0
    ) -> None:
        self.net = net
        self.overlay = overlay_info()
        self.nodes: list[Node] = []
        self.settings = settings or Settings()
        self.random = random.Random(seed)
        self.first = first

    def wall(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def host(self, node: Node) -> SimHost:
        return self.net.hosts[node.local]

    def identity(self, node: Node) -> HostIdentity:
        return identity(self.first + self.nodes.index(node))

    async def add(
        self,
        *,
        store: Store | None = None,
        seeds: tuple[Hit, ...] | None = None,
        wall: Callable[[], float] | None = None,
    ) -> Node:
        """Start one node more; it knows where everybody in ``seeds`` is."""
        who = identity(self.first + len(self.nodes))
        host = self.net.hosts.get(who.hit) or self.net.host(who.hit)
        if seeds is None:
            seeds = (self.nodes[0].local,) if self.nodes else ()
        for hit in seeds:
            host.learn(hit, b"sim:" + hit)
        node = Node(
            host,
            who.hit,
            self.overlay,
            store=store,
            settings=self.settings,
            seeds=[Seed(hit, "192.0.2.1", 10500) for hit in seeds],
            wall=wall or self.wall,
            rng=self.random.randbytes,
        )
        await node.__aenter__()
        self.nodes.append(node)
        return node

    async def grow(self, count: int) -> None:
        """Let ``count`` nodes join, one after the other."""
        for _ in range(count):
            node = await self.add()
            await node.joined()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.__aexit__(None, None, None)

    def kill(self, share: float) -> list[Node]:
        """End a share of the hosts at once and without a word; returns who is left."""
        victims = self.random.sample(self.nodes, int(len(self.nodes) * share))
        for node in victims:
            self.host(node).stop()
        return [node for node in self.nodes if node not in victims]

    def record(self, node: Node, seq: int = 1) -> Record:
        return node_record(self.identity(node), self.overlay, seq, self.wall())
