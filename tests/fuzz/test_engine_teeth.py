"""The fuzz target of the engine finds what it should: here, checks that are left out."""

from pathlib import Path

import pytest
from fuzz.run import load

from hipctl import closing, exchange, signed
from hipctl.crypto import Keys
from hipctl.identity import HostId

TARGET, SEEDS = load(Path(__file__).parent / "fuzz_engine.py")


def finds() -> int:
    found = 0
    for seed in SEEDS:
        try:
            TARGET(seed)
        except AssertionError as error:
            found += "a stranger's packet had an effect" in str(error)
    return found


def test_it_finds_that_nobody_authenticates(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (signed, exchange, closing):
        monkeypatch.setattr(room, "authenticate", lambda *_: None)
    assert finds() > 3


def test_it_finds_that_macs_and_signatures_are_taken_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Keys, "mac_fits", lambda *_: True)
    monkeypatch.setattr(HostId, "verify", lambda *_: True)
    assert finds() > 3
