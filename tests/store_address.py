"""An empty snapshot store of each kind: its URL, and SQL on it by a connection of our own."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from tests.services import Postgres

TABLES: Final = ("snapshot", "accounts", "holds", "assets", "window_segments")


class Address(Protocol):
    """Where a store is. Any number of connections may look at it."""

    url: str

    def sql(self, statement: str) -> list[tuple[Any, ...]]: ...


class SqliteAddress:
    """A file in a folder of the test's own; nobody has made it yet."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "snapshots.db"
        self.url = f"sqlite:///{self.path}"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()


class PostgresAddress:
    """A server's database, emptied."""

    def __init__(self, server: Postgres) -> None:
        self.url = server.url
        self.conninfo = server.conninfo
        self.sql("DROP SCHEMA public CASCADE")
        self.sql("CREATE SCHEMA public")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
