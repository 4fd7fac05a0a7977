"""Shell: the UDP ports of one host: from which we speak to whom, and at which we are reached."""

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

from hipctl import contact as contacts
from hipctl.actions import Address
from hipctl.errors import HostConfigRefused, NoSuchAddress
from hipctl.rtnetlink import LinkAddress
from hipctl.udp import DatagramPort, OnDatagram, OpenPort, own_addresses

_log = logging.getLogger(__name__)

MOST_ROUTES = 4_096  # peers of which we remember at which of our addresses they are
FOUND_SECONDS = 10.0  # how long we trust that our own addresses are what they were
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104

_NEVER: tuple[float, list[Address]] = (float("-inf"), [])

Send = Callable[[bytes, Address], None]


class Ports:
    """Opens, sends and closes.

    A NAT or firewall lets an answer pass only if it comes from the address that was asked. With
    one port of a family that is so by itself, as far as the kernel's routes have it. Where there
    are several, a packet is answered from the port at which it came, and an association stays
    at the port where it came up; what we begin leaves from the first.

    Told of our addresses (``follow``), it opens a port at each beside the one bound to all, and
    sends from a chosen one through its own interface (``path``).

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
        self._everywhere: dict[bool, DatagramPort] = {}  # by family: bound to all addresses
        self._followed: dict[Address, tuple[int, DatagramPort]] | None = None  # with their links
        self._at: dict[Address, Send] = {}
        self._paths: dict[tuple[Address, Address], Send] = {}
        self._routes: OrderedDict[Address, Send] = OrderedDict()
        self._asked: tuple[Address, Send] | None = None  # whom we are answering, and from where
        self._found: dict[bool, tuple[float, list[Address]]] = {}  # when, by ``private``

    @property
    def addresses(self) -> list[Address]:
        """Where we listen, with the ports that the kernel chose; empty when closed."""
        return [port.address for port in self._opened]

    async def open(self, addresses: Sequence[Address], follow: bool = False) -> None:
        """Open a port at each address.

        Args:
            addresses: where; a machine without IPv6 does without "::" where there is another.
            follow: ``follow`` will be called.

        Raises:
            HostConfigRefused: one of them cannot be bound; what was opened stays open.
        """
        families = [":" in host for host, _ in addresses]
        first: dict[bool, Send] = {}
        for address, six in zip(addresses, families, strict=True):
            several = families.count(six) > 1 or (follow and address[0] in ANYWHERE)
            try:
                port, send = await self._open_one(address, several)
            except NoSuchAddress as error:
                if address[0] != "::" or len(addresses) == 1:
                    raise
                _log.info("no IPv6 here: %s", error)
                continue
            self._opened.append(port)
            self._at[port.address] = send
            if address[0] in ANYWHERE:
                self._everywhere.setdefault(six, port)
            if six not in first:
                first[six] = self._routed(send) if several else send
        self.send4 = first.get(False, self._nowhere)
        self.send6 = first.get(True, self._nowhere)

    async def follow(self, found: Sequence[LinkAddress]) -> list[Address]:
        """Have a port at each of these addresses, and nowhere else but where ``open`` did.

        Returns:
            Where we are now: these, then the addresses that ``open`` was told by name.
        """
        followed = self._followed or {}
        wanted: dict[Address, int] = {}
        for each in found:
            beside = self._everywhere.get(":" in each.ip)
            if beside:
                wanted.setdefault((each.ip, beside.address[1]), each.link)
        for address, (link, port) in list(followed.items()):
            if wanted.get(address) != link:
                del followed[address]
                self._leave(address, port)
        self._followed = followed
        for address, link in wanted.items():
            if address not in followed and self._opened:
                with contextlib.suppress(HostConfigRefused):  # it has gone meanwhile
                    followed[address] = link, await self._open_beside(address, link)
        if not self._opened:  # closed meanwhile
            for _, port in followed.values():
                port.close()
            self.close()
            return []
        self._paths.clear()
        self._found.clear()
        ours = [address for address in wanted if address in followed]
        return ours + [address for address in self.addresses if address[0] not in ANYWHERE]

    def close(self) -> None:
        """Close all; what is sent from now on is lost."""
        self.send4 = self.send6 = self._nowhere
        for port in self._opened:
            port.close()
        for _, port in (self._followed or {}).values():
            port.close()
        self._opened.clear()
        self._followed = None
        for table in (self._everywhere, self._at, self._paths, self._routes):
            table.clear()

    def sender(self, source: Address | None, to: Address) -> Send:
        """How to send to ``to``: from ``source``, or from wherever it is best if that is None."""
        if source is not None:
            return self.path(source, to)
        return self.send6 if ":" in to[0] else self.send4

    def path(self, source: Address, to: Address) -> Send:
        """How to send from ``source`` to ``to``; if we are not there any more, from elsewhere."""
        send = self._paths.get((source, to))
        if send is None:
            if len(self._paths) >= MOST_ROUTES:
                self._paths.clear()
            send = self._paths[source, to] = self._find(source, to)
        return send

    def port(self, source: Address | None, to: Address) -> DatagramPort | None:
        """The port from which ``path(source, to)`` always sends, if there is one."""
        six = ":" in to[0]
        own = [port for port in self._opened if (":" in port.address[0]) is six]
        if len(own) == 1 and not self._followed:
            return own[0]
        if source is None or any(to[0] == ip for ip, _ in self._at):
            return None
        followed = (self._followed or {}).get(source)
        if followed is not None:
            return followed[1]
        return next((port for port in own if port.address == source), None)

    @property
    def asked_at(self) -> Address | None:
        """Where it came what we are answering, if there are several ports of its family."""
        if self._asked is None:
            return None
        send = self._asked[1]
        return next((address for address, other in self._at.items() if other == send), None)

    def associated(self, address: Address) -> None:
        """An association came up while we answered ``address``: it stays at that port."""
        if self._asked and self._asked[0] == address:
            self._routes[address] = self._asked[1]
            self._routes.move_to_end(address)
            if len(self._routes) > MOST_ROUTES:
                self._routes.popitem(last=False)

    def reachable(self, private: bool, now: float) -> list[Address]:
        """Addresses at which others could reach us; ``private``: also those of a LAN."""
        at, found = self._found.get(private, _NEVER)
        if now >= at + FOUND_SECONDS:
            found = [
                (ip, port)
                for host, port in self.addresses
                for ip in self._own(host)
                if private or contacts.is_public(ip)
            ]
            found = _mixed(found)
            self._found[private] = now, found
        return found

    def _own(self, bound: str) -> list[str]:
        """At which addresses a port is that is bound to ``bound``."""
        if self._followed is None or bound not in ANYWHERE:
            return own_addresses(bound)
        return [ip for ip, _ in self._followed if (":" in ip) is (":" in bound)]

    async def _open_one(self, address: Address, several: bool) -> tuple[DatagramPort, Send]:
        on_datagram, door = self._on_datagram, None
        if several:
            door = _Door(self._answer, self._nowhere)
            on_datagram = door.on_datagram
        port = await self._open_port(address, on_datagram, self._counters)
        if door:
            door.send = port.send
        return port, port.send

    async def _open_beside(self, address: Address, link: int) -> DatagramPort:
        door = _Door(self._answer, self._nowhere)
        beside = self._everywhere[":" in address[0]]
        port = await beside.beside(address[0], link, door.on_datagram)
        door.send = self._at[address] = port.send
        return port

    def _leave(self, address: Address, port: DatagramPort) -> None:
        send = self._at.pop(address, None)
        for to in [to for to, route in self._routes.items() if route is send]:
            del self._routes[to]
        port.close()

    def _find(self, source: Address, to: Address) -> Send:
        plain = self.send6 if ":" in to[0] else self.send4
        if to[0].startswith("127.") or to[0] == "::1" or any(to[0] == ip for ip, _ in self._at):
            return plain  # we ourselves aren't behind an interface
        return self._at.get(source, plain)

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


def _mixed(found: Sequence[Address]) -> list[Address]:
    """The first of each family in front: a contact holds two addresses only."""
    front: dict[bool, Address] = {}
    for address in found:
        front.setdefault(":" in address[0], address)
    return [*front.values(), *(each for each in found if each not in front.values())]


class _Door:
    """One of several ports of a family: tells through which a datagram came."""

    def __init__(self, answer: Callable[[bytes, Address, Send], None], send: Send) -> None:
        self._answer = answer
        self.send = send

    def on_datagram(self, data: bytes, source: Address) -> None:
        self._answer(data, source, self.send)
