"""The fuzz target of overlay's codecs, with a few hundred inputs."""

from dataclasses import replace

import pytest
from fuzz import fuzz_overlay_codecs as target
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.admission import Account, Credentials, format_account
from overlay.overlayfile import format_overlay
from overlay.records import NodeInfo, Reg, aor_key, sign_record
from sim.people import ALICE, ALICE_AOR, ENROLLED, OVERLAY, WALL, certificate

CERT = certificate(ALICE, ALICE_AOR)
REG = Reg(ALICE_AOR, ALICE.delegation, CERT, 5060, b"contact")
KEY = aor_key(OVERLAY.id, ALICE_AOR)
RECORD = sign_record(ALICE.device, OVERLAY.id, "REG", KEY, b"", 1, WALL, WALL + 3600, REG.encode())
GOOD = (
    RECORD.raw,
    REG.encode(),
    NodeInfo(b"contact").encode(),
    ALICE.delegation.raw,
    Credentials(ALICE.delegation, (CERT,)).encode(),
    CERT,
    b"alice%20b@example.org;x=1",
    format_overlay(replace(ENROLLED)).encode(),
    format_account(Account((ALICE.delegation,), (CERT,))).encode(),
)


@pytest.mark.parametrize("reader", range(len(target.READERS)))
def test_each_reader_takes_good_bytes_of_every_kind(reader: int) -> None:
    for data in GOOD:
        target.test_one_input(bytes([reader]) + data)


@settings(max_examples=200)
@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(reader: int, data: bytes) -> None:
    target.test_one_input(bytes([reader]) + data)


@settings(max_examples=300)
@given(st.integers(0, 255), st.sampled_from(GOOD), st.data())
def test_nearly_good_bytes_are_read_or_refused(
    reader: int, good: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    with_what = data.draw(st.binary(max_size=4))
    end = at + data.draw(st.integers(0, 4))
    target.test_one_input(bytes([reader]) + good[:at] + with_what + good[end:])
