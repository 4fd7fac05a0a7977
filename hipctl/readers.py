"""Shell: many sockets that the loop watches as one, for those through which very much passes.

Being woken for a datagram costs as much as passing it on. While there are many, the loop looks
for them once in a millisecond or two only, and then finds several.
"""

import asyncio
import select
from collections.abc import Callable

BUSY = 2_000  # datagrams a second from which on there are pauses: 20 calls
PAUSE = 0.002  # seconds
_ROUNDS = 16  # of one datagram a socket; others want the loop, too
_LOOK = 0.1  # seconds between looks at how many there are


class Readers:
    """Calls a function for each datagram that can be read."""

    def __init__(self) -> None:
        """Set up; nothing is open before the first socket is added."""
        self._poll: select.epoll | None = None
        self._read: dict[int, Callable[[], None]] = {}
        self._loop: asyncio.AbstractEventLoop
        self._count = 0
        self._since = 0.0
        self._busy = False

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        """Call ``read`` whenever there is something.

        Args:
            descriptor: of a socket.
            read: reads one datagram; whatever is wrong with it, it raises nothing.

        Raises:
            OSError: this system has no epoll.
        """
        if self._poll is None:
            if not hasattr(select, "epoll"):
                raise OSError("no epoll here")
            self._poll = select.epoll()
            self._loop = asyncio.get_running_loop()
            self._since = self._loop.time()
            self._loop.add_reader(self._poll.fileno(), self._ready)
        self._read[descriptor] = read
        self._poll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Call it no more; the descriptor is still open."""
        if self._read.pop(descriptor, None) is not None and self._poll is not None:
            self._poll.unregister(descriptor)

    def close(self) -> None:
        """Forget all; harmless when done twice."""
        if self._poll is not None:
            if not self._busy:
                self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        self._read.clear()
        self._busy = False

    def _ready(self) -> None:
        if self._poll is None:
            return
        try:
            self._read_all(self._poll)
        finally:  # whoever has made a mistake, the others are read on
            now = self._loop.time()
            if now - self._since >= _LOOK:
                self._consider(now)
            if self._busy:
                self._loop.call_later(PAUSE, self._ready)

    def _read_all(self, poll: select.epoll) -> None:
        reads = self._read
        for _ in range(_ROUNDS):
            events = poll.poll(0)
            self._count += len(events)
            for descriptor, _ in events:
                read = reads.get(descriptor)  # None: closed by one of those before
                if read is not None:
                    read()
            if not events or self._poll is not poll:
                return

    def _consider(self, now: float) -> None:
        """Begin with pauses, or leave them."""
        busy = self._count >= BUSY * (now - self._since)
        self._count, self._since = 0, now
        if busy is not self._busy and self._poll is not None:
            self._busy = busy
            if busy:
                self._loop.remove_reader(self._poll.fileno())
            else:
                self._loop.add_reader(self._poll.fileno(), self._ready)
