"""Contacts: small, opaque, and never aimed at a group of hosts."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import contact_from_addresses
from hipctl.contact import (
    LONGEST,
    Locator,
    Relay,
    Server,
    compose,
    encode_contact,
    groups,
    is_at_home,
    is_disguised,
    is_public,
    parse_contact,
)
from hipctl.errors import MalformedPacket
from hipctl.identity import Hit

DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "IPv4-mapped": lambda v4: b"\0" * 10 + b"\xff\xff" + v4,
    "NAT64": lambda v4: bytes.fromhex("0064ff9b") + bytes(8) + v4,
    "6to4": lambda v4: b"\x20\x02" + v4 + bytes(9) + b"\1",
    "Teredo server": lambda v4: b"\x20\1\0\0" + v4 + bytes(4) + b"\xf7" * 4,
    "Teredo client": lambda v4: (
        b"\x20\1\0\0" + b"\x08" * 4 + bytes(4) + bytes(255 - x for x in v4)
    ),
}
HIT = Hit.parse("2001:22::1")
PORTS = st.integers(1, 65_535)
IPS = st.one_of(
    st.ip_addresses(v=4, network="11.0.0.0/8").map(str),
    st.ip_addresses(v=4, network="127.0.0.0/8").map(str),
    st.ip_addresses(v=6, network="2400::/12").map(str),
)
LOCATORS = st.tuples(IPS, PORTS).map(Locator)
SERVERS = st.builds(Server, st.just(HIT), st.tuples(IPS, PORTS))
ENTRIES = st.lists(st.one_of(LOCATORS, SERVERS), max_size=2)


@given(ENTRIES)
def test_what_was_written_is_read(entries: list[Locator | Server]) -> None:
    data = encode_contact(entries)
    assert len(data) <= LONGEST
    assert list(parse_contact(data)) == entries


@given(st.one_of(st.binary(max_size=90), st.binary(max_size=80).map(lambda b: b"\1\1" + b)))
def test_any_bytes_are_a_contact_or_malformed(data: bytes) -> None:
    labels = groups(data)
    try:
        entries = parse_contact(data)
    except MalformedPacket:
        assert not labels
    else:
        assert encode_contact(entries) == data


@given(ENTRIES, st.data())
def test_a_contact_cut_short_is_malformed(
    entries: list[Locator | Server], data: st.DataObject
) -> None:
    whole = encode_contact(entries)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        assert len(parse_contact(cut)) < len(entries)
    except MalformedPacket as error:
        assert error.offset <= len(cut)


@pytest.mark.parametrize(
    "address",
    [
        ("224.0.0.1", 1),
        ("255.255.255.255", 1),
        ("0.0.0.0", 1),
        ("::", 1),
        ("ff02::1", 1),
        ("2001:22::1", 1),
        ("192.0.2.1", 0),
        ("192.0.2.1", 65_536),
        ("example.org", 1),
    ],
)
def test_what_is_no_hosts_address_is_refused(address: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"."):
        contact_from_addresses([address])


def test_a_received_contact_cannot_aim_at_a_group() -> None:
    good = bytearray(contact_from_addresses([("192.0.2.1", 10500)]))
    good[-6:-2] = bytes([224, 0, 0, 1])
    with pytest.raises(MalformedPacket, match="unusable"):
        parse_contact(bytes(good))


def test_groups_are_the_24_the_48_and_the_server() -> None:
    a = contact_from_addresses([("11.1.2.3", 1), ("2400:1:2:3::4", 1)])
    b = contact_from_addresses([("11.1.2.200", 9)])
    c = contact_from_addresses([("2400:1:2:9::9", 9)])
    assert len(groups(a)) == 2
    assert groups(a) & groups(b)
    assert groups(a) & groups(c)
    assert not groups(b) & groups(c)
    one, other = (encode_contact([Server(HIT, (ip, 1))]) for ip in ("11.0.0.1", "12.0.0.1"))
    assert groups(one) == groups(other) != frozenset()


@pytest.mark.parametrize(
    "ip", ["127.0.0.2", "10.1.2.3", "192.168.0.4", "169.254.1.1", "100.64.0.1", "fe80::1"]
)
def test_a_lan_has_no_groups(ip: str) -> None:
    assert groups(contact_from_addresses([(ip, 10500)])) == frozenset()
    assert not is_public(ip)


def test_two_entries_are_all() -> None:
    with pytest.raises(ValueError, match="at most 2"):
        contact_from_addresses([("11.0.0.1", 1)] * 3)
    one = contact_from_addresses([("11.0.0.1", 1)])
    with pytest.raises(MalformedPacket, match="too many"):
        parse_contact(one + 2 * one[1:])


def test_a_server_that_seems_to_be_at_no_port_is_left_out() -> None:
    nowhere, there = Relay(HIT, ("192.0.2.1", 0)), Relay(HIT, ("192.0.2.2", 10500))
    assert parse_contact(compose([("224.0.0.1", 1)], [nowhere, there])) == (there,)


@pytest.mark.parametrize(
    ("ip", "home"),
    [
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.1.1", True),
        ("127.0.0.1", True),
        ("169.254.1.1", True),
        ("fd00::1", True),
        ("fe80::1", True),
        ("::1", True),
        ("45.0.1.1", False),
        ("172.32.0.1", False),
        ("100.64.0.9", False),  # others at the same provider
        ("64:ff9b:1::2d00:101", False),  # everybody, by NAT64
        ("2001:0:1::1", False),  # and by Teredo
    ],
)
def test_what_leads_beyond_a_lan_is_not_at_home(ip: str, home: bool) -> None:
    assert is_at_home(ip) is home


@given(st.sampled_from(sorted(DISGUISES)), st.ip_addresses(v=4))
def test_an_ipv6_address_is_no_better_than_the_ipv4_address_inside(
    name: str, inside: ipaddress.IPv4Address
) -> None:
    outside = str(ipaddress.IPv6Address(DISGUISES[name](inside.packed)))
    assert is_disguised(outside) is not (inside.is_global and not inside.is_multicast)
    assert not (is_disguised(outside) and is_public(outside))


@given(st.ip_addresses(v=4).map(str))
def test_ipv4_is_no_disguise(ip: str) -> None:
    assert not is_disguised(ip)


@pytest.mark.parametrize(
    ("ip", "disguised"),
    [
        ("64:ff9b::10.0.0.1", True),
        ("64:ff9b::127.0.0.1", True),
        ("64:ff9b::224.0.0.1", True),
        ("64:ff9b::8.8.8.8", False),
        ("64:ff9b:1::8.8.8.8", True),
        ("::ffff:0:8.8.8.8", True),
        ("::ffff:169.254.169.254", True),
        ("::ffff:8.8.8.8", False),
        ("::127.0.0.1", True),
        ("::8.8.8.8", True),
        ("::1", False),
        ("2002:c0a8:101::1", True),
        ("2002:808:808::1", False),
        ("2001:0:a00:1::f7f7:f7f7", True),
        ("fec0::1", True),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("2a00:1450::1", False),
    ],
)
def test_ipv6_addresses_that_lead_elsewhere_in_each_network(ip: str, disguised: bool) -> None:
    assert is_disguised(ip) is disguised
