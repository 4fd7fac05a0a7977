"""What keeps an association that is up: rekeying, mobility, multihoming (RFC 7402, 8046, 8047).

All of it travels in UPDATEs: ``outbox`` makes ours, the peer's are read here; ``rekey`` draws
keys, ``mobility`` and ``traversal`` know between which addresses we speak. Choices of ours:

- One pair of SAs serves all addresses of both sides: only one path is used at a time, ESP rides
  in UDP, and the replay window is wide enough for packets of the path before (RFC 8047 §4.3).
- While a rekey waits for its ACK, every UPDATE of ours repeats its ESP_INFO: that is the "restart"
  of RFC 7402 §6.8, and moving need not wait.
- When nobody acknowledges a rekey or a move, a base exchange finds out what has become of the
  peer; its SAs stay in use meanwhile (RFC 7401 §6.11 would close them).
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from hipctl import hop, params, signed
from hipctl.actions import Action, Address, Pair, Path, Relayed, Transmit
from hipctl.checks import Ask
from hipctl.constants import (
    HEADER_LENGTH,
    NotifyType,
    RegistrationFailure,
)
from hipctl.crypto import Keys, Material
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity
from hipctl.keepalive import Keepalive
from hipctl.limits import Limiter
from hipctl.locators import Earned, read_locator_set
from hipctl.mobility import Mobility
from hipctl.outbox import NO_ECHO, Answers, Outbox
from hipctl.packet import Packet
from hipctl.registrar import Asked
from hipctl.rekey import Rekeying
from hipctl.renewal import Age, Renewal
from hipctl.sansio import Timers
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal
from hipctl.update import Arrival, Outstanding

_ANSWERS_RATE: Final = 5.0  # repeated ACKs a second
_ANSWERS_BURST: Final = 10
_PROBES_RATE: Final = 2.0  # addresses a second that a peer can have us ask, and their victims
_PROBES_BURST: Final = 16
_WAYS_MAX: Final = 4  # on which a last word goes
_FIRST_LOOK: Final = 1.0  # seconds after the association came up


class Chore(Enum):
    """What an association that is up waits for, beside ACKs and its keys' age."""

    LOOK = "time to see whether a call still hears its peer"
    LIFETIME = "an address's lifetime ends"
    ANNOUNCE = "the peer is to be told where we are"
    KEEPALIVE = "NATs between us may be about to forget us"


