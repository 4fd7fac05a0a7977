"""Shell: what a peer consists of, started one upon the other, and stopped in time in reverse."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final

from hipctl import HipError
from overlay.errors import OverlayError

_log = logging.getLogger(__name__)

STOP_ALL: Final = 2.7  # seconds that stopping may take altogether; each layer has its share:
LEAST_STOP: Final = 0.1


class Layers:
    """From ``enter`` to ``close``."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._stop_by = float("inf")

    async def enter(
        self, layer: AbstractAsyncContextManager[Any], limit: float, name: str
    ) -> None:
        """Start a layer, to be stopped within ``limit`` seconds."""
        await layer.__aenter__()

        async def leave() -> None:
            await layer.__aexit__(None, None, None)

        self.push(leave, limit, name)

    def push(self, stop: Callable[[], Awaitable[object]], limit: float, name: str) -> None:
        """A layer has started that ``stop`` stops."""
        self._stack.push_async_callback(self._end, stop, limit, name)

    def callback(self, stop: Callable[[], object]) -> None:
        """A layer has started that ``stop`` stops without waiting for anything."""
        self._stack.callback(stop)

    async def close(self) -> None:
        """Stop all in reverse, within STOP_ALL seconds."""
        self._stop_by = asyncio.get_running_loop().time() + STOP_ALL
        await self.undo()

    async def undo(self) -> None:
        """Stop what has started, for something above it could not; each in its own time."""
        await self._stack.aclose()

    async def _end(self, stop: Callable[[], Awaitable[object]], limit: float, name: str) -> None:
        """Stop one layer; one that hangs must not keep those below it from stopping."""
        left = max(self._stop_by - asyncio.get_running_loop().time(), LEAST_STOP)
        try:
            async with asyncio.timeout(min(limit, left)):
                await stop()
        except TimeoutError:
            _log.warning("%s did not stop in time", name)
        except (OverlayError, HipError, OSError) as error:
            _log.warning("%s did not stop cleanly: %s", name, error)
