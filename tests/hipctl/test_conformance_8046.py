"""What RFC 8046 and RFC 8047 ask for and no other test shows; see docs/conformance."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from hipctl import params
from hipctl.actions import Action, Address, Transmit
from hipctl.constants import PacketType
from hipctl.errors import MalformedPacket
from hipctl.locators import PeerLocators, Status
from hipctl.mobility import Mobility
from hipctl.packet import Packet, build
from hipctl.ports import Ports
from hipctl.rtnetlink import Link, LinkAddress, usable
from hipctl.state import State
from hipctl.upkeep import Upkeep
from hipctl.wire import Reader
from sim import net as sockets
from sim.engines import FAST, UDP, Net, Peer, Seen, both_ways, pair
from sim.loop import simulate

OLD: Address = ("192.0.2.1", 10500)
NEW: Address = ("198.51.100.7", 10500)
THIRD: Address = ("203.0.113.9", 10500)
RAW = replace(FAST, udp=False)
R1, I2, R2, UPDATE = PacketType.R1, PacketType.I2, PacketType.R2, PacketType.UPDATE


def at_home() -> tuple[Net, Peer, Peer]:
    """a and b over raw IP, where LOCATOR_SET stands in clear, and a's address is known."""
    net, a, b = pair(RAW)
    net.move(a, OLD)
    net.introduce(a, b)
    net.send(a, b.hit, UDP, b"first")
    net.run(3.0)
    return net, a, b


def upkeep_of(peer: Peer, other: Peer) -> Upkeep:
    found = peer.engine._associations[peer.hit, other.hit].standing.upkeep
    assert found is not None
    return found


def locators(*addresses: Address, kind: int = 2) -> params.LocatorSet:
    """The first one preferred."""
    return params.LocatorSet(
        tuple(params.Locator(kind, *a, preferred=not i) for i, a in enumerate(addresses))
    )


def heard(
    net: Net, a: Peer, b: Peer, parameters: Sequence[params.Parameter], source: Address = OLD
) -> list[tuple[Address, Packet]]:
    """Where and what b answers to an UPDATE of a's."""
    upkeep = upkeep_of(a, b)
    data = upkeep.outbox.make([params.Seq(upkeep.outbox.updates.number()), *parameters])
    return answers(b.engine.on_control(data, source, net.now))


def answers(actions: Sequence[Action]) -> list[tuple[Address, Packet]]:
    return [(x.to, Packet(x.data)) for x in actions if isinstance(x, Transmit)]


def statuses(peer: Peer, other: Peer) -> dict[Address, Status]:
    paths = upkeep_of(peer, other)._paths
    assert isinstance(paths, Mobility)
    return {known.address: known.status for known in paths.peer}


def to(peer: Peer, other: Peer) -> Address:
    return peer.engine.outbound[peer.hit, other.hit].address


# -- LOCATOR_SET that we send ------------------------------------------------------------------


def test_a_locator_set_lists_every_address_and_the_first_is_preferred() -> None:
    net, a, _ = at_home()
    net.move(a, NEW, OLD)
    net.run(net.now + 1)
    told = Packet(net.sent(UPDATE)[0].data)
    listed = told.need(params.LocatorSet).locators
    assert [locator.ip for locator in listed] == [NEW[0], OLD[0]]
    assert [locator.preferred for locator in listed] == [True, False]
    assert all(locator.lifetime for locator in listed)
    assert {locator.spi for locator in listed} == {told.need(params.EspInfo).new_spi}
    assert told.need(params.HipMac)
    assert told.need(params.HipSignature)
    assert net.sent(UPDATE)[0].source == NEW


def test_with_a_rekey_the_locators_name_the_new_spi() -> None:
    net, a, b = at_home()
    net.tamper = lambda _: []
    net.perform(a, upkeep_of(a, b).start_rekey(net.now))
    net.move(a, NEW)
    told = next(Packet(s.data) for s in net.sent(UPDATE) if s.source == NEW)
    info = told.need(params.EspInfo)
    assert info.new_spi != info.old_spi
    assert {x.spi for x in told.need(params.LocatorSet).locators} == {info.new_spi}


@pytest.mark.parametrize("ip", ["224.0.0.1", "255.255.255.255", "ff02::1", "0.0.0.0"])
def test_a_group_is_never_announced(ip: str) -> None:
    net, a, _ = at_home()
    net.perform(a, a.engine.set_locators([(ip, 10500), NEW, OLD], net.now))
    net.run(net.now + 1)
    told = [Packet(seen.data).get(params.LocatorSet) for seen in net.sent(UPDATE)]
    named = {locator.ip for found in told if found is not None for locator in found.locators}
    assert named == {NEW[0], OLD[0]}


