"""Trimming the SQLite journal: rows are deleted a little at a time, while a leader appends.

Each transaction holds the file's write lock for some milliseconds, and the next one waits until
an appender that found it taken has surely had its turn: SQLite's own waits are 1, 2, 5, 10, ... ms.
The file keeps its size; the leader's next appends use the free pages first.
"""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

_BYTES_FIRST: Final = 1 << 20
_BYTES_MAX: Final = 16 << 20
_ROWS_MAX: Final = 8_192
_HELD_S_MAX: Final = 0.010
"""After a longer transaction the next one is half as large, after a much shorter one twice."""

_PAUSE_S: Final = 0.020
_LOCK_POLL_S: Final = 0.001
_CHECKPOINT_TRANSACTIONS: Final = 32
"""Each adds some pages to the WAL, freed ones are not written: a few MB, then they are copied."""

_SAY_EVERY_S: Final = 5.0

_PICK: Final = "SELECT offset, length(value) FROM batches WHERE offset < ? ORDER BY offset LIMIT ?"
_DELETE: Final = "DELETE FROM batches WHERE offset < ?"


def trim_file(path: Path, below_offset: int, lock_timeout_s: float) -> None:
    """Delete all rows below an offset. Raises sqlite3.Error; a part may be gone then."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        # It need not be on disk at once: what comes back after a power cut is trimmed again.
        connection.execute("PRAGMA synchronous = NORMAL")
        # SQLite before 3.51.3 can lose pages when one connection checkpoints while another resets
        # the WAL: so it is done below, holding the write lock.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA journal_size_limit = 33554432")
        size, transactions, said = _BYTES_FIRST, 0, time.monotonic()
        while (bound := _next_bound(connection, below_offset, size)) is not None:
            _take_lock(connection, lock_timeout_s)
            begun = time.monotonic()
            connection.execute(_DELETE, (bound,))
            connection.execute("COMMIT")
            ended = time.monotonic()
            held_s = ended - begun
            if held_s > _HELD_S_MAX:
                size = max(size // 2, 1)
            elif held_s < _HELD_S_MAX / 4:
                size = min(size * 2, _BYTES_MAX)
            if ended - said > _SAY_EVERY_S:
                said = ended
                structlog.get_logger().info("trimming", offset=bound, below_offset=below_offset)
            transactions += 1
            if transactions % _CHECKPOINT_TRANSACTIONS == 0:
                _checkpoint(connection)
            time.sleep(max(_PAUSE_S, 2 * held_s))


def _take_lock(connection: sqlite3.Connection, timeout_s: float) -> None:
    """BEGIN IMMEDIATE, tried each millisecond: a busy leader's file is free for moments only.

    Raises sqlite3.OperationalError when it isn't for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_POLL_S)


def _next_bound(connection: sqlite3.Connection, below_offset: int, size: int) -> int | None:
    """Up to where the next transaction deletes: one row, or more of `size` bytes together."""
    bound, taken = None, 0
    for offset, length in connection.execute(_PICK, (below_offset, _ROWS_MAX)):
        if bound is not None and taken + length > size:
            break
        bound, taken = offset + 1, taken + length
    return bound


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the WAL into the file; one that is in use waits for the next time."""
    connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
