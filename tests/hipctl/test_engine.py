import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import esp, params
from hipctl.actions import Action, SolvePuzzle, Transmit
from hipctl.constants import EccCurve, NotifyType, PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import HostConfigRefused
from hipctl.identity import HostIdentity
from hipctl.interface import AssociationDown, AssociationUp
from hipctl.packet import Packet, build
from hipctl.state import State
from sim.engines import FAST, Net, Peer, Seen

UDP = 17
I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
P256, P384 = EccCurve.NIST_P256, EccCurve.NIST_P384


def pair(config: EngineConfig = FAST, other: EngineConfig | None = None) -> tuple[Net, Peer, Peer]:
    net = Net()
    a, b = net.add(config), net.add(other or config)
    net.introduce(a, b)
    return net, a, b


def established(config: EngineConfig = FAST) -> tuple[Net, Peer, Peer]:
    net, a, b = pair(config)
    net.send(a, b.hit, UDP, b"first")
    net.run(1.0)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    return net, a, b


def both_ways(net: Net, a: Peer, b: Peer) -> None:
    a.datagrams.clear()
    b.datagrams.clear()
    net.send(a, b.hit, UDP, b"there")
    net.send(b, a.hit, UDP, b"and back")
    net.run(net.now + 1)
    assert (UDP, b"there") in b.datagrams
    assert (UDP, b"and back") in a.datagrams


def ups(peer: Peer) -> list[AssociationUp]:
    return [event for event in peer.events if isinstance(event, AssociationUp)]


def downs(peer: Peer) -> list[str]:
    return [event.reason for event in peer.events if isinstance(event, AssociationDown)]


# -- the exchange ------------------------------------------------------------------------------


@pytest.mark.parametrize("curves", [(P256, P256), (P384, P384), (P256, P384), (P384, P256)])
@pytest.mark.parametrize("group", [7, 8])
def test_four_packets_establish_and_data_flows(
    curves: tuple[EccCurve, EccCurve], group: int
) -> None:
    net = Net()
    config = replace(FAST, groups=(group,))
    a, b = (net.add(config, HostIdentity.from_secret(i, c)) for i, c in enumerate(curves))
    net.introduce(a, b)
    net.send(a, b.hit, UDP, b"first")
    net.run(0.2)
    assert [seen.kind for seen in net.wire] == [I1, R1, I2, R2]
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    assert b.datagrams == [(UDP, b"first")]
    assert [round(event.seconds, 3) for event in ups(a)] == [0.04]
    assert len(ups(b)) == 1
    both_ways(net, a, b)
    assert not a.engine.counters
    assert not b.engine.counters


@pytest.mark.parametrize("cipher", [2, 4])
@pytest.mark.parametrize("suite", sorted(esp.SUITES))
@pytest.mark.parametrize("encrypted", [True, False])
def test_every_cipher_and_esp_suite_works(cipher: int, suite: int, encrypted: bool) -> None:
    config = replace(FAST, ciphers=(cipher,), esp_suites=(suite,), encrypt_host_id=encrypted)
    net, a, b = established(config)
    (i2,) = net.sent(I2)
    packet = Packet(i2.data)
    assert packet.need(params.EspTransform).suites == (suite,)
    assert packet.need(params.CipherList).ciphers == (cipher,)
    assert (packet.get(params.HostIdParameter) is None) is encrypted
    assert (a.identity.host_id.encoded in i2.data) is not encrypted
    both_ways(net, a, b)


def test_gcm_and_p256_are_preferred() -> None:
    net, *_ = established()
    packet = Packet(net.sent(I2)[0].data)
    assert packet.need(params.EspTransform).suites == (13,)
    assert packet.need(params.DiffieHellman).group == 7


def test_the_packets_of_an_exchange_hold_what_the_rfc_lists() -> None:
    net, *_ = established()
    i1, r1, i2, r2 = ([p.TYPE.name for p in Packet(s.data).parameters()] for s in net.wire)  # type: ignore[union-attr]
    assert i1 == ["DH_GROUP_LIST"]
    assert r1 == [
        "R1_COUNTER", "PUZZLE", "DH_GROUP_LIST", "DIFFIE_HELLMAN", "HIP_CIPHER",
        "NAT_TRAVERSAL_MODE", "HOST_ID", "HIT_SUITE_LIST", "TRANSPORT_FORMAT_LIST",
        "ESP_TRANSFORM", "HIP_SIGNATURE_2",
    ]  # fmt: skip
    assert i2 == [
        "ESP_INFO", "R1_COUNTER", "SOLUTION", "DIFFIE_HELLMAN", "HIP_CIPHER",
        "NAT_TRAVERSAL_MODE", "ENCRYPTED", "TRANSPORT_FORMAT_LIST", "ESP_TRANSFORM", "HIP_MAC",
        "HIP_SIGNATURE",
    ]  # fmt: skip
    assert r2 == ["ESP_INFO", "HIP_MAC_2", "HIP_SIGNATURE"]
    assert all(len(seen.data) <= 1232 for seen in net.wire)


