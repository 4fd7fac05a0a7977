"""Connectivity checks and what follows from them (RFC 9028 §4.4, §4.6 to §4.9), on the wire."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from hipctl import exchange, params
from hipctl.actions import Address
from hipctl.constants import CandidateKind, NatTraversalMode, NotifyType, PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import HostConfigRefused, Rejected
from hipctl.identity import Hit, HostIdentity
from hipctl.locators import read_locator_set
from hipctl.packet import Packet, build
from hipctl.params import TransactionPacing
from hipctl.params_mobility import Locator
from hipctl.wire import frame
from sim.engines import FAST, UDP, Net, Peer, Seen, downs, ups
from sim.servers import ESP, HIP, RELAYS, ServerNet, address, met

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
UPDATE, NOTIFY = PacketType.UPDATE, PacketType.NOTIFY


@dataclass(frozen=True)
class Leg:
    """One UPDATE on one leg of its way."""

    seen: Seen
    packet: Packet

    @property
    def seq(self) -> int | None:
        seq = self.packet.get(params.Seq)
        return seq.update_id if seq is not None else None

    @property
    def acks(self) -> tuple[int, ...]:
        ack = self.packet.get(params.Ack)
        return ack.update_ids if ack is not None else ()

    @property
    def nonce(self) -> bytes:
        return self.packet.need(params.EchoRequestSigned).opaque

    @property
    def echo(self) -> bytes:
        return self.packet.need(params.EchoResponseSigned).opaque

    @property
    def check(self) -> bool:
        return self.packet.has(params.CandidatePriority)

    @property
    def answer(self) -> bool:
        return self.packet.has(params.MappedAddress)

    @property
    def nominates(self) -> bool:
        """It nominates, and confirms no nomination."""
        return self.packet.has(params.Nominate) and not self.acks


def legs(net: Net, *besides: Peer) -> Iterator[Leg]:
    """All UPDATEs but those of ``besides``, and on legs that don't end at their main ports."""
    there = {peer.address for peer in besides}
    for seen in net.sent(UPDATE):
        if not there & {seen.source, seen.to}:
            yield Leg(seen, Packet(seen.data))


def called(walls: bool = False, wait: float = 2.0) -> tuple[ServerNet, Peer, Peer, Peer]:
    """As ``met``; the caller has sent a datagram, and some time has passed."""
    net, a, b, server = met(walls)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + wait)
    return net, a, b, server


def listed(peer: Peer, other: Peer, packet: Packet) -> tuple[Locator, ...]:
    """What ``peer`` finds in the LOCATOR_SET of a packet of ``other``'s."""
    association = peer.engine._associations[peer.hit, other.hit]
    assert association.standing.keys is not None
    return read_locator_set(packet, association.standing.keys) or ()


def first(net: Net, kind: PacketType, to: Peer) -> Packet:
    return next(Packet(seen.data) for seen in net.sent(kind) if seen.to == to.address)


# -- §4.2, §4.3, §4.5: what is told ------------------------------------------------------------


def test_i2_and_r2_list_candidates_of_all_kinds_and_control_relays_in_encrypted() -> None:
    net, a, b, server = met()
    net.register(a, server, [HIP, ESP])
    for peer, inside in ((a, ("10.0.0.1", 10500)), (b, ("10.0.0.2", 10500))):
        peer.engine.set_hosts([inside])  # a NAT gives it the address that others see
    net.wire.clear()
    net.connect(a, b)
    net.run(net.now + 2)
    for packet, reader, writer, ip in (
        (first(net, I2, b), b, a, "10.0.0.1"),
        (first(net, R2, a), a, b, "10.0.0.2"),
    ):
        assert not packet.has(params.LocatorSet)
        assert packet.has(params.Encrypted)
        relay, *rest = listed(reader, writer, packet)
        assert ((relay.ip, relay.port), relay.traffic) == (server.address, 1)
        told = {CandidateKind(one.kind): (one.ip, one.port) for one in rest}
        assert told.keys() == {
            CandidateKind.HOST,
            CandidateKind.SERVER_REFLEXIVE,
            CandidateKind.RELAYED,
        }
        assert told[CandidateKind.HOST] == (ip, 10500)
        assert told[CandidateKind.SERVER_REFLEXIVE] == writer.address
        assert told[CandidateKind.RELAYED] in net.relayed
        assert {(one.type, one.traffic, one.preferred) for one in rest} == {(2, 0, False)}


