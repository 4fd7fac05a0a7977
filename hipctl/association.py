"""One pair of HITs: the state of RFC 7401 §4.4, its timers, and what its inputs lead to.

Inputs return actions. What a state does with an input is one cell of ``transitions.TABLE``; the
methods here carry out its rules. A peer's mistakes leave as MalformedPacket or Rejected, which
the engine counts.
"""

from collections.abc import Callable
from typing import Final

from hipctl import params, signed
from hipctl.acceptance import Acceptance, Accepted
from hipctl.actions import Action, Address, Flush, KeyLog, Pair, Path, Relayed, Transmit
from hipctl.attempt import Attempt
from hipctl.closing import Closing
from hipctl.constants import CALL_OUT_PATIENCE, NotifyType
from hipctl.credentials import NOTHING
from hipctl.crypto import Keys
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.initiation import Initiation
from hipctl.interface import AssociationDown
from hipctl.outbox import Outbox
from hipctl.packet import Packet, finish
from hipctl.responder import Responder
from hipctl.sansio import Timers
from hipctl.sas import Verdict, pause
from hipctl.standing import Standing
from hipctl.state import Shared, State, Timer
from hipctl.transitions import TABLE, Ask, Drop, Rule

_I2_PATIENCE: Final = 2  # unanswered I2s before we ask for another R1 as well
_UP: Final = frozenset({State.R2_SENT, State.ESTABLISHED})


