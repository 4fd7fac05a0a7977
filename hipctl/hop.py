"""What one hop adds to a packet: between a rendezvous server or relay and its client.

The parameters stand behind the signature and are protected by a MAC of their own, keyed with the
keys of the association between the two (RFC 8004 §4.2.1, RFC 9028 §5.8).
"""

from collections.abc import Iterable

from hipctl.actions import Address, Relayed
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.packet import Packet, cover, finish
from hipctl.params import From, Parameter, RelayFrom, RelayHmac, RelayTo, RvsHmac, encode
from hipctl.wire import frame

HopMac = type[RelayHmac] | type[RvsHmac]


def extend(packet: bytes, more: Iterable[Parameter], mac: HopMac, keys: Keys) -> bytes:
    """Append parameters and their MAC to a finished packet.

    Args:
        packet: its last parameter's type is not beyond those of ``more``.
        more: what the hop says.
        mac: which MAC protects it.
        keys: of the association between server and client.

    Raises:
        ValueError: it gets longer than 2,048 bytes.
    """
    data = packet + encode(more)
    return finish(data + frame(mac.TYPE, keys.mac(cover(data))))


def check(packet: Packet, mac: HopMac, keys: Keys) -> None:
    """Check the MAC of a hop.

    Raises:
        MalformedPacket: there is none.
        Rejected: the other end of the association has not made it.
    """
    if not keys.mac_fits(packet.covered(mac), packet.need(mac).mac):
        raise Rejected(f"wrong {mac.TYPE.name}")


def through(packet: bytes, to: Relayed, keys: Keys) -> bytes:
    """Make our relay send a packet on: RELAY_TO (RFC 9028 §4.8).

    Raises:
        ValueError: it gets longer than 2,048 bytes.
    """
    return extend(packet, [RelayTo((to[0], to[1]))], RelayHmac, keys)


def passed_on(packet: Packet) -> bool:
    """Whether a relay or rendezvous server has passed this packet on to its client."""
    return packet.has(RelayFrom) or packet.has(From) or packet.has(RvsHmac)


def relayed(packet: Packet, source: Address) -> bool:
    """Whether a packet came through a control relay: one of ours, or one of its sender's."""
    return isinstance(source, Relayed) or packet.get(RelayTo) is not None


def origin(packet: Packet, source: Address, keys: Keys, port: int) -> tuple[Address, str]:
    """Whence a packet came that a server of ours has passed on.

    Args:
        packet: with RELAY_FROM or FROM.
        source: where the server is.
        keys: of our association with it.
        port: what FROM doesn't tell, where nothing else does.

    Returns:
        The sender's address, Relayed if answers go back through the server, and the IP address
        of the rendezvous server, which R1 has to name, or nothing.

    Raises:
        MalformedPacket: it is not well formed.
        Rejected: its MAC does not hold (RFC 8004 §4.3.2, RFC 9028 §4.5).
    """
    seen, passed = packet.get(RelayFrom), packet.every(From)
    if packet.has(RvsHmac) or passed:
        check(packet, RvsHmac, keys)
        if not passed:
            return source, ""
        ip = passed[-1].ip  # our server's; those before it nobody has checked
        # RELAY_FROM tells the port only: ours, for FROM has none
        fits = seen is not None and seen.address[0] == ip
        return (ip, seen.address[1] if fits and seen is not None else port), source[0]
    check(packet, RelayHmac, keys)
    if seen is None:
        raise Rejected("RELAY_HMAC without RELAY_FROM")
    return Relayed(seen.address, source), ""
