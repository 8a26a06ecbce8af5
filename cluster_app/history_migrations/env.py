"""Alembic's entry: brings the tables of a PostgreSQL history to the newest revision."""

from alembic import context
from sqlalchemy import text

from cluster_app.history_schema import HISTORY_VERSION_TABLE

_LOCK = int.from_bytes(b"RNGLHIST", "big")
"""Of archivers that start at the same time, one makes the tables."""

connection = context.config.attributes["connection"]
context.configure(connection, version_table=HISTORY_VERSION_TABLE)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    context.run_migrations()
