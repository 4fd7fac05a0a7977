"""Signed records: canonical bytes, who may write what where, signatures, succession.

[1, overlay id, kind, key, owner HIT, subkey, seq, created, expires, payload, host_id, sig]
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from hipctl import Hit, HostId, HostIdentity, MalformedPacket
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import (
    CLOCK_TOLERANCE,
    KEY_LENGTH,
    MAX_RECORD,
    MAX_SUBKEY,
    OVERLAY_ID_LENGTH,
    RECORD_CONTEXT,
)
from overlay.errors import MalformedRecord, RecordRefused
from overlay.keys import aor_key, node_id, node_key, record_key, service_key
from overlay.kinds import KINDS, Kind, NodeInfo, Payload, Reg, Revoke, Svc
from overlay.overlayfile import OverlayInfo
from overlay.proofs import SIGNATURES

__all__ = [
    "KINDS",
    "Kind",
    "NodeInfo",
    "Payload",
    "Record",
    "Reg",
    "Revoke",
    "Svc",
    "aor_key",
    "check_record",
    "equivocates",
    "newer",
    "node_id",
    "node_key",
    "record_key",
    "service_key",
    "sign_record",
    "sign_tombstone",
]

VERSION: Final = 1
_SIGNATURE_HEADER: Final = 2  # bytes of msgpack before 64 or 96 bytes of signature


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it travels and is stored; ``parse`` and ``sign_record`` make it.

    Attributes:
        overlay_id: 32 bytes.
        kind: a row of KINDS, or one that this peer doesn't know.
        key: 20 bytes.
        owner_hit: HIT of ``host_id``, as claimed.
        subkey: at most 32 bytes.
        seq: u64.
        created: Unix seconds.
        expires: Unix seconds.
        payload: bytes that ``kind`` explains.
        host_id: HI field of the owner's key.
        sig: r‖s.
        raw: all of it, canonical.
    """

    overlay_id: bytes
    kind: str
    key: bytes
    owner_hit: Hit
    subkey: bytes
    seq: int
    created: int
    expires: int
    payload: bytes
    host_id: bytes
    sig: bytes
    raw: bytes

    @property
    def body(self) -> bytes:
        """The bytes before the signature: what it, hashes and receipts cover."""
        return self.raw[: -len(self.sig) - _SIGNATURE_HEADER]

    @property
    def digest(self) -> bytes:
        """SHA-256 of ``body``."""
        return hashlib.sha256(self.body).digest()

    @property
    def slot(self) -> tuple[str, Hit, bytes]:
        """(kind, owner HIT, subkey): one writer, one value."""
        return (self.kind, self.owner_hit, self.subkey)

    @property
    def tombstone(self) -> bool:
        """Whether it says that what was in its slot is gone; False if its payload is unread."""
        kind = KINDS.get(self.kind)
        if kind is None or kind.decode is None:
            return False
        try:
            return kind.decode(self.payload).gone
        except MalformedRecord:
            return False

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read canonical bytes; only the form is judged, ``check_record`` does the rest.

        Raises:
            MalformedRecord: another form, too long, or another encoding of the same.
        """
        try:
            values = decode(data, MAX_RECORD)
        except NotCanonical as error:
            raise MalformedRecord(error.reason) from None
        if len(values) != 12 or values[0] != VERSION or type(values[0]) is not int:
            raise MalformedRecord("no record")
        for value, (kind, low, high) in zip(values[1:], _FIELDS, strict=True):
            if (
                type(value) is not kind
                or not low <= (value if kind is int else len(value)) <= high
            ):
                raise MalformedRecord("bad field")
        _, overlay_id, name, key, owner, subkey, seq, created, expires, payload, host_id, sig = (
            values
        )
        if len(sig) + 3 != len(host_id):
            raise MalformedRecord("bad signature length")
        try:
            hit = Hit.check(owner)
        except ValueError:
            raise MalformedRecord("owner is no HIT") from None
        return cls(
            overlay_id,
            name,
            key,
            hit,
            subkey,
            seq,
            created,
            expires,
            payload,
            host_id,
            sig,
            bytes(data),
        )


_FIELDS: Final[tuple[tuple[Any, int, int], ...]] = (  # type; least and greatest value or length
    (bytes, OVERLAY_ID_LENGTH, OVERLAY_ID_LENGTH),
    (str, 1, 8),
    (bytes, KEY_LENGTH, KEY_LENGTH),
    (bytes, 16, 16),
    (bytes, 0, MAX_SUBKEY),
    (int, 0, 2**64 - 1),
    (int, 0, 2**32 - 1),
    (int, 0, 2**32 - 1),
    (bytes, 0, MAX_RECORD),
    (bytes, 67, 99),
    (bytes, 64, 96),
)


def sign_record(  # noqa: PLR0917  in the order in which they stand in the record
    identity: HostIdentity,
    overlay_id: bytes,
    kind: str,
    key: bytes,
    subkey: bytes,
    seq: int,
    created: int,
    expires: int,
    payload: bytes,
) -> Record:
    """Sign a record as ``identity``; nothing but its form is judged.

    Raises:
        RecordRefused: it would be longer than 1,150 bytes, or a field has no legal value.
    """
    host_id = identity.host_id.encoded
    half = (len(host_id) - 3) // 2
    values: list[Any] = [VERSION, overlay_id, kind, key, bytes(identity.hit), subkey]
    values += [seq, created, expires, payload, host_id, bytes(2 * half)]
    unsigned = encode(values)
    if len(unsigned) > MAX_RECORD:
        raise RecordRefused("too long")
    body = unsigned[: -2 * half - _SIGNATURE_HEADER]
    values[-1] = identity.sign(RECORD_CONTEXT + body)
    try:
        return Record.parse(encode(values))
    except MalformedRecord as error:
        raise RecordRefused(error.reason) from None


def sign_tombstone(
    identity: HostIdentity, record: Record, seq: int, created: int, overlay: OverlayInfo
) -> Record:
    """Sign what deletes ``record``: it lives as long as the longest life of what it deletes.

    Args:
        identity: the owner.
        record: what shall be gone.
        seq: higher than the record's.
        created: Unix seconds.
        overlay: the record's.

    Raises:
        RecordRefused: the kind has no tombstones, or ``seq`` isn't higher.
    """
    kind = KINDS.get(record.kind)
    if kind is None or kind.decode is None:
        raise RecordRefused("kind not served yet")
    if seq <= record.seq:
        raise RecordRefused("old seq")
    payload = kind.decode(record.payload).tombstone()
    # what a delegation or certificate ends, needs no tombstone longer than that
    expires = min(created + kind.life, payload.ceiling(overlay, created))
    return sign_record(
        identity,
        record.overlay_id,
        record.kind,
        record.key,
        record.subkey,
        seq,
        created,
        expires,
        payload.encode(),
    )


def check_record(record: Record, overlay: OverlayInfo, wall: float) -> Payload:
    """Judge a record by itself, cheapest first and its signature last.

    Whoever stores a record and whoever reads one calls this; distance, quota and seq are the
    storer's own matter.

    Args:
        record: as parsed.
        overlay: where it is to be stored, or was found.
        wall: Unix seconds, corrected by what the neighbours' clocks say.

    Returns:
        The typed payload.

    Raises:
        RecordRefused: with a constant reason.
    """
    kind = _served(record, overlay, wall)
    try:
        payload = kind(record.payload)
    except MalformedRecord as error:
        raise RecordRefused(error.reason) from None
    if record.key != record_key(overlay.id, *payload.place(record.owner_hit)):
        raise RecordRefused("wrong key")
    payload.check(record.owner_hit, record.subkey, record.expires, overlay, wall)
    _check_owner(record)
    return payload


def _check_owner(record: Record) -> None:
    """Check that the owner signed; a record that once passed is remembered by its hash."""
    seen = hashlib.sha256(record.raw).digest()
    if SIGNATURES.get(seen):
        return
    owner = HostId.ecdsa(record.host_id)
    if owner.hit != record.owner_hit:
        raise RecordRefused("owner is not its key's HIT")
    try:
        if not owner.low_s(record.sig):
            raise RecordRefused("high s")
        if not owner.verify(record.sig, RECORD_CONTEXT + record.body):
            raise RecordRefused("signature")
    except MalformedPacket:
        raise RecordRefused("bad owner key") from None
    SIGNATURES.keep(seen, True)


def _served(record: Record, overlay: OverlayInfo, wall: float) -> Callable[[bytes], Payload]:
    """Judge all but payload and owner; returns what reads the payload."""
    if record.overlay_id != overlay.id:
        raise RecordRefused("wrong overlay")
    kind = KINDS.get(record.kind)
    if kind is None:
        raise RecordRefused("unknown kind")
    if kind.decode is None:
        raise RecordRefused("kind not served yet")
    if record.created > wall + CLOCK_TOLERANCE:
        raise RecordRefused("created in the future")
    if record.expires <= wall:
        raise RecordRefused("expired")
    if not 0 < record.expires - record.created <= kind.life:
        raise RecordRefused("lifetime")
    return kind.decode


def newer(offered: Record, held: Record) -> bool:
    """Whether ``offered`` takes the slot of ``held``.

    A higher seq does; of two bodies with an equal seq the smaller hash does, so that all replicas
    end with the same one.
    """
    if offered.seq != held.seq:
        return offered.seq > held.seq
    return offered.body != held.body and offered.digest < held.digest


def equivocates(one: Record, other: Record) -> bool:
    """Whether an owner signed two bodies for one slot under one key with one seq."""
    return (
        one.seq == other.seq
        and one.slot == other.slot
        and one.key == other.key
        and one.body != other.body
    )
