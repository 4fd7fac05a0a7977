"""New keys for an association that is up: nothing lost, nothing left behind."""

import random
from dataclasses import replace
from functools import partial

import pytest

from hipctl import esp
from hipctl.constants import PacketType
from hipctl.crypto import DhKey, Material
from hipctl.engine import EngineConfig
from hipctl.rekey import Rekey, Said
from hipctl.state import State
from sim.engines import FAST, UDP, Net, Peer, Seen, both_ways, established

OFTEN = replace(FAST, rekey_packets=50, rekey_lifetime=1e9)


def stream(net: Net, a: Peer, b: Peer, *, seconds: float, rate: float = 50.0) -> list[bytes]:
    """Both send numbered datagrams; what b got from a."""
    begin, count = net.now, int(seconds * rate)
    b.datagrams.clear()
    a.datagrams.clear()
    for i in range(count):
        net.at(begin + i / rate, partial(net.send, a, b.hit, UDP, b"%d" % i))
        net.at(begin + i / rate, partial(net.send, b, a.hit, UDP, b"%d" % i))
    net.run(begin + seconds + 1)
    return [payload for _, payload in b.datagrams]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


def spis(peer: Peer) -> set[int]:
    return set(peer.engine.inbound)


@pytest.mark.parametrize("dh", [True, False])
def test_a_stream_is_rekeyed_by_count_and_loses_and_reorders_nothing(dh: bool) -> None:
    net, a, b = established(replace(OFTEN, rekey_packets=500, rekey_dh=dh))
    before = spis(a), spis(b)
    assert stream(net, a, b, seconds=120) == numbers(6000)
    assert [payload for _, payload in a.datagrams] == numbers(6000)
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] >= 6
    net.run(net.now + 100)
    assert len(spis(a)) == len(spis(b)) == 1
    assert not spis(a) & before[0]
    assert not spis(b) & before[1]
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED


def test_used_keys_are_renewed_after_their_lifetime_and_unused_ones_are_not() -> None:
    config = replace(FAST, rekey_lifetime=100.0, unused_lifetime=1e9)
    net, a, b = established(config)
    net.run(net.now + 120)
    assert a.engine.counters["rekeyed"] == 1  # the first datagram
    net.run(net.now + 1000)
    assert a.engine.counters["rekeyed"] == 1
    both_ways(net, a, b)
    net.run(net.now + 120)
    assert a.engine.counters["rekeyed"] == 2


def rekey_both(net: Net, a: Peer, b: Peer) -> None:
    for peer, other in ((a, b), (b, a)):
        association = peer.engine._associations[peer.hit, other.hit]
        upkeep = association.standing.upkeep
        assert upkeep is not None
        net.perform(peer, upkeep.start_rekey(net.now))
        peer.engine._settle(association)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_rekeys_that_cross_are_one(ours: bool, theirs: bool) -> None:
    net, a, b = established(replace(FAST, rekey_dh=ours))
    b.engine._shared.config = replace(FAST, rekey_dh=theirs)
    net.run(net.now + 2)
    rekey_both(net, a, b)
    net.run(net.now + 1)
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] == 1
    both_ways(net, a, b)
    net.run(net.now + 100)
    assert len(spis(a)) == len(spis(b)) == 1


@pytest.mark.parametrize("lost", range(4))
def test_a_rekey_survives_the_loss_of_any_of_its_packets(lost: int) -> None:
    net, a, b = established()
    net.run(net.now + 2)
    seen = 0

    def lose(packet: Seen) -> list[bytes]:
        nonlocal seen
        if packet.kind != PacketType.UPDATE:
            return [packet.data]
        seen += 1
        return [] if seen == lost + 1 else [packet.data]

    net.tamper = lose
    association = a.engine._associations[a.hit, b.hit]
    assert association.standing.upkeep is not None
    net.perform(a, association.standing.upkeep.start_rekey(net.now))
    a.engine._settle(association)
    stream(net, a, b, seconds=4)
    assert len(b.datagrams) == len(a.datagrams) == 200
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] == 1


