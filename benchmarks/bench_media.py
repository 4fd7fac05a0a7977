"""``media.*``: what the relay costs a packet, and how much later a packet arrives.

Two real ``p2psip run`` on one core, RTP of 172 bytes from client to client through both relays
and ESP. The delay is compared with the same packets sent straight to the other client. The clients
poll instead of sleeping, so that how long the machine takes to wake them is not counted.
"""

import os
import selectors
import socket
import struct
import time
from collections.abc import Sequence

from benchmarks.bench_peer import cpu
from benchmarks.report import quantile, report
from benchmarks.sip_client import Client, Leg, call
from benchmarks.sip_load import Address, Bench

PAYLOAD = 160  # bytes: 20 ms of G.711
CALLS = 50
PACE = 0.02  # seconds between packets of one direction
WINDOW = 3.0  # seconds of each measurement
ROUNDS = 5
BURST = 8000  # packets a second of the measurement of CPU, as of 80 calls
Flow = tuple[socket.socket, Address]
CLOCK = struct.Struct("!d")


def stream(flows: Sequence[Flow], receivers: Sequence[socket.socket], gap: float) -> list[float]:
    """Send on every flow each ``gap`` seconds, evenly spread; returns each packet's seconds."""
    selector = selectors.DefaultSelector()
    for receiver in receivers:
        receiver.setblocking(False)
        selector.register(receiver, selectors.EVENT_READ)
    step = gap / len(flows)
    delays: list[float] = []
    began = due = time.perf_counter()
    number = 0
    header = b"\x80\x00" + bytes(10)
    while (now := time.perf_counter()) < began + WINDOW + 0.3:
        if now >= due and now < began + WINDOW:
            sender, to = flows[number % len(flows)]
            stamp = CLOCK.pack(time.perf_counter())
            sender.sendto(header + stamp + bytes(PAYLOAD - CLOCK.size), to)
            number += 1
            due += step
            continue
        for key, _ in selector.select(0):
            try:
                data = key.fileobj.recv(2048)  # type: ignore[union-attr]
            except BlockingIOError:
                continue
            delays.append(time.perf_counter() - CLOCK.unpack_from(data, 12)[0])
    selector.close()
    lost = number - len(delays)
    if lost > number // 100:
        raise SystemExit(f"{lost} of {number} packets were lost")
    return delays


def both_ways(legs: Sequence[tuple[Leg, Leg]]) -> tuple[list[Flow], list[socket.socket]]:
    flows: list[Flow] = []
    for near, far in legs:
        flows += [(near.rtp, near.relay), (far.rtp, far.relay)]
    return flows, [leg.rtp for pair in legs for leg in pair]


def main() -> None:
    """Measure both figures."""
    with Bench() as bench:
        for _ in range(2):
            bench.run(bench.make())
        os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
        caller, callee = (Client(peer) for peer in bench.peers)
        bench.find(caller.peer, callee.peer.aor)
        legs = [call(caller, callee) for _ in range(CALLS)]
        pids = [peer.pid for peer in bench.peers]
        flows, receivers = both_ways(legs)
        stream(flows, receivers, PACE)  # warm

        used = []
        for _ in range(ROUNDS):
            before = sum(map(cpu, pids))
            arrived = len(stream(flows, receivers, len(flows) / BURST))
            used.append(1e6 * (sum(map(cpu, pids)) - before) / arrived)
        report("media.relay_cpu", "us", used)

        relayed: list[float] = []
        for _ in range(ROUNDS):
            relayed += stream(flows, receivers, PACE)
        direct: list[Flow] = []
        for near, far in legs:
            direct += [(near.rtp, far.rtp.getsockname()), (far.rtp, near.rtp.getsockname())]
        straight = stream(direct, receivers, PACE)
        usual = quantile(straight, 0.5)
        added = [1e6 * (delay - usual) for delay in relayed]
        late = round(1e6 * (quantile(straight, 0.99) - usual), 1)  # what this machine adds itself
        p99 = round(quantile(added, 0.99), 1)
        report("media.relay_added", "us", added, p99=p99, direct_p99=late)
        for near, _ in legs:
            caller.socket.sendto(near.bye, caller.peer.gateway)


if __name__ == "__main__":
    main()
