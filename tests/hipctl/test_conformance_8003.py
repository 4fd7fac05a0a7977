"""What RFC 8003 asks for and no other test shows; docs/conformance/rfc8003.md says which row."""

import pytest

from hipctl import params
from hipctl.constants import PacketType, ParameterType, RegistrationFailure, RegistrationType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build, finish
from hipctl.params_registration import decode_lifetime, encode_lifetime
from hipctl.wire import Reader, frame

A, B = (HostIdentity.from_secret(n) for n in (8_003, 8_004))
REGISTRATION: list[type[params.Parameter]] = [
    params.RegInfo,
    params.RegRequest,
    params.RegResponse,
    params.RegFailed,
]
each = pytest.mark.parametrize("known", REGISTRATION, ids=lambda known: known.TYPE.name)

SIGNED: list[params.Parameter] = [params.HipMac(bytes(32)), params.HipSignature(7, bytes(64))]


# -- §4.1 --------------------------------------------------------------------------------------


def test_lifetime_zero_is_no_time_and_only_no_time_is_zero() -> None:
    assert decode_lifetime(0) == 0
    assert all(decode_lifetime(byte) > 0 for byte in range(1, 256))
    assert encode_lifetime(0) == 0
    assert all(encode_lifetime(seconds) for seconds in (1e-6, 0.004, 1, 1e9))


def test_a_lifetime_doubles_every_eight_steps_and_one_second_is_64() -> None:
    assert decode_lifetime(64) == 1.0
    assert [decode_lifetime(64 + 8 * n) for n in range(-7, 24)] == [2.0**n for n in range(-7, 24)]
    assert all(
        decode_lifetime(n + 8) == pytest.approx(2 * decode_lifetime(n)) for n in range(1, 248)
    )
    assert all(decode_lifetime(n) < decode_lifetime(n + 1) for n in range(255))


@pytest.mark.parametrize("seconds", [10, 120, 600])
def test_the_lifetimes_that_everybody_supports_can_be_said(seconds: float) -> None:
    assert seconds / 2 ** (1 / 8) < decode_lifetime(encode_lifetime(seconds)) <= seconds


# -- §4.2 to §4.5: formats ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "tlv"),
    [
        (params.RegInfo(80, 176, (1, 2, 3)), "03a20005 50b0 010203" + "00" * 7),
        (params.RegInfo(80, 176, ()), "03a20002 50b0 0000"),
        (params.RegRequest(136, (2, 3)), "03a40003 88 0203 00"),
        (params.RegResponse(0, (2,)), "03a60002 00 02 0000"),
        (params.RegFailed(9, (1,)), "03a80002 09 01 0000"),
    ],
)
def test_registration_parameters_are_laid_out_as_the_rfc_s_figures(
    parameter: params.Parameter, tlv: str
) -> None:
    assert frame(parameter.TYPE, parameter.content()) == bytes.fromhex(tlv)
    assert params.decode(bytes.fromhex(tlv)) == [parameter]


@each
def test_any_number_of_types_fits_and_their_order_stays(known: type[params.Parameter]) -> None:
    fixed = len(known.parse(Reader(bytes(2))).content()) - (known is not params.RegInfo)
    for count in (0, 1, 4, 255):
        types = bytes(reversed(range(count)))
        found = known.parse(Reader(bytes(fixed) + types))
        assert found.types == tuple(types)  # type: ignore[attr-defined]
        assert found.content() == bytes(fixed) + types


@each
def test_registration_parameters_without_their_fixed_fields_are_malformed(
    known: type[params.Parameter],
) -> None:
    with pytest.raises(MalformedPacket):
        known.parse(Reader(b""))
    if known is params.RegInfo:
        with pytest.raises(MalformedPacket):
            known.parse(Reader(b"\x50"))


def test_unknown_services_and_reasons_are_numbers_like_any_other() -> None:
    assert params.RegInfo.parse(Reader(bytes((1, 2, 0, 99, 201, 255)))).types == (0, 99, 201, 255)
    assert params.RegFailed.parse(Reader(b"\xc9\x01")) == params.RegFailed(201, (1,))
    assert params.RegFailed.parse(Reader(b"\x0a\x01")) == params.RegFailed(10, (1,))


def test_services_and_reasons_have_the_numbers_of_the_registry() -> None:
    assert [(t.name, t.value) for t in RegistrationType] == [
        ("RENDEZVOUS", 1), ("RELAY_UDP_HIP", 2), ("RELAY_UDP_ESP", 3), ("CANDIDATE_DISCOVERY", 4),
    ]  # fmt: skip
    assert [(f.name, f.value) for f in RegistrationFailure] == [
        ("CREDENTIALS_REQUIRED", 0), ("TYPE_UNAVAILABLE", 1), ("INSUFFICIENT_RESOURCES", 2),
        ("INVALID_CERTIFICATE", 3), ("BAD_CERTIFICATE", 4), ("UNSUPPORTED_CERTIFICATE", 5),
        ("CERTIFICATE_EXPIRED", 6), ("CERTIFICATE_OTHER", 7), ("UNKNOWN_CA", 8),
        ("RENDEZVOUS_WITH_CONTROL_RELAY", 9),
    ]  # fmt: skip


# -- where they stand --------------------------------------------------------------------------


@each
def test_registration_parameters_are_not_critical_and_signed(
    known: type[params.Parameter],
) -> None:
    assert not known.TYPE & 1
    parameter = known.parse(Reader(b"\x40\x41\x02"))
    packet = Packet(build(PacketType.UPDATE, A.hit, B.hit, [*SIGNED, parameter]))
    whole = frame(parameter.TYPE, parameter.content())
    assert whole in packet.covered(params.HipMac)
    assert whole in packet.covered(params.HipSignature)


def test_reg_info_is_under_the_signature_of_r1() -> None:
    info = params.RegInfo(80, 176, (1, 2, 3))
    puzzle = params.Puzzle(1, 37, b"ab", bytes(48))
    signature = params.HipSignature2(7, bytes(64))
    r1 = Packet(build(PacketType.R1, B.hit, A.hit, [puzzle, info, signature]))
    assert frame(info.TYPE, info.content()) in r1.covered_by_signature_2()


@each
def test_a_registration_parameter_behind_the_signature_makes_the_packet_malformed(
    known: type[params.Parameter],
) -> None:
    whole = build(PacketType.UPDATE, A.hit, B.hit, SIGNED)
    late = finish(whole + frame(known.TYPE, b"\x40\x41\x02"))
    with pytest.raises(MalformedPacket, match="order"):
        Packet(late)


def test_registration_parameters_stand_in_the_order_of_their_types() -> None:
    types = [ParameterType.REG_INFO, ParameterType.REG_REQUEST, ParameterType.REG_RESPONSE]
    assert [*types, ParameterType.REG_FAILED] == [930, 932, 934, 936]
    mixed: list[params.Parameter] = [
        params.RegFailed(1, (3,)),
        params.RegResponse(64, (2,)),
        params.RegRequest(64, (1,)),
        params.RegInfo(1, 2, ()),
    ]
    found = params.decode(params.encode(mixed))
    assert [type(parameter) for parameter in found] == [
        params.RegInfo, params.RegRequest, params.RegResponse, params.RegFailed,
    ]  # fmt: skip


@each
def test_several_of_one_kind_are_all_found_in_their_order(known: type[params.Parameter]) -> None:
    three = [known.parse(Reader(bytes((n, n, n)))) for n in (3, 1, 2)]
    packet = Packet(build(PacketType.UPDATE, A.hit, B.hit, [*three, *SIGNED]))
    assert packet.every(known) == three