def test_over_raw_ip_nobody_mentions_nat_traversal() -> None:
    net, *_ = established(replace(FAST, udp=False))
    assert all(Packet(seen.data).get(params.NatTraversalModes) is None for seen in net.wire)


def test_both_sides_log_the_same_keys_and_only_when_asked() -> None:
    _, a, b = established(replace(FAST, keylog=True))
    assert a.key_log == b.key_log
    (line,) = a.key_log
    name, hit_i, hit_r, random_i, answer_j, secret, keymat = line.split()
    assert (name, hit_i, hit_r) == ("HIP", a.hit.hex(), b.hit.hex())
    assert [len(field) for field in (random_i, answer_j, secret)] == [96, 96, 64]
    assert len(keymat) == 2 * (2 * (16 + 48) + 2 * 20)
    assert not established()[1].key_log


def test_the_responder_chooses_its_first_group_that_the_initiator_knows() -> None:
    net, *_ = pair(replace(FAST, groups=(7, 8)), replace(FAST, groups=(8, 7)))
    a, b = net.peers.values()
    net.connect(a, b)
    net.run(1.0)
    assert Packet(net.sent(R1)[0].data).need(params.DiffieHellman).group == 8
    assert net.state(a, b) is State.ESTABLISHED


def test_a_downgraded_dh_group_list_is_noticed() -> None:
    net, a, b = pair(replace(FAST, groups=(8, 7)))

    def drop_group_8(seen: Seen) -> list[bytes]:
        if seen.kind != I1:
            return [seen.data]
        return [build(I1, a.hit, b.hit, [params.DhGroupList((7,))])]

    net.tamper = drop_group_8
    net.connect(a, b)
    net.run(1.0)
    assert net.state(a, b) is State.I1_SENT
    assert a.engine.counters["DH group downgraded"] > 0
    assert not net.sent(I2)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ({"groups": (7,)}, {"groups": (8,)}, "no DH group in common"),
        ({"ciphers": (2,)}, {"ciphers": (4,)}, "no HIP cipher in common"),
        ({"esp_suites": (13,)}, {"esp_suites": (8,)}, "no ESP suite in common"),
        ({"k_max": 2}, {"k": 3}, "puzzle too hard"),
    ],
)
def test_nothing_in_common_ends_in_e_failed_with_a_count(
    ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], reason: str
) -> None:
    net, a, b = pair(replace(FAST, **ours), replace(FAST, **theirs))  # type: ignore[arg-type]
    net.connect(a, b)
    net.run(60.0)
    assert a.engine.counters[reason] > 0
    assert downs(a) == ["no R1 came"]
    assert net.state(a, b) is State.UNASSOCIATED


# -- loss and time -----------------------------------------------------------------------------


def test_i1_is_retransmitted_with_doubling_gaps_until_e_failed() -> None:
    net, a, b = pair()
    net.loss = 1.0
    net.send(a, b.hit, UDP, b"never")
    net.run(60.0)
    assert [seen.at for seen in net.wire] == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert {seen.data for seen in net.wire} == {net.wire[0].data}
    assert downs(a) == ["no R1 came"]
    assert a.engine.deadline() is None
    assert a.engine.associations() == []


def test_i2_is_retransmitted_with_doubling_gaps_until_e_failed() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [] if seen.kind == I2 or net.now > 0.1 else [seen.data]
    net.connect(a, b)
    net.run(60.0)
    times = [seen.at for seen in net.sent(I2)]
    assert [round(t - times[0], 3) for t in times] == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert downs(a) == ["no R2 came"]
    assert not a.engine.inbound
    assert net.state(b, a) is State.UNASSOCIATED


def test_who_answers_i1_and_never_i2_is_given_up_too() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [] if seen.kind == I2 else [seen.data]
    net.connect(a, b)
    net.run(60.0)
    assert len(net.sent(I2)) == 3 + FAST.retransmit_max
    assert downs(a) == ["no R2 came"]


