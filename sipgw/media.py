"""Shell: the media relay, from a client's socket to an Endpoint(HIT, port) or another client.

A call has a Stream per m= line and a Side per party of it; two Sides that are connected forward
to each other. Packets are bytes in, bytes out: whatever is inside (RTP, SRTP, RTCP, DTLS) passes
untouched, except STUN, which would carry a client's address across (``sip.md`` §2: ICE is
stripped).
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable
from errno import EADDRINUSE
from ipaddress import AddressValueError, IPv4Address
from typing import Protocol, cast

from hipctl import Endpoint, Hit, Host, PortInUse
from sipgw.core import Side
from sipgw.errors import MediaExhausted

log = logging.getLogger(__name__)

Address = tuple[str, int]
OnPacket = Callable[[bytes, Address], None]

LARGEST_DATAGRAM = 65_535
LAST_PORT = 65_535
BURST = 32  # datagrams of signalling taken before other sockets have their turn
RECEIVE_BUFFER = 1 << 20  # bytes; the kernel may grant less
PAIRS_TRIED = 256  # pairs that another program may hold before we give up
QUARANTINE = 2.0  # seconds until a returned pair is given out again: stragglers of the old call
SILENCE = 2.0  # seconds after which a client may move to another source address
FIRST_ENDPOINT_PORT = 20_000  # of Endpoints: even RTP, odd RTCP (RFC 3550 §11)
LAST_ENDPOINT_PORT = 39_999
FIRST_RELAYED = b"\x14"  # below: STUN (RFC 7983 §7); RTP, RTCP, DTLS and ZRTP-free rest is above


class ClientPort(Protocol):
    """A bound UDP socket towards clients."""

    @property
    def address(self) -> Address:
        """Where clients reach it."""

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, or lose it; never raises."""

    def close(self) -> None:
        """Free the port; harmless when done twice."""


OpenPort = Callable[[str, int, OnPacket], ClientPort]
"""``open_port(host, port, on_packet)``; OSError if the port is taken."""


