import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.constants import PacketType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build, cover, with_checksum
from sim import vectors

A, B = (HostIdentity.from_secret(n).hit for n in (1, 2))
I1 = build(PacketType.I1, A, B, [params.DhGroupList((7, 8))])
captures = pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in vectors.NAMES for kind in ("I1", "R1", "I2", "R2")],
)


@captures
def test_golden_packets_have_the_checksum_we_compute(name: str, kind: str) -> None:
    capture = vectors.load(name).packets[kind]
    packet = Packet(capture.raw)
    assert packet.type is PacketType[kind]
    assert packet.checksum_fits(capture.source, capture.destination)
    assert not packet.checksum_fits(capture.source, bytes(4))


@captures
def test_golden_packets_are_encoded_again_byte_for_byte(name: str, kind: str) -> None:
    capture = vectors.load(name).packets[kind]
    packet = Packet(capture.raw)
    parameters = packet.parameters()
    assert not [p for p in parameters if isinstance(p, params.Unknown)]
    again = build(packet.type, packet.sender, packet.receiver, parameters, packet.controls)
    assert with_checksum(again, capture.source, capture.destination) == capture.raw


@captures
def test_golden_packets_hold_the_parameters_the_walk_finds(name: str, kind: str) -> None:
    raw = vectors.load(name).packets[kind].raw
    at, codes = 40, []
    while at < len(raw):  # the formula of RFC 7401 §5.2.1, once more
        code, length = (int.from_bytes(raw[i : i + 2], "big") for i in (at, at + 2))
        codes.append(code)
        at += 11 + length - (length + 3) % 8
    assert [parameter.TYPE for parameter in Packet(raw).parameters()] == codes  # type: ignore[union-attr]


@pytest.mark.parametrize("name", vectors.NAMES)
def test_golden_host_ids_have_the_hits_of_the_headers(name: str) -> None:
    vector = vectors.load(name)
    for kind in ("R1", "I2"):
        packet = vector.packet(kind)
        parameter = packet.need(params.HostIdParameter)
        assert parameter.host_id.hit == packet.sender
        assert parameter.domain  # which the HIT doesn't depend on


@pytest.mark.parametrize("name", vectors.NAMES)
def test_golden_signatures_hold_and_no_other_bytes_are_signed(name: str) -> None:
    vector = vectors.load(name)
    r1, i2, r2 = (vector.packet(kind) for kind in ("R1", "I2", "R2"))
    responder = r1.need(params.HostIdParameter).host_id
    initiator = i2.need(params.HostIdParameter).host_id
    signature_2 = r1.need(params.HipSignature2).signature
    assert responder.verify(signature_2, r1.covered_by_signature_2())
    for packet, host_id in ((i2, initiator), (r2, responder)):
        signature = packet.need(params.HipSignature).signature
        covered = packet.covered(params.HipSignature)
        assert host_id.verify(signature, covered)
        assert not host_id.verify(signature, covered[:-1] + bytes((covered[-1] ^ 1,)))


def test_signature_2_leaves_out_receiver_opaque_and_i_but_not_k() -> None:
    def r1(receiver: bytes, k: int, opaque: bytes, random_i: bytes) -> bytes:
        puzzle = params.Puzzle(k, 37, opaque, random_i)
        signature = params.HipSignature2(7, b"s")
        return Packet(build(2, A, receiver, [puzzle, signature])).covered_by_signature_2()

    assert r1(A, 10, b"ab", bytes(48)) == r1(B, 10, b"cd", b"\1" * 48)
    assert r1(A, 10, b"ab", bytes(48)) != r1(A, 11, b"ab", bytes(48))


def test_covered_bytes_end_before_the_mac_and_count_an_appendix() -> None:
    mac = params.HipMac2(bytes(48))
    packet = Packet(build(4, A, B, [params.EspInfo(0, 0, 300), mac]))
    assert packet.covered(params.HipMac2) == cover(packet.raw[:56])
    assert packet.covered(params.HipMac2)[1] == 6
    assert packet.covered(params.HipMac2, bytes(16))[1] == 8


def test_parameters_are_found_by_class() -> None:
    packet = Packet(I1)
    assert (packet.sender, packet.receiver) == (A, B)
    assert packet.need(params.DhGroupList).groups == (7, 8)
    assert packet.get(params.DhGroupList) is packet.get(params.DhGroupList)
    assert packet.get(params.Puzzle) is None
    with pytest.raises(MalformedPacket, match="missing PUZZLE"):
        packet.need(params.Puzzle)


def test_a_parameter_may_stand_in_a_packet_several_times() -> None:
    requests = [params.EchoRequestUnsigned(bytes((n,))) for n in range(3)]
    packet = Packet(build(2, A, B, requests))
    assert packet.every(params.EchoRequestUnsigned) == requests


def test_a_critical_parameter_that_we_do_not_know_is_seen() -> None:
    assert Packet(build(1, A, B, [params.Unknown(195, b"x")])).unknown_critical() == 195
    assert Packet(build(1, A, B, [params.Unknown(930, b"x")])).unknown_critical() is None


def changed(at: int, value: int, raw: bytes = I1) -> bytes:
    return raw[:at] + bytes((value,)) + raw[at + 1 :]


UNORDERED = I1[:40] + params.encode([params.R1Counter(1)]) + I1[40:]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "shorter than its header"),
        (I1[:39], "shorter than its header"),
        (I1[:40], "Header Length"),
        (I1 + bytes(8), "Header Length"),
        (changed(2, 99), "packet type"),
        (changed(3, 0x11), "version"),
        (changed(8, 0), "no HIT"),
        (changed(24, 0), "no HIT"),
        (changed(43, 9), "cut short"),
        (changed(1, 8, I1 + UNORDERED[40:56] + I1[40:48]), "out of order"),
    ],
)
def test_malformed_packets_are_refused_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedPacket, match=reason):
        Packet(raw)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_packet_or_malformed(raw: bytes) -> None:
    for data in (raw, changed(1, (len(I1) + len(raw)) // 8 % 256, I1[:40] + raw)):
        try:
            Packet(data).parameters()
        except MalformedPacket as error:
            assert 0 <= error.offset <= len(data)


@given(st.sampled_from(vectors.NAMES), st.sampled_from(["R1", "I2", "R2"]), st.data())
def test_a_packet_cut_short_is_malformed(name: str, kind: str, data: st.DataObject) -> None:
    raw = vectors.load(name).packets[kind].raw
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(MalformedPacket):
        Packet(raw[:cut])


def test_no_packet_of_ours_is_longer_than_2048_bytes() -> None:
    assert len(build(2, A, B, [params.EchoRequestSigned(bytes(2004))])) == 2048
    with pytest.raises(ValueError, match="2048"):
        build(2, A, B, [params.EchoRequestSigned(bytes(2005))])
