"""Shell: ICMPv6 echoes of ours that wait for their replies."""

import asyncio
import time
from collections.abc import Callable

from hipctl.actions import Pair
from hipctl.inner import ECHO_REQUEST, Echo, pseudo_header

MOST = 256  # echoes waiting at a time


class Echoes:
    """Numbers echo requests and matches replies to them."""

    def __init__(self, identifier: int) -> None:
        """Take the 16 bits that tell our echoes from others'."""
        self._identifier = identifier
        self._sequence = 0
        self._waiting: dict[tuple[Pair, int], tuple[asyncio.Future[float], float]] = {}

    async def round_trip(
        self, pair: Pair, data: bytes, timeout: float, send: Callable[[bytes], None]
    ) -> float:
        """Send one request and return the seconds until its reply.

        Raises:
            TimeoutError: none came, or too many are waiting.
        """
        if len(self._waiting) >= MOST:
            raise TimeoutError("too many echoes wait for replies")
        self._sequence = sequence = self._sequence + 1 & 0xFFFF
        message = Echo(ECHO_REQUEST, self._identifier, sequence, data).encode(pseudo_header(*pair))
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[pair, sequence] = waiter, time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                send(message)
                return await waiter
        finally:
            self._waiting.pop((pair, sequence), None)

    def on_reply(self, pair: Pair, echo: Echo) -> bool:
        """Take a reply; False if nobody waits for it."""
        waiter, sent = self._waiting.get((pair, echo.sequence), (None, 0.0))
        if waiter is None or waiter.done() or echo.identifier != self._identifier:
            return False
        waiter.set_result(time.perf_counter() - sent)
        return True
