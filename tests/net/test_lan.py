"""Hosts on one LAN in namespaces: who is answered at its group, and what strangers cost."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from net.lab_namespaces import entered, missing
from net.lan import Lan

from hipctl import HostIdentity, params
from hipctl.constants import PacketType
from hipctl.identity import NULL_HIT
from hipctl.lan import GROUP4, GROUP6, LAN_PORT, READS
from hipctl.packet import Packet, build
from hipctl.settings import EngineConfig

WHY_NOT = missing()
pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
STRANGER = HostIdentity.from_secret(77_002).hit
GROUPS = params.DhGroupList(EngineConfig().groups)
QUESTION = bytes(4) + build(PacketType.I1, STRANGER, NULL_HIT, [GROUPS])
FAR = "198.51.100.9"
HERE = "10.77.0.3"
STORM = 20_000


class Member:
    """A process with a host."""

    def __init__(self, lan: Lan, host: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*lan.inside(host), sys.executable, "-m", "net.lan_member", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ".:tests"},
        )

    def started(self) -> "Member":
        self._read()
        return self

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def town() -> Iterator[tuple[Lan, Member, Member]]:
    """A LAN with one who answers, one who wasn't told to, and a stranger."""
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("member", "shy", "stranger"))
        lan.ip("stranger", f"addr add {FAR}/24 dev eth0")
        both = Member(lan, "member", "welcome"), Member(lan, "shy")
        for each in both:
            stack.callback(each.end)
        yield lan, both[0].started(), both[1].started()


@contextmanager
def stranger(lan: Lan, source: str = HERE) -> Iterator[socket.socket]:
    with entered(lan.namespace("stranger")):
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((source, 0))
    with made:
        made.settimeout(1.0)
        yield made


def answers(sock: socket.socket, timeout: float = 0.3) -> list[tuple[str, PacketType]]:
    """Who has sent what, until nothing comes for so long."""
    sock.settimeout(timeout)
    found: list[tuple[str, PacketType]] = []
    while True:
        try:
            data, source = sock.recvfrom(2_048)
        except TimeoutError:
            return found
        found.append((source[0], Packet(data[4:]).type))


def test_a_question_is_answered_from_the_same_link_by_who_was_told_to(
    town: tuple[Lan, Member, Member],
) -> None:
    lan, _, shy = town
    with stranger(lan) as sock:
        sock.sendto(QUESTION, (GROUP4, LAN_PORT))
        assert answers(sock) == [("10.77.0.1", PacketType.R1)]
        sock.sendto(QUESTION, ("10.77.0.1", 10500))  # opportunistic mode is off elsewhere
        sock.sendto(QUESTION, ("10.77.0.2", 10500))
        assert answers(sock) == []
    assert shy.ask()["counters"]["opportunistic I1"] == 1


def test_a_question_by_ipv6_is_answered_at_the_link_local_address(
    town: tuple[Lan, Member, Member],
) -> None:
    lan, *_ = town
    with stranger(lan, "::") as sock:
        with entered(lan.namespace("stranger")):
            link = socket.if_nametoindex("eth0")
        sock.sendto(QUESTION, (GROUP6, LAN_PORT, 0, link))
        ((source, kind),) = answers(sock)
    assert source.startswith("fe80:")
    assert kind is PacketType.R1


def test_a_source_that_is_not_on_the_link_is_not_answered(
    town: tuple[Lan, Member, Member],
) -> None:
    lan, member, _ = town
    with stranger(lan, FAR) as sock:
        sock.sendto(QUESTION, (GROUP4, LAN_PORT))
        assert answers(sock) == []
    assert member.ask()["counters"]["question from another link"] == 1
    assert all(heard.to != FAR for heard in lan.datagrams)


def test_a_storm_at_the_group_costs_less_than_it_costs_the_stranger(
    town: tuple[Lan, Member, Member],
) -> None:
    lan, member, _ = town
    config = EngineConfig()
    before = member.ask()["cpu"]
    with stranger(lan) as sock:
        began, mine = time.monotonic(), time.thread_time()
        for _ in range(STORM):
            sock.sendto(QUESTION, (GROUP4, LAN_PORT))
        mine, took = time.thread_time() - mine, time.monotonic() - began
        got = len(answers(sock))
    after = member.ask()
    assert after["cpu"] - before < mine
    assert got <= config.lan_burst + config.lan_rate * (took + 1)
    assert after["counters"]["too many questions at a LAN"] >= 1
    assert after["counters"]["LAN rate limit"] <= READS * (took + 2)


LINKS = """
from hipctl.links import lan_links, on_link
print([link.address for link in lan_links()], [link.address for link in lan_links(["lo"])])
print(on_link("10.77.0.9", "10.77.0.2"), on_link("10.77.0.255", "10.77.0.2"))
print(on_link("10.78.0.9", "10.77.0.2"), on_link("10.78.0.9", "10.78.0.2"))
print(on_link("198.51.100.9", "10.77.0.2"), on_link("127.0.0.1", "10.77.0.2"))
"""


def test_a_lan_is_what_reaches_many_and_has_no_public_address() -> None:
    with Lan("alice", "bob") as lan:
        links = {"public": "5.9.1.7/24", "two": "10.78.0.2/24", "tunnel": "10.99.0.1/24"}
        for name, address in links.items():
            lan.ip("bob", f"link add {name} type veth peer name {name}-end")
            lan.ip("bob", f"addr add {address} dev {name}")
            lan.ip("bob", f"link set {name} up")
        lan.ip("bob", "link set tunnel multicast off")  # as those are
        lan.ip("bob", "route add default via 10.77.0.1")
        done = subprocess.run(
            [*lan.inside("bob"), sys.executable, "-c", LINKS],
            capture_output=True,
            text=True,
            check=True,
        )
    said = done.stdout.splitlines()
    assert said == [
        "['10.77.0.2', '10.78.0.2'] ['127.0.0.1']",
        "True False",
        "False True",  # at the link where it is, not at the other one
        "False False",
    ]
