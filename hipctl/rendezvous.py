"""Rendezvous (RFC 8004): I1s and UPDATEs for those who have registered, with FROM and RVS_HMAC.

FROM has no port. Over UDP the server puts RELAY_FROM before it, which has one; a client that
doesn't know that parameter skips it. RVS_HMAC covers both.
"""

from collections.abc import Callable, Iterable
from typing import Final

from hipctl import params
from hipctl.actions import Address
from hipctl.constants import PacketType, ParameterType
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.packet import Packet, finish, with_hop_mac
from hipctl.wire import frame

CARRIED: Final = frozenset({PacketType.I1, PacketType.UPDATE})  # §4.3.2; RFC 8046 §3.2.3
HIP_PORT: Final = 10_500  # where an Initiator is asked who has told no port
_OTHERS: Final = frozenset(  # what only the hosts of this hop say
    {
        ParameterType.RELAY_FROM,
        ParameterType.RELAY_TO,
        ParameterType.RVS_HMAC,
        ParameterType.VIA_RVS,
        ParameterType.RELAY_HMAC,
    }
)


def forwarded(packet: Packet, source: Address, mac: Callable[[bytes], bytes]) -> bytes:
    """The packet as the server sends it to its client (§4.2.2).

    Args:
        packet: an I1 or UPDATE to the client's HIT.
        source: where it came from.
        mac: with the key of the association with the client.

    Raises:
        ValueError: it gets longer than a HIP packet.
    """
    added: list[params.Parameter] = [params.From(source[0])]
    if source[1]:
        added.append(params.RelayFrom(source))
    return with_hop_mac(packet.changed(added, _OTHERS), params.RvsHmac, mac)


def unwrap(
    packet: Packet, servers: Iterable[tuple[str, Keys]], *, udp: bool
) -> tuple[Address, str] | None:
    """Where a packet really comes from that one of our rendezvous servers has handed on (§4.3.2).

    Args:
        packet: to one of our HITs.
        servers: our rendezvous servers: IP address, keys of the association.
        udp: whether the address needs a port.

    Returns:
        Its first source, and the server's IP address; None: no server has handed it on.

    Raises:
        MalformedPacket: a parameter is not well formed.
        Rejected: no server of ours has MACed it as it is.
    """
    mac = packet.get(params.RvsHmac)
    if mac is None:
        if packet.has(params.From):
            raise Rejected("FROM without RVS_HMAC")
        return None
    covered = packet.covered(params.RvsHmac)
    server = next((ip for ip, keys in servers if keys.mac_fits(covered, mac.mac)), None)
    if server is None:
        raise Rejected("wrong RVS_HMAC")
    if not packet.has(params.From):
        return None
    ip = packet.every(params.From)[-1].ip
    named = packet.get(params.RelayFrom)
    port = named.address[1] if named is not None and named.address[0] == ip else HIP_PORT
    return (ip, port if udp else 0), server


def with_via(data: bytes, server: str) -> bytes:
    """Append VIA_RVS to an answer (§4.3.3); one that has no room left goes without."""
    via = params.ViaRvs((server,))
    try:
        return finish(data + frame(via.TYPE, via.content()))
    except ValueError:
        return data
