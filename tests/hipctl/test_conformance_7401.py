"""What RFC 7401 asks for and no other test shows; docs/conformance/rfc7401.md says which row."""

import ast
import asyncio
import ipaddress
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hipctl import HostConfig, LocalHost, closing, crypto, exchange, params, puzzle, signed
from hipctl.actions import Transmit
from hipctl.constants import NotifyType, PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import HostConfigRefused, MalformedPacket, Rejected
from hipctl.exchange import KnownHosts, Offer, Reply
from hipctl.identity import Hit, HostIdentity
from hipctl.inner import pseudo_header
from hipctl.packet import Packet, build, cover
from hipctl.responder import Responder
from hipctl.state import State
from hipctl.udp import _Protocol
from hipctl.wire import checksum, frame
from sim import net as sockets
from sim.engines import FAST, Net, Peer, Seen
from sim.loop import simulate

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
CLOSE, CLOSE_ACK, NOTIFY = PacketType.CLOSE, PacketType.CLOSE_ACK, PacketType.NOTIFY
A, B, C = (HostIdentity.from_secret(n) for n in (10_001, 10_002, 10_003))
AT_A = ("192.0.2.1", 10500)
GROUPS = params.DhGroupList((7, 8))
RNG = random.Random(7).randbytes


def engine(*identities: HostIdentity, config: EngineConfig = FAST) -> Engine:
    return Engine(identities or (B,), config, random.Random(1).randbytes)


def answers(subject: Engine, raw: bytes, now: float = 0.0) -> list[Packet]:
    """The control packets with which ``raw`` is answered."""
    actions = subject.on_control(raw, AT_A, now)
    return [Packet(action.data) for action in actions if isinstance(action, Transmit)]


def introduced(config: EngineConfig = FAST) -> tuple[Net, Peer, Peer]:
    net = Net()
    a, b = net.add(config), net.add(config)
    net.introduce(a, b)
    return net, a, b


def established() -> tuple[Net, Peer, Peer]:
    net, a, b = introduced()
    net.send(a, b.hit, 17, b"first")
    net.run(1.0)
    assert net.state(a, b) is net.state(b, a) is State.ESTABLISHED
    return net, a, b


def signed_r1(extra: Sequence[params.Parameter] = (), *, without: int = 0, a: int = 0) -> Packet:
    """B's R1 to A with ``extra`` instead of what it had of those types, signed."""
    r1 = Packet(Responder(B, FAST, RNG).answer(Packet(build(I1, A.hit, B.hit, [GROUPS])), AT_A, 0))
    dropped = {parameter.TYPE for parameter in extra} | {params.HipSignature2.TYPE, without}
    kept = [p for p in r1.parameters() if not isinstance(p, params.Unknown)]
    parts = [*(p for p in kept if p.TYPE not in dropped), *extra]
    bare = Packet(build(R1, B.hit, A.hit, [*parts, params.HipSignature2(7, b"")], a))
    signature = params.HipSignature2(7, B.sign(bare.covered_by_signature_2()))
    return Packet(build(R1, B.hit, A.hit, [*parts, signature], a))


def offer_of(r1: Packet) -> Offer:
    return exchange.read_r1(r1, FAST, KnownHosts())


def i2_for(offer: Offer) -> Reply:
    j = puzzle.solve(offer.puzzle.k, offer.prefix, offer.rhash, 1)
    assert j is not None
    return exchange.make_i2(A, offer, answer_j=j, spi=4711, config=FAST, rng=RNG)


def remade(reply: Reply, *, without: int = 0, extra: Sequence[params.Parameter] = ()) -> bytes:
    """An I2 with other parameters, MACed and signed all the same."""
    dropped = {parameter.TYPE for parameter in extra} | {without}
    old = Packet(reply.packet).parameters()
    kept = [p for p in old if not isinstance(p, params.Unknown)]
    before = [p for p in kept if p.TYPE not in dropped and p.TYPE < params.HipMac.TYPE]
    data = build(I2, A.hit, B.hit, [])[:40] + params.encode([*before, *extra])
    return signed.sign_and_mac(data, reply.keys, A)


def half_done() -> tuple[Responder, Reply]:
    """A Responder and an I2 that it would accept."""
    responder = Responder(B, FAST, RNG)
    r1 = responder.answer(Packet(build(I1, A.hit, B.hit, [GROUPS])), AT_A, 0.0)
    return responder, i2_for(offer_of(Packet(r1)))


