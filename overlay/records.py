"""Signed records: canonical bytes, who may write what where, signatures, succession.

[1, overlay id, kind, key, owner HIT, subkey, seq, created, expires, payload, host_id, sig]
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from hipctl import Hit, HostIdentity
from overlay.accounts import Delegation
from overlay.constants import KEY_CONTEXT, KEY_LENGTH, NODE_ID_CONTEXT
from overlay.overlayfile import OverlayInfo


def record_key(overlay_id: bytes, kind: str, x: bytes) -> bytes:
    """Return the 20-byte key of ``x`` ("aor" of an AoR, "node" of a HIT, "svc" of a type …)."""
    return hashlib.sha256(KEY_CONTEXT + overlay_id + kind.encode() + b"\0" + x).digest()[
        :KEY_LENGTH
    ]


def aor_key(overlay_id: bytes, aor: str) -> bytes:
    """Return the key under which an AoR's REG and REVOKE records stand."""
    return record_key(overlay_id, "aor", aor.encode())


def node_key(overlay_id: bytes, hit: bytes) -> bytes:
    """Return the key under which a HIT's NODE record stands."""
    return record_key(overlay_id, "node", hit)


def node_id(overlay_id: bytes, hit: bytes) -> bytes:
    """Return the 20-byte Kademlia id of a HIT in an overlay."""
    return hashlib.sha256(NODE_ID_CONTEXT + overlay_id + hit).digest()[:KEY_LENGTH]


@dataclass(frozen=True, slots=True)
class Reg:
    """REG: this device answers for an AoR.

    Attributes:
        aor: canonical.
        delegation: DEV of the device under the account that the AoR names.
        certificate: DER that binds the AoR to the account, None for a self-certifying AoR.
        port: where its SIP gateway listens on its HIT; 0 is a tombstone.
        contact: how to reach the device, at most 80 bytes, opaque; empty in a tombstone.
    """

    aor: str
    delegation: Delegation
    certificate: bytes | None
    port: int
    contact: bytes

    def encode(self) -> bytes:
        """The payload's canonical bytes."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """NODE: how to reach a HIT; an empty contact is a tombstone."""

    contact: bytes

    def encode(self) -> bytes:
        """The payload's canonical bytes."""
        raise NotImplementedError


Payload = Reg | NodeInfo


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it travels and is stored; ``parse`` and ``sign_record`` make it."""

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
        return self.raw[: -len(self.sig) - 2]

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
        """Whether it says that what was in its slot is gone."""
        raise NotImplementedError

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read canonical bytes; judges the form alone; raises MalformedRecord."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of KINDS.

    Attributes:
        slots: records that one key may hold.
        life: longest life, seconds.
        decode: payload bytes -> typed payload; raises MalformedRecord; None: not served yet.
        check: write policy (record, payload, overlay, wall), raises RecordRefused.
    """

    slots: int
    life: int
    decode: Callable[[bytes], Payload] | None = None
    check: Callable[["Record", Any, OverlayInfo, float], None] | None = None


KINDS: Final[dict[str, Kind]] = {}


def sign_record(
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
    """Sign a record as ``identity``; raises RecordRefused('too long') beyond 1,150 bytes."""
    raise NotImplementedError


def sign_tombstone(identity: HostIdentity, record: Record, seq: int, created: int) -> Record:
    """Sign what deletes ``record``; ``seq`` must be higher than its."""
    raise NotImplementedError


def check_record(record: Record, overlay: OverlayInfo, wall: float) -> Payload:
    """Judge a record by itself; the signature comes last.

    Returns:
        The typed payload.

    Raises:
        RecordRefused: with a constant reason.
    """
    raise NotImplementedError


def newer(offered: Record, held: Record) -> bool:
    """Whether ``offered`` takes the slot of ``held``: higher seq, or equal and the smaller hash."""
    raise NotImplementedError


def equivocates(one: Record, other: Record) -> bool:
    """Whether an owner signed two bodies with one slot and one seq."""
    raise NotImplementedError
