"""The embedded journal: one SQLite file in WAL mode, every append fully synced.

    batches(offset INTEGER PRIMARY KEY, appended_ns INTEGER, value BLOB)
    head(next)     one row: the offset of the next append

An append is one transaction that first moves `head.next` from the offset the writer expects; a
row that doesn't move means that somebody else wrote, and the writer stops for good. The end is
`head.next`, never max(offset): after trimming the primary key alone fences nobody.

The file's header carries `application_id` and `user_version` (SQLite file format, section 1.3),
and is looked at before SQLite is: a foreign file is refused untouched.
"""

import os
import queue
import sqlite3
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster_app.opened_file import OpenedFile
from cluster_app.sqlite_trim import trim_file
from cluster_core.errors import (
    JournalFault,
    JournalRefused,
    JournalStopped,
    OffsetTrimmed,
)
from cluster_core.journal import Delivery, DeliveryCallback, JournalRecord, check_trim

APPLICATION_ID: Final = int.from_bytes(b"RNGL", "big")
USER_VERSION: Final = 1
"""The version of the tables; the batches inside carry a format version of their own."""

PAGE_BYTES: Final = 16_384
"""Measured: 64-KiB values append 15 % faster than with 8 KiB pages (40 % faster than with 4 KiB)
and a 192-byte value takes 0.01 ms longer; 32 KiB made both worse."""

CHECKPOINT_BYTES: Final = 16 << 20
"""WAL bytes between two checkpoints. Measured: each stalls appends for 15-60 ms when the values
were large and for 1 ms when they were small; with 64 MiB a third more throughput, 180 ms."""

LOCK_TIMEOUT_S: Final = 2.0
"""How long another connection may hold a lock before an append or an opening fails."""

TRIM_LOCK_TIMEOUT_S: Final = 30.0
"""A trim is in no hurry: a leader that appends without a pause comes first."""

_POLL_FIRST_S: Final = 0.001
_POLL_MAX_S: Final = 0.010
"""A reader at the end looks again after the first time, then less and less often."""

_HEADER_BYTES: Final = 100
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_ADVICE: Final = "restore the file from a copy or from another node"

_CREATE_BATCHES: Final = """CREATE TABLE batches(
    offset INTEGER PRIMARY KEY, appended_ns INTEGER NOT NULL, value BLOB NOT NULL)"""
_MOVE_HEAD: Final = "UPDATE head SET next = ? WHERE next = ?"
_INSERT: Final = "INSERT INTO batches(offset, appended_ns, value) VALUES (?, ?, ?)"
_SELECT: Final = (
    "SELECT offset, appended_ns, value FROM batches WHERE offset >= ? ORDER BY offset LIMIT ?"
)


