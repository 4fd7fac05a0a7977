"""Parameters of an association that exists: acknowledged updates and notifications."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hipctl.constants import ParameterType
from hipctl.errors import MalformedPacket
from hipctl.wire import Reader


@dataclass(frozen=True, slots=True)
class Seq:
    """SEQ: the Update ID of an UPDATE that wants an ACK (RFC 7401 §5.2.16)."""

    TYPE: ClassVar = ParameterType.SEQ
    update_id: int

    def content(self) -> bytes:
        """See Parameter."""
        return self.update_id.to_bytes(4, "big")

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        update_id = reader.uint(4)
        reader.end()
        return cls(update_id)


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK: one or more of the peer's Update IDs (RFC 7401 §5.2.17)."""

    TYPE: ClassVar = ParameterType.ACK
    update_ids: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(update_id.to_bytes(4, "big") for update_id in self.update_ids)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        found = []
        while reader.left:
            found.append(reader.uint(4))
        if not found:
            raise MalformedPacket("ACK of nothing")
        return cls(tuple(found))


@dataclass(frozen=True, slots=True)
class Notification:
    """NOTIFICATION: an error or a status (RFC 7401 §5.2.19).

    Attributes:
        type: Notify Message Type, perhaps one that we don't know.
        data: its Notification Data.
    """

    TYPE: ClassVar = ParameterType.NOTIFICATION
    type: int
    data: bytes = b""

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(2) + self.type.to_bytes(2, "big") + self.data

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(2)
        return cls(reader.uint(2), reader.rest())
