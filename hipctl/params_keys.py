"""Parameters about keys: Diffie-Hellman, ciphers, host identities, MACs and signatures."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hipctl.constants import DiType, HiAlgorithm, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostId
from hipctl.wire import Reader


@dataclass(frozen=True, slots=True)
class DhGroupList:
    """DH_GROUP_LIST: group IDs in the sender's order of preference (RFC 7401 §5.2.6)."""

    TYPE: ClassVar = ParameterType.DH_GROUP_LIST
    groups: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(self.groups)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(tuple(reader.rest()))


@dataclass(frozen=True, slots=True)
class DiffieHellman:
    """DIFFIE_HELLMAN: one public value (RFC 7401 §5.2.7).

    Attributes:
        group: Group ID.
        public: for groups 7 and 8 x‖y (RFC 5903 §7), 64 or 96 bytes.
    """

    TYPE: ClassVar = ParameterType.DIFFIE_HELLMAN
    group: int
    public: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.group,)) + len(self.public).to_bytes(2, "big") + self.public

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        group, length = reader.uint(1), reader.uint(2)
        public = reader.take(length)
        reader.end()
        return cls(group, public)


@dataclass(frozen=True, slots=True)
class CipherList:
    """HIP_CIPHER: ciphers of ENCRYPTED in order of preference (RFC 7401 §5.2.8)."""

    TYPE: ClassVar = ParameterType.HIP_CIPHER
    ciphers: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(cipher.to_bytes(2, "big") for cipher in self.ciphers)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        ciphers = []
        while reader.left:
            ciphers.append(reader.uint(2))
        return cls(tuple(ciphers))


@dataclass(frozen=True, slots=True)
class Encrypted:
    """ENCRYPTED: other parameters, encrypted (RFC 7401 §5.2.18).

    Attributes:
        ciphertext: for AES-CBC the 16-byte IV and the PKCS #7 padded data.
    """

    TYPE: ClassVar = ParameterType.ENCRYPTED
    ciphertext: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(4) + self.ciphertext

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(4)
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class HostIdParameter:
    """HOST_ID: a public key, perhaps with a name that nobody vouches for (RFC 7401 §5.2.9).

    Attributes:
        host_id: the key; ``host_id.hit`` doesn't depend on the rest.
        di_type: how to read ``domain``.
        domain: the Domain Identifier, at most 4,095 bytes.
    """

    TYPE: ClassVar = ParameterType.HOST_ID
    host_id: HostId
    di_type: int = DiType.NONE
    domain: bytes = b""

    def content(self) -> bytes:
        """See Parameter."""
        encoded = self.host_id.encoded
        return (
            len(encoded).to_bytes(2, "big")
            + (self.di_type << 12 | len(self.domain)).to_bytes(2, "big")
            + self.host_id.algorithm.to_bytes(2, "big")
            + encoded
            + self.domain
        )

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        hi_length, di = reader.uint(2), reader.uint(2)
        algorithm = reader.uint(2)
        encoded, domain = reader.take(hi_length), reader.take(di & 0x0FFF)
        reader.end()
        try:
            host_id = HostId(HiAlgorithm(algorithm), encoded)
        except ValueError:
            raise MalformedPacket("unknown HI algorithm", 4) from None
        return cls(host_id, di >> 12, domain)


@dataclass(frozen=True, slots=True)
class HitSuiteList:
    """HIT_SUITE_LIST: HIT suites that the Responder accepts (RFC 7401 §5.2.10).

    Attributes:
        suites: as on the wire: the HIT suite in the upper four bits.
    """

    TYPE: ClassVar = ParameterType.HIT_SUITE_LIST
    suites: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(self.suites)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(tuple(reader.rest()))


@dataclass(frozen=True, slots=True)
class _Mac:
    """A MAC, as long as its hash."""

    mac: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return self.mac

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class HipMac(_Mac):
    """HIP_MAC (RFC 7401 §5.2.12)."""

    TYPE: ClassVar = ParameterType.HIP_MAC


@dataclass(frozen=True, slots=True)
class HipMac2(_Mac):
    """HIP_MAC_2: a MAC that also covers the sender's HOST_ID (RFC 7401 §5.2.13)."""

    TYPE: ClassVar = ParameterType.HIP_MAC_2


@dataclass(frozen=True, slots=True)
class _Signature:
    """A signature.

    Attributes:
        algorithm: HI algorithm.
        signature: for ECDSA r‖s.
    """

    algorithm: int
    signature: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return self.algorithm.to_bytes(2, "big") + self.signature

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(2), reader.rest())


@dataclass(frozen=True, slots=True)
class HipSignature(_Signature):
    """HIP_SIGNATURE (RFC 7401 §5.2.14)."""

    TYPE: ClassVar = ParameterType.HIP_SIGNATURE


@dataclass(frozen=True, slots=True)
class HipSignature2(_Signature):
    """HIP_SIGNATURE_2: leaves out what varies between copies of one R1 (RFC 7401 §5.2.15)."""

    TYPE: ClassVar = ParameterType.HIP_SIGNATURE_2
