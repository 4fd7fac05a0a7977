"""Shell: link-local groups: who asks a LAN who is there, and who answers.

The question is an I1 without a receiver (RFC 7401 §4.1.8), from the main port of who asks; the R1
goes back there from the main port of who answers. Nothing else is ever read at these groups.

Who floods a group costs us a bounded number of reads a second: the kernel throws away the rest.
Who is not on the link from which a question came gets no answer, whatever it claims to be.
"""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from hipctl import contact as contacts
from hipctl.actions import Action, Address, LanAnswered, Path
from hipctl.constants import RegistrationType
from hipctl.engine import Engine
from hipctl.identity import Hit
from hipctl.interface import LanPeer
from hipctl.limits import Allowance
from hipctl.links import LanLink, lan_links, on_link

GROUP4: Final = "239.255.104.112"  # ours, of the range for one's own networks (RFC 2365 §6.1)
GROUP6: Final = "ff12::6869:70"  # ours: not permanent, link-local (RFC 4291 §2.7)
LAN_PORT: Final = 10_502  # ours: not 10500, which is shared with nobody by who is at all addresses
LONGEST: Final = 512  # bytes of a question
READS: Final = 128.0  # questions that are read, a second, and at once
AT_ONCE: Final = 8  # questions that are read before others have their turn
PAUSE: Final = 0.125  # seconds without reading, when there were more

_IP_PKTINFO, _IP_MULTICAST_ALL = 8, 49  # ip(7)
_BUFFER: Final = 1 << 15  # bytes: what waits longer is asked again anyway
_PKTINFO: Final = struct.Struct("@i4s4s")  # interface, our address there, where it was sent to
_NON_ESP: Final = bytes(4)
_KINDS: Final = {int(kind): kind for kind in RegistrationType}

Feed = Callable[[Callable[[float], Iterable[Action]]], None]


