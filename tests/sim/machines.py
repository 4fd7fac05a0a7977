"""Machines of the simulated Internet: they move, sleep and wake, and so do the programs on them.

A program runs on a machine with ``await machine.run(coroutine)``: it has an event loop of its own,
which stands still while the machine sleeps. As on Linux its clock stands still as well; or it
goes on, and all that was due meanwhile happens at waking.
"""

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from hipctl.errors import HostConfigRefused
from hipctl.interfaces import OnChange
from hipctl.rtnetlink import LinkAddress
from sim.net import Address, OnDatagram

if TYPE_CHECKING:
    from sim.nats import Internet, Segment

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ANYWHERE = {False: "0.0.0.0", True: "::"}
_EPHEMERAL = 49_152
_TICK = 1e-9  # seconds that a timer may be early, for floats


class _Timer(asyncio.TimerHandle):
    __slots__ = ("inner",)
    inner: asyncio.TimerHandle

    def cancel(self) -> None:
        self.inner.cancel()
        super().cancel()


class MachineLoop(asyncio.BaseEventLoop):
    """The loop of one machine's programs, inside the simulation's.

    Attributes:
        clock_stops: whether its time stands still while it sleeps.
        asleep: nothing runs.
        ended: nothing will ever run again.
    """

    def __init__(self, clock_stops: bool = True) -> None:
        self._sim = asyncio.get_running_loop()
        self._slept = self._since = 0.0
        self._reached = 0.0  # a sum of floats may fall short of what a timer was set to
        self._waiting: list[asyncio.Handle] = []
        self.clock_stops = clock_stops
        self.asleep = self.ended = False
        super().__init__()

    def sleep(self) -> None:
        self.asleep, self._since = True, self._sim.time()

    def wake(self) -> None:
        """Go on; what was due happens now, unless the clock has stood still."""
        if self.clock_stops:
            self._slept += self._sim.time() - self._since
        self.asleep = False
        waiting, self._waiting = self._waiting, []
        for handle in waiting:
            if isinstance(handle, _Timer):
                self._arm(handle)
            else:
                self._sim.call_soon(self._go, handle)

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Within, this is the running loop."""
        return _Running(self)

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """Within, the simulation's is: what a network does goes on while machines sleep."""
        return _Running(self._sim)

    # what programs use of a loop

    def time(self) -> float:
        now = self._since if self.asleep and self.clock_stops else self._sim.time()
        return max(now - self._slept, self._reached)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._sim.call_soon(self._go, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Timer(when, callback, args, self, context)
        self._arm(handle)
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., R], *args: Any
    ) -> asyncio.Future[R]:
        future: asyncio.Future[R] = self.create_future()
        future.set_result(func(*args))  # work takes no virtual time
        return future

    def is_running(self) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._sim.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to count."""

    def __del__(self) -> None:
        """Nothing is open."""

    def _arm(self, handle: _Timer) -> None:
        handle.inner = self._sim.call_at(handle.when() + self._slept, self._go, handle)

    def _go(self, handle: asyncio.Handle) -> None:
        if handle.cancelled() or self.ended:
            return
        if self.asleep:
            self._waiting.append(handle)
        elif isinstance(handle, _Timer) and handle.when() > self.time() + _TICK:
            self._arm(handle)  # it has slept since
        else:
            if isinstance(handle, _Timer):
                self._reached = max(self._reached, handle.when())
            before = asyncio._get_running_loop()  # as in ``running``: this is done most of all
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(before)


class _Running:
    __slots__ = ("_before", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._before = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)

    def __exit__(self, *_: object) -> None:
        asyncio._set_running_loop(self._before)


@dataclass(slots=True)
class MachinePort:
    """A UDP port of a machine; a ``hipctl.udp.DatagramPort``."""

    machine: "Machine"
    address: Address
    counters: Counter[str]

    def send(self, data: bytes, to: Address) -> None:
        if not self.machine.send(data, self.address, to):
            self.counters["send failed: ENETUNREACH"] += 1

    def close(self) -> None:
        self.machine.ports.pop(self.address, None)

    async def beside(self, ip: str, link: int, on_datagram: OnDatagram) -> "MachinePort":
        return await self.machine.open((ip, self.address[1]), on_datagram, self.counters)


@dataclass
class _Watch:
    """A ``hipctl.roaming.Watch``."""

    machine: "Machine"
    on_change: OnChange

    def open(self, loop: asyncio.AbstractEventLoop) -> list[LinkAddress]:
        self.machine.watches.append(self)
        return self.machine.links()

    def close(self) -> None:
        if self in self.machine.watches:
            self.machine.watches.remove(self)


@dataclass(eq=False)
class Machine:
    """A machine with at most one link.

    Attributes:
        at: the network where it is.
        ips: its addresses there, none where it is nowhere.
        clock_stops: see MachineLoop; set it before anything runs.
        tells: whether programs hear of the link when it wakes, as with wireless ones.
    """

    internet: "Internet"
    name: str
    at: "Segment | None" = None
    ips: list[str] = field(default_factory=list)
    ports: dict[Address, OnDatagram] = field(default_factory=dict)
    watches: list[_Watch] = field(default_factory=list)
    clock_stops: bool = True
    tells: bool = True
    _loop: MachineLoop | None = None
    _halting: bool = False
    _link: int = 1

    # what happens to it

    def move(self, at: "Segment | None", tell: bool = True) -> None:
        """Be in another network with other addresses, or nowhere."""
        if self.at:
            self.at.machines.remove(self)
        self.at, self.ips = at, at.allot() if at else []
        self._link += 1
        if at:
            at.machines.append(self)
            self.internet.note(self.name, self.name, f"is at {' '.join(self.ips)}")
        if tell:
            self._tell()

    def sleep(self) -> None:
        """Nothing is sent, received or run until it wakes."""
        if not self.asleep:
            self.internet.note(self.name, self.name, "sleeps")
            self.loop.sleep()

    def wake(self) -> None:
        """Go on, at the same place."""
        if self.asleep:
            self.internet.note(self.name, self.name, "wakes")
            self.loop.wake()
            if self.tells:
                self._tell()

    @property
    def asleep(self) -> bool:
        return self.loop.asleep

    @property
    def loop(self) -> MachineLoop:
        """Of its programs."""
        if self._loop is None:
            self._loop = MachineLoop(self.clock_stops)
        return self._loop

    # programs

    async def run(self, program: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on this machine; to cancel this cancels it, once it is awake."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(task: asyncio.Task[R]) -> None:
            if not done.done():
                done.set_result(None)

        with self.loop.running():
            task = self.loop.create_task(program)
            task.add_done_callback(finish)
        try:
            await done
        except asyncio.CancelledError:
            task.cancel()
            raise
        return task.result()

    def call(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function as a program of this machine would."""
        with self.loop.running():
            return function(*args)

    async def halt(self) -> None:
        """End all programs without a word to anybody, however they stand; others may run then."""
        loop, self._halting = self.loop, True
        if loop.asleep:
            loop.wake()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        loop.ended = True
        self._loop, self._halting = None, False
        self.ports.clear()
        self.watches.clear()

    # what programs are given

    async def open(
        self, address: Address, on_datagram: OnDatagram, counters: Counter[str]
    ) -> MachinePort:
        """The simulated side of ``hipctl.udp.OpenPort``."""
        ip, port = address
        if ip not in _ANYWHERE.values() and ip not in self.ips:
            raise HostConfigRefused(f"{ip} is gone")
        taken = {number for _, number in self.ports}
        port = port or next(free for free in range(_EPHEMERAL, 65_536) if free not in taken)
        if (ip, port) in self.ports:
            raise HostConfigRefused(f"{ip} port {port}: another program has it")
        self.ports[ip, port] = on_datagram
        return MachinePort(self, (ip, port), counters)

    def watch(self, on_change: OnChange) -> _Watch:
        """The simulated side of ``hipctl.interfaces.Interfaces``."""
        return _Watch(self, on_change)

    # datagrams

    def send(self, data: bytes, source: Address, to: Address) -> bool:
        """Send from a port of ours; whether that can be."""
        six = ":" in to[0]
        ip = source[0]
        if ip == _ANYWHERE[six]:
            ip = next((ours for ours in self.ips if (":" in ours) is six), "")
        if (
            self.asleep
            or self._halting
            or self.at is None
            or ip not in self.ips
            or (":" in ip) is not six
        ):
            return False
        if to[0] in self.ips:
            self.loop.call_soon(self.receive, data, (ip, source[1]), to)
        else:
            with self.loop.outside():
                self.at.carry(data, (ip, source[1]), to, self.name)
        return True

    def receive(self, data: bytes, source: Address, to: Address) -> None:
        """What the network has for us."""
        if self.asleep:
            self.internet.note(self.name, self.name, "sleeps and hears nothing")
            return
        on_datagram = self.ports.get(to) or self.ports.get((_ANYWHERE[":" in to[0]], to[1]))
        if on_datagram:
            self.call(on_datagram, data, source)

    def links(self) -> list[LinkAddress]:
        return [LinkAddress(ip, self._link) for ip in self.ips]

    def _tell(self) -> None:
        for watch in list(self.watches):
            self.loop.call_soon(watch.on_change, self.links())
