"""Mappings of our UDP port at routers, and what the machines that make them ask of their shell."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

Address = tuple[str, int]
"""IP address as text and UDP port."""

NO_PUBLIC_ADDRESS: Final = "the router has no public address to map a port at"
"""Why there is no mapping: it isn't connected, or there is another NAT above it."""

Random = Callable[[int], bytes]
"""``rng(n)``: that many random bytes."""


class Protocol(Enum):
    """By what a router is asked for a mapping."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


class State(Enum):
    """How far one protocol is at one router."""

    IDLE = auto()  # not begun, or left to another protocol
    ASKING = auto()
    MAPPED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be chosen about mappings; times in seconds.

    Attributes:
        lifetime: asked for by PCP and NAT-PMP (RFC 6886 §3.3 recommends two hours).
        lease: asked for by UPnP, where an address that changes or a restart is told to nobody.
        renew: the part of a lifetime after which it is renewed.
        check: how often the router is asked whether it still knows.
        protocols: which may be tried.
    """

    lifetime: int = 7_200
    lease: int = 3_600
    renew: float = 0.5
    check: float = 120.0
    protocols: frozenset[Protocol] = frozenset(Protocol)


@dataclass(frozen=True, slots=True)
class Uplink:
    """An address of ours, and the router that stands between it and the Internet.

    Attributes:
        ip: ours.
        router: its address on our link; with ``%interface`` where it is link-local.
        link: name of the interface towards it.
        nearby: the networks of that link; a router may show another of its addresses there.
    """

    ip: str
    router: str
    link: str = field(default="", compare=False)
    nearby: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = field(
        default=(), compare=False
    )

    @property
    def six(self) -> bool:
        """Whether it is about IPv6: then there is a firewall to open, and nothing to translate."""
        return ":" in self.ip

    def is_router(self, ip: str) -> bool:
        """Whether this is the router's address."""
        return ip == self.router


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping that a router has made.

    Attributes:
        external: where others reach us; the same as ``internal`` where only a firewall opened.
        internal: our address and UDP port.
        protocol: by which it was asked for.
        router: see Uplink.
        lifetime: seconds for which it was granted.
        expires: when it ends unless renewed, monotonic seconds.
    """

    external: Address
    internal: Address
    protocol: Protocol
    router: str
    lifetime: float
    expires: float

    @property
    def public(self) -> bool:
        """Whether the external address means us everywhere; if not, there is another NAT above."""
        ip = ipaddress.ip_address(self.external[0])
        return ip.is_global and not ip.is_multicast


@dataclass(frozen=True, slots=True)
class Url:
    """``http://host:port/path``; the host is an IP address, with ``%interface`` if link-local."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a datagram to port 5351 of a router, from our address there."""

    uplink: Uplink
    data: bytes


@dataclass(frozen=True, slots=True)
class Search:
    """Look for UPnP routers on the link, by multicast and at the router itself."""

    uplink: Uplink


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send a request by HTTP, from our address; then ``on_reply`` with ``number``.

    Attributes:
        action: SOAPAction; empty for a plain GET.
        body: empty for a plain GET.
    """

    uplink: Uplink
    number: int
    url: Url
    action: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class MappingsChanged:
    """What may be announced is now this.

    Attributes:
        mapped: without those whose external address others couldn't reach.
    """

    mapped: tuple[Mapped, ...]


Action = Ask | Search | Fetch | MappingsChanged


def spread(rng: Random, low: float, high: float) -> float:
    """A random number between two."""
    return low + (high - low) * int.from_bytes(rng(4), "big") / 0x1_0000_0000