class SqliteJournal:
    """A journal in the file `path`; any number of processes of one machine may open it.

    The file and its folder are created when absent. Raises JournalRefused for what can't be
    opened, isn't a journal, or has a newer format; JournalFault for a damaged file.
    """

    def __init__(self, path: str | Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.path: Final = Path(path)
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        _check_file(self.path)
        try:
            self._connection = _connect(self.path)
            _create_tables(self._connection)
            _enter_wal(self._connection)
            self._connection.execute("PRAGMA query_only = ON")
            # Closing any descriptor of the file drops all locks of this process on it: this one
            # lives as long as the connections do.
            self._file = os.open(self.path, os.O_RDONLY)
        except sqlite3.Error as error:
            raise _opening_error(self.path, error) from error
        self.end_offset()

    def start_offset(self) -> int:
        """The first kept offset; the end when nothing is kept. Raises JournalFault."""
        with self._lock:
            return _start_offset(self._connection, self.path)

    def end_offset(self) -> int:
        """The offset that the next append will get. Raises JournalFault."""
        with self._lock:
            return _end_offset(self._connection, self.path)

    def reader(self, offset: int) -> "SqliteReader":
        """A reader from `offset`. Raises OffsetTrimmed beyond the end, JournalFault."""
        end = self.end_offset()
        if offset > end:
            raise OffsetTrimmed(f"offset {offset} is beyond the end {end} of {self.path}")
        return SqliteReader(self.path, offset, OpenedFile(self.path, self._file))

    def prepare_writers(self, count: int) -> None:
        """A writer takes no time here."""

    def writer(self, next_offset: int, on_delivery: DeliveryCallback) -> "SqliteWriter":
        """A writer whose first append must land at `next_offset`. Raises JournalRefused."""
        return SqliteWriter(self.path, self._file, next_offset, on_delivery, self._clock_ns)

    def trim(self, below_offset: int) -> None:
        """Delete rows, while others append; their space is used again, the file keeps its size.

        Raises ValueError beyond the end, JournalFault when a part could not be deleted.
        """
        check_trim(below_offset, self.end_offset())
        try:
            trim_file(self.path, below_offset, TRIM_LOCK_TIMEOUT_S)
        except sqlite3.Error as error:
            raise JournalFault(
                f"{self.path}: not all below offset {below_offset} was deleted: {error}: trim again"
            ) from error

    def close(self) -> None:
        """Release the journal's own connection. Idempotent."""
        with self._lock:
            self._connection.close()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


class SqliteWriter:
    """Appends from a thread of its own: all that is queued goes into one transaction.

    Deliveries are reported from that thread. What bounds the queue is the caller's own limit of
    undelivered appends.
    """

    def __init__(
        self,
        path: Path,
        file: int,
        next_offset: int,
        on_delivery: DeliveryCallback,
        clock_ns: Callable[[], int],
    ) -> None:
        self._path = path
        self._file = file
        self._opened = OpenedFile(path, file)
        self._next_offset = next_offset
        self._on_delivery = on_delivery
        self._clock_ns = clock_ns
        self._failure: Delivery | None = None
        """Why nothing is appended any more."""
        self._purged = False
        self._wal_bytes = 0
        """Bytes written, at least, since the last complete checkpoint."""
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        try:
            self._connection = _connect(path)
            self._connection.execute("PRAGMA synchronous = FULL")
            # SQLite before 3.51.3 can lose pages when one connection checkpoints while another
            # resets the WAL: so only the writer ever checkpoints, between two of its appends.
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_BYTES}")
        except sqlite3.Error as error:
            raise _opening_error(path, error) from error
        self._thread = threading.Thread(target=self._run, name="sqlite-journal", daemon=True)
        self._thread.start()

    def append(self, value: bytes) -> None:
        """Queue one value. Raises JournalStopped once the writer was closed."""
        with self._lock:
            if self._closed:
                raise JournalStopped("the journal writer is closed")
            self._queue.put(value)

    def purge(self) -> None:
        """Append nothing more; what is queued is reported as an error."""
        self._purged = True

    def close(self) -> None:
        """Append and report what is still queued, then release everything. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            last = False
            while not last:
                values, last = self._take()
                if values:
                    self._store(values)
        finally:
            # Also after a callback that raised: nobody would ever take from the queue again.
            with self._lock:
                self._closed = True
            self._connection.close()

    def _store(self, values: list[bytes]) -> None:
        """One transaction, then a delivery for each value."""
        first = self._next_offset
        if self._purged and not self._failure:
            self._failure = Delivery(None, f"{self._path}: given up before it was appended")
        if not self._failure:
            self._failure = self._append(values)
        if self._failure:
            for _ in values:
                self._on_delivery(self._failure)
            return
        self._next_offset += len(values)
        for offset in range(first, self._next_offset):
            self._on_delivery(Delivery(offset))
        # Beside its values a transaction writes the head's page and a table's page.
        self._wal_bytes += sum(map(len, values)) + 2 * PAGE_BYTES
        if self._wal_bytes >= CHECKPOINT_BYTES:
            self._failure = self._checkpoint()

    def _take(self) -> tuple[list[bytes], bool]:
        """All that is queued, at least one item; True when the last one was `close`."""
        values: list[bytes] = []
        item = self._queue.get()
        while item is not None:
            values.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return values, False
        return values, True

    def _append(self, values: list[bytes]) -> Delivery | None:
        """One transaction. Returns None once it is on disk, else why it isn't known to be."""
        execute, first = self._connection.execute, self._next_offset
        appended_ns = self._clock_ns()
        try:
            execute("BEGIN IMMEDIATE")
            if execute(_MOVE_HEAD, (first + len(values), first)).rowcount != 1:
                head = execute("SELECT next FROM head").fetchone()
                execute("ROLLBACK")
                return Delivery(
                    None,
                    f"{self._path}: another writer appended (the journal's next offset is "
                    f"{head[0] if head else 'missing'}, this writer's {first})",
                    foreign_writer=True,
                )
            if len(values) == 1:
                execute(_INSERT, (first, appended_ns, values[0]))
            else:
                rows = [(first + i, appended_ns, value) for i, value in enumerate(values)]
                self._connection.executemany(_INSERT, rows)
            execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return Delivery(
                None, f"{self._path}: append at offset {first} failed: {_explain(error)}"
            )
        return Delivery(None, self._opened.advice) if self._opened.is_replaced else None

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            # The append's own error is the one to report, and closing rolls back as well.
            pass

    def _checkpoint(self) -> Delivery | None:
        """Copy the WAL into the file, waiting for nobody. Returns why appending must end, if so.

        FULL rather than PASSIVE because it holds the write lock: no other writer can reset the
        WAL meanwhile. A reader in the middle of it leaves a rest for the next time.
        """
        try:
            self._connection.execute("PRAGMA busy_timeout = 0")
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            self._connection.execute(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT_S * 1000)}")
        except sqlite3.Error as error:
            return Delivery(None, f"{self._path}: checkpoint failed: {_explain(error)}")
        # What is on disk is not read again here. Kept in the page cache it makes each checkpoint
        # slower than the one before: 28 ms at first, 113 ms at 0.8 GB.
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        self._wal_bytes = CHECKPOINT_BYTES // 2 if busy else 0
        return None


