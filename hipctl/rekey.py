"""Rekeying: what each side has said about it, the keys that follow, the SAs before and after.

RFC 7402 §6.8–§6.10.

A rekey is ready to receive once both ESP_INFOs are known, and may be used for sending once our
UPDATE was acknowledged too: then the peer is ready to receive. Data under the new inbound SA says
the same as that ACK.
"""

from dataclasses import dataclass
from typing import Final

from hipctl import esp, params
from hipctl.actions import Pair
from hipctl.constants import SPI_RESERVED
from hipctl.crypto import DhKey, Material
from hipctl.errors import Rejected
from hipctl.packet import Packet
from hipctl.sas import Inbound, SaPair
from hipctl.state import Shared

_PAUSE: Final = 1.0  # seconds between rekeys that we take part in


@dataclass(frozen=True, slots=True)
class Said:
    """What one side's UPDATE says about a rekey.

    Attributes:
        index: its KEYMAT Index.
        spi: its new inbound SPI.
        public: its new DH value, or None.
    """

    index: int
    spi: int
    public: bytes | None


@dataclass(slots=True)
class Rekey:
    """A rekey under way.

    Attributes:
        old_spi: our inbound SPI that it replaces.
        ours: what we say.
        own: our new DH key, or None.
        began: when, monotonic seconds.
        theirs: what the peer says, once it has.
        acknowledged: the peer knows what we say.
        material: KEYMAT from which the keys were drawn, once both sides are known.
        inbound: the new inbound SA; ``outbound`` the outbound one.
        outbound: see ``inbound``.
    """

    old_spi: int
    ours: Said
    own: DhKey | None
    began: float
    theirs: Said | None = None
    acknowledged: bool = False
    material: Material | None = None
    inbound: esp.InboundSa | None = None
    outbound: esp.OutboundSa | None = None

    @property
    def info(self) -> params.EspInfo:
        """Our ESP_INFO."""
        return params.EspInfo(self.ours.index, self.old_spi, self.ours.spi)

    def parameters(self) -> list[params.Parameter]:
        """What every UPDATE of ours carries while this is under way."""
        if self.own is None:
            return [self.info]
        return [self.info, params.DiffieHellman(self.own.group, self.own.public)]

    def agree(
        self, theirs: Said, material: Material, suite: int, hits: tuple[bytes, bytes]
    ) -> None:
        """Take the peer's side and draw the keys (§6.10).

        Args:
            theirs: what the peer says.
            material: KEYMAT in force.
            suite: ESP suite.
            hits: ours and the peer's.

        Raises:
            Rejected: its DH value is bad, or KEYMAT has no more keys; nothing has changed.
        """
        index = max(self.ours.index, theirs.index)
        if self.own is not None or theirs.public is not None:
            material = Material.of(
                material.rhash,
                material.salt,
                self.own or material.own,
                theirs.public or material.public,
                0,
            )
            index = 0
        length = esp.keymat_length(suite)
        if index + 2 * length > material.limit:
            raise Rejected("KEYMAT exhausted")
        key_out, key_in = material.draw(*hits, index, length)
        self.theirs = theirs
        self.material = Material(
            material.rhash,
            material.salt,
            material.prk,
            material.own,
            material.public,
            index + 2 * length,
        )
        self.inbound = esp.InboundSa(suite, self.ours.spi, key_in)
        self.outbound = esp.OutboundSa(suite, theirs.spi, key_out)


