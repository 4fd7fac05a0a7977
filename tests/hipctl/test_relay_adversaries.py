"""Those who would misuse a server: strangers, and clients that are registered.

Nothing is forwarded that a client has not asked for; nothing goes where a client must not send;
and nothing gets longer than the parameters of a hop make it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import hop, params, rendezvous
from hipctl.actions import Address, Relayed
from hipctl.constants import (
    LocatorType,
    NatTraversalMode,
    NotifyType,
    PacketType,
    RegistrationType,
)
from hipctl.crypto import Keys
from hipctl.exchange import make_i1
from hipctl.identity import NULL_HIT, Hit, HostIdentity
from hipctl.interface import Offer, Served
from hipctl.packet import Packet, build, finish
from hipctl.params_mobility import UNBOUNDED, Locator
from hipctl.relay import SEEN_SECONDS
from hipctl.wire import frame
from sim.engines import FAST, UDP, Net, Peer, Seen, both_ways
from sim.servers import ESP, HIP, RELAYS, RVS, ServerNet, met

MALLORY = ("198.51.100.66", 10500)
VICTIM = ("198.51.100.99", 9)
OTHERS = Hit(b"\x20\x01\x00\x22" + b"o" * 12)
HOP = 24 + 56  # bytes of RELAY_FROM and RELAY_HMAC
RVS_HOP = 24 + 24 + 56  # and of FROM
GARBAGE = b"g" * 48


@dataclass
class World:
    """A server, one client of its, and somebody else."""

    net: ServerNet
    server: Peer
    client: Peer
    other: Peer

    @property
    def keys(self) -> Keys:
        """Of the client's association with the server."""
        association = self.client.engine._associations[self.client.hit, self.server.hit]
        assert association.standing.keys is not None
        return association.standing.keys

    def keys_of_server(self) -> Keys:
        """Of the same association, as the server has them."""
        association = self.server.engine._associations[self.server.hit, self.client.hit]
        assert association.standing.keys is not None
        return association.standing.keys

    def inject(self, data: bytes, source: Address, to: Address | None = None) -> list[Seen]:
        """Let the server have a packet; return what it sends because of it."""
        before = len(self.net.wire)
        self.net._control(self.server, data, source, to or self.server.address)
        return self.net.wire[before:]

    def from_client(
        self,
        to: Address,
        kind: int = PacketType.UPDATE,
        more: object = (),
        receiver: Hit = OTHERS,
    ) -> bytes:
        """What the client's relay is to send there."""
        packet = build(kind, self.client.hit, receiver, more or [params.Seq(1)])  # type: ignore[arg-type]
        return hop.through(packet, Relayed(to, self.server.address), self.keys)

    def relayed(self) -> Address:
        client = self.server.engine.serving.registrar.of((self.server.hit, self.client.hit))
        assert client is not None
        assert client.relayed is not None
        return client.relayed


def world(
    *types: object, seed: int = 0, offers: Mapping[RegistrationType, Offer] | None = None
) -> World:
    net = ServerNet(seed)
    server = net.serve(offers or {**RELAYS, RVS: Offer()})
    client, other = net.add(), net.add()
    net.register(client, server, types or (HIP, ESP))  # type: ignore[arg-type]
    assert net.granted(client) == set(types or (HIP, ESP))
    net.wire.clear()
    return World(net, server, client, other)


def i1(to: Hit, sender: Hit = OTHERS) -> bytes:
    return make_i1(sender, to, FAST)


# -- strangers -----------------------------------------------------------------------------------


def test_nothing_goes_to_who_is_not_registered_and_nothing_stays_of_the_attempt() -> None:
    w = world()
    assert w.inject(i1(w.other.hit), MALLORY) == []
    assert w.inject(i1(OTHERS, w.other.hit), w.other.address) == []
    assert len(w.server.engine.pairs()) == 1


def test_a_stranger_cannot_have_anything_sent_by_relay_to() -> None:
    w = world()
    for sender in (OTHERS, w.client.hit, w.other.hit, w.server.hit):
        packet = build(PacketType.UPDATE, sender, OTHERS, [params.Seq(1)])
        forged = finish(
            packet
            + params.encode([params.RelayTo(VICTIM)])
            + frame(params.RelayHmac.TYPE, bytes(48))
        )
        for source in (MALLORY, w.client.address):
            assert w.inject(forged, source) == []


def test_what_a_client_had_sent_is_not_sent_again_for_others() -> None:
    w = world()
    genuine = w.from_client(VICTIM)
    assert [seen.to for seen in w.inject(genuine, w.client.address)] == [VICTIM]
    assert w.inject(genuine, MALLORY) == []
    assert w.inject(genuine[:-8] + bytes(8), w.client.address) == []


def test_a_packet_to_a_client_grows_by_what_a_hop_adds_and_its_own_hop_parameters_go() -> None:
    w = world()
    [seen] = w.inject(i1(w.client.hit), MALLORY)
    assert seen.to == w.client.address
    assert len(seen.data) == len(i1(w.client.hit)) + HOP
    lies: list[params.Parameter] = [
        params.RelayTo(VICTIM),
        params.From(VICTIM[0]),
        params.RvsHmac(bytes(48)),
    ]
    lying = build(PacketType.I1, OTHERS, w.client.hit, [params.DhGroupList((7,)), *lies])
    [seen] = w.inject(lying, MALLORY)
    packet = Packet(seen.data)
    assert [each.address for each in packet.every(params.RelayFrom)] == [MALLORY]
    assert not any(packet.has(kind) for kind in (params.RelayTo, params.From, params.RvsHmac))
    hop.check(packet, params.RelayHmac, _inverse(w))


def _inverse(w: World) -> Keys:
    """Keys with which the client checks what its server has MACed."""
    return w.keys


def test_the_client_s_own_hit_does_not_come_from_elsewhere() -> None:
    w = world()
    assert w.inject(i1(w.client.hit, w.client.hit), MALLORY) == []