class SqliteReader:
    """Reads with a connection of its own, from any one thread at a time."""

    def __init__(self, path: Path, offset: int, opened: OpenedFile) -> None:
        """Raises JournalRefused when the file can't be opened."""
        self._path = path
        self._opened = opened
        self._offset = offset
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            self._connection = _connect(path)
            self._connection.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise _opening_error(path, error) from error

    def read(self, timeout_s: float, max_records: int = 64) -> list[JournalRecord]:
        """The next records in order; none after `timeout_s` without any, or once closed.

        Raises OffsetTrimmed when the next offset was trimmed, JournalFault for a damaged file and
        for one that was replaced.
        """
        deadline_s = time.monotonic() + timeout_s
        wait_s = _POLL_FIRST_S
        while True:
            with self._lock:
                if self._closed.is_set():
                    return []
                records = self._fetch(max_records)
            left_s = deadline_s - time.monotonic()
            if records:
                return records
            if left_s <= 0:
                if self._opened.is_replaced:
                    raise JournalFault(self._opened.advice)
                return []
            self._closed.wait(min(wait_s, left_s))
            wait_s = min(wait_s * 1.5, _POLL_MAX_S)

    def close(self) -> None:
        """Release everything; a `read` that waits returns without records. Idempotent."""
        self._closed.set()
        with self._lock:
            self._connection.close()

    def _fetch(self, max_records: int) -> list[JournalRecord]:
        expected = self._offset
        records = self._select(max_records)
        if not records and _end_offset(self._connection, self._path) > expected:
            # Appended between the two looks, or else gone.
            records = self._select(max_records)
            if not records:
                self._raise_missing()
        self._offset = expected + len(records)
        return records

    def _select(self, max_records: int) -> list[JournalRecord]:
        """The rows from the next offset on, up to the first that is missing or unreadable."""
        expected = self._offset
        records: list[JournalRecord] = []
        try:
            for offset, appended_ns, value in self._connection.execute(
                _SELECT, (expected, max_records)
            ):
                if offset != expected + len(records):
                    break
                if type(value) is not bytes or type(appended_ns) is not int:
                    raise sqlite3.DatabaseError("a row holds the wrong types")
                records.append(JournalRecord(offset, value, appended_ns))
            else:
                return records
        except sqlite3.DatabaseError as error:
            if not records and not _is_locked(error):
                raise _fault(self._path, f"at offset {expected}", error) from error
            return records
        if not records:
            self._raise_missing()
        return records

    def _raise_missing(self) -> None:
        start = _start_offset(self._connection, self._path)
        if self._offset < start:
            raise OffsetTrimmed(
                f"offset {self._offset} of {self._path} was trimmed, the first kept is {start}"
            )
        raise JournalFault(f"{self._path}: offset {self._offset} is missing: {_ADVICE}")


