"""Shell: one UDP port for all clients of the data relay, where a router has to map it.

A port of its own for each client would take a mapping each, of which routers make few and forget
some. The clients' packets are told apart by what is in them, see ``datarelay``.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from hipctl.actions import Address
from hipctl.mapped import Mapped
from hipctl.portmap import OnChange, PortMapper
from hipctl.udp import DatagramPort, OnDatagram, OpenPort

_ANYWHERE = {False: "0.0.0.0", True: "::"}  # noqa: S104

MapPort = Callable[[int, OnChange], PortMapper]
"""``map_port(port, on_change)``: makes what asks routers."""


class SharedPort:
    """From ``open`` to ``close``.

    Attributes:
        address: where others reach it, by a router's word; None: nowhere.
        port: what is open; None: nothing.
    """

    def __init__(
        self,
        open_port: OpenPort,
        map_port: MapPort,
        counters: Counter[str],
        on_address: Callable[[Address | None], None],
    ) -> None:
        """Set up.

        Args:
            open_port: opens UDP ports.
            map_port: asks routers.
            counters: of what is lost at the port.
            on_address: called when ``address`` has changed.
        """
        self.address: Address | None = None
        self.port: DatagramPort | None = None
        self._open_port = open_port
        self._map_port = map_port
        self._counters = counters
        self._on_address = on_address
        self._mapper: PortMapper | None = None
        self._six = False
        self._ips: Sequence[str] = ()

    async def open(self, six: bool, take: OnDatagram, ips: Sequence[str]) -> None:
        """Open it and have it mapped; once only.

        Args:
            six: whether by IPv6.
            take: called with what comes.
            ips: see ``moved``.

        Raises:
            HostConfigRefused: it cannot be opened.
        """
        self._six, self._ips = six, ips
        self.port = await self._open_port((_ANYWHERE[six], 0), take, self._counters)
        self._mapper = self._map_port(self.port.address[1], self._on_mapped)
        await self._mapper.start(self._here())

    def moved(self, ips: Sequence[str]) -> None:
        """We are at these IP addresses now, the one to prefer first."""
        self._ips = ips
        if self._mapper is not None:
            self._mapper.moved(self._here())

    def close(self) -> "asyncio.Task[None] | None":
        """Close it; the router is told in what is returned. Harmless when done twice."""
        mapper, self._mapper = self._mapper, None
        if self.port is not None:
            self.port.close()
            self.port = None
        self._settle(None)
        if mapper is None:
            return None
        return asyncio.get_running_loop().create_task(mapper.close(), name="relay port")

    def _here(self) -> list[Address]:
        port = self.port.address[1] if self.port is not None else 0
        return [(ip, port) for ip in self._ips if (":" in ip) is self._six]

    def _on_mapped(self, mapped: Sequence[Mapped]) -> None:
        found = [each.external for each in mapped]
        if self._mapper is not None and self.address not in found:
            self._settle(next(iter(found), None))

    def _settle(self, address: Address | None) -> None:
        if address != self.address:
            self.address = address
            self._on_address(address)
