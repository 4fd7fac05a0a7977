"""What an association remembers: its state, its timers, the work in hand, what all share."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from hipctl.actions import Address, Pair
from hipctl.constants import SPI_RESERVED
from hipctl.crypto import Rng
from hipctl.exchange import KnownHosts, Offer, Reply
from hipctl.identity import Hit
from hipctl.limits import Limiter
from hipctl.sas import Inbound, Outbound
from hipctl.settings import EngineConfig


class State(Enum):
    """Association states, named as in RFC 7401 §4.4.2."""

    UNASSOCIATED = "UNASSOCIATED"
    I1_SENT = "I1-SENT"
    I2_SENT = "I2-SENT"
    R2_SENT = "R2-SENT"
    ESTABLISHED = "ESTABLISHED"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"
    E_FAILED = "E-FAILED"


class Timer(Enum):
    """What an association waits for."""

    RETRANSMIT = "no answer to I1, I2 or CLOSE yet"
    PUZZLE = "the puzzle is still being solved"
    EXCHANGE_COMPLETE = "no ESP since R2 yet"
    CHECK = "time to see whether the SAs are still used"
    CLOSED = "the peer may still repeat its CLOSE"


@dataclass(slots=True)
class Shared:
    """What all associations of one engine share.

    Attributes:
        config: of the engine.
        rng: randomness.
        counters: of everything that was dropped or done, by reason.
        inbound: by SPI.
        outbound: by (local HIT, peer HIT).
        contacts: addresses of peers.
        known_hosts: parsed public keys.
        notify_limit: how often we say NOTIFY.
        serial: last number that a SolvePuzzle got.
    """

    config: EngineConfig
    rng: Rng
    counters: Counter[str]
    inbound: dict[int, Inbound]
    outbound: dict[Pair, Outbound]
    contacts: dict[Hit, tuple[Address, ...]]
    notify_limit: Limiter
    known_hosts: KnownHosts = field(default_factory=KnownHosts)
    serial: int = 0

    def new_spi(self) -> int:
        """Draw an SPI that is neither reserved nor in use."""
        while True:
            spi = int.from_bytes(self.rng(4), "big")
            if spi > SPI_RESERVED and spi not in self.inbound:
                return spi


@dataclass(slots=True)
class Work:
    """An R1 whose puzzle is being solved or was solved.

    Attributes:
        offer: the R1.
        source: where it came from, where I2 goes.
        serial: names the SolvePuzzle.
        reply: our I2, once it is made.
        spi: our inbound SPI in it.
    """

    offer: Offer
    source: Address
    serial: int
    reply: Reply | None = None
    spi: int = 0
