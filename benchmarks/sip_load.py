"""What the benchmarks of the SIP gateway share: peers as real processes, clients, and sipp.

A peer is ``p2psip run`` pinned to the first core; sipp and everything else get the others.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.bench_peer import P2PSIP, call, wait_until_joined

SIPP = Path(__file__).parent / "sipp"
DOMAIN = "p2psip.internal"
FIRST_CLIENT_PORT = 6100
Address = tuple[str, int]


@dataclass
class Peer:
    """One peer under test: where its gateway listens, and the user part of its AoR."""

    profile: str
    gateway: Address
    user: str
    hit: str
    pid: int = 0

    @property
    def aor(self) -> str:
        return f"sip:{self.user}@{DOMAIN}"


class Bench:
    """Peers and clients of one benchmark; everything ends with it."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self.folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="p2psip-bench-"))
        )
        self.peers: list[Peer] = []
        self._port = FIRST_CLIENT_PORT
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self) -> Peer:
        """Make a peer's profile in the overlay of the first one."""
        number = len(self.peers) + 1
        folder = self.folder / str(number)
        gateway = f"127.0.1.{number}", 5070
        join: list[str] = []
        if self.peers:
            seed = f"{self.peers[0].hit}@127.0.1.1:10710"
            join = ["--overlay", str(self.folder / "1" / "overlay.toml"), "--seed", seed]
        made = call(
            *("init", str(folder), *join, "--listen", f"{gateway[0]}:10710"),
            *("--sip", f"{gateway[0]}:{gateway[1]}"),
        )
        user = re.findall(r"sip:([^@\s\"]+)@", json.dumps(made))[0]
        peer = Peer(made["profile"], gateway, user, made["hit"])
        self.peers.append(peer)
        return peer

    def run(self, *peers: Peer, core: int = 0, forgetful: bool = False) -> None:
        """Start peers on one core and wait until they have joined."""
        program = (sys.executable, "-m", "benchmarks.forgetful_peer") if forgetful else P2PSIP
        for peer in peers:
            process = self._stack.enter_context(
                subprocess.Popen(
                    [*pinned(core), *program, "run", peer.profile, "--json"],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            self._stack.callback(process.send_signal, signal.SIGTERM)
            assert process.stdout is not None
            if json.loads(process.stdout.readline() or "{}").get("event") != "ready":
                raise SystemExit(f"the peer of {peer.profile} did not start")
            peer.pid = process.pid
        for peer in peers:
            wait_until_joined(peer.profile)

    def client(self, peer: Peer) -> Address:
        """Register a client with a peer; returns its address, which is free again for sipp."""
        self._port += 2
        address = peer.gateway[0], self._port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(address)
            register(client, peer)
        return address

    def find(self, peer: Peer, aor: str) -> None:
        """Wait until a peer can resolve an AoR: its registration has been published."""
        for _ in range(50):
            done = subprocess.run(
                [*P2PSIP, "resolve", aor, "-p", peer.profile, "--json"],
                capture_output=True,
                check=False,
                timeout=60,
            )
            if done.returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit(f"{aor} was not published")

    def sipp(self, scenario: str, peer: Peer, client: Address, *arguments: str) -> "Sipp":
        """Start sipp as a client of a peer."""
        sipp = Sipp(self.folder, scenario, peer, client, arguments)
        self._stack.callback(sipp.stop)
        return sipp


class Sipp:
    """One running sipp."""

    def __init__(
        self,
        folder: Path,
        scenario: str,
        peer: Peer,
        client: Address,
        arguments: tuple[str, ...],
    ) -> None:
        self._stats = folder / f"{scenario}-{client[1]}.csv"
        self._stats.unlink(missing_ok=True)
        argv = [
            *(*pinned(1), "sipp", "-sf", str(SIPP / f"{scenario}.xml"), "-nostdin"),
            *("{}:{}".format(*peer.gateway), "-i", client[0], "-p", str(client[1])),
            *("-trace_stat", "-stf", str(self._stats), "-fd", "1", "-timeout_error"),
            *("-buff_size", "8388608", "-max_retrans", "10", "-mi", client[0], *arguments),
        ]
        self.process = subprocess.Popen(
            argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for its end; returns the last line of its statistics."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
        lines = self._stats.read_text().splitlines()
        return dict(zip(lines[0].split(";"), lines[-1].split(";"), strict=False))


def pinned(core: int) -> list[str]:
    cores = os.cpu_count() or 1
    return ["taskset", "-c", str(min(core, cores - 1))] if shutil.which("taskset") else []


def register(client: socket.socket, peer: Peer, cseq: int = 1) -> None:
    """Register from a bound socket."""
    host, port = client.getsockname()
    request = (
        f"REGISTER sip:{DOMAIN} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bKreg{port}{cseq};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <{peer.aor}>;tag=r{port}\r\nTo: <{peer.aor}>\r\n"
        f"Call-ID: reg{port}\r\nCSeq: {cseq} REGISTER\r\n"
        f"Contact: <sip:{peer.user}@{host}:{port}>\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n"
    )
    client.settimeout(5)
    client.sendto(request.encode(), peer.gateway)
    answer = client.recv(65_535)
    if b" 200 " not in answer[:16]:
        raise SystemExit(f"registration failed: {answer[:60]!r}")


def users(folder: Path, *fields: str) -> list[str]:
    """The arguments that give sipp its fields."""
    path = folder / f"users-{abs(hash(fields))}.csv"
    path.write_text("SEQUENTIAL\n" + ";".join(fields) + ";\n")
    return ["-inf", str(path)]


def need(program: str) -> None:
    """Stop the benchmark if a program is missing."""
    if shutil.which(program) is None:
        print(f"{program} is missing; try: apt install sip-tester", file=sys.stderr)
        raise SystemExit(2)
