"""Associations that begin through a control relay: checks, data relays, moves (RFC 9028)."""

import random
from dataclasses import replace

import pytest

from hipctl import params
from hipctl.actions import Address
from hipctl.constants import NatTraversalMode, PacketType
from hipctl.engine import Engine
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown
from hipctl.packet import Packet
from sim.engines import FAST, UDP, Peer, both_ways, ups
from sim.servers import ESP, HIP, RELAYS, ServerNet, address, met


def test_a_call_through_a_control_relay_ends_up_on_the_direct_path() -> None:
    net, a, b, _server = met()
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 2)
    assert b.datagrams == [(UDP, b"first")]
    assert address(a, b) == b.address
    assert address(b, a) == a.address
    both_ways(net, a, b)
    assert len(ups(a)) == 1
    assert not any(isinstance(event, AssociationDown) for event in a.events + b.events)


def test_packets_of_such_an_exchange_say_what_rfc_9028_asks() -> None:
    net, a, b, _server = met()
    net.connect(a, b)
    net.run(net.now + 2)
    r1, i2, r2 = (
        next(Packet(seen.data) for seen in net.wire if seen.kind == kind and seen.to == to)
        for kind, to in ((2, a.address), (3, b.address), (4, a.address))
    )
    ice = (NatTraversalMode.ICE_HIP_UDP,)
    assert r1.need(params.NatTraversalModes).modes == ice
    assert i2.need(params.NatTraversalModes).modes == ice
    assert r1.need(params.RelayTo).address == a.address
    assert i2.need(params.RelayFrom).address == a.address
    assert i2.get(params.LocatorSet) is None
    assert r2.get(params.LocatorSet) is None
    checks = [Packet(seen.data) for seen in net.sent(PacketType.UPDATE)]
    assert any(check.get(params.Nominate) for check in checks)
    assert any(check.get(params.MappedAddress) for check in checks)


def test_who_cannot_meet_speaks_through_the_data_relay() -> None:
    net, a, b, server = met(walls=True)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    assert b.datagrams == [(UDP, b"first")]
    both_ways(net, a, b)
    assert address(a, b) in net.relayed
    assert address(b, a) == server.address


def test_a_relayed_association_moves_to_the_direct_path_without_losing_anything() -> None:
    net, a, b, _server = met(walls=True)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    b.datagrams.clear()
    net.walls = lambda source, to: True
    sent = []
    for n in range(1_000):
        data = n.to_bytes(2, "big")
        sent.append((UDP, data))
        net.send(a, b.hit, UDP, data)
        net.send(b, a.hit, UDP, data)
        net.run(net.now + 0.02)
    net.run(net.now + 1)
    assert address(a, b) == b.address
    assert b.datagrams == sent
    assert a.datagrams == sent


def talk(net: ServerNet, a: Peer, b: Peer, seconds: float) -> None:
    """As in a call: 50 packets a second each way."""
    until = net.now + seconds
    while net.now < until:
        for one, other in ((a, b), (b, a)):
            if (one.hit, other.hit) in one.engine.outbound:
                net.send(one, other.hit, UDP, round(net.now * 1e3).to_bytes(4, "big"))
        net.run(net.now + 0.02)


def gap(peer: Peer, since: float, until: float) -> float:
    """The longest time for which nothing was heard that was sent in that time, seconds."""
    times = [int.from_bytes(data, "big") / 1e3 for _, data in peer.datagrams if len(data) == 4]
    times = sorted(at for at in times if since <= at <= until)
    return max(b - a for a, b in zip([since, *times], [*times, until], strict=True))


def test_a_callee_that_moves_tells_its_relay_and_its_peer() -> None:
    net, a, b, _server = met()
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 2)
    talk(net, a, b, 2)
    moved = net.now
    net.move(b, ("203.0.113.9", 10500))
    talk(net, a, b, 4)
    assert address(a, b) == b.address
    assert max(gap(a, moved, net.now), gap(b, moved, net.now)) < 0.6


def test_both_may_move_at_the_same_time() -> None:
    net, a, b, server = met()
    net.register(a, server, [HIP, ESP])
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 2)
    talk(net, a, b, 2)
    moved = net.now
    net.move(b, ("203.0.113.9", 10500))
    talk(net, a, b, 0.06)
    net.move(a, ("203.0.113.10", 10500))
    talk(net, a, b, 5)
    assert address(a, b) == b.address
    assert address(b, a) == a.address
    assert max(gap(a, moved, net.now), gap(b, moved, net.now)) < 1.5


def test_a_call_survives_the_death_of_its_data_relay() -> None:
    net, a, b, server = met(walls=True)
    other = net.serve(RELAYS)
    net.register(b, other, [ESP])
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    talk(net, a, b, 2)
    used = server if address(b, a) == server.address else other
    died = net.now
    net.dead |= {used.address, *(at for at, there in net.relayed.items() if there is used)}
    talk(net, a, b, 6)
    assert max(gap(a, died, net.now), gap(b, died, net.now)) < 3


