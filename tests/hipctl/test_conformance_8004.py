"""What RFC 8004 asks for and no other test shows; docs/conformance/rfc8004.md says which row."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.constants import PacketType, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build, finish
from hipctl.wire import Reader, frame
from sim.engines import Net, Seen

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
A, B = (HostIdentity.from_secret(n) for n in (8_005, 8_006))
GROUPS = params.DhGroupList((7, 8))
KEY = b"key of the registration"
RENDEZVOUS: list[type[params.Parameter]] = [params.From, params.RvsHmac, params.ViaRvs]


def forwarded(*ips: str, mac: bytes = bytes(32)) -> bytes:
    """An I1 as a rendezvous server makes it: these FROMs, RVS_HMAC."""
    return finish(
        build(I1, A.hit, B.hit, [GROUPS])
        + params.encode([*(params.From(ip) for ip in ips), params.RvsHmac(mac)])
    )


# -- §4.2: formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "tlv"),
    [
        (params.From("192.0.2.7"), "ffda0010" + "00" * 10 + "ffffc0000207" + "00" * 4),
        (params.From("2001:db8::7"), "ffda0010 20010db8" + "00" * 11 + "07" + "00" * 4),
        (params.RvsHmac(b"\xaa" * 32), "ffdc0020" + "aa" * 32 + "00" * 4),
        (params.RvsHmac(b"\xaa" * 48), "ffdc0030" + "aa" * 48 + "00" * 4),
        (params.ViaRvs(("192.0.2.7",)), "ffde0010" + "00" * 10 + "ffffc0000207" + "00" * 4),
        (
            params.ViaRvs(("2001:db8::7", "192.0.2.7")),
            "ffde0020 20010db8" + "00" * 11 + "07" + "00" * 10 + "ffffc0000207" + "00" * 4,
        ),
    ],
)
def test_rendezvous_parameters_are_laid_out_as_the_rfc_s_figures(
    parameter: params.Parameter, tlv: str
) -> None:
    assert frame(parameter.TYPE, parameter.content()) == bytes.fromhex(tlv)
    assert params.decode(bytes.fromhex(tlv)) == [parameter]


@pytest.mark.parametrize("length", [0, 4, 15, 17, 20, 32])
def test_from_of_another_length_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        params.From.parse(Reader(bytes(length)))


@pytest.mark.parametrize("length", [4, 15, 17, 20, 31])
def test_via_rvs_with_a_part_of_an_address_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        params.ViaRvs.parse(Reader(bytes(length)))


def test_rendezvous_parameters_are_not_critical_and_stand_behind_the_signature() -> None:
    assert [known.TYPE for known in RENDEZVOUS] == [65_498, 65_500, 65_502]
    assert all(not known.TYPE & 1 for known in RENDEZVOUS)
    assert ParameterType.ECHO_REQUEST_UNSIGNED < ParameterType.FROM
    assert ParameterType.HIP_SIGNATURE < ParameterType.FROM


def test_from_before_the_signature_makes_the_packet_malformed() -> None:
    early = build(PacketType.UPDATE, A.hit, B.hit, []) + params.encode([params.From("192.0.2.7")])
    late = params.encode([params.HipMac(bytes(32)), params.HipSignature(7, bytes(64))])
    with pytest.raises(MalformedPacket, match="order"):
        Packet(finish(early + late))


def test_froms_stand_in_the_order_in_which_servers_added_them() -> None:
    once = finish(build(I1, A.hit, B.hit, [GROUPS]) + params.encode([params.From("192.0.2.7")]))
    twice = Packet(finish(once + params.encode([params.From("192.0.2.1"), params.RvsHmac(b"")])))
    assert twice.every(params.From) == [params.From("192.0.2.7"), params.From("192.0.2.1")]
    assert twice.raw == forwarded("192.0.2.7", "192.0.2.1", mac=b"")


# -- §4.2.1: what RVS_HMAC is about ------------------------------------------------------------


def test_rvs_hmac_is_computed_with_checksum_zero_and_the_length_of_what_is_before_it() -> None:
    before = finish(build(I1, A.hit, B.hit, [GROUPS]) + params.encode([params.From("192.0.2.7")]))
    mac = hmac.digest(KEY, before, hashlib.sha256)
    behind = params.encode([params.RvsHmac(mac), params.ViaRvs(("198.51.100.1",))])
    whole = finish(before + behind)
    sent = Packet(whole[:4] + b"\x12\x34" + whole[6:])  # over raw IP it has a checksum
    assert sent.checksum == 0x1234
    covered = sent.covered(params.RvsHmac)
    assert covered == before
    assert covered[1] == len(before) // 8 - 1 < sent.raw[1]
    assert sent.need(params.RvsHmac).mac == hmac.digest(KEY, covered, hashlib.sha256)


@given(st.data())
def test_rvs_hmac_protects_every_bit_before_it_and_none_behind(data: st.DataObject) -> None:
    raw = finish(forwarded("192.0.2.7") + params.encode([params.ViaRvs(("198.51.100.1",))]))
    protected = Packet(raw).covered(params.RvsHmac)
    at = data.draw(st.integers(40, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        covered = Packet(bytes(changed)).covered(params.RvsHmac)
    except MalformedPacket:
        return
    assert (covered != protected) == (at < len(protected))


# -- §3.3: what a server appends changes nothing that both ends protect ------------------------


def appendices() -> list[params.Parameter]:
    return [
        params.From("192.0.2.7"),
        params.RvsHmac(bytes(32)),
        params.ViaRvs(("198.51.100.1",)),
    ]


def test_what_a_server_appends_is_under_no_mac_or_signature_of_the_ends() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.connect(a, b)
    net.run(1.0)
    kinds: list[tuple[PacketType, type[params.Parameter] | None]] = [
        (R1, None),
        (I2, params.HipMac),
        (I2, params.HipSignature),
        (R2, params.HipMac2),
        (R2, params.HipSignature),
    ]
    for kind, by in kinds:
        (seen,) = net.sent(kind)
        plain = Packet(seen.data)
        longer = Packet(finish(seen.data + params.encode(appendices())))
        assert longer.raw[1] > plain.raw[1]
        if by is None:
            assert longer.covered_by_signature_2() == plain.covered_by_signature_2()
        else:
            assert longer.covered(by) == plain.covered(by)


def test_an_r1_that_says_via_which_server_i1_came_is_taken() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)

    def via(seen: Seen) -> list[bytes]:
        more = params.encode([params.ViaRvs(("198.51.100.1",))])
        return [finish(seen.data + more) if seen.kind == R1 else seen.data]

    net.tamper = via
    net.connect(a, b)
    net.run(1.0)
    assert [seen.kind for seen in net.wire] == [I1, R1, I2, R2]
    assert len(a.events) == 1
