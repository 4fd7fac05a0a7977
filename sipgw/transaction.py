"""The four transaction machines (RFC 3261 §17, with the Accepted state of RFC 6026).

One transaction is one request with its responses. Each machine keeps at most
two timers, as points in time: ``retransmit_at`` (timers A, E, G, the 100 that is
owed, and the 2xx of an INVITE) and ``expires_at`` (B, D, F, H, I, J, K, L, M).
The layer that matches messages to machines is ``sipgw.transactions``.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any, Final

from sipgw.constants import MAX_FORWARDS, T1, T2, T4, TIMER_D, TRYING_AFTER
from sipgw.message import Request, Response, reply

Address = tuple[Any, int]
"""Where datagrams come from and go to: ``(host, port)``, whatever the transport calls a host."""


class State(Enum):
    """States, named as in RFC 3261 §17 and RFC 6026 §7."""

    CALLING = "Calling"
    TRYING = "Trying"
    PROCEEDING = "Proceeding"
    COMPLETED = "Completed"
    CONFIRMED = "Confirmed"
    ACCEPTED = "Accepted"
    TERMINATED = "Terminated"


@dataclass(frozen=True, slots=True)
class TimerConfig:
    """The timers that the others are made of, in seconds (RFC 3261 §17, table 4).

    Attributes:
        t1: estimate of the round trip.
        t2: longest gap between retransmissions.
        t4: how long a message may live in the network.
        d: how long an INVITE's retransmitted final responses are absorbed.
        trying_after: when 100 is sent for an INVITE of which nothing was said yet (§17.2.1).
        patience: when an INVITE that still rings gets 408, or is given up if it is ours (the
            RFC sets no limit; the user layer should have done so before).
    """

    t1: float = T1
    t2: float = T2
    t4: float = T4
    d: float = TIMER_D
    trying_after: float = TRYING_AFTER
    patience: float = 600.0

    @property
    def timeout(self) -> float:
        """64 T1: timers B, F, H, J, L and M."""
        return 64 * self.t1


@dataclass(frozen=True, slots=True)
class Send:
    """Action: send this datagram."""

    data: bytes
    to: Address


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """Event: a new request, once; answer it with ``respond``. Never an ACK or a CANCEL."""

    transaction: "ServerTransaction"
    request: Request
    source: Address


@dataclass(frozen=True, slots=True)
class AckReceived:
    """Event: an ACK for a 2xx; ``transaction`` is the INVITE's if it is still known."""

    request: Request
    transaction: "ServerTransaction | None"
    source: Address


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """Event: the client gives up this INVITE, which is owed a 487; the CANCEL was answered."""

    transaction: "ServerTransaction"
    request: Request


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """Event: a response to our request; a final one once, except that each 2xx to INVITE comes."""

    transaction: "ClientTransaction"
    response: Response


