"""Fuzz target: everything in overlay that reads bytes or text from a peer or a file.

Run with ``python tests/fuzz/fuzz_overlay_codecs.py -max_total_time=60``; pytest calls the same
function with random and with nearly right bytes.
"""

import sys
from collections.abc import Callable
from contextlib import suppress

from hipctl import MalformedPacket, Rejected, read_certificate
from overlay.accounts import Delegation, canonical_aor, uri_of
from overlay.admission import Credentials, admit, parse_account
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import MAX_RECORD
from overlay.errors import CredentialsRefused, MalformedAor, MalformedRecord, RecordRefused
from overlay.kinds import KINDS
from overlay.overlayfile import format_overlay, parse_overlay
from overlay.records import Record, check_record
from sim.people import ALICE, CA, ENROLLED, WALL


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


READERS: tuple[Callable[[bytes], None], ...] = (
    _canonical,
    _record,
    _payloads,
    _delegation,
    _credentials,
    _certificate,
    _aor,
    _overlay,
    _account,
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
