"""After the checks: control packets, moves, keepalives, CLOSE (RFC 9028 §4.6 to §4.11)."""

import itertools

import pytest

from hipctl import params
from hipctl.actions import Address
from hipctl.constants import NotifyType, PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import HostConfigRefused
from hipctl.identity import Hit
from hipctl.packet import Packet
from hipctl.state import Shared, State
from sim.engines import UDP, Net, Peer, Seen, both_ways
from sim.servers import ESP, HIP, RELAYS, ServerNet, address, met

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
UPDATE, NOTIFY = PacketType.UPDATE, PacketType.NOTIFY
CLOSE, CLOSE_ACK = PacketType.CLOSE, PacketType.CLOSE_ACK


def called(walls: bool = False) -> tuple[ServerNet, Peer, Peer, Peer]:
    """As ``met``; both know where they are, a datagram was sent, and some time has passed."""
    net, a, b, server = met(walls)
    for peer in (a, b):
        peer.engine.set_locators([peer.address], net.now)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    net.wire.clear()
    return net, a, b, server


def nominations(net: Net) -> set[Hit]:
    """Who has nominated, rather than confirmed a nomination."""
    packets = [Packet(seen.data) for seen in net.sent(UPDATE)]
    return {p.sender for p in packets if p.has(params.Nominate) and not p.has(params.Ack)}


def tells(seen: Seen) -> bool:
    """Whether an UPDATE tells where its sender is."""
    return seen.kind == UPDATE and Packet(seen.data).has(params.Encrypted)


def rekey(net: Net, peer: Peer, other: Peer) -> None:
    upkeep = peer.engine._associations[peer.hit, other.hit].standing.upkeep
    assert upkeep is not None
    net.perform(peer, upkeep.start_rekey(net.now))
    peer.engine._settle(peer.engine._associations[peer.hit, other.hit])


# -- §4.6, §4.9: roles -------------------------------------------------------------------------


def test_the_initiator_controls_as_long_as_the_association_lasts() -> None:
    net, a, b, _ = met()
    for peer in (a, b):
        peer.engine.set_locators([peer.address], net.now)
    net.connect(a, b)
    net.run(net.now + 3)
    assert nominations(net) == {a.hit}
    for n, (peer, other) in enumerate([(b, a), (a, b), (b, a)]):
        net.wire.clear()
        net.move(peer, (f"203.0.113.{n + 1}", 10500))
        net.run(net.now + 5)
        assert nominations(net) == {a.hit}
        assert address(other, peer) == peer.address
        rekey(net, peer, other)
        net.run(net.now + 2)
        both_ways(net, a, b)
    assert not net.sent(I2)


def test_who_becomes_responder_because_both_began_is_controlled() -> None:
    net = ServerNet()
    a, b, server = net.add(), net.add(), net.serve(RELAYS)
    for peer, other in ((a, b), (b, a)):
        peer.engine.set_hosts([peer.address])
        net.register(peer, server, [HIP, ESP])
        peer.engine.learn(other.hit, [server.address])
    net.wire.clear()
    net.connect(a, b)
    net.connect(b, a)
    net.run(net.now + 3)
    assert {Packet(seen.data).sender for seen in net.sent(I1)} == {a.hit, b.hit}
    [initiator] = {Packet(seen.data).sender for seen in net.sent(I2)}
    assert initiator == min(a.hit, b.hit)
    assert nominations(net) == {initiator}
    both_ways(net, a, b)


# -- §4.5, §4.8: after the exchange ------------------------------------------------------------


def test_control_packets_go_the_way_of_the_data() -> None:
    net, a, b, server = called()
    for peer, other in ((a, b), (b, a)):
        net.wire.clear()
        rekey(net, peer, other)
        net.run(net.now + 1)
        between = [
            seen for seen in net.sent(UPDATE) if server.address not in (seen.source, seen.to)
        ]
        assert len(between) >= 2
        assert {frozenset((s.source, s.to)) for s in between} == {
            frozenset((a.address, b.address))
        }
        assert len(between) == len(net.sent(UPDATE))


def test_a_relay_that_was_not_listed_is_not_used_after_the_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Shared, "relays", lambda self, local: [])
    net, a, b, server = called()
    for peer in (a, b):
        net.wire.clear()
        net.move(peer, (f"203.0.113.{net.now:.0f}", 10500))
        net.run(net.now + 5)
        told = [seen for seen in net.wire if tells(seen)]
        assert told
        ours = [
            s for s in told if {Packet(s.data).sender, Packet(s.data).receiver} == {a.hit, b.hit}
        ]
        assert not [s for s in ours if server.address in (s.source, s.to)]
        both_ways(net, a, b)


