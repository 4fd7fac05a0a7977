"""Engines at home behind NATs, servers on the Internet between them, and what must never be seen.

The NATs are those of ``nats.py``; all homes have the same private addresses, as real ones do.
Watched is all the time: that no ESP leaves for where nobody has answered, that who hides is not
seen, and that a server sends no more than it was sent.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from hipctl.actions import Action, Address, PortsChanged
from hipctl.datarelay import Flow
from hipctl.engine import Engine
from hipctl.identity import Hit, HostIdentity
from hipctl.packet import Packet
from hipctl.params import RelayTo
from hipctl.settings import EngineConfig
from sim.engines import FAST, Peer, Seen
from sim.nats import Nat, Translator
from sim.servers import ServerNet

_HOP = 24 + 24 + 56  # bytes that a server may add: FROM, RELAY_FROM, and a MAC of SHA-384
_INDOORS = 0.001  # seconds from one to another in the same home


class Inside(tuple[str, int]):
    """A source address within a home."""

    home: "Home"


class Home:
    """A network behind a NAT.

    Attributes:
        members: who is there, by private address.
    """

    def __init__(self, net: "HomeNet", nat: Nat, ip: str) -> None:
        self.translator = Translator(nat, ip, net.random)
        self.members: dict[Address, Peer] = {}

    @property
    def ip(self) -> str:
        return self.translator.ip


@dataclass
class Books:
    """What one server had to forward, and what it has.

    Attributes:
        received: bytes.
        sent: bytes.
        packets: sent.
        came: packets received.
    """

    received: int = 0
    sent: int = 0
    packets: int = 0
    came: int = 0


Hop = tuple[Address, Address]


class HomeNet(ServerNet):
    """Peers and servers; NATs where peers are.

    Attributes:
        homes: by outer IP address.
        books: by server.
        hidden: (who hides, from whom), HITs.
        wrong: what has been seen that must not be.
        hops: where ESP goes while somebody looks.
        timers: how often each engine was woken.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.homes: dict[str, Home] = {}
        self.books: dict[Hit, Books] = {}
        self.hidden: set[tuple[Hit, Hit]] = set()
        self.wrong: list[str] = []
        self.hops: list[Hop] | None = None
        self.timers: Counter[Engine] = Counter()
        self._due: dict[int, float | None] = {}
        self._touched: set[int] = set()
        self._index: dict[Hit, int] = {}
        self._places: dict[Hit, dict[Address, Home]] = {}
        self._spoken: dict[Hit, set[Address]] = {}  # control packets went there,
        self._proven: dict[Hit, set[Address]] = {}  # and came from there after that
        self._found: set[tuple[Hit, Hit]] = set()  # (who, by whom), until it moves
        self._inner: Address | None = None
        self._ips = 0
        self._ports = 50_100

    def add(
        self, config: EngineConfig = FAST, identity: HostIdentity | None = None, name: str = ""
    ) -> Peer:
        peer = super().add(config, identity, name)
        self._index[peer.hit] = len(self.everybody) - 1
        return peer

    # -- places --------------------------------------------------------------------------------

    def ip(self) -> str:
        """A public address that nobody ever had."""
        self._ips += 1
        return f"45.{self._ips >> 8}.{self._ips & 255}.1"

    def home(self, nat: Nat) -> Home:
        made = Home(self, nat, self.ip())
        self.homes[made.ip] = made
        return made

    def go(self, peer: Peer, *places: Home | None, tell: bool = True) -> None:
        """Be in these networks, the preferred one first, None is the Internet; nowhere else."""
        self._found = {pair for pair in self._found if pair[0] != peer.hit}
        for home in self.homes.values():
            for address in [a for a, there in home.members.items() if there is peer]:
                del home.members[address]
        ours: list[Address] = []
        behind: dict[Address, Home] = {}
        for place in places:
            if place is None:
                address = self.ip(), 10500
                ours.append(address)
                continue
            n = next(n for n in range(2, 250) if (f"192.168.1.{n}", 10500) not in place.members)
            address = f"192.168.1.{n}", 10500
            if address not in behind:
                place.members[address] = peer
                behind[address] = place
                ours.append(address)
        self._places[peer.hit] = behind
        for old in [address for address, there in self.peers.items() if there is peer]:
            del self.peers[old]
        self.peers |= {address: peer for address in ours if address not in behind}
        if ours:
            peer.address = ours[0]
        if tell:
            self.perform(peer, peer.engine.set_locators(ours, self.now))

    def places(self, peer: Peer) -> list[Home | None]:
        """Where it is; None: on the Internet."""
        public = [None for there in self.peers.values() if there is peer]
        return [*public, *self._places.get(peer.hit, {}).values()]

    def addresses(self, peer: Peer) -> list[Address]:
        """All addresses that it has itself, the public ones first."""
        public = [address for address, there in self.peers.items() if there is peer]
        return [*public, *self._places.get(peer.hit, {})]

    def reboot(self, home: Home, *, renumbered: bool = False) -> None:
        """A NAT forgets everything; perhaps it is elsewhere then."""
        del self.homes[home.ip]
        home.translator.reset(self.ip() if renumbered else None)
        self.homes[home.ip] = home

    # -- the way of a packet -------------------------------------------------------------------

    def leaves(self, peer: Peer, source: Address, to: Address) -> Address | None:
        home = self._places.get(peer.hit, {}).get(source)
        if home is None:
            return super().leaves(peer, source, to)
        if to in home.members:
            inside = Inside(source)
            inside.home = home
            return inside
        if to[0].startswith("192.168.") or ":" in to[0]:
            return None
        if to[0] == home.ip and not home.translator.nat.hairpin:
            return None
        return home.translator.outbound(source, to, self.now)

    def _deliver(self, source: Address, to: Address, call: Callable[[Peer], None]) -> None:
        if not isinstance(source, Inside):
            super()._deliver(source, to, call)
            return
        members = source.home.members

        def arrive() -> None:
            other = members.get(to)
            if other is not None:
                self._inner = to
                call(other)

        self.at(self.now + _INDOORS, arrive)

    def reached(self, source: Address, to: Address) -> Peer | None:
        self._inner = to
        home = self.homes.get(to[0])
        if home is None:
            return super().reached(source, to)
        self._inner = home.translator.inbound(source, to, self.now)
        return home.members.get(self._inner) if self._inner is not None else None

    def inside(self, to: Address) -> Address:
        return self._inner or to

    # -- time ----------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """As ``Net.run``, but asks only those engines for their deadlines that had an input."""
        due = self._due
        self._touched.update(range(len(self.everybody)))
        while True:
            for i in self._touched:
                due[i] = self.everybody[i].engine.deadline()
            self._touched.clear()
            at, i = min(((at, i) for i, at in due.items() if at is not None), default=(inf, 0))
            event = self._events[0][0] if self._events else inf
            if min(at, event) > until:
                break
            if event <= at:
                self.now, _, call = heapq.heappop(self._events)
                call()
                continue
            self.now = max(self.now, at)
            engine = self.everybody[i].engine
            self.timers[engine] += 1
            self.perform(self.everybody[i], engine.on_time(self.now))
            assert (engine.deadline() or self.now + 1) > self.now, "timer spins"
        self.now = until

    # -- servers -------------------------------------------------------------------------------

    def perform(self, peer: Peer, actions: Sequence[Action]) -> None:
        self._touched.add(self._index[peer.hit])
        super().perform(peer, actions)
        if any(isinstance(action, PortsChanged) for action in actions):
            self._tend(peer)

    def _tend(self, server: Peer) -> None:
        """Close what clients gave back, and lend more, as a shell does."""
        serving = server.engine.serving
        for address in serving.data.closed:
            self.relayed.pop(address, None)
            self.peers.pop(address, None)
        serving.data.closed.clear()
        while serving.ports_wanted:
            self._ports += 1
            address = server.address[0], self._ports
            self.relayed[address] = self.peers[address] = server
            serving.data.lend(address)

    def begin_anew(self, server: Peer) -> None:
        """Its process is another one, which knows nothing; ``offer`` and so on follow."""
        for address in [a for a, there in self.relayed.items() if there is server]:
            del self.relayed[address], self.peers[address]
        self.restart(server)
        server.engine.serving.relay.ours = frozenset({server.address})

    # -- what is watched -----------------------------------------------------------------------

    def _transmit(self, peer: Peer, seen: Seen) -> None:
        self._spoken.setdefault(peer.hit, set()).add(seen.to)
        if peer.hit in self.books and seen.data[8:24] != peer.hit:
            self._passes(peer.hit, len(seen.data))
        self._look_for(peer, seen.to, seen.data)
        super()._transmit(peer, seen)

    def _control(self, other: Peer, data: bytes, source: Address, to: Address) -> None:
        sender = next((peer for peer in self.everybody if peer.hit == data[8:24]), None)
        if sender is not None and self._is_at(sender, other, self.inside(to), source):
            self._found.add((other.hit, sender.hit))  # it knew where
        if source in self._spoken.get(other.hit, ()):
            self._proven.setdefault(other.hit, set()).add(source)
        if other.hit in self.books and data[24:40] != other.hit:
            self._receives(other.hit, len(data))
        super()._control(other, data, source, to)

    def _put(self, peer: Peer, source: Address, to: Address, sealed: bytes) -> None:
        spi = int.from_bytes(sealed[:4], "big")
        metered = any(o.sa.spi == spi and o.sa.metered for o in peer.engine.outbound.values())
        if not metered:
            self._check_proven(peer, to)
        if self.hops is not None:
            outside = self.leaves(peer, source, to)
            if outside is not None:
                self.hops.append((outside, to))
        super()._put(peer, source, to, sealed)

    def _pass(self, server: Peer, flow: Flow, sealed: bytes) -> None:
        self._receives(server.hit, len(sealed))
        self._passes(server.hit, len(sealed))
        if self.relayed.get(flow.to) is not server:  # control packets don't leave it, either
            self._check_proven(server, flow.to)
        if self.hops is not None:
            self.hops.append((flow.source or server.address, flow.to))
        super()._pass(server, flow, sealed)

    def _check_proven(self, peer: Peer, to: Address) -> None:
        if to not in self._proven.get(peer.hit, ()):
            self.wrong.append(f"{self.now}: ESP to {to}, where nobody has answered")

    def _receives(self, hit: Hit, size: int) -> None:
        books = self.books[hit]
        books.received += size
        books.came += 1

    def _passes(self, hit: Hit, size: int) -> None:
        books = self.books[hit]
        books.sent += size
        books.packets += 1
        if books.packets > books.came or books.sent > books.received + _HOP * books.packets:
            self.wrong.append(f"{self.now}: a server has sent more than it received: {books}")

    def _look_for(self, peer: Peer, to: Address, data: bytes) -> None:
        """Whether who hides shows where it is to whom it hides from: it or its relay sees it."""
        whom = Hit(data[24:40])
        if (peer.hit, whom) not in self.hidden or (peer.hit, whom) in self._found:
            return
        if not Packet(data).has(RelayTo):
            self.wrong.append(f"{self.now}: who hides has sent directly to {to}")

    def _is_at(self, peer: Peer, sender: Peer, source: Address, to: Address) -> bool:
        home = self._places.get(sender.hit, {}).get(source)
        if home is not None and to in home.members:
            return home.members[to] is peer
        if self.peers.get(to) is peer:
            return True
        home = self.homes.get(to[0])
        return (
            home is not None
            and home.members != {}
            and all(member is peer for member in home.members.values())
        )
