"""HIP for one host: demultiplexes by HIT pair, keeps every table bounded.

Every input returns the actions for the shell, in order. Whatever comes from the network is
answered, counted in ``counters`` by a short reason, or both; it never raises.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

from hipctl import esp, hop, params
from hipctl.access import Access
from hipctl.actions import Action, Address, Pair, Path
from hipctl.association import Association
from hipctl.associations import Associations
from hipctl.constants import KEEPALIVE, PACING_LEAST
from hipctl.crypto import CIPHER_KEY_LENGTH, GROUPS
from hipctl.edge import Edge
from hipctl.errors import HostConfigRefused, MalformedPacket, Rejected
from hipctl.finding import Finding
from hipctl.friends import Friends
from hipctl.identity import NULL_HIT, Hit, HostIdentity
from hipctl.interface import CredentialPolicy, Discloses, Shown
from hipctl.limits import Limiter
from hipctl.packet import Packet
from hipctl.responder import Responder
from hipctl.sas import Inbound, Outbound
from hipctl.settings import EngineConfig
from hipctl.state import Shared, State
from hipctl.whereabouts import Whereabouts

__all__ = ["Engine", "EngineConfig"]

Rng = Callable[[int], bytes]

_ROUNDS: Final = 3


class Engine:
    """HIP for the identities of one host.

    Attributes:
        outbound: (local HIT, peer HIT) -> how and where to send data, once that is possible.
        inbound: SPI -> whose data that is; the shell calls ``.sa.open`` and then ``heard``.
        counters: what was dropped or went wrong, by reason.
        config: limits and choices.
        serving: what we do for others.
        requester: what others do for us.
    """

    def __init__(self, identities: Sequence[HostIdentity], config: EngineConfig, rng: Rng) -> None:
        """Set up; nothing is sent and no time passes.

        Args:
            identities: private Host Identities, the default one first.
            config: limits and choices.
            rng: ``rng(n)`` returns n random bytes.

        Raises:
            HostConfigRefused: the configuration names a suite that we don't speak.
        """
        _check(config)
        self.outbound: dict[Pair, Outbound] = {}
        self.inbound: dict[int, Inbound] = {}
        self.counters: Counter[str] = Counter()
        self.config = self._config = config
        self._shared = Shared(
            config,
            rng,
            self.counters,
            self.inbound,
            self.outbound,
            Limiter(config.notify_rate, config.notify_burst, 1),
            identities={identity.hit: identity for identity in identities},
        )
        self.serving, self.requester = self._shared.serving, self._shared.requester
        self._identities = {
            identity.hit: (identity, Responder(identity, config, rng)) for identity in identities
        }
        for _, responder in self._identities.values():
            responder.info = self.serving.info
        self.serving.registrar.known = self._listed
        self._default = identities[0].hit if identities else NULL_HIT
        self._table = Associations(self._identities, self._shared)
        self._associations = self._table.by_pair
        self._settle = self._table.settle
        first = self._identities.get(self._default)
        self._finding = Finding(
            self._identities, first[1] if first else None, self._shared, self._table
        )
        self._whereabouts = Whereabouts(self._shared, self._table)
        self._friends = Friends(self._shared, self._table)
        self._edge = Edge(self._shared, self._associations, self._settle)

    # -- from above ----------------------------------------------------------------------------

    def use(self, policy: CredentialPolicy, wall: Callable[[], float]) -> None:
        """See ``interface.Host``."""
        desk = self._shared.desk
        desk.use(policy, wall)
        for identity, responder in self._identities.values():
            responder.shown = policy.shown(identity.hit, None, wall())

    def show(self, now: float) -> list[Action]:
        """Show credentials that have changed to whom we have shown others (in an UPDATE)."""
        actions: list[Action] = []
        for association in list(self._associations.values()):
            if association.outbox is not None:
                actions += association.outbox.show(now)
                self._settle(association)
        return self._edge.pass_out(actions, now)

    def disclose_by(self, discloses: Discloses) -> None:
        """See ``interface.Host``."""
        self._shared.may_learn = discloses

    def disclose(self, local: Hit, peer: Hit, now: float) -> list[Action]:
        """See ``interface.Host``."""
        self._shared.disclose((local, peer))
        return self._edge.pass_out(self._whereabouts.show((local, peer), now), now)

    def seclude(self, local: Hit, spared: Collection[Hit] | None, now: float) -> list[Action]:
        """See ``interface.Host``."""
        shared, before = self._shared, self._shared.secluded.get(local)
        if spared is None:
            shared.secluded.pop(local, None)
        else:
            shared.secluded[local] = frozenset(spared)
        waiting = {pair for pair in self._table.exchanging if pair[0] == local}
        waiting |= {(local, hit) for hit in spared or () if (local, hit) in shared.hidden}
        if shared.secluded.get(local) != before:
            waiting |= {pair for pair in shared.veiled if pair[0] == local}
        actions: list[Action] = []
        for pair in sorted(waiting):
            association = self._associations.get(pair)
            if association is not None:
                actions += association.go_on(now)
                self._settle(association)
        return self._edge.pass_out(actions, now)

    def hides(self, peer: Hit, now: float) -> bool:
        """Whether ``peer`` may not learn where we are."""
        return any(self._shared.hides((local, peer), now) for local in self._identities)

    def set_hosts(self, addresses: Sequence[Address]) -> None:
        """Say where we listen, for connectivity checks where nobody calls ``set_locators``."""
        self._shared.hosts = tuple(addresses)

    def set_mapped(self, mapped: Sequence[tuple[Address, Address]]) -> None:
        """Say what a router has opened for us: (external address, ours behind it) each."""
        self._shared.mapped = tuple(mapped)

    @property
    def mapped(self) -> tuple[tuple[Address, Address], ...]:
        """What ``set_mapped`` was told."""
        return self._shared.mapped

    def refusal(self, local: Hit, peer: Hit) -> str:
        """Why the peer says that it leaves our I2 unanswered: a NOTIFY's name, or nothing."""
        association = self._associations.get((local, peer))
        return association.refusal if association is not None else ""

    def credentials(self, local: Hit, peer: Hit) -> Shown | None:
        """See ``interface.Host``."""
        return self._shared.desk.theirs.get((local, peer))

    def shows(self, local: Hit, peer: Hit) -> Shown | None:
        """See ``interface.Host``."""
        desk, pair = self._shared.desk, (local, peer)
        shown = desk.ours.get(pair) if pair in self.outbound else desk.show(pair)
        return shown or None

    def learn(
        self, peer: Hit, addresses: Sequence[Address], through: Sequence[Address] = ()
    ) -> None:
        """Remember where I1 may find ``peer``; see ``Shared.learn``."""
        self._shared.learn(peer, addresses, through)

    @property
    def expected(self) -> dict[Hit, Callable[[], None]]:
        """See Edge."""
        return self._edge.expected

    def last_seen(self, peer: Hit) -> Address | None:
        """Where ``peer`` was when we last spoke with it directly."""
        return self._shared.recent.get(peer)

    def forget(self, peer: Hit) -> None:
        """Forget where ``peer`` was; what we were told by ``learn`` stays."""
        self._shared.recent.pop(peer, None)

    def recall(self, peer: Hit, address: Address) -> None:
        """Remember where ``peer`` was, unless that is known."""
        if peer not in self._shared.recent:
            self._shared.remember(peer, address)

    def connect(self, local: Hit, peer: Hit, now: float) -> list[Action]:
        """Start a base exchange unless one runs or the association is there."""
        association, actions = self._table.to((local, peer), now)
        if association is None:
            return actions
        actions += association.connect(now)
        self._settle(association)
        return self._edge.pass_out(actions, now)

    def enqueue(
        self, local: Hit, peer: Hit, next_header: int, payload: bytes, now: float
    ) -> list[Action]:
        """Let a datagram wait for the association, and start the exchange if none runs."""
        association, actions = self._table.to((local, peer), now)
        if association is None:
            self.counters["datagram without exchange"] += 1
            return actions
        actions += association.send(next_header, payload, now)
        self._settle(association)
        return self._edge.pass_out(actions, now)

    def befriend(self, local: Hit, peers: Sequence[Hit], now: float) -> list[Action]:
        """See ``interface.Host``."""
        actions: list[Action] = []
        for pair in self._friends.choose(local, peers, now):
            self._shared.hidden.pop(pair, None)
            actions += self._edge.pass_out(self._whereabouts.show(pair, now), now)
        return actions

    def connect_opportunistic(self, local: Hit, address: Address, now: float) -> list[Action]:
        """Associate with whoever answers at ``address``: a PeerFound tells (RFC 7401 §4.1.8).

        Raises:
            HostConfigRefused: the configuration doesn't ask for it, or ``local`` isn't ours.
        """
        return self._finding.ask(local, address, now)

    def call(self, local: Hit, paths: Sequence[Path], seconds: float, now: float) -> list[Action]:
        """Ask link-local groups who is there; LanAnswered tells of each who answers, at most 8.

        Where they are is remembered as by ``learn``, unless something is already.

        Args:
            local: our HIT.
            paths: from which addresses to which groups.
            seconds: for which answers are taken.
            now: monotonic seconds.

        Raises:
            HostConfigRefused: ``local`` isn't ours.
        """
        return self._finding.call(local, paths, seconds, now)

    def welcome(self, certificates: Sequence[bytes], mark: bytes) -> None:
        """Show this to who asks a link-local group, from the next R1 generation on."""
        self._finding.welcome(certificates, mark)

    def set_access(
        self, allow: Collection[Hit] | None, deny: Collection[Hit], now: float
    ) -> list[Action]:
        """Choose who may associate with us from now on; closes what may not be any more.

        Packets of others are dropped and counted, before anything is computed for them.

        Args:
            allow: only these HITs, None for everybody.
            deny: none of these, whatever ``allow`` says.
            now: monotonic seconds.
        """
        self._table.access = Access(allow, deny)
        actions: list[Action] = []
        for pair, association in list(self._associations.items()):
            if not self._table.access.permits(pair[1]):
                actions += association.abandon(now)
                self._settle(association)
        return self._edge.pass_out(actions, now)

    def set_locators(self, addresses: Sequence[Address], now: float) -> list[Action]:
        """Say at which of our own addresses we are, whenever that changes (RFC 8046 §3.2).

        Every association leaves from one of them at once if the one that it uses is gone, tells
        its peer, and goes over to the first when the peer has answered there. Servers of ours go
        first (RFC 9028 §4.9), then those last heard; the others follow within seconds.

        Args:
            addresses: IP addresses and UDP ports from which ``Transmit.source`` and
                ``Outbound.source`` will choose, the preferred one first; at most 8; groups
                and link-local ones are left out.
                None at all: we are nowhere for the moment.
            now: monotonic seconds.
        """
        return self._edge.pass_out(self._whereabouts.moved(addresses, now), now)

    def woke(self, now: float) -> list[Action]:
        """This machine has slept: see who has kept us, and let NATs and servers know us anew."""
        self.requester.hurry(now)
        self._friends.hurry(now)
        return self._edge.pass_out(self._whereabouts.woke(now), now)

    def close(self, local: Hit, peer: Hit, now: float) -> list[Action]:
        """Close one association, or stop trying for it."""
        association = self._associations.get((local, peer))
        if association is None:
            return []
        actions = association.close(now)
        self._settle(association)
        return self._edge.pass_out(actions, now)

    def close_all(self, now: float) -> list[Action]:
        """Close everything; the CLOSEs go out at once, what comes back may be ignored."""
        actions: list[Action] = []
        for pair in list(self._associations):
            actions += self.close(*pair, now)
        return actions

    def tell(
        self, pair: Pair, parameters: Sequence[params.Parameter], now: float
    ) -> list[Action] | None:
        """Say something in an UPDATE, if it isn't nothing; None: no association can say it."""
        association = self._associations.get(pair)
        if association is None or association.outbox is None:
            return None
        if not parameters:
            return []
        actions = association.outbox.tell(parameters, now)
        self._settle(association)
        return actions

    def _listed(self, peer: Hit) -> bool:
        return self._table.access.allow is not None and peer in self._table.access.allow

    def on_puzzle_solved(
        self, key: tuple[Hit, Hit, int], j: bytes | None, now: float
    ) -> list[Action]:
        """Take the answer to a SolvePuzzle; None: not found in time."""
        local, peer, serial = key
        association = self._associations.get((local, peer))
        if association is None:
            return []
        try:
            actions = association.on_puzzle_solved(serial, j, now)
        except Rejected as error:
            self.counters[error.reason] += 1
            actions = []
        self._settle(association)
        return self._edge.pass_out(actions, now)

    # -- from the network ----------------------------------------------------------------------

    def on_control(
        self, data: bytes, source: Address, now: float, here: Address | None = None
    ) -> list[Action]:
        """Take one HIP packet, without the zero bytes of UDP encapsulation.

        Args:
            data: from the first byte of the HIP header.
            source: where it came from.
            now: monotonic seconds.
            here: at which of the addresses given to ``set_locators``, or else ``set_hosts``, it
                came, if that is known: what follows from it leaves from there.
        """
        shared = self._shared
        shared.here = here if here in (shared.locators or shared.hosts) else None
        try:
            packet = Packet(data)
            if packet.checksum and self._config.udp:
                raise MalformedPacket("HIP checksum over UDP", 4)
            if self._config.udp and not source[1]:
                raise Rejected("from port 0, where nothing can be sent")
            return self._edge.pass_out(self._dispatch(packet, source, now), now)
        except (MalformedPacket, Rejected) as error:
            self.counters[error.reason] += 1
            return self._edge.pass_out([], now)
        finally:
            shared.here, shared.via_rvs = None, ""

    def on_lan(self, data: bytes, source: Address, now: float) -> list[Action]:
        """Take one HIP packet that came to a link-local group; else as ``on_control``."""
        try:
            asked = self._finding.on_question(Packet(data), source, now)
            return self._edge.pass_out(asked, now)
        except (MalformedPacket, Rejected) as error:
            self.counters[error.reason] += 1
            return []

    def on_relayed(
        self, data: bytes, source: Address, relayed: Address, now: float
    ) -> list[Action]:
        """Take one HIP packet that came at a relayed address; as ``on_control`` otherwise."""
        try:
            packet = Packet(data)
            if packet.sender in self._identities or packet.sender in self._table.access.deny:
                raise Rejected("HIT denied")
            return self.serving.relay.on_relayed(packet, source, relayed, now)
        except (MalformedPacket, Rejected) as error:
            self.counters[error.reason] += 1
            return []

    def _dispatch(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if packet.sender in self._identities:
            raise Rejected("our own HIT from outside")
        if packet.receiver not in self._identities and packet.receiver != NULL_HIT:
            return self._pass_on(packet, source, now)
        receiver, ours = self._receiver(packet)
        if not self._table.access.permits(packet.sender):
            raise Rejected("HIT denied")
        if packet.unknown_critical() is not None:
            raise Rejected("unknown critical parameter")
        if hop.passed_on(packet):
            source = self._edge.origin(receiver, packet, source)
        pair = (receiver, packet.sender)
        found = self._finding.on_packet(packet, source, now)
        if found is not None:
            return found
        association = self._associations.get(pair)
        if association is None:
            # Not kept unless the packet makes it one: strangers leave no state behind.
            association = Association(*ours, packet.sender, self._shared)
            actions = association.on_packet(packet, source, now)
            if association.state is not State.UNASSOCIATED:
                actions = [*self._table.add(association, now), *actions]
                self._settle(association)
            return actions
        try:
            return association.on_packet(packet, source, now)
        finally:
            self._settle(association)

    def _pass_on(self, packet: Packet, source: Address, now: float) -> list[Action]:
        """Take a packet that may be for, or of, somebody who is registered with us."""
        if packet.sender in self._table.access.deny:
            raise Rejected("HIT denied")
        return self.serving.relay.on_packet(packet, source, self._shared.here, now)

    def _receiver(self, packet: Packet) -> tuple[Hit, tuple[HostIdentity, Responder]]:
        receiver = packet.receiver
        if receiver == NULL_HIT:
            if not self._config.opportunistic_responder:
                raise Rejected("opportunistic I1")
            receiver = self._default
        ours = self._identities.get(receiver)
        if ours is None:
            raise Rejected("not our HIT")
        return receiver, ours

    def heard(self, spi: int, source: Address, now: float) -> Sequence[Action]:
        """Note that authentic ESP came under ``spi`` (after ``sa.open`` succeeded)."""
        inbound = self.inbound.get(spi)
        if inbound is None:
            return ()
        inbound.heard_at = now
        if not inbound.awaited:
            return ()
        association = self._associations.get((inbound.local, inbound.peer))
        if association is None:
            return ()
        actions = association.on_first_data(now, spi)
        self._settle(association)
        return self._edge.pass_out(actions, now)

    # -- time ----------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        ends = (
            self._table.deadline(),
            self._friends.deadline(),
            self._finding.deadline(),
            self.serving.deadline(),
            self.requester.deadline(),
        )
        return min((at for at in ends if at is not None), default=None)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        actions = self._finding.on_time(now)
        actions += self._friends.on_time(now)
        for association in self._table.due(now):
            actions += association.on_time(now)
            self._settle(association)
        for _ in range(_ROUNDS):  # each may give the other something to do
            if (due := self.serving.deadline()) is not None and due <= now:
                actions += self.serving.on_time(now, self.pairs, self.tell)
            if (due := self.requester.deadline()) is None or due > now:
                break
            actions += self.requester.on_time(now, self.tell, lambda p, t: self.connect(*p, t))
        return self._edge.pass_out(actions, now)

    # -- what there is -------------------------------------------------------------------------

    def rtt(self, local: Hit, peer: Hit) -> float | None:
        """Seconds that a round trip to the peer takes; None: not measured yet."""
        association = self._associations.get((local, peer))
        upkeep = association.standing.upkeep if association is not None else None
        return upkeep.rtt if upkeep is not None else None

    def state(self, local: Hit, peer: Hit) -> State:
        """The state of the association, for ``status`` and tests."""
        association = self._associations.get((local, peer))
        return State.UNASSOCIATED if association is None else association.state

    def pairs(self) -> list[Pair]:
        """Whom we have associations with, in any state."""
        return list(self._associations)

    def describe(self, now: float) -> list[dict[str, object]]:
        """Every association in words and numbers, JSON-ready, for ``status``."""
        return [association.describe(now) for association in self._associations.values()]

    def difficulty(self, now: float) -> int:
        """The hardest K of the puzzles that our identities hand out now."""
        return max(
            (responder.difficulty(now) for _, responder in self._identities.values()), default=0
        )

    def associations(self) -> list[tuple[Hit, Hit, State]]:
        """Every association with its state, for ``status``."""
        return [(*pair, association.state) for pair, association in self._associations.items()]


def _check(config: EngineConfig) -> None:
    for what, chosen, known in (
        ("DH group", config.groups, GROUPS),
        ("HIP cipher", config.ciphers, CIPHER_KEY_LENGTH.keys()),
        ("ESP suite", config.esp_suites, esp.SUITES.keys()),
    ):
        if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
            raise HostConfigRefused(f"choose each {what} among {sorted(known)}, and once")
    if not 0 <= config.k <= config.k_max:
        raise HostConfigRefused("k lies between 0 and k_max")
    if config.calm_load <= 0:
        raise HostConfigRefused("calm_load is more than 0")
    for what, seconds, least in (
        ("pacing", config.pacing, PACING_LEAST),
        ("keepalive", config.keepalive, KEEPALIVE),
    ):
        if not seconds >= least:
            raise HostConfigRefused(f"{what} is at least {least} s")
