"""The Internet of the lab: what is made works, moves and breaks as told, and nothing stays."""

import contextlib
import ipaddress
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from net import lab, lab_mapper
from net.lab_capture import ladder
from net.lab_internet import INTERNET, Internet
from net.lab_namespaces import PREFIX, names
from net.lab_prober import Prober, arrivals
from net.lab_routers import PUBLIC_PORT

pytestmark = [pytest.mark.net]

SERVERS = ("s1", "s2")


@pytest.fixture(autouse=True)
def _possible() -> None:
    if why := lab.missing(lab_mapper.PROGRAM):
        pytest.skip(why)


@pytest.fixture
def net() -> Iterator[Internet]:
    with Internet((4, 6)) as net:
        for server in SERVERS:
            net.public(server)
        net.home("h1", "port-restricted")
        net.home("h2", "symmetric")
        net.host("alice", "h1")
        yield net


@pytest.fixture
def prober(net: Internet) -> Iterator[Prober]:
    with contextlib.closing(Prober(net, SERVERS)) as prober:
        yield prober


def here() -> str:
    """The addresses of this machine, outside the labs."""
    return subprocess.run(["ip", "-o", "addr"], check=True, capture_output=True, text=True).stdout


def test_a_cell_with_the_slowest_routers_is_there_within_two_seconds_and_leaves_nothing() -> None:
    before, began = here(), time.monotonic()
    with Internet((4, 6)) as net:
        net.public("relay")
        for home, kind, host in (("h1", "mapped", "alice"), ("h2", "double", "bob")):
            net.home(home, kind)
            net.host(host, home)
        assert time.monotonic() - began < 2
        assert net.names == ["relay", "alice", "h1", "bob", "h2", "h2.provider"]
        assert here() == before
    assert not [name for name in names() if name.startswith(f"{PREFIX}{os.getpid()}-")]
    assert here() == before


def test_addresses_look_public_where_they_are_and_private_where_they_are_not(
    net: Internet,
) -> None:
    net.home("h3", "public")
    net.host("bob", "h3")
    public = [net.address(name, version) for name in ("s1", "h1", "bob") for version in (4, 6)]
    public += [net.address("alice", 6)]
    assert all(ipaddress.ip_address(address).is_global for address in public)
    assert len(set(public)) == len(public)
    assert ipaddress.ip_address(net.address("alice")).is_private


def test_one_after_the_other_a_host_is_at_home_elsewhere_and_public(
    net: Internet, prober: Prober
) -> None:
    for place in ("h2", INTERNET, "h1"):
        net.move("alice", place, first="break")
        with contextlib.closing(prober.opened("alice")) as client:
            at_home = place != INTERNET
            assert prober.seen(client)[0] == net.address(place if at_home else "alice")


def test_before_the_old_home_goes_each_address_leaves_through_its_own(
    net: Internet, prober: Prober
) -> None:
    net.attach("alice", "h2")
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(contextlib.closing(prober.opened("alice", 0, place)))
            for place in ("h1", "h2")
        )
        assert prober.seen(one)[0] == net.address("h1")
        assert prober.seen(two)[0] == net.address("h2")
        net.detach("alice", "h1")
        with pytest.raises(OSError, match="unreachable"):
            prober.seen(one, patience=0.1)
        assert prober.seen(two)[0] == net.address("h2")


def test_a_host_that_is_told_to_routes_as_a_pc_does(net: Internet, prober: Prober) -> None:
    net.host("pc", "h1", by_source=False)
    net.attach("pc", "h2")
    with contextlib.closing(prober.opened("pc", 0, "h2")) as client:
        assert prober.seen(client)[0] == net.address("h1")


@pytest.mark.parametrize("name", ["alice", "h1", "s1"])
def test_a_link_that_is_cut_loses_everything_until_it_is_mended(
    net: Internet, prober: Prober, name: str
) -> None:
    with contextlib.closing(prober.opened("alice")) as client:
        outer = prober.seen(client)
        net.cut(name)
        with pytest.raises(TimeoutError):
            prober.seen(client, patience=0.1)
        assert not prober.reaches(outer, client)
        net.mend(name)
        assert prober.seen(client) == outer
        assert prober.reaches(outer, client)


