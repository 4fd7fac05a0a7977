"""All associations of one host: a bounded table, and an alarm for each that waits for a time."""

import heapq
from collections.abc import Iterator
from typing import Final

from hipctl.actions import Action, Pair
from hipctl.association import Association
from hipctl.state import Shared, State

_EVICTED_SHARE: Final = 256  # of a full table, one in so many is evicted at once
_GONE: Final = frozenset({State.UNASSOCIATED, State.E_FAILED})
_EXCHANGING: Final = frozenset({State.I1_SENT, State.I2_SENT})
ENDING: Final = frozenset({State.CLOSING, State.CLOSED})


class Associations:
    """The table of one engine.

    Attributes:
        by_pair: (local HIT, peer HIT) -> the association.
        exchanging: those with a base exchange of ours under way.
    """

    __slots__ = ("_alarm_number", "_alarms", "_shared", "by_pair", "exchanging")

    def __init__(self, shared: Shared) -> None:
        self.by_pair: dict[Pair, Association] = {}
        self.exchanging: set[Pair] = set()
        self._shared = shared
        self._alarms: list[tuple[float, int, Pair]] = []
        self._alarm_number = 0

    def add(self, association: Association, now: float) -> list[Action]:
        """Put it in; close those least recently heard if the table is full."""
        actions: list[Action] = []
        by_pair, shared = self.by_pair, self._shared
        if len(by_pair) >= shared.config.max_associations:
            count = 1 + len(by_pair) // _EVICTED_SHARE  # the search costs, so do some
            for victim in heapq.nsmallest(count, by_pair.values(), key=self._worth):
                shared.counters["association evicted"] += 1
                actions += victim.abandon(now)
                self.settle(victim)
        by_pair[association.pair] = association
        return actions

    def _worth(self, association: Association) -> tuple[int, float]:
        standing, shared = association.standing, self._shared
        if association.state in ENDING:
            return 0, standing.heard_at
        if association.state in _EXCHANGING:
            return 2, standing.heard_at
        pair = association.pair
        serves = shared.serving.holds(pair) or shared.requester.holds(pair)
        return 2 if serves else 1, standing.last_heard()

    def settle(self, association: Association) -> None:
        """After every input: keep table and alarms in step with the association's state."""
        pair = association.pair
        if association.state in _GONE:
            self.by_pair.pop(pair, None)
            self.exchanging.discard(pair)
            return
        if association.state in _EXCHANGING:
            self.exchanging.add(pair)
        else:
            self.exchanging.discard(pair)
        at = association.deadline()
        if at is not None and (association.armed is None or at < association.armed):
            association.armed = at
            self._alarm_number += 1
            heapq.heappush(self._alarms, (at, self._alarm_number, pair))

    def deadline(self) -> float | None:
        """When the next alarm is due; it may be for nothing."""
        return self._alarms[0][0] if self._alarms else None

    def due(self, now: float) -> Iterator[Association]:
        """Those whose time has come; settle each before the next."""
        while self._alarms and self._alarms[0][0] <= now:
            at, _, pair = heapq.heappop(self._alarms)
            association = self.by_pair.get(pair)
            if association is not None and association.armed == at:
                association.armed = None
                yield association
