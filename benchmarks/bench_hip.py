"""A base exchange and datagrams between two hosts in two processes, over loopback.

    python -m benchmarks.bench_hip

Peers, interleaved in the same run: the handshake of aioquic, a P-256 certificate verified, and
the same datagrams over a plain uvloop UDP socket, without crypto.
"""

import asyncio
import datetime
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvloop
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.report import report
from hipctl import (
    EngineConfig,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
    contact_from_addresses,
)

LOOPBACK = "127.0.0.1"
PAYLOAD = bytes(172)  # G.711, 20 ms, with its RTP header
ECHO, SINK = 7, 9  # ports of the far host
EXCHANGES = 150
ROUND_TRIPS, RTT_ROUNDS = 300, 10
CPU_ROUNDS, BURSTS, BURST = 12, 250, 20  # a burst a millisecond: 20,000 packets a second
K = 10

Address = tuple[str, int]


def identity() -> HostIdentity:
    return HostIdentity(ec.generate_private_key(ec.SECP256R1()))


def host(key: HostIdentity) -> LocalHost:
    # only the limit of R1s to one address is lifted: here all initiators share one
    engine = EngineConfig(k=K, r1_rate=1e6, r1_burst=1_000_000)
    return LocalHost([key], HostConfig(listen=((LOOPBACK, 0),), engine=engine))


class Plain(asyncio.DatagramProtocol):
    """A UDP socket without anything: echoes, swallows, or hands over what comes."""

    def __init__(self, on_datagram: Callable[[bytes, Address], None] | None = None) -> None:
        self.on_datagram = on_datagram
        self.count = 0
        self.transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.count += 1
        if self.on_datagram:
            self.on_datagram(data, addr)


async def plain(on_datagram: Callable[[bytes, Address], None] | None = None) -> Plain:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(
        lambda: Plain(on_datagram), local_addr=(LOOPBACK, 0)
    )
    return protocol


def address_of(port: Plain) -> Address:
    address: Address = port.transport.get_extra_info("sockname")
    return address


# the far process


def certificate(folder: Path) -> None:
    """Write a self-signed P-256 certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    encoded = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(encoded)


async def far(folder: Path) -> None:
    """The other side of everything; ends when its standard input does."""
    key = identity()
    received = 0

    def swallow(*_: object) -> None:
        nonlocal received
        received += 1

    def answer(data: bytes, hit: Hit, port: int) -> None:
        echo_end.send(data, hit, port)

    def answer_plain(data: bytes, source: Address) -> None:
        echo.transport.sendto(data, source)

    def on_control(data: bytes, source: Address) -> None:
        state = [time.process_time(), received, sink.count]
        control.transport.sendto(json.dumps(state).encode(), source)

    quic = QuicConfiguration(is_client=False, alpn_protocols=["bench"])
    quic.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    async with host(key) as hip:
        echo_end = hip.open(key.hit, ECHO, answer)
        hip.open(key.hit, SINK, swallow)
        echo = await plain(answer_plain)
        sink = await plain()
        control = await plain(on_control)
        probe = await plain()
        quic_port = address_of(probe)[1]
        probe.transport.close()
        await asyncio.sleep(0)
        server = await serve(LOOPBACK, quic_port, configuration=quic)
        print(
            json.dumps(
                {
                    "hit": str(key.hit),
                    "hip": hip.addresses[0],
                    "quic": [LOOPBACK, quic_port],
                    "echo": address_of(echo),
                    "sink": address_of(sink),
                    "control": address_of(control),
                }
            ),
            flush=True,
        )
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.close()


# the near process


class Far:
    """What the near process knows of the far one, and how it asks for its CPU time."""

    def __init__(self, facts: dict[str, Any], folder: Path) -> None:
        self.hit = Hit.parse(facts["hit"])
        self.folder = folder
        self.hip, self.quic, self.echo, self.sink, self.control = (
            (facts[name][0], facts[name][1]) for name in ("hip", "quic", "echo", "sink", "control")
        )

    def introduce(self, hip: LocalHost) -> None:
        hip.learn(self.hit, contact_from_addresses([self.hip]))

    async def state(self) -> tuple[float, int, int]:
        """CPU seconds, datagrams received over HIP, and over the plain socket."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        port = await plain(lambda data, _: answer.set_result(data))
        port.transport.sendto(b"?", self.control)
        seconds, hip, sink = json.loads(await answer)
        port.transport.close()
        return seconds, hip, sink


