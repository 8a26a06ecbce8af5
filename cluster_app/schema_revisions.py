"""Revisions of PostgreSQL tables: what Alembic knows of a folder of migrations, and applies."""

import threading

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_one_at_a_time = threading.Lock()
"""Alembic's context is one for the whole process."""


def upgrade_tables(connection: Connection, folder: str) -> None:
    """Bring a database's tables to the newest revision in `folder`; nothing happens if they are."""
    config = _config(folder)
    config.attributes["connection"] = connection
    with _one_at_a_time:
        command.upgrade(config, "head")


def revisions_in(folder: str) -> tuple[str, frozenset[str]]:
    """(the newest revision, all that this program knows)."""
    scripts = ScriptDirectory.from_config(_config(folder))
    known = frozenset(script.revision for script in scripts.walk_revisions())
    return scripts.get_current_head() or "", known


def _config(folder: str) -> Config:
    config = Config()
    config.set_main_option("script_location", f"cluster_app:{folder}")
    config.set_main_option("path_separator", "os")
    return config
