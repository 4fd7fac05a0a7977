"""X.509 certificates that speak of HITs (RFC 8002 §3): issue and verify.

A CA is a Host Identity. Its certificates bind URIs and the HIT of a Host Identity (SAN) to that
identity's key; the CA's HIT stands in the IAN. ``cryptography.x509`` reads and writes DER; what
this profile asks beyond that is checked here.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit, HostId, HostIdentity

MAX_CERTIFICATE: Final = 2048  # bytes; ours have about 360
MAX_SPKI: Final = 120  # bytes: what P-384 needs
MAX_SERIAL: Final = 159  # bits: 20 bytes and positive, RFC 5280 §4.1.2.2
ISSUER: Final = "CA"  # RFC 5280 §4.1.2.4 wants a name; the IAN says whose it is

_HASH = ec.ECDSA(SHA384())  # that of HIT suite 2: RFC 8002 §2 allows RFC 7401's algorithms only
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
    }
)
_BAD_DER: Final = (  # what cryptography raises for bytes that it does not take
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # NULL parameters, a negative serial: what it takes under protest
)


@dataclass(frozen=True, slots=True)
class Certified:
    """What a verified certificate says.

    Attributes:
        uris: the URIs in its SAN, as they stand there.
        hit: the subject's HIT, checked against its key.
        host_id: the subject's key.
        serial: at most 20 bytes, big-endian.
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

    def check_time(self, wall: float, tolerance: float = 0.0) -> None:
        """Check that it is in force at ``wall`` (Unix seconds).

        Args:
            wall: now.
            tolerance: seconds by which the CA's clock may be ahead of ours.

        Raises:
            Rejected: it isn't yet, or not any more.
        """
        if wall + tolerance < self.not_before:
            raise Rejected("certificate not yet valid")
        if wall >= self.not_after:
            raise Rejected("certificate expired")


# --- public keys ------------------------------------------------------------------------------


def spki_of(host_id: HostId) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key (RFC 5480 §2).

    Raises:
        MalformedPacket: it is no usable key.
    """
    key = host_id.key
    if HostId.of(key) != host_id:  # a point without its form would get another HIT
        raise MalformedPacket("bad ECDSA point")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def host_id_of_spki(der: bytes) -> HostId:
    """Read a DER SubjectPublicKeyInfo with an uncompressed point on P-256 or P-384.

    Raises:
        MalformedPacket: it is none, or another encoding of one: a key has one form and one HIT.
    """
    if len(der) <= MAX_SPKI:
        try:
            with warnings.catch_warnings(action="error"):
                host_id = _host_id(load_der_public_key(der))
        except _BAD_DER:
            raise MalformedPacket("no P-256 or P-384 public key") from None
        if spki_of(host_id) == der:
            return host_id
    raise MalformedPacket("no P-256 or P-384 public key")


def _host_id(key: object) -> HostId:
    """Take a public key of any kind; ValueError where it cannot be a Host Identity."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("no ECDSA key")
    return HostId.of(key)


# --- issue ------------------------------------------------------------------------------------


def issue_certificate(
    ca: HostIdentity,
    subject: HostId,
    uris: Sequence[str],
    *,
    not_before: int,
    not_after: int,
    serial: bytes,
) -> bytes:
    """Sign a certificate for a Host Identity.

    Args:
        ca: the CA's identity.
        subject: the key that is certified; its HIT goes into the SAN.
        uris: what the key may call itself; ASCII.
        not_before: Unix seconds.
        not_after: Unix seconds.
        serial: 8 random bytes; the first bit is dropped, as a serial is positive.

    Returns:
        DER; about 340 bytes and the URIs with P-256 keys.

    Raises:
        ValueError: a URI isn't ASCII, or the times are in the wrong order.
    """

    def ip(hit: Hit) -> x509.IPAddress:
        return x509.IPAddress(IPv6Address(bytes(hit)))

    number = int.from_bytes(serial, "big") & ~(1 << (8 * len(serial) - 1)) or 1
    san = [*map(x509.UniformResourceIdentifier, uris), ip(subject.hit)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))  # then SAN is critical, RFC 5280 §4.2.1.6
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)]))
        .public_key(subject.key)
        .serial_number(number)
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
        .add_extension(x509.SubjectAlternativeName(san), critical=True)
        .add_extension(x509.IssuerAlternativeName([ip(ca.hit)]), critical=False)
        .sign(ca.private_key, SHA384())
        .public_bytes(Encoding.DER)
    )


