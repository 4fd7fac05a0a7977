"""I1s without receiver: off unless asked for; and who may associate at all."""

import asyncio
from dataclasses import replace

import pytest

from hipctl import params
from hipctl.access import Access
from hipctl.actions import PeerFound, Transmit
from hipctl.constants import PacketType
from hipctl.errors import AssociationFailed, HostConfigRefused
from hipctl.host import LocalHost
from hipctl.hostconfig import HostConfig
from hipctl.identity import NULL_HIT, HostIdentity
from hipctl.packet import build
from hipctl.state import State
from sim.engines import FAST, Net, Peer, both_ways, downs, established, pair, ups

BOTH = replace(FAST, opportunistic_initiator=True, opportunistic_responder=True)


def strangers(ours: object = BOTH, theirs: object = BOTH) -> tuple[Net, Peer, Peer]:
    net = Net()
    return net, net.add(ours), net.add(theirs)  # type: ignore[arg-type]


def ask(net: Net, a: Peer, b: Peer) -> None:
    net.perform(a, a.engine.connect_opportunistic(a.hit, b.address, net.now))


def test_whoever_answers_becomes_the_peer() -> None:
    net, a, b = strangers()
    ask(net, a, b)
    net.run(1.0)
    assert a.found == [PeerFound(a.hit, b.address, b.hit)]
    assert [up.peer for up in ups(a)] == [b.hit]
    assert ups(a)[0].seconds == pytest.approx(0.04, abs=0.001)  # counted from the first I1
    both_ways(net, a, b)
    i1, *_ = net.sent(PacketType.I1)
    assert i1.data[24:40] == NULL_HIT
    assert len(net.sent(PacketType.I1)) == 1


def test_it_works_over_a_path_that_loses() -> None:
    done = 0
    for seed in range(10):
        net, a, b = strangers()
        net.random.seed(seed)
        net.loss = 0.3
        ask(net, a, b)
        net.run(60.0)
        done += bool(a.found and a.found[0].peer == b.hit and ups(a))
        assert a.engine.deadline() is None or a.engine.associations()
    assert done >= 8


def test_a_responder_does_not_answer_unless_asked_to() -> None:
    net, a, b = strangers(theirs=FAST)
    ask(net, a, b)
    net.run(120.0)
    assert b.engine.counters["opportunistic I1"] == FAST.retransmit_max
    assert net.sent(PacketType.R1) == []
    assert a.found == [PeerFound(a.hit, b.address, None)]
    assert a.engine.deadline() is None


def test_an_initiator_refuses_unless_asked_to() -> None:
    net, a, b = strangers(ours=FAST)
    with pytest.raises(HostConfigRefused, match="opportunistic_initiator"):
        ask(net, a, b)


def test_no_failure_falls_back_to_it() -> None:
    net, a, b = pair(BOTH)
    b.engine.set_access([], (), 0.0)
    net.send(a, b.hit, 17, b"x")
    net.run(120.0)
    assert all(seen.data[24:40] == b.hit for seen in net.sent(PacketType.I1))


def test_only_an_r1_from_where_we_asked_counts() -> None:
    net, a, b = strangers()
    other = net.add(BOTH)
    ask(net, a, b)
    i1 = net.sent(PacketType.I1)[0].data
    for action in other.engine.on_control(i1, a.address, 0.0):
        net.perform(other, [action])  # comes from the other's address
    net.run(0.015)
    assert a.found == []
    net.run(1.0)
    assert [found.peer for found in a.found] == [b.hit]


def test_a_forged_r1_does_not_end_the_question() -> None:
    net, a, b = strangers()
    ask(net, a, b)
    net.run(0.015)
    (r1,) = net.sent(PacketType.R1)
    broken = r1.data[:-20] + bytes(20)
    assert a.engine.on_control(broken, b.address, net.now) == []
    assert a.found == []
    net.run(1.0)
    assert a.found[0].peer == b.hit


def test_who_is_a_peer_already_is_found_at_its_address() -> None:
    net, a, b = established(BOTH)
    ask(net, a, b)
    net.run(2.0)
    assert a.found == [PeerFound(a.hit, b.address, b.hit)]
    assert len(ups(a)) == 1


def test_an_address_is_not_tied_to_who_was_there_before() -> None:
    net, a, b = strangers()
    ask(net, a, b)
    net.run(1.0)
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(30.0)
    b.identity = HostIdentity.from_secret(4711)
    net.restart(b, BOTH)
    ask(net, a, b)
    net.run(31.0)
    assert [found.peer for found in a.found[1:]] == [b.hit]
    assert net.state(a, b) is State.ESTABLISHED


def test_of_an_r1_from_a_hit_of_an_unknown_suite_nothing_is_used() -> None:
    net, a, b = strangers()
    ask(net, a, b)
    net.run(0.015)
    (r1,) = net.sent(PacketType.R1)
    other = r1.data[:11] + bytes((r1.data[11] & 0xF0 | 9,)) + r1.data[12:]
    assert a.engine.on_control(other, b.address, net.now) == []
    assert a.engine.counters["unknown HIT suite"] == 1
    assert a.engine.associations() == []
    net.run(1.0)
    assert a.found[0].peer == b.hit


