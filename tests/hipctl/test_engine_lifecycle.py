"""Restarts, ends and limits of associations."""

import random
from dataclasses import replace

import pytest

from hipctl import params
from hipctl.actions import Flush, Transmit
from hipctl.constants import PacketType
from hipctl.engine import Engine
from hipctl.errors import HostConfigRefused
from hipctl.packet import Packet, build
from hipctl.state import Ping, State
from sim.engines import (
    FAST,
    UDP,
    Net,
    Seen,
    both_ways,
    downs,
    established,
    pair,
    ups,
)

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2


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


def test_an_echo_that_was_wanted_before_the_end_begins_nothing_after_it() -> None:
    net, a, b = established()
    shared = a.engine._shared
    shared.errands.append(Ping(a.hit, b.hit))
    assert [type(each) for each in a.engine.on_time(net.now)] == [Flush]
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 1)
    shared.errands.append(Ping(a.hit, b.hit))
    assert a.engine.on_time(net.now) == []


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
