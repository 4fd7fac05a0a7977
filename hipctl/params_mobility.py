"""LOCATOR_SET: at which addresses a host may be reached (RFC 8046 §4, RFC 9028 §5.7)."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Self

from hipctl.constants import LocatorType, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.wire import Reader

UNBOUNDED: Final = 0xFFFFFFFF  # a Locator Lifetime that never ends, RFC 8046 §5.1
_LENGTHS: Final[dict[int, int]] = {  # bytes of the Locator field
    LocatorType.ADDRESS: 16,
    LocatorType.SPI_ADDRESS: 20,
    LocatorType.TRANSPORT_ADDRESS: 28,
}
_UDP: Final = 17
_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Locator:
    """One Locator sub-parameter.

    Attributes:
        type: Locator Type; an unknown one has nothing but ``raw``.
        ip: canonical text; an IPv4-mapped address as IPv4.
        port: of the transport address; 0 where the type has none.
        spi: under which the sender expects ESP there; 0 where the type has none.
        lifetime: seconds, never 0.
        preferred: the P bit.
        traffic: 0 for signaling and data, 1 for signaling, 2 for data (RFC 8046 §4.1).
        protocol: of a transport address; 17, UDP, is the only one defined.
        kind: of a transport address: 0 host, 1 server reflexive, 3 relayed.
        priority: of a transport address, as in RFC 8445.
        raw: the Locator field of an unknown type.
    """

    type: int
    ip: str = ""
    port: int = 0
    spi: int = 0
    lifetime: int = UNBOUNDED
    preferred: bool = False
    traffic: int = 0
    protocol: int = _UDP
    kind: int = 0
    priority: int = 0
    raw: bytes = b""

    def encode(self) -> bytes:
        """The sub-parameter's bytes."""
        locator = self._locator()
        head = bytes((self.traffic, self.type, len(locator) // _WORD, self.preferred))
        return head + self.lifetime.to_bytes(4, "big") + locator

    def _locator(self) -> bytes:
        if self.type not in _LENGTHS:
            return self.raw
        packed = pack_ip(self.ip)
        if self.type == LocatorType.ADDRESS:
            return packed
        spi = self.spi.to_bytes(4, "big")
        if self.type == LocatorType.SPI_ADDRESS:
            return spi + packed
        transport = self.port.to_bytes(2, "big") + bytes((self.protocol, self.kind))
        return transport + self.priority.to_bytes(4, "big") + spi + packed


def _parse(reader: Reader) -> Locator:
    traffic, kind, words, flags = reader.uint(1), reader.uint(1), reader.uint(1), reader.uint(1)
    lifetime = reader.uint(4)
    raw = reader.take(words * _WORD)
    if not lifetime:
        raise MalformedPacket("locator without lifetime")
    preferred = bool(flags & 1)
    length = _LENGTHS.get(kind)
    if length is None:
        return Locator(kind, "", 0, 0, lifetime, preferred, traffic, raw=raw)
    if length != len(raw):
        raise MalformedPacket("locator of wrong length")
    ip = unpack_ip(raw[-16:])
    if kind == LocatorType.ADDRESS:
        return Locator(kind, ip, 0, 0, lifetime, preferred, traffic)
    if kind == LocatorType.SPI_ADDRESS:
        spi = int.from_bytes(raw[:4], "big")
        return Locator(kind, ip, 0, spi, lifetime, preferred, traffic)
    return Locator(
        kind,
        ip,
        int.from_bytes(raw[:2], "big"),
        int.from_bytes(raw[8:12], "big"),
        lifetime,
        preferred,
        traffic,
        raw[2],
        raw[3],
        int.from_bytes(raw[4:8], "big"),
    )


@lru_cache(maxsize=1_024)  # the same few, in every LOCATOR_SET
def pack_ip(ip: str) -> bytes:
    """16 bytes of IPv6 address; an IPv4 address is mapped."""
    packed = ipaddress.ip_address(ip).packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def unpack_ip(packed: bytes) -> str:
    """Canonical text of 16 bytes; a mapped IPv4 address becomes one."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True, slots=True)
class LocatorSet:
    """LOCATOR_SET: a complete listing, which replaces what was said before."""

    TYPE: ClassVar = ParameterType.LOCATOR_SET
    locators: tuple[Locator, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(locator.encode() for locator in self.locators)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = []
        while reader.left:
            found.append(_parse(reader))
        return cls(tuple(found))
