"""Judges a captured base exchange from its bytes; written from RFC 7401, 7402 and 7343.

It shares nothing with ``hipctl``: no import, no table, no constant. Whoever changes it looks into
the RFCs and not into the code that it judges.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384

I1, R1, I2, R2 = 1, 2, 3, 4  # RFC 7401 §5.1, packet types

# RFC 7401 §5.2 and RFC 7402 §5.1: parameter types
ESP_INFO, PUZZLE, SOLUTION, DH_GROUP_LIST, DIFFIE_HELLMAN = 65, 257, 321, 511, 513
HIP_CIPHER, ENCRYPTED, HOST_ID, HIT_SUITE_LIST = 579, 641, 705, 715
ECHO_REQUEST_SIGNED, ECHO_RESPONSE_SIGNED = 897, 961
TRANSPORT_FORMAT_LIST, ESP_TRANSFORM = 2049, 4095
HIP_MAC, HIP_MAC_2, HIP_SIGNATURE_2, HIP_SIGNATURE = 61505, 61569, 61633, 61697

CONTEXT_ID = bytes.fromhex("F0EFF02FBFF43D0FE7930C3C6E6174EA")  # RFC 7401 §3.2
HASHES = {2: hashlib.sha384}  # HIT suite -> RHASH, RFC 7401 §5.2.10: ECDSA/SHA-384
CURVES: dict[int, ec.EllipticCurve] = {1: ec.SECP256R1(), 2: ec.SECP384R1()}  # §5.2.9
FIELD = {7: 32, 8: 48}  # DH group -> bytes of a coordinate, §5.2.7
CIPHER_KEY = {1: 0, 2: 16, 4: 32}  # §5.2.8: NULL, AES-128-CBC, AES-256-CBC


class Wrong(AssertionError):
    """The packets contradict the RFC."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Wrong(what)


@dataclass(frozen=True)
class Parameter:
    kind: int
    start: int  # offset in the packet
    end: int  # offset after its padding
    value: bytes


@dataclass(frozen=True)
class Packet:
    raw: bytes
    kind: int
    sender: bytes
    receiver: bytes
    parameters: tuple[Parameter, ...]

    def all(self, kind: int) -> list[Parameter]:
        return [p for p in self.parameters if p.kind == kind]

    def one(self, kind: int) -> Parameter:
        found = self.all(kind)
        require(len(found) == 1, f"packet {self.kind} has {len(found)} parameters {kind}")
        return found[0]


@dataclass(frozen=True)
class Keys:
    """What KEYMAT gives in its order (RFC 7401 §6.5, RFC 7402 §7); "i" is the Initiator's."""

    cipher_i: bytes
    mac_i: bytes
    cipher_r: bytes
    mac_r: bytes
    esp_i: bytes
    esp_r: bytes


@dataclass(frozen=True)
class Exchange:
    """A base exchange that was found right."""

    initiator: bytes
    responder: bytes
    i: bytes
    j: bytes
    k: int
    keymat: bytes
    keys: Keys
    esp_suite: int
    spi_to_initiator: int
    spi_to_responder: int
    host_id_was_encrypted: bool


def parse(raw: bytes, addresses: tuple[bytes, bytes] | None = None) -> Packet:
    """Walk one packet (§5.1, §5.2.1). ``addresses``: IPv4 source and destination, for raw IP."""
    require(len(raw) >= 40, "shorter than the fixed header")
    require(raw[0] == 59, "next header is not IPPROTO_NONE")
    require(len(raw) == (raw[1] + 1) * 8, "header length does not fit the packet")
    require(raw[2] & 0x80 == 0, "the fixed bit in front of the packet type is not 0")
    require(raw[3] >> 4 == 2 and raw[3] & 1 == 1, "not version 2, or the fixed bit is not 1")
    checksum = int.from_bytes(raw[4:6], "big")
    if addresses is None:
        require(checksum == 0, "the checksum over UDP is not zero")  # RFC 5770 §5.1
    else:
        pseudo = b"".join(addresses) + bytes([0, 139]) + len(raw).to_bytes(2, "big")
        require(_ones_complement_sum(pseudo + raw) == 0xFFFF, "bad checksum")
    parameters, at, last = [], 40, 0
    while at < len(raw):
        require(at + 4 <= len(raw), "a parameter's head is cut")
        kind = int.from_bytes(raw[at : at + 2], "big")
        length = int.from_bytes(raw[at + 2 : at + 4], "big")
        end = at + 11 + length - (length + 3) % 8  # §5.2.1
        require(end <= len(raw), "a parameter is cut")
        require(not any(raw[at + 4 + length : end]), f"padding of {kind} is not zero")
        require(kind >= last, "parameters are not in increasing order")
        parameters.append(Parameter(kind, at, end, raw[at + 4 : at + 4 + length]))
        at, last = end, kind
    return Packet(raw, raw[2], raw[8:24], raw[24:40], tuple(parameters))


