"""Shell: this machine's addresses, watched: what the kernel says changes, and what there is then.

The kernel's messages are the trigger only; then everything is read anew, which is one answer from
the kernel and needs no state to go wrong.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from hipctl import rtnetlink
from hipctl.errors import MalformedPacket
from hipctl.rtnetlink import Link, LinkAddress
from hipctl.udp import outgoing_addresses

_log = logging.getLogger(__name__)

SETTLE: Final = 0.03  # seconds: an address is seldom alone, its route follows
CHATTER: Final = 0.12  # seconds, where the last look found nothing: a router's routes, say
_QUIET: Final = 1.0  # seconds after which a look that found nothing is forgotten
MOST_ADDRESSES: Final = 6  # of the 8 that a peer remembers of us
_PATIENCE: Final = 0.2  # seconds that the kernel may take; it takes none
_MOST_READS: Final = 256  # of an answer, and of notifications at a time
_BUFFER: Final = 1 << 16
_KINDS: Final = (rtnetlink.LINKS, rtnetlink.ADDRESSES)

OnChange = Callable[[list[LinkAddress]], None]


class Interfaces:
    """A ``roaming.Watch``, from ``open`` to ``close``."""

    def __init__(self, on_change: OnChange) -> None:
        """Set up.

        Args:
            on_change: called with what ``current`` returns, soon after anything has changed,
                the routes too; it may be the same as before.
        """
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._happened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> list[LinkAddress] | None:
        """See ``roaming.Watch``; where watching isn't possible, that is said in the log."""
        self._loop = loop
        try:
            watch = _netlink(rtnetlink.GROUPS)
        except OSError as error:
            _log.warning("changes of this machine's addresses go unseen: %s", error.strerror)
            return None
        watch.setblocking(False)
        self._socket = watch
        loop.add_reader(watch.fileno(), self._on_readable)
        found = current()
        self._task = loop.create_task(self._look_again(found), name="interfaces")
        return found

    def close(self) -> None:
        """Watch no more; harmless when done twice."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _on_readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(_MOST_READS):
            try:
                self._socket.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # else more happened than fits: look all the more
                    _log.warning("watching addresses has ended: %s", error.strerror)
                    self.close()
                    return
        self._happened.set()

    async def _look_again(self, before: list[LinkAddress] | None) -> None:
        """Whenever something has happened, and for ever."""
        nothing_at = float("-inf")  # when we looked last and found what was there before
        while True:
            await self._happened.wait()
            chatter = self._loop.time() < nothing_at + _QUIET
            await asyncio.sleep(CHATTER if chatter else SETTLE)
            self._happened.clear()
            # in a thread: of a hundred links it takes 20 ms, which a call would hear
            found = await asyncio.to_thread(current)
            if found == before:
                nothing_at = self._loop.time()
            if found is not None:
                before = found
                self._on_change(found)


def current() -> list[LinkAddress] | None:
    """The addresses at which this host could be now, the one to prefer first; None: no telling."""
    try:
        with contextlib.closing(_netlink(0)) as asked:
            told = [each for kind in _KINDS for each in _ask(asked, kind)]
    except (OSError, MalformedPacket) as error:
        _log.warning("this machine's addresses could not be read: %s", error)
        return None
    links = [each for each in told if isinstance(each, Link)]
    found = [each for each in told if isinstance(each, LinkAddress)]
    outgoing = outgoing_addresses(socket.AF_INET) + outgoing_addresses(socket.AF_INET6)
    return rtnetlink.usable(links, found, outgoing, MOST_ADDRESSES)


def _ask(asked: socket.socket, kind: int) -> list[Link | LinkAddress]:
    """Everything of a kind; the answer is there at once."""
    asked.settimeout(_PATIENCE)
    asked.send(rtnetlink.dump(kind))
    told: list[Link | LinkAddress] = []
    for _ in range(_MOST_READS):
        some, done = rtnetlink.parse(asked.recv(_BUFFER))
        told += some
        if done:
            break
    return told


def _netlink(groups: int) -> socket.socket:
    """A socket to the kernel's rtnetlink.

    Raises:
        OSError: there is none.
    """
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, "no rtnetlink on this system")
    made = socket.socket(family, socket.SOCK_RAW, getattr(socket, "NETLINK_ROUTE", 0))
    try:
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    return made
