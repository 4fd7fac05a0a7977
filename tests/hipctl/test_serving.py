"""Registrations between engines, and what is forwarded for who has registered."""

import pytest

from hipctl import params
from hipctl.actions import Address, RegistrationAnswered
from hipctl.constants import PacketType, RegistrationFailure, RegistrationType
from hipctl.exchange import make_i1
from hipctl.identity import Hit
from hipctl.interface import Admission, Offer, RegistrationEnded, Shown
from hipctl.packet import Packet
from hipctl.state import State
from sim.engines import FAST, UDP, Peer, both_ways, ups
from sim.servers import ESP, HIP, RELAYS, RVS, ServerNet


def ended(peer: Peer) -> list[str]:
    return [told.reason for told in peer.told if isinstance(told, RegistrationEnded)]


def answers(peer: Peer) -> list[RegistrationAnswered]:
    return [told for told in peer.told if isinstance(told, RegistrationAnswered)]


def test_who_has_no_association_registers_in_the_exchange() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP, ESP])
    assert net.granted(client) == {HIP, ESP}
    r1, i2, r2 = (Packet(net.sent(kind)[0].data) for kind in (2, 3, 4))
    info = r1.need(params.RegInfo)
    assert set(info.types) == {HIP, ESP, RegistrationType.CANDIDATE_DISCOVERY}
    assert set(i2.need(params.RegRequest).types) == {HIP, ESP}
    assert set(r2.need(params.RegResponse).types) == {HIP, ESP}
    assert r2.need(params.RegFrom).address == client.address
    relayed = r2.need(params.RelayedAddress).address
    row = next(row for row in client.engine.requester.registrations() if row.type is ESP)
    assert (row.address, row.reflexive, row.relayed) == (server.address, client.address, relayed)
    assert not net.sent(PacketType.UPDATE)


def test_who_has_an_association_registers_in_an_update() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.introduce(client, server)
    net.connect(client, server)
    net.run(1.0)
    net.register(client, server, [HIP])
    assert net.granted(client) == {HIP}
    assert len(net.sent(PacketType.I2)) == 1


def test_a_server_that_changes_its_mind_is_believed_when_its_update_says_so() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({})
    net.register(client, server, [HIP])
    assert answers(client)[-1].refused == {HIP: RegistrationFailure.TYPE_UNAVAILABLE}
    net.offer(server, RELAYS)
    net.run(net.now + 1)
    assert client.engine.requester.infos[client.hit, server.hit].types
    net.register(client, server, [HIP])
    assert net.granted(client) == {HIP}


def test_nothing_is_asked_for_that_is_not_offered() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({HIP: Offer()})
    net.register(client, server, [HIP, ESP])
    assert net.granted(client) == {HIP}
    assert answers(client)[-1].refused == {ESP: RegistrationFailure.TYPE_UNAVAILABLE}
    assert Packet(net.sent(PacketType.I2)[0].data).need(params.RegRequest).types == (HIP,)


def test_registrations_are_refreshed_and_their_associations_stay() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({RVS: Offer(lifetime=120.0)})
    net.register(client, server, [RVS])
    net.run(2 * 3600.0)
    assert net.granted(client) == {RVS}
    assert server.engine.serving.registrar.count(RVS) == 1
    assert ended(client) == []
    assert len(net.sent(PacketType.I2)) == 1, "the association is still the first one"


def test_a_registration_that_is_cancelled_is_gone_at_both_ends() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP, ESP])
    client.engine.requester.unregister((client.hit, server.hit), [ESP], net.now)
    net.run(net.now + 1)
    assert net.granted(client) == {HIP}
    assert server.engine.serving.registrar.count(ESP) == 0
    assert server.engine.serving.registrar.count(HIP) == 1
    assert ended(client) == ["cancelled"]
    client.engine.requester.unregister((client.hit, server.hit), None, net.now)
    net.run(net.now + 1)
    assert server.engine.serving.registrar.count(HIP) == 0


