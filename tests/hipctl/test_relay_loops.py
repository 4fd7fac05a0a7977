"""Nobody has two servers send to each other, or one to a victim: where a client says it is."""

import pytest

from hipctl import params
from hipctl.actions import Address
from hipctl.clients import Client
from hipctl.constants import LocatorType, PacketType, RegistrationType
from hipctl.exchange import make_i1
from hipctl.identity import Hit
from hipctl.interface import Offer
from hipctl.packet import Packet, build
from hipctl.params_mobility import UNBOUNDED
from hipctl.state import State
from sim.engines import FAST, UDP, Peer
from sim.servers import ESP, HIP, RELAYS, RVS, ServerNet, address

MALLORY = ("198.51.100.66", 10500)
VICTIM = ("203.0.113.99", 9)
OTHERS = Hit(b"\x20\x01\x00\x22" + b"o" * 12)


def client(server: Peer, peer: Peer) -> Client:
    found = server.engine.serving.registrar.of((server.hit, peer.hit))
    assert found is not None
    return found


def lent(server: Peer, peer: Peer) -> Address:
    found = client(server, peer).relayed
    assert found is not None
    return found


def listed(*addresses: Address) -> params.LocatorSet:
    kind = LocatorType.TRANSPORT_ADDRESS
    return params.LocatorSet(
        tuple(
            params.Locator(kind, ip, port, 0, UNBOUNDED, preferred=not i)
            for i, (ip, port) in enumerate(addresses)
        )
    )


def says(net: ServerNet, peer: Peer, server: Peer, *parameters: params.Parameter) -> None:
    net.perform(peer, peer.engine.tell((peer.hit, server.hit), parameters, net.now) or [])
    net.run(net.now + 0.5)


def registered_twice(kinds: dict[RegistrationType, Offer]) -> tuple[ServerNet, Peer, Peer, Peer]:
    net = ServerNet(1)
    first, second = (net.serve(kinds, name=f"198.51.100.{n}") for n in (1, 2))
    mallory = net.add(name="198.51.100.66")
    for server in (first, second):
        net.register(mallory, server, list(kinds))
    return net, first, second, mallory


@pytest.mark.parametrize(("kind", "sent"), [(HIP, "UPDATE"), (HIP, "I1"), (RVS, "I1")])
def test_a_client_of_two_servers_is_not_behind_the_other_one(
    kind: RegistrationType, sent: str
) -> None:
    net, first, second, mallory = registered_twice({kind: Offer()})
    for server, other in ((second, first), (first, second)) * 2:
        says(net, mallory, server, listed(mallory.address, other.address))
        says(net, mallory, server, listed(other.address, mallory.address))
        path = client(server, mallory).path
        assert path is None or path.to == mallory.address
    net.wire.clear()
    packet = make_i1(OTHERS, mallory.hit, FAST)
    if sent == "UPDATE":
        packet = build(PacketType.UPDATE, OTHERS, mallory.hit, [params.Seq(1)])
    net._control(first, packet, MALLORY, first.address)
    net.run(net.now + 60)
    servers = {first.address, second.address}
    assert len([seen for seen in net.wire if {seen.source, seen.to} <= servers]) <= 3


def test_a_client_is_not_at_what_another_relay_lends_it() -> None:
    net, first, second, mallory = registered_twice(RELAYS)
    says(net, mallory, second, listed(mallory.address, lent(first, mallory)))
    says(net, mallory, first, listed(mallory.address, lent(second, mallory)))
    says(net, mallory, second, listed(lent(first, mallory), mallory.address))
    says(net, mallory, first, listed(lent(second, mallory), mallory.address))
    for server in (first, second):
        path = client(server, mallory).path
        assert path is None or path.to == mallory.address
    for server, other, out in ((first, second, 0x5001), (second, first, 0x5002)):
        peers = (other.address, MALLORY)
        for peer in peers:  # they have spoken
            i1 = make_i1(OTHERS, mallory.hit, FAST)
            net._control(server, i1, peer, lent(server, mallory))
        permits = [
            params.PeerPermission(lent(server, mallory), peer, out + 16 * n, 0x7000)
            for n, peer in enumerate(peers)
        ]
        says(net, mallory, server, *permits)
        assert server.engine.serving.data.count(client(server, mallory)) == 2
    net.bytes.clear()
    net._open(first, (0x7000).to_bytes(4, "big") + bytes(1_000), MALLORY, lent(first, mallory))
    net.run(net.now + 10)
    assert sum(net.bytes.values()) <= 3 * 1_004


