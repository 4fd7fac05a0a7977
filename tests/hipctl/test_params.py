import copy
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.actions import Relayed
from hipctl.constants import HiAlgorithm, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostId
from hipctl.params_registration import decode_lifetime, encode_lifetime
from hipctl.wire import Reader

u8, u16, u32, u64 = (st.integers(0, 2**n - 1) for n in (8, 16, 32, 64))
blob = st.binary(max_size=120)
u8s = st.lists(u8, max_size=12).map(tuple)
u16s = st.lists(u16, max_size=12).map(tuple)
host_ids = st.builds(HostId, st.sampled_from(HiAlgorithm), blob)
halves = st.integers(0, 64).flatmap(lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2))
two, four = (st.binary(min_size=n, max_size=n) for n in (2, 4))
ips = (
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
    .map(str)
    .filter(lambda ip: not ip.startswith("::ffff:"))
)
transports = st.tuples(ips, u16)
lifetimes = st.integers(1, 2**32 - 1)
locators = st.one_of(
    st.builds(
        params.Locator, st.just(0), ips, st.just(0), st.just(0), lifetimes, st.booleans(), u8
    ),
    st.builds(params.Locator, st.just(1), ips, st.just(0), u32, lifetimes, st.booleans(), u8),
    st.builds(
        params.Locator, st.just(2), ips, u16, u32, lifetimes, st.booleans(), u8, u8, u8, u32
    ),
    st.builds(
        params.Locator,
        st.integers(3, 255),
        lifetime=lifetimes,
        preferred=st.booleans(),
        traffic=u8,
        raw=st.binary(max_size=40).map(lambda raw: raw[: len(raw) // 4 * 4]),
    ),
)

STRATEGIES: dict[type[params.Parameter], st.SearchStrategy[params.Parameter]] = {
    params.EspInfo: st.builds(params.EspInfo, u16, u32, u32),
    params.R1Counter: st.builds(params.R1Counter, u64, four),
    params.Puzzle: st.builds(params.Puzzle, u8, u8, two, blob),
    params.Solution: st.tuples(u8, two, halves).map(lambda t: params.Solution(t[0], t[1], *t[2])),
    params.Seq: st.builds(params.Seq, u32),
    params.Ack: st.builds(params.Ack, st.lists(u32, min_size=1, max_size=9).map(tuple)),
    params.DhGroupList: st.builds(params.DhGroupList, u8s),
    params.DiffieHellman: st.builds(params.DiffieHellman, u8, blob),
    params.CipherList: st.builds(params.CipherList, u16s),
    params.NatTraversalModes: st.builds(params.NatTraversalModes, u16s.map(lambda t: t[:6])),
    params.Encrypted: st.builds(params.Encrypted, blob),
    params.HostIdParameter: st.builds(
        params.HostIdParameter, host_ids, st.integers(0, 15), st.binary(max_size=60)
    ),
    params.LocatorSet: st.builds(params.LocatorSet, st.lists(locators, max_size=5).map(tuple)),
    params.HitSuiteList: st.builds(params.HitSuiteList, u8s),
    params.Cert: st.builds(params.Cert, u8, u8, u8, u8, blob),
    params.Delegation: st.builds(params.Delegation, blob),
    params.Invitation: st.builds(params.Invitation, blob),
    params.LanInfo: st.builds(params.LanInfo, blob),
    params.Notification: st.builds(params.Notification, u16, blob),
    params.EchoRequestSigned: st.builds(params.EchoRequestSigned, blob),
    params.EchoResponseSigned: st.builds(params.EchoResponseSigned, blob),
    params.TransportFormatList: st.builds(params.TransportFormatList, u16s),
    params.EspTransform: st.builds(params.EspTransform, u16s),
    params.HipMac: st.builds(params.HipMac, blob),
    params.HipMac2: st.builds(params.HipMac2, blob),
    params.HipSignature2: st.builds(params.HipSignature2, u16, blob),
    params.HipSignature: st.builds(params.HipSignature, u16, blob),
    params.EchoResponseUnsigned: st.builds(params.EchoResponseUnsigned, blob),
    params.EchoRequestUnsigned: st.builds(params.EchoRequestUnsigned, blob),
    **{
        of: st.builds(of, u8, u8s)
        for of in (params.RegRequest, params.RegResponse, params.RegFailed)
    },
    params.RegInfo: st.builds(params.RegInfo, u8, u8, u8s),
    **{
        of: st.builds(of, transports, u8)
        for of in (
            params.RegFrom,
            params.RelayFrom,
            params.RelayTo,
            params.RelayedAddress,
            params.MappedAddress,
        )
    },
    params.PeerPermission: st.builds(params.PeerPermission, transports, transports, u32, u32, u8),
    params.CandidatePriority: st.builds(params.CandidatePriority, u32),
    params.Nominate: st.builds(params.Nominate),
    params.TransactionPacing: st.builds(params.TransactionPacing, st.integers(1, 2**32 - 1)),
    params.From: st.builds(params.From, ips),
    params.ViaRvs: st.builds(params.ViaRvs, st.lists(ips, max_size=4).map(tuple)),
    params.RvsHmac: st.builds(params.RvsHmac, blob),
    params.RelayHmac: st.builds(params.RelayHmac, blob),
}
each = pytest.mark.parametrize("known", params.PARAMETERS.values(), ids=lambda c: c.TYPE.name)


def test_every_parameter_has_a_strategy_here() -> None:
    assert STRATEGIES.keys() == set(params.PARAMETERS.values())


@given(st.lists(st.one_of(*STRATEGIES.values()), max_size=8))
def test_what_is_encoded_is_decoded_in_ascending_order(
    parameters: list[params.Parameter],
) -> None:
    decoded = params.decode(params.encode(parameters))
    assert decoded == sorted(parameters, key=lambda parameter: parameter.TYPE)


@each
@given(raw=st.binary(max_size=80))
def test_any_content_is_a_value_that_encodes_again_or_malformed(
    known: type[params.Parameter], raw: bytes
) -> None:
    try:
        value = known.parse(Reader(raw))
    except MalformedPacket:
        return
    assert known.parse(Reader(value.content())) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_parameters_or_malformed(raw: bytes) -> None:
    try:
        found = params.decode(raw)
    except MalformedPacket as error:
        assert 0 <= error.offset <= len(raw)
        return
    again = params.decode(params.encode(found))
    assert {type(parameter) for parameter in again} == {type(parameter) for parameter in found}


CUT: list[tuple[params.Parameter, int]] = [
    (params.EspInfo(1, 2, 3), 11),
    (params.R1Counter(1), 8),
    (params.Puzzle(1, 2, b"ab", b""), 3),
    (params.Seq(7), 3),
    (params.Ack((7,)), 3),
    (params.DiffieHellman(7, bytes(64)), 66),
    (params.HostIdParameter(HostId(HiAlgorithm.ECDSA, bytes(67))), 70),
    (params.HipSignature(7, b""), 1),
    (params.Cert(1, 1, 1, 1, b""), 3),
]


@pytest.mark.parametrize(("parameter", "length"), CUT, ids=lambda c: str(c)[:20])
def test_a_field_cut_short_is_malformed(parameter: params.Parameter, length: int) -> None:
    with pytest.raises(MalformedPacket):
        type(parameter).parse(Reader(parameter.content()[:length]))


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (lambda: params.Puzzle(10, 37, b"\1\2", b"\xaa" * 4), "0a250102aaaaaaaa"),
        (lambda: params.Solution(10, b"\1\2", b"\xaa\xaa", b"\xbb\xbb"), "0a000102aaaabbbb"),
        (lambda: params.EspInfo(0x80, 0, 0x87FEA87E), "000000800000000087fea87e"),
        (lambda: params.DiffieHellman(7, b"\xcc" * 2), "070002cccc"),
        (lambda: params.EspTransform((13, 9)), "0000000d0009"),
        (lambda: params.NatTraversalModes((1,)), "00000001"),
        (lambda: params.Notification(28, b"x"), "0000001c78"),
        (lambda: params.Cert(1, 3, 2, 5, b"x"), "0103020578"),
    ],
)
def test_contents_are_those_of_the_rfc_s_figures(
    make: Callable[[], params.Parameter], content: str
) -> None:
    assert make().content().hex() == content


