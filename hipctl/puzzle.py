"""The puzzle: a stranger burns 2^K hashes before we spend a millisecond (RFC 7401 §6.3)."""

import hashlib
from typing import Final

_COUNTED: Final = 8  # bytes of #J that the search varies
_ROOM: Final = 1 << 62  # tries from one start at most


def prefix(random_i: bytes, initiator: bytes, responder: bytes) -> bytes:
    """What is hashed before #J: #I | HIT-I | HIT-R."""
    return random_i + initiator + responder


def verify(k: int, prefix: bytes, answer_j: bytes, rhash: str) -> bool:
    """Whether the ``k`` low-order bits of RHASH(prefix | #J) are zero."""
    digest = hashlib.new(rhash, prefix + answer_j).digest()
    return not int.from_bytes(digest, "big") & ((1 << k) - 1)


def solve(k: int, prefix: bytes, rhash: str, start: int, limit: int | None = None) -> bytes | None:
    """Search #J from ``start`` on.

    Args:
        k: difficulty in bits; expect 2^k tries.
        prefix: see ``prefix``.
        rhash: ``hashlib`` name of the Responder's hash; #J is as long as its digest.
        start: first #J to try; go on with ``start + limit``.
        limit: how many tries at most, None for no limit.

    Returns:
        #J, or None if none of ``limit`` was one.
    """
    size = hashlib.new(rhash).digest_size
    head, first = divmod(start % (1 << 8 * size), 1 << 8 * _COUNTED)
    first &= _ROOM - 1  # so that counting on never needs another byte
    fixed = head.to_bytes(size - _COUNTED, "big")
    base = hashlib.new(rhash, prefix + fixed)
    copy, mask = base.copy, (1 << k) - 1
    width, last = -(-k // 8) or 1, mask & 0xFF
    for count in range(first, first + (_ROOM if limit is None else min(limit, _ROOM))):
        tail = count.to_bytes(8, "big")
        trial = copy()
        trial.update(tail)
        digest = trial.digest()
        if digest[-1] & last:  # settles nearly all tries
            continue
        if not int.from_bytes(digest[-width:], "big") & mask:
            return fixed + tail
    return None
