"""Sees all packets of some namespaces of a lab, and draws them where a scenario fails.

with ladder(net, "alice", "h1", "relay", "bob"):
    ...  # whatever is raised here, the diagram is printed first
"""

import contextlib
import ctypes
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from net.sightings import Sighting, events, sighting

from ladder import draw

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35
BUFFER = 4 << 20
MANY = 100_000  # packets that are kept, the last ones
SNAP = 2_048
ROWS = 400  # of a diagram
LAST = 20.0  # seconds of a scenario that fails
PAUSE = 0.05  # seconds between two readings: clients that talk meanwhile need the processor
_OF_LO = struct.pack(  # classic BPF: by the number of the device, which lo has first
    "=HBBLHBBLHBBLHBBL", 0x20, 0, 0, 0xFFFF_F008, 0x15, 0, 1, 1, 6, 0, 0, 0, 6, 0, 0, 0xFFFF
)


class Tapped(Protocol):
    """A lab whose packets can be seen."""

    @property
    def names(self) -> Sequence[str]:
        """Its namespaces, as they shall stand in a diagram."""

    def owners(self) -> dict[str, str]:
        """Who has each address."""

    def devices(self, name: str) -> Sequence[str]:
        """Those whose packets count in a namespace; none: all of them."""

    def entered(self, name: str) -> AbstractContextManager[None]:
        """Sockets that are opened inside are that namespace's."""


class Capture:
    """From ``__enter__`` to ``__exit__``; a thread reads.

    Args:
        net: where; who comes later isn't seen.
        columns: namespaces, as they shall stand in the diagram; by default all that have
            something to show.
    """

    def __init__(self, net: Tapped, *columns: str) -> None:
        self._columns = columns
        self._names: tuple[str, ...] = columns or tuple(net.names)
        self._net, self._owners = net, net.owners()
        self._seen: deque[tuple[float, str, bool, bytes]] = deque(maxlen=MANY)
        self._taps: list[tuple[str, Sequence[str], socket.socket]] = [
            (name, net.devices(name), _tap(net, name)) for name in self._names
        ]
        self._held = False
        self._reading, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Capture":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._read()
        for *_, tap in self._taps:
            tap.close()
        self._taps = []

    @property
    def sightings(self) -> list[Sighting]:
        """What was seen until now."""
        self._read()
        return [found for seen in self._seen if (found := sighting(*seen))]

    def draw(self, last: float = float("inf")) -> str:
        """The ladder diagram of what was seen until now.

        Args:
            last: seconds of it.
        """
        owners = self._owners | self._net.owners()  # before somebody moved, and after
        found = events(self.sightings, self._names, owners)
        since = max((event.at for event in found), default=0.0) - last
        found = [event for event in found if event.at >= since]
        there = {name for event in found for name in (event.source, event.to)}
        columns = self._columns or [name for name in self._names if name in there]
        began = min((event.at for event in found), default=0.0)
        rows = (replace(event, at=event.at - began) for event in found)
        return draw(rows, columns, ROWS) or "no packets were seen"

    def hold(self, *columns: str) -> None:
        """See nothing any more, and draw these only; unless that has been said before.

        What fails first is shown, and not how all is taken down.
        """
        if not self._held:
            self._read()
            self._held = True
            self._columns = columns or self._columns
            self._names = self._columns or self._names

    def clear(self) -> None:
        """Forget what was seen until now."""
        self._read()
        self._seen.clear()

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE):
            self._read()

    def _read(self) -> None:
        if self._held:
            return
        with self._reading:
            for name, devices, tap in self._taps:
                for at, device, leaves, packet in _arrivals(tap):
                    if not devices or device in devices:
                        self._seen.append((at, name, leaves, packet))


@contextlib.contextmanager
def ladder(net: Tapped, *columns: str) -> Iterator[Capture]:
    """Print the diagram of the last seconds if what is inside fails."""
    capture = Capture(net, *columns)
    try:
        with capture:
            yield capture
    except BaseException:  # also what pytest raises
        print(f"\n{capture.draw(LAST)}\n")  # noqa: T201
        raise


@contextlib.contextmanager
def focus(capture: Capture, *columns: str) -> Iterator[None]:
    """Let the diagram show these only if what is inside fails first."""
    try:
        yield
    except BaseException:
        capture.hold(*columns)
        raise


def _tap(net: Tapped, name: str) -> socket.socket:
    with net.entered(name):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    code = ctypes.create_string_buffer(_OF_LO)
    program = struct.pack("HL", len(_OF_LO) // 8, ctypes.addressof(code))
    tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # not when we get to it
    tap.setblocking(False)
    return tap


def _arrivals(tap: socket.socket) -> Iterator[tuple[float, str, bool, bytes]]:
    """Time, device, whether it leaves, and the packet; of all that wait."""
    while True:
        try:
            packet, ancillary, _, (device, kind, way, *_) = tap.recvmsg(SNAP, 64)
        except BlockingIOError:
            return
        if kind in {ETH_P_IP, ETH_P_IPV6} and ancillary:
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            yield seconds + nanoseconds / 1e9, device, way == socket.PACKET_OUTGOING, packet
