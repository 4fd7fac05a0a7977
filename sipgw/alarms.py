"""Many timers at once: the router arms some for every call, and most never fire."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

Ring = Callable[[float], None]
"""What an alarm calls: ``ring(now)``."""

SWEEP = 1024  # stopped alarms that may wait in the heap before it is rebuilt without them


class Alarm:
    """One armed timer."""

    __slots__ = ("_alarms", "at", "ring")

    def __init__(self, alarms: "Alarms", at: float, ring: Ring) -> None:
        self._alarms = alarms
        self.at = at
        self.ring: Ring | None = ring

    def stop(self) -> None:
        """Disarm; harmless when it has rung or is stopped."""
        if self.ring is not None:
            self.ring = None
            self._alarms.stopped()


class Alarms:
    """A heap of them, O(log n) each; those that are stopped leave it lazily."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = count()
        self._stopped = 0

    def __len__(self) -> int:
        """Alarms that are armed."""
        return len(self._heap) - self._stopped

    def set(self, at: float, ring: Ring) -> Alarm:
        """Call ``ring(now)`` once at ``at`` (monotonic seconds)."""
        alarm = Alarm(self, at, ring)
        heappush(self._heap, (at, next(self._order), alarm))
        return alarm

    def stopped(self) -> None:
        """Called by an alarm that stops: count it, and sweep when there are many."""
        self._stopped += 1
        if self._stopped > SWEEP and self._stopped * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].ring is not None]
            heapify(self._heap)
            self._stopped = 0

    def deadline(self) -> float | None:
        """When the next one rings, None if none is armed."""
        heap = self._heap
        while heap and heap[0][2].ring is None:
            heappop(heap)
            self._stopped -= 1
        return heap[0][0] if heap else None

    def on_time(self, now: float) -> None:
        """Ring whatever is due, earliest first."""
        while (at := self.deadline()) is not None and at <= now:
            alarm = heappop(self._heap)[2]
            ring, alarm.ring = alarm.ring, None
            if ring is not None:
                ring(now)
