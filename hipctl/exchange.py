"""The base exchange as a conversation: what each packet must hold, and the answer to it.

Initiator: make_i1, read_r1, make_i2, read_r2. Responder: accept_i2 (after ``responder.vet``).
Nothing here has a clock, a state or an address; ``association`` owns those.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hipctl import crypto, esp, params, puzzle
from hipctl.constants import (
    HEADER_LENGTH,
    PACING,
    PACKET_MAX,
    SPI_RESERVED,
    SUITES_MAX,
    NatTraversalMode,
    NotifyType,
    PacketType,
    ParameterType,
)
from hipctl.crypto import RHASH, DhKey, Keys, Material, Rng
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity
from hipctl.packet import Packet, build, header
from hipctl.responder import Vetted
from hipctl.settings import EngineConfig
from hipctl.signed import Echo, authenticate, sign_and_mac

_KNOWN_HOSTS_MAX: Final = 1024
_IV_LENGTH: Final = 16  # bytes, AES-CBC


class KnownHosts:
    """Keeps parsed public keys, so that each is decoded and checked once; bounded."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[bytes, HostId] = OrderedDict()

    def remember(self, host_id: HostId) -> HostId:
        """Return the one that was parsed before, or this one."""
        known = self._hosts.get(host_id.encoded)
        if known is not None and known.algorithm is host_id.algorithm:
            self._hosts.move_to_end(host_id.encoded)
            return known
        self._hosts[host_id.encoded] = host_id
        if len(self._hosts) > _KNOWN_HOSTS_MAX:
            self._hosts.popitem(last=False)
        return host_id


@dataclass(frozen=True, slots=True)
class Offer:
    """An R1 whose signature holds, and what we choose from it.

    Attributes:
        puzzle: its PUZZLE.
        prefix: what is hashed before #J.
        rhash: the Responder's hash.
        counter: its R1_COUNTER, or None.
        group: the DH group; ``public`` the Responder's value.
        public: see ``group``.
        cipher: the HIP cipher that we choose; ``suite`` the ESP suite.
        suite: see ``cipher``.
        host_id: the Responder's key; ``host_id_tlv`` as it stood in R1, which R2's MAC covers.
        host_id_tlv: see ``host_id``.
        info: what the Responder offers to register for, if it does.
        mode: the NAT_TRAVERSAL_MODE that I2 has to say, None for none.
        pacing: seconds between connectivity checks, the greater of both sides' wishes.
        echo: what I2 has to echo.
    """

    puzzle: params.Puzzle
    prefix: bytes
    rhash: str
    counter: params.R1Counter | None
    group: int
    public: bytes
    cipher: int
    suite: int
    host_id: HostId
    host_id_tlv: bytes
    info: params.RegInfo | None
    mode: int | None
    pacing: float
    echo: Echo


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a finished half of the exchange yields.

    Attributes:
        host_id: the peer's key.
        keys: all keys.
        material: from which later ones are drawn.
        suite: ESP suite.
        spi_out: the peer's SPI, to which we send.
        echo: what R2 has to echo.
        mode: NAT_TRAVERSAL_MODE, or None.
        pacing: as in Offer.
        key_log: a line for the key log, empty if there is none.
    """

    host_id: HostId
    keys: Keys
    material: Material
    suite: int
    spi_out: int
    echo: Echo
    mode: int | None
    pacing: float
    key_log: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An I2 that we made.

    Attributes:
        packet: its bytes.
        keys: all keys.
        material: from which later ones are drawn.
        key_log: a line for the key log, empty if there is none.
    """

    packet: bytes
    keys: Keys
    material: Material
    key_log: str


def make_i1(local: bytes, peer: bytes, config: EngineConfig) -> bytes:
    """Make an I1 (RFC 7401 §5.3.1)."""
    return build(PacketType.I1, local, peer, [params.DhGroupList(config.groups)])


