"""Mappings of one UDP port at every router of this machine: which protocol, in which order.

PCP first; a router that is older says so at once, and is asked by NAT-PMP. A little later, or as
soon as those have failed, UPnP in parallel, which most home routers have and nothing else. The
first that succeeds is kept, the others are left.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

from hipctl import pcp
from hipctl.errors import MalformedPacket, Rejected
from hipctl.igdcontrol import IgdControl
from hipctl.mapped import (
    NO_PUBLIC_ADDRESS,
    Action,
    Address,
    Mapped,
    MappingsChanged,
    Protocol,
    Random,
    Settings,
    State,
    Uplink,
)
from hipctl.portcontrol import PortControl
from hipctl.sansio import Timers

MOST_UPLINKS: Final = 4

_HEAD_START: Final = 0.25  # seconds that PCP has before UPnP begins
_FIRST_RETRY, _LONGEST_RETRY = 60.0, 1_800.0  # seconds; a router may be starting as we are


class Timer(Enum):
    """What a Mapping waits for."""

    UPNP = auto()
    RETRY = auto()


class Mapping:
    """One mapping at one router: a PortControl and an IgdControl, and which of them has a turn."""

    def __init__(self, uplink: Uplink, port: int, settings: Settings, rng: Random) -> None:
        """Set up; ``start`` begins."""
        self._uplink = uplink
        self._upnp = Protocol.UPNP in settings.protocols
        self._control = PortControl(uplink, port, settings, rng)
        self._igd = IgdControl(uplink, port, settings, rng)
        self._timers = Timers[Timer]()
        self._pause = _FIRST_RETRY
        self._later = False  # UPnP begins in a moment
        self._had = False  # a mapping, until now

    @property
    def mapped(self) -> Mapped | None:
        """What the router has made, if anything."""
        return self._control.mapped or self._igd.mapped

    @property
    def asking(self) -> bool:
        """Whether an answer may come soon."""
        return State.ASKING in (self._control.state, self._igd.state)

    @property
    def failures(self) -> dict[Protocol, str]:
        """Why there is no mapping, by protocol, in words for people."""
        found = dict(self._control.failures)
        if self._igd.failure:
            found[Protocol.UPNP] = self._igd.failure
        return found

    def deadline(self) -> float | None:
        """When ``on_time`` is due."""
        parts = (self._timers, self._control, self._igd)
        return min((at for each in parts if (at := each.deadline()) is not None), default=None)

    def start(self, now: float) -> list[Action]:
        """Ask by whatever protocol there is no reason to leave alone."""
        self._had = False
        self._timers.stop(Timer.RETRY)
        actions: list[Action] = []
        if self._control.retry_at <= now:
            actions += self._control.start(now)
        if self._upnp and self._igd.retry_at <= now:
            self._timers.set(Timer.UPNP, now + _HEAD_START)
            self._later = True
        return actions + self._settle(now)

    def stop(self) -> list[Action]:
        """Delete everything."""
        for timer in Timer:
            self._timers.stop(timer)
        return self._control.stop() + self._igd.stop()

    def on_datagram(self, data: bytes, now: float, announced: bool) -> list[Action]:
        """See ``PortControl.on_datagram``."""
        return self._control.on_datagram(data, now, announced) + self._settle(now)

    def on_refused(self, now: float) -> list[Action]:
        """See ``PortControl.on_refused``."""
        return self._control.on_refused(now) + self._settle(now)

    def on_answer(self, data: bytes, source: str, now: float) -> list[Action]:
        """See ``IgdControl.on_answer``."""
        return self._igd.on_answer(data, source) + self._settle(now)

    def on_notify(self, data: bytes, source: str, now: float) -> list[Action]:
        """See ``IgdControl.on_notify``."""
        self._igd.on_notify(data, source, now)
        return []

    def on_reply(self, number: int, reply: tuple[int, bytes] | None, now: float) -> list[Action]:
        """See ``IgdControl.on_reply``."""
        return self._igd.on_reply(number, reply, now) + self._settle(now)

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        actions: list[Action] = []
        for timer in self._timers.expired(now):
            actions += self._begin_upnp(now) if timer is Timer.UPNP else self.start(now)
        actions += self._control.on_time(now) + self._igd.on_time(now)
        return actions + self._settle(now)

    def _begin_upnp(self, now: float) -> list[Action]:
        self._later = False
        self._timers.stop(Timer.UPNP)
        return self._igd.start(now)

    def _settle(self, now: float) -> list[Action]:
        """Leave what comes too late; begin what is left; try again where nothing is."""
        if self.mapped is not None:
            self._had, self._later = True, False
            self._pause = _FIRST_RETRY
            for timer in Timer:
                self._timers.stop(timer)
            for each in (self._control, self._igd):
                if each.state is State.ASKING:
                    each.abandon()
            return []
        if self._had:
            return self.start(now)
        if self._later and self._control.state is not State.ASKING:
            return self._begin_upnp(now)
        if not self.asking and self._timers.deadline() is None:
            self._timers.set(Timer.RETRY, now + self._pause)
            self._pause = min(2 * self._pause, _LONGEST_RETRY)
        return []


class Mapper:
    """All mappings; whatever comes from the network is counted at worst.

    Attributes:
        counters: what was dropped, by reason.
    """

    def __init__(
        self, port: int, settings: Settings, rng: Random, announce_private: bool = False
    ) -> None:
        """Set up; nothing is asked before ``set_uplinks``.

        Args:
            port: our UDP port.
            settings: what was chosen.
            rng: random bytes, not to be guessed.
            announce_private: whether external addresses count that aren't public.
        """
        self._port = port
        self._settings = settings
        self._rng = rng
        self._announce_private = announce_private
        self._mappings: dict[Uplink, Mapping] = {}
        self._told: list[tuple[Address, Address]] = []
        self.counters: Counter[str] = Counter()

    @property
    def mapped(self) -> list[Mapped]:
        """Everything that routers have made, whether of use or not."""
        return [each.mapped for each in self._mappings.values() if each.mapped is not None]

    @property
    def announceable(self) -> list[Mapped]:
        """What others can reach us by."""
        return [each for each in self.mapped if self._announce_private or each.public]

    def deadline(self) -> float | None:
        """When ``on_time`` is due."""
        parts = (each.deadline() for each in self._mappings.values())
        return min((at for at in parts if at is not None), default=None)

    def set_uplinks(self, uplinks: Sequence[Uplink], now: float) -> list[Action]:
        """Have a mapping at each of these, and nowhere else.

        Args:
            uplinks: the one to prefer first; beyond MOST_UPLINKS they are left out.
            now: monotonic seconds.
        """
        wanted = list(dict.fromkeys(uplinks))[:MOST_UPLINKS]
        actions: list[Action] = []
        for uplink in [each for each in self._mappings if each not in wanted]:
            actions += self._mappings.pop(uplink).stop()
        before, self._mappings = self._mappings, {}
        for uplink in wanted:
            mapping = before.get(uplink)
            if mapping is None:
                mapping = Mapping(uplink, self._port, self._settings, self._rng)
                actions += mapping.start(now)
            self._mappings[uplink] = mapping
        return actions + self._changed()

    def close(self) -> list[Action]:
        """Delete all mappings."""
        actions: list[Action] = []
        for mapping in self._mappings.values():
            actions += mapping.stop()
        self._mappings.clear()
        return actions

    def on_datagram(
        self, uplink: Uplink, data: bytes, source: Address, now: float
    ) -> list[Action]:
        """What came to the socket from which a router was asked."""
        if source[1] != pcp.SERVER_PORT or not uplink.is_router(source[0]):
            self.counters["port control answer from elsewhere"] += 1
            return []
        return self._feed([uplink], lambda each: each.on_datagram(data, now, False))

    def on_announcement(self, data: bytes, source: Address, now: float) -> list[Action]:
        """What came by multicast to the port of PCP's and NAT-PMP's clients."""
        if source[1] != pcp.SERVER_PORT:
            self.counters["port control answer from elsewhere"] += 1
            return []
        theirs = [each for each in self._mappings if each.is_router(source[0])]
        return self._feed(theirs, lambda each: each.on_datagram(data, now, True))

    def on_refused(self, uplink: Uplink, now: float) -> list[Action]:
        """A router has nobody at the port that was asked, or cannot be reached."""
        return self._feed([uplink], lambda each: each.on_refused(now))

    def on_answer(self, uplink: Uplink, data: bytes, source: str, now: float) -> list[Action]:
        """An answer to a search; ``source`` is an IP address, with its zone if link-local."""
        return self._feed([uplink], lambda each: each.on_answer(data, source, now))

    def on_notify(self, data: bytes, source: str, now: float) -> list[Action]:
        """What a UPnP device says to all."""
        return self._feed(list(self._mappings), lambda each: each.on_notify(data, source, now))

    def on_reply(
        self, uplink: Uplink, number: int, reply: tuple[int, bytes] | None, now: float
    ) -> list[Action]:
        """What a Fetch came to: HTTP status and body, or None."""
        return self._feed([uplink], lambda each: each.on_reply(number, reply, now))

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        return self._feed(list(self._mappings), lambda each: each.on_time(now))

    def _feed(
        self, uplinks: Sequence[Uplink], step: Callable[[Mapping], list[Action]]
    ) -> list[Action]:
        actions: list[Action] = []
        for uplink in uplinks:
            mapping = self._mappings.get(uplink)
            if mapping is None:
                continue
            try:
                actions += step(mapping)
            except (MalformedPacket, Rejected) as error:
                self.counters[error.reason] += 1
        return actions + self._changed()

    def _changed(self) -> list[Action]:
        """Tell, if there is something new to tell."""
        useful = self.announceable
        now_told = [(each.external, each.internal) for each in useful]
        if now_told == self._told:
            return []
        self._told = now_told
        return [MappingsChanged(tuple(useful))]

    def describe(self, now: float) -> list[dict[str, object]]:
        """One row a router, for display: what it has made, or what is in the way, and advice."""
        return [self._row(uplink, each, now) for uplink, each in self._mappings.items()]

    def _row(self, uplink: Uplink, mapping: Mapping, now: float) -> dict[str, object]:
        row: dict[str, object] = {"router": uplink.router, "address": uplink.ip}
        mapped = mapping.mapped
        if mapped is not None:
            row |= {
                "external": mapped.external,
                "protocol": mapped.protocol.value,
                "public": mapped.public,
                "seconds left": max(round(mapped.expires - now), 0),
            }
            if mapped.public:
                return row
            where = f"is itself at {mapped.external[0]},"
            return row | {"advice": _another_nat(uplink, where)}
        row["failures"] = {protocol.value: why for protocol, why in mapping.failures.items()}
        if mapping.asking:
            return row | {"asking": True}
        if NO_PUBLIC_ADDRESS in mapping.failures.values():
            where = "has no public address: it isn't connected, or is"
            return row | {"advice": _another_nat(uplink, where)}
        return row | {"advice": _advice(uplink, self._port)}


def _another_nat(uplink: Uplink, where: str) -> str:
    return (
        f"the router at {uplink.router} {where} behind another NAT: nobody can call through it. "
        "If that is a second router of yours, make it a bridge or map the port there too; if it "
        "is your provider's, ask for a public address"
    )


def _advice(uplink: Uplink, port: int) -> str:
    if uplink.six:
        return (
            f"if others cannot call over IPv6: allow UDP port {port} to {uplink.ip} in the "
            f"firewall of the router at {uplink.router}"
        )
    return (
        f"in the settings of the router at {uplink.router}: switch on UPnP or PCP (it may be "
        "called port mapping, or be allowed for each device), or forward UDP port "
        f"{port} to {uplink.ip} port {port} by hand"
    )
