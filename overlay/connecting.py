"""Shell: an association with somebody whose contact may have changed since we learnt it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from hipctl import Hit, Host

STALE: Final = 0.8  # seconds without an answer after which what we know may be old: two I1s


async def connect(
    host: Host,
    peer: Hit,
    *,
    local: Hit,
    look_up: Callable[[], Awaitable[object]],
    timeout: float,
) -> None:
    """Return once ``local`` and ``peer`` are associated; at once if they are already.

    Args:
        host: of ``local``.
        peer: whom to reach.
        local: which of our HITs.
        look_up: learns where the peer is now; called if it doesn't answer where it was.
        timeout: seconds for all of it.

    Raises:
        AssociationFailed: it could not be done within ``timeout`` seconds.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    first = loop.create_task(host.connect(peer, local=local, timeout=timeout))

    async def elsewhere() -> None:
        await asyncio.wait({first}, timeout=min(STALE, timeout))
        if first.done() and first.exception() is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await look_up()
        await host.connect(peer, local=local, timeout=max(until - loop.time(), 0.0))

    second = loop.create_task(elsewhere())
    try:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        if first.done() and first.exception() is None:
            return
        await second
    finally:
        first.cancel()
        second.cancel()