def test_an_i2_that_was_overtaken_by_another_exchange_is_too_old() -> None:
    net, a, b = pair()
    late = solved(net, a, b)
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.send(a, b.hit, UDP, b"x")
    net.run(net.now + 1)
    assert net.state(b, a) is State.ESTABLISHED
    assert b.engine.on_control(late, a.address, net.now) == []
    assert b.engine.counters["I2 older than the association"] == 1
    both_ways(net, a, b)


def test_the_first_i1_goes_to_three_addresses_the_next_to_one() -> None:
    net, a, b = pair()
    a.engine.learn(b.hit, [(f"198.51.100.{n}", 1) for n in range(5)])
    net.connect(a, b)
    net.run(3.0)
    assert [seen.to[0][-1] for seen in net.wire] == ["0", "1", "2", "1", "2"]


def test_an_i2_that_comes_again_draws_the_same_r2_and_no_work() -> None:
    net, a, b = pair()
    drop = [R2]
    net.tamper = lambda seen: [] if seen.kind in drop and drop.pop() else [seen.data]
    net.connect(a, b)
    net.run(5.0)
    first, second = net.sent(R2)
    assert first.data == second.data
    assert b.engine.counters["I2 repeated"] == 1
    assert net.state(a, b) is State.ESTABLISHED


def test_r2_sent_becomes_established_by_the_first_esp_or_by_time() -> None:
    net, a, b = pair()
    net.connect(a, b)
    net.run(1.0)
    assert net.state(a, b) is State.ESTABLISHED
    assert net.state(b, a) is State.R2_SENT
    net.run(14.0)
    assert net.state(b, a) is State.R2_SENT
    net.run(16.0)
    assert net.state(b, a) is State.ESTABLISHED
    net, a, b = pair()
    net.connect(a, b)
    net.run(1.0)
    net.send(a, b.hit, UDP, b"x")
    net.run(1.1)
    assert net.state(b, a) is State.ESTABLISHED


def test_the_responder_may_send_before_it_hears() -> None:
    net, a, b = pair()
    net.connect(a, b)
    net.run(1.0)
    net.send(b, a.hit, UDP, b"welcome")
    net.run(1.1)
    assert a.datagrams == [(UDP, b"welcome")]


def test_an_unsolved_puzzle_ends_in_e_failed() -> None:
    net, a, b = pair()
    net.solve = False
    net.connect(a, b)
    net.run(600.0)
    assert a.engine.counters["puzzle expired"] > 1
    assert downs(a) == ["no R1 came"]


def test_a_puzzle_given_up_asks_again_and_a_late_answer_is_ignored() -> None:
    net, a, b = pair()
    net.solve = False
    net.connect(a, b)
    net.run(0.1)
    r1 = net.sent(R1)[0]
    asked = a.engine.on_control(r1.data, b.address, net.now)
    assert asked == []  # one puzzle at a time
    key = (a.hit, b.hit, 1)
    net.perform(a, a.engine.on_puzzle_solved(key, None, net.now))
    assert len(net.sent(I1)) == 2
    assert a.engine.on_puzzle_solved(key, bytes(48), net.now) == []
    assert a.engine.on_puzzle_solved((b.hit, a.hit, 1), bytes(48), net.now) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_two_engines_agree_whatever_the_network_does(seed: int, both: bool) -> None:
    net, a, b = pair()
    net.random.seed(seed)
    net.loss, net.duplicates, net.jitter = 0.2, 0.2, 0.3
    net.send(a, b.hit, UDP, b"a")
    if both:
        net.at(net.random.random() / 2, lambda: net.send(b, a.hit, UDP, b"b"))
    net.run(40.0)
    net.loss = net.duplicates = net.jitter = 0.0
    both_ways(net, a, b)
    assert len(a.engine.inbound) == len(b.engine.inbound) == 1
    assert len(a.engine.outbound) == len(b.engine.outbound) == 1


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.011, 0.015, 0.021, 0.025, 0.031, 0.035])
@pytest.mark.parametrize("greater_first", [True, False])
def test_both_sides_starting_get_one_association(delay: float, greater_first: bool) -> None:
    net, a, b = pair()
    first, second = sorted((a, b), key=lambda peer: peer.hit, reverse=greater_first)
    net.send(first, second.hit, UDP, b"1")
    net.at(delay, lambda: net.send(second, first.hit, UDP, b"2"))
    net.run(0.4)  # without any retransmission
    assert first.datagrams == [(UDP, b"2")]
    assert second.datagrams == [(UDP, b"1")]
    assert (len(ups(first)), len(ups(second))) == (1, 1)
    assert len(first.engine.inbound) == len(second.engine.inbound) == 1


