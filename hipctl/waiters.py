"""Shell: who waits until something is so; each gets its own future."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Waiters(Generic[K, R]):
    """Futures by what they wait for; whoever is cancelled leaves nothing behind."""

    def __init__(self) -> None:
        self._futures: dict[K, set[asyncio.Future[R]]] = {}

    async def wait(self, key: K, begin: Callable[[], None]) -> R:
        """Call ``begin``, and wait for ``done`` or ``fail``, which may come before it returns."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, set()).add(future)
        try:
            begin()
            return await future
        finally:
            others = self._futures.get(key)
            if others is not None:
                others.discard(future)
                if not others:
                    del self._futures[key]

    def done(self, key: K, result: R) -> None:
        """Wake all who wait for ``key``."""
        for future in self._futures.pop(key, ()):
            if not future.done():
                future.set_result(result)

    def fail(self, key: K, error: Exception) -> None:
        """Raise in all who wait for ``key``."""
        for future in self._futures.pop(key, ()):
            if not future.done():
                future.set_exception(error)

    def fail_all(self, error: Exception) -> None:
        """Raise in everybody."""
        for key in list(self._futures):
            self.fail(key, error)
