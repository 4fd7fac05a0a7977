"""Who hides also from those with whom it begins, and what becomes of that."""

import pytest

from hipctl.actions import plain
from hipctl.constants import PacketType
from hipctl.identity import HostIdentity
from hipctl.state import State
from sim.engines import UDP, Peer, both_ways
from sim.servers import ESP, HIP, RELAYS, ServerNet, address


def between(net: ServerNet, one: Peer, other: Peer) -> list[object]:
    """What went from one to the other without a relay."""
    places = {one.address, other.address}
    return [seen for seen in net.wire if {seen.source, seen.to} == places]


def secluded(*, shared: bool = False) -> tuple[ServerNet, Peer, Peer, Peer]:
    """Somebody, whoever hides from it, and the relay of the latter."""
    net = ServerNet()
    a, b = net.add(name="45.0.1.1"), net.add(name="45.0.2.1")
    server = net.serve(RELAYS, name="45.0.3.1", shared=shared)
    for peer in (a, b):
        peer.engine.set_hosts([peer.address])
    b.engine.disclose_by(lambda local, peer, shown: False)
    net.register(b, server, [HIP, ESP])
    b.engine.learn(a.hit, [a.address])
    net.perform(b, b.engine.seclude(b.hit, [server.hit], net.now))
    net.wire.clear()
    return net, a, b, server


def test_who_is_secluded_begins_through_its_relays_and_tells_nobody_where_it_is() -> None:
    net, a, b, _server = secluded()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    net.run(net.now + 60)
    assert not between(net, a, b)
    assert b.engine.hides(a.hit, net.now)  # nor would it knock
    net.perform(b, b.engine.disclose(b.hit, a.hit, net.now))
    net.run(net.now + 3)
    assert address(a, b) == b.address


def test_who_is_secluded_and_finds_a_contact_speaks_with_it_directly() -> None:
    net, a, b, _server = secluded()
    b.engine.disclose_by(lambda local, peer, shown: peer == a.hit)
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    assert address(a, b) == b.address


def test_who_is_secluded_waits_for_a_relay_or_for_its_end() -> None:
    net, a, b, server = secluded()
    b.engine.requester.unregister((b.hit, server.hit), None, net.now)
    net.run(net.now + 1)
    net.wire.clear()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 2)
    assert not between(net, a, b)
    net.register(b, server, [HIP, ESP])
    net.perform(b, b.engine.seclude(b.hit, [server.hit], net.now))
    net.run(net.now + 2)
    assert (UDP, b"first") in a.datagrams
    assert not between(net, a, b)
    net.perform(b, b.engine.seclude(b.hit, None, net.now))
    net.run(net.now + 3)
    assert address(a, b) == b.address


@pytest.mark.parametrize("shared", [False, True])
def test_two_who_hide_at_one_relay_reach_each_other_there(shared: bool) -> None:
    net, a, b, server = secluded(shared=shared)
    if shared:  # a router that maps the port need not let back what we send there ourselves
        net.walls = lambda source, to: source[0] != server.address[0] or to[0] != source[0]
    net.register(a, server, [HIP, ESP])
    a.engine.disclose_by(lambda local, peer, shown: False)
    net.perform(a, a.engine.seclude(a.hit, [server.hit], net.now))
    b.engine.learn(a.hit, [], [server.address])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    net.run(net.now + 600)
    both_ways(net, a, b)
    assert not between(net, a, b)


def seconds_until_both_ways(net: ServerNet, a: Peer, b: Peer) -> float:
    """From now, while each sends the other something every second."""
    began = net.now
    a.datagrams.clear()
    b.datagrams.clear()
    while not (a.datagrams and b.datagrams):
        assert net.now < began + 100
        net.send(a, b.hit, UDP, b"there")
        net.send(b, a.hit, UDP, b"and back")
        net.run(net.now + 1)
    return net.now - began


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("idle", [0, 120])
def test_a_path_through_relays_that_dies_is_replaced_soon_though_nobody_calls(
    both: bool, idle: float
) -> None:
    net, a, b, server = secluded()
    second = net.serve(RELAYS, name="45.0.4.1")
    net.perform(b, b.engine.seclude(b.hit, [server.hit, second.hit], net.now))
    net.register(b, second, [HIP, ESP])
    if both:
        hidden_by = net.serve(RELAYS, name="45.0.5.1")
        net.register(a, hidden_by, [HIP, ESP])
        a.engine.disclose_by(lambda local, peer, shown: False)
        net.perform(a, a.engine.seclude(a.hit, [hidden_by.hit], net.now))
    b.engine.learn(a.hit, [] if both else [a.address], [hidden_by.address] if both else [])
    a.engine.learn(b.hit, [], [server.address])
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 200)
    both_ways(net, a, b)
    used = plain(a.engine.outbound[a.hit, b.hit].address)[0]
    there = hidden_by.address[0] if both else a.address[0]
    net.walls = lambda source, to: {source[0], to[0]} != {used, there}
    net.run(net.now + idle)
    assert seconds_until_both_ways(net, a, b) <= 10
    assert plain(a.engine.outbound[a.hit, b.hit].address)[0] != used
    assert not between(net, a, b)


