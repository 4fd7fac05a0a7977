"""Whoever isn't our peer, or pretends to be: what it costs them, and us."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import params
from hipctl.actions import Action, SolvePuzzle, Transmit
from hipctl.constants import NotifyType, PacketType
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build
from hipctl.state import State
from sim.engines import (
    FAST,
    Seen,
    downs,
    established,
    pair,
    solved,
    ups,
)

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2


# -- strangers ---------------------------------------------------------------------------------


def test_a_stranger_leaves_no_state_behind_before_a_valid_i2() -> None:
    net, a, b = pair()
    net.tamper = lambda seen: [seen.data] if seen.kind != I2 else []
    net.connect(a, b)
    net.run(30.0)
    assert b.engine.associations() == []
    assert not b.engine.inbound
    assert b.engine.deadline() is None


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
    # nor from another port of the same: that is somebody else behind the same NAT
    assert b.engine.on_control(i2, (a.address[0], 4321), net.now) == []
    assert b.engine.counters["I2 answers no R1 of ours"] == 2
    assert b.engine.on_control(i2, a.address, net.now)


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
    answers = [len(b.engine.on_control(i1, ("203.0.113.1", n), 0.0)) for n in range(1, 11)]
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
    net, a, b = pair(replace(FAST, bad_i2_burst=100))
    i2 = bytearray(solved(net, a, b))
    at = bytes(i2).index(Packet(bytes(i2)).need(params.Solution).answer_j)
    heard = []
    for n in range(40):
        i2[at] = n
        heard += b.engine.on_control(bytes(i2), a.address, net.now)
    assert b.engine.counters["puzzle not solved"] > 20
    assert all(Packet(x.data).type is PacketType.NOTIFY for x in heard if isinstance(x, Transmit))
    assert len(heard) <= 40 - b.engine.counters["puzzle not solved"]


@pytest.mark.parametrize("kind", [PacketType.HIP_DATA, PacketType.HDRR])
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
        (a.hit, b.hit, [params.Unknown(195, b""), groups], "unknown critical parameter"),
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
