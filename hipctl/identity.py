"""Host Identities: the private key, the public key on the wire, and the HIT that names it."""

import hashlib
import ipaddress
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA384

from hipctl.constants import EccCurve, HiAlgorithm, HitSuite
from hipctl.errors import KeyFileRefused, MalformedPacket

HIT_LENGTH = 16  # bytes, RFC 7343 §2
ORCHID_PREFIX = 0x2001002  # 28 bits: 2001:20::/28, RFC 7343 §2
ORCHID_CONTEXT = bytes.fromhex("F0EFF02FBFF43D0FE7930C3C6E6174EA")  # RFC 7401 §3.2
KEY_FILE_MODE = 0o600

_CURVES: dict[EccCurve, ec.EllipticCurve] = {
    EccCurve.NIST_P256: ec.SECP256R1(),
    EccCurve.NIST_P384: ec.SECP384R1(),
}
_LABELS = {curve.name: label for label, curve in _CURVES.items()}
_ORDERS = {  # SEC 2 §2.4.2, §2.5.1
    EccCurve.NIST_P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    EccCurve.NIST_P384: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,  # noqa: E501
}
_HASH = ec.ECDSA(SHA384())  # both curves: the hash is that of HIT suite 2, RFC 7401 §5.2.14


class Hit(bytes):
    """A Host Identity Tag: 16 bytes that look like an IPv6 address in 2001:20::/28."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the IPv6 form.

        Raises:
            ValueError: no IPv6 address, or outside 2001:20::/28.
        """
        try:
            raw = ipaddress.IPv6Address(text).packed
        except ValueError:
            raise ValueError(f"{text!r} is no HIT: a HIT looks like an IPv6 address") from None
        return cls.check(raw)

    @classmethod
    def check(cls, raw: bytes) -> Self:
        """Take 16 received bytes.

        Raises:
            ValueError: another length, or no ORCHIDv2 prefix.
        """
        if len(raw) != HIT_LENGTH:
            raise ValueError(f"a HIT has {HIT_LENGTH} bytes, not {len(raw)}")
        if int.from_bytes(raw[:4], "big") >> 4 != ORCHID_PREFIX:
            raise ValueError("a HIT lies in 2001:20::/28")
        return cls(raw)

    @property
    def suite(self) -> int:
        """The HIT suite (OGA ID) in its fourth byte, RFC 7401 §3.2."""
        return self[3] & 0x0F

    def __str__(self) -> str:
        return str(ipaddress.IPv6Address(bytes(self)))

    def __repr__(self) -> str:
        return f"Hit({self})"


NULL_HIT = Hit(HIT_LENGTH)
"""Whoever answers, as receiver of I1 (RFC 7401 §4.1.8)."""


def orchid(suite: HitSuite, host_identity: bytes) -> Hit:
    """Build the HIT of an encoded Host Identity (RFC 7343 §2, RFC 7401 §3.2)."""
    algorithm = hashlib.sha256 if suite is HitSuite.RSA_SHA256 else hashlib.sha384
    digest = algorithm(ORCHID_CONTEXT + host_identity).digest()
    start = (len(digest) - 12) // 2  # Encode_96: the middle 96 bits
    head = (ORCHID_PREFIX << 4 | suite).to_bytes(4, "big")
    return Hit(head + digest[start : start + 12])


