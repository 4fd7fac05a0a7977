"""Addresses that change under an association: of either side, of both, in either IP version."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from hipctl import params
from hipctl.actions import Action, Address, Transmit
from hipctl.constants import NotifyType, PacketType
from hipctl.esp import CreditExhausted
from hipctl.exchange import make_i1
from hipctl.identity import HostIdentity
from hipctl.mobility import Mobility
from hipctl.packet import Packet, build, finish, header
from hipctl.state import State
from hipctl.upkeep import Upkeep
from hipctl.wire import frame
from sim.engines import FAST, UDP, Net, Peer, both_ways, established, pair

OLD: Address = ("192.0.2.1", 10500)
NEW: Address = ("198.51.100.7", 10500)
OTHER: Address = ("203.0.113.9", 10500)
SIX: Address = ("2001:db8::7", 10500)
B4: Address = ("192.0.2.2", 10500)
B6: Address = ("2001:db8::2", 10500)


def at_home() -> tuple[Net, Peer, Peer]:
    """a and b, up for a while, a at OLD and told so."""
    net, a, b = pair()
    net.move(a, OLD)
    net.move(b, B4)
    net.introduce(a, b)
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    return net, a, b


def to(peer: Peer, other: Peer) -> Address:
    return peer.engine.outbound[peer.hit, other.hit].address


def source(peer: Peer, other: Peer) -> Address | None:
    return peer.engine.outbound[peer.hit, other.hit].source


def call(net: Net, a: Peer, b: Peer, seconds: float, rate: float = 50.0) -> None:
    """Both speak, from now on, without end of this function's waiting for it."""
    begin = net.now
    for i in range(int(seconds * rate)):
        net.at(begin + i / rate, partial(net.send, a, b.hit, UDP, b"%d" % i))
        net.at(begin + i / rate, partial(net.send, b, a.hit, UDP, b"%d" % i))


def heard(peer: Peer) -> list[int]:
    return [int(payload) for _, payload in peer.datagrams if payload.isdigit()]


def gap(peer: Peer) -> int:
    """The longest run of numbers that did not come."""
    numbers = sorted(heard(peer))
    return max((b - a - 1 for a, b in itertools.pairwise(numbers)), default=0)


# -- moves -------------------------------------------------------------------------------------


def test_break_before_make_goes_on_at_the_new_address_at_once() -> None:
    net, a, b = at_home()
    call(net, a, b, 20)
    net.at(net.now + 5, lambda: net.move(a))
    net.at(net.now + 7, lambda: net.move(a, NEW))
    net.run(net.now + 21)
    assert (to(b, a), source(a, b)) == (NEW, NEW)
    assert 95 <= gap(a) <= 103  # two seconds, and a round trip
    assert 95 <= gap(b) <= 103
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    assert not net.sent(PacketType.I1)[1:]


def test_make_before_break_loses_nothing() -> None:
    net, a, b = at_home()
    call(net, a, b, 20)
    net.at(net.now + 5, lambda: net.move(a, NEW, OLD))
    net.at(net.now + 6, lambda: net.move(a, NEW))
    net.run(net.now + 21)
    assert (to(b, a), source(a, b)) == (NEW, NEW)
    assert heard(a) == heard(b) == list(range(1000))


def test_from_ipv4_to_ipv6_and_back() -> None:
    net, a, b = at_home()
    net.move(b, B4, B6)
    call(net, a, b, 30)
    for later, addresses in ((5, (SIX, OLD)), (6, (SIX,)), (15, (OLD, SIX)), (16, (OLD,))):
        net.at(net.now + later, partial(net.move, a, *addresses))
    net.run(net.now + 10)
    assert (to(b, a), source(a, b), to(a, b)) == (SIX, SIX, B6)
    net.run(net.now + 21)
    assert (to(b, a), source(a, b), to(a, b)) == (OLD, OLD, B4)
    assert heard(a) == heard(b) == list(range(1500))


def test_from_ipv4_to_ipv6_where_the_old_is_gone_already() -> None:
    net, a, b = at_home()
    net.move(b, B4, B6)
    call(net, a, b, 20)
    net.at(net.now + 5, lambda: net.move(a, SIX))
    net.run(net.now + 21)
    assert (to(b, a), source(a, b), to(a, b)) == (SIX, SIX, B6)
    assert max(gap(a), gap(b)) <= 3


