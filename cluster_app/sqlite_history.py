"""History in an SQLite file of its own, in WAL mode: the embedded default.

Each partition is a table, and `entries` a view over them. The file's `application_id` and
`user_version` tell whose it is, and of which format.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_app.errors import StoreRefuses
from cluster_app.history_queries import NO_ID_MARK, read_extent
from cluster_app.history_store import (
    Answer,
    Execute,
    HistoryMoved,
    HistoryReader,
    HistoryRefused,
    Partition,
)
from cluster_app.history_tables import (
    ENTRY_COLUMNS,
    ENTRY_NAMES,
    HEAD_NAMES,
    HISTORY_FORMAT,
    HISTORY_NAMES,
    INDEXES,
    DayTotal,
    Extent,
    Head,
    entry_rows,
    head_values,
)
from cluster_core.errors import StoreUnavailable

APPLICATION_ID: Final = int.from_bytes(b"RNGH", "big")
LOCK_TIMEOUT_S: Final = 10.0
"""How long another archiver may hold the write lock before a transaction fails."""

PARTITION_ROWS: Final = 1 << 20
PARTITIONS_MAX: Final = 500
"""Tables that one view of SQLite can have; older ones must be exported before."""

_NO_ID: Final = "zeroblob(16)"
_CACHE_KIB: Final = 8_192
_INSTRUCTIONS_BETWEEN_LOOKS: Final = 100_000
"""Of SQLite's machine: about a millisecond."""

_ENTRY_TABLE: Final = (
    "CREATE TABLE {table}(sequence INTEGER PRIMARY KEY, "
    + ", ".join(
        f"{column.name} {'BLOB' if column.width == 16 else 'INTEGER'} NOT NULL"
        for column in ENTRY_COLUMNS[1:]
    )
    + ")"
)
_SCHEMA: Final = (
    """
    CREATE TABLE history(
        id INTEGER PRIMARY KEY,
        format INTEGER NOT NULL,
        ledger_id BLOB NOT NULL,
        next_offset INTEGER NOT NULL,
        counted_offset INTEGER NOT NULL,
        next_sequence INTEGER NOT NULL,
        timestamp_ns INTEGER NOT NULL,
        chain BLOB NOT NULL,
        first_sequence INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        partition_rows INTEGER NOT NULL,
        state_offset INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE partitions(
        first_sequence INTEGER PRIMARY KEY,
        end_sequence INTEGER NOT NULL,
        exported_to TEXT NOT NULL DEFAULT ''
    )
    """,
    "CREATE TABLE batches(first_sequence INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL)",
    "CREATE INDEX batches_by_time ON batches(timestamp_ns, first_sequence)",
    """
    CREATE TABLE day_totals(
        day INTEGER,
        asset INTEGER,
        operation INTEGER,
        commands INTEGER NOT NULL,
        amount TEXT NOT NULL,
        PRIMARY KEY (day, asset, operation)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE balances_below(
        account_id INTEGER,
        below_sequence INTEGER,
        posted INTEGER NOT NULL,
        PRIMARY KEY (account_id, below_sequence)
    ) WITHOUT ROWID
    """,
    _ENTRY_TABLE.format(table="no_entries"),
)
_POSTINGS: Final = """
CREATE VIEW postings AS
SELECT debit_account AS account_id, sequence, timestamp_ns, command_id, operation, asset, code,
       reference, hold, CASE WHEN operation IN (3, 4, 7) THEN -amount ELSE 0 END AS change,
       debit_balance AS balance, credit_account AS other_account
FROM entries WHERE debit_account <> 0 AND status = 1
UNION ALL
SELECT credit_account, sequence, timestamp_ns, command_id, operation, asset, code, reference, hold,
       CASE WHEN operation IN (2, 4, 7) THEN amount ELSE 0 END, credit_balance, debit_account
FROM entries WHERE credit_account <> 0 AND status = 1
"""


