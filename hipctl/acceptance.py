"""The Responder who believes: an I2 that was vetted becomes keys, an R2, and credentials.

``association`` installs what comes of it; this remembers the I2 that was accepted last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hipctl import credentials, esp, exchange, hop, params
from hipctl.actions import Address, Pair, Path, Relayed
from hipctl.constants import NatTraversalMode
from hipctl.credentials import NOTHING
from hipctl.errors import MalformedPacket, Rejected
from hipctl.exchange import Agreement
from hipctl.identity import HostIdentity
from hipctl.installed import Agreed
from hipctl.interface import Shown
from hipctl.locators import read_locator_set
from hipctl.packet import Packet
from hipctl.registrar import Asked
from hipctl.responder import Responder, Vetted
from hipctl.sas import Inbound
from hipctl.state import Shared

R2_ROOM: Final = 820  # bytes of credentials and locators that R2 has room for, unfragmented


@dataclass(frozen=True, slots=True)
class Accepted:
    """An I2 that holds.

    Attributes:
        agreed: what it says.
        inbound: under which the peer may speak from R2 on.
        answer_j: its #J.
        issued_at: when we sent the R1 that it answers, monotonic seconds.
        r2: the answer.
        shown: our credentials in it.
        theirs: the credentials in I2.
        key_log: a line for the key log, empty if there is none.
    """

    agreed: Agreed
    inbound: Inbound
    answer_j: bytes
    issued_at: float
    r2: bytes
    shown: Shown
    theirs: Shown
    key_log: str


class Acceptance:
    """What the Responder ``identity`` has accepted of its peer.

    Attributes:
        r2: our answer to the I2 that was accepted last, empty before.
    """

    __slots__ = ("_answer_j", "_identity", "_newest", "_pair", "_responder", "_shared", "r2")

    def __init__(
        self, identity: HostIdentity, pair: Pair, responder: Responder, shared: Shared
    ) -> None:
        self.r2 = b""
        self._identity = identity
        self._pair = pair
        self._responder = responder
        self._shared = shared
        self._answer_j: bytes | None = None
        self._newest = 0.0  # only an I2 that answers an R1 sent after that may replace the SAs

    def forget(self) -> None:
        """There are no keys any more: an I2 that is repeated is checked anew."""
        self._answer_j, self.r2 = None, b""

    def superseded(self, now: float) -> None:
        """An exchange of ours has ended well."""
        self.forget()
        self._newest = now

    def taken(self, accepted: Accepted) -> None:
        """That I2 is in force."""
        self._answer_j, self.r2 = accepted.answer_j, accepted.r2
        self._newest = accepted.issued_at

    def knows(self, packet: Packet) -> bool:
        """Whether it is the I2 that was accepted last, sent again."""
        return packet.need(params.Solution).answer_j == self._answer_j

    def vet(self, packet: Packet, source: Address, now: float, *, replaces: bool) -> Vetted:
        """Check what costs next to nothing.

        Args:
            packet: an I2.
            source: where it came from.
            now: monotonic seconds.
            replaces: whether there are SAs that it would replace.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it answers no recent puzzle, or an earlier one than what is in force.
        """
        vetted = self._responder.vet(packet, source, now)
        if replaces and vetted.issued_at <= self._newest:
            # It was on its way while another exchange ended: the peer doesn't go by it either.
            raise Rejected("I2 older than the association")
        return vetted

    def accept(self, packet: Packet, source: Address, vetted: Vetted, now: float) -> Accepted:
        """Check all else, and make R2.

        Args:
            packet: an I2.
            source: where it came from.
            vetted: what is known of it.
            now: monotonic seconds.

        Raises:
            MalformedPacket: it is not well formed; as below, its solution is blamed for that.
            Rejected: it is not authentic, or the credentials in it don't hold.
        """
        shared, responder = self._shared, self._responder
        relayed = hop.relayed(packet, source)
        try:
            agreement = exchange.accept_i2(
                self._identity,
                packet,
                vetted,
                shared.config,
                shared.known_hosts,
                relayed=relayed,
            )
            listed = read_locator_set(packet, agreement.keys)
            theirs = shared.desk.judge(self._pair, packet, agreement.keys)
        except (MalformedPacket, Rejected):
            responder.blame(packet.sender, vetted)
            raise
        responder.spend(packet.sender, vetted)
        here = shared.here
        if here is not None and (":" in here[0]) is not (":" in source[0]):
            here = None
        path = None if isinstance(source, Relayed) else Path(here, source)
        asked = Asked(agreement.keys, source, path, bool(theirs), fresh=True, relayed=relayed)
        said = shared.serving.answer(self._pair, packet, asked, now)
        spi = shared.new_spi()
        r2, shown = self._make_r2(agreement, spi, theirs, said)
        answer_j = vetted.solution.answer_j
        sa = esp.InboundSa(agreement.suite, spi, agreement.keys.esp_in)
        agreed = Agreed(
            agreement.keys,
            agreement.material,
            agreement.host_id,
            agreement.spi_out,
            agreement.mode,
            agreement.pacing,
            listed,
        )
        return Accepted(
            agreed,
            Inbound(sa, *self._pair, now, awaited=True),
            answer_j,
            vetted.issued_at,
            r2,
            shown,
            theirs,
            agreement.key_log,
        )

    def _make_r2(
        self, agreement: Agreement, spi: int, theirs: Shown, said: Sequence[params.Parameter]
    ) -> tuple[bytes, Shown]:
        """Make R2, and show credentials in it to who has shown some, if they fit."""
        shared, tlv = self._shared, self._responder.host_id_tlv
        ours = shared.desk.show(self._pair, theirs) if theirs else NOTHING
        room = R2_ROOM - len(params.encode(credentials.parameters(ours)))
        ice = agreement.mode == NatTraversalMode.ICE_HIP_UDP
        listed = shared.listed(
            self._pair,
            spi,
            room,
            ice=ice,
            disclosed=shared.discloses(self._pair, theirs),
            relays=not (ice and shared.collides(self._pair, agreement.spi_out)),
        )
        sealed = credentials.sealed(ours, agreement.keys, shared.rng, listed)
        try:
            return exchange.make_r2(self._identity, agreement, spi, tlv, [*sealed, *said]), ours
        except ValueError:  # those above us have other ways to show credentials
            sealed = credentials.sealed(NOTHING, agreement.keys, shared.rng, listed)
            made = exchange.make_r2(self._identity, agreement, spi, tlv, [*sealed, *said])
            return made, NOTHING
