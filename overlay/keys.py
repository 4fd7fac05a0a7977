"""Where things are in an overlay: keys of records, ids of nodes, buckets of services."""

import hashlib
from typing import Final

from overlay.constants import KEY_CONTEXT, KEY_LENGTH, NODE_ID_CONTEXT

MAX_DEPTH: Final = 16  # bits of a node's id that may tell its bucket
BUCKET_NODES: Final = 512  # about so many nodes share one bucket of a kind of service


def record_key(overlay_id: bytes, kind: str, x: bytes) -> bytes:
    """Return the 20-byte key of ``x`` ("aor" of an AoR, "node" of a HIT, "svc" of a type …)."""
    covered = b"".join((KEY_CONTEXT, overlay_id, kind.encode(), b"\0", x))
    return hashlib.sha256(covered).digest()[:KEY_LENGTH]


def aor_key(overlay_id: bytes, aor: str) -> bytes:
    """Return the key under which an AoR's REG and REVOKE records stand."""
    return record_key(overlay_id, "aor", aor.encode())


def node_key(overlay_id: bytes, hit: bytes) -> bytes:
    """Return the key under which a HIT's NODE record stands."""
    return record_key(overlay_id, "node", hit)


def service_key(overlay_id: bytes, type_: str, depth: int, bucket: int) -> bytes:
    """Return the key under which SVC records of one type and bucket stand."""
    return record_key(overlay_id, "svc", service_place(type_, depth, bucket))


def service_place(type_: str, depth: int, bucket: int) -> bytes:
    """Return what the key of a bucket's SVC records hashes; with depth 0 it is the type alone."""
    name = type_.encode()
    return name + b"\0" + bytes((depth,)) + bucket.to_bytes(2, "big") if depth else name


def node_id(overlay_id: bytes, hit: bytes) -> bytes:
    """Return the 20-byte Kademlia id of a HIT in an overlay."""
    return hashlib.sha256(NODE_ID_CONTEXT + overlay_id + hit).digest()[:KEY_LENGTH]


def bucket_of(id_: bytes, depth: int) -> int:
    """Return the first ``depth`` bits of a node's id: its bucket among 2^depth (RFC 7374's idea).

    All who offer something stand in the buckets of their own ids, and who looks for it begins in
    the bucket of its own: so no few nodes serve all lookups of a large overlay.
    """
    return int.from_bytes(id_[:2], "big") >> (MAX_DEPTH - depth)


def depth_for(nodes: float) -> int:
    """Return how many bits tell the buckets in an overlay of about so many nodes."""
    buckets = int(nodes / BUCKET_NODES)
    return min(max(buckets.bit_length() - 1, 0), MAX_DEPTH)
