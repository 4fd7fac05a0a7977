"""Registration with relays, and what they do for whom (RFC 9028 §4.1, §4.5, §4.12, §7.8)."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from hipctl import EngineConfig, HostConfig, LocalHost, contact_from_addresses, hop, params
from hipctl.actions import Address, RegistrationAnswered, Relayed
from hipctl.constants import (
    CandidateKind,
    NatTraversalMode,
    NotifyType,
    PacketType,
    RegistrationFailure,
    RegistrationType,
)
from hipctl.crypto import Keys
from hipctl.exchange import make_i1
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Offer
from hipctl.locators import read_locator_set
from hipctl.packet import Packet, build
from hipctl.state import Shared, State
from sim.engines import FAST, UDP, Net, Peer, Seen, both_ways
from sim.loop import simulate
from sim.net import Net as Sockets
from sim.servers import ESP, HIP, RELAYS, RVS, ServerNet, address, met

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
UPDATE, NOTIFY = PacketType.UPDATE, PacketType.NOTIFY
DISCOVERY = RegistrationType.CANDIDATE_DISCOVERY
NINE = RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY
OTHERS = Hit(b"\x20\x01\x00\x22" + b"o" * 12)
ELSEWHERE: Address = ("198.51.100.66", 10500)
LONG = params.EchoRequestSigned(bytes(400))


def registered(*types: RegistrationType) -> tuple[ServerNet, Peer, Peer]:
    """A client and its server."""
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    client.engine.set_hosts([client.address])
    net.register(client, server, types)
    assert net.granted(client) == {*types}
    net.wire.clear()
    return net, client, server


def keys(peer: Peer, other: Peer) -> Keys:
    found = peer.engine._associations[peer.hit, other.hit].standing.keys
    assert found is not None
    return found


def relayed_address(client: Peer) -> Address:
    [found] = {row.relayed for row in client.engine.requester.registrations() if row.relayed}
    return found


def tell(net: ServerNet, client: Peer, server: Peer, *said: params.Parameter) -> None:
    net.perform(client, client.engine.tell((client.hit, server.hit), said, net.now) or [])
    net.run(net.now + 0.1)


def inject(net: ServerNet, server: Peer, data: bytes, source: Address, to: Address) -> list[Seen]:
    """What ``server`` sends because of a control packet."""
    before = len(net.wire)
    net._control(server, data, source, to)
    return net.wire[before:]


def updates(net: Net, source: Peer, to: Peer) -> list[Packet]:
    return [
        Packet(seen.data)
        for seen in net.sent(UPDATE)
        if (seen.source, seen.to) == (source.address, to.address)
    ]


# -- §4.1: registration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["cancelled", "expired", "closed by the client", "closed by the server"]
)
def test_at_the_end_of_registration_or_association_the_relay_stops_and_closes_the_port(
    how: str,
) -> None:
    net, client, server = registered(HIP, ESP)
    relayed, data = relayed_address(client), server.engine.serving.data
    i1 = make_i1(OTHERS, client.hit, FAST)
    assert inject(net, server, i1, ELSEWHERE, relayed)
    tell(net, client, server, params.PeerPermission(relayed, ELSEWHERE, 1_000, 2_000))
    assert data.up[client.address].keys() == {1_000}
    assert data.down[relayed][ELSEWHERE].keys() == {2_000}
    pair = client.hit, server.hit
    match how:
        case "cancelled":
            client.engine.requester.unregister(pair, [ESP], net.now)
        case "expired":
            net.dead.add(client.address)
            net.run(net.now + 700)
        case "closed by the client":
            net.perform(client, client.engine.close(*pair, net.now))
        case _:
            net.perform(server, server.engine.close(*pair[::-1], net.now))
    net.run(net.now + 0.1)
    assert data.closed == [relayed]
    assert not data.up
    assert relayed not in data.down
    assert not inject(net, server, i1, ELSEWHERE, relayed)


def test_an_update_that_asks_for_a_relayed_address_and_its_answer_hold_what_the_rfc_lists() -> (
    None
):
    net, client, server = registered(HIP)
    net.register(client, server, [ESP])
    request = next(p for p in updates(net, client, server) if p.has(params.RegRequest))
    assert ESP in request.need(params.RegRequest).types
    nonce, seq = request.need(params.EchoRequestSigned).opaque, request.need(params.Seq)
    answer = next(p for p in updates(net, server, client) if p.has(params.Ack))
    assert answer.need(params.Ack).update_ids == (seq.update_id,)
    assert answer.need(params.EchoResponseSigned).opaque == nonce
    assert ESP in answer.need(params.RegResponse).types
    given = answer.need(params.RelayedAddress)
    assert given.address in net.relayed
    assert given.protocol == 17
    assert given.address == relayed_address(client)
    assert answer.need(params.RegFrom).address == client.address


def test_candidate_discovery_is_a_question_that_leaves_nothing_behind() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve(RELAYS)
    net.introduce(client, server)
    net.connect(client, server)
    net.run(1.0)
    registrar = server.engine.serving.registrar
    net.register(client, server, [DISCOVERY])
    request = next(p for p in updates(net, client, server) if p.has(params.RegRequest))
    assert request.need(params.RegRequest).types == (DISCOVERY,)
    nonce = request.need(params.EchoRequestSigned).opaque
    answer = next(p for p in updates(net, server, client) if p.has(params.Ack))
    assert answer.need(params.EchoResponseSigned).opaque == nonce
    assert answer.need(params.RegFrom) == params.RegFrom(client.address)
    assert not server.engine.serving.served()
    assert registrar.of((server.hit, client.hit)) is None
    assert registrar.deadline() is None


@pytest.mark.parametrize(("pacing", "least"), [(0.05, 1.0), (0.6, 1.2)])
def test_a_question_for_addresses_is_repeated_after_a_second_or_ta_times_the_candidates(
    pacing: float, least: float
) -> None:
    net = ServerNet()
    client, server = net.add(replace(FAST, pacing=pacing)), net.serve(RELAYS)
    net.register(client, server, [HIP])
    net.dead.add(client.address)
    net.wire.clear()
    net.register(client, server, [ESP], wait=12)
    asked = [s for s in net.sent(UPDATE) if Packet(s.data).has(params.RegRequest)]
    first = [seen.at for seen in asked if seen.data == asked[0].data]
    gaps = [later - earlier for earlier, later in itertools.pairwise(first)]
    assert gaps == pytest.approx([least * 2**n for n in range(3)])


# -- §4.5, §4.8: what a control relay forwards -------------------------------------------------


def test_an_exchange_through_a_relay_says_at_every_hop_what_the_rfc_lists() -> None:
    net, a, b, server = met()
    outside: Address = ("203.0.113.7", 4_007)  # where a NAT puts the caller
    net.nat[a.address] = outside
    net.peers[outside] = net.peers.pop(a.address)
    net.connect(a, b)
    net.run(net.now + 1)
    assert net.state(a, b) is State.ESTABLISHED
    ends = {seen.kind: seen for seen in net.wire if outside in (seen.source, seen.to)}
    for kind in (I1, I2):
        passed = next(s for s in net.sent(kind) if s.to == b.address)
        assert passed.source == server.address
        packet = Packet(passed.data)
        assert packet.need(params.RelayFrom) == params.RelayFrom(outside)
        hop.check(packet, params.RelayHmac, keys(b, server))
        assert packet.changed(without={params.RelayFrom.TYPE, params.RelayHmac.TYPE}) == next(
            s.data for s in net.sent(kind) if s.source == outside
        )
    for kind in (R1, R2):
        sent = next(s for s in net.sent(kind) if s.source == b.address)
        assert sent.to == server.address
        packet = Packet(sent.data)
        assert packet.need(params.RelayTo).content() == params.RelayFrom(outside).content()
        hop.check(packet, params.RelayHmac, keys(server, b))
        passed = next(s for s in net.sent(kind) if s.to == outside)
        assert passed.source == server.address
        assert passed.data == packet.changed(without={params.RelayHmac.TYPE})
    assert {I1, R1, I2, R2} <= ends.keys()


def test_a_client_has_packets_forwarded_from_where_it_is_and_with_its_hmac_only() -> None:
    net, client, server = registered(HIP)
    packet = build(UPDATE, client.hit, OTHERS, [params.Seq(1)])
    good = hop.through(packet, Relayed(ELSEWHERE, server.address), keys(client, server))
    here = client.address, server.address
    assert [seen.to for seen in inject(net, server, good, *here)] == [ELSEWHERE]
    assert not inject(net, server, good, ELSEWHERE, server.address)
    assert not inject(net, server, good[:-9] + bytes(9), *here)
    assert not inject(net, server, Packet(good).changed(without={params.RelayHmac.TYPE}), *here)
    plain = build(UPDATE, client.hit, OTHERS, [params.Seq(1)])
    assert not inject(net, server, plain, *here)


@pytest.mark.parametrize("kind", [R1, I2])
def test_r1_and_i2_without_a_mode_are_dropped_and_clients_told_so(kind: PacketType) -> None:
    net, client, server = registered(HIP)
    mode = params.NatTraversalModes((NatTraversalMode.ICE_HIP_UDP,))
    cases: list[list[params.Parameter]] = [[LONG], [LONG, mode]]
    for said in cases:
        mine = build(kind, client.hit, OTHERS, said)
        mine = hop.through(mine, Relayed(ELSEWHERE, server.address), keys(client, server))
        answers = inject(net, server, mine, client.address, server.address)
        theirs = build(kind, OTHERS, client.hit, said)
        passed = inject(net, server, theirs, ELSEWHERE, server.address)
        if mode in said:
            assert [seen.to for seen in answers] == [ELSEWHERE]
            assert [seen.to for seen in passed] == [client.address]
            continue
        assert not passed  # nor is a stranger told, whose address may be somebody else's
        [answer] = answers
        assert (answer.kind, answer.to) == (NOTIFY, client.address)
        notification = Packet(answer.data).need(params.Notification)
        assert notification.type == NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER
        assert notification.data == mine[:40]


def test_what_is_not_forwarded_for_a_client_is_named_by_its_header() -> None:
    net, client, server = registered(HIP)
    packet = build(UPDATE, client.hit, OTHERS, [params.Seq(1), LONG])
    nowhere = hop.through(packet, Relayed(server.address, server.address), keys(client, server))
    [answer] = inject(net, server, nowhere, client.address, server.address)
    notification = Packet(answer.data).need(params.Notification)
    assert notification.type == NotifyType.MESSAGE_NOT_RELAYED
    assert notification.data == nowhere[:40]


# -- §4.12: the data relay ---------------------------------------------------------------------


def permissions(net: Net, client: Peer, server: Peer) -> list[tuple[float, params.PeerPermission]]:
    return [
        (seen.at, Packet(seen.data).need(params.PeerPermission))
        for seen in net.sent(UPDATE)
        if (seen.source, seen.to) == (client.address, server.address)
        and Packet(seen.data).has(params.PeerPermission)
    ]


def test_a_peer_is_permitted_before_data_goes_and_again_after_each_move() -> None:
    net, a, b, server = met(walls=True)
    relayed = relayed_address(b)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    assert b.datagrams == [(UDP, b"first")]
    assert server.engine.counters["relayed ESP without permission"] == 0
    at, first = permissions(net, b, server)[0]
    nominated = next(s.at for s in net.sent(UPDATE) if Packet(s.data).has(params.Nominate))
    assert at <= nominated + 4 * net.delay
    pair = a.hit, b.hit
    outbound, inbound = b.engine.outbound[pair[::-1]], a.engine.outbound[pair]
    expected = params.PeerPermission(relayed, a.address, outbound.sa.spi, inbound.sa.spi)
    assert first == expected
    for peer, new in ((b, "203.0.113.9"), (a, "203.0.113.10")):
        net.wire.clear()
        net.walls = lambda source, to: server.address[0] in (source[0], to[0])
        moved = net.now
        net.move(peer, (new, 10500))
        net.run(net.now + 15)
        found = [said for at, said in permissions(net, b, server) if at > moved]
        assert (relayed, a.address) in {(said.relayed, said.peer) for said in found}
        both_ways(net, a, b)
        assert address(a, b) == relayed


def test_an_activated_address_rests_when_the_client_says_that_it_is_elsewhere() -> None:
    net, client, server = registered(HIP, ESP)
    client.engine.set_locators([client.address], net.now)
    net.run(net.now + 1)
    relayed, data = relayed_address(client), server.engine.serving.data
    permission = params.PeerPermission(relayed, ELSEWHERE, 1_000, 2_000)
    inject(net, server, make_i1(OTHERS, client.hit, FAST), ELSEWHERE, relayed)
    tell(net, client, server, permission)
    assert data.up
    net.move(client, ("203.0.113.7", 10500))
    net.run(net.now + 2)
    assert not data.up
    assert data.down == {relayed: {}}
    assert net.granted(client) == {HIP, ESP}
    tell(net, client, server, permission)
    assert data.up[client.address].keys() == {1_000}


def test_permissions_are_refreshed_a_minute_before_they_end_as_long_as_they_are_used() -> None:
    net, a, b, server = met(walls=True)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 3)
    last = permissions(net, b, server)[-1][0]
    until = net.now + 1_000
    while net.now < until:
        both_ways(net, a, b)
    times = [at for at, _ in permissions(net, b, server) if at >= last]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) >= 3
    assert all(235 <= gap <= 245 for gap in gaps)
    net.perform(b, b.engine.close(b.hit, a.hit, net.now))
    net.wire.clear()
    net.run(net.now + 400)
    assert not permissions(net, b, server)
    assert server.engine.serving.data.down == {relayed_address(b): {}}


def test_control_packets_at_a_relayed_address_go_to_its_client_and_answers_leave_from_it() -> None:
    net, a, b, server = met(walls=True)
    relayed = relayed_address(b)
    net.connect(a, b)
    net.run(net.now + 3)
    checks = [s for s in net.sent(UPDATE) if (s.source, s.to) == (a.address, relayed)]
    assert checks
    for check in checks:
        seq = Packet(check.data).get(params.Seq)
        passed = next(
            Packet(s.data)
            for s in net.sent(UPDATE)
            if (s.source, s.to) == (server.address, b.address)
            and Packet(s.data).covered(params.HipMac) == Packet(check.data).covered(params.HipMac)
        )
        assert passed.need(params.RelayFrom).address == a.address
        hop.check(passed, params.RelayHmac, keys(b, server))
        if seq is None:
            continue
        answer = next(
            s
            for s in net.sent(UPDATE)
            if s.source == b.address
            and Packet(s.data).has(params.MappedAddress)
            and seq.update_id in Packet(s.data).need(params.Ack).update_ids
        )
        assert answer.to == server.address
        assert Packet(answer.data).need(params.RelayTo).address == a.address
        hop.check(Packet(answer.data), params.RelayHmac, keys(server, b))
        left = next(
            s
            for s in net.sent(UPDATE)
            if s.to == a.address and answer.data[40:200] == s.data[40:200]
        )
        assert left.source == relayed
    for seen in net.sent(UPDATE):
        if seen.to == a.address and Packet(seen.data).sender == b.hit:
            assert seen.source in (relayed, b.address)
    through = [s for s in net.wire if s.source == b.address and s.to == server.address]
    others = [s for s in through if Packet(s.data).receiver == a.hit]
    assert others
    assert all(Packet(s.data).has(params.RelayTo) for s in others)


S, A, B = (HostIdentity.from_secret(n) for n in (90_283, 90_284, 90_285))
SERVER, ALICE, BOB = ("11.0.0.1", 10500), ("11.0.0.2", 10500), ("11.0.0.3", 10500)


def test_esp_passes_under_a_permission_only_both_ways_and_for_five_minutes() -> None:
    net = Sockets(latency=0.02)

    async def main() -> None:
        config = [HostConfig(listen=(at,), engine=EngineConfig(k=2)) for at in (SERVER, ALICE)]
        async with (
            LocalHost([S], config[0], open_port=net.open) as server,
            LocalHost([A], config[1], open_port=net.open) as alice,
        ):
            server.offer(RELAYS)
            await asyncio.sleep(0.1)
            alice.learn(S.hit, contact_from_addresses([SERVER]))
            [row] = await alice.register(S.hit, [ESP])
            relayed = row.relayed
            assert relayed is not None

            async def passes(
                spi: int, source: Address, to: Address
            ) -> list[tuple[Address, Address]]:
                data = spi.to_bytes(4, "big") + b"sealed" * 9
                net.log.clear()
                net.carry(data, source, to)
                await asyncio.sleep(0.05)
                return [(a, b) for _, a, b, said in net.log if said == data][1:]

            def permit() -> None:
                asked = params.PeerPermission(relayed, BOB, 0x1000, 0x2000)
                tell = alice.engine.tell
                alice._driver.feed(lambda now: tell((A.hit, S.hit), [asked], now) or [])

            assert not await passes(0x2000, BOB, relayed)
            assert not await passes(0x1000, ALICE, SERVER)
            permit()
            await asyncio.sleep(0.1)
            assert not await passes(0x1000, ALICE, SERVER)  # he has not spoken with her
            net.carry(bytes(4) + make_i1(OTHERS, A.hit, FAST), BOB, relayed)
            await asyncio.sleep(0.1)
            permit()
            await asyncio.sleep(0.1)
            permitted = asyncio.get_running_loop().time()
            assert await passes(0x2000, BOB, relayed) == [(SERVER, ALICE)]
            assert await passes(0x1000, ALICE, SERVER) == [(relayed, BOB)]
            for spi, source, to in (
                (0x2001, BOB, relayed),
                (0x1000, BOB, relayed),
                (0x2000, (BOB[0], 10501), relayed),
                (0x2000, ("11.0.0.4", BOB[1]), relayed),
                (0x1001, ALICE, SERVER),
                (0x2000, ALICE, SERVER),
                (0x1000, BOB, SERVER),
            ):
                assert not await passes(spi, source, to)
            await asyncio.sleep(200)
            permit()
            await asyncio.sleep(200)
            assert await passes(0x2000, BOB, relayed)
            assert await passes(0x1000, ALICE, SERVER)
            await asyncio.sleep(permitted + 200 + 301 - asyncio.get_running_loop().time())
            assert not await passes(0x2000, BOB, relayed)
            assert not await passes(0x1000, ALICE, SERVER)

    simulate(main)


def test_a_peer_whose_spi_is_another_one_s_is_not_told_of_the_relayed_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, a, b, server = met()
    c, others = net.add(), Shared.new_spi
    for peer in (a, b, c):
        peer.engine.set_locators([peer.address], net.now)
    c.engine.learn(b.hit, [server.address])
    monkeypatch.setattr(
        Shared,
        "new_spi",
        lambda self: others(self) if self is b.engine._shared else 0x0A0B0C0D,
    )

    def kinds(peer: Peer, kind: PacketType) -> list[set[int]]:
        """What kinds of candidates the callee tells ``peer`` of."""
        found = []
        for seen in net.sent(kind):
            packet = Packet(seen.data)
            if seen.to == peer.address and packet.sender == b.hit and packet.has(params.Encrypted):
                listed = read_locator_set(packet, keys(peer, b)) or ()
                found.append({one.kind for one in listed if one.traffic != 1})
        return found

    for peer in (a, c):
        net.connect(peer, b)
        net.run(net.now + 3)
        assert net.state(peer, b) is State.ESTABLISHED
    assert a.engine._associations[a.hit, b.hit].standing.installed is not None
    assert [CandidateKind.RELAYED in told for told in kinds(a, R2)] == [True]
    assert [CandidateKind.RELAYED in told for told in kinds(c, R2)] == [False]
    net.wire.clear()
    net.move(b, ("203.0.113.9", 10500))
    net.run(net.now + 5)
    assert {CandidateKind.RELAYED in told for told in kinds(a, UPDATE)} == {True}
    assert {CandidateKind.RELAYED in told for told in kinds(c, UPDATE)} == {False}
    assert kinds(c, UPDATE)


# -- §7.8: rendezvous or control relay ---------------------------------------------------------


def refusals(peer: Peer) -> dict[int, int]:
    told = [each for each in peer.told if isinstance(each, RegistrationAnswered)]
    return {kind: why for each in told for kind, why in each.refused.items()}


def test_of_rendezvous_and_control_relay_a_client_chooses_one_for_good() -> None:
    net = ServerNet()
    client, server = net.add(), net.serve({RVS: Offer(), **RELAYS})
    net.register(client, server, [RVS, HIP])
    [i2] = net.sent(I2)
    assert Packet(i2.data).need(params.RegRequest).types == (HIP,)
    assert refusals(client) == {RVS: NINE}
    client.engine.requester.unregister((client.hit, server.hit), [HIP], net.now)
    net.run(net.now + 1)
    client.told.clear()
    net.register(client, server, [ESP, RVS])
    assert net.granted(client) == {ESP}
    assert refusals(client) == {RVS: NINE}
    asked = [p.every(params.RegRequest) for p in updates(net, client, server)]
    assert RVS not in {kind for each in asked for request in each for kind in request.types}
