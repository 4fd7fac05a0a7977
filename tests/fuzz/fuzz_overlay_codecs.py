"""Fuzz target: everything in overlay that reads bytes or text from a peer or a file.

Run with ``PYTHONPATH=.:tests python tests/fuzz/fuzz_overlay_codecs.py -max_total_time=60``.
"""

import sys
from collections.abc import Callable
from contextlib import suppress

from cryptography.x509 import load_der_x509_certificate

from hipctl import (
    Admission,
    EngineConfig,
    Hit,
    MalformedPacket,
    Rejected,
    Shown,
    read_certificate,
)
from overlay.accounts import Delegation, canonical_aor, uri_of
from overlay.admission import Account, Credentials, admit, format_account, parse_account
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import MAX_RECORD
from overlay.errors import CredentialsRefused, MalformedAor, MalformedRecord, RecordRefused
from overlay.invitations import (
    Invited,
    has_mark,
    proves,
    read_token,
    seal_welcome,
    write_token,
)
from overlay.kinds import KINDS
from overlay.lobby import Lobby, Request
from overlay.messages import overlay_tag
from overlay.overlayfile import (
    certify_overlay,
    format_overlay,
    parse_overlay,
    read_overlay_certificate,
)
from overlay.reception import Reception, pack, unpack
from overlay.records import NodeInfo, Record, Reg, Svc, aor_key, check_record, sign_record
from sim.people import ALICE, ALICE_AOR, BOB, CA, ENROLLED, WALL, certificate

Reader = Callable[[bytes], None]


def _canonical(data: bytes) -> None:
    assert encode(decode(data, MAX_RECORD)) == data


def _record(data: bytes) -> None:
    record = Record.parse(data)
    assert record.raw == data
    check_record(record, ENROLLED, WALL)


def _payloads(data: bytes) -> None:
    for kind in KINDS.values():
        if kind.decode is not None:
            try:
                payload = kind.decode(data)
            except MalformedRecord:
                continue
            assert kind.decode(payload.encode()) == payload


def _delegation(data: bytes) -> None:
    assert Delegation.parse(data).raw == data


def _credentials(data: bytes) -> None:
    shown = Credentials.parse(data)
    assert shown.encode() == data
    admit(shown, ENROLLED, ALICE.device.hit, WALL)


def _certificate(data: bytes) -> None:
    read_certificate(data, [CA.host_id])


def _aor(data: bytes) -> None:
    aor = canonical_aor("sip:" + data.decode("utf-8", "replace"))
    assert canonical_aor(uri_of(aor)) == aor


def _overlay(data: bytes) -> None:
    info = parse_overlay(data.decode("utf-8", "replace"))
    assert parse_overlay(format_overlay(info)) == info


def _account(data: bytes) -> None:
    parse_account(data.decode("utf-8", "replace"))


def _signed_part(der: bytes) -> bytes:
    return load_der_x509_certificate(der).tbs_certificate_bytes


def _reception(data: bytes) -> None:
    """As in base exchanges: DELEGATION, then certificates."""
    parts = decode(data, 4 * MAX_RECORD)
    if not all(isinstance(part, bytes) for part in parts):
        return
    shown = Shown(tuple(parts[1:]), b"".join(parts[:1]))
    verdict = RECEPTION.admit(BOB.device.hit, ALICE.device.hit, shown, WALL)
    found = unpack(shown)
    if verdict is Admission.ACCEPTED:
        # All but signatures, which may be of another run: ECDSA signs differently each time.
        said = found[TAG].delegation
        assert said is not None
        assert said.raw[:-_SIGNATURE] == ALICE.delegation.raw[:-_SIGNATURE]
        assert {_signed_part(der) for der in found[TAG].certificates} == {
            _signed_part(CERTIFICATE)
        }
    assert unpack(pack(found.items())) == found
    RECEPTION.shown(BOB.device.hit, ALICE.device.hit, WALL, shown)


def _overlay_certificate(data: bytes) -> None:
    domain, _ = read_overlay_certificate(data)
    assert canonical_aor(f"sip:x@{domain}").endswith(f"@{domain}")


