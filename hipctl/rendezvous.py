"""Rendezvous (RFC 8004): I1s and UPDATEs for those who have registered, with FROM and RVS_HMAC.

FROM has no port. Over UDP the server puts RELAY_FROM before it, which has one; a client that
doesn't know that parameter skips it. RVS_HMAC covers both. The client's end is in ``hop``.
"""

from typing import Final

from hipctl import hop, params
from hipctl.actions import Address
from hipctl.constants import PacketType, ParameterType
from hipctl.crypto import Keys
from hipctl.packet import Packet

CARRIED: Final = frozenset({PacketType.I1, PacketType.UPDATE})  # §4.3.2; RFC 8046 §3.2.3
_OTHERS: Final = frozenset(  # what only the hosts of this hop say
    {
        ParameterType.RELAY_FROM,
        ParameterType.RELAY_TO,
        ParameterType.RVS_HMAC,
        ParameterType.VIA_RVS,
        ParameterType.RELAY_HMAC,
    }
)


def forwarded(packet: Packet, source: Address, keys: Keys) -> bytes:
    """The packet as the server sends it to its client (§4.2.2).

    Args:
        packet: an I1 or UPDATE to the client's HIT.
        source: where it came from.
        keys: of the association with the client.

    Raises:
        ValueError: it gets longer than a HIP packet.
    """
    added: list[params.Parameter] = [params.From(source[0])]
    if source[1]:
        added.append(params.RelayFrom(source))
    return hop.extend(packet.changed(added, _OTHERS), (), params.RvsHmac, keys)
