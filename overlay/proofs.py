"""What was verified once needn't be again: bounded memories of signatures and certificates.

Keys are hashes of all that went into a verification, so a hit proves as much as the work would;
only successes are kept, so that nobody can fill the memory without signing.
"""

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hipctl import Certified, HostId, MalformedPacket, Rejected, read_certificate
from overlay.accounts import (
    Delegation,
    canonical_aor,
    hit_of_user,
    is_reserved,
    split_aor,
)
from overlay.constants import CERTIFICATE_LIFE, CLOCK_TOLERANCE, DAY, MAX_CERTIFICATE
from overlay.errors import MalformedAor
from overlay.overlayfile import OverlayInfo

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """A dict of at most ``size`` entries; the oldest goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._of: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._of)

    def get(self, key: K) -> V | None:
        """Return what is kept under ``key``, or None."""
        return self._of.get(key)

    def keep(self, key: K, value: V) -> None:
        """Keep ``value``."""
        if len(self._of) >= self._size:
            del self._of[next(iter(self._of))]
        self._of[key] = value


SIGNATURES: Final[Memory[bytes, bool]] = Memory(4096)
CERTIFICATES: Final[Memory[bytes, "NameCertificate"]] = Memory(1024)


@dataclass(frozen=True, slots=True)
class NameCertificate:
    """A certificate by an overlay's CA, all verified but the time.

    Attributes:
        account: the certified key.
        aors: canonical AoRs of the overlay's domain that the account may use, at least one; none
            that is reserved or certifies itself.
        serial: without leading zeros.
        not_after: Unix seconds.
        certified: all that it says.
    """

    account: HostId
    aors: tuple[str, ...]
    serial: bytes
    not_after: int
    certified: Certified


def delegation_signed(delegation: Delegation) -> bool:
    """Whether a delegation's account signed it, with low s."""
    seen = hashlib.sha256(delegation.raw).digest()  # it begins with a context of its own
    if SIGNATURES.get(seen):
        return True
    good = delegation.verify()
    if good:
        SIGNATURES.keep(seen, True)
    return good


def certified(der: bytes, overlay: OverlayInfo, wall: float) -> NameCertificate:
    """Verify a certificate by the CA of ``overlay``, in force at ``wall``.

    Raises:
        MalformedPacket: it is no certificate.
        Rejected: it isn't the CA's, not in force, lives longer than the overlay allows, or holds
            no name of the overlay's domain.
    """
    found = name_certificate(der, overlay)
    found.certified.check_time(wall, CLOCK_TOLERANCE)
    return found


def name_certificate(der: bytes, overlay: OverlayInfo) -> NameCertificate:
    """Verify all of a certificate but whether it is in force now.

    Raises:
        MalformedPacket: see ``certified``.
        Rejected: see ``certified``.
    """
    if not overlay.ca:
        raise Rejected("overlay has no CA")
    if len(der) > MAX_CERTIFICATE:
        raise MalformedPacket("certificate too long")
    seen = hashlib.sha256(b"".join((overlay.ca_digest, overlay.domain.encode(), der))).digest()
    found = CERTIFICATES.get(seen)
    if found is None:
        said = read_certificate(der, overlay.ca)
        if said.not_after - said.not_before > CERTIFICATE_LIFE + DAY:
            raise Rejected("certificate lives too long")
        aors = tuple(_aors(said.uris, overlay.domain))
        if not aors:  # a CA may serve several overlays: each name admits into its own only
            raise Rejected("certificate without a name here")
        found = NameCertificate(said.host_id, aors, said.serial, said.not_after, said)
        CERTIFICATES.keep(seen, found)
    return found


def _aors(uris: tuple[str, ...], domain: str) -> Iterator[str]:
    for uri in uris:
        try:
            aor = canonical_aor(uri)
        except MalformedAor:
            continue
        user, host = split_aor(aor)
        if host == domain and not is_reserved(user) and hit_of_user(user) is None:
            yield aor
