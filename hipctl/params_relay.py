"""Parameters of rendezvous servers (RFC 8004 §4.2), relays and checks (RFC 9028 §5)."""

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from hipctl.constants import ParameterType
from hipctl.params_mobility import pack_ip, unpack_ip
from hipctl.wire import Reader

Address = tuple[str, int]

_IP_LENGTH: Final = 16
_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class _Mac:
    """A MAC that protects all before it."""

    mac: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return self.mac

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.take(reader.left))


@dataclass(frozen=True, slots=True)
class RvsHmac(_Mac):
    """RVS_HMAC: by which a rendezvous server and its client know each other (RFC 8004 §4.2.1)."""

    TYPE: ClassVar = ParameterType.RVS_HMAC


@dataclass(frozen=True, slots=True)
class RelayHmac(_Mac):
    """RELAY_HMAC: the same between a relay and its client (RFC 9028 §5.8)."""

    TYPE: ClassVar = ParameterType.RELAY_HMAC


@dataclass(frozen=True, slots=True)
class From:
    """FROM: the Initiator's IP address as the rendezvous server saw it (RFC 8004 §4.2.2)."""

    TYPE: ClassVar = ParameterType.FROM
    ip: str

    def content(self) -> bytes:
        """See Parameter."""
        return pack_ip(self.ip)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = cls(unpack_ip(reader.take(_IP_LENGTH)))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class ViaRvs:
    """VIA_RVS: IP addresses of the rendezvous servers that I1 came through (RFC 8004 §4.2.3)."""

    TYPE: ClassVar = ParameterType.VIA_RVS
    ips: tuple[str, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(pack_ip(ip) for ip in self.ips)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = []
        while reader.left:
            found.append(unpack_ip(reader.take(_IP_LENGTH)))
        return cls(tuple(found))


@dataclass(frozen=True, slots=True)
class _Transport:
    """A transport address (RFC 9028 §5.6, §5.12).

    Attributes:
        address: canonical IP address and UDP port, 0 where the protocol is plain IP.
        protocol: 17 for UDP, 0 for plain IP.
    """

    address: Address
    protocol: int = _UDP

    def content(self) -> bytes:
        """See Parameter."""
        ip, port = self.address
        return port.to_bytes(2, "big") + bytes((self.protocol, 0)) + pack_ip(ip)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        port, protocol = reader.uint(2), reader.uint(1)
        reader.take(1)
        found = cls((unpack_ip(reader.take(_IP_LENGTH)), port), protocol)
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class RegFrom(_Transport):
    """REG_FROM: whence a registration came, as the server saw it; signed."""

    TYPE: ClassVar = ParameterType.REG_FROM


@dataclass(frozen=True, slots=True)
class RelayFrom(_Transport):
    """RELAY_FROM: whence a relay got what it hands to its client."""

    TYPE: ClassVar = ParameterType.RELAY_FROM


@dataclass(frozen=True, slots=True)
class RelayTo(_Transport):
    """RELAY_TO: where a relay shall send what its client hands it."""

    TYPE: ClassVar = ParameterType.RELAY_TO


@dataclass(frozen=True, slots=True)
class RelayedAddress(_Transport):
    """RELAYED_ADDRESS: what a data relay has opened for its client; signed."""

    TYPE: ClassVar = ParameterType.RELAYED_ADDRESS


@dataclass(frozen=True, slots=True)
class MappedAddress(_Transport):
    """MAPPED_ADDRESS: whence a connectivity check came, as its receiver saw it; signed."""

    TYPE: ClassVar = ParameterType.MAPPED_ADDRESS


@dataclass(frozen=True, slots=True)
class PeerPermission:
    """PEER_PERMISSION: with whom a data relay shall let its client speak (RFC 9028 §5.13).

    Attributes:
        relayed: the client's relayed address.
        peer: the peer's address.
        spi_out: with which the client sends to the peer.
        spi_in: with which the peer sends to the client.
        protocol: 17, UDP.
    """

    TYPE: ClassVar = ParameterType.PEER_PERMISSION
    relayed: Address
    peer: Address
    spi_out: int
    spi_in: int
    protocol: int = _UDP

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(
            (
                self.relayed[1].to_bytes(2, "big"),
                self.peer[1].to_bytes(2, "big"),
                bytes((self.protocol, 0, 0, 0)),
                pack_ip(self.relayed[0]),
                pack_ip(self.peer[0]),
                self.spi_out.to_bytes(4, "big"),
                self.spi_in.to_bytes(4, "big"),
            )
        )

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        relayed_port, peer_port, protocol = reader.uint(2), reader.uint(2), reader.uint(1)
        reader.take(3)
        relayed = unpack_ip(reader.take(_IP_LENGTH)), relayed_port
        peer = unpack_ip(reader.take(_IP_LENGTH)), peer_port
        found = cls(relayed, peer, reader.uint(4), reader.uint(4), protocol)
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class CandidatePriority:
    """CANDIDATE_PRIORITY: of a peer-reflexive candidate that this check may show (§5.14)."""

    TYPE: ClassVar = ParameterType.CANDIDATE_PRIORITY
    priority: int

    def content(self) -> bytes:
        """See Parameter."""
        return self.priority.to_bytes(4, "big")

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = cls(reader.uint(4))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class Nominate:
    """NOMINATE: use the pair that this check goes along (§5.15)."""

    TYPE: ClassVar = ParameterType.NOMINATE

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(4)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(4)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True)
class TransactionPacing:
    """TRANSACTION_PACING: the least time between two checks (§5.5).

    Attributes:
        milliseconds: Min Ta.
    """

    TYPE: ClassVar = ParameterType.TRANSACTION_PACING
    milliseconds: int

    def content(self) -> bytes:
        """See Parameter."""
        return self.milliseconds.to_bytes(4, "big")

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = cls(reader.uint(4))
        reader.end()
        return found