def test_to_the_other_ip_version_through_what_the_overlay_says_about_the_peer() -> None:
    net, a, b = pair()
    net.move(a, OLD)
    net.move(b, B4, B6)  # which b doesn't tell before the association is used
    a.engine.learn(b.hit, [B4, B6])
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    net.move(a, SIX)
    net.run(net.now + 3)
    assert (to(a, b), to(b, a)) == (B6, SIX)
    both_ways(net, a, b)


def test_both_move_at_once_while_the_old_addresses_still_receive() -> None:
    net, a, b = at_home()
    call(net, a, b, 20)
    net.at(net.now + 5, lambda: net.move(a, NEW, OLD))
    net.at(net.now + 5, lambda: net.move(b, OTHER, B4))
    net.at(net.now + 7, lambda: net.move(a, NEW))
    net.at(net.now + 7, lambda: net.move(b, OTHER))
    net.run(net.now + 21)
    assert (to(b, a), to(a, b)) == (NEW, OTHER)
    assert heard(a) == heard(b) == list(range(1000))


def test_both_move_at_once_and_the_old_addresses_are_gone_contacts_bring_them_together() -> None:
    net, a, b = at_home()
    call(net, a, b, 60)

    def jump() -> None:
        net.move(a, NEW)
        net.move(b, OTHER)

    net.at(net.now + 5, jump)
    net.at(net.now + 8, lambda: net.introduce(a, b))  # their records say where they are
    net.run(net.now + 62)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    assert heard(a)[-1] == heard(b)[-1] == 2999
    assert "no R1" not in a.engine.counters


def test_who_moves_while_the_exchange_runs_is_found() -> None:
    net, a, b = pair()
    net.move(a, OLD)
    net.delay = 0.2
    net.send(a, b.hit, UDP, b"first")
    net.run(0.5)  # R1 is there, I2 on its way
    net.move(a, NEW)
    net.run(10)
    both_ways(net, a, b)
    assert to(b, a) == NEW


def test_a_hundred_moves_leave_one_pair_of_sas_and_few_addresses() -> None:
    net, a, b = at_home()
    for i in range(100):
        net.move(a, (f"198.51.100.{i + 1}", 10500))
        net.run(net.now + 1)
        both_ways(net, a, b)
    assert len(a.engine.inbound) == len(b.engine.inbound) == 1
    upkeep = b.engine._associations[b.hit, a.hit].standing.upkeep
    assert upkeep is not None
    assert isinstance(upkeep._paths, Mobility)
    assert len(list(upkeep._paths.peer)) <= 8


# -- several addresses --------------------------------------------------------------------------


def test_a_call_fails_over_when_one_of_two_links_dies_silently() -> None:
    net, a, b = at_home()
    net.move(a, OLD, NEW)
    call(net, a, b, 30)
    net.at(net.now + 10, lambda: net.dead.add(OLD))
    net.run(net.now + 31)
    assert (to(b, a), source(a, b)) == (NEW, NEW)
    assert max(gap(a), gap(b)) <= 100  # two seconds
    assert max(heard(a)) == max(heard(b)) == 1499


def test_a_call_fails_over_when_the_peer_s_link_dies() -> None:
    net, a, b = at_home()
    net.move(b, B4, OTHER)
    call(net, a, b, 30)
    net.at(net.now + 10, lambda: net.dead.add(B4))
    net.run(net.now + 31)
    assert (to(a, b), source(b, a)) == (OTHER, OTHER)
    assert max(gap(a), gap(b)) <= 100


def test_a_peer_that_does_not_speak_is_not_moved() -> None:
    net, a, b = at_home()
    net.move(a, OLD, NEW)
    net.run(net.now + 1)
    call(net, a, b, 3)
    net.run(net.now + 4)
    for i in range(1000):
        net.at(net.now + i / 50, lambda: net.send(a, b.hit, UDP, b"on hold"))
    net.run(net.now + 25)
    assert (to(a, b), source(a, b)) == (B4, OLD)
    assert a.engine.counters["silence"] <= 6
    assert net.state(a, b) is State.ESTABLISHED


def test_idle_associations_say_nothing_of_second_addresses() -> None:
    net, a, b = pair()
    net.move(a, OLD, NEW)
    net.send(a, b.hit, UDP, b"first")
    net.run(100)
    assert not net.sent(PacketType.UPDATE)


