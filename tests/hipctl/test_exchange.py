"""What each packet of the base exchange must hold: one wrong thing at a time."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from hipctl import crypto, exchange, params, puzzle, signed
from hipctl.constants import EccCurve, EspSuite, NotifyType, PacketType
from hipctl.errors import MalformedPacket, Rejected
from hipctl.exchange import Agreement, KnownHosts, Offer
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.packet import Packet, build, cover
from hipctl.responder import Responder, Vetted
from hipctl.wire import frame
from sim import vectors
from sim.engines import FAST

A, B, C = (HostIdentity.from_secret(n) for n in (1, 2, 3))
AT_A = ("192.0.2.1", 10500)
RNG = random.Random(5).randbytes
GOLDEN = replace(FAST, groups=(7, 8))
Parameters = list[params.Parameter]


def solve(offer: Offer) -> bytes:
    j = puzzle.solve(offer.puzzle.k, offer.prefix, offer.rhash, 1)
    assert j is not None
    return j


# -- golden ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", vectors.NAMES)
def test_we_take_a_golden_r1_and_its_r2(name: str) -> None:
    vector = vectors.load(name)
    r1, i2, r2 = (vector.packet(kind) for kind in ("R1", "I2", "R2"))
    group = r1.need(params.DiffieHellman).group
    offer = exchange.read_r1(r1, replace(GOLDEN, groups=(group,)), KnownHosts())
    assert offer.counter is None
    assert offer.mode is None
    assert [offer.cipher] == list(i2.need(params.CipherList).ciphers)
    assert [offer.suite] == list(i2.need(params.EspTransform).suites)
    assert exchange.read_r2(r2, offer, golden_keys(vector, i2.sender, i2.receiver)) > 255


def golden_keys(vector: vectors.Vector, local: Hit, peer: Hit) -> crypto.Keys:
    i2 = vector.packet("I2")
    solution = i2.need(params.Solution)
    (suite,) = i2.need(params.EspTransform).suites
    return crypto.draw(
        rhash="sha384",
        secret=vector.secret,
        salt=solution.random_i + solution.answer_j,
        local=local,
        peer=peer,
        cipher=i2.need(params.CipherList).ciphers[0],
        esp_length={8: 48, 9: 64}[suite],
    )


@pytest.mark.parametrize("name", vectors.NAMES)
def test_a_golden_i2_is_accepted_by_who_has_the_responder_s_dh_key(name: str) -> None:
    vector = vectors.load(name)
    i2 = vector.packet("I2")
    secret = vector.secret

    @dataclass
    class Known:  # stands in for the DH key that nobody recorded
        group: int
        public: bytes = b""

        def shared(self, public: bytes) -> bytes:
            return secret

    responder = Responder(B, GOLDEN, RNG)
    responder.answer(Packet(exchange.make_i1(A.hit, B.hit, GOLDEN)), AT_A, 0.0)
    (generation,) = responder._generations
    group = i2.need(params.DiffieHellman).group
    generation.keys[group] = Known(group)  # type: ignore[assignment]
    vetted = Vetted(generation, i2.need(params.Solution), "sha384", 0.0)
    identity = Other(vector.packet("R1").sender, B)
    agreement = exchange.accept_i2(identity, i2, vetted, GOLDEN, KnownHosts())
    assert agreement.host_id.hit == i2.sender
    assert agreement.spi_out == i2.need(params.EspInfo).new_spi


class Other(HostIdentity):
    """Claims another HIT than its key has."""

    def __init__(self, hit: Hit, identity: HostIdentity) -> None:
        super().__init__(identity.private_key)
        self._hit = hit

    @property
    def hit(self) -> Hit:
        return self._hit


# -- R1 ----------------------------------------------------------------------------------------


def good_r1() -> tuple[Responder, Packet]:
    responder = Responder(B, FAST, RNG)
    i1 = Packet(exchange.make_i1(A.hit, B.hit, FAST))
    return responder, Packet(responder.answer(i1, AT_A, 0.0))


def signed_r1(change: Callable[[Parameters], Sequence[params.Parameter]]) -> Packet:
    """An R1 with other parameters, signed all the same."""
    _, r1 = good_r1()
    parameters = [p for p in r1.parameters() if not isinstance(p, params.Unknown)]
    changed = [p for p in change(parameters) if not isinstance(p, params.HipSignature2)]
    unsigned = [p for p in changed if p.TYPE > params.HipSignature2.TYPE]
    signed = [p for p in changed if p not in unsigned]
    zero = Packet(build(PacketType.R1, B.hit, A.hit, [*signed, params.HipSignature2(7, b"")]))
    signature = params.HipSignature2(7, B.sign(zero.covered_by_signature_2()))
    return Packet(build(PacketType.R1, B.hit, A.hit, [*signed, signature, *unsigned]))


def instead(new: params.Parameter) -> Callable[[Parameters], Parameters]:
    return lambda old: [new if isinstance(p, type(new)) else p for p in old]


def without(kind: type[params.Parameter]) -> Callable[[Parameters], Parameters]:
    return lambda old: [p for p in old if not isinstance(p, kind)]


def test_a_changed_but_signed_r1_is_read() -> None:
    offer = exchange.read_r1(signed_r1(lambda old: old), FAST, KnownHosts())
    assert offer.mode == 1
    assert offer.suite == EspSuite.AES_GCM_16
    assert offer.host_id.hit == B.hit


@pytest.mark.parametrize(
    "kind",
    [
        params.Puzzle,
        params.DiffieHellman,
        params.DhGroupList,
        params.CipherList,
        params.HostIdParameter,
        params.HitSuiteList,
        params.TransportFormatList,
        params.EspTransform,
    ],
    ids=lambda kind: kind.TYPE.name,
)
def test_an_r1_without_what_it_needs_is_malformed(kind: type[params.Parameter]) -> None:
    _, r1 = good_r1()
    kept = [p for p in r1.parameters() if not isinstance(p, kind)]
    with pytest.raises(MalformedPacket, match=f"missing {kind.TYPE.name}"):
        exchange.read_r1(Packet(build(2, B.hit, A.hit, kept)), FAST, KnownHosts())


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (params.Puzzle(25, 37, bytes(2), bytes(48)), "puzzle too hard"),
        (params.Puzzle(1, 37, bytes(2), bytes(47)), "PUZZLE of wrong length"),
        (params.DhGroupList((8, 7)), "DH group downgraded"),
        (params.DhGroupList((3, 4)), "no DH group in common"),
        (params.CipherList((1, 3)), "no HIP cipher in common"),
        (params.CipherList((1, 1, 1, 1, 1, 1, 2)), "no HIP cipher in common"),
        (params.EspTransform((7, 10)), "no ESP suite in common"),
        (params.HitSuiteList((0x10, 0x30)), "our HIT suite unknown to the Responder"),
        (params.TransportFormatList((4094,)), "no transport format in common"),
        (params.NatTraversalModes((2,)), "no NAT traversal mode in common"),
        (params.HostIdParameter(C.host_id), "HOST_ID is not the HIT's"),
        (params.HostIdParameter(B.host_id, 1, b"name"), None),
        (params.CipherList((1, 4, 2)), None),
        (params.R1Counter(2**64 - 1, b"abcd"), None),
    ],
)
def test_an_r1_that_offers_nothing_for_us_is_refused(
    new: params.Parameter, reason: str | None
) -> None:
    r1 = signed_r1(instead(new))
    if reason is None:
        exchange.read_r1(r1, FAST, KnownHosts())
        return
    with pytest.raises((Rejected, MalformedPacket), match=reason):
        exchange.read_r1(r1, FAST, KnownHosts())


def test_an_r1_signed_by_another_key_is_refused() -> None:
    _, r1 = good_r1()
    parameters = without(params.HipSignature2)(r1.parameters())  # type: ignore[arg-type]
    forged = params.HipSignature2(7, C.sign(r1.covered_by_signature_2()))
    with pytest.raises(Rejected, match="wrong HIP_SIGNATURE_2"):
        exchange.read_r1(Packet(build(2, B.hit, A.hit, [*parameters, forged])), FAST, KnownHosts())


def test_the_responder_s_preference_decides_about_ciphers() -> None:
    r1 = signed_r1(instead(params.CipherList((4, 2))))
    assert exchange.read_r1(r1, FAST, KnownHosts()).cipher == 4


# -- I2 ----------------------------------------------------------------------------------------


def i2_for(
    identity: HostIdentity, offer: Offer, j: bytes | None = None, spi: int = 4711
) -> exchange.Reply:
    return exchange.make_i2(
        identity, offer, answer_j=j or solve(offer), spi=spi, config=FAST, rng=RNG
    )


def accept(responder: Responder, packet: Packet) -> Agreement:
    vetted = responder.vet(packet, AT_A, 0.0)
    return exchange.accept_i2(B, packet, vetted, FAST, KnownHosts())


def test_what_r1_asks_to_echo_and_count_comes_back_verbatim() -> None:
    asked: list[params.Parameter] = [
        params.EchoRequestSigned(b"signed"),
        params.EchoRequestUnsigned(b"unsigned"),
    ]
    counter = params.R1Counter(77, b"\1\2\3\4")
    r1 = signed_r1(lambda old: [*instead(counter)(old), *asked])
    packet = Packet(i2_for(A, exchange.read_r1(r1, FAST, KnownHosts())).packet)
    assert packet.need(params.EchoResponseSigned).opaque == b"signed"
    assert packet.need(params.EchoResponseUnsigned).opaque == b"unsigned"
    assert packet.need(params.R1Counter) == counter
    assert packet.raw.index(b"signed") < packet.raw.index(packet.need(params.HipMac).mac)


@pytest.mark.parametrize("curve", list(EccCurve))
def test_an_i2_yields_the_same_keys_on_both_sides(curve: EccCurve) -> None:
    initiator = HostIdentity.from_secret(8, curve)
    responder = Responder(B, FAST, RNG)
    i1 = Packet(exchange.make_i1(initiator.hit, B.hit, FAST))
    offer = exchange.read_r1(Packet(responder.answer(i1, AT_A, 0.0)), FAST, KnownHosts())
    reply = i2_for(initiator, offer)
    agreement = accept(responder, Packet(reply.packet))
    assert agreement.keys.esp_in == reply.keys.esp_out
    assert agreement.keys.esp_out == reply.keys.esp_in
    assert agreement.keys.keymat == reply.keys.keymat
    assert agreement.spi_out == 4711
    r2 = exchange.make_r2(B, agreement, 5000, responder.host_id_tlv)
    assert exchange.read_r2(Packet(r2), offer, reply.keys) == 5000


CHANGES: list[tuple[params.Parameter, str, NotifyType | None]] = [
    (params.CipherList((1,)), "HIP_CIPHER not offered", NotifyType.INVALID_HIP_CIPHER_CHOSEN),
    (params.CipherList((2, 4)), "HIP_CIPHER not offered", NotifyType.INVALID_HIP_CIPHER_CHOSEN),
    (
        params.EspTransform((7,)),
        "ESP_TRANSFORM not offered",
        NotifyType.INVALID_ESP_TRANSFORM_CHOSEN,
    ),
    (
        params.TransportFormatList((4094,)),
        "TRANSPORT_FORMAT_LIST not offered",
        NotifyType.NO_ESP_PROPOSAL_CHOSEN,
    ),
    (
        params.NatTraversalModes((3,)),
        "NAT_TRAVERSAL_MODE not offered",
        NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER,
    ),
    (params.DiffieHellman(8, bytes(96)), "DH group not offered", NotifyType.INVALID_DH_CHOSEN),
    (params.DiffieHellman(7, b"\1" * 64), "bad DH public value", None),
    (params.EspInfo(0, 0, 300), "wrong HIP_MAC", NotifyType.HIP_MAC_FAILED),
]


@pytest.mark.parametrize(("new", "reason", "notify"), CHANGES, ids=lambda c: str(c)[:30])
def test_an_i2_that_chose_what_nobody_offered_is_refused(
    new: params.Parameter, reason: str, notify: NotifyType | None
) -> None:
    responder, r1 = good_r1()
    reply = i2_for(A, exchange.read_r1(r1, FAST, KnownHosts()))
    changed = instead(new)(Packet(reply.packet).parameters())  # type: ignore[arg-type]
    with pytest.raises(Rejected, match=reason) as caught:
        accept(responder, Packet(build(PacketType.I2, A.hit, B.hit, changed)))
    assert caught.value.notify is notify


def remade(reply: exchange.Reply, new: params.Parameter, identity: HostIdentity = A) -> Packet:
    """An I2 with one other parameter, MACed and signed all the same."""
    old = instead(new)(Packet(reply.packet).parameters())  # type: ignore[arg-type]
    before = [p for p in old if p.TYPE < params.HipMac.TYPE]
    head = build(PacketType.I2, identity.hit, B.hit, [])
    data = head + params.encode(before)
    return Packet(signed.sign_and_mac(data, reply.keys, identity))


@pytest.mark.parametrize("info", [params.EspInfo(0, 0, 300), params.EspInfo(128, 0, 255)])
def test_an_i2_with_a_bad_esp_info_is_refused(info: params.EspInfo) -> None:
    responder, r1 = good_r1()
    reply = i2_for(A, exchange.read_r1(r1, FAST, KnownHosts()))
    with pytest.raises(Rejected, match="bad ESP_INFO") as caught:
        accept(responder, remade(reply, info))
    assert caught.value.notify is NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("inner", [b"", frame(2, b"x"), b"\0\1\0\xff"])
def test_an_i2_whose_encrypted_holds_no_host_id_is_refused(inner: bytes) -> None:
    responder, r1 = good_r1()
    reply = i2_for(A, exchange.read_r1(r1, FAST, KnownHosts()))
    encrypted = params.Encrypted(crypto.encrypt(reply.keys.encrypt_out, bytes(16), inner))
    with pytest.raises(Rejected, match="ENCRYPTED") as caught:
        accept(responder, remade(reply, encrypted))
    assert caught.value.notify is NotifyType.ENCRYPTION_FAILED


def test_who_borrows_a_hit_is_refused() -> None:
    responder, r1 = good_r1()
    reply = i2_for(Other(A.hit, C), exchange.read_r1(r1, FAST, KnownHosts()))
    with pytest.raises(Rejected, match="HOST_ID is not the HIT's") as caught:
        accept(responder, Packet(reply.packet))
    assert caught.value.notify is NotifyType.INVALID_HIT


def test_who_has_the_host_id_but_not_the_key_is_refused() -> None:
    class Thief(Other):
        """Shows A's key and signs with its own."""

        def __init__(self) -> None:
            super().__init__(A.hit, C)
            self.host_id = A.host_id

    responder, r1 = good_r1()
    reply = i2_for(Thief(), exchange.read_r1(r1, FAST, KnownHosts()))
    with pytest.raises(Rejected, match="wrong HIP_SIGNATURE") as caught:
        accept(responder, Packet(reply.packet))
    assert caught.value.notify is NotifyType.AUTHENTICATION_FAILED


