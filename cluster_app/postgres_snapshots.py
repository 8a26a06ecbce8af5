"""Snapshots in PostgreSQL: COPY into a temporary table, then upsert, in one transaction.

Rows of accounts that are new since the base go straight into their table, and window segments
are deleted and copied anew: an upsert would move their bytes twice. A restore reads in one
REPEATABLE READ transaction.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import psycopg
import sqlalchemy

from cluster_app.postgres_address import PostgresAddress, one_line
from cluster_app.postgres_copy import copy_blobs_in, copy_in, copy_out
from cluster_app.snapshot_schema import VERSION_TABLE, revisions, upgrade
from cluster_app.snapshot_store import CHUNK_ROWS
from cluster_app.snapshot_tables import (
    ACCOUNTS,
    ASSETS,
    HEADER,
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
from cluster_core.errors import SnapshotMoved, SnapshotRefused
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotDelta, SnapshotHeader

_LOCK_TIMEOUT: Final = b"SET lock_timeout = '10s'"
"""How long somebody else's lock may hold a save or a read up before that fails, and says so."""

_SEGMENTS_AT_A_TIME: Final = 16


class PostgresSnapshots:
    """The store in the database at `url`; a learner's first save makes the tables."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for an address that can't be read."""
        self._address = PostgresAddress(url, "snapshot store")
        self.name = self._address.name
        self._has_tables = False

    def newest(self) -> SnapshotHeader | None:
        with self._connected(reading=True) as connection:
            return _read_header(connection)

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        with self._connected(reading=True) as connection:
            header = _read_header(connection)
            if header is None:
                return None
            restorer = begin(header)
            for columns in copy_out(connection, "accounts", ACCOUNTS, CHUNK_ROWS):
                restorer.add_accounts(*accounts_of(columns))
                progress(restorer)
            for columns in copy_out(connection, "holds", HOLDS, CHUNK_ROWS):
                restorer.add_holds(*holds_of(columns))
                progress(restorer)
            restorer.add_assets(*assets_of(connection.execute(_select("assets", ASSETS))))
            with connection.cursor(name="segments", binary=True) as cursor:
                cursor.itersize = _SEGMENTS_AT_A_TIME
                for number, checksum, data in cursor.execute(_select("window_segments", SEGMENTS)):
                    restorer.add_segment(number, bytes(data), checksum)
                    progress(restorer)
            return restorer

    def read_base(self) -> SnapshotBase | None:
        with self._connected(reading=True) as connection:
            header = _read_header(connection)
            if header is None:
                return None
            restorer = Restorer(header)
            for columns in copy_out(connection, "holds", HOLDS, CHUNK_ROWS):
                restorer.add_holds(*holds_of(columns))
            return restorer.base()

    def save(self, delta: SnapshotDelta) -> int:
        self._make_tables()
        with self._connected(reading=False) as connection:
            _move_position(connection, delta)
            if delta.base is None:
                for table in ROW_TABLES:
                    connection.execute(f"DELETE FROM {table}".encode())
            sent = _save_accounts(connection, delta)
            connection.execute(
                "DELETE FROM holds WHERE hold_id = ANY(%s)",
                (delta.closed_holds.view(np.int64).tolist(),),
            )
            sent += _upsert(connection, "holds", HOLDS, _hold_chunks(delta))
            marks = ", ".join(["%s"] * len(ASSETS))
            with connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO assets({', '.join(ASSETS)}) VALUES ({marks}) "
                    f"{_on_conflict(ASSETS)}".encode(),
                    asset_rows(delta.assets, delta.asset_checksums),
                )
            sent += len(delta.assets) * len(ASSETS) * 8
            connection.execute(
                "DELETE FROM window_segments WHERE segment = ANY(%s)", (delta.segment_numbers,)
            )
            segments = ((number, checksum, data) for number, data, checksum in delta.segments())
            sent += copy_blobs_in(connection, "window_segments", SEGMENTS, segments)
            connection.commit()
            return sent

    def _make_tables(self) -> None:
        """Migrate once. Raises SnapshotRefused when a newer or another program's are there."""
        if self._has_tables:
            return
        with self._connected(reading=True) as connection:
            _check_revision(connection)
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(self._address.conninfo),
            poolclass=sqlalchemy.NullPool,
        )
        try:
            with engine.connect() as connected:
                upgrade(connected)
                connected.commit()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as error:
            reason = getattr(error, "orig", None) or error
            if isinstance(reason, psycopg.errors.DuplicateTable | psycopg.errors.DuplicateObject):
                raise SnapshotRefused(
                    f"{self.name}: another program's tables are there ({one_line(reason)}): name "
                    "another database in --snapshots, or a schema of our own in it, made "
                    "beforehand: ...?options=-csearch_path%3DSCHEMA"
                ) from error
            raise self._address.unavailable(reason, "the tables can't be made: ") from error
        finally:
            engine.dispose()
        self._has_tables = True

    @contextmanager
    def _connected(self, *, reading: bool) -> Iterator[psycopg.Connection[Any]]:
        """A connection in a transaction; closing it rolls back what isn't committed."""
        try:
            connection = psycopg.connect(self._address.conninfo, autocommit=True)
            try:
                connection.execute(_LOCK_TIMEOUT)
                connection.autocommit = False
                if reading:
                    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    connection.read_only = True
                yield connection
            finally:
                connection.close()
        except psycopg.Error as error:
            self._has_tables = False
            raise self._address.unavailable(error) from error