def test_the_answer_comes_from_the_default_identity_whatever_the_initiators_suite() -> None:
    _, a, b = strangers()
    for suite in (1, 2, 9):
        sender = a.hit[:3] + bytes((0x20 | suite,)) + a.hit[4:]
        i1 = build(PacketType.I1, sender, NULL_HIT, [params.DhGroupList((7,))])
        (r1,) = b.engine.on_control(i1, a.address, 0.0)
        assert isinstance(r1, Transmit)
        assert r1.data[8:24] == b.hit


def test_questions_are_bounded() -> None:
    net, a, _ = strangers(replace(BOTH, max_exchanges=2))
    for n in range(5):
        net.perform(a, a.engine.connect_opportunistic(a.hit, (f"192.0.2.{n}", 1), 0.0))
    assert [found.peer for found in a.found] == [None] * 3
    assert a.engine.counters["too many exchanges"] == 3


def test_only_i1_may_lack_its_receiver() -> None:
    _, a, b = strangers()
    for kind in set(PacketType) - {PacketType.I1}:
        b.engine.on_control(build(kind, a.hit, NULL_HIT, []), a.address, 0.0)
    assert b.engine.counters == {"no HIT in header": len(PacketType) - 1}


# -- lists -------------------------------------------------------------------------------------


def test_deny_beats_allow_and_no_list_lets_all_in() -> None:
    one, two = (HostIdentity.from_secret(n).hit for n in (1, 2))
    assert Access().permits(one)
    assert not Access(deny=[one]).permits(one)
    assert [Access([one]).permits(hit) for hit in (one, two)] == [True, False]
    assert not Access([one], [one]).permits(one)
    assert not Access([]).permits(one)


@pytest.mark.parametrize("kind", list(PacketType), ids=str)
def test_who_is_denied_gets_no_answer_to_anything(kind: PacketType) -> None:
    _, a, b = pair()
    b.engine.set_access(None, [a.hit], 0.0)
    packet = build(kind, a.hit, b.hit, [params.DhGroupList((7,))])
    assert b.engine.on_control(packet, a.address, 0.0) == []
    assert b.engine.counters == {"HIT denied": 1}


def test_lists_change_while_associations_live() -> None:
    net, a, b = established()
    net.perform(b, b.engine.set_access(None, [a.hit], net.now))
    net.run(net.now + 1)
    assert downs(b) == ["closed"]
    assert downs(a) == ["closed by the peer"]
    assert not b.engine.inbound
    assert not b.engine.outbound
    net.send(a, b.hit, 17, b"x")
    net.perform(b, b.engine.connect(b.hit, a.hit, net.now))
    net.run(net.now + 60)
    assert downs(b)[-1] == "denied"
    assert net.state(b, a) is State.UNASSOCIATED
    b.engine.set_access([a.hit], (), net.now)
    both_ways(net, a, b)


def test_an_address_may_be_written_in_any_way() -> None:
    a, b = (HostIdentity.from_secret(n) for n in (1, 2))
    config = HostConfig(listen=(("::1", 0),), engine=BOTH)

    async def main() -> None:
        async with LocalHost([a], config) as ours, LocalHost([b], config) as theirs:
            port = theirs.addresses[0][1]
            assert await ours.connect_opportunistic(("0:0::0001", port)) == b.hit
            with pytest.raises(AssociationFailed, match="no IP address"):
                await ours.connect_opportunistic(("example.org", port))

    asyncio.run(main())


def test_a_host_finds_the_hit_at_an_address() -> None:
    a, b = (HostIdentity.from_secret(n) for n in (1, 2))

    def config(engine: object) -> HostConfig:
        return HostConfig(listen=(("127.0.0.1", 0),), engine=engine)  # type: ignore[arg-type]

    async def main() -> None:
        async with LocalHost([a], config(BOTH)) as ours, LocalHost([b], config(BOTH)) as theirs:
            assert await ours.connect_opportunistic(theirs.addresses[0]) == b.hit
            assert ours.connected(b.hit)
            assert await ours.connect_opportunistic(theirs.addresses[0]) == b.hit
            theirs.set_access([])
            await asyncio.sleep(0.05)
            assert not ours.connected(b.hit)
            with pytest.raises(AssociationFailed, match="did not answer"):
                await ours.connect_opportunistic(theirs.addresses[0], timeout=0.2)
        async with LocalHost([a], config(BOTH)) as ours:
            asking = asyncio.create_task(ours.connect_opportunistic(("127.0.0.1", 9)))
            await asyncio.sleep(0.01)
        with pytest.raises(AssociationFailed):
            await asyncio.wait_for(asking, 1)
        async with LocalHost([a], config(FAST)) as ours:
            with pytest.raises(HostConfigRefused, match="opportunistic_initiator"):
                await ours.connect_opportunistic(("127.0.0.1", 9))

    asyncio.run(main())