def test_addresses_of_one_link_or_of_no_use_are_not_ours_to_tell() -> None:
    links = [Link(1, True, True), Link(2, True, False), Link(3, False, False)]
    good = [LinkAddress("192.0.2.1", 2), LinkAddress("2001:db8::1", 2)]
    bad = [
        LinkAddress("127.0.0.1", 1),
        LinkAddress("fe80::1", 2),
        LinkAddress("169.254.1.1", 2),
        LinkAddress("2001:20::1", 2),
        LinkAddress("2001:db8::2", 2, fit=False),
        LinkAddress("198.51.100.1", 3),
    ]
    assert usable(links, [*bad, *good], ["2001:db8::1"], 6) == good[::-1]


def test_who_listens_at_named_addresses_uses_and_tells_no_others() -> None:
    async def follow() -> None:
        ports = Ports(sockets.Net().open, lambda *_: None, Counter())
        await ports.open([OLD], follow=True)
        found = [LinkAddress(NEW[0], 2), LinkAddress(OLD[0], 3)]
        assert await ports.follow(found) == [OLD]
        ports.close()

    simulate(follow)


# -- LOCATOR_SET that we receive ---------------------------------------------------------------


def test_a_new_address_is_unverified_and_asked_for_a_nonce_before_it_is_active() -> None:
    net, a, b = at_home()
    asked = heard(net, a, b, [locators(NEW, OLD)])
    assert statuses(b, a) == {NEW: Status.UNVERIFIED, OLD: Status.ACTIVE}
    (probe,) = [packet for where, packet in asked if where == NEW]
    nonce = probe.need(params.EchoRequestSigned).opaque
    assert len(nonce) == 16
    assert probe.get(params.Seq) is not None
    assert to(b, a) == OLD  # another ACTIVE one, meanwhile
    for echoed, status in ((bytes(16), Status.UNVERIFIED), (nonce, Status.ACTIVE)):
        number = probe.need(params.Seq).update_id
        upkeep_of(b, a).outbox.updates.outstanding[number].nonce = nonce
        data = upkeep_of(a, b).outbox.make(
            [params.Ack((number,)), params.EchoResponseSigned(echoed)]
        )
        kept = dict(upkeep_of(b, a).outbox.updates.outstanding)
        b.engine.on_control(data, NEW, net.now)
        assert statuses(b, a)[NEW] is status
        upkeep_of(b, a).outbox.updates.outstanding.update(kept)
    assert to(b, a) == NEW


def test_the_same_locators_again_are_acknowledged_and_not_processed_again() -> None:
    net, a, b = at_home()
    net.peers[NEW] = a
    for where, packet in heard(net, a, b, [locators(NEW, OLD)]):
        net.perform(b, [Transmit(packet.raw, where)])
    net.run(net.now + 1)
    assert statuses(b, a) == {NEW: Status.ACTIVE, OLD: Status.ACTIVE}
    for source in (OLD, NEW):
        ((where, again),) = heard(net, a, b, [locators(NEW, OLD)], source)
        assert where == source
        assert again.get(params.Ack) is not None
        assert again.get(params.EchoRequestSigned) is None
    assert statuses(b, a) == {NEW: Status.ACTIVE, OLD: Status.ACTIVE}


def test_esp_info_is_processed_before_the_locators() -> None:
    net, a, b = at_home()
    wrong = params.EspInfo(0, 0x7777, 0x8888)
    assert heard(net, a, b, [wrong, locators(NEW)]) == []
    assert b.engine.counters["ESP_INFO of an unknown SA"] == 1
    assert statuses(b, a) == {OLD: Status.ACTIVE}


def test_a_second_pair_of_sas_is_acknowledged_and_not_made() -> None:
    net, a, b = at_home()
    sas = set(b.engine.inbound)
    asked = heard(net, a, b, [params.EspInfo(400, 0, 0x8888)])
    assert [packet.get(params.Ack) is not None for _, packet in asked] == [True]
    assert b.engine.counters["second or no SA asked for"] == 1
    assert set(b.engine.inbound) == sas


def test_a_locator_without_lifetime_is_malformed() -> None:
    good = locators(NEW).content()
    assert params.LocatorSet.parse(Reader(good)).locators[0].lifetime
    with pytest.raises(MalformedPacket, match="without lifetime"):
        params.LocatorSet.parse(Reader(good[:4] + bytes(4) + good[8:]))


# -- the states of a locator -------------------------------------------------------------------


def test_a_deprecated_address_becomes_active_by_verification_only() -> None:
    peer = PeerLocators(OLD)
    peer.replace(locators(NEW).locators, 10500, None, 0.0)
    known = peer.get(OLD)
    assert known is not None
    assert known.status is Status.DEPRECATED
    peer.verify(OLD)  # late: it was withdrawn meanwhile
    assert known.status is Status.DEPRECATED
    peer.replace(locators(OLD).locators, 10500, None, 1.0)
    assert (known.status, known.verified) == (Status.UNVERIFIED, False)
    peer.verify(OLD)
    assert [found.status for found in peer if found is known] == [Status.ACTIVE]


