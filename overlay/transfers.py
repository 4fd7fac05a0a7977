"""Records follow the nodes: what is handed over when a node came or left.

The nearest holder of a key hands it to a newcomer that belongs among its replicas, and to whoever
takes the place of one that left; the next nearest does so too, in case it is mistaken. Keys are
looked at in slices, so that thousands of them don't hold up the loop.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from overlay.records import Record
from overlay.routing import Contact, Table
from overlay.storage import Storage

SLICE: Final = 64  # keys looked at in one go
BATCH: Final = 2  # records handed over in one go: every 20 ms, half of what a neighbour takes
SLACK: Final = 120  # seconds that a node takes to become known, and clocks differ
MAX_WAITING: Final = 64  # nodes that came or left and still have to be looked at


class _Change(NamedTuple):
    node: Contact
    came: bool
    since: float
    lost: float
    keys: Iterator[bytes]


class Transfers:
    """The nodes that came or left, and the keys that must still be looked at for each."""

    def __init__(self, table: Table, storage: Storage, replicas: int) -> None:
        self._table = table
        self._storage = storage
        self._replicas = replicas
        self._waiting: deque[_Change] = deque()
        self._found: deque[tuple[Contact, Record]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting or self._found)

    def begin(self, node: Contact, since: float, lost: float, *, came: bool) -> bool:
        """Note a change; False if it takes no work, or there is too much already.

        Args:
            node: who came or left.
            since: when a newcomer started, Unix seconds: whatever was stored later reached it
                already, unless we had lost it; infinite if that isn't known.
            lost: when it was last heard before it came back, Unix seconds; infinite for others.
            came: or left.
        """
        if not len(self._storage) or len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(_Change(node, came, since, lost, iter(self._storage.keys())))
        return True

    def step(self, wall: float) -> list[tuple[Contact, Record]]:
        """Who has to be handed what next, a few; looks at one slice when none are left."""
        if not self._found and self._waiting:
            self._look(wall)
        found = self._found
        batch = [found.popleft() for _ in range(min(BATCH, len(found)))]
        known = self._table.by_id  # who has gone meanwhile gets nothing
        return [(node, record) for node, record in batch if node.long_id in known]

    def _look(self, wall: float) -> None:
        node, came, since, lost, keys = self._waiting[0]
        if came and node.long_id not in self._table.by_id:
            self._waiting.popleft()
            return
        looked = 0
        for key in islice(keys, SLICE):
            looked += 1
            target = int.from_bytes(key, "big")
            receiver = node if came else self._successor(target, node)
            if receiver is not None and self._is_on_us(target, receiver):
                self._found += (
                    (receiver, record)
                    for record in self._storage.values(key, None, wall)
                    if not since + SLACK < record.created < lost - SLACK
                )
        if looked < SLICE:
            self._waiting.popleft()

    def _successor(self, target: int, gone: Contact) -> Contact | None:
        """Who has become one of the replicas because ``gone`` has left, if ``gone`` was one."""
        nearest = self._table.nearest(target, self._replicas)
        if len(nearest) < self._replicas:
            return None
        ours_too = self._distance(target) < nearest[-1].long_id ^ target
        last = nearest[self._replicas - 2 if ours_too and self._replicas > 1 else -1]
        return last if gone.long_id ^ target < last.long_id ^ target else None

    def _is_on_us(self, target: int, receiver: Contact) -> bool:
        """Whether ``receiver`` should hold the key, and we are who hands it over."""
        nearest = self._table.nearest(target, self._replicas)
        if not nearest:
            return False
        theirs = receiver.long_id ^ target
        if len(nearest) >= self._replicas and theirs > nearest[-1].long_id ^ target:
            return False
        ours = self._distance(target)
        return sum(c.long_id ^ target < ours for c in nearest if c is not receiver) < 2

    def _distance(self, target: int) -> int:
        return int(self._table.node.long_id) ^ target