def with_more(raw: bytes, parameters: Sequence[params.Parameter]) -> bytes:
    """A packet to whose unsigned end a middlebox has added parameters."""
    extra = params.encode(parameters)
    return raw[:1] + bytes(((len(raw) + len(extra)) // 8 - 1,)) + raw[2:] + extra


# -- §4.5.1, appendix C ------------------------------------------------------------------------


def rfc_i1() -> bytes:
    sender, receiver = Hit.parse("2001:20::1"), Hit.parse("2001:20::2")
    return build(I1, sender, receiver, [params.DhGroupList((3, 4, 8))])


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [("2001:db8::1", "2001:db8::2", 0x1A5E), ("192.0.2.1", "192.0.2.2", 0xF1CE)],
)
def test_checksums_are_those_of_the_rfc_s_appendix(
    source: str, destination: str, expected: int
) -> None:
    ends = [ipaddress.ip_address(address).packed for address in (source, destination)]
    assert checksum(rfc_i1(), *ends) == expected


def test_the_pseudo_header_of_user_data_is_that_of_the_rfc_s_appendix() -> None:
    segment = bytes.fromhex("ffdc0016 00000001 00000000 5002ffff 6faa0000".replace(" ", ""))
    pseudo = pseudo_header(Hit.parse("2001:20::1"), Hit.parse("2001:20::2"))
    assert (int.from_bytes(segment, "big") + pseudo + len(segment) + 6) % 0xFFFF == 0


# -- §5.1 and §5.2.1: what is not to be looked at ----------------------------------------------


def test_trailing_data_of_another_next_header_is_ignored() -> None:
    raw = build(I1, A.hit, B.hit, [GROUPS])
    (answer,) = answers(engine(), b"\x11" + raw[1:] + b"whatever a later RFC puts here")
    assert answer.type is R1


def test_fixed_and_reserved_bits_are_set_when_sending_and_ignored_when_receiving() -> None:
    raw = build(I1, A.hit, B.hit, [GROUPS])
    assert raw[2:4] == bytes((1, 0x21))
    for bits in (b"\x81\x21", b"\x01\x20", b"\x01\x2f", b"\x81\x2e"):
        (answer,) = answers(engine(), raw[:2] + bits + raw[4:])
        assert answer.type is R1
        assert answer.raw[2:4] == bytes((2, 0x21))


def test_controls_are_zero_when_sent_and_ignored_when_received() -> None:
    net, *_ = established()
    assert {Packet(seen.data).controls for seen in net.wire} == {0}
    (answer,) = answers(engine(), build(I1, A.hit, B.hit, [GROUPS], controls=0xFFFF))
    assert answer.type is R1


def test_an_anonymous_responder_is_taken() -> None:
    assert offer_of(signed_r1(a=1)).host_id.hit == B.hit


def test_padding_is_zero_when_sent_and_not_looked_at_when_received() -> None:
    padded = frame(511, b"\x07")
    assert padded == b"\x01\xff\0\1\x07\0\0\0"
    raw = build(I1, A.hit, B.hit, [params.DhGroupList((7,))])
    (answer,) = answers(engine(), raw[:-3] + b"\xde\xad\xff")
    assert answer.need(params.DiffieHellman).group == 7


def test_an_unknown_noncritical_parameter_is_as_if_it_were_not_there() -> None:
    (answer,) = answers(engine(), build(I1, A.hit, B.hit, [GROUPS, params.Unknown(930, b"?")]))
    assert answer.type is R1


def test_an_unknown_critical_parameter_stops_processing_in_encrypted_too() -> None:
    responder, reply = half_done()
    host_id = params.HostIdParameter(A.host_id)
    inner = frame(host_id.TYPE, host_id.content()) + frame(1001, b"?")
    encrypted = params.Encrypted(crypto.encrypt(reply.keys.encrypt_out, bytes(16), inner))
    packet = Packet(remade(reply, extra=[encrypted]))
    vetted = responder.vet(packet, AT_A, 0.0)
    with pytest.raises(Rejected, match="unknown critical parameter"):
        exchange.accept_i2(B, packet, vetted, FAST, KnownHosts())


# -- §4.1.4, §5.2.3, §7: generations and identities --------------------------------------------


def test_each_identity_counts_its_own_generations() -> None:
    subject = engine(B, C)

    def counter(of: HostIdentity, now: float) -> int:
        (r1,) = answers(subject, build(I1, A.hit, of.hit, [GROUPS]), now)
        return r1.need(params.R1Counter).generation

    assert [counter(B, now) for now in (0.0, 100.0, 200.0)] == [1, 2, 3]
    assert counter(C, 200.0) == 1


def test_the_generations_of_a_restarted_host_are_greater() -> None:
    before = int(time.time())
    host = LocalHost([B], HostConfig())
    (r1,) = answers(host.engine, build(I1, A.hit, B.hit, [GROUPS]))
    assert r1.need(params.R1Counter).generation >= before


def test_more_than_two_identities_are_served_at_once() -> None:
    subject = engine(B, C, HostIdentity.from_secret(10_004))
    for identity in (B, C, HostIdentity.from_secret(10_004)):
        (r1,) = answers(subject, build(I1, A.hit, identity.hit, [GROUPS]))
        assert (r1.sender, r1.receiver) == (identity.hit, A.hit)


def test_the_same_host_never_gets_the_same_puzzle() -> None:
    subject = engine()
    raw = build(I1, A.hit, B.hit, [GROUPS])
    puzzles = [answers(subject, raw, n / 100)[0].need(params.Puzzle) for n in range(20)]
    assert len({asked.random_i for asked in puzzles}) == 20


def test_each_generation_has_a_secret_of_its_own() -> None:
    subject = engine()
    raw = build(I1, A.hit, B.hit, [GROUPS])
    at_its_beginning = [answers(subject, raw, now)[0] for now in (0.0, 64.0, 128.0)]
    puzzles = [r1.need(params.Puzzle).random_i for r1 in at_its_beginning]
    assert {asked[:4] for asked in puzzles} == {bytes(4)}  # the same time stamp, sender, address
    assert len(set(puzzles)) == 3


def test_the_initiator_makes_a_new_dh_key_for_each_exchange() -> None:
    net, a, b = established()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(2.0)
    net.send(a, b.hit, 17, b"again")
    net.run(3.0)
    first, second = (Packet(seen.data).need(params.DiffieHellman) for seen in net.sent(I2))
    assert first.public != second.public


# -- §5.2.8, §5.2.10, §5.2.11: lists -----------------------------------------------------------


def test_default_lists_hold_what_is_mandatory_and_six_entries_at_most() -> None:
    config = EngineConfig()
    assert 2 in config.ciphers  # AES-128-CBC
    assert 8 in config.groups  # NIST P-384
    assert len(config.ciphers) <= 6


@pytest.mark.parametrize(
    "wrong", [{"ciphers": (2,) * 7}, {"esp_suites": (8, 8)}, {"groups": (7, 8, 7)}]
)
def test_a_list_never_names_anything_twice(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(HostConfigRefused, match="once"):
        Engine([], replace(FAST, **wrong), RNG)  # type: ignore[arg-type]


def test_an_unknown_transport_format_does_not_hinder_a_known_one() -> None:
    assert offer_of(signed_r1([params.TransportFormatList((4094, 4095))])).suite


def test_a_hit_suite_id_with_reserved_bits_is_an_error() -> None:
    with pytest.raises(MalformedPacket, match="reserved bits"):
        offer_of(signed_r1([params.HitSuiteList((0x20, 0x31))]))


# -- §5.2.19, §5.2.20, §5.2.21: notifications and echoes ---------------------------------------


def test_unknown_notifications_are_counted_and_change_nothing() -> None:
    net, a, b = established()
    types = (9999, 16384, 50000, NotifyType.INVALID_HIT)
    data = build(NOTIFY, b.hit, a.hit, [])[:40]
    data += params.encode([params.Notification(kind, b"?") for kind in types])
    signature = params.HipSignature(7, b.identity.sign(cover(data)))
    raw = data + frame(signature.TYPE, signature.content())
    raw = raw[:1] + bytes((len(raw) // 8 - 1,)) + raw[2:]
    assert a.engine.on_control(raw, b.address, net.now) == []
    assert a.engine.counters["NOTIFY of unknown type"] == 2
    assert a.engine.counters["NOTIFY I2_ACKNOWLEDGEMENT"] == 1
    assert a.engine.counters["NOTIFY INVALID_HIT"] == 1
    assert net.state(a, b) is State.ESTABLISHED


def test_an_error_after_the_signature_is_invalid_syntax() -> None:
    subject = engine()
    (r1,) = answers(subject, build(I1, A.hit, B.hit, [GROUPS]))
    raw = remade(i2_for(offer_of(r1)), without=params.EspInfo.TYPE)
    (answer,) = answers(subject, raw)
    assert answer.need(params.Notification).type == NotifyType.INVALID_SYNTAX
    assert not answer.need(params.Notification).data
    assert subject.counters["missing ESP_INFO"] == 1


def test_echo_requests_in_i2_come_back_in_r2() -> None:
    responder, reply = half_done()
    signed = remade(reply, extra=[params.EchoRequestSigned(b"signed")])
    raw = with_more(signed, [params.EchoRequestUnsigned(bytes((n,))) for n in range(2)])
    packet = Packet(raw)
    vetted = responder.vet(packet, AT_A, 0.0)
    agreement = exchange.accept_i2(B, packet, vetted, FAST, KnownHosts())
    r2 = Packet(exchange.make_r2(B, agreement, 5000, responder.host_id_tlv))
    assert r2.need(params.EchoResponseSigned).opaque == b"signed"
    echoed = r2.every(params.EchoResponseUnsigned)
    assert [answer.opaque for answer in echoed] == [b"\0", b"\1"]


def test_what_a_middlebox_asks_in_close_comes_back_in_close_ack() -> None:
    net, a, b = established()

    def ask(seen: Seen) -> list[bytes]:
        if seen.kind != CLOSE:
            return [seen.data]
        return [with_more(seen.data, [params.EchoRequestUnsigned(b"firewall")])]

    net.tamper = ask
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(2.0)
    (ack,) = net.sent(CLOSE_ACK)
    assert Packet(ack.data).need(params.EchoResponseUnsigned).opaque == b"firewall"
    assert net.state(a, b) is State.UNASSOCIATED


# -- §6: addresses, suites, strangers ----------------------------------------------------------


def test_i2_goes_to_where_r1_came_from() -> None:
    net, a, b = introduced()
    a.engine.learn(b.hit, [("198.51.100.7", 10500), b.address])
    net.connect(a, b)
    net.run(0.3)
    assert {seen.to for seen in net.sent(I1)} == {("198.51.100.7", 10500), b.address}
    assert [seen.to for seen in net.sent(I2)] == [b.address]


def test_an_r1_is_found_by_its_hits_not_by_its_address() -> None:
    net, a, b = introduced()
    net.tamper = lambda seen: [seen.data] if seen.kind == I1 else []
    net.connect(a, b)
    net.run(0.1)
    (r1,) = net.sent(R1)
    net.perform(a, a.engine.on_control(r1.data, ("203.0.113.5", 4321), net.now))
    net.run(0.2)
    assert [seen.to for seen in net.sent(I2)] == [("203.0.113.5", 4321)]


def test_an_r1_that_answers_no_i1_of_ours_is_dropped() -> None:
    net, a, b = introduced()
    net.connect(a, b)
    other = Packet(
        Responder(C, FAST, RNG).answer(Packet(build(I1, a.hit, C.hit, [GROUPS])), AT_A, 0.0)
    )
    assert a.engine.on_control(other.raw, b.address, 0.0) == []
    assert a.engine.counters["R1 in UNASSOCIATED"] == 1
    assert net.state(a, b) is State.I1_SENT


def both_begin() -> tuple[Net, Peer, Peer]:
    """(the net, who has the lesser HIT, who has the greater one), both in I1-SENT."""
    net, *peers = introduced()
    lesser, greater = sorted(peers, key=lambda peer: peer.hit)
    net.tamper = lambda _: []
    net.connect(lesser, greater)
    net.connect(greater, lesser)
    return net, lesser, greater


def test_of_two_i1s_that_cross_the_one_to_the_greater_hit_is_answered() -> None:
    net, lesser, greater = both_begin()
    first, second = net.sent(I1)
    assert lesser.engine.on_control(second.data, greater.address, net.now) == []
    assert lesser.engine.counters["I1 crossed ours"] == 1
    (answer,) = greater.engine.on_control(first.data, lesser.address, net.now)
    assert isinstance(answer, Transmit)
    assert Packet(answer.data).type is R1
    assert net.state(lesser, greater) is net.state(greater, lesser) is State.I1_SENT


def test_of_two_i2s_that_cross_the_one_to_the_greater_hit_is_answered() -> None:
    net, lesser, greater = both_begin()
    for peer, other in ((lesser, greater), (greater, lesser)):  # R1s from before the crossing
        i1 = Packet(build(I1, peer.hit, other.hit, [GROUPS]))
        r1 = other.engine._identities[other.hit][1].answer(i1, peer.address, net.now)
        net.perform(peer, peer.engine.on_control(r1, other.address, net.now))
    net.run(0.1)
    assert net.state(lesser, greater) is net.state(greater, lesser) is State.I2_SENT
    i2s = {seen.source: seen.data for seen in net.sent(I2)}
    assert lesser.engine.on_control(i2s[greater.address], greater.address, net.now) == []
    assert net.state(lesser, greater) is State.I2_SENT
    actions = greater.engine.on_control(i2s[lesser.address], lesser.address, net.now)
    assert [Packet(x.data).type for x in actions if isinstance(x, Transmit)] == [R2]
    assert net.state(greater, lesser) is State.R2_SENT


def test_an_i2_of_an_unknown_hit_suite_is_dropped_without_an_answer() -> None:
    _, reply = half_done()
    subject = engine()
    for suite in (1, 3, 5):
        sender = A.hit[:3] + bytes((A.hit[3] & 0xF0 | suite,)) + A.hit[4:]
        assert answers(subject, reply.packet[:8] + sender + reply.packet[24:]) == []
    assert subject.counters["HIT suite not supported"] == 3


def test_an_icmp_error_ends_no_exchange() -> None:
    heard: list[object] = []
    counters = Counter[str]()
    port = _Protocol(lambda *args: heard.append(args), counters)
    port.error_received(ConnectionRefusedError())
    assert counters.total() == 1
    assert not heard


def test_nothing_is_sent_from_a_hit_that_is_not_ours() -> None:
    with pytest.raises(ValueError, match="no identity of this host"):
        LocalHost([B], HostConfig()).open(A.hit, 7, lambda *_: None)


def test_data_of_no_association_is_discarded() -> None:
    net = sockets.Net()
    home: sockets.Address = ("10.0.0.1", 10500)

    async def main() -> None:
        config = HostConfig(listen=(home,), engine=replace(FAST))
        async with LocalHost([B], config, open_port=net.open) as host:
            net.carry(b"\0\0\x11\x11" + bytes(60), ("10.0.0.9", 10500), home)
            await asyncio.sleep(1)
            assert host.counters()["unknown SPI"] == 1

    simulate(main)
    assert len(net.log) == 1  # nothing came back


# -- §5.3.7, §5.3.8, §6.16: ending, and what is left -------------------------------------------


def test_close_and_close_ack_hold_what_the_rfc_lists() -> None:
    net, a, b = established()
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(2.0)
    for kind, echo in ((CLOSE, "ECHO_REQUEST_SIGNED"), (CLOSE_ACK, "ECHO_RESPONSE_SIGNED")):
        (seen,) = net.sent(kind)
        names = [p.TYPE.name for p in Packet(seen.data).parameters()]  # type: ignore[union-attr]
        assert names == [echo, "HIP_MAC", "HIP_SIGNATURE"]


@pytest.mark.parametrize("part", [params.EchoResponseSigned, params.HipMac, params.HipSignature])
def test_a_forged_close_ack_ends_nothing(part: type[params.Parameter]) -> None:
    net, a, b = established()

    def forge(seen: Seen) -> list[bytes]:
        if seen.kind != CLOSE_ACK:
            return [seen.data]
        at = seen.data.index(Packet(seen.data).need(part).content()) + 5
        return [seen.data[:at] + bytes((seen.data[at] ^ 1,)) + seen.data[at + 1 :]]

    net.tamper = forge
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    net.run(1.2)
    assert len(net.sent(CLOSE_ACK)) == 1
    assert net.state(a, b) is State.CLOSING


def test_a_close_ack_to_another_close_ends_nothing() -> None:
    net, a, b = established()
    association = b.engine._associations[b.hit, a.hit]
    keys = association.standing.keys
    assert keys is not None
    net.tamper = lambda _: []
    net.perform(a, a.engine.close(a.hit, b.hit, net.now))
    echo = signed.Echo((params.EchoResponseSigned(b"another's"),), ())
    ack = closing.make_close_ack(b.identity, a.hit, keys, echo)
    assert a.engine.on_control(ack, b.address, net.now) == []
    assert a.engine.counters["CLOSE_ACK of another CLOSE"] == 1
    assert net.state(a, b) is State.CLOSING


def test_no_association_state_is_written_to_disk() -> None:
    folder = Path(exchange.__file__).parent
    pure = ["association", "engine", "esp", "exchange", "responder", "sas", "state"]
    for name in pure:
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {function.id for function in calls if isinstance(function, ast.Name)}
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not imported & {"os", "io", "pathlib", "sqlite3", "shelve", "pickle"}, name
        assert not modules & {"os", "io", "pathlib"}, name
        assert "open" not in called, name