def test_a_nat_that_forgets_is_noticed_in_a_call() -> None:
    net, a, b = at_home()
    inside: Address = ("10.0.0.5", 10500)
    net.nat[inside], a.address = OLD, inside
    net.perform(a, a.engine.set_locators([inside], net.now))

    def forget() -> None:
        net.nat[inside] = NEW
        net.peers[NEW] = net.peers.pop(OLD)

    net.run(net.now + 2)
    call(net, a, b, 40)
    net.at(net.now + 20, forget)
    net.run(net.now + 41)
    assert to(b, a) == NEW
    assert max(heard(a)) == 1999
    assert gap(a) <= 120


# -- what a peer may and may not do -------------------------------------------------------------


def upkeep_of(peer: Peer, other: Peer) -> Upkeep:
    found = peer.engine._associations[peer.hit, other.hit].standing.upkeep
    assert found is not None
    return found


def test_no_more_than_the_earned_credit_goes_to_an_address_that_nobody_has_verified() -> None:
    net, a, b = at_home()
    victim: Address = ("203.0.113.66", 10500)
    call(net, a, b, 2)
    net.run(net.now + 3)
    net.perform(a, a.engine.set_locators([victim], net.now))  # a lie, sent from where a is
    a.engine.set_locators([OLD], net.now)
    update = transmitted(a.engine.set_locators([victim], net.now))[-1].data
    net.perform(b, b.engine.on_control(update, victim, net.now))
    assert to(b, a) == victim
    outbound = b.engine.outbound[b.hit, a.hit]
    assert outbound.sa.metered
    sent = 0
    with contextlib.suppress(CreditExhausted):
        while sent < 10**6:
            sent += len(outbound.sa.seal(UDP, bytes(160)))
    assert 0 < sent < 101 * 220  # what a has sent itself


def test_an_update_of_a_stranger_changes_nothing() -> None:
    net, a, b = at_home()
    stranger = net.add()
    net.introduce(stranger, b)
    seen = net.sent(PacketType.I1)[0].data
    update = bytearray(seen[:2] + bytes([PacketType.UPDATE]) + seen[3:])
    before = b.engine.outbound[b.hit, a.hit].address
    forged = build(
        PacketType.UPDATE,
        a.hit,
        b.hit,
        [
            params.Seq(0),
            params.LocatorSet((params.Locator(2, "203.0.113.66", 1, preferred=True),)),
            params.HipMac(bytes(48)),
            params.HipSignature(7, bytes(64)),
        ],
    )
    for data in (forged, bytes(update)):
        assert b.engine.on_control(data, NEW, net.now) == []
    assert to(b, a) == before
    assert b.engine.counters["wrong HIP_MAC"] == 1
    both_ways(net, a, b)


def test_a_repeated_update_is_acknowledged_again_and_not_processed_again() -> None:
    net, a, b = at_home()
    net.move(a, NEW)
    net.run(net.now + 1)
    first = net.sent(PacketType.UPDATE)[0].data
    net.move(a, OTHER)
    net.run(net.now + 1)
    (answer,) = transmitted(b.engine.on_control(first, NEW, net.now))
    assert Packet(answer.data).need(params.Ack).update_ids == (0,)
    assert to(b, a) == OTHER
    assert Packet(answer.data).get(params.Seq) is None
    answers = [b.engine.on_control(first, NEW, net.now) for _ in range(100)]
    assert 1 < b.engine.counters["UPDATE repeated"] == 1 + sum(map(len, answers)) <= 11


def test_an_update_from_long_ago_is_dropped() -> None:
    net, a, b = at_home()
    old = crafted(a, b, [])
    upkeep_of(a, b).outbox.updates._next += 100
    assert b.engine.on_control(crafted(a, b, []), OLD, net.now)
    assert b.engine.on_control(old, OLD, net.now) == []
    assert b.engine.counters["UPDATE outside the window"] == 1


def transmitted(actions: Sequence[Action]) -> list[Transmit]:
    return [action for action in actions if isinstance(action, Transmit)]


def crafted(a: Peer, b: Peer, parameters: list[params.Parameter]) -> bytes:
    """An UPDATE of a's with these parameters and a's keys."""
    upkeep = upkeep_of(a, b)
    return upkeep.outbox.make([params.Seq(upkeep.outbox.updates.number()), *parameters])


def test_locators_of_types_0_and_1_are_taken_with_the_port_of_the_packet() -> None:
    for kind in (0, 1):
        net, a, b = at_home()
        net.peers[NEW] = a
        locators = params.LocatorSet((params.Locator(kind, NEW[0], preferred=True),))
        net.perform(b, b.engine.on_control(crafted(a, b, [locators]), OLD, net.now))
        net.run(net.now + 1)
        assert to(b, a) == NEW


