"""The base exchange between two engines, and what time does to it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import esp, params
from hipctl.constants import EccCurve, PacketType
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build
from hipctl.state import State
from sim.engines import FAST, UDP, Net, Seen, both_ways, downs, established, pair, solved, ups

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
P256, P384 = EccCurve.NIST_P256, EccCurve.NIST_P384


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


def test_i1_goes_to_the_peer_s_own_addresses_first_and_to_its_servers_last() -> None:
    net, a, b = pair()
    own = [("198.51.100.9", 1), ("198.51.100.2", 1), ("203.0.113.7", 10500)]
    servers = [("192.0.2.200", 10500), ("192.0.2.100", 10500)]
    a.engine.learn(b.hit, own[:2], servers)
    a.engine.recall(b.hit, own[2])  # where it was, after where it is said to be
    net.connect(a, b)
    net.run(8.0)
    assert [seen.to for seen in net.wire] == [*own, *own[1:], *servers]


def test_i1_goes_to_servers_at_once_where_there_is_room_for_them() -> None:
    net, a, b = pair()
    own, servers = ("203.0.113.7", 1), [(f"192.0.2.{n}", 10500) for n in (200, 100, 150)]
    a.engine.learn(b.hit, [own], servers)
    net.connect(a, b)
    net.run(4.0)
    assert [seen.to for seen in net.wire] == [own, *servers[:2], *servers]


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
    net.send(a, b.hit, UDP, b"again")  # an exchange may have failed on one side only,
    net.run(net.now + 20)  # or still be repeating its I2
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
