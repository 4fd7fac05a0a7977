from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import HostId, HostIdentity, Rejected, issue_certificate
from hipctl.constants import EccCurve
from overlay import proofs
from overlay.accounts import AccountKey
from overlay.admission import certify
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import MAX_RECORD
from overlay.errors import MalformedRecord, RecordRefused
from overlay.overlayfile import OverlayInfo, found_overlay
from overlay.records import (
    KINDS,
    NodeInfo,
    Payload,
    Record,
    Reg,
    Revoke,
    aor_key,
    check_record,
    equivocates,
    newer,
    node_id,
    node_key,
    record_key,
    sign_record,
    sign_tombstone,
)
from sim.people import (
    ALICE,
    ALICE_AOR,
    BOB,
    BOB_AOR,
    CA,
    DAY,
    DOMAIN,
    OTHER_CA,
    OTHER_OVERLAY,
    OVERLAY,
    WALL,
    Person,
    certificate,
    counted,
    identity,
)

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CONTACT = b"c" * 80
ALICE_CERT = certificate(ALICE, ALICE_AOR)
ALICE_REG = Reg(ALICE_AOR, ALICE.delegation, ALICE_CERT, 5060, CONTACT)


def signed(
    payload: Payload,
    by: HostIdentity = ALICE.device,
    *,
    kind: str = "REG",
    overlay: OverlayInfo = OVERLAY,
    key: bytes | None = None,
    subkey: bytes = b"",
    seq: int = 1,
    created: int = WALL,
    life: int = 3600,
) -> Record:
    if key is None:
        key = record_key(overlay.id, *payload.place(by.hit))
    return sign_record(
        by, overlay.id, kind, key, subkey, seq, created, created + life, payload.encode()
    )


def own(who: Person, *, port: int = 5060) -> Reg:
    return Reg(who.own_aor, who.delegation, None, port, CONTACT)


def refusal(record: Record, overlay: OverlayInfo = OVERLAY, wall: float = WALL) -> str:
    with pytest.raises(RecordRefused) as caught:
        check_record(record, overlay, wall)
    return caught.value.reason


RECORD = signed(ALICE_REG)
NODE = signed(NodeInfo(CONTACT), kind="NODE", life=7200)


# --- the form ---------------------------------------------------------------------------------


def test_a_record_survives_its_bytes() -> None:
    again = Record.parse(RECORD.raw)
    assert again == RECORD
    assert again.slot == ("REG", ALICE.device.hit, b"")
    assert again.raw.startswith(again.body)
    assert again.key == aor_key(OVERLAY.id, ALICE_AOR)


def test_records_have_the_sizes_that_the_design_counts_on() -> None:
    assert len(signed(own(ALICE)).raw) <= 560
    assert len(RECORD.raw) <= 900
    p384 = EccCurve.NIST_P384
    ca, device = (HostIdentity.from_secret(n, p384) for n in (1, 2))
    account = AccountKey(HostIdentity.from_secret(3, p384))
    overlay = found_overlay(DOMAIN, ca=ca.host_id, rng=counted)
    der = certify(ca, overlay, account.host_id, [ALICE_AOR], WALL, counted)
    dev = account.delegate(device.hit, WALL + DAY, 1)
    record = signed(Reg(ALICE_AOR, dev, der, 5060, CONTACT), device, overlay=overlay)
    assert len(record.raw) <= 1100
    check_record(record, overlay, WALL)


def test_ids_and_keys_are_twenty_bytes_and_differ_by_overlay_and_kind() -> None:
    hit = ALICE.device.hit
    made = {
        node_key(OVERLAY.id, hit),
        node_id(OVERLAY.id, hit),
        record_key(OVERLAY.id, "mail", hit),
        node_key(OTHER_OVERLAY.id, hit),
        node_id(OTHER_OVERLAY.id, hit),
    }
    assert len(made) == 5
    assert {len(key) for key in made} == {20}


@given(st.binary(max_size=300) | st.binary(max_size=64).map(lambda b: b"\x9c\x01\xc4\x20" + b))
def test_any_bytes_are_a_record_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecord):
        Record.parse(data)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=14), max_leaves=30,
))  # fmt: skip
def test_any_msgpack_is_a_record_or_malformed(value: object) -> None:
    with pytest.raises(MalformedRecord):
        Record.parse(encode([value]))
    values = decode(RECORD.raw, MAX_RECORD)
    for i in range(12):
        try:
            Record.parse(encode([*values[:i], value, *values[i + 1 :]]))
        except (MalformedRecord, ValueError, OverflowError):  # msgpack can't write lone surrogates
            continue


