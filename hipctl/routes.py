"""Through which routers this machine reaches the Internet, as /proc/net tells it (proc(5))."""

import ipaddress
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hipctl.mapped import Uplink

MOST_ROUTES: Final = 1_024  # lines that are looked at; a router of a provider has a million

_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200  # linux/route.h, linux/ipv6_route.h
_ORCHIDS: Final = ipaddress.IPv6Network("2001:20::/28")  # HITs

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """One route that is up.

    Attributes:
        link: name of the interface.
        network: where it leads.
        gateway: the next router, or None: on the link itself.
        metric: the least is taken.
    """

    link: str
    network: _Network
    gateway: str | None
    metric: int


def parse_routes4(text: str) -> list[Route]:
    """Read /proc/net/route; what cannot be read is left out."""
    return _parse(text, _route4)


def parse_routes6(text: str) -> list[Route]:
    """Read /proc/net/ipv6_route; what cannot be read is left out."""
    return _parse(text, _route6)


def _parse(text: str, read: Callable[[list[str]], Route | None]) -> list[Route]:
    found = []
    for line in text.splitlines()[:MOST_ROUTES]:
        try:
            route = read(line.split())
        except (ValueError, OverflowError):  # the heading, or what a later kernel writes
            continue
        if route is not None:
            found.append(route)
    return found


def _route4(fields: list[str]) -> Route | None:
    link, to, gateway, flags, _, _, metric, mask, *_ = fields
    if int(flags, 16) & (_UP | _REJECT) != _UP:
        return None
    network = ipaddress.IPv4Network((_ip4(to), str(ipaddress.IPv4Address(_ip4(mask)))))
    router = str(ipaddress.IPv4Address(_ip4(gateway))) if int(flags, 16) & _GATEWAY else None
    return Route(link, network, router, int(metric))


def _ip4(text: str) -> int:
    """As it lies in memory, written as a number of this machine."""
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder), "big")


def _route6(fields: list[str]) -> Route | None:
    to, length, _, _, gateway, metric, _, _, flags, link = fields
    if int(flags, 16) & (_UP | _REJECT) != _UP:
        return None
    network = ipaddress.IPv6Network((bytes.fromhex(to), int(length, 16)))
    router = None
    if int(flags, 16) & _GATEWAY:
        ip = ipaddress.IPv6Address(bytes.fromhex(gateway))
        router = f"{ip}%{link}" if ip.is_link_local else str(ip)
    return Route(link, network, router, int(metric, 16))


def uplinks(routes: Sequence[Route], addresses: Sequence[str], most: int) -> list[Uplink]:
    """Which of our addresses lie behind which default router.

    A private IPv4 address lies behind a NAT, a global IPv6 address perhaps behind a firewall;
    nothing has to be asked for the others.

    Args:
        routes: of both families.
        addresses: ours, the one to prefer first.
        most: how many at most, IPv4 before IPv6.
    """
    defaults = [each for each in routes if each.network.prefixlen == 0 and each.gateway]
    defaults.sort(key=lambda each: each.metric)
    found = []
    for text in sorted(addresses, key=lambda each: ":" in each):
        ip = ipaddress.ip_address(text)
        if not _wanted(ip):
            continue
        ways = [each for each in defaults if each.network.version == ip.version]
        here = [each for each in ways if any(ip in net for net in _nearby(routes, each))]
        if ip.version == 6 and not here and len({each.link for each in ways}) == 1:
            here = ways  # an address that DHCPv6 has given, without a network
        for way in here[:1]:
            if way.gateway:
                found.append(Uplink(text, way.gateway, way.link, _nearby(routes, way)))
    return found[:most]


def _wanted(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    return ip.is_global and ip not in _ORCHIDS if ip.version == 6 else not ip.is_global


def _nearby(routes: Sequence[Route], way: Route) -> tuple[_Network, ...]:
    """The networks on the link of a route, without that of all link-local addresses."""
    return tuple(
        each.network
        for each in routes
        if each.link == way.link
        and each.gateway is None
        and each.network.version == way.network.version
        and 0 < each.network.prefixlen < each.network.max_prefixlen
        and not each.network.is_link_local
        and not each.network.is_multicast
    )
