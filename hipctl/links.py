"""Shell: which interfaces lead to a LAN, and who is on the link where something was heard."""

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_GET_FLAGS, _GET_ADDRESS = 0x8913, 0x8915  # SIOCGIFFLAGS, SIOCGIFADDR: netdevice(7)
_UP, _BROADCAST, _LOOPBACK, _POINT_TO_POINT, _MULTICAST = 0x1, 0x2, 0x8, 0x10, 0x1000
_ASKED: Final = 0xFFFF & (_UP | _BROADCAST | _LOOPBACK | _POINT_TO_POINT | _MULTICAST)
_LAN: Final = _UP | _BROADCAST | _MULTICAST
_REQUEST: Final = struct.Struct("16s24x")  # struct ifreq
_SHORT_AT = _ADDRESS_AT = 16  # ifr_flags; ifr_addr, of which the IP address begins 4 bytes later
_DISCARD: Final = 9  # a port; nothing is sent there


@dataclass(frozen=True, slots=True)
class LanLink:
    """An interface that leads to a LAN.

    Attributes:
        index: its number.
        address: its first IPv4 address, or None.
    """

    index: int
    address: str | None


def lan_links(names: Collection[str] = ()) -> list[LanLink]:
    """The interfaces that lead to a LAN now.

    Args:
        names: take these, whatever they are; empty: those that are up, reach many by broadcast
            and multicast, and have no public IPv4 address. Tunnels and modems are none, nor is
            what leads a server to its provider.
    """
    found: list[LanLink] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for index, name in socket.if_nameindex():
            try:
                flags = _flags(probe, name)
            except OSError:  # it has gone
                continue
            address = _address(probe, name)
            if name in names if names else _is_lan(flags, address):
                found.append(LanLink(index, address))
    return found


def absent_links(names: Collection[str]) -> list[str]:
    """Those of these names that no interface of this machine has now."""
    there = {name for _, name in socket.if_nameindex()}
    return [name for name in names if name not in there]


def _is_lan(flags: int, address: str | None) -> bool:
    return flags & _ASKED == _LAN and (
        address is None or not ipaddress.ip_address(address).is_global
    )


def _flags(probe: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(probe, _GET_FLAGS, _REQUEST.pack(name.encode()))
    return int(struct.unpack_from("@H", answer, _SHORT_AT)[0])


def _address(probe: socket.socket, name: str) -> str | None:
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(probe, _GET_ADDRESS, _REQUEST.pack(name.encode()))
        return socket.inet_ntoa(answer[_ADDRESS_AT + 4 : _ADDRESS_AT + 8])
    return None


def on_link(source: str, here: str) -> bool:
    """Whether an IPv4 address is on the link where we have another one.

    The kernel says so: without its routers it must know a way, and go there from ``here``.

    Args:
        source: where a datagram seems to come from; anybody may claim any.
        here: our address where it was heard.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
            probe.connect((source, _DISCARD))
            return bool(probe.getsockname()[0] == here)
    except OSError:  # nowhere near, or an address of many
        return False
