"""Parameters that carry credentials: certificates, and what is shown beside them."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hipctl.constants import ParameterType
from hipctl.wire import Reader


@dataclass(frozen=True, slots=True)
class Cert:
    """CERT: one certificate (RFC 8002 §2).

    Attributes:
        group: CERT group; certificates that belong together share it.
        count: CERT count: how many the group has.
        id: CERT ID: from 1 to ``count``.
        type: CERT type, perhaps one that we don't read.
        certificate: for X.509 v3 its DER.
    """

    TYPE: ClassVar = ParameterType.CERT
    group: int
    count: int
    id: int
    type: int
    certificate: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.group, self.count, self.id, self.type)) + self.certificate

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        group, count = reader.uint(1), reader.uint(1)
        number, kind = reader.uint(1), reader.uint(1)
        return cls(group, count, number, kind, reader.rest())


@dataclass(frozen=True, slots=True)
class _Opaque:
    """Bytes of which only the policies at both ends know what they mean."""

    data: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return self.data

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class Delegation(_Opaque):
    """DELEGATION, private use: why the certificates beside it speak for the sender.

    A CERT may certify another key than the sender's, e.g. that of a person with many hosts. What
    stands here is between the policies of both ends.
    """

    TYPE: ClassVar = ParameterType.DELEGATION


@dataclass(frozen=True, slots=True)
class Invitation(_Opaque):
    """INVITATION, private use: shows that its sender was invited, to who has invited it.

    It stands in ENCRYPTED only; elsewhere nobody reads it.
    """

    TYPE: ClassVar = ParameterType.INVITATION


@dataclass(frozen=True, slots=True)
class LanInfo(_Opaque):
    """LAN_INFO, private use: in R1s to who has asked a LAN, and tells members of what we are one.

    What stands beside it in CERT is shown to the LAN, and no credential of its sender.
    """

    TYPE: ClassVar = ParameterType.LAN_INFO
