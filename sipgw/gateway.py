"""Shell: service ``sip``, between clients' sockets and Endpoint(HIT, 5060)."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final, TypeVar, assert_never

from hipctl import (
    AssociationDown,
    AssociationFailed,
    AssociationUp,
    Endpoint,
    Event,
    Hit,
    PortInUse,
)
from overlay import ConfigError, LookupFailed, NotFound, Peer
from sipgw.actions import (
    Action,
    Connect,
    Disclose,
    Mark,
    Publish,
    Resolve,
    Transmit,
    Verify,
    Withdraw,
)
from sipgw.constants import DEFAULT_PORT
from sipgw.dialog import Address
from sipgw.media import ClientPort, MediaRelay, OpenPort, UdpPort
from sipgw.router import Router
from sipgw.switch import OVERLAY_PORT, House, Limits

log = logging.getLogger(__name__)

WAIT: Final = 5.0  # seconds for any one answer of the overlay; the router waits a little longer
TASKS: Final = 4000  # questions to the overlay at once
LONGEST_TO_CLIENT: Final = 65_507  # bytes of a UDP datagram over IPv4

DEFAULTS: Final[Mapping[str, Any]] = {
    "listen": f"127.0.0.1:{DEFAULT_PORT}",
    "media_ports": "22000-31999",  # below the range that Linux gives to clients
    "max_calls": 1000,
    "ring_timeout": 180,
    "media_timeout": 3600,
    "peer_timeout": 30,
}
_N = TypeVar("_N", int, float)


class SipService:
    """The gateway of one peer.

    Args:
        peer: who hosts it.
        table: keys as in DEFAULTS: ``listen`` (loopback ADDRESS:PORT), ``media_ports``
            (FIRST-LAST), ``max_calls``, ``ring_timeout`` and ``peer_timeout`` (seconds),
            ``media_timeout`` (seconds of silence that end a call, 0: never).
        open_port: how a socket towards clients is opened.

    Raises:
        ConfigError: a key is unknown or its value cannot be used.
    """

    def __init__(
        self, peer: Peer, table: Mapping[str, Any], open_port: OpenPort = UdpPort
    ) -> None:
        if stray := sorted(table.keys() - DEFAULTS.keys()):
            known = ", ".join(DEFAULTS)
            raise ConfigError(f"services.sip.{stray[0]}: unknown key; known are {known}")
        table = {**DEFAULTS, **table}
        self._peer = peer
        self._open_port = open_port
        self._listen = _listen(table["listen"])
        self._ports = _ports(table["media_ports"])
        self._limits = Limits(
            max_calls=_number(table, "max_calls", int, 1),
            ring_timeout=_number(table, "ring_timeout", float, 1),
            media_timeout=_number(table, "media_timeout", float, 0),
            peer_timeout=_number(table, "peer_timeout", float, 0),
        )
        self._port: ClientPort | None = None
        self._endpoints: dict[Hit, Endpoint] = {}
        self._media: MediaRelay | None = None
        self._router: Router | None = None
        self._unwatch: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls_seen = 0

    @property
    def address(self) -> Address:
        """Where clients reach it; the port is known once it has started."""
        return self._port.address if self._port is not None else self._listen

    async def start(self) -> None:
        """See overlay.Service.

        Raises:
            ConfigError: the address is taken.
        """
        self._loop = asyncio.get_running_loop()
        peer, host = self._peer, self._peer.host
        try:
            self._port = self._open_port(*self._listen, self._on_client)
        except OSError as error:
            address = f"{self._listen[0]}:{self._listen[1]}"
            raise ConfigError(
                f"services.sip.listen: {address}: {error.strerror}; is another SIP program there?"
            ) from None
        if isinstance(self._port, UdpPort):
            self._port.expect_bursts()
        media = MediaRelay(host, self._listen[0], self._ports, self._loop.time, self._open_port)
        house = House(
            aors=peer.aors,
            domains=lambda: peer.domains,
            petname=peer.contacts.uri,
            judge=peer.judge,
            connected=host.connected,
        )
        self._media = media
        self._router = Router(self._port.address, media, os.urandom, house, self._limits)
        try:
            for hit in dict.fromkeys(peer.aors().values()) or host.hits[:1]:
                self._endpoints[hit] = self._open_endpoint(hit)
        except PortInUse as error:
            await self.stop()
            raise ConfigError(
                f"services.sip: another gateway has this identity: {error}"
            ) from None
        self._unwatch = host.watch(self._on_event)
        log.info("SIP clients may register at %s:%d", *self._port.address)

    def _open_endpoint(self, hit: Hit) -> Endpoint:
        def on_datagram(data: bytes, source: Hit, port: int) -> None:
            if self._router is not None:
                now = self._loop.time()
                self._perform(self._router.on_datagram(data, (hit, source, port), now))

        return self._peer.host.open(hit, OVERLAY_PORT, on_datagram)

    async def stop(self) -> None:
        """See overlay.Service."""
        if self._router is not None:
            self._perform(self._router.stop(self._loop.time()))
            await asyncio.sleep(0)  # let the last datagrams out
            self._router = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        for endpoint in self._endpoints.values():
            endpoint.close()
        self._endpoints.clear()
        if self._media is not None:
            self._media.close()
            self._media = None
        if self._port is not None:
            self._port.close()
            self._port = None

    def status(self) -> Mapping[str, Any]:
        """See overlay.Service."""
        router, media = self._router, self._media
        if router is None or media is None:
            return {"running": False}
        now = self._loop.time()
        return {
            "running": True,
            "listen": "{}:{}".format(*self.address),
            "registered": {
                aor: [f"{b.source[0]}:{b.source[1]}" for b in router.registrar.lookup(aor, now)]
                for aor in router.registrar.aors()
            },
            "calls": len(router.switch.calls),
            "media_sides": len(media),
            "counters": dict(router.switch.counters + media.counters),
        }

    # What comes in.

    def _on_client(self, data: bytes, source: Address) -> None:
        if self._router is not None:
            self._perform(self._router.on_datagram(data, source, self._loop.time()))

    def _on_event(self, event: Event) -> None:
        if self._router is None or not isinstance(event, AssociationUp | AssociationDown):
            return
        up = isinstance(event, AssociationUp)
        self._perform(self._router.on_association(event.peer, up, self._loop.time()))

    def _on_timer(self) -> None:
        self._timer = None
        if isinstance(self._port, UdpPort):
            self._port.read()  # what waits there may make retransmissions needless
        if self._router is not None:
            self._perform(self._router.on_time(self._loop.time()))

    # What goes out.

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Transmit):
                self._transmit(action)
            elif isinstance(action, Mark):
                self._peer.trace.mark(action.call, action.step, action.detail)
            elif isinstance(action, Disclose):
                self._peer.host.disclose(action.peer, local=action.local)
            else:
                self._ask(action)
        self._arm()

    def _transmit(self, action: Transmit) -> None:
        to = action.to
        if len(to) == 2:
            if self._port is not None and len(action.data) <= LONGEST_TO_CLIENT:
                self._port.send(action.data, to)
            return
        endpoint = self._endpoints.get(to[0])
        if endpoint is None:
            return
        try:
            endpoint.send(action.data, to[1], to[2])
        except ValueError:
            log.debug("%d bytes are too many for a datagram", len(action.data))

    def _arm(self) -> None:
        at = self._router.deadline() if self._router is not None else None
        if self._timer is not None:
            if at is not None and self._timer_at <= at:
                return  # it rings early and arms again: cheaper than moving it each time
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)

    def _ask(self, action: Resolve | Verify | Connect | Publish | Withdraw) -> None:
        """Ask the peer what takes time, each in a task of its own that ends within WAIT."""
        if len(self._tasks) >= TASKS:  # the router's own alarm answers for us
            log.warning("too many questions to the overlay at once")
            return
        task = self._loop.create_task(self._asked(action))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _asked(self, action: Resolve | Verify | Connect | Publish | Withdraw) -> None:
        match action:
            case Resolve():
                await self._resolve(action)
            case Verify():
                await self._verify(action)
            case Connect():
                await self._connect(action)
            case Publish() | Withdraw():
                await self._announce(action)
            case _:
                assert_never(action)

    async def _resolve(self, action: Resolve) -> None:
        found = True
        targets = []
        try:
            async with asyncio.timeout(WAIT):
                targets = await self._peer.resolve(action.aor)
        except NotFound:
            pass
        except (LookupFailed, TimeoutError) as error:
            log.info("%s could not be looked up: %s", action.aor, error)
            found = False
        if self._router is not None:
            now = self._loop.time()
            self._perform(self._router.on_resolved(action.key, targets, found, now))

    async def _verify(self, action: Verify) -> None:
        proven = False
        try:
            async with asyncio.timeout(WAIT):
                proven = await self._peer.owns(action.aor, action.hit)
        except TimeoutError:
            log.info("who may speak as %s could not be found out", action.aor)
        if self._router is not None:
            self._perform(self._router.on_verified(action.key, proven, self._loop.time()))

    async def _connect(self, action: Connect) -> None:
        local, hit, _ = action.party
        ok = True
        try:
            await self._peer.connect(hit, local=local, timeout=WAIT)
        except AssociationFailed as error:
            log.info("no association with %s: %s", hit, error)
            ok = False
        if self._router is not None:
            self._perform(self._router.on_connected(action.key, ok, self._loop.time()))

    async def _announce(self, action: Publish | Withdraw) -> None:
        try:
            if isinstance(action, Publish):
                await self._peer.publish(action.aor, OVERLAY_PORT)
            else:
                await self._peer.withdraw(action.aor)
        except (NotFound, LookupFailed) as error:
            log.warning("%s: %s", action.aor, error)


def _listen(value: object) -> Address:
    if not isinstance(value, str):
        raise ConfigError("services.sip.listen: must be text like 127.0.0.1:5060")
    host, colon, digits = value.rpartition(":")
    if not colon:
        host, digits = value, str(DEFAULT_PORT)
    try:
        address = IPv4Address(host)
        port = int(digits)
    except (AddressValueError, ValueError):
        raise ConfigError(f"services.sip.listen: {value!r} is no ADDRESS:PORT") from None
    if not 0 <= port <= 65_535:
        raise ConfigError(f"services.sip.listen: {port} is no port")
    if not address.is_loopback:
        raise ConfigError(
            f"services.sip.listen: {host} is refused: whoever reaches this port could register "
            "and call as you, as clients don't authenticate yet; use an address in 127.0.0.0/8"
        )
    return str(address), port


def _ports(value: object) -> range:
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not (dash and first.isdigit() and last.isdigit()):
        raise ConfigError("services.sip.media_ports: must be text like 22000-31999")
    ports = range(int(first), int(last) + 1)
    if not (ports.start >= 1024 and ports.stop <= 65_536 and len(ports) >= 4):
        raise ConfigError("services.sip.media_ports: at least 4 ports between 1024 and 65535")
    return ports


def _number(table: Mapping[str, Any], key: str, kind: type[_N], least: int) -> _N:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise ConfigError(f"services.sip.{key}: must be a number from {least} on")
    return kind(value)