def test_a_puzzle_s_lifetime_is_a_power_of_two() -> None:
    assert params.Puzzle(1, 37, bytes(2), b"").seconds == 32.0


def test_odd_types_are_critical() -> None:
    assert params.Unknown(195, b"").critical
    assert not params.Unknown(930, b"").critical


def test_an_unknown_hi_algorithm_is_malformed() -> None:
    raw = bytes.fromhex("000200000063") + b"ab"
    with pytest.raises(MalformedPacket, match="HI algorithm"):
        params.HostIdParameter.parse(Reader(raw))


def test_the_table_finds_each_class_by_its_type() -> None:
    assert params.PARAMETERS[ParameterType.PUZZLE] is params.Puzzle
    assert all(code == known.TYPE for code, known in params.PARAMETERS.items())


def test_a_registration_lifetime_is_an_exponent_as_in_rfc_8003_4_1() -> None:
    assert decode_lifetime(0) == 0.0
    assert decode_lifetime(64) == 1.0
    assert decode_lifetime(1) == pytest.approx(0.0043, rel=0.02)
    assert decode_lifetime(255) == pytest.approx(178 * 86_400, rel=0.01)
    assert encode_lifetime(0) == encode_lifetime(-1) == 0
    assert encode_lifetime(1e-9) == 1
    assert encode_lifetime(1e12) == 255


@given(st.floats(0.01, 1e7))
def test_an_encoded_lifetime_is_never_longer_than_asked(seconds: float) -> None:
    assert decode_lifetime(encode_lifetime(seconds)) <= seconds * (1 + 1e-9)
    assert decode_lifetime(encode_lifetime(seconds) + 1) > seconds * (1 - 1e-9)


@given(st.integers(0, 255))
def test_every_lifetime_byte_comes_back(byte: int) -> None:
    assert encode_lifetime(decode_lifetime(byte)) == byte


def test_reg_info_and_reg_from_have_the_bytes_of_the_rfcs_figures() -> None:
    assert params.RegInfo(80, 176, (1, 2, 3)).content() == bytes((80, 176, 1, 2, 3))
    seen = params.RegFrom(("192.0.2.7", 10_500))
    assert seen.content() == bytes.fromhex("2904 11 00" + "00" * 10 + "ffff c0000207")
    permission = params.PeerPermission(("192.0.2.7", 1), ("2001:db8::1", 2), 3, 4)
    assert permission.content() == bytes.fromhex(
        "0001 0002 11 000000" + "00" * 10 + "ffff c0000207 20010db8" + "00" * 11 + "01"
        "00000003 00000004"
    )


def test_an_address_through_a_relay_is_another_one_than_without() -> None:
    plain, server = ("192.0.2.7", 5), ("198.51.100.1", 10_500)
    relayed = Relayed(plain, server)
    assert relayed != plain
    assert plain != relayed
    assert relayed == Relayed(plain, server)
    assert relayed != Relayed(plain, ("198.51.100.1", 10_501))
    assert len({plain, relayed, Relayed(plain, server)}) == 2
    assert (relayed[0], relayed[1]) == plain
    assert copy.deepcopy(relayed) == relayed
