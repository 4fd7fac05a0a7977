"""What Linux tells of its links and addresses, as bytes: rtnetlink(7).

Numbers are in the machine's byte order. Ours and not pyroute2's, because importing
that costs 8 MB of a peer's 48, for two messages.
"""

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hipctl.errors import MalformedPacket

GROUPS: Final = 0x1 | 0x10 | 0x100 | 0x40 | 0x400  # links, addresses and routes of both families
ERROR, DONE, NEWLINK, DELLINK, GETLINK, NEWADDR, GETADDR = 2, 3, 16, 17, 18, 20, 22

_REQUEST, _DUMP = 0x1, 0x300
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type

_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_OPTIMISTIC, _DADFAILED, _DEPRECATED, _TENTATIVE = 0x04, 0x08, 0x20, 0x40
_ADDRESS_LENGTHS: Final = (4, 16)

_ORCHIDS: Final = ipaddress.IPv6Network("2001:20::/28")  # HITs on a device of ours


@dataclass(frozen=True, slots=True)
class Link:
    """One interface.

    Attributes:
        index: its number, from 1.
        running: it is up, and so is what lies below: a cable, a radio cell.
        loopback: it leads nowhere else.
    """

    index: int
    running: bool
    loopback: bool


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One IP address of this machine.

    Attributes:
        ip: as text.
        link: index of its interface.
        fit: neither tentative nor deprecated nor a duplicate of somebody else's (RFC 4862 §5.5.4).
    """

    ip: str
    link: int
    fit: bool = True


def dump(kind: int) -> bytes:
    """The request for everything of a kind: GETLINK or GETADDR, of both families."""
    body = bytes(_LINK.size if kind == GETLINK else _ADDRESS.size)
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 0, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of each message that one ``recv`` returned.

    Raises:
        MalformedPacket: a length doesn't fit.
    """
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise MalformedPacket("netlink header cut short", at)
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise MalformedPacket("netlink message cut short", at)
        yield kind, data[at + _HEADER.size : at + length]
        at += length + -length % 4


def parse_link(body: bytes) -> Link:
    """Read an ifinfomsg.

    Raises:
        MalformedPacket: it is too short.
    """
    if len(body) < _LINK.size:
        raise MalformedPacket("link cut short")
    _family, _kind, index, flags, _change = _LINK.unpack_from(body)
    running = flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
    return Link(index, running, bool(flags & _IFF_LOOPBACK))


def parse_address(body: bytes) -> LinkAddress:
    """Read an ifaddrmsg.

    Raises:
        MalformedPacket: it is too short, or names no address.
    """
    if len(body) < _ADDRESS.size:
        raise MalformedPacket("address cut short")
    _family, _prefix, flags, _scope, index = _ADDRESS.unpack_from(body)
    found: dict[int, bytes] = dict(_attributes(body, _ADDRESS.size))
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")  # the latter may be the peer's
    if len(packed) not in _ADDRESS_LENGTHS:
        raise MalformedPacket("no address in an address")
    if len(found.get(_IFA_FLAGS, b"")) == 4:
        flags = int(struct.unpack("=I", found[_IFA_FLAGS])[0])
    tentative = flags & _TENTATIVE and not flags & _OPTIMISTIC
    fit = not (tentative or flags & (_DADFAILED | _DEPRECATED))
    return LinkAddress(str(ipaddress.ip_address(packed)), index, fit)


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while len(body) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            raise MalformedPacket("netlink attribute cut short", at)
        yield kind, body[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def usable(
    links: Iterable[Link],
    found: Iterable[LinkAddress],
    outgoing: Sequence[str],
    most: int,
) -> list[LinkAddress]:
    """Choose the addresses at which a host could be, the one to prefer first.

    Not among them: those of loopback and of links that are down, those of one link only (which
    mean nothing elsewhere), what is tentative or deprecated, and HITs.

    Args:
        links: all interfaces.
        found: all addresses.
        outgoing: from which addresses this machine would speak to the Internet.
        most: how many at most.
    """
    running = {link.index for link in links if link.running and not link.loopback}
    chosen = [each for each in found if each.fit and each.link in running and _means(each.ip)]
    first = {ip: number for number, ip in enumerate(outgoing)}
    chosen.sort(key=lambda each: first.get(each.ip, len(first)))  # else as the kernel has them
    return chosen[:most]


def _means(text: str) -> bool:
    """Whether an address names the same host to all of its network."""
    ip = ipaddress.ip_address(text)
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    return ip not in _ORCHIDS