def test_an_i2_too_long_for_hip_is_not_sent() -> None:
    requests = [params.EchoRequestUnsigned(bytes(500))]
    offer = exchange.read_r1(signed_r1(lambda old: [*old, *requests]), FAST, KnownHosts())
    assert len(i2_for(A, offer).packet) <= 2048
    long = [params.EchoResponseUnsigned(bytes(1900))]
    offer = replace(offer, echo=replace(offer.echo, unsigned=tuple(long)))
    with pytest.raises(Rejected, match="I2 longer than 2048 bytes"):
        i2_for(A, offer)


# -- R2 and the rest ---------------------------------------------------------------------------


def test_an_r2_whose_mac_covers_another_host_id_is_refused() -> None:
    responder, r1 = good_r1()
    offer = exchange.read_r1(r1, FAST, KnownHosts())
    reply = i2_for(A, offer)
    agreement = accept(responder, Packet(reply.packet))
    named = params.HostIdParameter(B.host_id, 1, b"name")
    r2 = exchange.make_r2(B, agreement, 5000, frame(named.TYPE, named.content()))
    with pytest.raises(Rejected, match="wrong HIP_MAC"):
        exchange.read_r2(Packet(r2), offer, reply.keys)


def test_a_notify_is_signed() -> None:
    notify = Packet(signed.make_notify(B, A.hit, NotifyType.BLOCKED_BY_POLICY))
    assert notify.need(params.Notification).type == 42
    signature = notify.need(params.HipSignature).signature
    assert B.host_id.verify(signature, cover(notify.raw[:48]))


def test_known_hosts_are_bounded_and_shared() -> None:
    known = KnownHosts()
    first = known.remember(HostId(A.host_id.algorithm, A.host_id.encoded))
    assert known.remember(HostId(A.host_id.algorithm, A.host_id.encoded)) is first
    for n in range(2000):
        known.remember(HostId(A.host_id.algorithm, n.to_bytes(4, "big")))
    assert known.remember(HostId(A.host_id.algorithm, A.host_id.encoded)) is not first
