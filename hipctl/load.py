"""How much strangers ask of us, and how hard our puzzles get for it (RFC 7401 §4.1.1)."""

import math
from typing import Final

SECONDS: Final = 4.0  # in which what was asked is forgotten but for a third
I1_SHARE: Final = 1 / 32  # the work of an R1 as a share of that of a full look at an I2
GUESS_SHARE: Final = 1 / 16  # the same of an I2 that doesn't solve its puzzle


class Load:
    """The rate of the dear checks that we make for strangers; forgets exponentially."""

    def __init__(self, calm: float) -> None:
        """Ask for nothing more up to ``calm`` full looks at I2s a second."""
        self._calm = calm
        self._sum = 0.0
        self._at = 0.0

    def add(self, work: float, now: float) -> None:
        """Note work that was done, in full looks at an I2."""
        self._sum = self._left(now) + work
        self._at = max(now, self._at)

    def bits(self, now: float) -> int:
        """By how many bits puzzles should be harder: one for each doubling above what is calm."""
        ratio = self._left(now) / SECONDS / self._calm
        return int(ratio).bit_length()

    def _left(self, now: float) -> float:
        return self._sum * math.exp(min(self._at - now, 0.0) / SECONDS)
