"""What an association remembers: its state, its timers, the work in hand, what all share."""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum

from hipctl.actions import Address, Pair
from hipctl.constants import SPI_RESERVED
from hipctl.credentials import Desk
from hipctl.crypto import Rng
from hipctl.exchange import KnownHosts
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
        contacts: addresses of peers that we were told.
        recent: where peers were when an association with them came up; bounded.
        known_hosts: parsed public keys.
        notify_limit: how often we say NOTIFY.
        desk: shows and judges credentials.
        serial: last number that a SolvePuzzle got.
        here: at which of them the packet came that is being processed, if the shell tells.
        locators: our own addresses, the preferred one first; empty while nobody has told us.
    """

    config: EngineConfig
    rng: Rng
    counters: Counter[str]
    inbound: dict[int, Inbound]
    outbound: dict[Pair, Outbound]
    contacts: dict[Hit, tuple[Address, ...]]
    notify_limit: Limiter
    recent: OrderedDict[Hit, Address] = field(default_factory=OrderedDict)
    known_hosts: KnownHosts = field(default_factory=KnownHosts)
    desk: Desk = field(default_factory=Desk)
    serial: int = 0
    locators: tuple[Address, ...] = ()
    here: Address | None = None

    def remember(self, peer: Hit, address: Address) -> None:
        """Note where ``peer`` is, for want of better knowledge."""
        self.recent[peer] = address
        self.recent.move_to_end(peer)
        if len(self.recent) > self.config.max_associations:
            self.recent.popitem(last=False)

    def addresses(self, peer: Hit) -> tuple[Address, ...]:
        """Where to send I1: what we were told, then where the peer was."""
        told, last = self.contacts.get(peer, ()), self.recent.get(peer)
        return told if last is None or last in told else (*told, last)

    def new_spi(self) -> int:
        """Draw an SPI that is neither reserved nor in use."""
        while True:
            spi = int.from_bytes(self.rng(4), "big")
            if spi > SPI_RESERVED and spi not in self.inbound:
                return spi


@dataclass(slots=True)
class Waiting:
    """Datagrams that wait for an exchange, (next header, payload) each; bounded."""

    datagrams: deque[tuple[int, bytes]] = field(default_factory=deque)
    size: int = 0

    def add(self, next_header: int, payload: bytes, config: EngineConfig) -> bool:
        """Append one; False if there is no room."""
        if len(self.datagrams) >= config.queue_datagrams:
            return False
        if self.size + len(payload) > config.queue_bytes:
            return False
        self.datagrams.append((next_header, payload))
        self.size += len(payload)
        return True

    def release(self) -> tuple[tuple[int, bytes], ...]:
        """Return all, and be empty."""
        released = tuple(self.datagrams)
        self.datagrams.clear()
        self.size = 0
        return released
