"""One pair of HITs: the state of RFC 7401 §4.4, its timers, its keys and its SAs.

Inputs return actions. What a state does with an input is one cell of ``transitions.TABLE``; the
methods here carry out its rules. A peer's mistakes leave as MalformedPacket or Rejected, which
the engine counts.
"""

from collections.abc import Callable, Sequence
from typing import Final

from hipctl import exchange, params
from hipctl.acceptance import Acceptance, Accepted
from hipctl.actions import (
    Action,
    Address,
    Flush,
    KeyLog,
    Pair,
    Path,
    Relayed,
    SolvePuzzle,
    Transmit,
)
from hipctl.closing import Closing
from hipctl.constants import (
    CALL_OUT_PATIENCE,
    I1_ADDRESSES_MAX,
    NotifyType,
)
from hipctl.crypto import RHASH_LENGTH, Keys
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.initiation import Initiation
from hipctl.installed import Agreed, Installed
from hipctl.interface import AssociationDown, AssociationUp
from hipctl.packet import Packet, finish
from hipctl.responder import Responder
from hipctl.sansio import Timers
from hipctl.sas import Inbound, Verdict, pause
from hipctl.state import Shared, State, Timer, Waiting
from hipctl.transitions import TABLE, Ask, Drop, Rule
from hipctl.upkeep import Upkeep

_I1_PAUSE: Final = 1.0  # seconds at least between two I1s that somebody's wish brings about
_I2_PATIENCE: Final = 2  # unanswered I2s before we ask for another R1 as well


_UP: Final = frozenset({State.R2_SENT, State.ESTABLISHED})


