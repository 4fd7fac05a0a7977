"""The pair of SAs that carries an association's data, and whether it is still of use."""

from dataclasses import dataclass, field
from enum import Enum

from hipctl import esp
from hipctl.actions import Address, wire
from hipctl.identity import Hit
from hipctl.settings import EngineConfig


@dataclass(slots=True)
class Outbound:
    """Where and how to send data.

    Attributes:
        sa: seals; another one after a rekey. To an address that is not verified it seals no more
            than the peer's credit allows and then raises esp.CreditExhausted: lose the datagram.
        address: where to; it changes when the peer moves or a path fails.
        source: from which of our addresses, see actions.Path; it changes likewise.
        wire: whereto packets go: ``address``, or the relay of ours that leads there.
    """

    sa: esp.OutboundSa
    address: Address
    source: Address | None = None
    wire: Address = field(init=False)

    def __post_init__(self) -> None:
        self.aim(self.address, self.source)

    def aim(self, address: Address, source: Address | None) -> None:
        """Send there from now on."""
        self.address, self.source = address, source
        self.wire = wire(address)


@dataclass(slots=True)
class Inbound:
    """Whose data comes under one SPI.

    Attributes:
        sa: opens.
        local: our HIT; ``peer`` the sender's.
        peer: see ``local``.
        heard_at: when authenticated ESP came last, monotonic seconds.
        awaited: ``Engine.heard`` wants to know of the next authentic ESP: the association is
            R2-SENT, or was rekeyed and this SA is the new one.
        drops: packets that were refused, by reason.
    """

    sa: esp.InboundSa
    local: Hit
    peer: Hit
    heard_at: float
    awaited: bool = False
    drops: dict[str, int] = field(default_factory=dict)

    def dropped(self, reason: str) -> None:
        """Count a packet under this SPI that was refused."""
        self.drops[reason] = self.drops.get(reason, 0) + 1


class Verdict(Enum):
    """What a look at an SA pair says."""

    USED = "keep it"
    UNUSED = "nobody has sent or heard anything for the unused lifetime"
    UNANSWERED = "we keep sending and hear nothing: the peer may have lost its state"


class SaPair:
    """Two SAs in use, and a record of when they were.

    Attributes:
        inbound: ours to open.
        outbound: ours to seal.
        patience: seconds of silence after which we doubt the peer; it doubles while every new
            pair stays silent too (some streams have one direction), until something is heard.
    """

    __slots__ = (
        "_checked_at",
        "_sent",
        "_sent_at",
        "_unanswered_since",
        "inbound",
        "outbound",
        "patience",
    )

    def __init__(self, inbound: Inbound, outbound: Outbound, patience: float, now: float) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self.patience = patience
        self._checked_at = now
        self._sent = 0  # packets sealed when we looked last
        self._sent_at = now  # the look at which that had grown
        self._unanswered_since: float | None = None

    def check(self, now: float, config: EngineConfig) -> Verdict:
        """Look again, ``pause`` after the last time.

        The data path only counts packets and stores when it heard one, so a look can't see more
        than what happened between two looks: that we sent, and whether anything came.
        """
        heard_at, since = self.inbound.heard_at, self._checked_at
        self._checked_at = now
        if heard_at > since:
            self.patience = config.unanswered_lifetime
        sent = self.outbound.sa.packets
        if sent != self._sent:
            self._sent, self._sent_at = sent, now
            if heard_at > since:
                self._unanswered_since = None
            elif self._unanswered_since is None:
                self._unanswered_since = since
        else:
            self._unanswered_since = None
        begun = self._unanswered_since
        if begun is not None and now - begun >= self.patience:
            self._unanswered_since = None
            self.patience *= 2
            return Verdict.UNANSWERED
        if now - max(heard_at, self._sent_at) >= config.unused_lifetime:
            return Verdict.UNUSED
        return Verdict.USED


def pause(config: EngineConfig) -> float:
    """Seconds between two looks."""
    return min(config.unused_lifetime, config.unanswered_lifetime / 2)
