"""Transport addresses at which a host might be reached: gathered, told, and taken from a peer.

RFC 9028 §4.2 and §5.7, RFC 8445 §5.1.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from hipctl.actions import Address
from hipctl.constants import CandidateKind, LocatorType
from hipctl.locators import announceable, one_host
from hipctl.params_mobility import Locator

REMOTE_MAX: Final = 16  # candidates of a peer that we take
RELAYS_MAX: Final = 4  # control relays of a peer that we take
_PREFERENCES: Final = {  # type preferences, RFC 8445 §5.1.2.2
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.RELAYED: 0,
}
_PRIORITY_MAX: Final = 2**31 - 1  # RFC 8445 §5.1.2
_LOCAL_MAX: Final = 65535  # local preference of the first, RFC 8445 §5.1.2.1
_LOCATOR_LENGTH: Final = 36  # bytes of a locator with a transport address
_SEALED: Final = 24  # bytes of ENCRYPTED beside the ciphertext: header, reserved, IV
_BLOCK: Final = 16  # bytes of the cipher
_BOTH, _SIGNALING, _DATA = 0, 1, 2  # Traffic Types, RFC 9028 §5.7
_UDP: Final = 17
_REMEMBERED: Final = 1_024  # addresses, as in ``locators``


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address.

    Attributes:
        address: at which the peer may find us, or we the peer.
        kind: how it was found.
        priority: RFC 8445 §5.1.2, 1 to 2^31 - 1.
        base: ours only: from which of our addresses we send, see Path; None: the shell's choice.
        via: ours and RELAYED only: where the data relay is.
    """

    address: Address
    kind: CandidateKind
    priority: int
    base: Address | None = None
    via: Address | None = None

    @property
    def reflexive_priority(self) -> int:
        """What a peer-reflexive candidate would have that a check from here shows (§7.1.1)."""
        return _PREFERENCES[CandidateKind.PEER_REFLEXIVE] << 24 | self.priority & 0xFFFFFF


def priority(kind: CandidateKind, preference: int = _LOCAL_MAX) -> int:
    """RFC 8445 §5.1.2.1; there is only one component.

    Args:
        kind: gives the type preference.
        preference: the local preference, 0 to 65535.
    """
    return _PREFERENCES[kind] << 24 | preference << 8 | 256 - 1


def gather(
    hosts: Iterable[Address],
    reflexive: Iterable[tuple[Address, Address | None]] = (),
    relayed: Iterable[tuple[Address, Address, Address | None]] = (),
) -> tuple[Candidate, ...]:
    """Our candidates, the highest priority first, without redundant ones (RFC 8445 §5.1).

    Args:
        hosts: addresses of our sockets, the preferred one first.
        reflexive: (as a server or a port mapping has it, base); without base it is that of our
            first host address of the same family.
        relayed: (address that the data relay opened for us, where the relay is, base).
    """
    own = _suited(hosts)
    found = _ranked(CandidateKind.HOST, [(address, address, None) for address in own])
    found += _ranked(
        CandidateKind.SERVER_REFLEXIVE,
        [
            (address, base if base is not None else _first(own, address), None)
            for address, base in reflexive
            if _possible(address)
        ],
    )
    found += _ranked(
        CandidateKind.RELAYED,
        [(address, base, via) for address, via, base in relayed if _possible(address)],
    )
    return _without_redundant(found)


def _suited(hosts: Iterable[Address]) -> list[Address]:
    """Those that mean something elsewhere; loopback only if there is nothing else (§5.1.1.1)."""
    possible = [host for host in hosts if _possible(host) and announceable(host[0])]
    return [host for host in possible if not is_loopback(host[0])] or possible


def _possible(address: Address) -> bool:
    ip, port = address
    return 0 < port < 2**16 and one_host(ip) and not _is_mapped(ip)


@lru_cache(maxsize=_REMEMBERED)
def _is_mapped(ip: str) -> bool:
    found = ipaddress.ip_address(ip)
    return isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None


def _first(own: Sequence[Address], like: Address) -> Address | None:
    if like in own:
        return like
    return next((host for host in own if is_ipv6(host) is is_ipv6(like)), None)


def _ranked(
    kind: CandidateKind, found: Sequence[tuple[Address, Address | None, Address | None]]
) -> list[Candidate]:
    """With priorities: in the order given, but IPv6 and IPv4 in turns (RFC 8421 §4)."""
    six = [one for one in found if is_ipv6(one[0])]
    four = [one for one in found if not is_ipv6(one[0])]
    turns: list[tuple[Address, Address | None, Address | None]] = []
    for i in range(max(len(six), len(four))):
        turns += six[i : i + 1] + four[i : i + 1]
    return [
        Candidate(address, kind, priority(kind, max(0, _LOCAL_MAX - i)), base, via)
        for i, (address, base, via) in enumerate(turns)
    ]