def test_a_server_that_stops_offering_says_so_to_its_clients() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP])
    net.offer(server, {})
    net.run(net.now + 1)
    assert net.granted(client) == set()
    assert ended(client) == ["cancelled by the server"]
    assert client.engine.requester.infos[client.hit, server.hit].types == ()
    net.offer(server, RELAYS)
    net.run(net.now + 600)
    assert net.granted(client) == {HIP}, "it is still wished for"


def test_a_registration_ends_with_its_association_and_comes_back_with_the_next() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP])
    net.perform(server, server.engine.close(server.hit, client.hit, net.now))
    net.run(net.now + 0.5)
    assert ended(client) == ["the association is gone"]
    assert server.engine.serving.registrar.of((server.hit, client.hit)) is None
    net.run(net.now + 30)
    assert net.granted(client) == {HIP}


def test_a_server_that_restarts_has_its_clients_back_when_they_refresh() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({RVS: Offer()})
    net.register(client, server, [RVS])
    net.restart(server)
    net.offer(server, {RVS: Offer()})
    net.run(net.now + 400)
    assert server.engine.serving.registrar.count(RVS) == 1
    assert net.granted(client) == {RVS}


def test_a_full_server_is_asked_again_later_by_who_was_registered() -> None:
    net = ServerNet()
    a, b = net.add(), net.add()
    server = net.serve({RVS: Offer(clients=1, lifetime=60.0)})
    net.register(a, server, [RVS])
    net.register(b, server, [RVS])
    assert net.granted(b) == set()
    assert answers(b)[-1].refused == {RVS: RegistrationFailure.TYPE_UNAVAILABLE}, "its R1 says so"


def test_r1_says_at_once_what_is_offered_now() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({})
    net.introduce(client, server)
    for offers, types in (({}, None), ({RVS: Offer()}, (RVS,)), ({}, None)):
        net.offer(server, offers)
        net.perform(client, client.engine.close(client.hit, server.hit, net.now))
        net.run(net.now + 20)
        net.connect(client, server)
        net.run(net.now + 1)
        info = Packet(net.sent(PacketType.R1)[-1].data).get(params.RegInfo)
        assert (info.types if info is not None else None) == types


# -- rendezvous ----------------------------------------------------------------------------------


def rendezvous() -> tuple[ServerNet, Peer, Peer, Peer]:
    net = ServerNet()
    caller, callee, server = net.add(), net.add(), net.serve({RVS: Offer()})
    net.register(callee, server, [RVS])
    caller.engine.learn(callee.hit, [server.address])
    net.wire.clear()
    return net, caller, callee, server


def test_an_i1_through_a_rendezvous_server_makes_a_direct_association() -> None:
    net, caller, callee, server = rendezvous()
    net.connect(caller, callee)
    net.run(net.now + 1)
    assert net.state(caller, callee) is State.ESTABLISHED
    first, second = net.sent(PacketType.I1)
    assert (first.to, second.source, second.to) == (server.address, server.address, callee.address)
    passed = Packet(second.data)
    assert passed.need(params.From).ip == caller.address[0]
    assert passed.need(params.RelayFrom).address == caller.address
    assert passed.has(params.RvsHmac)
    r1 = net.sent(PacketType.R1)[0]
    assert (r1.source, r1.to) == (callee.address, caller.address)
    assert Packet(r1.data).need(params.ViaRvs).ips == (server.address[0],)
    assert all(server.address not in (seen.source, seen.to) for seen in net.sent(PacketType.I2))
    both_ways(net, caller, callee)


def test_nothing_is_forwarded_for_who_is_not_registered() -> None:
    net, caller, callee, server = rendezvous()
    callee.engine.requester.unregister((callee.hit, server.hit), None, net.now)
    net.run(net.now + 1)
    net.connect(caller, callee)
    net.run(net.now + 20)
    assert ups(caller) == []
    assert server.engine.counters["not our HIT"] >= 1


