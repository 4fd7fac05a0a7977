"""Shell: the UDP ports of the data relay, and the short way of ESP through it.

Both ways are two look-ups in tables that the engine keeps, an account, and a send. As soon as data
flows, it has sockets of its own, connected to the client and to the peer.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from hipctl.actions import Action, Address
from hipctl.constants import RegistrationType
from hipctl.datarelay import Flow, Send
from hipctl.engine import Engine
from hipctl.errors import HostConfigRefused, NoSuchAddress
from hipctl.readers import Readers
from hipctl.sharedport import MapPort, SharedPort
from hipctl.udp import DatagramPort, OnDatagram, OpenPort, Receive, Towards, UdpPort

_log = logging.getLogger(__name__)

_ZEROS = bytes(4)  # lead every control packet over UDP, RFC 5770 §5.1
_NON_ESP = len(_ZEROS)
_ANYWHERE = {False: "0.0.0.0", True: "::"}  # noqa: S104

Feed = Callable[[Callable[[float], Iterable[Action]]], None]
Find = Callable[[Address | None, Address], Send]
"""``find(source, to)``: what sends from our main port, from that address of ours, to ``to``."""
Port = Callable[[Address | None, Address], DatagramPort | None]
"""``port(source, to)``: see ``Ports.port``."""

Here = tuple[str, bool]
"""(IP address at which peers reach relayed addresses, whether a router has to open each port)."""

CONNECTED_MAX = 512  # sockets; what passes without one costs a little more
BESIDE_MAX = 128  # of one port: kernels before Linux 6.13 look through all of them
_PRUNE = 10.0  # seconds between looks for those that nobody needs any more
_NOWHERE: Address = ("", 0)
_LONGEST = 65_535  # bytes of a datagram


class RelayPorts:
    """Ports that the engine lends to clients of its data relay, opened in advance."""

    def __init__(
        self,
        engine: Engine,
        open_port: OpenPort,
        find: Find,
        counters: Counter[str],
        *,
        port: Port,
        map_port: MapPort | None = None,
    ) -> None:
        """Set up; nothing is open before the engine offers the service.

        Args:
            engine: whose clients they serve.
            open_port: opens UDP ports.
            find: see Find.
            counters: of what is dropped.
            port: see Port.
            map_port: asks routers for mappings; None: nobody does.
        """
        self._engine = engine
        self._serving = engine.serving
        self._up = engine.serving.data.up
        self._down = engine.serving.data.down
        self._open_port = open_port
        self._find = find
        self._port = port
        self._counters = counters
        self._shared: SharedPort | None = None
        if map_port is not None:
            self._shared = SharedPort(open_port, map_port, counters, self._on_address)
        self._at_router = _Door()
        self._ips: Sequence[str] = ()
        self._farewell: asyncio.Task[None] | None = None
        self._opened: dict[Address, DatagramPort] = {}
        self._connected: dict[tuple[Address | None, Address], Towards] = {}
        self._beside: Counter[Address | None] = Counter()  # how many, by our address
        self._readers = Readers()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._here: Callable[[], Here | None] = lambda: None
        self._now: Callable[[], float]
        self._feed: Feed
        self._pruning: asyncio.TimerHandle | None = None

    def start(self, now: Callable[[], float], feed: Feed, here: Callable[[], Here | None]) -> None:
        """From now on there is a clock and a driver of the engine.

        Args:
            now: monotonic seconds.
            feed: runs an input of the engine.
            here: see Here; None: nowhere.
        """
        self._now, self._feed, self._here = now, feed, here
        self._closed = False

    def close(self) -> None:
        """Close all ports; harmless when done twice."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._pruning is not None:
            self._pruning.cancel()
            self._pruning = None
        for known in self._connected.values():
            known.close()
        self._readers.close()
        if self._shared is not None:
            self._farewell = self._shared.close()
        for port in self._opened.values():
            port.close()
        for table in (self._connected, self._beside, self._opened):
            table.clear()

    async def closed(self) -> None:
        """After ``close``: wait until routers were told, which they may be slow to hear."""
        if self._farewell is not None:
            await self._farewell

    def moved(self, ips: Sequence[str]) -> None:
        """We are at these IP addresses now, the one to prefer first."""
        self._ips = ips
        if self._shared is not None:
            self._shared.moved(ips)

    # -- the pool ------------------------------------------------------------------------------

    def tend(self) -> None:
        """Close what clients have given back, and open what others will need."""
        data = self._serving.data
        if data.closed:
            self._prune()
        for address in data.closed:
            port = self._opened.pop(address, None)
            if port is not None:
                port.close()
        data.closed.clear()
        idle = self._task is None or self._task.done()
        if idle and not self._closed and (self._share() or self._wanting()):
            self._task = asyncio.get_running_loop().create_task(self._fill(), name="relay ports")

    def _wanting(self) -> str | None:
        """At which IP address we want one more port that is for one client only."""
        here = self._here() if self._serving.ports_wanted else None
        return None if here is None or self._behind(here) else here[0]

    def _behind(self, here: Here) -> bool:
        return here[1] and self._shared is not None

    def _share(self) -> SharedPort | None:
        """The port that all clients are to share, if it is not open yet."""
        if not self._serving.registrar.offers(RegistrationType.RELAY_UDP_ESP):
            return None
        here, shared = self._here(), self._shared
        if here is None or not self._behind(here) or shared is None or shared.port is not None:
            return None
        return shared

    async def _fill(self) -> None:
        try:
            while True:
                ip = self._wanting()
                if (shared := self._share()) is not None and (here := self._here()) is not None:
                    await shared.open(":" in here[0], self._down_at(self._at_router), self._ips)
                elif ip is not None:
                    await self._lend(ip)
                else:
                    return
        except (HostConfigRefused, OSError) as error:
            self._counters["relay port not opened"] += 1
            _log.warning("no more relayed addresses: %s", error)

    def _on_address(self, address: Address | None) -> None:
        """A router lets others reach the shared port there from now on."""
        shared, door = self._shared, self._at_router
        self._opened.pop(door.address, None)
        door.address = address or _NOWHERE
        if address is not None and shared is not None and shared.port is not None:
            self._opened[address] = shared.port
        if not self._closed:
            serving = self._serving

            def share(now: float) -> Iterable[Action]:
                serving.share(address, now)
                return ()

            self._feed(share)
            self._prune()

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
        clients, pass_on = self._up, self._pass_on

        def pass_up(data: bytes, source: Address, spi: int) -> bool:
            flows = clients.get(source)
            flow = flows.get(spi) if flows is not None else None
            if flow is None:
                return False
            pass_on(flow, data)
            return True

        return pass_up

    def _down_at(self, door: "_Door") -> OnDatagram:
        """What passes on whatever came at a relayed address."""
        relayed, pass_on, other = self._down, self._pass_on, self._other

        def pass_down(data: bytes, source: Address) -> None:
            peers = relayed.get(door.address)
            flows = peers.get(source) if peers is not None else None
            flow = flows.get(int.from_bytes(data[:4], "big")) if flows is not None else None
            if flow is None:
                other(data, source, door.address)
            else:
                pass_on(flow, data)

        return pass_down

    def _pass_on(self, flow: Flow, data: bytes) -> None:
        """Send it on, if the flow's account has something left."""
        if not flow.account.pays(len(data), self._now):
            return
        flow.used = True
        if flow.push is None:
            self._without(flow, data)
            return
        try:
            flow.push(data)
        except OSError:  # no room, or news of what was sent before
            self._without(flow, data)

    def _hand_over(self, flow: Flow) -> Send | None:
        """What passes on from one relayed address to another, without any router's help."""
        source = flow.source
        if source is None or source not in self._opened or flow.to not in self._opened:
            return None
        take = self._down_at(_Door(flow.to))
        return lambda data, to: take(data, source)

    def _without(self, flow: Flow, data: bytes) -> None:
        """Send through the port itself."""
        (flow.send or self._resolve(flow))(data, flow.to)

    def _other(self, data: bytes, source: Address, relayed: Address) -> None:
        """Control packets go through the engine, if the address is somebody's."""
        if data[:_NON_ESP] == _ZEROS and len(data) > _NON_ESP and relayed in self._down:
            packet = data[_NON_ESP:]
            self._feed(lambda now: self._engine.on_relayed(packet, source, relayed, now))
        else:
            self._counters["relayed ESP without permission"] += 1

    def _resolve(self, flow: Flow) -> Send:
        """A flow has begun, or its client has moved."""
        over = self._hand_over(flow)
        flow.send = over or self.sender(flow.source) or self._find(flow.source, flow.to)
        flow.push = None if over is not None else self._connect(flow)
        return flow.send

    # -- connected sockets ---------------------------------------------------------------------

    def _connect(self, flow: Flow) -> Callable[[bytes], int] | None:
        """A socket for where the flow goes, which also takes what comes from there."""
        known = self._connected.get((flow.source, flow.to))
        room = len(self._connected) < CONNECTED_MAX and self._beside[flow.source] < BESIDE_MAX
        if known is None and room:
            known = self._open_towards(flow)
        return known.push if known is not None else None

    def _open_towards(self, flow: Flow) -> Towards | None:
        at: Mapping[Address, Mapping[int, Flow]]
        port: DatagramPort | None
        source = flow.source
        if source is not None and source in self._opened:
            port, at = self._opened[source], self._down[source]
        else:
            port, at = self._port(source, flow.to), self._up
        if not isinstance(port, UdpPort):  # simulated, or not always the same
            return None
        reader = partial(self._reader, at, flow.to, port)
        known = port.towards(flow.to, reader, self._readers)
        first = self._connected.get((source, flow.to))
        if first is not None:  # made meanwhile, for what had come at the new socket
            if known is not None:
                known.close()
            return first
        if known is not None:
            self._connected[source, flow.to] = known
            self._beside[source] += 1
            if self._pruning is None:
                loop = asyncio.get_running_loop()
                self._pruning = loop.call_later(_PRUNE, self._prune_again)
        return known

    def _reader(
        self,
        at: Mapping[Address, Mapping[int, Flow]],
        source: Address,
        port: UdpPort,
        receive: Receive,
    ) -> Callable[[], None]:
        """What passes on whatever came from ``source``; the port takes the rest."""
        find, pass_on, again = at.get, self._pass_on, self._without

        def read() -> None:
            try:
                data = receive(_LONGEST)
            except OSError:  # nothing after all, or an ICMP message
                return
            flows = find(source)
            flow = flows.get(int.from_bytes(data[:4], "big")) if flows is not None else None
            if flow is None:
                port.on_datagram(data, source)
                return
            push, account, size = flow.push, flow.account, len(data)
            if push is None or account.packets_left < 1 or account.bytes_left < size:
                pass_on(flow, data)
                return
            account.packets_left -= 1  # as ``pass_on`` does: one call less for most packets
            account.bytes_left -= size
            flow.used = True
            try:
                push(data)
            except OSError:
                again(flow, data)

        return read

    def _prune(self) -> None:
        """Close what no flow goes through any more."""
        for (source, to), known in list(self._connected.items()):
            relayed = source is not None and source in self._opened
            if to not in (
                self._down.get(source, ()) if source is not None and relayed else self._up
            ):
                known.close()
                del self._connected[source, to]
                self._beside[source] -= 1

    def _prune_again(self) -> None:
        self._prune()
        self._pruning = None
        if self._connected:
            self._pruning = asyncio.get_running_loop().call_later(_PRUNE, self._prune_again)


class _Door:
    """The address of a port, once it is known; before, it is nobody's."""

    __slots__ = ("address",)

    def __init__(self, address: Address = _NOWHERE) -> None:
        self.address = address
