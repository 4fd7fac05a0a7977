"""What a peer must not forget, in SQLite: records it holds, its own sequence numbers, contacts.

One thread owns the connection. Writes are collected for up to 80 ms and committed together, so
that the loop never waits for the disk; only ``reserve`` does, because a sequence number must be
on disk before anybody sees it.
"""

import asyncio
import errno
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from hipctl import Hit
from overlay.errors import LookupFailed
from overlay.storage import Forget, Persist

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.08
MAX_BATCH = 2_000
MAX_QUEUE = 20_000
LOCKED_SECONDS = 1.0  # for which we wait when another program has locked the file
MAX_CONTACTS = 200  # an overlay, newest first
MAX_SERVERS = 16  # an overlay, newest first

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    overlay BLOB, key BLOB, kind TEXT, owner BLOB, subkey BLOB, expires INTEGER, raw BLOB,
    PRIMARY KEY (overlay, key, kind, owner, subkey)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_expires ON records (expires);
CREATE TABLE IF NOT EXISTS own (
    overlay BLOB, key BLOB, kind TEXT, owner BLOB, subkey BLOB, seq INTEGER, raw BLOB,
    PRIMARY KEY (overlay, key, kind, owner, subkey)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contacts (
    overlay BLOB, hit BLOB, contact BLOB, heard INTEGER,
    PRIMARY KEY (overlay, hit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS servers (
    overlay BLOB, hit BLOB, contact BLOB, types BLOB, served INTEGER,
    PRIMARY KEY (overlay, hit)) WITHOUT ROWID;
"""
_PUT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM records WHERE overlay=? AND key=? AND kind=? AND owner=? AND subkey=?"
_RESERVE = """INSERT INTO own VALUES (?, ?, ?, ?, ?, ?, NULL)
    ON CONFLICT DO UPDATE SET seq = max(seq + 1, excluded.seq) RETURNING seq"""
_CONTACT = "INSERT OR REPLACE INTO contacts VALUES (?, ?, ?, ?)"
_OLD_CONTACTS = """DELETE FROM contacts WHERE overlay = ?1 AND hit NOT IN
    (SELECT hit FROM contacts WHERE overlay = ?1 ORDER BY heard DESC LIMIT ?2)"""

_SERVER = "INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?, ?)"
_SERVERS = """SELECT hit, contact, types FROM servers WHERE overlay = ?
    ORDER BY served DESC LIMIT ?"""
_OLD_SERVERS = """DELETE FROM servers WHERE overlay = ?1 AND hit NOT IN
    (SELECT hit FROM servers WHERE overlay = ?1 ORDER BY served DESC LIMIT ?2)"""

KnownServer = tuple[Hit, bytes, bytes]
"""(HIT, contact, a byte for each type of registration)."""


class Store(Protocol):
    """What a Node needs of its store."""

    def load(self, overlay_id: bytes, wall: float) -> list[bytes]:
        """The records of an overlay that have not expired."""

    def contacts(self, overlay_id: bytes) -> list[tuple[Hit, bytes]]:
        """Whom we knew, last heard first."""

    def change(self, overlay_id: bytes, changes: Iterable[Persist | Forget]) -> None:
        """Write soon."""

    def remember(self, overlay_id: bytes, hit: Hit, contact: bytes, wall: float) -> None:
        """Note a contact; written soon."""

    def servers(self, overlay_id: bytes) -> list[KnownServer]:
        """Who made us callable before, the latest first."""

    def keep_server(
        self, overlay_id: bytes, hit: Hit, contact: bytes, types: Iterable[int], wall: float
    ) -> None:
        """Note a server that serves us well; written soon."""

    async def reserve(  # noqa: PLR0917
        self, overlay_id: bytes, key: bytes, kind: str, owner: Hit, subkey: bytes, wall: float
    ) -> int:
        """A sequence number for one of our own records: max(last + 1, Unix milliseconds).

        It is on disk when this returns.

        Raises:
            LookupFailed: it can't be kept; the disk may be full.
        """

    def close(self) -> None:
        """Write what is left, and close."""


class MemoryStore:
    """A store that forgets at the end; for tests, benchmarks, and peers without a disk."""

    def __init__(self) -> None:
        self._records: dict[tuple[Any, ...], tuple[int, bytes]] = {}
        self._seqs: dict[tuple[Any, ...], int] = {}
        self._contacts: dict[bytes, dict[Hit, tuple[float, bytes]]] = {}
        self._servers: dict[bytes, dict[Hit, KnownServer]] = {}

    def load(self, overlay_id: bytes, wall: float) -> list[bytes]:
        """See Store."""
        return [
            raw
            for (overlay, *_), (expires, raw) in self._records.items()
            if overlay == overlay_id and expires > wall
        ]

    def contacts(self, overlay_id: bytes) -> list[tuple[Hit, bytes]]:
        """See Store."""
        known = self._contacts.get(overlay_id, {})
        newest = sorted(known.items(), key=lambda item: -item[1][0])
        return [(hit, contact) for hit, (_, contact) in newest[:MAX_CONTACTS]]

    def change(self, overlay_id: bytes, changes: Iterable[Persist | Forget]) -> None:
        """See Store."""
        for change in changes:
            if isinstance(change, Persist):
                record = change.record
                place = (overlay_id, record.key, *record.slot)
                self._records[place] = (record.expires, record.raw)
            else:
                self._records.pop((overlay_id, change.key, *change.slot), None)

    def remember(self, overlay_id: bytes, hit: Hit, contact: bytes, wall: float) -> None:
        """See Store."""
        known = self._contacts.setdefault(overlay_id, {})
        known[hit] = (wall, contact)
        if len(known) > 2 * MAX_CONTACTS:
            del known[min(known, key=lambda h: known[h][0])]

    def servers(self, overlay_id: bytes) -> list[KnownServer]:
        """See Store."""
        return list(self._servers.get(overlay_id, {}).values())[::-1]

    def keep_server(
        self, overlay_id: bytes, hit: Hit, contact: bytes, types: Iterable[int], wall: float
    ) -> None:
        """See Store."""
        known = self._servers.setdefault(overlay_id, {})
        known.pop(hit, None)
        known[hit] = (hit, contact, bytes(sorted(types)))
        if len(known) > MAX_SERVERS:
            del known[next(iter(known))]

    async def reserve(  # noqa: PLR0917
        self, overlay_id: bytes, key: bytes, kind: str, owner: Hit, subkey: bytes, wall: float
    ) -> int:
        """See Store."""
        place = (overlay_id, key, kind, owner, subkey)
        seq = max(self._seqs.get(place, 0) + 1, int(wall * 1000))
        self._seqs[place] = seq
        return seq

    def close(self) -> None:
        """See Store."""


_Job = Callable[[sqlite3.Connection], None]


class SqliteStore:
    """The store on disk, shared by all overlays of a peer.

    Args:
        path: the database file; made with mode 0600 if it is missing.

    Raises:
        OSError: it can't be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(
            path, timeout=LOCKED_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-512"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            raise OSError(errno.EINVAL, f"no store ({error}); remove it", str(path)) from None
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_QUEUE)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()
        self.dropped = 0
        self._remembered = 0

    # --- the writer

    def _write(self) -> None:
        job = self._jobs.get()
        while job is not None:
            batch: list[_Job] = [job]
            end = time.monotonic() + BATCH_SECONDS
            while len(batch) < MAX_BATCH and (left := end - time.monotonic()) > 0:
                try:
                    job = self._jobs.get(timeout=left)
                except queue.Empty:
                    break
                if job is None:
                    break
                batch.append(job)
            self._commit(batch)
            if job is not None:
                job = self._jobs.get()

    def _commit(self, batch: list[_Job]) -> None:
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                for job in batch:
                    job(self._connection)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:  # a full disk must not end the peer
                log.warning("the store could not be written: %s", error)
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _submit(self, job: _Job) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.dropped += 1

    # --- what the Node asks

    def load(self, overlay_id: bytes, wall: float) -> list[bytes]:
        """See Store; drops what has expired meanwhile."""
        self._prune("DELETE FROM records WHERE expires <= ?", (int(wall),))
        rows = self._rows(
            "SELECT raw FROM records WHERE overlay = ? AND expires > ?", (overlay_id, int(wall))
        )
        return [bytes(row[0]) for row in rows]

    def contacts(self, overlay_id: bytes) -> list[tuple[Hit, bytes]]:
        """See Store."""
        rows = self._rows(
            "SELECT hit, contact FROM contacts WHERE overlay = ? ORDER BY heard DESC LIMIT ?",
            (overlay_id, MAX_CONTACTS),
        )
        self._prune(_OLD_CONTACTS, (overlay_id, MAX_CONTACTS))
        return [(Hit(hit), bytes(contact)) for hit, contact in rows]

    def _rows(self, sql: str, row: tuple[Any, ...]) -> list[Any]:
        """What can be read; a damaged file must not keep the peer from joining."""
        found: list[Any] = []
        with self._lock:
            try:
                for entry in self._connection.execute(sql, row):
                    found.append(entry)
            except sqlite3.Error as error:
                log.warning("the store could not be read: %s", error)
        return found

    def _prune(self, sql: str, row: tuple[Any, ...]) -> None:
        with self._lock:
            try:
                self._connection.execute(sql, row)
            except sqlite3.Error as error:
                log.warning("the store could not be pruned: %s", error)

    def change(self, overlay_id: bytes, changes: Iterable[Persist | Forget]) -> None:
        """See Store."""
        for change in changes:
            if isinstance(change, Persist):
                record = change.record
                kind, owner, subkey = record.slot
                row = (overlay_id, record.key, kind, bytes(owner), subkey)
                self._submit(_statement(_PUT, (*row, record.expires, record.raw)))
            else:
                kind, owner, subkey = change.slot
                row = (overlay_id, change.key, kind, bytes(owner), subkey)
                self._submit(_statement(_REMOVE, row))

    def remember(self, overlay_id: bytes, hit: Hit, contact: bytes, wall: float) -> None:
        """See Store."""
        self._submit(_statement(_CONTACT, (overlay_id, bytes(hit), contact, int(wall))))
        self._remembered += 1
        if self._remembered % MAX_CONTACTS == 0:
            self._submit(_statement(_OLD_CONTACTS, (overlay_id, MAX_CONTACTS)))

    def servers(self, overlay_id: bytes) -> list[KnownServer]:
        """See Store."""
        rows = self._rows(_SERVERS, (overlay_id, MAX_SERVERS))
        return [(Hit(hit), bytes(contact), bytes(types)) for hit, contact, types in rows]

    def keep_server(
        self, overlay_id: bytes, hit: Hit, contact: bytes, types: Iterable[int], wall: float
    ) -> None:
        """See Store."""
        row = (overlay_id, bytes(hit), contact, bytes(sorted(types)), int(wall))
        self._submit(_statement(_SERVER, row))
        self._submit(_statement(_OLD_SERVERS, (overlay_id, MAX_SERVERS)))

    async def reserve(  # noqa: PLR0917
        self, overlay_id: bytes, key: bytes, kind: str, owner: Hit, subkey: bytes, wall: float
    ) -> int:
        """See Store."""
        row = (overlay_id, key, kind, bytes(owner), subkey, int(wall * 1000))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._reserve, row)

    def _reserve(self, row: tuple[Any, ...]) -> int:
        try:
            with self._lock:
                (seq,) = self._connection.execute(_RESERVE, row).fetchone()
        except sqlite3.Error as error:
            raise LookupFailed(f"the sequence number could not be kept: {error}") from None
        return int(seq)

    def close(self) -> None:
        """See Store."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
            with self._lock:
                self._connection.close()


def _statement(sql: str, row: tuple[Any, ...]) -> _Job:
    def job(connection: sqlite3.Connection) -> None:
        connection.execute(sql, row)

    return job
