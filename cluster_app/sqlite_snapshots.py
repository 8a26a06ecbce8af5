"""Snapshots in an SQLite file of their own, in WAL mode: the leader's journal is never blocked.

The tables are those of `snapshot_tables.py`, with a view `balances`. The file's `application_id`
and `user_version` tell whose it is, and of which format.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from cluster_app.errors import StoreRefuses
from cluster_app.snapshot_store import CHUNK_ROWS
from cluster_app.snapshot_tables import (
    ACCOUNTS,
    ASSETS,
    HEADER,
    HEADER_BYTES,
    HOLDS,
    NEWER_ADVICE,
    ROW_TABLES,
    SEGMENTS,
    Columns,
    account_columns,
    accounts_of,
    asset_rows,
    assets_of,
    header_of,
    header_values,
    hold_columns,
    holds_of,
)
from cluster_core.errors import SnapshotMoved, SnapshotRefused, StoreUnavailable
from cluster_core.restore import Restorer, damaged
from cluster_core.snapshot import (
    READ_FORMATS,
    SNAPSHOT_FORMAT,
    SnapshotBase,
    SnapshotDelta,
    SnapshotHeader,
)

APPLICATION_ID: Final = int.from_bytes(b"RNGS", "big")
PAGE_BYTES: Final = 16_384
LOCK_TIMEOUT_S: Final = 10.0
"""How long another learner may hold the write lock before a save fails."""

_WRITE_ROWS: Final = 8_192
"""Rows made into Python's numbers at a time: 3 ms in which replay can't have the interpreter."""

_STATEMENT_ROWS: Final = 60
"""In one INSERT: 960 variables, any SQLite takes 999, and half the time of a row in each."""

_UNIT: Final = "CAST('1' || substr('000000000000000000', 1, s.decimals) AS INTEGER)"


def _decimal(column: str) -> str:
    """SQL for an exact decimal text of an amount in minor units."""
    digits = f"substr('000000000000000000' || (abs(a.{column}) % {_UNIT}), -s.decimals)"
    return (
        f"CASE WHEN a.{column} < 0 THEN '-' ELSE '' END || (abs(a.{column}) / {_UNIT})"
        f" || CASE WHEN s.decimals > 0 THEN '.' || {digits} ELSE '' END AS {column}"
    )


def _table(name: str, columns: Sequence[str], kinds: dict[str, str] | None = None) -> str:
    kinds = kinds or {}
    rest = ", ".join(f"{column} {kinds.get(column, 'INTEGER')} NOT NULL" for column in columns[1:])
    return f"CREATE TABLE {name}({columns[0]} INTEGER PRIMARY KEY, {rest})"


_SCHEMA: Final = (
    _table("snapshot", HEADER, dict.fromkeys(HEADER_BYTES, "BLOB")),
    _table("accounts", ACCOUNTS),
    _table("holds", HOLDS),
    _table("assets", ASSETS, {"symbol": "TEXT"}),
    _table("window_segments", SEGMENTS, {"data": "BLOB"}),
    "CREATE INDEX accounts_by_reference ON accounts(reference) WHERE reference <> 0",
    "CREATE INDEX holds_by_debit_account ON holds(debit_account)",
    "CREATE VIEW balances AS SELECT a.account_id, a.reference, a.code, s.symbol, "
    + ", ".join(map(_decimal, ("posted", "held")))
    + ", a.state, a.version, a.last_sequence FROM accounts a JOIN assets s USING (asset)",
)


class SqliteSnapshots:
    """The store in the file `path`; a learner's save creates it and its folder."""

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self.name = f"sqlite:///{path}"

    def newest(self) -> SnapshotHeader | None:
        if not self.path.exists():
            return None
        with self._connected() as connection:
            return _read_header(connection)

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        if not self.path.exists():
            return None
        with self._connected() as connection:
            connection.execute("BEGIN")
            header = _read_header(connection)
            if header is None:
                return None
            restorer = begin(header)
            for columns in _read_chunks(connection, "accounts", ACCOUNTS):
                restorer.add_accounts(*accounts_of(columns))
                progress(restorer)
            for columns in _read_chunks(connection, "holds", HOLDS):
                restorer.add_holds(*holds_of(columns))
                progress(restorer)
            restorer.add_assets(*assets_of(connection.execute(_select("assets", ASSETS))))
            for number, checksum, data in connection.execute(_select("window_segments", SEGMENTS)):
                if not isinstance(data, bytes):
                    damaged(f"window_segments: the row with segment {number} was changed")
                restorer.add_segment(number, data, checksum)
                progress(restorer)
            return restorer

    def read_base(self) -> SnapshotBase | None:
        if not self.path.exists():
            return None
        with self._connected() as connection:
            connection.execute("BEGIN")
            header = _read_header(connection)
            if header is None:
                return None
            restorer = Restorer(header)
            for columns in _read_chunks(connection, "holds", HOLDS):
                restorer.add_holds(*holds_of(columns))
            return restorer.base()

    def save(self, delta: SnapshotDelta) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {error.strerror}") from error
        with self._connected(create=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            _move_position(connection, delta)
            connection.execute(f"PRAGMA user_version = {SNAPSHOT_FORMAT}")
            if delta.base is None:
                for table in ROW_TABLES:
                    connection.execute(f"DELETE FROM {table}")
            written = _write_columns(connection, "accounts", ACCOUNTS, _account_chunks(delta))
            connection.executemany(
                "DELETE FROM holds WHERE hold_id = ?", ((int(i),) for i in delta.closed_holds)
            )
            written += _write_columns(connection, "holds", HOLDS, _hold_chunks(delta))
            assets = asset_rows(delta.assets, delta.asset_checksums)
            connection.executemany(_upsert("assets", ASSETS), assets)
            written += len(assets) * len(ASSETS) * 8
            for number, data, checksum in delta.segments():
                connection.execute(_upsert("window_segments", SEGMENTS), (number, checksum, data))
                written += len(data)
            connection.execute("COMMIT")
            # Only here, and holding the write lock: SQLite before 3.51.3 can lose pages when one
            # connection checkpoints while another resets the WAL.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return written

    @contextmanager
    def _connected(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection; SQLite's errors become ours, and an open transaction is rolled back."""
        mode = "rwc" if create else "rw"
        try:
            with closing(
                sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?mode={mode}",
                    uri=True,
                    timeout=LOCK_TIMEOUT_S,
                    isolation_level=None,
                )
            ) as connection:
                connection.text_factory = lambda text: text.decode(errors="replace")
                self._check_owner(connection, create=create)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute("PRAGMA cache_size = -65536")
                yield connection
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _check_owner(self, connection: sqlite3.Connection, *, create: bool) -> None:
        """Raises SnapshotRefused for another application's file, or another format's."""
        connection.execute("PRAGMA page_size = 16384")
        connection.execute("BEGIN IMMEDIATE" if create else "BEGIN")
        empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if empty and create:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SNAPSHOT_FORMAT}")
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
        if not empty and application_id != APPLICATION_ID:
            raise SnapshotRefused(
                f"{self.path}: a SQLite database of another application: choose another --snapshots"
            )
        if not empty and version not in READ_FORMATS:
            raise SnapshotRefused(
                f"{self.path}: snapshots of format {version}, this program reads "
                f"{SNAPSHOT_FORMAT} and older: {NEWER_ADVICE}"
            )
        if create and connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise SnapshotRefused(f"{self.path}: WAL mode is not possible here")

    def _explain(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return SnapshotRefused(
                f"{self.path}: not a SQLite database: choose another --snapshots"
            )
        if code == sqlite3.SQLITE_CORRUPT:
            return SnapshotRefused(
                f"{self.path}: the file is damaged ({error}): remove it and let a learner make a "
                "new one, or start with --no-snapshot"
            )
        hints = {
            sqlite3.SQLITE_FULL: ": the disk is full",
            sqlite3.SQLITE_IOERR: ": the disk fails or is full",
            sqlite3.SQLITE_READONLY: ": the file or its folder is read-only",
            sqlite3.SQLITE_CANTOPEN: ": check the folder's permissions",
            sqlite3.SQLITE_BUSY: ": another program writes",
        }
        refuses = code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
        kind = StoreRefuses if refuses else StoreUnavailable
        return kind(f"{self.name}: {error}{hints.get(code, '')}")


def _move_position(connection: sqlite3.Connection, delta: SnapshotDelta) -> None:
    """Put the delta's header where its base is. Raises SnapshotMoved."""
    values = header_values(delta.header)
    names = list(values)
    if delta.stored is None:
        marks = ", ".join(f":{name}" for name in names)
        statement = f"INSERT OR IGNORE INTO snapshot({', '.join(names)}) VALUES ({marks})"
    else:
        changes = ", ".join(f"{name} = :{name}" for name in names)
        statement = (
            f"UPDATE snapshot SET {changes} WHERE chain = :base_chain "
            "AND next_offset = :base_offset AND state_digest = :base_digest"
        )
        values |= {
            "base_chain": delta.stored.position.chain,
            "base_offset": delta.stored.position.next_offset,
            "base_digest": delta.stored.state_digest,
        }
    if connection.execute(statement, values).rowcount != 1:
        connection.execute("ROLLBACK")
        raise SnapshotMoved("another learner saved a snapshot")


def _write_columns(
    connection: sqlite3.Connection, table: str, names: Sequence[str], chunks: Iterator[Columns]
) -> int:
    """Insert or change rows, many in a statement; returns the bytes of their numbers."""
    many, one = _upsert(table, names, _STATEMENT_ROWS), _upsert(table, names)
    written = 0
    for columns in chunks:
        rows = np.stack(columns, axis=1)
        whole = len(rows) - len(rows) % _STATEMENT_ROWS
        statements = rows[:whole].reshape(-1, _STATEMENT_ROWS * len(names))
        connection.executemany(many, statements.tolist())
        connection.executemany(one, rows[whole:].tolist())
        written += rows.nbytes
    return written


def _account_chunks(delta: SnapshotDelta) -> Iterator[Columns]:
    for at in range(0, len(delta.accounts), _WRITE_ROWS):
        rows = slice(at, at + _WRITE_ROWS)
        yield account_columns(delta.accounts[rows], delta.account_checksums[rows])


def _hold_chunks(delta: SnapshotDelta) -> Iterator[Columns]:
    for at in range(0, len(delta.holds), _WRITE_ROWS):
        rows = slice(at, at + _WRITE_ROWS)
        yield hold_columns(delta.holds[rows], delta.hold_checksums[rows])


def _upsert(table: str, names: Sequence[str], rows: int = 1) -> str:
    marks = f"({', '.join('?' * len(names))})"
    changes = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    return (
        f"INSERT INTO {table}({', '.join(names)}) VALUES {', '.join([marks] * rows)} "
        f"ON CONFLICT({names[0]}) DO UPDATE SET {changes}"
    )


def _select(table: str, names: Sequence[str]) -> str:
    return f"SELECT {', '.join(names)} FROM {table} ORDER BY {names[0]}"


def _read_header(connection: sqlite3.Connection) -> SnapshotHeader | None:
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return None
    row = connection.execute(_select("snapshot", HEADER)).fetchone()
    return None if row is None else header_of(dict(zip(HEADER, row, strict=True)))


def _read_chunks(
    connection: sqlite3.Connection, table: str, names: Sequence[str]
) -> Iterator[Columns]:
    cursor = connection.execute(_select(table, names))
    while rows := cursor.fetchmany(CHUNK_ROWS):
        count = len(rows) * len(names)
        try:
            flat = np.fromiter(chain.from_iterable(rows), np.int64, count)
        except (TypeError, ValueError, OverflowError):
            for row in rows:
                if any(type(value) is not int for value in row):
                    damaged(f"{table}: the row with {names[0]} {row[0]} was changed")
            raise
        yield list(flat.reshape(-1, len(names)).T)
