"""Each kind of home is what its name says, measured from outside."""

import contextlib
import ipaddress
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from net import lab, lab_mapper
from net.lab_internet import Internet
from net.lab_prober import Behaviour, Dependence, Prober, arrivals
from net.lab_routers import PUBLIC_PORT

pytestmark = [pytest.mark.net]

NOTHING, BOTH = Dependence.NOTHING, Dependence.ADDRESS_AND_PORT
SERVERS = ("s1", "s2")
NATS = ["endpoint-independent", "port-restricted", "symmetric", "double"]
MAP_UDP, UDP = 1, 17


@pytest.fixture(autouse=True)
def _possible() -> None:
    if why := lab.missing(lab_mapper.PROGRAM):
        pytest.skip(why)


@contextlib.contextmanager
def a_home(
    kind: str, versions: tuple[int, ...] = (4,), forgets: int | None = None
) -> Iterator[tuple[Internet, Prober]]:
    """Alice at home h1, and who measures."""
    with Internet(versions) as net:
        for server in SERVERS:
            net.public(server)
        net.home("h1", kind, forgets=forgets)
        net.host("alice", "h1")
        with contextlib.closing(Prober(net, SERVERS, versions[-1])) as prober:
            yield net, prober


def kind_of(behaviour: Behaviour) -> tuple[bool, Dependence, Dependence]:
    return behaviour.translated, behaviour.mapping, behaviour.filtering


@pytest.mark.parametrize(
    ("kind", "translated", "mapping", "filtering"),
    [
        ("public", False, NOTHING, NOTHING),
        ("firewall", False, NOTHING, BOTH),
        ("mapped", True, NOTHING, BOTH),
        ("endpoint-independent", True, NOTHING, NOTHING),
        ("port-restricted", True, NOTHING, BOTH),
        ("symmetric", True, BOTH, BOTH),
        ("double", True, NOTHING, BOTH),
        ("forgetful", True, NOTHING, BOTH),
    ],
)
def test_a_home_maps_and_filters_as_its_name_says(
    kind: str, translated: bool, mapping: Dependence, filtering: Dependence
) -> None:
    with a_home(kind) as (_, prober):
        assert kind_of(prober.measure("alice")) == (translated, mapping, filtering)


@pytest.mark.parametrize(
    ("kind", "filtering"),
    [
        ("public", NOTHING),
        ("endpoint-independent", NOTHING),
        ("symmetric", BOTH),
        ("double", BOTH),
    ],
)
@pytest.mark.parametrize("versions", [(6,), (4, 6)])
def test_ipv6_is_never_translated_and_filtered_as_ipv4_is(
    kind: str, filtering: Dependence, versions: tuple[int, ...]
) -> None:
    with a_home(kind, versions) as (_, prober):
        assert kind_of(prober.measure("alice")) == (False, NOTHING, filtering)


@pytest.mark.parametrize(
    "kind", ["endpoint-independent", "port-restricted", "symmetric", "double"]
)
def test_hosts_at_one_home_never_share_a_port(kind: str) -> None:
    with a_home(kind) as (net, prober):
        net.host("bob", "h1")
        alone = prober.measure("alice")
        with contextlib.ExitStack() as stack:
            sockets = [
                stack.enter_context(prober.opened(name, PUBLIC_PORT)) for name in ("alice", "bob")
            ]
            outer = [[prober.seen(one, n, p) for n in (0, 1) for p in (0, 1)] for one in sockets]
        assert all(one != other for one, other in zip(*outer, strict=True))
        assert kind_of(prober.measure("bob", PUBLIC_PORT)) == kind_of(alone)


def test_two_provider_levels_translate_one_after_the_other() -> None:
    with a_home("double") as (net, prober):
        outer = prober.measure("alice").outer
        assert outer[0] == net.address("h1.provider")
        shared = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598
        assert ipaddress.ip_address(net.address("h1")) in shared


def test_homes_of_one_provider_share_its_address_and_may_have_the_same_lan() -> None:
    with Internet() as net:
        for server in SERVERS:
            net.public(server)
        net.home("isp", "endpoint-independent", lan="100.64.1")
        for name, home in (("alice", "h1"), ("bob", "h2")):
            net.home(home, "symmetric", behind="isp", lan="192.168.1")
            net.host(name, home)
        assert net.address("alice") == net.address("bob")
        with contextlib.closing(Prober(net, SERVERS)) as prober:
            found = [prober.measure(name) for name in ("alice", "bob")]
        assert {behaviour.outer[0] for behaviour in found} == {net.address("isp")}
        assert {kind_of(behaviour) for behaviour in found} == {(True, BOTH, BOTH)}


def test_where_udp_is_blocked_one_port_is_not() -> None:
    with (
        a_home("udp-blocked") as (net, prober),
        contextlib.closing(prober.opened("alice")) as client,
        contextlib.closing(prober.opened("s1", PUBLIC_PORT)) as server,
    ):
        client.sendto(b"question", (net.address("s1"), PUBLIC_PORT))
        data, source = next(arrivals(server, 2))
        assert data == b"question"
        server.sendto(b"answer", source)
        assert next(arrivals(client, 2))[0] == b"answer"
        with pytest.raises(TimeoutError):
            prober.seen(client, patience=0.1)