def _choose(ours: Sequence[int], offered: Sequence[int], what: str) -> int:
    """The first of the Responder's offers that we know (RFC 7401 §5.2.8: its preference)."""
    for number in offered[:SUITES_MAX]:
        if number in ours:
            return number
    raise Rejected(what)


def _check_group(group: int, offered: Sequence[int], config: EngineConfig) -> None:
    """The Responder must have taken its first group that is in our list (RFC 7401 §6.8)."""
    best = next((number for number in offered if number in config.groups), None)
    if best is None or group not in config.groups:
        raise Rejected("no DH group in common")
    if group != best:
        raise Rejected("DH group downgraded")


def read_r1(
    packet: Packet, config: EngineConfig, known_hosts: KnownHosts, *, relayed: bool = False
) -> Offer:
    """Check an R1 that answers our I1, and choose from its offers (RFC 7401 §6.8).

    ``relayed``: it came through a relay, of whichever side.

    Raises:
        MalformedPacket: something is missing or not well formed.
        Rejected: it is not authentic, we have nothing in common, or the puzzle is too hard.
    """
    rhash = RHASH.get(packet.sender.suite)
    if rhash is None:
        raise Rejected("unknown HIT suite")
    offered = packet.need(params.Puzzle)
    if offered.k > config.k_max:
        raise Rejected("puzzle too hard")
    if len(offered.random_i) != crypto.RHASH_LENGTH[rhash]:
        raise MalformedPacket("PUZZLE of wrong length")
    diffie_hellman = packet.need(params.DiffieHellman)
    _check_group(diffie_hellman.group, packet.need(params.DhGroupList).groups, config)
    hit_suites = packet.need(params.HitSuiteList).suites
    if any(suite & 0x0F for suite in hit_suites):
        raise MalformedPacket("reserved bits in HIT_SUITE_LIST")
    if packet.receiver.suite << 4 not in hit_suites:
        raise Rejected("our HIT suite unknown to the Responder")
    if ParameterType.ESP_TRANSFORM not in packet.need(params.TransportFormatList).formats:
        raise Rejected("no transport format in common")
    mode = _choose_mode(packet, config, relayed)
    ciphers = packet.need(params.CipherList).ciphers
    cipher = _choose(config.ciphers, ciphers, "no HIP cipher in common")
    suites = packet.need(params.EspTransform).suites
    suite = _choose(config.esp_suites, suites, "no ESP suite in common")
    host_id = signed_r1(packet, known_hosts)
    return Offer(
        puzzle=offered,
        prefix=puzzle.prefix(offered.random_i, packet.receiver, packet.sender),
        rhash=rhash,
        counter=packet.get(params.R1Counter),
        group=diffie_hellman.group,
        public=diffie_hellman.public,
        cipher=cipher,
        suite=suite,
        host_id=host_id,
        host_id_tlv=packet.tlv(params.HostIdParameter),
        info=packet.get(params.RegInfo),
        mode=mode if config.udp else None,
        pacing=_pacing(packet, config),
        echo=Echo.of(packet),
    )


def signed_r1(packet: Packet, known_hosts: KnownHosts) -> HostId:
    """Check that an R1 is its sender's; return its key.

    Raises:
        MalformedPacket: something is missing or not well formed.
        Rejected: it is not authentic.
    """
    host_id = known_hosts.remember(packet.need(params.HostIdParameter).host_id)
    if host_id.hit != packet.sender:
        raise Rejected("HOST_ID is not the HIT's")
    signature = packet.need(params.HipSignature2)
    if signature.algorithm != host_id.algorithm or not host_id.verify(
        signature.signature, packet.covered_by_signature_2()
    ):
        raise Rejected("wrong HIP_SIGNATURE_2")
    return host_id


