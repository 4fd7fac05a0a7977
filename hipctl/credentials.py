"""Credentials in the base exchange (RFC 8002): what is shown, read, judged; and whether it fits.

The Initiator shows its own in I2, the Responder in R2 (RFC 8002 §2 allows CERT in all packets), to
who has shown some: both encrypted, for a certificate says names that nobody on the way need know.
UPDATE carries those that have changed. In an R1, which goes to whoever asks, stands only what the
policy would tell strangers. A CERT is looked at when the packet's MAC and signature hold, never
before. Without a policy nothing is shown, read or required.
"""

from collections.abc import Callable, Iterable
from typing import Final

from hipctl import crypto, params
from hipctl.actions import Pair
from hipctl.constants import (
    PACKET_MAX,
    UNFRAGMENTED_MAX,
    CertType,
    NatTraversalMode,
    NotifyType,
    ParameterType,
)
from hipctl.crypto import RHASH_LENGTH, Keys, Rng
from hipctl.errors import HostConfigRefused, MalformedPacket, Rejected
from hipctl.identity import HostIdentity
from hipctl.interface import Admission, CredentialPolicy, Shown
from hipctl.packet import Packet, header
from hipctl.settings import EngineConfig

NOTHING: Final = Shown()
_GROUPS_MAX: Final = 255  # CERT group has 8 bits
_IV_LENGTH: Final = 16  # bytes, AES-CBC
_MAC: Final = max(RHASH_LENGTH.values())

Parameters = list[params.Parameter]
_Found = Iterable[params.Parameter | params.Unknown]


def parameters(shown: Shown) -> Parameters:
    """One CERT a certificate, each a group of its own, and DELEGATION if there is one.

    Raises:
        ValueError: more than 255 certificates.
    """
    if len(shown.certificates) > _GROUPS_MAX:
        raise ValueError(f"at most {_GROUPS_MAX} certificates can be shown")
    found: Parameters = [
        params.Cert(group, 1, 1, CertType.X509_V3, der)
        for group, der in enumerate(shown.certificates, 1)
    ]
    if shown.delegation:
        found.append(params.Delegation(shown.delegation))
    return found


def secrets(shown: Shown) -> Parameters:
    """What may travel in ENCRYPTED only."""
    return [params.Invitation(shown.invitation)] if shown.invitation else []


def sealed(
    shown: Shown, keys: Keys, rng: Rng, locators: params.LocatorSet | None = None
) -> Parameters:
    """The same in ENCRYPTED, for a packet after I2; nothing where nothing is to be hidden.

    Args:
        shown: credentials.
        keys: of the association.
        rng: for the IV.
        locators: what stands beside them.
    """
    hidden = parameters(shown)
    if locators is not None:
        hidden.insert(0, locators)
    if not hidden:
        return []
    plain = params.encode(hidden)
    return [params.Encrypted(crypto.encrypt(keys.encrypt_out, rng(_IV_LENGTH), plain))]


def read(packet: Packet, keys: Keys | None = None) -> tuple[Shown, bytes]:
    """Collect what an authentic packet shows, in clear and in ENCRYPTED.

    A group of which certificates are missing is left out: we keep no state for what may follow in
    other packets (RFC 8002 §7).

    Args:
        packet: its MAC and signature hold.
        keys: of the association; None: it has none yet.

    Returns:
        What it shows, and CERT group and CERT ID of the first certificate of a type that we do
        not read, or nothing.

    Raises:
        MalformedPacket: CERTs out of order or numbered wrongly, two DELEGATIONs, bad ENCRYPTED.
    """
    found: list[params.Parameter | params.Unknown] = [*packet.every(params.Cert)]
    found += packet.every(params.Delegation)
    encrypted = packet.get(params.Encrypted) if keys else None
    if keys and encrypted is not None:
        try:
            found += params.decode(crypto.decrypt(keys.encrypt_in, encrypted.ciphertext))
        except Rejected:
            raise MalformedPacket("ENCRYPTED not readable") from None
    return _collect(found)


