"""A ladder diagram of packets, as text: a column a node, an arrow a packet, downwards in time.

Pure: ``lab_capture`` sees the packets. A packet is known again at another node by what it carries,
since addresses and ports change on its way.
"""

import ipaddress
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hipctl.constants import PacketType, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.params import PARAMETERS
from hipctl.wire import Reader, unframe

ICMP, TCP, UDP, ESP, ICMPV6, HIP = 1, 6, 17, 50, 58, 139
HIP_PORT = 10_500
MARKER = bytes(4)  # RFC 9028 §5: what stands before HIP in UDP
NO_NEXT_HEADER, VERSION, HEADER = 59, 2, 40  # RFC 7401 §5.1
SERVICES = {53: "DNS", 1900: "SSDP", 3478: "STUN", 5060: "SIP", 5351: "PCP"}
EVERYWHERE = {  # parameters that tell nothing here
    *(ParameterType.HIP_MAC, ParameterType.HIP_MAC_2, ParameterType.HOST_ID),
    *(ParameterType.HIP_SIGNATURE, ParameterType.HIP_SIGNATURE_2),
    *(ParameterType.HIP_CIPHER, ParameterType.ESP_TRANSFORM, ParameterType.HIT_SUITE_LIST),
    *(ParameterType.TRANSPORT_FORMAT_LIST, ParameterType.DH_GROUP_LIST),
    *(ParameterType.DIFFIE_HELLMAN, ParameterType.PUZZLE, ParameterType.SOLUTION),
    *(ParameterType.RELAY_HMAC, ParameterType.RVS_HMAC),
}
MARGIN, GAP = 10, 18  # characters before the columns, and between two at least
HEAD, TAIL = 100, 300  # rows of a long ladder that are shown


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet that leaves or reaches a node.

    Attributes:
        at: seconds, of one clock for all.
        node: where it was seen.
        leaves: or reaches.
        source: address with port, as it was then.
        destination: likewise.
        carried: what it can be known by at the next node.
        name: what it is, in a word.
        detail: more about it.
        bulk: one of many, which are drawn together.
        multicast: several may hear it.
    """

    at: float
    node: str
    leaves: bool
    source: str
    destination: str
    carried: tuple[int, int]
    name: str
    detail: str = ""
    bulk: bool = False
    multicast: bool = False


@dataclass(frozen=True, slots=True)
class Hop:
    """An arrow; without an end where the packet was not seen to leave, or to arrive."""

    seen: Sighting
    start: str | None
    end: str | None
    count: int = 1
    until: float = 0.0


def sighting(at: float, node: str, leaves: bool, packet: bytes) -> Sighting | None:
    """What there is to say of an IP packet; None if it is none or nobody would care."""
    try:
        protocol, source, destination, content = _ip(packet)
        ports = struct.unpack_from("!HH", content) if protocol in {TCP, UDP} else (0, 0)
        carried = content[8:] if protocol == UDP else content
        name, detail, bulk = _describe(protocol, (ports[0], ports[1]), carried)
    except (IndexError, struct.error, ValueError):
        return None
    if not name:
        return None
    ends = [
        (f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}") if port else ip
        for ip, port in zip((source, destination), ports, strict=True)
    ]
    key = (protocol, hash(carried))
    multicast = ipaddress.ip_address(destination).is_multicast
    return Sighting(at, node, leaves, ends[0], ends[1], key, name, detail, bulk, multicast)


def _ip(packet: bytes) -> tuple[int, str, str, bytes]:
    """Protocol, source, destination, content."""
    if packet[0] >> 4 == 4:
        start, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        protocol, ends = packet[9], (packet[12:16], packet[16:20])
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            raise ValueError("not the first fragment")
    else:
        start, end = 40, 40 + int.from_bytes(packet[4:6], "big")
        protocol, ends = packet[6], (packet[8:24], packet[24:40])
    source, destination = (str(ipaddress.ip_address(raw)) for raw in ends)
    return protocol, source, destination, packet[start:end]


def _describe(protocol: int, ports: tuple[int, int], carried: bytes) -> tuple[str, str, bool]:
    """Name, detail, bulk; without a name it is of no interest."""
    if protocol == UDP:
        return _udp(ports, carried)
    if protocol == HIP:
        return _hip(carried)
    if protocol == ESP:
        return _esp(carried)
    if protocol == TCP:
        flags = carried[13]
        rare = "SYN" if flags & 2 else "RST" if flags & 4 else ""
        return f"TCP {rare}".strip(), "", not rare
    if (protocol, carried[0]) in {(ICMP, 3), (ICMPV6, 1)}:
        return "unreachable", f"code {carried[1]}", False
    return "", "", False


def _udp(ports: tuple[int, int], carried: bytes) -> tuple[str, str, bool]:
    if carried[:4] == MARKER and carried[4:5] == bytes([NO_NEXT_HEADER]):
        return _hip(carried[4:])
    if HIP_PORT in ports:
        if len(carried) <= 1:
            return "keepalive", "", False
        if len(carried) >= 8:
            return _esp(carried)
    for port in sorted(ports):
        if port in SERVICES:
            return SERVICES[port], f"{len(carried)} B", SERVICES[port] == "SSDP"
    return "UDP", "", True


def _esp(carried: bytes) -> tuple[str, str, bool]:
    return f"ESP {carried[:4].hex()}", "", True


def _hip(carried: bytes) -> tuple[str, str, bool]:
    """RFC 7401 §5.1: the type and what parameters it has."""
    known = {packet_type.value: packet_type.name for packet_type in PacketType}
    name = known.get(carried[2] & 0x7F, f"HIP type {carried[2]}")
    said = []
    reader = Reader(carried, HEADER)
    try:
        while reader.left:
            code, content = unframe(reader)
            if code not in EVERYWHERE:
                said.append(_parameter(code, content))
    except MalformedPacket as error:
        said.append(f"malformed: {error}")
    return name, " ".join(said), False


def _parameter(code: int, content: bytes) -> str:
    try:
        name = ParameterType(code).name
    except ValueError:
        return str(code)
    if code in PARAMETERS:
        parsed = PARAMETERS[code].parse(Reader(content))
        address = getattr(parsed, "address", None) or getattr(parsed, "ip", None)
        if address:
            there = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
            return f"{name}={there}"
    return name


def hops(sightings: Sequence[Sighting]) -> list[Hop]:
    """Put together what left and what arrived; in the order in which it left."""
    found: list[Hop] = []
    under_way: dict[tuple[int, int], deque[int]] = {}  # index into found
    for seen in sorted(sightings, key=lambda one: one.at):
        waiting = under_way.setdefault(seen.carried, deque())
        if seen.leaves:
            waiting.append(len(found))
            found.append(Hop(seen, seen.node, None))
            continue
        index = _origin(seen, waiting, found)
        if index is None:
            found.append(Hop(seen, None, seen.node))
        elif found[index].end is None:
            found[index] = replace(found[index], end=seen.node)
        else:  # a further one who hears a multicast
            found.append(replace(found[index], end=seen.node))
        if index is not None and not seen.multicast:
            waiting.remove(index)
    return sorted(found, key=lambda hop: hop.seen.at)


def _origin(seen: Sighting, waiting: Iterable[int], found: Sequence[Hop]) -> int | None:
    """Which departure is the likeliest: of those with the same ends the last one.

    Equal packets go to several addresses, or again because the first ones were lost.
    """
    there = [i for i in waiting if found[i].start != seen.node]

    def ends_alike(index: int) -> int:
        left = found[index].seen
        return (left.source == seen.source) + (left.destination == seen.destination)

    return max(there, key=lambda index: (ends_alike(index), index), default=None)


def gathered(found: Sequence[Hop]) -> list[Hop]:
    """Count bulk between two other packets instead of repeating it."""
    rows: list[Hop] = []
    open_rows: dict[tuple[str | None, str | None, str], int] = {}
    for hop in found:
        if not hop.seen.bulk:
            open_rows.clear()
            rows.append(hop)
            continue
        kind = (hop.start, hop.end, hop.seen.name)
        if kind in open_rows:
            row = rows[open_rows[kind]]
            rows[open_rows[kind]] = replace(row, count=row.count + 1, until=hop.seen.at)
        else:
            open_rows[kind] = len(rows)
            rows.append(hop)
    return rows


def draw(
    sightings: Iterable[Sighting], columns: Sequence[str], owners: Mapping[str, str] | None = None
) -> str:
    """The ladder.

    Args:
        sightings: in any order; of other nodes than the columns' they are left out.
        columns: the nodes, from left to right.
        owners: IP address -> node, to point the right way what did not arrive.
    """
    rows = gathered(hops([seen for seen in sightings if seen.node in columns]))
    if not rows:
        return "no packets were seen"
    labels = max(len(_label(row)) for row in rows)
    gap = max(GAP, labels + 9, *(len(name) + 4 for name in columns))
    page = _Page(columns, gap, rows[0].seen.at, owners or {})
    lines = [page.row(row) for row in rows]
    if len(lines) > HEAD + TAIL:
        left_out = len(lines) - HEAD - TAIL
        lines[HEAD:-TAIL] = [f"{'':>10}… {left_out} more …"]
    return "\n".join([page.heading(), *lines])


def _label(hop: Hop) -> str:
    return hop.seen.name + (f" ×{hop.count}" if hop.count > 1 else "")


class _Page:
    """Where what is drawn: the time, then the columns, each in the middle of its gap."""

    def __init__(
        self, columns: Sequence[str], gap: int, began: float, owners: Mapping[str, str]
    ) -> None:
        self._x = {name: MARGIN + gap // 2 + number * gap for number, name in enumerate(columns)}
        self._width = max(self._x.values()) + (1 if len(columns) > 1 else gap)
        self._gap, self._began, self._owners = gap, began, owners

    def heading(self) -> str:
        line = [" "] * self._width
        for name, x in self._x.items():
            start = x - len(name) // 2
            line[start : start + len(name)] = name
        return "".join(line).rstrip()

    def row(self, hop: Hop) -> str:
        line = [" "] * self._width
        for x in self._x.values():
            line[x] = "│"
        seen = hop.seen
        line[: MARGIN - 1] = f"{seen.at - self._began:{MARGIN - 1}.4f}"
        self._arrow(line, hop)
        more = [f"{seen.source} → {seen.destination}"]
        if hop.until:
            more.append(f"until {hop.until - self._began:.4f}")
        if not hop.end:
            more.append("LOST")
        if seen.detail:
            more.append(seen.detail)
        return "".join(line) + "  " + "  ".join(more)

    def _arrow(self, line: list[str], hop: Hop) -> None:
        """From column to column; from or to nowhere it is shorter than a gap."""
        here = self._x[hop.start or hop.end or ""]
        if hop.start and hop.end:
            there = self._x[hop.end]
        else:
            other = hop.seen.destination if hop.start else hop.seen.source
            there = here + (self._gap - 2) * (1 if self._rightwards(here, other) else -1)
        low, high = sorted((here, there))
        for x in range(low + 1, high):
            line[x] = "┼" if line[x] == "│" else "─"
        way = 1 if there > here else -1
        if hop.start:
            line[here] = "├" if way > 0 else "┤"
            line[there - way] = "✗" if hop.end is None else "▶" if way > 0 else "◀"
        else:
            line[here + way], line[there - way] = "◀" if way > 0 else "▶", "·"
        text = f" {_label(hop)} "
        first = here + 3 if way > 0 else here - 2 - len(text)
        line[first : first + len(text)] = text

    def _rightwards(self, here: int, other: str) -> bool:
        """Towards whoever has the other address; else to where there is room."""
        owner = self._owners.get(other.rpartition(":")[0].strip("[]"), "")
        if owner in self._x and self._x[owner] != here:
            return self._x[owner] > here
        return here != max(self._x.values()) or len(self._x) == 1