@pytest.mark.parametrize("name", ["alice", "h1", "s1"])
def test_a_link_that_is_worsened_takes_its_time_and_loses_its_share(
    net: Internet, prober: Prober, name: str
) -> None:
    with contextlib.closing(prober.opened("alice")) as client:
        outer = prober.seen(client)
        net.worsen(name, latency=0.05)
        assert prober.seen(client) == outer
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert prober.seen(client) == outer
            took.append(time.monotonic() - began)
        assert 0.05 <= min(took) < 0.15
        net.worsen(name, loss=0.3)
        answers = sum(prober.reaches(outer, client) for _ in range(40))
        assert 15 < answers < 40
        net.worsen(name)
        assert all(prober.reaches(outer, client, patience=2) for _ in range(20))


def test_a_home_without_a_nat_is_still_found_behind_a_link_that_was_worsened(
    net: Internet, prober: Prober
) -> None:
    net.home("h3", "public")
    net.host("bob", "h3")
    net.worsen("h3", latency=0.01)
    with contextlib.closing(prober.opened("bob")) as client:
        there = (net.address("bob"), client.getsockname()[1])
        assert prober.reaches(there, client, patience=2)
        assert prober.seen(client) == there


def test_a_host_leaves_a_link_that_was_worsened_and_comes_back_to_a_good_one(
    net: Internet, prober: Prober
) -> None:
    net.worsen("alice", latency=5)
    net.move("alice", "h2", first="break")
    net.move("alice", "h1")
    with contextlib.closing(prober.opened("alice")) as client:
        assert prober.seen(client)[0] == net.address("h1")


def test_a_worsened_link_carries_tcp_as_fast_as_a_test_needs(net: Internet) -> None:
    net.worsen("alice", latency=0.001)
    with net.entered("s1"):
        server = socket.create_server((net.address("s1"), 80))
    with net.entered("alice"):
        client = socket.socket()
    with server, client:
        client.connect((net.address("s1"), 80))
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(10)
            sent = threading.Thread(target=client.sendall, args=(bytes(2_000_000),))
            sent.start()
            left = 2_000_000
            while left and (data := accepted.recv(100_000)):
                left -= len(data)
            sent.join()
    assert left == 0


def test_hosts_of_one_home_hear_each_others_multicasts_and_no_others(net: Internet) -> None:
    net.host("bob", "h1")
    net.host("carol", "h2")
    group = ("ff02::114", 9_999)
    with contextlib.ExitStack() as stack:
        sockets = {}
        for name in ("alice", "bob", "carol"):
            with net.entered(name):
                made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                stack.enter_context(made)
                made.bind(("", group[1]))
                index = socket.if_nametoindex("link1")
                member = socket.inet_pton(socket.AF_INET6, group[0]) + index.to_bytes(4, "little")
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                sockets[name] = made, index
        sending, index = sockets["alice"]
        sending.sendto(b"anyone?", (*group, 0, index))
        assert [data for data, _ in arrivals(sockets["bob"][0], 0.2)] == [b"anyone?"]
        assert not list(arrivals(sockets["carol"][0], 0.05))


def failing(net: Internet, prober: Prober, client: socket.socket) -> None:
    with ladder(net, "alice", "h1", "s1"):
        prober.seen(client)
        raise AssertionError("so it is")


def test_a_scenario_that_fails_prints_its_packets_and_one_that_holds_prints_nothing(
    net: Internet, prober: Prober, capsys: pytest.CaptureFixture[str]
) -> None:
    net.worsen("s1")  # a wire keeps what the kernel has not done yet
    with contextlib.closing(prober.opened("alice", PUBLIC_PORT)) as client:
        with ladder(net, "alice", "h1", "s1") as capture:
            outer = prober.seen(client)
        assert not capsys.readouterr().out
        with pytest.raises(AssertionError, match="so it is"):
            failing(net, prober, client)
    heading, *rows = capsys.readouterr().out.strip().splitlines()
    assert heading.split() == ["seconds", "alice", "h1", "s1"]
    there = f"{net.address('s1')}:3478"
    ways = [f"{net.address('alice')}:{PUBLIC_PORT} → {there}", f"{outer[0]}:{outer[1]} → {there}"]
    found = [row for row in rows if there in row]
    assert len(found) == len(ways) == len(capture.sightings) // 2
    assert all(way in row for way, row in zip(ways, found, strict=True))


def test_what_cannot_be_made_is_refused(net: Internet) -> None:
    with pytest.raises(ValueError, match="already"):
        net.public("alice")
    with pytest.raises(ValueError, match="already"):
        net.attach("alice", "h1")
    with pytest.raises(ValueError, match="internet itself"):
        net.home("h9", "public", behind="h1")
    with pytest.raises(ValueError, match="IPv4"):
        net.home("h9", "mapped", versions=(6,))
    with pytest.raises(ValueError, match="conical"):
        net.home("h9", "conical")