class Lan:
    """The LANs of one host, as far as it answers there, or asks.

    Args:
        engine: of the host.
        feed: gives the engine what its callable takes, and performs what comes of it.
        names: of interfaces; empty: those that lead to a LAN.
        counters: of the host.
    """

    def __init__(
        self, engine: Engine, feed: Feed, names: Collection[str], counters: Counter[str]
    ) -> None:
        self._engine = engine
        self._feed = feed
        self._names = names
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._allowance = Allowance(READS, 0.0, self._loop.time())
        self._pause: asyncio.TimerHandle | None = None
        self._four: socket.socket | None = None
        self._joined: set[int] = set()  # links, with _four
        self._six: dict[int, socket.socket] = {}
        self._lookers: dict[Hit, Callable[[LanPeer], None]] = {}
        self._open = True

    def close(self) -> None:
        """Answer and ask no more; harmless when done twice."""
        self._open = False
        if self._pause is not None:
            self._pause.cancel()
        opened = self._sockets()
        self._six, self._four = {}, None
        for sock in opened:
            self._shut(sock)

    # -- answering -----------------------------------------------------------------------------

    def welcome(self, certificates: Sequence[bytes], mark: bytes) -> None:
        """Listen at the groups of every LAN that there is; see ``interface.Host``."""
        self._engine.welcome(certificates, mark)
        if self._four is None:
            self._four = self._listen(socket.AF_INET, (GROUP4, LAN_PORT))
        self.moved()

    def moved(self) -> None:
        """There may be other links now."""
        if self._four is None:
            return
        links = {link.index for link in lan_links(self._names)}
        for index in self._joined ^ links:
            self._member4(self._four, index, index in links)
        for index in self._six.keys() - links:
            self._shut(self._six.pop(index))
        for index in links - self._six.keys():
            six = self._listen(socket.AF_INET6, (GROUP6, LAN_PORT, 0, index))
            if six is None:
                continue
            self._six[index] = six
            join = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index)
            try:
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
            except OSError:
                self._shut(self._six.pop(index))

    def _member4(self, four: socket.socket, index: int, here: bool) -> None:
        """Join the group at a link, or leave it."""
        option = socket.IP_ADD_MEMBERSHIP if here else socket.IP_DROP_MEMBERSHIP
        membership = socket.inet_aton(GROUP4) + bytes(4) + struct.pack("@i", index)
        with contextlib.suppress(OSError):  # the link has gone, and with it our membership
            four.setsockopt(socket.IPPROTO_IP, option, membership)
            if here:
                self._joined.add(index)
        if not here:
            self._joined.discard(index)

    def _listen(
        self, family: int, address: tuple[str, int] | tuple[str, int, int, int]
    ) -> socket.socket | None:
        """Open a port at a group, which several programs of a machine may have."""
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except OSError:  # a machine without IPv6, or no more files
            self._counters["no port at a group"] += 1
            return None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # at our links only
            sock.bind(address)
        except OSError:
            sock.close()
            self._counters["no port at a group"] += 1
            return None
        if self._pause is None:
            self._loop.add_reader(sock.fileno(), self._read, sock)
        return sock

    def _shut(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.close()

    def _sockets(self) -> list[socket.socket]:
        return [*self._six.values(), *([self._four] if self._four is not None else [])]

    def _read(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            if self._allowance.left(self._loop.time())[0] < 1:
                self._rest()
                return
            try:
                data, more, _, source = sock.recvmsg(LONGEST, socket.CMSG_SPACE(_PKTINFO.size))
            except OSError:
                return
            self._allowance.take(1, 0)
            asker = _asker(source, more)
            if asker is None:
                self._counters["question from another link"] += 1
            else:
                self._on_question(data, asker)
            if sock.fileno() < 0:  # closed meanwhile
                return

    def _rest(self) -> None:
        """Read nothing for a while: there are too many questions."""
        self._counters["too many questions at a LAN"] += 1
        for sock in self._sockets():
            self._loop.remove_reader(sock.fileno())
        self._pause = self._loop.call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        """Read again; what has come meanwhile and was too much, is lost."""
        self._pause = None
        for sock in self._sockets():
            self._loop.add_reader(sock.fileno(), self._read, sock)

    def _on_question(self, data: bytes, source: Address) -> None:
        if data[: len(_NON_ESP)] == _NON_ESP:
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
            ours: the addresses from which is asked, as far as they are at a LAN.
            on_found: called with each who answers.
            seconds: how long.
        """
        self._lookers[local] = on_found
        paths = _paths(ours, lan_links(self._names))
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
            try:
                contact = contacts.contact_from_addresses([found.address])
            except ValueError:  # from port 0, say: anybody can send that
                self._counters["answer at a LAN from nowhere"] += 1
                return
        services = frozenset(_KINDS[kind] for kind in found.services if kind in _KINDS)
        on_found(LanPeer(found.peer, contact, services, found.certificates, found.mark))


def _asker(source: Any, more: Sequence[tuple[int, int, bytes]]) -> Address | None:
    """Where the answer goes; None: nowhere, for who asks is not on the link that it came from."""
    if len(source) > 2:
        host, port, _, link = source
        host = host.partition("%")[0]
        return (f"{host}%{link}", port) if link and host.startswith("fe80:") else None
    for level, kind, data in more:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) == _PKTINFO.size:
            _, here, _ = _PKTINFO.unpack(data)
            return source if on_link(source[0], socket.inet_ntoa(here)) else None
    return None


def _paths(ours: Sequence[Address], links: Sequence[LanLink]) -> list[Path]:
    """From each IPv4 address to its link's group, and by IPv6 from each link."""
    here = {link.address for link in links}
    paths = [Path(address, (GROUP4, LAN_PORT)) for address in ours if address[0] in here]
    return paths + [Path(None, (f"{GROUP6}%{link.index}", LAN_PORT)) for link in links]