class Upkeep:
    """The part of an association that lives as long as its keys.

    Attributes:
        outbox: what we say to the peer.
        broken: nobody has acknowledged something important: the association is in doubt.
    """

    __slots__ = (
        "_answered",
        "_answers",
        "_earned",
        "_host_id",
        "_keepalive",
        "_keys",
        "_listed_by",
        "_pair",
        "_paths",
        "_probes",
        "_rekeying",
        "_renewal",
        "_sas",
        "_shared",
        "_spoke_at",
        "_timers",
        "broken",
        "outbox",
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
        self.broken = False
        self._pair = pair
        self._host_id = host_id
        self._keys = keys
        self._sas = sas
        self._shared = shared
        self._paths = paths
        self._answers = Limiter(_ANSWERS_RATE, _ANSWERS_BURST, 1)
        self._probes = Limiter(_PROBES_RATE, _PROBES_BURST, 1)
        self._earned = Earned()
        self._answered: tuple[int, Sequence[params.Parameter]] = (-1, ())  # of registrations
        self._spoke_at = now  # when an authentic UPDATE came
        self._listed_by = 0  # Update ID of the LOCATOR_SET in force
        self._rekeying = Rekeying(pair, material, sas, shared, now)
        self.outbox = Outbox(identity, pair, keys, sas, shared, paths, self._rekeying)
        self._keepalive = Keepalive(identity, pair, sas, shared, paths, now)
        self._timers = Timers[Chore | Age]()
        self._renewal = Renewal(
            self._rekeying, sas, shared, outbox=self.outbox, paths=paths, timers=self._timers
        )
        self.resume(now)

    # -- life ----------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, object]]:
        """The peer's addresses and what we know about each, JSON-ready."""
        return self._paths.describe()

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, if any was measured."""
        return self.outbox.updates.rtt

    @property
    def idle(self) -> bool:
        """It crosses a NAT, nobody uses it, and others are worth more to be kept open."""
        return self._keepalive.idle

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
    def disclosed(self) -> bool:
        """Whether the peer learns where we are."""
        return self._paths.disclosed

    @property
    def found_at(self) -> tuple[float | None, float | None]:
        """When checks had found a path, and when one without relays; monotonic seconds."""
        return self._paths.first_at, self._paths.direct_at

    def ways(self) -> list[Path]:
        """How to reach the peer a last time: along the path in use, then all others."""
        return list(dict.fromkeys([self._paths.path(), *self._paths.telling()]))[:_WAYS_MAX]

    def pause(self) -> None:
        """A base exchange finds out whether the peer is still there; say nothing meanwhile."""
        self.broken = False
        self.outbox.updates.outstanding.clear()
        self._renewal.rest()
        for chore in (Chore.LOOK, Chore.ANNOUNCE, Chore.KEEPALIVE):
            self._timers.stop(chore)

    def resume(self, now: float) -> list[Action]:
        """The peer is there, with the keys that we have."""
        self._renewal.count_anew(now)
        self._timers.set(Chore.LOOK, now + _FIRST_LOOK)
        self._watch_nat(now)
        return self._renewal.resume(now)

    def end(self) -> None:
        """The keys are gone; remove what only we know of."""
        self._rekeying.end()
        self.outbox.updates.outstanding.clear()
        for name in (*Chore, *Age):
            self._timers.stop(name)

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        times = self._timers.deadline(), self.outbox.updates.deadline(), self._paths.deadline()
        return min((at for at in times if at is not None), default=None)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine; look at ``broken`` afterwards."""
        actions: list[Action] = []
        for chore in self._timers.expired(now):
            if isinstance(chore, Age):
                actions += self._renewal.on_time(chore, now)
            else:
                actions += _CHORES[chore](self, now)
        again, given_up = self.outbox.repeat(now)
        actions += again
        for update in given_up:
            actions += self._judge_given_up(update, now)
        actions += [self.outbox.check(ask, now) for ask in self._paths.asks(now)]
        self.broken |= self._paths.lost
        return actions

    def _judge_given_up(self, update: Outstanding, now: float) -> list[Action]:
        actions: list[Action] = []
        if update.ask is not None:
            self._paths.on_given_up(update.ask, now)
            return actions
        others = self.outbox.updates.outstanding.values()
        self.broken |= update.vital
        if update.rekeys and self._rekeying.unsaid:
            self.broken |= not any(other.rekeys for other in others)
        if update.announces and not self._paths.told:
            heard = max(self._heard_at(), self._spoke_at) > update.sent_at
            if not any(other.announces for other in others):
                self.broken |= not heard
                if heard:  # it has moved, too: it is told along other paths
                    actions += self._announce(now)
        unverified = self._sas.outbound.sa.metered and update.path.to == self._paths.path().to
        if unverified and not any(other.path.to == update.path.to for other in others):
            self.broken = True  # data goes nowhere
        self._shared.counters["UPDATE not acknowledged"] += 1
        return actions

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
        signed.authenticate(packet, self._keys, self._host_id)
        self._spoke_at = now
        self._earned.earn(len(packet.raw))
        shared = self._shared
        shared.serving.screen(self._pair, packet)
        host_id = packet.get(params.HostIdParameter)
        if host_id is not None and host_id.host_id != self._host_id:
            raise Rejected("HOST_ID of another")
        echo = signed.Echo.of(packet)
        check = packet.get(params.CandidatePriority)
        answers = Answers.of(packet, update_ids, Path(shared.here, source))
        self._paths.heard(answers.path, now, relayed=answers.relayed, check=check is not None)
        if seq is None or arrival is Arrival.REPEATED:
            actions = self._take_acks(answers, now)
            self._renewal.finish(now)
            if seq is None:
                shared.requester.on_update(self._pair, packet, now)
            elif self._answers.allow("", now):
                shared.counters["UPDATE repeated"] += 1
                more = list(self._answered[1]) if self._answered[0] == seq.update_id else []
                more += _seen(source) if check is not None else []
                actions.append(self.outbox.acknowledge((seq.update_id,), echo, source, more))
            return actions
        listed = read_locator_set(packet, self._keys)
        said = self._rekeying.read(packet, now)
        packet.get(params.Nominate)  # which may be malformed
        if said is not None:
            self._renewal.agree(said, now)  # the last thing that may raise
        self.outbox.updates.note(seq.update_id)
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
        known = None if listed is None else [locator for locator in listed if locator.ip]
        wanted = self._paths.take(known, source, now)
        wanted = [path for path in wanted if self._probes.allow("", now) and self._pays(path)]
        acks, owed = (seq.update_id,), self._answered[1]
        actions += self.outbox.answer(acks, echo, source, now, said=owed, wanted=wanted)
        self._renewal.finish(now)
        if listed is not None:
            self._watch_lifetimes()
            return [*actions, *self._unsupported(listed, source, now)]
        paths = self._paths.questioned(self._heard_at(), now) if echo != NO_ECHO else []
        return [*actions, *(self.outbox.probe(path, now) for path in paths if self._pays(path))]

    def _pays(self, path: Path) -> bool:
        """Whether a probe may go there, and then who has named that address has paid for it."""
        return not self.outbox.blind(path) or self._earned.pay()

    def _answer_check(
        self, ask: Ask | None, update_id: int, echo: signed.Echo, source: Address, now: float
    ) -> Transmit:
        """Answer a connectivity check, if need be with one of ours."""
        acks, seen = (update_id,), _seen(source)
        self._renewal.finish(now)
        if ask is None:
            return self.outbox.acknowledge(acks, echo, source, seen)
        return self.outbox.check(ask, now, ack=acks, echo=echo, seen=seen)

    def _screen(
        self, seq: params.Seq | None, update_ids: Sequence[int], now: float
    ) -> Arrival | None:
        """Whether an UPDATE is worth the look at its signature; None: it only acknowledges."""
        if seq is None:
            if not update_ids:
                raise MalformedPacket("UPDATE without SEQ and ACK")
            if not self.outbox.updates.waits_for(update_ids):
                raise Rejected("ACK of nothing outstanding")
            return None
        arrival = self.outbox.updates.judge(seq.update_id)
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
                return self.outbox.notify(error.notify, error.data, source, now), bad
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
        proven = proven and self._paths.own(path)
        shown = bool(shared.desk.theirs.get(pair))
        relayed = hop.relayed(packet, source)
        asked = Asked(self._keys, source, path if proven else None, shown, bad, relayed=relayed)
        self._answered = update_id, shared.serving.answer(pair, packet, asked, now)
        if shared.serving.permit(pair, packet, now):
            return []
        details = packet.raw[:HEADER_LENGTH]
        return self.outbox.notify(NotifyType.MESSAGE_NOT_RELAYED, details, source, now)

    def _take_acks(self, answers: Answers, now: float) -> list[Action]:
        actions: list[Action] = []
        outstanding = self.outbox.updates.outstanding
        update_ids = [each for each in answers.update_ids if answers.fit(outstanding.get(each))]
        for update in self.outbox.updates.acknowledged(update_ids, now):
            if update.ask is not None:
                mapped = answers.mapped.address if answers.mapped is not None else ("", 0)
                self._paths.on_response(update.ask, answers.path, mapped, now)
                continue
            if update.announces:  # one that tells of earlier addresses was withdrawn
                self._paths.told = True
                self._shared.forget_permissions(self._pair)  # RFC 9028 §4.12.1
            if update.rekeys:
                self._renewal.acknowledged(now)
            straight = answers.straight(update)
            if answers.echo(update) and self._paths.answered(update.path, now, straight=straight):
                self.outbox.withdraw()
                self._paths.told = False
                actions += self._announce(now)
        return actions

    # -- rekeying ------------------------------------------------------------------------------

    def start_rekey(self, now: float) -> list[Action]:
        """Begin to replace the SAs; see ``Renewal.start``."""
        return self._renewal.start(now)

    def on_first_data(self, spi: int, now: float) -> None:
        """Authentic ESP has come under an inbound SA that was awaited."""
        self._renewal.on_first_data(spi, now)

    # -- mobility ------------------------------------------------------------------------------

    def set_locators(self, ours: tuple[Address, ...], at: float, now: float) -> list[Action]:
        """Our addresses are others now: tell the peer at ``at`` (RFC 8046 §3.2)."""
        doubted = any(update.vital for update in self.outbox.updates.outstanding.values())
        self.outbox.withdraw()
        self._paths.move(ours, now)
        if at <= now:  # we may have slept, too: then the peer may have forgotten us
            return [*self._announce(now), *(self.outbox.wake(now) if doubted else ())]
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

    def woke(self, at: float, now: float) -> list[Action]:
        """We have slept: see at ``at`` whether the peer has kept us, and where it sees us now."""
        if at <= now:
            return self.outbox.wake(now)
        self._timers.set(Chore.ANNOUNCE, at)
        return []

    def look(self, now: float) -> list[Action]:
        """See whether it is time for new keys, and whether a call still hears its peer."""
        sas, mobility = self._sas, self._paths
        sas.inbound.heard_at = self._heard_at()
        actions = self.start_rekey(now) if self._rekeying.due() else []
        paths = mobility.look(sas.inbound.heard_at, now)
        for path in filter(self._pays, paths):
            alone = len(paths) == 1 and bool(mobility.ours)  # a NAT may have moved us
            actions.append(self.outbox.probe(path, now, announces=alone))
        here = mobility.path()
        unsure = sas.outbound.sa.metered and not self.outbox.asks(here)
        if unsure and self._probes.allow("", now) and self._pays(here):
            actions.append(self.outbox.probe(here, now))
        if not mobility.told and mobility.in_use and not self.outbox.telling:
            actions += self._announce(now)
        self._watch_nat(now)
        pause = mobility.next_look()
        if pause is not None:
            self._timers.set(Chore.LOOK, now + pause)
        return actions

    def _watch_nat(self, now: float) -> None:
        """Look to keepalives if a NAT stands between us, as far as we know."""
        if not self._timers.armed(Chore.KEEPALIVE) and self._keepalive.matters:
            self._timers.set(Chore.KEEPALIVE, self._keepalive.next(now))

    def _keep_alive(self, now: float) -> list[Action]:
        self._watch_nat(now)
        return self._keepalive.send(now, self.outbox.updates.latest)

    def _announce(self, now: float) -> list[Action]:
        self._timers.stop(Chore.ANNOUNCE)
        return self.outbox.announce(now)

    def _heard_at(self) -> float:
        """When ESP came last, under this SA or the one before."""
        old = self._rekeying.old
        heard_at = self._sas.inbound.heard_at
        return heard_at if old is None else max(heard_at, old.heard_at)

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
        return self.outbox.notify(NotifyType.LOCATOR_TYPE_UNSUPPORTED, details, source, now)


def _seen(source: Address) -> list[params.Parameter]:
    """Where a check came from, as its answer says."""
    return [params.MappedAddress((source[0], source[1]))]


_CHORES: Final[dict[Chore, Callable[[Upkeep, float], list[Action]]]] = {
    Chore.LOOK: Upkeep.look,
    Chore.LIFETIME: Upkeep._lifetime_ended,
    Chore.ANNOUNCE: Upkeep._announce,
    Chore.KEEPALIVE: Upkeep._keep_alive,
}