def test_a_flood_of_i1s_from_one_network_leaves_the_others_room() -> None:
    w = world()
    passed = sum(len(w.inject(i1(w.client.hit), MALLORY)) for _ in range(1_000))
    assert passed == FAST.relayed_i1_burst
    assert len(w.inject(i1(w.client.hit), w.other.address)) == 1
    row = next(row for row in w.server.engine.serving.served() if row.type is HIP)
    assert row.dropped == 1_000 - passed


def test_a_flood_of_i1s_from_everywhere_leaves_other_packets_and_other_clients_room() -> None:
    w = world()
    second = w.net.add()
    w.net.register(second, w.server, [HIP])
    passed = sum(
        len(w.inject(i1(w.client.hit), (f"10.{n // 250}.{n % 250}.1", 9))) for n in range(5_000)
    )
    assert passed <= FAST.to_client_burst + 1
    assert len(w.inject(i1(second.hit), MALLORY)) == 1
    update = build(PacketType.UPDATE, OTHERS, w.client.hit, [params.Seq(1)])
    assert len(w.inject(update, MALLORY)) == 1


def test_esp_passes_a_relayed_address_only_from_permitted_peers_under_their_spi() -> None:
    w = world()
    relayed, esp = w.relayed(), b"x" * 60
    permission = params.PeerPermission(relayed, VICTIM, 0x1000, 0x2000)
    data = w.server.engine.serving.data
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    data.permit(client, permission, w.net.now)

    def goes(spi: int, source: Address, to: Address) -> bool:
        way = w.server.address, w.client.address
        before = w.net.bytes.get(way, 0)
        w.net._open(w.server, spi.to_bytes(4, "big") + esp, source, to)
        w.net.run(w.net.now + 1)
        return w.net.bytes.get(way, 0) == before + 4 + len(esp)

    assert not goes(0x2000, MALLORY, relayed)
    assert not goes(0x2001, VICTIM, relayed)
    assert not goes(0x1000, VICTIM, relayed)
    assert goes(0x2000, VICTIM, relayed)
    assert w.server.engine.counters["relayed ESP without permission"] == 3
    w.net._open(w.server, b"\0\0\x10\0" + esp, MALLORY, w.server.address)
    w.net._open(w.server, b"\0\0\x20\0" + esp, w.client.address, w.server.address)
    assert w.server.engine.counters["relayed ESP without permission"] == 5


def test_control_packets_at_a_relayed_address_are_for_its_client_only() -> None:
    w = world()
    second = w.net.add()
    w.net.register(second, w.server, [HIP])
    w.net.wire.clear()
    relayed = w.relayed()
    assert w.inject(i1(second.hit), MALLORY, relayed) == []
    assert w.inject(i1(w.server.hit), MALLORY, relayed) == []
    assert w.inject(i1(NULL_HIT), MALLORY, relayed) == []
    [seen] = w.inject(i1(w.client.hit), MALLORY, relayed)
    assert (seen.source, seen.to) == (w.server.address, w.client.address)
    assert Packet(seen.data).need(params.RelayFrom).address == MALLORY


@pytest.mark.parametrize("kind", [PacketType.R1, PacketType.I2])
def test_r1_and_i2_without_a_nat_traversal_mode_are_not_relayed(kind: PacketType) -> None:
    w = world()
    stuff: list[params.Parameter] = [params.EchoRequestSigned(bytes(400))]
    packet = build(kind, OTHERS, w.client.hit, stuff)
    assert w.inject(packet, MALLORY) == [], "its address may be somebody else's"
    packet = w.from_client(VICTIM, kind, stuff)
    [notify] = w.inject(packet, w.client.address)
    assert notify.to == w.client.address
    assert len(notify.data) <= len(packet)
    notification = Packet(notify.data).need(params.Notification)
    assert notification.type == NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER
    assert notification.data == packet[:40]
    stuff.append(params.NatTraversalModes((NatTraversalMode.ICE_HIP_UDP,)))
    packet = build(kind, OTHERS, w.client.hit, stuff)
    assert [seen.to for seen in w.inject(packet, MALLORY)] == [w.client.address]
    packet = w.from_client(VICTIM, kind, stuff)
    assert [seen.to for seen in w.inject(packet, w.client.address)] == [VICTIM]


def test_notifies_are_few_and_no_longer_than_what_they_are_about() -> None:
    w = world()
    answers = sum(
        len(
            w.inject(
                w.from_client(("224.0.0.1", 9), more=[params.EchoRequestSigned(bytes(400))]),
                w.client.address,
            )
        )
        for _ in range(100)
    )
    assert answers <= FAST.notify_burst
    w = world()
    assert w.inject(w.from_client(("224.0.0.1", 9), PacketType.NOTIFY), w.client.address) == []


def test_a_client_s_packet_from_elsewhere_is_not_handed_on_as_a_stranger_s() -> None:
    w = world()
    second = w.net.add()
    w.net.register(second, w.server, [HIP])
    packet = build(PacketType.UPDATE, w.client.hit, second.hit, [params.Seq(1)])
    packet = hop.through(packet, Relayed(second.address, w.server.address), w.keys)
    assert w.inject(packet, MALLORY) == [], "it would tell where the client is"


def test_what_would_get_longer_than_a_packet_is_not_relayed() -> None:
    w = world()
    packet = build(
        PacketType.UPDATE, OTHERS, w.client.hit, [params.EchoRequestSigned(bytes(1_996))]
    )
    assert w.inject(packet, MALLORY) == []
    assert w.server.engine.counters["too long to be relayed"] == 1


# -- clients that misbehave ----------------------------------------------------------------------


NOWHERE: list[Address] = [
    ("127.0.0.1", 53),
    ("::1", 53),
    ("0.0.0.0", 53),
    ("::", 53),
    ("224.0.0.1", 53),
    ("ff02::1", 53),
    ("255.255.255.255", 53),
    ("2001:22::1", 53),
    ("192.0.2.7", 0),
]