@pytest.mark.parametrize("kind", ["endpoint-independent", "symmetric", "firewall"])
def test_a_mapping_lives_as_long_as_it_is_told(kind: str) -> None:
    with a_home(kind, forgets=1) as (_, prober), contextlib.closing(prober.opened("alice")) as one:
        outer = prober.seen(one)
        began, reached = time.monotonic(), 0.0
        while time.monotonic() < began + 1.3:  # what comes in keeps it
            assert prober.reaches(outer, one)
            reached = time.monotonic()
        quiet(reached + 1.1)
        assert not prober.reaches(outer, one)
        assert prober.reaches(prober.seen(one), one)


def quiet(until: float) -> None:
    """Silence is what is measured here: nothing else could end it."""
    time.sleep(max(0.0, until - time.monotonic()))


@pytest.mark.parametrize(
    "kind",
    ["endpoint-independent", "port-restricted", "symmetric", "firewall", "double", "mapped"],
)
def test_a_router_that_reboots_forgets_and_gives_out_other_ports(kind: str) -> None:
    with a_home(kind) as (net, prober), contextlib.closing(prober.opened("alice")) as client:
        before = prober.measure("alice")
        outer = prober.seen(client)
        assert prober.reaches(outer, client)
        net.reboot("h1")
        assert not prober.reaches(outer, client)
        again = prober.seen(client)
        assert (again != outer) is before.translated
        assert prober.reaches(again, client)
        assert kind_of(prober.measure("alice")) == kind_of(before)


def nat_pmp(net: Internet, prober: Prober, lifetime: int) -> tuple[int, int]:
    """Ask for PUBLIC_PORT (RFC 6886 §3.3); return the result code and the outer port."""
    router = net.gateway("alice")
    request = struct.pack(">BBHHHL", 0, MAP_UDP, 0, PUBLIC_PORT, PUBLIC_PORT, lifetime)
    with contextlib.closing(prober.opened("alice")) as asking:
        asking.sendto(request, (router, lab_mapper.PORT))
        answer, _ = next(arrivals(asking, 2))
    _, _, result, _, _, outer, _ = struct.unpack(">BBHLHHL", answer)
    return result, outer


def test_a_mapped_port_is_open_to_strangers_until_it_is_given_back_or_the_router_reboots() -> None:
    with (
        a_home("mapped") as (net, prober),
        contextlib.closing(prober.opened("alice", PUBLIC_PORT)) as client,
    ):
        there = (net.address("h1"), PUBLIC_PORT)
        assert not prober.reaches(there, client)
        assert nat_pmp(net, prober, 60) == (0, PUBLIC_PORT)
        assert prober.reaches(there, client)
        assert prober.reaches(there, client, server=1, port=1)
        net.reboot("h1")
        assert not prober.reaches(there, client)
        assert nat_pmp(net, prober, 60) == (0, PUBLIC_PORT)
        assert prober.reaches(there, client)
        nat_pmp(net, prober, 0)
        assert not prober.reaches(there, client, server=1)


def test_the_mapper_is_found_as_upnp_gateways_are() -> None:
    with a_home("mapped") as (net, prober), contextlib.closing(prober.opened("alice")) as client:
        search = (
            'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\n'
            "MX: 1\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
        )
        client.sendto(search.encode(), ("239.255.255.250", 1_900))
        answer, _ = next(arrivals(client, 5))
        location = re.search(r"LOCATION: http://([\d.]+):(\d+)(\S+)", answer.decode())
        assert location
        with net.entered("alice"):
            asking = socket.create_connection((location[1], int(location[2])), 5)
        with asking:
            asking.sendall(f"GET {location[3]} HTTP/1.0\r\n\r\n".encode())
            page = b"".join(iter(lambda: asking.recv(65_536), b""))
    assert b"WANIPConnection" in page


def test_a_mapper_behind_a_provider_that_translates_says_that_it_cannot() -> None:
    with Internet() as net:
        for server in SERVERS:
            net.public(server)
        net.home("isp", "port-restricted", lan="100.64.1")
        net.home("h1", "mapped", behind="isp")
        net.host("alice", "h1")
        with contextlib.closing(Prober(net, SERVERS)) as prober:
            assert nat_pmp(net, prober, 60)[0] != 0


def test_a_pinhole_for_ipv6_is_opened_by_pcp() -> None:
    with (
        a_home("mapped", (4, 6)) as (net, prober),
        contextlib.closing(prober.opened("alice", PUBLIC_PORT)) as client,
    ):
        inner = (net.address("alice", 6), PUBLIC_PORT)
        assert not prober.reaches(inner, client)
        own = socket.inet_pton(socket.AF_INET6, inner[0])
        header = struct.pack(">BBHL", 2, MAP_UDP, 0, 120) + own  # RFC 6887 §7.1, §11.1
        request = header + bytes(12) + struct.pack(">BxxxHH", UDP, inner[1], inner[1])
        client.sendto(request + bytes(16), (net.gateway("alice", 6), lab_mapper.PORT))
        answer, _ = next(arrivals(client, 2))
        assert answer[3] == 0
        assert prober.reaches(inner, client)


def test_a_forgetful_router_forgets_after_half_a_minute() -> None:
    with a_home("forgetful") as (net, _), net.entered("h1"):
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            assert Path("/proc/sys/net/netfilter", name).read_text().strip() == "30"
