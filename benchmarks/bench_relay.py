"""What it costs to serve others, and what those notice of strangers.

``relay.cpu``: CPU a relayed packet of 172 bytes, of a host's data relay and of Debian's coturn
(ChannelData), each a process of its own, under the same load in turn. ``relay.calls``: what 150
calls of G.711 through the data relay lose, and how much later their packets arrive than straight
ones, each of another client and while 2,000 others are registered. Both relays have one core and
512 MB. ``relay.strangers``: the 99th percentile of delay in the same calls in each second, while
1,000 packets of strangers come to the relay's port and to those of its clients, beside that of
quiet seconds in between; ``waited``: how much of the time others had the core that the relay
wanted.

``relay.registrations``: memory of a host with 2,000 rendezvous registrations. ``relay.flood``: how
long it takes to reach one of those from a new place, through that host, while strangers send it
5,000 I1s a second, beside quiet times; ``relay.refresh``: how long a registration takes then.
"""

import asyncio
import json
import multiprocessing
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench_peer import cpu, rss
from benchmarks.report import quantile, report
from benchmarks.strangers import strangers
from benchmarks.turn_client import allocate, bind_channel, channel_data
from hipctl import (
    EngineConfig,
    HipError,
    HostConfig,
    HostIdentity,
    LocalHost,
    RegistrationType,
    contact_from_addresses,
)
from hipctl.actions import Action
from hipctl.constants import PacketType
from hipctl.contact import compose
from hipctl.identity import Hit
from hipctl.packet import build
from hipctl.params import PeerPermission, Seq

CALLS = 150
CLIENTS = 150  # so many relayed addresses
MEMORY = 512 << 20  # bytes that a relay may have
PACE = 0.02  # seconds between packets of one direction of a call
SIZE = 172  # bytes of a packet
WINDOW = 4.0  # seconds of a measurement
ROUNDS = 5
HOMES, IDENTITIES = 200, 10  # clients of the rendezvous server: addresses, HITs at each
TAIL = b"through a relay."  # ends every packet, unlike those of strangers
STRANGE, I1S = 1_000, 5_000  # packets of strangers a second
VICTIMS = 16  # registered HITs that the flood of I1s is for
CALLERS, FLOODS = 12, 3
TURNS, TURN = 10, 1.0  # of calls with and without strangers; seconds of each
TIME = slice(-(SIZE - 16), -(SIZE - 24))  # where a packet has its time
ESP = RegistrationType.RELAY_UDP_ESP
Address = tuple[str, int]
Flow = tuple[Callable[[bytes, Address], int], Address, bytes]
"""(sendto, where to, the first bytes of each packet: what comes before its time)."""


@dataclass
class Load:
    """What is sent through one relay, and where it arrives."""

    pid: int
    flows: list[Flow] = field(default_factory=list)
    receivers: list[socket.socket] = field(default_factory=list)
    open: list[Address] = field(default_factory=list)  # to strangers
    hits: list[Hit] = field(default_factory=list)  # of clients


def udp() -> socket.socket:
    """A socket on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock


def stream(
    flows: Sequence[Flow], receivers: Sequence[socket.socket], window: float = WINDOW
) -> tuple[int, list[float]]:
    """Send on every flow each ``PACE`` seconds; return how many, and each packet's seconds."""
    poll, receive = select.epoll(), {sock.fileno(): sock.recv for sock in receivers}
    for sock in receivers:
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
    delays: list[float] = []
    clock, rest = time.perf_counter_ns, bytes(SIZE - 24 - len(TAIL)) + TAIL
    step = PACE / len(flows)
    began = due = time.perf_counter()
    sent, last = 0, began + window
    while (now := time.perf_counter()) < last + 0.3:
        if now >= due and now < began + window:
            send, to, first = flows[sent % len(flows)]
            send(first + clock().to_bytes(8, "big") + rest, to)
            sent += 1
            due += step
        for number, _ in poll.poll(0):
            data = receive[number](2048)
            if not data.endswith(TAIL):
                continue
            last = max(last, now)
            delays.append((clock() - int.from_bytes(data[TIME], "big")) / 1e9)
    poll.close()
    return sent, delays


# -- our relay -----------------------------------------------------------------------------------


