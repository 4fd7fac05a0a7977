"""Where a peer may be reached: the state of each of its addresses, and the credit it has earned.

RFC 8046 §5.1–§5.6 and RFC 8047 §5. Times are monotonic seconds.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from hipctl import crypto, params
from hipctl.actions import Address
from hipctl.constants import (
    CREDIT_AGING_FACTOR,
    CREDIT_AGING_INTERVAL,
    LOCATORS_MAX,
    LocatorType,
)
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.packet import Packet
from hipctl.params_mobility import UNBOUNDED, Locator

_SIGNALING: Final = 1  # Traffic Type
_UDP: Final = 17
_PROBE_LENGTH: Final = 256  # bytes of one that asks who is at an address, at most
_EXCHANGED: Final = 512  # bytes of I1 and I2, at least
_EARNED_MAX: Final = 4_096  # bytes of UPDATEs that are remembered
_BROADCAST: Final = "255.255.255.255"
_ORCHIDS: Final = ipaddress.IPv6Network("2001:20::/28")
_REMEMBERED: Final = 1_024  # addresses: the same few are judged with every look


class Status(Enum):
    """What we know about an address (RFC 8046 §5.1)."""

    UNVERIFIED = "nobody has answered from there yet"
    ACTIVE = "somebody who holds the keys has answered from there"
    DEPRECATED = "its lifetime has ended, or the peer lists it no more"


@dataclass(slots=True)
class Known:
    """One address of the peer.

    Attributes:
        address: IP address and UDP port.
        status: see Status.
        listed: it stood in the peer's last LOCATOR_SET, or was part of the base exchange.
        expires: when it becomes DEPRECATED; infinity if its lifetime is unbounded.
        verified: it has been ACTIVE: nobody is flooded when we send there.
        spoken: the peer's last LOCATOR_SET came from there.
    """

    address: Address
    status: Status
    listed: bool
    expires: float = float("inf")
    verified: bool = False
    spoken: bool = False


class PeerLocators:
    """All addresses of one peer, at most 8.

    Attributes:
        preferred: where the peer would like to be reached, or None.
        told: the peer has sent a LOCATOR_SET.
        spoke_from: where its newest UPDATE came from.
    """

    __slots__ = ("_known", "preferred", "spoke_from", "told")

    def __init__(self, address: Address) -> None:
        """The base exchange's address is ACTIVE, preferred and of unbounded lifetime."""
        self._known = {address: Known(address, Status.ACTIVE, True, verified=True)}
        self.preferred: Address | None = address
        self.spoke_from = address
        self.told = False

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known.values())

    def get(self, address: Address) -> Known | None:
        """What we know about ``address``."""
        return self._known.get(address)

    def replace(
        self, listed: Sequence[Locator], port: int, source: Address | None, now: float
    ) -> None:
        """Take a LOCATOR_SET that lists everything (RFC 8046 §5.3).

        The address that it came from counts as listed, for behind a NAT the peer doesn't know
        what that is.

        Args:
            listed: locators of known types.
            port: UDP port of those whose type names none.
            source: where the packet came from; None if that says nothing.
            now: monotonic seconds.
        """
        wanted: dict[Address, float] = {}
        preferred: Address | None = None
        for locator in listed:
            address = usable(locator, port, source)
            if address is None or len(wanted) >= LOCATORS_MAX - 1:
                continue
            unbounded = locator.lifetime == UNBOUNDED
            wanted[address] = float("inf") if unbounded else now + locator.lifetime
            if locator.preferred and preferred is None:
                preferred = address
        for known in self._known.values():
            known.listed, known.spoken = known.address in wanted, False
            if not known.listed and known.address != source:
                known.status = Status.DEPRECATED
        for address, expires in wanted.items():
            self._add(address, expires, listed=True)
        self.preferred, self.told = preferred, True
        if source is not None:
            self.candidate(source)
            self._known[source].spoken = True

    def candidate(self, address: Address) -> None:
        """Add an address of which the peer has said nothing: where a packet of its came from."""
        known = self._known.get(address)
        if known is None or known.status is Status.DEPRECATED:
            self._add(address, float("inf"), listed=False)

    def _add(self, address: Address, expires: float, *, listed: bool) -> None:
        known = self._known.pop(address, None)
        if known is None:
            known = Known(address, Status.UNVERIFIED, listed)
        elif known.status is Status.DEPRECATED:
            known.status, known.verified = Status.UNVERIFIED, False
        known.listed, known.expires = listed, expires
        self._known[address] = known
        while len(self._known) > LOCATORS_MAX:
            worst = min(self._known.values(), key=lambda k: (_RANK[k.status], k.listed))
            del self._known[worst.address]

    def verify(self, address: Address) -> None:
        """The peer has answered from there; it stays DEPRECATED if it has become that since."""
        known = self._known.get(address)
        if known is not None:
            known.verified = True
            if known.status is Status.UNVERIFIED:
                known.status = Status.ACTIVE
            if not self.told:  # it says nothing about where it is, so it is where it speaks from
                self.preferred = address

    def doubt(self, address: Address) -> None:
        """It has not answered where another one has: verify it again before it is used (§5.1)."""
        known = self._known.get(address)
        if known is not None and known.status is Status.ACTIVE:
            known.status, known.verified = Status.UNVERIFIED, False

    def expire(self, now: float) -> bool:
        """Deprecate what has ended; True if anything has."""
        changed = False
        for known in self._known.values():
            if known.expires <= now and known.status is not Status.DEPRECATED:
                known.status, changed = Status.DEPRECATED, True
        return changed

    def next_expiry(self) -> float | None:
        """When the next lifetime ends, or None."""
        ends = [
            known.expires
            for known in self._known.values()
            if known.status is not Status.DEPRECATED and known.expires < float("inf")
        ]
        return min(ends, default=None)

    def ranked(self, current: Address) -> list[Known]:
        """All, the one to use first.

        ACTIVE before UNVERIFIED; then the preferred one, but if nobody has answered there, what
        the peer has spoken from is likelier to work: a NAT stands before it, of which it says
        nothing; then the one in use.
        """
        return sorted(
            self._known.values(),
            key=lambda k: (
                -_RANK[k.status],
                k.status is Status.UNVERIFIED and not k.spoken,
                k.address != self.preferred,
                k.address != self.spoke_from,
                k.address != current,
                not k.listed,
            ),
        )


