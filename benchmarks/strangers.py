"""Strangers who send to a server whatever might trouble it, each from an address of its own.

    python -m benchmarks.strangers '{"rate": 1000, "hits": [...], "to": [[ip, port], ...]}'

until its standard input ends; then it says how many it has sent. To each of the addresses: I1s for
each of the HITs, UPDATEs for them, ESP and garbage; with ``"i1": true`` I1s alone.
"""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

from hipctl import EngineConfig, Hit
from hipctl.constants import PacketType
from hipctl.exchange import make_i1
from hipctl.packet import build

STRANGERS = 64  # addresses
PACKETS = 1_000  # that are made in advance, and sent again and again
TICK = 0.002  # seconds
Address = tuple[str, int]


def nobody(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


def packets(hits: Sequence[Hit], only_i1: bool) -> list[bytes]:
    """What they send."""
    made, config = [], EngineConfig()
    for number in range(PACKETS):
        hit = hits[number // 4 % len(hits)]
        match 0 if only_i1 else number % 4:
            case 0:
                made.append(bytes(4) + make_i1(nobody(number), hit, config))
            case 1:
                made.append(bytes(4) + build(PacketType.UPDATE, nobody(number), hit, []))
            case 2:
                made.append(os.urandom(172))  # as ESP
            case _:
                made.append(bytes(4) + os.urandom(100))
    return made


def send(rate: float, hits: Sequence[Hit], to: Sequence[Address], only_i1: bool) -> int:
    """Send until standard input ends."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    socks = []
    for number in range(STRANGERS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((f"127.9.0.{number + 1}", 0))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # who reads answers?
        socks.append(sock)
    turns, dice = zip(cycle(socks), cycle(packets(hits, only_i1))), random.Random(1)
    began, sent = time.perf_counter(), 0
    while not over.is_set():
        while sent < (time.perf_counter() - began) * rate:
            sock, data = next(turns)
            sock.sendto(data, dice.choice(to))
            sent += 1
        time.sleep(TICK)
    return sent


@contextmanager
def strangers(
    rate: float, hits: Sequence[Hit], to: Sequence[Address], *, only_i1: bool = False
) -> Iterator[None]:
    """Within, they send ``rate`` packets a second."""
    told = {"rate": rate, "hits": [str(hit) for hit in hits], "to": to, "i1": only_i1}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.strangers", json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        yield
        process.stdin.close()
        sent = int(process.stdout.readline())
        if sent < 0.9 * rate * (time.monotonic() - began):
            raise SystemExit(f"strangers have sent {sent} packets only")


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print("begins", flush=True)
    whom = [Hit.parse(hit) for hit in asked["hits"]]
    print(send(asked["rate"], whom, [(ip, port) for ip, port in asked["to"]], asked["i1"]))