def test_the_relay_of_the_exchange_is_kept_though_others_are_listed() -> None:
    net = ServerNet()
    a, b, one, two = net.add(), net.add(), net.serve(RELAYS), net.serve(RELAYS)
    for peer in (a, b):
        peer.engine.set_locators([peer.address], net.now)
    for server in (one, two):
        net.register(b, server, [HIP])
    a.engine.learn(b.hit, [two.address])
    net.connect(a, b)
    net.run(net.now + 3)
    upkeep = a.engine._associations[a.hit, b.hit].standing.upkeep
    assert upkeep is not None
    assert {one.address, two.address} <= {way.to for way in upkeep.ways()}
    net.wire.clear()
    net.move(a, ("203.0.113.9", 10500))
    told = [s for s in net.wire if tells(s) and Packet(s.data).receiver == b.hit]
    assert told[0].to == two.address
    net.wire.clear()
    net.run(net.now + 5)
    net.move(b, ("203.0.113.10", 10500))
    told = [s for s in net.wire if tells(s) and Packet(s.data).receiver == a.hit]
    assert told[0].to == two.address


def test_what_is_not_acknowledged_goes_through_a_relay_of_the_peer_s() -> None:
    net, a, b, server = called()
    apart = {a.address, b.address}
    net.walls = lambda source, to: not {source, to} <= apart
    rekey(net, a, b)
    net.run(net.now + 3)
    mine = [s for s in net.sent(UPDATE) if Packet(s.data).sender == a.hit]
    ways = [s.to for s in mine if Packet(s.data).has(params.EspInfo) and s.source == a.address]
    assert ways[:3] == [b.address, b.address, server.address]
    acks = [s for s in net.sent(UPDATE) if s.to == a.address and Packet(s.data).has(params.Ack)]
    assert acks


# -- §4.7: without checks ----------------------------------------------------------------------


def test_in_udp_encapsulation_mode_nothing_is_checked_though_i2_lists_locators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody: Address = ("192.0.2.200", 10500)
    listed = Shared.listed
    monkeypatch.setattr(
        Shared, "listed", lambda self, *args, **kind: listed(self, *args, **(kind | {"ice": True}))
    )
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    a.engine.set_hosts([nobody, a.address])
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    assert Packet(net.sent(I2)[0].data).need(params.NatTraversalModes).modes == (1,)
    upkeep = b.engine._associations[b.hit, a.hit].standing.upkeep
    assert upkeep is not None
    assert list(nobody) in [known["address"] for known in upkeep.describe()]
    for _ in range(20):
        both_ways(net, a, b)
    net.move(a, ("203.0.113.9", 10500))
    net.run(net.now + 5)
    both_ways(net, a, b)
    checks = [
        seen
        for seen in net.sent(UPDATE)
        if {params.CandidatePriority.TYPE, params.MappedAddress.TYPE} & {*Packet(seen.data)._found}
    ]
    assert not checks
    assert address(b, a) == a.address


# -- §4.9: moves -------------------------------------------------------------------------------


def test_who_moves_tells_its_servers_before_its_peers() -> None:
    net, a, b, server = called()
    for _ in range(30):  # the peer is heard later than the server
        both_ways(net, a, b)
    net.register(a, server, [HIP])
    both_ways(net, a, b)
    for peer in (b, a):
        net.wire.clear()
        net.move(peer, (f"203.0.113.{len(peer.datagrams)}", 10500))
        told = [Packet(seen.data) for seen in net.wire if tells(seen)]
        assert told[0].receiver == server.hit
        assert {a.hit, b.hit} - {peer.hit} <= {each.receiver for each in told}
        net.run(net.now + 5)


