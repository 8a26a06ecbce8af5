"""History in PostgreSQL: COPY into the partitions of `entries`, head and rows in one transaction.

A partition is made beside `entries` and attached: CREATE ... PARTITION OF would lock out readers.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
import sqlalchemy

from cluster_app.history_queries import NO_ID_MARK, read_extent
from cluster_app.history_schema import (
    CREATE_PARTITION,
    HISTORY_VERSION_TABLE,
    history_revisions,
    upgrade_history,
)
from cluster_app.history_store import (
    Answer,
    Execute,
    HistoryMoved,
    HistoryReader,
    HistoryRefused,
    Partition,
)
from cluster_app.history_tables import (
    BATCH_NAMES,
    ENTRY_NAMES,
    HEAD_NAMES,
    HISTORY_FORMAT,
    HISTORY_NAMES,
    INDEXES,
    DayTotal,
    Extent,
    Head,
    copy_rows,
    head_values,
)
from cluster_app.postgres_address import PostgresAddress
from cluster_app.postgres_copy import COPY_BEGIN, COPY_END, copy_in
from cluster_core.errors import StoreUnavailable

PARTITION_ROWS: Final = 1 << 19
"""Its indexes, 75 MB, fit into PostgreSQL's default 128 MB of buffers."""

_STATE_SCHEMA: Final = "ringledger_archiver"
_INDEX_MEMORY: Final = "128MB"
_NO_ID: Final = f"'{uuid.UUID(int=0)}'::uuid"
_EXTENT_TIMEOUT_S: Final = 30.0
_PLANS: Final = (
    # planning over all partitions takes longer than the questions themselves
    "SET plan_cache_mode = force_generic_plan; "
    # a plan may be older than most of a partition's rows, and every question has an index
    "SET enable_seqscan = off; SET jit = off"
)


class PostgresHistory:
    """The history in the database at `url`. One writer at a time; each reader has its own."""

    partition_rows = PARTITION_ROWS

    def __init__(self, url: str) -> None:
        """Raises UsageError for an address that can't be read."""
        self._address = PostgresAddress(url, "history")
        self.name = self._address.name
        self._connection: psycopg.Connection[Any] | None = None
        self._has_tables = False

    def state_url(self) -> str:
        return self._address.in_schema(_STATE_SCHEMA)

    def extent(self) -> Extent | None:
        with closing(self.reader(_EXTENT_TIMEOUT_S)) as reader:
            return reader.read(self._read_extent)

    def reader(self, timeout_s: float) -> HistoryReader:
        return PostgresReader(self._address, timeout_s)

    def begin(self) -> None:
        self._make_tables()
        with self._translated():
            if self._connection is None:
                self._connection = psycopg.connect(self._address.conninfo)
                self._connection.execute(
                    f"SET SESSION maintenance_work_mem = '{_INDEX_MEMORY}'".encode()
                )
                self._connection.commit()

    def create(self, extent: Extent) -> None:
        listed, places = ", ".join(HISTORY_NAMES), ", ".join(["%s"] * len(HISTORY_NAMES))
        done = self._run(
            f"INSERT INTO history({listed}) VALUES ({places}) ON CONFLICT DO NOTHING",
            extent.values(),
        )
        if done != 1:
            raise HistoryMoved("another archiver has begun this history")

    def move(self, base: Head, head: Head) -> None:
        changes = ", ".join(f"{name} = %s" for name in HEAD_NAMES)
        done = self._run(
            f"UPDATE history SET {changes} WHERE next_offset = %s AND chain = %s",
            (*head_values(head), base.next_offset, base.chain),
        )
        if done != 1:
            raise HistoryMoved("another archiver has written to this history")

    def note_state(self, offset: int) -> None:
        self._run("UPDATE history SET state_offset = %s WHERE state_offset < %s", (offset, offset))

    def partitions(self) -> list[Partition]:
        with self._translated():
            rows = self._open.execute(
                "SELECT first_sequence, end_sequence, exported_to FROM partitions "
                "ORDER BY first_sequence"
            ).fetchall()
        return [Partition(*row) for row in rows]

    def add_partition(self, partition: Partition, *, indexed: bool) -> None:
        self._run(CREATE_PARTITION.format(table=partition.table))
        self._run(
            "INSERT INTO partitions(first_sequence, end_sequence) VALUES (%s, %s)",
            (partition.first, partition.end),
        )
        if indexed:
            self._attach(partition)

    def finish_partition(self, partition: Partition, *, is_full: bool) -> None:
        self._run(
            "UPDATE partitions SET end_sequence = %s WHERE first_sequence = %s",
            (partition.end, partition.first),
        )
        self._attach(partition)
        self._run(f"ANALYZE {partition.table}")
        if is_full:
            # its rows are frozen and none will change: a vacuum would only be in readers' way
            self._run(f"ALTER TABLE {partition.table} SET (autovacuum_enabled = off)")

    def remove_partition(self, partition: Partition, first_sequence: int) -> None:
        # the archiver holds this row in its transactions: wait for it before readers wait for us
        self._run("UPDATE history SET first_sequence = %s", (first_sequence,))
        self._run(
            "UPDATE partitions SET exported_to = %s WHERE first_sequence = %s",
            (partition.exported_to, partition.first),
        )
        self._run(f"DROP TABLE {partition.table}")

    def add_entries(
        self, partition: Partition, entries: npt.NDArray[Any], *, loading: bool
    ) -> None:
        # frozen rows need not be written again when they are first read, nor by a vacuum
        options = "FORMAT BINARY, FREEZE" if loading else "FORMAT BINARY"
        statement = f"COPY {partition.table}({', '.join(ENTRY_NAMES)}) FROM STDIN ({options})"
        with self._translated(), self._open.cursor().copy(statement.encode()) as copy:
            copy.write(COPY_BEGIN)
            copy.write(copy_rows(entries))
            copy.write(COPY_END)

    def add_batches(self, batches: npt.NDArray[np.int64]) -> None:
        with self._translated():
            copy_in(self._open, "batches", BATCH_NAMES, [(batches[:, 0], batches[:, 1])])

    def add_totals(self, totals: Sequence[DayTotal]) -> None:
        with self._translated(), self._open.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO day_totals AS t(day, asset, operation, commands, amount) VALUES "
                "(%s, %s, %s, %s, %s) ON CONFLICT (day, asset, operation) DO UPDATE SET "
                "commands = t.commands + excluded.commands, amount = t.amount + excluded.amount",
                [(t.day, t.asset, t.operation, t.commands, t.amount) for t in totals],
            )

    def add_balances(self, below: int, ids: npt.NDArray[Any], posted: npt.NDArray[Any]) -> None:
        names = ("account_id", "below_sequence", "posted")
        columns = (ids.astype(np.int64), np.full(len(ids), below, np.int64), posted)
        with self._translated():
            copy_in(self._open, "balances_below", names, [columns])

    def commit(self) -> None:
        with self._translated():
            self._open.commit()

    def rollback(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    @property
    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            raise StoreUnavailable(f"{self.name}: not connected")
        return self._connection

    def _attach(self, partition: Partition) -> None:
        """Bounds as a constraint spare the scan; the indexes are made before, from sorted rows."""
        table, bounds = partition.table, f"sequence >= {partition.first}"
        self._run(
            f"ALTER TABLE {table} ADD PRIMARY KEY (sequence), ADD CONSTRAINT {table}_bounds "
            f"CHECK ({bounds} AND sequence < {partition.end})"
        )
        for name, columns, condition in INDEXES:
            self._run(f"CREATE INDEX {table}_{name} ON {table} {columns} WHERE {condition}")
        self._run(
            f"CREATE INDEX {table}_by_command_id ON {table} (command_id) "
            f"WHERE command_id <> {_NO_ID}"
        )
        self._run(
            f"ALTER TABLE entries ATTACH PARTITION {table} FOR VALUES FROM ({partition.first}) "
            f"TO ({partition.end})"
        )

    def _run(self, statement: str, values: Sequence[Any] | None = None) -> int:
        with self._translated():
            return self._open.execute(statement.encode(), values).rowcount

    def _make_tables(self) -> None:
        """Migrate once. Raises HistoryRefused when a newer program's tables are there."""
        if self._has_tables:
            return
        with closing(self.reader(_EXTENT_TIMEOUT_S)) as reader:
            reader.read(_check_revision)
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(self._address.conninfo),
            poolclass=sqlalchemy.NullPool,
        )
        try:
            with engine.connect() as connected:
                connected.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {_STATE_SCHEMA}"))
                upgrade_history(connected)
                connected.commit()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as error:
            reason = getattr(error, "orig", None) or error
            raise self._address.unavailable(reason, "the tables can't be made: ") from error
        finally:
            engine.dispose()
        self._has_tables = True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._address.unavailable(error) from error

    def _read_extent(self, execute: Execute) -> Extent | None:
        if not _check_revision(execute):
            return None
        extent = read_extent(execute)
        if extent is not None:
            (found,) = execute("SELECT format FROM history", ())
            if found[0] != HISTORY_FORMAT:
                raise HistoryRefused(
                    f"{self.name}: history of format {found[0]}, this program knows "
                    f"{HISTORY_FORMAT}: use the program that wrote it"
                )
        return extent


