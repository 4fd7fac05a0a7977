import warnings
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl.certs import (
    host_id_of_spki,
    issue_certificate,
    read_certificate,
    spki_of,
    verify_certificate,
)
from hipctl.constants import EccCurve
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity

WALL = 1_790_000_000
DAY = 86_400
CA, NEXT_CA, ALICE = (HostIdentity.from_secret(n) for n in (1, 2, 3))
AOR = "sip:alice@example.org"


def issue(ca: HostIdentity = CA, subject: HostIdentity = ALICE, *uris: str) -> bytes:
    return issue_certificate(
        ca,
        subject.host_id,
        uris or (AOR,),
        not_before=WALL,
        not_after=WALL + 180 * DAY,
        serial=b"\xff" + bytes(6) + b"\1",
    )


def build(**change: object) -> bytes:
    """A certificate as others might make it, with one thing different."""

    def ip(identity: HostIdentity) -> x509.IPAddress:
        return x509.IPAddress(IPv6Address(bytes(identity.hit)))

    begin = datetime.fromtimestamp(WALL, UTC)
    san: list[x509.GeneralName] = change.get("san") or [  # type: ignore[assignment]
        x509.UniformResourceIdentifier(AOR),
        ip(ALICE),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alice")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A CA")]))
        .public_key(ALICE.private_key.public_key())
        .serial_number(5)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(180))
        .add_extension(x509.SubjectAlternativeName(san), critical=False)
    )
    if "no_ian" not in change:
        builder = builder.add_extension(x509.IssuerAlternativeName([ip(CA)]), critical=False)
    if "usage" in change:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=bool(change["usage"]),
        )
    return builder.sign(CA.private_key, change.get("hash", SHA384())).public_bytes(  # type: ignore[arg-type]
        Encoding.DER
    )


