"""Shell: who is told what happens to a host."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from hipctl.datapath import guard
from hipctl.interface import Event


class Watchers:
    """Those of one host; what they do wrong is counted in ``counters``."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._watchers: dict[object, Callable[[Event], None]] = {}

    def watch(self, on_event: Callable[[Event], None]) -> Callable[[], None]:
        """See ``interface.Host``."""
        key = object()
        self._watchers[key] = on_event

        def end() -> None:
            self._watchers.pop(key, None)

        return end

    def tell(self, event: Event) -> None:
        """Tell all."""
        for on_event in list(self._watchers.values()):
            guard(partial(on_event, event), "a watcher of associations", self._counters)
