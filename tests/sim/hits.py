"""Hosts without crypto: datagrams between HITs in memory, for thousands of nodes in one loop.

``HitNet`` carries them with latency, loss and failures from one seed; ``SimHost`` is what
overlay and sipgw see of it (``hipctl.interface.Host``). Time is the running loop's, so under
``sim.loop.simulate`` an hour costs nothing.

    net = HitNet(latency=(0.01, 0.05), loss=0.02, seed=7)
    a, b = net.host(), net.host()
    a.learn(b.hits[0], b.contact(b.hits[0]))
    a.open(a.hits[0], 10600, print).send(b"hello", b.hits[0], 10600)

An association costs ``exchange`` round trips the first time two HITs speak; datagrams wait for
it. It fails after ``timeout`` seconds when the peer is down, unknown or refuses.

A host may be at home (``site``) behind a NAT: nobody outside reaches it at its own contact, only
through a server with which it is registered (see ``sim.registry``), or at a port that its router
maps (``mapped``).
"""

import asyncio
import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hipctl.constants import RegistrationType
from hipctl.errors import AssociationFailed, Hides, PortInUse, Rejected
from hipctl.identity import Hit
from hipctl.interface import (
    Admission,
    AssociationDown,
    AssociationUp,
    ContactChanged,
    CredentialPolicy,
    Discloses,
    Event,
    LanPeer,
    Nat,
    Offer,
    OnDatagram,
    Reachability,
    Registered,
    Served,
    Shown,
)
from sim.registry import Registry

LONGEST = 65_527  # bytes of one datagram
FIRST_FREE_PORT = 49_152
QUEUE = 32  # datagrams that wait for one association
CONTACT = b"sim:"
SERVED = b"srv:"  # then HITs of servers
HIT_LENGTH = 16


@dataclass(slots=True)
class HitNet:
    """The network: who is there, who is up, how long datagrams take.

    Attributes:
        latency: seconds one way: least and most, drawn once for each pair of hosts.
        loss: probability per datagram; the exchange itself is not lost.
        exchange: round trips that a base exchange takes.
        timeout: seconds after which an exchange with nobody fails.
        reaches: called (from, to) before a datagram is carried; False loses it (partitions).
        logging: whether ``log`` is written: (time, from, to, port, data).
    """

    latency: tuple[float, float] = (0.02, 0.02)
    loss: float = 0.0
    seed: int = 0
    exchange: float = 2.0
    timeout: float = 5.0
    logging: bool = False
    reaches: Callable[[Hit, Hit], bool] | None = None
    log: list[tuple[float, Hit, Hit, int, bytes]] = field(default_factory=list)
    hosts: "dict[Hit, SimHost]" = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    _rng: random.Random = field(init=False)
    _order: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def host(self, *hits: Hit, group: bytes | None = None) -> "SimHost":
        """Add a host; without ``hits`` it gets one of its own, the same for the same seed."""
        if not hits:
            hits = (self.hit(len(self.hosts)),)
        host = SimHost(self, hits, group)
        for hit in hits:
            self.hosts[hit] = host
        return host

    def hit(self, number: int) -> Hit:
        """A HIT without a key behind it."""
        digest = hashlib.sha256(b"%d %d" % (self.seed, number)).digest()
        return Hit(b"\x20\x01\x00\x22" + digest[:12])

    def delay(self, one: Hit, other: Hit) -> float:
        """Seconds one way between two HITs: both ways and always the same."""
        least, most = self.latency
        if least == most:
            return least
        a, b = sorted((one, other))
        return least + (most - least) * (zlib.crc32(a + b, self.seed) & 0xFFFF) / 0xFFFF

    def carry(self, source: Hit, port: int, to: Hit, to_port: int, data: bytes) -> None:
        """Carry one datagram over an association that exists."""
        loop = asyncio.get_running_loop()
        self.counters["sent"] += 1
        self.counters["bytes"] += len(data)
        if self.logging:
            self.log.append((loop.time(), source, to, to_port, data))
        if self.loss and self._rng.random() < self.loss:
            self.counters["lost"] += 1
        elif self.reaches is not None and not self.reaches(source, to):
            self.counters["cut"] += 1
        else:
            # the loop breaks ties at random: what is sent first between two HITs comes first
            self._order = (self._order + 1) % 100_000
            delay = self.delay(source, to) + self._order * 1e-10
            loop.call_later(delay, self._arrive, source, port, to, to_port, data)

    def _arrive(self, source: Hit, port: int, to: Hit, to_port: int, data: bytes) -> None:
        host = self.hosts.get(to)
        if host is None or not host.up:
            self.counters["host down"] += 1
        elif source not in host.peers:  # it restarted: no SA for this
            self.counters["no association"] += 1
        else:
            host.deliver(source, port, to, to_port, data)


