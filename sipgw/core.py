"""What the machines of a call ask of the router, as Protocols: so that each can be read alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hipctl import Hit
from sipgw.alarms import Alarms
from sipgw.dialog import Dialog, Overlay, Party
from sipgw.message import Request, Response
from sipgw.transaction import ServerTransaction

Answered = Callable[[Response | None, Party, float], None]
"""``on_answer(response, from, now)``; None: timed out, or could not be sent."""

Connected = Callable[[bool, float], None]
"""``on_connected(ok, now)``"""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one branch of a request leads: a client's binding, or a device of the callee."""

    party: Party
    uri: str


class Asked:
    """A request that is to be answered once.

    Attributes:
        transaction: its server transaction.
        request: as received.
        party: who sent it.
        on_cancel: called when its sender cancels it (INVITE only).
    """

    __slots__ = ("on_cancel", "party", "request", "transaction")

    def __init__(self, transaction: ServerTransaction, party: Party) -> None:
        self.transaction = transaction
        self.request = transaction.request
        self.party = party
        self.on_cancel: Callable[[float], None] | None = None


class Listener(Protocol):
    """Who handles what comes in a dialog."""

    def on_request(self, dialog: Dialog, asked: Asked, now: float) -> None:
        """A request other than ACK and CANCEL."""

    def on_ack(self, dialog: Dialog, ack: Request, now: float) -> None:
        """The ACK of a 2xx of ours."""


class Side(Protocol):
    """One party's end of one m= line; the real ones are in media.py."""

    @property
    def port(self) -> int:
        """The RTP port to write into SDP; RTCP is the next one."""

    @property
    def packets(self) -> int:
        """How many RTP packets came from this party."""

    @property
    def reports(self) -> int:
        """How many RTCP packets did: on hold nothing else may come."""

    def aim(self, where: str | Hit, rtp: int, rtcp: int) -> None:
        """Send there from now on, as the party's SDP says."""

    def connect(self, other: "Side") -> None:
        """Forward what this side hears to ``other``."""

    def send_rtp(self, data: bytes) -> None:
        """Send to the party's RTP port."""

    def send_rtcp(self, data: bytes) -> None:
        """Send to the party's RTCP port."""

    def close(self) -> None:
        """Return the ports; harmless when done twice."""


class Media(Protocol):
    """Where sides come from."""

    @property
    def address(self) -> str:
        """IPv4 address of the sockets towards clients."""

    def client_side(self, host: str, on_media: Callable[[], None]) -> Side:
        """Open one for a client that signals from ``host``.

        Raises:
            MediaExhausted: no port is free.
        """

    def overlay_side(self, local: Hit, on_media: Callable[[], None]) -> Side:
        """Open one on a local HIT.

        Raises:
            MediaExhausted: no port is free.
        """


class Core(Protocol):
    """What a call needs of the router."""

    @property
    def alarms(self) -> Alarms:
        """Timers."""

    @property
    def media(self) -> Media:
        """Ports."""

    @property
    def ring_timeout(self) -> float:
        """Seconds until an unanswered call is given up."""

    def token(self) -> str:
        """A fresh random tag, Call-ID or branch."""

    def contact(self, party: Party) -> str:
        """Our Contact value towards a party."""

    def hidden(self, party: Party, message: Request | Response) -> tuple[str, ...]:
        """Spellings of a party's address that must not reach the other side."""

    def ask(
        self, request: Request, party: Party, on_answer: Answered, now: float
    ) -> object | None:
        """Send a request in a client transaction; returns what ``cancel`` takes.

        None: it could not be sent, and ``on_answer`` has been told.
        """

    def cancel(self, transaction: object, now: float) -> None:
        """CANCEL an INVITE, as soon as that is allowed (§9.1)."""

    def acknowledge(self, ack: Request, party: Party, now: float) -> None:
        """Send the ACK of a 2xx."""

    def respond(self, asked: Asked, response: Response, now: float) -> None:
        """Answer a request."""

    def connect(self, party: Overlay, on_connected: Connected, now: float) -> None:
        """Have the association with a gateway's HIT."""

    def bind(self, dialog: Dialog, listener: Listener) -> None:
        """Let requests in a dialog come to ``listener``."""

    def unbind(self, dialog: Dialog) -> None:
        """And no longer."""

    def ended(self, call: str, why: str) -> None:
        """A call is over; late answers to its requests may still come."""

    def mark(self, call: str, step: str, detail: str = "") -> None:
        """Note a step for the waterfall."""

    def disclose(self, party: Party) -> None:
        """Let the peer of ``party`` learn our addresses: our user calls it, or has answered it."""
