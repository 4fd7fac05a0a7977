"""HIP packets: the header, the order of parameters, and which bytes MACs and signatures cover."""

import struct
from collections.abc import Container, Iterable
from typing import Final, TypeVar

from hipctl.constants import (
    HEADER_LENGTH,
    HIP_VERSION,
    NO_NEXT_HEADER,
    PACKET_MAX,
    PacketType,
    ParameterType,
)
from hipctl.errors import MalformedPacket
from hipctl.identity import NULL_HIT, Hit
from hipctl.params import PARAMETERS, Parameter, Unknown, encode
from hipctl.wire import Reader, checksum, frame, padding

P = TypeVar("P", bound=Parameter)

_TYPES: Final = {packet_type.value: packet_type for packet_type in PacketType}
_TLV: Final = struct.Struct("!HH")
_TYPE_BITS: Final = 0x7F  # the bit before them, as the last one of RES., is not to be looked at
_RECEIVER: Final = slice(24, 40)
_PUZZLE_ZEROED_FROM: Final = 6  # Type, Length, K and Lifetime are signed; Opaque and #I are not


class Packet:
    """One received HIP packet: every TLV found, each parsed only when somebody asks for it.

    Attributes:
        type: packet type.
        controls: the Controls field.
        sender: the sender's HIT, claimed.
        receiver: the receiver's HIT; in I1 also NULL_HIT.
        checksum: as received; zero over UDP.
        raw: all its bytes, without what another Next Header than 59 announces behind them.
    """

    __slots__ = ("_found", "_parsed", "checksum", "controls", "raw", "receiver", "sender", "type")

    def __init__(self, raw: bytes) -> None:
        """Walk the packet.

        Raises:
            MalformedPacket: the header, a TLV or their order is not as RFC 7401 §5.1 and §5.2.1
                demand, or the packet type is unknown.
        """
        length = len(raw)
        if length < HEADER_LENGTH:
            raise MalformedPacket("packet shorter than its header", length)
        announced = (raw[1] + 1) * 8
        if raw[0] != NO_NEXT_HEADER and length > announced:
            raw, length = raw[:announced], announced  # what follows isn't ours (RFC 7401 §5.1)
        if length != announced:
            raise MalformedPacket("wrong Header Length", 1)
        if raw[3] >> 4 != HIP_VERSION:
            raise MalformedPacket("not HIP version 2", 2)
        known = _TYPES.get(raw[2] & _TYPE_BITS)
        if known is None:
            raise MalformedPacket("unknown packet type", 2)
        self.raw = raw
        self.type = known
        self.checksum = raw[4] << 8 | raw[5]
        self.controls = raw[6] << 8 | raw[7]
        try:
            self.sender = Hit.check(raw[8:24])
            null = known is PacketType.I1 and raw[_RECEIVER] == NULL_HIT  # RFC 7401 §4.1.8
            self.receiver = NULL_HIT if null else Hit.check(raw[_RECEIVER])
        except ValueError:
            raise MalformedPacket("no HIT in header", 8) from None
        self._found = _walk(raw)
        self._parsed: dict[int, Parameter] = {}

    def get(self, wanted: type[P]) -> P | None:
        """Return the first parameter of this class, or None if there is none.

        Raises:
            MalformedPacket: it is there but not well formed.
        """
        code: int = wanted.TYPE
        parsed = self._parsed.get(code)
        if parsed is None:
            places = self._found.get(code)
            if places is None:
                return None
            start, length = places[0]
            parsed = wanted.parse(Reader(self.raw, start + 4, start + 4 + length))
            self._parsed[code] = parsed
        return parsed  # type: ignore[return-value]

    def need(self, wanted: type[P]) -> P:
        """Like ``get``, for parameters that must be there.

        Raises:
            MalformedPacket: it is missing or not well formed.
        """
        found = self.get(wanted)
        if found is None:
            raise MalformedPacket("missing " + wanted.TYPE.name, len(self.raw))
        return found

    def every(self, wanted: type[P]) -> list[P]:
        """Return all parameters of this class, which may stand in a packet several times.

        Raises:
            MalformedPacket: one is not well formed.
        """
        return [
            wanted.parse(Reader(self.raw, start + 4, start + 4 + length))
            for start, length in self._found.get(wanted.TYPE, ())
        ]

    def parameters(self) -> list[Parameter | Unknown]:
        """Parse everything, in order.

        Raises:
            MalformedPacket: something is not well formed.
        """
        result: list[Parameter | Unknown] = []
        for code, places in self._found.items():
            known = PARAMETERS.get(code)
            for start, length in places:
                if known:
                    result.append(known.parse(Reader(self.raw, start + 4, start + 4 + length)))
                else:
                    result.append(Unknown(code, self.raw[start + 4 : start + 4 + length]))
        return result

    def has(self, wanted: type[Parameter]) -> bool:
        """Whether there is a parameter of this class, well formed or not."""
        return wanted.TYPE in self._found

    def changed(self, added: Iterable[Parameter] = (), without: Container[int] = ()) -> bytes:
        """The packet as it leaves a host on its way (RFC 8004 §3.3, RFC 9028 §4.5).

        Args:
            added: each is put behind what has its type.
            without: types of parameters that are left out.

        Raises:
            ValueError: it gets longer than 2,048 bytes.
        """
        parts = [
            (code, self.raw[start : start + 4 + length + padding(length)])
            for code, places in self._found.items()
            if code not in without
            for start, length in places
        ]
        parts += [
            (parameter.TYPE, frame(parameter.TYPE, parameter.content())) for parameter in added
        ]
        parts.sort(key=lambda part: part[0])
        return finish(self.raw[:HEADER_LENGTH] + b"".join(tlv for _, tlv in parts))

    def unknown_critical(self) -> int | None:
        """The type of a critical parameter that we don't know, which forbids to go on."""
        for code in self._found:
            if code & 1 and code not in PARAMETERS:
                return code
        return None

    def tlv(self, wanted: type[Parameter]) -> bytes:
        """The first parameter of this class as received, with header and padding.

        Raises:
            MalformedPacket: it is missing.
        """
        places = self._found.get(wanted.TYPE)
        if places is None:
            raise MalformedPacket("missing " + wanted.TYPE.name, len(self.raw))
        start, length = places[0]
        return self.raw[start : start + 4 + length + padding(length)]

    def covered(self, by: type[Parameter], appendix: bytes = b"") -> bytes:
        """The bytes that this packet's MAC or signature is about (RFC 7401 §6.4).

        Args:
            by: HipMac, HipMac2 or HipSignature.
            appendix: for HipMac2 the HOST_ID parameter of the Responder, as it was in R1.

        Raises:
            MalformedPacket: the packet has no such parameter.
        """
        places = self._found.get(by.TYPE)
        if places is None:
            raise MalformedPacket("missing " + by.TYPE.name, len(self.raw))
        return cover(self.raw[: places[0][0]], appendix)

    def covered_by_signature_2(self) -> bytes:
        """The bytes under HIP_SIGNATURE_2: no receiver HIT, Opaque nor #I (RFC 7401 §6.4.2).

        Raises:
            MalformedPacket: the packet has no HIP_SIGNATURE_2 or no PUZZLE.
        """
        places = self._found.get(ParameterType.HIP_SIGNATURE_2)
        puzzle = self._found.get(ParameterType.PUZZLE)
        if places is None or puzzle is None:
            raise MalformedPacket("missing PUZZLE or HIP_SIGNATURE_2", len(self.raw))
        start, length = puzzle[0]
        data = bytearray(self.raw[: places[0][0]])
        data[_RECEIVER] = bytes(16)
        zeroed_from, zeroed_to = start + _PUZZLE_ZEROED_FROM, start + 4 + length
        data[zeroed_from:zeroed_to] = bytes(max(zeroed_to - zeroed_from, 0))
        return cover(bytes(data))

    def checksum_fits(self, source: bytes, destination: bytes) -> bool:
        """Whether the checksum is right between these packed IP addresses (raw IP only)."""
        return self.checksum == checksum(self.raw, source, destination)


