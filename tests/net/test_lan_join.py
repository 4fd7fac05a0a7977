"""A fresh device joins on a LAN: no seed, no DNS, nothing in clear but HIP."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from net.lab_capture import ladder
from net.lab_namespaces import missing
from net.lan import Lan

from hipctl.constants import PacketType
from hipctl.lan import GROUP4, GROUP6, LAN_PORT
from hipctl.packet import Packet
from overlay.commands.init import DEFAULT_LISTEN, make
from overlay.config import load_profile
from overlay.control import ask, control_path
from overlay.invitations import (
    INVITATIONS,
    Invitation,
    InvitationBook,
    make_token,
    read_token,
)

WHY_NOT = missing()
pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
CAROL, DOMAIN = "10.77.0.3", "secret-family.example"
P2PSIP = (sys.executable, "-m", "overlay.cli")
ARP, IPV4, IPV6, ICMPV6, HOPOPTS, ICMP, IGMP = 0x0806, 0x0800, 0x86DD, 58, 0, 1, 2
# a link's own upkeep, and kernels that say that a port is closed
QUIET = {(ARP, 0), (IPV6, ICMPV6), (IPV6, HOPOPTS), (IPV4, ICMP), (IPV4, IGMP)}


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

    def make(self, host: str, overlay: Path | None = None, more: str = "") -> None:
        made = make(
            self.folder / host,
            overlay=overlay,
            domain=DOMAIN,
            seeds=(),
            words=None,
            listen=DEFAULT_LISTEN,
            sip="127.0.0.1:5060",
            private=True,
            lan=True,
        )
        with made.profile.open("a") as file:
            file.write(more)

    def invite(self, host: str) -> str:
        """A token for the LAN where that peer is."""
        profile = load_profile(self.folder / host / "profile.toml")
        token, expires = make_token(os.urandom), int(time.time()) + 60
        (joined,) = profile.overlays.values()
        book = InvitationBook(profile.peer.state / INVITATIONS)
        book.add(Invitation(read_token(token), joined.info.id, expires), time.time())
        return token

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
        return ask(control_path(self.folder / host / "state"), "status")

    def neighbours(self, host: str) -> int:
        return int(self.status(host)["overlays"]["main"]["contacts"])

    def until_neighbours(self, host: str, count: int, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while self.neighbours(host) < count:
            assert time.monotonic() < end, self.status(host)
            time.sleep(0.1)  # processes: there is no other way to hear of it


@contextmanager
def house(folder: Path, *, four: bool = True) -> Iterator[House]:
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("alice", "bob", "carol", four=four))
        stack.enter_context(ladder(lan))
        yield House(lan, folder, stack)


def test_a_fresh_device_joins_within_a_second_and_finds_two_services(tmp_path: Path) -> None:
    with house(tmp_path) as there:
        _join(there)


def _join(house: House) -> None:
    folder = house.folder
    house.make("alice", more="[overlay.main.services.relay]\n")
    overlay = folder / "alice" / "overlay.toml"
    house.make("bob", overlay, more="[overlay.main.services.rvs]\n")
    house.run("alice")
    house.run("bob")  # it has no seed, and finds alice
    house.until_neighbours("bob", 1)
    token = house.invite("alice")
    found = house.says("carol", "join", token, folder / "carol")
    services = {kind for peer in found["peers"] for kind in peer["services"]}
    assert {"relay_udp_hip", "relay_udp_esp", "rendezvous"} <= services
    assert found["domain"] == DOMAIN
    came = time.monotonic()
    house.run("carol")
    house.until_neighbours("carol", 2)
    took = found["ms"] / 1_000 + time_to_join(house.lan, came)
    assert took < 1.0
    lan = house.status("alice")["lan"]
    assert lan["files"]["handed out"] >= 1
    assert lan["refused"] == {}
    check_nothing_in_clear(house.lan, token, overlay)


def time_to_join(lan: Lan, began: float, patience: float = 10.0) -> float:
    """Seconds from the first question of the third host to an answer of each other, and ESP.

    The ear may be late when the machine is busy: what it hasn't heard yet is waited for.
    """
    end = time.monotonic() + patience
    while True:
        after = [heard for heard in lan.datagrams if heard.at > began]
        # the others have found each other, and ask nobody any more
        carol = {CAROL} | {heard.source for heard in after if heard.to == GROUP6}
        asked = [heard.at for heard in after if (heard.source, heard.to) == (CAROL, GROUP4)]
        answered = {heard.source: heard.at for heard in reversed(after) if heard.to == CAROL}
        esp = [h.at for h in after if h.to in carol and h.payload[:4] != bytes(4)]
        if asked and esp and len(answered) == 2:
            return max(esp[0], *answered.values()) - asked[0]
        assert time.monotonic() < end, (asked, answered, esp)
        time.sleep(0.1)  # another thread's work: there is no other way to hear of it


def check_nothing_in_clear(lan: Lan, token: str, overlay: Path) -> None:
    assert lan.others <= QUIET
    text = overlay.read_text()
    identifier = next(line.split('"')[1] for line in text.splitlines() if line.startswith("id"))
    words = [token, token.replace("-", ""), "secret-family", "sip:", "[[ca]]", identifier]
    secrets = [*(word.encode() for word in words), bytes.fromhex(identifier)[:8]]
    for frame in lan.frames:
        for secret in secrets:
            assert secret not in frame, secret
    kinds = set()
    for heard in lan.datagrams:
        if heard.payload[:4] == bytes(4):
            packet = Packet(heard.payload[4:])
            kinds.add(packet.type)
            if heard.to in (GROUP4, GROUP6):
                assert (packet.type, heard.port) == (PacketType.I1, LAN_PORT)
        else:
            assert len(heard.payload) > 24, heard  # ESP: SPI, sequence number, ICV
    assert {PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2} <= kinds


def test_a_wrong_invitation_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with house(tmp_path, four=False) as there:
        there.make("alice")
        there.run("alice")
        done = subprocess.run(
            [
                *there.lan.inside("carol"),
                *P2PSIP,
                "join",
                "aaaa-" * 5 + "aaaa",
                tmp_path / "c",
                "--seconds=1",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "does not know the invitation: this invitation is not known there" in done.stderr
        assert not (tmp_path / "c").exists()
        lan = there.status("alice")["lan"]
        assert lan["refused"]["unknown"] >= 1
        assert lan["files"] == {"refused": 1}
