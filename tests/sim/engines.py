"""Several engines and the network between them, in virtual time: no loop, no socket."""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from hipctl import puzzle
from hipctl.actions import (
    Action,
    Address,
    Flush,
    KeyLog,
    PeerFound,
    RegistrationAnswered,
    SolvePuzzle,
    Transmit,
)
from hipctl.constants import PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import MalformedPacket, Rejected
from hipctl.esp import CreditExhausted
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown, AssociationUp, RegistrationEnded
from hipctl.state import State

SECRETS = count(1)
FAST = EngineConfig(k=2)
UDP = 17  # next header


@dataclass
class Peer:
    """One engine with one identity, at one address."""

    identity: HostIdentity
    engine: Engine
    address: Address
    events: list[AssociationUp | AssociationDown] = field(default_factory=list)
    datagrams: list[tuple[int, bytes]] = field(default_factory=list)
    key_log: list[str] = field(default_factory=list)
    found: list[PeerFound] = field(default_factory=list)
    told: list[RegistrationAnswered | RegistrationEnded] = field(default_factory=list)

    @property
    def hit(self) -> Hit:
        return self.identity.hit


@dataclass(frozen=True)
class Seen:
    """One control packet on the wire."""

    at: float
    source: Address
    to: Address
    data: bytes

    @property
    def kind(self) -> int:
        return self.data[2]


