"""Shell: UDP ports, and which of our addresses others could reach.

``OpenPort`` is the seam between hipctl and the network: real here, simulated in tests/sim/net.py.
"""

import asyncio
import contextlib
import errno
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hipctl.actions import Address
from hipctl.errors import HostConfigRefused, NoSuchAddress
from hipctl.readers import Readers

_LONGEST = 65_535  # bytes of a datagram
_MOST_BETWEEN = 1_024  # datagrams; it takes microseconds
RECEIVE_BUFFER = 4 * 2**20  # bytes asked of the kernel; a burst of fragments must not overrun it
MOST_WAITING = 2**16  # bytes of a port for which the kernel has no room: one fragmented datagram

_IP_UNICAST_IF, _IPV6_UNICAST_IF = 50, 76  # ip(7), linux/in6.h

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

_FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # documentation addresses

OnDatagram = Callable[[bytes, Address], None]
"""``on_datagram(data, source)``."""


class DatagramPort(Protocol):
    """An open UDP port: real, or simulated."""

    @property
    def address(self) -> Address:
        """Where it is bound."""

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, or lose it; never raises."""

    def close(self) -> None:
        """Close it; harmless when done twice."""

    async def beside(self, ip: str, link: int, on_datagram: OnDatagram) -> "DatagramPort":
        """Open a port of the same number at one address, where this one is bound to all.

        It takes from this one what comes to that address.

        Args:
            ip: an address of this machine.
            link: index of the interface through which everything leaves that is sent there,
                whatever the routes of other interfaces say.
            on_datagram: called with what comes.

        Raises:
            HostConfigRefused: it cannot be bound, for the address may be gone by now.
        """


Receive = Callable[[int], bytes]
"""``receive(most bytes)``; raises OSError."""
Reader = Callable[[Receive], Callable[[], None]]
"""``reader(receive)``: what reads one datagram and does something with it."""


class Towards:
    """A socket of a port for what comes from and goes to one address only, connected to it.

    The kernel sends through it without looking for a route each time, and tells nobody's address
    when something comes: worth it where much does.

    Attributes:
        push: sends; raises OSError where ``DatagramPort.send`` would count.
    """

    __slots__ = ("_readers", "_sock", "push")

    def __init__(self, sock: socket.socket, reader: Reader, readers: Readers) -> None:
        """Begin to read; raises OSError as ``Readers.add`` does."""
        self._sock = sock
        self._readers = readers
        self.push: Callable[[bytes], int] = sock.send
        readers.add(sock.fileno(), reader(sock.recv))

    def close(self) -> None:
        """Close it; what comes from there comes to the port itself again. Harmless when twice."""
        if self._sock.fileno() >= 0:
            self._readers.remove(self._sock.fileno())
            self._sock.close()


OpenPort = Callable[[Address, OnDatagram, Counter[str]], Awaitable[DatagramPort]]
"""``await open_port(address, on_datagram, counters)``; raises HostConfigRefused."""


class UdpPort:
    """A UDP socket: received by the event loop, sent on directly.

    A reader callback with ``recvfrom`` would save the call with which uvloop finds out that there
    is no further datagram, yet it was measured to cost the same where datagrams come alone, and
    1 to 3 us more each where they come in bursts: Python's ``recvfrom`` itself is slower. For
    sending it is the other way round, so the transport sends only what the kernel has no room
    for, and little of that: what waits for long had better be lost.
    """

    def __init__(self, sock: socket.socket, counters: Counter[str]) -> None:
        self._socket = sock
        self._sendto = sock.sendto
        self._counters = counters
        self._transport: Any = None  # a DatagramTransport, of which typeshed knows no buffer
        self.on_datagram: OnDatagram = lambda data, source: None
        self._link = 0  # see ``beside``
        self._sharing = {sock}  # sockets of our number: this one, and those beside it
        host, port = sock.getsockname()[:2]
        self.address: Address = (host, port)

    def send(self, data: bytes, to: Address) -> None:
        """See DatagramPort."""
        try:
            self._sendto(data, to)
        except BlockingIOError:
            self._send_later(data, to)
        except OSError as error:
            self._counters[f"send failed: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def _send_later(self, data: bytes, to: Address) -> None:
        """Let it wait a moment; others may overtake it."""
        transport = self._transport
        if transport and transport.get_write_buffer_size() + len(data) <= MOST_WAITING:
            transport.sendto(data, to)
        else:
            self._counters["send failed: EAGAIN"] += 1

    def close(self) -> None:
        """See DatagramPort."""
        self._sharing.discard(self._socket)
        if self._transport:
            self._transport.abort()  # what waits is lost; the address is free at once
            self._transport = None

    def towards(self, to: Address, reader: Reader, readers: Readers) -> Towards | None:
        """Open a socket beside this one for one address; None: there is none to be had.

        Args:
            to: whose datagrams it takes from this port.
            reader: see Reader.
            readers: calls what it has made.
        """
        sock = socket.socket(self._socket.family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            six = ":" in self.address[0]
            if six:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if self._link:
                _leave_through(sock, self._link, six)
            self._share(sock, self.address)
            sock.connect(to)
            self._hand_back(sock)
            return Towards(sock, reader, readers)
        except OSError:
            sock.close()
            return None

    def _hand_back(self, sock: socket.socket) -> None:
        """Between its ``bind`` and ``connect`` it has also taken what came from others."""
        for _ in range(_MOST_BETWEEN):
            try:
                data, source = sock.recvfrom(_LONGEST)
            except BlockingIOError:
                return
            self.on_datagram(data, source[:2])

    async def beside(self, ip: str, link: int, on_datagram: OnDatagram) -> DatagramPort:
        """See DatagramPort."""
        address = (ip, self.address[1])

        def bind(sock: socket.socket) -> None:
            _leave_through(sock, link, ":" in ip)
            self._share(sock, address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

        port = await _open(address, on_datagram, self._counters, bind)
        port._link, port._sharing = link, self._sharing
        self._sharing.add(port._socket)
        return port

    def _share(self, sock: socket.socket, address: Address) -> None:
        """Let ``sock`` have our number.

        The kernel asks whether ports may be shared when somebody binds: so ours may for that
        moment only, and another program finds them taken.
        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in self._sharing:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        finally:
            for each in self._sharing:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    async def receive(self, on_datagram: OnDatagram) -> None:
        """Begin to call ``on_datagram``."""
        self.on_datagram = on_datagram
        loop = asyncio.get_running_loop()
        kind = _Protocol6 if self._socket.family == socket.AF_INET6 else _Protocol
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: kind(on_datagram, self._counters), sock=self._socket
        )


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: OnDatagram, counters: Counter[str]) -> None:
        self._on_datagram = on_datagram
        self._counters = counters

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._on_datagram(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._counters["socket error"] += 1


class _Protocol6(_Protocol):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        if addr[3]:  # a link-local address means nothing without its link
            self._on_datagram(data, (f"{addr[0].partition('%')[0]}%{addr[3]}", addr[1]))
        else:
            self._on_datagram(data, addr[:2])  # without flow label and scope


async def open_udp(
    address: Address, on_datagram: OnDatagram, counters: Counter[str]
) -> DatagramPort:
    """Open a UDP port on an IP address of this machine.

    Raises:
        HostConfigRefused: it cannot be bound; the message says what to change.
    """
    return await _open(address, on_datagram, counters, lambda sock: sock.bind(address))


async def _open(
    address: Address,
    on_datagram: OnDatagram,
    counters: Counter[str],
    bind: Callable[[socket.socket], None],
) -> "UdpPort":
    six = ":" in address[0]
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bind(sock)
    except OSError as error:
        if sock:
            sock.close()
        why = error.strerror or str(error)
        hint = "another program has it" if error.errno == errno.EADDRINUSE else "check the address"
        refused = NoSuchAddress if error.errno in _NOT_HERE else HostConfigRefused
        raise refused(
            f"UDP {address[0]} port {address[1]}: {why}; {hint}, or listen elsewhere"
        ) from None
    port = UdpPort(sock, counters)
    try:
        await port.receive(on_datagram)
    except BaseException:
        sock.close()
        raise
    return port


def _leave_through(sock: socket.socket, link: int, six: bool) -> None:
    """Let the kernel look only at the routes of one interface; not known elsewhere than in Linux.

    Unlike SO_BINDTODEVICE this needs no rights, and takes what comes through any interface.
    """
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    option = _IPV6_UNICAST_IF if six else _IP_UNICAST_IF
    sock.setsockopt(level, option, socket.htonl(link).to_bytes(4, sys.byteorder))


def own_addresses(bound: str) -> list[str]:
    """At which IP addresses a port is that is bound to ``bound``."""
    if bound == "0.0.0.0":  # noqa: S104
        return outgoing_addresses(socket.AF_INET)
    if bound == "::":
        return outgoing_addresses(socket.AF_INET6)
    return [bound]


def outgoing_addresses(family: int) -> list[str]:
    """The address from which this machine would speak to the Internet; nothing is sent."""
    with (
        contextlib.suppress(OSError),
        socket.socket(family, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect((_FAR[socket.AddressFamily(family)], 9))
        return [probe.getsockname()[0]]
    return []