# -- restarts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("initiator", [True, False])
def test_a_peer_that_restarted_comes_back(initiator: bool) -> None:
    net, a, b = established()
    back, other = (a, b) if initiator else (b, a)
    net.restart(back)
    back.engine.learn(other.hit, [other.address])
    net.send(back, other.hit, UDP, b"again")
    net.run(net.now + 1)
    assert (UDP, b"again") in other.datagrams
    assert downs(other) == ["the peer began anew"]
    assert len(ups(other)) == 2
    both_ways(net, a, b)
    assert len(other.engine.inbound) == 1


def test_a_new_i1_does_not_disturb_the_association() -> None:
    net, a, b = established()
    i1 = build(I1, a.hit, b.hit, [params.DhGroupList((7,))])
    (answer,) = b.engine.on_control(i1, ("203.0.113.9", 9), net.now)
    assert isinstance(answer, Transmit)
    assert answer.to == ("203.0.113.9", 9)
    assert Packet(answer.data).type is R1
    assert net.state(b, a) is State.ESTABLISHED
    both_ways(net, a, b)


def test_a_peer_that_lost_its_state_silently_is_found_out() -> None:
    net, a, b = established()
    net.restart(b)
    for second in range(2, 62):
        net.at(float(second), lambda: net.send(a, b.hit, UDP, b"anybody?"))
    net.run(70.0)
    assert a.engine.counters["unanswered"] == 1
    assert net.state(b, a) is State.ESTABLISHED
    both_ways(net, a, b)


def test_a_peer_that_answers_is_never_doubted() -> None:
    net, a, b = established()
    for second in range(2, 120, 9):
        net.at(float(second), lambda: net.send(a, b.hit, UDP, b"ping"))
        net.at(second + 0.1, lambda: net.send(b, a.hit, UDP, b"pong"))
    net.run(130.0)
    assert a.engine.counters["unanswered"] == 0
    assert len(net.sent(I1)) == 1


def test_a_responder_that_restarts_within_the_exchange_is_asked_again() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [] if seen.kind == I2 else [seen.data]
    net.connect(a, b)
    net.run(0.4)
    net.restart(b)  # with the same R1_COUNTER as before
    net.tamper = lambda seen: [seen.data]
    net.run(10.0)
    assert net.state(a, b) is State.ESTABLISHED
    both_ways(net, a, b)


def test_an_r1_of_a_later_generation_replaces_the_one_in_work() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [] if seen.kind == I2 else [seen.data]
    net.connect(a, b)
    net.run(0.2)
    (first,) = net.sent(I2)
    i1 = net.sent(I1)[0].data
    for now, again in ((1.0, False), (70.0, True)):
        (r1,) = b.engine.on_control(i1, a.address, now)
        assert isinstance(r1, Transmit)
        actions = a.engine.on_control(r1.data, b.address, net.now)
        assert bool(actions) is again
    net.tamper = lambda seen: [seen.data]
    net.perform(a, actions)
    net.run(net.now + 0.5)
    assert net.sent(I2)[-1].data != first.data
    assert net.state(a, b) is State.ESTABLISHED
    assert len(a.engine.inbound) == 1


def test_a_forged_puzzle_only_delays_the_exchange() -> None:
    net, a, b = pair()
    forge = [True]

    def forged(seen: Seen) -> list[bytes]:
        if seen.kind == R1 and forge:
            forge.clear()
            at = seen.data.index(bytes.fromhex("01010034")) + 8  # #I isn't signed
            return [seen.data[:at] + bytes(48) + seen.data[at + 48 :]]
        return [seen.data]

    net.tamper = forged
    net.connect(a, b)
    net.run(10.0)
    assert b.engine.counters["I2 answers no R1 of ours"] > 0
    assert net.state(a, b) is State.ESTABLISHED


# -- ending ------------------------------------------------------------------------------------


def test_close_is_acknowledged_and_both_sides_forget() -> None:
    net, a, b = established()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    assert net.state(a, b) is State.CLOSING
    assert (a.hit, b.hit) not in a.engine.outbound
    net.run(net.now + 0.1)
    assert net.state(a, b) is State.UNASSOCIATED
    assert net.state(b, a) is State.CLOSED
    assert (downs(a), downs(b)) == (["closed"], ["closed by the peer"])
    assert not a.engine.inbound
    assert not b.engine.inbound
    net.run(net.now + 20)
    assert net.state(b, a) is State.UNASSOCIATED
    assert a.engine.deadline() is b.engine.deadline() is None


