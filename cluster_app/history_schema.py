"""The PostgreSQL tables of a history, made by Alembic (`history_migrations/`).

They have a version table of their own, so a history and a snapshot store can share a database.
"""

from typing import Final

from sqlalchemy import Connection

from cluster_app.schema_revisions import revisions_in, upgrade_tables

_MIGRATIONS: Final = "history_migrations"

HISTORY_VERSION_TABLE: Final = "ringledger_history_version"
"""Alembic's own table."""

CREATE_PARTITION: Final = "CREATE TABLE {table} (LIKE entries INCLUDING DEFAULTS)"
"""A partition that is not attached yet, without indexes."""


def upgrade_history(connection: Connection) -> None:
    """Bring a database's tables to the newest revision; nothing happens if they are."""
    upgrade_tables(connection, _MIGRATIONS)


def history_revisions() -> tuple[str, frozenset[str]]:
    """(the newest revision, all that this program knows)."""
    return revisions_in(_MIGRATIONS)
