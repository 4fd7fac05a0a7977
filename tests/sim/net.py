"""A UDP network in memory: latency, loss, duplicates, reordering and a log, all from one seed.

net = Net(latency=0.02, loss=0.1, seed=3)
async with LocalHost([identity], HostConfig(listen=(ALICE,)), open_port=net.open) as host: ...
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field

from hipctl.errors import HostConfigRefused

Address = tuple[str, int]
OnDatagram = Callable[[bytes, Address], None]


@dataclass(slots=True)
class Port:
    """An open port; a ``hipctl.udp.DatagramPort``."""

    net: "Net"
    address: Address
    besides: list["Port"] = field(default_factory=list)

    def send(self, data: bytes, to: Address) -> None:
        """From its address, or the first beside it where it is bound to all of them."""
        open_ = [port.address for port in self.besides if port.address in self.net.ports]
        self.net.carry(data, open_[0] if open_ else self.address, to)

    def close(self) -> None:
        self.net.ports.pop(self.address, None)

    async def beside(self, ip: str, link: int, on_datagram: OnDatagram) -> "Port":
        if ip in self.net.gone:
            raise HostConfigRefused(f"{ip} is gone")
        port = await self.net.open((ip, self.address[1]), on_datagram, Counter())
        self.besides.append(port)
        return port


@dataclass(slots=True)
class Net:
    """Where datagrams go.

    Attributes:
        latency: seconds one way.
        loss: probability per datagram; so are the next two.
        duplicate: that it arrives twice.
        reorder: that it arrives up to ``latency`` later than it should.
        filter: called (data, from, to) before a datagram is carried: what to carry instead,
            None to lose it.
        gone: IP addresses beside which no port can be opened any more.
        log: (time, from, to, data) of all that was sent; a deque where that would be too much.
        elsewhere: called (data, from, to) with what comes for an address where nobody listens.
    """

    latency: float = 0.02
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    seed: int = 0
    filter: Callable[[bytes, Address, Address], bytes | None] | None = None
    gone: set[str] = field(default_factory=set)
    log: MutableSequence[tuple[float, Address, Address, bytes]] = field(default_factory=list)
    ports: dict[Address, OnDatagram] = field(default_factory=dict)
    elsewhere: Callable[[bytes, Address, Address], None] | None = None
    _rng: random.Random = field(init=False)
    _order: int = 0
    _free: int = 49_152

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    async def open(
        self, address: Address, on_datagram: OnDatagram, counters: Counter[str]
    ) -> Port:
        """The simulated side of ``hipctl.udp.OpenPort``."""
        if not address[1]:
            self._free += 1
            address = address[0], self._free
        assert address not in self.ports, f"{address} is open"
        self.ports[address] = on_datagram
        return Port(self, address)

    def carry(self, data: bytes, source: Address, to: Address) -> None:
        """Carry a datagram, whoever sends it: tests forge with this."""
        loop = asyncio.get_running_loop()
        self.log.append((loop.time(), source, to, data))
        changed = self.filter(data, source, to) if self.filter else data
        if changed is None or self._rng.random() < self.loss:
            return
        for _ in range(1 + (self._rng.random() < self.duplicate)):
            late = self._rng.random() * self.latency if self._rng.random() < self.reorder else 0.0
            # the loop breaks ties at random: what is sent first comes first unless reordered
            self._order = (self._order + 1) % 100_000
            delay = self.latency + late + self._order * 1e-10
            loop.call_later(delay, self._arrive, changed, source, to)

    def _arrive(self, data: bytes, source: Address, to: Address) -> None:
        on_datagram = self.ports.get(to)
        if on_datagram:
            on_datagram(data, source)
        elif self.elsewhere:
            self.elsewhere(data, source, to)