def test_both_move_at_once_and_meet_through_the_rendezvous_server() -> None:
    net, caller, callee, server = rendezvous()
    caller.engine.learn(callee.hit, [], [server.address])
    for peer in (caller, callee):
        net.perform(peer, peer.engine.set_locators([peer.address], net.now))
    net.connect(caller, callee)
    net.run(net.now + 1)
    both_ways(net, caller, callee)
    net.wire.clear()
    net.move(callee, ("198.51.100.7", 10500))
    net.move(caller, ("198.51.100.8", 10500))
    net.run(net.now + 5)
    both_ways(net, caller, callee)
    passed = [
        seen
        for seen in net.sent(PacketType.UPDATE)
        if seen.source == server.address and Packet(seen.data).has(params.RvsHmac)
    ]
    assert {seen.to for seen in passed} == {callee.address}
    first = Packet(passed[0].data)
    assert first.need(params.From).ip == caller.address[0]
    assert first.need(params.RelayFrom).address == caller.address
    assert first.checksum == 0
    answers = [
        Packet(seen.data)
        for seen in net.sent(PacketType.UPDATE)
        if (seen.source, seen.to) == (callee.address, caller.address)
    ]
    named = [answer for answer in answers if answer.has(params.ViaRvs)]
    assert {answer.need(params.ViaRvs).ips for answer in named} == {(server.address[0],)}
    assert not [seen for seen in net.wire if seen.to == server.address and seen.kind == UDP]


def test_what_a_server_forwards_leaves_from_where_its_client_has_registered() -> None:
    net = ServerNet()
    caller, callee, server = net.add(), net.add(), net.serve({RVS: Offer()})
    second = ("203.0.113.9", 10500)
    net.peers[second] = server
    net.perform(server, server.engine.set_locators([server.address, second], net.now))
    callee.engine.learn(server.hit, [second])
    callee.engine.requester.register((callee.hit, server.hit), [RVS], net.now)
    net.run(net.now + 1)
    net.wire.clear()
    caller.engine.learn(callee.hit, [], [server.address])
    net.connect(caller, callee)
    net.run(net.now + 1)
    assert [seen.source for seen in net.sent(PacketType.I1)] == [caller.address, second]
    assert net.state(caller, callee) is State.ESTABLISHED


# -- control relay -------------------------------------------------------------------------------


def test_an_exchange_through_a_control_relay_ends_with_checked_paths() -> None:
    net = ServerNet()
    caller, callee, server = net.add(), net.add(), net.serve(RELAYS)
    net.register(callee, server, [HIP, ESP])
    for peer in (caller, callee):
        peer.engine.set_hosts([peer.address])
    caller.engine.learn(callee.hit, [server.address])
    net.send(caller, callee.hit, UDP, b"first")
    net.run(net.now + 5)
    assert net.state(caller, callee) is State.ESTABLISHED
    assert (UDP, b"first") in callee.datagrams
    assert caller.engine.outbound[caller.hit, callee.hit].wire == callee.address
    both_ways(net, caller, callee)


def test_peers_that_cannot_meet_speak_through_the_data_relay() -> None:
    net = ServerNet()
    caller, callee, server = net.add(), net.add(), net.serve(RELAYS)
    apart = {caller.address[0], callee.address[0]}
    net.walls = lambda source, to: {source[0], to[0]} != apart
    net.register(callee, server, [HIP, ESP])
    for peer in (caller, callee):
        peer.engine.set_hosts([peer.address])
    caller.engine.learn(callee.hit, [server.address])
    net.send(caller, callee.hit, UDP, b"first")
    net.run(net.now + 10)
    assert (UDP, b"first") in callee.datagrams
    both_ways(net, caller, callee)
    served = {row.type: row for row in server.engine.serving.served()}
    assert served[ESP].packets >= 3
    assert served[HIP].packets >= 3
    for _ in range(10):  # permissions are refreshed
        net.run(net.now + 120)
        both_ways(net, caller, callee)


