"""Sees all packets of some namespaces of an Internet, and draws them where a scenario fails.

with ladder(net, "alice", "h1", "relay", "bob"):
    ...  # whatever is raised here, the diagram is printed first
"""

import contextlib
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from net.lab_internet import Internet
from net.sightings import Sighting, events, sighting

from ladder import draw

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SO_TIMESTAMPNS = 35
BUFFER = 4 << 20
MANY = 100_000  # sightings that are kept, the last ones
SNAP = 2_048
ROWS = 400  # of a diagram


class Capture:
    """From ``__enter__`` to ``__exit__``; a thread reads.

    Args:
        net: where.
        columns: hosts and homes, as they shall stand in the diagram; by default all that have
            something to show.
    """

    def __init__(self, net: Internet, *columns: str) -> None:
        self._columns = columns
        self._names = columns or tuple(net.names)
        self._net, self._owners = net, net.owners()
        self._seen: deque[Sighting] = deque(maxlen=MANY)
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._selector.register(stopped, selectors.EVENT_READ)
        for name in self._names:
            devices = {"wan", "lan"} if net.is_home(name) else set()
            self._selector.register(_tap(net, name), selectors.EVENT_READ, (name, devices))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Capture":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.send(b"\0")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._stop.close()

    @property
    def sightings(self) -> list[Sighting]:
        """What was seen until now."""
        return list(self._seen)

    def draw(self) -> str:
        """The ladder diagram of what was seen until now."""
        owners = self._owners | self._net.owners()  # before somebody moved, and after
        found = events(self.sightings, self._names, owners)
        there = {name for event in found for name in (event.source, event.to)}
        columns = self._columns or [name for name in self._names if name in there]
        began = min((event.at for event in found), default=0.0)
        rows = (replace(event, at=event.at - began) for event in found)
        return draw(rows, columns, ROWS) or "no packets were seen"

    def clear(self) -> None:
        """Forget what was seen until now."""
        self._seen.clear()

    def _run(self) -> None:
        while all(key.data for key, _ in self._selector.select()):
            self._read()
        self._read()

    def _read(self) -> None:
        for key in self._selector.get_map().values():
            if key.data:
                name, devices = key.data
                assert isinstance(key.fileobj, socket.socket)
                for at, device, leaves, packet in _arrivals(key.fileobj):
                    if device != "lo" and (not devices or device in devices):
                        found = sighting(at, name, leaves, packet)
                        if found:
                            self._seen.append(found)


@contextlib.contextmanager
def ladder(net: Internet, *columns: str) -> Iterator[Capture]:
    """Print the diagram if what is inside fails."""
    capture = Capture(net, *columns)
    try:
        with capture:
            yield capture
    except BaseException:  # also what pytest raises
        print(f"\n{capture.draw()}\n")  # noqa: T201
        raise


def _tap(net: Internet, name: str) -> socket.socket:
    with net.entered(name):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
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
