"""What we know of one neighbour: its admission, its contact, its pace."""

from typing import Any, Final

from hipctl import Hit
from overlay.admission import Admitted

FIRST_TIMEOUT: Final = 0.3  # seconds, before the first sample
LEAST_TIMEOUT: Final = 0.05
MOST_TIMEOUT: Final = 2.0
RATE: Final = 200.0  # requests a second that a neighbour may send for long
BURST: Final = 400.0


class Bucket:
    """Tokens for what has no session: ``rate`` a second, ``burst`` at once.

    Attributes:
        tokens: left at ``refilled``, monotonic seconds.
    """

    __slots__ = ("_burst", "_rate", "refilled", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self.tokens = burst
        self.refilled = now

    def spend(self, now: float) -> bool:
        """Take a token; False, and none is taken, if there is none."""
        tokens = min(self._burst, self.tokens + (now - self.refilled) * self._rate)
        self.refilled = now
        self.tokens = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1


class Session:
    """What we know of one neighbour.

    Attributes:
        hit: who, as the association proves it.
        greeted: it has shown credentials that admit it.
        admitted: what they proved, or None.
        contact: how it says it may be reached.
        features: its feature bits.
        offset: its clock minus ours, seconds; 0.0 until told.
        boot: 8 bytes that differ after its restart.
        since: when it started, Unix seconds; 0 until told.
        node: the engine's own object for this neighbour.
        answered: when it last answered anything, monotonic seconds.
        bare: whether our HELLO may leave out what the base exchange has shown.
        asks: whether we want its credentials in its HELLO, for we know none from the exchange.
        offered: when the engine last offered it a place in the table, monotonic seconds.
    """

    __slots__ = (
        "admitted",
        "answered",
        "asks",
        "bare",
        "boot",
        "contact",
        "credentials",
        "features",
        "greeted",
        "hello",
        "hit",
        "node",
        "offered",
        "offset",
        "pending",
        "refilled",
        "refused_until",
        "since",
        "srtt",
        "tokens",
        "var",
    )

    def __init__(self, hit: Hit, now: float) -> None:
        self.hit = hit
        self.greeted = False
        self.admitted: Admitted | None = None
        self.contact = b""
        self.credentials: bytes | None = None
        self.features = 0
        self.bare = True
        self.asks = False
        self.offset: float | None = None
        self.boot = b""
        self.since = 0
        self.node: Any = None
        self.answered = float("-inf")
        self.offered = 0.0
        self.hello: bytes | None = None  # request id of the HELLO in flight
        self.pending: dict[bytes, None] = {}  # in order, so that a simulation repeats
        self.srtt = 0.0
        self.var = 0.0
        self.tokens = BURST
        self.refilled = now
        self.refused_until = 0.0

    def timeout(self) -> float:
        """Seconds after which an answer is late: SRTT + 4·var (RFC 6298's way)."""
        if not self.srtt:
            return FIRST_TIMEOUT
        return min(max(self.srtt + 4 * self.var, LEAST_TIMEOUT), MOST_TIMEOUT)

    def sample(self, rtt: float) -> None:
        """Take one round trip, seconds."""
        if not self.srtt:
            self.srtt, self.var = rtt, rtt / 2
        else:
            self.var += (abs(self.srtt - rtt) - self.var) / 4
            self.srtt += (rtt - self.srtt) / 8

    def spend(self, now: float) -> bool:
        """Take a token of its bucket; False if it asks too much."""
        tokens = min(BURST, self.tokens + (now - self.refilled) * RATE)
        self.refilled = now
        self.tokens = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1
