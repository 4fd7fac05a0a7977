"""What an intruder without keys, and a peer with keys and bad intentions, may not achieve."""

import contextlib

import pytest

from hipctl import params
from hipctl.actions import Address, Path, Transmit
from hipctl.constants import PacketType
from hipctl.esp import CreditExhausted
from hipctl.identity import HostId
from hipctl.locators import usable
from hipctl.packet import finish
from hipctl.sas import Outbound
from hipctl.state import State
from hipctl.upkeep import Upkeep
from hipctl.wire import frame
from sim.engines import UDP, Net, Peer, both_ways, established

ELSEWHERE: Address = ("198.51.100.7", 10500)
VICTIM: Address = ("203.0.113.66", 10500)


def upkeep_of(peer: Peer, other: Peer) -> Upkeep:
    found = peer.engine._associations[peer.hit, other.hit].standing.upkeep
    assert found is not None
    return found


def update(a: Peer, b: Peer, *parameters: params.Parameter) -> bytes:
    """An UPDATE with a's keys."""
    upkeep = upkeep_of(a, b)
    return upkeep.outbox.make([params.Seq(upkeep.outbox.updates.number()), *parameters])


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
    mobility, sent = upkeep_of(b, a)._paths, 0
    for _ in range(10):
        b.engine.on_control(update(a, b, listing(VICTIM, ELSEWHERE)), VICTIM, net.now)
        assert outbound.address == VICTIM
        sent += flood(outbound)
        mobility.answered(
            Path(None, ELSEWHERE), net.now, straight=True
        )  # when it has been flooded enough
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
    mine = tuple(upkeep_of(b, a).outbox.updates.outstanding)
    b.engine.on_control(upkeep_of(a, b).outbox.make([params.Ack(mine)]), VICTIM, net.now)
    assert outbound.sa is not before
    assert outbound.sa.metered
    assert flood(outbound) == 0
    assert net.state(b, a) is State.ESTABLISHED


def test_a_peer_elsewhere_cannot_send_us_to_our_own_machine() -> None:
    net, a, b = established()
    for ip in ("127.0.0.1", "::1"):
        data = update(a, b, listing((ip, 5060)))
        answers = b.engine.on_control(data, a.address, net.now)
        assert {answer.to for answer in answers if isinstance(answer, Transmit)} == {a.address}
    both_ways(net, a, b)


def test_a_peer_on_our_own_machine_may_name_other_addresses_of_it() -> None:
    listed = params.Locator(2, "127.0.0.2", 10500)
    assert usable(listed, 1, ("127.0.0.1", 10500)) == ("127.0.0.2", 10500)
    assert usable(listed, 1, None) is None


def test_replayed_updates_cost_no_signature_once_enough_were_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, a, b = established()
    seen = update(a, b)
    assert b.engine.on_control(seen, a.address, net.now)
    checked, verify = [], HostId.verify

    def counting(host_id: HostId, signature: bytes, data: bytes) -> bool:
        checked.append(signature)
        return verify(host_id, signature, data)

    monkeypatch.setattr(HostId, "verify", counting)
    for _ in range(1000):
        b.engine.on_control(seen, ELSEWHERE, net.now)
    assert len(checked) <= 10
    assert b.engine.counters["UPDATE repeated too often"] >= 990
    assert b.engine.on_control(update(a, b), a.address, net.now)  # what is new is heard


def test_forged_repetitions_do_not_keep_true_ones_from_being_answered() -> None:
    net, a, b = established()
    seen = update(a, b)
    b.engine.on_control(seen, a.address, net.now)
    forged = bytearray(seen)
    forged[-100] ^= 1
    for _ in range(100):
        assert b.engine.on_control(bytes(forged), ELSEWHERE, net.now) == []
    assert b.engine.on_control(seen, a.address, net.now)


def test_a_rekey_whose_other_half_never_comes_ends_though_the_peer_was_doubted_meanwhile() -> None:
    net, a, b = established()
    association = a.engine._associations[a.hit, b.hit]
    upkeep = upkeep_of(a, b)
    upkeep.start_rekey(net.now)
    ack = upkeep_of(b, a).outbox.make([params.Ack(tuple(upkeep.outbox.updates.outstanding))])
    a.engine.on_control(ack, b.address, net.now)
    association._doubt(net.now)
    a.engine.on_control(update(b, a), b.address, net.now)
    assert net.state(a, b) is State.ESTABLISHED
    a.engine._settle(association)
    net.run(net.now + 20)
    assert upkeep._rekeying.pending is None
    assert upkeep.start_rekey(net.now)


def test_an_ack_of_the_last_rekey_says_nothing_about_the_next() -> None:
    net, a, b = established()
    net.run(net.now + 2)
    upkeep = upkeep_of(a, b)
    association = a.engine._associations[a.hit, b.hit]
    net.perform(a, upkeep.start_rekey(net.now))
    upkeep.outbox.probe(Path(None, ELSEWHERE), net.now)  # which repeats it, and nobody answers
    asked = max(upkeep.outbox.updates.outstanding)
    a.engine._settle(association)
    net.run(net.now + 0.1)
    assert a.engine.counters["rekeyed"] == 1
    upkeep.start_rekey(net.now)
    late = upkeep_of(b, a).outbox.make([params.Ack((asked,))])
    a.engine.on_control(late, b.address, net.now)
    assert upkeep._rekeying.unsaid is not None


def test_a_replayed_close_that_was_lengthened_costs_no_signature_and_keeps_nothing_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, a, b = established()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    close = net.sent(PacketType.CLOSE)[0].data
    net.run(net.now + 0.1)
    assert net.state(b, a) is State.CLOSED
    monkeypatch.setattr(HostId, "verify", None)  # nobody asks
    for i in range(20):
        appended = frame(params.EchoRequestUnsigned.TYPE, b"%d" % i)
        (ack,) = b.engine.on_control(finish(close + appended), ELSEWHERE, net.now)
        assert isinstance(ack, Transmit)
        assert len(ack.data) <= len(close)
        net.run(net.now + 1)
        if net.state(b, a) is not State.CLOSED:
            break
    assert i == 9


def test_esp_replayed_from_elsewhere_moves_nothing() -> None:
    net, a, b = established()
    sealed = a.engine.outbound[a.hit, b.hit].sa.seal(UDP, b"once")
    net._open(b, sealed, ELSEWHERE, b.address)
    net._open(b, sealed, VICTIM, b.address)
    assert b.datagrams.count((UDP, b"once")) == 1
    net.run(net.now + 20)
    assert b.engine.outbound[b.hit, a.hit].address == a.address
    assert not [seen for seen in net.wire if seen.to in (ELSEWHERE, VICTIM)]