def _lobby(data: bytes) -> None:
    """Both sides: a guest who was invited, one who was not, and what comes back."""
    for guest in (ALICE.device.hit, CA.hit):
        lobby = Lobby(BOB.device.hit, _invited, lambda identifier: ENROLLED)
        answer = lobby.on_datagram(data, guest, 0.0)
        if answer is not None and guest != ALICE.device.hit:
            assert len(answer) <= len(data)
    found = REQUEST.read(data)
    if found is not None:
        assert found == ENROLLED


def _invited(guest: Hit) -> Invited | None:
    return Invited(SECRET, ENROLLED.id) if guest == ALICE.device.hit else None


def _invitation(data: bytes) -> None:
    assert not has_mark(data, ENROLLED.id, BOB.device.hit)
    assert not proves(data, SECRET, BOB.device.hit, ALICE.device.hit)
    assert write_token(read_token(data.decode("utf-8", "replace"))).replace("-", "").isalnum()


SECRET = bytes(15)
REQUEST = Request(ALICE.device.hit, BOB.device.hit, SECRET, bytes(8))
_SIGNATURE = 64  # bytes, P-256

READERS: tuple[Reader, ...] = (
    _canonical,
    _record,
    _payloads,
    _delegation,
    _credentials,
    _certificate,
    _aor,
    _overlay,
    _account,
    _reception,
    _overlay_certificate,
    _lobby,
    _invitation,
)
EXPECTED = (
    NotCanonical,
    MalformedRecord,
    RecordRefused,
    CredentialsRefused,
    MalformedAor,
    MalformedPacket,
    Rejected,
)

CERTIFICATE = certificate(ALICE, ALICE_AOR)
TAG = overlay_tag(ENROLLED.id)
SHOWN = pack([(TAG, Credentials(ALICE.delegation, (CERTIFICATE,)))])
RECEPTION = Reception(EngineConfig())
RECEPTION.open(BOB.device, ENROLLED, Credentials())
RECEPTION.attach(BOB.device.hit, ENROLLED, lambda hit: False, lambda: 0.0)
REG = Reg(ALICE_AOR, ALICE.delegation, CERTIFICATE, 5060, b"contact").encode()
SVC = Svc("relay", 3, 5, 5060, b"contact", 100, Credentials(ALICE.delegation).encode()).encode()
KEY = aor_key(ENROLLED.id, ALICE_AOR)
FILE = format_overlay(ENROLLED).encode()
SEAL = seal_welcome(SECRET, REQUEST.local, REQUEST.member, REQUEST.nonce + FILE)
WELCOME = encode([2, REQUEST.nonce, FILE, SEAL])
RECORD = sign_record(ALICE.device, ENROLLED.id, "REG", KEY, b"", 1, WALL, WALL + 3600, REG)
GOOD: tuple[tuple[Reader, bytes], ...] = (
    (_canonical, RECORD.raw),
    (_record, RECORD.raw),
    (_payloads, REG),
    (_payloads, NodeInfo(b"contact").encode()),
    (_payloads, SVC),
    (_delegation, ALICE.delegation.raw),
    (_credentials, Credentials(ALICE.delegation, (CERTIFICATE,)).encode()),
    (_certificate, CERTIFICATE),
    (_aor, b"al%69ce@Example.org;x=1"),
    (_aor, b"alice@example.org"),
    (_overlay, format_overlay(ENROLLED).encode()),
    (_reception, encode([SHOWN.delegation, *SHOWN.certificates])),
    (_overlay_certificate, certify_overlay(ENROLLED, CA, WALL, bytes).certificate),
    (_lobby, REQUEST.question()),
    (_lobby, WELCOME),
    (_invitation, write_token(SECRET).encode()),
    (_account, format_account(Account((ALICE.delegation,), (CERTIFICATE,))).encode()),
)
SEEDS = [bytes([READERS.index(reader)]) + data for reader, data in GOOD]


def test_one_input(data: bytes) -> None:
    """Give ``data`` to the reader that its first byte names: a value, or that reader's error."""
    if not data:
        return
    with suppress(*EXPECTED):
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