def _walk(raw: bytes) -> dict[int, list[tuple[int, int]]]:
    """Find every TLV: type -> [(offset of its header, content length)], in order."""
    found: dict[int, list[tuple[int, int]]] = {}
    at, end, last = HEADER_LENGTH, len(raw), 0
    while at < end:  # the length is a multiple of 8, so that 4 bytes of header are there
        code, length = _TLV.unpack_from(raw, at)
        if code < last:
            raise MalformedPacket("parameters out of order", at)
        after = at + 11 + length - (length + 3) % 8
        if after > end:
            raise MalformedPacket("parameter cut short", at)
        if code == last and code in found:
            found[code].append((at, length))
        else:
            found[code] = [(at, length)]
        at, last = after, code
    return found


def cover(data: bytes, appendix: bytes = b"") -> bytes:
    """What is MACed or signed of a packet that ends before the MAC or signature.

    Args:
        data: header and parameters so far; its length and checksum fields are recomputed.
        appendix: see ``Packet.covered``.
    """
    units = (len(data) + len(appendix)) // 8 - 1
    return b"".join((data[:1], bytes((units,)), data[2:4], b"\0\0", data[6:], appendix))


def header(packet_type: int, sender: bytes, receiver: bytes, controls: int = 0) -> bytes:
    """Make the 40 bytes of a header with zero Header Length and checksum."""
    fixed = bytes((NO_NEXT_HEADER, 0, packet_type, HIP_VERSION << 4 | 1, 0, 0))
    return fixed + controls.to_bytes(2, "big") + sender + receiver


def finish(data: bytes) -> bytes:
    """Write the Header Length of a packet that is complete.

    Raises:
        ValueError: it is longer than 2,048 bytes.
    """
    if len(data) > PACKET_MAX:
        raise ValueError(f"a HIP packet ends at {PACKET_MAX} bytes, this has {len(data)}")
    return b"".join((data[:1], bytes((len(data) // 8 - 1,)), data[2:]))


def build(
    packet_type: int,
    sender: bytes,
    receiver: bytes,
    parameters: Iterable[Parameter | Unknown],
    controls: int = 0,
) -> bytes:
    """Encode a whole packet, checksum zero.

    Raises:
        ValueError: it is longer than 2,048 bytes.
    """
    return finish(header(packet_type, sender, receiver, controls) + encode(parameters))


def with_checksum(packet: bytes, source: bytes, destination: bytes) -> bytes:
    """Return the packet as it goes over raw IP between these packed addresses."""
    value = checksum(packet, source, destination)
    return packet[:4] + value.to_bytes(2, "big") + packet[6:]