@dataclass(frozen=True)
class HostId:
    """A public Host Identity as it stands in HOST_ID (RFC 7401 §5.2.9).

    Attributes:
        algorithm: how to read ``encoded``.
        encoded: the HI field: for ECDSA a 2-byte curve label and the point.
    """

    algorithm: HiAlgorithm
    encoded: bytes

    @cached_property
    def hit(self) -> Hit:
        """The HIT of this key."""
        return orchid(HitSuite.ECDSA_SHA384, self.encoded)

    @cached_property
    def curve(self) -> EccCurve:
        """The curve of an ECDSA key.

        Raises:
            MalformedPacket: an unknown curve.
        """
        try:
            return EccCurve(int.from_bytes(self.encoded[:2], "big"))
        except ValueError:
            raise MalformedPacket("unknown ECDSA curve") from None

    @cached_property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key itself.

        Raises:
            MalformedPacket: the algorithm or curve is unknown, or the point is not on the curve.
        """
        if self.algorithm is not HiAlgorithm.ECDSA:
            raise MalformedPacket("unsupported HI algorithm")
        curve, point = _CURVES[self.curve], self.encoded[2:]
        size = (curve.key_size + 7) // 8
        if len(point) == 2 * size:  # the RFC leaves the form of the point open: accept both
            point = b"\x04" + point
        if len(point) != 2 * size + 1 or point[0] != 4:
            raise MalformedPacket("bad ECDSA point")
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        except ValueError:
            raise MalformedPacket("bad ECDSA point") from None

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` (r‖s, RFC 7401 §5.2.14) is this key's over ``data``.

        Raises:
            MalformedPacket: the key itself is malformed.
        """
        half = (self.key.curve.key_size + 7) // 8
        if len(signature) != 2 * half:
            return False
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        try:
            self.key.verify(encode_dss_signature(r, s), data, _HASH)
        except InvalidSignature:
            return False
        return True

    def low_s(self, signature: bytes) -> bool:
        """Whether s is in the lower half of the order, so that nobody can vary the signature."""
        half = len(signature) // 2
        return int.from_bytes(signature[half:], "big") <= _ORDERS[self.curve] // 2

    @classmethod
    def ecdsa(cls, encoded: bytes) -> Self:
        """Take the received HI field of an ECDSA key; ``key`` tells whether it is one."""
        return cls(HiAlgorithm.ECDSA, encoded)

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> Self:
        """Encode a public key.

        Raises:
            ValueError: its curve is not one of RFC 7401's.
        """
        if key.curve.name not in _LABELS:
            raise ValueError(f"curve {key.curve.name} is not registered for Host Identities")
        point = key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return cls(HiAlgorithm.ECDSA, _LABELS[key.curve.name].to_bytes(2, "big") + point)


class HostIdentity:
    """A private Host Identity: ECDSA on P-256 or P-384, HIT suite 2."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.host_id = HostId.of(key.public_key())

    @property
    def hit(self) -> Hit:
        """The HIT of this identity."""
        return self.host_id.hit

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, for X.509."""
        return self._key

    @classmethod
    def generate(cls, curve: EccCurve = EccCurve.NIST_P256) -> Self:
        """Make a new one from the system's randomness."""
        return cls(ec.generate_private_key(_CURVES[curve]))

    @classmethod
    def from_secret(cls, secret: int, curve: EccCurve = EccCurve.NIST_P256) -> Self:
        """Derive one from a secret number; equal numbers give equal identities."""
        return cls(ec.derive_private_key(secret % (_ORDERS[curve] - 1) + 1, _CURVES[curve]))

    def sign(self, data: bytes) -> bytes:
        """Return r‖s with low s over ``data`` (RFC 7401 §5.2.14)."""
        r, s = decode_dss_signature(self._key.sign(data, _HASH))
        curve = self.host_id.curve
        s = min(s, _ORDERS[curve] - s)
        half = (_CURVES[curve].key_size + 7) // 8
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")

    def pem(self) -> bytes:
        """The unencrypted PKCS #8 PEM, for a file of mode 0600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read what ``pem`` wrote.

        Raises:
            KeyFileRefused: no ECDSA key on a registered curve.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # its texts are OpenSSL's: no help
            raise KeyFileRefused(
                "no unencrypted PEM private key of a kind we know; make one with: hipctl keygen"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _LABELS:
            raise KeyFileRefused("a Host Identity is an ECDSA key on P-256 or P-384")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a new PEM file of mode 0600.

        Raises:
            KeyFileRefused: the file exists, or cannot be written.
        """
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_FILE_MODE)
        except FileExistsError:
            raise KeyFileRefused(f"{path} exists; choose another name or remove it") from None
        except OSError as error:
            raise KeyFileRefused(f"{path}: {error.strerror}") from None
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(self.pem())
        except OSError as error:  # half a key is of no use, and in the way
            path.unlink(missing_ok=True)
            raise KeyFileRefused(f"{path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PEM file that only its owner can read.

        Raises:
            KeyFileRefused: it is missing, others can read it, or it holds no usable key.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                pem = file.read(65_536)
        except OSError as error:
            raise KeyFileRefused(
                f"{path}: {error.strerror}; make one with: hipctl keygen"
            ) from None
        if mode & 0o077:
            raise KeyFileRefused(f"{path}: others can read it; run: chmod 600 {path}")
        try:
            return cls.from_pem(pem)
        except KeyFileRefused as error:
            raise KeyFileRefused(f"{path}: {error}") from None
