"""What a node answers to its neighbours: nodes it knows, records it holds, what it will store."""

from collections import Counter
from typing import Any, Final

from hipctl import Hit
from overlay.messages import (
    MAX_ANSWER,
    MAX_DIGESTS,
    MAX_NODES,
    NODES,
    Code,
    Field,
    Kind,
    encode_answer,
    encode_error,
    encode_nodes,
)
from overlay.records import Record
from overlay.routing import Table
from overlay.rpc import Asked
from overlay.session import Session
from overlay.storage import Forget, Outcome, Persist, Storage

SPREAD: Final = 4  # a node holds what it is among the ``replicas`` + so many nearest to


class Serving:
    """Answers requests of neighbours that have greeted. Pure: it changes nothing but storage.

    Args:
        table: whom we know.
        storage: what we hold.
        replicas: copies of a record that an overlay keeps.
        counters: of what was wrong with requests, by reason.
    """

    def __init__(
        self, table: Table, storage: Storage, replicas: int, counters: Counter[str]
    ) -> None:
        self._table = table
        self._storage = storage
        self._near_enough = replicas + SPREAD
        self._counters = counters

    def offer(self, record: bytes | Record, sender: Hit, wall: float) -> Outcome:
        """Store a record if it may be, and if we are among the nearest to its key."""
        return self._storage.offer(record, sender, wall, self._near)

    def answer(self, event: Asked, wall: float) -> tuple[bytes, tuple[Persist | Forget, ...]]:
        """Make the answer to one request.

        Returns:
            Its bytes, and what changed in storage.
        """
        session, message = event
        fields = message.fields
        values: dict[int, Any]
        match message.kind:
            case Kind.PING:
                values = {}
            case Kind.FIND_NODE if _TARGET in fields:
                count = min(fields.get(_COUNT, NODES), MAX_NODES)
                values = {_NODES: self._nodes(fields[_TARGET], session, count)}
            case Kind.GET if _TARGET in fields:
                values = self._values(fields, session, wall)
            case Kind.STORE if _RECORD in fields:
                outcome = self.offer(fields[_RECORD], session.hit, wall)
                values = {_CODE: int(outcome.code)}
                if outcome.reason:
                    values[_REASON] = outcome.reason
                return encode_answer(Kind.STORE, message.request_id, values), outcome.changes
            case _:
                self._counters["request lacks a field"] += 1
                return encode_error(message.request_id, Code.MALFORMED), ()
        return encode_answer(message.kind, message.request_id, values), ()

    def _near(self, key: bytes) -> bool:
        return self._table.closer_than_self(int.from_bytes(key, "big")) < self._near_enough

    def _nodes(self, target: bytes, session: Session, count: int = NODES) -> list[bytes]:
        """The nearest that we know, but who asks and who seems gone."""
        found = self._table.nearest(int.from_bytes(target, "big"), count, session.node.long_id)
        known = [(node.hit, node.contact) for node in found if not node.failures]
        return encode_nodes(known, MAX_ANSWER - 32)

    def _values(self, fields: dict[int, Any], session: Session, wall: float) -> dict[int, Any]:
        key = fields[_TARGET]
        kind: str | None = fields.get(_KIND)
        if _SLOT in fields and kind is not None:
            owner, subkey = fields[_SLOT]
            one = self._storage.value(key, (kind, Hit(owner), subkey), wall)
            return {_VALUES: [one.raw] if one else []}
        records = self._storage.values(key, kind, wall)
        if not records:
            return {_NODES: self._nodes(key, session)}
        size = 24 + sum(len(record.raw) + 3 for record in records)
        if size <= MAX_ANSWER or len(records) == 1:
            return {_VALUES: [record.raw for record in records]}
        records.sort(key=lambda record: record.slot)
        skip = fields.get(_SKIP, 0)
        return {
            _TOTAL: len(records),
            _DIGESTS: [
                (record.owner_hit, record.subkey, record.seq, record.digest[:8])
                for record in records[skip : skip + MAX_DIGESTS]
            ],
        }


_TARGET, _NODES, _VALUES = int(Field.TARGET), int(Field.NODES), int(Field.VALUES)
_DIGESTS, _TOTAL, _SLOT = int(Field.DIGESTS), int(Field.TOTAL), int(Field.SLOT)
_KIND, _SKIP, _RECORD = int(Field.RECORD_KIND), int(Field.SKIP), int(Field.RECORD)
_CODE, _REASON, _COUNT = int(Field.CODE), int(Field.REASON), int(Field.COUNT)
