import asyncio
from collections.abc import Callable
from errno import EMFILE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.clients import Wire
from sim.hits import HitNet, SimHost
from sim.loop import simulate
from sipgw.errors import MediaExhausted
from sipgw.media import (
    QUARANTINE,
    ClientPort,
    ClientSide,
    MediaRelay,
    OverlaySide,
    PortPairs,
    usable,
)

CLIENT = "127.0.0.1", 7000
RTP = b"\x80\x00" + bytes(170)


class Heard:
    """A socket of a client, and what it got."""

    def __init__(self, wire: Wire, host: str = "127.0.0.1", port: int = 0) -> None:
        self.got: list[bytes] = []
        self.port = wire.open(host, port, lambda data, _: self.got.append(data))

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self.port.send(data, to)


class Bench:
    """A relay on a wire and a host of its own, driven by a clock that tests set."""

    def __init__(self, net: HitNet | None = None, ports: range = range(22_000, 22_020)) -> None:
        self.wire = Wire(latency=0.0)
        self.host: SimHost = (net or HitNet()).host()
        self.now = 0.0
        self.relay = MediaRelay(self.host, "127.0.0.1", ports, lambda: self.now, self.wire.open)
        self.marks = 0

    def mark(self) -> None:
        self.marks += 1

    def client_side(self) -> ClientSide:
        return self.relay.client_side("127.0.0.1", self.mark)

    def overlay_side(self) -> OverlaySide:
        return self.relay.overlay_side(self.host.hits[0], self.mark)


async def settle() -> None:
    await asyncio.sleep(1)


def run(main: Callable[[], object]) -> None:
    async def scenario() -> None:
        await main()  # type: ignore[misc]

    simulate(scenario)


def test_rtp_and_rtcp_pass_between_two_clients_in_both_directions() -> None:
    async def scenario() -> None:
        bench = Bench()
        one, two = bench.client_side(), bench.client_side()
        one.connect(two)
        two.connect(one)
        clients = [Heard(bench.wire) for _ in range(4)]  # RTP and RTCP of each
        one.aim("127.0.0.1", clients[0].port.address[1], clients[1].port.address[1])
        two.aim("127.0.0.1", clients[2].port.address[1], clients[3].port.address[1])
        clients[0].send(RTP, ("127.0.0.1", one.port))
        clients[1].send(b"\x80\xc8" + bytes(26), ("127.0.0.1", one.port + 1))
        clients[2].send(RTP + b"2", ("127.0.0.1", two.port))
        await settle()
        assert [c.got for c in clients] == [[RTP + b"2"], [], [RTP], [b"\x80\xc8" + bytes(26)]]
        assert bench.marks == 2

    run(scenario)


def test_an_overlay_side_hears_only_the_hit_and_port_that_it_was_aimed_at() -> None:
    async def scenario() -> None:
        net = HitNet()
        near, far, other = Bench(net), Bench(net), Bench(net)
        for bench in (far, other):
            bench.host.learn(near.host.hits[0], near.host.contact(near.host.hits[0]))
        side, client = near.overlay_side(), near.client_side()
        side.connect(client)
        ear = Heard(near.wire)
        client.aim("127.0.0.1", ear.port.address[1], 0)
        sender, wrong_port, stranger = far.overlay_side(), far.overlay_side(), other.overlay_side()
        for one in (sender, wrong_port, stranger):
            one.aim(near.host.hits[0], side.port, 0)
        sender.send_rtp(RTP)  # before the answer says whom to expect
        await settle()
        assert not ear.got
        side.aim(far.host.hits[0], sender.port, 0)
        for one in (sender, wrong_port, stranger):
            one.send_rtp(RTP)
        sender.send_rtcp(b"\x80\xc8" + bytes(26))
        stranger.send_rtcp(b"\x80\xc8" + bytes(26))
        await settle()
        assert ear.got == [RTP]
        assert near.relay.counters["media: unexpected from overlay"] == 4

    run(scenario)


def test_a_client_is_answered_where_it_sends_from_whatever_its_sdp_says() -> None:
    async def scenario() -> None:
        bench = Bench()
        side, other = bench.client_side(), bench.client_side()
        side.connect(other)
        said, real = Heard(bench.wire, "192.168.1.5", 4000), Heard(bench.wire, "127.0.0.1", 4002)
        side.aim("192.168.1.5", 4000, 4001)
        side.send_rtp(RTP)
        await settle()
        assert len(said.got) == 1
        real.send(RTP, ("127.0.0.1", side.port))
        await settle()
        side.send_rtp(RTP)
        await settle()
        assert (len(said.got), len(real.got)) == (1, 1)

    run(scenario)


def test_a_second_source_is_ignored_until_the_first_has_been_silent() -> None:
    async def scenario() -> None:
        bench = Bench()
        side, other = bench.client_side(), bench.client_side()
        side.connect(other)
        first, second = Heard(bench.wire), Heard(bench.wire)
        to = "127.0.0.1", side.port
        first.send(RTP, to)
        await settle()
        second.send(RTP, to)
        await settle()
        assert side.packets == 1
        bench.now = 5.0
        first.send(RTP, to)
        await settle()
        second.send(RTP, to)  # the first went on meanwhile
        await settle()
        assert side.packets == 2
        bench.now = 10.0
        second.send(RTP, to)
        await settle()
        assert side.packets == 3
        side.send_rtp(RTP)
        await settle()
        assert (len(first.got), len(second.got)) == (0, 1)

    run(scenario)


