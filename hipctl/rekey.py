"""One rekey of a pair of SAs: what each side has said, and the keys that follow.

RFC 7402 §6.8–§6.10.

A rekey is ready to receive once both ESP_INFOs are known, and may be used for sending once our
UPDATE was acknowledged too: then the peer is ready to receive. Data under the new inbound SA says
the same as that ACK.
"""

from dataclasses import dataclass

from hipctl import esp, params
from hipctl.crypto import DhKey, Material
from hipctl.errors import Rejected


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


def read(packet_info: params.EspInfo, dh: params.DiffieHellman | None, material: Material) -> Said:
    """Check what the peer says about a rekey (§6.9).

    Raises:
        Rejected: the group is another one, or the index doesn't fit.
    """
    index = packet_info.keymat_index
    if dh is None:
        if index < material.index:
            raise Rejected("KEYMAT Index used before")
        return Said(index, packet_info.new_spi, None)
    if index:
        raise Rejected("KEYMAT Index with DIFFIE_HELLMAN")
    if dh.group != material.own.group:
        raise Rejected("another DH group")
    return Said(0, packet_info.new_spi, dh.public)