def element(tag: int, content: bytes) -> bytes:
    """One DER element (X.690 §8.1)."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes(1 if size < 0x100 else 2, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


ALGORITHM = element(0x30, bytes.fromhex("06082a8648ce3d040303"))  # ecdsa-with-SHA384


def resign(old: bytes, new: bytes, algorithm: bytes = ALGORITHM) -> bytes:
    """A certificate in which ``old`` became ``new``, and which the CA signed all the same."""
    tbs = x509.load_der_x509_certificate(build()).tbs_certificate_bytes
    assert tbs.count(old) == 1
    content = tbs.replace(old, new)[4:]  # behind a tag and a length of three bytes
    tbs = element(0x30, content)
    signature = CA.private_key.sign(tbs, ec.ECDSA(SHA384()))
    return element(0x30, tbs + algorithm + element(0x03, b"\0" + signature))


SERIAL = bytes.fromhex("a003020102020105")  # with the version before it
BEFORE, AFTER = (
    element(0x17, datetime.fromtimestamp(t, UTC).strftime("%y%m%d%H%M%SZ").encode())
    for t in (WALL, WALL + 180 * DAY)
)
VALIDITY = element(0x30, BEFORE + AFTER)
NAME = element(0x86, AOR.encode())  # as a URI
DER = issue()  # its length varies with its signature


def test_a_certificate_says_who_may_call_itself_what() -> None:
    der = issue(CA, ALICE, AOR, "sip:a@example.org")
    found = verify_certificate(der, [NEXT_CA.host_id, CA.host_id], WALL)
    assert found.uris == (AOR, "sip:a@example.org")
    assert found.hit == ALICE.hit
    assert found.host_id == ALICE.host_id
    assert found.serial == b"\x7f" + bytes(6) + b"\1"
    assert (found.not_before, found.not_after) == (WALL, WALL + 180 * DAY)
    assert found.issuer == CA.hit


def test_a_certificate_is_small() -> None:
    assert len(issue()) <= 360


@pytest.mark.parametrize("curve", list(EccCurve))
def test_p384_works_on_either_side(curve: EccCurve) -> None:
    ca, subject = (
        HostIdentity.from_secret(7, curve),
        HostIdentity.from_secret(8, EccCurve(3 - curve)),
    )
    assert verify_certificate(issue(ca, subject), [ca.host_id], WALL).hit == subject.hit


def test_hits_stand_where_rfc_8002_wants_them() -> None:
    parsed = x509.load_der_x509_certificate(issue())
    san = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    ian = parsed.extensions.get_extension_for_class(x509.IssuerAlternativeName)
    assert san.critical  # the subject is empty, RFC 5280 §4.2.1.6
    assert san.value.get_values_for_type(x509.IPAddress) == [IPv6Address(bytes(ALICE.hit))]
    assert ian.value.get_values_for_type(x509.IPAddress) == [IPv6Address(bytes(CA.hit))]


def test_a_certificate_holds_from_its_first_second_to_before_its_last() -> None:
    der = issue()
    verify_certificate(der, [CA.host_id], WALL)
    verify_certificate(der, [CA.host_id], WALL + 180 * DAY - 1)
    with pytest.raises(Rejected, match="not yet valid"):
        verify_certificate(der, [CA.host_id], WALL - 1)
    with pytest.raises(Rejected, match="expired"):
        verify_certificate(der, [CA.host_id], WALL + 180 * DAY)


def test_a_certificate_by_another_ca_is_rejected() -> None:
    with pytest.raises(Rejected, match="another CA"):
        verify_certificate(issue(NEXT_CA), [CA.host_id], WALL)
    with pytest.raises(Rejected, match="another CA"):
        verify_certificate(issue(), [], WALL)


def test_a_ca_that_only_claims_to_be_ours_is_rejected() -> None:
    der = issue(NEXT_CA).replace(NEXT_CA.hit, CA.hit)  # IAN of the one, signature of the other
    with pytest.raises(Rejected, match="signature"):
        verify_certificate(der, [CA.host_id], WALL)


def test_certificates_of_other_software_are_read() -> None:
    assert read_certificate(build(), [CA.host_id]).uris == (AOR,)
    assert read_certificate(build(usage=False), [CA.host_id]).serial == b"\5"


@pytest.mark.parametrize(
    ("der", "error", "message"),
    [
        (build(usage=True), Rejected, "unknown critical"),
        (build(hash=SHA256()), Rejected, "algorithm"),
        (build(no_ian=1), MalformedPacket, "without issuer HIT"),
        (build(san=[x509.UniformResourceIdentifier(AOR)]), Rejected, "not its key's"),
        (build(san=[x509.IPAddress(IPv6Address(bytes(CA.hit)))]), Rejected, "not its key's"),
        (build(san=[x509.IPAddress(IPv6Address("2001:db8::1"))]), MalformedPacket, "bad name"),
        (issue() + b"\0", MalformedPacket, "bad certificate"),
        (b"", MalformedPacket, "bad certificate"),
        (b"0\x82\xff\xff" + bytes(100), MalformedPacket, "bad certificate"),
        (bytes(3000), MalformedPacket, "too long"),
    ],
)
def test_what_is_wrong_is_told(der: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        verify_certificate(der, [CA.host_id], WALL)


def test_what_the_ca_signs_anew_verifies() -> None:
    assert read_certificate(resign(SERIAL, SERIAL), [CA.host_id]).serial == b"\5"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SERIAL, SERIAL[:-1] + b"\x85"),  # negative
        (SERIAL, SERIAL[:-1] + b"\0"),  # none that a revocation could name
        (SERIAL, SERIAL[:-3] + element(2, b"\1" + bytes(20))),
        (SERIAL, SERIAL[:-3] + element(2, b"\0\5")),
        (SERIAL, SERIAL[5:]),  # v1
        (SERIAL, bytes.fromhex("a003020101020105")),  # v2
        (SERIAL, bytes.fromhex("a003020107020105")),
        (VALIDITY, element(0x30, element(0x17, b"9" * 13) + AFTER)),
        (VALIDITY, element(0x30, element(0x18, b"00000101000000Z") + AFTER)),
        (VALIDITY, element(0x30, element(0x17, b"260101000000+") + AFTER)),
        (NAME, element(0x86, b"sip:al\xffce@example.org")),  # no ASCII
        (NAME, element(0xA3, bytes(21))),  # x400Address
        (NAME, element(0xA5, bytes(21))),  # ediPartyName
        (NAME, element(0x87, b"\x7f\0\0\1") + element(0x82, b"localhost.local")),
        (NAME, element(0x87, b"\x7f\0\0\0\xff\0\0\0") + element(0x82, b"local.local")),
        (NAME, element(0x87, bytes(5)) + element(0x82, b"localhost.org.")),
        (b"\x55\x1d\x12", b"\x55\x1d\x11"),  # SAN twice
        (ALICE.host_id.encoded[2:], ALICE.host_id.encoded[2:-1] + b"\0"),
        (bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")),  # another curve
        (bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209")),  # another algorithm
    ],
)
def test_signed_nonsense_is_malformed(old: bytes, new: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_certificate(resign(old, new), [CA.host_id])


@pytest.mark.parametrize("action", ["error", "default"])
def test_parameters_that_are_null_are_malformed_whatever_python_does_with_warnings(
    action: Literal["error", "default"],
) -> None:
    algorithm = element(0x30, bytes.fromhex("06082a8648ce3d0403030500"))
    der = resign(ALGORITHM, algorithm, algorithm)
    with warnings.catch_warnings(action=action), pytest.raises(MalformedPacket):
        read_certificate(der, [CA.host_id])


def test_a_time_before_1970_and_one_after_2049_are_read() -> None:
    times = element(0x17, b"500101000000Z") + element(0x18, b"20500101000000Z")
    found = read_certificate(resign(VALIDITY, element(0x30, times)), [CA.host_id])
    assert (found.not_before, found.not_after) == (-631_152_000, 2_524_608_000)


@settings(max_examples=200)
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_certificate_with_one_byte_changed_never_verifies(at: int, change: int) -> None:
    der = bytearray(DER)
    der[at] ^= change
    with pytest.raises((Rejected, MalformedPacket)):
        read_certificate(bytes(der), [CA.host_id])


def test_a_signature_has_no_unused_bits() -> None:
    for last in range(8):  # until one ends in a bit that could be said to be unused
        der = issue(CA, ALICE, f"{AOR}{last}")
        signature = x509.load_der_x509_certificate(der).signature
        if not signature[-1] & 1:
            at = len(der) - len(signature) - 1
            with pytest.raises(MalformedPacket, match="bad certificate"):
                read_certificate(der[:at] + b"\1" + der[at + 1 :], [CA.host_id])


@given(st.binary(max_size=400) | st.integers(0, len(DER) - 1).map(lambda n: DER[:n]))
def test_any_bytes_are_a_certificate_or_an_error(data: bytes) -> None:
    with pytest.raises((Rejected, MalformedPacket)):
        read_certificate(data, [CA.host_id])


# --- public keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", list(EccCurve))
def test_a_public_key_is_written_as_others_write_it(curve: EccCurve) -> None:
    identity = HostIdentity.from_secret(9, curve)
    der = identity.private_key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert spki_of(identity.host_id) == der
    assert host_id_of_spki(der) == identity.host_id


def test_a_public_key_off_its_curve_is_malformed() -> None:
    der = spki_of(CA.host_id)
    point = CA.host_id.encoded[2:]
    compressed = der.replace(b"\x42\0" + point, b"\x22\0" + b"\2" + point[1:33])
    compressed = element(0x30, compressed[2:])
    others = [
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in (ec.generate_private_key(ec.SECP256K1()), Ed25519PrivateKey.generate())
    ]
    flipped = der[:-1] + bytes([der[-1] ^ 1])
    for bad in (der[:-1], der + b"\0", flipped, b"", bytes(500), compressed, *others):
        with pytest.raises(MalformedPacket):
            host_id_of_spki(bad)
    with pytest.raises(MalformedPacket):
        spki_of(HostId.ecdsa(b"\0\1\4" + bytes(64)))
    with pytest.raises(MalformedPacket, match="bad ECDSA point"):
        spki_of(HostId.ecdsa(b"\0\1" + CA.host_id.encoded[3:]))
