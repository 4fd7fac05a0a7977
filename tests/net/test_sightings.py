"""Packets seen at several nodes become the rows of a ladder. No sockets."""

import ipaddress
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from net.sightings import ESP, HIP, TCP, UDP, Sighting, events, hops, sighting

from hipctl.constants import PacketType, ParameterType
from hipctl.wire import frame
from ladder import draw

DATA = bytes.fromhex("1a2b3c4d00000007") + bytes(30)
ALICE, HOME, RELAY, BOB = "192.168.1.2", "5.0.1.2", "5.0.2.2", "5.0.3.2"


def ip(source: str, destination: str, protocol: int, content: bytes) -> bytes:
    ends = [ipaddress.ip_address(one).packed for one in (source, destination)]
    if len(ends[0]) == 16:
        return struct.pack("!IHBB", 6 << 28, len(content), protocol, 64) + b"".join(ends) + content
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 0, 0, 64, protocol, 0)
    return head + b"".join(ends) + content


def udp(source: str, sport: int, destination: str, dport: int, carried: bytes) -> bytes:
    head = struct.pack("!HHHH", sport, dport, 8 + len(carried), 0)
    return ip(source, destination, UDP, head + carried)


def hip(kind: PacketType, *parameters: bytes) -> bytes:
    content = b"".join(parameters)
    return (
        struct.pack("!BBBBHH", 59, (32 + len(content)) // 8, kind, 0x21, 0, 0)
        + bytes(32)
        + content
    )


def seen(packet: bytes) -> Sighting:
    found = sighting(0.0, "alice", True, packet)
    assert found is not None
    return found


def test_a_control_packet_is_named_with_its_telling_parameters() -> None:
    at = struct.pack("!HBx10xH", 9_999, UDP, 0xFFFF) + ipaddress.ip_address(BOB).packed
    packet = hip(
        PacketType.UPDATE,
        frame(ParameterType.NOMINATE, b"\1\0\0\0"),
        frame(ParameterType.HIP_MAC, bytes(48)),
        frame(ParameterType.RELAY_TO, at),
        frame(65_001, b""),
    )
    found = seen(udp(ALICE, 10_500, RELAY, 4_444, bytes(4) + packet))
    assert (found.name, found.detail) == ("UPDATE", f"NOMINATE, RELAY_TO {BOB}:9999")
    assert (found.source, found.destination) == (f"{ALICE}:10500", f"{RELAY}:4444")
    assert seen(ip("2a00::1", "2a00::2", HIP, packet)).name == "UPDATE"


def test_what_else_is_of_interest_has_its_name() -> None:
    assert seen(udp(ALICE, 10_500, BOB, 9, DATA)).name == "ESP 1a2b3c4d"
    assert seen(ip(ALICE, BOB, ESP, DATA)).name == "ESP 1a2b3c4d"
    assert seen(udp(ALICE, 10_500, BOB, 10_500, b"\xff")).name == "keepalive"
    assert seen(udp(ALICE, 4_000, "192.168.1.1", 5_351, bytes(60))).name == "PCP"
    assert seen(udp("2a00::1", 4_000, "2a00::2", 4_001, b"x")).source == "[2a00::1]:4000"
    syn = struct.pack("!HHIIBBHHH", 4_000, 80, 0, 0, 0x50, 2, 0, 0, 0)
    assert seen(ip(ALICE, BOB, TCP, syn)).name == "TCP SYN"
    assert seen(ip(BOB, ALICE, 1, b"\3\3\0\0")).name == "unreachable"
    assert sighting(0.0, "alice", True, ip(ALICE, BOB, 1, b"\x08\0\0\0")) is None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_stop_it(data: bytes) -> None:
    sighting(0.0, "alice", True, data)
    sighting(0.0, "alice", True, udp(ALICE, 10_500, BOB, 1, bytes(4) + data))
    for protocol in (1, TCP, ESP, HIP):
        sighting(0.0, "alice", True, ip(ALICE, BOB, protocol, data))


I1 = bytes(4) + hip(PacketType.I1)
R1 = bytes(4) + hip(PacketType.R1)


def through_the_nat() -> list[Sighting]:
    """I1 and R1 between alice behind a NAT and bob; and something to the relay, lost."""
    crossed = [
        (0.000, "alice", True, udp(ALICE, 10_500, BOB, 10_500, I1)),
        (0.001, "h1", False, udp(ALICE, 10_500, BOB, 10_500, I1)),
        (0.002, "h1", True, udp(HOME, 777, BOB, 10_500, I1)),
        (0.003, "bob", False, udp(HOME, 777, BOB, 10_500, I1)),
        (0.010, "bob", True, udp(BOB, 10_500, HOME, 777, R1)),
        (0.011, "h1", False, udp(BOB, 10_500, HOME, 777, R1)),
        (0.012, "h1", True, udp(BOB, 10_500, ALICE, 10_500, R1)),
        (0.013, "alice", False, udp(BOB, 10_500, ALICE, 10_500, R1)),
        (0.020, "bob", True, udp(BOB, 10_500, RELAY, 10_500, b"\xff")),
    ]
    found = [sighting(*one) for one in crossed]
    return [one for one in found if one]


def test_packets_through_a_nat_and_a_loss_are_drawn() -> None:
    columns = ["alice", "h1", "relay", "bob"]
    drawn = draw(events(through_the_nat(), columns, {RELAY: "relay"}), columns)
    heading, *rows = drawn.splitlines()
    assert heading == " seconds   alice            h1             relay            bob"
    assert [row.partition("  5.")[0].partition("  192.")[0] for row in rows] == [
        "   0.000     |----- I1 ----->|               |               |",
        "   0.002     |               |------------- I1 ------------->|",
        "   0.010     |               |<------------- R1 -------------|",
        "   0.012     |<----- R1 -----|               |               |",
        "   0.020     |               |               |x- keepalive --|",
    ]
    assert [row.rpartition("|")[2].strip() for row in rows] == [
        f"{ALICE}:10500 → {BOB}:10500",
        f"{HOME}:777 → {BOB}:10500",
        f"{BOB}:10500 → {HOME}:777",
        f"{BOB}:10500 → {ALICE}:10500",
        f"{BOB}:10500 → {RELAY}:10500",
    ]


def test_without_the_nat_a_packet_is_one_arrow_and_what_is_not_seen_is_elsewhere() -> None:
    def ends(*columns: str) -> list[tuple[str, str, bool]]:
        found = events(through_the_nat(), columns, {BOB: "bob"})
        return [(event.source, event.to, event.lost) for event in found]

    assert ends("alice", "bob") == [
        ("alice", "bob", False),
        ("bob", "alice", False),
        ("bob", "elsewhere", False),
    ]
    assert ends("alice") == [("alice", "elsewhere", False), ("elsewhere", "alice", False)]


def test_of_equal_packets_each_has_its_own_arrow() -> None:
    packet = udp(ALICE, 10_500, BOB, 10_500, I1)
    times = [(0.0, "alice"), (1.0, "alice"), (1.1, "bob"), (2.0, "alice"), (2.1, "bob")]
    found = [sighting(at, node, node == "alice", packet) for at, node in times]
    assert [hop.end for hop in hops([one for one in found if one])] == [None, "bob", "bob"]


def test_of_equal_packets_to_several_addresses_that_arrives_which_went_there() -> None:
    sent = [(0.1 * n, to, "alice") for n, to in enumerate([BOB, RELAY, HOME])]
    found = [
        sighting(at, node, node == "alice", udp(ALICE, 10_500, to, 10_500, I1))
        for at, to, node in [*sent, (0.3, RELAY, "relay"), (0.4, BOB, "bob")]
    ]
    ends = [hop.end for hop in hops([one for one in found if one])]
    assert ends == ["bob", "relay", None]


def test_a_multicast_may_be_heard_by_several() -> None:
    packet = udp(ALICE, 1, "239.255.255.250", 1_900, b"NOTIFY")
    found = [
        sighting(0.1 * n, node, not n, packet) for n, node in enumerate(["alice", "h1", "bob"])
    ]
    assert [(hop.start, hop.end) for hop in hops([one for one in found if one])] == [
        ("alice", "h1"),
        ("alice", "bob"),
    ]


def test_bulk_is_counted_and_control_packets_are_not() -> None:
    esp = udp(ALICE, 10_500, BOB, 10_500, DATA)
    crossed = [sighting(0.1 * number, "alice", True, esp) for number in range(5)]
    crossed += [sighting(1.0 + n, "alice", True, udp(ALICE, 1, BOB, 2, I1)) for n in range(2)]
    found = events([one for one in crossed if one], ["alice"], {})
    drawn = draw(found).splitlines()
    assert len(drawn) == 1 + 1 + 2
    assert "ESP 1a2b3c4d x5" in drawn[1]