def _collect(found: _Found) -> tuple[Shown, bytes]:
    groups: dict[int, dict[int, params.Cert]] = {}
    counts: dict[int, int] = {}
    strange, delegation, invitation, last = b"", None, None, 0
    for parameter in found:
        match parameter:
            case params.Delegation(data):
                if delegation is not None:
                    raise MalformedPacket("two DELEGATIONs")
                delegation = data
            case params.Invitation(data):
                if invitation is not None:
                    raise MalformedPacket("two INVITATIONs")
                invitation = data
            case params.Cert(group, count, number, kind):
                group_so_far = groups.setdefault(group, {})
                if (
                    group < last
                    or not 1 <= number <= count
                    or number in group_so_far
                    or counts.setdefault(group, count) != count
                ):
                    raise MalformedPacket("CERTs in disorder")
                last = group
                group_so_far[number] = parameter
                if kind != CertType.X509_V3:
                    strange = strange or bytes((group, number))
    certificates = [
        numbered[number].certificate
        for group, numbered in groups.items()
        if len(numbered) == counts[group]
        for number in sorted(numbered)
        if numbered[number].type == CertType.X509_V3
    ]
    return Shown(tuple(certificates), delegation or b"", invitation or b""), strange


class Desk:
    """Shows our credentials and judges the peers', for all associations of an engine.

    Attributes:
        theirs: what each peer has shown, as long as the association lasts.
        ours: what we have shown to it.
    """

    def __init__(self) -> None:
        self.theirs: dict[Pair, Shown] = {}
        self.ours: dict[Pair, Shown] = {}
        self._policy: CredentialPolicy | None = None
        self._wall: Callable[[], float] = lambda: 0.0

    def use(self, policy: CredentialPolicy, wall: Callable[[], float]) -> None:
        """See ``interface.Host``."""
        self._policy, self._wall = policy, wall

    def show(self, pair: Pair, theirs: Shown | None = None) -> Shown:
        """What our policy shows to the peer; ``theirs``: to who has begun and shown that."""
        if self._policy is None:
            return NOTHING
        return self._policy.shown(*pair, self._wall(), theirs)

    def judge(self, pair: Pair, packet: Packet, keys: Keys) -> Shown:
        """Judge what the Initiator's I2 shows.

        Args:
            pair: of the association.
            packet: an I2 that is authentic.
            keys: that it agreed on.

        Raises:
            Rejected: with the notification that is owed; the peer stays out.
        """
        if self._policy is None:
            return NOTHING
        return self._judge(self._policy, pair, *self._read(packet, keys))

    def judge_answer(self, pair: Pair, packet: Packet, keys: Keys | None) -> Shown:
        """The same for R1, R2 and UPDATE: they need not show anything, but what they show holds.

        Raises:
            Rejected: it does not.
        """
        if self._policy is None:
            return NOTHING
        shown, strange = self._read(packet, keys)
        return self._judge(self._policy, pair, shown, strange) if shown else NOTHING

    def renew(self, pair: Pair, packet: Packet, keys: Keys) -> None:
        """Take what a new UPDATE shows, in place of what was shown before.

        Raises:
            Rejected: it does not hold; what was shown before still counts.
        """
        theirs = self.judge_answer(pair, packet, keys)
        if theirs:
            self.theirs[pair] = theirs

    def changed(self, pair: Pair) -> Shown:
        """What the peer is to be shown in an UPDATE, noted as shown: nothing if it knows."""
        theirs, ours = self.theirs.get(pair), self.ours.get(pair, NOTHING)
        if not ours and not theirs:
            return NOTHING  # credentials are no matter between us
        now = self.show(pair, theirs)
        if not now or now == ours:
            return NOTHING
        self.ours[pair] = now
        return now

    def _read(self, packet: Packet, keys: Keys | None) -> tuple[Shown, bytes]:
        try:
            return read(packet, keys)
        except MalformedPacket as error:  # by now we know who it is, and may say so
            raise Rejected(error.reason, NotifyType.INVALID_SYNTAX) from None

    def _judge(self, policy: CredentialPolicy, pair: Pair, shown: Shown, strange: bytes) -> Shown:
        verdict = policy.admit(*pair, shown, self._wall())
        if verdict is Admission.ACCEPTED:
            return shown
        if strange:
            raise Rejected("certificate type not read", NotifyType.INVALID_CERTIFICATE, strange)
        if verdict is Admission.INVALID_CERTIFICATE:
            raise Rejected("invalid certificate", NotifyType.INVALID_CERTIFICATE)
        raise Rejected("credentials required", NotifyType.CREDENTIALS_REQUIRED)

    def keep(self, pair: Pair, ours: Shown, theirs: Shown) -> None:
        """An exchange has ended well: remember both sides' credentials until ``forget``."""
        self.forget(pair)
        if ours:
            self.ours[pair] = ours
        if theirs:
            self.theirs[pair] = theirs

    def forget(self, pair: Pair) -> None:
        """The association is gone."""
        self.ours.pop(pair, None)
        self.theirs.pop(pair, None)


