"""Alembic's entry: brings the tables of a PostgreSQL snapshot store to the newest revision."""

from alembic import context
from sqlalchemy import text

from cluster_app.snapshot_schema import VERSION_TABLE, metadata

_LOCK = int.from_bytes(b"RNGLSNAP", "big")
"""Of learners that start at the same time, one makes the tables."""

connection = context.config.attributes["connection"]
context.configure(connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    context.run_migrations()
