"""Shell: the UDP ports of the data relay, and the short way of ESP through it.

Both ways are two look-ups in tables that the engine keeps, an account, and a send.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable

from hipctl.actions import Action, Address
from hipctl.datarelay import Flow, Send
from hipctl.engine import Engine
from hipctl.errors import HostConfigRefused, NoSuchAddress
from hipctl.udp import DatagramPort, OpenPort

_log = logging.getLogger(__name__)

_ZEROS = bytes(4)  # lead every control packet over UDP, RFC 5770 §5.1
_NON_ESP = len(_ZEROS)
_ANYWHERE = {False: "0.0.0.0", True: "::"}  # noqa: S104

Feed = Callable[[Callable[[float], Iterable[Action]]], None]
Find = Callable[[Address | None, Address], Send]
"""``find(source, to)``: what sends from our main port, from that address of ours, to ``to``."""


class RelayPorts:
    """Ports that the engine lends to clients of its data relay, opened in advance."""

    def __init__(
        self, engine: Engine, open_port: OpenPort, find: Find, counters: Counter[str]
    ) -> None:
        """Set up; nothing is open before the engine offers the service."""
        self._engine = engine
        self._serving = engine.serving
        self._up = engine.serving.data.up
        self._down = engine.serving.data.down
        self._open_port = open_port
        self._find = find
        self._counters = counters
        self._opened: dict[Address, DatagramPort] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._here: Callable[[], str | None] = lambda: None
        self._now: Callable[[], float]
        self._feed: Feed

    def start(self, now: Callable[[], float], feed: Feed, here: Callable[[], str | None]) -> None:
        """From now on there is a clock and a driver of the engine.

        Args:
            now: monotonic seconds.
            feed: runs an input of the engine.
            here: the IP address at which peers reach relayed addresses; None: nowhere.
        """
        self._now, self._feed, self._here = now, feed, here
        self._closed = False

    def close(self) -> None:
        """Close all ports; harmless when done twice."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for port in self._opened.values():
            port.close()
        self._opened.clear()

    # -- the pool ------------------------------------------------------------------------------

    def tend(self) -> None:
        """Close what clients have given back, and open what others will need."""
        data = self._serving.data
        for address in data.closed:
            port = self._opened.pop(address, None)
            if port is not None:
                port.close()
        data.closed.clear()
        if self._task is None and not self._closed and self._serving.ports_wanted:
            self._task = asyncio.get_running_loop().create_task(self._fill(), name="relay ports")
            self._task.add_done_callback(self._filled)

    async def _fill(self) -> None:
        while self._serving.ports_wanted and (ip := self._here()) is not None:
            try:
                await self._lend(ip)
            except (HostConfigRefused, OSError) as error:
                self._counters["relay port not opened"] += 1
                _log.warning("no more relayed addresses: %s", error)
                return

    def _filled(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None

    async def _lend(self, ip: str) -> None:
        door = _Door()
        take = self._down_at(door)
        try:
            port = await self._open_port((ip, 0), take, self._counters)
        except NoSuchAddress:  # a router has it, who maps to us what comes there
            anywhere = _ANYWHERE[":" in ip], 0
            port = await self._open_port(anywhere, take, self._counters)
        address = door.address = ip, port.address[1]
        self._opened[address] = port
        self._serving.data.lend(address)

    # -- what passes ---------------------------------------------------------------------------

    def sender(self, source: Address | None) -> Send | None:
        """What sends from a relayed address; None: ``source`` is none."""
        port = self._opened.get(source) if source is not None else None
        return port.send if port is not None else None

    def up(self) -> Callable[[bytes, Address, int], bool]:
        """What passes on ESP of a client that came at the main port; False: it is none.

        Called with the datagram, its source and its SPI.
        """
        clients, resolve, now = self._up, self._resolve, self._clock

        def pass_up(data: bytes, source: Address, spi: int) -> bool:
            flows = clients.get(source)
            flow = flows.get(spi) if flows is not None else None
            if flow is None:
                return False
            account, size = flow.account, len(data)
            if account.packets_left >= 1 and account.bytes_left >= size:
                account.packets_left -= 1
                account.bytes_left -= size
            elif not account.pays(size, now):
                return True
            (flow.send or resolve(flow))(data, flow.to)
            return True

        return pass_up

    def _down_at(self, door: "_Door") -> Callable[[bytes, Address], None]:
        """What passes on whatever came at a relayed address."""
        relayed, resolve, now, other = self._down, self._resolve, self._clock, self._other

        def pass_down(data: bytes, source: Address) -> None:
            peers = relayed.get(door.address)
            flows = peers.get(source) if peers is not None else None
            flow = flows.get(int.from_bytes(data[:4], "big")) if flows is not None else None
            if flow is None:
                other(data, source, door.address)
                return
            account, size = flow.account, len(data)
            if account.packets_left >= 1 and account.bytes_left >= size:
                account.packets_left -= 1
                account.bytes_left -= size
            elif not account.pays(size, now):
                return
            (flow.send or resolve(flow))(data, flow.to)

        return pass_down

    def _other(self, data: bytes, source: Address, relayed: Address) -> None:
        """Control packets go through the engine, if the address is somebody's."""
        if data[:_NON_ESP] == _ZEROS and len(data) > _NON_ESP and relayed in self._down:
            packet = data[_NON_ESP:]
            self._feed(lambda now: self._engine.on_relayed(packet, source, relayed, now))
        else:
            self._counters["relayed ESP without permission"] += 1

    def _resolve(self, flow: Flow) -> Send:
        flow.send = self.sender(flow.source) or self._find(flow.source, flow.to)
        return flow.send

    def _clock(self) -> float:
        return self._now()


class _Door:
    """The address of a port, once it is known; before, it is nobody's."""

    __slots__ = ("address",)

    def __init__(self) -> None:
        self.address: Address = ("", 0)