@given(st.integers(0, len(RECORD.raw) - 1), st.integers(1, 255))
def test_a_record_with_one_byte_changed_is_never_believed(at: int, change: int) -> None:
    raw = bytearray(RECORD.raw)
    raw[at] ^= change
    with pytest.raises((MalformedRecord, RecordRefused)):
        check_record(Record.parse(bytes(raw)), OVERLAY, WALL)


@pytest.mark.parametrize(
    "raw",
    [
        RECORD.raw.replace(b"\x9c\x01", b"\x9c\xcc\x01", 1),  # 1 as uint 8
        b"\xdc\x00\x0c" + RECORD.raw[1:],  # array 16
        RECORD.raw.replace(b"\xa3REG", b"\xd9\x03REG", 1),  # str 8
        RECORD.raw.replace(b"\xc4\x14", b"\xc5\x00\x14", 1),  # bin 16
    ],
)
def test_another_encoding_of_the_same_record_is_refused(raw: bytes) -> None:
    assert raw != RECORD.raw
    with pytest.raises(MalformedRecord, match="not canonical"):
        Record.parse(raw)


def test_a_record_longer_than_a_datagram_is_refused_on_either_side() -> None:
    with pytest.raises(MalformedRecord, match="too long"):
        Record.parse(RECORD.raw + bytes(MAX_RECORD))
    with pytest.raises(RecordRefused, match="too long"):
        sign_record(CA, OVERLAY.id, "SVC", bytes(20), b"", 1, WALL, WALL + 1, bytes(1000))


@pytest.mark.parametrize("bad", [{"seq": -1}, {"seq": 2**64 - 1, "subkey": bytes(33)}])
def test_fields_that_do_not_fit_are_not_signed(bad: dict[str, int]) -> None:
    with pytest.raises(RecordRefused, match="bad field"):
        signed(ALICE_REG, **bad)  # type: ignore[arg-type]


@given(st.binary(max_size=60))
def test_decoding_gives_back_what_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        values = decode(data, 50)
    except NotCanonical:
        return
    assert encode(values) == data
    assert len(data) <= 50


def test_maps_extensions_and_deep_nesting_are_not_canonical() -> None:
    for data in (b"\x91\x80", b"\x91\xd4\x01\x00", b"\x91" * 5000, b"\x91\xd6\xff" + bytes(4)):
        with pytest.raises(NotCanonical):
            decode(data, 10_000)


# --- REG: who may write -----------------------------------------------------------------------


def test_a_certified_registration_is_believed() -> None:
    assert check_record(RECORD, OVERLAY, WALL) == ALICE_REG
    assert ALICE_REG.account == ALICE.account.hit


def test_a_self_certifying_registration_needs_no_ca() -> None:
    without = found_overlay(DOMAIN, rng=counted)
    for overlay in (OVERLAY, without):
        record = signed(own(ALICE), overlay=overlay)
        assert check_record(record, overlay, WALL) == own(ALICE)


def test_a_person_has_several_devices_and_names() -> None:
    tablet = identity(77)
    dev = ALICE.account.delegate(tablet.hit, WALL + 9 * DAY, 5)
    der = certificate(ALICE, ALICE_AOR, f"sip:a%C3%A9@{DOMAIN}")
    for aor in (ALICE_AOR, f"sip:aé@{DOMAIN}"):
        check_record(signed(Reg(aor, dev, der, 5060, b""), tablet), OVERLAY, WALL)
    check_record(signed(Reg(ALICE.own_aor, dev, None, 5060, b""), tablet), OVERLAY, WALL)


