"""What RFC 7401 §4.1.8 asks for and test_opportunistic doesn't show; see docs/conformance."""

from dataclasses import replace

from hipctl import params
from hipctl.actions import PeerFound
from hipctl.constants import PacketType
from hipctl.packet import Packet, build
from sim.engines import FAST, Net, Seen

BOTH = replace(FAST, opportunistic_initiator=True, opportunistic_responder=True)


def test_an_r1_from_a_hit_of_an_unknown_suite_is_used_for_nothing() -> None:
    for suite in (1, 3):
        net = Net()
        a, b = net.add(BOTH), net.add(BOTH)

        def other_suite(seen: Seen, suite: int = suite) -> list[bytes]:
            if seen.kind != PacketType.R1:
                return [seen.data]
            old = Packet(seen.data)
            hit = old.sender[:3] + bytes((old.sender[3] & 0xF0 | suite,)) + old.sender[4:]
            kept = [p for p in old.parameters() if not isinstance(p, params.Unknown)]
            changed = [p for p in kept if not isinstance(p, params.HitSuiteList)]
            return [
                build(PacketType.R1, hit, old.receiver, [*changed, params.HitSuiteList((0x10,))])
            ]

        net.tamper = other_suite
        net.perform(a, a.engine.connect_opportunistic(a.hit, b.address, net.now))
        net.run(60.0)
        assert a.found == [PeerFound(a.hit, b.address, None)]
        assert not net.sent(PacketType.I2)
        assert a.engine.associations() == []
        i1s = {seen.data for seen in net.sent(PacketType.I1)}
        assert len(i1s) == 1  # and no other source HIT was tried because of it


def test_another_hi_at_the_same_address_is_taken_as_it_comes() -> None:
    net = Net()
    a, b = net.add(BOTH), net.add(BOTH)
    net.perform(a, a.engine.connect_opportunistic(a.hit, b.address, net.now))
    net.run(1.0)
    del net.peers[b.address]
    c = net.add(BOTH, name=b.address[0])
    net.perform(a, a.engine.connect_opportunistic(a.hit, c.address, net.now))
    net.run(2.0)
    assert [found.peer for found in a.found] == [b.hit, c.hit]
