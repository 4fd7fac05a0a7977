"""Shell: notices that this machine has slept, or that we were stopped.

A sleeping machine runs nothing. The clock that a program goes by may stand still meanwhile, as on
Linux, and then only the other clock tells; or it goes on, and then timers come late.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

LOOK: Final = 2.0  # seconds between two looks
SLEPT: Final = 5.0  # seconds that are missing; less is a busy machine, or a clock put right


class Waking:
    """From ``open`` to ``close``.

    Attributes:
        wall: Unix seconds; another clock may be given at any time.
    """

    def __init__(self, on_woke: Callable[[float], None]) -> None:
        """Set up.

        Args:
            on_woke: called with the seconds that we slept. A wall clock that somebody sets
                forward looks the same.
        """
        self.wall: Callable[[], float] = time.time
        self._on_woke = on_woke
        self._handle: asyncio.TimerHandle | None = None
        self._last = (0.0, 0.0)  # at the last look: monotonic seconds, Unix seconds

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on."""
        self._loop = loop
        self._last = loop.time(), self.wall()
        self._handle = loop.call_later(LOOK, self._look_on)

    def close(self) -> None:
        """Look no more; harmless when done twice."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def look(self) -> None:
        """Look now, for something else hints at it."""
        if self._handle is None:
            return
        (before, wall_before), self._last = self._last, (self._loop.time(), self.wall())
        now, wall = self._last
        late = now - before - LOOK
        stood = (wall - wall_before) - (now - before)
        slept = max(late, stood)
        if slept >= SLEPT:
            self._on_woke(slept)

    def _look_on(self) -> None:
        self._handle = self._loop.call_later(LOOK, self._look_on)
        self.look()
