"""CLOSE and CLOSE_ACK, from either side (RFC 7401 §5.3.7, §5.3.8, §6.14, §6.15)."""

from collections.abc import Sequence
from typing import Final

from hipctl import params
from hipctl.actions import Path
from hipctl.constants import PacketType
from hipctl.crypto import Keys, Rng
from hipctl.errors import Rejected
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.packet import Packet, header
from hipctl.signed import Echo, authenticate, sign_and_mac

_ECHO_LENGTH: Final = 16  # bytes of the nonce in CLOSE


class Closing:
    """How ``identity`` and ``peer`` take leave of each other.

    Attributes:
        ways: on which our CLOSE goes: first on the first, then on all (RFC 9028 §4.11).
    """

    __slots__ = ("_answer", "_answered", "_identity", "_nonce", "_peer", "_rng", "ways")

    def __init__(self, identity: HostIdentity, peer: Hit, rng: Rng) -> None:
        self.ways: Sequence[Path] = ()
        self._identity = identity
        self._peer = peer
        self._rng = rng
        self._nonce = b""  # in our CLOSE
        self._answered = b""  # what was signed in the CLOSE that we answered
        self._answer = b""

    def forget(self) -> None:
        """The CLOSE that we have answered is over."""
        self._answered = self._answer = b""

    def ask(self, keys: Keys) -> bytes:
        """Make our CLOSE."""
        self._nonce = self._rng(_ECHO_LENGTH)
        return make_close(self._identity, self._peer, keys, self._nonce)

    def conclude(self, packet: Packet) -> None:
        """See whether a CLOSE_ACK answers our CLOSE, before its signature is looked at.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it doesn't.
        """
        if packet.need(params.EchoResponseSigned).opaque != self._nonce:
            raise Rejected("CLOSE_ACK of another CLOSE")

    def again(self, packet: Packet) -> bytes:
        """The answer to a CLOSE that we have answered before, else nothing."""
        repeated = packet.covered(params.HipSignature) == self._answered
        return self._answer if repeated else b""  # whatever somebody may have appended

    def answer(self, packet: Packet, keys: Keys, host_id: HostId) -> bytes:
        """Check the peer's CLOSE and make the answer.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it is not authentic.
        """
        authenticate(packet, keys, host_id)
        packet.need(params.EchoRequestSigned)
        echo = Echo.of(packet)
        return make_close_ack(self._identity, self._peer, keys, echo)

    def answered(self, packet: Packet, answer: bytes) -> None:
        """Answer that CLOSE the same way if it comes again."""
        self._answered, self._answer = packet.covered(params.HipSignature), answer


def make_close(identity: HostIdentity, peer: bytes, keys: Keys, opaque: bytes) -> bytes:
    """Make a CLOSE (RFC 7401 §5.3.7)."""
    data = header(PacketType.CLOSE, identity.hit, peer)
    return sign_and_mac(data + params.encode([params.EchoRequestSigned(opaque)]), keys, identity)


def make_close_ack(identity: HostIdentity, peer: bytes, keys: Keys, echo: Echo) -> bytes:
    """Make the CLOSE_ACK that answers a CLOSE (RFC 7401 §5.3.8)."""
    data = header(PacketType.CLOSE_ACK, identity.hit, peer) + params.encode(echo.signed)
    return sign_and_mac(data, keys, identity, unsigned=echo.unsigned)
