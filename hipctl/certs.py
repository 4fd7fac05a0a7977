"""X.509 certificates that speak of HITs (RFC 8002 §3): issue, verify, and the succession of a CA.

A CA is a Host Identity. Its certificates bind URIs and the HIT of a Host Identity (SAN) to that
identity's key; the CA's HIT stands in the IAN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hipctl.identity import Hit, HostId, HostIdentity


@dataclass(frozen=True, slots=True)
class Certified:
    """What a verified certificate says.

    Attributes:
        uris: the URIs in its SAN, as they stand there.
        hit: the subject's HIT, checked against its key.
        host_id: the subject's key.
        serial: 8 bytes or fewer.
        not_before: Unix seconds.
        not_after: Unix seconds.
        issuer: HIT of the CA's key that signed it.
    """

    uris: tuple[str, ...]
    hit: Hit
    host_id: HostId
    serial: bytes
    not_before: int
    not_after: int
    issuer: Hit


def issue_certificate(
    ca: HostIdentity,
    subject: HostId,
    uris: Sequence[str],
    *,
    not_before: int,
    not_after: int,
    serial: bytes,
) -> bytes:
    """Sign a certificate; returns DER."""
    raise NotImplementedError


def verify_certificate(der: bytes, chain: Sequence[HostId], wall: float) -> Certified:
    """Verify; raises MalformedPacket or Rejected."""
    raise NotImplementedError


def spki_of(host_id: HostId) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key."""
    raise NotImplementedError


def host_id_of_spki(der: bytes) -> HostId:
    """Read a DER SubjectPublicKeyInfo; raises MalformedPacket."""
    raise NotImplementedError