def _ones_complement_sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def orchid(suite: int, host_identity: bytes) -> bytes:
    """RFC 7343 §2: prefix 2001:20::/28, the 4 bits of the OGA ID, the middle 96 bits of a hash."""
    digest = HASHES[suite](CONTEXT_ID + host_identity).digest()
    middle = (len(digest) - 12) // 2
    head = 0x2001002 << 4 | suite
    return head.to_bytes(4, "big") + digest[middle : middle + 12]


def host_identity(value: bytes) -> bytes:
    """The HI in the contents of a HOST_ID (§5.2.9)."""
    length = int.from_bytes(value[0:2], "big")
    domain_length = int.from_bytes(value[2:4], "big") & 0x0FFF
    require(int.from_bytes(value[4:6], "big") == 7, "HI algorithm is not ECDSA")
    require(6 + length + domain_length == len(value), "HOST_ID's lengths do not add up")
    return value[6 : 6 + length]


def check_hit(hit: bytes, hi: bytes) -> None:
    require(hit == orchid(hit[3] & 0x0F, hi), "the HIT is not that of the Host Identity")


def zeroed(raw: bytes, end: int, appended: bytes = b"") -> bytearray:
    """The bytes up to ``end``, with the length to match and no checksum (§6.4.1, §6.4.2)."""
    data = bytearray(raw[:end] + appended)
    data[1] = len(data) // 8 - 1
    data[4:6] = bytes(2)
    return data