# --- verify -----------------------------------------------------------------------------------


def verify_certificate(der: bytes, chain: Sequence[HostId], wall: float) -> Certified:
    """Verify a certificate against the keys of a CA.

    Args:
        der: the certificate.
        chain: the CA's keys; each counts, the newest does not undo the others.
        wall: Unix seconds.

    Raises:
        MalformedPacket: it is no certificate of this profile.
        Rejected: it isn't signed by the CA, or not in force.
    """
    certified = read_certificate(der, chain)
    certified.check_time(wall)
    return certified


def read_self_signed(der: bytes) -> Certified:
    """Verify what a key certifies of itself, but its validity period.

    Raises:
        MalformedPacket: it is no certificate of this profile.
        Rejected: its subject has not signed it.
    """
    certified, _ = _read(der)
    return read_certificate(der, [certified.host_id])


def read_certificate(der: bytes, chain: Sequence[HostId]) -> Certified:
    """Verify all of a certificate but its validity period: what can be kept in a cache.

    Raises:
        MalformedPacket: it is no certificate of this profile.
        Rejected: it isn't signed by the CA.
    """
    certified, certificate = _read(der)
    key = next((ca for ca in chain if ca.hit == certified.issuer), None)
    if key is None:
        raise Rejected("certificate of another CA")
    try:
        key.key.verify(certificate.signature, certificate.tbs_certificate_bytes, _HASH)
    except InvalidSignature:
        raise Rejected("certificate signature") from None
    return certified


def _read(der: bytes) -> tuple[Certified, x509.Certificate]:
    """Read a certificate; whoever signed it, is not checked."""
    if len(der) > MAX_CERTIFICATE:
        raise MalformedPacket("certificate too long")
    try:
        with warnings.catch_warnings(action="error"):
            certificate = x509.load_der_x509_certificate(der)
            certified = _certified(certificate)  # here too: much is read only when asked for
    except x509.DuplicateExtension:
        raise MalformedPacket("certificate extension twice") from None
    except _BAD_DER:
        raise MalformedPacket("bad certificate") from None
    if not der.endswith(
        b"\0" + certificate.signature
    ):  # a BIT STRING of whole bytes: no other form
        raise MalformedPacket("bad certificate")
    return certified, certificate


def _certified(certificate: x509.Certificate) -> Certified:
    """Read a certificate and check all of it but its signature and time."""
    if certificate.version is not x509.Version.v3:  # of others the library reads extensions too
        raise MalformedPacket("no X.509 v3")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise Rejected("certificate signature algorithm")
    serial = certificate.serial_number
    if not 0 < serial < 1 << MAX_SERIAL:
        raise MalformedPacket("bad certificate serial")
    host_id = _host_id(certificate.public_key())
    uris: list[str] = []
    hits: list[Hit] = []
    issuers: list[Hit] = []
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise Rejected("certificate has an unknown critical extension")
        match extension.value:
            case x509.SubjectAlternativeName() as names:
                uris = names.get_values_for_type(x509.UniformResourceIdentifier)
                hits = _hits(names)
            case x509.IssuerAlternativeName() as names:
                issuers = _hits(names)
    if hits != [host_id.hit]:
        raise Rejected("certificate HIT is not its key's")
    if len(issuers) != 1:
        raise MalformedPacket("certificate without issuer HIT")
    return Certified(
        uris=tuple(uris),
        hit=host_id.hit,
        host_id=host_id,
        serial=serial.to_bytes((serial.bit_length() + 7) // 8, "big"),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        issuer=issuers[0],
    )


def _hits(names: x509.SubjectAlternativeName | x509.IssuerAlternativeName) -> list[Hit]:
    """Return the HITs among the names; an address that is none is malformed."""
    hits: list[Hit] = []
    for ip in names.get_values_for_type(x509.IPAddress):
        if not isinstance(ip, IPv6Address):  # IPv4, or a network
            raise MalformedPacket("bad name in certificate")
        try:
            hits.append(Hit.check(ip.packed))
        except ValueError:
            raise MalformedPacket("bad name in certificate") from None
    return hits
