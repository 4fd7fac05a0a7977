"""What may be chosen about one host, and what is refused."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hipctl import contact as contacts
from hipctl.actions import Address
from hipctl.constants import HIP_PORT
from hipctl.errors import HostConfigRefused
from hipctl.identity import HostIdentity
from hipctl.settings import EngineConfig

_SMALLEST_MTU = 256
_LARGEST_MTU = 65_535  # of an IPv4 packet


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How a host is set up.

    Attributes:
        listen: IP addresses and UDP ports, 0 for a free one. What we begin leaves from the first
            of a family, answers from where they were asked for. A machine with several addresses
            of one family may list them; where 0.0.0.0 or :: is listened at and nobody watches,
            the kernel's routes choose where answers leave from, and a NAT before the other host
            may not let them pass. Where there is no IPv6, :: is left out.
        private_locators: whether peers of an association may learn private addresses when we
            follow this machine's: without, a call behind a NAT doesn't survive a move.
        watch: whether we follow this machine's addresses where we listen at 0.0.0.0 or ::.
        locators: whether contacts say our own addresses, beside servers that we are registered
            with; without, who knows the contact doesn't learn where we are.
        port_mapping: whether, where we follow this machine's addresses, its routers are asked to
            let others reach our port (PCP, NAT-PMP, UPnP); contacts then say the router's address.
        lan_links: names of the interfaces where ``welcome`` and ``look_around`` work; empty: each
            that leads to a LAN (see ``lan``). Without these calls nothing is asked or answered.
        announce: what contacts say, at most two; empty for what can be found out.
        announce_private: whether what is found out may be private, link-local or loopback.
        mtu: bytes of the largest outer packet, 256 to 65,535; longer datagrams travel in
            fragments.
        keylog: append the keys of every exchange to this file: for debugging only.
        engine: puzzle, lifetimes and limits.
    """

    listen: Sequence[Address] = (("0.0.0.0", HIP_PORT), ("::", HIP_PORT))  # noqa: S104
    watch: bool = True
    private_locators: bool = True
    locators: bool = True
    port_mapping: bool = True
    lan_links: Sequence[str] = ()
    announce: Sequence[Address] = ()
    announce_private: bool = False
    mtu: int = 1_280
    keylog: Path | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)


def check(identities: Sequence[HostIdentity], config: HostConfig) -> None:
    """Refuse what no host can run with.

    Raises:
        HostConfigRefused: the message says what to change.
    """
    if not identities:
        raise HostConfigRefused("a host needs an identity; make one with: hipctl keygen")
    if not config.listen:
        raise HostConfigRefused("a host must listen somewhere, e.g. on 0.0.0.0 port 10500")
    for address in config.listen:
        _check_listen(address)
    if not _SMALLEST_MTU <= config.mtu <= _LARGEST_MTU:
        raise HostConfigRefused(
            f"an mtu of {config.mtu} lies outside {_SMALLEST_MTU}-{_LARGEST_MTU}; 1280 always fits"
        )
    try:
        contacts.contact_from_addresses(config.announce)
    except ValueError as error:
        raise HostConfigRefused(f"announce: {error}") from None


def _check_listen(address: Address) -> None:
    host, port = address
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise HostConfigRefused(f"listen: {host!r} is no IP address; write one of ours") from None
    if ip.is_multicast:
        raise HostConfigRefused(f"listen: {host} is a group of hosts; write an address of ours")
    if not 0 <= port < 65_536:
        raise HostConfigRefused(f"listen: {port} is no port; choose one in 1-65535")
