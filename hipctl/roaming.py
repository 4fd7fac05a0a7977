"""Shell: a host goes where its machine goes: open ports at the addresses that there are."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from hipctl.actions import Address
from hipctl.interfaces import OnChange
from hipctl.ports import Ports
from hipctl.rtnetlink import LinkAddress


class Watch(Protocol):
    """Tells which addresses this machine has: real in ``interfaces``, simulated in tests."""

    def open(self, loop: asyncio.AbstractEventLoop) -> list[LinkAddress] | None:
        """Begin to watch; the addresses now, or None if that can't be told."""

    def close(self) -> None:
        """Watch no more; harmless when done twice."""


class Roaming:
    """From ``start`` to ``close``."""

    def __init__(
        self,
        ports: Ports,
        watch: Callable[[OnChange], Watch],
        on_moved: Callable[[list[Address]], None],
    ) -> None:
        """Set up.

        Args:
            ports: opened with ``follow``.
            watch: makes what tells of changes.
            on_moved: called with where we are, the address to prefer first, when that or the
                routes have changed.
        """
        self._ports = ports
        self._watch = watch(self._on_change)
        self._on_moved = on_moved
        self._found: Sequence[LinkAddress] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Be where we are now; changes are followed from here on."""
        self._loop = asyncio.get_running_loop()
        self._found = self._watch.open(self._loop)
        await self._follow()

    def close(self) -> None:
        """Follow no more; harmless when done twice."""
        self._watch.close()
        self._found = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _on_change(self, found: list[LinkAddress]) -> None:
        self._found = found  # the newest counts, if we are still at the last one
        if self._task is None:
            self._task = self._loop.create_task(self._follow(), name="roaming")
            self._task.add_done_callback(self._followed)

    async def _follow(self) -> None:
        while self._found is not None:
            found, self._found = self._found, None
            ours = await self._ports.follow(found)
            if self._found is None:
                self._on_moved(ours)

    def _followed(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
