"""Who asks a LAN who is there, and who answers: engines in virtual time, then real sockets."""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import LanPeer, LocalHost, Shown, issue_certificate, params
from hipctl.actions import Action, LanAnswered, Path, Transmit
from hipctl.constants import PacketType, RegistrationType
from hipctl.hostconfig import HostConfig
from hipctl.identity import NULL_HIT, Hit, HostIdentity
from hipctl.interface import Admission, Offer
from hipctl.lan import GROUP4, LAN_PORT, Lan
from hipctl.opportunistic import CALL_ANSWERS, CALL_GAPS, CALL_R1S, SOURCE_ANSWERS, SOURCE_R1S
from hipctl.packet import Packet, build
from hipctl.settings import EngineConfig
from sim.engines import FAST, Net, Peer, Seen, both_ways, established, ups

GROUP = (GROUP4, LAN_PORT)
CA = HostIdentity.from_secret(77_001)
CERTIFICATE = issue_certificate(
    CA, CA.host_id, ["sip:example.org"], not_before=0, not_after=2**31, serial=b"\1"
)


class LanNet(Net):
    """One LAN: all who welcome hear what is sent to the group."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.open: list[Peer] = []
        self.answers: list[tuple[Peer, LanAnswered]] = []

    def member(self, *certificates: bytes, mark: bytes = b"", config: EngineConfig = FAST) -> Peer:
        peer = self.add(config)
        peer.engine.welcome(certificates, mark)
        self.open.append(peer)
        return peer

    def perform(self, peer: Peer, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, LanAnswered):
                self.answers.append((peer, action))
            elif isinstance(action, Transmit) and action.to == GROUP:
                self.wire.append(Seen(self.now, peer.address, GROUP, action.data))
                for other in self.open:
                    self._hear(other, action.data, peer)
            else:
                super().perform(peer, [action])

    def _hear(self, other: Peer, data: bytes, peer: Peer) -> None:
        if self.random.random() >= self.loss:
            self.at(
                self.now + self.delay,
                lambda: self.perform(other, other.engine.on_lan(data, peer.address, self.now)),
            )

    def call(self, peer: Peer, seconds: float = 2.0) -> None:
        path = Path(peer.address, GROUP)
        self.perform(peer, peer.engine.call(peer.hit, [path], seconds, self.now))

    def found(self, peer: Peer) -> list[Hit]:
        return [answer.peer for who, answer in self.answers if who is peer]


def question(local: Hit) -> bytes:
    return build(PacketType.I1, local, NULL_HIT, [params.DhGroupList(FAST.groups)])


def forged(r1: bytes) -> bytes:
    """The same with another signature."""
    return r1[:-24] + bytes([r1[-24] ^ 1]) + r1[-23:]


def test_all_who_are_there_answer_and_each_can_be_associated_with() -> None:
    net = LanNet()
    guest = net.add()
    members = [net.member() for _ in range(3)]
    net.call(guest)
    net.run(1.0)
    assert set(net.found(guest)) == {member.hit for member in members}
    i1 = net.sent(PacketType.I1)[0]
    assert i1.data[24:40] == NULL_HIT
    assert {seen.to for seen in net.sent(PacketType.R1)} == {guest.address}  # to nobody else
    assert net.sent(PacketType.I2) == []  # asking tells nothing more
    for member in members:
        net.connect(guest, member)
    net.run(2.0)
    for member in members:
        both_ways(net, guest, member)


def test_an_r1_shows_services_and_certificates_to_the_lan_only() -> None:
    net = LanNet()
    guest, member = net.add(), net.member(CERTIFICATE, mark=b"mark")
    member.engine.serving.offer({RegistrationType.RELAY_UDP_HIP: Offer()}, (), 0.0)
    net.call(guest)
    net.run(1.0)
    ((_, answer),) = net.answers
    assert (answer.certificates, answer.mark) == ((CERTIFICATE,), b"mark")
    assert RegistrationType.RELAY_UDP_HIP in answer.services
    other = net.add()
    net.introduce(other, member)
    net.connect(other, member)
    net.run(2.0)
    r1 = next(seen for seen in net.sent(PacketType.R1) if seen.to == other.address)
    assert not Packet(r1.data).has(params.Cert)


def test_who_does_not_welcome_and_who_is_asked_directly_stay_silent() -> None:
    net = LanNet()
    guest, shy = net.add(), net.add()
    net.call(guest)
    net.run(5.0)
    assert net.answers == []
    member = net.member()
    net.perform(member, member.engine.on_control(question(guest.hit), guest.address, net.now))
    assert member.engine.counters["opportunistic I1"] == 1
    net.perform(shy, shy.engine.on_control(question(guest.hit), guest.address, net.now))
    assert net.sent(PacketType.R1) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(40),
        build(PacketType.I1, Hit(CA.hit), CA.hit, [params.DhGroupList((7,))]),
        build(PacketType.R1, Hit(CA.hit), NULL_HIT, []),
        build(PacketType.NOTIFY, Hit(CA.hit), NULL_HIT, []),
        build(PacketType.I1, Hit(CA.hit), NULL_HIT, []),
    ],
)
def test_nothing_but_a_question_is_answered_at_a_group(data: bytes) -> None:
    net = LanNet()
    member = net.member()
    assert member.engine.on_lan(data, ("192.0.2.99", 10500), 0.0) == []
    assert sum(member.engine.counters.values()) == 1
    assert member.engine.deadline() is None


def storm(member: Peer, sources: int) -> int:
    """How many of 2,000 questions within 2 s are answered, and only to who asked."""
    sent = 0
    for number in range(2_000):
        hit = Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))
        source = (f"192.0.2.{1 + number % sources}", 10500)
        for action in member.engine.on_lan(question(hit), source, number / 1e3):
            assert isinstance(action, Transmit)
            assert action.to == source
            sent += 1
    assert member.engine.deadline() is None
    assert member.engine.associations() == []
    return sent


@pytest.mark.parametrize("sources", [1, 200])
def test_strangers_of_a_lan_get_few_r1s_whatever_addresses_they_claim(sources: int) -> None:
    net = LanNet()
    member = net.member(CERTIFICATE)
    sent = storm(member, sources)
    assert sent <= FAST.lan_burst + 2 * FAST.lan_rate
    counters = member.engine.counters
    assert counters["LAN rate limit"] + counters["I1 rate limit"] == 2_000 - sent


def test_an_exchange_goes_on_while_a_lan_is_flooded() -> None:
    net = LanNet()
    member, other = net.member(CERTIFICATE), net.add()
    storm(member, 200)
    net.introduce(other, member)
    net.now = 2.0
    net.connect(other, member)
    net.run(3.0)
    both_ways(net, other, member)


def test_a_question_is_repeated_a_few_times_and_then_over() -> None:
    net = LanNet()
    guest = net.add()
    net.call(guest)
    net.run(10.0)
    asked = [seen.at for seen in net.sent(PacketType.I1)]
    assert asked == pytest.approx([gap for gap in CALL_GAPS if gap < 2.0])
    assert guest.engine.deadline() is None


def test_on_a_lan_that_loses_most_are_found() -> None:
    found = 0
    for seed in range(20):
        net = LanNet(seed)
        net.loss = 0.3
        guest, _ = net.add(), net.member()
        net.call(guest)
        net.run(10.0)
        found += len(net.found(guest))
    assert found >= 17


def test_many_answers_are_few_enough() -> None:
    net = LanNet()
    guest = net.add()
    for _ in range(CALL_ANSWERS + 12):
        net.member()
    net.call(guest)
    net.run(2.0)
    assert len(net.found(guest)) == CALL_ANSWERS


def test_answers_that_come_too_late_or_unasked_count_for_nothing() -> None:
    net = LanNet()
    guest, member = net.add(), net.member()
    net.delay = 1.5
    net.call(guest, 2.0)
    net.run(20.0)
    assert net.answers == []
    assert ups(guest) == []
    net.delay = 0.01
    r1 = net.sent(PacketType.R1)[0]
    assert guest.engine.on_control(r1.data, member.address, net.now) == []
    assert guest.engine.counters["R1 in UNASSOCIATED"] >= 1


def test_forged_answers_are_no_answers_and_few_are_looked_at() -> None:
    net = LanNet()
    guest, _ = net.add(), net.member()
    net.tamper = lambda seen: [forged(seen.data) if seen.kind == PacketType.R1 else seen.data]
    net.call(guest)
    net.run(0.05)
    assert net.answers == []
    r1 = net.sent(PacketType.R1)[0].data
    for number in range(5 * CALL_R1S):
        source = (f"192.0.2.{100 + number % 99}", 10500)
        guest.engine.on_control(forged(r1), source, net.now)
    assert SOURCE_R1S < guest.engine.counters["wrong HIP_SIGNATURE_2"] < CALL_R1S + 5
    assert guest.engine.associations() == []


@pytest.mark.parametrize("sources", [1, 6])
def test_forged_answers_keep_no_honest_one_from_being_heard(sources: int) -> None:
    net = LanNet()
    guest = net.add()
    late = [net.member(), net.member()]
    net.delay = 0.05
    net.call(guest)
    ((r1, *_),) = [[*late[0].engine.on_lan(question(guest.hit), guest.address, net.now)]]
    assert isinstance(r1, Transmit)
    for number in range(2_000):  # before anybody else can answer
        source = (f"192.0.2.{200 + number % sources}", 10500)
        guest.engine.on_control(forged(r1.data), source, net.now)
    assert guest.engine.counters["wrong HIP_SIGNATURE_2"] <= CALL_R1S
    net.run(2.0)
    assert set(net.found(guest)) == {member.hit for member in late}


def test_one_address_cannot_take_all_places() -> None:
    net = LanNet()
    guest, honest = net.add(), net.member()
    liars = [net.member() for _ in range(CALL_ANSWERS + 2)]
    net.delay = 0.3
    net.call(guest)
    heard = 0
    for liar in liars:
        (r1,) = liar.engine.on_lan(question(guest.hit), guest.address, net.now)
        assert isinstance(r1, Transmit)
        actions = guest.engine.on_control(r1.data, ("192.0.2.222", 10500), net.now)
        heard += sum(isinstance(action, LanAnswered) for action in actions)
        net.now += 0.01
    assert heard == SOURCE_ANSWERS
    net.run(2.0)
    assert honest.hit in net.found(guest)


def test_who_is_known_already_is_found_without_a_new_exchange() -> None:
    net = LanNet()
    guest, member = net.add(), net.member()
    net.introduce(guest, member)
    net.connect(guest, member)
    net.run(1.0)
    net.call(guest)
    net.run(2.0)
    assert net.found(guest) == [member.hit]
    assert len(net.sent(PacketType.I2)) == 1


def test_where_a_hit_is_known_to_be_no_answer_of_a_lan_changes() -> None:
    net = LanNet()
    guest, member = net.add(), net.member()
    guest.engine.learn(member.hit, [("198.51.100.9", 10500)])
    net.call(guest)
    net.run(1.0)
    assert net.found(guest) == [member.hit]
    net.connect(guest, member)
    net.run(1.1)
    assert {seen.to for seen in net.sent(PacketType.I1)} - {GROUP} == {("198.51.100.9", 10500)}


def test_a_late_answer_for_a_lan_does_not_disturb_an_exchange() -> None:
    net = LanNet()
    guest, member = net.add(), net.member(CERTIFICATE, mark=b"mark")
    policy = Policy(b"x")
    guest.engine.use(policy, lambda: 0.0)
    net.call(guest)
    net.run(0.1)
    late = net.sent(PacketType.R1)[0]
    net.connect(guest, member)
    net.perform(guest, guest.engine.on_control(late.data, member.address, net.now))
    net.run(2.0)
    both_ways(net, guest, member)
    assert policy.admitted == []


def test_two_who_ask_each_other_at_once_find_each_other() -> None:
    net = LanNet()
    one, other = net.member(), net.member()
    net.call(one)
    net.call(other)
    net.run(3.0)
    both_ways(net, one, other)
    assert net.found(one) == [other.hit]
    assert net.found(other) == [one.hit]


class Policy:
    """Shows an invitation, and notes what is shown."""

    def __init__(self, invitation: bytes = b"") -> None:
        self.invitation = invitation
        self.admitted: list[Shown] = []

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        return Shown((), b"", self.invitation) if peer is not None else Shown()

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        self.admitted.append(shown)
        return Admission.ACCEPTED if shown.invitation else Admission.CREDENTIALS_REQUIRED


@pytest.mark.parametrize("encrypt", [True, False])
def test_an_invitation_travels_encrypted_only(encrypt: bool) -> None:
    net = LanNet()
    config = replace(FAST, encrypt_host_id=encrypt)
    secret = b"who has this was invited, and 48 bytes it has.."
    guest, member = net.add(config), net.member(CERTIFICATE, config=config)
    mine, theirs = Policy(secret), Policy()
    guest.engine.use(mine, lambda: 0.0)
    member.engine.use(theirs, lambda: 0.0)
    net.call(guest)
    net.run(1.0)
    assert net.found(guest) == [member.hit]
    net.connect(guest, member)
    net.run(2.0)
    assert theirs.admitted[0].invitation == secret
    assert member.engine.credentials(member.hit, guest.hit) == Shown((), b"", secret)
    assert all(secret[:16] not in seen.data for seen in net.wire)
    assert mine.admitted == []  # what a LAN is shown is no credential


def test_an_invitation_in_clear_is_not_read() -> None:
    net, a, b = established()
    policy = Policy()
    b.engine.use(policy, lambda: 0.0)
    data = params.encode([params.Invitation(b"x")])
    assert params.decode(data) == [params.Invitation(b"x")]
    assert net.state(a, b)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_at_a_group_are_answered_by_r1_or_not_at_all(data: bytes, real: bool) -> None:
    net = LanNet()
    member = net.member()
    base = question(Hit(CA.hit))
    given_ = bytes(x ^ y for x, y in zip(base, data.ljust(len(base), b"\0"), strict=False))
    for action in member.engine.on_lan(given_ if real else data, ("192.0.2.99", 1), 0.0):
        assert isinstance(action, Transmit)
        assert action.data[2] == PacketType.R1
    assert member.engine.associations() == []


# --- real sockets, on this machine


@pytest.mark.net
def test_hosts_of_one_machine_find_each_other_at_the_group() -> None:
    async def main() -> None:
        identities = [HostIdentity.generate() for _ in range(3)]
        config = HostConfig(
            listen=(("127.0.0.1", 0),), lan_links=("lo",), engine=EngineConfig(k=2)
        )
        async with (
            LocalHost([identities[0]], config) as guest,
            LocalHost([identities[1]], config) as one,
            LocalHost([identities[2]], config) as other,
        ):
            await one.welcome([CERTIFICATE], b"mark")
            await other.welcome()
            other.offer({RegistrationType.RENDEZVOUS: Offer()})
            found: dict[Hit, LanPeer] = {}
            await guest.look_around(lambda peer: found.update({peer.hit: peer}), seconds=1.0)
            assert set(found) == {one.hits[0], other.hits[0]}
            assert found[one.hits[0]].certificates == (CERTIFICATE,)
            assert found[one.hits[0]].mark == b"mark"
            assert found[other.hits[0]].services == {RegistrationType.RENDEZVOUS}
            await guest.connect(one.hits[0])
            guest.learn(other.hits[0], found[other.hits[0]].contact)
            await guest.connect(other.hits[0])

    asyncio.run(main())


def test_a_machine_without_ipv6_answers_at_its_ipv4_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a kernel does not even make the socket."""
    make = socket.socket

    def four_only(family: int = socket.AF_INET, *more: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *more)

    async def main() -> None:
        counters: Counter[str] = Counter()
        lan = Lan(Net().add().engine, lambda step: None, ("lo",), counters)
        monkeypatch.setattr("hipctl.lan.socket.socket", four_only)
        try:
            lan.welcome((), b"")
        finally:
            lan.close()
        assert counters["no port at a group"] == 1

    asyncio.run(main())


