"""One LAN in namespaces: hosts at a bridge, without router, DNS or default route; and an ear."""

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Self

from net.lab_namespaces import PREFIX, Namespaces, entered, sweep

ETH_P_ALL = 0x0003
IPV4, IPV6 = 0x0800, 0x86DD
UDP = 17
_numbers = itertools.count(1)


class Heard(NamedTuple):
    """A datagram."""

    at: float
    source: str
    source_port: int
    to: str
    port: int
    payload: bytes


class Lan:
    """From ``__enter__`` to ``__exit__``; host number n has 10.77.0.n, unless it has IPv6 only.

    Attributes:
        datagrams: all UDP that was heard.
        others: ether types and IP protocols of all else.
        frames: everything, as it was.
        namespace: see Namespaces.name.
        inside: see Namespaces.
        ip: see Namespaces.
    """

    def __init__(self, *hosts: str, four: bool = True) -> None:
        self._hosts: Sequence[str] = hosts
        self._four = four
        self._spaces = Namespaces(f"{PREFIX}{os.getpid()}-{next(_numbers)}-")
        self.namespace, self.inside = self._spaces.name, self._spaces.inside
        self.ip = self._spaces.ip
        self._ear: socket.socket | None = None
        self.datagrams: list[Heard] = []
        self.frames: list[bytes] = []
        self.others: set[tuple[int, int]] = set()

    def __enter__(self) -> Self:
        sweep()
        try:
            for name in ("switch", *self._hosts):
                self._spaces.add(name)
            self.ip("switch", "link add lan type bridge mcast_snooping 0")
            self.ip("switch", "link set lan up promisc on")
            for number, name in enumerate(self._hosts, 1):
                switch = self.namespace("switch")
                self.ip(name, f"link add eth0 type veth peer name port{number} netns {switch}")
                self.ip("switch", f"link set port{number} master lan up")
                self.ip(name, "link set eth0 up")
                if self._four:
                    self.ip(name, f"addr add 10.77.0.{number}/24 dev eth0")
            self._listen()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._ear is not None:
            with contextlib.suppress(OSError):
                self._ear.close()
        self._spaces.remove()

    @property
    def names(self) -> Sequence[str]:
        """The hosts."""
        return self._hosts

    def owners(self) -> dict[str, str]:
        """Who has each address."""
        return {f"10.77.0.{number}": name for number, name in enumerate(self._hosts, 1)}

    def devices(self, name: str) -> Sequence[str]:
        """All count."""
        return ()

    def entered(self, name: str) -> AbstractContextManager[None]:
        """Sockets opened inside are that namespace's; never await inside."""
        return entered(self.namespace(name))

    def _listen(self) -> None:
        with entered(self.namespace("switch")):
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            ear.bind(("lan", 0))
        ear.settimeout(0.2)
        self._ear = ear
        threading.Thread(target=self._hear, args=(ear,), daemon=True).start()

    def _hear(self, ear: socket.socket) -> None:
        while ear.fileno() >= 0:
            try:
                frame = ear.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                return
            self._note(frame)

    def _note(self, frame: bytes) -> None:
        self.frames.append(frame)
        kind = struct.unpack_from("!H", frame, 12)[0]
        packet = frame[14:]
        if kind == IPV4 and packet[9] == UDP:
            start = (packet[0] & 0x0F) * 4
            ends = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        elif kind == IPV6 and packet[6] == UDP:
            start = 40
            ends = (
                socket.inet_ntop(socket.AF_INET6, packet[8:24]),
                socket.inet_ntop(socket.AF_INET6, packet[24:40]),
            )
        else:
            protocol = packet[9] if kind == IPV4 else packet[6] if kind == IPV6 else 0
            self.others.add((kind, protocol))
            return
        source, to, length = struct.unpack_from("!HHH", packet, start)
        payload = packet[start + 8 : start + length]
        self.datagrams.append(Heard(time.monotonic(), ends[0], source, ends[1], to, payload))
