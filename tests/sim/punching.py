"""Two hosts behind NATs, with data relays, whose ``Checks`` find a path: virtual time, one seed.

Only addresses are simulated: no packet is made, authenticated or sealed. See ``Scene``.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from hipctl.actions import Address, Path, Relayed
from hipctl.candidates import from_locators, gather, to_locators
from hipctl.checks import Ask, Checks, State
from hipctl.params_mobility import Locator
from hipctl.settings import CheckConfig

RELAY_PORT = 10500


class Kind(Enum):
    """Of what stands between a host and the public network."""

    PUBLIC = "nothing"
    MAPPED = "a NAT with a port mapping that was asked for"
    INDEPENDENT = "endpoint-independent mapping and filtering"
    RESTRICTED = "endpoint-independent mapping, address- and port-dependent filtering"
    SYMMETRIC = "address- and port-dependent mapping and filtering"
    DOUBLE = "RESTRICTED behind RESTRICTED"


HARD = {Kind.RESTRICTED, Kind.SYMMETRIC, Kind.DOUBLE}


def direct_possible(a: Kind, b: Kind) -> bool:
    """Whether any direct pair can work: a symmetric NAT needs a peer that lets strangers in."""
    return not (Kind.SYMMETRIC in {a, b} and {a, b} <= HARD)


@dataclass(slots=True)
class Nat:
    """One NAT.

    Attributes:
        ip: its outer address.
        mapped: inner addresses with a port mapping.
    """

    ip: str
    kind: Kind
    inside: str  # prefix of the addresses inside
    lifetime: float = 30.0
    mapped: set[Address] = field(default_factory=set)
    dead: bool = False
    _out: dict[tuple[Address, Address | None], int] = field(default_factory=dict)
    _in: dict[int, Address] = field(default_factory=dict)
    _used: dict[tuple[int, Address | None], float] = field(default_factory=dict)
    _ports: int = 20_000

    def reboot(self) -> None:
        """Forget everything but port mappings; later ports are others."""
        self._out.clear()
        self._in.clear()
        self._used.clear()

    def outwards(self, source: Address, to: Address, now: float) -> Address:
        per_peer = self.kind is Kind.SYMMETRIC and source not in self.mapped
        key = source, to if per_peer else None
        port = self._out.get(key)
        if port is not None and not self._alive(port, now) and source not in self.mapped:
            port = None
        if port is None:
            self._ports += 1
            port = self._out[key] = self._ports
            self._in[port] = source
        self._used[port, None] = self._used[port, to] = now
        return self.ip, port

    def _alive(self, port: int, now: float, peer: Address | None = None) -> bool:
        return now - self._used.get((port, peer), -1e9) <= self.lifetime

    def inwards(self, source: Address, port: int, now: float) -> Address | None:
        inner = self._in.get(port)
        if inner is None or self.dead:
            return None
        if inner in self.mapped:
            return inner
        if self.kind in {Kind.MAPPED, Kind.INDEPENDENT}:
            return inner if self._alive(port, now) else None
        return inner if self._alive(port, now, source) else None


@dataclass(slots=True)
class Relay:
    """A control and data relay with one client; forwards checks without permission."""

    main: Address
    relayed: Address
    client: Address = ("0.0.0.0", 0)  # as the relay sees it
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """What a packet holds: a check, the answer to one, or both.

    Attributes:
        ask: the check.
        answer: (number of the check that it answers, MAPPED_ADDRESS).
    """

    ask: Ask | None
    answer: tuple[int, Address] | None = None


class Peer:
    """One host, and what ``upkeep`` would do for its checks."""

    def __init__(
        self,
        scene: "Scene",
        controlling: bool,
        own: Address,
        nats: list[Nat],
        relay: Relay | None,
    ) -> None:
        self.scene, self.own, self.nats, self.relay = scene, own, nats, relay
        self.checks = Checks(controlling, scene.pacing, scene.config)
        self.waiting: dict[int, tuple[Check, int, float]] = {}  # packet, transmissions, next one
        self.answered: dict[int, Ask | None] = {}
        self.asked: list[float] = []
        self.selected_at: float | None = None
        self.direct_at: float | None = None
        self.history: list[tuple[float, Path | None]] = []
        self.controls: list[Address] = []

    def gather(self) -> None:
        """Register with the relay and the public servers that everybody has."""
        scene = self.scene
        seen = scene.outer(self, scene.server)
        reflexive = [] if seen == self.own else [(seen, None)]
        relayed = []
        if self.relay is not None:
            self.relay.client = scene.outer(self, self.relay.main)
            relayed.append((self.relay.relayed, self.relay.main, None))
        self.ours = gather([self.own], reflexive, relayed)

    def told(self) -> tuple[Locator, ...]:
        return to_locators(self.ours, 1000, 12)

    def start(self, locators: tuple[Locator, ...]) -> None:
        theirs, _ = from_locators(locators, None)
        self.checks.start(self.ours, theirs, self.scene.now)

    # -- what upkeep does ----------------------------------------------------------------------

    def send(self, path: Path, check: Check) -> None:
        if isinstance(path.to, Relayed):
            self.scene.send(self, path.to.via, check, relay_to=(path.to[0], path.to[1]))
        else:
            self.scene.send(self, path.to, check)

    def ask(self, ask: Ask, answer: tuple[int, Address] | None = None) -> None:
        check = Check(ask, answer)
        self.waiting[ask.number] = (check, 1, self.scene.now + ask.rto)
        self.send(ask.path, check)

    def receive(self, check: Check, source: Address) -> None:
        now, path = self.scene.now, Path(self.own, source)
        if check.answer is not None:
            number, mapped = check.answer
            found = self.waiting.get(number)
            asked = None if found is None else found[0].ask
            if asked is not None and self.checks.on_response(asked, path, mapped, now):
                del self.waiting[number]
        if check.ask is not None:
            ask = check.ask
            answer = (ask.number, (source[0], source[1]))
            more = None
            if ask.number not in self.answered:
                more = self.checks.on_request(path, ask.priority, ask.nominate, now)
                self.answered[ask.number] = more
            if more is not None:
                assert more.nominate
                self.ask(more, answer)
            else:
                self.send(path, Check(None, answer))
        self.note()

    def deadline(self) -> float | None:
        times = [at for _, _, at in self.waiting.values()]
        own = self.checks.deadline()
        return min([*times, *([] if own is None else [own])], default=None)

    def on_time(self) -> None:
        now = self.scene.now
        for number, (check, sent, at) in list(self.waiting.items()):
            ask = check.ask
            if at > now or ask is None:
                continue
            if sent >= ask.limit:
                del self.waiting[number]
                self.checks.on_given_up(ask, now)
                continue
            self.waiting[number] = (check, sent + 1, now + ask.rto * 2**sent)
            if self.checks.wanted(ask):
                self.send(ask.path, check)
        for ask in self.checks.on_time(now):
            self.asked.append(now)
            self.ask(ask)
        self.note()

    def note(self) -> None:
        checks, now = self.checks, self.scene.now
        if checks.selected is not None and checks.state is State.COMPLETED:
            if self.selected_at is None:
                self.selected_at = now
            if self.direct_at is None and not checks.relayed:
                self.direct_at = now
        if not self.history or self.history[-1][1] != checks.selected:
            self.history.append((now, checks.selected))


class Scene:
    """Two peers and what lies between them; ``a`` is the Initiator.

    Attributes:
        now: virtual seconds.
        loss: probability per packet.
        jitter: seconds that a packet may take longer, so that they overtake each other.
        blocked: called (sender, where to): True loses the packet.
    """

    server: Address = ("198.51.100.1", 10500)

    def __init__(
        self,
        a: Kind,
        b: Kind,
        *,
        relays: str = "ab",
        rtt: float = 0.04,
        loss: float = 0.0,
        jitter: float = 0.0,
        pacing: float = 0.05,
        seed: int = 0,
        config: CheckConfig | None = None,
        together: bool = False,
    ) -> None:
        """Set up.

        Args:
            a: what stands before the Initiator.
            b: what stands before the Responder.
            relays: which of the two has a relay.
            rtt: seconds between any two places of the public network.
            loss: see above.
            jitter: see above.
            pacing: Ta.
            seed: of loss and jitter.
            config: of both.
            together: B is in A's network.
        """
        self.now, self.loss, self.jitter = 0.0, loss, jitter
        self.rtt, self.pacing, self.config = rtt, pacing, config
        self.random = random.Random(seed)
        self.blocked: Callable[[Peer, Address], bool] = lambda _peer, _to: False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._places = 1
        self._relays = {
            side: Relay((f"198.51.100.{10 + i}", RELAY_PORT), (f"198.51.100.{10 + i}", 40_000))
            for i, side in enumerate("ab")
            if side in relays
        }
        self.a = self._peer(0, a, True)
        self.b = self._peer(1, b, False)
        if together:
            self.b.nats, self.b.own = self.a.nats, (self.a.own[0][:-1] + "6", 10500)
        self.peers = (self.a, self.b)

    def _peer(self, i: int, kind: Kind, controlling: bool) -> Peer:
        own, nats = self._place(i, kind)
        return Peer(self, controlling, own, nats, self._relays.get("ab"[i]))

    def _place(self, i: int, kind: Kind) -> tuple[Address, list[Nat]]:
        outer = f"203.0.113.{i + 1}"
        if kind is Kind.PUBLIC:
            return (outer, 10500), []
        inner = (f"192.168.{i + 1}.5", 10500)
        if kind is Kind.DOUBLE:
            middle = f"100.64.{i + 1}."
            nats = [
                Nat(middle + "9", Kind.RESTRICTED, f"192.168.{i + 1}."),
                Nat(outer, Kind.RESTRICTED, middle),
            ]
        else:
            nats = [Nat(outer, kind, f"192.168.{i + 1}.")]
        if kind is Kind.MAPPED:
            nats[0].mapped.add(inner)
        return inner, nats

    def reboot(self, peer: Peer) -> None:
        """Its NATs forget everything; its relay sees it at its new address soon."""
        for nat in peer.nats:
            nat.reboot()
        if peer.relay is not None:
            peer.relay.client = self.outer(peer, peer.relay.main)

    def move(self, peer: Peer, kind: Kind) -> None:
        """To another network; the control relays carry the news (RFC 9028 §4.9)."""
        self._places += 1
        peer.own, peer.nats = self._place(self._places, kind)
        peer.gather()
        told, other = peer.told(), self.b if peer is self.a else self.a
        self.later(self.rtt, lambda: other.start(told))  # the address is verified first
        self.later(self.rtt * 1.5, lambda: peer.start(other.told()))

    # -- network -------------------------------------------------------------------------------

    def later(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), what))

    def outer(self, peer: Peer, to: Address) -> Address:
        """What ``to`` sees of a packet of the peer's."""
        source = peer.own
        for nat in peer.nats:
            source = nat.outwards(source, to, self.now)
        return source

    def send(self, peer: Peer, to: Address, check: Check, relay_to: Address | None = None) -> None:
        if self.blocked(peer, to) or self._lost():
            return
        for i, nat in enumerate(peer.nats):
            if to[0].startswith(nat.inside) or (i and to[0].startswith(peer.nats[i - 1].inside)):
                self._at_home(peer, to, check)
                return
        private = to[0].startswith(("192.168.", "100.64."))
        if private or any(nat.dead for nat in peer.nats):
            return
        self._carry(self.outer(peer, to), to, check, relay_to)

    def _at_home(self, peer: Peer, to: Address, check: Check) -> None:
        """In the network that both are in."""
        other = self.b if peer is self.a else self.a
        if other.own == to:
            self.later(0.001, lambda: other.receive(check, peer.own))

    def _lost(self) -> bool:
        return self.random.random() < self.loss

    def _delay(self) -> float:
        return self.rtt / 2 + self.random.random() * self.jitter

    def _carry(
        self, source: Address, to: Address, check: Check, relay_to: Address | None = None
    ) -> None:
        self.later(self._delay(), lambda: self._arrive(source, to, check, relay_to))

    def _arrive(
        self, source: Address, to: Address, check: Check, relay_to: Address | None
    ) -> None:
        for peer in self.peers:
            relay = peer.relay
            if relay is not None and not relay.dead:
                if to == relay.main and source == relay.client and relay_to is not None:
                    self._hop(relay.relayed, relay_to, check)
                    return
                if to == relay.relayed:
                    from_ = Relayed(source, relay.main)
                    self._hop(relay.main, relay.client, check, from_)
                    return
            self._reach(peer, source, to, check, source)

    def _hop(
        self, source: Address, to: Address, check: Check, from_: Address | None = None
    ) -> None:
        """Over a relay, which is near: a tenth of the way more."""
        if from_ is None:
            self.later(self.rtt / 20, lambda: self._arrive(source, to, check, None))
            return
        for peer in self.peers:
            reach = partial(self._reach, peer, source, to, check, from_)
            self.later(self.rtt / 20, reach)

    def _reach(
        self, peer: Peer, source: Address, to: Address, check: Check, from_: Address
    ) -> None:
        at: Address | None = to
        for nat in reversed(peer.nats):
            if at is None or at[0] != nat.ip:
                return
            at = nat.inwards(source, at[1], self.now)
        if at == peer.own:
            peer.receive(check, from_)

    # -- time ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The base exchange ends: B tells its candidates in R2 and starts, A when R2 comes."""
        for peer in self.peers:
            peer.gather()
        locators = self.b.told()
        self.b.start(self.a.told())
        self.later(self.rtt / 2, lambda: self.a.start(locators))
        self.later(15.0, self._keep_alive)

    def _keep_alive(self) -> None:
        """Keepalives, or data: to the relay, to the server, along the selected path."""
        for peer in self.peers:
            self.outer(peer, self.server)
            if peer.relay is not None:
                self.outer(peer, peer.relay.main)
            path = peer.checks.selected
            if path is not None and not isinstance(path.to, Relayed):
                self.outer(peer, path.to)
        self.later(15.0, self._keep_alive)

    def run(self, until: float, each: Callable[[], None] | None = None) -> None:
        """Let virtual time pass."""
        while True:
            times = [(peer.deadline(), peer) for peer in self.peers]
            due = min(((at, i) for i, (at, _) in enumerate(times) if at is not None), default=None)
            event = self._events[0][0] if self._events else None
            if due is not None and (event is None or due[0] < event):
                if due[0] > until:
                    break
                self.now = max(self.now, due[0])
                self.peers[due[1]].on_time()
            elif event is not None:
                if event > until:
                    break
                at, _, what = heapq.heappop(self._events)
                self.now = max(self.now, at)
                what()
            else:
                break
            if each is not None:
                each()
        self.now = until

    # -- questions -----------------------------------------------------------------------------

    def arrives(self, peer: Peer) -> Path | None:
        """As which path data arrives that ``peer`` sends along its selected one, if it does."""
        other = self.b if peer is self.a else self.a
        path, found = peer.checks.selected, []
        if path is None:
            return None
        loss, jitter, events, receive = self.loss, self.jitter, self._events, other.receive
        self.loss, self.jitter, self._events, now = 0.0, 0.0, [], self.now
        other.receive = lambda _check, source: found.append(source)  # type: ignore[method-assign,assignment]
        peer.send(path, Check(None))
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now, other.receive = now, receive  # type: ignore[method-assign]
        self.loss, self.jitter, self._events = loss, jitter, events
        return Path(other.own, found[0]) if found else None