def test_control_relays_are_not_checked() -> None:
    net, a, b, server = met()
    b.engine.requester.unregister((b.hit, server.hit), [ESP], net.now)
    net.run(net.now + 1)
    net.register(a, server, [HIP])
    net.wire.clear()
    net.connect(a, b)
    net.run(net.now + 5)
    checks = [leg for leg in legs(net) if leg.check]
    assert checks
    assert not [leg for leg in checks if server.address in (leg.seen.source, leg.seen.to)]


def test_each_side_lists_the_modes_that_the_way_of_the_packet_allows() -> None:
    net, a, b, server = met()
    a.engine.learn(server.hit, [server.address])
    net.connect(a, b)
    net.connect(a, server)
    net.run(net.now + 1)
    r1 = [Packet(seen.data) for seen in net.sent(R1) if seen.to == a.address]
    assert {r.sender: r.need(params.NatTraversalModes).modes for r in r1} == {
        b.hit: (NatTraversalMode.ICE_HIP_UDP,),
        server.hit: (NatTraversalMode.UDP_ENCAPSULATION,),
    }


def test_no_i2_of_mode_1_goes_through_a_relay() -> None:
    for modes in ((1,), (1, 2)):
        offered = params.NatTraversalModes(modes)
        packet = Packet(build(R1, B.hit, A.hit, [offered]))
        with pytest.raises(Rejected, match="no NAT traversal mode in common"):
            exchange._choose_mode(packet, FAST, relayed=True)
        assert exchange._choose_mode(packet, FAST, relayed=False) == 1
    for modes in ((1, 3), (3, 1), (3,)):
        packet = Packet(build(R1, B.hit, A.hit, [params.NatTraversalModes(modes)]))
        assert exchange._choose_mode(packet, FAST, relayed=True) == 3


def test_an_i2_of_mode_1_that_came_through_a_relay_is_refused_in_words() -> None:
    net, a, b, server = met()
    said, instead = (
        frame(params.NatTraversalModes.TYPE, params.NatTraversalModes((mode,)).content())
        for mode in (3, 1)
    )
    net.tamper = lambda seen: [seen.data.replace(said, instead) if seen.kind == I2 else seen.data]
    net.connect(a, b)
    net.run(net.now + 0.2)
    assert not net.sent(R2)
    [notify] = [seen for seen in net.sent(NOTIFY) if seen.to == a.address]
    packet = Packet(notify.data)
    assert (packet.sender, notify.source) == (b.hit, server.address)
    why = packet.need(params.Notification)
    assert why.type == NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER
    assert why.data == next(s.data for s in net.sent(I2) if s.to == b.address)[:40]


# -- §4.4: pacing ------------------------------------------------------------------------------

A, B = (HostIdentity.from_secret(n) for n in (90_281, 90_282))


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (None, 50, 0.05),
        (None, None, 0.05),
        (0.005, None, 0.05),
        (0.2, None, 0.2),
        (0.2, 50, 0.2),
        (0.02, 80, 0.08),
        (0.005, 0, 0.005),
        (0.005, 1, 0.005),
        (None, 3_000, 3.0),
    ],
)
def test_ta_is_the_greater_of_both_wishes_and_never_below_5_ms(
    ours: float | None, theirs: int | None, both: float
) -> None:
    said = [TransactionPacing(theirs)] if theirs is not None else []
    config = EngineConfig(pacing=ours) if ours is not None else EngineConfig()
    assert exchange._pacing(Packet(build(R1, B.hit, A.hit, said)), config) == both


@pytest.mark.parametrize("pacing", [0.0049, 0.0, -1.0, float("nan")])
def test_less_than_5_ms_cannot_be_configured(pacing: float) -> None:
    with pytest.raises(HostConfigRefused, match="pacing"):
        Engine([A], EngineConfig(pacing=pacing), bytes)


@pytest.mark.parametrize(
    ("of_a", "of_b", "said"),
    [(0.05, 0.05, (50, 50)), (0.05, 0.2, (200, 200)), (0.3, 0.1, (100, 300))],
)
def test_checks_are_paced_as_r1_and_i2_say(
    of_a: float, of_b: float, said: tuple[int, int]
) -> None:
    net = ServerNet()
    a, b = (net.add(replace(FAST, pacing=pacing)) for pacing in (of_a, of_b))
    server = net.serve(RELAYS)
    for n, peer in enumerate((a, b)):
        more: Address = (f"192.0.2.{100 + n}", 10500)
        net.peers[more] = peer
        peer.engine.set_hosts([peer.address, more])
    net.register(b, server, [HIP])
    a.engine.learn(b.hit, [server.address])
    net.walls = lambda source, to: server.address[0] in (source[0], to[0])
    net.connect(a, b)
    net.run(net.now + 6)
    r1, i2 = first(net, R1, a), first(net, I2, b)
    paced = tuple(packet.need(TransactionPacing).milliseconds for packet in (r1, i2))
    assert paced == said
    for peer in (a, b):
        begun: dict[int | None, float] = {}
        for leg in legs(net):
            if leg.packet.sender == peer.hit and leg.check:
                begun.setdefault(leg.seq, leg.seen.at)
        times = sorted(begun.values())
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([max(said) / 1e3] * 3)  # two addresses with two others


