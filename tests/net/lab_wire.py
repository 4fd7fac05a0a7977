"""A cable with a delay and a loss: copies frames between two interfaces of its namespace.

    python lab_wire.py ONE TWO LATENCY LOSS SEED

Seconds for each way, and the share of packets that vanish. Says ``ready``, and takes a line
``LATENCY LOSS`` at any time. The kernel of the lab need not have netem. Starts fast: only the
standard library.
"""

import contextlib
import heapq
import itertools
import random
import select
import socket
import subprocess
import sys
import time

ETH_P_ALL = 3
SOL_PACKET = 263  # socket.h
VNET_HEADER, IGNORE_OUTGOING = 15, 23  # if_packet.h
HEADER = 10  # virtio_net.h: what the kernel hasn't done yet (checksum, segments), kept as it is
FRAME = HEADER + 65_600
MANY = 10_000  # frames under way; more are lost
ARP, IPV6, ICMPV6 = b"\x08\x06", b"\x86\xdd", 58


def attach(interface: str) -> socket.socket:
    """A socket that sees what comes in from an interface, and sends to it."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, VNET_HEADER, 1)
    made.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    made.bind((interface, ETH_P_ALL))
    made.setblocking(False)
    return made


def of_neighbours(frame: bytes) -> bool:
    """Whether it is ARP or its successor: to lose these would cost a second, not a packet."""
    kind = frame[HEADER + 12 : HEADER + 14]
    return kind == ARP or (kind == IPV6 and frame[HEADER + 20] == ICMPV6)


class Copier:
    """Both ways of a wire, and what is under way."""

    def __init__(self, one: str, two: str, latency: float, loss: float, seed: int) -> None:
        ends = [attach(one), attach(two)]
        self.other = dict(zip(ends, reversed(ends), strict=True))
        self._chance = {end: random.Random(seed + way) for way, end in enumerate(ends)}
        self._latency, self._loss = latency, loss
        self._count = itertools.count()
        self._waiting: list[tuple[float, int, socket.socket, bytes]] = []

    def set(self, latency: float, loss: float) -> None:
        self._latency, self._loss = latency, loss

    def take(self, end: socket.socket, now: float) -> None:
        """Take what came in at an end."""
        with contextlib.suppress(OSError):  # no more, or the interface is down
            while True:
                frame = end.recv(FRAME)
                lost = self._chance[end].random() < self._loss and not of_neighbours(frame)
                if not lost and len(self._waiting) < MANY:
                    entry = (now + self._latency, next(self._count), self.other[end], frame)
                    heapq.heappush(self._waiting, entry)

    def give(self, now: float) -> float | None:
        """Send what is due; return the seconds until the next is."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, end, frame = heapq.heappop(self._waiting)
            with contextlib.suppress(OSError):
                end.send(frame)
        return self._waiting[0][0] - now if self._waiting else None


class Wire:
    """The program, running until ``stop`` in the namespace where this is made."""

    def __init__(self, one: str, two: str, latency: float, loss: float, seed: int) -> None:
        given = [one, two, str(latency), str(loss), str(seed)]
        argv = [sys.executable, "-I", "-S", __file__, *given]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        self._answer("ready")

    def set(self, latency: float, loss: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{latency} {loss}\n")
        self._process.stdin.flush()
        self._answer("set")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self, expected: str) -> None:
        assert self._process.stdout is not None
        if (said := self._process.stdout.readline().strip()) != expected:
            raise RuntimeError(f"the wire said {said!r}, not {expected}")


def main() -> None:
    one, two, latency, loss, seed = sys.argv[1:]
    copier = Copier(one, two, float(latency), float(loss), int(seed))
    print("ready", flush=True)  # noqa: T201
    left = None
    while True:
        ready = select.select([*copier.other, sys.stdin], [], [], left)[0]
        if sys.stdin in ready:
            if not (line := sys.stdin.readline()):
                return
            copier.set(*map(float, line.split()))
            print("set", flush=True)  # noqa: T201
        for end in copier.other:
            copier.take(end, time.monotonic())
        left = copier.give(time.monotonic())


if __name__ == "__main__":
    main()
