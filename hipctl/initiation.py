"""A base exchange that we have begun: the R1 that we work on, our I2, and what R2 concludes.

``association`` owns state, timers and retransmission; this owns what has been agreed so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hipctl import credentials, esp, exchange, hop, params
from hipctl.actions import Address, Pair, Relayed, SolvePuzzle
from hipctl.constants import NatTraversalMode, NotifyType
from hipctl.credentials import NOTHING
from hipctl.crypto import RHASH_LENGTH, Keys
from hipctl.errors import Rejected
from hipctl.exchange import Offer, Reply
from hipctl.identity import HostId, HostIdentity
from hipctl.installed import Agreed
from hipctl.interface import Shown
from hipctl.locators import read_locator_set, usable
from hipctl.packet import Packet
from hipctl.sas import Inbound
from hipctl.state import Shared

_REFUSALS: Final = frozenset(
    {NotifyType.CREDENTIALS_REQUIRED.name, NotifyType.INVALID_CERTIFICATE.name}
)
_ICE: Final = NatTraversalMode.ICE_HIP_UDP
I2_ROOM: Final = 480  # bytes of credentials and locators that I2 has room for, unfragmented
_EARLY_MAX: Final = 8  # UPDATEs that are kept until R2 has come
_REFUSALS_MAX: Final = 3  # NOTIFYs of one exchange whose signature we check


@dataclass(slots=True)
class Work:
    """An R1 whose puzzle is being solved or was solved.

    Attributes:
        offer: the R1.
        source: where it came from, where I2 goes.
        serial: names the SolvePuzzle.
        reply: our I2, once it is made.
        spi: our inbound SPI in it.
        shown: our credentials in it.
        theirs: the credentials in the R1.
        refusal: why the Responder says that it won't answer; ``refusals_read`` NOTIFYs said so.
        refusals_read: see ``refusal``.
    """

    offer: Offer
    source: Address
    serial: int
    reply: Reply | None = None
    spi: int = 0
    shown: Shown = NOTHING
    theirs: Shown = NOTHING
    refusal: str = ""
    refusals_read: int = 0


@dataclass(frozen=True, slots=True)
class Concluded:
    """What an exchange of ours has agreed.

    Attributes:
        offer: the R1.
        inbound: under which the peer may speak already.
        agreed: all else.
        shown: our credentials in I2.
    """

    offer: Offer
    inbound: Inbound
    agreed: Agreed
    shown: Shown


class Initiation:
    """The exchange of ``pair`` that ``identity`` has begun, if any."""

    __slots__ = (
        "_asked_again",
        "_early",
        "_identity",
        "_pair",
        "_shared",
        "_started_over",
        "_work",
    )

    def __init__(self, identity: HostIdentity, pair: Pair, shared: Shared) -> None:
        self._identity = identity
        self._pair = pair
        self._shared = shared
        self._work: Work | None = None
        self._asked_again = False  # I2 stays unanswered: has the Responder restarted?
        self._started_over = False  # that has led to another I2: once an exchange
        self._early: list[tuple[Packet, Address, Address | None]] = []  # UPDATEs before R2

    def begin(self) -> None:
        """The first I1 goes out."""
        self._asked_again = self._started_over = False

    def drop(self) -> None:
        """Forget what has not ended, with its inbound SA."""
        work, self._work = self._work, None
        if work is not None and work.spi:
            self._shared.inbound.pop(work.spi, None)

    @property
    def working(self) -> bool:
        """Whether there is an R1 that we work on."""
        return self._work is not None

    @property
    def address(self) -> Address:
        """Where our I2 goes."""
        return self._need().source

    @property
    def refusal(self) -> str:
        """Why the Responder says that it leaves our I2 unanswered; empty if it has not."""
        return self._work.refusal if self._work is not None else ""

    def keys(self) -> tuple[Keys, HostId] | None:
        """Those of the I2 that we have sent, and the peer's key."""
        work = self._work
        if work is None or work.reply is None:
            return None
        return work.reply.keys, work.offer.host_id

    # -- R1 ------------------------------------------------------------------------------------

    def read_r1(self, packet: Packet, source: Address, now: float) -> SolvePuzzle:
        """Take an R1 that answers our I1, in place of the one before; return what to solve.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it is not authentic, repeated, or we have nothing in common.
        """
        work, shared = self._work, self._shared
        if shared.shuns(self._pair, source):
            raise Rejected("R1 past our relays")
        counter = packet.get(params.R1Counter)
        if work is not None and not self._newer(packet, counter, work.offer):
            raise Rejected("R1 repeated")
        listed = packet.get(params.LocatorSet)
        relayed = hop.relayed(packet, source)
        offer = exchange.read_r1(packet, shared.config, shared.known_hosts, relayed=relayed)
        theirs = NOTHING
        if not packet.has(params.LanInfo):  # else what it shows doesn't say who its sender is
            theirs = shared.desk.judge_answer(self._pair, packet, None)
        self._started_over |= self._asked_again
        self._asked_again = False
        self.drop()
        shared.serial += 1
        self._work = Work(offer, _preferred(listed, source), shared.serial, theirs=theirs)
        k, rhash = offer.puzzle.k, offer.rhash
        deadline = now + min(offer.puzzle.seconds, shared.config.generation_lifetime)
        start = int.from_bytes(shared.rng(RHASH_LENGTH[rhash]), "big")
        return SolvePuzzle((*self._pair, shared.serial), k, offer.prefix, rhash, start, deadline)

    def _newer(self, packet: Packet, counter: params.R1Counter | None, offer: Offer) -> bool:
        """Whether an R1 is worth more than the one we work on (RFC 7401 §6.8).

        That is a later generation; or, once we have asked again because nobody answers our I2,
        any other puzzle: the Responder has restarted, or somebody has forged #I in the first.
        """
        if self._asked_again and packet.need(params.Puzzle).random_i != offer.puzzle.random_i:
            return True
        known = offer.counter
        return counter is not None and known is not None and counter.generation > known.generation

    def ask_again(self) -> bool:
        """I2 stays unanswered: whether another I1 is to ask if the Responder has restarted."""
        if self._started_over:
            return False
        self._asked_again = True
        return True

    # -- I2 ------------------------------------------------------------------------------------

    def solves(self, serial: int) -> bool:
        """Whether that SolvePuzzle is of the R1 that we work on."""
        return self._work is not None and self._work.serial == serial

    def answer(self, j: bytes, now: float) -> Reply:
        """Make I2, and be ready for what the Responder sends when it has it (RFC 7402 §6.4).

        Raises:
            Rejected: the Responder's DH value is bad; the R1 is forgotten.
        """
        work, shared = self._need(), self._shared
        spi, work.shown = shared.new_spi(), shared.desk.show(self._pair)
        hidden, secrets = credentials.parameters(work.shown), credentials.secrets(work.shown)
        aside = isinstance(work.source, Relayed) and shared.hides(self._pair)
        info = None if aside else work.offer.info  # not through a relay
        try:
            reply = exchange.make_i2(
                self._identity,
                work.offer,
                answer_j=j,
                spi=spi,
                config=shared.config,
                rng=shared.rng,
                credentials=hidden,
                locators=self._locators(work.offer, spi, [*hidden, *secrets]),
                secrets=secrets,
                more=shared.requester.request(self._pair, info),
            )
        except Rejected:
            self._work = None
            raise
        work.reply, work.spi = reply, spi
        sa = esp.InboundSa(work.offer.suite, spi, reply.keys.esp_in)
        shared.inbound[spi] = Inbound(sa, *self._pair, now)
        return reply

    def _locators(
        self, offer: Offer, spi: int, hidden: Sequence[params.Parameter]
    ) -> params.LocatorSet | None:
        """Our candidates, or in other modes our control relays, as far as they fit into I2."""
        room = I2_ROOM - len(params.encode(hidden))
        ice = offer.mode == _ICE
        shown = not self._shared.hides(self._pair)
        return self._shared.listed(self._pair, spi, room, ice=ice, disclosed=shown)

    def on_notify(self, packet: Packet) -> None:
        """Count what a NOTIFY says, and note why the Responder leaves our I2 unanswered.

        No MAC protects it and it may be a replay: it changes nothing (RFC 7401 §8).

        Raises:
            MalformedPacket: it is not well formed.
        """
        packet.need(params.Notification)
        for notification in packet.every(params.Notification):
            try:
                name = NotifyType(notification.type).name
            except ValueError:
                name = "of unknown type"
            self._shared.counters[f"NOTIFY {name}"] += 1
            if name in _REFUSALS:
                self._hear_why(packet, name)

    def _hear_why(self, packet: Packet, name: str) -> None:
        work = self._work
        if work is None or work.reply is None or work.refusals_read >= _REFUSALS_MAX:
            return
        work.refusals_read += 1  # a signature costs, and anybody may send such
        signature = packet.need(params.HipSignature)
        if work.offer.host_id.verify(signature.signature, packet.covered(params.HipSignature)):
            work.refusal = name  # for whoever is told of the failure

    # -- R2 ------------------------------------------------------------------------------------

    def read_r2(self, packet: Packet) -> int:
        """Check the R2 that answers our I2; return the peer's SPI.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it is not authentic.
        """
        work = self._work
        if work is None or work.reply is None:
            raise Rejected("R2 without I2")
        return exchange.read_r2(packet, work.offer, work.reply.keys)

    def listed_in_r2(self, packet: Packet) -> tuple[params.Locator, ...] | None:
        """The Responder's locators, in clear or encrypted.

        Raises:
            MalformedPacket: they are not well formed.
            Rejected: ENCRYPTED cannot be read.
        """
        work = self._need()
        return read_locator_set(packet, work.reply.keys) if work.reply is not None else None

    def judge_r2(self, packet: Packet) -> Shown:
        """The Responder's credentials, out of its R2 or else its R1.

        Raises:
            Rejected: they don't hold.
        """
        work = self._need()
        keys = work.reply.keys if work.reply is not None else None
        return self._shared.desk.judge_answer(self._pair, packet, keys) or work.theirs

    def conclude(self, spi_out: int, listed: tuple[params.Locator, ...] | None) -> Concluded:
        """What was agreed; there is nothing left to work on. The inbound SA stays in use.

        Args:
            spi_out: what ``read_r2`` has returned.
            listed: what ``listed_in_r2`` has.
        """
        work, self._work = self._need(), None
        if work.reply is None:
            raise Rejected("R2 without I2")
        offer, reply = work.offer, work.reply
        agreed = Agreed(
            reply.keys,
            reply.material,
            offer.host_id,
            spi_out,
            offer.mode,
            offer.pacing,
            listed,
        )
        return Concluded(offer, self._shared.inbound[work.spi], agreed, work.shown)

    # -- UPDATEs that overtake R2 --------------------------------------------------------------

    def keep(self, packet: Packet, source: Address) -> None:
        """A connectivity check may overtake R2 (RFC 9028 §4.6.2): keep it until R2 has come.

        Raises:
            Rejected: there are enough.
        """
        if len(self._early) >= _EARLY_MAX:
            raise Rejected("UPDATE in I2-SENT")
        self._early.append((packet, source, self._shared.here))

    def release(self) -> list[tuple[Packet, Address, Address | None]]:
        """What was kept: packet, source, at which address of ours; nothing is, any more."""
        early, self._early = self._early, []
        return early

    def _need(self) -> Work:
        if self._work is None:
            raise Rejected("R2 without I2")
        return self._work


def _preferred(listed: params.LocatorSet | None, source: Address) -> Address:
    """Where I2 goes: to the preferred locator of R1, if there is one (RFC 8047 §4.2.8)."""
    if isinstance(source, Relayed):  # nothing goes past our relay
        return source
    for locator in listed.locators if listed is not None else ():
        if locator.preferred and locator.ip:
            return usable(locator, source[1], source) or source
    return source
