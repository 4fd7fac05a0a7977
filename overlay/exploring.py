"""Lookups for their own sake: a node gets to know others, and they it.

Its own neighbourhood when it comes, and every bucket then; later each bucket through which no
lookup went for long.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from overlay.lookup import Lookup
from overlay.operations import Asker, Find, Operation
from overlay.routing import Table

REFRESH_WIDTH: Final = 8
REFRESH_EVERY: Final = 3_600.0  # seconds without a lookup through a bucket
REFRESH_LOOK: Final = 600.0
LOOK_GAP: Final = 10.0  # seconds between two looks around because somebody is back


class Exploring:
    """What one node explores; one bucket at a time."""

    def __init__(
        self,
        asker: Asker,
        table: Table,
        k: int,
        rng: Callable[[int], bytes],
        lookup: Callable[[int, int], Lookup],
    ) -> None:
        """Set up.

        Args:
            asker: asks for our lookups.
            table: whose buckets.
            k: how many nodes to find where we need all.
            rng: random bytes.
            lookup: begins one: (id, how many nodes to find).
        """
        self._asker = asker
        self._table = table
        self._k = k
        self._rng = rng
        self._lookup = lookup
        self._joining: Find | None = None
        self._waiting: deque[tuple[int, int]] = deque()  # id, width
        self._refresh: Find | None = None
        self._looked = float("-inf")  # when we last looked for our own neighbourhood

    @property
    def joining(self) -> bool:
        """Whether we look for our own neighbourhood."""
        return self._joining is not None

    def look_around(self) -> None:
        """Look for our own id: the nearest get to know us, and we them."""
        self._joining = Find(self._asker, self._lookup(self._table.node.long_id, self._k))
        self._joining.start()

    def look_again(self, now: float) -> None:
        """We, or all beyond somebody who is back, were cut off: there may be more."""
        if self._joining is None and now - self._looked >= LOOK_GAP:
            self.look_around()

    def ended(self, operation: Operation, now: float) -> bool:
        """An operation has ended; True if it was the look around: now ``fill``."""
        if operation is self._joining:
            self._joining = None
            self._looked = now
            return True
        if operation is self._refresh:
            self._refresh = None
            self._next()
        return False

    def fill(self) -> None:
        """After a join: a lookup through every bucket, so that none stays sparse."""
        self._waiting.extend((target, self._k) for target in self._table.beyond_nearest(self._rng))
        self._next()

    def refresh(self, now: float) -> None:
        """See which buckets no lookup went through; to be called every REFRESH_LOOK."""
        table = self._table
        if not len(table) or self._waiting or self._joining:
            return
        if len(table.buckets) == 1:
            if now - self._looked >= 2 * REFRESH_LOOK:
                self.look_around()
            return
        targets = table.refresh_targets(now - REFRESH_EVERY, self._rng)
        self._waiting.extend((target, REFRESH_WIDTH) for target in targets)
        self._next()

    def _next(self) -> None:
        if self._refresh is None and self._waiting:
            target, width = self._waiting.popleft()
            self._refresh = Find(self._asker, self._lookup(target, width))
            self._refresh.start()
