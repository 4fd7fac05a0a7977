import base64
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import Hit, HostId, HostIdentity, KeyFileRefused, MalformedPacket
from hipctl.constants import EccCurve, HiAlgorithm

VECTORS = Path(__file__).parent.parent / "vectors"
CURVES = list(EccCurve)


def host_id_and_sender(file: str, packet: int) -> tuple[HostId, bytes]:
    """The HI field of a golden packet's HOST_ID, found by a TLV walk, and its sender's HIT."""
    raw = bytes.fromhex(json.loads((VECTORS / file).read_text())["packets"][packet]["hex"])
    at = 40
    while at < len(raw):
        code, length = (int.from_bytes(raw[i : i + 2], "big") for i in (at, at + 2))
        content = raw[at + 4 : at + 4 + length]
        if code == 705:
            size = int.from_bytes(content[:2], "big")
            return HostId(HiAlgorithm.ECDSA, content[6 : 6 + size]), raw[8:24]
        at += 11 + length - (length + 3) % 8
    raise AssertionError("no HOST_ID")


@pytest.mark.parametrize("packet", [1, 2])
@pytest.mark.parametrize("file", sorted(p.name for p in VECTORS.glob("*.json")))
def test_the_hit_of_a_golden_host_id_is_its_senders(file: str, packet: int) -> None:
    host_id, sender = host_id_and_sender(file, packet)
    assert host_id.hit == sender


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_verifies_and_has_a_low_s(curve: EccCurve) -> None:
    identity = HostIdentity.generate(curve)
    for i in range(8):
        signature = identity.sign(bytes([i]))
        assert identity.host_id.verify(signature, bytes([i]))
        assert identity.host_id.low_s(signature)
        assert not identity.host_id.verify(signature, b"another")


def test_the_other_s_verifies_too_but_is_told_apart() -> None:
    identity = HostIdentity.generate()
    signature = identity.sign(b"x")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    high = signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert identity.host_id.verify(high, b"x")
    assert not identity.host_id.low_s(high)


@given(st.binary(max_size=140))
def test_no_bytes_as_a_signature_raise(signature: bytes) -> None:
    assert not FIXED.host_id.verify(signature, b"data")


@given(st.binary(max_size=140))
def test_any_bytes_as_a_public_key_are_a_key_or_malformed(encoded: bytes) -> None:
    try:
        HostId(HiAlgorithm.ECDSA, encoded).verify(bytes(64), b"data")
    except MalformedPacket as error:
        assert error.reason in {"unknown ECDSA curve", "bad ECDSA point"}


@pytest.mark.parametrize("curve", CURVES)
def test_a_point_without_its_first_byte_is_the_same_key_with_another_hit(curve: EccCurve) -> None:
    identity = HostIdentity.generate(curve)
    encoded = identity.host_id.encoded
    short = HostId(HiAlgorithm.ECDSA, encoded[:2] + encoded[3:])
    assert short.verify(identity.sign(b"x"), b"x")
    assert short.hit != identity.hit


def test_a_secret_gives_the_same_identity_each_time() -> None:
    assert HostIdentity.from_secret(1 << 300).hit == HostIdentity.from_secret(1 << 300).hit
    assert HostIdentity.from_secret(1).hit != HostIdentity.from_secret(2).hit


def test_a_key_file_comes_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    identity, path = HostIdentity.generate(), tmp_path / "device.pem"
    old = os.umask(0)
    try:
        identity.save(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert HostIdentity.load(path).hit == identity.hit
    with pytest.raises(KeyFileRefused, match="exists"):
        identity.save(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_file_that_others_can_read_is_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "device.pem"
    HostIdentity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileRefused, match="chmod 600"):
        HostIdentity.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "device.pem"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileRefused, match="no unencrypted PEM private key"):
        HostIdentity.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileRefused, match="hipctl keygen"):
        HostIdentity.load(tmp_path / "absent.pem")


def test_a_hit_is_an_orchid_and_reads_as_ipv6() -> None:
    hit = FIXED.hit
    assert Hit.parse(str(hit)) == hit
    assert hit.suite == 2
    for bad in ("2001:db8::1", "::1", "10.0.0.1", "nonsense"):
        with pytest.raises(ValueError, match=r"2001:20::/28|IPv6 address"):
            Hit.parse(bad)
    for raw in (b"", bytes(15), bytes(16)):
        with pytest.raises(ValueError, match="HIT"):
            Hit.check(raw)


FIXED = HostIdentity.from_secret(7)


def test_keys_of_curves_that_nobody_knows_are_refused() -> None:
    sm2 = (  # made with: openssl genpkey -algorithm SM2
        b"-----BEGIN PRIVATE KEY-----\n"
        + base64.b64encode(
            bytes.fromhex("3025020100301306072a8648ce3d020106082a811ccf5501822d040b30090201010404")
            + b"\x01\x02\x03\x04"
        )
        + b"\n-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(KeyFileRefused, match="of a kind we know"):
        HostIdentity.from_pem(sm2)


def test_a_key_that_could_not_be_written_whole_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(identity: HostIdentity) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HostIdentity, "pem", full)
    with pytest.raises(KeyFileRefused, match="No space left"):
        HostIdentity.generate().save(tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []
