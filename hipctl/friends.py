"""Peers that must be able to reach us though neither side has a server: called again and again.

An I1 of ours tells them where we are, and our NAT that they may answer.
"""

from collections.abc import Sequence

from hipctl.actions import Action, Pair
from hipctl.associations import Associations
from hipctl.constants import FRIENDS_MAX
from hipctl.identity import Hit
from hipctl.state import Shared


class Friends:
    """The friends of one engine's identities, see ``interface.Host.befriend``."""

    __slots__ = ("_at", "_shared", "_table")

    def __init__(self, shared: Shared, table: Associations) -> None:
        self._shared = shared
        self._table = table
        self._at: float | None = None

    def choose(self, local: Hit, peers: Sequence[Hit], now: float) -> list[Pair]:
        """These are the friends of ``local`` from now on; those who were not before."""
        shared = self._shared
        ours = frozenset((local, peer) for peer in peers[:FRIENDS_MAX])
        new = sorted(ours - shared.friends)
        shared.friends = frozenset(p for p in shared.friends if p[0] != local) | ours
        if shared.friends and self._at is None:
            self._at = now
        return new

    def hurry(self, now: float) -> None:
        """Call them now, for where they know us to be may be no more."""
        if self._shared.friends:
            self._at = now

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._at

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        shared = self._shared
        if self._at is None or self._at > now:
            return []
        self._at = now + shared.config.keepalive if shared.friends else None
        actions: list[Action] = []
        for pair in [p for p in sorted(shared.friends) if shared.addresses(p[1])]:
            actions += self._call(pair, now)
        return actions

    def _call(self, pair: Pair, now: float) -> list[Action]:
        """Let a friend whom we cannot hear know where we are."""
        if pair in self._table.by_pair:
            return []
        association, actions = self._table.to(pair, now)
        if association is None:
            return []
        actions += association.call_out(now)
        self._table.settle(association)
        return actions