class UdpPort:
    """A raw non-blocking socket: a third of the cost of opening an asyncio transport."""

    __slots__ = ("_burst", "_loop", "_on_packet", "_recv", "_sendto", "_socket", "address")

    def __init__(self, host: str, port: int, on_packet: OnPacket) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.address: Address = self._socket.getsockname()
        self._on_packet = on_packet
        self._burst = 1
        self._recv = self._socket.recvfrom
        self._sendto = self._socket.sendto
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read_one)

    def _read_one(self) -> None:
        try:
            data, source = self._recv(LARGEST_DATAGRAM)
        except OSError:  # nothing there after all, or an ICMP error of an earlier send
            return
        self._on_packet(data, source)

    def expect_bursts(self) -> None:
        """Take many datagrams at a time, and let many wait: for signalling, not for media."""
        self._burst = BURST
        self._loop.add_reader(self._socket.fileno(), self.read)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def read(self) -> None:
        """Take what has come; called by the loop, and before timers fire that it would stop."""
        for _ in range(self._burst):
            try:
                data, source = self._recv(LARGEST_DATAGRAM)
            except OSError:  # nothing there any more, or an ICMP error of an earlier send
                return
            self._on_packet(data, source)

    def send(self, data: bytes, to: Address) -> None:
        """See ClientPort."""
        try:
            self._sendto(data, to)
        except (OSError, OverflowError):  # full buffer, no such address: UDP may lose it
            log.debug("lost %d bytes to %s", len(data), to)

    def close(self) -> None:
        """See ClientPort."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()


class PortPairs:
    """Even ports whose odd neighbour is free too; returned ones rest before they are reused."""

    def __init__(self, ports: range, quarantine: float = QUARANTINE) -> None:
        first = ports.start + ports.start % 2
        self._fresh = range(first, ports.stop - 1, 2)  # never given out: as numbers, 0.2 MB
        self._free = deque[int]()
        self._resting: deque[tuple[float, int]] = deque()
        self._quarantine = quarantine

    def __len__(self) -> int:
        """Pairs that nobody holds, resting ones included."""
        return len(self._fresh) + len(self._free) + len(self._resting)

    def take(self, now: float) -> int | None:
        """An even port, or None when all are in use or resting."""
        while self._resting and self._resting[0][0] <= now:
            self._free.append(self._resting.popleft()[1])
        if self._fresh:
            port, self._fresh = self._fresh[0], self._fresh[1:]
            return port
        return self._free.popleft() if self._free else None

    def give(self, port: int, now: float) -> None:
        """Return a port of ``take``."""
        self._resting.append((now + self._quarantine, port))


class Nowhere:
    """What a side is connected to before the other party is known."""

    port = packets = reports = 0

    def aim(self, where: str | Hit, rtp: int, rtcp: int) -> None:
        """See Side."""

    def connect(self, other: Side) -> None:
        """See Side."""

    def send_rtp(self, data: bytes) -> None:
        """See Side."""

    def send_rtcp(self, data: bytes) -> None:
        """See Side."""

    def close(self) -> None:
        """See Side."""


NOWHERE = Nowhere()


class ClientSide:
    """Two sockets towards a client, symmetric: what it sends from is where it is answered.

    Its SDP gives the address until its first packet; it may come from another one (baresip writes
    a non-loopback address even when it signals on 127.0.0.1), but only from this machine or from
    a host that the client's SDP or signalling named.
    """

    def __init__(
        self, relay: "MediaRelay", port: int, host: str, on_media: Callable[[], None]
    ) -> None:
        self.port = port
        self.packets = self.reports = 0
        self._relay = relay
        self._other: Side = NOWHERE
        self._hosts = {host}
        self._said = 0, 0  # ports that its SDP names
        self._on_media: Callable[[], None] | None = on_media
        self._rtp_from: Address | None = None  # latched
        self._rtcp_from: Address | None = None
        self._rtp_to: Address | None = None
        self._rtcp_to: Address | None = None
        self._latched_at = 0
        self._heard_at = 0.0
        self._rtp = relay.open_port(relay.address, port, self._on_rtp)
        try:
            self._rtcp = relay.open_port(relay.address, port + 1, self._on_rtcp)
        except OSError:
            self._rtp.close()
            raise
        self._send = self._rtp.send

    def aim(self, where: str | Hit, rtp: int, rtcp: int) -> None:
        """See Side. An unspecified or unusable address leaves the latch as it is (old hold)."""
        if not isinstance(where, str) or not usable(where) or not rtp:
            return
        if self._relay.holds(where, rtp) or self._relay.holds(where, rtcp):
            return  # packets would go round for ever
        if (where, rtp) != self._rtp_to and (where, rtp) != self._rtp_from:
            self._rtp_from = self._rtcp_from = None
        self._hosts.add(where)
        self._rtp_to = self._rtp_from or (where, rtp)
        self._rtcp_to = self._rtcp_from or (where, _rtcp_port(rtp, rtcp))
        self._said = rtp, _rtcp_port(rtp, rtcp)

    def connect(self, other: Side) -> None:
        """See Side."""
        self._other = other

    def send_rtp(self, data: bytes) -> None:
        """See Side."""
        if self._rtp_to is not None:
            self._send(data, self._rtp_to)

    def send_rtcp(self, data: bytes) -> None:
        """See Side."""
        if self._rtcp_to is not None:
            self._rtcp.send(data, self._rtcp_to)

    def _on_rtp(self, data: bytes, source: Address) -> None:
        if (source != self._rtp_from or data < FIRST_RELAYED) and not self._latch(data, source):
            return
        self.packets += 1
        self._other.send_rtp(data)

    def _on_rtcp(self, data: bytes, source: Address) -> None:
        if data < FIRST_RELAYED:
            self._relay.counters["media: stun dropped"] += 1
            return
        if source != self._rtcp_from:
            if not self._allows(source[0]):
                self._relay.counters["media: foreign source"] += 1
                return
            known = self._rtcp_from
            if known is not None and source[1] != self._said[1] == known[1]:
                self._relay.counters["media: second source"] += 1
                return
            self._rtcp_from = self._rtcp_to = source
        self.reports += 1
        self._other.send_rtcp(data)

    def _allows(self, host: str) -> bool:
        return host in self._hosts or host.startswith("127.")

    def _latch(self, data: bytes, source: Address) -> bool:
        """Judge a packet that isn't the next one of a known stream."""
        if data < FIRST_RELAYED:
            self._relay.counters["media: stun dropped"] += 1
            return False
        now = self._relay.clock()
        fresh = self._rtp_from is None
        if not fresh:
            if self.packets != self._latched_at:  # the known stream went on since we last looked
                self._latched_at, self._heard_at = self.packets, now
            # Whoever else was quicker to send here gives way to the port that SDP names.
            named = source[1] == self._said[0] != cast(Address, self._rtp_from)[1]
            moved = named or now - self._heard_at > SILENCE
            if not moved:
                self._relay.counters["media: second source"] += 1
                return False
        if not self._allows(source[0]):
            self._relay.counters["media: foreign source"] += 1
            return False
        self._rtp_from = self._rtp_to = source
        self._latched_at, self._heard_at = self.packets + 1, now
        if self._on_media is not None:
            on_media, self._on_media = self._on_media, None
            on_media()
        return True

    def close(self) -> None:
        """See Side."""
        if self._other is not NOWHERE:
            self._other = NOWHERE
        self._rtp.close()
        self._rtcp.close()
        self._rtp_to = self._rtcp_to = None
        self._relay.give_back(self)


