from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address

import pytest
from cryptography import x509
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
        (issue() + b"\0", MalformedPacket, "bad DER"),
        (b"", MalformedPacket, "bad DER"),
        (b"0\x82\xff\xff" + bytes(100), MalformedPacket, "bad DER"),
        (bytes(3000), MalformedPacket, "too long"),
    ],
)
def test_what_is_wrong_is_told(der: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        verify_certificate(der, [CA.host_id], WALL)


@settings(max_examples=200)
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_certificate_with_one_byte_changed_never_verifies(at: int, change: int) -> None:
    der = bytearray(DER)
    der[at] ^= change
    with pytest.raises((Rejected, MalformedPacket)):
        read_certificate(bytes(der), [CA.host_id])


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
    for bad in (der[:-1], der + b"\0", der[:-1] + bytes([der[-1] ^ 1]), b""):
        with pytest.raises(MalformedPacket):
            host_id_of_spki(bad)
    with pytest.raises(MalformedPacket):
        spki_of(HostId.ecdsa(b"\0\1\4" + bytes(64)))
    with pytest.raises(MalformedPacket, match="bad ECDSA point"):
        spki_of(HostId.ecdsa(b"\0\1" + CA.host_id.encoded[3:]))
