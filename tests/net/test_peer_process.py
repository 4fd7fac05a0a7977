"""Real peers: processes on loopback, started and asked as a user would."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hipctl import ask_control

pytestmark = [pytest.mark.net, pytest.mark.slow]

P2PSIP = (sys.executable, "-m", "overlay.cli")
STOPS_WITHIN = 3.0  # seconds


@dataclass
class Peer:
    profile: Path
    made: dict[str, Any]
    address: str
    process: "subprocess.Popen[str] | None" = None
    ready: dict[str, Any] | None = None


def p2psip(*arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*P2PSIP, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(*arguments: object) -> Any:
    """What a subcommand that must succeed printed as JSON."""
    done = p2psip(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


class Net:
    """Peers of one enrolled overlay, each with an address of its own in 127.0.0.0/8."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.prefix = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}"
        said("overlay", "new", "example.org", "--enrolled", "--folder", folder / "net")
        self.peers: list[Peer] = []
        self.made = 0

    def add(self, user: str, *options: str) -> Peer:
        """Make a peer whose account has a certified name, and start it."""
        self.made += 1
        number = self.made
        address = f"{self.prefix}.{number}"
        folder = self.folder / user
        overlay = self.folder / "net" / "overlay.toml"
        first = self.peers[0] if self.peers else None
        seeds = ["--seed", f"{first.made['hit']}@{first.address}:10500"] if first else []
        made = said(
            *("init", folder, "--overlay", overlay, *seeds),
            *("--listen", f"{address}:10500", "--sip", f"{address}:5060"),
        )
        cert = folder / "cert.pem"
        said(
            *("ca", "issue", "--aor", f"sip:{user}@example.org", "--out", cert),
            *("--account", folder / "account.p2psip", "--overlay", overlay),
            *("--ca-key", self.folder / "net" / "ca.pem"),
        )
        said("account", "add-certificate", cert, "-p", folder)
        peer = Peer(Path(made["profile"]), made, address)
        self.peers.append(peer)
        self.run(peer, *options)
        return peer

    def end(self, peer: Peer) -> None:
        self.peers.remove(peer)
        if peer.process is not None:
            peer.process.terminate()
            peer.process.wait(STOPS_WITHIN)

    def run(self, peer: Peer, *options: str) -> None:
        process = self.stack.enter_context(
            subprocess.Popen(
                [*P2PSIP, "run", str(peer.profile.parent), "--json", *options],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self.stack.callback(process.kill)
        assert process.stdout is not None
        peer.process, peer.ready = process, json.loads(process.stdout.readline() or "{}")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with ExitStack() as stack:
        net = Net(tmp_path_factory.mktemp("net"), stack)
        for user in ("alice", "bob", "carol"):
            net.add(user)
        yield net


def register(peer: Peer, user: str, expires: int = 600) -> int:
    """Send one REGISTER as a client would; return the status of the final answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((peer.address, 0))
        sock.settimeout(5)
        here = f"{peer.address}:{sock.getsockname()[1]}"
        aor = f"sip:{user}@example.org"
        request = (
            "REGISTER sip:example.org SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{random.getrandbits(64):x};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <{aor}>;tag=1\r\nTo: <{aor}>\r\n"
            f"Call-ID: {random.getrandbits(64):x}\r\nCSeq: 1 REGISTER\r\n"
            f"Contact: <sip:{user}@{here}>\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n"
        )
        sock.sendto(request.encode(), (peer.address, 5060))
        while True:
            status = int(sock.recv(65_536).split()[1])
            if status >= 200:
                return status


def resolve(asker: Peer, aor: str, *, found: bool, within: float = 10.0) -> Any:
    """Resolve until the answer is as hoped; registrations travel behind the client's 200."""
    limit = time.monotonic() + within
    while True:
        done = p2psip("resolve", aor, "-p", asker.profile, "--json")
        if (done.returncode == 0) == found:
            return json.loads(done.stdout) if found else sentence(done)
        assert time.monotonic() < limit, done


def test_hipctl_tells_of_the_host_of_a_running_peer(net: Net) -> None:
    alice, bob = net.peers[:2]
    told = ask_control(alice.profile.parent / "state" / "hip.sock", "status")
    assert told["hits"] == [alice.made["hit"]]
    (row,) = [row for row in told["associations"] if row["peer"] == bob.made["hit"]]
    assert row["state"] in {"ESTABLISHED", "R2-SENT"}
    assert row["address"] == [bob.address, 10500]


def test_ready_tells_who_is_there(net: Net) -> None:
    for peer in net.peers:
        assert peer.ready is not None
        assert peer.ready["event"] == "ready"
        assert peer.ready["hits"] == [peer.made["hit"]]
        assert peer.ready["services"] == ["sip"]


def test_all_join_and_status_tells_so(net: Net) -> None:
    for peer in net.peers:
        status = said("status", "--wait", 30, "-p", peer.profile)
        (overlay,) = status["overlays"].values()
        assert overlay["joined"]
        assert overlay["contacts"] >= 1
        assert overlay["admission"] == "enrolled"
        human = p2psip("status", "-p", peer.profile).stdout
        assert peer.made["hit"] in human
        assert "joined" in human


def test_what_registers_at_one_peer_is_resolved_at_another(net: Net) -> None:
    alice, _, carol = net.peers
    assert register(alice, "alice") == 200
    found = resolve(carol, "sip:alice@example.org", found=True)
    assert [t["hit"] for t in found["targets"]] == [alice.made["hit"]]
    assert [t["account"] for t in found["targets"]] == [alice.made["account"]]


def test_a_contacts_name_resolves(net: Net) -> None:
    alice, bob, _ = net.peers
    said("contact", "add", "Ally", "sip:alice@example.org", "-p", bob.profile)
    assert register(alice, "alice") == 200
    found = resolve(bob, "ally", found=True)
    assert found["aor"] == "sip:alice@example.org"


def test_an_unknown_name_is_a_sentence_soon(net: Net) -> None:
    began = time.monotonic()
    done = p2psip("resolve", "sip:nobody@example.org", "-p", net.peers[1].profile)
    assert "nobody" in sentence(done)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("name", ["sip:x@elsewhere.org", "no such", "sip:@", "\x1b[2J"])
def test_what_cannot_be_resolved_is_a_sentence(net: Net, name: str) -> None:
    line = sentence(p2psip("resolve", name, "-p", net.peers[1].profile))
    assert line.isprintable()


def test_a_trace_without_calls_is_no_error(net: Net) -> None:
    assert said("trace", "-p", net.peers[1].profile) == {"calls": []}


def test_a_second_run_of_a_profile_is_refused(net: Net) -> None:
    assert "already" in sentence(p2psip("run", net.peers[0].profile))


def test_a_taken_port_is_a_sentence(net: Net, tmp_path: Path) -> None:
    taken = net.peers[0].address
    said("init", tmp_path / "p", "--listen", f"{taken}:10500", "--sip", f"{taken}:5060")
    assert f"{taken}" in sentence(p2psip("run", tmp_path / "p"))


def test_an_overlay_of_one_runs_and_stops_when_told(tmp_path: Path) -> None:
    address = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}.99"
    where = ("--listen", f"{address}:10500", "--sip", f"{address}:5060")
    made = said("init", tmp_path / "p", *where)
    with subprocess.Popen(
        [*P2PSIP, "run", made["profile"]], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            status = said("status", "-p", made["profile"])
            assert status["aors"] == [made["aor"]]
            assert p2psip("stop", "-p", made["profile"]).returncode == 0
            assert process.wait(STOPS_WITHIN) == 0
        finally:
            process.kill()


def test_a_seed_that_is_away_does_not_keep_services_from_running(tmp_path: Path) -> None:
    address = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}.98"
    gone = "2001:22:1:2:3:4:5:6@127.0.0.77:10599"
    made = said(
        *("init", tmp_path / "p", "--seed", gone),
        *("--listen", f"{address}:10500", "--sip", f"{address}:5060"),
    )
    with subprocess.Popen(
        [*P2PSIP, "run", made["profile"]], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(STOPS_WITHIN) == 0
        finally:
            process.kill()


def test_a_peer_whose_starter_stopped_listening_runs_on_and_ends_cleanly(tmp_path: Path) -> None:
    address = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}.97"
    where = ("--listen", f"{address}:10500", "--sip", f"{address}:5060")
    made = said("init", tmp_path / "p", *where)
    command = [*P2PSIP, "run", made["profile"], "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert "ready" in process.stdout.readline()
            process.stdout.close()
            process.send_signal(signal.SIGHUP)
            assert process.wait(STOPS_WITHIN) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_a_keylog_is_private_and_has_a_line_for_each_exchange(net: Net) -> None:
    eve = net.add("eve", "--keylog", str(net.folder / "keys.log"))
    said("status", "--wait", 30, "-p", eve.profile)
    keys = net.folder / "keys.log"
    assert keys.stat().st_mode & 0o777 == 0o600
    lines = keys.read_text().splitlines()
    assert lines
    assert all(line.split()[0] == "HIP" and len(line.split()) == 7 for line in lines)
    net.end(eve)


def test_sigterm_withdraws_what_was_registered_and_ends_in_time(net: Net) -> None:
    dave = net.add("dave")
    said("status", "--wait", 30, "-p", dave.profile)
    assert register(dave, "dave") == 200
    resolve(net.peers[1], "sip:dave@example.org", found=True)
    assert dave.process is not None
    dave.process.send_signal(signal.SIGTERM)
    assert dave.process.wait(STOPS_WITHIN) == 0
    resolve(net.peers[1], "sip:dave@example.org", found=False, within=5)
    net.end(dave)
    assert not list(dave.profile.parent.rglob("*.sock"))


def test_a_peer_that_was_killed_comes_back_with_its_profile(net: Net) -> None:
    carol = net.peers[2]
    assert carol.process is not None
    os.kill(carol.process.pid, signal.SIGKILL)
    carol.process.wait()
    net.run(carol)
    assert carol.ready is not None
    assert carol.ready["event"] == "ready"
    (overlay,) = said("status", "--wait", 30, "-p", carol.profile)["overlays"].values()
    assert overlay["joined"]
    assert register(carol, "carol") == 200
    resolve(net.peers[0], "sip:carol@example.org", found=True)
