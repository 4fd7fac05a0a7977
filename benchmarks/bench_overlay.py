"""Gets and puts among 100 nodes in one process, over real associations that are warm.

    python -m benchmarks.bench_overlay [--nodes N] [--profile]

Ours: 100 hosts with real keys, sockets, exchanges and ESP on loopback; a put signs its record, and
whoever stores or reads one checks it. Peer: ``kademlia`` 2.2.3, 100 servers, rpcudp on loopback.
Both live in one uvloop and take turns in the same run. All nodes share one process, hence also
its memory of signatures that were verified once: the first of twelve replicas pays for all.
"""

import argparse
import asyncio
import cProfile
import logging
import os
import pstats
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop
from kademlia.network import Server

from benchmarks.report import report
from hipctl import EngineConfig, HostConfig, HostIdentity, LocalHost, contact_from_addresses
from overlay.node import Node
from overlay.overlayfile import OverlayInfo, Seed
from overlay.records import NodeInfo, Record, node_key, sign_record

LOOPBACK = "127.0.0.1"
NODES = 100
ROUNDS, EACH = 12, 25  # operations of a kind in a round
PEER = "kademlia 2.2.3"

Step = Callable[[int], Awaitable[bool]]


class Ours:
    """Our overlay."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.overlay = OverlayInfo(os.urandom(32), "bench.example", "open")
        self.identities: list[HostIdentity] = []
        self.hosts: list[LocalHost] = []
        self.nodes: list[Node] = []
        self.records: list[Record] = []
        self.seq = int(time.time() * 1000)

    async def start(self, stack: AsyncExitStack, count: int) -> None:
        # only the limit of R1s to one address is lifted: here all Initiators share one
        engine = EngineConfig(r1_rate=1e6, r1_burst=1_000_000)
        config = HostConfig(listen=((LOOPBACK, 0),), announce_private=True, engine=engine)
        seeds: list[Seed] = []
        for _ in range(count):
            identity = HostIdentity.generate()
            host = await stack.enter_async_context(LocalHost([identity], config))
            node = Node(host, identity.hit, self.overlay, seeds=seeds[:1])
            await stack.enter_async_context(node)
            await node.joined()
            port = host.addresses[0][1]
            seeds.append(Seed(identity.hit, LOOPBACK, port))
            self.identities.append(identity)
            self.hosts.append(host)
            self.nodes.append(node)
            host.learn(identity.hit, contact_from_addresses([(LOOPBACK, port)]))
        for number, node in enumerate(self.nodes):  # warm: everybody has met everybody
            for other in range(number):
                seed = seeds[other]
                self.hosts[number].learn(seed.hit, contact_from_addresses([(LOOPBACK, seed.port)]))
                await node.greet(seed.hit)
        for node in self.nodes:
            await self.put(self.nodes.index(node))

    async def put(self, number: int) -> bool:
        """Sign and store a new NODE record of one node."""
        identity, node = self.identities[number], self.nodes[number]
        self.seq += 1
        payload = NodeInfo(node.host.contact(identity.hit)).encode()
        key, now = node_key(self.overlay.id, identity.hit), int(time.time())
        record = sign_record(
            identity, self.overlay.id, "NODE", key, b"", self.seq, now, now + 7_200, payload
        )
        receipts = await node.put(record)
        if number < len(self.records):
            self.records[number] = record
        else:
            self.records.append(record)
        return receipts >= 12

    async def get(self, number: int) -> bool:
        """Read somebody's record."""
        record = self.rng.choice(self.records)
        found = await self.nodes[number].get("NODE", record.key)
        return [one.raw for one in found] == [record.raw]


class Peer:
    """The package's overlay, storing values of the same size."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.servers: list[Server] = []
        self.values: dict[str, str] = {}

    async def start(self, stack: AsyncExitStack, count: int) -> None:
        for number in range(count):
            server = Server()
            await server.listen(0, LOOPBACK)
            stack.callback(server.stop)
            if number:
                first = self.servers[0].transport.get_extra_info("sockname")
                await server.bootstrap([first])
            self.servers.append(server)
        for number in range(count):
            await self.put(number)

    async def put(self, number: int) -> bool:
        """Store a new value."""
        key, value = f"node {number}", os.urandom(150).hex()  # 300 characters: as our records
        self.values[key] = value
        return bool(await self.servers[number].set(key, value))

    async def get(self, number: int) -> bool:
        """Read somebody's value."""
        key = self.rng.choice(list(self.values))
        return bool(await self.servers[number].get(key) == self.values[key])


async def measure(
    step: Step, count: int, nodes: int, rng: random.Random
) -> tuple[list[float], int]:
    """Time ``count`` operations of random nodes, in ms; also how many succeeded."""
    times, good = [], 0
    for _ in range(count):
        number = rng.randrange(nodes)
        began = time.perf_counter()
        good += await step(number)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)  # what goes on behind ends before the next begins
    return times, good


async def main(nodes: int, profile: bool) -> None:
    """Start both, let them take turns, report."""
    logging.disable(logging.CRITICAL)
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        ours, peer = Ours(rng), Peer(rng)
        began = time.perf_counter()
        await ours.start(stack, nodes)
        print(f"ours is up after {time.perf_counter() - began:.1f} s", file=sys.stderr)
        if not profile:
            await peer.start(stack, nodes)
        await asyncio.sleep(1)
        steps = [("get", ours.get, peer.get), ("put", ours.put, peer.put)]
        for name, our_step, peer_step in steps:
            samples: list[float] = []
            theirs: list[float] = []
            good = their_good = 0
            profiler = cProfile.Profile()
            for _ in range(ROUNDS):
                if profile:
                    profiler.enable()
                times, well = await measure(our_step, EACH, nodes, rng)
                profiler.disable()
                samples += times
                good += well
                if not profile:
                    times, well = await measure(peer_step, EACH, nodes, rng)
                    theirs += times
                    their_good += well
            report(
                f"overlay.{name}",
                "ms",
                samples,
                PEER,
                theirs,
                success=round(good / len(samples), 4),
                peer_success=round(their_good / len(theirs), 4) if theirs else None,
            )
            if profile:
                pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    uvloop.run(main(given.nodes, given.profile))