class SimEndpoint:
    """One open (HIT, port) of a SimHost."""

    __slots__ = ("_host", "hit", "on_datagram", "port")

    def __init__(self, host: "SimHost", hit: Hit, port: int, on_datagram: OnDatagram) -> None:
        self._host, self.hit, self.port, self.on_datagram = host, hit, port, on_datagram

    def send(self, data: bytes, to: Hit, port: int) -> None:
        if len(data) > LONGEST:
            raise ValueError(f"a datagram has at most {LONGEST} bytes")
        if not 0 < port < 65_536:
            raise ValueError(f"{port} is no port")
        self._host.send(self.hit, self.port, bytes(data), to, port)

    def close(self) -> None:
        if self._host.endpoints.get((self.hit, self.port)) is self:
            del self._host.endpoints[self.hit, self.port]


class SimHost:
    """A host on a HitNet; implements ``hipctl.interface.Host``.

    Attributes:
        up: set it with ``stop`` and ``start``; a host that is down neither sends nor hears.
        peers: HITs with which an association is ESTABLISHED.
        strict: whether a peer must have been learnt (or be associated) before it is reached.
        site: the LAN where it is, behind a NAT; None: on the Internet itself.
        mapped: its router maps a port to it.
        firewalled: nothing that it did not ask for comes in.
        symmetric: its NAT shows everybody another port, or doesn't; None: it is known at once.
        seen_by: where others said that they see it.
        routers: what its router said.
        offline: its cable is out.
        welcomes: certificates and mark that it shows on its LAN; None: it does not answer there.
        registry: what it offers, and where it is registered.
        knocks: whom it has knocked at.
    """

    def __init__(self, net: HitNet, hits: Sequence[Hit], group: bytes | None) -> None:
        self.net = net
        self.up = True
        self.strict = True
        self.peers: dict[Hit, None] = {}
        self.endpoints: dict[tuple[Hit, int], SimEndpoint] = {}
        self.counts: Counter[str] = Counter()
        self.learnt: dict[Hit, bytes] = {}
        self.policy: CredentialPolicy | None = None
        self.wall: Callable[[], float] = lambda: 0.0
        self.shown: dict[tuple[Hit, Hit], Shown] = {}  # (local, peer) -> by the peer
        self.showed: dict[tuple[Hit, Hit], Shown] = {}  # by us
        self.discloses: Discloses | None = None
        self.disclosed: set[Hit] = set()
        self.friends: tuple[Hit, ...] = ()
        self.hidden: set[Hit] = set()
        self.deaf = False  # it passes nothing on, whatever it promised
        self.spared: frozenset[Hit] | None = None  # who alone may learn where it is

        self.site: str | None = None
        self.mapped = False
        self.firewalled = False
        self.symmetric: bool | None = None
        self.seen_by: dict[Hit, bytes] = {}
        self.routers: tuple[Mapping[str, object], ...] = ()
        self.offline = False
        self.welcomes: tuple[tuple[bytes, ...], bytes] | None = None
        self.registry = Registry(self)
        self.knocks: list[Hit] = []
        self._hits = tuple(hits)
        self._group = group
        self._told = b""
        self._waiting: dict[Hit, list[Callable[[], None]]] = {}
        self._done: dict[Hit, asyncio.Future[None]] = {}
        self._watchers: dict[object, Callable[[Event], None]] = {}

    @property
    def hits(self) -> Sequence[Hit]:
        return self._hits

    def open(self, hit: Hit, port: int, on_datagram: OnDatagram) -> SimEndpoint:
        if hit not in self._hits:
            raise ValueError(f"{hit} is no identity of this host")
        if port == 0:
            port = next(
                p for p in range(FIRST_FREE_PORT, 65_536) if (hit, p) not in self.endpoints
            )
        if (hit, port) in self.endpoints:
            raise PortInUse(f"port {port} of {hit} is open already")
        endpoint = self.endpoints[hit, port] = SimEndpoint(self, hit, port, on_datagram)
        return endpoint

    def learn(self, hit: Hit, contact: bytes) -> None:
        if contact.startswith((CONTACT, SERVED)):
            self.learnt[hit] = contact
        else:
            self.counts["malformed contact"] += 1

    def last_seen(self, peer: Hit) -> bytes:
        return b""

    def recall(self, peer: Hit, contact: bytes) -> None:
        """Nobody moves here."""

    def contact(self, hit: Hit) -> bytes:
        through = self.registry.through()
        named = through or hit in self.hidden
        return SERVED + b"".join(through) if named else self._direct(hit)

    def through(self, hit: Hit, server: Hit) -> bytes:
        return SERVED + server if server in self.registry.through() else b""

    def hide(self, hit: Hit, *, hidden: bool) -> None:
        if hidden is not (hit in self.hidden):
            self.hidden ^= {hit}
            self.contact_changed()

    def _direct(self, hit: Hit) -> bytes:
        return CONTACT + hit + (self._group or b"")

    def groups(self, contact: bytes) -> frozenset[bytes]:
        if contact.startswith(SERVED):
            return frozenset(b"s" + server for server in _servers(contact))
        group = contact[len(CONTACT) + HIT_LENGTH :]
        return frozenset((group,)) if group else frozenset()

    def connected(self, peer: Hit) -> bool:
        return peer in self.peers

    async def connect(self, peer: Hit, *, local: Hit | None = None, timeout: float = 5.0) -> None:
        if peer in self._hits or peer in self.peers:
            return
        done = self._exchange(local or self._hits[0], peer)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(done)
        except TimeoutError:
            raise AssociationFailed(f"{peer} did not answer within {timeout} s") from None

    def watch(self, on_event: Callable[[Event], None]) -> Callable[[], None]:
        key = object()
        self._watchers[key] = on_event
        return lambda: self._watchers.pop(key, None) and None

    def use(self, policy: CredentialPolicy, wall: Callable[[], float]) -> None:
        self.policy, self.wall = policy, wall

    def credentials(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        return self.shown.get((local or self._hits[0], peer)) if peer in self.peers else None

    def shows(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        local = local or self._hits[0]
        if peer in self.peers:
            return self.showed.get((local, peer))
        return self._show(local, peer) or None

    def seclude(self, hit: Hit, spared: Collection[Hit] | None) -> None:
        self.spared = None if spared is None else frozenset(spared)

    def hides_from(self, peer: Hit) -> bool:
        """Whether ``peer`` may not learn where we are: it speaks with us through relays."""
        served = any(client == peer for client, _ in self.registry.clients)
        known = served or peer in (*self._hits, *self.disclosed, *self.friends)
        return self.spared is not None and peer not in self.spared and not known

    def disclose_by(self, discloses: Discloses) -> None:
        self.discloses = discloses

    def disclose(self, peer: Hit, *, local: Hit | None = None) -> None:
        self.disclosed.add(peer)

    def offer(self, offers: Mapping[RegistrationType, Offer]) -> None:
        self.registry.offer(offers)

    def offered(
        self, server: Hit, *, local: Hit | None = None
    ) -> frozenset[RegistrationType] | None:
        return frozenset(self.net.hosts[server].registry.offers) if server in self.peers else None

    async def register(
        self,
        server: Hit,
        types: Collection[RegistrationType],
        *,
        local: Hit | None = None,
        timeout: float = 5.0,
    ) -> list[Registered]:
        return await self.registry.register(local or self._hits[0], server, types, timeout)

    async def unregister(
        self,
        server: Hit,
        types: Collection[RegistrationType] | None = None,
        *,
        local: Hit | None = None,
    ) -> None:
        await self.registry.unregister(server, types)

    def registrations(self) -> Sequence[Registered]:
        return list(self.registry.ours.values())

    def served(self) -> Sequence[Served]:
        return self.registry.served()

    async def knock(self, peer: Hit, contact: bytes, timeout: float = 2.0) -> bool:
        other = self.net.hosts.get(peer)
        if self.hides_from(peer):
            raise Hides("a knock would show where we are")
        if other is not None and contact.startswith(SERVED):
            return await self._knock_through(other, peer, contact, timeout)
        if other is None or peer not in self.peers or contact[: len(CONTACT)] != CONTACT:
            raise Rejected("no such locator")
        if other.site is not None and other.site != self.site and not other.mapped:
            raise Rejected("no such locator")  # a private address, and it comes from its NAT's
        self.knocks.append(peer)
        cut = self.net.reaches is not None and not self.net.reaches(self._hits[0], peer)
        heard = other.up and not cut and other.open_to(self)
        await asyncio.sleep(2 * self.net.delay(self._hits[0], peer) if heard else timeout)
        return heard

    async def _knock_through(
        self, other: "SimHost", peer: Hit, contact: bytes, timeout: float
    ) -> bool:
        (server,) = _servers(contact)
        if server not in self.peers:
            raise Rejected("no such locator")
        self.knocks.append(peer)
        between = self.net.hosts[server]
        passes = between.open_to(self) and between.registry.serves(peer) and not between.deaf
        heard = between.up and passes and other.up
        delay = self.net.delay(self._hits[0], server) + self.net.delay(server, peer)
        await asyncio.sleep(2 * delay if heard else timeout)
        return heard

    def sees(self, peer: Hit) -> bytes:
        other = self.net.hosts.get(peer)
        if other is None or peer not in self.peers or other.hides_from(self._hits[0]):
            return b""
        return other._direct(peer) + (self._hits[0] if other.symmetric else b"")

    def seen(self, by: Hit, contact: bytes) -> None:
        self.seen_by[by] = contact

    def reachability(self) -> Reachability:
        if self.offline:
            return Reachability()
        nat = Nat.NONE if self.site is None else Nat.ENDPOINT_INDEPENDENT
        if self.symmetric is not None:
            several = len(set(self.seen_by.values())) > 1
            nat = Nat.ENDPOINT_DEPENDENT if several else Nat.ENDPOINT_INDEPENDENT
            nat = nat if len(self.seen_by) > 1 else Nat.UNKNOWN
        mapped = (("PCP", ("192.0.2.1", 10500)),) if self.mapped else ()
        where = (self.site or "internet", 10500)
        return Reachability((where,), (), mapped, nat, self._direct(self._hits[0]), self.routers)

    async def welcome(self, certificates: Sequence[bytes] = (), mark: bytes = b"") -> None:
        self.welcomes = tuple(certificates), mark

    async def look_around(
        self,
        on_found: Callable[[LanPeer], None],
        *,
        local: Hit | None = None,
        seconds: float = 2.0,
    ) -> None:
        mine = local or self._hits[0]
        loop = asyncio.get_running_loop()
        here = [
            host
            for host in dict.fromkeys(self.net.hosts.values())
            if host is not self
            and host.up
            and host.welcomes is not None
            and self.site is not None
            and host.site == self.site
        ]
        for host in here[:8]:
            hit = host._hits[0]
            self.learnt[hit] = host._direct(hit)
            services = frozenset(host.registry.offers)
            shown = host.welcomes or ((), b"")
            found = LanPeer(hit, self.learnt[hit], services, *shown)
            loop.call_later(2 * self.net.delay(mine, hit), on_found, found)
        await asyncio.sleep(seconds)

    def befriend(self, peers: Collection[Hit], *, local: Hit | None = None) -> None:
        self.friends = tuple(peers)

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    # What only tests call.

    def open_to(self, other: "SimHost") -> bool:
        """Whether what ``other`` sends to our own addresses comes in though we asked nothing."""
        if self.site is not None and self.site == other.site:
            return True
        return (self.site is None or self.mapped) and not self.firewalled

    def contact_changed(self) -> None:
        """Tell it if ``contact`` says something else than when it was told last."""
        contact = self.contact(self._hits[0])
        if contact != self._told:
            self._told = contact
            self.emit(ContactChanged())

    def move(self, site: str | None) -> None:
        """Go to another network; associations follow."""
        self.site, self.mapped = site, False
        self.emit(ContactChanged())

    def drop(self, peer: Hit, reason: str) -> None:
        """Notice that ``peer`` is gone."""
        if peer in self.peers:
            del self.peers[peer]
            self.emit(AssociationDown(self._hits[0], peer, reason))

    def stop(self) -> None:
        """Vanish without a word, as when the power goes."""
        self.up = False
        self.peers.clear()
        self.registry.clear()
        self._waiting.clear()

    def start(self) -> None:
        """Come back with the same HITs and Endpoints, and no association."""
        self.up = True

    def disconnect(self, peer: Hit, reason: str = "closed") -> None:
        """End the association on both sides."""
        for host, other in ((self, peer), (self.net.hosts.get(peer), self._hits[0])):
            if host and other in host.peers:
                host.drop(other, reason)

    def send(self, local: Hit, port: int, data: bytes, to: Hit, to_port: int) -> None:
        if not self.up:
            self.counts["host down"] += 1
        elif to in self._hits:
            asyncio.get_running_loop().call_soon(self.deliver, local, port, to, to_port, data)
        elif to in self.peers:
            self.counts["sent"] += 1
            self.net.carry(local, port, to, to_port, data)
        else:
            self._exchange(local, to)
            queue = self._waiting.get(to)
            if queue is None or len(queue) >= QUEUE:
                self.counts["queue full" if queue else "unreachable"] += 1
            else:
                queue.append(partial(self.net.carry, local, port, to, to_port, data))

    def deliver(self, source: Hit, port: int, to: Hit, to_port: int, data: bytes) -> None:
        endpoint = self.endpoints.get((to, to_port))
        if endpoint is None:
            self.counts["port closed"] += 1
        else:
            self.counts["received"] += 1
            endpoint.on_datagram(data, source, port)

    def _exchange(self, local: Hit, peer: Hit) -> asyncio.Future[None]:
        if peer in self._done:
            return self._done[peer]
        loop = asyncio.get_running_loop()
        done = self._done[peer] = loop.create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._waiting[peer] = []
        other = self.net.hosts.get(peer)
        refused = self.strict and peer not in self.learnt
        steps = self._way(peer, other) if other is not None else None
        self.counts["exchanges"] += 1
        if refused:
            loop.call_soon(self._fail, local, peer, "no contact is known")
        elif other is None or not other.up or steps is None:
            loop.call_later(self.net.timeout, self._fail, local, peer, "no answer")
        else:
            seconds = self.net.exchange * 2 * self.net.delay(local, peer) + 2 * steps
            loop.call_later(seconds, self._establish, local, peer, seconds)
        return done

    def _way(self, peer: Hit, other: "SimHost") -> float | None:
        """Seconds of the detour that an I1 takes to ``peer``; None: it does not get there."""
        learnt = self.learnt.get(peer, self._direct(peer))
        if not learnt.startswith(SERVED):
            return 0.0 if other.open_to(self) else None
        for server in _servers(learnt):
            between = self.net.hosts.get(server)
            works = between and between.up and between.open_to(self) and not between.deaf
            if between and works and between.registry.serves(peer):
                return self.net.delay(self._hits[0], server) + self.net.delay(server, peer)
        return None

    def _show(self, local: Hit, peer: Hit, theirs: Shown | None = None) -> Shown:
        return self.policy.shown(local, peer, self.wall(), theirs) if self.policy else Shown()

    def _admits(self, local: Hit, peer: Hit, shown: Shown) -> bool:
        if self.policy is None:
            return True
        verdict = self.policy.admit(local, peer, shown, self.wall())
        if verdict is not Admission.ACCEPTED:
            self.counts[verdict.value] += 1
        return verdict is Admission.ACCEPTED

    def _trade(self, local: Hit, peer: Hit, other: "SimHost") -> bool:
        """Show and judge credentials as I2 and R2 do; False if a side refuses the other."""
        ours = self._show(local, peer)
        if not other._admits(peer, local, ours):
            return False
        theirs = other._show(peer, local, ours) if ours and other.policy else Shown()
        if theirs and not self._admits(local, peer, theirs):
            return False
        for host, pair, shown, showed in (
            (self, (local, peer), theirs, ours),
            (other, (peer, local), ours, theirs),
        ):
            for table, what in ((host.shown, shown), (host.showed, showed)):
                table.pop(pair, None)
                if what and host.policy:
                    table[pair] = what
        return True

    def _establish(self, local: Hit, peer: Hit, seconds: float) -> None:
        other = self.net.hosts[peer]
        cut = self.net.reaches is not None and not self.net.reaches(local, peer)
        if not (self.up and other.up) or cut:
            self._fail(local, peer, "no answer")
            return
        if peer not in self.peers and not self._trade(local, peer, other):
            self._fail(local, peer, "credentials refused")
            return
        for host, mine, theirs in ((self, local, peer), (other, peer, local)):
            if theirs not in host.peers:
                host.peers[theirs] = None
                host.emit(AssociationUp(mine, theirs, seconds))
        self._finish(peer, None)

    def _fail(self, local: Hit, peer: Hit, reason: str) -> None:
        if peer in self.peers:  # the peer came first
            self._finish(peer, None)
            return
        self._finish(peer, AssociationFailed(reason))
        if self.up:
            self.emit(AssociationDown(local, peer, reason))

    def _finish(self, peer: Hit, error: AssociationFailed | None) -> None:
        done = self._done.pop(peer, None)
        queue = self._waiting.pop(peer, [])
        if done and not done.done():
            if error:
                done.set_exception(error)
            else:
                done.set_result(None)
        if not error and self.up:
            for carry in queue:
                carry()

    def emit(self, event: Event) -> None:
        """Tell all who watch."""
        if isinstance(event, AssociationDown):
            self.registry.on_down(event)
        for on_event in list(self._watchers.values()):
            on_event(event)


def _servers(contact: bytes) -> list[Hit]:
    """The servers that a contact names."""
    return [
        Hit(contact[at : at + HIT_LENGTH]) for at in range(len(SERVED), len(contact), HIT_LENGTH)
    ]
