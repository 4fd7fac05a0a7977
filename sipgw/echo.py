"""The echo: ``sip:echo@domain`` is answered by the gateway itself, and hears itself.

What a client sends comes back to it as another source would send it: with another SSRC, as RTP
stacks discard what looks like a loop (RFC 3550 §8.2).
"""

from typing import Final

from hipctl import Hit
from sipgw.core import Side
from sipgw.rtp import is_rtp

USER: Final = "echo"
FLIPPED: Final = 0x5A  # xored into the first byte of the SSRC


def returned(packet: bytes) -> bytes:
    """The RTP packet that answers one: the same with another SSRC."""
    return packet[:8] + bytes((packet[8] ^ FLIPPED,)) + packet[9:]


class Loop:
    """A side that is the mirror of another one."""

    port = packets = reports = 0

    def __init__(self, side: Side) -> None:
        self._side = side

    def aim(self, where: str | Hit, rtp: int, rtcp: int) -> None:
        """See core.Side."""

    def connect(self, other: Side) -> None:
        """See core.Side."""

    def send_rtp(self, data: bytes) -> None:
        """Send it back."""
        if is_rtp(data):
            self._side.send_rtp(returned(data))

    def send_rtcp(self, data: bytes) -> None:
        """Reports about oneself would confuse: let them fall."""

    def close(self) -> None:
        """See core.Side."""
