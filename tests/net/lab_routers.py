"""What home routers do to packets, as nftables rules: pure text.

In a router ``wan`` is the way out and ``lan`` the bridge on which its hosts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PUBLIC_PORT = 10_500
HOSTS = 9  # at a LAN: they have their ranges of ports
FIRST_PORT, RANGE, RANGES = 20_000, 1_000, 12  # below those that Linux gives out
UDP_FORGOTTEN, UDP_STREAM_FORGOTTEN = 30, 120  # seconds, as in Linux and as RFC 4787 REQ-5 asks
MAPPER_CHAINS = "miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"


class Kind(StrEnum):
    """A kind of home; mapping and filtering are told apart as in RFC 4787 §4.1 and §5."""

    PUBLIC = "public"  # no NAT and no firewall: its hosts have public addresses
    FIREWALL = "firewall"  # no NAT; lets in only answers
    MAPPED = "mapped"  # port-restricted, and maps ports on request: PCP, NAT-PMP, UPnP-IGD
    ENDPOINT_INDEPENDENT = "endpoint-independent"  # mapping and filtering
    PORT_RESTRICTED = "port-restricted"  # as before, but filters by address and port
    SYMMETRIC = "symmetric"  # both by address and port
    DOUBLE = "double"  # port-restricted behind a provider's that is port-restricted too
    UDP_BLOCKED = "udp-blocked"  # port-restricted; UDP leaves only to port 10500
    FORGETFUL = "forgetful"  # port-restricted; a mapping is forgotten after 30 s


@dataclass(frozen=True, slots=True)
class Router:
    """What one router does.

    Attributes:
        translates: IPv4 sources become the router's address.
        by_destination: each destination sees another port (symmetric NAT).
        filters: lets in only answers; unless
        admits_anyone: to whoever has sent something; endpoint-independent filtering.
        maps: runs miniupnpd.
        udp_ports: the only ones to which UDP may leave; empty: all.
        forgets: seconds after which UDP mappings end; None: as Linux does.
    """

    translates: bool = True
    by_destination: bool = False
    filters: bool = True
    admits_anyone: bool = False
    maps: bool = False
    udp_ports: tuple[int, ...] = ()
    forgets: int | None = None


ROUTERS = {
    Kind.PUBLIC: Router(translates=False, filters=False),
    Kind.FIREWALL: Router(translates=False),
    Kind.MAPPED: Router(maps=True),
    Kind.ENDPOINT_INDEPENDENT: Router(admits_anyone=True),
    Kind.PORT_RESTRICTED: Router(),
    Kind.SYMMETRIC: Router(by_destination=True),
    Kind.DOUBLE: Router(),
    Kind.UDP_BLOCKED: Router(udp_ports=(PUBLIC_PORT,)),
    Kind.FORGETFUL: Router(forgets=30),
}


def rules(router: Router, hosts: Sequence[str], life: int = 0) -> str:
    """A whole ruleset.

    Args:
        router: what it does.
        hosts: the IPv4 addresses at its LAN, used or not, ``HOSTS`` at most.
        life: how often it was rebooted: each time it gives out other ports.
    """
    forgets = router.forgets or UDP_STREAM_FORGOTTEN
    chains = [
        f"map mapped {{ type inet_service : ipv4_addr . inet_service; size 8192;"
        f" flags dynamic,timeout; timeout {forgets}s; }}",
        f"set opened {{ type ipv6_addr . inet_service; size 8192;"
        f" flags dynamic,timeout; timeout {forgets}s; }}",
    ]
    if router.maps:
        chains += [_chain(name, []) for name in MAPPER_CHAINS]
    if router.admits_anyone:
        chains.append(_chain("learn", _learned(router), "filter postrouting 110 accept"))
    if router.translates:
        outward = _outward(router, hosts, life)
        chains += [
            _chain("prerouting", _inward(router), "nat prerouting -100 accept"),
            _chain("postrouting", outward, "nat postrouting 100 accept"),
        ]
    if router.filters:
        chains += [
            _chain("forward", _forwarded(router), "filter forward 0 drop"),
            _chain("input", _received(), "filter input 0 drop"),
        ]
    return "\n".join(["flush ruleset", "table inet home {", *chains, "}", ""])


def _chain(name: str, lines: Sequence[str], hook: str = "") -> str:
    """A chain; with a hook (kind, place, priority, policy) packets get to it by themselves."""
    base = ""
    if hook:
        kind, place, priority, policy = hook.split()
        base = f"type {kind} hook {place} priority {priority}; policy {policy};"
    return "\n".join([f"chain {name} {{ {base}", *lines, "}"])


def _learned(router: Router) -> list[str]:
    """After translation: remember whose the outer port is, so that anyone may answer."""
    way = 'oifname "wan" meta l4proto udp'
    opened = f"{way} meta nfproto ipv6 update @opened {{ ip6 saddr . udp sport }}"
    mapped = [
        f"{way} meta nfproto ipv4 ct direction {who} update @mapped"
        f" {{ udp sport : ct {who} ip saddr . ct {who} proto-src }}"
        for who in ("original", "reply")  # whoever began
    ]
    return [opened, *mapped] if router.translates else [opened]


def _inward(router: Router) -> list[str]:
    lines = []
    if router.maps:
        lines.append('iifname "wan" jump prerouting_miniupnpd')
    if router.admits_anyone:
        lines.append(
            'iifname "wan" meta nfproto ipv4 meta l4proto udp dnat ip to udp dport map @mapped'
        )
    return lines


def _outward(router: Router, hosts: Sequence[str], life: int) -> list[str]:
    """Linux keeps the port of a source and reuses its mapping, unless it shall be fully random.

    But it would give two hosts the same port, to other destinations; no good NAT does. So the
    first host keeps its ports and all others have a range of their own; after a reboot all have.
    """
    way = 'oifname "wan" meta nfproto ipv4'
    lines = [f"{way} jump postrouting_miniupnpd"] if router.maps else []
    if router.by_destination:
        return [*lines, f"{way} masquerade fully-random"]
    for number, host in enumerate(hosts):
        if number or life:
            first = FIRST_PORT + (life * HOSTS + number) % RANGES * RANGE
            ports = f"{first}-{first + RANGE - 1}"
            lines.append(f"{way} meta l4proto udp ip saddr {host} masquerade to :{ports}")
    return [*lines, f"{way} masquerade"]


def _forwarded(router: Router) -> list[str]:
    lines = []
    if router.udp_ports:
        ports = ", ".join(map(str, router.udp_ports))
        lines.append(f'iifname "lan" oifname "wan" udp dport != {{ {ports} }} drop')
    lines += [
        "ct state established,related accept",
        'iifname "lan" accept',
        "ct status dnat accept",
        "meta l4proto ipv6-icmp accept",
    ]
    if router.admits_anyone:
        lines.append("ip6 daddr . udp dport @opened accept")
    if router.maps:
        lines.append("jump miniupnpd")
    return lines


def _received() -> list[str]:
    """What is not for a host is dropped, not refused: it would become a flow of the router's."""
    return [
        'iifname { "lan", "lo" } accept',
        "ct state established,related accept",
        "meta l4proto { icmp, ipv6-icmp } accept",
    ]