def test_who_registers_along_a_path_through_its_relay_is_sent_nothing_there() -> None:
    """Checks of a peer that shows relayed candidates only select a relay's address."""
    net = ServerNet()
    server, its = (net.serve(RELAYS, name=f"45.0.{n}.1") for n in (1, 3))
    hidden = net.add(name="45.0.2.1")
    for peer in (server, hidden):
        peer.engine.set_hosts([peer.address])
    hidden.engine.disclose_by(lambda local, peer, shown: False)
    net.register(hidden, its, [HIP, ESP])
    hidden.engine.learn(server.hit, [server.address])
    net.perform(hidden, hidden.engine.seclude(hidden.hit, [its.hit], net.now))
    net.send(hidden, server.hit, UDP, b"first")
    net.run(net.now + 3)
    assert net.state(server, hidden) is State.ESTABLISHED
    assert address(server, hidden) == lent(its, hidden)
    kept: list[bytes] = []
    net.tamper = lambda seen: kept.append(seen.data) or []  # type: ignore[func-returns-value]
    request = params.RegRequest(100, (HIP, ESP))
    net.perform(hidden, hidden.engine.tell((hidden.hit, server.hit), [request], net.now) or [])
    net.tamper = lambda seen: [seen.data]
    straight = Packet(kept[0]).changed(without={params.RelayTo.TYPE, params.RelayHmac.TYPE})
    net._control(server, straight, hidden.address, server.address)
    net.run(net.now + 3)
    assert {HIP, ESP} <= client(server, hidden).accounts.keys()
    path = client(server, hidden).path
    assert path is None or path.to == hidden.address


def test_a_packet_that_a_relay_has_passed_on_is_not_passed_on_again() -> None:
    net, first, _second, mallory = registered_twice(RELAYS)
    packet = build(
        PacketType.I1, OTHERS, mallory.hit, [params.DhGroupList((7,)), params.RelayFrom(VICTIM)]
    )
    net.wire.clear()
    net._control(first, packet, MALLORY, first.address)
    assert not net.wire
    assert first.engine.counters["relayed before"] == 1


def test_where_a_packet_of_a_client_comes_from_nothing_goes_before_somebody_answers_there() -> (
    None
):
    """The source of a datagram may be forged by whoever has the client's keys."""
    net, server, _, mallory = registered_twice(RELAYS)
    kept: list[bytes] = []
    net.tamper = lambda seen: kept.append(seen.data) or []  # type: ignore[func-returns-value]
    says(net, mallory, server, listed(VICTIM))
    net.tamper = lambda seen: [seen.data]
    net.wire.clear()
    net._control(server, kept[0], VICTIM, server.address)
    assert client(server, mallory).path is None
    for n in range(200):
        update = build(
            PacketType.UPDATE, Hit(OTHERS[:-1] + bytes([n])), mallory.hit, [params.Seq(1)]
        )
        net._control(server, update, (f"198.18.0.{1 + n}", 1), server.address)
    assert len([seen for seen in net.wire if seen.to == VICTIM]) == 1  # who is there?


def test_a_relay_is_no_way_for_data_to_who_speaks_no_hip() -> None:
    """An SPI may be chosen as the first bytes of another protocol."""
    net, first, _second, mallory = registered_twice(RELAYS)
    permission = params.PeerPermission(lent(first, mallory), VICTIM, 0x1234_0100, 0x1234_8180)
    says(net, mallory, first, permission)
    assert first.engine.serving.data.count(client(first, mallory)) == 0
    assert first.engine.counters["PEER_PERMISSION for who has not spoken with the client"] == 1
    net._control(first, make_i1(OTHERS, mallory.hit, FAST), VICTIM, lent(first, mallory))
    says(net, mallory, first, permission)
    assert first.engine.serving.data.count(client(first, mallory)) == 1
    net.run(net.now + 200)  # it is renewed though the peer's packets were long ago
    says(net, mallory, first, permission)
    net.run(net.now + 200)
    assert first.engine.serving.data.count(client(first, mallory)) == 1


def test_a_relay_does_not_hand_its_own_packets_to_a_client_at_what_it_lends() -> None:
    net, first, _second, mallory = registered_twice(RELAYS)
    net.wire.clear()
    own = make_i1(first.hit, mallory.hit, FAST)
    net._control(first, own, first.address, lent(first, mallory))
    assert not net.wire