def test_a_preferred_locator_of_unknown_type_draws_a_notify() -> None:
    net, a, b = at_home()
    locator = params.Locator(9, preferred=True, raw=b"somewhere...")
    data = crafted(a, b, [params.LocatorSet((locator,))])
    answers = transmitted(b.engine.on_control(data, OLD, net.now))
    notify = Packet(answers[-1].data)
    assert notify.need(params.Notification).type == NotifyType.LOCATOR_TYPE_UNSUPPORTED
    assert notify.need(params.Notification).data == locator.encode()
    both_ways(net, a, b)


@pytest.mark.parametrize(
    "ip", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "2001:20::1"]
)
def test_nothing_goes_to_an_address_that_no_single_host_has(ip: str) -> None:
    net, a, b = at_home()
    locators = params.LocatorSet((params.Locator(2, ip, 10500, preferred=True),))
    answers = transmitted(b.engine.on_control(crafted(a, b, [locators]), OLD, net.now))
    assert {answer.to for answer in answers} == {OLD}
    assert to(b, a) == OLD


def test_an_address_is_left_when_its_lifetime_ends() -> None:
    net, a, b = at_home()
    net.peers[NEW] = a
    locators = params.LocatorSet(
        (
            params.Locator(2, *NEW, lifetime=10, preferred=True),
            params.Locator(2, *OLD),
        )
    )
    net.perform(b, b.engine.on_control(crafted(a, b, [locators]), OLD, net.now))
    net.run(net.now + 1)
    assert to(b, a) == NEW
    net.run(net.now + 10)
    assert to(b, a) == OLD


def test_locators_travel_encrypted_over_udp() -> None:
    net, a, _ = at_home()
    net.move(a, NEW)
    net.run(net.now + 1)
    update = Packet(net.sent(PacketType.UPDATE)[0].data)
    assert update.get(params.LocatorSet) is None
    assert update.get(params.Encrypted) is not None


def test_over_raw_ip_locators_are_in_clear_with_the_spi() -> None:
    net, a, _ = established(replace(FAST, udp=False))
    net.move(a, NEW)
    net.run(net.now + 1)
    update = Packet(net.sent(PacketType.UPDATE)[0].data)
    (locator,) = update.need(params.LocatorSet).locators
    info = update.need(params.EspInfo)
    assert (locator.type, locator.spi, locator.preferred) == (1, info.new_spi, True)
    assert info.old_spi == info.new_spi


def test_lost_repeated_and_late_updates_of_a_move_do_no_harm() -> None:
    for seed in range(12):
        net, a, b = at_home()
        net.random.seed(seed)
        net.loss, net.duplicates, net.jitter = 0.3, 0.2, 0.1
        net.move(a, NEW, OLD)
        net.run(net.now + 5)
        net.move(a, NEW)
        net.run(net.now + 30)
        net.loss = 0.0
        both_ways(net, a, b)
        assert (to(b, a), source(a, b)) == (NEW, NEW)


def test_a_locator_set_that_was_overtaken_by_a_later_one_changes_nothing() -> None:
    net, a, b = at_home()
    net.move(a, NEW, tell=False)
    first = transmitted(a.engine.set_locators([OLD, OTHER], net.now))[0]
    second = transmitted(a.engine.set_locators([NEW], net.now))[0]
    net.perform(b, b.engine.on_control(second.data, NEW, net.now))
    net.run(net.now + 1)
    assert to(b, a) == NEW
    (answer,) = transmitted(b.engine.on_control(first.data, OLD, net.now))[:1]
    assert Packet(answer.data).need(params.Ack)
    net.run(net.now + 1)
    assert to(b, a) == NEW
    both_ways(net, a, b)


def test_a_peer_has_us_ask_few_addresses_however_many_it_names() -> None:
    net, a, b = at_home()
    asked = 0
    for i in range(50):
        locators = params.LocatorSet(
            tuple(params.Locator(2, f"203.0.113.{i * 4 + j}", 9) for j in range(1, 5))
        )
        answers = transmitted(b.engine.on_control(crafted(a, b, [locators]), OLD, net.now))
        asked += len([answer for answer in answers if answer.to != OLD])
    assert asked <= 16


