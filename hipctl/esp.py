"""One Security Association of ESP in BEET form: seal, open, replay window (RFC 4303, RFC 7402).

Nothing here knows who the peer is. A packet is ``SPI ‖ sequence ‖ IV ‖ ciphertext ‖ ICV`` with
32-bit sequence numbers; BEET leaves the inner IP header off the wire, so what is sealed is the
upper layer's packet, and next header says which.
"""

import hmac
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from hipctl.errors import HipError, MalformedPacket, Rejected

AES_128_CBC_SHA256: Final = 8  # RFC 7402 §5.1.2
AES_256_CBC_SHA256: Final = 9  # RFC 7402 §5.1.2
AES_GCM_16: Final = 13  # RFC 7402 §5.1.2, RFC 4106

ICV_LENGTH: Final = 16  # bytes: GCM's tag, or HMAC-SHA-256 cut to 128 bits (RFC 4868 §2.1.1)
LAST_SEQUENCE: Final = 2**32 - 1  # RFC 4303 §3.3.3: the counter must not cycle

WINDOW: Final = 1_024  # ours; RFC 4303 §3.4.3 asks for at least 32, better 64 or more

_GCM_HEAD = Struct(">IIQ")  # SPI, sequence number, and the IV, which is the sequence number again
_CBC_HEAD = Struct(">II")
_SEQUENCE = Struct(">I")
_WINDOW_MASK: Final = (1 << WINDOW) - 1
_PADDING: Final = bytes(range(1, 256))  # RFC 4303 §2.4: 1, 2, 3 …
_SALT_LENGTH: Final = 4  # RFC 4106 §4
_HMAC_KEY_LENGTH: Final = 32  # RFC 4868 §2.1.1
_BLOCK: Final = 16
_OUTER: Final = 40 + 8  # bytes of IPv6 and UDP, counted where bytes spend credit
_LEAST_OUTER: Final = 20 + 8  # of IPv4 and UDP, counted where they earn it


class SequenceExhausted(HipError):
    """The outbound SA has used its last sequence number; only new keys help."""


class CreditExhausted(HipError):
    """Nothing more may go to an address that nobody has verified (RFC 8046 §5.6)."""


class _Seal(Protocol):
    def __call__(self, sequence: int, next_header: int, payload: bytes) -> bytes: ...


_Open = Callable[[bytes], bytes]  # whole packet -> payload with its trailer
_Ends = tuple[_Seal, _Open]


class _Suite(NamedTuple):
    keymat_length: int
    overhead: int  # bytes on the wire beyond payload and trailer
    alignment: int  # of payload and trailer together
    seal: Callable[[int, bytes], _Seal]
    open: Callable[[bytes], _Open]


class _Trailers(dict[int, list[bytes]]):
    """Padding, pad length, next header: by next header and by payload length % alignment."""

    def __init__(self, alignment: int) -> None:
        super().__init__()
        self._pads = [_PADDING[: -(length + 2) % alignment] for length in range(alignment)]

    def __missing__(self, next_header: int) -> list[bytes]:
        row = self[next_header] = [pad + bytes([len(pad), next_header]) for pad in self._pads]
        return row


_TRAILERS_4 = _Trailers(4)
_TRAILERS_16 = _Trailers(_BLOCK)


def _gcm_seal(spi: int, keymat: bytes) -> _Seal:
    encrypt = AESGCM(keymat[:-_SALT_LENGTH]).encrypt
    salt = keymat[-_SALT_LENGTH:]
    pack = _GCM_HEAD.pack

    def seal(sequence: int, next_header: int, payload: bytes) -> bytes:
        head = pack(spi, sequence, sequence)
        plain = payload + _TRAILERS_4[next_header][len(payload) & 3]
        return head + encrypt(salt + head[8:], plain, head[:8])

    return seal


