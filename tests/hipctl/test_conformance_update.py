"""What RFC 7401 and RFC 7402 ask of UPDATE and no other test shows; see docs/conformance."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hipctl import params, signed
from hipctl.actions import Action, Transmit
from hipctl.constants import REKEY_PACKETS, PacketType
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, header
from hipctl.state import State
from hipctl.upkeep import Upkeep
from sim.engines import FAST, Net, Peer, Seen, both_ways, established

UPDATE = PacketType.UPDATE
NO_DH = replace(FAST, rekey_dh=False)


def settled(config: object = FAST) -> tuple[Net, Peer, Peer]:
    """Two peers that are up, and between which nothing is under way."""
    net, a, b = established(config)  # type: ignore[arg-type]
    net.run(net.now + 2)
    return net, a, b


def upkeep_of(peer: Peer, other: Peer) -> Upkeep:
    found = peer.engine._associations[peer.hit, other.hit].standing.upkeep
    assert found is not None
    return found


def crafted(a: Peer, b: Peer, parameters: Sequence[params.Parameter]) -> bytes:
    """An UPDATE with a's keys."""
    return upkeep_of(a, b).outbox.make(parameters)


def heard(net: Net, a: Peer, b: Peer, parameters: Sequence[params.Parameter]) -> list[Packet]:
    """What b answers to a's UPDATE."""
    return answers(b.engine.on_control(crafted(a, b, parameters), a.address, net.now))


def answers(actions: Sequence[Action]) -> list[Packet]:
    return [Packet(action.data) for action in actions if isinstance(action, Transmit)]


def begin_rekey(net: Net, a: Peer, b: Peer) -> None:
    net.perform(a, upkeep_of(a, b).start_rekey(net.now))
    a.engine._settle(a.engine._associations[a.hit, b.hit])


def updates(net: Net, source: Peer) -> list[Packet]:
    return [Packet(seen.data) for seen in net.sent(UPDATE) if seen.source == source.address]


# -- RFC 7401 §5.3.5, §6.12: SEQ and ACK -------------------------------------------------------


def test_an_update_with_seq_is_acknowledged_with_mac_and_signature() -> None:
    net, a, b = settled()
    (answer,) = heard(net, a, b, [params.Seq(0)])
    assert answer.need(params.Ack).update_ids == (0,)
    assert answer.get(params.Seq) is None
    keys, host_id = upkeep_of(a, b)._keys, b.identity.host_id
    signed.authenticate(answer, keys, host_id)


def test_an_acknowledgement_is_not_acknowledged() -> None:
    net, a, b = settled()
    net.tamper = lambda _: []
    begin_rekey(net, b, a)
    assert heard(net, a, b, [params.Ack((0,))]) == []
    assert not upkeep_of(b, a).outbox.updates.outstanding


def test_one_ack_may_acknowledge_several_updates() -> None:
    net, a, b = settled()
    net.tamper = lambda _: []
    begin_rekey(net, b, a)
    net.perform(b, b.engine.set_locators([("203.0.113.1", 1), b.address], net.now))
    waiting = set(upkeep_of(b, a).outbox.updates.outstanding)
    assert len(waiting) == 2
    assert heard(net, a, b, [params.Ack((*waiting, 77))]) == []
    assert not upkeep_of(b, a).outbox.updates.outstanding


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ([], "UPDATE without SEQ and ACK"),
        ([params.Ack((0,))], "ACK of nothing outstanding"),
        ([params.Seq(2**31)], "UPDATE outside the window"),
    ],
)
def test_an_update_that_says_nothing_new_is_dropped(
    parameters: list[params.Parameter], reason: str
) -> None:
    net, a, b = settled()
    assert heard(net, a, b, parameters) == []
    assert b.engine.counters[reason] == 1
    both_ways(net, a, b)


@pytest.mark.parametrize(
    ("part", "reason"),
    [(params.HipMac, "wrong HIP_MAC"), (params.HipSignature, "wrong HIP_SIGNATURE")],
)
@pytest.mark.parametrize("repeated", [True, False])
def test_an_update_with_a_wrong_mac_or_signature_is_dropped_repeated_or_not(
    part: type[params.Parameter], reason: str, repeated: bool
) -> None:
    net, a, b = settled()
    good = crafted(a, b, [params.Seq(0)])
    if repeated:
        b.engine.on_control(good, a.address, net.now)
    at = good.index(Packet(good).need(part).content()) + 9
    wrong = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
    assert b.engine.on_control(wrong, a.address, net.now) == []
    assert b.engine.counters[reason] == 1
    assert len(b.engine.on_control(good, a.address, net.now)) == 1  # nothing was noted


def test_an_update_is_processed_once_whatever_came_between() -> None:
    net, a, b = settled()
    first, second = (crafted(a, b, [params.Seq(n)]) for n in range(2))
    for raw in (first, second, first, second):
        (answer,) = answers(b.engine.on_control(raw, a.address, net.now))
        assert answer.need(params.Ack).update_ids == (Packet(raw).need(params.Seq).update_id,)
    assert b.engine.counters["UPDATE repeated"] == 2


def test_a_host_id_in_update_is_the_association_s() -> None:
    net, a, b = settled()
    stranger = params.HostIdParameter(HostIdentity.from_secret(10_077).host_id)
    assert heard(net, a, b, [params.Seq(0), stranger]) == []
    assert b.engine.counters["HOST_ID of another"] == 1
    own = params.HostIdParameter(a.identity.host_id)
    assert len(heard(net, a, b, [params.Seq(0), own])) == 1