@pytest.mark.parametrize("source", [("192.0.2.1", 0), ("0.0.0.0", 10500), ("2001:2f::1", 10500)])
def test_an_answer_from_where_nobody_can_be_is_counted_and_dropped(
    source: tuple[str, int],
) -> None:
    async def main() -> None:
        counters: Counter[str] = Counter()
        peer = Net().add()
        lan = Lan(peer.engine, lambda step: None, ("lo",), counters)
        found: list[LanPeer] = []
        looking = asyncio.create_task(lan.look_around(peer.hit, (), found.append, 0.05))
        await asyncio.sleep(0)
        lan.answered(LanAnswered(peer.hit, CA.hit, source, (), (), b""))
        lan.answered(LanAnswered(peer.hit, CA.hit, ("192.0.2.1", 10500), (), (), b""))
        await looking
        lan.close()
        assert [each.hit for each in found] == [CA.hit]
        assert counters["answer at a LAN from nowhere"] == 1

    asyncio.run(main())


def test_who_answers_from_port_zero_is_not_found() -> None:
    net = LanNet()
    member, asker = net.member(), net.add()
    net.call(asker)
    net.run(net.now + 0.01)
    r1 = next(seen.data for seen in net.wire if seen.kind == PacketType.R1)
    ip, _ = member.address
    actions = asker.engine.on_control(r1, (ip, 0), net.now)
    assert actions == []  # LanAnswered would name a contact that there cannot be
    assert member.hit not in asker.engine._shared.contacts