def _gcm_open(keymat: bytes) -> _Open:
    decrypt = AESGCM(keymat[:-_SALT_LENGTH]).decrypt
    salt = keymat[-_SALT_LENGTH:]

    def open_(packet: bytes) -> bytes:
        try:
            return decrypt(salt + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise Rejected("ESP authentication failed") from None

    return open_


def _cbc_seal(spi: int, keymat: bytes) -> _Seal:
    # One CBC context for the SA's life: a fresh one per packet costs more than the encryption.
    # Each packet is led in by a block with its sequence number; what that encrypts to is the IV
    # on the wire, and chaining does the rest. The block's input (sequence number XOR the last
    # ciphertext) never repeats, so the IV is unpredictable, as RFC 3602 §3 wants.
    update = Cipher(AES(keymat[:-_HMAC_KEY_LENGTH]), CBC(bytes(_BLOCK))).encryptor().update
    mac = hmac.new(keymat[-_HMAC_KEY_LENGTH:], digestmod="sha256")
    pack = _CBC_HEAD.pack

    def seal(sequence: int, next_header: int, payload: bytes) -> bytes:
        plain = payload + _TRAILERS_16[next_header][len(payload) & 15]
        packet = pack(spi, sequence) + update(sequence.to_bytes(_BLOCK, "big") + plain)
        tag = mac.copy()
        tag.update(packet)
        return packet + tag.digest()[:ICV_LENGTH]

    return seal


def _cbc_open(keymat: bytes) -> _Open:
    # The counterpart: the IV is decrypted as if it were the first block, and that block dropped.
    update = Cipher(AES(keymat[:-_HMAC_KEY_LENGTH]), CBC(bytes(_BLOCK))).decryptor().update
    mac = hmac.new(keymat[-_HMAC_KEY_LENGTH:], digestmod="sha256")

    def open_(packet: bytes) -> bytes:
        tag = mac.copy()
        tag.update(packet[:-ICV_LENGTH])
        if not hmac.compare_digest(tag.digest()[:ICV_LENGTH], packet[-ICV_LENGTH:]):
            raise Rejected("ESP authentication failed")
        return update(packet[8:-ICV_LENGTH])[_BLOCK:]

    return open_


SUITES: Final[dict[int, _Suite]] = {
    AES_GCM_16: _Suite(16 + _SALT_LENGTH, 8 + 8 + ICV_LENGTH, 4, _gcm_seal, _gcm_open),
    AES_256_CBC_SHA256: _Suite(32 + 32, 8 + 16 + ICV_LENGTH, _BLOCK, _cbc_seal, _cbc_open),
    AES_128_CBC_SHA256: _Suite(16 + 32, 8 + 16 + ICV_LENGTH, _BLOCK, _cbc_seal, _cbc_open),
}
"""The ESP transforms we know, in the order of preference."""


def keymat_length(suite: int) -> int:
    """Bytes of KEYMAT that one direction draws: encryption key, then salt or HMAC key (§7)."""
    return SUITES[suite].keymat_length


def payload_limit(suite: int, room: int) -> int:
    """The longest payload (bytes) whose sealed packet takes at most ``room`` bytes."""
    row = SUITES[suite]
    return (room - row.overhead) // row.alignment * row.alignment - 2


class OutboundSa:
    """The sending half of one direction.

    Attributes:
        suite: the ESP transform, a key of ``SUITES``.
        spi: the SPI that the peer chose.
        packets: how many were sealed, which is also the last sequence number.
        credit: bytes that may still be sealed while it is metered.
    """

    __slots__ = ("_free", "_overhead", "_seal", "credit", "packets", "spi", "suite")

    def __init__(self, suite: int, spi: int, keymat: bytes) -> None:
        if len(keymat) != keymat_length(suite):
            raise ValueError(f"ESP suite {suite} takes {keymat_length(suite)} bytes of KEYMAT")
        self.suite = suite
        self.spi = spi
        self.packets = 0
        row = SUITES[suite]
        self._free = self._seal = row.seal(spi, keymat)
        self.credit = 0
        self._overhead = row.overhead + row.alignment + 2 + _OUTER

    def meter(self, credit: int) -> None:
        """From now on seal no more than ``credit`` bytes, those of the outer headers included.

        What has no limit is not slowed down by the possibility of one: the check sits in another
        function, which takes the place of the real one.
        """
        self.credit = credit
        self._seal = self._seal_metered

    def unmeter(self) -> None:
        """Lift the limit."""
        self._seal = self._free

    @property
    def metered(self) -> bool:
        """Whether there is a limit."""
        return self._seal is not self._free

    def _seal_metered(self, sequence: int, next_header: int, payload: bytes) -> bytes:
        size = len(payload) + self._overhead
        if size > self.credit:
            self.packets -= 1
            raise CreditExhausted("no credit left for an unverified address")
        self.credit -= size
        return self._free(sequence, next_header, payload)

    def seal(self, next_header: int, payload: bytes) -> bytes:
        """Return the ESP packet for one upper-layer packet.

        Raises:
            SequenceExhausted: 2^32 - 1 packets were sealed (RFC 4303 §3.3.3).
            CreditExhausted: ``meter`` allows no more.
        """
        sequence = self.packets + 1
        if sequence > LAST_SEQUENCE:
            raise SequenceExhausted("the SA has used all its sequence numbers")
        self.packets = sequence
        return self._seal(sequence, next_header, payload)


class InboundSa:
    """The receiving half of one direction, with its replay window (RFC 4303 §3.4.3).

    Attributes:
        suite: the ESP transform, a key of ``SUITES``.
        spi: the SPI that we chose.
        packets: how many were opened.
        highest: the highest sequence number that was authenticated.
    """

    __slots__ = (
        "_alignment",
        "_missing",
        "_open",
        "_shortest",
        "highest",
        "packets",
        "spi",
        "suite",
    )

    def __init__(self, suite: int, spi: int, keymat: bytes) -> None:
        if len(keymat) != keymat_length(suite):
            raise ValueError(f"ESP suite {suite} takes {keymat_length(suite)} bytes of KEYMAT")
        row = SUITES[suite]
        self.suite = suite
        self.spi = spi
        self.packets = 0
        self.highest = 0
        # Bit i: sequence number highest - i has not come. Kept as what is missing rather than as
        # what was seen: without loss it is zero, and arithmetic on zero is free.
        self._missing = 0
        self._open = row.open(keymat)
        self._shortest = row.overhead + row.alignment
        self._alignment = row.alignment

    def received(self) -> int:
        """At least so many bytes have come, counted without slowing ``open`` down."""
        return self.packets * (self._shortest + _LEAST_OUTER)

    def open(self, packet: bytes) -> tuple[int, bytes]:
        """Authenticate and decrypt one ESP packet that came for this SPI.

        Returns:
            Its next header and payload.

        Raises:
            MalformedPacket: impossible length or padding.
            Rejected: a replay, older than the window, or not authentic.
        """
        if len(packet) < self._shortest:
            raise MalformedPacket("ESP packet too short", len(packet))
        (sequence,) = _SEQUENCE.unpack_from(packet, 4)
        ahead = sequence - self.highest
        if ahead <= 0:
            self._check_late(sequence, -ahead)
        if (len(packet) - self._shortest) % self._alignment:
            raise MalformedPacket("ESP packet not aligned", len(packet))
        plain = self._open(packet)
        if ahead == 1:
            self.highest = sequence
            if self._missing:
                self._missing = self._missing << 1 & _WINDOW_MASK
        elif ahead <= 0:
            self._missing ^= 1 << -ahead
        else:
            self._skip_to(sequence, ahead)
        self.packets += 1
        pad = plain[-2]
        if pad:
            end = len(plain) - 2 - pad
            if end < 0 or plain[end:-2] != _PADDING[:pad]:
                raise MalformedPacket("bad ESP padding", len(packet))
            return plain[-1], plain[:end]
        return plain[-1], plain[:-2]

    def _check_late(self, sequence: int, behind: int) -> None:
        if behind >= WINDOW or not sequence:
            raise Rejected("ESP packet older than the replay window")
        if not self._missing >> behind & 1:
            raise Rejected("ESP packet replayed")

    def _skip_to(self, sequence: int, ahead: int) -> None:
        self.highest = sequence
        if ahead >= WINDOW:
            self._missing = _WINDOW_MASK - 1
        else:  # the numbers between the last highest and this one are missing now
            self._missing = (self._missing << ahead | (1 << ahead) - 2) & _WINDOW_MASK