def test_an_update_in_r2_sent_establishes() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.connect(a, b)
    net.run(1.0)
    assert net.state(b, a) is State.R2_SENT
    assert len(heard(net, a, b, [params.Seq(0)])) == 1
    assert net.state(b, a) is State.ESTABLISHED


def test_what_update_asks_to_echo_comes_back_with_the_ack() -> None:
    net, a, b = settled()
    asked: list[params.Parameter] = [params.Seq(0), params.EchoRequestSigned(b"nonce")]
    (answer,) = heard(net, a, b, asked)
    assert answer.need(params.EchoResponseSigned).opaque == b"nonce"


# -- RFC 7402 §5.3, §6.8, §6.9: rekeying -------------------------------------------------------


@pytest.mark.parametrize("dh", [True, False])
def test_both_halves_of_a_rekey_hold_what_the_rfc_lists(dh: bool) -> None:
    net, a, b = settled(FAST if dh else NO_DH)
    before = {peer.hit: upkeep_of(peer, other) for peer, other in ((a, b), (b, a))}
    old = {hit: (u._sas.inbound.sa.spi, u._rekeying.material.index) for hit, u in before.items()}
    begin_rekey(net, a, b)
    net.run(net.now + 0.5)
    (asked, *_), (answered, *_) = updates(net, a), updates(net, b)
    for update, peer in ((asked, a), (answered, b)):
        spi, index = old[peer.hit]
        info = update.need(params.EspInfo)
        assert info.old_spi == spi
        assert info.new_spi not in (0, spi)
        assert (update.get(params.DiffieHellman) is not None) is dh
        assert info.keymat_index == (0 if dh else index)
        assert update.get(params.Seq) is not None
    assert answered.need(params.Ack).update_ids == (asked.need(params.Seq).update_id,)
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] == 1


def test_the_incoming_counter_too_brings_a_rekey_long_before_it_ends() -> None:
    net, a, b = settled(NO_DH)
    assert 2 * REKEY_PACKETS <= 2**32
    upkeep_of(a, b)._sas.inbound.sa.highest = REKEY_PACKETS
    net.perform(a, upkeep_of(a, b).look(net.now))
    net.run(net.now + 0.5)
    assert a.engine.counters["rekeyed"] == b.engine.counters["rekeyed"] == 1


def test_the_answer_takes_the_keymat_index_that_was_asked_for() -> None:
    net, a, b = settled(NO_DH)
    upkeep = upkeep_of(a, b)
    index, spi = upkeep._rekeying.material.index + 40, upkeep._sas.inbound.sa.spi
    (answer,) = heard(net, a, b, [params.Seq(0), params.EspInfo(index, spi, 0x4711)])
    assert answer.need(params.EspInfo).keymat_index == index


@pytest.mark.parametrize(
    ("index", "group", "reason"),
    [
        (40, 7, "KEYMAT Index with DIFFIE_HELLMAN"),
        (0, 8, "another DH group"),
        (0, None, "KEYMAT Index used before"),
    ],
)
def test_a_rekey_that_cannot_be_is_dropped_and_counted(
    index: int, group: int | None, reason: str
) -> None:
    net, a, b = settled()
    spi = upkeep_of(a, b)._sas.inbound.sa.spi
    asked: list[params.Parameter] = [params.Seq(0), params.EspInfo(index, spi, 0x4711)]
    if group is not None:
        asked.append(params.DiffieHellman(group, bytes(64 if group == 7 else 96)))
    assert heard(net, a, b, asked) == []
    assert b.engine.counters[reason] == 1
    both_ways(net, a, b)


def test_the_old_keys_stay_until_the_exchange_of_updates_has_succeeded() -> None:
    net, a, b = settled()
    old = a.engine.outbound[a.hit, b.hit].sa, b.engine.outbound[b.hit, a.hit].sa
    net.tamper = lambda seen: [] if seen.source == b.address else [seen.data]
    begin_rekey(net, a, b)
    net.run(net.now + 1)
    assert (a.engine.outbound[a.hit, b.hit].sa, b.engine.outbound[b.hit, a.hit].sa) == old
    both_ways(net, a, b)


def test_a_rekey_whose_other_half_never_comes_is_given_up() -> None:
    net, a, b = settled()

    def only_ack(seen: Seen) -> list[bytes]:
        if seen.source != b.address or seen.kind != UPDATE:
            return [seen.data]
        data = header(UPDATE, b.hit, a.hit) + params.encode([params.Ack((0,))])
        return [signed.sign_and_mac(data, upkeep_of(b, a)._keys, b.identity)]

    net.tamper = only_ack
    begin_rekey(net, a, b)
    net.run(net.now + 14)
    assert upkeep_of(a, b)._rekeying.pending is not None
    net.run(net.now + 2)
    assert upkeep_of(a, b)._rekeying.pending is None
    assert a.engine.counters["rekey unanswered"] == 1


def test_another_update_during_a_rekey_says_the_same_about_it() -> None:
    net, a, b = settled()
    net.tamper = lambda _: []
    begin_rekey(net, a, b)
    net.move(a, ("203.0.113.1", 10500), a.address)
    first, second = (Packet(seen.data) for seen in net.sent(UPDATE))
    assert first.need(params.EspInfo) == second.need(params.EspInfo)
    assert first.need(params.DiffieHellman) == second.need(params.DiffieHellman)
