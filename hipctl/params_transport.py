"""Parameters about what the association will carry and over what: ESP and NAT traversal."""

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from hipctl.constants import ParameterType
from hipctl.wire import Reader

_MODES_MAX: Final = 6


def _uints(reader: Reader) -> tuple[int, ...]:
    found = []
    while reader.left:
        found.append(reader.uint(2))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class EspInfo:
    """ESP_INFO: SPIs and where ESP keys begin (RFC 7402 §5.1.1).

    Attributes:
        keymat_index: bytes into KEYMAT.
        old_spi: zero in the base exchange.
        new_spi: with which the receiver shall send to the sender of this.
    """

    TYPE: ClassVar = ParameterType.ESP_INFO
    keymat_index: int
    old_spi: int
    new_spi: int

    def content(self) -> bytes:
        """See Parameter."""
        return (
            self.keymat_index.to_bytes(4, "big")
            + self.old_spi.to_bytes(4, "big")
            + self.new_spi.to_bytes(4, "big")
        )

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(2)
        info = cls(reader.uint(2), reader.uint(4), reader.uint(4))
        reader.end()
        return info


@dataclass(frozen=True, slots=True)
class EspTransform:
    """ESP_TRANSFORM: ESP suites in order of preference (RFC 7402 §5.1.2)."""

    TYPE: ClassVar = ParameterType.ESP_TRANSFORM
    suites: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(2) + b"".join(suite.to_bytes(2, "big") for suite in self.suites)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(2)
        return cls(_uints(reader))


@dataclass(frozen=True, slots=True)
class TransportFormatList:
    """TRANSPORT_FORMAT_LIST: parameter types of transport formats (RFC 7401 §5.2.11)."""

    TYPE: ClassVar = ParameterType.TRANSPORT_FORMAT_LIST
    formats: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return b"".join(number.to_bytes(2, "big") for number in self.formats)

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(_uints(reader))


@dataclass(frozen=True, slots=True)
class NatTraversalModes:
    """NAT_TRAVERSAL_MODE: modes in order of preference; six at most count (RFC 9028 §5.4)."""

    TYPE: ClassVar = ParameterType.NAT_TRAVERSAL_MODE
    modes: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes(2) + b"".join(mode.to_bytes(2, "big") for mode in self.modes[:_MODES_MAX])

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reader.take(2)
        return cls(_uints(reader)[:_MODES_MAX])
