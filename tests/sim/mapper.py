"""The simulated side of ``hipctl.portmap.PortMapper``: no packets, the router's word for it.

mapper = machine_mapper(machine)(10_500, on_change)
await mapper.start(addresses)
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from hipctl.mapped import Mapped, Protocol
from hipctl.portmap import OnChange, PortMapper
from sim.machines import Machine
from sim.net import Address

LIFETIME = 7_200.0  # seconds for which a mapping is asked
CHECK = 30.0  # seconds between two looks whether the router still knows
ROUND_TRIP = 0.002  # seconds until it has answered


class SimPortMapper:
    """Mappings of one UDP port, from ``start`` to ``close``."""

    def __init__(self, machine: Machine, port: int, on_change: OnChange) -> None:
        self._machine = machine
        self._port = port
        self._on_change = on_change
        self._addresses: Sequence[Address] = ()
        self._mapped: tuple[Mapped, ...] = ()
        self._task: asyncio.Task[None] | None = None

    async def start(self, addresses: Sequence[Address]) -> None:
        self.moved(addresses)

    def moved(self, addresses: Sequence[Address]) -> None:
        """We are at these addresses now."""
        if self._task:
            self._task.cancel()
        self._addresses = addresses
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            self._task = None
            for each in self._mapped:
                self._ask(each.internal, 0)

    @property
    def mapped(self) -> list[Mapped]:
        return list(self._mapped)

    @property
    def announced(self) -> list[Mapped]:
        return [each for each in self._mapped if each.public]

    def describe(self) -> list[dict[str, object]]:
        return [
            {"router": each.router, "address": each.internal[0], "external": each.external}
            for each in self._mapped
        ]

    def counters(self) -> dict[str, int]:
        return {}

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(ROUND_TRIP)
            asked = [self._ask((ip, self._port), LIFETIME) for ip, _ in self._addresses]
            found = tuple(each for each in asked if each)
            before, self._mapped = self._mapped, found
            if [each.external for each in before] != [each.external for each in found]:
                self._on_change(self.announced)
            await asyncio.sleep(CHECK)

    def _ask(self, inner: Address, lifetime: float) -> Mapped | None:
        machine = self._machine
        router = machine.at.router if machine.at else None
        if router is None or inner[0] not in machine.ips:
            return None
        with machine.loop.outside():
            outer = router.ask(inner, lifetime)
        expires = machine.loop.time() + lifetime
        return outer and Mapped(outer, inner, Protocol.PCP, router.name, lifetime, expires)


def machine_mapper(machine: Machine) -> Callable[[int, OnChange], PortMapper]:
    """What makes the port mappers of a host on this machine."""
    return lambda port, on_change: cast(PortMapper, SimPortMapper(machine, port, on_change))
