"""Peers that must be able to reach us though neither side has a server: called again and again.

An I1 of ours tells them where we are, and our NAT that they may answer.
"""

from collections.abc import Sequence

from hipctl.actions import Pair
from hipctl.constants import FRIENDS_MAX
from hipctl.identity import Hit
from hipctl.state import Shared


class Friends:
    """The friends of one engine's identities, see ``interface.Host.befriend``."""

    __slots__ = ("_at", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
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
        """When ``due`` is to be asked next."""
        return self._at

    def due(self, now: float) -> list[Pair]:
        """Whom to call now, unless there is an association."""
        shared = self._shared
        if self._at is None or self._at > now:
            return []
        self._at = now + shared.config.keepalive if shared.friends else None
        return [pair for pair in sorted(shared.friends) if shared.addresses(pair[1])]