def _choose_mode(packet: Packet, config: EngineConfig, relayed: bool) -> int | None:
    """The NAT traversal mode for what answers an R1 (RFC 9028 §4.3, §4.7.2).

    What came through a relay goes on with connectivity checks or not at all, for a relay carries
    no data of hosts that have not asked for it. Else the exchange itself has shown that the path
    works. (RELAY_TO is not signed: who is on the way can make us refuse an R1 by it, as by any
    other change.)
    """
    found = packet.get(params.NatTraversalModes)
    if found is None and not relayed:
        return None
    offered = found.modes[:SUITES_MAX] if found is not None else ()
    wanted = [] if relayed else [NatTraversalMode.UDP_ENCAPSULATION]
    if config.ice:
        wanted.append(NatTraversalMode.ICE_HIP_UDP)
    mode = next((mode for mode in wanted if mode in offered), None)
    if mode is None:
        raise Rejected("no NAT traversal mode in common")
    return mode


def _pacing(packet: Packet, config: EngineConfig) -> float:
    """Seconds between checks, the greater of both wishes (RFC 9028 §4.4).

    Who says nothing means 50 ms. Ours is never less than is allowed, whatever the peer says.
    """
    theirs = packet.get(params.TransactionPacing)
    least = theirs.milliseconds / 1e3 if theirs is not None else PACING
    return max(least, config.pacing)


def make_i2(
    identity: HostIdentity,
    offer: Offer,
    *,
    answer_j: bytes,
    spi: int,
    config: EngineConfig,
    rng: Rng,
    credentials: Sequence[params.Parameter] = (),
    locators: params.LocatorSet | None = None,
    secrets: Sequence[params.Parameter] = (),
    more: Sequence[params.Parameter] = (),
) -> Reply:
    """Make the I2 that answers an R1 (RFC 7401 §5.3.3, RFC 7402 §5.2.1.2).

    Args:
        identity: ours.
        offer: the R1.
        answer_j: #J.
        spi: our inbound SPI.
        config: of the engine.
        rng: for the DH key and the IV.
        credentials: CERTs and what belongs to them; as hidden as our HOST_ID.
        locators: our candidates, always hidden.
        secrets: always hidden, too.
        more: what else is said, in clear.

    Raises:
        Rejected: the Responder's DH value is no point of its curve, or I2 gets too long.
    """
    local, peer = identity.hit, offer.host_id.hit
    key = DhKey(offer.group, rng)
    shared = key.shared(offer.public)
    salt = offer.puzzle.random_i + answer_j
    keys = crypto.draw(
        rhash=offer.rhash,
        secret=shared,
        salt=salt,
        local=local,
        peer=peer,
        cipher=offer.cipher,
        esp_length=esp.keymat_length(offer.suite),
    )
    about_us: list[params.Parameter] = [params.HostIdParameter(identity.host_id), *credentials]
    hidden: list[params.Parameter] = [*([locators] if locators is not None else []), *secrets]
    if config.encrypt_host_id:
        hidden, about_us = [*hidden, *about_us], []
    if hidden:
        encrypted = crypto.encrypt(keys.encrypt_out, rng(_IV_LENGTH), params.encode(hidden))
        about_us.append(params.Encrypted(encrypted))
    parameters: list[params.Parameter] = [
        params.EspInfo(keys.esp_index, 0, spi),
        params.Solution(offer.puzzle.k, offer.puzzle.opaque, offer.puzzle.random_i, answer_j),
        params.DiffieHellman(offer.group, key.public),
        params.CipherList((offer.cipher,)),
        *about_us,
        *more,
        *offer.echo.signed,
        params.TransportFormatList((ParameterType.ESP_TRANSFORM,)),
        params.EspTransform((offer.suite,)),
    ]
    if offer.counter is not None:
        parameters.append(offer.counter)
    if offer.mode is not None:
        parameters.append(params.NatTraversalModes((offer.mode,)))
    if offer.mode == NatTraversalMode.ICE_HIP_UDP:
        parameters.append(params.TransactionPacing(round(offer.pacing * 1e3)))
    data = header(PacketType.I2, local, peer) + params.encode(parameters)
    try:
        packet = sign_and_mac(data, keys, identity, unsigned=offer.echo.unsigned)
    except ValueError:
        raise Rejected(f"I2 longer than {PACKET_MAX} bytes") from None
    line = _key_log_line(local, peer, offer.puzzle.random_i, answer_j, shared, keys.keymat)
    drawn = len(keys.keymat)
    material = Material.of(offer.rhash, salt, key, offer.public, drawn, secret=shared)
    return Reply(packet, keys, material, line if config.keylog else "")