def test_both_kinds_of_echo_request_are_answered() -> None:
    net, a, b = at_home()
    upkeep = upkeep_of(a, b)
    seq = params.Seq(upkeep.outbox.updates.number())
    data = upkeep.outbox.make([seq, params.EchoRequestSigned(b"signed")])
    data = finish(data + frame(params.EchoRequestUnsigned.TYPE, b"unsigned"))
    (answer,) = transmitted(b.engine.on_control(data, OLD, net.now))
    packet = Packet(answer.data)
    assert packet.need(params.EchoResponseSigned).opaque == b"signed"
    assert packet.need(params.EchoResponseUnsigned).opaque == b"unsigned"


def test_an_update_with_the_host_id_of_another_is_refused() -> None:
    net, a, b = at_home()
    for identity, refused in ((a.identity, 0), (HostIdentity.generate(), 1)):
        b.engine.on_control(
            crafted(a, b, [params.HostIdParameter(identity.host_id)]), OLD, net.now
        )
        assert b.engine.counters["HOST_ID of another"] == refused


def test_an_update_in_r2_sent_says_that_r2_came() -> None:
    net, a, b = pair()
    net.connect(a, b)
    net.run(0.1)
    assert net.state(b, a) is State.R2_SENT
    net.move(a, NEW)
    net.run(net.now + 0.015)
    assert net.state(b, a) is State.ESTABLISHED


def test_link_local_addresses_and_groups_are_not_announced() -> None:
    net, a, _ = at_home()
    a.engine.set_locators([("fe80::1", 1), ("169.254.1.1", 1), ("224.0.0.1", 1), NEW], net.now)
    assert a.engine._shared.locators == (NEW,)


def test_an_r1_that_prefers_another_address_is_answered_there() -> None:
    net, a, b = pair()
    net.peers[NEW] = b
    responder = b.engine._identities[b.hit][1]
    i1 = Packet(make_i1(a.hit, b.hit, FAST))
    r1 = Packet(responder.answer(i1, a.address, 0.0))
    listed = params.LocatorSet((params.Locator(0, NEW[0], preferred=True),))
    kept = [
        p for p in r1.parameters() if p is not None and not isinstance(p, params.HipSignature2)
    ]
    data = header(PacketType.R1, b.hit, bytes(16)) + params.encode([*kept, listed])
    unsigned = Packet(
        finish(data + frame(params.HipSignature2.TYPE, bytes(66)))[:24]
        + a.hit
        + data[40:]
        + frame(params.HipSignature2.TYPE, bytes(66))
    )
    signed = params.HipSignature2(7, b.identity.sign(unsigned.covered_by_signature_2()))
    forged = finish(data[:24] + a.hit + data[40:] + frame(signed.TYPE, signed.content()))
    net.tamper = lambda seen: [] if seen.kind == PacketType.R1 else [seen.data]
    net.connect(a, b)
    net.run(0.02)
    net.perform(a, a.engine.on_control(forged, b.address, net.now))
    net.run(0.1)
    assert [seen.to for seen in net.sent(PacketType.I2)] == [NEW]


def test_who_was_asked_at_its_second_address_speaks_from_there_also_after_a_move() -> None:
    net, a, b = pair()
    net.move(a, OLD)
    net.move(b, B4, OTHER)
    a.engine.learn(b.hit, [OTHER])
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    assert source(b, a) == OTHER
    net.move(a, NEW)
    net.run(net.now + 1)
    assert (to(b, a), source(b, a)) == (NEW, OTHER)
    both_ways(net, a, b)


def test_idle_associations_with_several_paths_wait_no_more_often_than_others() -> None:
    net, a, b = at_home()
    net.move(a, OLD, NEW)
    net.run(net.now + 30)
    upkeep, wakes = upkeep_of(a, b), 0
    end = net.now + 150
    while (at := a.engine.deadline()) is not None and at < end:
        net.run(at)
        wakes += 1
    assert wakes <= 12  # the look of every association, each 15 seconds
    assert not upkeep.outbox.updates.outstanding


@pytest.mark.parametrize("phase", range(5))
def test_both_sides_of_a_call_fail_over_though_one_notices_first(phase: int) -> None:
    net, a, b = at_home()
    a.engine._shared.config = replace(FAST, silence=1.6)  # b is the first
    net.move(a, OLD, NEW)
    call(net, a, b, 20)
    net.at(net.now + 10 + 0.037 * phase, lambda: net.dead.add(OLD))
    net.run(net.now + 21)
    assert max(heard(a)) == max(heard(b)) == 999
    assert max(gap(a), gap(b)) <= 75  # a second and a half