FORGED: dict[str, Callable[[], Record]] = {
    # other people's names
    "AoR of another account": lambda: signed(replace(own(ALICE), aor=BOB.own_aor)),
    "no certificate": lambda: signed(replace(ALICE_REG, certificate=None)),
    "certificate of another account": lambda: signed(
        replace(ALICE_REG, certificate=certificate(BOB, ALICE_AOR))
    ),
    "certificate for another AoR": lambda: signed(
        replace(ALICE_REG, aor=BOB_AOR, certificate=ALICE_CERT)
    ),
    "certificate for a name that certifies itself": lambda: signed(
        replace(own(ALICE), certificate=ALICE_CERT)
    ),
    "certificate of another CA": lambda: signed(
        replace(
            ALICE_REG,
            certificate=certificate(
                ALICE,
                ALICE_AOR,
                ca=OTHER_CA,
                overlay=found_overlay(DOMAIN, ca=OTHER_CA.host_id, rng=counted),
            ),
        )
    ),
    "certificate expired": lambda: signed(
        replace(ALICE_REG, certificate=certificate(ALICE, ALICE_AOR, wall=WALL - 180 * DAY))
    ),
    "certificate not yet valid": lambda: signed(
        replace(ALICE_REG, certificate=certificate(ALICE, ALICE_AOR, wall=WALL + 300))
    ),
    "certificate lives too long": lambda: signed(
        replace(ALICE_REG, certificate=certificate(ALICE, ALICE_AOR, life=200 * DAY))
    ),
    "outlives its certificate": lambda: signed(
        replace(ALICE_REG, certificate=certificate(ALICE, ALICE_AOR, life=3000))
    ),
    "reserved user": lambda: signed(replace(ALICE_REG, aor=f"sip:echo@{DOMAIN}")),
    "wrong domain": lambda: signed(replace(ALICE_REG, aor="sip:alice@other.example")),
    # delegations
    "delegation expired": lambda: signed(
        replace(ALICE_REG, delegation=ALICE.account.delegate(ALICE.device.hit, WALL - 1, 1))
    ),
    "outlives its delegation": lambda: signed(
        replace(ALICE_REG, delegation=ALICE.account.delegate(ALICE.device.hit, WALL + 60, 1))
    ),
    "delegation too long": lambda: signed(
        replace(
            ALICE_REG, delegation=ALICE.account.delegate(ALICE.device.hit, WALL + 401 * DAY, 1)
        )
    ),
    "delegation for another device": lambda: signed(ALICE_REG, BOB.device),
    "delegation signature": lambda: signed(
        replace(ALICE_REG, delegation=replace(ALICE.delegation, seq=9))
    ),
    # places, times, form
    "wrong key": lambda: signed(ALICE_REG, key=aor_key(OVERLAY.id, BOB_AOR)),
    "wrong overlay": lambda: signed(ALICE_REG, overlay=OTHER_OVERLAY),
    "bad subkey": lambda: signed(ALICE_REG, subkey=b"2"),
    "lifetime": lambda: signed(ALICE_REG, life=3601),
    "created in the future": lambda: signed(ALICE_REG, created=WALL + 121),
    "expired": lambda: signed(ALICE_REG, created=WALL - 3600),
    "AoR not canonical": lambda: signed(replace(ALICE_REG, aor=f"sip:alice@{DOMAIN.upper()}")),
    "bad port": lambda: signed(replace(ALICE_REG, port=65_536)),
    "bad contact": lambda: signed(replace(ALICE_REG, contact=bytes(81))),
    "unknown kind": lambda: signed(ALICE_REG, kind="REGX"),
    "kind not served yet": lambda: signed(ALICE_REG, kind="MAIL"),
    "bad payload": lambda: signed(NodeInfo(b"x"), kind="REG"),
    # signatures
    "high s": lambda: Record.parse(
        RECORD.raw[:-32] + (ORDER - int.from_bytes(RECORD.sig[32:], "big")).to_bytes(32, "big")
    ),
    "signature": lambda: Record.parse(RECORD.raw[:-32] + b"\1" * 32),
    "owner is not its key's HIT": lambda: resigned(host_id=BOB.device.host_id.encoded),
    "bad owner key": lambda: resigned(
        by=BOB.device, host_id=b"\0\5" + ALICE.device.host_id.encoded[2:]
    ),
}


def resigned(host_id: bytes, by: HostIdentity = BOB.device) -> Record:
    """Alice's registration with another key in it, signed by that."""
    values = decode(RECORD.raw, MAX_RECORD)
    values[10] = host_id
    if host_id[1] == 5:  # then the HIT and the delegation are those of the strange key
        hit = HostId.ecdsa(host_id).hit
        dev = ALICE.account.delegate(hit, WALL + DAY, 1)
        values[4], values[9] = bytes(hit), replace(ALICE_REG, delegation=dev).encode()
    body = encode(values)[:-66]
    values[11] = by.sign(b"p2psip/record/1" + body)
    return Record.parse(encode(values))


