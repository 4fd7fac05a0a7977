"""Suite tables of the base exchange: Diffie-Hellman, KEYMAT, the cipher of ENCRYPTED, MACs."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hipctl.constants import DhGroup, HipCipher, HitSuite
from hipctl.errors import Rejected

Rng = Callable[[int], bytes]

RHASH: Final[dict[int, str]] = {  # by the Responder's HIT suite, RFC 7401 §5.2.10
    HitSuite.RSA_SHA256: "sha256",
    HitSuite.ECDSA_SHA384: "sha384",
}
RHASH_LENGTH: Final = {name: hashlib.new(name).digest_size for name in RHASH.values()}
CIPHER_KEY_LENGTH: Final[dict[int, int]] = {  # bytes, RFC 7401 §6.5
    HipCipher.AES_128_CBC: 16,
    HipCipher.AES_256_CBC: 32,
}
_CURVES: Final[dict[int, tuple[ec.EllipticCurve, int, int]]] = {  # curve, bytes, order
    DhGroup.NIST_P256: (
        ec.SECP256R1(),
        32,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    DhGroup.NIST_P384: (
        ec.SECP384R1(),
        48,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
}
GROUPS: Final = frozenset(_CURVES)
_ECDH: Final = ec.ECDH()
_BLOCK: Final = 16  # bytes, AES


class DhKey:
    """An ephemeral Diffie-Hellman key of one group.

    Attributes:
        group: Group ID.
        public: the public value as in DIFFIE_HELLMAN: x‖y (RFC 5903 §7).
    """

    __slots__ = ("_key", "group", "public")

    def __init__(self, group: int, rng: Rng) -> None:
        """Draw a key; 16 bytes more than the order has leave no bias to speak of."""
        curve, size, order = _CURVES[group]
        secret = int.from_bytes(rng(size + 16), "big") % (order - 1) + 1
        self._key = ec.derive_private_key(secret, curve)
        self.group = group
        self.public = self._key.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )[1:]

    def shared(self, public: bytes) -> bytes:
        """Compute Kij, as long as the field, leading zeros kept (RFC 5903 §9).

        Raises:
            Rejected: ``public`` is no point of the curve.
        """
        curve, size, _ = _CURVES[self.group]
        if len(public) != 2 * size:
            raise Rejected("bad DH public value")
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + public)
            return self._key.exchange(_ECDH, peer)
        except ValueError:
            raise Rejected("bad DH public value") from None


def keymat(
    rhash: str, secret: bytes, salt: bytes, hits: tuple[bytes, bytes], length: int
) -> bytes:
    """Derive ``length`` bytes of KEYMAT: HKDF of RFC 5869 (RFC 7401 §6.5).

    Args:
        rhash: the Responder's hash.
        secret: Kij.
        salt: #I | #J.
        hits: both HITs, in any order.
        length: bytes.
    """
    return _expand(hmac.digest(salt, secret, rhash), min(hits) + max(hits), length, rhash)


def _expand(key: bytes, info: bytes, length: int, rhash: str) -> bytes:
    block, output, count = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes((count,)), rhash)
        output += block
        count += 1
    return output[:length]


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What one side draws from KEYMAT (RFC 7401 §6.5, RFC 7402 §7).

    Attributes:
        rhash: the Responder's hash, for the association's life.
        cipher: HIP cipher ID.
        encrypt_out: key of our ENCRYPTED; ``encrypt_in`` of the peer's.
        mac_out: key of our MACs; ``mac_in`` of the peer's.
        esp_out: keying material of our outbound SA; ``esp_in`` of the inbound one.
        esp_index: KEYMAT Index, where ESP keys begin.
        keymat: all of it, for the key log.
    """

    rhash: str
    cipher: int
    encrypt_out: bytes
    mac_out: bytes
    encrypt_in: bytes
    mac_in: bytes
    esp_out: bytes
    esp_in: bytes
    esp_index: int
    keymat: bytes

    def mac(self, data: bytes) -> bytes:
        """MAC what we send."""
        return hmac.digest(self.mac_out, data, self.rhash)

    def mac_fits(self, data: bytes, mac: bytes) -> bool:
        """Whether the peer made this MAC."""
        return hmac.compare_digest(hmac.digest(self.mac_in, data, self.rhash), mac)


