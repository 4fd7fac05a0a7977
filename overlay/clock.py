"""What time it is, by our own clock and those of our neighbours."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from statistics import median_high
from typing import Final

from overlay.routing import Contact
from overlay.rpc import Rpc

CLOCKS: Final = 5  # neighbours whose clocks correct ours
JUMP: Final = 5.0  # seconds by which our clock may drift from the monotonic one at a time
_LITTLE: Final = 5.0  # seconds: HELLO tells whole ones, and took its time


class Clock:
    """Keeps ``Rpc.offset`` and ``Rpc.calibrated``."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._gap = float("nan")  # wall minus now

    @property
    def offset(self) -> float:
        """Our neighbours' clocks minus ours, seconds."""
        return self._rpc.offset

    def jumped(self, now: float, wall: float) -> bool:
        """Whether our clock was set since the last input, or stood while we slept.

        What we knew of others' clocks is over then.

        Args:
            now: monotonic seconds.
            wall: Unix seconds, by our own clock.
        """
        gap, self._gap = wall - now - self._gap, wall - now
        if not abs(gap) > JUMP:
            return False
        rpc = self._rpc
        rpc.offset, rpc.calibrated = 0.0, False
        rpc.greeting = replace(rpc.greeting, since=max(int(rpc.greeting.since + gap), 0))
        for session in rpc.sessions.values():
            session.offset = None
        return True

    def correct(self, contacts: Iterable[Contact]) -> None:
        """Go by what the first of these have told of their clocks."""
        rpc = self._rpc
        offsets = [0.0]  # our own clock has a vote too
        for contact in islice(contacts, 4 * CLOCKS):
            session = rpc.sessions.get(contact.hit)
            if session is not None and session.offset is not None:
                offsets.append(session.offset)
        # of two the later one is right: clocks that were lost begin in the past
        middle = median_high(offsets[: CLOCKS + 1])
        rpc.offset = middle if abs(middle) > _LITTLE else 0.0
        rpc.calibrated = len(offsets) > 2