def _check_file(path: Path) -> None:
    """Refuse what is not an own or a new file, before SQLite touches anything."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = b""
        if path.exists():
            with path.open("rb") as file:
                header = file.read(_HEADER_BYTES)
                links = os.fstat(file.fileno()).st_nlink
            if links > 1:
                raise JournalRefused(
                    f"{path}: the file has {links} names (hard links), and SQLite's locks know "
                    "only one: remove the others"
                )
    except OSError as error:
        raise JournalRefused(
            f"{path}: {error.strerror}: choose another --journal or fix its permissions"
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise JournalRefused(f"{path}: its folder must be writable, for readers too (WAL mode)")
    if not header:
        return
    if not os.access(path, os.W_OK):
        raise JournalRefused(f"{path}: the file must be writable, for readers too (WAL mode)")
    if len(header) < _HEADER_BYTES or not header.startswith(_SQLITE_MAGIC):
        raise JournalRefused(f"{path}: not a SQLite database: choose another --journal")
    (user_version,) = struct.unpack_from(">I", header, 60)
    (application_id,) = struct.unpack_from(">I", header, 68)
    if application_id != APPLICATION_ID:
        raise JournalRefused(
            f"{path}: a SQLite database of another application: choose another --journal"
        )
    if user_version != USER_VERSION:
        raise JournalRefused(
            f"{path}: journal version {user_version}, this program reads {USER_VERSION}: "
            "use the program that wrote it"
        )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create what a new file lacks, still in rollback mode: so the header is always on disk."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("BEGIN EXCLUSIVE")
    # Another process may have been first while this one waited for the lock.
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {USER_VERSION}")
        connection.execute(_CREATE_BATCHES)
        connection.execute("CREATE TABLE head(next INTEGER NOT NULL)")
        connection.execute("INSERT INTO head(next) VALUES (0)")
    connection.execute("COMMIT")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """WAL mode, which is a property of the file: later connections find it set."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise sqlite3.OperationalError(f"WAL mode is not possible here, only {mode}")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own busy handler doesn't cover a change of the journal mode.
            if not _is_locked(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(_POLL_MAX_S)


def _end_offset(connection: sqlite3.Connection, path: Path) -> int:
    try:
        row = connection.execute("SELECT next FROM head").fetchone()
        if row is None or type(row[0]) is not int:
            raise sqlite3.DatabaseError("the head row is missing")
        return int(row[0])
    except sqlite3.DatabaseError as error:
        raise _fault(path, "in its head", error) from error


def _start_offset(connection: sqlite3.Connection, path: Path) -> int:
    try:
        (first,) = connection.execute("SELECT min(offset) FROM batches").fetchone()
    except sqlite3.DatabaseError as error:
        raise _fault(path, "at its first record", error) from error
    return _end_offset(connection, path) if first is None else int(first)


def _is_locked(error: sqlite3.Error) -> bool:
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: sqlite3.Error) -> int:
    # Errors made by the sqlite3 module itself carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _fault(path: Path, where: str, error: sqlite3.Error) -> JournalFault:
    if _is_locked(error):
        return JournalFault(f"{path}: locked for over {LOCK_TIMEOUT_S:g} s by another program")
    return JournalFault(f"{path}: damaged {where} ({error}): {_ADVICE}")


def _opening_error(path: Path, error: sqlite3.Error) -> JournalRefused | JournalFault:
    if _primary_code(error) == sqlite3.SQLITE_CORRUPT:
        return _fault(path, "in its tables", error)
    return JournalRefused(f"{path}: can't be opened as a journal: {_explain(error)}")


def _explain(error: sqlite3.Error) -> str:
    hints = {
        sqlite3.SQLITE_FULL: "the disk is full: make room, then restart",
        sqlite3.SQLITE_IOERR: "the disk fails or is full: check it, then restart",
        sqlite3.SQLITE_READONLY: "the file or its folder is read-only: fix its permissions",
        sqlite3.SQLITE_CANTOPEN: "check the folder's permissions",
        sqlite3.SQLITE_BUSY: f"another program held the lock for over {LOCK_TIMEOUT_S:g} s",
        sqlite3.SQLITE_CORRUPT: _ADVICE,
    }
    hint = hints.get(_primary_code(error))
    return f"{error}: {hint}" if hint else str(error)
