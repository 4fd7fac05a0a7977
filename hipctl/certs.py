"""X.509 certificates that speak of HITs (RFC 8002 §3): issue, verify, and the succession of a CA.

A CA is a Host Identity. Its certificates bind URIs and the HIT of a Host Identity (SAN) to that
identity's key; the CA's HIT stands in the IAN. They are issued by ``cryptography.x509``, which
costs 7 MB of memory to import; a peer, which only verifies, reads this one profile of DER here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from hipctl.constants import EccCurve
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import Hit, HostId, HostIdentity

MAX_CERTIFICATE: Final = 2048  # bytes; ours have about 360
ISSUER: Final = "CA"  # RFC 5280 §4.1.2.4 wants a name; the IAN says whose it is

_HASH = ec.ECDSA(SHA384())  # that of HIT suite 2: RFC 8002 §2 allows RFC 7401's algorithms only

_INTEGER, _BIT_STRING, _OCTET_STRING, _OID, _SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x30  # X.690 §8
_BOOLEAN, _UTC_TIME, _GENERALIZED_TIME = 0x01, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # RFC 5280 §4.1
_URI, _IP_ADDRESS = 0x86, 0x87  # GeneralName, RFC 5280 §4.2.1.6
_V3 = b"\x02\x01\x02"
_ECDSA_SHA384 = bytes.fromhex("06082a8648ce3d040303")  # 1.2.840.10045.4.3.3
_SAN, _IAN = b"\x55\x1d\x11", b"\x55\x1d\x12"  # RFC 5280 §4.2.1.6, §4.2.1.7
_KEY_USAGE, _BASIC_CONSTRAINTS = b"\x55\x1d\x0f", b"\x55\x1d\x13"
_EMPTY_SEQUENCE = b"\x30\x00"
_SPKI: dict[EccCurve, tuple[bytes, int]] = {  # what stands before the point; the point's length
    EccCurve.NIST_P256: (
        bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
        65,
    ),
    EccCurve.NIST_P384: (bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"), 97),
}


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
    host_id.key  # noqa: B018  only a point on its curve is written
    prefix, length = _SPKI[host_id.curve]
    if len(host_id.encoded) != 2 + length:  # a point without its form would get another HIT
        raise MalformedPacket("bad ECDSA point")
    return prefix + host_id.encoded[2:]


def host_id_of_spki(der: bytes) -> HostId:
    """Read a DER SubjectPublicKeyInfo with an uncompressed point on P-256 or P-384.

    Raises:
        MalformedPacket: it is none.
    """
    for curve, (prefix, length) in _SPKI.items():
        if der.startswith(prefix) and len(der) == len(prefix) + length:
            host_id = HostId.ecdsa(curve.to_bytes(2, "big") + der[len(prefix) :])
            host_id.key  # noqa: B018
            return host_id
    raise MalformedPacket("no P-256 or P-384 public key")


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
    from cryptography import x509  # noqa: PLC0415  only who issues pays for it
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

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


def read_certificate(der: bytes, chain: Sequence[HostId]) -> Certified:
    """Verify all of a certificate but its validity period: what can be kept in a cache.

    Raises:
        MalformedPacket: it is no certificate of this profile.
        Rejected: it isn't signed by the CA.
    """
    if len(der) > MAX_CERTIFICATE:
        raise MalformedPacket("certificate too long")
    outer = _Der(der)
    parts = _Der(outer.take(_SEQUENCE))
    outer.end()
    start = parts.at
    tbs = _Der(parts.take(_SEQUENCE))
    covered = parts.data[start : parts.at]
    if parts.take(_SEQUENCE) != _ECDSA_SHA384:
        raise Rejected("certificate signature algorithm")
    signature = parts.take(_BIT_STRING)
    parts.end()
    certified = _read_tbs(tbs)
    key = next((ca for ca in chain if ca.hit == certified.issuer), None)
    if key is None:
        raise Rejected("certificate of another CA")
    try:
        key.key.verify(signature[1:], covered, _HASH)
    except InvalidSignature:
        raise Rejected("certificate signature") from None
    if signature[0]:  # unused bits of the BIT STRING
        raise MalformedPacket("bad DER", start)
    return certified


class _Der:
    """A cursor over DER (X.690): definite, shortest lengths; tags of one byte."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def peek(self) -> int:
        """Return the next tag, or -1 at the end."""
        return self.data[self.at] if self.at < len(self.data) else -1

    def take(self, tag: int) -> bytes:
        """Return the content of the next element, which must have this tag; never empty."""
        data, at = self.data, self.at
        if len(data) - at < 3 or data[at] != tag:
            raise MalformedPacket("bad DER", at)
        length, at = data[at + 1], at + 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
            if size not in (1, 2) or length < (0x80 if size == 1 else 0x100):
                raise MalformedPacket("bad DER", at)
        if length == 0 or at + length > len(data):
            raise MalformedPacket("bad DER", at)
        self.at = at + length
        return data[at : self.at]

    def end(self) -> None:
        """Check that nothing follows."""
        if self.at != len(self.data):
            raise MalformedPacket("bad DER", self.at)


