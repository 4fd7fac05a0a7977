"""All associations of one host: a bounded table, and an alarm for each that waits for a time."""

import heapq
from collections.abc import Iterator, Mapping
from typing import Final

from hipctl.access import Access
from hipctl.actions import Action, Pair
from hipctl.association import Association
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown
from hipctl.responder import Responder
from hipctl.state import Shared, State

_EVICTED_SHARE: Final = 256  # of a full table, one in so many is evicted at once
_GONE: Final = frozenset({State.UNASSOCIATED, State.E_FAILED})
_EXCHANGING: Final = frozenset({State.I1_SENT, State.I2_SENT})
_ENDING: Final = frozenset({State.CLOSING, State.CLOSED})


class Associations:
    """The table of one engine.

    Attributes:
        access: who may associate with us.
        by_pair: (local HIT, peer HIT) -> the association.
        exchanging: those with a base exchange of ours under way.
    """

    __slots__ = (
        "_alarm_number",
        "_alarms",
        "_identities",
        "_shared",
        "access",
        "by_pair",
        "exchanging",
    )

    def __init__(
        self, identities: Mapping[Hit, tuple[HostIdentity, Responder]], shared: Shared
    ) -> None:
        self.access = Access()
        self.by_pair: dict[Pair, Association] = {}
        self.exchanging: set[Pair] = set()
        self._identities = identities
        self._shared = shared
        self._alarms: list[tuple[float, int, Pair]] = []
        self._alarm_number = 0

    def to(self, pair: Pair, now: float) -> tuple[Association | None, list[Action]]:
        """Find or make the association, if our limits allow another exchange; else say why not."""
        local, peer = pair
        association = self.by_pair.get(pair)
        if association is not None and association.state not in _ENDING:
            return association, []
        ours = self._identities.get(local)
        if ours is None or peer in self._identities:
            return None, [AssociationDown(local, peer, "not possible with these HITs")]
        if not self.access.permits(peer):
            return None, [AssociationDown(local, peer, "denied")]
        if len(self.exchanging) >= self._shared.config.max_exchanges:
            self._shared.counters["too many exchanges"] += 1
            return None, [AssociationDown(local, peer, "too many exchanges")]
        if association is not None:
            return association, []
        association = Association(*ours, peer, self._shared)
        return association, self.add(association, now)

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
        if association.state in _ENDING:
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