def test_a_lost_close_ack_is_sent_again_and_a_lost_close_too() -> None:
    net, a, b = established()
    dropped: list[int] = []

    def lossy(seen: Seen) -> list[bytes]:
        if seen.kind not in dropped:
            dropped.append(seen.kind)
            return []
        return [seen.data]

    net.tamper = lossy
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 5)
    assert dropped == [PacketType.CLOSE, PacketType.CLOSE_ACK]
    assert net.state(a, b) is State.UNASSOCIATED
    assert downs(b) == ["closed by the peer"]
    first, second = net.sent(PacketType.CLOSE_ACK)
    assert first.data == second.data


def test_a_close_that_nobody_answers_is_given_up() -> None:
    net, a, _ = established()
    net.loss = 1.0
    net.perform(a, a.engine.close_all(net.now))
    net.run(net.now + 30)
    assert len(net.sent(PacketType.CLOSE)) == FAST.close_retransmit_max
    assert a.engine.associations() == []


@pytest.mark.parametrize("who", ["closer", "closed"])
def test_data_after_close_starts_a_new_exchange(who: str) -> None:
    net, a, b = established()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    if who == "closed":
        net.run(net.now + 0.1)
    sender, receiver = (a, b) if who == "closer" else (b, a)
    net.send(sender, receiver.hit, UDP, b"once more")
    net.run(net.now + 5)
    assert (UDP, b"once more") in receiver.datagrams
    both_ways(net, a, b)


def test_an_unused_association_is_closed_by_either_side() -> None:
    net, a, b = established()
    net.run(890.0)
    assert net.state(a, b) is State.ESTABLISHED
    net.run(950.0)
    assert net.state(a, b) is net.state(b, a) is State.UNASSOCIATED
    assert a.engine.counters["unused"] + b.engine.counters["unused"] >= 1


def test_an_association_in_use_stays() -> None:
    net, a, b = established()
    for second in range(0, 3000, 100):
        net.at(float(second), lambda: net.send(a, b.hit, UDP, b"x"))
        net.at(float(second), lambda: net.send(b, a.hit, UDP, b"x"))
    net.run(3100.0)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED


def test_closing_an_attempt_ends_it() -> None:
    net, a, b = pair()
    net.loss = 1.0
    net.send(a, b.hit, UDP, b"x")
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    assert downs(a) == ["closed"]
    assert a.engine.associations() == []
    assert a.engine.close(a.hit, b.hit, net.now) == []


# -- bounds ------------------------------------------------------------------------------------


def test_the_queue_is_bounded_in_count_and_bytes() -> None:
    net, a, b = pair(replace(FAST, queue_datagrams=3, queue_bytes=100))
    for size in (10, 60, 60, 10, 10):
        net.send(a, b.hit, UDP, bytes(size))
    assert a.engine.counters["queue full"] == 2
    net.run(1.0)
    assert [len(data) for _, data in b.datagrams] == [10, 60, 10]


def test_exchanges_are_bounded() -> None:
    net = Net()
    a = net.add(replace(FAST, max_exchanges=2))
    others = [net.add() for _ in range(3)]
    net.introduce(a, *others)
    for other in others:
        net.send(a, other.hit, UDP, b"x")
    assert downs(a) == ["too many exchanges"]
    assert a.engine.counters["datagram without exchange"] == 1
    net.run(1.0)
    net.send(a, others[2].hit, UDP, b"now")
    net.run(2.0)
    assert others[2].datagrams == [(UDP, b"now")]


def test_the_association_least_recently_heard_makes_room() -> None:
    net = Net()
    a = net.add(replace(FAST, max_associations=2))
    b, c, d = (net.add() for _ in range(3))
    net.introduce(a, b, c, d)
    for n, other in enumerate((b, c)):
        net.send(other, a.hit, UDP, b"x")
        net.run(n + 1.0)
    net.send(b, a.hit, UDP, b"I am here")
    net.run(3.0)
    net.send(d, a.hit, UDP, b"and I")
    net.run(4.0)
    assert net.state(a, c) is State.UNASSOCIATED
    assert downs(c) == ["closed by the peer"]
    assert net.state(a, b) is net.state(a, d) is State.ESTABLISHED
    assert len(a.engine.associations()) == 2
    assert len(a.engine.inbound) == 2


