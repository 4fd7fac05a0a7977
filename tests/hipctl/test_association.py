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
from hipctl.responder import Responder
from hipctl.state import Shared, State
from sim.engines import FAST, Net, Peer

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
        {},
        Limiter(1.0, 1, 1),
    )
    made = Association(A, Responder(A, FAST, shared.rng), B.hit, shared)
    made.state = state
    return made


@pytest.mark.parametrize(("state", "kind"), CELLS, ids=str)
def test_an_empty_packet_changes_nothing_in_any_cell(state: State, kind: PacketType) -> None:
    machine = association(state)
    with pytest.raises((MalformedPacket, Rejected)):
        machine.on_packet(Packet(build(kind, B.hit, A.hit, [])), SOURCE, 1.0)
    assert machine.state is state
    assert machine.deadline() is None


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
