"""Shell: link-local groups: who asks a LAN who is there, and who answers.

The question is an I1 without a receiver (RFC 7401 §4.1.8), from the main port of who asks; the R1
goes back there from the main port of who answers. Nothing else is ever read at these groups.
"""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hipctl import contact as contacts
from hipctl.actions import Action, Address, LanAnswered, Path
from hipctl.constants import RegistrationType
from hipctl.engine import Engine
from hipctl.errors import AssociationFailed
from hipctl.identity import Hit
from hipctl.interface import LanPeer

GROUP4: Final = "239.255.104.112"  # ours, of the range for one's own networks (RFC 2365 §6.1)
GROUP6: Final = "ff12::6869:70"  # ours: not permanent, link-local (RFC 4291 §2.7)
LAN_PORT: Final = 10_502  # ours: not 10500, which is shared with nobody by who is at all addresses
LOOPBACK: Final = "lo"
LONGEST: Final = 512  # bytes of a question
READS: Final = 32  # questions that are read in one go

_NON_ESP: Final = bytes(4)
_KINDS: Final = {int(kind): kind for kind in RegistrationType}

Feed = Callable[[Callable[[float], Iterable[Action]]], None]


class Lan:
    """The LANs of one host, as far as it answers there, or asks."""

    def __init__(self, engine: Engine, counters: Counter[str]) -> None:
        self._engine = engine
        self._counters = counters
        self._feed: Feed | None = None
        self._four: socket.socket | None = None
        self._six: dict[int, socket.socket] = {}
        self._lookers: dict[Hit, Callable[[LanPeer], None]] = {}

    def start(self, feed: Feed) -> None:
        """From now on there is a driver of the engine."""
        self._feed = feed

    def close(self) -> None:
        """Answer and ask no more; harmless when done twice."""
        self._feed = None
        self._leave()

    # -- answering -----------------------------------------------------------------------------

    def welcome(self, certificates: Sequence[bytes]) -> None:
        """Listen at the groups of every link that there is; see ``interface.Host``."""
        if self._feed is None:
            raise AssociationFailed("this host is closed")
        self._engine.welcome(certificates)
        self._four = self._open(socket.AF_INET, (GROUP4, LAN_PORT))
        self.moved()

    def moved(self) -> None:
        """There may be other links now."""
        if self._four is None:
            return
        links = {index for index, _ in socket.if_nameindex()}
        for index in links:
            join = socket.inet_aton(GROUP4) + bytes(4) + struct.pack("@i", index)
            with contextlib.suppress(OSError):  # it is joined, or has no such address
                self._four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        for index in self._six.keys() - links:
            self._shut(self._six.pop(index))
        for index in links - self._six.keys():
            six = self._open(socket.AF_INET6, (GROUP6, LAN_PORT, 0, index))
            if six is None:
                continue
            self._six[index] = six
            join = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index)
            try:
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
            except OSError:
                self._shut(self._six.pop(index))

    def _open(
        self, family: int, address: tuple[str, int] | tuple[str, int, int, int]
    ) -> socket.socket | None:
        """A port at a group, which several programs of a machine may have."""
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            self._counters["no port at a group"] += 1
            return None
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read, sock)
        return sock

    def _shut(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def _leave(self) -> None:
        opened = [*self._six.values(), *([self._four] if self._four is not None else [])]
        self._six, self._four = {}, None
        for sock in opened:
            self._shut(sock)

    def _read(self, sock: socket.socket) -> None:
        for _ in range(READS):
            try:
                data, source = sock.recvfrom(LONGEST)
            except OSError:
                return
            host, port = source[0].partition("%")[0], source[1]
            if len(source) > 2 and source[3]:
                host = f"{host}%{source[3]}"
            self._on_question(data, (host, port))

    def _on_question(self, data: bytes, source: Address) -> None:
        if self._feed is None or data[: len(_NON_ESP)] != _NON_ESP:
            return
        question = data[len(_NON_ESP) :]
        self._feed(lambda now: self._engine.on_lan(question, source, now))

    # -- asking --------------------------------------------------------------------------------

    async def look_around(
        self,
        local: Hit,
        ours: Sequence[Address],
        on_found: Callable[[LanPeer], None],
        seconds: float,
    ) -> None:
        """See ``interface.Host``.

        Args:
            local: our HIT.
            ours: the addresses from which is asked.
            on_found: called with each who answers.
            seconds: how long.
        """
        if self._feed is None:
            raise AssociationFailed("this host is closed")
        self._lookers[local] = on_found
        paths = _paths(ours)
        try:
            self._feed(lambda now: self._engine.call(local, paths, seconds, now))
            await asyncio.sleep(seconds)
        finally:
            if self._lookers.get(local) is on_found:
                del self._lookers[local]

    def answered(self, found: LanAnswered) -> None:
        """Somebody has answered."""
        on_found = self._lookers.get(found.local)
        if on_found is None:
            return
        contact = b""
        if "%" not in found.address[0]:
            contact = contacts.contact_from_addresses([found.address])
        services = frozenset(_KINDS[kind] for kind in found.services if kind in _KINDS)
        on_found(LanPeer(found.peer, contact, services, found.certificates))


def _paths(ours: Sequence[Address]) -> list[Path]:
    """From each IPv4 address to its link's group, and by IPv6 from each link."""
    paths = [Path(address, (GROUP4, LAN_PORT)) for address in ours if ":" not in address[0]]
    links = [index for index, name in socket.if_nameindex() if name != LOOPBACK]
    return paths + [Path(None, (f"{GROUP6}%{index}", LAN_PORT)) for index in links]
