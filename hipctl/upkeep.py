"""What keeps an association that is up: rekeying, mobility, multihoming (RFC 7402, 8046, 8047).

All of it travels in UPDATEs, whose packets are made and read here; ``update`` numbers them,
``rekey`` draws keys, ``locators`` knows the peer's addresses. Choices of ours:

- One pair of SAs serves all addresses of both sides: only one path is used at a time, ESP rides
  in UDP, and the replay window is wide enough for packets of the path before (RFC 8047 §4.3).
- While a rekey waits for its ACK, every UPDATE of ours repeats its ESP_INFO: that is the "restart"
  of RFC 7402 §6.8, and moving need not wait.
- When nobody acknowledges a rekey or a move, a base exchange finds out what has become of the
  peer; its SAs stay in use meanwhile (RFC 7401 §6.11 would close them).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hipctl import credentials, exchange, params
from hipctl.actions import Action, Address, Pair, Path, Relayed, Transmit
from hipctl.checklist import same
from hipctl.checks import Ask
from hipctl.constants import (
    HEADER_LENGTH,
    PROBE_RETRANSMIT_MAX,
    UPDATE_RETRANSMIT_INITIAL,
    UPDATE_RETRANSMIT_MIN,
    NotifyType,
    PacketType,
    RegistrationFailure,
)
from hipctl.crypto import Keys, Material
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity
from hipctl.limits import Limiter
from hipctl.locators import read_locator_set
from hipctl.mobility import Mobility
from hipctl.packet import Packet, header
from hipctl.registrar import Asked
from hipctl.rekey import Rekeying
from hipctl.sansio import Timers
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal
from hipctl.update import Arrival, Outstanding, Updates

_NONCE_LENGTH: Final = 16  # bytes
_SPREAD_MAX: Final = 3  # more paths on which a move is told once the first does not answer
_REKEY_PATIENCE: Final = 15.0  # seconds that an acknowledged rekey waits for the peer's half
_UNUSED_OLD_SA: Final = 6  # times old_sa_lifetime, where the new SA is not used at all
_ANSWERS_RATE: Final = 5.0  # repeated ACKs a second
_ANSWERS_BURST: Final = 10
_PROBES_RATE: Final = 2.0  # addresses a second that a peer can have us ask, and their victims
_PROBES_BURST: Final = 16
_FIRST_LOOK: Final = 1.0  # seconds after the association came up
_NO_ECHO: Final = exchange.Echo((), ())


class Chore(Enum):
    """What an association that is up waits for, beside ACKs."""

    LOOK = "time to see whether a call still hears its peer"
    REKEY = "the keys get old"
    PATIENCE = "the peer's half of a rekey has not come"
    OLD_SA = "nothing more comes under the SA before"
    LIFETIME = "an address's lifetime ends"
    ANNOUNCE = "the peer is to be told where we are"
    KEEPALIVE = "NATs between us may be about to forget us"


class Upkeep:
    """The part of an association that lives as long as its keys.

    Attributes:
        broken: nobody has acknowledged something important: the association is in doubt.
        idle: it crosses a NAT, nobody uses it, and others are worth more to be kept open.
    """

    __slots__ = (
        "_answered",
        "_answers",
        "_host_id",
        "_identity",
        "_keys",
        "_listed_by",
        "_pair",
        "_paths",
        "_probes",
        "_rekeying",
        "_sas",
        "_shared",
        "_timers",
        "_updates",
        "_used",
        "broken",
        "idle",
    )

    def __init__(  # noqa: PLR0917 - the fields of an association
        self,
        identity: HostIdentity,
        pair: Pair,
        host_id: HostId,
        keys: Keys,
        material: Material,
        sas: SaPair,
        shared: Shared,
        paths: Mobility | Traversal,
        now: float,
    ) -> None:
        config = shared.config
        self.broken = self.idle = False
        self._used = (now, 0, 0)  # when, packets sent, packets received
        self._identity = identity
        self._pair = pair
        self._host_id = host_id
        self._keys = keys
        self._sas = sas
        self._shared = shared
        initial = min(config.retransmit_initial, UPDATE_RETRANSMIT_INITIAL)
        self._updates = Updates(initial, UPDATE_RETRANSMIT_MIN)
        self._paths = paths
        self._answers = Limiter(_ANSWERS_RATE, _ANSWERS_BURST, 1)
        self._probes = Limiter(_PROBES_RATE, _PROBES_BURST, 1)
        self._answered: tuple[int, Sequence[params.Parameter]] = (-1, ())  # of registrations
        self._listed_by = 0  # Update ID of the LOCATOR_SET in force
        self._rekeying = Rekeying(pair, material, sas, shared, now)
        self._timers = Timers[Chore]()
        self.resume(now)

    # -- life ----------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, object]]:
        """The peer's addresses and what we know about each, JSON-ready."""
        return self._paths.describe()

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, if any was measured."""
        return self._updates.rtt

    @property
    def reachable(self) -> bool:
        """Whether data may be sent."""
        return self._paths.reachable

    @property
    def failed(self) -> bool:
        """No path to the peer has been found."""
        return self._paths.failed

    @property
    def relayed(self) -> bool:
        """Whether data goes through a relay, of either side."""
        return self._paths.relayed

    @property
    def found_at(self) -> tuple[float | None, float | None]:
        """When checks had found a path, and when one without relays; monotonic seconds."""
        return self._paths.first_at, self._paths.direct_at

    def pause(self) -> None:
        """A base exchange finds out whether the peer is still there; say nothing meanwhile."""
        self.broken = False
        self._updates.outstanding.clear()
        for chore in (Chore.LOOK, Chore.REKEY, Chore.ANNOUNCE, Chore.PATIENCE, Chore.KEEPALIVE):
            self._timers.stop(chore)

    def resume(self, now: float) -> list[Action]:
        """The peer is there, with the keys that we have."""
        config = self._shared.config
        self._timers.set(Chore.REKEY, now + config.rekey_lifetime * self._jitter())
        self._timers.set(Chore.LOOK, now + _FIRST_LOOK)
        self._watch_nat(now)
        actions: list[Action] = []
        if self._rekeying.unsaid:
            actions.append(self._say_rekey(now))
        elif self._rekeying.pending is not None:
            self._timers.set(Chore.PATIENCE, now + _REKEY_PATIENCE)
        return actions

    def end(self) -> None:
        """The keys are gone; remove what only we know of."""
        self._rekeying.end()
        self._updates.outstanding.clear()
        self._timers = Timers()

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        times = self._timers.deadline(), self._updates.deadline(), self._paths.deadline()
        return min((at for at in times if at is not None), default=None)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine; look at ``broken`` afterwards."""
        actions: list[Action] = []
        for chore in self._timers.expired(now):
            actions += _CHORES[chore](self, now)
        self._updates.drop_idle(self._paths.wanted, now)
        again, given_up = self._updates.expired(now)
        for update in again:
            if update.rekeys and not update.nonce:
                update.path = self._paths.path()
            actions.append(_transmit(update))
            if update.announces and update.attempt == 2:
                actions += self._announce_elsewhere(update, now)
        for update in given_up:
            self._judge_given_up(update, now)
        actions += [self._check(ask, now) for ask in self._paths.asks(now)]
        self.broken |= self._paths.lost
        return actions

    def _judge_given_up(self, update: Outstanding, now: float) -> None:
        if update.ask is not None:
            self._paths.on_given_up(update.ask, now)
            return
        others = self._updates.outstanding.values()
        self.broken |= update.vital
        if update.rekeys and self._rekeying.unsaid:
            self.broken |= not any(other.rekeys for other in others)
        if update.announces and not self._paths.told:
            self.broken |= not any(other.announces for other in others)
        unverified = self._sas.outbound.sa.metered and update.path.to == self._paths.path().to
        if unverified and not any(other.path.to == update.path.to for other in others):
            self.broken = True  # data goes nowhere
        self._shared.counters["UPDATE not acknowledged"] += 1

    # -- packets -------------------------------------------------------------------------------

    def on_update(self, packet: Packet, source: Address, now: float) -> list[Action]:
        """Take an UPDATE (RFC 7401 §6.12); whatever raises has changed nothing.

        Raises:
            MalformedPacket: something is missing or not well formed.
            Rejected: it is not authentic, too old, or asks for what cannot be.
        """
        seq, ack = packet.get(params.Seq), packet.get(params.Ack)
        update_ids = ack.update_ids if ack is not None else ()
        arrival = self._screen(seq, update_ids, now)
        exchange.authenticate(packet, self._keys, self._host_id)
        shared = self._shared
        shared.serving.screen(self._pair, packet)
        host_id = packet.get(params.HostIdParameter)
        if host_id is not None and host_id.host_id != self._host_id:
            raise Rejected("HOST_ID of another")
        echo = exchange.Echo.of(packet)
        check = packet.get(params.CandidatePriority)
        answers = _Answers(
            update_ids,
            _nonces(packet),
            Path(self._shared.here, source),
            packet.get(params.MappedAddress),
        )
        if seq is None or arrival is Arrival.REPEATED:
            actions = self._take_acks(answers, now)
            self._finish_rekey(now)
            if seq is None:
                shared.requester.on_update(self._pair, packet, now)
            elif self._answers.allow("", now):
                shared.counters["UPDATE repeated"] += 1
                more = list(self._answered[1]) if self._answered[0] == seq.update_id else []
                more += _seen(source) if check is not None else []
                actions.append(self._acknowledge((seq.update_id,), echo, source, more))
            return actions
        listed = read_locator_set(packet, self._keys)
        said = self._rekeying.read(packet, now)
        packet.get(params.Nominate)  # which may be malformed
        if said is not None:
            self._rekeying.agree(said, now)  # the last thing that may raise
            self._timers.stop(Chore.PATIENCE)
            self._tell_relay()
        self._updates.note(seq.update_id)
        actions, bad = self._take_credentials(packet, source, now)
        actions += self._take_acks(answers, now)
        if check is not None:
            nominated = packet.get(params.Nominate) is not None
            ask = self._paths.on_request(answers.path, check.priority, nominated, now)
            return [*actions, self._answer_check(ask, seq.update_id, echo, source, now)]
        listed = self._newest(listed, seq.update_id)
        if listed is not None:
            shared.serving.relocated(self._pair, packet, listed, source)
        actions += self._take_registrations(packet, seq.update_id, bad, source, now)
        wanted = self._paths.take(_known(listed), source, now)
        wanted = [path for path in wanted if self._probes.allow("", now)]
        actions += self._answer(seq.update_id, echo, source, wanted, now)
        self._finish_rekey(now)
        if listed is not None:
            self._watch_lifetimes()
            return [*actions, *self._unsupported(listed, source, now)]
        paths = self._paths.questioned(self._heard_at(), now) if echo != _NO_ECHO else []
        return [*actions, *(self._probe(path, now) for path in paths)]

    def _answer_check(
        self, ask: Ask | None, update_id: int, echo: exchange.Echo, source: Address, now: float
    ) -> Transmit:
        """Answer a connectivity check, if need be with one of ours."""
        acks, seen = (update_id,), _seen(source)
        self._finish_rekey(now)
        if ask is None:
            return self._acknowledge(acks, echo, source, seen)
        return self._check(ask, now, ack=acks, echo=echo, seen=seen)

    def _screen(
        self, seq: params.Seq | None, update_ids: Sequence[int], now: float
    ) -> Arrival | None:
        """Whether an UPDATE is worth the look at its signature; None: it only acknowledges."""
        if seq is None:
            if not update_ids:
                raise MalformedPacket("UPDATE without SEQ and ACK")
            if not self._updates.waits_for(update_ids):
                raise Rejected("ACK of nothing outstanding")
            return None
        arrival = self._updates.judge(seq.update_id)
        if arrival is Arrival.OUTSIDE:
            raise Rejected("UPDATE outside the window")
        if arrival is Arrival.REPEATED and self._answers.exhausted("", now):
            raise Rejected("UPDATE repeated too often")
        return arrival

    def _newest(
        self, listed: tuple[params.Locator, ...] | None, update_id: int
    ) -> tuple[params.Locator, ...] | None:
        """A LOCATOR_SET, unless a later one has overtaken it on another path."""
        if listed is None:
            return None
        behind = (self._listed_by - update_id) % 2**32
        if self._paths.heeds_order and 0 < behind < 2**31:
            self._shared.counters["LOCATOR_SET overtaken"] += 1
            return None
        self._listed_by = update_id
        return listed

    def _answer(
        self, update_id: int, echo: exchange.Echo, source: Address, wanted: list[Path], now: float
    ) -> list[Action]:
        """Acknowledge; what we have to say ourselves goes along if it goes there anyway."""
        ack, said = (update_id,), self._answered[1]
        actions: list[Action] = []
        here = next((path for path in wanted if path.to == source), None)
        if here is not None:
            actions.append(self._probe(here, now, ack=ack, echo=echo, more=said))
        if self._owes_half():
            to = self._paths.to(source)
            if here is None:
                actions.append(self._say_rekey(now, to, ack=ack, echo=echo, more=said))
            else:  # the probe may go unanswered, this must not
                actions.append(self._say_rekey(now))
        elif here is None:
            actions.append(self._acknowledge(ack, echo, source, said))
        for path in wanted:
            if path.to != source:
                actions.append(self._probe(path, now))
        return actions

    def _take_credentials(
        self, packet: Packet, source: Address, now: float
    ) -> tuple[list[Action], RegistrationFailure | None]:
        """Take renewed credentials; those that don't hold change nothing (RFC 8002 §5)."""
        try:
            self._shared.desk.renew(self._pair, packet, self._keys)
        except Rejected as error:
            self._shared.counters[error.reason] += 1
            bad = RegistrationFailure.CERTIFICATE_OTHER
            if error.data:
                bad = RegistrationFailure.UNSUPPORTED_CERTIFICATE
            if error.notify is not None:
                return self._notify(error.notify, error.data, source, now), bad
            return [], bad
        return [], None

    def _take_registrations(
        self,
        packet: Packet,
        update_id: int,
        bad: RegistrationFailure | None,
        source: Address,
        now: float,
    ) -> list[Action]:
        """Take what an UPDATE says of registrations, with us and of ours (RFC 8003)."""
        shared, pair = self._shared, self._pair
        shared.requester.on_update(pair, packet, now)
        path = self._paths.path()
        proven = not self._sas.outbound.sa.metered and not isinstance(path.to, Relayed)
        shown = bool(shared.desk.theirs.get(pair))
        asked = Asked(self._keys, source, path if proven else None, shown, bad)
        self._answered = update_id, shared.serving.answer(pair, packet, asked, now)
        if shared.serving.permit(pair, packet, now):
            return []
        details = packet.raw[:HEADER_LENGTH]
        return self._notify(NotifyType.MESSAGE_NOT_RELAYED, details, source, now)

    def tell(self, parameters: Sequence[params.Parameter], now: float) -> list[Action]:
        """Say this in an UPDATE that wants an ACK."""
        limit = self._shared.config.update_retransmit_max
        sent = self._ask(self._paths.path(), now, limit=limit, more=parameters)
        next(reversed(self._updates.outstanding.values())).vital = True
        return [sent]

    def show(self, now: float) -> list[Action]:
        """Show our credentials again if they are others now (RFC 8002 §2)."""
        shared = self._shared
        changed = shared.desk.changed(self._pair)
        if not changed:
            return []
        sealed = credentials.sealed(changed, self._keys, shared.rng)
        limit = shared.config.update_retransmit_max
        try:
            return [self._ask(self._paths.path(), now, limit=limit, probes=False, more=sealed)]
        except ValueError:
            shared.counters["credentials longer than a packet"] += 1
            shared.desk.ours.pop(self._pair, None)
            return []

    def _owes_half(self) -> bool:
        """Whether the peer has said its half of a rekey and ours is not on its way."""
        pending = self._rekeying.unsaid
        if pending is None or pending.theirs is None:
            return False
        waiting = self._updates.outstanding.values()
        return not any(update.rekeys and not update.nonce for update in waiting)

    def _take_acks(self, answers: "_Answers", now: float) -> list[Action]:
        actions: list[Action] = []
        outstanding, nonces = self._updates.outstanding, answers.nonces
        update_ids = [each for each in answers.update_ids if answers.fit(outstanding.get(each))]
        for update in self._updates.acknowledged(update_ids, now):
            if update.ask is not None:
                mapped = answers.mapped.address if answers.mapped is not None else ("", 0)
                self._paths.on_response(update.ask, answers.path, mapped, now)
                continue
            if update.announces:  # one that tells of earlier addresses was withdrawn
                self._paths.told = True
            pending = self._rekeying.unsaid
            if update.rekeys and pending is not None:
                pending.acknowledged = True
                if pending.theirs is None:
                    self._timers.set(Chore.PATIENCE, now + _REKEY_PATIENCE)
            if update.nonce and update.nonce in nonces and self._paths.answered(update.path, now):
                self._withdraw()
                self._paths.told = False
                actions += self._announce(now)
        return actions

    def _make(
        self, parameters: Sequence[params.Parameter], echo: exchange.Echo = _NO_ECHO
    ) -> bytes:
        data = header(PacketType.UPDATE, *self._pair)
        data += params.encode([*parameters, *echo.signed])
        return exchange.sign_and_mac(data, self._keys, self._identity, unsigned=echo.unsigned)

    def _acknowledge(
        self,
        ack: tuple[int, ...],
        echo: exchange.Echo,
        to: Address,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        return Transmit(self._make([params.Ack(ack), *more], echo), to)

    def _check(
        self,
        ask: Ask,
        now: float,
        *,
        ack: tuple[int, ...] = (),
        echo: exchange.Echo = _NO_ECHO,
        seen: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Send a connectivity check (RFC 9028 §4.6.1); with ``ack`` it answers one, too."""
        number, nonce = self._updates.number(), self._shared.rng(_NONCE_LENGTH)
        parameters: list[params.Parameter] = [
            params.Seq(number),
            params.EchoRequestSigned(nonce),
            params.CandidatePriority(ask.priority),
            *seen,
        ]
        if ack:
            parameters.append(params.Ack(ack))
        if ask.nominate:
            parameters.append(params.Nominate())
        packet = self._make(parameters, echo)
        update = Outstanding(number, packet, ask.path, ask.limit, nonce, ask=ask, pause=ask.rto)
        self._updates.sent(update, now)
        return _transmit(update)

    def _ask(
        self,
        path: Path,
        now: float,
        *,
        limit: int,
        ack: tuple[int, ...] = (),
        echo: exchange.Echo = _NO_ECHO,
        announces: bool = False,
        probes: bool = True,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Send an UPDATE that wants an ACK, and an echo if it ``probes`` its path."""
        pending = self._rekeying.unsaid
        number = self._updates.number()
        parameters: list[params.Parameter] = [params.Seq(number), *more]
        if pending is not None:
            parameters += pending.parameters()
        else:
            spi = self._sas.inbound.sa.spi
            parameters.append(params.EspInfo(self._rekeying.material.index, spi, spi))
        if ack:
            parameters.append(params.Ack(ack))
        if announces:
            spi = self._sas.inbound.sa.spi if pending is None else pending.ours.spi
            parameters.append(self._paths.said(spi, self._keys))
        nonce = self._shared.rng(_NONCE_LENGTH) if probes else b""
        if nonce:
            parameters.append(params.EchoRequestSigned(nonce))
        packet = self._make(parameters, echo)
        update = Outstanding(number, packet, path, limit, nonce, announces, pending is not None)
        self._updates.sent(update, now)
        return _transmit(update)

    def _probe(
        self,
        path: Path,
        now: float,
        *,
        ack: tuple[int, ...] = (),
        echo: exchange.Echo = _NO_ECHO,
        announces: bool = False,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Ask whether the peer is there; longer where our data goes already."""
        limit = PROBE_RETRANSMIT_MAX
        if path.to == self._paths.path().to:
            limit = self._shared.config.update_retransmit_max
        return self._ask(
            path, now, limit=limit, ack=ack, echo=echo, announces=announces, more=more
        )

    # -- rekeying ------------------------------------------------------------------------------

    def _rekey_if_used(self, now: float) -> list[Action]:
        self._timers.set(Chore.REKEY, now + self._shared.config.rekey_lifetime)
        used = self._sas.outbound.sa.packets or self._sas.inbound.sa.packets
        return self.start_rekey(now) if used else []

    def start_rekey(self, now: float) -> list[Action]:
        """Begin to replace the SAs, unless that is under way (RFC 7402 §6.8)."""
        if not self._rekeying.begin(now):
            return []
        self._tell_relay()
        return [self._say_rekey(now)]

    def _tell_relay(self) -> None:
        """Our data relay, if we use one, is to let through what comes and goes under new SPIs."""
        pending = self._rekeying.pending
        if pending is not None:
            theirs = pending.theirs
            spi_out = theirs.spi if theirs is not None else self._sas.outbound.sa.spi
            self._paths.rekeying(spi_out, pending.ours.spi)

    def _say_rekey(
        self,
        now: float,
        path: Path | None = None,
        *,
        ack: tuple[int, ...] = (),
        echo: exchange.Echo = _NO_ECHO,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        path, limit = path or self._paths.path(), self._shared.config.update_retransmit_max
        return self._ask(path, now, ack=ack, echo=echo, limit=limit, probes=False, more=more)

    def _finish_rekey(self, now: float) -> None:
        if not self._rekeying.finish(now):
            return
        config = self._shared.config
        unused = self._sas.inbound.awaited
        patience = config.old_sa_lifetime * (_UNUSED_OLD_SA if unused else 1)
        self._timers.set(Chore.OLD_SA, now + patience)
        self._timers.stop(Chore.PATIENCE)
        self._timers.set(Chore.REKEY, now + config.rekey_lifetime * self._jitter())
        for update in list(self._updates.outstanding.values()):
            if update.rekeys and not update.nonce:
                del self._updates.outstanding[update.update_id]
            update.rekeys = False  # an ACK of it says nothing about the next rekey
        self._paths.rekeyed(now)

    def on_first_data(self, spi: int, now: float) -> None:
        """Authentic ESP has come under an inbound SA that was awaited."""
        self._rekeying.on_first_data(spi)
        self._finish_rekey(now)
        if self._rekeying.old is not None and spi == self._sas.inbound.sa.spi:
            self._timers.set(Chore.OLD_SA, now + self._shared.config.old_sa_lifetime)

    def _give_up_rekey(self, now: float) -> list[Action]:
        if self._rekeying.give_up():
            for update in self._updates.outstanding.values():
                update.rekeys = False
            self._timers.set(Chore.REKEY, now + _REKEY_PATIENCE)
        return []

    def _old_expired(self, now: float) -> list[Action]:
        self._rekeying.drop_old()
        return []

    def _jitter(self) -> float:
        """What a lifetime is multiplied with, so that not all rekey at once."""
        return 1 - int.from_bytes(self._shared.rng(2), "big") / 2**16 / 10

    # -- mobility ------------------------------------------------------------------------------

    def set_locators(self, ours: tuple[Address, ...], at: float, now: float) -> list[Action]:
        """Our addresses are others now: tell the peer at ``at`` (RFC 8046 §3.2)."""
        self._withdraw()
        self._paths.move(ours, now)
        if at <= now:
            return self._announce(now)
        self._timers.set(Chore.ANNOUNCE, at)
        return []

    def learn(self, listed: Sequence[params.Locator], now: float) -> None:
        """Take the LOCATOR_SET of a base exchange; its addresses are verified before use."""
        self._paths.learn(listed, now)
        self._watch_lifetimes()

    def disclose(self, now: float) -> list[Action]:
        """The peer may learn where we are."""
        self._paths.disclose(now)
        return self.look(now)

    def poke(self, now: float) -> list[Action]:
        """See whether the peer hears us where we are now: our NAT may have moved us."""
        if any(update.announces for update in self._updates.outstanding.values()):
            return []
        limit = self._shared.config.update_retransmit_max
        return [self._ask(self._paths.path(), now, limit=limit, announces=True)]

    def permit(self, permissions: Sequence[params.PeerPermission], now: float) -> list[Action]:
        """Ask the peer, a data relay, to pass on what comes from these (RFC 9028 §4.12.1)."""
        limit = self._shared.config.update_retransmit_max
        path = self._paths.path()
        return [self._ask(path, now, limit=limit, probes=False, more=list(permissions))]

    def look(self, now: float) -> list[Action]:
        """See whether it is time for new keys, and whether a call still hears its peer."""
        sas, mobility = self._sas, self._paths
        sas.inbound.heard_at = self._heard_at()
        actions = self.start_rekey(now) if self._rekeying.due() else []
        paths = mobility.look(sas.inbound.heard_at, now)
        for path in paths:
            alone = len(paths) == 1 and bool(mobility.ours)  # a NAT may have moved us
            actions.append(self._probe(path, now, announces=alone))
        here = mobility.path()
        if sas.outbound.sa.metered and not self._asks(here) and self._probes.allow("", now):
            actions.append(self._probe(here, now))
        if not mobility.told and mobility.in_use and not self._telling():
            actions += self._announce(now)
        self._watch_nat(now)
        pause = mobility.next_look()
        if pause is not None:
            self._timers.set(Chore.LOOK, now + pause)
        return actions

    def _next_keepalive(self, now: float) -> float:
        """All associations wake up at the same time: a radio sleeps in between."""
        period = self._shared.config.keepalive
        return (now // period + 1) * period

    def _watch_nat(self, now: float) -> None:
        """Look to keepalives if a NAT stands between us, as far as we know."""
        if self._timers.armed(Chore.KEEPALIVE):
            return
        shared, pair = self._shared, self._pair
        matters = pair in shared.servers or pair in shared.friends
        if matters or isinstance(self._paths, Traversal) or shared.natted(pair[0]):
            self._timers.set(Chore.KEEPALIVE, self._next_keepalive(now))

    def _keep_alive(self, now: float) -> list[Action]:
        """Remind NATs of us where that is owed (RFC 9028 §4.10), or see that it isn't."""
        self._watch_nat(now)
        shared, pair, paths = self._shared, self._pair, self._paths
        since, sent_before, received_before = self._used
        sent, received = self._sas.outbound.sa.packets, self._sas.inbound.sa.packets
        serves = pair in shared.servers or pair in shared.friends
        if (sent, received) != (sent_before, received_before):
            self._used = (now, sent, received)
            if not serves:
                shared.keep(pair)
            if sent != sent_before:
                return []
        elif not serves and pair not in shared.kept:
            self.idle = now - since >= shared.config.idle_lifetime
            return []
        if not paths.reachable:
            return []
        shared.counters["keepalives sent"] += 1
        notify = exchange.make_notify(self._identity, pair[1], NotifyType.NAT_KEEPALIVE)
        path = paths.path()
        return [Transmit(notify, path.to, path.source)]

    def _heard_at(self) -> float:
        """When ESP came last, under this SA or the one before."""
        old = self._rekeying.old
        heard_at = self._sas.inbound.heard_at
        return heard_at if old is None else max(heard_at, old.heard_at)

    def _asks(self, path: Path) -> bool:
        return any(update.path.to == path.to for update in self._updates.outstanding.values())

    def _telling(self) -> bool:
        return any(update.announces for update in self._updates.outstanding.values())

    def _announce(self, now: float) -> list[Action]:
        """Tell the peer where we are, along the best path, and see whether that works."""
        self._timers.stop(Chore.ANNOUNCE)
        paths = self._paths.telling()
        if not paths:
            return []
        limit = self._shared.config.update_retransmit_max
        return [
            self._ask(path, now, limit=limit, announces=True)
            for path in paths[: self._paths.spread]
        ]

    def _announce_elsewhere(self, unanswered: Outstanding, now: float) -> list[Action]:
        """Nobody answers there: the peer may have moved too (RFC 8046 §3.2.3)."""
        tried = {update.path for update in self._updates.outstanding.values() if update.announces}
        if len(tried) > 1 or self._paths.told:
            return []
        limit = self._shared.config.update_retransmit_max
        return [
            self._ask(path, now, limit=limit, announces=True)
            for path in self._paths.telling()[: _SPREAD_MAX + 1]
            if path not in tried
        ]

    def _withdraw(self) -> None:
        """What was said about our addresses holds no more."""
        for update in list(self._updates.outstanding.values()):
            if update.announces:
                del self._updates.outstanding[update.update_id]

    def _lifetime_ended(self, now: float) -> list[Action]:
        if self._paths.expire(now):
            self._paths.choose(now)
        self._watch_lifetimes()
        return []

    def _watch_lifetimes(self) -> None:
        at = self._paths.next_expiry()
        if at is None:
            self._timers.stop(Chore.LIFETIME)
        else:
            self._timers.set(Chore.LIFETIME, at)

    def _unsupported(
        self, listed: Sequence[params.Locator], source: Address, now: float
    ) -> list[Action]:
        """Say so if the preferred locator is of a type that we don't know (RFC 8046 §5.3)."""
        unknown = [found for found in listed if not found.ip]
        if not any(found.preferred for found in unknown):
            return []
        self._shared.counters["locator of unknown type"] += 1
        details = b"".join(found.encode() for found in unknown)
        return self._notify(NotifyType.LOCATOR_TYPE_UNSUPPORTED, details, source, now)

    def _notify(
        self, what: NotifyType, details: bytes, source: Address, now: float
    ) -> list[Action]:
        if not self._shared.notify_limit.allow("", now):
            return []
        return [
            Transmit(exchange.make_notify(self._identity, self._pair[1], what, details), source)
        ]


def _transmit(update: Outstanding) -> Transmit:
    return Transmit(update.packet, update.path.to, update.path.source)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What an UPDATE says of ours.

    Attributes:
        update_ids: that it acknowledges.
        nonces: that it echoes.
        path: along which it came: (at which of our addresses, where from).
        mapped: where it saw our check come from.
    """

    update_ids: Sequence[int]
    nonces: frozenset[bytes]
    path: Path
    mapped: params.MappedAddress | None

    def fit(self, update: Outstanding | None) -> bool:
        """Whether it answers that; a check only along its own path (RFC 9028 §4.6.2)."""
        if update is None or update.ask is None:
            return True
        return (
            self.mapped is not None
            and update.nonce in self.nonces
            and same(update.path, self.path)
        )


def _seen(source: Address) -> list[params.Parameter]:
    """Where a check came from, as its answer says."""
    return [params.MappedAddress((source[0], source[1]))]


def _known(listed: Sequence[params.Locator] | None) -> list[params.Locator] | None:
    return None if listed is None else [locator for locator in listed if locator.ip]


def _nonces(packet: Packet) -> frozenset[bytes]:
    """What the peer echoes."""
    signed = [found.opaque for found in packet.every(params.EchoResponseSigned)]
    unsigned = [found.opaque for found in packet.every(params.EchoResponseUnsigned)]
    return frozenset((*signed, *unsigned))


_CHORES: Final[dict[Chore, Callable[[Upkeep, float], list[Action]]]] = {
    Chore.LOOK: Upkeep.look,
    Chore.REKEY: Upkeep._rekey_if_used,
    Chore.PATIENCE: Upkeep._give_up_rekey,
    Chore.OLD_SA: Upkeep._old_expired,
    Chore.LIFETIME: Upkeep._lifetime_ended,
    Chore.ANNOUNCE: Upkeep._announce,
    Chore.KEEPALIVE: Upkeep._keep_alive,
}