def read_r2(packet: Packet, offer: Offer, keys: Keys) -> int:
    """Check the R2 that answers our I2; return the peer's SPI (RFC 7401 §6.10).

    Raises:
        MalformedPacket: something is missing or not well formed.
        Rejected: the MAC or the signature is wrong, or the SPI is reserved.
    """
    authenticate(packet, keys, offer.host_id, offer.host_id_tlv)
    return _spi(packet, keys)


def _spi(packet: Packet, keys: Keys) -> int:
    info = packet.need(params.EspInfo)
    if info.old_spi or info.new_spi <= SPI_RESERVED or info.keymat_index != keys.esp_index:
        raise Rejected("bad ESP_INFO", NotifyType.INVALID_SYNTAX)
    return info.new_spi


def accept_i2(
    identity: HostIdentity,
    packet: Packet,
    vetted: Vetted,
    config: EngineConfig,
    known_hosts: KnownHosts,
    *,
    relayed: bool = False,
) -> Agreement:
    """Check the dear part of an I2: DH, MAC, HOST_ID, signature (RFC 7401 §6.9, steps 9–15).

    ``relayed``: it came through a relay, of whichever side.

    Raises:
        MalformedPacket: something is missing or not well formed.
        Rejected: a choice isn't one of our offers, or something is not authentic.
    """
    cipher = _chosen(
        packet.need(params.CipherList).ciphers,
        config.ciphers,
        "HIP_CIPHER not offered",
        NotifyType.INVALID_HIP_CIPHER_CHOSEN,
    )
    suite = _chosen(
        packet.need(params.EspTransform).suites,
        config.esp_suites,
        "ESP_TRANSFORM not offered",
        NotifyType.INVALID_ESP_TRANSFORM_CHOSEN,
    )
    formats = packet.need(params.TransportFormatList).formats
    _chosen(
        formats,
        (ParameterType.ESP_TRANSFORM,),
        "TRANSPORT_FORMAT_LIST not offered",
        NotifyType.NO_ESP_PROPOSAL_CHOSEN,
    )
    mode = _chosen_mode(packet, config, relayed)
    diffie_hellman = packet.need(params.DiffieHellman)
    key = vetted.generation.keys.get(diffie_hellman.group)
    if key is None:
        raise Rejected("DH group not offered", NotifyType.INVALID_DH_CHOSEN)
    shared = key.shared(diffie_hellman.public)
    salt = vetted.solution.random_i + vetted.solution.answer_j
    keys = crypto.draw(
        rhash=vetted.rhash,
        secret=shared,
        salt=salt,
        local=identity.hit,
        peer=packet.sender,
        cipher=cipher,
        esp_length=esp.keymat_length(suite),
    )
    if not keys.mac_fits(packet.covered(params.HipMac), packet.need(params.HipMac).mac):
        raise Rejected("wrong HIP_MAC", NotifyType.HIP_MAC_FAILED)
    host_id = known_hosts.remember(_host_id(packet, keys))
    if host_id.hit != packet.sender:
        raise Rejected("HOST_ID is not the HIT's", NotifyType.INVALID_HIT)
    signature = packet.need(params.HipSignature)
    if signature.algorithm != host_id.algorithm or not host_id.verify(
        signature.signature, packet.covered(params.HipSignature)
    ):
        raise Rejected("wrong HIP_SIGNATURE", NotifyType.AUTHENTICATION_FAILED)
    try:
        spi_out, echo = _spi(packet, keys), Echo.of(packet)
    except MalformedPacket as error:  # by now we know who it is, and may say so (§5.2.19)
        raise Rejected(error.reason, NotifyType.INVALID_SYNTAX) from None
    solution = vetted.solution
    line = _key_log_line(
        packet.sender, identity.hit, solution.random_i, solution.answer_j, shared, keys.keymat
    )
    drawn = len(keys.keymat)
    material = Material.of(vetted.rhash, salt, key, diffie_hellman.public, drawn, secret=shared)
    return Agreement(
        host_id,
        keys,
        material,
        suite,
        spi_out,
        echo,
        mode,
        _pacing(packet, config),
        line if config.keylog else "",
    )


