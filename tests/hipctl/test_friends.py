"""Friends are called again and again, and at once when that is worth more."""

from hipctl.constants import PacketType
from sim.servers import ServerNet


def test_who_wakes_calls_its_friends_at_once() -> None:
    net = ServerNet()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.dead.add(b.address)
    a.engine.befriend(a.hit, [b.hit], net.now)
    net.run(5.0)
    assert len(net.sent(PacketType.I1)) == 1
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.perform(a, a.engine.woke(net.now))
    net.run(net.now + 1.0)
    assert len(net.sent(PacketType.I1)) == 2


def test_who_has_no_friends_any_more_calls_nobody() -> None:
    net = ServerNet()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.dead.add(b.address)
    a.engine.befriend(a.hit, [b.hit], net.now)
    a.engine.befriend(a.hit, [], net.now)
    net.run(300.0)
    assert not net.sent(PacketType.I1)
    assert a.engine.deadline() is None
