"""What RFC 9028 asks for and no other test shows; docs/conformance/rfc9028.md says which row."""

import asyncio
import hashlib
import hmac

import pytest

from hipctl import HIP_PORT, HostConfig, LocalHost, params
from hipctl.actions import Address
from hipctl.candidates import gather
from hipctl.constants import CandidateKind, NatTraversalMode, NotifyType, PacketType, ParameterType
from hipctl.errors import MalformedPacket
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build, finish
from hipctl.wire import Reader, frame
from sim import net as sockets
from sim.engines import FAST, Net
from sim.loop import simulate

I1, R1, I2, R2 = PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2
UPDATE, NOTIFY = PacketType.UPDATE, PacketType.NOTIFY
CLOSE, CLOSE_ACK = PacketType.CLOSE, PacketType.CLOSE_ACK
A, B = (HostIdentity.from_secret(n) for n in (9_028, 9_029))
AT_A: Address = ("10.0.0.1", 10500)
AT_B: Address = ("10.0.0.2", 10500)
FOUR, SIX = "192.0.2.7", "2001:db8::7"
FOUR_HEX, SIX_HEX = "00" * 10 + "ffffc0000207", "20010db8" + "00" * 11 + "07"
GROUPS = params.DhGroupList((7, 8))
KEY = b"key of the registration"

TRANSPORTS: list[tuple[type[params.Parameter], str]] = [
    (params.RegFrom, "03b6"),
    (params.RelayFrom, "f9fe"),
    (params.RelayTo, "fa02"),
    (params.RelayedAddress, "122a"),
    (params.MappedAddress, "1234"),
]
SIGNED: list[type[params.Parameter]] = [
    params.NatTraversalModes, params.TransactionPacing, params.RegFrom, params.RelayedAddress,
    params.MappedAddress, params.PeerPermission, params.CandidatePriority, params.Nominate,
]  # fmt: skip
APPENDED: list[type[params.Parameter]] = [params.RelayFrom, params.RelayTo, params.RelayHmac]
transports = pytest.mark.parametrize(
    ("known", "code"), TRANSPORTS, ids=lambda one: getattr(getattr(one, "TYPE", None), "name", one)
)

PERMISSION = params.PeerPermission((FOUR, 4242), (SIX, 10500), 0x0A0B0C0D, 0x01020304)
PERMISSION_HEX = "1092 2904 11 000000" + FOUR_HEX + SIX_HEX + "0a0b0c0d 01020304"


def relayed_i1(*behind: params.Parameter) -> bytes:
    """An I1 to which a relay has added RELAY_FROM and ``behind``."""
    added = [params.RelayFrom((FOUR, 4242)), *behind]
    return finish(build(I1, A.hit, B.hit, [GROUPS]) + params.encode(added))


# -- §5: formats -------------------------------------------------------------------------------


@transports
def test_transport_addresses_are_laid_out_as_the_rfc_s_figures(
    known: type[params.RegFrom], code: str
) -> None:
    four = bytes.fromhex(code + "0014 1092 11 00" + FOUR_HEX)
    six = bytes.fromhex(code + "0014 2904 11 00" + SIX_HEX)
    assert frame(known.TYPE, known((FOUR, 4242)).content()) == four
    assert frame(known.TYPE, known((SIX, 10500)).content()) == six
    assert params.decode(four + six) == [known((FOUR, 4242)), known((SIX, 10500))]


