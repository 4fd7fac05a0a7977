"""Shell: datagrams between HITs of this host, which never leave the process."""

from collections.abc import Callable
from typing import Any

from hipctl.identity import Hit

MOST_BYTES = 4 * 2**20  # that wait for the loop's next iteration, like a socket's buffer
_OVERHEAD = 256  # bytes that each counts for beyond its data

Deliver = Callable[[Hit, int, bytes, Hit, int], None]
"""``deliver(to, to port, data, source, source port)``."""


class Loopback:
    """Delivers in the loop's next iteration, as a network would: never within ``send``."""

    def __init__(self, deliver: Deliver, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        """Take what receives, and the loop's ``call_soon``."""
        self._deliver = deliver
        self._call_soon = call_soon
        self._waiting: list[tuple[Hit, int, bytes, Hit, int]] = []
        self._bytes = 0

    def send(self, to: Hit, to_port: int, data: bytes, source: Hit, port: int) -> bool:
        """Take a datagram; False if too much waits already."""
        size = len(data) + _OVERHEAD
        if self._bytes + size > MOST_BYTES:
            return False
        if not self._waiting:
            self._call_soon(self._deliver_all)
        self._bytes += size
        self._waiting.append((to, to_port, bytes(data), source, port))
        return True

    def close(self) -> None:
        """Lose what waits."""
        self._waiting.clear()
        self._bytes = 0

    def _deliver_all(self) -> None:
        batch, self._waiting, self._bytes = self._waiting, [], 0
        for datagram in batch:  # what is sent meanwhile waits for the next iteration
            self._deliver(*datagram)