def start_server(stack: ExitStack) -> tuple[int, Hit, Address]:
    """Run a host that serves, until the end of ``stack``."""
    server = stack.enter_context(
        subprocess.Popen(
            [*confined(), sys.executable, "-m", "benchmarks.relay_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    assert server.stdin is not None
    assert server.stdout is not None
    stack.callback(server.stdin.close)
    line = json.loads(server.stdout.readline())
    ip, port = line["address"]
    return server.pid, Hit.parse(line["hit"]), (ip, port)


def confined() -> tuple[str, ...]:
    """What a relay has: one core, which those who load it leave to it, and 512 MB."""
    core = min(os.sched_getaffinity(0))
    return "taskset", "-c", str(core), "prlimit", f"--data={MEMORY}"


async def permit(
    stack: AsyncExitStack, server: Hit, at: Address, peers: Sequence[socket.socket]
) -> tuple[socket.socket, Address, Hit]:
    """Register a host, name its peers; return its socket, its relayed address and its HIT."""
    config = HostConfig(listen=(("127.0.0.1", 0),), announce_private=True)
    host = await stack.enter_async_context(LocalHost([HostIdentity.generate()], config))
    host.learn(server, contact_from_addresses([at]))
    rows = await host.register(server, [ESP, RegistrationType.RELAY_UDP_HIP])
    relayed = next(row.relayed for row in rows if row.relayed is not None)
    pair = host.hits[0], server
    stranger = HostIdentity.from_secret(1).hit
    for n, peer in enumerate(peers):
        said = build(PacketType.UPDATE, stranger, host.hits[0], [Seq(n)])
        peer.sendto(bytes(4) + said, relayed)  # who has not spoken is sent nothing
        await asyncio.sleep(0.02)
        asked = PeerPermission(relayed, peer.getsockname(), 1_000 + n, 5_000 + n)

        def step(now: float, asked: PeerPermission = asked) -> Sequence[Action]:
            return host.engine.tell(pair, [asked], now) or []

        host._driver.feed(step)
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    found = host._ports._opened[0]._socket  # type: ignore[attr-defined]
    return found.dup(), relayed, host.hits[0]


async def through_host(server: Hit, at: Address, load: Load) -> None:
    """Set up all clients and peers; the hosts stay registered though nobody runs them."""
    stack = AsyncExitStack()
    load.open.append(at)
    for _ in range(CLIENTS):
        peers = [udp() for _ in range(CALLS // CLIENTS)]
        client, relayed, hit = await permit(stack, server, at, peers)
        load.open.append(relayed)
        load.hits.append(hit)
        load.receivers += [client, *peers]
        for n, peer in enumerate(peers):
            load.flows.append((client.sendto, at, (1_000 + n).to_bytes(4, "big") + bytes(12)))
            load.flows.append((peer.sendto, relayed, (5_000 + n).to_bytes(4, "big") + bytes(12)))
    KEPT.append(stack)


KEPT: list[object] = []  # hosts that must not be closed before the end


# -- coturn --------------------------------------------------------------------------------------


def start_coturn(stack: ExitStack) -> Load:
    """Run coturn with one thread for relaying, and allocate."""
    probe = udp()
    port = probe.getsockname()[1]
    probe.close()
    coturn = stack.enter_context(
        subprocess.Popen(
            [
                *confined(),
                *("turnserver", "-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "-m", "1"),
                *("--listening-ip", "127.0.0.1", "--listening-port", str(port)),
                *("--relay-ip", "127.0.0.1", "--allow-loopback-peers", "--no-rfc5780"),
                *("--log-file", "/dev/null", "--no-stdout-log", "--pidfile", "/dev/null"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    stack.callback(coturn.terminate)
    time.sleep(2.0)
    load = Load(coturn.pid)
    at = ("127.0.0.1", port)
    for _ in range(CLIENTS):
        client, peers = udp(), [udp() for _ in range(CALLS // CLIENTS)]
        client.connect(at)
        client.settimeout(3.0)
        relayed = allocate(client)
        load.receivers += [client, *peers]
        for n, peer in enumerate(peers):
            bind_channel(client, 0x4000 + n, peer.getsockname())
            first = channel_data(0x4000 + n, bytes(SIZE))[:20]
            load.flows.append((lambda data, _, send=client.send: send(data), at, first))  # type: ignore[misc]
            load.flows.append((peer.sendto, relayed, bytes(16)))
    return load


# -- figures -------------------------------------------------------------------------------------


def cost(load: Load) -> float:
    """CPU microseconds a forwarded packet."""
    before = cpu(load.pid)
    sent, delays = stream(load.flows, load.receivers)
    if sent - len(delays) > sent // 100:
        raise SystemExit(f"{sent - len(delays)} of {sent} packets were lost")
    return 1e6 * (cpu(load.pid) - before) / len(delays)


def calls(load: Load) -> None:
    """Loss and delay, beside what goes straight."""
    straight: list[Flow] = []
    sockets = [udp() for _ in range(2 * CLIENTS)]
    for n in range(len(load.flows)):
        to = sockets[(n + 1) % len(sockets)].getsockname()
        straight.append((sockets[n % len(sockets)].sendto, to, bytes(16)))
    _, direct = stream(straight, sockets)
    usual = quantile(direct, 0.5)
    sent = arrived = 0
    added: list[float] = []
    late: list[float] = []
    before, began = waited(load.pid), time.monotonic()
    for _ in range(ROUNDS):
        some, delays = stream(load.flows, load.receivers)
        sent, arrived = sent + some, arrived + len(delays)
        added += [1e3 * (delay - usual) for delay in delays]
        late.append(1e3 * (quantile(delays, 0.99) - usual))
    report(
        "relay.calls",
        "ms",
        added,
        p99=round(statistics.median(late), 3),
        waited=round((waited(load.pid) - before) / (time.monotonic() - began), 3),
        direct_p99=round(1e3 * (quantile(direct, 0.99) - usual), 3),
        loss=round(1 - arrived / sent, 6),
        calls=CALLS,
    )


def waited(pid: int) -> float:
    """Seconds that a process has waited for a core, so far: others may be using this machine."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def bothered(load: Load) -> None:
    """The calls in quiet times, and while strangers send, by turns."""
    late: dict[bool, list[float]] = {True: [], False: []}
    sent, arrived = dict.fromkeys(late, 0), dict.fromkeys(late, 0)
    idle = dict.fromkeys(late, 0.0)
    for _ in range(TURNS):
        for noise in (False, True):
            before = waited(load.pid)
            with strangers(STRANGE, load.hits, load.open) if noise else nullcontext():
                some, delays = stream(load.flows, load.receivers, TURN)
            sent[noise] += some
            arrived[noise] += len(delays)
            late[noise].append(1e3 * quantile(delays, 0.99))
            idle[noise] += waited(load.pid) - before
    loss = {noise: round(1 - arrived[noise] / sent[noise], 6) for noise in late}
    share = {noise: round(idle[noise] / TURNS / TURN, 3) for noise in late}
    report_noise("relay.strangers", late, loss=loss, waited=share, strangers=STRANGE)


def report_noise(
    name: str, late: Mapping[bool, Sequence[float]], **extra: Mapping[bool, float] | int
) -> None:
    """Print milliseconds in noise (True) beside those in quiet; ``extra``: of both, or of all."""
    line: dict[str, object] = {}
    for key, value in extra.items():
        if isinstance(value, Mapping):
            line |= {key: value[True], f"peer_{key}": value[False]}
        else:
            line[key] = value
    report(name, "ms", late[True], "quiet", late[False], **line)


async def victims(server: Hit, at: Address) -> list[Hit]:
    """Registered, and then nobody runs them: whatever is sent to them costs the server only."""
    stack = AsyncExitStack()
    config = HostConfig(listen=(("127.0.0.1", 0),), announce_private=True)
    identities = [HostIdentity.generate() for _ in range(VICTIMS)]
    host = await stack.enter_async_context(LocalHost(identities, config))
    host.learn(server, contact_from_addresses([at]))
    for hit in host.hits:
        await host.register(server, [RegistrationType.RENDEZVOUS], local=hit)
    KEPT.append(stack)
    return list(host.hits)


async def flooded(hosts: Sequence[LocalHost], server: Hit, at: Address, hits: list[Hit]) -> None:
    """Reach some of them from new places, and have them register, in a flood and without."""
    reached: dict[bool, list[float]] = {True: [], False: []}
    refreshed: dict[bool, list[float]] = {True: [], False: []}
    failed = dict.fromkeys(reached, 0)
    number = 0
    for _ in range(FLOODS):
        for noise in (False, True):
            with strangers(I1S, [*hits, server], [at], only_i1=True) if noise else nullcontext():
                for _ in range(CALLERS):
                    number += 1
                    host = hosts[number % len(hosts)]
                    try:
                        refreshed[noise].append(await refresh(host, server))
                        reached[noise].append(await reach(host, number))
                    except HipError:
                        failed[noise] += 1
    for name, found in (("relay.flood", reached), ("relay.refresh", refreshed)):
        report_noise(name, found, failed=failed, i1s=I1S)


async def refresh(host: LocalHost, server: Hit) -> float:
    """Milliseconds until it is registered, not having been."""
    await host.unregister(server)
    while any(each.local == host.hits[0] for each in host.registrations()):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    began = time.perf_counter()
    await host.register(server, [RegistrationType.RENDEZVOUS])
    return 1e3 * (time.perf_counter() - began)


async def reach(callee: LocalHost, number: int) -> float:
    """Milliseconds until somebody at an address of its own has associated with it."""
    config = HostConfig(listen=((f"127.8.0.{number}", 0),), engine=EngineConfig(k=1))
    async with LocalHost([HostIdentity.generate()], config) as caller:
        hit = callee.hits[0]
        caller.learn(hit, compose((), callee.services.servers(hit)))
        began = time.perf_counter()
        await caller.connect(hit)
        return 1e3 * (time.perf_counter() - began)


async def beside(measure: Callable[[Load], None], load: Load) -> None:
    """Measure in a process of its own: hosts that stand still for seconds lose their servers."""
    child = multiprocessing.get_context("fork").Process(target=measure, args=(load,))
    child.start()
    await asyncio.to_thread(child.join)
    if child.exitcode:
        raise SystemExit(f"measuring ended with {child.exitcode}")


async def registrations(server: Hit, at: Address, load: Load, hits: list[Hit]) -> None:
    """Memory with 2,000 rendezvous registrations; calls, and a flood of I1s for ``hits``, then."""
    pid, cores = load.pid, os.sched_getaffinity(0)
    empty, hosts = rss(pid), []
    async with AsyncExitStack() as stack:
        registered = 0
        for n in range(HOMES):
            config = HostConfig(listen=((f"127.0.{1 + n // 200}.{1 + n % 200}", 0),))
            identities = [HostIdentity.generate() for _ in range(IDENTITIES)]
            host = await stack.enter_async_context(LocalHost(identities, config))
            host.learn(server, contact_from_addresses([at]))
            hosts.append(host)
            for hit in host.hits:
                kinds = [RegistrationType.RENDEZVOUS]
                registered += len(await host.register(server, kinds, local=hit, timeout=20.0))
        full = rss(pid)
        each = round(1024 * (full - empty) / registered, 1)
        report("relay.registrations", "MB", [full], registrations=registered, kb_each=each)
        os.sched_setaffinity(0, {max(cores)})
        await beside(calls, load)
        os.sched_setaffinity(0, cores)
        await flooded(hosts, server, at, hits)


def main() -> None:
    """Measure all."""
    if shutil.which("turnserver") is None:
        raise SystemExit("there is nothing to compare with: install coturn")
    with ExitStack() as stack:
        pid, server, at = start_server(stack)
        ours = Load(pid)
        asyncio.run(through_host(server, at, ours))
        theirs = start_coturn(stack)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        for load in (ours, theirs):
            cost(load)  # warm
        used: dict[int, list[float]] = {ours.pid: [], theirs.pid: []}
        for _ in range(ROUNDS):
            for load in (ours, theirs):
                used[load.pid].append(cost(load))
        report("relay.cpu", "us", used[ours.pid], "coturn", used[theirs.pid])
        bothered(ours)
        os.sched_setaffinity(0, cores)
        hits = asyncio.run(victims(server, at))
        asyncio.run(registrations(server, at, ours, hits))


if __name__ == "__main__":
    main()