# -- credentials ---------------------------------------------------------------------------------


class Policy:
    """Shows something; takes what is good."""

    def __init__(self, shown: bytes) -> None:
        self.mine = Shown((shown,)) if shown else Shown()

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        return self.mine if peer is not None else Shown()

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        good = all(der.startswith(b"good") for der in shown.certificates)
        return Admission.ACCEPTED if good else Admission.INVALID_CERTIFICATE


def demanding(shown: bytes) -> tuple[ServerNet, Peer, Peer]:
    net = ServerNet()
    client, server = net.add(), net.serve({RVS: Offer(credentials=True)})
    client.engine.use(Policy(shown), lambda: 0.0)
    server.engine.use(Policy(b"good"), lambda: 0.0)
    net.register(client, server, [RVS])
    return net, client, server


def test_certificates_go_along_with_the_request_and_open_the_door() -> None:
    net, client, _ = demanding(b"good")
    assert net.granted(client) == {RVS}
    i2 = Packet(net.sent(PacketType.I2)[0].data)
    assert i2.has(params.RegRequest)
    assert i2.has(params.Encrypted)


def test_without_any_the_request_is_made_all_the_same_and_says_what_is_missing() -> None:
    net, client, _ = demanding(b"")
    assert answers(client)[-1].refused == {RVS: RegistrationFailure.CREDENTIALS_REQUIRED}
    assert Packet(net.sent(PacketType.I2)[0].data).has(params.RegRequest)


def test_with_certificates_that_do_not_hold_the_refusal_says_so() -> None:
    net, client, server = demanding(b"")
    pair = client.hit, server.hit
    bad = params.Cert(1, 1, 1, 1, b"bad")
    request = params.RegRequest(137, (RVS,))
    net.wire.clear()
    net.perform(client, client.engine.tell(pair, [bad, request], net.now) or [])
    net.run(net.now + 1)
    [answer] = [seen for seen in net.sent(PacketType.UPDATE) if seen.source == server.address]
    failed = Packet(answer.data).need(params.RegFailed)
    assert (failed.reason, failed.types) == (RegistrationFailure.CERTIFICATE_OTHER, (RVS,))


def test_who_is_on_the_list_of_those_who_may_associate_needs_none() -> None:
    net, client, server = demanding(b"")
    server.engine.set_access([client.hit], [], net.now)
    net.register(client, server, [RVS])
    assert net.granted(client) == {RVS}


def test_a_full_server_tells_when_there_is_room_again() -> None:
    net = ServerNet()
    a, b, server = net.add(), net.add(), net.serve({RVS: Offer(clients=1)})
    net.register(a, server, [RVS])
    net.introduce(b, server)
    net.connect(b, server)
    net.run(net.now + 1)
    assert b.engine.requester.infos[b.hit, server.hit].types == ()
    net.run(net.now + 1)
    a.engine.requester.unregister((a.hit, server.hit), None, net.now)
    net.run(net.now + 60)
    assert b.engine.requester.infos[b.hit, server.hit].types == (RVS,)


def test_where_somebody_is_seen_is_told_without_registering_anything() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP])
    net.wire.clear()
    kind = RegistrationType.CANDIDATE_DISCOVERY
    pair, before = (client.hit, server.hit), server.engine.serving.served()
    request = params.RegRequest(137, (kind,))
    net.perform(client, client.engine.tell(pair, [request], net.now) or [])
    net.run(net.now + 1)
    asked, answer = (Packet(seen.data) for seen in net.sent(PacketType.UPDATE))
    assert asked.has(params.EchoRequestSigned)
    assert answer.has(params.EchoResponseSigned)
    assert answer.need(params.RegFrom).address == client.address
    assert server.engine.serving.served() == before


