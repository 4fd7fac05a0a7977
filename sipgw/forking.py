"""Which of several failures the one who asked gets to see (RFC 3261 §16.7 step 6)."""

from collections.abc import Sequence
from typing import Final

from sipgw.message import Response

BRANCHES: Final = 8  # most of one request, clients and devices together
# Challenges, redirections and transaction matters between a client and its gateway.
_BETWEEN_US: Final = frozenset({401, 407, 408, 481, 487, 491})
_DULL: Final = frozenset({404, 408, 480, 487})


def status_of(final: int | Response) -> int:
    """Its status, whether it came from somebody or is our own."""
    return final if isinstance(final, int) else final.status


def _rank(final: int | Response) -> tuple[int, int]:
    status = status_of(final)
    if status >= 600:
        return 0, status
    if status in (486, 488):
        return 1, status
    if status in _DULL:
        return 3, status
    return 2, status


def best_of(finals: Sequence[int | Response]) -> int | Response:
    """Any 6xx, else 486, else the lowest that tells something; 480 for what stays between us."""
    best = min(finals, key=_rank)
    status = status_of(best)
    return 480 if status in _BETWEEN_US or 300 <= status < 400 else best