async def base_exchange(there: Far) -> float:
    """Milliseconds from ``connect`` to ESTABLISHED, with an identity never seen before."""
    async with host(identity()) as hip:
        there.introduce(hip)
        start = time.perf_counter()
        await hip.connect(there.hit, timeout=30)
        return (time.perf_counter() - start) * 1e3


async def handshake(there: Far) -> float:
    """The same for aioquic: from the first Initial to the handshake's completion."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["bench"])
    configuration.load_verify_locations(str(there.folder / "cert.pem"))
    configuration.server_name = LOOPBACK
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: QuicConnectionProtocol(QuicConnection(configuration=configuration)),
        local_addr=(LOOPBACK, 0),
    )
    start = time.perf_counter()
    protocol.connect(there.quic)
    await protocol.wait_connected()
    took = (time.perf_counter() - start) * 1e3
    protocol.close()
    await protocol.wait_closed()
    transport.close()
    return took


async def round_trips(send: Callable[[], None], came: asyncio.Event) -> list[float]:
    """Microseconds of each of many echoes, one at a time."""
    samples = []
    for _ in range(ROUND_TRIPS):
        came.clear()
        start = time.perf_counter()
        send()
        await came.wait()
        samples.append((time.perf_counter() - start) * 1e6)
    return samples


async def measure_rtt(there: Far, hip: LocalHost) -> None:
    came = asyncio.Event()
    end = hip.open(hip.hits[0], 0, lambda *_: came.set())
    port = await plain(lambda *_: came.set())
    ours: list[float] = []
    peers: list[float] = []
    for _ in range(RTT_ROUNDS):
        ours += await round_trips(lambda: end.send(PAYLOAD, there.hit, ECHO), came)
        peers += await round_trips(lambda: port.transport.sendto(PAYLOAD, there.echo), came)
    report("hip.datagram_rtt", "us", ours, "uvloop UDP echo", peers)


async def burst_cpu(there: Far, send: Callable[[], None], column: int) -> tuple[float, float]:
    """Microseconds of CPU per packet: sent here, received there."""
    there_before = await there.state()
    before = time.process_time()
    for _ in range(BURSTS):
        for _ in range(BURST):
            send()
        await asyncio.sleep(0.001)
    sent = time.process_time() - before
    await asyncio.sleep(0.02)
    there_after = await there.state()
    arrived = there_after[column] - there_before[column]
    if arrived < 0.98 * BURSTS * BURST:
        raise RuntimeError(f"only {arrived} of {BURSTS * BURST} datagrams arrived")
    return sent / (BURSTS * BURST) * 1e6, (there_after[0] - there_before[0]) / arrived * 1e6


async def measure_cpu(there: Far, hip: LocalHost) -> None:
    end = hip.open(hip.hits[0], 0, lambda *_: None)
    port = await plain()
    ours, peers = [], []
    for _ in range(CPU_ROUNDS):
        ours.append(await burst_cpu(there, lambda: end.send(PAYLOAD, there.hit, SINK), 1))
        peers.append(await burst_cpu(there, lambda: port.transport.sendto(PAYLOAD, there.sink), 2))
    for column, name in enumerate(("hip.datagram_cpu_sent", "hip.datagram_cpu_received")):
        samples, peer_samples = ([row[column] for row in rows] for rows in (ours, peers))
        report(name, "us", samples, "uvloop UDP without crypto", peer_samples)


async def near(there: Far) -> None:
    exchanges, handshakes = [], []
    for _ in range(3):  # warm both
        await base_exchange(there)
        await handshake(there)
    for _ in range(EXCHANGES):
        gc.collect()
        exchanges.append(await base_exchange(there))
        gc.collect()
        handshakes.append(await handshake(there))
    report("hip.base_exchange", "ms", exchanges, "aioquic handshake", handshakes, k=K)
    async with host(identity()) as hip:
        there.introduce(hip)
        await hip.connect(there.hit, timeout=30)
        await measure_rtt(there, hip)
        await measure_cpu(there, hip)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate(folder)
        command = [sys.executable, "-m", "benchmarks.bench_hip", "far", name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            uvloop.run(near(Far(json.loads(process.stdout.readline()), folder)))
            process.stdin.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["far"]:
        uvloop.run(far(Path(sys.argv[2])))
    else:
        main()