def test_contacts_are_bounded_and_the_newest_wins() -> None:
    net = Net()
    a, b, c = net.add(replace(FAST, max_contacts=1)), net.add(), net.add()
    a.engine.learn(b.hit, [b.address])
    a.engine.learn(c.hit, [("x", 1), c.address])
    a.engine.learn(c.hit, [c.address])
    net.connect(a, b)
    assert downs(a) == ["no contact known"]
    net.connect(a, c)
    net.run(1.0)
    assert net.state(a, c) is State.ESTABLISHED


def test_an_unknown_or_own_hit_is_not_reached() -> None:
    net, a, b = pair()
    net.perform(a, a.engine.connect(b.hit, a.hit, 0.0))
    net.perform(a, a.engine.connect(a.hit, a.hit, 0.0))
    assert downs(a) == ["not possible with these HITs"] * 2


def test_connecting_twice_sends_once() -> None:
    net, a, b = pair()
    net.connect(a, b)
    net.connect(a, b)
    net.run(1.0)
    net.connect(a, b)
    assert len(net.sent(I1)) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"groups": (3,)}, {"ciphers": ()}, {"ciphers": (1,)}, {"esp_suites": (1,)}, {"k": -1}],
)
def test_a_configuration_that_we_do_not_speak_is_refused(
    wrong: dict[str, tuple[int, ...]],
) -> None:
    with pytest.raises(HostConfigRefused):
        Engine([], replace(FAST, **wrong), random.randbytes)  # type: ignore[arg-type]


# -- strangers ---------------------------------------------------------------------------------


def test_a_stranger_leaves_no_state_behind_before_a_valid_i2() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [seen.data] if seen.kind != I2 else []
    net.connect(a, b)
    net.run(30.0)
    assert b.engine.associations() == []
    assert not b.engine.inbound
    assert b.engine.deadline() is None


def solved(net: Net, a: Peer, b: Peer) -> bytes:
    """An I2 of ``a`` that ``b`` would accept."""
    kept: list[bytes] = []

    def keep(seen: Seen) -> list[bytes]:
        if seen.kind != I2:
            return [seen.data]
        kept.append(seen.data)
        return []

    net.tamper = keep
    net.connect(a, b)
    net.run(net.now + 0.1)
    net.tamper = lambda seen: [seen.data]
    return kept[0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_i2_makes_an_association(data: st.DataObject) -> None:
    net, a, b = PAIR
    i2 = GOOD_I2
    at = data.draw(
        st.integers(0, i2.index(b"\xf1\x01\x00\x42") + 4 + 66 - 1)
    )  # to SIGNATURE's end
    bit = data.draw(st.integers(0, 7))
    changed = i2[:at] + bytes((i2[at] ^ 1 << bit,)) + i2[at + 1 :]
    actions = b.engine.on_control(changed, a.address, net.now)
    assert b.engine.associations() == []
    assert not b.engine.inbound
    for action in actions:  # at most one NOTIFY, to somebody who has solved the puzzle
        assert isinstance(action, Transmit)
        assert Packet(action.data).type is PacketType.NOTIFY


PAIR = pair()
GOOD_I2 = solved(*PAIR)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([R1, R2, PacketType.CLOSE]), st.integers(0, 2**32))
def test_changed_packets_never_change_an_association(kind: int, seed: int) -> None:
    net, a, b = pair()
    chooser = random.Random(seed)

    def change(seen: Seen) -> list[bytes]:
        packet = Packet(seen.data)
        if packet.type != kind:
            return [seen.data]
        signature = packet.get(params.HipSignature) or packet.need(params.HipSignature2)
        end = seen.data.index(signature.signature) + 64
        puzzle = packet.get(params.Puzzle)
        unsigned = range(0)
        if puzzle is not None:  # Opaque and #I are free; the receiver's HIT finds nobody
            start = seen.data.index(puzzle.random_i)
            unsigned = range(start - 2, start + 48)
        at = chooser.choice([n for n in range(end) if n not in unsigned])
        raw = bytearray(seen.data)
        raw[at] ^= 1 << chooser.randrange(8)
        return [bytes(raw)]

    if kind == PacketType.CLOSE:
        net, a, b = established()
        net.tamper = change
        net.perform(a, a.engine.close(a.hit, b.hit, net.now))
        net.run(net.now + 5)
        assert net.state(b, a) is State.ESTABLISHED
        assert not downs(b)
    else:
        net.tamper = change
        net.connect(a, b)
        net.run(6.0)
        assert net.state(a, b) in (State.I1_SENT, State.I2_SENT)
        assert not ups(a)


