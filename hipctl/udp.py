"""Shell: UDP ports, and which of our addresses others could reach.

``OpenPort`` is the seam between hipctl and the network: real here, simulated in tests/sim/net.py.
"""

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from hipctl.actions import Address
from hipctl.errors import HostConfigRefused

RECEIVE_BUFFER = 4 * 2**20  # bytes asked of the kernel; a burst of fragments must not overrun it

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


OpenPort = Callable[[Address, OnDatagram, Counter[str]], Awaitable[DatagramPort]]
"""``await open_port(address, on_datagram, counters)``; raises HostConfigRefused."""


class UdpPort:
    """A UDP socket: received by the event loop, sent on directly.

    uvloop receives faster than a reader callback with ``recvfrom`` does; for sending its
    transport has nothing to offer over the socket but a queue that grows when the kernel's is
    full, where a datagram is better lost.
    """

    def __init__(self, sock: socket.socket, counters: Counter[str]) -> None:
        self._socket = sock
        self._sendto = sock.sendto
        self._counters = counters
        self._transport: asyncio.BaseTransport | None = None
        host, port = sock.getsockname()[:2]
        self.address: Address = (host, port)

    def send(self, data: bytes, to: Address) -> None:
        """See DatagramPort."""
        try:
            self._sendto(data, to)
        except OSError as error:
            self._counters[f"send failed: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def close(self) -> None:
        """See DatagramPort."""
        if self._transport:
            self._transport.close()
            self._transport = None

    async def receive(self, on_datagram: OnDatagram) -> None:
        """Begin to call ``on_datagram``."""
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
    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._on_datagram(data, addr[:2])  # without flow label and scope


async def open_udp(
    address: Address, on_datagram: OnDatagram, counters: Counter[str]
) -> DatagramPort:
    """Open a UDP port on an IP address of this machine.

    Raises:
        HostConfigRefused: it cannot be bound; the message says what to change.
    """
    six = ":" in address[0]
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind(address)
    except OSError as error:
        sock.close()
        why = error.strerror or str(error)
        hint = "another program has it" if error.errno == errno.EADDRINUSE else "check the address"
        raise HostConfigRefused(
            f"UDP {address[0]} port {address[1]}: {why}; {hint}, or listen elsewhere"
        ) from None
    port = UdpPort(sock, counters)
    await port.receive(on_datagram)
    return port


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