def _chosen_mode(packet: Packet, config: EngineConfig, relayed: bool) -> int | None:
    """The mode that I2 has chosen, if it may (RFC 9028 §4.3, §4.7.2)."""
    found = packet.get(params.NatTraversalModes)
    if found is None and not relayed:
        return None
    offered = NatTraversalMode.ICE_HIP_UDP if relayed else NatTraversalMode.UDP_ENCAPSULATION
    mode = found.modes[0] if found is not None and len(found.modes) == 1 else None
    if mode != offered or (relayed and not config.ice):
        why = NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER
        raise Rejected("NAT_TRAVERSAL_MODE not offered", why, packet.raw[:HEADER_LENGTH])
    return mode


def _chosen(values: Sequence[int], offered: Sequence[int], what: str, notify: NotifyType) -> int:
    if len(values) != 1 or values[0] not in offered:
        raise Rejected(what, notify)
    return values[0]


def _host_id(packet: Packet, keys: Keys) -> HostId:
    """The Initiator's key, in clear or out of ENCRYPTED."""
    clear = packet.get(params.HostIdParameter)
    if clear is not None:
        return clear.host_id
    encrypted = packet.need(params.Encrypted)
    try:
        inner = params.decode(crypto.decrypt(keys.encrypt_in, encrypted.ciphertext))
    except (Rejected, MalformedPacket):
        raise Rejected("ENCRYPTED not readable", NotifyType.ENCRYPTION_FAILED) from None
    if any(isinstance(parameter, params.Unknown) and parameter.critical for parameter in inner):
        raise Rejected("unknown critical parameter")
    for parameter in inner:
        if isinstance(parameter, params.HostIdParameter):
            return parameter.host_id
    raise Rejected("no HOST_ID in ENCRYPTED", NotifyType.ENCRYPTION_FAILED)


def make_r2(
    identity: HostIdentity,
    agreement: Agreement,
    spi: int,
    host_id_tlv: bytes,
    more: Sequence[params.Parameter] = (),
) -> bytes:
    """Make the R2 that answers an I2 (RFC 7401 §5.3.4, RFC 7402 §5.2.1.3).

    Args:
        identity: ours.
        agreement: what the I2 said.
        spi: our inbound SPI.
        host_id_tlv: our HOST_ID as in our R1.
        more: ENCRYPTED with CERTs and what belongs to them, answers to registrations.
    """
    keys = agreement.keys
    info = params.EspInfo(keys.esp_index, 0, spi)
    parameters: list[params.Parameter] = [info, *more, *agreement.echo.signed]
    data = header(PacketType.R2, identity.hit, agreement.host_id.hit)
    return sign_and_mac(
        data + params.encode(parameters),
        keys,
        identity,
        host_id_tlv=host_id_tlv,
        unsigned=agreement.echo.unsigned,
    )


def _key_log_line(*fields: bytes) -> str:
    """``HIP <HIT-I> <HIT-R> <I> <J> <DH secret> <KEYMAT>``: opens a capture for debugging."""
    return "HIP " + " ".join(field.hex() for field in fields)
