"""Associations by chance: whoever waits has a timer. Cells are in test_transitions."""

import itertools
from collections import Counter

import pytest

from hipctl.association import Association
from hipctl.constants import PacketType
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostIdentity
from hipctl.limits import Limiter
from hipctl.packet import Packet, build
from hipctl.params import DhGroupList
from hipctl.responder import Responder
from hipctl.state import Shared, State
from sim.engines import FAST, UDP, Net, Peer, downs, pair

A, B = (HostIdentity.from_secret(n) for n in (1, 2))
CELLS = list(itertools.product(State, PacketType))
SOURCE = ("192.0.2.2", 10500)


def association(state: State) -> Association:
    numbers = itertools.count(1)
    shared = Shared(
        FAST,
        lambda n: next(numbers).to_bytes(n, "big"),
        Counter(),
        {},
        {},
        Limiter(1.0, 1, 1),
    )
    made = Association(A, Responder(A, FAST, shared.rng), B.hit, shared)
    made.state = state
    made._attempt._said[SOURCE] = 1.0
    return made


@pytest.mark.parametrize(("state", "kind"), CELLS, ids=str)
def test_an_empty_packet_changes_nothing_in_any_cell(state: State, kind: PacketType) -> None:
    machine = association(state)
    with pytest.raises((MalformedPacket, Rejected)):
        machine.on_packet(Packet(build(kind, B.hit, A.hit, [])), SOURCE, 1.0)
    assert machine.state is state
    assert machine.deadline() is None


def asleep(net: Net, peer: Peer) -> None:
    net.dead = {peer.address}


def test_whoever_stays_initiator_answers_an_i1_with_its_own_at_once() -> None:
    net, a, b = pair()
    first, second = (a, b) if a.hit < b.hit else (b, a)
    asleep(net, second)
    net.connect(first, second)
    net.run(5.0)  # its next I1 is due at 7.5
    net.dead = set()
    net.connect(second, first)
    net.run(5.3)
    assert net.state(first, second) is State.ESTABLISHED


def test_i1s_that_cross_draw_no_more_i1s_than_a_pause_allows() -> None:
    net, a, b = pair()
    first, second = (a, b) if a.hit < b.hit else (b, a)
    net.connect(first, second)
    asleep(net, second)
    net.wire.clear()
    i1 = build(PacketType.I1, second.hit, first.hit, [DhGroupList(FAST.groups)])
    for _ in range(100):
        net.perform(first, first.engine.on_control(i1, ("203.0.113.9", 9), net.now))
        net.run(net.now + 0.01)
    assert len(net.sent(PacketType.I1)) <= 4
    assert sum(seen.to[0] == "203.0.113.9" for seen in net.sent(PacketType.I1)) <= 2


def test_i1s_that_cross_from_where_ours_do_not_go_are_answered_though_both_began_together() -> (
    None
):
    """The peer has moved, or a NAT makes each packet of its come from elsewhere."""
    net, a, b = pair()
    first, second = (a, b) if a.hit < b.hit else (b, a)
    first.engine.learn(second.hit, [("203.0.113.9", 9)])  # where it was
    net.connect(first, second)
    net.connect(second, first)
    net.run(0.3)
    assert net.state(first, second) is State.ESTABLISHED


def test_i1s_that_cross_from_many_addresses_draw_one_more_at_each_pause() -> None:
    net, a, b = pair()
    first, second = (a, b) if a.hit < b.hit else (b, a)
    net.connect(first, second)
    asleep(net, second)
    net.wire.clear()
    i1 = build(PacketType.I1, second.hit, first.hit, [DhGroupList(FAST.groups)])
    for n in range(100):
        net.perform(first, first.engine.on_control(i1, ("203.0.113.9", 1 + n), net.now))
        net.run(net.now + 0.01)
    assert sum(seen.to[0] == "203.0.113.9" for seen in net.sent(PacketType.I1)) <= 2
    assert len(first.engine._associations[first.hit, second.hit]._attempt._said) <= 8


def test_who_wants_an_association_now_waits_for_no_retransmission() -> None:
    net, a, b = pair()
    asleep(net, b)
    net.connect(a, b)
    net.run(5.0)
    net.dead = set()
    net.connect(a, b)
    net.run(5.3)
    assert net.state(a, b) is State.ESTABLISHED


def test_a_datagram_hurries_an_attempt_but_prolongs_it_not() -> None:
    net, a, b = pair()
    asleep(net, b)
    net.connect(a, b)
    for _ in range(101):
        net.send(a, b.hit, UDP, b"now")
        net.run(net.now + 0.155)
    times = [seen.at for seen in net.sent(PacketType.I1)]
    assert times[:3] == [0.0, 0.5, 1.5]
    assert 5 < len(times) <= 5 + 15.5  # one a second
    assert downs(a) == ["no R1 came"]
    net.dead = set()
    net.send(a, b.hit, UDP, b"now")
    net.run(net.now + 0.1)
    assert net.state(a, b) is State.ESTABLISHED


def waits(net: Net, peer: Peer, other: Peer) -> None:
    """It waits for something if and only if a timer is armed."""
    state, deadline = net.state(peer, other), peer.engine.deadline()
    if state in (State.UNASSOCIATED, State.E_FAILED):
        assert peer.engine.associations() == []
    else:
        assert deadline is not None
        assert deadline <= net.now + FAST.unused_lifetime


@pytest.mark.parametrize("seed", range(8))
def test_whoever_waits_has_a_timer(seed: int) -> None:
    net = Net(seed)
    net.loss, net.jitter = 0.3, 0.2
    a, b = net.add(), net.add()
    net.introduce(a, b)
    for step in range(60):
        match net.random.randrange(6):
            case 0:
                net.send(a, b.hit, 17, b"x")
            case 1:
                net.send(b, a.hit, 17, b"y")
            case 2:
                net.perform(a, a.engine.close(a.hit, b.hit, net.now))
            case _:
                net.run(net.now + net.random.random() * 3)
        waits(net, a, b)
        waits(net, b, a)
        assert len(a.engine.inbound) <= 2, step


def chance(net: Net, a: Peer, b: Peer) -> None:
    """One of the things that happen to two peers."""
    first, second = (a, b) if net.random.random() < 0.5 else (b, a)
    match net.random.randrange(8):
        case 0 | 1 | 2:
            net.send(first, second.hit, 17, b"x")
        case 3:
            net.perform(first, first.engine.close(first.hit, second.hit, net.now))
        case 4:
            net.restart(first)
            first.engine.learn(second.hit, [second.address])
    net.run(net.now + net.random.random() * 3)


def talk(net: Net, a: Peer, b: Peer) -> bool:
    a.datagrams.clear()
    b.datagrams.clear()
    net.send(a, b.hit, 17, b"there")
    net.send(b, a.hit, 17, b"back")
    net.run(net.now + 1)
    return bool(a.datagrams and b.datagrams)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_has_happened_both_sides_talk_again(seed: int) -> None:
    net = Net(seed)
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.loss = net.duplicates = 0.2
    net.jitter = 0.3
    for _ in range(12):
        chance(net, a, b)
    net.run(net.now + 20)
    net.loss = net.duplicates = net.jitter = 0.0
    assert any(talk(net, a, b) for _ in range(70))  # at once, or once one doubts the other
    assert talk(net, a, b)
    assert len(a.engine.inbound) == len(b.engine.inbound) == 1
