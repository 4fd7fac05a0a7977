"""What Linux tells of its links and addresses: rtnetlink(7), read by pyroute2.

Only pyroute2's messages are used. Its sockets want asyncio's own loop, so ``interfaces`` has a
socket that does with any.
"""

import importlib.util
import ipaddress
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hipctl.errors import MalformedPacket


@contextmanager
def _parts_of(package: str) -> Iterator[None]:
    """Import modules of a package without running its ``__init__``.

    That of pyroute2 imports all that there is, 190 modules: a peer of 48 MB would grow by 9, and
    with the messages alone it grows by 2. Who imports the package afterwards gets the whole.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or package in sys.modules:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]


with _parts_of("pyroute2"):
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, rtnl
    from pyroute2.netlink.marshal import Marshal
    from pyroute2.netlink.rtnl.ifaddrmsg import (
        IFA_F_DADFAILED,
        IFA_F_DEPRECATED,
        IFA_F_OPTIMISTIC,
        IFA_F_TENTATIVE,
        ifaddrmsg,
    )
    from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_RUNNING, IFF_UP, ifinfmsg

GROUPS: Final[int] = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_ROUTE
)
LINKS: Final[int] = rtnl.RTM_GETLINK
ADDRESSES: Final[int] = rtnl.RTM_GETADDR

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


class _LinkHeader(ifinfmsg):  # type: ignore[misc]
    """A link without its 60 attributes, of which reading each takes 0.4 ms, and we need none."""

    nla_map = ()


class _Messages(Marshal):  # type: ignore[misc]
    msg_map = {rtnl.RTM_NEWLINK: _LinkHeader, rtnl.RTM_NEWADDR: ifaddrmsg}  # noqa: RUF012


_messages = _Messages()


def dump(kind: int) -> bytes:
    """The request for everything of a kind, LINKS or ADDRESSES, of both families."""
    message = _LinkHeader() if kind == LINKS else ifaddrmsg()
    message["header"] = {"type": kind, "flags": NLM_F_REQUEST | NLM_F_DUMP}
    message.encode()
    return bytes(message.data)


def parse(data: bytes) -> tuple[list[Link | LinkAddress], bool]:
    """Read what one ``recv`` returned of the answer to a ``dump``.

    Returns:
        What it tells, and whether the answer ends there.

    Raises:
        MalformedPacket: it is none, or the kernel's refusal.
    """
    found: list[Link | LinkAddress] = []
    try:
        for message in _messages.parse(data):
            if message["header"]["error"] is not None:
                raise MalformedPacket(f"rtnetlink: {message['header']['error']}")
            match message["header"]["type"]:
                case rtnl.RTM_NEWLINK:
                    found.append(_link(message))
                case rtnl.RTM_NEWADDR:
                    found.append(_address(message))
                case kind if kind == NLMSG_DONE:
                    return found, True
    except (KeyError, ValueError, struct.error) as error:
        raise MalformedPacket("not what rtnetlink says") from error
    return found, False


def _link(message: Any) -> Link:
    flags = message["flags"]
    running = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
    return Link(message["index"], running, bool(flags & IFF_LOOPBACK))


def _address(message: Any) -> LinkAddress:
    ip = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")  # may be the peer's
    if ip is None:
        raise MalformedPacket("no address in an address")
    flags = message.get_attr("IFA_FLAGS", message["flags"])  # beyond the first 8 bits
    tentative = flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC
    fit = not (tentative or flags & (IFA_F_DADFAILED | IFA_F_DEPRECATED))
    return LinkAddress(str(ipaddress.ip_address(ip)), message["index"], fit)


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