def check_signature(hi: bytes, signature: bytes, covered: bytes) -> None:
    """§5.2.14: algorithm, then r and s as long as the curve's field; ECDSA with SHA-384."""
    require(int.from_bytes(signature[:2], "big") == 7, "signature algorithm is not ECDSA")
    curve = CURVES[int.from_bytes(hi[:2], "big")]
    size = curve.key_size // 8
    point = hi[2:] if len(hi) == 2 + 2 * size + 1 else b"\x04" + hi[2:]
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    body = signature[2:]
    require(len(body) == 2 * size, "the signature's length is not that of the curve")
    r, s = int.from_bytes(body[:size], "big"), int.from_bytes(body[size:], "big")
    try:
        key.verify(encode_dss_signature(r, s), covered, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Wrong("bad signature") from None


def check_r1_signature(packet: Packet, hi: bytes) -> None:
    """§5.2.15: the receiver's HIT and the puzzle's Opaque and #I are zero."""
    signature = packet.one(HIP_SIGNATURE_2)
    covered = zeroed(packet.raw, signature.start)
    covered[24:40] = bytes(16)
    puzzle = packet.one(PUZZLE)
    opaque = puzzle.start + 4 + 2  # after K and Lifetime
    covered[opaque : puzzle.start + 4 + len(puzzle.value)] = bytes(len(puzzle.value) - 2)
    check_signature(hi, signature.value, bytes(covered))


def check_mac(packet: Packet, kind: int, key: bytes, host_id: bytes = b"") -> None:
    """§6.4.1; HIP_MAC_2 also covers the sender's HOST_ID (§5.2.13)."""
    mac = packet.one(kind)
    covered = bytes(zeroed(packet.raw, mac.start, host_id))
    expected = hmac.new(key, covered, hashlib.sha384).digest()
    require(hmac.compare_digest(mac.value, expected), f"bad MAC {kind}")


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-384."""
    key = hmac.new(salt, secret, hashlib.sha384).digest()
    out, block = b"", b""
    while len(out) < length:
        block = hmac.new(key, block + info + bytes([len(out) // 48 + 1]), hashlib.sha384).digest()
        out += block
    return out[:length]


def esp_key_length(suite: int) -> int:
    """Bytes of KEYMAT for one direction (RFC 7402 §5.1.2, RFC 4868, RFC 4106 §8.1)."""
    return {8: 16 + 32, 9: 32 + 32, 13: 16 + 4}[suite]


def derive(
    secret: bytes, puzzle: tuple[bytes, bytes], hits: tuple[bytes, bytes], suites: tuple[int, int]
) -> tuple[bytes, Keys]:
    """§6.5 and RFC 7402 §7: both encryption and integrity keys, then those of ESP."""
    (i, j), (initiator, responder), (cipher, esp) = puzzle, hits, suites
    sizes = [CIPHER_KEY[cipher], 48] * 2 + [esp_key_length(esp)] * 2
    keymat = hkdf(secret, i + j, min(hits) + max(hits), sum(sizes))
    drawn, at = [], 0
    for size in sizes:
        drawn.append(keymat[at : at + size])
        at += size
    cipher_gl, mac_gl, cipher_lg, mac_lg, esp_gl, esp_lg = drawn
    if initiator > responder:
        return keymat, Keys(cipher_gl, mac_gl, cipher_lg, mac_lg, esp_gl, esp_lg)
    return keymat, Keys(cipher_lg, mac_lg, cipher_gl, mac_gl, esp_lg, esp_gl)


def decrypt_host_id(value: bytes, key: bytes) -> bytes:
    """§5.2.18: reserved, IV, and a HOST_ID parameter in AES-CBC; returns its contents."""
    require(not any(value[:4]), "reserved field of ENCRYPTED is not zero")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(value[4:20])).decryptor()
    plain = decryptor.update(value[20:]) + decryptor.finalize()
    pad = plain[-1]
    require(1 <= pad <= 16 and plain.endswith(bytes([pad]) * pad), "bad padding in ENCRYPTED")
    plain = plain[:-pad]
    require(int.from_bytes(plain[:2], "big") == HOST_ID, "no HOST_ID in ENCRYPTED")
    length = int.from_bytes(plain[2:4], "big")
    require(len(plain) in {4 + length, 11 + length - (length + 3) % 8}, "HOST_ID is cut")
    return plain[4 : 4 + length]


def numbers(value: bytes) -> list[int]:
    return [int.from_bytes(value[i : i + 2], "big") for i in range(0, len(value), 2)]


def check_puzzle(r1: Packet, i2: Packet) -> tuple[int, bytes, bytes]:
    """§6.3: the low-order K bits of RHASH(I | HIT-I | HIT-R | J) are zero."""
    puzzle, solution = r1.one(PUZZLE).value, i2.one(SOLUTION).value
    require(len(puzzle) == 4 + 48, "PUZZLE is not 4 + RHASH_len / 8 bytes long")
    require(len(solution) == 4 + 2 * 48, "SOLUTION is not 4 + RHASH_len / 4 bytes long")
    k = puzzle[0]
    require(solution[0] == k, "the solution is for another K")
    require(solution[2:4] == puzzle[2:4], "Opaque was not echoed")
    require(solution[4:52] == puzzle[4:52], "#I was not echoed")
    i, j = solution[4:52], solution[52:100]
    digest = hashlib.sha384(i + i2.sender + i2.receiver + j).digest()
    require(int.from_bytes(digest, "big") & ((1 << k) - 1) == 0, "the puzzle is not solved")
    return k, i, j


def check_diffie_hellman(r1: Packet, i2: Packet, secret: bytes) -> None:
    """§5.2.7: group, length, x and y; the same group both times, and one that was offered."""
    groups = set()
    for packet in (r1, i2):
        value = packet.one(DIFFIE_HELLMAN).value
        size = FIELD[value[0]]
        require(int.from_bytes(value[1:3], "big") == 2 * size == len(value) - 3, "DH length")
        curve = {7: CURVES[1], 8: CURVES[2]}[value[0]]
        ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + value[3:])
        require(len(secret) == size, "the secret is not as long as the field")
        groups.add(value[0])
    require(len(groups) == 1, "two different DH groups")
    require(groups <= set(r1.one(DH_GROUP_LIST).value), "a DH group that was not offered")


def chosen(r1: Packet, i2: Packet, kind: int) -> int:
    """The one suite in I2, which R1 offered."""
    skip = 2 if kind == ESP_TRANSFORM else 0  # reserved
    mine, offered = numbers(i2.one(kind).value[skip:]), numbers(r1.one(kind).value[skip:])
    require(len(mine) == 1 and mine[0] in offered, f"suite of {kind} was not offered")
    return mine[0]


def check_echo(r1: Packet, i2: Packet) -> None:
    asked = [p.value for p in r1.all(ECHO_REQUEST_SIGNED)]
    require(asked == [p.value for p in i2.all(ECHO_RESPONSE_SIGNED)], "ECHO was not answered")


def check_exchange(packets: Sequence[Packet], secret: bytes) -> Exchange:
    """Check I1, R1, I2 and R2, given the Diffie-Hellman secret.

    Raises:
        Wrong: anything contradicts the RFC.
    """
    i1, r1, i2, r2 = packets
    require([p.kind for p in packets] == [I1, R1, I2, R2], "not I1, R1, I2, R2")
    initiator, responder = i1.sender, i1.receiver
    for packet in (i2,):
        require((packet.sender, packet.receiver) == (initiator, responder), "HITs of I2")
    for packet in (r1, r2):
        require((packet.sender, packet.receiver) == (responder, initiator), "HITs of R1 or R2")
    require(bool(i1.all(DH_GROUP_LIST)), "I1 lists no DH groups")
    require(responder[3] & 0x0F in [s >> 4 for s in r1.one(HIT_SUITE_LIST).value], "HIT suite")

    host_id_r = r1.one(HOST_ID)
    hi_r = host_identity(host_id_r.value)
    check_hit(responder, hi_r)
    check_r1_signature(r1, hi_r)

    k, i, j = check_puzzle(r1, i2)
    check_diffie_hellman(r1, i2, secret)
    cipher, esp = chosen(r1, i2, HIP_CIPHER), chosen(r1, i2, ESP_TRANSFORM)
    require(numbers(i2.one(TRANSPORT_FORMAT_LIST).value) == [ESP_TRANSFORM], "no ESP transport")
    check_echo(r1, i2)
    keymat, keys = derive(secret, (i, j), (initiator, responder), (cipher, esp))

    encrypted = i2.all(ENCRYPTED)
    if encrypted:
        host_id_i = decrypt_host_id(i2.one(ENCRYPTED).value, keys.cipher_i)
    else:
        host_id_i = i2.one(HOST_ID).value
    hi_i = host_identity(host_id_i)
    check_hit(initiator, hi_i)
    check_mac(i2, HIP_MAC, keys.mac_i)
    signature = i2.one(HIP_SIGNATURE)
    check_signature(hi_i, signature.value, bytes(zeroed(i2.raw, signature.start)))

    check_mac(r2, HIP_MAC_2, keys.mac_r, r1.raw[host_id_r.start : host_id_r.end])
    signature = r2.one(HIP_SIGNATURE)
    check_signature(hi_r, signature.value, bytes(zeroed(r2.raw, signature.start)))

    spis = []
    for packet in (i2, r2):  # RFC 7402 §5.1.1: reserved, KEYMAT index, old SPI, new SPI
        info = packet.one(ESP_INFO).value
        require(len(info) == 12 and info[4:8] == bytes(4), "OLD SPI is not zero")
        index = int.from_bytes(info[2:4], "big")
        require(index in {0, 2 * (CIPHER_KEY[cipher] + 48)}, f"KEYMAT index {index}")
        spis.append(int.from_bytes(info[8:12], "big"))
        require(spis[-1] > 255, "reserved SPI")  # RFC 4303 §2.1
    to_initiator, to_responder = spis
    found = bool(encrypted)
    return Exchange(
        initiator, responder, i, j, k, keymat, keys, esp, to_initiator, to_responder, found
    )


def open_esp(exchange: Exchange, packet: bytes) -> tuple[int, int, bytes]:
    """Check and decrypt one ESP packet (RFC 4303): sequence number, next header, payload."""
    spi, sequence = int.from_bytes(packet[:4], "big"), int.from_bytes(packet[4:8], "big")
    if spi == exchange.spi_to_initiator:
        key = exchange.keys.esp_r
    else:
        require(spi == exchange.spi_to_responder, "an SPI that nobody announced")
        key = exchange.keys.esp_i
    if exchange.esp_suite == 13:  # RFC 4106: key and salt, 8 bytes of IV, 16 of ICV
        try:
            plain = AESGCM(key[:16]).decrypt(key[16:] + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise Wrong("bad ICV of AES-GCM") from None
    else:  # RFC 3602 and RFC 4868
        half = 32 if exchange.esp_suite == 9 else 16
        expected = hmac.new(key[half:], packet[:-16], hashlib.sha256).digest()[:16]
        require(hmac.compare_digest(expected, packet[-16:]), "bad ICV of HMAC-SHA-256-128")
        decryptor = Cipher(algorithms.AES(key[:half]), modes.CBC(packet[8:24])).decryptor()
        plain = decryptor.update(packet[24:-16]) + decryptor.finalize()
    pad = plain[-2]
    padding = plain[len(plain) - 2 - pad : -2]
    require(padding == bytes(range(1, pad + 1)), "bad ESP padding")
    return sequence, plain[-1], plain[: len(plain) - 2 - pad]