def draw(
    *,
    rhash: str,
    secret: bytes,
    salt: bytes,
    local: bytes,
    peer: bytes,
    cipher: int,
    esp_length: int,
) -> Keys:
    """Derive KEYMAT and draw all keys in their order: HOST_g's first, ESP's last.

    Args:
        rhash: the Responder's hash.
        secret: Kij.
        salt: #I | #J.
        local: our HIT; ``peer`` the other one.
        peer: see ``local``.
        cipher: HIP cipher ID, one of CIPHER_KEY_LENGTH.
        esp_length: bytes that the ESP suite draws a direction.
    """
    sizes = (CIPHER_KEY_LENGTH[cipher], RHASH_LENGTH[rhash]) * 2 + (esp_length,) * 2
    material = keymat(rhash, secret, salt, (local, peer), sum(sizes))
    drawn, at = [], 0
    for size in sizes:
        drawn.append(material[at : at + size])
        at += size
    encrypt_gl, mac_gl, encrypt_lg, mac_lg, esp_gl, esp_lg = drawn
    index = sum(sizes[:4])
    if local > peer:
        ours, theirs = (encrypt_gl, mac_gl, esp_gl), (encrypt_lg, mac_lg, esp_lg)
    else:
        ours, theirs = (encrypt_lg, mac_lg, esp_lg), (encrypt_gl, mac_gl, esp_gl)
    return Keys(
        rhash, cipher, ours[0], ours[1], theirs[0], theirs[1], ours[2], theirs[2], index, material
    )


@dataclass(frozen=True, slots=True, repr=False)
class Material:
    """KEYMAT of an association, and the DH keys behind it: from which new ESP keys are drawn.

    Attributes:
        rhash: the Responder's hash.
        salt: #I | #J, for the association's life.
        prk: what HKDF expands.
        own: our DH key; ``public`` the peer's value.
        public: see ``own``.
        index: next byte of KEYMAT that nothing was drawn from.
    """

    rhash: str
    salt: bytes
    prk: bytes
    own: DhKey
    public: bytes
    index: int

    @classmethod
    def of(
        cls, rhash: str, salt: bytes, own: DhKey, public: bytes, index: int, *, secret: bytes = b""
    ) -> Self:
        """Derive it from two DH keys, or from their ``secret`` where it was computed before.

        Raises:
            Rejected: ``public`` is no point of the curve.
        """
        prk = hmac.digest(salt, secret or own.shared(public), rhash)
        return cls(rhash, salt, prk, own, public, index)

    @property
    def limit(self) -> int:
        """Bytes that HKDF yields at most (RFC 5869 §2.3)."""
        return 255 * RHASH_LENGTH[self.rhash]

    def draw(self, local: bytes, peer: bytes, index: int, length: int) -> tuple[bytes, bytes]:
        """Draw ESP keys of both directions, ``length`` bytes each, from byte ``index`` on.

        Returns:
            Those of our outbound SA and of our inbound SA (RFC 7402 §7: HOST_g's come first).
        """
        info = min(local, peer) + max(local, peer)
        material = _expand(self.prk, info, index + 2 * length, self.rhash)
        first, second = material[index : index + length], material[index + length :]
        return (first, second) if local > peer else (second, first)


def encrypt(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt for ENCRYPTED with AES-CBC and PKCS #7 padding; the IV comes first."""
    padder = padding.PKCS7(8 * _BLOCK).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()


def decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """Undo ``encrypt``.

    Raises:
        Rejected: the length or the padding is wrong.
    """
    iv, data = ciphertext[:_BLOCK], ciphertext[_BLOCK:]
    if not data or len(data) % _BLOCK:
        raise Rejected("bad ENCRYPTED")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    padded = decryptor.update(data) + decryptor.finalize()
    unpadder = padding.PKCS7(8 * _BLOCK).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise Rejected("bad ENCRYPTED") from None
