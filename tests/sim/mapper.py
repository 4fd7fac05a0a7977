"""The simulated side of the port mapper: asks the router of where a machine is, without packets.

It is shaped as the real one is, so that ``LocalHost(…, port_mapper=…)`` can be given
``machine_mapper(machine)``.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sim.machines import Machine
from sim.net import Address

LIFETIME = 7_200.0  # seconds for which a mapping is asked
CHECK = 30.0  # seconds between two looks whether the router still knows
ROUND_TRIP = 0.002  # seconds until it has answered

OnChange = Callable[[Sequence[Address]], None]


@dataclass
class SimPortMapper:
    """From ``start`` to ``close``.

    Attributes:
        on_change: called with the outer addresses whenever they have changed.
        mapped: inner address -> outer address.
    """

    machine: Machine
    on_change: OnChange
    mapped: dict[Address, Address] = field(default_factory=dict)
    _ours: Sequence[Address] = ()
    _told: list[Address] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    def start(self, ours: Sequence[Address] = ()) -> None:
        """Begin to map these addresses of ours."""
        self.moved(ours)

    def moved(self, ours: Sequence[Address]) -> None:
        """Map these from now on, and no others."""
        self.close()
        self._ours = ours
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """Map no more; harmless when done twice."""
        if self._task:
            self._task.cancel()
            self._task = None
        for inner in self.mapped:
            self._ask(inner, 0)
        self.mapped = {}

    def describe(self) -> list[dict[str, object]]:
        """One row per mapping."""
        return [
            {"internal": inner, "external": outer, "protocol": "simulated"}
            for inner, outer in self.mapped.items()
        ]

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(ROUND_TRIP)
            asked = {ours: self._ask(ours, LIFETIME) for ours in self._ours}
            self.mapped = {inner: outer for inner, outer in asked.items() if outer}
            if self._told != list(self.mapped.values()):
                self._told = list(self.mapped.values())
                self.on_change(self._told)
            await asyncio.sleep(CHECK)

    def _ask(self, inner: Address, lifetime: float) -> Address | None:
        router = self.machine.at.router if self.machine.at else None
        if router is None or inner[0] not in self.machine.ips:
            return None
        with self.machine.loop.outside():
            return router.ask(inner, lifetime)


def machine_mapper(machine: Machine) -> Callable[[OnChange], SimPortMapper]:
    """What makes the port mapper of a host on this machine."""
    return lambda on_change: SimPortMapper(machine, on_change)
