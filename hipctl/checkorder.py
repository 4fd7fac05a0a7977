"""Which pair of a checklist is checked next, and when (RFC 8445 §6.1.4).

Choices of ours, both against the letter of RFC 9028 §4.6.2, which asks for a check each Ta in
order of priority:

- Pairs that go through relays of both sides are checked one at a time, and none once a pair is
  valid: one will do, and hosts that show relayed candidates only have no others. When the path in
  use is in doubt they are checked at the usual pace: somebody is waiting.
- Without foundations nothing keeps many similar pairs (a machine with many networks) from
  delaying the others, so every third check goes to the kind of pair that had the fewest.
"""

import math
from collections import deque
from typing import Final

from hipctl.checklist import BOTH, Checklist, Pair, PairState

_TURNS: Final = 3  # one of so many checks goes to the kind of pair that had the fewest
_APART: Final = 0.5  # seconds at most between checks of pairs that go through relays of both sides


class CheckOrder:
    """The queue of triggered checks, and the pace of all.

    Args:
        pacing: Ta, seconds.
        patience: seconds in which each pair of a checklist should have its turn.
    """

    def __init__(self, pacing: float, patience: float) -> None:
        self._pacing = pacing
        self._patience = patience
        self._triggered: deque[Pair] = deque()
        self._turn = 0
        self._next_at = 0.0

    def clear(self) -> None:
        """No check is triggered any more."""
        self._triggered.clear()

    def trigger(self, pair: Pair, *, first: bool = False) -> None:
        """Check a pair as soon as the pace allows; an older check is repeated no more (§7.3.1.4).

        One that nominates stays one.
        """
        pair.state, pair.number = PairState.WAITING, 0
        if first:
            if pair in self._triggered:
                self._triggered.remove(pair)
            self._triggered.appendleft(pair)
        elif pair not in self._triggered:
            self._triggered.append(pair)

    def take(self, pairs: Checklist, now: float, *, urgent: bool) -> Pair | None:
        """The pair to check now: triggered ones first, else that of the highest priority.

        Args:
            pairs: all.
            now: monotonic seconds.
            urgent: the path in use is in doubt.
        """
        if now < self._next_at:
            return None
        pair = self._next(pairs, now, urgent=urgent)
        if pair is not None:
            self._next_at = now + self._pacing
        return pair

    def _next(self, pairs: Checklist, now: float, *, urgent: bool) -> Pair | None:
        while self._triggered:
            pair = self._triggered.popleft()
            if pair.state is PairState.WAITING:
                return pair
        self._turn += 1
        twice = self._twice_at(pairs, urgent=urgent) <= now
        return pairs.next_waiting(varied=self._turn % _TURNS == 0, twice=twice)

    def at(self, pairs: Checklist, now: float, *, urgent: bool) -> float | None:
        """When the next check may go; None: there is none to be sent. See ``take``."""
        waiting = [pair for pair in pairs if pair.state is PairState.WAITING]
        if not waiting:
            return None
        at = max(now, self._next_at)
        if not self._triggered and all(pair.relays == BOTH for pair in waiting):
            at = max(at, self._twice_at(pairs, urgent=urgent))
        return at if at < math.inf else None

    def _twice_at(self, pairs: Checklist, *, urgent: bool) -> float:
        """From when on a pair that goes through relays of both sides may be checked."""
        if any(pair.valid_at is not None and not pairs.is_mute(pair) for pair in pairs):
            return math.inf
        if urgent:
            return -math.inf
        twice = [pair for pair in pairs if pair.relays == BOTH]
        asked = (pair.asked_at for pair in twice if pair.state is PairState.IN_PROGRESS)
        return max(asked, default=-math.inf) + min(_APART, self._patience / max(1, len(twice)))
