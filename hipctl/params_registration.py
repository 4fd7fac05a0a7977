"""Parameters with which one registers for a service: REG_* (RFC 8003 §4)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from hipctl.constants import ParameterType
from hipctl.wire import Reader

_OFFSET: Final = 64  # of the exponent, RFC 8003 §4.1
_STEPS: Final = 8  # a doubling
_LONGEST: Final = 255


def encode_lifetime(seconds: float) -> int:
    """The Lifetime byte for at most ``seconds``: 0 stands for 0, else 2^((byte - 64) / 8)."""
    if seconds <= 0:
        return 0
    exponent = math.floor(math.log2(seconds) * _STEPS + 1e-9) + _OFFSET
    return min(max(exponent, 1), _LONGEST)


def decode_lifetime(byte: int) -> float:
    """Seconds that a Lifetime byte stands for, 4 ms to 178 days."""
    return 2.0 ** ((byte - _OFFSET) / _STEPS) if byte else 0.0


def _types(reader: Reader) -> tuple[int, ...]:
    return tuple(reader.take(reader.left))


@dataclass(frozen=True, slots=True)
class RegInfo:
    """REG_INFO: what a registrar offers; no types at all: nothing at the moment (§4.2).

    Attributes:
        least: shortest lifetime that it grants, a byte as ``encode_lifetime`` makes it.
        most: longest one.
        types: registration types.
    """

    TYPE: ClassVar = ParameterType.REG_INFO
    least: int
    most: int
    types: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.least, self.most, *self.types))

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(1), reader.uint(1), _types(reader))


@dataclass(frozen=True, slots=True)
class RegRequest:
    """REG_REQUEST: what a requester wants (§4.3).

    Attributes:
        lifetime: a byte as ``encode_lifetime`` makes it; 0 cancels.
        types: registration types, the preferred one first.
    """

    TYPE: ClassVar = ParameterType.REG_REQUEST
    lifetime: int
    types: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.lifetime, *self.types))

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(1), _types(reader))


@dataclass(frozen=True, slots=True)
class RegResponse:
    """REG_RESPONSE: what was granted, for how long (§4.4); fields as in RegRequest."""

    TYPE: ClassVar = ParameterType.REG_RESPONSE
    lifetime: int
    types: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.lifetime, *self.types))

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(1), _types(reader))


@dataclass(frozen=True, slots=True)
class RegFailed:
    """REG_FAILED: what was refused (§4.5).

    Attributes:
        reason: a RegistrationFailure, or a number that we don't know.
        types: registration types.
    """

    TYPE: ClassVar = ParameterType.REG_FAILED
    reason: int
    types: tuple[int, ...]

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.reason, *self.types))

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(1), _types(reader))