@pytest.mark.parametrize("to", NOWHERE, ids=str)
def test_a_client_cannot_have_the_server_send_where_nobody_may(to: Address) -> None:
    w = world()
    packet = w.from_client(to)
    answers = w.inject(packet, w.client.address)
    assert all(seen.to == w.client.address for seen in answers)
    assert sum(len(seen.data) for seen in answers) <= len(packet)


@pytest.mark.parametrize("home", ["11.0.0.66", "192.168.7.7"])
@pytest.mark.parametrize(
    "ip",
    [
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "fec0::1",
        "::7f00:1",
        "::ffff:0:a00:1",
        "::ffff:10.0.0.1",
        "2002:c0a8:101::1",
    ],
)
def test_a_client_cannot_have_the_server_send_to_ipv4_in_disguise(ip: str, home: str) -> None:
    net = ServerNet()
    server, client = net.serve(RELAYS, name="11.0.0.1"), net.add(name=home)
    net.register(client, server, [HIP, ESP])
    registered = server.engine.serving.registrar.of((server.hit, client.hit))
    assert registered is not None
    may_send = server.engine.serving.relay.may_send
    assert may_send(registered, ("2a00:1450::1", 53), net.now)
    assert not may_send(registered, (ip, 53), net.now)


def test_a_client_cannot_have_the_server_send_to_itself() -> None:
    w = world()
    for to in (
        w.server.address,
        w.relayed(),
        (w.server.address[0], 50_003),
        (w.server.address[0], 22),
    ):
        assert [s for s in w.inject(w.from_client(to), w.client.address) if s.to == to] == []


def test_nobody_registers_at_another_port_than_the_r1_went_to() -> None:
    net = ServerNet()
    server, client = net.serve(RELAYS), net.add()
    held: list[bytes] = []

    def hold(seen: Seen) -> list[bytes]:
        held.extend([seen.data] if seen.kind == PacketType.I2 else [])
        return [] if seen.kind == PacketType.I2 else [seen.data]

    net.tamper = hold
    net.register(client, server, [HIP, ESP])
    neighbour = (client.address[0], client.address[1] + 1)  # behind the same NAT
    net._control(server, held[0], neighbour, server.address)
    assert server.engine.serving.registrar.of((server.hit, client.hit)) is None
    assert server.engine.counters["I2 answers no R1 of ours"] == 1
    net._control(server, held[0], client.address, server.address)
    assert server.engine.serving.registrar.of((server.hit, client.hit)) is not None