class OverlaySide:
    """Two Endpoints of one local HIT; heard is only the HIT (and port) that was aimed at."""

    def __init__(
        self, relay: "MediaRelay", local: Hit, port: int, on_media: Callable[[], None]
    ) -> None:
        self.port = port
        self.local = local
        self.packets = self.reports = 0
        self._relay = relay
        self._other: Side = NOWHERE
        self._on_media: Callable[[], None] | None = on_media
        self._hit: Hit | None = None
        self._rtp_port = self._rtcp_port = 0
        self._rtp: Endpoint = relay.host.open(local, port, self._on_rtp)
        try:
            self._rtcp: Endpoint = relay.host.open(local, port + 1, self._on_rtcp)
        except PortInUse:
            self._rtp.close()
            raise
        self._send = self._rtp.send

    def aim(self, where: str | Hit, rtp: int, rtcp: int) -> None:
        """See Side."""
        if isinstance(where, Hit) and rtp:
            self._hit, self._rtp_port, self._rtcp_port = where, rtp, _rtcp_port(rtp, rtcp)

    def connect(self, other: Side) -> None:
        """See Side."""
        self._other = other

    def send_rtp(self, data: bytes) -> None:
        """See Side."""
        if self._hit is not None and len(data) <= LARGEST_DATAGRAM - 8:
            self._send(data, self._hit, self._rtp_port)

    def send_rtcp(self, data: bytes) -> None:
        """See Side."""
        if self._hit is not None and self._rtcp_port and len(data) <= LARGEST_DATAGRAM - 8:
            self._rtcp.send(data, self._hit, self._rtcp_port)

    def _on_rtp(self, data: bytes, source: Hit, port: int) -> None:
        if source != self._hit or port != self._rtp_port or data < FIRST_RELAYED:
            self._relay.counters["media: unexpected from overlay"] += 1
            return
        if not self.packets and self._on_media is not None:
            on_media, self._on_media = self._on_media, None
            on_media()
        self.packets += 1
        self._other.send_rtp(data)

    def _on_rtcp(self, data: bytes, source: Hit, port: int) -> None:
        if source != self._hit or data < FIRST_RELAYED:
            self._relay.counters["media: unexpected from overlay"] += 1
            return
        self.reports += 1
        self._other.send_rtcp(data)

    def close(self) -> None:
        """See Side."""
        self._other = NOWHERE
        self._hit = None
        self._rtp.close()
        self._rtcp.close()
        self._relay.give_back(self)


