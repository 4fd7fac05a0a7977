"""Where this host is, as its associations learn it: all when it moves or wakes, in good order."""

from collections.abc import Sequence
from typing import Final

from hipctl.actions import Action, Address, Pair
from hipctl.association import Association
from hipctl.associations import Associations
from hipctl.constants import LOCATORS_MAX
from hipctl.locators import announceable
from hipctl.state import Shared

_MOVED_AT_ONCE: Final = 64  # associations that are told of a move at once
_MOVED_RATE: Final = 250.0  # and a second after that


class Whereabouts:
    """The moves of one engine."""

    __slots__ = ("_shared", "_table")

    def __init__(self, shared: Shared, table: Associations) -> None:
        self._shared = shared
        self._table = table

    def show(self, pair: Pair, now: float) -> list[Action]:
        """Tell a peer where we are, if it doesn't know and there is an association."""
        association = self._table.by_pair.get(pair)
        upkeep = association.standing.upkeep if association is not None else None
        if association is None or upkeep is None:
            return []
        actions = upkeep.disclose(now)
        self._table.settle(association)
        return actions

    def moved(self, addresses: Sequence[Address], now: float) -> list[Action]:
        """We are at these addresses now; see ``Engine.set_locators``."""
        shared = self._shared
        ours = tuple(dict.fromkeys(a for a in addresses if announceable(a[0])))[:LOCATORS_MAX]
        if ours == shared.locators:  # perhaps those of another home, with the same numbers
            for local in shared.identities:
                shared.poke_servers(local)
            return []
        shared.locators = shared.requester.locators = ours
        actions: list[Action] = []
        if ours:
            for association in self._in_order():
                actions += association.forsake()
                self._table.settle(association)
        for i, association in enumerate(self._in_order()):
            upkeep = association.standing.upkeep
            if upkeep is not None:
                actions += upkeep.set_locators(ours, _turn(i, now), now)
                self._table.settle(association)
        return actions

    def woke(self, now: float) -> list[Action]:
        """We have slept: every association sees whether its peer has kept it."""
        actions: list[Action] = []
        for i, association in enumerate(self._in_order()):
            actions += association.woke(_turn(i, now), now)
            self._table.settle(association)
        return actions

    def _in_order(self) -> list[Association]:
        """Servers of ours, then those last heard."""
        servers = self._shared.servers
        return sorted(
            self._table.by_pair.values(),
            key=lambda a: (a.pair not in servers, -a.standing.last_heard()),
        )


def _turn(i: int, now: float) -> float:
    """When the i-th of many may say something."""
    return now + max(0, i - _MOVED_AT_ONCE) / _MOVED_RATE
