"""Through whom we enter the overlay, first and again: the profile's seeds, and whom we met.

Two halves of an overlay that were cut apart know only themselves after a while. So whoever falls
silent is greeted now and then, long after it has left the table.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from hipctl import Hit

MAX_SEEDS: Final = 256  # beside those of the profile
MAX_LOST: Final = 64  # likewise
FIXED_BATCH: Final = 4  # seeds of the profile that one try greets …
MET_BATCH: Final = 12  # … and of the others
LOST_EVERY: Final = 60.0  # seconds after which some that fell silent are greeted again
LOST_BATCH: Final = 2


class Seeds:
    """Contacts by HIT, oldest first; those of the profile are never forgotten."""

    def __init__(self) -> None:
        self._fixed: dict[Hit, bytes] = {}
        self._met: OrderedDict[Hit, bytes] = OrderedDict()
        self._lost: OrderedDict[Hit, None] = OrderedDict()  # the next to try first
        self._turns = 0
        self._tried = float("-inf")

    def __len__(self) -> int:
        return len(self._fixed) + len(self._met)

    def begin(
        self, fixed: Iterable[tuple[Hit, bytes]], met: Iterable[tuple[Hit, bytes]], local: Hit
    ) -> None:
        """Take the profile's seeds, and whom we met before this start, latest first."""
        self._fixed = {hit: contact for hit, contact in fixed if hit != local}
        for hit, contact in met:
            if hit != local and hit not in self._fixed:
                self._met[hit] = contact

    def contact(self, hit: Hit) -> bytes:
        """How ``hit`` may be reached; empty if that isn't known."""
        return self._fixed.get(hit) or self._met.get(hit, b"")

    def meet(self, hit: Hit, contact: bytes) -> None:
        """We met ``hit``, or know better where it is; an empty contact changes nothing we know."""
        contact = contact or self.contact(hit)
        if hit in self._fixed:
            self._fixed[hit] = contact
            return
        self._met[hit] = contact
        self._met.move_to_end(hit)
        if len(self._met) > MAX_SEEDS:
            old, _ = self._met.popitem(last=False)
            self._lost.pop(old, None)

    def all(self) -> list[Hit]:
        """Everybody, whom we met last first, those of the profile at the end."""
        return list(dict.fromkeys((*reversed(self._met), *self._fixed)))

    def turn(self) -> list[Hit]:
        """Whom to greet while we know nobody: another choice each time."""
        fixed = _from(list(self._fixed), self._turns * FIXED_BATCH, FIXED_BATCH)
        met = _from(list(self._met), self._turns * MET_BATCH, MET_BATCH)
        self._turns += 1
        return fixed + met

    def lose(self, hit: Hit) -> None:
        """``hit`` is silent; whoever is no seed doesn't matter."""
        if hit in self._lost or not (hit in self._fixed or hit in self._met):
            return
        self._lost[hit] = None
        self._lost.move_to_end(hit, last=False)
        if len(self._lost) > MAX_LOST + len(self._fixed):
            del self._lost[next(h for h in reversed(self._lost) if h not in self._fixed)]

    def find(self, hit: Hit) -> bool:
        """``hit`` gave a sign of life; whether it was lost."""
        return self._lost.pop(hit, True) is None

    def lost(self, now: float) -> list[Hit]:
        """Whom of the lost to greet now, monotonic seconds; the latest are tried first."""
        if not self._lost or now - self._tried < LOST_EVERY:
            return []
        self._tried = now
        chosen = list(islice(self._lost, LOST_BATCH))
        for hit in chosen:
            self._lost.move_to_end(hit)
        return chosen


def _from(hits: Sequence[Hit], start: int, count: int) -> list[Hit]:
    """At most ``count`` of ``hits``, from ``start`` on and around."""
    start %= len(hits) or 1
    return [*hits[start:], *hits[:start]][:count]