class PostgresReader:
    """Reads of one database, by one connection; a lost one is made anew with the next read."""

    def __init__(self, address: PostgresAddress, timeout_s: float) -> None:
        self._address = address
        self._timeout_ms = round(timeout_s * 1e3)
        self._connection: psycopg.Connection[Any] | None = None

    def read(self, question: Callable[[Execute], Answer]) -> Answer:
        try:
            connection = self._connection
            if connection is None or connection.closed:
                connection = psycopg.connect(self._address.conninfo, autocommit=True)
                self._connection = connection
                connection.execute(f"SET statement_timeout = {self._timeout_ms}; {_PLANS}".encode())
                connection.prepare_threshold = 0
                connection.autocommit = False
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True

            def execute(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
                return connection.execute(marks(sql), [typed(v) for v in values]).fetchall()

            try:
                return question(execute)
            finally:
                connection.rollback()
        except psycopg.Error as error:
            self.close()
            raise self._address.unavailable(error) from error

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def marks(sql: str) -> bytes:
    """A statement with `?` marks as psycopg takes it."""
    return sql.replace("%", "%%").replace("?", "%s").replace(NO_ID_MARK, _NO_ID).encode()


def typed(value: Any) -> Any:
    """A value as psycopg takes it: bytes that are asked for are command ids."""
    return uuid.UUID(bytes=value) if isinstance(value, bytes) else value


def _check_revision(execute: Execute) -> bool:
    """Whether the newest tables are there. Raises HistoryRefused for a newer program's."""
    if execute("SELECT to_regclass(?)", (HISTORY_VERSION_TABLE,))[0][0] is None:
        return False
    rows = execute(f"SELECT version_num FROM {HISTORY_VERSION_TABLE}", ())
    newest, known = history_revisions()
    if rows and rows[0][0] not in known:
        raise HistoryRefused(
            f"the history's tables have revision {rows[0][0]}, this program knows {newest}: use "
            "the newer program"
        )
    return bool(rows) and rows[0][0] == newest
