"""What the engine asks of its shell."""

from dataclasses import dataclass

from hipctl import Hit
from sipgw.dialog import Overlay, Party


@dataclass(frozen=True, slots=True)
class Transmit:
    """Action: send a datagram to a client or gateway."""

    data: bytes
    to: Party


@dataclass(frozen=True, slots=True)
class Resolve:
    """Action: find the devices of an AoR; ``on_resolved(key, …)`` is due."""

    key: int
    aor: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Action: find out whether ``hit`` may speak as ``aor``; ``on_verified(key, …)`` is due."""

    key: int
    aor: str
    hit: Hit


@dataclass(frozen=True, slots=True)
class Connect:
    """Action: have the association with a gateway; ``on_connected(key, …)`` is due."""

    key: int
    party: Overlay


@dataclass(frozen=True, slots=True)
class Publish:
    """Action: say in the overlay that an AoR is here."""

    aor: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Action: and no longer."""

    aor: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Action: note a step of a call."""

    call: str
    step: str
    detail: str


@dataclass(frozen=True, slots=True)
class Disclose:
    """Action: a peer may learn our addresses: our user has answered its call.

    Attributes:
        local: our HIT.
        peer: the other gateway's.
    """

    local: Hit
    peer: Hit


Action = Transmit | Resolve | Verify | Connect | Publish | Withdraw | Mark | Disclose
