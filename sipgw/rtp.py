"""A peek at RTP and RTCP packets, enough to relay them and to tell them apart.

Relayed packets are ciphertext as often as not (SRTP): the first twelve bytes are in the clear,
nothing more is looked at. Plain functions on bytes: this runs for every packet.
"""

from enum import Enum
from typing import Final

HEADER_LENGTH: Final = 12  # bytes, RFC 3550 §5.1
RTCP_HEADER_LENGTH: Final = 8  # bytes, with the sender's SSRC, RFC 3550 §6.4
MAX_PACKET: Final = 65_507  # bytes that fit a UDP datagram over IPv4


class Kind(Enum):
    """What shares a media port, RFC 7983 §7 and RFC 5761 §4."""

    STUN = "STUN"
    DTLS = "DTLS"
    RTP = "RTP"
    RTCP = "RTCP"
    OTHER = "other"


def is_rtcp(packet: bytes) -> bool:
    """Whether a packet on a port shared with RTP is RTCP (RFC 5761 §4: types 192 to 223)."""
    return len(packet) >= RTCP_HEADER_LENGTH and packet[0] >> 6 == 2 and packet[1] >> 5 == 6


def is_rtp(packet: bytes) -> bool:
    """Whether a packet is RTP version 2 and not RTCP."""
    return len(packet) >= HEADER_LENGTH and packet[0] >> 6 == 2 and packet[1] >> 5 != 6


def kind(packet: bytes) -> Kind:
    """Tell what a packet on a media port is by its first two bytes."""
    if is_rtp(packet):
        return Kind.RTP
    if is_rtcp(packet):
        return Kind.RTCP
    first = packet[0] if packet else 255
    if first <= 3:
        return Kind.STUN
    return Kind.DTLS if 20 <= first <= 63 else Kind.OTHER


def payload_type(packet: bytes) -> int:
    """The payload type of an RTP packet (at least 2 bytes)."""
    return packet[1] & 0x7F


def sequence_number(packet: bytes) -> int:
    """The 16-bit sequence number of an RTP packet (at least 4 bytes)."""
    return packet[2] << 8 | packet[3]


def timestamp(packet: bytes) -> int:
    """The 32-bit timestamp of an RTP packet (at least 8 bytes)."""
    return int.from_bytes(packet[4:8], "big")


def ssrc(packet: bytes) -> int:
    """The 32-bit SSRC of an RTP packet (at least 12 bytes)."""
    return int.from_bytes(packet[8:12], "big")
