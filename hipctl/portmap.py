"""Shell: asks this machine's routers for mappings of our UDP port, and keeps them.

    mapper = PortMapper(10_500, on_change)
    await mapper.start(addresses)      # then mapper.moved(addresses) whenever they change
    await mapper.close()

Nothing here waits for a router but tasks of its own, and nothing raises.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

from hipctl import igd, pcp, routes, ssdp
from hipctl.errors import MalformedPacket
from hipctl.http1 import Exchange
from hipctl.mapped import (
    Action,
    Address,
    Ask,
    Fetch,
    Mapped,
    MappingsChanged,
    Random,
    Search,
    Settings,
    Uplink,
)
from hipctl.mapping import MOST_UPLINKS, Mapper
from hipctl.sansio import Driver

_log = logging.getLogger(__name__)

LOOK: Final = 30.0  # seconds between looks at the routes, which may change alone
LOOK_AGAIN: Final = 1.0  # seconds after we have moved: a route follows its address
PATIENCE: Final = 5.0  # seconds that an HTTP exchange may take
FAREWELL: Final = 0.4  # seconds that deleting mappings may take; the requests leave at once

_PROC: Final = Path("/proc/net")
_LONGEST_TABLE: Final = 256 * 1_024  # bytes of the routes that we read
_MOST_FETCHES: Final = 16
_CHUNK: Final = 4_096
_ALL_HOSTS: Final = {False: "224.0.0.1", True: "ff02::1"}  # RFC 6887 §14.1.3

OnChange = Callable[[Sequence[Mapped]], None]
_OnRead = Callable[[bytes, str, int], None]


class PortMapper:
    """Mappings of one UDP port, from ``start`` to ``close``."""

    def __init__(
        self,
        port: int,
        on_change: OnChange,
        *,
        settings: Settings | None = None,
        announce_private: bool = False,
        rng: Random = os.urandom,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            port: our UDP port.
            on_change: called with the mappings through which others can reach us, the one to
                prefer first, whenever they are others than before.
            settings: defaults if None.
            announce_private: whether mappings count whose external address isn't public.
            rng: random bytes.
        """
        self._port = port
        self._on_change = on_change
        self._mapper = Mapper(port, settings or Settings(), rng, announce_private)
        self._addresses: list[str] = []
        self._uplinks: list[Uplink] = []
        self._controls: dict[Uplink, _Socket] = {}
        self._searchers: dict[Uplink, _Socket] = {}
        self._listeners: list[_Socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._driver: Driver[Action] | None = None

    async def start(self, addresses: Sequence[Address]) -> None:
        """Begin to ask; answers come later.

        Args:
            addresses: where our port is, the one to prefer first; other ports are left out.
        """
        self._loop = asyncio.get_running_loop()
        self._driver = Driver(self._mapper, self._perform)
        self.moved(addresses)

    async def close(self) -> None:
        """Delete the mappings, which takes ``FAREWELL`` at most; harmless when done twice."""
        if self._driver is None:
            return
        if self._looking is not None:
            self._looking.cancel()
        for task in self._tasks:
            task.cancel()
        self._driver.feed(lambda _: self._mapper.close())
        self._driver.close()
        self._driver = None
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=FAREWELL)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        opened = [*self._controls.values(), *self._searchers.values(), *self._listeners]
        for each in opened:
            await each.close()
        self._controls.clear()
        self._searchers.clear()
        self._listeners.clear()

    def moved(self, addresses: Sequence[Address]) -> None:
        """We are at other addresses now, or the routes may be others."""
        if self._driver is None:
            return
        self._addresses = [ip for ip, port in addresses if port == self._port]
        self._look(LOOK_AGAIN)

    @property
    def mapped(self) -> list[Mapped]:
        """What routers have made, whether others can reach us by it or not."""
        return self._mapper.mapped

    @property
    def announced(self) -> list[Mapped]:
        """Those that ``on_change`` was told of last."""
        return self._mapper.announceable

    def describe(self) -> list[dict[str, object]]:
        """One row a router, for status and netcheck; see ``Mapper.describe``."""
        return [] if self._driver is None else self._mapper.describe(self._loop.time())

    def counters(self) -> dict[str, int]:
        """What came and was dropped, by reason."""
        return dict(self._mapper.counters)

    # where we are

    def _look(self, again: float = LOOK) -> None:
        driver = self._driver
        if driver is None:
            return
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._loop.call_later(again, self._look)
        found = _uplinks(self._addresses)
        if found == self._uplinks:
            return
        self._uplinks = found
        driver.feed(lambda now: self._mapper.set_uplinks(found, now))
        for opened in (self._controls, self._searchers):
            for uplink in [each for each in opened if each not in found]:
                opened.pop(uplink).close()
        self._listen()

    def _listen(self) -> None:
        """Hear what routers say to all: that they have restarted."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        for six, link in dict.fromkeys((each.six, each.link) for each in self._uplinks):
            family = socket.AF_INET6 if six else socket.AF_INET
            group = _ALL_HOSTS[six]
            self._open_listener(family, (group, pcp.CLIENT_PORT), link, self._on_announcement)
            if not six:
                group = ssdp.GROUP4
                self._open_listener(family, (group, ssdp.PORT), link, self._on_notify)

    def _open_listener(
        self, family: socket.AddressFamily, at: Address, link: str, on_read: _OnRead
    ) -> None:
        def bind(sock: socket.socket) -> None:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # RFC 6886 §3.2.1
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            index = socket.if_nametoindex(link)
            sock.bind(_address(*at, index))
            packed = socket.inet_pton(family, at[0])
            if family == socket.AF_INET:
                request = struct.pack("=4s4xi", packed, index)  # ip_mreqn
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = struct.pack("=16si", packed, index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)

        with contextlib.suppress(OSError):  # then we ask now and then, and learn it later
            self._listeners.append(_Socket(self._loop, family, bind, on_read))

    # what the machine asks for

    def _perform(self, action: Action) -> None:
        match action:
            case Ask(uplink=uplink, data=data):
                self._ask(uplink, data)
            case Search(uplink=uplink):
                self._search(uplink)
            case Fetch():
                if len(self._tasks) < _MOST_FETCHES:
                    self._spawn(self._fetch(action))
            case MappingsChanged(mapped=mapped):
                try:
                    self._on_change(mapped)
                except Exception:
                    _log.exception("a change of port mappings was not taken")

    def _ask(self, uplink: Uplink, data: bytes) -> None:
        def connect(sock: socket.socket) -> None:
            sock.bind((uplink.ip, 0))
            sock.connect(_address(uplink.router, pcp.SERVER_PORT, _index(uplink)))

        def on_read(data: bytes, ip: str, port: int) -> None:
            self._feed(lambda now: self._mapper.on_datagram(uplink, data, (ip, port), now))

        def on_refused() -> None:
            self._feed(lambda now: self._mapper.on_refused(uplink, now))

        try:
            control = self._controls.get(uplink)
            if control is None:
                family = socket.AF_INET6 if uplink.six else socket.AF_INET
                control = _Socket(self._loop, family, connect, on_read, on_refused)
                self._controls[uplink] = control
            control.sock.send(data)
        except OSError:  # no way there, or a port unreachable that came meanwhile
            self._loop.call_soon(on_refused)

    def _search(self, uplink: Uplink) -> None:
        def bind(sock: socket.socket) -> None:
            sock.bind((uplink.ip, 0))
            if uplink.six:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, _index(uplink))
            else:
                packed = socket.inet_aton(uplink.ip)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)

        def on_read(data: bytes, ip: str, port: int) -> None:
            self._feed(lambda now: self._mapper.on_answer(uplink, data, ip, now))

        with contextlib.suppress(OSError):  # the machine takes it for lost
            searcher = self._searchers.get(uplink)
            if searcher is None:
                family = socket.AF_INET6 if uplink.six else socket.AF_INET
                searcher = self._searchers[uplink] = _Socket(self._loop, family, bind, on_read)
            index = _index(uplink)
            for host in (ssdp.GROUP6 if uplink.six else ssdp.GROUP4, uplink.router):
                for target in ssdp.TARGETS:
                    data = ssdp.search(host.partition("%")[0], target)
                    searcher.sock.sendto(data, _address(host, ssdp.PORT, index))

    def _on_announcement(self, data: bytes, ip: str, port: int) -> None:
        self._feed(lambda now: self._mapper.on_announcement(data, (ip, port), now))

    def _on_notify(self, data: bytes, ip: str, port: int) -> None:
        if any(each.router == ip for each in self._uplinks):  # a home is full of such devices
            self._feed(lambda now: self._mapper.on_notify(data, ip, now))

    def _feed(self, step: Callable[[float], list[Action]]) -> None:
        if self._driver is not None:
            self._driver.feed(step)

    # HTTP

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work, name="port mapping")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, fetch: Fetch) -> None:
        reply: tuple[int, bytes] | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._exchange(fetch)
        except (OSError, TimeoutError, MalformedPacket) as error:
            _log.debug("%s: %s", fetch.url, error)
        self._feed(lambda now: self._mapper.on_reply(fetch.uplink, fetch.number, reply, now))

    async def _exchange(self, fetch: Fetch) -> tuple[int, bytes]:
        family = socket.AF_INET6 if fetch.uplink.six else socket.AF_INET
        exchange = Exchange(fetch, igd.LONGEST)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.bind((fetch.uplink.ip, 0))  # a router maps for who asks, and nobody else
            if "%" in fetch.url.host:  # uvloop connects to no zones
                link = fetch.uplink.link.encode()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link)
            to = _address(fetch.url.host, fetch.url.port, _index(fetch.uplink))
            await self._loop.sock_connect(sock, to)
            await self._loop.sock_sendall(sock, exchange.request)
            while not exchange.done:
                exchange.feed(await self._loop.sock_recv(sock, _CHUNK))
        return exchange.status, exchange.body


class _Socket(asyncio.DatagramProtocol):
    """A UDP socket: sent on directly, received by the loop.

    Not by a reader callback: uvloop calls none any more once an ICMP error has come.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        family: socket.AddressFamily,
        bind: Callable[[socket.socket], None],
        on_read: _OnRead,
        on_refused: Callable[[], None] | None = None,
    ) -> None:
        """Open it.

        Args:
            loop: which.
            family: of its addresses.
            bind: binds it, and more.
            on_read: called with each datagram, the IP address and the port it came from.
            on_refused: called when what we sent has come back.

        Raises:
            OSError: there is no such address or interface, or ``bind`` could not.
        """
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self.sock.setblocking(False)
            bind(self.sock)
        except BaseException:
            self.sock.close()
            raise
        self._on_read = on_read
        self._on_refused = on_refused
        self._open = True
        self._transport: asyncio.BaseTransport | None = None
        self._receiving = loop.create_task(self._receive(loop), name="port mapping")

    def close(self) -> asyncio.Task[None]:
        """Close it; harmless when done twice. What is returned may be awaited, or not."""
        self._open = False
        if self._transport is not None:
            self._transport.close()
        return self._receiving

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.create_datagram_endpoint(lambda: self, sock=self.sock)
        except OSError:
            self.sock.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = transport
        if not self._open:
            transport.close()

    def datagram_received(
        self, data: bytes, addr: tuple[str, int] | tuple[str, int, int, int]
    ) -> None:
        """See asyncio."""
        if self._open:
            self._on_read(data, _zoned(addr), addr[1])

    def error_received(self, exc: Exception) -> None:
        """See asyncio."""
        if self._open and self._on_refused is not None:
            self._on_refused()


