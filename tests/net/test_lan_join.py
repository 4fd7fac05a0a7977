"""A fresh device joins on a LAN: no seed, no DNS, nothing in clear but HIP."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from net.lab_namespaces import missing
from net.lan import Lan

from hipctl.constants import PacketType
from hipctl.lan import GROUP4, GROUP6, LAN_PORT
from hipctl.packet import Packet

WHY_NOT = missing()
pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
P2PSIP = (sys.executable, "-m", "overlay.cli")
ARP, IPV4, IPV6, ICMPV6, HOPOPTS, IGMP = 0x0806, 0x0800, 0x86DD, 58, 0, 2
QUIET = {(ARP, 0), (IPV6, ICMPV6), (IPV6, HOPOPTS), (IPV4, IGMP)}  # a link's own upkeep


class House:
    """Peers on one LAN, as processes."""

    def __init__(self, lan: Lan, folder: Path, stack: ExitStack) -> None:
        self.lan, self.folder, self.stack = lan, folder, stack

    def says(self, host: str, *arguments: object) -> Any:
        """What a command that must succeed prints as JSON."""
        done = subprocess.run(
            [*self.lan.inside(host), *P2PSIP, *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def make(self, host: str, *options: object, more: str = "") -> None:
        made = self.says(host, "init", self.folder / host, "--lan", *options)
        with Path(made["profile"]).open("a") as file:
            file.write(more)

    def run(self, host: str) -> None:
        """Start a peer, and wait until it is ready."""
        with (self.folder / f"{host}.log").open("w") as log:
            process = subprocess.Popen(
                [*self.lan.inside(host), *P2PSIP, "run", str(self.folder / host), "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.stack.callback(self._end, process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"

    @staticmethod
    def _end(process: "subprocess.Popen[str]") -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()

    def status(self, host: str) -> Any:
        return self.says(host, "status", "-p", self.folder / host)

    def neighbours(self, host: str) -> int:
        return int(self.status(host)["overlays"]["main"]["contacts"])

    def until_neighbours(self, host: str, count: int, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while self.neighbours(host) < count:
            assert time.monotonic() < end, self.status(host)
            time.sleep(0.1)  # processes: there is no other way to hear of it


@pytest.fixture(params=["IPv4", "IPv6"])
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("alice", "bob", "carol", four=request.param == "IPv4"))
        yield House(lan, tmp_path, stack)


def test_a_fresh_device_joins_within_a_second_and_finds_two_services(house: House) -> None:
    folder = house.folder
    house.make(
        "alice", "--domain", "secret-family.example", more="[overlay.main.services.relay]\n"
    )
    overlay = folder / "alice" / "overlay.toml"
    house.make("bob", "--overlay", overlay, more="[overlay.main.services.rvs]\n")
    house.run("alice")
    house.run("bob")  # it has no seed, and finds alice
    house.until_neighbours("bob", 1)
    token = house.says("alice", "overlay", "invite", "--lan", "-p", folder / "alice")["token"]
    found = house.says("carol", "join", token, folder / "carol")
    assert found["ms"] < 1_000
    services = {kind for peer in found["peers"] for kind in peer["services"]}
    assert {"relay_udp_hip", "relay_udp_esp", "rendezvous"} <= services
    assert found["domain"] == "secret-family.example"
    house.run("carol")
    ready = time.monotonic()
    house.until_neighbours("carol", 2)
    took = time.monotonic() - ready
    assert took < 1.0 + 2 * how_long_a_command_takes(house)
    assert house.says("carol", "join", "-p", folder / "x")["peers"]  # who is there
    check_nothing_in_clear(house.lan, token, overlay)


def how_long_a_command_takes(house: House) -> float:
    began = time.monotonic()
    house.status("alice")
    return time.monotonic() - began


def check_nothing_in_clear(lan: Lan, token: str, overlay: Path) -> None:
    assert lan.others <= QUIET
    assert lan.datagrams
    words = [token, token.replace("-", ""), "secret-family", "sip:", "[[ca]]"]
    text = overlay.read_text()
    identifier = next(line.split('"')[1] for line in text.splitlines() if line.startswith("id"))
    secrets = [word.encode() for word in words] + [bytes.fromhex(identifier)[:8]]
    kinds = set()
    for source, _, to, port, payload in lan.datagrams:
        if payload[:4] == bytes(4):
            packet = Packet(payload[4:])
            kinds.add(packet.type)
            groups = to in (GROUP4, GROUP6)
            assert not groups or packet.type is PacketType.I1
            assert not groups or port == LAN_PORT
        else:
            assert len(payload) > 24, (source, to, port)  # ESP: SPI, sequence number, ICV
        for secret in secrets:
            assert secret not in payload, secret
    assert {PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2} <= kinds


def test_a_wrong_invitation_is_a_sentence_and_leaves_nothing_behind(house: House) -> None:
    house.make("alice")
    house.run("alice")
    done = subprocess.run(
        [*house.lan.inside("carol"), *P2PSIP, "join", "aaaa-" * 5 + "aaaa", house.folder / "c"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "none knows the invitation: this invitation is not known there" in done.stderr
    assert not (house.folder / "c").exists()
