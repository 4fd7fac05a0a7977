"""What an intruder without keys, and a peer with keys and bad intentions, may not achieve."""

import contextlib

from hipctl import params
from hipctl.actions import Address, Path
from hipctl.esp import CreditExhausted
from hipctl.packet import finish
from hipctl.sas import Outbound
from hipctl.state import State
from hipctl.upkeep import Upkeep
from hipctl.wire import frame
from sim.engines import UDP, Net, Peer, both_ways, established

ELSEWHERE: Address = ("198.51.100.7", 10500)
VICTIM: Address = ("203.0.113.66", 10500)


def upkeep_of(peer: Peer, other: Peer) -> Upkeep:
    found = peer.engine._associations[peer.hit, other.hit]._upkeep
    assert found is not None
    return found


def update(a: Peer, b: Peer, *parameters: params.Parameter) -> bytes:
    """An UPDATE with a's keys."""
    upkeep = upkeep_of(a, b)
    return upkeep._make([params.Seq(upkeep._updates.number()), *parameters])


def listing(*addresses: Address) -> params.LocatorSet:
    return params.LocatorSet(
        tuple(params.Locator(2, *addresses[i], preferred=not i) for i in range(len(addresses)))
    )


def flood(outbound: Outbound) -> int:
    """Send until nothing may be sent any more; how many bytes that were."""
    sent = 0
    with contextlib.suppress(CreditExhausted):
        while sent < 10**6:
            sent += len(outbound.sa.seal(UDP, bytes(160)))
    return sent


def spoken() -> tuple[Net, Peer, Peer, Outbound]:
    """a has earned credit with b by 100 packets; how b sends to a."""
    net, a, b = established()
    for _ in range(100):
        net.send(a, b.hit, UDP, bytes(160))
    net.run(net.now + 1.5)
    return net, a, b, b.engine.outbound[b.hit, a.hit]


def test_echo_requests_that_an_intruder_appends_fill_no_packet_beyond_its_end() -> None:
    net, a, b = established()
    data = update(a, b)
    request = frame(params.EchoRequestUnsigned.TYPE, b"")
    laden = finish(data + request * ((2040 - len(data)) // len(request)))
    assert b.engine.on_control(laden, ELSEWHERE, net.now) == []
    assert b.engine.counters["too much to echo"] == 1
    assert b.engine.on_control(data, a.address, net.now)
    both_ways(net, a, b)


def test_going_to_and_fro_does_not_give_credit_back() -> None:
    net, a, b, outbound = spoken()
    mobility, sent = upkeep_of(b, a)._mobility, 0
    for _ in range(10):
        b.engine.on_control(update(a, b, listing(VICTIM, ELSEWHERE)), VICTIM, net.now)
        assert outbound.address == VICTIM
        sent += flood(outbound)
        mobility.answered(Path(None, ELSEWHERE), net.now)  # when it has been flooded enough
        assert outbound.address == ELSEWHERE
        assert not outbound.sa.metered
        b.engine.on_control(update(a, b, listing(VICTIM)), VICTIM, net.now)
    assert 0 < sent < 102 * 220


def test_new_keys_do_not_give_credit_back() -> None:
    net, a, b, outbound = spoken()
    before, rekeying = outbound.sa, upkeep_of(a, b)._rekeying
    assert rekeying.begin(net.now)
    assert rekeying.pending is not None
    said = rekeying.pending.parameters()
    b.engine.on_control(update(a, b, listing(VICTIM), *said), VICTIM, net.now)
    assert flood(outbound) > 0
    mine = tuple(upkeep_of(b, a)._updates.outstanding)
    b.engine.on_control(upkeep_of(a, b)._make([params.Ack(mine)]), VICTIM, net.now)
    assert outbound.sa is not before
    assert outbound.sa.metered
    assert flood(outbound) == 0
    assert net.state(b, a) is State.ESTABLISHED