class Net:
    """Delivers, loses, doubles and reorders; ``tamper`` may change any control packet."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.peers: dict[Address, Peer] = {}
        self.everybody: list[Peer] = []
        self.loss = 0.0
        self.duplicates = 0.0
        self.delay = 0.01
        self.jitter = 0.0
        self.solve = True
        self.dead: set[Address] = set()  # links that carry nothing, and nobody tells
        self._asked: tuple[Address, Address] | None = None
        self.nat: dict[Address, Address] = {}  # what leaves from the first comes from the second
        self.tamper: Callable[[Seen], Sequence[bytes]] = lambda seen: [seen.data]
        self.wire: list[Seen] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def add(
        self, config: EngineConfig = FAST, identity: HostIdentity | None = None, name: str = ""
    ) -> Peer:
        identity = identity or HostIdentity.from_secret(next(SECRETS))
        address = (name or f"192.0.2.{len(self.peers) + 1}", 10500)
        peer = Peer(identity, Engine([identity], config, self.random.randbytes), address)
        self.peers[address] = peer
        self.everybody.append(peer)
        return peer

    def restart(self, peer: Peer, config: EngineConfig = FAST) -> None:
        peer.engine = Engine([peer.identity], config, self.random.randbytes)

    def introduce(self, *peers: Peer) -> None:
        for peer in peers:
            for other in peers:
                if peer is not other:
                    peer.engine.learn(other.hit, [other.address])

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), call))

    def perform(self, peer: Peer, actions: Sequence[Action]) -> None:  # noqa: C901
        for action in actions:
            match action:
                case Transmit(data, to, source):
                    source = source or self._source(peer, to)
                    self._transmit(peer, Seen(self.now, source, to, data))
                case SolvePuzzle():
                    if self.solve:
                        self._solve(peer, action)
                case Flush(local, other, datagrams):
                    for next_header, payload in datagrams:
                        self.send(peer, other, next_header, payload, local)
                case KeyLog(line):
                    peer.key_log.append(line)
                case PeerFound():
                    peer.found.append(action)
                case AssociationUp() | AssociationDown():
                    peer.events.append(action)
                case RegistrationAnswered() | RegistrationEnded():
                    peer.told.append(action)

    def send(
        self, peer: Peer, to: Hit, next_header: int, payload: bytes, local: Hit | None = None
    ) -> None:
        """Send one datagram as a shell would."""
        local = local or peer.hit
        outbound = peer.engine.outbound.get((local, to))
        if outbound is None:
            actions = peer.engine.enqueue(local, to, next_header, payload, self.now)
            self.perform(peer, actions)
            return
        try:
            sealed = outbound.sa.seal(next_header, payload)
        except CreditExhausted:
            peer.engine.counters["datagram to an unverified address"] += 1
            return
        where = outbound.wire
        self._put(peer, outbound.source or self._source(peer, where), where, sealed)

    def connect(self, peer: Peer, other: Peer) -> None:
        self.perform(peer, peer.engine.connect(peer.hit, other.hit, self.now))

    def run(self, until: float) -> None:
        """Let time pass until ``until``, timers of all engines included."""
        while True:
            timers = [
                (at, peer) for peer in self.everybody if (at := peer.engine.deadline()) is not None
            ]
            first = min(timers, key=lambda timer: timer[0], default=None)
            at = self._events[0][0] if self._events else float("inf")
            if first is not None and first[0] < at:
                if first[0] > until:
                    break
                self.now = max(self.now, first[0])
                self.perform(first[1], first[1].engine.on_time(self.now))
                assert (first[1].engine.deadline() or self.now + 1) > self.now, "timer spins"
            elif at <= until:
                self.now, _, call = heapq.heappop(self._events)
                call()
            else:
                break
        self.now = until

    def state(self, peer: Peer, other: Peer) -> State:
        return peer.engine.state(peer.hit, other.hit)

    def sent(self, kind: int) -> list[Seen]:
        return [seen for seen in self.wire if seen.kind == kind]

    def _solve(self, peer: Peer, ask: SolvePuzzle) -> None:
        j = puzzle.solve(ask.k, ask.prefix, ask.rhash, ask.start)

        def solved() -> None:
            self.perform(peer, peer.engine.on_puzzle_solved(ask.key, j, self.now))

        self.at(self.now, solved)

    def _put(self, peer: Peer, source: Address, to: Address, sealed: bytes) -> None:
        """Put ESP on the wire."""
        outside = self.leaves(peer, source, to)
        if outside is not None:
            self._deliver(outside, to, lambda other: self._open(other, sealed, outside, to))

    def _transmit(self, peer: Peer, seen: Seen) -> None:
        outside = self.leaves(peer, seen.source, seen.to)
        if outside is None:
            return
        seen = replace(seen, source=outside)
        self.wire.append(seen)
        for data in self.tamper(seen):
            self._deliver(seen.source, seen.to, self._control_call(data, seen.source, seen.to))

    def _source(self, peer: Peer, to: Address) -> Address:
        """From where the shell would send: where it was asked, else of the right IP version."""
        if self._asked is not None and self._asked[0] == to:
            return self._asked[1]
        six = ":" in to[0]
        if (":" in peer.address[0]) is six:
            return peer.address
        ours = (address for address, there in self.peers.items() if there is peer)
        return next((address for address in ours if (":" in address[0]) is six), peer.address)

    def leaves(self, peer: Peer, source: Address, to: Address) -> Address | None:
        """As whose packet the others see it; None: ``peer`` can't send that.

        It can from an address that it has, within a family.
        """
        outside = self.nat.get(source, source)
        fits = self.peers.get(outside) is peer and (":" in source[0]) is (":" in to[0])
        return outside if fits else None

    def move(self, peer: Peer, *addresses: Address, tell: bool = True) -> None:
        """``peer`` is at these addresses now, the preferred one first, and nowhere else."""
        for old in [address for address, there in self.peers.items() if there is peer]:
            del self.peers[old]
        for address in addresses:
            self.peers[address] = peer
        if addresses:
            peer.address = addresses[0]
        if tell:
            self.perform(peer, peer.engine.set_locators(addresses, self.now))

    def _control_call(self, data: bytes, source: Address, to: Address) -> Callable[[Peer], None]:
        return lambda other: self._control(other, data, source, to)

    def _deliver(self, source: Address, to: Address, call: Callable[[Peer], None]) -> None:
        if source in self.dead or to in self.dead:
            return
        copies = 1 + (self.random.random() < self.duplicates)
        for _ in range(copies):
            if self.random.random() < self.loss:
                continue
            when = self.now + self.delay + self.random.random() * self.jitter

            def arrive() -> None:
                other = self.reached(source, to)
                if other is not None:
                    call(other)

            self.at(when, arrive)

    def reached(self, source: Address, to: Address) -> Peer | None:
        """Who gets what comes from the one address to the other."""
        return self.peers.get(to)

    def inside(self, to: Address) -> Address:
        """Which of its own addresses the peer knows that is seen as ``to``."""
        return next((a for a, outside in self.nat.items() if outside == to), to)

    def _control(self, other: Peer, data: bytes, source: Address, to: Address) -> None:
        inside = self.inside(to)
        self._asked = source, inside
        self.perform(other, other.engine.on_control(data, source, self.now, inside))
        self._asked = None

    def _open(self, other: Peer, sealed: bytes, source: Address, to: Address) -> None:
        spi = int.from_bytes(sealed[:4], "big")
        inbound = other.engine.inbound.get(spi)
        if inbound is None:
            other.engine.counters["unknown SPI"] += 1
            return
        try:
            other.datagrams.append(inbound.sa.open(sealed))
        except (MalformedPacket, Rejected):
            return
        self.perform(other, other.engine.heard(spi, source, self.now))


def pair(config: EngineConfig = FAST, other: EngineConfig | None = None) -> tuple[Net, Peer, Peer]:
    net = Net()
    a, b = net.add(config), net.add(other or config)
    net.introduce(a, b)
    return net, a, b


def established(config: EngineConfig = FAST) -> tuple[Net, Peer, Peer]:
    net, a, b = pair(config)
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    return net, a, b


def both_ways(net: Net, a: Peer, b: Peer) -> None:
    a.datagrams.clear()
    b.datagrams.clear()
    net.send(a, b.hit, UDP, b"there")
    net.send(b, a.hit, UDP, b"and back")
    net.run(net.now + 1)
    assert (UDP, b"there") in b.datagrams
    assert (UDP, b"and back") in a.datagrams


def ups(peer: Peer) -> list[AssociationUp]:
    return [event for event in peer.events if isinstance(event, AssociationUp)]


def downs(peer: Peer) -> list[str]:
    return [event.reason for event in peer.events if isinstance(event, AssociationDown)]


def solved(net: Net, a: Peer, b: Peer) -> bytes:
    """An I2 of ``a`` that ``b`` would accept."""
    kept: list[bytes] = []

    def keep(seen: Seen) -> list[bytes]:
        if seen.kind != PacketType.I2:
            return [seen.data]
        kept.append(seen.data)
        return []

    net.tamper = keep
    net.connect(a, b)
    net.run(net.now + 0.1)
    net.tamper = lambda seen: [seen.data]
    return kept[0]
