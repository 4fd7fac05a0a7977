"""Shell: one HIP host. Sockets, clock and executor around the engine.

Control packets go through the engine and come back as actions; data takes the ``datapath``.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self, assert_never

from hipctl import contact as contacts
from hipctl.access import Access
from hipctl.actions import (
    Action,
    Address,
    Flush,
    KeyLog,
    LanAnswered,
    PeerFound,
    PortsChanged,
    RegistrationAnswered,
    SolvePuzzle,
    Transmit,
)
from hipctl.announcing import Announcing
from hipctl.connecting import Connecting
from hipctl.constants import RegistrationType
from hipctl.controlpath import ControlPath
from hipctl.datapath import DataPath
from hipctl.endpoints import Endpoints, LocalEndpoint
from hipctl.engine import Engine
from hipctl.errors import AssociationFailed, MalformedPacket
from hipctl.hostconfig import HostConfig, check
from hipctl.hostservices import HostServices
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import (
    AssociationDown,
    AssociationUp,
    ContactChanged,
    CredentialPolicy,
    Discloses,
    Event,
    LanPeer,
    Offer,
    OnDatagram,
    Reachability,
    Registered,
    RegistrationEnded,
    Served,
    Shown,
    Woke,
)
from hipctl.interfaces import Interfaces, OnChange
from hipctl.keylog import KeyLogFile
from hipctl.locators import announceable
from hipctl.portmap import OnChange as OnMapped
from hipctl.portmap import PortMapper
from hipctl.ports import ANYWHERE, Ports
from hipctl.relayports import RelayPorts
from hipctl.roaming import Roaming, Watch
from hipctl.sansio import Driver
from hipctl.solver import Solver
from hipctl.udp import OpenPort, open_udp
from hipctl.waking import Waking
from hipctl.watchers import Watchers

if TYPE_CHECKING:
    from hipctl.lan import Lan

_log = logging.getLogger(__name__)


class LocalHost:
    """The real ``interface.Host``: ``async with LocalHost([identity], HostConfig()) as host``.

    Attributes:
        engine: all associations; read it, feed it only through the host.
        access: who may associate with us; ``set_access`` changes it.
        services: what it does for others, and they for it.
    """

    def __init__(
        self,
        identities: Sequence[HostIdentity],
        config: HostConfig | None = None,
        *,
        open_port: OpenPort = open_udp,
        watch: Callable[[OnChange], Watch] = Interfaces,
        map_port: Callable[[int, OnMapped], PortMapper] | None = None,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Set up; nothing is opened before ``async with``.

        Args:
            identities: at least one, the default one first.
            config: defaults if None.
            open_port: opens one UDP port; simulated in tests.
            watch: tells which addresses this machine has; simulated in tests.
            map_port: makes what asks routers; None: the real one, if ``open_port`` is real.
            rng: returns that many random bytes.

        Raises:
            HostConfigRefused: no identity, nothing to listen on, or a contact nobody can have.
        """
        self._config = config or HostConfig()
        check(identities, self._config)
        settings = replace(self._config.engine, keylog=self._config.keylog is not None)
        if settings.first_generation == 1:  # R1_COUNTER must grow over restarts
            settings = replace(settings, first_generation=int(time.time()))
        self.engine = Engine(identities, settings, rng)
        self._hits = tuple(identity.hit for identity in identities)
        self._connecting = Connecting(self.engine)
        self._counters: Counter[str] = Counter()
        self._watchers = Watchers(self._counters)
        self._control = ControlPath(self.engine, self._counters)
        self.data = DataPath(
            self.engine,
            self._counters,
            mtu=self._config.mtu,
            rng=rng,
            send_inner=self._send_inner,
            on_other=self._control.on_datagram,
        )
        self._endpoints = Endpoints(
            self._hits, self.engine, self.data, self._send_inner, self._counters
        )
        self._ports = Ports(open_port, self.data.on_datagram, self._counters)
        self.data.use(self._ports)
        self._roaming = Roaming(self._ports, watch, self._on_moved)
        map_port = map_port or (PortMapper if open_port is open_udp else None)
        self._waking = Waking(self._on_woke)
        relayed = RelayPorts(
            self.engine,
            open_port,
            self._ports.sender,
            self._counters,
            port=self._ports.port,
            map_port=map_port if self._config.port_mapping else None,
        )
        self._control.use(self._ports, relayed)
        self.services = HostServices(self.engine, relayed, open_port, self._counters)
        self._announcing = Announcing(
            self._config,
            self._hits,
            self.engine,
            self._ports,
            services=self.services,
            map_port=map_port,
            on_changed=lambda: self._watchers.tell(ContactChanged()),
        )
        self._lan: Lan | None = None
        self.data.pass_up = self.services.ports.up()
        self.access = Access()
        self._open = False
        self._keylog = KeyLogFile(self._counters)
        self._driver: Driver[Action]
        self._solver: Solver
        self._now: Callable[[], float]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._loop, self._now = loop, loop.time
        self._driver = Driver(self.engine, self._perform)
        self._solver = Solver(self._on_solved)
        self._endpoints.start(loop.call_soon)
        self.data.start(loop.time, self._driver.feed)
        self._control.start(self._driver.feed)
        if self._config.keylog:
            self._keylog.open(self._config.keylog)
        try:
            self._open = True
            self._announcing.start(loop.time)
            self._connecting.start(self._driver.feed)
            anywhere = any(ip in ANYWHERE for ip, _ in self._config.listen)
            follow = self._config.watch and anywhere
            await self._ports.open(self._config.listen, follow)
            self.engine.set_hosts([a for a in self._ports.addresses if a[0] not in ANYWHERE])
            if follow:
                await self._roaming.start()
                await self._announcing.ask_routers()
            self._announcing.know_own_addresses()
            self.services.ports.start(loop.time, self._driver.feed, self._announcing.relay_at)
            self.services.start(self._driver.feed)
            self._waking.open(loop)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send CLOSE to every peer, without waiting for their answers, and free everything."""
        if self._open:
            self._driver.feed(self.engine.close_all)
            self._open = False
        self._announcing.stop()
        self._driver.close()
        self._waking.close()
        self._roaming.close()
        self.services.close()
        if self._lan is not None:
            self._lan.close()
        self._ports.close()
        self._endpoints.stop()
        self._connecting.stop()
        self._keylog.close()
        await self._solver.close()
        await self._announcing.closed()
        await self.services.ports.closed()
        await asyncio.sleep(0)  # transports close in the loop's next iteration

    # interface.Host

    @property
    def hits(self) -> Sequence[Hit]:
        """See ``interface.Host``."""
        return self._hits

    def open(self, hit: Hit, port: int, on_datagram: OnDatagram) -> LocalEndpoint:
        """See ``interface.Host``."""
        return self._endpoints.open(hit, port, on_datagram)

    def learn(self, hit: Hit, contact: bytes) -> None:
        """See ``interface.Host``."""
        try:
            entries = contacts.parse_contact(contact)
        except MalformedPacket as error:
            self._counters[error.reason] += 1
            return
        own = [entry.address for entry in entries if isinstance(entry, contacts.Locator)]
        through = [each.address for each in entries if not isinstance(each, contacts.Locator)]
        if entries and hit not in self._hits:
            self.engine.learn(hit, own, through)

    def last_seen(self, peer: Hit) -> bytes:
        """See ``interface.Host``."""
        address = self.engine.last_seen(peer)
        if address is None or not announceable(address[0]):  # no contact says on which link
            return b""
        return contacts.compose([address], ())

    def recall(self, peer: Hit, contact: bytes) -> None:
        """See ``interface.Host``."""
        try:
            entries = contacts.parse_contact(contact)
        except MalformedPacket as error:
            self._counters[error.reason] += 1
            return
        for entry in entries:
            if isinstance(entry, contacts.Locator) and peer not in self._hits:
                self.engine.recall(peer, entry.address)

    def contact(self, hit: Hit) -> bytes:
        """See ``interface.Host``."""
        return self._announcing.contact(hit)

    def through(self, hit: Hit, server: Hit) -> bytes:
        """See ``interface.Host``."""
        return self._announcing.through(hit, server)

    def hide(self, hit: Hit, *, hidden: bool) -> None:
        """See ``interface.Host``."""
        self._announcing.hide(hit, hidden=hidden)

    def seclude(self, hit: Hit, spared: Collection[Hit] | None) -> None:
        """See ``interface.Host``."""
        if self._open:
            self._driver.feed(lambda now: self.engine.seclude(hit, spared, now))

    def groups(self, contact: bytes) -> frozenset[bytes]:
        """See ``interface.Host``."""
        return contacts.groups(contact)

    def connected(self, peer: Hit) -> bool:
        """See ``interface.Host``."""
        return any((local, peer) in self.engine.outbound for local in self._hits)

    async def connect(self, peer: Hit, *, local: Hit | None = None, timeout: float = 5.0) -> None:
        """See ``interface.Host``."""
        if peer in self._hits or (local is None and self.connected(peer)):
            return
        await self._connecting.connect((local or self._hits[0], peer), timeout)

    def use(self, policy: CredentialPolicy, wall: Callable[[], float]) -> None:
        """See ``interface.Host``."""
        self.engine.use(policy, wall)
        self._waking.wall = wall
        if self._open:
            self._driver.feed(self.engine.show)

    def disclose_by(self, discloses: Discloses) -> None:
        """See ``interface.Host``."""
        self.engine.disclose_by(discloses)

    def disclose(self, peer: Hit, *, local: Hit | None = None) -> None:
        """See ``interface.Host``."""
        if self._open:
            self._driver.feed(lambda now: self.engine.disclose(local or self._hits[0], peer, now))

    def befriend(self, peers: Collection[Hit], *, local: Hit | None = None) -> None:
        """See ``interface.Host``."""
        if self._open:
            chosen = list(peers)
            ours = local or self._hits[0]
            self._driver.feed(lambda now: self.engine.befriend(ours, chosen, now))

    def credentials(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        """See ``interface.Host``."""
        return self.engine.credentials(local or self._hits[0], peer)

    def shows(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        """See ``interface.Host``."""
        return self.engine.shows(local or self._hits[0], peer)

    def watch(self, on_event: Callable[[Event], None]) -> Callable[[], None]:
        """See ``interface.Host``."""
        return self._watchers.watch(on_event)

    def counters(self) -> dict[str, int]:
        """See ``interface.Host``."""
        own = {
            "ESP packets sent": self.data.sent,
            "ESP packets received": self.data.received,
        }
        given_up = {"fragmented datagrams given up": self.data.given_up}
        return own | given_up | dict(self._counters) | dict(self.engine.counters)

    def offer(self, offers: Mapping[RegistrationType, Offer]) -> None:
        """See ``interface.Host``."""
        self.services.offer(offers)

    def offered(
        self, server: Hit, *, local: Hit | None = None
    ) -> frozenset[RegistrationType] | None:
        """See ``interface.Host``."""
        return self.services.offered((local or self._hits[0], server))

    async def register(
        self,
        server: Hit,
        types: Collection[RegistrationType],
        *,
        local: Hit | None = None,
        timeout: float = 5.0,
    ) -> list[Registered]:
        """See ``interface.Host``."""
        return await self.services.register((local or self._hits[0], server), types, timeout)

    async def unregister(
        self,
        server: Hit,
        types: Collection[RegistrationType] | None = None,
        *,
        local: Hit | None = None,
    ) -> None:
        """See ``interface.Host``."""
        self.services.unregister((local or self._hits[0], server), types)

    def registrations(self) -> Sequence[Registered]:
        """See ``interface.Host``."""
        return self.services.registrations()

    def served(self) -> Sequence[Served]:
        """See ``interface.Host``."""
        return self.engine.serving.served()

    async def knock(self, peer: Hit, contact: bytes, timeout: float = 2.0) -> bool:
        """See ``interface.Host``."""
        return await self.services.knock(peer, contact, timeout)

    def sees(self, peer: Hit) -> bytes:
        """See ``interface.Host``."""
        return self.services.sees(peer)

    def seen(self, by: Hit, contact: bytes) -> None:
        """See ``interface.Host``."""
        self.services.seen(by, contact)

    def reachability(self) -> Reachability:
        """See ``interface.Host``."""
        return self._announcing.reachability()

    async def welcome(self, certificates: Sequence[bytes] = (), mark: bytes = b"") -> None:
        """See ``interface.Host``."""
        self._at_lan().welcome(certificates, mark)

    async def look_around(
        self,
        on_found: Callable[[LanPeer], None],
        *,
        local: Hit | None = None,
        seconds: float = 2.0,
    ) -> None:
        """See ``interface.Host``."""
        ours = self._ports.reachable(True, self._now())
        await self._at_lan().look_around(local or self._hits[0], ours, on_found, seconds)

    def _at_lan(self) -> "Lan":
        from hipctl.lan import Lan  # noqa: PLC0415  few hosts need it

        if not self._open:
            raise AssociationFailed("this host is closed")
        if self._lan is None:
            links = self._config.lan_links
            self._lan = Lan(self.engine, self._driver.feed, links, self._counters)
        return self._lan

    # more than the interface

    @property
    def addresses(self) -> Sequence[Address]:
        """Where we listen, with the ports that the kernel chose where 0 was asked for."""
        return self._ports.addresses

    async def connect_opportunistic(
        self, address: Address, *, local: Hit | None = None, timeout: float = 5.0
    ) -> Hit:
        """Associate with whoever answers at ``address`` and return its HIT (RFC 7401 §4.1.8).

        Nothing proves that it is who was meant; only ``EngineConfig.opportunistic_initiator``
        allows this, and only hosts with ``opportunistic_responder`` answer.

        Raises:
            HostConfigRefused: this host isn't configured for it.
            AssociationFailed: nobody answered in time, or ``address`` is none.
        """
        return await self._connecting.connect_opportunistic(
            local or self._hits[0], address, timeout
        )

    def set_access(self, allow: Collection[Hit] | None, deny: Collection[Hit] = ()) -> None:
        """Choose who may associate with us from now on; see ``Engine.set_access``."""
        self.access = Access(allow, deny)
        if self._open:
            self._driver.feed(lambda now: self.engine.set_access(allow, deny, now))
        else:  # nothing is up that would have to be closed
            self.engine.set_access(allow, deny, 0.0)

    def disconnect(self, peer: Hit, local: Hit | None = None) -> None:
        """Close the association (RFC 7401 §6.14); does nothing where there is none."""
        if self._open:
            self._driver.feed(lambda now: self.engine.close(local or self._hits[0], peer, now))

    def forget(self, peer: Hit) -> None:
        """Forget where ``peer`` was: what follows goes where its contact says."""
        self.engine.forget(peer)

    async def ping(
        self, peer: Hit, *, local: Hit | None = None, data: bytes = b"", timeout: float = 1.0
    ) -> float:
        """Send an ICMPv6 echo request in ESP and return the seconds until its reply.

        Raises:
            TimeoutError: none came.
            ValueError: ``data`` is longer than 65,527 bytes.
        """
        return await self.data.ping((local or self._hits[0], peer), data, timeout)

    def associations(self) -> list[dict[str, object]]:
        """One row per association in any state, for display."""
        return self.engine.describe(self._now())

    def status(self) -> list[dict[str, object]]:
        """One row per association that carries data."""
        return [row for row in self.associations() if "sent" in row]

    def now(self) -> float:
        """The time that the engine goes by, seconds."""
        return self._now()

    # sending

    def _send_inner(self, local: Hit, peer: Hit, next_header: int, payload: bytes) -> None:
        outbound = self.engine.outbound.get((local, peer))
        if outbound:
            self.data.send_sealed(outbound, next_header, payload)
        elif self._open:
            self._connecting.begin((local, peer))
            self._driver.feed(
                lambda now: self.engine.enqueue(local, peer, next_header, payload, now)
            )

    # actions of the engine

    def _perform(self, action: Action) -> None:
        match action:
            case Transmit(data=data, to=to, source=source):
                self._control.send(data, to, source)
            case SolvePuzzle():
                self._solver.solve(action)
            case Flush(local=local, peer=peer, datagrams=datagrams):
                for next_header, payload in datagrams:
                    self._send_inner(local, peer, next_header, payload)
            case KeyLog(line=line):
                self._keylog.write(line)
            case PeerFound():
                self._connecting.found(action)
            case LanAnswered():
                self._at_lan().answered(action)  # it is there: we have asked
            case AssociationUp():
                self._up(action)
            case AssociationDown(local=local, peer=peer, reason=reason):
                _log.debug("no association with %s: %s", peer, reason)
                self.data.forget((local, peer))
                failed = AssociationFailed(f"{peer}: {reason}")
                self._connecting.down((local, peer), failed)
                self.services.down((local, peer), failed)
                self._watchers.tell(action)
            case _:
                self._serve(action)

    def _serve(self, action: RegistrationAnswered | RegistrationEnded | PortsChanged) -> None:
        match action:
            case RegistrationAnswered():
                self.services.answered(action)
                self._announcing.tell()
            case RegistrationEnded(server=server, reason=reason):
                _log.debug("not served by %s any more: %s", server, reason)
                self._watchers.tell(action)
                self._announcing.tell()
            case PortsChanged():
                self.services.ports.tend()
            case _:
                assert_never(action)

    def _up(self, action: AssociationUp) -> None:
        _log.debug("associated with %s", action.peer)
        outbound = self.engine.outbound.get((action.local, action.peer))
        if outbound:
            self._ports.associated(outbound.address)
        self._watchers.tell(self._connecting.up(action))

    def _on_moved(self, ours: Sequence[Address]) -> None:
        """We are at other addresses than before, or may be."""
        self._announcing.moved(ours)
        self.services.moved([ip for ip, _ in ours])
        self._waking.look()
        private = self._config.private_locators
        told = [each for each in ours if private or contacts.is_public(each[0])]
        if self._open:
            self._driver.feed(lambda now: self.engine.set_locators(told, now))
            self._announcing.know_own_addresses()
            if self._lan is not None:
                self._lan.moved()
            if ours:  # from nowhere nobody could be told
                self._announcing.tell()

    def _on_woke(self, seconds: float) -> None:
        _log.info("this machine has slept for %.0f s", seconds)
        self._driver.feed(self.engine.woke)
        self._watchers.tell(Woke(seconds))

    def _on_solved(self, ask: SolvePuzzle, answer: bytes | None) -> None:
        self._driver.feed(lambda now: self.engine.on_puzzle_solved(ask.key, answer, now))
