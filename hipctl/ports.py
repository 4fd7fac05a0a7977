"""Shell: the UDP ports of one host: from which we speak to whom, and at which we are reached."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

from hipctl import contact as contacts
from hipctl.actions import Address
from hipctl.udp import DatagramPort, OnDatagram, OpenPort, own_addresses

MOST_ROUTES = 4_096  # peers of which we remember at which of our addresses they are
FOUND_SECONDS = 10.0  # how long we trust that our own addresses are what they were

Send = Callable[[bytes, Address], None]


class Ports:
    """Opens, sends and closes.

    A NAT or firewall lets an answer pass only if it comes from the address that was asked. With
    one port of a family that is so by itself, as far as the kernel's routes have it. Where there
    are several, a packet is answered from the port at which it came, and an association stays
    at the port where it came up; what we begin leaves from the first.

    Attributes:
        send4: sends one datagram to an IPv4 address, or loses it.
        send6: the same for IPv6.
    """

    def __init__(
        self, open_port: OpenPort, on_datagram: OnDatagram, counters: Counter[str]
    ) -> None:
        """Set up; nothing is open yet."""
        self.send4: Send = self._nowhere
        self.send6: Send = self._nowhere
        self._open_port = open_port
        self._on_datagram = on_datagram
        self._counters = counters
        self._opened: list[DatagramPort] = []
        self._routes: OrderedDict[Address, Send] = OrderedDict()
        self._asked: tuple[Address, Send] | None = None  # whom we are answering, and from where
        self._found: tuple[float, list[Address]] = (float("-inf"), [])

    @property
    def addresses(self) -> list[Address]:
        """Where we listen, with the ports that the kernel chose; empty when closed."""
        return [port.address for port in self._opened]

    async def open(self, addresses: Sequence[Address]) -> None:
        """Open a port at each address.

        Raises:
            HostConfigRefused: one of them cannot be bound; what was opened stays open.
        """
        families = [":" in host for host, _ in addresses]
        first: dict[bool, Send] = {}
        for address, six in zip(addresses, families, strict=True):
            several = families.count(six) > 1
            send = await self._open_one(address, several)
            if six not in first:
                first[six] = self._routed(send) if several else send
        self.send4 = first.get(False, self._nowhere)
        self.send6 = first.get(True, self._nowhere)

    def close(self) -> None:
        """Close all; what is sent from now on is lost."""
        self.send4 = self.send6 = self._nowhere
        for port in self._opened:
            port.close()
        self._opened.clear()
        self._routes.clear()

    def associated(self, address: Address) -> None:
        """An association came up while we answered ``address``: it stays at that port."""
        if self._asked and self._asked[0] == address:
            self._routes[address] = self._asked[1]
            self._routes.move_to_end(address)
            if len(self._routes) > MOST_ROUTES:
                self._routes.popitem(last=False)

    def reachable(self, private: bool, now: float) -> list[Address]:
        """Addresses at which others could reach us; ``private``: also those of a LAN."""
        at, found = self._found
        if now >= at + FOUND_SECONDS:
            found = [
                (ip, port)
                for host, port in self.addresses
                for ip in own_addresses(host)
                if private or contacts.is_public(ip)
            ]
            self._found = now, found
        return found

    async def _open_one(self, address: Address, several: bool) -> Send:
        on_datagram, door = self._on_datagram, None
        if several:
            door = _Door(self._answer, self._nowhere)
            on_datagram = door.on_datagram
        port = await self._open_port(address, on_datagram, self._counters)
        self._opened.append(port)
        if door:
            door.send = port.send
        return port.send

    def _answer(self, data: bytes, source: Address, send: Send) -> None:
        self._asked = source, send
        try:
            self._on_datagram(data, source)
        finally:
            self._asked = None

    def _routed(self, first: Send) -> Send:
        def send(data: bytes, to: Address) -> None:
            if self._asked and self._asked[0] == to:
                self._asked[1](data, to)
            else:
                self._routes.get(to, first)(data, to)

        return send

    def _nowhere(self, data: bytes, to: Address) -> None:
        self._counters["no port of this address family"] += 1


class _Door:
    """One of several ports of a family: tells through which a datagram came."""

    def __init__(self, answer: Callable[[bytes, Address, Send], None], send: Send) -> None:
        self._answer = answer
        self.send = send

    def on_datagram(self, data: bytes, source: Address) -> None:
        self._answer(data, source, self.send)
