"""A bounds-checked cursor over received bytes, TLV framing, and the HIP checksum."""

from hipctl.constants import IP_PROTOCOL, PARAMETER_ALIGNMENT, PARAMETER_HEADER_LENGTH
from hipctl.errors import MalformedPacket


class Reader:
    """Reads big-endian fields; every overrun is a MalformedPacket, never an IndexError."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._end - self._at

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        at = self._at
        if n > self._end - at:
            raise MalformedPacket("field cut short", at)
        self._at = at + n
        return self._data[at : at + n]

    def rest(self) -> bytes:
        """Return all bytes not yet read."""
        return self.take(self._end - self._at)

    def uint(self, n: int) -> int:
        """Return the next ``n`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(n), "big")

    def end(self) -> None:
        """Raise MalformedPacket unless everything was read."""
        if self._at != self._end:
            raise MalformedPacket("bytes left over", self._at)


def padding(content_length: int) -> int:
    """Zero bytes that follow a parameter of ``content_length`` bytes (RFC 7401 §5.2.1)."""
    return -(PARAMETER_HEADER_LENGTH + content_length) % PARAMETER_ALIGNMENT


def frame(type_code: int, content: bytes) -> bytes:
    """Wrap ``content`` as one padded TLV."""
    length = len(content)
    header = type_code.to_bytes(2, "big") + length.to_bytes(2, "big")
    return header + content + bytes(padding(length))


def unframe(reader: Reader) -> tuple[int, bytes]:
    """Read one TLV; return its type code and its content without padding.

    Raises:
        MalformedPacket: the content or its padding is cut short.
    """
    type_code, length = reader.uint(2), reader.uint(2)
    content = reader.take(length)
    reader.take(padding(length))
    return type_code, content


def checksum(packet: bytes, source: bytes, destination: bytes) -> int:
    """Compute the checksum of a HIP packet over raw IP (RFC 7401 §5.1.1); over UDP it is zero.

    Args:
        packet: the whole packet; its own checksum field counts as zero.
        source: the packed IP address, 4 or 16 bytes.
        destination: likewise.
    """
    length = len(packet).to_bytes(4, "big")
    pseudo = source + destination + length + IP_PROTOCOL.to_bytes(4, "big")
    data = pseudo + packet[:4] + b"\0\0" + packet[6:]
    if len(data) % 2:
        data += b"\0"
    # 2^16 = 1 modulo 2^16 - 1, so the ones' complement sum is one remainder
    total = int.from_bytes(data, "big") % 0xFFFF
    return ~total & 0xFFFF