def test_checks_begin_anew_once_the_peer_that_moved_has_echoed() -> None:
    net, a, b, _server = called()
    new: Address = ("203.0.113.9", 10500)
    held: list[Seen] = []

    def only_words(seen: Seen) -> list[bytes]:
        """No checks of the one that moves; its echo is held up."""
        packet = Packet(seen.data) if seen.kind == UPDATE else None
        if packet is None or packet.sender != a.hit or packet.receiver != b.hit:
            return [seen.data]
        if packet.has(params.CandidatePriority):
            return []
        if packet.has(params.EchoResponseSigned) and not packet.has(params.Seq):
            held.append(seen)
            return []
        return [seen.data]

    net.tamper = only_words
    net.move(a, new)
    net.run(net.now + 1)
    moved = [s for s in net.wire if tells(s) and Packet(s.data).receiver == b.hit]
    assert moved
    assert not [s for s in net.sent(UPDATE) if Packet(s.data).has(params.LocatorSet)]
    for seen in moved:
        info = Packet(seen.data).need(params.EspInfo)
        assert info.old_spi == info.new_spi == b.engine.outbound[b.hit, a.hit].sa.spi
        assert Packet(seen.data).has(params.Seq)
    asked = [
        Packet(s.data)
        for s in net.sent(UPDATE)
        if Packet(s.data).sender == b.hit and Packet(s.data).has(params.EchoRequestSigned)
    ]
    assert asked
    checks = [s for s in net.sent(UPDATE) if s.source == b.address and s.to == new]
    assert not [s for s in checks if Packet(s.data).has(params.CandidatePriority)]
    assert held
    echo = held[0]
    net._control(net.peers[echo.to], echo.data, echo.source, echo.to)
    net.run(net.now + 0.2)
    net.tamper = lambda seen: [seen.data]
    checks = [s for s in net.sent(UPDATE) if s.source == b.address and s.to == new]
    assert [s for s in checks if Packet(s.data).has(params.CandidatePriority)]
    net.run(net.now + 2)
    both_ways(net, a, b)
    assert address(b, a) == new


# -- §4.10, §5.3: keepalives -------------------------------------------------------------------


def keepalives(net: Net, peer: Peer, to: Address) -> list[float]:
    found = []
    for seen in net.sent(NOTIFY):
        if seen.source == peer.address and seen.to == to:
            [said] = Packet(seen.data).every(params.Notification)
            assert (said.type, said.data) == (NotifyType.NAT_KEEPALIVE, b"")
            found.append(seen.at)
    return found


def test_a_client_reminds_its_data_relay_by_notify_when_it_says_nothing_else() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    client.engine.set_locators([client.address], net.now)
    net.register(client, server, [ESP])
    net.wire.clear()
    start = net.now
    net.run(start + 600)
    times = keepalives(net, client, server.address)
    said = [seen.at for seen in net.sent(UPDATE) if seen.source == client.address]
    assert len(times) + len(said) >= 600 / 15 - 1
    assert 1 <= len(said) <= 4, "renewals"
    everything = sorted([start, *times, *said])
    gaps = [later - earlier for earlier, later in itertools.pairwise(everything)]
    assert max(gaps) < 30
    between = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(between) >= 15 - 1e-6
    for at in said:
        assert not [time for time in times if at <= time < at + 15]


def test_no_keepalive_goes_where_data_went() -> None:
    net, a, b, _server = called()
    until = net.now + 100
    while net.now < until:
        both_ways(net, a, b)
    assert not keepalives(net, a, b.address)
    net.wire.clear()
    net.run(net.now + 100)
    times = keepalives(net, a, b.address)
    assert len(times) >= 5
    assert min(b - a for a, b in itertools.pairwise(times)) >= 15 - 1e-6


@pytest.mark.parametrize("keepalive", [14.9, 1.0, 0.0, float("nan")])
def test_less_than_15_s_between_keepalives_cannot_be_configured(keepalive: float) -> None:
    with pytest.raises(HostConfigRefused, match="keepalive"):
        Engine([], EngineConfig(keepalive=keepalive), bytes)


# -- §4.11: CLOSE ------------------------------------------------------------------------------


def test_close_goes_directly_and_so_does_its_answer() -> None:
    net, a, b, _server = called()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 5)
    [close], [ack] = net.sent(CLOSE), net.sent(CLOSE_ACK)
    assert (close.source, close.to) == (a.address, b.address)
    assert (ack.source, ack.to) == (b.address, a.address)


def test_close_that_nobody_answers_goes_through_the_peer_s_relay_and_its_answer_too() -> None:
    net, a, b, server = called()
    apart = {a.address, b.address}
    net.walls = lambda source, to: not {source, to} <= apart
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 5)
    ways = [seen.to for seen in net.sent(CLOSE) if seen.source == a.address]
    assert ways[0] == b.address
    assert server.address in ways[1:]
    passed = [
        seen for seen in net.sent(CLOSE) if seen.to == b.address and seen.source != a.address
    ]
    assert {seen.source for seen in passed} == {server.address}
    assert Packet(passed[0].data).need(params.RelayFrom).address == a.address
    acks = net.sent(CLOSE_ACK)
    assert [(s.source, s.to) for s in acks[:2]] == [
        (b.address, server.address),
        (server.address, a.address),
    ]
    assert Packet(acks[0].data).need(params.RelayTo).address == a.address
    assert net.state(a, b) is State.UNASSOCIATED
