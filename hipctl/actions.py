"""What the engine asks its shell to do, in order; every input returns a list of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hipctl.identity import Hit
from hipctl.interface import AssociationDown, AssociationUp, RegistrationEnded

Address = tuple[str, int]
"""IP address as text and UDP port (0 for raw IP)."""


class Relayed(tuple[str, int]):
    """An address of a peer that we reach through a relay of ours (RFC 9028 §4.8, §4.12.2).

    What the relay is told in RELAY_TO; what we send goes to ``via``. It stands wherever an Address
    may, and differs from the same address without relay, or with another one.

    Attributes:
        via: where the relay is.
    """

    via: Address

    def __new__(cls, address: Address, via: Address) -> "Relayed":
        """Reach ``address`` through ``via``."""
        made = super().__new__(cls, (address[0], address[1]))
        made.via = via
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Relayed) and tuple.__eq__(self, other) and self.via == other.via

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple(self), self.via))

    def __repr__(self) -> str:
        return f"{tuple(self)} via {self.via}"

    def __reduce__(self) -> tuple[type["Relayed"], tuple[Address, Address]]:
        return Relayed, ((self[0], self[1]), self.via)


def wire(address: Address) -> Address:
    """Whereto packets for ``address`` go: itself, or our relay before it."""
    return address.via if isinstance(address, Relayed) else address


def plain(address: Address) -> Address:
    """The address without the relay before it."""
    return (address[0], address[1]) if isinstance(address, Relayed) else address


Pair = tuple[Hit, Hit]
"""(local HIT, peer HIT): the name of an association."""


class Path(NamedTuple):
    """Between which addresses packets go.

    Attributes:
        source: ours, one of those given to ``Engine.set_locators``; None: the shell's choice,
            which is the address that was asked where we answer, else what the routes say.
        to: the peer's.
    """

    source: Address | None
    to: Address


@dataclass(frozen=True, slots=True)
class Transmit:
    """Put one HIP control packet on the wire.

    Attributes:
        data: from the first byte of the HIP header; the shell prepends the four zero bytes of
            the UDP encapsulation (RFC 5770 §5.1), or computes the checksum for raw IP.
        to: where it goes.
        source: from which of our addresses, see Path.
    """

    data: bytes
    to: Address
    source: Address | None = None


@dataclass(frozen=True, slots=True)
class SolvePuzzle:
    """Find a J with ``puzzle.solve(k, prefix, rhash, start)``, then ``on_puzzle_solved(key, j)``.

    Attributes:
        key: opaque; comes back in ``on_puzzle_solved``.
        k: difficulty in bits; expect 2^k hashes.
        prefix: #I | HIT-I | HIT-R, what is hashed before #J (RFC 7401 §6.3).
        rhash: ``hashlib`` name of the Responder's hash; #J is as long as its digest.
        start: where to begin looking: random, so that two solvers differ.
        deadline: monotonic seconds after which the answer is worth nothing.
    """

    key: tuple[Hit, Hit, int]
    k: int
    prefix: bytes
    rhash: str
    start: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Flush:
    """Seal these datagrams with ``engine.outbound[local, peer]`` and send them.

    Attributes:
        datagrams: (next header, payload), as they were given to ``enqueue``, in order.
    """

    local: Hit
    peer: Hit
    datagrams: Sequence[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class KeyLog:
    """Append ``line`` (without newline) to the key log; only with ``EngineConfig.keylog``.

    ``HIP <HIT-I> <HIT-R> <I> <J> <DH secret> <KEYMAT>``, each in lower-case hex.
    """

    line: str


@dataclass(frozen=True, slots=True)
class LanAnswered:
    """Who has answered a call to a LAN; no more comes of it by itself.

    Attributes:
        local: our HIT.
        peer: who.
        address: from where.
        services: registration types that it offers.
        certificates: what it shows to a LAN, DER.
        mark: and beside them.
    """

    local: Hit
    peer: Hit
    address: Address
    services: tuple[int, ...]
    certificates: tuple[bytes, ...]
    mark: bytes


@dataclass(frozen=True, slots=True)
class PeerFound:
    """Whom ``connect_opportunistic`` has found at an address; the exchange goes on.

    Attributes:
        local: our HIT.
        address: where we asked.
        peer: who has answered, or None: nobody.
    """

    local: Hit
    address: Address
    peer: Hit | None


@dataclass(frozen=True, slots=True)
class RegistrationAnswered:
    """What a server has said to a registration that was asked for.

    Attributes:
        local: our HIT.
        server: the server's.
        granted: types.
        refused: types -> why: RegistrationFailure, or a number that we don't know.
    """

    local: Hit
    server: Hit
    granted: tuple[int, ...]
    refused: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class PortsChanged:
    """A client of the data relay has come or gone: lend ports, and close ``data.closed``."""


Action = (
    Transmit
    | SolvePuzzle
    | Flush
    | KeyLog
    | LanAnswered
    | PeerFound
    | AssociationUp
    | AssociationDown
    | RegistrationAnswered
    | RegistrationEnded
    | PortsChanged
)