class Association:
    """One association of ``identity`` with ``peer``.

    Attributes:
        pair: (local HIT, peer HIT).
        state: as in RFC 7401 §4.4.2.
        armed: for the engine: the deadline it has noted for us.
        heard_at: when an authentic control packet came last.
    """

    __slots__ = (
        "_acceptance",
        "_address",
        "_attempt",
        "_began",
        "_closing",
        "_host_id",
        "_identity",
        "_initiation",
        "_installed",
        "_keys",
        "_last",
        "_quiet",
        "_responder",
        "_said_at",
        "_shared",
        "_timers",
        "_up",
        "_waiting",
        "armed",
        "heard_at",
        "pair",
        "state",
    )

    def __init__(
        self, identity: HostIdentity, responder: Responder, peer: Hit, shared: Shared
    ) -> None:
        self.pair: Pair = (identity.hit, peer)
        self.state = State.UNASSOCIATED
        self.armed: float | None = None
        self.heard_at = 0.0
        self._identity = identity
        self._responder = responder
        self._shared = shared
        self._timers = Timers[Timer]()
        self._waiting = Waiting()
        self._attempt = 0
        self._said_at = 0.0  # when the last I1 was sent
        self._began = 0.0
        self._up = False
        self._keys: Keys | None = None
        self._host_id: HostId | None = None
        self._address: Address = ("", 0)
        self._last = b""  # what RETRANSMIT sends again
        self._installed: Installed | None = None
        self._quiet = False  # nobody waits for the attempt that is under way
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
            self._quiet, self._attempt = True, self._shared.config.retransmit_max
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
        if self._initiation.working or (not self._quiet and now < self._said_at + _I1_PAUSE):
            return []
        if anew:
            self._quiet, self._attempt = False, 0
            return self._retransmit(now)
        self._said_at = now
        return [Transmit(self._last, self._i1_address())]

    def adopt(self, address: Address, asked_at: float) -> None:
        """An I1 without receiver was sent to ``address`` at that time: an R1 is awaited."""
        self.state = State.I1_SENT
        self._address, self._began = address, asked_at
        self._last, self._attempt = exchange.make_i1(*self.pair, self._shared.config), 1

    def send(self, next_header: int, payload: bytes, now: float) -> list[Action]:
        """Send a datagram now, or let it wait for the SAs; a full queue loses it."""
        if self.pair in self._shared.outbound:
            return [Flush(*self.pair, ((next_header, payload),))]
        actions = self._do(Ask.DATAGRAM, now)
        if self.state is State.I1_SENT:
            actions += self._hurry(now, anew=self._quiet)
        if self.state is State.E_FAILED:  # at once: nobody knows where the peer is
            return actions
        if not self._waiting.add(next_header, payload, self._shared.config):
            self._shared.counters["queue full"] += 1
        return actions

    def close(self, now: float) -> list[Action]:
        """Send CLOSE if there is something to close; the SAs are gone at once."""
        return self._do(Ask.CLOSE, now)

    def abandon(self, now: float) -> list[Action]:
        """Close without waiting for CLOSE_ACK: the engine needs the room."""
        actions = self.close(now)
        self._drop(State.UNASSOCIATED)
        return actions

    def show(self, now: float) -> list[Action]:
        """Show our credentials again if they are others now."""
        if self._installed is None or self.state not in _UP:
            return []
        return self._installed.upkeep.outbox.show(now)

    def tell(self, parameters: Sequence[params.Parameter], now: float) -> list[Action] | None:
        """Say something in an UPDATE, if it isn't nothing; None: it is not the time to."""
        if self._installed is None or self.state not in _UP:
            return None
        return self._installed.upkeep.outbox.tell(parameters, now) if parameters else []

    @property
    def upkeep(self) -> Upkeep | None:
        """What keeps the SAs, if there are any; ``deadline`` is another one after its inputs."""
        return self._installed.upkeep if self._installed is not None else None

    @property
    def refusal(self) -> str:
        """Why the Responder says that it leaves our I2 unanswered; empty if it has not."""
        return self._initiation.refusal

    def on_first_data(self, now: float, spi: int = 0) -> list[Action]:
        """The first authentic ESP in R2-SENT, or under new keys, has come."""
        actions = self._do(Ask.FIRST_DATA, now)
        if self._installed is not None:
            self._installed.upkeep.on_first_data(spi, now)
        return actions

    def describe(self, now: float) -> dict[str, object]:
        """What ``status`` shows. JSON-ready."""
        local, peer = self.pair
        told: dict[str, object] = {
            "local": str(local),
            "peer": str(peer),
            "state": self.state.value,
            "age": round(now - self._began, 3),
            "address": list(self._address),
        }
        if self._installed is None:
            return told
        heard = round(now - self.last_heard(), 3)
        return told | {"heard": heard} | self._installed.describe(self._began)

    def last_heard(self) -> float:
        """When the peer was last heard, by data or control."""
        installed = self._installed
        return max(self.heard_at, installed.sas.inbound.heard_at if installed else 0.0)

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
        r1 = self._responder.answer(packet, source, now)
        if self._shared.via_rvs:  # RFC 8004 §4.3.3
            r1 = finish(r1 + params.encode([params.ViaRvs((self._shared.via_rvs,))]))
        return [Transmit(r1, source)]

    def _on_i1_in_i1_sent(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self.pair[0] > self.pair[1]:
            return self._on_i1(packet, source, now)
        # both began: the smaller HIT stays Initiator (§6.7). The peer may have slept when ours
        # came, or be where we don't know, and the next I1 be seconds away
        if (
            self._initiation.working
            or now < self._said_at + self._shared.config.retransmit_initial
        ):
            raise Rejected("I1 crossed ours")
        self._said_at = now
        return [Transmit(self._last, source)]

    def _on_r1(self, packet: Packet, source: Address, now: float) -> list[Action]:
        shared = self._shared
        work = self._initiation.read_r1(packet, source)
        if self.state is State.I2_SENT:
            self._last = exchange.make_i1(*self.pair, shared.config)
        self.state = State.I1_SENT
        puzzle = work.offer.puzzle
        deadline = now + min(puzzle.seconds, shared.config.generation_lifetime)
        self._timers.stop(Timer.RETRANSMIT)
        self._timers.set(Timer.PUZZLE, deadline)
        start = int.from_bytes(shared.rng(RHASH_LENGTH[work.offer.rhash]), "big")
        key = (*self.pair, work.serial)
        return [SolvePuzzle(key, puzzle.k, work.offer.prefix, work.offer.rhash, start, deadline)]

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
        self._address = initiation.address
        self._last, self._attempt = reply.packet, 0
        return [*_key_log(reply.key_log), *self._retransmit(now)]

    def _on_r2(self, packet: Packet, source: Address, now: float) -> list[Action]:
        initiation, desk = self._initiation, self._shared.desk
        spi_out = initiation.read_r2(packet)
        listed = initiation.listed_in_r2(packet)
        try:
            theirs = initiation.judge_r2(packet)
        except Rejected as error:
            self._shared.counters[error.reason] += 1
            return self._notify(error, source, now)
        done = initiation.conclude(spi_out, listed)
        self._install(done.inbound, done.agreed, now, begun=True, disclosed=True)
        shared, path = self._shared, Path(None, self._address)
        shared.serving.keyed(self.pair, done.agreed.keys, path, now, began=True)
        shared.requester.concluded(self.pair, done.offer.info, packet, now)
        shared.forget_permissions(self.pair)
        desk.keep(self.pair, done.shown, theirs)
        self._acceptance.superseded(now)
        return [*self._establish(now), *self._take_early(now)]

    def _on_i2_in_i2_sent(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self.pair[0] < self.pair[1]:  # both began: the peer will answer our I2 (§6.9)
            raise Rejected("I2 crossed ours")
        return self._on_i2(packet, source, now)

    def _on_i2_again(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self._acceptance.knows(packet):
            self._shared.counters["I2 repeated"] += 1
            return [Transmit(self._acceptance.r2, self._address)]
        return self._on_i2(packet, source, now)

    def _on_i2(self, packet: Packet, source: Address, now: float) -> list[Action]:
        vetted = self._acceptance.vet(packet, source, now, replaces=self._installed is not None)
        try:
            accepted = self._acceptance.accept(packet, source, vetted, now)
        except (MalformedPacket, Rejected) as error:
            self._shared.counters[error.reason] += 1
            return self._notify(error, source, now)
        actions = self._accept(accepted, source, now)
        self._shared.desk.keep(self.pair, accepted.shown, accepted.theirs)
        return actions

    def _accept(self, accepted: Accepted, source: Address, now: float) -> list[Action]:
        """Install what a valid I2 agreed, in place of whatever there was."""
        actions = self._down("the peer began anew")
        self._initiation.drop()
        if self.state not in (State.I1_SENT, State.I2_SENT):
            self._began = accepted.issued_at  # when the I1 came
        self._timers = Timers()
        self._address = source
        disclosed = self._shared.discloses(self.pair, accepted.theirs)
        self._shared.hide(self.pair, hidden=not disclosed)
        self._install(accepted.inbound, accepted.agreed, now, begun=False, disclosed=disclosed)
        self._shared.requester.renewed(self.pair, now)
        self._acceptance.taken(accepted)
        self.state = State.R2_SENT
        self.heard_at = now
        config = self._shared.config
        patience = config.retransmit_initial * (2**config.retransmit_max - 1)
        self._timers.set(Timer.EXCHANGE_COMPLETE, now + patience)
        return [
            *actions,
            *_key_log(accepted.key_log),
            Transmit(accepted.r2, source),
            *self._come_up(now),
        ]

    def _on_notify(self, packet: Packet, source: Address, now: float) -> list[Action]:
        # No MAC protects it and it may be a replay: count, change nothing (RFC 7401 §8).
        packet.need(params.Notification)
        for notification in packet.every(params.Notification):
            try:
                name = NotifyType(notification.type).name
            except ValueError:
                name = "of unknown type"
            self._shared.counters[f"NOTIFY {name}"] += 1
            self._initiation.hear_why(packet, name)
        return []

    def _on_update(self, packet: Packet, source: Address, now: float) -> list[Action]:
        if self._installed is None:  # the first exchange still runs
            raise Rejected(f"UPDATE in {self.state.value}")
        upkeep = self._installed.upkeep
        actions = upkeep.on_update(packet, source, now)
        self.heard_at = now
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
        closing = self._closing
        if answer := closing.again(packet):
            return [Transmit(answer, source)]
        keys, host_id = self._peer_keys()
        answer = closing.answer(packet, keys, host_id)
        pathless = self._installed is not None and not self._installed.upkeep.reachable
        reason = "no path between us: closed by the peer" if pathless else "closed by the peer"
        actions = [Transmit(answer, source), *self._down(reason, always=pathless)]
        self._drop(State.CLOSED)
        self._keys, self._host_id = keys, host_id  # to answer a CLOSE that is sent again
        closing.answered(packet, answer)
        self._timers.set(Timer.CLOSED, now + self._shared.config.closed_lifetime)
        return actions

    def _on_close_ack(self, packet: Packet, source: Address, now: float) -> list[Action]:
        self._closing.conclude(packet)
        exchange.authenticate(packet, *self._peer_keys())
        self._drop(State.UNASSOCIATED)
        return []

    def _peer_keys(self) -> tuple[Keys, HostId]:
        """The keys in force, or those of the I2 that we have sent."""
        drawn = self._initiation.keys() if self.state is State.I2_SENT else None
        if drawn is not None:
            return drawn
        if self._keys is None or self._host_id is None:
            raise Rejected("no keys")
        return self._keys, self._host_id

    # -- time ----------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        at = self._timers.deadline()
        other = self._installed.upkeep.deadline() if self._installed is not None else None
        return other if at is None else at if other is None else min(at, other)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        actions: list[Action] = []
        for timer in self._timers.expired(now):
            actions += self._do(timer, now)
        if self._installed is None:
            return actions
        upkeep = self._installed.upkeep
        if (at := upkeep.deadline()) is not None and at <= now:
            actions += upkeep.on_time(now)
            if upkeep.broken:
                self._shared.counters["unacknowledged"] += 1
                actions += self._doubt(now)
            actions += self._follow(now)
            if upkeep.idle and self.state is State.ESTABLISHED:
                self._shared.counters["idle across a NAT"] += 1
                actions += self.close(now)
        return actions

    @property
    def keys(self) -> Keys | None:
        """Those in force."""
        return self._keys

    def _doubt(self, now: float) -> list[Action]:
        """Ask anew whether the peer is there; the SAs stay until better ones replace them."""
        if self._installed is not None:
            self._installed.upkeep.pause()
        if self.state not in _UP:
            return []
        if self.pair in self._shared.hidden:  # who wants to speak with us may begin anew
            return self.close(now)
        self._timers = Timers()
        return self._send_first_i1(now)

    def _retransmit(self, now: float) -> list[Action]:
        config = self._shared.config
        limit = config.retransmit_max
        if self.state is State.CLOSING:
            limit = config.close_retransmit_max
        if self._attempt >= limit:
            return self._give_up()
        self._timers.set(Timer.RETRANSMIT, now + config.retransmit_initial * 2**self._attempt)
        self._attempt += 1
        if self.state is State.I1_SENT:
            self._said_at = now
            return [Transmit(self._last, self._i1_address())]
        if self.state is State.CLOSING:  # along the path in use, then through relays too
            ways = self._closing.ways[: 1 if self._attempt == 1 else None]
            return [Transmit(self._last, way.to, way.source) for way in ways]
        actions: list[Action] = [Transmit(self._last, self._address)]
        if self.state is State.I2_SENT and self._attempt > _I2_PATIENCE:
            if not self._initiation.ask_again():
                return actions
            i1 = exchange.make_i1(*self.pair, config)
            actions.append(Transmit(i1, self._i1_address()))
        return actions

    def _i1_address(self) -> Address:
        """Each retransmission of I1 goes to the next address, and to one only (§6.6.1)."""
        addresses = self._shared.addresses(self.pair[1]) or (self._address,)
        return addresses[(self._attempt - 1) % len(addresses)]

    def _give_up(self) -> list[Action]:
        if self.state is State.CLOSING:
            self._drop(State.UNASSOCIATED)
            return []
        waited_for = "R1" if self.state is State.I1_SENT else "R2"
        refusal = f": {self.refusal}" if self.refusal else ""
        self._drop(State.E_FAILED)
        self._shared.counters[f"no {waited_for}"] += 1
        return self._down(f"no {waited_for} came{refusal}", always=not self._quiet)

    def _puzzle_expired(self, now: float) -> list[Action]:
        self._initiation.drop()
        self._shared.counters["puzzle expired"] += 1
        return self._retransmit(now)

    def _closed_expired(self, now: float) -> list[Action]:
        self._drop(State.UNASSOCIATED)
        return []

    def _check(self, now: float) -> list[Action]:
        """Close SAs that nobody uses; begin anew when the peer seems to have forgotten them."""
        shared, installed = self._shared, self._installed
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
        self._forget_keys()
        return self._send_first_i1(now)

    def _wait(self, now: float) -> list[Action]:
        return []

    def _stop(self, now: float) -> list[Action]:
        self._drop(State.UNASSOCIATED)
        return self._down("closed", always=True)

    def _send_first_i1(self, now: float) -> list[Action]:
        local, peer = self.pair
        addresses = self._shared.addresses(peer)
        if not addresses:
            self._drop(State.E_FAILED)
            return self._down("no contact known", always=True)
        if self.pair in self._shared.hidden:
            self._drop(State.E_FAILED)
            return self._down("it may not learn where we are", always=True)
        self.state = State.I1_SENT
        self._began, self._quiet, self._said_at = now, False, now
        self._last = exchange.make_i1(local, peer, self._shared.config)
        self._attempt = 1
        self._initiation.begin()
        self._timers.set(Timer.RETRANSMIT, now + self._shared.config.retransmit_initial)
        return [Transmit(self._last, address) for address in addresses[:I1_ADDRESSES_MAX]]

    def _send_first_close(self, now: float) -> list[Action]:
        keys, host_id = self._peer_keys()
        close = self._closing.ask(keys)
        ways = self._installed.upkeep.ways() if self._installed is not None else []
        self._drop(State.CLOSING)
        self._closing.ways = ways or [Path(None, self._address)]
        self._keys, self._host_id = keys, host_id  # to check CLOSE_ACK
        self._last, self._attempt = close, 0
        return [*self._retransmit(now), *self._down("closed")]

    def _install(
        self, inbound: Inbound, agreed: Agreed, now: float, *, begun: bool, disclosed: bool
    ) -> None:
        """Put the new SAs into use and remove the old ones."""
        patience = None
        if self._installed is not None:
            patience = self._installed.sas.patience
            self._remove_sas()
        self._keys, self._host_id = agreed.keys, agreed.host_id
        self._installed = Installed(
            self._identity,
            self._address,
            inbound,
            agreed,
            self._shared,
            now,
            begun=begun,
            disclosed=disclosed,
            patience=patience,
        )

    def _follow(self, now: float) -> list[Action]:
        """Data may flow once there is a path, and there is no association if none is found."""
        installed = self._installed
        if installed is None or self.state not in _UP:
            return []
        upkeep = installed.upkeep
        if upkeep.failed:
            self._shared.counters["no path"] += 1
            failed = exchange.make_notify(
                self._identity, self.pair[1], NotifyType.CONNECTIVITY_CHECKS_FAILED
            )
            return [
                Transmit(failed, self._address),
                *self.close(now),
                AssociationDown(*self.pair, "no path between us: neither side has a data relay"),
            ]
        if upkeep.reachable and self.pair not in self._shared.outbound:
            self._shared.outbound[self.pair] = installed.sas.outbound
            return self._come_up(now)
        return []

    def _remove_sas(self) -> None:
        if self._installed is not None:
            self._installed.remove()
        self._installed = None

    def _establish(self, now: float) -> list[Action]:
        self.state = State.ESTABLISHED
        self.heard_at = now
        self._timers = Timers()
        self._timers.set(Timer.CHECK, now + pause(self._shared.config))
        if self._installed is not None:
            self._installed.sas.inbound.awaited = False
        return self._come_up(now)

    def _come_up(self, now: float) -> list[Action]:
        """Tell the owner, once, and let go what has waited for the SAs."""
        actions: list[Action] = []
        local, peer = self.pair
        if self.pair not in self._shared.outbound:
            return actions
        if not self._up:
            self._up = True
            if not isinstance(self._address, Relayed):
                self._shared.remember(peer, self._address)
            actions.append(AssociationUp(local, peer, now - self._began))
        if self._waiting.datagrams:
            actions.append(Flush(local, peer, self._waiting.release()))
        return actions

    def _down(self, reason: str, *, always: bool = False) -> list[Action]:
        """Tell the owner that there is no association any more; ``always``: nor an attempt."""
        if not self._up and not always:
            return []
        self._up = False
        return [AssociationDown(*self.pair, reason)]

    def _notify(
        self, error: MalformedPacket | Rejected, source: Address, now: float
    ) -> list[Action]:
        """Say why, to somebody who has solved a puzzle (RFC 7401 §5.2.19), but not often."""
        # INVALID_SYNTAX is for packets whose MAC and signature hold only: stay silent.
        if isinstance(error, MalformedPacket) or error.notify is None:
            return []
        if not self._shared.notify_limit.allow("", now):
            return []
        details = error.data
        notify = exchange.make_notify(self._identity, self.pair[1], error.notify, details)
        return [Transmit(notify, source)]

    def _forget_keys(self) -> None:
        self._keys = self._host_id = None
        self._acceptance.forget()
        self._closing.forget()
        self._initiation.release()
        self._timers = Timers()

    def _drop(self, state: State) -> None:
        """Remove SAs, keys, timers and queue, and go to ``state``."""
        self._initiation.drop()
        self._remove_sas()
        self._shared.outbound.pop(self.pair, None)
        self._shared.desk.forget(self.pair)
        self._shared.kept.pop(self.pair, None)
        self._shared.serving.lost(self.pair)
        self._shared.requester.lost(self.pair)
        if self._waiting.datagrams:
            self._shared.counters["queue dropped"] += len(self._waiting.release())
        self._forget_keys()
        self.state = state


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
