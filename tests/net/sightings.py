"""Packets as they were seen at several nodes, put together into the rows of a ladder.

Pure: ``lab_capture`` sees them, ``ladder`` draws. A packet is known again at another node by what
it carries, since addresses and ports change on its way.
"""

import ipaddress
import struct
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ladder import Event, control, label

ICMP, TCP, UDP, ESP, ICMPV6, HIP = 1, 6, 17, 50, 58, 139
HIP_PORT = 10_500
MARKER = bytes(4)  # RFC 9028 §5: what stands before HIP in UDP
NO_NEXT_HEADER = 59  # RFC 7401 §5.1: how HIP begins
SERVICES = {53: "DNS", 1900: "SSDP", 3478: "STUN", 5060: "SIP", 5351: "PCP"}
ELSEWHERE = "elsewhere"  # the column of what was not seen to leave or to arrive


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
        return *control(carried), False
    if protocol == ESP:
        return label(carried)[0], "", True
    if protocol == TCP:
        flags = carried[13]
        rare = "SYN" if flags & 2 else "RST" if flags & 4 else ""
        return f"TCP {rare}".strip(), "", not rare
    if (protocol, carried[0]) in {(ICMP, 3), (ICMPV6, 1)}:
        return "unreachable", f"code {carried[1]}", False
    return "", "", False


def _udp(ports: tuple[int, int], carried: bytes) -> tuple[str, str, bool]:
    if carried[:4] == MARKER and carried[4:5] == bytes([NO_NEXT_HEADER]):
        return *control(carried[4:]), False
    if HIP_PORT in ports:
        name, many = label(carried)
        return name, "", many
    for port in sorted(ports):
        if port in SERVICES:
            return SERVICES[port], f"{len(carried)} B", SERVICES[port] == "SSDP"
    return "UDP", "", True


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


def events(
    sightings: Iterable[Sighting], columns: Collection[str], owners: Mapping[str, str]
) -> list[Event]:
    """What a ladder shows of them.

    Args:
        sightings: in any order; of other nodes than the columns' they are left out.
        columns: the nodes.
        owners: IP address -> node, for what was not seen to leave or to arrive.
    """
    drawn = []
    for hop in hops([seen for seen in sightings if seen.node in columns]):
        seen, ends = hop.seen, [hop.start, hop.end]
        for index, address in enumerate((seen.source, seen.destination)):
            owner = owners.get(address.rpartition(":")[0].strip("[]"), "")
            known = owner in columns and owner not in ends
            ends[index] = ends[index] or (owner if known else ELSEWHERE)
        remark = f"{seen.source} → {seen.destination}"
        if seen.detail:
            remark += f"  {seen.detail}"
        start, end = ends[0] or ELSEWHERE, ends[1] or ELSEWHERE
        lost = hop.end is None and end != ELSEWHERE  # there it would have been seen
        drawn.append(Event(seen.at, start, end, seen.name, seen.bulk, lost, remark))
    return drawn
