"""What a responder bears: exchanges a second of one core, and honest peers in a storm.

    python -m benchmarks.bench_storm [--seconds 20]

Three processes over loopback: the responder; honest peers, each at an address of its own; and
attackers at others, who send 5,000 I1s and 1,000 I2s a second. Half of those I2s have a wrong
solution, half a right one and a wrong MAC. The responder has its default configuration.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.report import quantile, report
from hipctl import (
    AssociationFailed,
    EngineConfig,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
    contact_from_addresses,
)
from hipctl.actions import SolvePuzzle, Transmit
from hipctl.engine import Engine
from hipctl.puzzle import solve, verify

Address = tuple[str, int]

BATCHES, BATCH = 8, 40  # exchanges whose cost is measured
I1S, BAD_I2S = 5_000, 1_000  # a second
ATTACKERS = 64  # addresses
SOLUTIONS = 24  # that each of them has prepared
TICK = 0.002  # seconds
PAUSE = 0.03  # seconds between two exchanges of honest peers


def fresh() -> HostIdentity:
    return HostIdentity(ec.generate_private_key(ec.SECP256R1()))


# -- the responder -----------------------------------------------------------------------------


def memory() -> int:
    """Resident set, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def respond() -> None:
    """Answer; a line on stdin is answered with what this has cost so far."""
    async with LocalHost([fresh()], HostConfig(listen=(("127.0.0.1", 0),))) as host:
        print(json.dumps({"hit": str(host.hits[0]), "at": host.addresses[0]}), flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            used = resource.getrusage(resource.RUSAGE_SELF)
            said = {"cpu": used.ru_utime + used.ru_stime, "rss": memory()}
            print(json.dumps(said | {"counters": host.counters()}), flush=True)


class Child:
    """Another process of this program: says one JSON line, and one more for each of ours."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bench_storm", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.hear()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ask(self) -> dict[str, Any]:
        self.say()
        return self.hear()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Responder(Child):
    """The responder's process."""

    def __init__(self) -> None:
        super().__init__("--respond")
        self.hit = Hit.parse(self.first["hit"])
        self.at: Address = (self.first["at"][0], self.first["at"][1])


# -- the attackers -----------------------------------------------------------------------------


class Attacker:
    """One address, one identity, one R1 answered in many wrong ways."""

    def __init__(self, number: int, hit: Hit, at: Address) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((f"127.0.1.{number + 1}", 0))
        self.socket.settimeout(1.0)
        self.at = at
        self._key = fresh()
        self._engine = Engine([self._key], EngineConfig(), os.urandom)
        self._engine.learn(hit, [at])
        self._hit = hit
        self.wrong: list[bytes] = []
        self.right: list[bytes] = []
        self.i1 = b""

    def prepare(self) -> None:
        """Get an R1; make I2s with #J that are solutions, and with some that are none."""
        for action in self._engine.connect(self._key.hit, self._hit, 0.0):
            if isinstance(action, Transmit):
                self.i1 = bytes(4) + action.data
        self.socket.sendto(self.i1, self.at)
        r1 = self.socket.recv(4096)[4:]
        (ask,) = self._engine.on_control(r1, self.at, 0.0)
        assert isinstance(ask, SolvePuzzle)
        size, found, start = 48, [], ask.start
        for _ in range(SOLUTIONS):
            j = solve(ask.k, ask.prefix, ask.rhash, start)
            assert j is not None
            found.append(j)
            start = int.from_bytes(j, "big") + 1
        i2 = next(
            action.data
            for action in self._engine.on_puzzle_solved(ask.key, found[0], 0.0)
            if isinstance(action, Transmit)
        )
        self.right = [bytes(4) + i2.replace(found[0], j) for j in found[1:]]
        guesses = (os.urandom(size) for _ in range(100))
        self.wrong = [
            bytes(4) + i2.replace(found[0], j)
            for j in guesses
            if not verify(ask.k, ask.prefix, j, ask.rhash)
        ]


def bytes_of_i1s(i1: bytes) -> Iterator[bytes]:
    """The same I1 from ever other HITs."""
    number = 0
    while True:
        number += 1
        yield i1[:22] + number.to_bytes(6, "big") + i1[28:]


def attack(hit: Hit, at: Address, seconds: float) -> None:
    attackers = [Attacker(n, hit, at) for n in range(ATTACKERS)]
    for attacker in attackers:
        attacker.prepare()
        attacker.socket.setblocking(False)
        attacker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # who reads R1s?
    print("{}", flush=True)
    sys.stdin.readline()
    turns, i1s = cycle(attackers), bytes_of_i1s(attackers[0].i1)
    dice = random.Random(1)
    start = time.perf_counter()
    sent_i1s = sent_i2s = 0
    while (passed := time.perf_counter() - start) < seconds:
        while sent_i1s < passed * I1S:
            attacker = next(turns)
            attacker.socket.sendto(next(i1s), at)
            sent_i1s += 1
        while sent_i2s < passed * BAD_I2S:
            attacker = dice.choice(attackers)
            packets = attacker.right if sent_i2s & 1 else attacker.wrong
            attacker.socket.sendto(dice.choice(packets), at)
            sent_i2s += 1
        time.sleep(TICK)
    print(json.dumps({"i1": sent_i1s / passed, "i2": sent_i2s / passed}), flush=True)


# -- honest peers ------------------------------------------------------------------------------


async def exchange(number: int, to: Responder, timeout: float = 5.0) -> float | None:
    """One base exchange from an address of its own, in seconds; None: it failed."""
    address = (f"127.0.{2 + number // 250 % 100}.{1 + number % 250}", 0)
    async with LocalHost([fresh()], HostConfig(listen=(address,))) as host:
        host.learn(to.hit, contact_from_addresses([to.at]))
        start = time.perf_counter()
        try:
            await host.connect(to.hit, timeout=timeout)
        except AssociationFailed:
            return None
        return time.perf_counter() - start


async def honest(first: int, seconds: float, to: Responder) -> list[float | None]:
    """Exchanges one after another, as long as that."""
    found: list[float | None] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        found.append(await exchange(first + len(found), to))
        await asyncio.sleep(PAUSE)
    return found


async def cost(to: Responder) -> list[float]:
    """Exchanges that one core of the responder does in a second, batch by batch."""
    rates = []
    for batch in range(BATCHES):
        hosts = [
            LocalHost([fresh()], HostConfig(listen=((f"127.0.{150 + batch}.{1 + n}", 0),)))
            for n in range(BATCH)
        ]
        for host in hosts:
            await host.__aenter__()
            host.learn(to.hit, contact_from_addresses([to.at]))
        before = to.ask()["cpu"]
        for host in hosts:
            await host.connect(to.hit)
        rates.append(BATCH / (to.ask()["cpu"] - before))
        for host in hosts:
            await host.__aexit__()
    return rates


async def measure(seconds: float) -> bool:
    responder = Responder()
    await exchange(40_000, responder)
    report("hip.exchanges_per_s", "1/s", await cost(responder))
    await asyncio.sleep(12.0)  # what that has added to the difficulty is forgotten
    quiet = await honest(0, seconds, responder)
    attackers = Child("--attack", responder.hit, *responder.at, seconds + 4)
    attackers.say()
    await asyncio.sleep(2.0)
    before = responder.ask()
    stormy = await honest(10_000, seconds, responder)
    after = responder.ask()
    sent = attackers.hear()
    attackers.close()
    responder.close()
    good = [took * 1e3 for took in stormy if took is not None]
    calm = [took * 1e3 for took in quiet if took is not None]
    counted = {
        why: count - before["counters"].get(why, 0)
        for why, count in after["counters"].items()
        if count != before["counters"].get(why, 0)
    }
    report(
        "hip.exchange_in_storm",
        "ms",
        good,
        "quiet",
        calm,
        complete=round(len(good) / len(stormy), 4),
        p90_ratio=round(quantile(good, 0.9) / quantile(calm, 0.9), 2),
        rss_growth_kib=after["rss"] - before["rss"],
        responder_cpu=round((after["cpu"] - before["cpu"]) / seconds, 3),
        sent_per_s={kind: round(rate) for kind, rate in sent.items()},
        counters=counted,
    )
    return len(good) >= 0.99 * len(stormy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--respond", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.respond:
        uvloop.run(respond())
        return 0
    if options.attack:
        hit, host, port, seconds = options.attack
        attack(Hit.parse(hit), (host, int(port)), float(seconds))
        return 0
    return 0 if uvloop.run(measure(options.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
