"""What rides inside ESP between two HITs: UDP, IPv6 fragments, ICMPv6 echo.

BEET leaves the inner IPv6 header off the wire, yet checksums cover it as if it were there: the
pseudo-header of RFC 8200 §8.1 with the two HITs. Its part that never changes is summed once per
association (``pseudo_header``; the same number in both directions) and handed in.

One's-complement sums are taken as ``number % 0xffff``: 2^16 is 1 modulo 2^16 - 1, so a big-endian
number is congruent to the sum of its 16-bit words.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit

UDP: Final = 17
FRAGMENT: Final = 44  # RFC 8200 §4.5
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59  # a dummy packet, RFC 4303 §2.6

ECHO_REQUEST: Final = 128  # RFC 4443 §4.1
ECHO_REPLY: Final = 129  # RFC 4443 §4.2

UDP_HEADER: Final = 8
LONGEST_DATAGRAM: Final = 65_535 - UDP_HEADER  # an IPv6 payload that is no jumbogram

OPEN_PER_OWNER: Final = 8  # ours, as all below: datagrams being put together per association;
# one more pushes out the oldest: most that stay open have lost a fragment and won't end
OPEN_BYTES: Final = 8 * 2**20  # and for all associations together
REASSEMBLY_SECONDS: Final = 10.0  # RFC 8200 §4.5 allows 60

_UDP = Struct(">HHHH")
_ECHO = Struct(">BBHHH")
_FRAGMENT = Struct(">BxHI")
_LONGEST_PAYLOAD: Final = 65_535


@lru_cache(maxsize=8_192)  # every datagram asks
def pseudo_header(one: Hit, other: Hit) -> int:
    """The sum of both HITs, modulo 0xffff: equal in both directions."""
    return (int.from_bytes(one, "big") + int.from_bytes(other, "big")) % 0xFFFF


def udp(pseudo: int, source: int, destination: int, data: bytes) -> bytes:
    """Build a UDP datagram with its checksum.

    Args:
        pseudo: of ``pseudo_header``.
        source: port.
        destination: port.
        data: at most 65,527 bytes.
    """
    length = len(data) + UDP_HEADER
    total = int.from_bytes(data, "big")
    if length & 1:
        total <<= 8
    # length counts twice: in the pseudo-header and in UDP's own
    checksum = 0xFFFF - (total + pseudo + UDP + 2 * length + source + destination) % 0xFFFF
    return _UDP.pack(source, destination, length, checksum) + data


def parse_udp(pseudo: int, payload: bytes) -> tuple[int, int, bytes]:
    """Check and take apart a UDP datagram.

    Returns:
        Source port, destination port, data.

    Raises:
        MalformedPacket: too short for what its header says.
        Rejected: the checksum is wrong or missing (RFC 8200 §8.1 demands one), or the source
            port is 0: no Endpoint has that, and nobody could answer.
    """
    if len(payload) < UDP_HEADER:
        raise MalformedPacket("UDP header cut short", len(payload))
    source, destination, length, checksum = _UDP.unpack_from(payload)
    if length != len(payload):
        if not UDP_HEADER <= length < len(payload):
            raise MalformedPacket("bad UDP length", 4)
        payload = payload[:length]  # what follows is padding (RFC 4303 §2.7)
    total = int.from_bytes(payload, "big")
    if length & 1:
        total <<= 8
    if (total + pseudo + UDP + length) % 0xFFFF or not checksum:
        raise Rejected("wrong UDP checksum")
    if not source:
        raise Rejected("UDP source port 0")
    return source, destination, payload[UDP_HEADER:]


@dataclass(frozen=True, slots=True)
class Echo:
    """An ICMPv6 echo request or reply (RFC 4443 §4).

    Attributes:
        type: ``ECHO_REQUEST`` or ``ECHO_REPLY``.
        identifier: 16 bits.
        sequence: 16 bits.
        data: comes back unchanged.
    """

    type: int
    identifier: int
    sequence: int
    data: bytes

    def encode(self, pseudo: int) -> bytes:
        """Build the message with its checksum."""
        head = _ECHO.pack(self.type, 0, 0, self.identifier, self.sequence)
        checksum = 0xFFFF - _icmp_sum(pseudo, head + self.data)
        head = _ECHO.pack(self.type, 0, checksum, self.identifier, self.sequence)
        return head + self.data


def parse_echo(pseudo: int, payload: bytes) -> Echo:
    """Read an ICMPv6 message that should be an echo.

    Raises:
        MalformedPacket: cut short.
        Rejected: wrong checksum, or another ICMPv6 type.
    """
    if len(payload) < _ECHO.size:
        raise MalformedPacket("ICMPv6 message cut short", len(payload))
    if _icmp_sum(pseudo, payload):
        raise Rejected("wrong ICMPv6 checksum")
    kind, code, _, identifier, sequence = _ECHO.unpack_from(payload)
    if kind not in (ECHO_REQUEST, ECHO_REPLY) or code:
        raise Rejected("ICMPv6 type not answered")
    return Echo(kind, identifier, sequence, payload[_ECHO.size :])


def _icmp_sum(pseudo: int, message: bytes) -> int:
    total = int.from_bytes(message, "big")
    if len(message) & 1:
        total <<= 8
    return (total + pseudo + ICMPV6 + len(message)) % 0xFFFF


def fragment(next_header: int, payload: bytes, limit: int, identification: int) -> list[bytes]:
    """Cut a payload into IPv6 fragments (RFC 8200 §4.5), next header ``FRAGMENT``.

    Args:
        next_header: of the payload.
        payload: at most 65,535 bytes.
        limit: bytes that a fragment with its header may have, at least 16.
        identification: 32 bits, another one for every payload of the association.
    """
    step = (limit - _FRAGMENT.size) // 8 * 8
    pieces = []
    for start in range(0, len(payload), step):
        more = start + step < len(payload)
        head = _FRAGMENT.pack(next_header, start | more, identification)
        pieces.append(head + payload[start : start + step])
    return pieces


class _Open:
    """One datagram being put together; offsets in units of 8 bytes."""

    __slots__ = ("data", "deadline", "have", "next_header", "units")

    def __init__(self, deadline: float) -> None:
        self.data = bytearray()
        self.have = 0  # bit i: unit i has come
        self.units: int | None = None  # known once the last fragment has come
        self.next_header = NO_NEXT_HEADER
        self.deadline = deadline


class Reassembly:
    """Puts fragments together, for all associations of a host, within fixed bounds.

    Attributes:
        bytes_held: at most ``OPEN_BYTES``; when full the oldest datagram is given up.
        given_up: datagrams that never became whole.
    """

    def __init__(self) -> None:
        self.bytes_held = 0
        self.given_up = 0
        self._open: OrderedDict[tuple[Hashable, int], _Open] = OrderedDict()
        self._per_owner: dict[Hashable, dict[int, None]] = {}  # identifications, oldest first

    def add(self, owner: Hashable, payload: bytes, now: float) -> tuple[int, bytes] | None:
        """Take one fragment of an association.

        Returns:
            Next header and payload once a datagram is whole, else None.

        Raises:
            MalformedPacket: impossible length or offset.
            Rejected: it overlaps another, so the whole datagram is dropped (RFC 5722).
        """
        self._expire(now)
        if len(payload) <= _FRAGMENT.size:
            raise MalformedPacket("fragment cut short", len(payload))
        next_header, field, identification = _FRAGMENT.unpack_from(payload)
        start, more = field & 0xFFF8, field & 1
        body = payload[_FRAGMENT.size :]
        end = start + len(body)
        if end > _LONGEST_PAYLOAD or (more and len(body) % 8):
            raise MalformedPacket("impossible fragment", 2)
        if not start and not more:
            return next_header, body  # an atomic fragment (RFC 6946)
        key = (owner, identification)
        part = self._open.get(key) or self._begin(key, now)
        first, last = start // 8, -(-end // 8)
        mine = (1 << last) - (1 << first)
        beyond_end = part.units is not None and last > part.units
        if part.have & mine or beyond_end or (not more and part.have >> last):
            self._give_up(key)
            raise Rejected("fragments overlap")
        part.have |= mine
        if len(part.data) < end:
            self.bytes_held += end - len(part.data)
            part.data.extend(bytes(end - len(part.data)))
        part.data[start:end] = body
        if not start:
            part.next_header = next_header
        if not more:
            part.units = last
        if part.units is not None and part.have == (1 << part.units) - 1:
            self._remove(key)
            return part.next_header, bytes(part.data)
        self._shrink()
        return None

    def forget(self, owner: Hashable) -> None:
        """Drop what is open for an association that has ended."""
        for identification in list(self._per_owner.get(owner, ())):
            self._remove((owner, identification))

    def _begin(self, key: tuple[Hashable, int], now: float) -> _Open:
        owner, identification = key
        opened = self._per_owner.get(owner, ())
        if len(opened) >= OPEN_PER_OWNER:
            self._give_up((owner, next(iter(opened))))
        self._per_owner.setdefault(owner, {})[identification] = None
        part = self._open[key] = _Open(now + REASSEMBLY_SECONDS)
        return part

    def _remove(self, key: tuple[Hashable, int]) -> None:
        owner, identification = key
        self.bytes_held -= len(self._open.pop(key).data)
        opened = self._per_owner[owner]
        del opened[identification]
        if not opened:
            del self._per_owner[owner]

    def _give_up(self, key: tuple[Hashable, int]) -> None:
        self.given_up += 1
        self._remove(key)

    def _expire(self, now: float) -> None:
        while self._open:
            key, part = next(iter(self._open.items()))
            if part.deadline > now:
                return
            self._give_up(key)

    def _shrink(self) -> None:
        while self.bytes_held > OPEN_BYTES:
            self._give_up(next(iter(self._open)))