def test_data_under_the_new_keys_stands_for_the_ack() -> None:
    net, a, b = established()
    net.run(net.now + 2)
    acks = 0

    def lose(packet: Seen) -> list[bytes]:
        nonlocal acks
        acks += packet.kind == PacketType.UPDATE
        return [packet.data] if acks <= 2 else []  # the first's answer gets through, no more

    net.tamper = lose
    association = a.engine._associations[a.hit, b.hit]
    assert association.standing.upkeep is not None
    net.perform(a, association.standing.upkeep.start_rekey(net.now))
    a.engine._settle(association)
    net.run(net.now + 0.1)
    assert (a.engine.counters["rekeyed"], b.engine.counters["rekeyed"]) == (1, 0)
    both_ways(net, a, b)
    assert b.engine.counters["rekeyed"] == 1


def test_keymat_that_runs_out_brings_new_dh_even_where_none_is_wanted() -> None:
    net, a, b = established(replace(FAST, rekey_dh=False, unused_lifetime=1e9))
    for _ in range(400):
        association = a.engine._associations[a.hit, b.hit]
        assert association.standing.upkeep is not None
        net.perform(a, association.standing.upkeep.start_rekey(net.now))
        a.engine._settle(association)
        net.run(net.now + 2)
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] == 400
    both_ways(net, a, b)


def test_a_peer_that_never_acknowledges_a_rekey_is_doubted_and_data_goes_on() -> None:
    net, a, b = established()
    net.run(net.now + 2)
    net.tamper = lambda seen: [] if seen.kind == PacketType.UPDATE else [seen.data]
    association = a.engine._associations[a.hit, b.hit]
    assert association.standing.upkeep is not None
    net.perform(a, association.standing.upkeep.start_rekey(net.now))
    a.engine._settle(association)
    stream(net, a, b, seconds=40)
    # RFC 7402 §6.5: the new exchange replaces the SAs at once, what was on its way is lost
    assert min(len(b.datagrams), len(a.datagrams)) >= 1998
    assert a.engine.counters["unacknowledged"] == 1
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    net.run(net.now + 100)
    assert len(spis(a)) == len(spis(b)) == 1


def test_the_end_of_the_sequence_space_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esp, "LAST_SEQUENCE", 1500)
    net, a, b = established(EngineConfig(k=2, rekey_packets=500))
    assert stream(net, a, b, seconds=60) == numbers(3000)


def test_metered_sas_seal_what_they_may_and_count_only_that() -> None:
    sa = esp.OutboundSa(esp.AES_GCM_16, 300, bytes(20))
    sa.meter(250)
    sa.seal(UDP, bytes(100))
    with pytest.raises(esp.CreditExhausted):
        sa.seal(UDP, bytes(100))
    assert sa.packets == 1
    sa.unmeter()
    sa.seal(UDP, bytes(100))
    assert (sa.packets, sa.metered) == (2, False)


def test_the_greater_keymat_index_of_both_counts() -> None:
    rng = random.Random(1).randbytes
    here, there = DhKey(7, rng), DhKey(7, rng)
    salt, hits = bytes(96), (b"a" * 16, b"b" * 16)
    one = Material.of("sha384", salt, here, there.public, 200)
    two = Material.of("sha384", salt, there, here.public, 200)
    ours, theirs = Said(200, 301, None), Said(280, 302, None)
    a, b = Rekey(300, ours, None, 0.0), Rekey(300, theirs, None, 0.0)
    a.agree(theirs, one, esp.AES_GCM_16, hits)
    b.agree(ours, two, esp.AES_GCM_16, hits[::-1])
    assert a.material is not None
    assert b.material is not None
    assert a.material.index == b.material.index == 320
    assert a.outbound is not None
    assert b.inbound is not None
    assert b.inbound.open(a.outbound.seal(UDP, b"data")) == (UDP, b"data")
