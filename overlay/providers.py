"""Who offers what: our own SVC records, and those of others.

Who offers something stands at the key of its type, the root; in large overlays, or where the root
is full, in the bucket of its own node id besides (RFC 7374's idea). Who looks for it begins in the
bucket of its own, and goes up to the root where that holds too few: what is rare is found at the
root, and what is frequent without it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from overlay.admission import Credentials
from overlay.errors import ConfigError, LookupFailed, RecordRefused
from overlay.keys import MAX_DEPTH, bucket_of, depth_for, node_id
from overlay.kinds import SERVICE_TYPE
from overlay.node import Node
from overlay.publisher import Draft, Publisher
from overlay.records import Record, Svc, check_record, service_key
from overlay.services import Provider

ENOUGH: Final = 8  # providers; a search that has found so many looks no further
CROWDED: Final = 48  # records under one key, of at most 64: others may have gone deeper
DEEPER: Final = 2  # so many levels at most
ROOT_PAUSE: Final = 1800.0  # seconds until the root is tried again, after it was full
NO_SLOT: Final = "no free slot"  # what storage says
MOST_CAPACITY: Final = 65_535


@dataclass(slots=True)
class _Advertised:
    """One kind of service that we advertise.

    Attributes:
        port: of our HIT.
        capacity: how many more it could serve now.
        deeper: bits beyond what the overlay's size says, because a bucket was full.
        pause: until when the root is known to be full, monotonic seconds.
    """

    port: int
    capacity: Callable[[], int]
    deeper: int = 0
    pause: float = float("-inf")


class Providers:
    """The services of one overlay.

    Args:
        node: our node there.
        publisher: keeps our records there.
        credentials: ours; SVC records carry them where the overlay is enrolled.
    """

    def __init__(
        self, node: Node, publisher: Publisher, credentials: Credentials | None = None
    ) -> None:
        self._node = node
        self._overlay = node.overlay
        self._publisher = publisher
        self._credentials = self._carried(credentials)
        self._now = node.now
        self._open = True
        self._id = node_id(node.overlay.id, node.local)
        self._advertised: dict[str, _Advertised] = {}

    def open(self, open_: bool) -> None:
        """Advertise only while strangers reach us, as far as is known; they do at first."""
        if open_ is not self._open:
            self._open = open_
            for kind in self._advertised:
                self._publisher.hurry(_root(kind))
                self._publisher.hurry(_deep(kind))

    def show(self, credentials: Credentials) -> None:
        """Let our records carry these from now on."""
        self._credentials = self._carried(credentials)
        for kind in self._advertised if self._credentials else ():
            self._publisher.hurry(_root(kind))
            self._publisher.hurry(_deep(kind))

    def _carried(self, credentials: Credentials | None) -> bytes:
        enrolled = self._overlay.admission == "enrolled" and credentials is not None
        return credentials.encode() if credentials and enrolled else b""

    def advertise(self, kind: str, port: int, capacity: Callable[[], int]) -> None:
        """Say in the overlay that we offer ``kind``, until ``unadvertise``; retried, refreshed.

        Args:
            kind: type of service.
            port: of our HIT; 0 where the host itself serves.
            capacity: about how many more it could serve, asked at each refresh.

        Raises:
            ConfigError: ``kind`` is no type of service.
        """
        if not SERVICE_TYPE.fullmatch(kind):
            raise ConfigError(f"{kind!r} is no type of service: 1-16 of a-z, 0-9 and -")
        entry = self._advertised.get(kind)
        if entry is None:
            entry = self._advertised[kind] = _Advertised(port, capacity)
        entry.port, entry.capacity = port, capacity
        for name, draft, on_refused in (
            (_root(kind), self._root_draft, self._on_root_refused),
            (_deep(kind), self._deep_draft, self._on_deep_refused),
        ):
            self._publisher.publish(name, partial(draft, kind), port, partial(on_refused, kind))

    async def unadvertise(self, kind: str) -> None:
        """Take it out of the overlay (a tombstone); harmless when it is not in."""
        self._advertised.pop(kind, None)
        await self._publisher.withdraw(_deep(kind))
        await self._publisher.withdraw(_root(kind))

    def advertised(self) -> dict[str, int]:
        """Types that we advertise -> how many nodes hold a record that says so."""
        held = self._publisher.held()
        return {k: max(held.get(_root(k), 0), held.get(_deep(k), 0)) for k in self._advertised}

    def _root_draft(self, kind: str, contact: bytes) -> Draft | None:
        entry = self._advertised.get(kind)
        if entry is None or entry.pause > self._now():
            return None
        return self._draft(kind, entry, 0, contact)

    def _deep_draft(self, kind: str, contact: bytes) -> Draft | None:
        entry = self._advertised.get(kind)
        if entry is None:
            return None
        depth = min(depth_for(self._node.estimated_size()) + entry.deeper, MAX_DEPTH)
        return self._draft(kind, entry, depth, contact) if depth else None

    def _draft(self, kind: str, entry: _Advertised, depth: int, contact: bytes) -> Draft | None:
        if not contact or not self._open:
            return None
        bucket = bucket_of(self._id, depth)
        capacity = min(max(entry.capacity(), 0), MOST_CAPACITY)
        svc = Svc(kind, depth, bucket, entry.port, contact, capacity, self._credentials)
        return Draft("SVC", svc)

    def _on_root_refused(self, kind: str, reasons: Counter[str]) -> None:
        entry = self._advertised.get(kind)
        if entry is not None and reasons[NO_SLOT]:
            entry.pause = self._now() + ROOT_PAUSE
            entry.deeper = max(entry.deeper, 1)
            self._publisher.hurry(_deep(kind))

    def _on_deep_refused(self, kind: str, reasons: Counter[str]) -> None:
        entry = self._advertised.get(kind)
        if entry is not None and reasons[NO_SLOT] and entry.deeper < MAX_DEPTH:
            entry.deeper += 1

    async def find(self, kind: str) -> list[Provider]:
        """Find who offers ``kind``, verified, roomy ones first; ``node.learn`` knows each.

        Begins in our own bucket; looks in smaller ones where that is crowded, in larger ones and
        at the root where it holds too few. Of ourselves nothing is said.

        Raises:
            LookupFailed: the overlay could not be asked.
        """
        found: dict[bytes, Provider] = {}
        depth = depth_for(self._node.estimated_size())
        for deeper in range(depth, min(depth + DEEPER, MAX_DEPTH) + 1):
            if not await self._look(kind, deeper, found):
                break
        for higher in dict.fromkeys((depth - 1, depth - 2, 0)):  # others may guess another size
            if 0 <= higher < depth and len(found) < ENOUGH:
                await self._look(kind, higher, found)
        return sorted(found.values(), key=lambda provider: -provider.capacity)

    async def _look(self, kind: str, depth: int, found: dict[bytes, Provider]) -> bool:
        """Look in our bucket at one depth; whether it is crowded."""
        key = service_key(self._overlay.id, kind, depth, bucket_of(self._id, depth))
        try:
            records = await self._node.get("SVC", key)
        except LookupFailed:
            if found:
                return False
            raise
        for record in records:
            provider = self._provider(record, kind)
            if provider is not None:
                found.setdefault(provider.hit, provider)
        return len(records) >= CROWDED

    def _provider(self, record: Record, kind: str) -> Provider | None:
        try:
            svc = check_record(record, self._overlay, self._node.wall())
        except RecordRefused:  # it has expired on the way
            return None
        if not isinstance(svc, Svc) or svc.gone or svc.type != kind:
            return None
        if record.owner_hit in self._node.host.hits:
            return None
        self._node.learn(record.owner_hit, svc.contact)
        return Provider(
            record.owner_hit, kind, svc.port, svc.capacity, record.expires, svc.contact
        )


def _root(kind: str) -> str:
    return f"service {kind}"


def _deep(kind: str) -> str:
    return f"service {kind} in its bucket"