class Rekeying:
    """The keys of an association after the base exchange: those in use, before, and next.

    Attributes:
        material: KEYMAT in force.
        pending: the rekey under way, or None.
        old: the inbound SA of before the last rekey, which opens what is late; or None.
    """

    __slots__ = (
        "_finished_at",
        "_pair",
        "_prepared",
        "_previous_spi",
        "_sas",
        "_shared",
        "material",
        "old",
        "pending",
    )

    def __init__(
        self, pair: Pair, material: Material, sas: SaPair, shared: Shared, now: float
    ) -> None:
        self.material = material
        self.pending: Rekey | None = None
        self.old: Inbound | None = None
        self._pair = pair
        self._sas = sas
        self._shared = shared
        self._prepared: Inbound | None = None  # of the rekey, in shared.inbound already
        self._finished_at = now
        self._previous_spi = 0  # the peer's, before the last rekey

    @property
    def unsaid(self) -> Rekey | None:
        """A rekey whose half of ours the peer has not acknowledged."""
        pending = self.pending
        return None if pending is None or pending.acknowledged else pending

    def end(self) -> None:
        """Remove the SAs that only we know of."""
        self.drop_old()
        if self._prepared is not None:
            self._shared.inbound.pop(self._prepared.sa.spi, None)
        self._prepared = self.pending = None

    def drop_old(self) -> None:
        """Nothing more is opened under the SA before."""
        if self.old is not None:
            self._shared.inbound.pop(self.old.sa.spi, None)
            self.old = None

    def due(self) -> bool:
        """Whether one of the SAs has carried enough."""
        sas, limit = self._sas, self._shared.config.rekey_packets
        return max(sas.outbound.sa.packets, sas.inbound.sa.highest) >= limit

    def begin(self, now: float) -> bool:
        """Begin to replace the SAs (§6.8); False if that is under way."""
        if self.pending is not None:
            return False
        self.pending = self._new(now, dh=self._shared.config.rekey_dh)
        return True

    def _new(self, now: float, *, dh: bool, index: int = 0) -> Rekey:
        """Make our half; ``index``: the KEYMAT Index that the peer asks for (§6.9.1)."""
        material, sas = self.material, self._sas
        length = esp.keymat_length(sas.inbound.sa.suite)
        own = None
        if dh or material.index + 4 * length > material.limit:
            own = DhKey(material.own.group, self._shared.rng)
        index = max(material.index, index) if own is None else 0
        public = own.public if own is not None else None
        return Rekey(sas.inbound.sa.spi, Said(index, self._shared.new_spi(), public), own, now)

    def read(self, packet: Packet, now: float) -> Said | None:
        """What a packet says about a rekey, None if nothing new (RFC 8046 §5.3).

        Raises:
            MalformedPacket: a parameter is not well formed.
            Rejected: it is about an SA that we don't have, or cannot be done.
        """
        info = packet.get(params.EspInfo)
        if info is None:
            return None
        current, pending = self._sas.outbound.sa.spi, self.pending
        theirs = pending.theirs.spi if pending is not None and pending.theirs is not None else 0
        if info.old_spi == info.new_spi and info.new_spi in (current, theirs, self._previous_spi):
            return None  # for the benefit of middleboxes
        if info.new_spi in (current, theirs) and info.new_spi:
            return None  # a restart of the rekey that we know
        if not info.old_spi or not info.new_spi:
            self._shared.counters["second or no SA asked for"] += 1
            return None  # acknowledged, and not done: one pair of SAs is what we have
        if info.old_spi != current or info.new_spi <= SPI_RESERVED:
            raise Rejected("ESP_INFO of an unknown SA")
        if pending is None and now - self._finished_at < _PAUSE:
            raise Rejected("rekeys too often")
        return _said(info, packet.get(params.DiffieHellman), self.material)

    def agree(self, said: Said, now: float) -> None:
        """Take the peer's half, and be ready to receive (§6.9).

        Raises:
            Rejected: as ``Rekey.agree``; nothing has changed.
        """
        pending = self.pending or self._new(now, dh=said.public is not None, index=said.index)
        pending.agree(said, self.material, self._sas.inbound.sa.suite, self._pair)
        self.pending = pending
        sa = pending.inbound
        if sa is not None:
            self._prepared = Inbound(sa, *self._pair, self._sas.inbound.heard_at, awaited=True)
            self._shared.inbound[sa.spi] = self._prepared

    def finish(self, now: float) -> bool:
        """Send under the new SA once the peer is ready for it (§6.10); True if that is new."""
        pending, prepared = self.pending, self._prepared
        if pending is None or prepared is None or not pending.acknowledged:
            return False
        sas, material, outbound = self._sas, pending.material, pending.outbound
        if material is None or outbound is None:
            return False
        self.drop_old()
        self.old = sas.inbound
        self._previous_spi = sas.outbound.sa.spi
        if sas.outbound.sa.metered:  # new keys are no new credit
            outbound.meter(sas.outbound.sa.credit)
        sas.inbound, sas.outbound.sa = prepared, outbound
        self.material = material
        self.pending = self._prepared = None
        self._finished_at = now
        self._shared.counters["rekeyed"] += 1
        return True

    def on_first_data(self, spi: int) -> None:
        """Authentic ESP has come under an inbound SA that was awaited: ``finish`` may follow."""
        prepared = self._prepared
        if prepared is not None and prepared.sa.spi == spi and self.pending is not None:
            prepared.awaited = False
            self.pending.acknowledged = True  # who sends under it knows our half
        elif spi == self._sas.inbound.sa.spi:
            self._sas.inbound.awaited = False

    def give_up(self) -> bool:
        """The peer has acknowledged our half and never sent its own; True if that is so."""
        if self.pending is None or self.pending.theirs is not None:
            return False
        self.pending = None
        self._shared.counters["rekey unanswered"] += 1
        return True


def _said(info: params.EspInfo, dh: params.DiffieHellman | None, material: Material) -> Said:
    """Check what the peer says about a rekey (§6.9).

    Raises:
        Rejected: the group is another one, or the index doesn't fit.
    """
    index = info.keymat_index
    if dh is None:
        if index < material.index:
            raise Rejected("KEYMAT Index used before")
        return Said(index, info.new_spi, None)
    if index:
        raise Rejected("KEYMAT Index with DIFFIE_HELLMAN")
    if dh.group != material.own.group:
        raise Rejected("another DH group")
    return Said(0, info.new_spi, dh.public)
