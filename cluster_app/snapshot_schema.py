"""The PostgreSQL tables of a snapshot store, for SQLAlchemy, and their migrations by Alembic.

`migrations/` makes them; a test compares what it makes with this. Columns: `snapshot_tables.py`.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

from cluster_app.schema_revisions import revisions_in, upgrade_tables
from cluster_app.snapshot_tables import (
    ACCOUNTS,
    ASSETS,
    HEADER,
    HEADER_BYTES,
    HOLDS,
    SEGMENTS,
)

_MIGRATIONS: Final = "migrations"

VERSION_TABLE: Final = "ringledger_version"
"""Alembic's own table: another program in this database may have one of the usual name."""

metadata: Final = MetaData()


def _table(
    name: str, columns: Sequence[str], binary: Collection[str] = (), texts: Collection[str] = ()
) -> Table:
    kinds: dict[str, Any] = dict.fromkeys(binary, LargeBinary) | dict.fromkeys(texts, Text)
    return Table(
        name,
        metadata,
        Column(columns[0], BigInteger, primary_key=True, autoincrement=False),
        *(Column(column, kinds.get(column, BigInteger), nullable=False) for column in columns[1:]),
    )


_table("snapshot", HEADER, binary=HEADER_BYTES)
_accounts = _table("accounts", ACCOUNTS)
_holds = _table("holds", HOLDS)
_table("assets", ASSETS, texts=("symbol",))
_table("window_segments", SEGMENTS, binary=("data",))

Index(
    "accounts_by_reference",
    _accounts.c.reference,
    postgresql_where=text("reference <> 0"),
)
Index("holds_by_debit_account", _holds.c.debit_account)


def upgrade(connection: Connection) -> None:
    """Bring a database's tables to the newest revision; nothing happens if they are."""
    upgrade_tables(connection, _MIGRATIONS)


def revisions() -> tuple[str, frozenset[str]]:
    """(the newest revision, all that this program knows)."""
    return revisions_in(_MIGRATIONS)