# -- §4.6.2: checks ----------------------------------------------------------------------------

PEER_REFLEXIVE = 110 << 24 | 65_535 << 8 | 255


def test_checks_and_answers_hold_what_the_rfc_lists_and_answers_go_back_the_same_way() -> None:
    net, a, b, server = called(walls=True, wait=5)
    net.walls = lambda source, to: True
    net.run(net.now + 30)  # a direct pair is found, too
    assert address(a, b) == b.address
    checks: dict[tuple[Hit, int | None], Leg] = {}
    answered = 0
    for leg in legs(net, server):
        assert leg.packet.has(params.HipMac)
        assert leg.packet.has(params.HipSignature)
        for update_id in leg.acks if leg.answer else ():
            asked = checks[leg.packet.receiver, update_id]
            assert leg.echo == asked.nonce
            assert (leg.seen.source, leg.seen.to) == (asked.seen.to, asked.seen.source)
            seen = leg.packet.need(params.MappedAddress)
            assert (seen.address, seen.protocol) == (asked.seen.source, 17)
            answered += 1
        if leg.check:
            assert leg.seq is not None
            assert len(leg.nonce) == 16
            assert leg.packet.need(params.CandidatePriority).priority == PEER_REFLEXIVE
            checks.setdefault((leg.packet.sender, leg.seq), leg)
    assert {
        (leg.seen.source in net.relayed, leg.seen.to in net.relayed) for leg in checks.values()
    }
    assert answered > 8
    assert len({leg.nonce for leg in checks.values()}) == len(checks)


def test_an_answer_names_the_address_that_a_nat_gave() -> None:
    net, a, b, server = met()
    outside: Address = ("203.0.113.7", 4_007)
    net.nat[a.address] = outside
    net.peers[outside] = a
    del net.peers[a.address]
    net.connect(a, b)
    net.run(net.now + 2)
    assert a.address != outside
    mapped = [leg for leg in legs(net, server) if leg.answer and leg.packet.sender == b.hit]
    assert {leg.packet.need(params.MappedAddress).address for leg in mapped} == {outside}
    assert address(b, a) == outside


def test_a_check_is_answered_from_the_address_at_which_it_came() -> None:
    net, a, b, server = met()
    second: Address = ("192.0.2.77", 10500)
    net.peers[second] = b
    b.engine.set_locators([b.address, second], net.now)
    net.run(net.now + 1)
    apart = {a.address, b.address}
    net.walls = lambda source, to: not {source, to} <= apart
    net.wire.clear()
    net.connect(a, b)
    net.run(net.now + 2)
    direct = [
        leg for leg in legs(net, server) if not {leg.seen.source, leg.seen.to} & {*net.relayed}
    ]
    asked = [leg for leg in direct if leg.check and leg.seen.to == second]
    back = [leg.seen.source for leg in direct if leg.answer and leg.packet.sender == b.hit]
    assert asked
    assert len(back) >= len(asked)
    assert {*back} == {second}


@pytest.mark.parametrize("part", ["priority", "signature", "HIT"])
def test_a_check_belongs_to_its_two_hits_and_is_protected(part: str) -> None:
    net, a, b, _server = met()
    c = net.add()
    net.introduce(b, c)
    net.connect(c, b)
    net.run(net.now + 1)

    def changed(seen: Seen) -> list[bytes]:
        if (seen.kind, seen.source, seen.to) != (UPDATE, a.address, b.address):
            return [seen.data]
        at = Packet(seen.data)._found
        if part == "HIT":
            return [seen.data[:8] + c.hit + seen.data[24:]]
        code = params.CandidatePriority if part == "priority" else params.HipSignature
        if code.TYPE not in at:
            return [seen.data]
        raw = bytearray(seen.data)
        raw[at[code.TYPE][0][0] + 7] ^= 1
        return [bytes(raw)]

    net.tamper = changed
    net.connect(a, b)
    net.run(net.now + 1.5)
    wrong = "wrong HIP_SIGNATURE" if part == "signature" else "wrong HIP_MAC"
    assert b.engine.counters[wrong] >= 1
    direct = [leg for leg in legs(net) if (leg.seen.source, leg.seen.to) == (b.address, a.address)]
    assert direct
    assert not [leg for leg in direct if leg.answer]


