"""NAT Port Mapping Protocol: what came before PCP, at the same ports (RFC 6886)."""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hipctl.errors import MalformedPacket

VERSION: Final = 0
ATTEMPTS: Final = 9  # §3.1
FIRST_WAIT: Final = 0.25  # seconds, doubled with every attempt (§3.1)

_EXTERNAL_ADDRESS, _MAP_UDP, _RESPONSE = 0, 1, 128
_HEADER: Final = struct.Struct("!BBHI")  # version, opcode, result, epoch
_MAPPED: Final = struct.Struct("!HHI")  # internal port, external port, lifetime


class Result(IntEnum):
    """§3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


def address_request() -> bytes:
    """Asks for the external address (§3.2)."""
    return bytes((VERSION, _EXTERNAL_ADDRESS))


def map_request(port: int, external: int, lifetime: int) -> bytes:
    """Asks for a mapping of a UDP port, renews it, or with lifetime 0 deletes it (§3.3, §3.4).

    Args:
        port: ours.
        external: what we would like, or had before; 0 when deleting.
        lifetime: seconds.
    """
    return struct.pack("!BBxxHHI", VERSION, _MAP_UDP, port, external, lifetime)


@dataclass(frozen=True, slots=True)
class AddressResponse:
    """The external address (§3.2); also announced when it or the router's state has changed.

    Attributes:
        result: 0, or a Result that may be unknown to us.
        epoch: seconds since the router lost its state.
        ip: undefined where ``result`` isn't 0.
    """

    result: int
    epoch: int
    ip: str


@dataclass(frozen=True, slots=True)
class MapResponse:
    """A mapping (§3.3).

    Attributes:
        result: 0, or a Result that may be unknown to us.
        epoch: seconds since the router lost its state.
        port: ours, as asked.
        external: the port that others see.
        lifetime: seconds.
    """

    result: int
    epoch: int
    port: int
    external: int
    lifetime: int


def parse(data: bytes) -> AddressResponse | MapResponse:
    """Read what a router says.

    Raises:
        MalformedPacket: it is too short, or no answer that we could have asked for.
    """
    if len(data) < _HEADER.size:
        raise MalformedPacket("NAT-PMP response cut short", len(data))
    version, opcode, result, epoch = _HEADER.unpack_from(data)
    if version != VERSION:
        raise MalformedPacket("no NAT-PMP response")
    if opcode == _RESPONSE + _EXTERNAL_ADDRESS:
        if len(data) < _HEADER.size + 4:
            raise MalformedPacket("NAT-PMP address cut short", len(data))
        packed = data[_HEADER.size : _HEADER.size + 4]
        return AddressResponse(result, epoch, str(ipaddress.IPv4Address(packed)))
    if opcode == _RESPONSE + _MAP_UDP:
        if len(data) < _HEADER.size + _MAPPED.size:
            raise MalformedPacket("NAT-PMP mapping cut short", len(data))
        return MapResponse(result, epoch, *_MAPPED.unpack_from(data, _HEADER.size))
    raise MalformedPacket("no NAT-PMP response that we asked for", 1)


def plausible(before: int, since: float, epoch: int) -> bool:
    """Whether a router has kept its state from one packet to the next (§3.6).

    Args:
        before: the epoch that its last packet told.
        since: seconds from that packet to this one.
        epoch: what this one tells.
    """
    return epoch >= before + since * 7 / 8 - 2
