"""UPDATEs of ours: what each carries; made, signed, sent, and sent again (RFC 7401 §6.11).

``update`` numbers them, and ``upkeep`` says when one is due and reads what comes back. While a
rekey waits for its ACK, each repeats its ESP_INFO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hipctl import credentials, hop, params, signed
from hipctl.actions import Action, Address, Pair, Path, Transmit
from hipctl.checklist import same
from hipctl.checks import RTO_MIN, Ask
from hipctl.constants import (
    PROBE_RETRANSMIT_MAX,
    UPDATE_RETRANSMIT_INITIAL,
    UPDATE_RETRANSMIT_MIN,
    NotifyType,
    PacketType,
)
from hipctl.crypto import Keys
from hipctl.identity import HostIdentity
from hipctl.mobility import Mobility
from hipctl.packet import Packet, header
from hipctl.rekey import Rekeying
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal
from hipctl.update import Outstanding, Updates

_NONCE_LENGTH: Final = 16  # bytes
_GATHERING_MAX: Final = 4  # transmissions of one that asks for addresses
_SPREAD_MAX: Final = 3  # more paths on which a move is told once the first does not answer
NO_ECHO: Final = signed.Echo((), ())


class Outbox:
    """What we say to the peer of one association that is up.

    Attributes:
        updates: which of it waits for an ACK.
    """

    __slots__ = (
        "_identity",
        "_keys",
        "_pair",
        "_paths",
        "_rekeying",
        "_sas",
        "_shared",
        "updates",
    )

    def __init__(  # noqa: PLR0917 - the fields of an association
        self,
        identity: HostIdentity,
        pair: Pair,
        keys: Keys,
        sas: SaPair,
        shared: Shared,
        paths: Mobility | Traversal,
        rekeying: Rekeying,
    ) -> None:
        initial = min(shared.config.retransmit_initial, UPDATE_RETRANSMIT_INITIAL)
        self.updates = Updates(initial, UPDATE_RETRANSMIT_MIN)
        self._identity = identity
        self._pair = pair
        self._keys = keys
        self._sas = sas
        self._shared = shared
        self._paths = paths
        self._rekeying = rekeying

    # -- packets -------------------------------------------------------------------------------

    def make(self, parameters: Sequence[params.Parameter], echo: signed.Echo = NO_ECHO) -> bytes:
        """Make an UPDATE of these, with MAC and signature."""
        data = header(PacketType.UPDATE, *self._pair)
        data += params.encode([*parameters, *echo.signed])
        return signed.sign_and_mac(data, self._keys, self._identity, unsigned=echo.unsigned)

    def acknowledge(
        self,
        ack: tuple[int, ...],
        echo: signed.Echo,
        to: Address,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Send one that needs no ACK itself."""
        return Transmit(self.make([params.Ack(ack), *more], echo), to)

    def check(
        self,
        ask: Ask,
        now: float,
        *,
        ack: tuple[int, ...] = (),
        echo: signed.Echo = NO_ECHO,
        seen: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Send a connectivity check (RFC 9028 §4.6.1); with ``ack`` it answers one, too."""
        number, nonce = self.updates.number(), self._shared.rng(_NONCE_LENGTH)
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
        packet = self.make(parameters, echo)
        update = Outstanding(number, packet, ask.path, ask.limit, nonce, ask=ask, pause=ask.rto)
        self.updates.sent(update, now)
        return _transmit(update)

    def ask(
        self,
        path: Path,
        now: float,
        *,
        limit: int | None = None,
        ack: tuple[int, ...] = (),
        echo: signed.Echo = NO_ECHO,
        announces: bool = False,
        probes: bool = True,
        pause: float = 0.0,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Send an UPDATE that wants an ACK.

        Args:
            path: between which addresses.
            now: monotonic seconds.
            limit: transmissions at most, None for as many as the configuration says.
            ack: Update IDs that it acknowledges.
            echo: what it echoes.
            announces: it tells our addresses.
            probes: it asks for an echo, which proves its path.
            pause: see Outstanding.
            more: what else it says.

        Raises:
            ValueError: it would be longer than a packet.
        """
        pending = self._rekeying.unsaid
        number = self.updates.number()
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
        packet = self.make(parameters, echo)
        if limit is None:
            limit = self._shared.config.update_retransmit_max
        rekeys = pending is not None
        update = Outstanding(number, packet, path, limit, nonce, announces, rekeys, pause=pause)
        self.updates.sent(update, now)
        return _transmit(update)

    def probe(
        self,
        path: Path,
        now: float,
        *,
        ack: tuple[int, ...] = (),
        echo: signed.Echo = NO_ECHO,
        announces: bool = False,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Ask whether the peer is there; longer where our data goes already, but see ``blind``."""
        limit = None if path.to == self._paths.path().to else PROBE_RETRANSMIT_MAX
        if self.blind(path):
            limit = 1
        return self.ask(path, now, limit=limit, ack=ack, echo=echo, announces=announces, more=more)

    def blind(self, path: Path) -> bool:
        """Whether only a client of ours says that it is there: it may be anybody's address.

        Such a one is asked once, and the client pays for that; see ``locators.Earned``.
        """
        return self._shared.serving.holds(self._pair) and not self._paths.hears(path.to)

    def notify(self, what: NotifyType, details: bytes, to: Address, now: float) -> list[Action]:
        """Say what is wrong, but not often."""
        if not self._shared.notify_limit.allow("", now):
            return []
        return [Transmit(signed.make_notify(self._identity, self._pair[1], what, details), to)]

    # -- what there is to say ------------------------------------------------------------------

    def answer(
        self,
        ack: tuple[int, ...],
        echo: signed.Echo,
        to: Address,
        now: float,
        *,
        said: Sequence[params.Parameter],
        wanted: Sequence[Path],
    ) -> list[Action]:
        """Acknowledge; what we have to say ourselves goes along if it goes there anyway.

        Args:
            ack: Update IDs to acknowledge.
            echo: what to echo.
            to: where to.
            now: monotonic seconds.
            said: what else belongs to the answer.
            wanted: paths to probe.
        """
        actions: list[Action] = []
        here = next((path for path in wanted if path.to == to), None)
        if here is not None:
            actions.append(self.probe(here, now, ack=ack, echo=echo, more=said))
        if self._owes_half():
            if here is None:
                path = self._paths.to(to)
                actions.append(self.say_rekey(now, path, ack=ack, echo=echo, more=said))
            else:  # the probe may go unanswered, this must not
                actions.append(self.say_rekey(now))
        elif here is None:
            actions.append(self.acknowledge(ack, echo, to, said))
        actions += [self.probe(path, now) for path in wanted if path.to != to]
        return actions

    def _owes_half(self) -> bool:
        """Whether the peer has said its half of a rekey and ours is not on its way."""
        pending = self._rekeying.unsaid
        if pending is None or pending.theirs is None:
            return False
        waiting = self.updates.outstanding.values()
        return not any(update.rekeys and not update.nonce for update in waiting)

    def say_rekey(
        self,
        now: float,
        path: Path | None = None,
        *,
        ack: tuple[int, ...] = (),
        echo: signed.Echo = NO_ECHO,
        more: Sequence[params.Parameter] = (),
    ) -> Transmit:
        """Say our half of the rekey under way (RFC 7402 §6.8)."""
        path = path or self._paths.path()
        return self.ask(path, now, ack=ack, echo=echo, probes=False, more=more)

    def tell(self, parameters: Sequence[params.Parameter], now: float) -> list[Action]:
        """Say this; a peer that doesn't acknowledge it may not be there any more.

        Who asks where it is seen, and for addresses, asks for an echo too, and is in no hurry (RFC
        9028 §4.1, §4.2).
        """
        more, limit, pause = [*parameters], None, 0.0
        if any(isinstance(each, params.RegRequest) for each in parameters):
            more.append(params.EchoRequestSigned(self._shared.rng(_NONCE_LENGTH)))
            found = 2 * len(self._shared.servers)  # where each sees us, and what it opens
            limit, pause = _GATHERING_MAX, max(RTO_MIN, self._shared.config.pacing * found)
        path = self._paths.path()
        sent = self.ask(path, now, limit=limit, probes=False, pause=pause, more=more)
        next(reversed(self.updates.outstanding.values())).vital = True
        return [sent]

    def show(self, now: float) -> list[Action]:
        """Show our credentials again if they are others now (RFC 8002 §2)."""
        shared = self._shared
        changed = shared.desk.changed(self._pair)
        if not changed:
            return []
        sealed = credentials.sealed(changed, self._keys, shared.rng)
        try:
            return [self.ask(self._paths.path(), now, probes=False, more=sealed)]
        except ValueError:
            shared.counters["credentials longer than a packet"] += 1
            shared.desk.ours.pop(self._pair, None)
            return []

    def permit(self, permissions: Sequence[params.PeerPermission], now: float) -> list[Action]:
        """Ask the peer, a data relay, to pass on what comes from these (RFC 9028 §4.12.1)."""
        return [self.ask(self._paths.path(), now, probes=False, more=list(permissions))]

    def poke(self, now: float) -> list[Action]:
        """See whether the peer hears us where we are now: our NAT may have moved us."""
        if self.telling:
            return []
        return [self.ask(self._paths.path(), now, announces=True)]

    def wake(self, now: float) -> list[Action]:
        """Ask whether the peer has kept us while we slept, and where it sees us now."""
        sent = self.ask(self._paths.path(), now, limit=PROBE_RETRANSMIT_MAX, announces=True)
        next(reversed(self.updates.outstanding.values())).vital = True
        return [sent]

    def announce(self, now: float) -> list[Action]:
        """Tell the peer where we are, along the best path, and see whether that works."""
        paths = self._paths.telling()
        return [self.ask(path, now, announces=True) for path in paths[: self._paths.spread]]

    def _announce_elsewhere(self, now: float) -> list[Action]:
        """Nobody answers there: the peer may have moved too (RFC 8046 §3.2.3)."""
        waiting = self.updates.outstanding.values()
        tried = {update.path for update in waiting if update.announces}
        if len(tried) > 1 or self._paths.told:
            return []
        paths = self._paths.telling()[: _SPREAD_MAX + 1]
        return [self.ask(path, now, announces=True) for path in paths if path not in tried]

    def withdraw(self) -> None:
        """What was said about our addresses holds no more."""
        for update in list(self.updates.outstanding.values()):
            if update.announces:
                del self.updates.outstanding[update.update_id]

    @property
    def telling(self) -> bool:
        """Whether the peer is being told where we are."""
        return any(update.announces for update in self.updates.outstanding.values())

    def asks(self, path: Path) -> bool:
        """Whether something that wants an ACK is on its way there."""
        return any(update.path.to == path.to for update in self.updates.outstanding.values())

    # -- time ----------------------------------------------------------------------------------

    def repeat(self, now: float) -> tuple[list[Action], list[Outstanding]]:
        """Send again what was not acknowledged; also what that has been done with too often."""
        self.updates.drop_idle(self._paths.wanted, now)
        again, given_up = self.updates.expired(now)
        actions: list[Action] = []
        for update in again:
            if not update.nonce:  # it is about no path: one of us may have moved meanwhile
                update.path = self._way(update.attempt)
            actions.append(_transmit(update))
            if update.announces and update.attempt == 2:
                actions += self._announce_elsewhere(now)
        return actions, given_up

    def _way(self, attempt: int) -> Path:
        """Along the path in use, later through relays of the peer's by turns (RFC 9028 §4.8)."""
        detours = self._paths.detours() if attempt % 2 else []
        turn = attempt // 2 - 1  # the third transmission is the first
        return detours[turn % len(detours)] if detours else self._paths.path()


def _transmit(update: Outstanding) -> Transmit:
    return Transmit(update.packet, update.path.to, update.path.source)


@dataclass(frozen=True, slots=True)
class Answers:
    """What an UPDATE of the peer's says of ours.

    Attributes:
        update_ids: that it acknowledges.
        nonces: that it echoes.
        path: along which it came: (at which of our addresses, where from).
        mapped: where it saw our check come from.
        relayed: it came through a control relay, the peer's or ours.
    """

    update_ids: Sequence[int]
    nonces: frozenset[bytes]
    path: Path
    mapped: params.MappedAddress | None
    relayed: bool

    @classmethod
    def of(cls, packet: Packet, update_ids: Sequence[int], path: Path) -> "Answers":
        """Read what else belongs to an ACK.

        Raises:
            MalformedPacket: it is not well formed.
        """
        signed = [found.opaque for found in packet.every(params.EchoResponseSigned)]
        unsigned = [found.opaque for found in packet.every(params.EchoResponseUnsigned)]
        mapped = packet.get(params.MappedAddress)
        nonces = frozenset((*signed, *unsigned))
        return cls(update_ids, nonces, path, mapped, hop.relayed(packet, path.to))

    def echo(self, update: Outstanding) -> bool:
        """Whether it holds the nonce that was sent with that."""
        return bool(update.nonce) and update.nonce in self.nonces

    def straight(self, update: Outstanding) -> bool:
        """Whether it comes from where that was sent, and nobody has passed it on."""
        return not self.relayed and self.path.to == update.path.to

    def fit(self, update: Outstanding | None) -> bool:
        """Whether it answers that; a check only along its own path (RFC 9028 §4.6.2)."""
        if update is None or update.ask is None:
            return True
        return (
            self.mapped is not None
            and update.nonce in self.nonces
            and same(update.path, self.path)
        )