def _zoned(source: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """An IP address, with its zone if it is link-local."""
    if len(source) == 4 and source[3]:
        with contextlib.suppress(OSError):
            return f"{source[0].partition('%')[0]}%{socket.if_indextoname(source[3])}"
    return source[0]


def _address(host: str, port: int, index: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What a socket wants; ``index`` is that of the interface, for link-local addresses."""
    if ":" not in host:
        return host, port
    ip = host.partition("%")[0]
    return ip, port, 0, index if ip.startswith(("fe80:", "ff02:")) else 0


def _index(uplink: Uplink) -> int:
    """Of the interface; 0 where it isn't needed.

    Raises:
        OSError: it has gone.
    """
    return socket.if_nametoindex(uplink.link) if uplink.six else 0


def _uplinks(addresses: Sequence[str]) -> list[Uplink]:
    """Where mappings may be asked for, as the kernel has it now; nowhere if that can't be told."""
    found = routes.parse_routes4(_table("route")) + routes.parse_routes6(_table("ipv6_route"))
    return routes.uplinks(found, addresses, MOST_UPLINKS)


def _table(name: str) -> str:
    with contextlib.suppress(OSError), (_PROC / name).open("rb") as table:
        return table.read(_LONGEST_TABLE).decode("ascii", "replace")
    return ""