@pytest.mark.parametrize(
    ("parameter", "tlv"),
    [
        (params.NatTraversalModes((3,)), "02600004 0000 0003"),
        (params.NatTraversalModes((3, 1)), "02600006 0000 0003 0001" + "00" * 6),
        (params.TransactionPacing(50), "02620004 00000032"),
        (PERMISSION, "12480030" + PERMISSION_HEX + "00" * 4),
        (params.CandidatePriority(0x6E0001FF), "125c0004 6e0001ff"),
        (params.Nominate(), "12660004 00000000"),
        (params.RelayHmac(b"\xaa" * 32), "fff00020" + "aa" * 32 + "00" * 4),
        (params.Notification(16385, b""), "03400004 0000 4001"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_parameters_are_laid_out_as_the_rfc_s_figures(
    parameter: params.Parameter, tlv: str
) -> None:
    padded = bytes.fromhex(tlv)
    assert frame(parameter.TYPE, parameter.content()) == padded
    assert params.decode(padded) == [parameter]


def test_a_candidate_is_laid_out_as_the_rfc_s_table() -> None:
    locator = params.Locator(
        2, FOUR, 4242, 0x01020304, 120, preferred=True, traffic=1, kind=1, priority=0x64FFFFFF
    )
    raw = bytes.fromhex("01 02 07 01 00000078 1092 11 01 64ffffff 01020304" + FOUR_HEX)
    assert params.LocatorSet((locator,)).content() == raw
    reserved = raw[:3] + b"\xff" + raw[4:]
    assert params.LocatorSet.parse(Reader(reserved)).locators == (locator,)


def test_local_preferences_are_in_range_and_no_two_of_a_kind_are_alike() -> None:
    hosts = [(f"10.0.{n // 250}.{n % 250 + 1}", 10500) for n in range(1_000)]
    seen: list[tuple[Address, Address | None]] = [((FOUR, 1_000 + n), None) for n in range(1_000)]
    for kind in (0, 1):
        found = [one for one in gather(hosts, seen) if one.kind == kind]
        preferences = [one.priority >> 8 & 0xFFFF for one in found]
        assert len({*preferences}) == len(found) == 1_000
        assert {one.priority >> 24 for one in found} == {(126, 100)[kind]}
        assert preferences[0] == 65_535


@pytest.mark.parametrize(
    "known",
    [
        params.RegFrom, params.RelayFrom, params.RelayTo, params.RelayedAddress,
        params.MappedAddress, params.PeerPermission, params.CandidatePriority, params.Nominate,
        params.TransactionPacing,
    ],
    ids=lambda known: known.TYPE.name,
)  # fmt: skip
def test_a_parameter_of_fixed_length_is_malformed_in_any_other(
    known: type[params.Parameter],
) -> None:
    lengths = {params.PeerPermission: 48} | {known: 20 for known, _ in TRANSPORTS}
    right = lengths.get(known, 4)
    known.parse(Reader(b"\1" * right))
    for length in {0, right - 1, right + 1, right + 4, 2 * right}:
        with pytest.raises(MalformedPacket):
            known.parse(Reader(b"\1" * length))


@transports
def test_the_reserved_field_of_a_transport_address_is_zero_when_sent_and_ignored_when_received(
    known: type[params.RegFrom], code: str
) -> None:
    content = known((SIX, 4242)).content()
    assert content[3] == 0
    assert known.parse(Reader(content[:3] + b"\xff" + content[4:])) == known((SIX, 4242))


@pytest.mark.parametrize(
    ("parameter", "reserved"),
    [
        (PERMISSION, slice(5, 8)),
        (params.Nominate(), slice(0, 4)),
        (params.NatTraversalModes((3, 1)), slice(0, 2)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_reserved_fields_are_zero_when_sent_and_ignored_when_received(
    parameter: params.Parameter, reserved: slice
) -> None:
    content = bytearray(parameter.content())
    assert not any(content[reserved])
    content[reserved] = b"\xff" * len(content[reserved])
    assert type(parameter).parse(Reader(bytes(content))) == parameter


def test_relay_to_says_byte_for_byte_what_relay_from_said() -> None:
    for address in ((FOUR, 4242), (SIX, 10500), (FOUR, 0)):
        came = params.RelayFrom(address)
        assert params.RelayTo(came.address, came.protocol).content() == came.content()


def test_plain_ip_is_protocol_0_and_port_0() -> None:
    plain = params.RegFrom((FOUR, 0), protocol=0)
    assert plain.content().hex() == "00000000" + FOUR_HEX
    assert params.RegFrom.parse(Reader(plain.content())) == plain


def test_modes_kinds_and_notifications_have_the_numbers_of_the_registries() -> None:
    assert NatTraversalMode(1).name == "UDP_ENCAPSULATION"
    assert [(kind.name, kind.value) for kind in CandidateKind] == [
        ("HOST", 0), ("SERVER_REFLEXIVE", 1), ("PEER_REFLEXIVE", 2), ("RELAYED", 3),
    ]  # fmt: skip
    assert [NotifyType(n).name for n in (*range(60, 65), 16_385)] == [
        "NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER", "CONNECTIVITY_CHECKS_FAILED",
        "MESSAGE_NOT_RELAYED", "SERVER_REFLEXIVE_CANDIDATE_ALLOCATION_FAILED",
        "RVS_HMAC_PROHIBITED_WITH_RELAY", "NAT_KEEPALIVE",
    ]  # fmt: skip


# -- §5.4: six modes ---------------------------------------------------------------------------


def test_no_more_than_six_modes_are_sent() -> None:
    assert params.NatTraversalModes((9, 8, 7, 6, 5, 4)).content().hex() == (
        "0000000900080007000600050004"
    )
    seven = params.NatTraversalModes((9, 8, 7, 6, 5, 4, 1)).content()
    assert seven == params.NatTraversalModes((9, 8, 7, 6, 5, 4)).content()


def test_of_more_than_six_modes_the_first_six_count() -> None:
    raw = bytes(2) + b"".join(mode.to_bytes(2, "big") for mode in range(900, 920))
    assert params.NatTraversalModes.parse(Reader(raw)).modes == (900, 901, 902, 903, 904, 905)
    with pytest.raises(MalformedPacket):
        params.NatTraversalModes.parse(Reader(raw + b"\0"))


def test_modes_that_we_do_not_know_stay_and_so_does_their_order() -> None:
    for modes in ((2, 65_535, 0, 1), (1, 3), (3, 1), ()):
        content = params.NatTraversalModes(modes).content()
        assert params.NatTraversalModes.parse(Reader(content)).modes == modes


def test_a_mode_that_nobody_offered_draws_a_notify_and_no_association() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    ours, legacy = (
        frame(params.NatTraversalModes.TYPE, params.NatTraversalModes((mode,)).content())
        for mode in (NatTraversalMode.UDP_ENCAPSULATION, 2)
    )
    net.tamper = lambda seen: [seen.data.replace(ours, legacy) if seen.kind == I2 else seen.data]
    net.connect(a, b)
    net.run(0.4)
    assert [seen.kind for seen in net.wire] == [I1, R1, I2, NOTIFY]
    said = Packet(net.wire[-1].data).need(params.Notification)
    assert said.type == NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER
    assert not a.events
    assert not b.events


# -- where they stand, and what protects them --------------------------------------------------


def test_no_parameter_is_critical() -> None:
    assert all(not known.TYPE & 1 for known in (*SIGNED, *APPENDED))


@pytest.mark.parametrize("known", SIGNED, ids=lambda known: known.TYPE.name)
def test_what_the_ends_tell_each_other_is_under_mac_and_signature(
    known: type[params.Parameter],
) -> None:
    content = PERMISSION.content() if known is params.PeerPermission else b""
    content = content or (b"\1" * 20 if known in dict(TRANSPORTS) else b"\1" * 4)
    parameter = known.parse(Reader(content))
    protection: list[params.Parameter] = [
        params.HipMac(bytes(32)),
        params.HipSignature(7, bytes(64)),
    ]
    packet = Packet(build(UPDATE, A.hit, B.hit, [*protection, parameter]))
    whole = frame(known.TYPE, parameter.content())
    assert whole in packet.covered(params.HipMac)
    assert whole in packet.covered(params.HipSignature)
    late = finish(build(UPDATE, A.hit, B.hit, protection) + whole)
    with pytest.raises(MalformedPacket, match="order"):
        Packet(late)


def test_what_a_relay_appends_stands_behind_the_signature_and_relay_hmac_last() -> None:
    order = [ParameterType.HIP_SIGNATURE, *(known.TYPE for known in APPENDED)]
    assert order == sorted(order) == [61_697, 63_998, 64_002, 65_520]
    assert max(ParameterType) is ParameterType.RELAY_HMAC


def test_relay_hmac_is_computed_with_checksum_zero_and_the_length_of_what_is_before_it() -> None:
    before = relayed_i1()
    mac = hmac.digest(KEY, before, hashlib.sha256)
    sent = Packet(relayed_i1(params.RelayHmac(mac)))
    covered = sent.covered(params.RelayHmac)
    assert covered == before
    assert covered[1] == len(before) // 8 - 1 < sent.raw[1]
    assert covered[4:6] == b"\0\0"
    assert sent.need(params.RelayHmac).mac == hmac.digest(KEY, covered, hashlib.sha256)


def test_relay_hmac_protects_relay_from_and_all_before_it() -> None:
    raw = relayed_i1(params.RelayHmac(bytes(32)))
    protected = Packet(raw).covered(params.RelayHmac)
    hits = [*range(12, 24), *range(28, 40)]
    for at in [*hits, *range(44, 48), *range(len(protected) - 20, len(protected))]:
        changed = bytearray(raw)
        changed[at] ^= 1
        assert Packet(bytes(changed)).covered(params.RelayHmac) != protected


def exchange() -> Net:
    """The control packets of an exchange between two engines."""
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    net.connect(a, b)
    net.run(1.0)
    assert [seen.kind for seen in net.wire] == [I1, R1, I2, R2]
    return net


def test_what_a_relay_appends_is_under_no_mac_or_signature_of_the_ends() -> None:
    added = params.encode(
        [params.RelayFrom((FOUR, 4242)), params.RelayTo((SIX, 1)), params.RelayHmac(bytes(48))]
    )
    _, r1, i2, r2 = (seen.data for seen in exchange().wire)
    longer = Packet(finish(r1 + added))
    assert longer.covered_by_signature_2() == Packet(r1).covered_by_signature_2()
    protections: list[tuple[bytes, type[params.Parameter]]] = [
        (i2, params.HipMac),
        (i2, params.HipSignature),
        (r2, params.HipMac2),
        (r2, params.HipSignature),
    ]
    for raw, by in protections:
        assert Packet(finish(raw + added)).covered(by) == Packet(raw).covered(by)


def test_an_exchange_leaves_room_for_what_a_relay_appends() -> None:
    added = params.encode([params.RelayFrom((SIX, 4242)), params.RelayHmac(bytes(48))])
    assert max(len(seen.data) for seen in exchange().wire) + len(added) <= 1_232


# -- §4.1, §4.5, §5.1, §5.11: everything in UDP ------------------------------------------------


def test_an_association_is_in_udp_from_i1_to_close_ack_and_leaves_from_one_port() -> None:
    net = sockets.Net(latency=0.02)

    async def main() -> None:
        config = [
            HostConfig(listen=(at,), announce_private=True, engine=FAST) for at in (AT_A, AT_B)
        ]
        async with (
            LocalHost([A], config[0], open_port=net.open) as a,
            LocalHost([B], config[1], open_port=net.open) as b,
        ):
            heard: list[bytes] = []
            a.learn(B.hit, b.contact(B.hit))
            b.open(B.hit, 7, lambda data, *_: heard.append(data))
            a.open(A.hit, 0, lambda *_: None).send(b"hello", B.hit, 7)
            await asyncio.sleep(1.0)
            assert heard == [b"hello"]
            a.disconnect(B.hit)
            await asyncio.sleep(1.0)

    simulate(main)
    control = [data[4:] for *_, data in net.log if data[:4] == bytes(4)]
    assert [Packet(raw).type for raw in control] == [I1, R1, I2, R2, CLOSE, CLOSE_ACK]
    assert {raw[4:6] for raw in control} == {b"\0\0"}  # HIP's own checksum
    spis = [int.from_bytes(data[:4], "big") for *_, data in net.log if data[:4] != bytes(4)]
    assert spis
    assert min(spis) > 255
    assert {end for _, source, to, _ in net.log for end in (source, to)} == {AT_A, AT_B}


def test_a_host_listens_at_port_10500_unless_told_otherwise() -> None:
    assert HIP_PORT == 10_500
    assert HostConfig().listen == (("0.0.0.0", HIP_PORT), ("::", HIP_PORT))