def test_what_nobody_answers_costs_one_check_and_silence_none() -> None:
    net, a, b, _server = secluded()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 200)
    both_ways(net, a, b)
    net.run(net.now + 100)
    net.wire.clear()
    net.run(net.now + 100)
    assert not [seen for seen in net.sent(PacketType.UPDATE) if seen.source == a.address]
    net.wire.clear()
    net.send(a, b.hit, UDP, b"no answer")
    net.run(net.now + 100)
    assert len([seen for seen in net.sent(PacketType.UPDATE) if seen.source == a.address]) == 1


def test_a_peer_of_whom_a_nat_makes_another_is_heard_again_soon() -> None:
    net, a, b, _server = secluded()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 200)
    both_ways(net, a, b)
    before, seen = a.address, ("45.0.1.1", 33_333)
    net.nat[before] = seen
    net.peers[seen] = net.peers.pop(before)
    net.run(net.now + 120)
    assert seconds_until_both_ways(net, a, b) <= 10
    assert plain(b.engine.outbound[b.hit, a.hit].address) == seen


def test_on_a_lan_nobody_is_secluded() -> None:
    net, a, b, _server = secluded()
    b.engine.learn(a.hit, [("10.0.0.7", 10500)])
    net.wire.clear()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 0.1)
    (i1,) = net.sent(PacketType.I1)[:1]
    assert i1.to == ("10.0.0.7", 10500)


LAN = "10.0.0.7", 10500


def test_who_has_private_addresses_only_is_not_told_more_through_a_relay() -> None:
    net, a, b, server = secluded()
    b.engine.learn(a.hit, [LAN])  # where nobody is
    a.engine.learn(b.hit, [], [server.address])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 0.7)
    net.connect(a, b)
    net.run(net.now + 20)
    both_ways(net, a, b)
    assert not between(net, a, b)


def test_a_peer_that_was_at_home_and_is_elsewhere_meanwhile_learns_no_more() -> None:
    net, a, b, _server = secluded()
    b.engine.learn(a.hit, [LAN])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 0.1)
    b.engine.learn(a.hit, [a.address])
    net.run(net.now + 10)
    both_ways(net, a, b)
    assert not between(net, a, b)


def test_a_network_of_all_customers_of_a_provider_is_no_lan() -> None:
    net, a, b, server = secluded()
    b.engine.learn(a.hit, [("100.64.0.9", 10500)])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 10)
    assert {seen.to for seen in net.sent(PacketType.I1)} == {server.address}


def test_who_answers_on_our_lan_is_spoken_with_there() -> None:
    net, a, b, _server = secluded()
    net.move(a, LAN)
    b.engine.learn(a.hit, [LAN])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    assert address(b, a) == LAN
    assert not b.engine.hides(a.hit, net.now)


def test_a_stranger_from_our_lan_does_not_learn_where_we_go_then() -> None:
    net, a, b, server = secluded()
    net.move(a, LAN)
    b.engine.learn(a.hit, [LAN])
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    net.move(a, ("45.0.1.1", 10500))  # it has left before us, and told us so
    net.run(net.now + 5)
    net.wire.clear()
    net.move(b, ("45.0.22.1", 10500))
    net.run(net.now + 10)
    assert not between(net, a, b)
    net.send(b, a.hit, UDP, b"anew")
    net.run(net.now + 3)
    both_ways(net, a, b)
    net.run(net.now + 60)
    assert not between(net, a, b)
    assert net.state(b, server) is State.ESTABLISHED


def test_a_contact_learns_where_we_go() -> None:
    net, a, b, _server = secluded()
    b.engine.disclose_by(lambda local, peer, shown: peer == a.hit)
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    net.move(b, ("45.0.22.1", 10500))
    net.run(net.now + 10)
    assert address(a, b) == b.address


def test_a_peer_whose_contact_changes_meanwhile_learns_no_more() -> None:
    net, a, b, _server = secluded()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 0.01)
    b.engine.learn(a.hit, [("10.0.0.7", 10500)])  # as others may say on its behalf
    net.run(net.now + 10)
    both_ways(net, a, b)
    assert not between(net, a, b)


def test_an_answer_that_comes_past_our_relays_is_none() -> None:
    net, a, b, server = secluded()
    net.send(b, a.hit, UDP, b"first")
    net.walls = lambda source, to: to != b.address or source != server.address
    net.run(net.now + 0.2)
    (i1,) = [seen for seen in net.sent(PacketType.I1) if seen.to == a.address]
    net.perform(b, b.engine.on_control(i1.data, a.address, net.now))  # nor is our own packet
    r1 = next(seen for seen in net.sent(PacketType.R1) if seen.to == server.address)
    net.perform(b, b.engine.on_control(r1.data, a.address, net.now))
    net.run(net.now + 1)
    assert b.engine.counters["R1 past our relays"] == 1
    assert not between(net, a, b)