_RANK: Final = {Status.DEPRECATED: 0, Status.UNVERIFIED: 1, Status.ACTIVE: 2}


def usable(locator: Locator, port: int, source: Address | None) -> Address | None:
    """The address that a locator names, if it is one of one host and for data (§5.3).

    Nor is it one of this machine, whose other services a peer elsewhere could have us call.

    Args:
        locator: of a known type.
        port: UDP port of one whose type names none.
        source: where it came from, if that is known.
    """
    if locator.traffic == _SIGNALING or locator.protocol != _UDP:
        return None
    if locator.type == LocatorType.TRANSPORT_ADDRESS:
        port = locator.port
        if not port:
            return None
    if _loopback(locator.ip) and (source is None or not _loopback(source[0])):
        return None
    return (locator.ip, port) if one_host(locator.ip) else None


@lru_cache(maxsize=_REMEMBERED)
def announceable(text: str) -> bool:
    """Whether an address of ours means something to a peer elsewhere (RFC 8047 §5.1)."""
    return one_host(text) and not ipaddress.ip_address(text).is_link_local


@lru_cache(maxsize=_REMEMBERED)
def one_host(text: str) -> bool:
    """Whether an IP address is that of one host; not so a group, nobody, and a HIT."""
    ip = ipaddress.ip_address(text)
    if ip.is_multicast or ip.is_unspecified or text == _BROADCAST:
        return False
    return ip not in _ORCHIDS


def _loopback(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback


def read_locator_set(packet: Packet, keys: Keys) -> tuple[params.Locator, ...] | None:
    """The LOCATOR_SET of an authentic packet, in clear or out of ENCRYPTED.

    Raises:
        MalformedPacket: it is not well formed.
        Rejected: ENCRYPTED cannot be read, or holds what must not be ignored.
    """
    clear = packet.get(params.LocatorSet)
    if clear is not None:
        return clear.locators
    encrypted = packet.get(params.Encrypted)
    if encrypted is None:
        return None
    inner = params.decode(crypto.decrypt(keys.encrypt_in, encrypted.ciphertext))
    if any(isinstance(found, params.Unknown) and found.critical for found in inner):
        raise Rejected("unknown critical parameter")
    sets = [found for found in inner if isinstance(found, params.LocatorSet)]
    return sets[0].locators if sets else None


class Earned:
    """How much of ours may go to addresses that a client has named and where nobody was heard.

    No more bytes than it sends us: else whoever registers could have us do its shouting, for these
    addresses may be anybody's (compare RFC 9000 §8.1).
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = _EXCHANGED

    def earn(self, size: int) -> None:
        """So many bytes of an UPDATE of the peer's have come."""
        self._bytes = min(self._bytes + size, _EARNED_MAX)

    def pay(self) -> bool:
        """Pay for one probe; False: there isn't enough."""
        if self._bytes < _PROBE_LENGTH:
            return False
        self._bytes -= _PROBE_LENGTH
        return True


class Credit:
    """How many bytes may go to an address that is not verified (RFC 8046 §5.6).

    A peer earns what we received from it, and what it has earned ages. Instead of counting every
    packet's size, we look at intervals and count each packet as if it were the shortest; both
    err on the careful side.
    """

    __slots__ = ("_bytes", "_counted", "_since")

    def __init__(self, now: float) -> None:
        self._bytes = 0.0
        self._counted = 0
        self._since = now

    def look(self, received: int, now: float) -> int:
        """Return the credit, given how many bytes ever came under the current inbound SA."""
        fresh = received - self._counted if received >= self._counted else received
        age = (now - self._since) / CREDIT_AGING_INTERVAL
        self._bytes = (self._bytes + fresh) * CREDIT_AGING_FACTOR**age
        self._counted, self._since = received, now
        return int(self._bytes)

    def spend(self, size: int) -> None:
        """So much went to an unverified address."""
        self._bytes = max(0.0, self._bytes - size)