@pytest.mark.parametrize("every", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("lasts", [1, UNBOUNDED])
def test_a_client_that_names_victims_says_more_than_they_hear(lasts: int, every: float) -> None:
    w = world()
    pair, begin = (w.client.hit, w.server.hit), w.net.now
    while w.net.now < begin + 60.0:
        kind = LocatorType.TRANSPORT_ADDRESS
        named = [Locator(kind, *w.client.address, 0, lasts, preferred=True)]
        named += [Locator(kind, VICTIM[0], port, 0, UNBOUNDED) for port in range(1, 8)]
        actions = w.client.engine.tell(pair, [params.LocatorSet(tuple(named))], w.net.now)
        w.net.perform(w.client, actions or [])
        w.net.run(w.net.now + every)
    w.net.run(w.net.now + 60.0)
    said = sum(len(seen.data) for seen in w.net.wire if seen.source == w.client.address)
    heard = sum(len(seen.data) for seen in w.net.wire if seen.to[0] == VICTIM[0])
    assert 0 < heard <= said


def two_clients(*, shared: bool) -> tuple[World, World]:
    """Two clients of one server, each with a relayed address, which may be the same."""
    net = ServerNet()
    server = net.serve(RELAYS, shared=shared)
    one, other = net.add(), net.add()
    for client in (one, other):
        net.register(client, server, [HIP, ESP])
    net.wire.clear()
    return World(net, server, one, other), World(net, server, other, one)


@pytest.mark.parametrize("shared", [False, True])
def test_a_client_reaches_another_at_its_relayed_address_and_nobody_else_there(
    shared: bool,
) -> None:
    one, other = two_clients(shared=shared)
    assert (one.relayed() == other.relayed()) is shared
    packet = one.from_client(other.relayed(), receiver=other.client.hit)
    (seen,) = one.inject(packet, one.client.address)
    assert seen.to == other.client.address
    assert len(seen.data) <= len(packet)
    assert Packet(seen.data).need(params.RelayFrom).address == one.relayed()
    for hit in (OTHERS, one.client.hit, one.server.hit):
        answers = one.inject(one.from_client(other.relayed(), receiver=hit), one.client.address)
        assert all(answer.to == one.client.address for answer in answers)
    back = one.inject(one.from_client(one.relayed()), one.client.address)
    assert all(answer.to == one.client.address for answer in back)


def test_who_was_lent_no_address_reaches_no_relayed_one() -> None:
    net = ServerNet()
    server = net.serve(RELAYS)
    one, other = net.add(), net.add()
    net.register(one, server, [HIP])
    net.register(other, server, [HIP, ESP])
    w, there = World(net, server, one, other), World(net, server, other, one)
    packet = w.from_client(there.relayed(), receiver=other.hit)
    assert all(seen.to == one.address for seen in w.inject(packet, one.address))


@pytest.mark.parametrize("shared", [False, True])
def test_from_one_client_to_another_there_are_limits_as_for_strangers(shared: bool) -> None:
    one, other = two_clients(shared=shared)
    config = one.server.engine._shared.config
    for kind, most in (
        (PacketType.I1, config.relayed_i1_burst),
        (PacketType.UPDATE, config.to_client_burst),
    ):
        packet = one.from_client(other.relayed(), kind, receiver=other.client.hit)
        passed = [one.inject(packet, one.client.address) for _ in range(4 * int(most))]
        assert 0 < sum(len(seen) for seen in passed) <= most


def test_a_named_peer_is_not_one_of_its_network() -> None:
    w = world()
    config = w.server.engine._shared.config
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    asked = params.PeerPermission(w.relayed(), MALLORY, 5001, 5002)
    w.server.engine.serving.data.permit(client, asked, w.net.now)
    update = build(PacketType.UPDATE, OTHERS, w.client.hit, [params.Seq(1)])
    most = int(config.relayed_burst)
    stranger = MALLORY[0], MALLORY[1] + 1
    assert len(w.inject(w.from_client(stranger), w.client.address)) == 1  # it is no stranger's
    first = [w.inject(update, stranger, w.relayed()) for _ in range(most + 10)]
    assert sum(map(len, first)) == most
    named = [w.inject(update, MALLORY, w.relayed()) for _ in range(2 * config.to_client_burst)]
    passed = sum(map(len, named))
    assert passed == config.to_client_burst - most  # the client has its limit, too
    i1s = [w.inject(i1(w.client.hit), MALLORY, w.relayed()) for _ in range(300)]
    assert sum(map(len, i1s)) == config.relayed_i1_burst  # each makes the client compute


@pytest.mark.parametrize("shared", [False, True])
def test_what_two_clients_permit_each_other_passes_once(shared: bool) -> None:
    one, other = two_clients(shared=shared)
    data, now = one.server.engine.serving.data, one.net.now
    for w, there, spi_out, spi_in in ((one, other, 5001, 5002), (other, one, 5002, 5001)):
        client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
        assert client is not None
        asked = params.PeerPermission(w.relayed(), there.relayed(), spi_out, spi_in)
        assert w.server.engine.serving.relay.may_send(client, asked.peer, now)
        data.permit(client, asked, now)
    one.net.bytes.clear()
    for w, spi in ((one, 5001), (other, 5002)):
        sealed = spi.to_bytes(4, "big") + bytes(60)
        w.net._open(w.server, sealed, w.client.address, w.server.address)
    one.net.run(now + 0.5)
    server = one.server.address
    arrived = {to: size for (source, to), size in one.net.bytes.items() if source == server}
    assert arrived == {one.client.address: 64, other.client.address: 64}


def test_a_public_client_reaches_private_addresses_only_if_they_have_asked_for_it() -> None:
    net = ServerNet()
    server = net.serve(RELAYS, name="11.0.0.1")
    client = net.add(name="11.0.0.2")
    net.register(client, server, [HIP])
    w = World(net, server, client, client)
    inside: Address = ("192.168.1.7", 10500)
    net.wire.clear()
    assert [s for s in w.inject(w.from_client(inside), client.address) if s.to == inside] == []
    w.inject(i1(client.hit), inside)
    assert [s.to for s in w.inject(w.from_client(inside), client.address)] == [inside]
    net.now += 1_000
    assert [s for s in w.inject(w.from_client(inside), client.address) if s.to == inside] == []
    assert [s.to for s in w.inject(w.from_client(("11.0.0.9", 9)), client.address)] == [
        ("11.0.0.9", 9)
    ]


def test_a_client_cannot_speak_under_another_s_hit() -> None:
    w = world()
    second = w.net.add()
    w.net.register(second, w.server, [HIP])
    w.net.wire.clear()
    packet = build(PacketType.UPDATE, second.hit, OTHERS, [params.Seq(1)])
    forged = hop.through(packet, Relayed(VICTIM, w.server.address), w.keys)
    assert w.inject(forged, w.client.address) == []
    assert w.inject(forged, second.address) == []


def test_what_a_client_has_sent_gets_shorter_on_its_way() -> None:
    w = world()
    packet = w.from_client(VICTIM)
    [seen] = w.inject(packet, w.client.address)
    assert len(seen.data) < len(packet)
    assert Packet(seen.data).need(params.RelayTo).address == VICTIM
    assert not Packet(seen.data).has(params.RelayHmac)


def test_checks_leave_from_the_relayed_address_and_exchanges_from_the_main_one() -> None:
    w = world()
    relayed, main = w.relayed(), w.server.address

    def leaves(kind: int, *more: params.Parameter) -> Address:
        [seen] = w.inject(w.from_client(VICTIM, kind, more), w.client.address)
        return seen.source

    mode = params.NatTraversalModes((NatTraversalMode.ICE_HIP_UDP,))
    assert leaves(PacketType.UPDATE, params.Seq(1)) == main
    assert leaves(PacketType.UPDATE, params.Seq(1), params.CandidatePriority(7)) == relayed
    assert leaves(PacketType.UPDATE, params.Ack((1,)), params.MappedAddress(VICTIM)) == relayed
    assert leaves(PacketType.I1, params.DhGroupList((7,))) == main
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    permission = params.PeerPermission(relayed, VICTIM, 0x1000, 0x2000)
    w.server.engine.serving.data.permit(client, permission, w.net.now)
    assert leaves(PacketType.UPDATE, params.Seq(1)) == relayed
    assert leaves(PacketType.CLOSE, params.EchoRequestSigned(b"n" * 8)) == relayed
    assert leaves(PacketType.R1, mode) == main


def test_permissions_are_for_clients_of_the_data_relay() -> None:
    w = world(HIP)
    relayed: Address = (w.server.address[0], 50_000)
    permission = params.PeerPermission(relayed, VICTIM, 0x1000, 0x2000)
    w.net.perform(
        w.client, w.client.engine.tell((w.client.hit, w.server.hit), [permission], w.net.now) or []
    )
    w.net.run(w.net.now + 0.1)
    assert w.server.engine.counters["PEER_PERMISSION of one who is not registered"] == 1
    assert not [seen for seen in w.net.wire if seen.source == w.server.address], "it is dropped"


@pytest.mark.parametrize("peer", [*NOWHERE[:8], ("192.0.2.1", 22)], ids=str)
def test_no_permission_aims_where_nothing_may_be_sent(peer: Address) -> None:
    w = world()
    permission = params.PeerPermission(w.relayed(), peer, 0x1000, 0x2000)
    pair = w.client.hit, w.server.hit
    w.net.perform(w.client, w.client.engine.tell(pair, [permission], w.net.now) or [])
    w.net.run(w.net.now + 0.1)
    assert not w.server.engine.serving.data.up
    assert w.client.engine.counters["NOTIFY MESSAGE_NOT_RELAYED"] == 1
    assert len(w.net.sent(PacketType.UPDATE)) == 2, "it is acknowledged all the same"


def test_a_client_that_says_it_is_at_a_victim_s_has_nothing_sent_there() -> None:
    w = world()
    w.net.wire.clear()
    w.client.engine.set_locators([VICTIM], w.net.now)
    w.net.perform(w.client, w.client.engine.set_locators([VICTIM, w.client.address], w.net.now))
    w.net.run(w.net.now + 0.015)
    for _ in range(50):
        w.inject(i1(w.client.hit), MALLORY)
    for seen in w.net.wire:
        if seen.to == VICTIM:
            assert seen.kind == PacketType.UPDATE, "nothing but the question who is there"


def test_a_replayed_request_changes_nothing_and_is_answered_as_before() -> None:
    w = world(HIP)
    requester, pair = w.client.engine.requester, (w.client.hit, w.server.hit)
    kept: list[bytes] = []
    w.net.tamper = lambda seen: kept.append(seen.data) or [seen.data]  # type: ignore[func-returns-value]
    requester.unregister(pair, [HIP], w.net.now)
    w.net.run(w.net.now + 1)
    cancel = kept[0]
    assert Packet(cancel).need(params.RegRequest).lifetime == 0
    first = next(d for d in kept if Packet(d).has(params.RegResponse))
    w.net.register(w.client, w.server, [HIP])
    before = w.server.engine.serving.served()
    [again] = w.inject(cancel, w.client.address)
    assert w.server.engine.serving.served() == before
    assert not Packet(again.data).has(params.RegResponse), "the last answer was another one"
    renew = [d for d in kept if Packet(d).has(params.RegRequest)][-1]
    [again] = w.inject(renew, w.client.address)
    response = Packet(again.data).need(params.RegResponse)
    assert response.types == (HIP,)
    assert Packet(first).need(params.RegResponse).lifetime == 0


def test_all_is_over_with_the_association() -> None:
    w = world()
    relayed = w.relayed()
    w.net.perform(w.client, w.client.engine.close(w.client.hit, w.server.hit, w.net.now))
    w.net.run(w.net.now + 0.015)
    assert w.server.engine.serving.data.closed == [relayed]
    assert w.inject(i1(w.client.hit), MALLORY) == []
    assert w.inject(i1(w.client.hit), MALLORY, relayed) == []


# -- limits --------------------------------------------------------------------------------------

CONTROL = Offer(packets=256.0, bandwidth=100_000.0, burst=4.0)
LIMITED = {HIP: CONTROL, ESP: Offer(packets=500.0, bandwidth=500_000.0), RVS: CONTROL}
STRANGER = ("198.51.100.77", 10500)
NEVER_ASKED = "relayed packets to who has not asked"
OVER = "relay client over its limits"


def row(w: World, kind: RegistrationType) -> Served:
    """What the server tells of its client."""
    found = w.server.engine.serving.served()
    return next(each for each in found if (each.client, each.type) == (w.client.hit, kind))


def sent(w: World, packets: Sequence[bytes], source: Address, seconds: float) -> list[Seen]:
    """Let the server have them, evenly over so many seconds."""
    out = []
    for packet in packets:
        out += w.inject(packet, source)
        w.net.now += seconds / len(packets)
    return out


def asked(w: World, *peers: Address) -> None:
    """These have spoken to the client through its relay."""
    for peer in peers:
        assert len(w.inject(i1(w.client.hit), peer)) == 1


def name(w: World, peer: Address) -> None:
    """The client names a peer."""
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    permission = params.PeerPermission(w.relayed(), peer, 0x1000, 0x2000)
    w.server.engine.serving.data.permit(client, permission, w.net.now)


@pytest.mark.parametrize("size", [8, 1_800])
def test_a_client_sends_no_more_control_packets_than_its_limits(size: int) -> None:
    w = world(offers=LIMITED)
    asked(w, STRANGER)
    before = row(w, HIP)
    packet = w.from_client(STRANGER, more=[params.EchoRequestSigned(bytes(size))])
    out = sent(w, [packet] * 10_000, w.client.address, 1.0)
    assert len(out) <= CONTROL.packets * 5
    assert sum(len(seen.data) for seen in out) <= CONTROL.bandwidth * 5
    after = row(w, HIP)
    assert after.packets - before.packets == len(out)
    assert after.dropped == 10_000 - len(out) == w.server.engine.counters[OVER]
    w.net.now += 4.0
    assert len(w.inject(packet, w.client.address)) == 1


def test_a_client_s_packets_to_who_never_asked_are_few_though_one_is_sent_again_and_again() -> (
    None
):
    w = world(offers=LIMITED)
    config = w.server.engine._shared.config
    packet = w.from_client(VICTIM, more=[params.EchoRequestSigned(bytes(1_800))])
    out = sent(w, [packet] * 10_000, w.client.address, 10.0)
    most = config.unasked_burst + 10 * config.unasked_rate
    assert most - 1 <= len(out) <= most
    assert w.server.engine.counters[NEVER_ASKED] == row(w, HIP).dropped == 10_000 - len(out)


def test_many_who_never_asked_are_not_asked_more_than_one() -> None:
    w = world(offers=LIMITED)
    config = w.server.engine._shared.config
    everybody = [(f"8.8.{n // 250}.{n % 250}", 9) for n in range(5_000)]
    packets = [
        w.from_client(each, PacketType.I1, [params.DhGroupList((7,))]) for each in everybody
    ]
    out = sent(w, packets, w.client.address, 1.0)
    assert len(out) <= config.unasked_burst + config.unasked_rate
    second = w.net.add()
    w.net.register(second, w.server, [HIP])
    other = World(w.net, w.server, second, w.other)
    assert len(other.inject(other.from_client(VICTIM), second.address)) == 1


def test_who_has_asked_or_was_named_is_none_who_never_asked_until_it_is_long_ago() -> None:
    w = world(offers=LIMITED)
    burst = w.server.engine._shared.config.unasked_burst
    asked(w, STRANGER)
    name(w, MALLORY)
    for to in (STRANGER, MALLORY):
        assert len(sent(w, [w.from_client(to)] * 200, w.client.address, 1.0)) == 200
    w.net.now += SEEN_SECONDS
    assert len(sent(w, [w.from_client(STRANGER)] * 200, w.client.address, 0.0)) == burst


def test_strangers_wash_away_nobody_to_whom_the_client_has_spoken() -> None:
    """Else a call would get no permission while strangers send."""
    w = world(offers=LIMITED)
    asked(w, STRANGER)
    assert len(w.inject(w.from_client(STRANGER), w.client.address)) == 1
    update = build(PacketType.UPDATE, OTHERS, w.client.hit, [params.Seq(1)])
    everybody = [(f"8.8.{n // 250}.{n % 250}", 9) for n in range(1_000)]
    for each in everybody:
        w.inject(update, each)
        w.net.now += 1 / 240
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    assert w.server.engine.serving.relay.heard(client, STRANGER, w.net.now)
    assert not w.server.engine.serving.relay.heard(client, everybody[0], w.net.now)


def test_nothing_stays_of_clients_that_come_and_go() -> None:
    w = world(HIP)
    relay, registrar = w.server.engine.serving.relay, w.server.engine.serving.registrar
    asked(w, STRANGER)
    for _ in range(5):
        client = w.net.add()
        w.net.register(client, w.server, [HIP])
        assert len(w.inject(i1(client.hit), STRANGER)) == 1
        registrar.lost((w.server.hit, client.hit))
    assert len(relay._seen) <= 3
    known = registrar.of((w.server.hit, w.client.hit))
    assert known is not None
    assert relay.heard(known, STRANGER, w.net.now)


@pytest.mark.parametrize("flood", ["I1", "UPDATE", "both"])
def test_a_client_at_whom_64_strangers_send_1000_packets_a_second_is_called_as_before(
    flood: str,
) -> None:
    net, a, b, server = met(walls=True)
    net.offer(server, LIMITED)
    net.delay = 0.05
    to = b.hit
    packets = [i1(to), build(PacketType.UPDATE, OTHERS, to, [params.Seq(1)])]
    packets = packets if flood == "both" else [packets[flood == "UPDATE"]]

    def strange(number: int = 0) -> None:
        source = (f"10.0.{number % 64}.1", 9)
        net._control(server, packets[number % len(packets)], source, server.address)
        net.at(net.now + net.random.expovariate(1_000), lambda: strange(number + 1))

    strange()
    net.run(net.now + 3.0)
    net.send(a, to, UDP, b"first")
    net.run(net.now + 2.0)
    assert (UDP, b"first") in b.datagrams
    both_ways(net, a, b)


def test_a_rendezvous_client_at_whom_64_strangers_send_1000_i1s_a_second_is_found_as_before() -> (
    None
):
    w = world(RVS, offers=LIMITED)
    callers = [w.other, *(w.net.add() for _ in range(5))]

    def strange(number: int = 0) -> None:
        source = (f"10.0.{number % 64}.1", 9)
        w.net._control(w.server, i1(w.client.hit), source, w.server.address)
        w.net.at(w.net.now + w.net.random.expovariate(1_000), lambda: strange(number + 1))

    strange()
    w.net.run(w.net.now + 3.0)
    for caller in callers:
        caller.engine.learn(w.client.hit, [w.server.address])
        w.net.send(caller, w.client.hit, UDP, caller.hit)
        w.net.run(w.net.now + 0.4)
    assert [data for _, data in w.client.datagrams] == [caller.hit for caller in callers]


def test_who_sends_few_passes_beside_who_send_many_and_peers_beside_both() -> None:
    w = world(offers=LIMITED)
    asked(w, STRANGER)
    assert len(w.inject(w.from_client(STRANGER), w.client.address)) == 1
    update = build(PacketType.UPDATE, OTHERS, w.client.hit, [params.Seq(1)])
    more: list[params.Parameter] = [
        params.DhGroupList((7,)),
        params.EchoRequestUnsigned(bytes(1_800)),
    ]
    big = build(PacketType.I1, OTHERS, w.client.hit, more)

    def storm(sources: int, number: int) -> int:
        net = [(f"10.{n % sources // 250}.{n % sources % 250}.1", 9) for n in range(number)]
        return sum(len(w.inject(big, source)) for source in net)

    assert storm(64, 2_000) > 0
    w.net.now += 0.5
    assert storm(64, 100) == 0
    assert len(w.inject(i1(w.client.hit), VICTIM)) == 1
    assert storm(1_000, 2_000) > 0
    assert w.inject(i1(w.client.hit), MALLORY) == []
    assert len(w.inject(update, STRANGER)) == 1
    w.net.now += 4.0
    assert storm(64, 100) > 0  # all is as before


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("main", [False, True])
def test_who_shares_a_relay_with_a_client_is_a_stranger_until_the_client_has_spoken_to_it(
    main: bool, shared: bool
) -> None:
    net = ServerNet()
    server = net.serve({**RELAYS, **LIMITED}, shared=shared)
    peers = [net.add() for _ in range(5)]
    for client in peers:
        net.register(client, server, [HIP, ESP])
    one, friend, *others = (World(net, server, peer, server) for peer in peers)

    def sends(w: World, there: World) -> int:
        to = server.address if main else there.relayed()
        seen = w.inject(w.from_client(to, receiver=there.client.hit), w.client.address)
        return sum(each.to == there.client.address for each in seen)

    assert sends(one, friend) == 1
    if shared:
        name(one, friend.relayed())
    assert sum(sends(other, one) for _ in range(500) for other in others) < 200
    assert sum(sends(friend, one) for _ in range(100)) == 100


def test_a_flood_of_big_i1s_leaves_the_client_half_of_its_limits() -> None:
    w = world(offers=LIMITED)
    name(w, STRANGER)
    more: list[params.Parameter] = [
        params.DhGroupList((7,)),
        params.EchoRequestUnsigned(bytes(1_800)),
    ]
    big = build(PacketType.I1, OTHERS, w.client.hit, more)
    flood = [w.inject(big, (f"10.{n // 250}.{n % 250}.1", 9)) for n in range(2_000)]
    size = sum(len(seen.data) for out in flood for seen in out)
    assert CONTROL.bandwidth <= size <= 2 * CONTROL.bandwidth + 2_000
    packet = w.from_client(STRANGER, more=[params.EchoRequestSigned(bytes(600))])
    assert len(sent(w, [packet] * 200, w.client.address, 0.0)) == 200


@pytest.mark.parametrize("kind", [PacketType.I1, PacketType.UPDATE])
def test_a_rendezvous_client_gets_no_more_than_its_limits(kind: PacketType) -> None:
    few = Offer(packets=16.0, bandwidth=4_000.0, burst=2.0)
    w = world(RVS, offers={RVS: few})
    packet = build(kind, OTHERS, w.client.hit, [params.EchoRequestUnsigned(bytes(40))])
    sources = [(f"10.{n // 250}.{n % 250}.1", 9) for n in range(2_000)]
    out = []
    for source in sources:
        out += w.inject(packet, source)
        w.net.now += 1 / len(sources)
    assert 8 <= len(out) <= 3 * few.packets
    assert sum(len(seen.data) for seen in out) <= 3 * few.bandwidth
    assert row(w, RVS).dropped == len(sources) - len(out)


@pytest.mark.parametrize(
    "total",
    [Offer(total_packets=100.0), Offer(total_bandwidth=20_000.0)],
    ids=["packets", "bytes"],
)
@pytest.mark.parametrize("kind", [HIP, RVS])
def test_all_clients_together_get_no_more_than_the_total(
    kind: RegistrationType, total: Offer
) -> None:
    net = ServerNet()
    server = net.serve({kind: total})
    clients = [net.add() for _ in range(5)]
    for client in clients:
        net.register(client, server, [kind])
    net.now += 1.0
    w = World(net, server, clients[0], clients[1])
    before = len(net.wire)
    for n in range(100):
        for client in clients:
            w.inject(i1(client.hit), (f"10.0.{n}.1", 9))
    out = net.wire[before:]
    assert 0 < len(out) <= 100
    assert sum(len(seen.data) for seen in out) <= 20_000
    assert sum(each.dropped for each in server.engine.serving.served()) == 500 - len(out)


def test_data_and_control_have_one_total_of_which_data_leaves_control_some() -> None:
    total = Offer(total_packets=1_000.0)
    w = world(offers={HIP: total, ESP: total})
    name(w, VICTIM)
    client = w.server.engine.serving.registrar.of((w.server.hit, w.client.hit))
    assert client is not None
    w.net.now += 1.0
    data = sum(client.accounts[ESP].pays(1_000, lambda: w.net.now) for _ in range(5_000))
    assert data == 900
    control = sent(w, [w.from_client(VICTIM)] * 500, w.client.address, 0.0)
    assert len(control) == 100
    assert not client.accounts[ESP].pays(1_000, lambda: w.net.now)


def test_an_ordinary_load_passes_untouched() -> None:
    """Somebody who hides enters an overlay of 40, then has three calls checked at once."""
    w = world(
        offers={kind: replace(offer, total_packets=50_000.0) for kind, offer in LIMITED.items()}
    )
    members = [(f"9.9.9.{n}", 10500) for n in range(40)]
    exchange: list[params.Parameter] = [
        params.NatTraversalModes((NatTraversalMode.ICE_HIP_UDP,)),
        params.EchoRequestUnsigned(bytes(700)),
    ]
    check: list[params.Parameter] = [
        params.Seq(1),
        params.CandidatePriority(1),
        params.EchoRequestUnsigned(bytes(100)),
    ]
    first = [params.DhGroupList((7,))]
    for member in members:  # twenty a second
        there = [
            w.inject(w.from_client(member, PacketType.I1, first), w.client.address),
            w.inject(build(PacketType.R1, OTHERS, w.client.hit, exchange), member),
            w.inject(w.from_client(member, PacketType.I2, exchange), w.client.address),
            w.inject(build(PacketType.R2, OTHERS, w.client.hit, exchange), member),
        ]
        assert all(len(out) == 1 for out in there)
        w.net.now += 0.05
    for n in range(3 * 100):  # pairs, to candidates that are silent
        candidate = (f"9.9.{n % 3}.{n % 10}", 10_000 + n)
        assert len(w.inject(w.from_client(candidate, more=check), w.client.address)) == 1
        w.net.now += 0.05
    for _ in range(10):  # and what two calls keep alive
        for member in members[:2]:
            assert len(w.inject(w.from_client(member, more=check), w.client.address)) == 1
            answer = build(PacketType.UPDATE, OTHERS, w.client.hit, check)
            assert len(w.inject(answer, member)) == 1
        w.net.now += 1.0
    assert row(w, HIP).dropped == row(w, ESP).dropped == 0


# -- rendezvous ----------------------------------------------------------------------------------


def test_a_rendezvous_server_carries_i1_and_update_only() -> None:
    w = world(RVS)
    for kind in PacketType:
        packet = build(kind, OTHERS, w.client.hit, [params.EchoRequestSigned(bytes(200))])
        out = w.inject(packet, MALLORY)
        assert bool(out) is (kind in (PacketType.I1, PacketType.UPDATE)), kind.name
        assert sum(len(seen.data) for seen in out) <= len(packet) + RVS_HOP


def test_opportunistic_i1s_are_for_the_server_itself() -> None:
    w = world(RVS)
    assert w.inject(i1(NULL_HIT), MALLORY) == []
    assert w.server.engine.counters["opportunistic I1"] == 1


def test_a_server_that_takes_opportunistic_i1s_answers_them_itself() -> None:
    net = ServerNet()
    server = net.serve({RVS: Offer()}, config=replace(FAST, opportunistic_responder=True))
    client = net.add()
    net.register(client, server, [RVS])
    net.wire.clear()
    [seen] = World(net, server, client, client).inject(i1(NULL_HIT), MALLORY)
    assert (seen.kind, seen.to) == (PacketType.R1, MALLORY)
    assert Packet(seen.data).sender == server.hit


def test_over_udp_a_packet_with_a_checksum_is_not_forwarded() -> None:
    w = world(RVS)
    packet = bytearray(i1(w.client.hit))
    packet[4:6] = b"\x12\x34"
    assert w.inject(bytes(packet), MALLORY) == []
    [seen] = w.inject(i1(w.client.hit), MALLORY)
    assert Packet(seen.data).checksum == 0


def test_a_client_takes_from_only_from_its_server_and_under_its_mac() -> None:
    w = world(RVS)
    [seen] = w.inject(i1(w.client.hit), MALLORY)
    w.net.wire.clear()

    def answered(data: bytes, source: Address) -> list[Address]:
        before = len(w.net.wire)
        Net._control(w.net, w.client, data, source, w.client.address)
        return [each.to for each in w.net.wire[before:]]

    assert answered(seen.data, w.server.address) == [MALLORY]
    assert answered(seen.data, MALLORY) == []
    spoilt = bytearray(seen.data)
    spoilt[60] ^= 1
    assert answered(bytes(spoilt), w.server.address) == []
    bare = build(
        PacketType.I1, OTHERS, w.client.hit, [params.DhGroupList((7,)), params.From(VICTIM[0])]
    )
    assert answered(bare, w.server.address) == []
    only = hop.extend(i1(w.client.hit), (), params.RvsHmac, w.keys)
    assert answered(only, w.server.address) == [], "the server's key, not the client's"
    null = bytearray(seen.data)
    null[24:40] = NULL_HIT
    assert answered(bytes(null), w.server.address) == []


def test_the_server_s_own_from_counts_not_one_that_was_there_before() -> None:
    w = world(RVS)
    chained = build(
        PacketType.I1, OTHERS, w.client.hit, [params.DhGroupList((7,)), params.From(VICTIM[0])]
    )
    [seen] = w.inject(chained, MALLORY)
    assert [each.ip for each in Packet(seen.data).every(params.From)] == [VICTIM[0], MALLORY[0]]
    w.net.run(w.net.now + 0.1)
    assert [each.to for each in w.net.sent(PacketType.R1)] == [MALLORY]


def test_a_control_relay_that_uses_rvs_hmac_is_told_that_it_must_not() -> None:
    w = world(HIP)
    server = w.server.engine._associations[w.server.hit, w.client.hit]
    assert server.standing.keys is not None
    packet = hop.extend(
        i1(w.client.hit), [params.From(VICTIM[0])], params.RvsHmac, server.standing.keys
    )
    before = len(w.net.wire)
    Net._control(w.net, w.client, packet, w.server.address, w.client.address)
    [seen] = w.net.wire[before:]
    assert seen.to == w.server.address
    notification = Packet(seen.data).need(params.Notification)
    assert notification.type == NotifyType.RVS_HMAC_PROHIBITED_WITH_RELAY


# -- anything ------------------------------------------------------------------------------------

KINDS = st.sampled_from(list(PacketType))
PARAMETERS = st.lists(
    st.sampled_from(
        [
            params.Seq(1),
            params.CandidatePriority(1),
            params.NatTraversalModes((3,)),
            params.RelayTo(VICTIM),
            params.RelayTo(("192.0.2.1", 10500)),
            params.RelayFrom(VICTIM),
            params.From(VICTIM[0]),
            params.RelayHmac(bytes(48)),
            params.RvsHmac(bytes(48)),
            params.ViaRvs((VICTIM[0],)),
            params.EchoRequestUnsigned(bytes(100)),
            params.PeerPermission(("192.0.2.1", 50_000), VICTIM, 0x1000, 0x2000),
        ]
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 3), st.integers(0, 3), PARAMETERS), max_size=30))
def test_whatever_is_sent_a_server_sends_no_more_than_it_gets(
    tries: list[tuple[PacketType, int, int, list[params.Parameter]]],
) -> None:
    w = world(seed=random.randrange(2**16))
    hits = [OTHERS, w.client.hit, w.other.hit, HostIdentity.from_secret(777).hit]
    sources = [MALLORY, w.client.address, w.other.address, VICTIM]
    for kind, sender, place, stuff in tries:
        packet = build(kind, hits[sender], w.client.hit if place % 2 else OTHERS, stuff)
        out = w.inject(packet, sources[place])
        assert len(out) <= 1
        assert sum(len(seen.data) for seen in out) <= len(packet) + HOP
        assert all(seen.to in (w.client.address, sources[place]) for seen in out)


