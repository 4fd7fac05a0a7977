"""Credentials in the base exchange (RFC 8002): shown, read, judged, and only when it is owed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import credentials, params, puzzle
from hipctl.constants import PACKET_MAX, CertType, NotifyType, PacketType
from hipctl.credentials import NOTHING, PacketSizes, parameters, read
from hipctl.errors import HostConfigRefused, MalformedPacket
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Admission, Shown
from hipctl.packet import Packet, build
from hipctl.state import State
from sim.engines import FAST, UDP, Net, Peer, Seen, both_ways, downs, pair

GOOD = Shown((b"certificate of alice",), b"alice may use this device")
BOB = Shown((b"certificate of bob", b"another"), b"bob's")
A, B = HostIdentity.from_secret(11).hit, HostIdentity.from_secret(12).hit
WALL = 1_800_000_000.0
blobs = st.binary(max_size=60)
certs = st.builds(
    params.Cert,
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from([1, 1, 1, 0, 2, 3, 5, 7, 8]),
    blobs,
)


@dataclass
class Policy:
    """Shows ``mine``; admits by ``judge``; remembers what it was asked."""

    mine: Shown = NOTHING
    judge: Callable[[Shown], Admission] = lambda shown: Admission.ACCEPTED
    to_strangers: Shown = NOTHING
    judged: list[tuple[Hit, Shown, float]] = field(default_factory=list)
    asked: list[tuple[Hit | None, Shown | None]] = field(default_factory=list)

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        self.asked.append((peer, theirs))
        return self.to_strangers if peer is None else self.mine

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        self.judged.append((peer, shown, wall))
        return self.judge(shown)


def only(good: Shown) -> Callable[[Shown], Admission]:
    """Who shows nothing must show; who shows something else has shown it in vain."""

    def judge(shown: Shown) -> Admission:
        if shown == good:
            return Admission.ACCEPTED
        return Admission.INVALID_CERTIFICATE if shown else Admission.CREDENTIALS_REQUIRED

    return judge


def meet(mine: Policy | None, theirs: Policy | None) -> tuple[Net, Peer, Peer]:
    """The first of two peers begins an exchange, under these policies."""
    net, a, b = pair()
    for peer, policy in ((a, mine), (b, theirs)):
        if policy is not None:
            peer.engine.use(policy, lambda: WALL)
    net.send(a, b.hit, UDP, b"first")
    net.run(0.3)
    return net, a, b


def notified(net: Net, to: Peer) -> list[params.Notification]:
    return [
        Packet(seen.data).need(params.Notification)
        for seen in net.sent(PacketType.NOTIFY)
        if seen.to == to.address
    ]


def test_what_is_shown_in_i2_and_r2_is_what_the_other_end_knows() -> None:
    mine, theirs = Policy(GOOD), Policy(BOB, only(GOOD))
    net, a, b = meet(mine, theirs)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    assert a.engine.credentials(a.hit, b.hit) == b.engine.shows(b.hit, a.hit) == BOB
    assert b.engine.credentials(b.hit, a.hit) == a.engine.shows(a.hit, b.hit) == GOOD
    assert theirs.judged == [(a.hit, GOOD, WALL)]
    assert mine.judged == [(b.hit, BOB, WALL)]
    assert theirs.asked == [(None, None), (a.hit, GOOD)]


def test_nobody_on_the_way_reads_a_certificate() -> None:
    net, _, _ = meet(Policy(GOOD), Policy(BOB))
    wire = b"".join(seen.data for seen in net.wire)
    assert GOOD.certificates[0] not in wire
    assert BOB.certificates[0] not in wire


def test_without_encryption_they_stand_in_the_packet_and_count_as_well() -> None:
    net, a, b = pair(replace(FAST, encrypt_host_id=False))
    a.engine.use(Policy(GOOD), lambda: WALL)
    b.engine.use(Policy(BOB, only(GOOD)), lambda: WALL)
    net.connect(a, b)
    net.run(0.3)
    (i2,) = net.sent(PacketType.I2)
    assert read(Packet(i2.data)) == (GOOD, b"")
    assert b.engine.credentials(b.hit, a.hit) == GOOD


def test_who_shows_nothing_is_shown_nothing() -> None:
    theirs = Policy(BOB)
    net, a, b = meet(Policy(), theirs)
    assert net.state(a, b) is State.ESTABLISHED
    assert a.engine.credentials(a.hit, b.hit) is None
    assert b.engine.shows(b.hit, a.hit) is None
    assert theirs.asked == [(None, None)]


def test_a_host_without_a_policy_neither_shows_nor_minds() -> None:
    for mine, theirs in ((Policy(GOOD), None), (None, Policy(BOB)), (None, None)):
        net, a, b = meet(mine, theirs)
        assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
        assert a.engine.credentials(a.hit, b.hit) is None
        assert b.engine.credentials(b.hit, a.hit) is None


@pytest.mark.parametrize(
    ("shown", "notify"),
    [(Shown(), NotifyType.CREDENTIALS_REQUIRED), (BOB, NotifyType.INVALID_CERTIFICATE)],
)
def test_a_responder_says_why_it_refuses(shown: Shown, notify: NotifyType) -> None:
    net, a, b = meet(Policy(shown), Policy(BOB, only(GOOD)))
    assert net.state(b, a) is State.UNASSOCIATED
    assert net.state(a, b) is State.I2_SENT
    assert not a.engine.outbound
    assert not b.engine.outbound
    assert not b.engine.inbound
    assert [n.type for n in notified(net, a)] == [notify]
    assert a.engine.counters[f"NOTIFY {notify.name}"] == 1
    assert not net.sent(PacketType.R2)
    assert a.engine.refusal(a.hit, b.hit) == notify.name
    assert not b.engine.refusal(b.hit, a.hit)
    net.run(60.0)
    assert downs(a) == [f"no R2 came: {notify.name}"]
    assert b.engine.credentials(b.hit, a.hit) is None


def test_an_initiator_refuses_an_answer_with_bad_credentials() -> None:
    net, a, b = meet(Policy(GOOD, only(GOOD)), Policy(BOB))
    assert net.state(a, b) is State.I2_SENT
    assert not a.engine.outbound
    assert [n.type for n in notified(net, b)] == [NotifyType.INVALID_CERTIFICATE]
    net.run(60.0)
    assert net.state(a, b) is State.UNASSOCIATED
    assert a.engine.credentials(a.hit, b.hit) is None


def tampered(kind: int, change: Callable[[bytes], bytes]) -> tuple[Net, Peer, Peer, Policy]:
    net, a, b = pair(replace(FAST, encrypt_host_id=False))
    policy = Policy(BOB, only(GOOD))
    a.engine.use(Policy(GOOD), lambda: WALL)
    b.engine.use(policy, lambda: WALL)
    net.tamper = lambda seen: [change(seen.data) if seen.kind == kind else seen.data]
    net.connect(a, b)
    net.run(60.0)
    return net, a, b, policy


def test_no_certificate_is_judged_before_puzzle_mac_and_signature_hold() -> None:
    net, _, b, policy = tampered(
        PacketType.I2, lambda data: data.replace(b"certificate of", b"certificate 0f")
    )
    assert policy.judged == []
    assert b.engine.counters["wrong HIP_MAC"] >= 3
    assert {n.type for n in notified(net, net.peers["192.0.2.1", 10500])} <= {
        NotifyType.HIP_MAC_FAILED
    }


def test_a_stranger_s_r1_with_certificates_is_judged_by_its_signature_first() -> None:
    net, a, b = pair()
    mine = Policy(GOOD, only(BOB))
    a.engine.use(mine, lambda: WALL)
    b.engine.use(Policy(BOB, only(GOOD), to_strangers=BOB), lambda: WALL)
    net.tamper = lambda seen: (
        [seen.data.replace(b"certificate of", b"certificate 0f"), seen.data]
        if seen.kind == PacketType.R1
        else [seen.data]
    )
    net.connect(a, b)
    net.run(0.3)
    assert net.state(a, b) is State.ESTABLISHED
    assert a.engine.counters["wrong HIP_SIGNATURE_2"] == 1
    assert {shown for _, shown, _ in mine.judged} == {BOB}
    assert a.engine.credentials(a.hit, b.hit) == BOB


def test_an_r1_with_bad_certificates_is_not_answered() -> None:
    net, a, b = pair()
    a.engine.use(Policy(GOOD, only(GOOD)), lambda: WALL)
    b.engine.use(Policy(to_strangers=BOB), lambda: WALL)
    net.connect(a, b)
    net.run(30.0)
    assert not net.sent(PacketType.I2)
    assert not net.sent(PacketType.NOTIFY)  # nobody has proven anything to us yet
    assert a.engine.counters["invalid certificate"]
    assert downs(a) == ["no R1 came"]


def test_what_would_make_an_r1_travel_in_fragments_is_left_out() -> None:
    for length, there in ((300, True), (900, False)):
        net, a, b = pair()
        b.engine.use(Policy(to_strangers=Shown((bytes(length),))), lambda: WALL)
        net.connect(a, b)
        net.run(0.3)
        (r1,) = net.sent(PacketType.R1)
        assert bool(read(Packet(r1.data))[0]) is there
        assert len(r1.data) <= 1232
        assert net.state(a, b) is State.ESTABLISHED


def test_credentials_live_as_long_as_the_association() -> None:
    net, a, b = meet(Policy(GOOD), Policy(BOB))
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(net.now + 60)
    for one, other in ((a, b), (b, a)):
        assert one.engine.credentials(one.hit, other.hit) is None
    assert a.engine.shows(a.hit, b.hit) == GOOD  # in the next exchange


def test_who_begins_anew_is_judged_anew() -> None:
    net, a, b = meet(Policy(GOOD), Policy(BOB, only(GOOD)))
    net.restart(a)
    net.introduce(a, b)
    a.engine.use(Policy(BOB), lambda: WALL)
    net.connect(a, b)
    net.run(net.now + 20)
    assert net.state(a, b) is State.UNASSOCIATED
    assert b.engine.credentials(b.hit, a.hit) == GOOD  # the old association is as it was


def test_a_responder_whose_credentials_do_not_fit_r2_answers_without() -> None:
    net, a, b = meet(Policy(GOOD), Policy(Shown((bytes(2000),))))
    assert net.state(a, b) is State.ESTABLISHED
    assert b.engine.shows(b.hit, a.hit) is None


def test_a_refusal_that_the_responder_has_not_signed_is_no_reason() -> None:
    net, a, b = pair()
    a.engine.use(Policy(GOOD), lambda: WALL)
    b.engine.use(Policy(BOB, only(BOB)), lambda: WALL)
    net.tamper = lambda seen: [seen.data[:-9] + bytes(9) if seen.kind == 17 else seen.data]
    net.connect(a, b)
    net.run(60.0)
    assert downs(a) == ["no R2 came"]
    assert a.engine.counters["NOTIFY INVALID_CERTIFICATE"]


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.sampled_from([GOOD, NOTHING, Shown((b"forged",))]),
    st.sampled_from([BOB, NOTHING, Shown((b"forged",))]),
)
def test_whoever_begins_and_whatever_is_lost_only_the_right_ones_associate(
    seed: int, one: Shown, other: Shown
) -> None:
    net = Net(seed)
    a, b = net.add(), net.add()
    net.introduce(a, b)
    a.engine.use(Policy(one, only(BOB)), lambda: WALL)
    b.engine.use(Policy(other, only(GOOD)), lambda: WALL)
    net.loss, net.duplicates, net.jitter = 0.2, 0.2, 0.05
    net.connect(a, b)
    net.at(net.random.random() * 0.03, lambda: net.connect(b, a))
    net.run(60.0)  # the last of both may come late, and R2-SENT lasts a while
    # an Initiator believes a Responder that shows nothing: HELLO will tell
    for peer, theirs, shown, good in ((a, b, other, BOB), (b, a, one, GOOD)):
        known = peer.engine.credentials(peer.hit, theirs.hit)
        assert known in {None, good}
        assert known is None or shown == good
    if (one, other) == (GOOD, BOB):
        gave_up = {"no R1 came", "no R2 came"} & {*downs(a), *downs(b)}  # some lose each try
        assert gave_up or net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    elif one != GOOD and other != BOB:
        assert net.state(a, b) is not State.ESTABLISHED
        assert not a.engine.outbound
        assert not b.engine.outbound


# --- renewing

NEW = Shown((b"renewed certificate of alice",), b"alice may use this device longer")


def renewed(new: Shown, lose: int = 0) -> tuple[Net, Peer, Peer]:
    net, a, b = meet(Policy(GOOD), Policy(BOB, only(GOOD)))
    both_ways(net, a, b)
    a.engine.use(Policy(new), lambda: WALL)
    b.engine.use(Policy(BOB, only(NEW)), lambda: WALL)
    left = [lose]

    def tamper(seen: Seen) -> list[bytes]:
        left[0] -= seen.kind == PacketType.UPDATE
        return [] if seen.kind == PacketType.UPDATE and left[0] >= 0 else [seen.data]

    net.tamper = tamper
    net.perform(a, a.engine.show(net.now))
    net.run(net.now + 10)
    net.tamper = lambda seen: [seen.data]
    return net, a, b


@pytest.mark.parametrize("lose", [0, 2])
def test_changed_credentials_are_shown_in_an_update(lose: int) -> None:
    net, a, b = renewed(NEW, lose)
    assert b.engine.credentials(b.hit, a.hit) == a.engine.shows(a.hit, b.hit) == NEW
    assert b"renewed" not in b"".join(seen.data for seen in net.wire)
    assert a.engine.show(net.now) == []  # it knows
    assert b.engine.show(net.now) == []  # what it shows is what it was
    both_ways(net, a, b)


def test_renewed_credentials_that_do_not_hold_change_nothing() -> None:
    net, a, b = renewed(BOB)
    assert b.engine.credentials(b.hit, a.hit) == GOOD
    assert [n.type for n in notified(net, a)] == [NotifyType.INVALID_CERTIFICATE]
    assert a.engine.counters["NOTIFY INVALID_CERTIFICATE"] == 1
    both_ways(net, a, b)


def test_renewed_credentials_that_fit_no_packet_are_not_sent() -> None:
    net, a, b = renewed(Shown((bytes(2000),)))
    assert a.engine.shows(a.hit, b.hit) is None  # HELLO will have to
    assert b.engine.credentials(b.hit, a.hit) == GOOD
    both_ways(net, a, b)


def test_to_whom_nothing_was_shown_nothing_is_shown_later() -> None:
    net, a, _ = meet(None, None)
    a.engine.use(Policy(GOOD), lambda: WALL)
    assert a.engine.show(net.now) == []


# --- reading


def packet(*found: params.Parameter) -> Packet:
    return Packet(build(PacketType.UPDATE, A, B, found))


def test_what_is_written_is_read() -> None:
    assert read(packet(*parameters(BOB))) == (BOB, b"")
    assert read(packet()) == (Shown(), b"")


def test_a_chain_is_one_group_in_the_order_of_its_ids() -> None:
    chain = [params.Cert(1, 2, 2, 1, b"second"), params.Cert(1, 2, 1, 1, b"first")]
    other = params.Cert(9, 1, 1, 1, b"other")
    assert read(packet(*chain, other))[0].certificates == (b"first", b"second", b"other")


def test_a_group_of_which_a_part_is_missing_is_left_out() -> None:
    found = [params.Cert(1, 2, 2, 1, b"second"), params.Cert(2, 1, 1, 1, b"whole")]
    assert read(packet(*found))[0].certificates == (b"whole",)


@pytest.mark.parametrize("kind", [k for k in CertType if k is not CertType.X509_V3])
def test_other_types_are_named_and_not_passed_on(kind: CertType) -> None:
    found = [params.Cert(1, 1, 1, 1, b"ours"), params.Cert(3, 2, 2, kind, b"http://a")]
    assert read(packet(*found)) == (Shown((b"ours",)), b"\3\2")


@pytest.mark.parametrize(
    "found",
    [
        [params.Cert(2, 1, 1, 1, b""), params.Cert(1, 1, 1, 1, b"")],
        [params.Cert(1, 2, 1, 1, b""), params.Cert(1, 2, 1, 1, b"")],
        [params.Cert(1, 2, 1, 1, b""), params.Cert(1, 3, 2, 1, b"")],
        [params.Cert(1, 1, 2, 1, b"")],
        [params.Cert(1, 1, 0, 1, b"")],
        [params.Delegation(b""), params.Delegation(b"")],
    ],
)
def test_what_is_numbered_wrongly_is_malformed(found: list[params.Parameter]) -> None:
    with pytest.raises(MalformedPacket):
        read(packet(*found))


@given(st.lists(certs | st.builds(params.Delegation, blobs), max_size=6))
def test_any_certs_are_shown_or_malformed(found: list[params.Parameter]) -> None:
    try:
        shown, strange = read(packet(*found))
    except MalformedPacket:
        return
    given_ = [c for c in found if isinstance(c, params.Cert)]
    x509 = [c.certificate for c in given_ if c.type == CertType.X509_V3]
    assert all(certificate in x509 for certificate in shown.certificates)
    assert len(shown.certificates) <= len(x509)
    assert bool(strange) == any(c.type != CertType.X509_V3 for c in given_)


@settings(max_examples=30)
@given(st.lists(certs | st.builds(params.Delegation, blobs), max_size=4), st.binary(max_size=40))
def test_mutated_credentials_neither_raise_nor_admit(
    found: list[params.Parameter], inside: bytes
) -> None:
    """An Initiator that is who it says, with whatever it may put where credentials stand."""
    for encrypt in (True, False):
        net, a, b = pair(replace(FAST, encrypt_host_id=encrypt))
        b.engine.use(Policy(BOB, only(Shown((b"never",)))), lambda: WALL)
        i2 = made(net, a, b, [*found, params.Delegation(inside)])
        net.perform(b, b.engine.on_control(i2, a.address, net.now))
        assert net.state(b, a) is State.UNASSOCIATED
        assert not b.engine.outbound
        types = {n.type for n in notified(net, a)}
        assert types <= {
            NotifyType.INVALID_CERTIFICATE,
            NotifyType.INVALID_SYNTAX,
            NotifyType.CREDENTIALS_REQUIRED,
        }
        assert len(types) == 1


def made(net: Net, a: Peer, b: Peer, shown: list[params.Parameter]) -> bytes:
    """An I2 of ``a`` with these parameters where its credentials stand."""
    (i1,) = a.engine.connect(a.hit, b.hit, 0.0)
    (r1,) = b.engine.on_control(i1.data, a.address, 0.0)  # type: ignore[union-attr]
    (ask,) = a.engine.on_control(r1.data, b.address, 0.0)  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "parameters", lambda _: shown)
        j = puzzle.solve(ask.k, ask.prefix, ask.rhash, ask.start)  # type: ignore[union-attr]
        (i2,) = a.engine.on_puzzle_solved(ask.key, j, 0.0)  # type: ignore[union-attr]
    return i2.data  # type: ignore[union-attr]


def test_a_type_that_we_do_not_read_is_refused_by_its_number() -> None:
    net, a, b = pair()
    b.engine.use(Policy(BOB, only(GOOD)), lambda: WALL)
    i2 = made(net, a, b, [params.Cert(7, 2, 2, CertType.HASH_AND_URL, b"http://a")])
    net.perform(b, b.engine.on_control(i2, a.address, 0.0))
    (notification,) = notified(net, a)
    assert notification == params.Notification(NotifyType.INVALID_CERTIFICATE, b"\7\2")


# --- sizes


def test_the_size_foretold_is_that_of_the_i2_sent() -> None:
    for shown in (Shown(), GOOD, BOB, Shown((bytes(700),), bytes(200))):
        net, a, _ = meet(Policy(shown), Policy())
        (i2,) = net.sent(PacketType.I2)
        assert PacketSizes(a.identity, FAST).i2(shown) == len(i2.data)


def test_what_fits_no_packet_is_refused_with_both_causes() -> None:
    identity = HostIdentity.from_secret(5)
    sizes = PacketSizes(identity, FAST)
    assert sizes.check(Shown((bytes(300),), bytes(180)))
    assert not sizes.check(Shown((bytes(600),), bytes(180)))
    with pytest.raises(HostConfigRefused, match="certificates") as refused:
        sizes.check(Shown((bytes(1_500),)))
    assert str(identity.hit) in str(refused.value)
    assert str(PACKET_MAX) in str(refused.value)
