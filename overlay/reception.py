"""What base exchanges show for our overlays, and whom they let in: hipctl's CredentialPolicy.

All overlays of a host share its associations. A peer is let in when any overlay lets it in; who
may speak in which overlay is asked again by each node, of what was shown for that one. So
DELEGATION holds, for each overlay, its tag, the DEV, and how many of the certificates are for it:

    [tag(8), DEV, count, tag, DEV, count …]        canonical msgpack

Nobody is told of an overlay that does not concern it: the Initiator shows what belongs to the
overlays through which it knows the peer, the Responder answers for those that were named. To
strangers who ask for an R1 nothing is shown, unless ``public`` says so. What is not shown here is
shown in HELLO.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from hipctl import (
    Admission,
    EngineConfig,
    Hit,
    HostIdentity,
    MalformedPacket,
    PacketSizes,
    Rejected,
    Shown,
)
from overlay.accounts import Delegation
from overlay.admission import MAX_SHOWN, Credentials, admit
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import DELEGATION_LIFE, MAX_CERTIFICATE
from overlay.errors import CredentialsRefused
from overlay.messages import TAG_LENGTH, overlay_tag
from overlay.overlayfile import OverlayInfo
from overlay.proofs import name_certificate

MAX_DELEGATIONS: Final = 2048  # bytes of DELEGATION; a HIP packet has no room for more
_FIELDS: Final = 3  # of one overlay


def pack(found: Iterable[tuple[bytes, Credentials]]) -> Shown:
    """What is shown for these overlays: (tag, credentials with a delegation) each."""
    fields: list[bytes | int] = []
    certificates: list[bytes] = []
    for tag, credentials in found:
        if credentials.delegation is not None:
            fields += (tag, credentials.delegation.raw, len(credentials.certificates))
            certificates += credentials.certificates
    return Shown(tuple(certificates), encode(fields) if fields else b"")


def unpack(shown: Shown) -> dict[bytes, Credentials]:
    """The credentials that were shown, by the tag of the overlay that they are for.

    Certificates without DELEGATION are somebody else's business: there are none for us then.

    Raises:
        CredentialsRefused: DELEGATION is malformed, or does not fit the certificates.
    """
    if not shown.delegation:
        return {}
    try:
        fields = decode(shown.delegation, MAX_DELEGATIONS)
    except NotCanonical as error:
        raise CredentialsRefused(f"delegations: {error.reason}") from None
    found: dict[bytes, Credentials] = {}
    left = list(shown.certificates)
    for at in range(0, len(fields), _FIELDS):
        match fields[at : at + _FIELDS]:
            case [bytes(tag), bytes(dev), int(count)] if (
                len(tag) == TAG_LENGTH and tag not in found and 0 <= count <= MAX_SHOWN
            ):
                mine, left = left[:count], left[count:]
            case _:
                raise CredentialsRefused("delegations: no delegations")
        if len(mine) != count or any(len(der) > MAX_CERTIFICATE for der in mine):
            raise CredentialsRefused("delegations: not these certificates")
        found[tag] = Credentials(Delegation.parse(dev), tuple(mine))
    if left:
        raise CredentialsRefused("delegations: not these certificates")
    return found


def shown_for(tag: bytes, shown: Shown | None) -> bytes | None:
    """What was shown for one overlay, as HELLO would carry it; None: nothing that could count."""
    if shown is None:
        return None
    try:
        credentials = unpack(shown).get(tag)
        return None if credentials is None else credentials.encode()
    except CredentialsRefused:
        return None


@dataclass(slots=True)
class _Door:
    """One overlay on one of our HITs.

    Attributes:
        info: the overlay.
        tag: its tag.
        credentials: what exchanges show of ours.
        carried: whether exchanges show them; else HELLO does.
        knows: whether our node knows a HIT through this overlay.
        offset: our neighbours' clocks minus ours; None: we can't tell yet.
    """

    info: OverlayInfo
    tag: bytes
    credentials: Credentials
    carried: bool
    knows: Callable[[Hit], bool] = lambda hit: False
    offset: Callable[[], float | None] = lambda: None


class Reception:
    """Shows and judges for all overlays of a host; implements ``hipctl.CredentialPolicy``.

    Args:
        config: of the host's engine: it says how long packets get.
        public: whether even an R1, which goes to anybody who asks, shows who lives here.
    """

    def __init__(self, config: EngineConfig, *, public: bool = False) -> None:
        self._config = config
        self._public = public
        self._invited: Callable[[Hit, Hit, bytes], bool] = lambda local, peer, proof: False
        self._doors: dict[Hit, list[_Door]] = {}
        self._sizes: dict[Hit, PacketSizes] = {}

    def open(self, identity: HostIdentity, info: OverlayInfo, credentials: Credentials) -> bool:
        """Take part in one more overlay.

        Where an exchange with our credentials would travel in fragments, it carries fewer of the
        certificates, and HELLO shows them all. If not even one of them fits, it is shown only if
        the overlay asks for it.

        Args:
            identity: with which.
            info: the overlay.
            credentials: what we show there.

        Returns:
            Whether the exchange stays unfragmented.

        Raises:
            HostConfigRefused: it fits no HIP packet; the message says what is too long.
        """
        door, fits = self._door(identity, info, credentials)
        doors = self._doors.setdefault(identity.hit, [])
        doors.append(door)
        doors.sort(key=lambda door: door.info.admission == "open")  # who insists comes first
        return fits or not door.carried

    def renew(self, identity: HostIdentity, info: OverlayInfo, credentials: Credentials) -> None:
        """Show other credentials in an overlay from now on; see ``open``.

        Raises:
            HostConfigRefused: they fit no HIP packet; the former ones are shown still.
        """
        made, _ = self._door(identity, info, credentials)
        for door in self._doors.get(identity.hit, ()):
            if door.tag == made.tag:
                door.credentials, door.carried = made.credentials, made.carried

    def _door(
        self, identity: HostIdentity, info: OverlayInfo, credentials: Credentials
    ) -> tuple[_Door, bool]:
        """What is shown there, and whether exchanges stay unfragmented with it."""
        tag = overlay_tag(info.id)
        sizes = self._sizes.setdefault(identity.hit, PacketSizes(identity, self._config))
        shown = credentials
        for count in range(len(credentials.certificates), 0, -1):
            shown = Credentials(credentials.delegation, credentials.certificates[:count])
            if sizes.unfragmented(pack([(tag, shown)])):
                break
        fits = sizes.check(pack([(tag, shown)]))
        return _Door(info, tag, shown, fits or info.admission == "enrolled"), fits

    def attach(
        self,
        local: Hit,
        info: OverlayInfo,
        knows: Callable[[Hit], bool],
        offset: Callable[[], float | None],
    ) -> None:
        """Tell what the node of an overlay knows, once it is there.

        Args:
            local: its HIT.
            info: its overlay.
            knows: whether it knows a HIT through this overlay.
            offset: its neighbours' clocks minus ours, seconds; None: it can't tell yet.
        """
        for door in self._doors.get(local, ()):
            if door.info.id == info.id:
                door.knows, door.offset = knows, offset

    def invite(self, invited: Callable[[Hit, Hit, bytes], bool]) -> None:
        """Let in whoever shows an invitation that holds: ``invited(local, peer, proof)``.

        It may ask for the overlay's file then, and for nothing else: nodes judge for themselves.
        """
        self._invited = invited

    # --- hipctl.CredentialPolicy

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        """See ``hipctl.CredentialPolicy``."""
        doors = [door for door in self._doors.get(local, ()) if door.carried]
        if peer is None:
            doors = doors if self._public else []
        elif theirs is not None:
            named = self._unpack(theirs)
            doors = [door for door in doors if door.tag in named]
        elif len(self._doors.get(local, ())) > 1:
            doors = [door for door in doors if door.knows(peer)]
        return self._together(local, doors)

    def _together(self, local: Hit, doors: list[_Door]) -> Shown:
        """As many as travel unfragmented together; the first in any case."""
        shown = Shown()
        chosen: list[tuple[bytes, Credentials]] = []
        for door in doors:
            more = pack([*chosen, (door.tag, door.credentials)])
            if chosen and not self._sizes[local].unfragmented(more):
                continue
            chosen.append((door.tag, door.credentials))
            shown = more
        return shown

    @staticmethod
    def _unpack(shown: Shown) -> dict[bytes, Credentials]:
        try:
            return unpack(shown)
        except CredentialsRefused:
            return {}

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        """See ``hipctl.CredentialPolicy``.

        A HIT that takes part in no overlay lets everybody in: there is nothing to be had.
        """
        doors = self._doors.get(local, [])
        if shown.invitation and self._invited(local, peer, shown.invitation):
            return Admission.ACCEPTED
        try:
            given = unpack(shown)
        except CredentialsRefused:
            return Admission.INVALID_CERTIFICATE
        refused = False
        for door in doors:
            credentials = given.get(door.tag)
            try:
                self._admit(door, peer, credentials or Credentials(), wall)
            except CredentialsRefused:
                refused |= credentials is not None
            else:
                return Admission.ACCEPTED
        if not doors:
            return Admission.ACCEPTED
        return Admission.INVALID_CERTIFICATE if refused else Admission.CREDENTIALS_REQUIRED

    @staticmethod
    def _admit(door: _Door, peer: Hit, credentials: Credentials, wall: float) -> None:
        offset = door.offset()
        if offset is None:  # a clock that was lost must not refuse everybody: HELLO is stricter
            wall = max(wall, _earliest(credentials, door.info))
        else:
            wall += offset
        admit(credentials, door.info, peer, wall)


def _earliest(credentials: Credentials, info: OverlayInfo) -> float:
    """The first moment, Unix seconds, at which all of it could be in force."""
    dev = credentials.delegation
    times = [0 if dev is None else dev.not_after - DELEGATION_LIFE]
    for der in credentials.certificates:
        try:
            times.append(name_certificate(der, info).certified.not_before)
        except (MalformedPacket, Rejected) as error:
            raise CredentialsRefused(error.reason) from None
    return max(times)