# -- servers that lie ----------------------------------------------------------------------------

NOBODYS = [
    ("224.0.0.1", 10_500),
    ("255.255.255.255", 10_500),
    ("0.0.0.0", 10_500),
    ("127.0.0.1", 53),
    ("::1", 53),
    ("ff02::1", 10_500),
    ("2001:20::1", 10_500),
]


@pytest.mark.parametrize("told", NOBODYS)
def test_a_rendezvous_server_cannot_have_its_client_answer_a_group_or_itself(
    told: Address,
) -> None:
    w = world(RVS)
    lie = rendezvous.forwarded(Packet(i1(w.client.hit)), told, w.keys_of_server())
    before = len(w.net.wire)
    w.net._control(w.client, lie, w.server.address, w.client.address)
    assert w.net.wire[before:] == []


@pytest.mark.parametrize("told", NOBODYS)
def test_a_relay_cannot_have_its_client_believe_in_a_peer_at_no_address(told: Address) -> None:
    w = world()
    passed = Packet(i1(w.client.hit)).changed([params.RelayFrom(told)])
    lie = hop.extend(passed, (), params.RelayHmac, w.keys_of_server())
    before = len(w.net.wire)
    w.net._control(w.client, lie, w.server.address, w.client.address)
    assert w.net.wire[before:] == []