def test_every_answer_to_an_update_of_a_control_relay_s_client_says_where_it_is_seen() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.register(client, server, [HIP])
    net.wire.clear()
    net.nat[client.address] = ("198.51.100.44", 4444)  # a NAT comes up
    net.peers["198.51.100.44", 4444] = client
    net.perform(client, client.engine.set_locators([client.address], net.now))
    net.run(net.now + 2)
    answered = [
        Packet(seen.data) for seen in net.sent(PacketType.UPDATE) if seen.source == server.address
    ]
    acks = [packet for packet in answered if packet.has(params.Ack)]
    assert acks
    assert {packet.need(params.RegFrom).address for packet in acks} == {("198.51.100.44", 4444)}
    row = client.engine.requester.registrations()[0]
    assert row.reflexive == ("198.51.100.44", 4444)


# -- clients that move ---------------------------------------------------------------------------


def permitted(*outside: Address) -> tuple[ServerNet, Peer, Peer, Address]:
    """A client of a data relay, that has named a peer; behind a NAT with that address."""
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    for address in outside:
        behind(net, client, address)
    net.perform(client, client.engine.set_locators([client.address], net.now))
    net.register(client, server, [HIP, ESP])
    row = next(row for row in client.engine.requester.registrations() if row.relayed)
    assert row.relayed is not None
    name(net, client, server, row.relayed)
    return net, client, server, row.relayed


def behind(net: ServerNet, client: Peer, outside: Address) -> None:
    net.peers = {at: peer for at, peer in net.peers.items() if peer is not client}
    net.nat[client.address] = outside
    net.peers[outside] = client


def name(net: ServerNet, client: Peer, server: Peer, relayed: Address) -> None:
    peer = ("198.51.100.9", 9)
    others = Hit(client.hit[:-1] + bytes([client.hit[-1] ^ 1]))
    net._control(server, make_i1(others, client.hit, FAST), peer, relayed)
    permission = params.PeerPermission(relayed, peer, 0x1000, 0x2000)
    pair = client.hit, server.hit
    net.perform(client, client.engine.tell(pair, [permission], net.now) or [])
    net.run(net.now + 0.5)


def flows(server: Peer) -> list[Address]:
    return [at for at, found in server.engine.serving.data.up.items() if found]


def test_a_client_that_moves_is_followed_and_names_its_peers_anew() -> None:
    net, client, server, relayed = permitted()
    assert flows(server) == [client.address]
    new = ("203.0.113.77", 10500)
    net.move(client, new)
    net.run(net.now + 2)
    assert net.granted(client) == {HIP, ESP}, "it need not register again"
    assert flows(server) == []
    name(net, client, server, relayed)
    assert flows(server) == [new]
    net.wire.clear()
    i1 = make_i1(Hit(b"\x20\x01\x00\x22" + b"o" * 12), client.hit, FAST)
    net._control(server, i1, ("198.51.100.9", 9), server.address)
    assert [seen.to for seen in net.wire] == [new]


@pytest.mark.parametrize("told", [False, True])
def test_a_client_whose_nat_moves_it_is_followed_and_keeps_what_it_has_permitted(
    told: bool,
) -> None:
    before, after = ("198.51.100.44", 4444), ("198.51.100.44", 5555)
    net, client, server, _ = permitted(before)
    if told:  # it has said where it is: then it has to say so again
        outbox = client.engine._associations[client.hit, server.hit].standing.upkeep.outbox  # type: ignore[union-attr]
        net.perform(client, outbox.poke(net.now))
        net.run(net.now + 1)
    assert flows(server) == [before]
    behind(net, client, after)
    net.run(net.now + 75)  # until it refreshes its registration
    assert flows(server) == [after]
    row = client.engine.requester.registrations()[0]
    assert row.reflexive == after
    again = ("198.51.100.44", 6666)
    behind(net, client, again)
    net.run(net.now + 75)
    assert flows(server) == [again]