def test_a_used_solution_makes_no_second_association() -> None:
    net, a, b = established()
    i2 = net.sent(I2)[0].data
    again = b.engine.on_control(i2, a.address, net.now)
    assert [Packet(x.data).type for x in again if isinstance(x, Transmit)] == [R2]
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 20)
    assert b.engine.on_control(i2, a.address, net.now) == []
    assert b.engine.counters["solution used before"] == 1
    assert b.engine.associations() == []


def test_an_i2_from_another_address_is_refused() -> None:
    net, a, b = pair()
    i2 = solved(net, a, b)
    assert b.engine.on_control(i2, ("203.0.113.1", 10500), net.now) == []
    assert b.engine.counters["I2 answers no R1 of ours"] == 1
    assert b.engine.on_control(i2, (a.address[0], 4321), net.now)  # a NAT may change the port


def test_old_generations_are_accepted_once_more_then_no_longer() -> None:
    for age, accepted in ((63.0, True), (120.0, True), (129.0, False)):
        net, a, b = pair()
        i2 = solved(net, a, b)
        if age == 120.0:  # somebody else's I1 begins the next generation
            i1 = build(I1, a.hit, b.hit, [params.DhGroupList((7,))])
            b.engine.on_control(i1, ("203.0.113.1", 1), 100.0)
        b.engine.on_control(i2, a.address, age)
        assert (net.state(b, a) is State.R2_SENT) is accepted
        assert b.engine.counters["I2 of an old R1"] == (not accepted)


def test_r1s_to_one_address_are_limited() -> None:
    _, a, b = pair(replace(FAST, r1_rate=1.0, r1_burst=5))
    i1 = build(I1, a.hit, b.hit, [params.DhGroupList((7,))])
    answers = [len(b.engine.on_control(i1, ("203.0.113.1", n), 0.0)) for n in range(10)]
    assert sum(answers) == 5
    assert b.engine.counters["I1 rate limit"] == 5
    assert b.engine.on_control(i1, ("203.0.113.2", 1), 0.0)
    assert b.engine.on_control(i1, ("203.0.113.1", 1), 1.5)


def forge_i2(i2: bytes, after: str) -> bytes:
    """Change one byte of a valid I2 that a check after the puzzle sees."""
    packet = Packet(i2)
    mac, signature = packet.need(params.HipMac).mac, packet.need(params.HipSignature).signature
    at = i2.index(mac if after == "mac" else signature)
    return i2[: at + 9] + bytes((i2[at + 9] ^ 1,)) + i2[at + 10 :]


@pytest.mark.parametrize(
    ("after", "code"),
    [("mac", NotifyType.HIP_MAC_FAILED), ("signature", NotifyType.AUTHENTICATION_FAILED)],
)
def test_who_has_solved_the_puzzle_is_told_what_failed(after: str, code: NotifyType) -> None:
    net, a, b = pair()
    forged = forge_i2(solved(net, a, b), after)
    (answer,) = b.engine.on_control(forged, a.address, net.now)
    assert isinstance(answer, Transmit)
    packet = Packet(answer.data)
    assert packet.need(params.Notification).type == code
    signature = packet.need(params.HipSignature).signature
    assert b.identity.host_id.verify(signature, packet.covered(params.HipSignature))
    assert len(answer.data) < len(forged)
    before = net.state(a, b)
    a.engine.on_control(answer.data, b.address, net.now)
    assert a.engine.counters[f"NOTIFY {code.name}"] == 1
    assert net.state(a, b) is before


def test_bad_i2s_with_one_solution_cost_us_three_checks_and_notifies_are_few() -> None:
    net, a, b = pair(replace(FAST, notify_burst=2))
    forged = forge_i2(solved(net, a, b), "mac")
    answers = [b.engine.on_control(forged, a.address, net.now) for _ in range(9)]
    assert [len(actions) for actions in answers] == [1, 1] + [0] * 7
    assert b.engine.counters["wrong HIP_MAC"] == 3
    assert b.engine.counters["solution of bad I2s"] == 6


def test_nobody_is_told_anything_without_a_solution() -> None:
    net, a, b = pair()
    i2 = bytearray(solved(net, a, b))
    at = bytes(i2).index(Packet(bytes(i2)).need(params.Solution).answer_j)
    heard = []
    for n in range(40):
        i2[at] = n
        heard += b.engine.on_control(bytes(i2), a.address, net.now)
    assert b.engine.counters["puzzle not solved"] > 20
    assert all(Packet(x.data).type is PacketType.NOTIFY for x in heard if isinstance(x, Transmit))
    assert len(heard) <= 40 - b.engine.counters["puzzle not solved"]