@dataclass(frozen=True, slots=True)
class StrayResponse:
    """Event: a 2xx to an INVITE whose transaction is gone; it is owed an ACK and a BYE."""

    response: Response
    source: Address


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Event: no final response came in time (B, F); to be treated as 408 (§8.1.3.1)."""

    transaction: "ClientTransaction"


@dataclass(frozen=True, slots=True)
class AckMissing:
    """Event: nobody acknowledged our final response (H, L); after a 2xx a BYE is owed."""

    transaction: "ServerTransaction"


Action = (
    Send
    | RequestReceived
    | AckReceived
    | CancelReceived
    | ResponseReceived
    | StrayResponse
    | TimedOut
    | AckMissing
)


class ServerTransaction:
    """A request that we answer (§17.2).

    Attributes:
        request: the request; its topmost Via says where it came from.
        source: where it came from.
        to: where responses go.
        state: see State.
        tag: the To tag of every response that ``reply`` makes.
    """

    __slots__ = (
        "_interval",
        "_last",
        "_timers",
        "acknowledged",
        "dialog_key",
        "expires_at",
        "invite",
        "key",
        "request",
        "retransmit_at",
        "serial",
        "size",
        "source",
        "state",
        "tag",
        "to",
        "wake",
    )

    def __init__(
        self,
        key: tuple[Any, ...],
        request: Request,
        *,
        source: Address,
        to: Address,
        tag: str,
        timers: TimerConfig,
        now: float,
    ) -> None:
        self.key = key
        self.request = request
        self.source = source
        self.to = to
        self.tag = tag
        self.invite = request.method == "INVITE"
        self.acknowledged = False
        self.dialog_key: tuple[Any, ...] | None = None
        self.serial = self.size = 0
        self.wake = inf
        self._timers = timers
        self._last: Send | None = None
        self._interval = timers.t1
        if self.invite:
            self.state = State.PROCEEDING
            self.retransmit_at = now + timers.trying_after
            self.expires_at = now + timers.patience
        else:
            self.state = State.TRYING
            self.retransmit_at = inf
            self.expires_at = now + timers.timeout  # the client has given up by then

    @property
    def finished(self) -> bool:
        """Whether the final response has gone out."""
        return self.state not in _UNANSWERED

    @property
    def absorbing(self) -> bool:
        """Whether all is done but to absorb retransmissions: it may be forgotten early."""
        if self.state is State.COMPLETED:
            return not self.invite
        return self.acknowledged or self.state in (State.CONFIRMED, State.TERMINATED)

    def reply(self, status: int, reason: str = "") -> Response:
        """Make a response with this transaction's To tag."""
        return reply(self.request, status, reason, self.tag)

    def respond(self, response: Response, now: float) -> list[Action]:
        """Send a response of the user layer; one that comes too late is dropped.

        A 2xx to an INVITE is sent again, with gaps that double from T1 to T2, until its ACK
        comes (§13.3.1.4).
        """
        status = response.status
        if self.state is State.ACCEPTED and 200 <= status < 300:
            return [Send(response.encode(), self.to)]
        if self.state not in _UNANSWERED:
            return []
        self._last = Send(response.encode(), self.to)
        if status < 200:
            self.state = State.PROCEEDING
            if self.invite:
                self.retransmit_at = inf  # whatever it was, 100 is owed no more
        elif not self.invite:
            self.state = State.COMPLETED
            self.expires_at = now + self._timers.timeout  # J
        else:
            self.state = State.ACCEPTED if status < 300 else State.COMPLETED
            self.expires_at = now + self._timers.timeout  # L, H
            self.retransmit_at = now + self._interval  # G
        return [self._last]

    def on_request(self) -> list[Action]:
        """The same request came again: send the last response again, if any is owed."""
        again = self.state in (State.PROCEEDING, State.COMPLETED) and self._last is not None
        return [self._last] if again and self._last is not None else []

    def on_ack(self, now: float) -> None:
        """An ACK came for our final response."""
        if self.state is State.COMPLETED and self.invite:
            self.state = State.CONFIRMED
            self.retransmit_at = inf
            self.expires_at = now + self._timers.t4  # I
        elif self.state is State.ACCEPTED:
            self.acknowledged = True
            self.retransmit_at = inf

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due at ``now``."""
        if now >= self.expires_at:
            if self.invite and self.state is State.PROCEEDING:
                return self.respond(self.reply(408), now)
            before, self.state = self.state, State.TERMINATED
            self.expires_at = self.retransmit_at = inf
            unacknowledged = before is State.COMPLETED and self.invite
            if unacknowledged or (before is State.ACCEPTED and not self.acknowledged):
                return [AckMissing(self)]
            return []
        if now < self.retransmit_at:
            return []
        if self._last is None:
            return self.respond(reply(self.request, 100), now)
        self._interval = min(2 * self._interval, self._timers.t2)
        self.retransmit_at = now + self._interval
        return [self._last]


_UNANSWERED: Final = frozenset({State.TRYING, State.PROCEEDING})


class ClientTransaction:
    """A request that we make (§17.1).

    Attributes:
        request: as sent, our Via topmost.
        to: where it goes.
        state: see State.
        cancelled: whether the user layer has given it up.
    """

    __slots__ = (
        "_ack",
        "_interval",
        "_sent",
        "_timers",
        "cancel_sent",
        "cancelled",
        "expires_at",
        "invite",
        "key",
        "request",
        "retransmit_at",
        "serial",
        "size",
        "state",
        "to",
        "wake",
    )

    def __init__(
        self,
        key: tuple[Any, ...],
        request: Request,
        to: Address,
        timers: TimerConfig,
        now: float,
    ) -> None:
        self.key = key
        self.request = request
        self.to = to
        self.invite = request.method == "INVITE"
        self.state = State.CALLING if self.invite else State.TRYING
        self.cancelled = self.cancel_sent = False
        self.serial = self.size = 0
        self.wake = inf
        self._timers = timers
        self._sent = Send(request.encode(), to)
        self._ack: Send | None = None
        self._interval = timers.t1
        self.retransmit_at = now + timers.t1  # A, E
        self.expires_at = now + timers.timeout  # B, F

    def start(self) -> list[Action]:
        """Send the request the first time."""
        return [self._sent]

    @property
    def finished(self) -> bool:
        """Whether a final response has come."""
        return self.state in (State.COMPLETED, State.ACCEPTED, State.TERMINATED)

    @property
    def absorbing(self) -> bool:
        """Whether all is done but to absorb retransmissions: it may be forgotten early.

        Accepted is not: further 2xx, of other forks too, belong to it (RFC 6026 §7.2).
        """
        return self.state in (State.COMPLETED, State.TERMINATED)

    def on_response(self, response: Response, now: float) -> list[Action]:
        """A response came that belongs to this request."""
        if response.status < 200:
            return self._on_provisional(response, now)
        if self.state is State.ACCEPTED:
            return [ResponseReceived(self, response)] if response.status < 300 else []
        if self.state is State.COMPLETED:
            return [self._ack] if self._ack is not None and response.status >= 300 else []
        self.retransmit_at = inf
        if not self.invite:
            self.state = State.COMPLETED
            self.expires_at = now + self._timers.t4  # K
            return [ResponseReceived(self, response)]
        if response.status < 300:
            self.state = State.ACCEPTED
            self.expires_at = now + self._timers.timeout  # M
            return [ResponseReceived(self, response)]
        self.state = State.COMPLETED
        self.expires_at = now + self._timers.d  # D
        self._ack = Send(ack_for_failure(self.request, response).encode(), self.to)
        return [self._ack, ResponseReceived(self, response)]

    def _on_provisional(self, response: Response, now: float) -> list[Action]:
        if self.state in (State.COMPLETED, State.ACCEPTED):
            return []
        if self.invite:
            self.retransmit_at = inf
            if not self.cancel_sent:
                self.expires_at = now + self._timers.patience
        self.state = State.PROCEEDING
        return [ResponseReceived(self, response)]

    def give_up(self, now: float) -> None:
        """The CANCEL goes out: wait 64 T1 more for the final response, not longer (§9.1)."""
        self.cancel_sent = True
        self.expires_at = now + self._timers.timeout

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due at ``now``."""
        if now >= self.expires_at:
            timed_out = not self.finished
            self.state = State.TERMINATED
            self.expires_at = self.retransmit_at = inf
            return [TimedOut(self)] if timed_out else []
        if now < self.retransmit_at:
            return []
        if self.invite:
            self._interval *= 2
        elif self.state is State.PROCEEDING:
            self._interval = self._timers.t2
        else:
            self._interval = min(2 * self._interval, self._timers.t2)
        self.retransmit_at = now + self._interval
        return [self._sent]


def ack_for_failure(invite: Request, response: Response) -> Request:
    """Make the ACK for a final response that is no 2xx (§17.1.1.3)."""
    ack = _like(invite, "ACK")
    ack.headers.set("To", response.headers.first("to") or invite.headers.first("to") or "")
    return ack


def cancel_for(request: Request) -> Request:
    """Make the CANCEL for a request of ours (§9.1)."""
    return _like(request, "CANCEL")


def _like(request: Request, method: str) -> Request:
    made = Request(method, request.uri)
    headers = made.headers
    headers.add("Via", request.headers.first("via") or "")
    headers.copy_from(request.headers, "Route", "From", "To", "Call-ID")
    headers.add("CSeq", f"{request.cseq.number} {method}")
    headers.add("Max-Forwards", str(MAX_FORWARDS))
    return made