def _move_position(connection: psycopg.Connection[Any], delta: SnapshotDelta) -> None:
    """Put the delta's header where its base is. Raises SnapshotMoved."""
    values = header_values(delta.header)
    if delta.stored is None:
        marks = ", ".join(f"%({name})s" for name in values)
        statement = (
            f"INSERT INTO snapshot({', '.join(values)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        )
    else:
        changes = ", ".join(f"{name} = %({name})s" for name in values)
        statement = (
            f"UPDATE snapshot SET {changes} WHERE chain = %(base_chain)s "
            "AND next_offset = %(base_offset)s AND state_digest = %(base_digest)s"
        )
        values |= {
            "base_chain": delta.stored.position.chain,
            "base_offset": delta.stored.position.next_offset,
            "base_digest": delta.stored.state_digest,
        }
    if connection.execute(statement.encode(), values).rowcount != 1:
        raise SnapshotMoved("another learner saved a snapshot")


def _save_accounts(connection: psycopg.Connection[Any], delta: SnapshotDelta) -> int:
    known = delta.base.header.accounts if delta.base else 0
    opened = int(np.searchsorted(delta.accounts["account_id"], known, side="right"))
    sent = _upsert(connection, "accounts", ACCOUNTS, _account_chunks(delta, 0, opened))
    chunks = _account_chunks(delta, opened, len(delta.accounts))
    return sent + copy_in(connection, "accounts", ACCOUNTS, chunks)


def _account_chunks(delta: SnapshotDelta, first: int, end: int) -> Iterator[Columns]:
    for at in range(first, end, CHUNK_ROWS):
        rows = slice(at, min(at + CHUNK_ROWS, end))
        yield account_columns(delta.accounts[rows], delta.account_checksums[rows])


def _hold_chunks(delta: SnapshotDelta) -> Iterator[Columns]:
    for at in range(0, len(delta.holds), CHUNK_ROWS):
        rows = slice(at, at + CHUNK_ROWS)
        yield hold_columns(delta.holds[rows], delta.hold_checksums[rows])


def _upsert(
    connection: psycopg.Connection[Any], table: str, names: Sequence[str], chunks: Iterator[Columns]
) -> int:
    """COPY into a temporary table, then change or insert; returns the bytes sent."""
    first = next(chunks, None)
    if first is None:
        return 0

    def all_chunks() -> Iterator[Columns]:
        yield first
        yield from chunks

    connection.execute(f"CREATE TEMPORARY TABLE new_{table}(LIKE {table}) ON COMMIT DROP".encode())
    sent = copy_in(connection, f"new_{table}", names, all_chunks())
    listed = ", ".join(names)
    connection.execute(
        f"INSERT INTO {table}({listed}) SELECT {listed} FROM new_{table} "
        f"{_on_conflict(names)}".encode()
    )
    return sent


def _on_conflict(names: Sequence[str]) -> str:
    changes = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    return f"ON CONFLICT ({names[0]}) DO UPDATE SET {changes}"


def _select(table: str, names: Sequence[str]) -> bytes:
    return f"SELECT {', '.join(names)} FROM {table} ORDER BY {names[0]}".encode()


def _check_revision(connection: psycopg.Connection[Any]) -> bool:
    """Whether the newest tables are there. Raises SnapshotRefused for a newer program's."""
    found: Any = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
    if found[0] is None:
        return False
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}".encode()).fetchone()
    newest, known = revisions()
    if row is not None and row[0] not in known:
        raise SnapshotRefused(
            f"the snapshot store's tables have revision {row[0]}, this program knows {newest}: "
            f"{NEWER_ADVICE}"
        )
    return row is not None and row[0] == newest


def _read_header(connection: psycopg.Connection[Any]) -> SnapshotHeader | None:
    if not _check_revision(connection):
        return None
    row = connection.execute(_select("snapshot", HEADER)).fetchone()
    return None if row is None else header_of(dict(zip(HEADER, row, strict=True)))