def test_a_lifetime_deprecates_active_and_unverified_addresses() -> None:
    peer = PeerLocators(OLD)
    short = replace(locators(NEW).locators[0], lifetime=10)
    peer.replace([short, *locators(THIRD).locators], 10500, None, 0.0)
    assert peer.next_expiry() == 10.0
    assert peer.expire(10.0)
    found = peer.get(NEW)
    assert found is not None
    assert found.status is Status.DEPRECATED
    third = peer.get(THIRD)
    assert third is not None
    assert (third.status, third.expires) == (Status.UNVERIFIED, math.inf)


def test_listed_before_unlisted_active_before_unverified_and_deprecated_last() -> None:
    peer = PeerLocators(OLD)
    peer.replace(locators(NEW, THIRD).locators, 10500, OLD, 0.0)  # from OLD, which isn't listed
    assert peer.ranked(OLD)[0].address == OLD  # the only ACTIVE one
    peer.verify(NEW)
    assert peer.ranked(OLD)[0].address == NEW  # preferred and listed
    peer.replace(locators(THIRD).locators, 10500, None, 1.0)
    assert peer.ranked(OLD)[0].address == THIRD
    assert {known.address for known in peer if known.status is Status.DEPRECATED} == {OLD, NEW}


# -- RFC 8047 §4.2.8: LOCATOR_SET in the base exchange -----------------------------------------


def with_locators(net: Net, kind: int, sender: Peer, found: params.LocatorSet) -> None:
    """Let ``sender``'s R1 carry LOCATOR_SET under its signature."""

    def change(seen: Seen) -> list[bytes]:
        if seen.kind != kind:
            return [seen.data]
        old = Packet(seen.data)
        kept = [p for p in old.parameters() if not isinstance(p, params.Unknown)]
        parts = [found, *(p for p in kept if p.TYPE != params.HipSignature2.TYPE)]
        bare = build(kind, old.sender, old.receiver, [*parts, params.HipSignature2(7, b"")])
        signed = sender.identity.sign(Packet(bare).covered_by_signature_2())
        signature = params.HipSignature2(7, signed)
        return [build(kind, old.sender, old.receiver, [*parts, signature])]

    net.tamper = change


def test_i2_goes_to_the_preferred_locator_of_r1_which_is_active_at_once() -> None:
    net, a, b = pair(RAW)
    net.peers[NEW] = b
    with_locators(net, R1, b, locators(NEW, b.address))
    net.connect(a, b)
    net.run(1.0)
    assert [seen.to for seen in net.sent(I2)] == [NEW]
    assert net.state(a, b) is State.ESTABLISHED
    assert statuses(a, b)[NEW] is Status.ACTIVE
    both_ways(net, a, b)


def test_locators_of_i2_and_r2_are_learnt_and_not_used_unverified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(RAW, encrypt_host_id=False)
    net, a, b = pair(config)
    listed = {"parameters": locators(NEW, a.address), "sealed": locators(THIRD, b.address)}
    for name, found in listed.items():  # these put more into I2 and R2
        monkeypatch.setattr(f"hipctl.credentials.{name}", lambda *_, found=found: [found])
    monkeypatch.setattr("hipctl.responder.parameters", lambda *_: [])
    net.connect(a, b)
    net.run(0.1)
    for kind in (I2, R2):
        assert Packet(net.sent(kind)[0].data).get(params.LocatorSet) is not None
    assert statuses(b, a) == {NEW: Status.UNVERIFIED, a.address: Status.ACTIVE}
    assert statuses(a, b) == {THIRD: Status.UNVERIFIED, b.address: Status.ACTIVE}
    assert (to(b, a), to(a, b)) == (a.address, b.address)


def test_locators_of_an_unsigned_r1_count_for_nothing() -> None:
    net, a, b = pair(RAW)
    with_locators(net, R1, a, locators(NEW))  # somebody else's signature
    net.connect(a, b)
    net.run(1.0)
    assert a.engine.counters["wrong HIP_SIGNATURE_2"] >= 1
    assert not net.sent(I2)


def test_we_put_no_locators_into_the_base_exchange_and_r2_goes_to_the_source_of_i2() -> None:
    net, a, b = pair(RAW)
    net.move(a, OLD, NEW)
    net.move(b, b.address, THIRD)
    net.introduce(a, b)
    net.connect(a, b)
    net.run(1.0)
    for kind in (R1, I2, R2):
        (seen,) = net.sent(kind)
        assert Packet(seen.data).get(params.LocatorSet) is None
    assert net.sent(R2)[0].to == net.sent(I2)[0].source
