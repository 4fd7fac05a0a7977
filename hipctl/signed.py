"""Packets with HIP_MAC and HIP_SIGNATURE: made and checked; what they echo; NOTIFY."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hipctl import params
from hipctl.constants import NotifyType, PacketType, ParameterType
from hipctl.crypto import Keys
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity
from hipctl.packet import Packet, cover, finish, header
from hipctl.wire import frame

ECHO_MAX: Final = 512  # bytes of echo parameters that we reflect in one packet


@dataclass(frozen=True, slots=True)
class Echo:
    """What a packet wants echoed: answers go before and after the signature."""

    signed: tuple[params.EchoResponseSigned, ...]
    unsigned: tuple[params.EchoResponseUnsigned, ...]

    @classmethod
    def of(cls, packet: Packet) -> "Echo":
        """Collect the echo requests of ``packet``.

        Raises:
            MalformedPacket: more than one signed request, or more than we reflect.
        """
        signed = packet.every(params.EchoRequestSigned)
        unsigned = packet.every(params.EchoRequestUnsigned)
        echo = cls(
            tuple(params.EchoResponseSigned(request.opaque) for request in signed),
            tuple(params.EchoResponseUnsigned(request.opaque) for request in unsigned),
        )
        if len(signed) > 1 or len(params.encode([*echo.signed, *echo.unsigned])) > ECHO_MAX:
            raise MalformedPacket("too much to echo")
        return echo


def sign_and_mac(
    data: bytes,
    keys: Keys,
    identity: HostIdentity,
    *,
    host_id_tlv: bytes | None = None,
    unsigned: Sequence[params.Parameter] = (),
) -> bytes:
    """Finish a packet with HIP_MAC (HIP_MAC_2 over ``host_id_tlv`` if given) and HIP_SIGNATURE.

    Args:
        data: header and all parameters that come before the MAC.
        keys: of the association.
        identity: who signs.
        host_id_tlv: our HOST_ID as in our R1, for R2 only.
        unsigned: parameters that follow the signature, in ascending order.
    """
    if host_id_tlv is None:
        data += frame(ParameterType.HIP_MAC, keys.mac(cover(data)))
    else:
        data += frame(ParameterType.HIP_MAC_2, keys.mac(cover(data, host_id_tlv)))
    signature = params.HipSignature(identity.host_id.algorithm, identity.sign(cover(data)))
    return finish(data + frame(signature.TYPE, signature.content()) + params.encode(unsigned))


def authenticate(
    packet: Packet, keys: Keys, host_id: HostId, host_id_tlv: bytes | None = None
) -> None:
    """Check HIP_MAC (or HIP_MAC_2) and HIP_SIGNATURE of a packet.

    Args:
        packet: from the peer.
        keys: of the association.
        host_id: the peer's key.
        host_id_tlv: the peer's HOST_ID as in its R1: then the packet is an R2.

    Raises:
        MalformedPacket: a parameter is missing.
        Rejected: the MAC or the signature is wrong.
    """
    if host_id_tlv is None:
        mac, covered = packet.need(params.HipMac).mac, packet.covered(params.HipMac)
    else:
        mac = packet.need(params.HipMac2).mac
        covered = packet.covered(params.HipMac2, host_id_tlv)
    if not keys.mac_fits(covered, mac):
        raise Rejected("wrong HIP_MAC", NotifyType.HIP_MAC_FAILED)
    signature = packet.need(params.HipSignature)
    if signature.algorithm != host_id.algorithm or not host_id.verify(
        signature.signature, packet.covered(params.HipSignature)
    ):
        raise Rejected("wrong HIP_SIGNATURE", NotifyType.AUTHENTICATION_FAILED)


def make_notify(
    identity: HostIdentity, peer: bytes, notify: NotifyType, details: bytes = b""
) -> bytes:
    """Make a signed NOTIFY (RFC 7401 §5.3.6); ``details`` are its Notification Data."""
    data = header(PacketType.NOTIFY, identity.hit, peer)
    data += params.encode([params.Notification(notify, details)])
    signature = params.HipSignature(identity.host_id.algorithm, identity.sign(cover(data)))
    return finish(data + frame(signature.TYPE, signature.content()))