def _without_redundant(found: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Of several with the same address and base the one with the highest priority (§5.1.3)."""
    kept: dict[tuple[Address, Address | None, Address | None], Candidate] = {}
    for candidate in sorted(found, key=lambda one: -one.priority):
        kept.setdefault((candidate.address, candidate.base, candidate.via), candidate)
    return tuple(kept.values())


def fits(size: int) -> int:
    """How many locators of ``to_locators`` fit into an ENCRYPTED parameter of ``size`` bytes."""
    clear = max(0, (size - _SEALED) // _BLOCK * _BLOCK - 1) // 8 * 8  # at least a byte of padding
    return max(0, clear - 4) // _LOCATOR_LENGTH


def to_locators(
    candidates: Iterable[Candidate], spi: int, limit: int, relays: Iterable[Address] = ()
) -> tuple[Locator, ...]:
    """The locators that tell a peer of our candidates and control relays (RFC 9028 §5.7).

    Args:
        candidates: of ours.
        spi: under which we expect ESP.
        limit: locators at most; the best of each kind comes before the others.
        relays: our control relays, for signaling only (§4.5).
    """
    signaling = [
        Locator(LocatorType.TRANSPORT_ADDRESS, ip, port, spi, traffic=_SIGNALING)
        for ip, port in dict.fromkeys(relays)
    ][: min(limit, RELAYS_MAX)]
    told: dict[Address, Candidate] = {}
    for candidate in sorted(candidates, key=lambda one: -one.priority):
        told.setdefault(candidate.address, candidate)
    best = {candidate.kind: candidate for candidate in reversed(told.values())}
    wanted = sorted(told.values(), key=lambda one: one is not best[one.kind])
    chosen = sorted(wanted[: max(0, limit - len(signaling))], key=lambda one: -one.priority)
    return tuple(signaling) + tuple(
        Locator(
            LocatorType.TRANSPORT_ADDRESS,
            *candidate.address,
            spi,
            kind=candidate.kind,
            priority=candidate.priority,
        )
        for candidate in chosen
    )


def from_locators(
    locators: Iterable[Locator], source: Address | None
) -> tuple[tuple[Candidate, ...], tuple[Address, ...]]:
    """A peer's candidates, at most 16, and its control relays, at most 4, never to be checked.

    What is of no use is left out: addresses of this machine (unless the peer is on it, too), of
    groups and of nobody, HITs, protocols and kinds that we don't know.

    Args:
        locators: of the peer's LOCATOR_SET.
        source: where it came from; None if that says nothing.
    """
    here = source is not None and is_loopback(source[0])
    found: list[Candidate] = []
    relays: dict[Address, None] = {}
    for locator in locators:
        if locator.type != LocatorType.TRANSPORT_ADDRESS or locator.protocol != _UDP:
            continue
        address = locator.ip, locator.port
        if not _possible(address) or (is_loopback(locator.ip) and not here):
            continue
        if locator.traffic == _SIGNALING:
            relays[address] = None
        elif locator.traffic in {_BOTH, _DATA} and locator.kind in _KINDS:
            rank = min(max(locator.priority, 1), _PRIORITY_MAX)
            found.append(Candidate(address, CandidateKind(locator.kind), rank))
    return _without_redundant(found)[:REMOTE_MAX], tuple(relays)[:RELAYS_MAX]


_KINDS: Final = frozenset(CandidateKind)


def is_ipv6(address: Address) -> bool:
    """Which family an address is of."""
    return ":" in address[0]


@lru_cache(maxsize=_REMEMBERED)
def is_loopback(ip: str) -> bool:
    """Whether an IP address is of this machine only."""
    return ipaddress.ip_address(ip).is_loopback


def mapped_to(candidates: Iterable[Candidate], address: Address, like: Candidate) -> Candidate:
    """Which of ours the peer saw when a check left from where ``like`` is (RFC 8445 §7.2.5.3.1).

    Args:
        candidates: all of ours.
        address: in the answer's MAPPED_ADDRESS.
        like: that the check left from.
    """
    for candidate in candidates:
        if candidate.address == address and candidate.via == like.via:
            return candidate
    return replace(
        like,
        address=address,
        kind=CandidateKind.PEER_REFLEXIVE,
        priority=like.reflexive_priority,
    )