def test_who_is_secluded_sees_what_a_server_offers_and_registers_past_its_relay_only() -> None:
    net, a, b, server = secluded()
    net.offer(a, RELAYS)
    b.engine.requester.register((b.hit, a.hit), [HIP], net.now)
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 30)
    assert not between(net, a, b)
    assert set(b.engine.requester.infos[b.hit, a.hit].types) >= {HIP, ESP}
    assert {row.server for row in b.engine.requester.registrations()} == {server.hit}
    net.perform(b, b.engine.seclude(b.hit, [server.hit, a.hit], net.now))
    net.register(b, a, [HIP], wait=3)
    assert {row.server for row in b.engine.requester.registrations()} == {server.hit, a.hit}
    assert address(b, a) == a.address


def test_nobody_is_registered_through_a_relay() -> None:
    net, a, b, _server = secluded()
    net.offer(a, RELAYS)
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    b.engine._shared.secluded.clear()  # who does not know better asks
    b.engine.requester.register((b.hit, a.hit), [HIP], net.now)
    b.engine._shared.secluded[b.hit] = frozenset()
    net.run(net.now + 30)
    assert a.engine.counters["registration refused: type unavailable"]
    assert not a.engine.serving.served()


def lasts(
    net: ServerNet, done: tuple[Peer, bytes], looks: tuple[Peer, list[Peer] | None]
) -> float:
    """Seconds until a datagram is there, while a peer looks every two seconds, as its owner."""
    (there, data), (peer, spared) = done, looks
    began = net.now
    while (UDP, data) not in there.datagrams and net.now < began + 60:
        hits = None if spared is None else [each.hit for each in spared]
        net.perform(peer, peer.engine.seclude(peer.hit, hits, net.now))
        net.run(net.now + 2)
    return net.now - began


@pytest.mark.parametrize("first", [False, True])
def test_whoever_is_waited_with_gets_through_to_us(first: bool) -> None:
    net = ServerNet()
    low, high = sorted((HostIdentity.from_secret(n) for n in (9_001, 9_002)), key=lambda i: i.hit)
    a = net.add(identity=low if first else high, name="45.0.1.1")
    b = net.add(identity=high if first else low, name="45.0.2.1")
    b.engine.learn(a.hit, [a.address])
    a.engine.learn(b.hit, [b.address])
    net.perform(b, b.engine.seclude(b.hit, [], net.now))
    net.send(b, a.hit, UDP, b"first")  # there will be no relay for it
    net.run(net.now + 1)
    assert not net.wire
    net.send(a, b.hit, UDP, b"call")
    net.run(net.now + 1)
    assert (UDP, b"call") in b.datagrams
    assert (UDP, b"first") in a.datagrams


def test_what_a_dead_relay_has_swallowed_goes_at_once_where_it_may_by_then() -> None:
    for other in (False, True):
        net, a, b, server = secluded()
        second = net.serve(RELAYS, name="45.0.4.1")
        net.walls = lambda source, to: server.address not in (source, to)  # noqa: B023
        net.send(b, a.hit, UDP, b"first")
        net.run(net.now + 5)  # the last I1 is due 3 s later, and 8 s after it nobody waits more
        if other:
            net.register(b, second, [HIP, ESP], wait=0.5)
        spared = [server, second] if other else None
        within = 6 if other else 2  # paths through the dead one are tried as well
        assert lasts(net, (a, b"first"), (b, spared)) <= within
        assert bool(between(net, a, b)) is not other


def test_a_server_that_has_begun_through_our_relay_can_become_ours() -> None:
    net, a, b, server = secluded()
    net.offer(a, RELAYS)
    a.engine.learn(b.hit, [], [server.address])
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    both_ways(net, a, b)
    assert not between(net, a, b)
    for _ in range(5):  # and it is not closed again and again
        net.perform(b, b.engine.seclude(b.hit, [server.hit, a.hit], net.now))
        net.run(net.now + 2)
    both_ways(net, a, b)
    net.register(b, a, [HIP, ESP], wait=3)
    assert {row.server for row in b.engine.requester.registrations()} == {server.hit, a.hit}
    assert address(b, a) == a.address
    assert sum(event.peer == a.hit for event in b.events) == 3  # up, down, up


def test_a_relay_that_carries_no_data_is_not_enough_to_begin() -> None:
    net, a, b, server = secluded()
    b.engine.requester.unregister((b.hit, server.hit), [ESP], net.now)
    net.run(net.now + 1)
    assert net.granted(b) == {HIP}
    net.wire.clear()
    net.send(b, a.hit, UDP, b"first")
    net.run(net.now + 3)
    assert not net.sent(PacketType.I1)
    net.register(b, server, [ESP])
    assert lasts(net, (a, b"first"), (b, [server])) <= 2
    assert not between(net, a, b)