def _read_tbs(tbs: _Der) -> Certified:
    if tbs.take(_VERSION) != _V3:
        raise MalformedPacket("no X.509 v3")
    serial = tbs.take(_INTEGER)
    if len(serial) > 20 or serial[0] & 0x80:  # RFC 5280 §4.1.2.2
        raise MalformedPacket("bad certificate serial")
    if tbs.take(_SEQUENCE) != _ECDSA_SHA384:
        raise Rejected("certificate signature algorithm")
    tbs.take(_SEQUENCE)  # issuer: the IAN says it
    validity = _Der(tbs.take(_SEQUENCE))
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    if tbs.data[tbs.at : tbs.at + 2] == _EMPTY_SEQUENCE:  # subject: the SAN says it
        tbs.at += 2
    else:
        tbs.take(_SEQUENCE)
    start = tbs.at
    tbs.take(_SEQUENCE)
    host_id = host_id_of_spki(tbs.data[start : tbs.at])
    names = _read_extensions(tbs)
    uris, hits = _general_names(names[_SAN]) if _SAN in names else ([], [])
    if hits != [host_id.hit]:
        raise Rejected("certificate HIT is not its key's")
    _, issuers = _general_names(names[_IAN]) if _IAN in names else ([], [])
    if len(issuers) != 1:
        raise MalformedPacket("certificate without issuer HIT")
    return Certified(
        tuple(uris), host_id.hit, host_id, serial.lstrip(b"\0"), not_before, not_after, issuers[0]
    )


def _time(der: _Der) -> int:
    """RFC 5280 §4.1.2.5."""
    tag = der.peek()
    digits = der.take(_GENERALIZED_TIME if tag == _GENERALIZED_TIME else _UTC_TIME)
    if tag == _UTC_TIME:
        digits = (b"19" if digits[:1] >= b"5" else b"20") + digits
    if len(digits) != 15 or digits[14:] != b"Z" or not digits[:14].isdigit():
        raise MalformedPacket("bad certificate time")
    year, rest = int(digits[:4]), digits[4:14]
    try:
        month, day, hour, minute, second = (int(rest[i : i + 2]) for i in range(0, 10, 2))
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError:
        raise MalformedPacket("bad certificate time") from None


def _read_extensions(tbs: _Der) -> dict[bytes, bytes]:
    wrapper = _Der(tbs.take(_EXTENSIONS))
    tbs.end()
    extensions = _Der(wrapper.take(_SEQUENCE))
    wrapper.end()
    found: dict[bytes, bytes] = {}
    while extensions.peek() != -1:
        extension = _Der(extensions.take(_SEQUENCE))
        oid = extension.take(_OID)
        critical = extension.peek() == _BOOLEAN and extension.take(_BOOLEAN) != b"\0"
        value = extension.take(_OCTET_STRING)
        extension.end()
        if oid in found:
            raise MalformedPacket("certificate extension twice")
        if critical and oid not in (_SAN, _IAN, _KEY_USAGE, _BASIC_CONSTRAINTS):
            raise Rejected("certificate has an unknown critical extension")
        found[oid] = value
    return found


def _general_names(value: bytes) -> tuple[list[str], list[Hit]]:
    """Return the URIs and HITs of a GeneralNames; other names are passed over."""
    outer = _Der(value)
    names = _Der(outer.take(_SEQUENCE))
    outer.end()
    uris: list[str] = []
    hits: list[Hit] = []
    while (tag := names.peek()) != -1:
        content = names.take(tag)
        try:
            if tag == _URI:
                uris.append(content.decode("ascii"))
            elif tag == _IP_ADDRESS:
                hits.append(Hit.check(content))
        except ValueError:
            raise MalformedPacket("bad name in certificate") from None
    return uris, hits
