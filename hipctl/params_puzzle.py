"""Parameters with which a Responder makes a stranger work and come back: puzzle and echo."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hipctl.constants import ParameterType
from hipctl.errors import MalformedPacket
from hipctl.wire import Reader


@dataclass(frozen=True, slots=True)
class R1Counter:
    """R1_COUNTER: the generation of valid puzzles (RFC 7401 §5.2.3).

    Attributes:
        generation: 64 bits.
        reserved: 4 bytes, echoed verbatim.
    """

    TYPE: ClassVar = ParameterType.R1_COUNTER
    generation: int
    reserved: bytes = bytes(4)

    def content(self) -> bytes:
        """See Parameter."""
        return self.reserved + self.generation.to_bytes(8, "big")

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        reserved, generation = reader.take(4), reader.uint(8)
        reader.end()
        return cls(generation, reserved)


@dataclass(frozen=True, slots=True)
class Puzzle:
    """PUZZLE: work that the Initiator must do before we keep state (RFC 7401 §5.2.4).

    Attributes:
        k: difficulty: zero bits wanted at the end of the hash.
        lifetime: validity as on the wire; the puzzle lives 2^(lifetime - 32) seconds.
        opaque: 2 bytes that come back untouched in SOLUTION.
        random_i: #I, as long as the Responder's hash (RHASH_len / 8 bytes).
    """

    TYPE: ClassVar = ParameterType.PUZZLE
    k: int
    lifetime: int
    opaque: bytes
    random_i: bytes

    @property
    def seconds(self) -> float:
        """How long a solution is valid."""
        return float(2.0 ** (self.lifetime - 32))

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.k, self.lifetime)) + self.opaque + self.random_i

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.uint(1), reader.uint(1), reader.take(2), reader.rest())


@dataclass(frozen=True, slots=True)
class Solution:
    """SOLUTION: the answer to a PUZZLE (RFC 7401 §5.2.5).

    Attributes:
        k: difficulty that was solved.
        opaque: 2 bytes, copied from PUZZLE.
        random_i: #I.
        answer_j: #J, as long as #I.
    """

    TYPE: ClassVar = ParameterType.SOLUTION
    k: int
    opaque: bytes
    random_i: bytes
    answer_j: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return bytes((self.k, 0)) + self.opaque + self.random_i + self.answer_j

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        k, _reserved, opaque = reader.uint(1), reader.uint(1), reader.take(2)
        if reader.left % 2:
            raise MalformedPacket("SOLUTION of odd length")
        half = reader.left // 2
        return cls(k, opaque, reader.take(half), reader.take(half))


@dataclass(frozen=True, slots=True)
class _Echo:
    """What comes back as it was sent."""

    opaque: bytes

    def content(self) -> bytes:
        """See Parameter."""
        return self.opaque

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """See Parameter."""
        return cls(reader.rest())


@dataclass(frozen=True, slots=True)
class EchoRequestSigned(_Echo):
    """ECHO_REQUEST_SIGNED: comes back in ECHO_RESPONSE_SIGNED (RFC 7401 §5.2.20)."""

    TYPE: ClassVar = ParameterType.ECHO_REQUEST_SIGNED


@dataclass(frozen=True, slots=True)
class EchoResponseSigned(_Echo):
    """ECHO_RESPONSE_SIGNED (RFC 7401 §5.2.22)."""

    TYPE: ClassVar = ParameterType.ECHO_RESPONSE_SIGNED


@dataclass(frozen=True, slots=True)
class EchoRequestUnsigned(_Echo):
    """ECHO_REQUEST_UNSIGNED: even a middlebox may have put it there (RFC 7401 §5.2.21)."""

    TYPE: ClassVar = ParameterType.ECHO_REQUEST_UNSIGNED


@dataclass(frozen=True, slots=True)
class EchoResponseUnsigned(_Echo):
    """ECHO_RESPONSE_UNSIGNED (RFC 7401 §5.2.23)."""

    TYPE: ClassVar = ParameterType.ECHO_RESPONSE_UNSIGNED