@pytest.mark.parametrize("reason", FORGED)
def test_a_forged_registration_is_refused_with_its_own_reason(reason: str) -> None:
    assert refusal(FORGED[reason]()) == reason


def test_an_overlay_without_ca_believes_no_certificate() -> None:
    without = found_overlay(DOMAIN, rng=counted)
    assert refusal(signed(ALICE_REG, overlay=without), without) == "overlay has no CA"


def test_a_ca_cannot_take_a_name_that_certifies_itself_or_is_reserved() -> None:
    for aor in (BOB.own_aor, f"sip:voicemail@{DOMAIN}"):
        der = issue_certificate(
            CA,
            ALICE.account.host_id,
            [aor],
            not_before=WALL,
            not_after=WALL + DAY,
            serial=b"12345678",
        )
        with pytest.raises(Rejected, match="without a name here"):
            proofs.certified(der, OVERLAY, WALL)
        assert refusal(signed(replace(ALICE_REG, aor=aor, certificate=der))) in {
            "reserved user",
            "certificate for a name that certifies itself",
        }


def test_a_clock_120_s_ahead_is_forgiven() -> None:
    check_record(signed(ALICE_REG, created=WALL + 120), OVERLAY, WALL)
    record = signed(ALICE_REG)
    check_record(record, OVERLAY, WALL + 3599)
    assert refusal(record, wall=WALL + 3600) == "expired"


def test_payloads_may_grow_at_their_end() -> None:
    values = decode(ALICE_REG.encode(), MAX_RECORD)
    assert Reg.decode(encode([*values, "later"])) == ALICE_REG
    assert NodeInfo.decode(encode([b"x", 1])) == NodeInfo(b"x")


@settings(max_examples=50)
@given(st.integers(0, len(ALICE_REG.encode()) - 1), st.integers(1, 255))
def test_a_changed_payload_is_a_payload_or_malformed(at: int, change: int) -> None:
    data = bytearray(ALICE_REG.encode())
    data[at] ^= change
    for kind in KINDS.values():
        if kind.decode is not None:
            try:
                payload = kind.decode(bytes(data))
            except MalformedRecord:
                continue
            assert kind.decode(payload.encode()) == payload


# --- NODE, REVOKE -----------------------------------------------------------------------------


def test_only_a_hit_itself_says_how_it_is_reached() -> None:
    assert check_record(NODE, OVERLAY, WALL) == NodeInfo(CONTACT)
    forged = signed(
        NodeInfo(CONTACT), BOB.device, kind="NODE", key=node_key(OVERLAY.id, ALICE.device.hit)
    )
    assert refusal(forged) == "wrong key"
    assert refusal(signed(NodeInfo(CONTACT), kind="NODE", subkey=b"x")) == "bad subkey"
    assert refusal(signed(NodeInfo(bytes(81)), kind="NODE")) == "bad payload"
    assert refusal(signed(NodeInfo(CONTACT), kind="NODE", life=7201)) == "lifetime"


def test_an_account_revokes_its_device_and_nobody_elses() -> None:
    end = WALL + 300 * DAY
    revoke = Revoke(ALICE.own_aor, ALICE.device.hit, b"", 7, end, None)
    by = ALICE.account.identity

    def record(revoke: Revoke, by: HostIdentity, subkey: bytes = ALICE.device.hit) -> Record:
        return signed(revoke, by, kind="REVOKE", subkey=subkey, life=300 * DAY)

    assert check_record(record(revoke, by), OVERLAY, WALL) == revoke
    certified = replace(revoke, aor=ALICE_AOR, certificate=ALICE_CERT)
    assert check_record(record(certified, by), OVERLAY, WALL) == certified
    assert refusal(record(revoke, BOB.account.identity)) == "revocation by another account"
    assert refusal(record(revoke, ALICE.device)) == "revocation by another account"
    assert refusal(record(revoke, by, b"")) == "bad subkey"
    assert refusal(record(replace(revoke, end=end - 1), by)) == "outlives its end"
    with pytest.raises(RecordRefused, match="no tombstone"):
        sign_tombstone(by, record(revoke, by), 9, WALL, OVERLAY)


