"""How a HIT may be reached, as the opaque bytes that records and RPCs carry.

One version byte, then at most two entries, each led by a byte that says what it is:

    1  locator   16 bytes of IPv6 address (IPv4 as ::ffff:a.b.c.d), 2 bytes of UDP port
    2  server    the 16-byte HIT of a rendezvous server, then its locator
    3  relay     the 16-byte HIT of a control relay, then its locator

Only this package reads them; the layout is ours and can change with the version byte.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hipctl.errors import MalformedPacket
from hipctl.identity import HIT_LENGTH, Hit

Address = tuple[str, int]

LONGEST: Final = 80  # bytes; what records and RPCs reserve for a contact
MOST_ENTRIES: Final = 2

_VERSION: Final = 1
_LOCATOR: Final = 1
_SERVER: Final = 2
_RELAY: Final = 3
_IP_LENGTH: Final = 16
_REMEMBERED: Final = 1_024  # addresses: the same few are asked about with every look
_LOCATOR_LENGTH: Final = _IP_LENGTH + 2
_ORCHIDS: Final = ipaddress.IPv6Network("2001:20::/28")
_HOMES: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_AMBIGUOUS: Final = tuple(  # IPv6 that leads to other hosts here than there
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible (RFC 4291 §2.5.5.1)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765 §2.1)
        "64:ff9b:1::/48",  # translators of one network (RFC 8215)
        "fec0::/10",  # site-local (RFC 3879)
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Locator:
    """Reach the host directly at this UDP address."""

    address: Address


@dataclass(frozen=True, slots=True)
class Server:
    """Send the I1 through this rendezvous server (RFC 8004)."""

    hit: Hit
    address: Address


@dataclass(frozen=True, slots=True)
class Relay:
    """Send the I1 through this control relay (RFC 9028): checks find a path for the data."""

    hit: Hit
    address: Address


Entry = Locator | Server | Relay
"""A locator, or a server that passes control packets on."""


def encode_contact(entries: Sequence[Entry]) -> bytes:
    """Write a contact; no entries say "cannot be reached from outside".

    Raises:
        ValueError: too many entries, or an address that no host can have.
    """
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"a contact has at most {MOST_ENTRIES} entries")
    parts = [bytes([_VERSION])]
    for entry in entries:
        if isinstance(entry, Server):
            parts += [bytes([_SERVER]), entry.hit]
        elif isinstance(entry, Relay):
            parts += [bytes([_RELAY]), entry.hit]
        else:
            parts.append(bytes([_LOCATOR]))
        parts.append(_encode_address(entry.address))
    return b"".join(parts)


def parse_contact(data: bytes) -> tuple[Entry, ...]:
    """Read a contact.

    Raises:
        MalformedPacket: it is not one, or names an address to which nothing may be sent.
    """
    if not data or data[0] != _VERSION:
        raise MalformedPacket("unknown contact version")
    entries: list[Entry] = []
    at = 1
    while at < len(data):
        if len(entries) == MOST_ENTRIES:
            raise MalformedPacket("too many entries in a contact", at)
        kind, at = data[at], at + 1
        if kind == _LOCATOR:
            entries.append(Locator(_parse_address(data, at)))
            at += _LOCATOR_LENGTH
        elif kind in (_SERVER, _RELAY):
            address = _parse_address(data, at + HIT_LENGTH)
            try:
                hit = Hit.check(data[at : at + HIT_LENGTH])
            except ValueError:
                raise MalformedPacket("bad HIT in a contact", at) from None
            entries.append(Server(hit, address) if kind == _SERVER else Relay(hit, address))
            at += HIT_LENGTH + _LOCATOR_LENGTH
        else:
            raise MalformedPacket("unknown entry in a contact", at - 1)
    return tuple(entries)


def contact_from_addresses(addresses: Sequence[Address]) -> bytes:
    """Write the contact of a host at these (IP address, UDP port): what a seed's line says.

    Raises:
        ValueError: more than two, no IP address, or one that no host can have.
    """
    return encode_contact([Locator(address) for address in addresses])


def compose(addresses: Sequence[Address], servers: Sequence[Server | Relay]) -> bytes:
    """Write the contact of a host: the best of both, if it has both.

    What no host can have is left out: routers and servers may claim to be anywhere.

    Args:
        addresses: its own that may be told, the best first.
        servers: those it is registered with, the best first.
    """
    addresses = [address for address in addresses if _is_usable(address)]
    servers = [server for server in servers if _is_usable(server.address)]
    most = MOST_ENTRIES - 1 if addresses and servers else MOST_ENTRIES
    own = [Locator(address) for address in addresses[:most]]
    return encode_contact([*own, *servers[: MOST_ENTRIES - len(own)]])


def groups(data: bytes) -> frozenset[bytes]:
    """Opaque labels of where a contact is: /24, /48 or server; none on a LAN or if malformed."""
    labels = set()
    try:
        entries = parse_contact(data)
    except MalformedPacket:
        return frozenset()
    for entry in entries:
        if not isinstance(entry, Locator):
            labels.add(b"s" + entry.hit)
            continue
        ip = ipaddress.ip_address(entry.address[0])
        if is_public(entry.address[0]):
            labels.add(b"4" + ip.packed[:3] if ip.version == 4 else b"6" + ip.packed[:6])
    return frozenset(labels)


@lru_cache(maxsize=_REMEMBERED)
def is_public(address: str) -> bool:
    """Whether an IP address means the same host everywhere, and so does what is hidden in it."""
    return ipaddress.ip_address(address).is_global and not is_disguised(address)


@lru_cache(maxsize=_REMEMBERED)
def is_disguised(address: str) -> bool:
    """Whether an IPv6 address may lead to an IPv4 host that only some network knows.

    Translators and tunnels on the way unpack the IPv4 address in it (IPv4-mapped, NAT64, 6to4,
    Teredo), which must be public, too. Nor is it one whose meaning a network chooses.
    """
    ip = ipaddress.ip_address(address)
    if ip.version == 4 or ip.is_loopback:
        return False
    if any(ip in network for network in _AMBIGUOUS):
        return True
    return any(not v4.is_global or v4.is_multicast for v4 in _embedded(ip))


def _embedded(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(ip.packed[12:]))
    return [v4 for v4 in found if v4 is not None]


@lru_cache(maxsize=_REMEMBERED)
def is_at_home(address: str) -> bool:
    """Whether an IP address is of this machine or its LAN only (RFC 1918, RFC 4193).

    Others that aren't public may lead further: to all customers of a provider (RFC 6598), or
    through a translator to everybody.
    """
    ip = ipaddress.ip_address(address)
    own = any(ip.version == network.version and ip in network for network in _HOMES)
    return own or ip.is_loopback or ip.is_link_local


def _encode_address(address: Address) -> bytes:
    ip, port = address
    return _encode_endpoint(ip, port)


@lru_cache(maxsize=_REMEMBERED)
def _encode_endpoint(text: str, port: int) -> bytes:
    ip = ipaddress.ip_address(text)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    reason = _refuse(ip, port)
    if reason:
        raise ValueError(f"{text} port {port}: {reason}")
    packed = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    return packed + port.to_bytes(2, "big")


def _is_usable(address: Address) -> bool:
    try:
        return bool(_encode_address(address))
    except ValueError:
        return False


def _parse_address(data: bytes, at: int) -> Address:
    end = at + _IP_LENGTH
    if len(data) < end + 2:
        raise MalformedPacket("contact ends within an entry", len(data))
    v6 = ipaddress.IPv6Address(data[at:end])
    ip = v6.ipv4_mapped or v6
    port = int.from_bytes(data[end : end + 2], "big")
    if _refuse(ip, port):
        raise MalformedPacket("unusable address in a contact", at)
    return str(ip), port


def _refuse(ip: _Ip, port: int) -> str | None:
    """Why nothing may be sent there: a contact must not aim an I1 at a group of hosts."""
    if not 0 < port < 65_536:
        return "a port lies in 1-65535"
    if ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
        return "no address of one host"
    if isinstance(ip, ipaddress.IPv6Address) and ip in _ORCHIDS:
        return "a HIT is no locator"
    return None