class SqliteHistory:
    """The history in the file `path`; an archiver creates it and its folder."""

    partition_rows = PARTITION_ROWS

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self.name = f"sqlite:///{path}"
        self._connection: sqlite3.Connection | None = None

    def state_url(self) -> str:
        return f"sqlite:///{self.path.with_name(self.path.stem + '-state' + self.path.suffix)}"

    def extent(self) -> Extent | None:
        if not self.path.exists():
            return None
        with closing(self.reader(LOCK_TIMEOUT_S)) as reader:
            return reader.read(_read_extent)

    def reader(self, timeout_s: float) -> HistoryReader:
        return SqliteReader(self, timeout_s)

    def begin(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {error.strerror}") from error
        with self.translated():
            if self._connection is None:
                self._connection = self.connect("rwc")
                self._make_tables(self._connection)
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA wal_autocheckpoint = 0")
                self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._connection.execute("BEGIN IMMEDIATE")

    def create(self, extent: Extent) -> None:
        places = ", ".join("?" * len(HISTORY_NAMES))
        done = self._run(
            f"INSERT OR IGNORE INTO history({', '.join(HISTORY_NAMES)}) VALUES ({places})",
            extent.values(),
        )
        if done != 1:
            raise HistoryMoved("another archiver has begun this history")

    def move(self, base: Head, head: Head) -> None:
        changes = ", ".join(f"{name} = ?" for name in HEAD_NAMES)
        done = self._run(
            f"UPDATE history SET {changes} WHERE next_offset = ? AND chain = ?",
            (*head_values(head), base.next_offset, base.chain),
        )
        if done != 1:
            raise HistoryMoved("another archiver has written to this history")

    def note_state(self, offset: int) -> None:
        self._run("UPDATE history SET state_offset = ? WHERE state_offset < ?", (offset, offset))

    def partitions(self) -> list[Partition]:
        with self.translated():
            rows = self._open.execute(
                "SELECT first_sequence, end_sequence, exported_to FROM partitions "
                "ORDER BY first_sequence"
            ).fetchall()
        return [Partition(*row) for row in rows]

    def add_partition(self, partition: Partition, *, indexed: bool) -> None:
        if sum(not known.exported_to for known in self.partitions()) >= PARTITIONS_MAX:
            raise HistoryRefused(
                f"{self.name}: {PARTITIONS_MAX} partitions are all that SQLite can have: export "
                "old ones, or begin a new history with a larger --partition-rows"
            )
        self._run(_ENTRY_TABLE.format(table=partition.table))
        self._run(
            "INSERT INTO partitions(first_sequence, end_sequence) VALUES (?, ?)",
            (partition.first, partition.end),
        )
        if indexed:
            self._index(partition)

    def finish_partition(self, partition: Partition, *, is_full: bool) -> None:
        self._run(
            "UPDATE partitions SET end_sequence = ? WHERE first_sequence = ?",
            (partition.end, partition.first),
        )
        self._index(partition)

    def remove_partition(self, partition: Partition, first_sequence: int) -> None:
        self._run(
            "UPDATE partitions SET exported_to = ? WHERE first_sequence = ?",
            (partition.exported_to, partition.first),
        )
        self._run("UPDATE history SET first_sequence = ?", (first_sequence,))
        self._show_partitions()
        self._run(f"DROP TABLE {partition.table}")

    def add_entries(
        self, partition: Partition, entries: npt.NDArray[Any], *, loading: bool
    ) -> None:
        places = ", ".join("?" * len(ENTRY_NAMES))
        with self.translated():
            self._open.executemany(
                f"INSERT INTO {partition.table} VALUES ({places})", entry_rows(entries)
            )

    def add_batches(self, batches: npt.NDArray[np.int64]) -> None:
        with self.translated():
            self._open.executemany("INSERT INTO batches VALUES (?, ?)", batches.tolist())

    def add_totals(self, totals: Sequence[DayTotal]) -> None:
        with self.translated():
            for total in totals:
                key = (total.day, total.asset, total.operation)
                # sums of many amounts may pass SQLite's integers: they are text, added here
                known = self._open.execute(
                    "SELECT commands, amount FROM day_totals WHERE day = ? AND asset = ? AND "
                    "operation = ?",
                    key,
                ).fetchone() or (0, "0")
                self._open.execute(
                    "INSERT OR REPLACE INTO day_totals VALUES (?, ?, ?, ?, ?)",
                    (*key, known[0] + total.commands, str(int(known[1]) + total.amount)),
                )

    def add_balances(self, below: int, ids: npt.NDArray[Any], posted: npt.NDArray[Any]) -> None:
        rows = zip(ids.tolist(), [below] * len(ids), posted.tolist(), strict=True)
        with self.translated():
            self._open.executemany("INSERT INTO balances_below VALUES (?, ?, ?)", rows)

    def commit(self) -> None:
        with self.translated():
            self._open.execute("COMMIT")
            # Only here, by the one writer: SQLite before 3.51.3 can lose pages when one connection
            # checkpoints while another resets the WAL.
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def rollback(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self.name}: not open")
        return self._connection

    def _index(self, partition: Partition) -> None:
        """A rowid is part of every index, so `sequence` need not be named."""
        table = partition.table
        for name, columns, condition in INDEXES:
            self._run(f"CREATE INDEX {table}_{name} ON {table} {columns} WHERE {condition}")
        self._run(
            f"CREATE INDEX {table}_by_command_id ON {table} (command_id) "
            f"WHERE command_id <> {_NO_ID}"
        )
        self._show_partitions()

    def _show_partitions(self) -> None:
        shown = [partition for partition in self.partitions() if not partition.exported_to]
        tables = [partition.table for partition in shown] or ["no_entries"]
        names = ", ".join(ENTRY_NAMES)
        self._run("DROP VIEW IF EXISTS postings")
        self._run("DROP VIEW IF EXISTS entries")
        selects = " UNION ALL ".join(f"SELECT {names} FROM {table}" for table in tables)
        self._run(f"CREATE VIEW entries AS {selects}")
        self._run(_POSTINGS)

    def _run(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self.translated():
            return self._open.execute(statement, values).rowcount

    def connect(self, mode: str) -> sqlite3.Connection:
        """A connection, mode rw or rwc. Raises sqlite3.Error, HistoryRefused."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=LOCK_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._check_owner(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        """Raises HistoryRefused for another application's file, or another format's."""
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise HistoryRefused(
                f"{self.path}: a SQLite database of another application: choose another --history"
            )
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != HISTORY_FORMAT:
            raise HistoryRefused(
                f"{self.path}: history of format {version}, this program knows {HISTORY_FORMAT}: "
                "use the program that wrote it"
            )

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA page_size = 16384")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {HISTORY_FORMAT}")
            for statement in _SCHEMA:
                connection.execute(statement)
            names = ", ".join(ENTRY_NAMES)
            connection.execute(f"CREATE VIEW entries AS SELECT {names} FROM no_entries")
            connection.execute(_POSTINGS)
        connection.execute("COMMIT")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise HistoryRefused(f"{self.path}: WAL mode is not possible here")

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's errors become ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return HistoryRefused(f"{self.path}: not a SQLite database: choose another --history")
        if code == sqlite3.SQLITE_CORRUPT:
            return HistoryRefused(
                f"{self.path}: the file is damaged ({error}): remove it and let an archiver make "
                "a new one"
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


def _read_extent(execute: Execute) -> Extent | None:
    """None for a file whose maker was killed before it had tables."""
    if not execute("SELECT count(*) FROM sqlite_master", ())[0][0]:
        return None
    return read_extent(execute)


class SqliteReader:
    """Reads of one file, by one connection."""

    def __init__(self, store: SqliteHistory, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None

    def read(self, question: Callable[[Execute], Answer]) -> Answer:
        with self._store.translated():
            if self._connection is None:
                self._connection = self._store.connect("rw")
            connection = self._connection
            deadline = time.monotonic() + self._timeout_s
            connection.set_progress_handler(
                lambda: time.monotonic() > deadline, _INSTRUCTIONS_BETWEEN_LOOKS
            )
            connection.execute("BEGIN")
            try:
                return question(
                    lambda sql, values: connection.execute(
                        sql.replace(NO_ID_MARK, _NO_ID), values
                    ).fetchall()
                )
            finally:
                connection.set_progress_handler(None, 0)
                connection.execute("ROLLBACK")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