@pytest.mark.parametrize("kind", [PacketType.UPDATE, PacketType.HIP_DATA, PacketType.HDRR])
def test_what_we_do_not_speak_yet_is_counted_and_dropped(kind: PacketType) -> None:
    net, a, b = established()
    assert b.engine.on_control(build(kind, a.hit, b.hit, []), a.address, net.now) == []
    assert b.engine.counters[f"{kind.name} in ESTABLISHED"] == 1


def test_packets_that_are_not_for_us_are_counted_and_dropped() -> None:
    _, a, b = pair()
    stranger = HostIdentity.from_secret(99).hit
    groups = params.DhGroupList((7,))
    for sender, receiver, parameters, reason in (
        (a.hit, stranger, [groups], "not our HIT"),
        (b.hit, b.hit, [groups], "our own HIT from outside"),
        (a.hit, b.hit, [], "missing DH_GROUP_LIST"),
        (a.hit, b.hit, [params.Unknown(193, b""), groups], "unknown critical parameter"),
    ):
        packet = build(I1, sender, receiver, parameters)  # type: ignore[arg-type]
        assert b.engine.on_control(packet, a.address, 0.0) == []
        assert b.engine.counters[reason] == 1
    checksummed = build(I1, a.hit, b.hit, [groups])
    checksummed = checksummed[:4] + b"\0\1" + checksummed[6:]
    assert b.engine.on_control(checksummed, a.address, 0.0) == []
    assert b.engine.counters["HIP checksum over UDP"] == 1


def test_echo_requests_in_r1_come_back_in_i2() -> None:
    net, a, b = pair()

    def ask(seen: Seen) -> list[bytes]:
        if seen.kind != R1:
            return [seen.data]
        extra = params.encode(
            [params.EchoRequestUnsigned(b"middle"), params.EchoRequestUnsigned(b"box")]
        )
        length = (len(seen.data) + len(extra)) // 8 - 1
        return [seen.data[:1] + bytes((length,)) + seen.data[2:] + extra]

    net.tamper = ask
    net.connect(a, b)
    net.run(1.0)
    answers = Packet(net.sent(I2)[0].data).every(params.EchoResponseUnsigned)
    assert [answer.opaque for answer in answers] == [b"middle", b"box"]
    assert net.state(a, b) is State.ESTABLISHED


def test_too_much_to_echo_is_refused() -> None:
    net, a, b = pair()

    def ask(seen: Seen) -> list[bytes]:
        if seen.kind != R1:
            return [seen.data]
        extra = params.encode([params.EchoRequestUnsigned(bytes(513))])
        length = (len(seen.data) + len(extra)) // 8 - 1
        return [seen.data[:1] + bytes((length,)) + seen.data[2:] + extra]

    net.tamper = ask
    net.connect(a, b)
    net.run(1.0)
    assert a.engine.counters["too much to echo"] > 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(list(PacketType)), st.booleans())
def test_no_bytes_raise_out_of_the_engine(raw: bytes, kind: PacketType, framed: bool) -> None:
    net, a, b = ESTABLISHED
    before = [peer.engine.associations() for peer in (a, b)]
    if framed:
        body = raw + bytes(-len(raw) % 8)
        raw = build(kind, a.hit, b.hit, [])[:40] + body
        raw = raw[:1] + bytes((len(raw) // 8 - 1,)) + raw[2:]
    actions: list[Action] = b.engine.on_control(raw, a.address, net.now)
    assert all(isinstance(action, Transmit) for action in actions)
    assert [peer.engine.associations() for peer in (a, b)] == before


ESTABLISHED = established()


def test_a_puzzle_to_solve_says_all_that_the_solver_needs() -> None:
    net, a, b = pair()
    net.solve = False
    net.connect(a, b)
    net.run(0.01)
    r1 = net.sent(R1)[0].data
    (ask,) = a.engine.on_control(r1, b.address, net.now)
    assert isinstance(ask, SolvePuzzle)
    assert ask.prefix == Packet(r1).need(params.Puzzle).random_i + a.hit + b.hit
    assert (ask.k, ask.rhash) == (FAST.k, "sha384")
    assert ask.deadline == pytest.approx(net.now + 64)
