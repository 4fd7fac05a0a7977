"""The store on disk when the disk is not as it should be."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from overlay.errors import LookupFailed
from overlay.store import SqliteStore
from sim.people import ALICE, OVERLAY, WALL


def test_a_sequence_number_that_cannot_be_kept_is_an_overlay_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "records.sqlite")
    place = (OVERLAY.id, bytes(20), "REG", ALICE.device.hit, b"")
    try:
        first = asyncio.run(store.reserve(*place, WALL))
        store._connection.execute("PRAGMA query_only = 1")  # as a full disk would
        with pytest.raises(LookupFailed, match="sequence number"):
            asyncio.run(store.reserve(*place, WALL))
        store._connection.execute("PRAGMA query_only = 0")
        assert asyncio.run(store.reserve(*place, WALL)) == first + 1
    finally:
        store.close()


@pytest.mark.parametrize("junk", [b"garbage" * 2000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "records.sqlite"
    path.write_bytes(junk)
    with pytest.raises(OSError, match="no store"):
        SqliteStore(path)
    assert path.read_bytes() == junk


def test_a_damaged_or_locked_store_gives_what_it_can_and_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    store = SqliteStore(path)
    store.remember(OVERLAY.id, ALICE.device.hit, b"here", WALL)
    store.close()
    store = SqliteStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        store._connection.execute("PRAGMA busy_timeout = 10")
        assert store.load(OVERLAY.id, WALL) == []
        assert store.contacts(OVERLAY.id) == [(ALICE.device.hit, b"here")]
        other.execute("ROLLBACK")
        other.execute("DROP TABLE records")  # as good as damaged pages
        assert store.load(OVERLAY.id, WALL) == []
    finally:
        other.close()
        store.close()