def test_an_answer_along_another_pair_is_dropped_and_the_check_is_repeated() -> None:
    net, a, b, server = met()
    held: list[Seen] = []

    def hold(seen: Seen) -> list[bytes]:
        leg = Leg(seen, Packet(seen.data)) if seen.kind == UPDATE else None
        if leg and leg.answer and not leg.check and leg.packet.sender == b.hit:
            held.append(seen)
            return []
        return [seen.data]

    net.tamper = hold
    net.connect(a, b)
    net.run(net.now + 0.3)
    answer = next(seen for seen in held if seen.to == a.address and seen.source == b.address)
    [update_id] = Packet(answer.data).need(params.Ack).update_ids
    net._control(a, answer.data, server.address, a.address)
    net._control(a, answer.data, ("192.0.2.200", 10500), a.address)
    assert a.engine._associations[a.hit, b.hit].standing.upkeep is not None
    net.run(net.now + 1.2)
    sent = [leg for leg in legs(net) if leg.seq == update_id and leg.packet.sender == a.hit]
    assert len(sent) >= 2
    net.tamper = lambda seen: [seen.data]
    net._control(a, answer.data, b.address, a.address)
    before = len(net.wire)
    net.run(net.now + 0.2)
    assert any(leg.nominates for leg in legs(net) if leg.seen in net.wire[before:])


def test_a_check_before_r2_is_answered_and_its_pair_checked_first_when_r2_has_come() -> None:
    net, a, b, server = met()
    lost: list[Seen] = []

    def lose(seen: Seen) -> list[bytes]:
        if seen.kind == R2 and seen.to == a.address and not lost:
            lost.append(seen)
            return []
        return [seen.data]

    net.tamper = lose
    net.connect(a, b)
    while not lost:
        net.run(net.now + 0.01)
    net.run(net.now + 0.3)
    early = {leg.seq: leg for leg in legs(net, server) if leg.check and leg.seen.to == a.address}
    assert early
    assert not [leg for leg in legs(net) if leg.packet.sender == a.hit]
    at = net.now
    net.run(at + 0.6)
    r2 = [seen for seen in net.sent(R2) if seen.to == a.address][1]
    arrived = r2.at + net.delay
    mine = [leg for leg in legs(net, server) if leg.packet.sender == a.hit]
    answers = [leg for leg in mine if leg.answer and leg.seen.at == pytest.approx(arrived)]
    assert early.keys() <= {update_id for leg in answers for update_id in leg.acks}
    begun = [leg for leg in mine if leg.check and not leg.acks]
    assert begun[0].seen.at == pytest.approx(arrived)
    assert begun[0].seen.to in {leg.seen.source for leg in early.values()}


def test_a_check_is_repeated_as_it_is_after_a_second_or_more() -> None:
    net, a, b, _ = met(walls=True)
    for peer in (a, b):
        peer.engine.requester.unregister((peer.hit, _.hit), [ESP], net.now)
    net.run(net.now + 1)
    net.connect(a, b)
    net.run(net.now + 9)
    sent: dict[tuple[Hit, int | None], list[Leg]] = {}
    for leg in legs(net, _):
        if leg.check:
            sent.setdefault((leg.packet.sender, leg.seq), []).append(leg)
    assert len(sent) >= 2
    for copies in sent.values():
        assert len(copies) >= 3
        assert len({leg.seen.data for leg in copies}) == 1
        times = [leg.seen.at for leg in copies]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps[0] >= 1.0
        assert gaps == sorted(gaps)


def test_no_check_is_repeated_once_a_direct_pair_was_nominated() -> None:
    net, a, b, server = met()
    nobody: Address = ("192.0.2.200", 10500)
    b.engine.set_hosts([nobody, b.address])
    net.connect(a, b)
    net.run(net.now + 20)
    nominated = next(leg.seen.at for leg in legs(net, server) if leg.nominates)
    tried = [leg.seen.at for leg in legs(net, server) if nobody == leg.seen.to]
    assert tried
    assert max(leg.seen.at for leg in legs(net, server) if leg.check) < nominated + 0.1
    assert max(tried) < nominated + 0.1


# -- §4.6.3: the conclusion --------------------------------------------------------------------


