"""The least of STUN: clients keep their bindings alive with it (RFC 5626 §4.4.2, RFC 8489)."""

import struct
from typing import Final

MAGIC_COOKIE: Final = 0x2112A442  # RFC 8489 §5
BINDING_REQUEST: Final = 0x0001  # §18.2
BINDING_SUCCESS: Final = 0x0101
XOR_MAPPED_ADDRESS: Final = 0x0020  # §14.2
HEADER: Final = struct.Struct("!HHI12s")
_ATTRIBUTE: Final = struct.Struct("!HHBBHI")
IPV4: Final = 1


def answer(data: bytes, source: tuple[str, int]) -> bytes | None:
    """The answer to a Binding request from an IPv4 address, None to anything else."""
    if len(data) < HEADER.size or data[0] > 1:
        return None
    kind, length, cookie, transaction = HEADER.unpack_from(data)
    if kind != BINDING_REQUEST or cookie != MAGIC_COOKIE or length != len(data) - HEADER.size:
        return None
    try:
        address = int.from_bytes(bytes(map(int, source[0].split("."))), "big")
    except ValueError:
        return None
    attribute = _ATTRIBUTE.pack(
        XOR_MAPPED_ADDRESS, 8, 0, IPV4, source[1] ^ MAGIC_COOKIE >> 16, address ^ MAGIC_COOKIE
    )
    return HEADER.pack(BINDING_SUCCESS, len(attribute), cookie, transaction) + attribute
