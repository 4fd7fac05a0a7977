"""As much of TURN (RFC 8656) as it takes to have coturn relay: Allocate and ChannelBind."""

import os
import socket
import struct

_COOKIE = 0x2112A442
_ALLOCATE, _CHANNEL_BIND = 0x0003, 0x0009
_SUCCESS = 0x0100
_REQUESTED_TRANSPORT, _LIFETIME, _CHANNEL_NUMBER = 0x0019, 0x000D, 0x000C
_XOR_PEER_ADDRESS, _XOR_RELAYED_ADDRESS = 0x0012, 0x0016
_UDP = 17

Address = tuple[str, int]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _address(address: Address) -> bytes:
    ip, port = struct.unpack("!I", socket.inet_aton(address[0]))[0], address[1]
    return struct.pack("!HHI", 1, port ^ _COOKIE >> 16, ip ^ _COOKIE)


def _ask(sock: socket.socket, kind: int, *attributes: bytes) -> dict[int, bytes]:
    body = b"".join(attributes)
    sock.send(struct.pack("!HHI", kind, len(body), _COOKIE) + os.urandom(12) + body)
    answer = sock.recv(2048)
    if struct.unpack_from("!H", answer)[0] != kind | _SUCCESS:
        raise SystemExit(f"coturn refuses a request of type {kind}")
    found, at = {}, 20
    while at < len(answer):
        code, length = struct.unpack_from("!HH", answer, at)
        found[code] = answer[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    return found


def allocate(sock: socket.socket) -> Address:
    """Have a relayed address opened for a connected socket."""
    transport = _attribute(_REQUESTED_TRANSPORT, bytes((_UDP, 0, 0, 0)))
    lifetime = _attribute(_LIFETIME, struct.pack("!I", 600))
    value = _ask(sock, _ALLOCATE, transport, lifetime)[_XOR_RELAYED_ADDRESS]
    _, port, ip = struct.unpack("!HHI", value)
    return socket.inet_ntoa(struct.pack("!I", ip ^ _COOKIE)), port ^ _COOKIE >> 16


def bind_channel(sock: socket.socket, channel: int, peer: Address) -> None:
    """Let ``channel`` mean ``peer``: 0x4000 and more."""
    number = _attribute(_CHANNEL_NUMBER, struct.pack("!HH", channel, 0))
    _ask(sock, _CHANNEL_BIND, number, _attribute(_XOR_PEER_ADDRESS, _address(peer)))


def channel_data(channel: int, data: bytes) -> bytes:
    """What the client sends for the peer of ``channel``."""
    return struct.pack("!HH", channel, len(data)) + data