def test_a_ca_revokes_its_certificates() -> None:
    serial = proofs.certified(ALICE_CERT, OVERLAY, WALL).serial
    revoke = Revoke(ALICE_AOR, None, serial, 0, WALL + 180 * DAY, ALICE_CERT)

    def record(revoke: Revoke, by: HostIdentity = CA) -> Record:
        return signed(revoke, by, kind="REVOKE", subkey=revoke.serial, life=180 * DAY)

    assert check_record(record(revoke), OVERLAY, WALL) == revoke
    assert refusal(record(revoke, OTHER_CA)) == "revocation by another CA"
    assert refusal(record(replace(revoke, serial=b"other"))) == "certificate with another serial"
    assert refusal(record(replace(revoke, certificate=None))) == "no certificate"
    both = replace(revoke, device=ALICE.device.hit)
    assert refusal(record(both)) == "bad payload"


# --- succession -------------------------------------------------------------------------------


def test_a_tombstone_takes_the_slot_and_proves_the_right_to() -> None:
    stone = sign_tombstone(ALICE.device, RECORD, 2, WALL + 10, OVERLAY)
    payload = check_record(stone, OVERLAY, WALL + 10)
    assert payload.gone
    assert stone.tombstone
    assert not RECORD.tombstone
    assert stone.slot == RECORD.slot
    assert newer(stone, RECORD)
    assert not newer(RECORD, stone)
    assert stone.expires == WALL + 10 + 3600 >= RECORD.expires
    with pytest.raises(RecordRefused, match="old seq"):
        sign_tombstone(ALICE.device, stone, 2, WALL, OVERLAY)
    gone = sign_tombstone(ALICE.device, NODE, 2, WALL, OVERLAY)
    assert check_record(gone, OVERLAY, WALL).gone


def test_a_tombstone_does_not_outlive_what_proves_it() -> None:
    short = replace(ALICE_REG, certificate=certificate(ALICE, ALICE_AOR, life=3000))
    record = signed(short, life=3000)
    stone = sign_tombstone(ALICE.device, record, 2, WALL + 10, OVERLAY)
    assert stone.expires == WALL + 3000
    check_record(stone, OVERLAY, WALL + 10)


def test_strangers_cannot_write_tombstones() -> None:
    assert (
        refusal(sign_tombstone(BOB.device, RECORD, 2, WALL, OVERLAY))
        == "delegation for another device"
    )


def test_of_two_bodies_with_one_seq_all_replicas_keep_the_same() -> None:
    one, other = (signed(replace(ALICE_REG, port=port), seq=3) for port in (5060, 5070))
    assert equivocates(one, other)
    assert equivocates(other, one)
    assert newer(one, other) != newer(other, one)
    assert newer(one, other) == (one.digest < other.digest)


def test_another_signature_over_the_same_body_is_no_equivocation() -> None:
    one, other = signed(ALICE_REG), signed(ALICE_REG)
    assert one.sig != other.sig
    assert one.digest == other.digest
    assert not equivocates(one, other)
    assert not newer(one, other)
    assert not newer(other, one)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=15)
def test_a_higher_seq_wins(a: int, b: int) -> None:
    one, other = signed(ALICE_REG, seq=a), signed(ALICE_REG, seq=b)
    assert newer(one, other) == (a > b)


# --- memory of proofs -------------------------------------------------------------------------


def test_memory_of_proofs_is_bounded_and_forgets_the_oldest() -> None:
    memory: proofs.Memory[int, int] = proofs.Memory(3)
    for n in range(10):
        memory.keep(n, n)
    assert len(memory) == 3
    assert memory.get(6) is None
    assert memory.get(7) == 7


def test_failures_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    of_delegations, of_records = proofs.Memory[bytes, bool](10), proofs.Memory[bytes, bool](10)
    monkeypatch.setattr(proofs, "SIGNATURES", of_delegations)
    monkeypatch.setattr("overlay.records.SIGNATURES", of_records)
    assert refusal(Record.parse(RECORD.raw[:-32] + b"\1" * 32)) == "signature"
    check_record(RECORD, OVERLAY, WALL)
    assert (len(of_delegations), len(of_records)) == (1, 1)


def test_a_remembered_certificate_still_expires() -> None:
    record = signed(ALICE_REG, created=WALL + 181 * DAY)
    check_record(RECORD, OVERLAY, WALL)
    assert refusal(record, wall=WALL + 181 * DAY) == "certificate expired"


def test_a_remembered_certificate_holds_only_for_the_ca_that_was_asked() -> None:
    check_record(RECORD, OVERLAY, WALL)
    other = replace(OVERLAY, ca=(OTHER_CA.host_id,))
    assert refusal(RECORD, other) == "certificate of another CA"
