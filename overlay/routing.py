"""Whom we know: Kademlia's k-buckets, on the parts of the package ``kademlia`` that are sound.

``Node``, ``KBucket`` and ``RoutingTable`` are kept as bases; whatever reads a clock, starts a
task or approximates is overridden. The table is pure: it returns Pings in place of sending them.

Only contacts that an association and a HELLO have proven belong in here; what others tell us of
is a candidate for a lookup and nothing more.
"""

import heapq
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import kademlia.node
import kademlia.routing

from hipctl import Hit

ID_LENGTH = 20  # bytes
ID_BITS = 160
PING_GAP = 60.0  # seconds between two pings for the places of one bucket
RECENT = 1.0  # seconds within which it doesn't matter who was heard last
HIGHEST_ID = 2**ID_BITS - 1
SERVER = b"s"  # how the label of a server begins, see hipctl.Host.groups


class Contact(kademlia.node.Node):  # type: ignore[misc]
    """A node of the overlay: its id, its HIT, and how ``hipctl`` may reach it.

    Attributes:
        id: 20 bytes, recomputed from the HIT by whoever holds this object.
        long_id: the same as a number.
        hit: who it is.
        contact: opaque bytes for ``Host.learn``, at most 80.
        groups: opaque labels of where it is, for diversity; empty on a LAN.
        heard: when it last proved to be alive, monotonic seconds.
        failures: requests in a row that stayed unanswered after all retransmissions.
    """

    __slots__ = ("contact", "failures", "groups", "heard", "hit")

    id: bytes
    long_id: int

    def __init__(
        self,
        node_id: bytes,
        hit: Hit,
        contact: bytes = b"",
        groups: frozenset[bytes] = frozenset(),
        heard: float = 0.0,
    ) -> None:
        super().__init__(node_id)
        self.hit = hit
        self.contact = contact
        self.groups = groups
        self.heard = heard
        self.failures = 0

    def same_home_as(self, node: Any) -> bool:
        """Whether both are one host: a HIT is one, an address proves nothing."""
        return bool(self.hit == node.hit)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.id, self.hit, self.contact))

    def __repr__(self) -> str:
        return f"Contact({self.id.hex()[:8]} {self.hit})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask ``contact`` for a sign of life: a newer one waits for its place."""

    contact: Contact