class MediaRelay:
    """All sides of one gateway: hands out ports, takes them back.

    Args:
        host: where Endpoints are opened.
        address: IPv4 address for the sockets towards clients.
        ports: for those sockets; half of them are pairs.
        clock: monotonic seconds.
        open_port: how to open such a socket.
    """

    def __init__(
        self,
        host: Host,
        address: str,
        ports: range,
        clock: Callable[[], float],
        open_port: OpenPort = UdpPort,
    ) -> None:
        self.host = host
        self.address = address
        self.clock = clock
        self.open_port = open_port
        self.counters: Counter[str] = Counter()
        self._pairs = PortPairs(ports)
        self._held: set[int] = set()  # ports of client sides
        self._endpoint_ports: dict[Hit, PortPairs] = {}
        self._open: set[Side] = set()

    def __len__(self) -> int:
        """Sides that are open: zero when no call is."""
        return len(self._open)

    def holds(self, host: str, port: int) -> bool:
        """Whether this is a socket of our own."""
        return host == self.address and port & ~1 in self._held

    def client_side(self, host: str, on_media: Callable[[], None]) -> ClientSide:
        """Open a pair of sockets for a client that signals from ``host``.

        Raises:
            MediaExhausted: no pair is free.
        """
        for _ in range(PAIRS_TRIED):
            port = self._pairs.take(self.clock())
            if port is None:
                break
            try:
                side = ClientSide(self, port, host, on_media)
            except OSError as error:
                self._pairs.give(port, self.clock())
                if error.errno != EADDRINUSE:  # no descriptors, no memory: nor with another port
                    raise MediaExhausted("no socket can be opened") from None
                self.counters["media: port taken"] += 1  # by another program
                continue
            self._open.add(side)
            self._held.add(port)
            return side
        raise MediaExhausted("no pair of media ports is free")

    def overlay_side(self, local: Hit, on_media: Callable[[], None]) -> OverlaySide:
        """Open a pair of Endpoints on ``local``.

        Raises:
            MediaExhausted: no pair is free.
        """
        pairs = self._endpoint_ports.get(local)
        if pairs is None:
            pairs = PortPairs(range(FIRST_ENDPOINT_PORT, LAST_ENDPOINT_PORT + 1))
            self._endpoint_ports[local] = pairs
        for _ in range(PAIRS_TRIED):
            port = pairs.take(self.clock())
            if port is None:
                break
            try:
                side = OverlaySide(self, local, port, on_media)
            except PortInUse:
                pairs.give(port, self.clock())
                continue
            self._open.add(side)
            return side
        raise MediaExhausted("no pair of Endpoint ports is free")

    def give_back(self, side: ClientSide | OverlaySide) -> None:
        """Called by a side that closes."""
        if side not in self._open:
            return
        self._open.remove(side)
        if isinstance(side, ClientSide):
            self._held.discard(side.port)
            self._pairs.give(side.port, self.clock())
        else:
            self._endpoint_ports[side.local].give(side.port, self.clock())

    def close(self) -> None:
        """Close whatever is still open."""
        for side in list(self._open):
            side.close()


def _rtcp_port(rtp: int, said: int) -> int:
    """Where RTCP goes: what SDP said, else the next port; 0 if there is none."""
    return said or (rtp + 1 if rtp < LAST_PORT else 0)


def usable(host: str) -> bool:
    """Whether RTP can be sent to ``host``: a unicast IPv4 address, and none that means "hold"."""
    try:
        address = IPv4Address(host)
    except AddressValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF)
