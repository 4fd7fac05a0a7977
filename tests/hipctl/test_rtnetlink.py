"""What Linux tells of links and addresses, and which addresses a host is at."""

import ipaddress
import json
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket
from hipctl.rtnetlink import ADDRESSES, LINKS, Link, LinkAddress, dump, parse, usable

ERROR, DONE, NEWLINK, GETLINK, NEWADDR, GETADDR = 2, 3, 16, 18, 20, 22
UP, LOOPBACK, RUNNING = 0x1, 0x8, 0x40
TENTATIVE, OPTIMISTIC, DEPRECATED, DADFAILED = 0x40, 0x04, 0x20, 0x08


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 7) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def address(ip: str, link: int, flags: int = 0, local: str = "", wide: int | None = None) -> bytes:
    packed = ipaddress.ip_address(ip).packed
    body = struct.pack("=BBBBI", 2 if len(packed) == 4 else 10, 24, flags, 0, link)
    body += attribute(1, packed) + attribute(3, b"eth0\0")
    body += attribute(2, ipaddress.ip_address(local).packed) if local else b""
    return body + (attribute(8, struct.pack("=I", wide)) if wide is not None else b"")


def link(index: int, flags: int) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(3, b"eth0\0")


def the_link(body: bytes) -> Link | LinkAddress:
    ((found,), _) = parse(message(NEWLINK, body))
    return found


def the_address(body: bytes) -> Link | LinkAddress:
    ((found,), _) = parse(message(NEWADDR, body))
    return found


def test_messages_of_one_read_come_apart_in_order() -> None:
    data = message(NEWLINK, link(3, UP)) + message(NEWADDR, address("10.0.0.1", 3))
    found = [Link(3, False, False), LinkAddress("10.0.0.1", 3)]
    assert parse(data) == (found, False)
    assert parse(data + message(DONE, bytes(4))) == (found, True)
    assert parse(message(DONE, bytes(4)) + data) == ([], True)
    assert parse(b"") == ([], False)


def test_everything_is_asked_for_in_both_families() -> None:
    for kind, wanted, least in ((LINKS, GETLINK, 16), (ADDRESSES, GETADDR, 8)):
        request = dump(kind)
        length, type_, flags, _, _ = struct.unpack_from("=IHHII", request)
        assert (length, type_, flags) == (len(request), wanted, 0x301)
        assert request[16:] == bytes(least)


def test_a_refusal_of_the_kernel_is_told() -> None:
    refusal = struct.pack("=i", -1) + dump(LINKS)  # EPERM
    with pytest.raises(MalformedPacket, match="not permitted"):
        parse(message(ERROR, refusal))


@pytest.mark.parametrize(
    ("flags", "running", "loopback"),
    [
        (UP | RUNNING, True, False),
        (UP, False, False),  # no cable
        (RUNNING, False, False),  # taken down
        (UP | RUNNING | LOOPBACK, True, True),
    ],
)
def test_a_link_runs_when_it_is_up_and_has_a_carrier(
    flags: int, running: bool, loopback: bool
) -> None:
    assert the_link(link(4, flags)) == Link(4, running, loopback)


def test_the_near_end_of_a_tunnel_is_ours() -> None:
    tunnel = address("10.0.0.9", 2, local="10.0.0.1")
    assert the_address(tunnel) == LinkAddress("10.0.0.1", 2)


@pytest.mark.parametrize(
    ("flags", "fit"),
    [
        (0, True),
        (TENTATIVE, False),
        (TENTATIVE | OPTIMISTIC, True),
        (DEPRECATED, False),
        (DADFAILED, False),
    ],
)
def test_an_address_is_fit_unless_it_is_unsure_or_on_its_way_out(flags: int, fit: bool) -> None:
    assert the_address(address("2400::1", 2, flags)) == LinkAddress("2400::1", 2, fit)
    wide = address("2400::1", 2, wide=flags | 0x100)  # bits beyond the first 8
    assert the_address(wide) == LinkAddress("2400::1", 2, fit)


HERE = [Link(1, True, True), Link(2, True, False), Link(3, False, False), Link(4, True, False)]


def test_a_host_is_where_others_can_find_it() -> None:
    found = [
        LinkAddress("127.0.0.1", 1),
        LinkAddress("10.9.9.9", 1),  # on the loopback interface
        LinkAddress("192.0.2.7", 2),
        LinkAddress("fe80::1", 2),
        LinkAddress("169.254.3.4", 2),
        LinkAddress("2400::7", 2),
        LinkAddress("2400::8", 2, fit=False),
        LinkAddress("198.51.100.3", 3),  # without a cable
        LinkAddress("2001:2f:1::1", 4),  # a HIT on a device of ours
        LinkAddress("10.1.1.1", 4),
        LinkAddress("10.1.1.1", 9),  # on a link that has just gone
    ]
    chosen = [each.ip for each in usable(HERE, found, [], 8)]
    assert chosen == ["192.0.2.7", "2400::7", "10.1.1.1"]
    outgoing = ["10.1.1.1", "2400::7"]  # where the default routes lead
    chosen = [each.ip for each in usable(HERE, found, outgoing, 8)]
    assert chosen == ["10.1.1.1", "2400::7", "192.0.2.7"]
    assert [each.ip for each in usable(HERE, found, outgoing, 1)] == ["10.1.1.1"]


@given(
    st.binary(max_size=80)
    | st.tuples(st.sampled_from([ERROR, DONE, NEWLINK, NEWADDR]), st.binary(max_size=60)).map(
        lambda pair: message(*pair)
    )
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found, _ = parse(data)
    except MalformedPacket:
        return
    for each in found:
        assert isinstance(each, Link) or ipaddress.ip_address(each.ip)


@given(st.ip_addresses(), st.integers(1, 1 << 20), st.booleans())
def test_addresses_survive(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, index: int, fit: bool
) -> None:
    body = address(str(ip), index, 0 if fit else DEPRECATED)
    found = the_address(body)
    assert isinstance(found, LinkAddress)
    assert (ipaddress.ip_address(found.ip), found.link, found.fit) == (ip, index, fit)


IMPORTED = """
import json, sys
from hipctl import rtnetlink
here = [name for name in sys.modules if name.split(".")[0] == "pyroute2"]
from pyroute2 import IPRoute, netns
from pyroute2.iproute import NetNS
import pyroute2.netlink.rtnl
print(json.dumps([here, IPRoute.__module__]))
"""


def test_of_pyroute2_only_messages_are_imported_and_others_still_get_the_whole() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, check=True)
    here, home = json.loads(done.stdout)
    assert "pyroute2.netlink.rtnl.ifaddrmsg" in here
    assert not {"pyroute2", "pyroute2.ndb", "pyroute2.netlink.core"} & set(here)
    assert home.startswith("pyroute2.")