class PacketSizes:
    """How long the base exchange of one identity gets with credentials in it."""

    def __init__(self, identity: HostIdentity, config: EngineConfig) -> None:
        self._identity = identity
        self._config = config
        signature = identity.sign(b"")
        self._signature = params.HipSignature(identity.host_id.algorithm, signature)
        public = [len(crypto.DhKey(group, _zeros).public) for group in config.groups]
        self._usual, self._longest = public[0], max(public)

    def i2(self, shown: Shown, *, longest: bool = False) -> int:
        """Bytes of the I2 that shows it, if nothing is to be echoed.

        Args:
            shown: credentials.
            longest: with the longest of our DH groups, else with the preferred one.
        """
        config = self._config
        hidden: Parameters = [params.HostIdParameter(self._identity.host_id), *parameters(shown)]
        if config.encrypt_host_id:
            plain = params.encode(hidden)
            hidden = [params.Encrypted(crypto.encrypt(bytes(16), bytes(_IV_LENGTH), plain))]
        public = bytes(self._longest if longest else self._usual)
        whole: Parameters = [
            params.EspInfo(0, 0, 0),
            params.R1Counter(0),
            params.Solution(0, bytes(2), bytes(_MAC), bytes(_MAC)),
            params.DiffieHellman(0, public),
            params.CipherList(config.ciphers[:1]),
            *hidden,
            params.TransportFormatList((ParameterType.ESP_TRANSFORM,)),
            params.EspTransform(config.esp_suites[:1]),
            params.HipMac(bytes(_MAC)),
            self._signature,
        ]
        if config.udp:
            whole.append(params.NatTraversalModes((NatTraversalMode.UDP_ENCAPSULATION,)))
        return len(header(0, bytes(16), bytes(16)) + params.encode(whole))

    def check(self, shown: Shown) -> bool:
        """Whether an I2 with these credentials travels unfragmented: in 1,232 bytes over UDP.

        Raises:
            HostConfigRefused: it fits no HIP packet at all; the message names both causes.
        """
        bare, whole = self.i2(NOTHING, longest=True), self.i2(shown, longest=True)
        if whole > PACKET_MAX:
            raise HostConfigRefused(
                f"the credentials ({whole - bare} bytes) do not fit a HIP packet beside the key "
                f"of {self._identity.hit} ({bare} bytes of I2 without them): together {whole}, "
                f"allowed {PACKET_MAX}; show fewer or shorter certificates, or use a P-256 key"
            )
        return self.unfragmented(shown)

    def unfragmented(self, shown: Shown) -> bool:
        """Whether an I2 with these credentials has at most 1,232 bytes."""
        return self.i2(shown) <= UNFRAGMENTED_MAX


def _zeros(length: int) -> bytes:
    return bytes(length)
