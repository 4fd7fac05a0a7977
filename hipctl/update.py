"""Which UPDATEs wait for an ACK, and which of the peer's we have seen (RFC 7401 §6.11, §6.12).

Nothing here signs, sends or reads a parameter: ``outbox`` and ``upkeep`` do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from hipctl.actions import Address, Path
from hipctl.checks import Ask

OUTSTANDING_MAX: Final = 64  # UPDATEs of ours that wait for an ACK at a time
_AHEAD_MAX: Final = 4_096  # a new Update ID may be so far ahead of the highest that we know
_BEHIND: Final = 64  # of so many below it we know which came
_CIRCLE: Final = 2**32
_KNOWN: Final = (1 << _BEHIND) - 1
_RTT_GAIN: Final = 1 / 8


class Arrival(Enum):
    """What an Update ID of the peer's is to us."""

    NEW = "process it"
    REPEATED = "acknowledge it again, and do nothing else"
    OUTSIDE = "too old or too far ahead to tell: drop it"


@dataclass(slots=True)
class Outstanding:
    """One UPDATE of ours that has not been acknowledged.

    Attributes:
        update_id: its Update ID.
        packet: its bytes, the same at every transmission.
        path: between which addresses it goes.
        limit: transmissions before we give up.
        nonce: in its ECHO_REQUEST_SIGNED; empty if it has none.
        announces: it carries our LOCATOR_SET.
        rekeys: it carries ESP_INFO with a new SPI.
        vital: a peer that doesn't acknowledge it may not be there any more.
        ask: the connectivity check that it is, or None.
        pause: seconds before its first retransmission, 0 for what the path's round trips say.
        sent_at: first transmission.
        due_at: next transmission, or giving up.
        attempt: transmissions so far.
    """

    update_id: int
    packet: bytes
    path: Path
    limit: int
    nonce: bytes = b""
    announces: bool = False
    rekeys: bool = False
    vital: bool = False
    ask: Ask | None = None
    pause: float = 0.0
    sent_at: float = 0.0
    due_at: float = 0.0
    attempt: int = 0


@dataclass(slots=True)
class Updates:
    """Both directions' Update IDs.

    Attributes:
        initial: seconds before the first retransmission as long as we don't know better.
        least: seconds before it at least.
        rtt: round-trip time, seconds, smoothed; None before the first ACK.
        outstanding: by Update ID, oldest first.
        latest: where the last one went first, and when.
    """

    initial: float
    least: float
    rtt: float | None = None
    outstanding: dict[int, Outstanding] = field(default_factory=dict)
    latest: tuple[Address, float] | None = None
    _next: int = 0
    _highest: int = -1  # of the peer's; -1 before the first
    _seen: int = 0  # bit i: highest - i was processed
    _wrapped: bool = False  # the peer's Update IDs have passed 2^32 - 1

    # -- ours ----------------------------------------------------------------------------------

    def number(self) -> int:
        """The next Update ID; the first is zero (§6.11)."""
        number = self._next
        self._next = (number + 1) % _CIRCLE
        return number

    def sent(self, update: Outstanding, now: float) -> None:
        """Note the first transmission; beyond the limit a probe is forgotten, else the oldest."""
        update.sent_at, update.attempt = now, 1
        self.latest = update.path.to, now
        update.due_at = now + self._pause(update)
        self.outstanding[update.update_id] = update
        if len(self.outstanding) > OUTSTANDING_MAX:
            least = (u for u in self.outstanding.values() if u.nonce and not u.announces)
            victim = next(least, next(iter(self.outstanding.values())))
            del self.outstanding[victim.update_id]

    def acknowledged(self, update_ids: Iterable[int], now: float) -> list[Outstanding]:
        """Take an ACK; return what it acknowledges for the first time."""
        found = []
        for update_id in update_ids:
            update = self.outstanding.pop(update_id, None)
            if update is None:
                continue
            found.append(update)
            if update.attempt == 1:  # else nobody knows which transmission it answers
                took = now - update.sent_at
                self.rtt = took if self.rtt is None else self.rtt + _RTT_GAIN * (took - self.rtt)
        return found

    def waits_for(self, update_ids: Iterable[int]) -> bool:
        """Whether an ACK of these would say something new."""
        return any(update_id in self.outstanding for update_id in update_ids)

    def deadline(self) -> float | None:
        """When the next transmission is due, or None."""
        return min((update.due_at for update in self.outstanding.values()), default=None)

    def expired(self, now: float) -> tuple[list[Outstanding], list[Outstanding]]:
        """What to send again, and what to give up; the gaps double (§6.11)."""
        again: list[Outstanding] = []
        given_up: list[Outstanding] = []
        for update in list(self.outstanding.values()):
            if update.due_at > now:
                continue
            if update.attempt >= update.limit:
                del self.outstanding[update.update_id]
                given_up.append(update)
                continue
            update.attempt += 1
            update.due_at = now + self._pause(update)
            again.append(update)
        return again, given_up

    def _pause(self, update: Outstanding) -> float:
        first = update.pause or self.initial
        if self.rtt is not None and not update.pause:
            first = min(max(2 * self.rtt, self.least), first)
        return first * 2.0 ** (update.attempt - 1)

    def drop_idle(self, wanted: Callable[[Ask], bool], now: float) -> None:
        """Forget checks whose answers nobody waits for, when they would be sent again."""
        for update in list(self.outstanding.values()):
            if update.ask is not None and update.due_at <= now and not wanted(update.ask):
                del self.outstanding[update.update_id]

    # -- the peer's ----------------------------------------------------------------------------

    def judge(self, update_id: int) -> Arrival:
        """Whether the peer's UPDATE is new; nothing is noted yet."""
        if self._highest < 0:
            return Arrival.NEW if update_id < _AHEAD_MAX else Arrival.OUTSIDE
        ahead = (update_id - self._highest) % _CIRCLE
        if 0 < ahead <= _AHEAD_MAX:
            return Arrival.NEW
        behind = -ahead % _CIRCLE
        if behind >= _BEHIND:
            return Arrival.OUTSIDE
        if self._seen >> behind & 1:
            return Arrival.REPEATED
        return Arrival.NEW if behind <= self._highest or self._wrapped else Arrival.OUTSIDE

    def note(self, update_id: int) -> None:
        """The peer's UPDATE, judged NEW and authentic, is being processed."""
        if self._highest < 0:
            self._highest, self._seen = update_id, 1
            return
        ahead = (update_id - self._highest) % _CIRCLE
        if ahead <= _AHEAD_MAX:
            self._wrapped |= update_id < self._highest
            self._seen = (self._seen << ahead | 1) & _KNOWN
            self._highest = update_id
        else:
            self._seen |= 1 << (-ahead % _CIRCLE)