class Bucket(kademlia.routing.KBucket):  # type: ignore[misc]
    """The contacts whose ids lie in ``range``, both ends included, least recently heard first.

    Attributes:
        last_updated: when a lookup last went through this range, monotonic seconds.
        pinged: when its head was last pinged for a newer one, monotonic seconds.
    """

    nodes: OrderedDict[bytes, Contact]
    replacement_nodes: OrderedDict[bytes, Contact]

    def __init__(  # the base reads the clock here, and hard-wires its own class in split
        self, lower: int, upper: int, k: int, replacement_factor: int = 1
    ) -> None:
        self.range = (lower, upper)
        self.nodes = OrderedDict()
        self.replacement_nodes = OrderedDict()
        self.last_updated = float("-inf")
        self.pinged = float("-inf")
        self.ksize = k
        self.max_replacement_nodes = k * replacement_factor

    def touch_last_updated(self, now: float = float("-inf")) -> None:
        """Note that a lookup went through this range at ``now``."""
        self.last_updated = now

    def head(self) -> Contact:
        """Who was heard least recently."""
        return next(iter(self.nodes.values()))

    def split(self) -> tuple["Bucket", "Bucket"]:
        """Halve the range; every contact and every waiting one goes to its half."""
        lower, upper = self.range
        middle = (lower + upper) // 2
        one, two = Bucket(lower, middle, self.ksize), Bucket(middle + 1, upper, self.ksize)
        one.last_updated = two.last_updated = self.last_updated
        for node in chain(self.nodes.values(), self.replacement_nodes.values()):
            (one if node.long_id <= middle else two).add_node(node)
        return one, two

    def depth(self) -> int:
        """How many leading bits the range fixes, whoever happens to be in it."""
        lower, upper = self.range
        return int(ID_BITS - (upper - lower + 1).bit_length() + 1)

    def add_node(self, node: Contact) -> bool:
        """Put ``node`` at the tail; False if it has to wait for a place."""
        self.replacement_nodes.pop(node.id, None)
        return bool(super().add_node(node))

    def shares_group(self, node: Contact, limit: int) -> bool:
        """Whether ``limit`` others in here already are where ``node`` is.

        Behind one server may be half of the bucket: few serve all in a small overlay.
        """
        return any(
            sum(label in other.groups for other in self.nodes.values() if other.id != node.id)
            >= (max(limit, self.ksize // 2) if label[:1] == SERVER else limit)
            for label in node.groups
        )


class Table(kademlia.routing.RoutingTable):  # type: ignore[misc]
    """All buckets of one node of one overlay.

    Args:
        node_id: our own id, 20 bytes.
        k: places in a bucket.
        per_group: at most so many contacts of a bucket share a group label, but half of it that
            of a server; None for no limit.
        quiet: seconds since a contact was heard before it is pinged to make place.
    """

    buckets: list[Bucket]
    node: Contact

    def __init__(
        self, node_id: bytes, k: int = 20, *, per_group: int | None = None, quiet: float = 900.0
    ) -> None:
        self.by_id: dict[int, Contact] = {}
        self._lower: list[int] = [0]
        self._per_group = per_group
        self._quiet = quiet
        super().__init__(None, k, kademlia.node.Node(node_id))

    def flush(self) -> None:
        """Forget everybody."""
        self.buckets = [Bucket(0, HIGHEST_ID, self.ksize)]
        self._lower = [0]
        self.by_id.clear()

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self.by_id

    def contacts(self) -> Iterable[Contact]:
        """Everybody, in no order."""
        return self.by_id.values()

    def get_bucket_for(self, node: Any) -> int:
        """Index of the bucket whose range holds the node's id."""
        return self.bucket_index(node.long_id)

    def bucket_index(self, long_id: int) -> int:
        """Index of the bucket whose range holds this id."""
        return bisect_right(self._lower, long_id) - 1

    def split_bucket(self, index: int) -> None:
        """Replace a bucket by its halves."""
        super().split_bucket(index)
        self._lower.insert(index + 1, self.buckets[index + 1].range[0])

    def add_contact(self, node: Contact, now: float = 0.0) -> list[Ping]:
        """Note that ``node`` gave a sign of life at ``now``: it is added, or moved to the tail.

        Returns:
            Whom to ping: the head of a full bucket, if it has been quiet for long.
        """
        if node.long_id == self.node.long_id:
            return []
        while True:
            index = self.bucket_index(node.long_id)
            bucket = self.buckets[index]
            if self._per_group is not None and bucket.shares_group(node, self._per_group):
                return []
            if bucket.add_node(node):
                node.heard = now
                self.by_id[node.long_id] = node
                return []
            if not bucket.has_in_range(self.node):
                break
            self.split_bucket(index)
            self._index_replacements()
        head = bucket.head()
        if now - head.heard < self._quiet or now - bucket.pinged < PING_GAP:
            return []
        bucket.pinged = now
        return [Ping(head)]

    def _index_replacements(self) -> None:
        # a split may have found places for some that waited
        for bucket in self.buckets:
            for contact in bucket.nodes.values():
                self.by_id[contact.long_id] = contact

    def heard(self, node: Contact, now: float) -> None:
        """A contact of the table answered or asked: it moves to the tail (O(1))."""
        if now - node.heard < RECENT and not node.failures:
            return
        node.heard = now
        node.failures = 0
        bucket = self.buckets[self.bucket_index(node.long_id)]
        if node.id in bucket.nodes:
            bucket.nodes.move_to_end(node.id)

    def remove_contact(self, node: Contact) -> None:
        """Forget ``node``; the newest that waits for its place gets it."""
        bucket = self.buckets[self.bucket_index(node.long_id)]
        bucket.remove_node(node)
        self.by_id.pop(node.long_id, None)
        for contact in bucket.nodes.values():
            self.by_id[contact.long_id] = contact

    def has_replacement(self, node: Contact) -> bool:
        """Whether somebody waits for the place of ``node``."""
        return bool(self.buckets[self.bucket_index(node.long_id)].replacement_nodes)

    def nearest(self, target: int, count: int, skip: int = -1) -> list[Contact]:
        """The exact ``count`` contacts nearest to ``target``, nearest first.

        Args:
            target: an id as a number.
            count: how many at most.
            skip: the id of one to leave out.
        """
        by_id = self.by_id
        # whoever is in the target's own bucket is nearer to it than anybody outside
        bucket = self.buckets[bisect_right(self._lower, target) - 1].nodes
        if len(bucket) > count:
            distances = [node.long_id ^ target for node in bucket.values()]
            distances.sort()
            found = [by_id[d ^ target] for d in distances[: count + 1] if d ^ target != skip]
            return found[:count]
        distances = heapq.nsmallest(count + 1, [number ^ target for number in by_id])
        return [by_id[d ^ target] for d in distances if d ^ target != skip][:count]

    def find_neighbors(
        self, node: Any, k: int | None = None, exclude: Any = None
    ) -> list[Contact]:
        """The exact ``k`` nearest to ``node``, itself left out: the base's name for it."""
        count = k or self.ksize
        found = self.nearest(node.long_id, count + 1, node.long_id)
        return [c for c in found if exclude is None or not c.same_home_as(exclude)][:count]

    def estimated_size(self) -> float:
        """About how many nodes there are, ourselves among them, by how near the nearest are.

        Of n ids that are spread evenly, the m-th nearest to ours lies at about m/n of the range;
        with m = 20 the guess is good to a quarter.
        """
        nearest = self.nearest(self.node.long_id, self.ksize)
        if len(nearest) < self.ksize:
            return len(self.by_id) + 1.0  # we know everybody
        farthest: int = nearest[-1].long_id ^ self.node.long_id
        guess = float(len(nearest) * (HIGHEST_ID + 1) // (farthest + 1))
        return max(guess, len(self.by_id) + 1.0)

    def closer_than_self(self, target: int) -> int:
        """How many contacts are nearer to ``target`` than we are."""
        mine = self.node.long_id ^ target
        return sum([number ^ target < mine for number in self.by_id])

    def touch(self, target: int, now: float) -> None:
        """A lookup for ``target`` goes through its bucket at ``now``."""
        self.buckets[self.bucket_index(target)].touch_last_updated(now)

    def lonely_buckets(self, before: float = float("-inf")) -> list[Bucket]:
        """Buckets through which no lookup went since ``before``, monotonic seconds."""
        return [bucket for bucket in self.buckets if bucket.last_updated < before]

    def refresh_targets(self, before: float, rng: Callable[[int], bytes]) -> list[int]:
        """A random id in every bucket through which no lookup went since ``before``."""
        return [random_in(*bucket.range, rng) for bucket in self.lonely_buckets(before)]

    def beyond_nearest(self, rng: Callable[[int], bytes]) -> list[int]:
        """A random id in each subtree beside ours that lies beyond our k nearest, far ones first.

        A lookup for each fills the table after a join, whatever buckets there are by then.
        """
        own = self.node.long_id
        nearest = self.nearest(own, self.ksize)
        if len(nearest) < self.ksize:
            return []  # we know everybody
        known = (nearest[-1].long_id ^ own).bit_length()
        return [
            own ^ random_in(2 ** (bits - 1), 2**bits - 1, rng)
            for bits in range(ID_BITS, known - 1, -1)
        ]


def random_in(lower: int, upper: int, rng: Callable[[int], bytes]) -> int:
    """A random id in [lower, upper]; the ranges are powers of two, so nothing is uneven."""
    return lower + int.from_bytes(rng(ID_LENGTH), "big") % (upper - lower + 1)
