"""A ladder diagram of packets: hosts as columns, time downwards; what a failing scenario prints.

print(draw([Event(0.0, "alice", "nat", "I1"), Event(0.02, "nat", "bob", "I1")]))

 seconds   alice            nat             bob
   0.000     |----- I1 ----->|               |
   0.020     |               |----- I1 ----->|
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hipctl.constants import PacketType, ParameterType

_NON_ESP = bytes(4)
_HEADER = 40  # bytes of a HIP header
_NARROWEST = 15  # characters between two columns
_WIDEST = 62
_TIME = 10
_TELLING = {  # parameters that say what a packet is for
    ParameterType.REG_FROM,
    ParameterType.RELAYED_ADDRESS,
    ParameterType.ESP_INFO,
    ParameterType.LOCATOR_SET,
    ParameterType.SEQ,
    ParameterType.ACK,
    ParameterType.REG_REQUEST,
    ParameterType.REG_RESPONSE,
    ParameterType.REG_FAILED,
    ParameterType.MAPPED_ADDRESS,
    ParameterType.PEER_PERMISSION,
    ParameterType.CANDIDATE_PRIORITY,
    ParameterType.NOMINATE,
    ParameterType.RELAY_FROM,
    ParameterType.RELAY_TO,
    ParameterType.FROM,
    ParameterType.VIA_RVS,
}
_ADDRESSES = {  # those that hold a transport address: port, protocol, reserved, IP address
    ParameterType.REG_FROM,
    ParameterType.RELAYED_ADDRESS,
    ParameterType.MAPPED_ADDRESS,
    ParameterType.RELAY_FROM,
    ParameterType.RELAY_TO,
}
_ADDRESS = 20  # bytes of it
_PACKETS = {kind.value: kind.name for kind in PacketType}
_PARAMETERS = {kind.value: kind.name for kind in ParameterType}


@dataclass(frozen=True, slots=True)
class Event:
    """One row: an arrow, or a remark where ``source`` and ``to`` are the same host.

    Attributes:
        at: seconds.
        source: the column where it begins.
        to: where it ends.
        label: what it is, short.
        many: one of many of its kind, as ESP is: counted in one row until something else comes.
        lost: it never arrived.
        remark: what stands at the end of the row.
    """

    at: float
    source: str
    to: str
    label: str
    many: bool = False
    lost: bool = False
    remark: str = ""


def draw(events: Iterable[Event], hosts: Sequence[str] = (), most: int = 200) -> str:
    """Draw the events in their order.

    Args:
        events: with rising times.
        hosts: columns from left to right; hosts that are missing here follow as they appear.
        most: rows; of more, the first and the last are drawn.

    Returns:
        Lines of text, "" if there are no events.
    """
    rows = _counted(events)
    if not rows:
        return ""
    names = list(dict.fromkeys([*hosts, *(n for e, _ in rows for n in (e.source, e.to))]))
    left_out = max(0, len(rows) - most)
    if left_out:
        rows = [*rows[: most // 2], *rows[len(rows) - (most - most // 2) :]]
    at = _columns(names, rows)
    lines = [_heading(names, at)]
    for number, (event, times) in enumerate(rows):
        if left_out and number == most // 2:
            lines.append(f"{'...':>{_TIME - 2}}  {left_out} rows are left out")
        lines.append(f"{event.at:{_TIME - 2}.3f}  {_row(event, _text(event, times), at)}")
    return "\n".join(lines)


def label(payload: bytes) -> tuple[str, bool]:
    """What a UDP payload is, and whether it is one of ``many``.

    Args:
        payload: as on the wire; any bytes.
    """
    if payload == b"\xff":
        return "keepalive", True
    if payload[:4] != _NON_ESP:
        return (f"ESP {payload[:4].hex()}", True) if len(payload) > 8 else ("?", True)
    name, told = control(payload[4:])
    return (f"{name} ({told})" if told else name), False


def control(packet: bytes) -> tuple[str, str]:
    """The type of a HIP packet, and which telling parameters it has; of any bytes."""
    if len(packet) < _HEADER:
        return "HIP, cut", ""
    kind = packet[2] & 0x7F
    told = (_parameter(p, content) for p, content in _parameters(packet) if p in _TELLING)
    return _PACKETS.get(kind, f"HIP {kind}"), ", ".join(told)


def _parameters(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and contents of its parameters, as far as they can be followed."""
    at = _HEADER
    while at + 4 <= len(packet):
        kind = int.from_bytes(packet[at : at + 2], "big")
        length = int.from_bytes(packet[at + 2 : at + 4], "big")
        yield kind, packet[at + 4 : at + 4 + length]
        at += (4 + length + 7) // 8 * 8


def _parameter(kind: int, content: bytes) -> str:
    """Its name, and the address that it holds."""
    name = _PARAMETERS[kind]
    if kind in _ADDRESSES and len(content) == _ADDRESS:
        ip = ipaddress.IPv6Address(content[4:])
        return f"{name} {ip.ipv4_mapped or ip}:{int.from_bytes(content[:2], 'big')}"
    return name


def _counted(events: Iterable[Event]) -> list[tuple[Event, int]]:
    """The rows, and how many events each stands for."""
    rows: list[tuple[Event, int]] = []
    counting: dict[tuple[str, str, str, bool], int] = {}  # the rows that may still grow
    for event in events:
        key = (event.source, event.to, event.label, event.lost)
        row = counting.get(key) if event.many else None
        if row is not None:
            rows[row] = (rows[row][0], rows[row][1] + 1)
            continue
        if not event.many:
            counting.clear()
        counting[key] = len(rows)
        rows.append((event, 1))
    return rows


def _text(event: Event, times: int) -> str:
    return event.label if times == 1 else f"{event.label} x{times}"


def _columns(names: Sequence[str], rows: Sequence[tuple[Event, int]]) -> dict[str, int]:
    """Where each host's line stands: wide enough for names and labels."""
    place = {name: i for i, name in enumerate(names)}
    gaps = [max(_NARROWEST, (len(a) + len(b)) // 2 + 2) for a, b in pairwise(names)]
    for event, times in rows:
        i, j = sorted((place[event.source], place[event.to]))
        if i == j:
            continue
        wanted = min(len(_text(event, times)) + 5, _WIDEST * (j - i))
        lacking = wanted - sum(gaps[i:j]) - (j - i - 1)
        for gap in range(i, j):
            gaps[gap] += max(0, -(-lacking // (j - i)))
    at, x = {}, len(names[0]) // 2 + 1
    for name, gap in zip(names, [*gaps, 0], strict=True):
        at[name] = x
        x += gap + 1
    return at


def _heading(names: Sequence[str], at: dict[str, int]) -> str:
    line = " seconds".ljust(_TIME)
    for name in names:
        line = line.ljust(_TIME + at[name] - len(name) // 2) + name
    return line


def _row(event: Event, text: str, at: dict[str, int]) -> str:
    places = sorted(at.values())
    cells = list(" " * (places[-1] + 1))
    for x in places:
        cells[x] = "|"
    begin, end = at[event.source], at[event.to]
    remark = f"  {event.remark}" if event.remark else ""
    if begin == end:
        return "".join(cells[:begin]) + f"* {text}{remark}"
    left, right = min(begin, end), max(begin, end)
    room = right - left - 1
    if len(text) > room - 4:
        text = text[: room - 5] + "~"
    head = "x" if event.lost else "<" if begin > end else ">"
    shaft = f" {text} ".center(room - 1, "-")
    arrow = head + shaft if begin > end else shaft + head
    cells[left + 1 : right] = arrow
    return "".join(cells) + remark