class Association:
    """One association of ``identity`` with ``peer``.

    Attributes:
        pair: (local HIT, peer HIT).
        state: as in RFC 7401 §4.4.2.
        standing: its keys and SAs.
        armed: for the engine: the deadline it has noted for us.
    """

    __slots__ = (
        "_acceptance",
        "_attempt",
        "_closing",
        "_identity",
        "_initiation",
        "_responder",
        "_shared",
        "_timers",
        "armed",
        "pair",
        "standing",
        "state",
    )

    def __init__(
        self, identity: HostIdentity, responder: Responder, peer: Hit, shared: Shared
    ) -> None:
        self.pair: Pair = (identity.hit, peer)
        self.state = State.UNASSOCIATED
        self.armed: float | None = None
        self._identity = identity
        self._responder = responder
        self._shared = shared
        self._timers = Timers[Timer]()
        self.standing = Standing(identity, self.pair, shared)
        self._attempt = Attempt(self.pair, shared)
        self._initiation = Initiation(identity, self.pair, shared)
        self._acceptance = Acceptance(identity, self.pair, responder, shared)
        self._closing = Closing(identity, peer, shared.rng)

    # -- inputs from above ---------------------------------------------------------------------

    def connect(self, now: float) -> list[Action]:
        """Start a base exchange unless one runs or has succeeded."""
        return self._do(Ask.CONNECT, now)

    def call_out(self, now: float) -> list[Action]:
        """Send one I1, and wait for an answer to it without repeating it."""
        actions = self._do(Ask.CONNECT, now)
        if self.state is State.I1_SENT:
            self._attempt.once()
            self._timers.set(Timer.RETRANSMIT, now + CALL_OUT_PATIENCE)
        return [action for action in actions if isinstance(action, Transmit)]

    def _want(self, now: float) -> list[Action]:
        return self._hurry(now, anew=True)

    def _hurry(self, now: float, *, anew: bool) -> list[Action]:
        """Somebody wants the association now, and the next I1 may be seconds away.

        Args:
            now: monotonic seconds.
            anew: the attempt under way, perhaps one of a single I1, begins again; else one I1
                more is sent, and it ends when it would.
        """
        attempt = self._attempt
        if self._initiation.working or attempt.hurried(now):
            return []
        if anew:
            attempt.anew()
            return self._retransmit(now)
        return [*attempt.say(attempt.address(self.standing.address), now)]

    def adopt(self, address: Address, asked_at: float) -> None:
        """An I1 without receiver was sent to ``address`` at that time: an R1 is awaited."""
        self.state = State.I1_SENT
        self.standing.address, self.standing.began = address, asked_at
        self._attempt.adopt()

    def send(self, next_header: int, payload: bytes, now: float) -> list[Action]:
        """Send a datagram now, or let it wait for the SAs; a full queue loses it."""
        if self.pair in self._shared.outbound:
            return [Flush(*self.pair, ((next_header, payload),))]
        actions = self._do(Ask.DATAGRAM, now)
        if self.state is State.I1_SENT:
            actions += self._hurry(now, anew=self._attempt.quiet)
        if self.state is State.E_FAILED:  # at once: nobody knows where the peer is
            return actions
        self.standing.wait(next_header, payload)
        return actions

    def go_on(self, now: float) -> list[Action]:
        """What waits for a relay of ours need perhaps not do so any more; see ``reveal``."""
        if self.state is not State.I1_SENT:
            return self.reveal(now)
        attempt = self._attempt
        veiled = attempt.held or self.pair in self._shared.veiled
        to = attempt.untried() if veiled else None
        if to is None or self._initiation.working or attempt.hurried(now):
            return []
        attempt.anew()
        self._timers.set(Timer.RETRANSMIT, attempt.again(now))
        return [*attempt.say(to, now)]

    def reveal(self, now: float) -> list[Action]:
        """Tell the peer where we are, if we begin to hide no more, or it shows who it is."""
        upkeep, shared = self.standing.upkeep, self._shared
        if upkeep is None or not (self.pair in shared.veiled or self.pair in shared.hidden):
            return []
        if shared.spares(self.pair) and shared.addresses(self.pair[1]):
            # to be a server of ours it has to hear us without any other
            return [*self.close(now), *self.connect(now)]
        if self.pair in shared.hidden:
            return []
        theirs = shared.desk.theirs.get(self.pair, NOTHING)
        if shared.hides(self.pair) and not shared.discloses(self.pair, theirs):
            return []
        shared.veiled.discard(self.pair)
        return upkeep.disclose(now)

    def close(self, now: float) -> list[Action]:
        """Send CLOSE if there is something to close; the SAs are gone at once."""
        return self._do(Ask.CLOSE, now)

    def abandon(self, now: float) -> list[Action]:
        """Close without waiting for CLOSE_ACK: the engine needs the room."""
        actions = self.close(now)
        self._drop(State.UNASSOCIATED)
        return actions

    def forsake(self) -> list[Action]:
        """Leave without a word if the peer is not to hear us where we are now; see Shared."""
        shared, upkeep = self._shared, self.standing.upkeep
        knows = upkeep.disclosed if upkeep is not None else not shared.hides(self.pair)
        if not knows or not shared.forsakes(self.pair):
            return []
        begins = self.state in (State.I1_SENT, State.I2_SENT)
        self._drop(State.UNASSOCIATED)
        return self.standing.down("we have moved", always=begins)

    def woke(self, at: float, now: float) -> list[Action]:
        """We have slept: ask the peer at ``at`` whether it still knows us, or try on at once."""
        if self.state is State.I1_SENT and not self._attempt.quiet:
            return self._want(now)
        upkeep = self.standing.upkeep
        return upkeep.woke(at, now) if upkeep is not None and self.state in _UP else []

    @property
    def outbox(self) -> Outbox | None:
        """Through which to say something in an UPDATE; None: it is not the time to."""
        upkeep = self.standing.upkeep
        return upkeep.outbox if upkeep is not None and self.state in _UP else None

    @property
    def refusal(self) -> str:
        """Why the Responder says that it leaves our I2 unanswered; empty if it has not."""
        return self._initiation.refusal

    def on_first_data(self, now: float, spi: int = 0) -> list[Action]:
        """The first authentic ESP in R2-SENT, or under new keys, has come."""
        actions = self._do(Ask.FIRST_DATA, now)
        upkeep = self.standing.upkeep
        if upkeep is not None:
            upkeep.on_first_data(spi, now)
        return actions

    def describe(self, now: float) -> dict[str, object]:
        """What ``status`` shows. JSON-ready."""
        local, peer = self.pair
        told: dict[str, object] = {
            "local": str(local),
            "peer": str(peer),
            "state": self.state.value,
        }
        return told | self.standing.describe(now)

    # -- inputs from the network ---------------------------------------------------------------

    def on_packet(self, packet: Packet, source: Address, now: float) -> list[Action]:
        """Take one well-formed packet from our peer, or from whoever says so.

        Raises:
            MalformedPacket: something is missing in it, or is not well formed.
            Rejected: a check failed, or the state has no use for it.
        """
        cell = TABLE[self.state, packet.type]
        if isinstance(cell, Drop):
            raise Rejected(f"{packet.type.name} in {self.state.value}")
        return ON_PACKET[cell](self, packet, source, now)

    def _do(self, asked: Ask | Timer, now: float) -> list[Action]:
        cell = TABLE[self.state, asked]
        return [] if isinstance(cell, Drop) else ON_REST[cell](self, now)

    def _on_i1(self, packet: Packet, source: Address, now: float) -> list[Action]:
        via_rvs = self._shared.via_rvs
        r1 = self._responder.answer(packet, source, now, rendezvous=bool(via_rvs))
        if via_rvs:  # RFC 8004 §4.3.3
            r1 = finish(r1 + params.encode([params.ViaRvs((via_rvs,))]))
        return [Transmit(r1, source)]

    def _on_i1_in_i1_sent(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self.pair[0] > self.pair[1]:
            return self._on_i1(packet, source, now)
        # both began: the smaller HIT stays Initiator (§6.7). The peer may have slept when ours
        # came, or be where we don't know, and the next I1 be seconds away
        if self._initiation.working or self._attempt.crossed(source, now):
            raise Rejected("I1 crossed ours")
        if self._attempt.mute(source):  # nor may it ever get ours, and then nobody would begin
            return self._on_i1(packet, source, now)
        return [*self._attempt.say(source, now)]

    def _on_r1(self, packet: Packet, source: Address, now: float) -> list[Action]:
        ask = self._initiation.read_r1(packet, source, now)
        if self.state is State.I2_SENT:
            self._attempt.packet = self._attempt.i1()
        self.state = State.I1_SENT
        self._timers.stop(Timer.RETRANSMIT)
        self._timers.set(Timer.PUZZLE, ask.deadline)
        return [ask]

    def on_puzzle_solved(self, serial: int, j: bytes | None, now: float) -> list[Action]:
        """The shell has found #J, or has given up (None).

        Raises:
            Rejected: the Responder's DH value is bad: the exchange goes on with a new I1.
        """
        initiation = self._initiation
        cell = TABLE[self.state, Ask.SOLVED]
        if not initiation.solves(serial) or isinstance(cell, Drop):
            return []
        self._timers.stop(Timer.PUZZLE)
        if j is None:
            initiation.drop()
            return self._retransmit(now)
        try:
            reply = initiation.answer(j, now)
        except Rejected:
            self._timers.set(Timer.RETRANSMIT, now + self._shared.config.retransmit_initial)
            raise
        self.state = State.I2_SENT
        self.standing.address = initiation.address
        self._attempt.go_on(reply.packet)
        return [*_key_log(reply.key_log), *self._retransmit(now)]

    def _on_r2(self, packet: Packet, source: Address, now: float) -> list[Action]:
        initiation, desk = self._initiation, self._shared.desk
        spi_out = initiation.read_r2(packet)
        listed = initiation.listed_in_r2(packet)
        try:
            theirs = initiation.judge_r2(packet)
        except Rejected as error:
            return self.standing.refuse(error, source, now)
        done = initiation.conclude(spi_out, listed)
        shared, path = self._shared, Path(None, self.standing.address)
        shown = not shared.hides(self.pair)
        if not isinstance(self.standing.address, Relayed):  # it is on our LAN
            shared.veiled.discard(self.pair)
        if self.pair in shared.hidden:  # as long as this lasts, not for a while after the last
            shared.hide(self.pair, hidden=True)
        self.standing.install(done.inbound, done.agreed, now, begun=True, disclosed=shown)
        shared.serving.keyed(self.pair, done.agreed.keys, path, now, began=True)
        shared.requester.concluded(self.pair, done.offer.info, packet, now)
        shared.forget_permissions(self.pair)
        desk.keep(self.pair, done.shown, theirs)
        self._acceptance.superseded(now)
        return [*self._establish(now), *self._take_early(now), *self.reveal(now)]

    def _on_i2_in_i2_sent(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self.pair[0] < self.pair[1]:  # both began: the peer will answer our I2 (§6.9)
            raise Rejected("I2 crossed ours")
        return self._on_i2(packet, source, now)

    def _on_i2_again(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self._acceptance.knows(packet):
            self._shared.counters["I2 repeated"] += 1
            return [Transmit(self._acceptance.r2, self.standing.address)]
        return self._on_i2(packet, source, now)

    def _on_i2(self, packet: Packet, source: Address, now: float) -> list[Action]:
        vetted = self._acceptance.vet(
            packet, source, now, replaces=self.standing.upkeep is not None
        )
        try:
            accepted = self._acceptance.accept(packet, source, vetted, now)
        except (MalformedPacket, Rejected) as error:
            return self.standing.refuse(error, source, now)
        actions = self._accept(accepted, source, now)
        self._shared.desk.keep(self.pair, accepted.shown, accepted.theirs)
        return actions

    def _accept(self, accepted: Accepted, source: Address, now: float) -> list[Action]:
        """Install what a valid I2 agreed, in place of whatever there was."""
        standing = self.standing
        actions = standing.down("the peer began anew")
        self._initiation.drop()
        if self.state not in (State.I1_SENT, State.I2_SENT):
            standing.began = accepted.issued_at  # when the I1 came
        self._timers = Timers()
        standing.address, standing.heard_at = source, now
        disclosed = self._shared.discloses(self.pair, accepted.theirs)
        self._shared.hide(self.pair, hidden=not disclosed and isinstance(source, Relayed))
        standing.install(accepted.inbound, accepted.agreed, now, begun=False, disclosed=disclosed)
        self._shared.requester.renewed(self.pair, now)
        self._shared.requester.begun(self.pair[0], source, now)
        self._acceptance.taken(accepted)
        self.state = State.R2_SENT
        config = self._shared.config
        patience = config.retransmit_initial * (2**config.retransmit_max - 1)
        self._timers.set(Timer.EXCHANGE_COMPLETE, now + patience)
        return [
            *actions,
            *_key_log(accepted.key_log),
            Transmit(accepted.r2, source),
            *standing.come_up(now),
        ]

    def _on_notify(self, packet: Packet, source: Address, now: float) -> list[Action]:
        self._initiation.on_notify(packet)
        return []

    def _on_update(self, packet: Packet, source: Address, now: float) -> list[Action]:
        upkeep = self.standing.upkeep
        if upkeep is None:  # the first exchange still runs
            raise Rejected(f"UPDATE in {self.state.value}")
        actions = upkeep.on_update(packet, source, now)
        self.standing.heard_at = now
        if self.state is State.R2_SENT:
            actions = [*self._establish(now), *actions]
        elif self.state is State.I1_SENT and not self._initiation.working:
            actions = [*self._establish(now), *upkeep.resume(now), *actions]  # needless doubt
        return [*actions, *self._follow(now)]

    def _on_early_update(self, packet: Packet, source: Address, now: float) -> list[Action]:
        """A connectivity check may overtake R2 (RFC 9028 §4.6.2)."""
        packet.need(params.HipMac)
        self._initiation.keep(packet, source)
        return []

    def _take_early(self, now: float) -> list[Action]:
        """R2 has come: take what had overtaken it."""
        actions: list[Action] = []
        shared = self._shared
        here = shared.here
        for packet, source, at in self._initiation.release():
            shared.here = at
            try:
                actions += self._on_update(packet, source, now)
            except (MalformedPacket, Rejected) as error:
                shared.counters[error.reason] += 1
        shared.here = here
        return actions

    def _on_close(self, packet: Packet, source: Address, now: float) -> list[Action]:
        closing, standing = self._closing, self.standing
        if answer := closing.again(packet):
            return [Transmit(answer, source)]
        keys, host_id = self._peer_keys()
        answer = closing.answer(packet, keys, host_id)
        pathless = not standing.reachable
        reason = "no path between us: closed by the peer" if pathless else "closed by the peer"
        actions = [Transmit(answer, source), *standing.down(reason, always=pathless)]
        self._drop(State.CLOSED)
        standing.keys, standing.host_id = keys, host_id  # to answer a CLOSE that is sent again
        closing.answered(packet, answer)
        self._timers.set(Timer.CLOSED, now + self._shared.config.closed_lifetime)
        return actions

    def _on_close_ack(self, packet: Packet, source: Address, now: float) -> list[Action]:
        self._closing.conclude(packet)
        signed.authenticate(packet, *self._peer_keys())
        self._drop(State.UNASSOCIATED)
        return []

    def _peer_keys(self) -> tuple[Keys, HostId]:
        """The keys in force, or those of the I2 that we have sent."""
        drawn = self._initiation.keys() if self.state is State.I2_SENT else None
        return drawn if drawn is not None else self.standing.need_keys()

    # -- time ----------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        at = self._timers.deadline()
        upkeep = self.standing.upkeep
        other = upkeep.deadline() if upkeep is not None else None
        return other if at is None else at if other is None else min(at, other)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        actions: list[Action] = []
        for timer in self._timers.expired(now):
            actions += self._do(timer, now)
        upkeep = self.standing.upkeep
        if upkeep is not None and (at := upkeep.deadline()) is not None and at <= now:
            actions += upkeep.on_time(now)
            if upkeep.broken:
                self._shared.counters["unacknowledged"] += 1
                actions += self._doubt(now)
            actions += self._follow(now)
            if upkeep.idle and self.state is State.ESTABLISHED:
                self._shared.counters["idle across a NAT"] += 1
                actions += self.close(now)
        return actions

    def _doubt(self, now: float) -> list[Action]:
        """Ask anew whether the peer is there; the SAs stay until better ones replace them."""
        upkeep = self.standing.upkeep
        if upkeep is not None:
            upkeep.pause()
        if self.state not in _UP:
            return []
        self._timers = Timers()
        return self._send_first_i1(now)

    def _retransmit(self, now: float) -> list[Action]:
        attempt, config = self._attempt, self._shared.config
        limit = config.retransmit_max
        if self.state is State.CLOSING:
            limit = config.close_retransmit_max
        if attempt.count >= limit:
            return self._give_up()
        self._timers.set(Timer.RETRANSMIT, attempt.again(now))
        last = self.standing.address
        if self.state is State.I1_SENT:
            return [*attempt.say(attempt.address(last), now)]
        if self.state is State.CLOSING:  # along the path in use, then through relays too
            ways = self._closing.ways[: 1 if attempt.count == 1 else None]
            return [Transmit(attempt.packet, way.to, way.source) for way in ways]
        actions: list[Action] = [Transmit(attempt.packet, last)]
        patient = self.state is not State.I2_SENT or attempt.count <= _I2_PATIENCE
        if not patient and self._initiation.ask_again():
            actions.append(Transmit(attempt.i1(), attempt.address(last)))
        return actions

    def _give_up(self) -> list[Action]:
        if self.state is State.CLOSING:
            self._drop(State.UNASSOCIATED)
            return []
        waited_for = "R1" if self.state is State.I1_SENT else "R2"
        refusal = f": {self.refusal}" if self.refusal else ""
        self._drop(State.E_FAILED)
        self._shared.counters[f"no {waited_for}"] += 1
        return self.standing.down(f"no {waited_for} came{refusal}", always=not self._attempt.quiet)

    def _puzzle_expired(self, now: float) -> list[Action]:
        self._initiation.drop()
        self._shared.counters["puzzle expired"] += 1
        return self._retransmit(now)

    def _closed_expired(self, now: float) -> list[Action]:
        self._drop(State.UNASSOCIATED)
        return []

    def _check(self, now: float) -> list[Action]:
        """Close SAs that nobody uses; begin anew when the peer seems to have forgotten them."""
        shared, installed = self._shared, self.standing.installed
        if installed is None:
            return []
        verdict = installed.sas.check(now, shared.config)
        if verdict is Verdict.UNUSED and not installed.kept:
            shared.counters["unused"] += 1
            return self.close(now)
        if verdict is Verdict.UNANSWERED:
            shared.counters["unanswered"] += 1
            return self._doubt(now)
        self._timers.set(Timer.CHECK, now + pause(shared.config))
        return installed.upkeep.look(now)

    # -- what several inputs do ----------------------------------------------------------------

    def _begin(self, now: float) -> list[Action]:
        self.standing.keys = self.standing.host_id = None
        self._forget()
        return self._send_first_i1(now)

    def _wait(self, now: float) -> list[Action]:
        return []

    def _stop(self, now: float) -> list[Action]:
        self._drop(State.UNASSOCIATED)
        return self.standing.down("closed", always=True)

    def _send_first_i1(self, now: float) -> list[Action]:
        shared, pair = self._shared, self.pair
        shared.veil(pair, now)
        addresses = shared.called(pair)
        hides = shared.hides(pair)
        if not addresses and (pair in shared.hidden or not hides):
            self._drop(State.E_FAILED)
            why = "it may not learn where we are" if hides else "no contact known"
            return self.standing.down(why, always=True)
        self.state = State.I1_SENT
        self.standing.began = now
        self._initiation.begin()
        self._timers.set(Timer.RETRANSMIT, now + self._shared.config.retransmit_initial)
        return [*self._attempt.begin(addresses, now)]

    def _send_first_close(self, now: float) -> list[Action]:
        keys, host_id = self._peer_keys()
        close = self._closing.ask(keys)
        upkeep = self.standing.upkeep
        ways = upkeep.ways() if upkeep is not None else []
        self._drop(State.CLOSING)
        self._closing.ways = ways or [Path(None, self.standing.address)]
        self.standing.keys, self.standing.host_id = keys, host_id  # to check CLOSE_ACK
        self._attempt.go_on(close)
        return [*self._retransmit(now), *self.standing.down("closed")]

    def _follow(self, now: float) -> list[Action]:
        """Data may flow once there is a path, and there is no association if none is found."""
        upkeep, standing = self.standing.upkeep, self.standing
        if upkeep is None or self.state not in _UP:
            return []
        if upkeep.failed:
            self._shared.counters["no path"] += 1
            return [
                standing.notify(NotifyType.CONNECTIVITY_CHECKS_FAILED, standing.address),
                *self.close(now),
                AssociationDown(*self.pair, "no path between us: neither side has a data relay"),
            ]
        return self.standing.follow(now)

    def _establish(self, now: float) -> list[Action]:
        self.state = State.ESTABLISHED
        self._timers = Timers()
        self._timers.set(Timer.CHECK, now + pause(self._shared.config))
        self.standing.heard_at = now
        if self.standing.installed is not None:
            self.standing.installed.sas.inbound.awaited = False
        return self.standing.come_up(now)

    def _drop(self, state: State) -> None:
        """Remove SAs, keys, timers and queue, and go to ``state``."""
        self._initiation.drop()
        self.standing.drop()
        self._forget()
        self.state = state

    def _forget(self) -> None:
        self._acceptance.forget()
        self._closing.forget()
        self._initiation.release()
        self._timers = Timers()


def _key_log(line: str) -> list[Action]:
    return [KeyLog(line)] if line else []


OnPacket = Callable[[Association, Packet, Address, float], list[Action]]
OnRest = Callable[[Association, float], list[Action]]

ON_PACKET: Final[dict[Rule, OnPacket]] = {
    Rule.ANSWER_I1: Association._on_i1,
    Rule.CROSSED_I1: Association._on_i1_in_i1_sent,
    Rule.READ_R1: Association._on_r1,
    Rule.ACCEPT_I2: Association._on_i2,
    Rule.CROSSED_I2: Association._on_i2_in_i2_sent,
    Rule.REPEATED_I2: Association._on_i2_again,
    Rule.READ_R2: Association._on_r2,
    Rule.COUNT_NOTIFY: Association._on_notify,
    Rule.READ_UPDATE: Association._on_update,
    Rule.KEEP_UPDATE: Association._on_early_update,
    Rule.ANSWER_CLOSE: Association._on_close,
    Rule.READ_CLOSE_ACK: Association._on_close_ack,
}

ON_REST: Final[dict[Rule, OnRest]] = {
    Rule.BEGIN: Association._begin,
    Rule.BEGIN_AND_QUEUE: Association._begin,
    Rule.HURRY: Association._want,
    Rule.QUEUE: Association._wait,
    Rule.SEND: Association._wait,
    Rule.SEND_CLOSE: Association._send_first_close,
    Rule.STOP: Association._stop,
    Rule.ESTABLISH: Association._establish,
    Rule.REPEAT_I1: Association._retransmit,
    Rule.GIVE_UP_PUZZLE: Association._puzzle_expired,
    Rule.REPEAT_I2: Association._retransmit,
    Rule.REPEAT_CLOSE: Association._retransmit,
    Rule.LOOK: Association._check,
    Rule.FORGET: Association._closed_expired,
}
