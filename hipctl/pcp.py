"""Port Control Protocol, version 2: what a client sends and reads for MAP and ANNOUNCE (RFC 6887).

An IPv4 address travels as ::ffff:a.b.c.d (§5).
"""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hipctl.errors import MalformedPacket
from hipctl.mapped import Address

VERSION: Final = 2
SERVER_PORT: Final = 5351  # §19.1, where requests go
CLIENT_PORT: Final = 5350  # §19.1, where restarts are announced, by multicast
NONCE_LENGTH: Final = 12  # §11.1
UDP: Final = 17

_LONGEST: Final = 1_100  # §7
_REQUEST: Final = struct.Struct("!BBxxI16s")  # version, opcode, lifetime, client
_RESPONSE: Final = struct.Struct("!BBxBII12x")  # version, R and opcode, result, lifetime, epoch
_MAP: Final = struct.Struct("!12sBxxxHH16s")  # nonce, protocol, internal port, external port, IP
_R: Final = 0x80


class Opcode(IntEnum):
    """§19.2."""

    ANNOUNCE = 0
    MAP = 1


class Result(IntEnum):
    """§7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Asks for a mapping of a UDP port, renews it, or with lifetime 0 deletes it (§11.1).

    Attributes:
        client: our IP address, from which this is sent.
        nonce: 12 bytes, random, the same for as long as the mapping is wanted.
        port: ours.
        lifetime: seconds.
        external: what we would like, or had before; None when deleting, or without a wish.
    """

    client: str
    nonce: bytes
    port: int
    lifetime: int
    external: Address | None = None

    def encode(self) -> bytes:
        """The packet."""
        anything = "::" if ":" in self.client else "0.0.0.0"  # noqa: S104
        ip, port = self.external or (anything, 0)
        return _REQUEST.pack(VERSION, Opcode.MAP, self.lifetime, _pack(self.client)) + _MAP.pack(
            self.nonce, UDP, self.port, port, _pack(ip)
        )


def announce_request(client: str) -> bytes:
    """Asks a server for its epoch, and changes nothing there (§14.1.2)."""
    return _REQUEST.pack(VERSION, Opcode.ANNOUNCE, 0, _pack(client))


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a response to MAP says of the mapping; in an error, what was asked for (§11.1)."""

    nonce: bytes
    protocol: int
    port: int
    external: Address


@dataclass(frozen=True, slots=True)
class Response:
    """What a server says (§7.2).

    Attributes:
        opcode: that of the request.
        result: 0, or a Result that may be unknown to us.
        lifetime: seconds, of the mapping or of the error.
        epoch: seconds since the server lost its state.
        assigned: only where the opcode is MAP.
    """

    opcode: int
    result: int
    lifetime: int
    epoch: int
    assigned: Assigned | None

    @classmethod
    def parse(cls, data: bytes) -> "Response":
        """Read a packet of version 2; options are ignored (§7.3).

        Raises:
            MalformedPacket: it is no response, or of a length that none has (§8.3).
        """
        if not _RESPONSE.size <= len(data) <= _LONGEST or len(data) % 4:
            raise MalformedPacket("length of a PCP response", len(data))
        version, opcode, result, lifetime, epoch = _RESPONSE.unpack_from(data)
        if version != VERSION or not opcode & _R:
            raise MalformedPacket("no PCP response")
        opcode &= ~_R
        assigned = None
        if opcode == Opcode.MAP:
            if len(data) < _RESPONSE.size + _MAP.size:
                raise MalformedPacket("PCP mapping cut short", len(data))
            nonce, protocol, port, external, ip = _MAP.unpack_from(data, _RESPONSE.size)
            assigned = Assigned(nonce, protocol, port, (_unpack(ip), external))
        return cls(opcode, result, lifetime, epoch, assigned)


def version_offered(data: bytes) -> int | None:
    """The version that a server speaks that doesn't speak ours (§9), 0 for NAT-PMP; else None.

    The result is at the same place in both protocols. NAT-PMP's own figure leaves the R bit clear
    (RFC 6886 §3.5).
    """
    if len(data) < 4 or data[3] != Result.UNSUPP_VERSION or data[2]:
        return None
    return data[0] if data[1] & _R or not data[0] else None


def plausible(before: int, since: float, epoch: int) -> bool:
    """Whether a server has kept its state from one packet to the next (§8.5).

    Args:
        before: the epoch that its last packet told.
        since: seconds from that packet to this one.
        epoch: what this one tells.
    """
    if epoch < before - 1:
        return False
    ours, theirs = max(int(since), 0), max(epoch - before, 0)
    return ours + 2 >= theirs - theirs // 16 and theirs + 2 >= ours - ours // 16


def _pack(ip: str) -> bytes:
    packed = ipaddress.ip_address(ip.partition("%")[0]).packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def _unpack(packed: bytes) -> str:
    ip = ipaddress.IPv6Address(packed)
    return str(ip.ipv4_mapped or ip)