def test_a_source_that_nobody_named_and_stun_are_dropped() -> None:
    async def scenario() -> None:
        bench = Bench()
        side = bench.client_side()
        foreign = Heard(bench.wire, "10.1.2.3", 5000)
        for port in (side.port, side.port + 1):
            foreign.send(RTP, ("127.0.0.1", port))
            foreign.send(b"\x00\x01\x00\x00" + bytes(16), ("127.0.0.1", port))
            foreign.send(b"", ("127.0.0.1", port))
        await settle()
        assert side.packets == 0
        assert bench.relay.counters == {"media: foreign source": 2, "media: stun dropped": 4}

    run(scenario)


def test_a_new_address_in_sdp_moves_the_stream_and_the_same_one_keeps_the_latch() -> None:
    async def scenario() -> None:
        bench = Bench()
        side, other = bench.client_side(), bench.client_side()
        side.connect(other)
        real, new = Heard(bench.wire), Heard(bench.wire)
        side.aim("192.168.1.5", 4000, 0)
        real.send(RTP, ("127.0.0.1", side.port))
        await settle()
        side.aim("0.0.0.0", 4000, 0)
        side.send_rtp(RTP)
        side.aim("127.0.0.1", new.port.address[1], 0)
        side.send_rtp(RTP)
        await settle()
        assert (len(real.got), len(new.got)) == (1, 1)

    run(scenario)


def test_whoever_was_quicker_gives_way_to_the_port_that_sdp_names() -> None:
    async def scenario() -> None:
        bench = Bench()
        side, other = bench.client_side(), bench.client_side()
        side.connect(other)
        real, thief = Heard(bench.wire), Heard(bench.wire)
        report, forged = Heard(bench.wire), Heard(bench.wire)
        side.aim("192.168.1.5", real.port.address[1], report.port.address[1])
        to, rtcp = ("127.0.0.1", side.port), ("127.0.0.1", side.port + 1)
        for _ in range(3):
            thief.send(RTP, to)
            await settle()
            real.send(RTP, to)
            await settle()
            forged.send(b"\x80\xc8" + bytes(26), rtcp)
            await settle()
            report.send(b"\x80\xc8" + bytes(26), rtcp)
            await settle()
        thief.send(RTP, to)
        forged.send(b"\x80\xc8" + bytes(26), rtcp)
        await settle()
        side.send_rtp(RTP)
        side.send_rtcp(RTP)
        await settle()
        assert (len(real.got), len(thief.got)) == (1, 0)
        assert (len(report.got), len(forged.got)) == (1, 0)
        assert side.packets == 4  # one of the thief's, before it was known to be one
        assert bench.relay.counters["media: second source"] == 6

    run(scenario)


def test_no_description_leads_packets_round_in_a_circle() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.wire.latency = 0.001
        one, two = bench.client_side(), bench.client_side()
        one.connect(two)
        two.connect(one)
        client = Heard(bench.wire)
        one.aim("127.0.0.1", two.port, 0)
        two.aim("127.0.0.1", one.port, 0)
        one.aim("127.0.0.1", client.port.address[1], two.port + 1)
        client.send(RTP, ("127.0.0.1", one.port))
        await settle()
        assert len(bench.wire.log) == 1

    run(scenario)


def test_rtcp_has_no_port_after_the_last_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        overlay, client = bench.overlay_side(), bench.client_side()
        overlay.aim(bench.host.hits[0], 65_535, 0)
        client.aim("127.0.0.1", 65_535, 0)
        for side in (overlay, client):
            side.send_rtp(RTP)
            side.send_rtcp(RTP)
        await settle()

    run(scenario)


def test_without_descriptors_one_attempt_is_enough() -> None:
    async def scenario() -> None:
        bench = Bench()

        def exhausted(host: str, port: int, on_packet: object) -> ClientPort:
            raise OSError(EMFILE, "Too many open files")

        bench.relay.open_port = exhausted
        with pytest.raises(MediaExhausted):
            bench.client_side()
        assert len(bench.relay._pairs._resting) == 1

    run(scenario)


def test_ports_rest_before_they_are_given_out_again() -> None:
    async def scenario() -> None:
        bench = Bench(ports=range(22_001, 22_007))
        one, two = bench.client_side(), bench.client_side()
        assert {one.port, two.port} == {22_002, 22_004}
        with pytest.raises(MediaExhausted):
            bench.client_side()
        one.close()
        one.close()
        with pytest.raises(MediaExhausted):
            bench.client_side()
        bench.now = QUARANTINE
        assert bench.client_side().port == one.port
        bench.relay.close()
        assert not bench.wire.ports
        assert len(bench.relay) == 0

    run(scenario)


def test_pairs_that_other_programs_hold_are_passed_over() -> None:
    async def scenario() -> None:
        bench = Bench()
        Heard(bench.wire, port=22_000)
        Heard(bench.wire, port=22_003)
        assert bench.client_side().port == 22_004
        assert set(bench.wire.ports) == {
            ("127.0.0.1", p) for p in (22_000, 22_003, 22_004, 22_005)
        }
        bench.host.open(bench.host.hits[0], 20_001, lambda *_: None)
        assert bench.overlay_side().port == 20_002
        assert len(bench.host.endpoints) == 3

    run(scenario)


@given(st.lists(st.integers(-1, 8), max_size=60), st.floats(0, 3))
def test_no_two_hold_the_same_pair_whatever_the_order(steps: list[int], rest: float) -> None:
    pairs = PortPairs(range(100, 110), rest)
    held: list[int] = []
    now = 0.0
    for step in steps:
        now += 0.5
        if step >= 0 and held:
            pairs.give(held.pop(step % len(held)), now)
        elif (port := pairs.take(now)) is not None:
            assert port not in held
            assert port % 2 == 0
            held.append(port)
        assert len(pairs) + len(held) == 5


def test_addresses_that_rtp_cannot_be_sent_to() -> None:
    assert usable("192.168.1.5")
    for host in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "example.org", "::1", ""):
        assert not usable(host)