@pytest.mark.parametrize("friend", [False, True])
def test_who_may_not_learn_where_we_are_hears_through_relays_only(friend: bool) -> None:
    net, a, b, _server = met()
    b.engine.disclose_by(lambda local, peer, shown: False)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    assert b.datagrams[-1] == (UDP, b"there")
    assert address(a, b) in net.relayed
    between = {a.address, b.address}
    assert not [seen for seen in net.wire if {seen.source, seen.to} == between]
    if friend:
        net.perform(b, b.engine.befriend(b.hit, [a.hit], net.now))
    else:
        net.perform(b, b.engine.disclose(b.hit, a.hit, net.now))  # the call was answered
    talk(net, a, b, 3)
    assert address(a, b) == b.address


def test_who_hides_and_begins_anew_itself_hides_for_as_long_as_that_association_lasts() -> None:
    net, a, b, _server = met()
    b.engine.disclose_by(lambda local, peer, shown: False)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 3)
    b.engine.learn(a.hit, [a.address])
    net.send(b, a.hit, UDP, b"again")  # its overlay asks, say
    for _ in range(9):
        net.run(net.now + 20)
        both_ways(net, a, b)
        assert b.engine.hides(a.hit, net.now)  # or it would knock directly
    between = {a.address, b.address}
    assert not [seen for seen in net.wire if {seen.source, seen.to} == between]


def test_who_hides_and_begins_anew_heeds_no_answer_that_comes_past_its_relays() -> None:
    net, a, b, server = met()
    b.engine.disclose_by(lambda local, peer, shown: False)
    b.engine.learn(a.hit, [a.address])
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    assert b.engine._shared.direct(a.hit) == (a.address,)  # and not its relay
    net.perform(b, b.engine.close(b.hit, a.hit, net.now))
    net.run(net.now + 5)
    net.wire.clear()
    net.send(b, a.hit, UDP, b"anew")
    net.walls = lambda source, to: to != b.address or source != server.address
    net.run(net.now + 0.2)
    r1 = next(seen for seen in net.sent(PacketType.R1) if seen.source == a.address)
    net.perform(b, b.engine.on_control(r1.data, a.address, net.now))
    net.run(net.now + 1)
    assert b.engine.counters["R1 past our relays"] == 1
    assert not [seen for seen in net.wire if {seen.source, seen.to} == {a.address, b.address}]


def test_without_a_common_path_the_attempt_fails_in_words() -> None:
    net, a, b, server = met(walls=True)
    net.register(b, server, [HIP])
    b.engine.requester.unregister((b.hit, server.hit), [ESP], net.now)
    net.run(net.now + 1)
    assert net.granted(b) == {HIP}
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 15)
    assert any("no path" in e.reason for e in a.events if isinstance(e, AssociationDown))


def test_friends_find_each_other_again_without_servers_through_nats_that_they_hold_open() -> None:
    net = ServerNet()
    a, b = net.add(), net.add()
    for one, other in ((a, b), (b, a)):
        one.engine.set_hosts([one.address])
        one.engine.befriend(one.hit, [other.hit], net.now)
    net.introduce(a, b)
    sent: dict[tuple[Address, Address], float] = {}

    def filtered(source: Address, to: Address) -> bool:
        """Each is behind a NAT that lets in only whom it has sent to within 30 s."""
        sent[source, to] = net.now
        return net.now - sent.get((to, source), -99.0) <= 30

    net.walls = filtered
    net.run(40.0)
    assert len(ups(a)) == len(ups(b)) == 1
    both_ways(net, a, b)
    net.run(net.now + 3_000)
    both_ways(net, a, b)  # keepalives: the way is still open
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 120)
    both_ways(net, a, b)


def test_an_attempt_that_nobody_waits_for_is_one_i1_and_no_event() -> None:
    net = ServerNet()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.dead.add(b.address)
    a.engine.befriend(a.hit, [b.hit], net.now)
    net.run(61.0)
    assert len(net.sent(PacketType.I1)) == 5
    assert not a.events
    net.wire.clear()
    net.send(a, b.hit, UDP, b"but now somebody does")
    net.run(net.now + 12)
    assert len(net.sent(PacketType.I1)) == 5
    net.dead.clear()
    net.run(net.now + 20)
    both_ways(net, a, b)


def test_from_whom_we_hide_we_go_on_hiding_however_many_come_and_go() -> None:
    config = replace(FAST, max_associations=64)
    shared = Engine([HostIdentity.from_secret(9)], config, random.Random(1).randbytes)._shared
    pairs = [(Hit(bytes(16)), Hit(n.to_bytes(16, "big"))) for n in range(400)]
    shared.hide(pairs[0], hidden=True)
    for n, pair in enumerate(pairs[1:]):
        shared.hide(pair, hidden=True)
        shared.hide_on(pair, n / 100)  # it has ended
    assert shared.hides(pairs[0], 1_000.0)
    assert not shared.hides(pairs[-1], 1_000.0)
    assert len(shared.hidden) <= 4 * 64