def test_the_initiator_nominates_the_responder_confirms_and_that_is_acknowledged() -> None:
    net, a, b, server = called()
    direct = list(legs(net, server))
    nomination = next(leg for leg in direct if leg.nominates)
    path = nomination.seen.source, nomination.seen.to
    assert (nomination.packet.sender, path) == (a.hit, (a.address, b.address))
    assert nomination.check
    earlier = direct[: direct.index(nomination)]
    asked = {
        leg.seq
        for leg in earlier
        if leg.check and not leg.acks and (leg.seen.source, leg.seen.to) == path
    }
    assert asked
    assert nomination.seq not in asked
    assert [leg for leg in earlier if leg.packet.sender == b.hit and asked & {*leg.acks}]
    assert nomination.nonce not in {leg.nonce for leg in earlier if leg.check}
    confirmation = next(
        leg for leg in direct if leg.packet.sender == b.hit and nomination.seq in leg.acks
    )
    assert (confirmation.seen.source, confirmation.seen.to) == path[::-1]
    assert confirmation.packet.has(params.Nominate)
    assert confirmation.echo == nomination.nonce
    assert confirmation.seq is not None
    assert confirmation.nonce != nomination.nonce
    end = next(
        leg for leg in direct if leg.packet.sender == a.hit and confirmation.seq in leg.acks
    )
    assert end.echo == confirmation.nonce
    assert not end.packet.has(params.Nominate)
    assert address(a, b) == b.address
    assert address(b, a) == a.address


def test_no_data_is_sent_and_nothing_is_up_before_a_pair_was_nominated() -> None:
    net, a, b, server = met()
    net.send(a, b.hit, UDP, b"first")
    nominated = 0.0
    while not nominated:
        assert not a.engine.outbound.get((a.hit, b.hit))
        assert not b.engine.outbound.get((b.hit, a.hit))
        assert not ups(a)
        net.run(net.now + 0.005)
        nominated = next((leg.seen.at for leg in legs(net, server) if leg.nominates), 0.0)
    net.run(net.now + 1)
    assert b.datagrams == [(UDP, b"first")]
    assert server.engine.counters["relayed ESP without permission"] == 0


def test_delayed_checks_are_answered_after_the_nomination_too() -> None:
    net, a, b, server = met()
    second: Address = ("192.0.2.77", 10500)
    for peer, more in ((a, ("192.0.2.78", 10500)), (b, second)):
        net.peers[more] = peer
        peer.engine.set_hosts([more, peer.address])
    late: list[Seen] = []

    def delay(seen: Seen) -> list[bytes]:
        check = seen.kind == UPDATE and Packet(seen.data).has(params.CandidatePriority)
        if check and {seen.source, seen.to} & {second, ("192.0.2.78", 10500)}:
            late.append(seen)
            return []
        return [seen.data]

    net.tamper = delay
    net.connect(a, b)
    net.run(net.now + 8)
    assert address(a, b) == b.address
    net.tamper = lambda seen: [seen.data]
    for one, other in ((a, b), (b, a)):
        held = [seen for seen in late if Packet(seen.data).sender == one.hit]
        to_other = [seen for seen in held if net.peers.get(seen.to) is other]
        assert to_other
        net.wire.clear()
        net._control(other, to_other[-1].data, to_other[-1].source, to_other[-1].to)
        asked = Leg(to_other[-1], Packet(to_other[-1].data))
        [answer] = [leg for leg in legs(net, server) if leg.answer and asked.seq in leg.acks]
        assert (answer.seen.to, answer.echo) == (asked.seen.source, asked.nonce)
        net.run(net.now + 1)


def test_when_all_checks_fail_no_data_is_sent_and_the_peer_is_told_so() -> None:
    net, a, b, server = met(walls=True)
    b.engine.requester.unregister((b.hit, server.hit), [ESP], net.now)
    net.run(net.now + 1)
    net.send(a, b.hit, UDP, b"first")
    net.run(net.now + 15)
    assert not ups(a)
    assert b.hit not in {up.local for up in ups(b) if up.peer == a.hit}
    assert any("no path" in why for why in downs(a))
    for peer in (a, b, server):
        assert not peer.datagrams
        assert not peer.engine.counters["unknown SPI"]
        assert not peer.engine.counters["relayed ESP without permission"]
    notifications = [
        Packet(seen.data).need(params.Notification)
        for seen in net.sent(NOTIFY)
        if seen.to in (a.address, b.address)
    ]
    failed = [said for said in notifications if said.type != NotifyType.NAT_KEEPALIVE]
    assert failed
    assert {(said.type, said.data) for said in failed} == {
        (NotifyType.CONNECTIVITY_CHECKS_FAILED, b"")
    }
