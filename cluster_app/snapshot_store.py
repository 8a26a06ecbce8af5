"""Where snapshots are kept: one protocol, two stores, `sqlite:///PATH` and `postgresql+psycopg://...`.

A store holds one snapshot, the newest, as tables (`snapshot_tables.py`). A save is one transaction
that first moves the stored position from the delta's base; a position that doesn't move means that
another learner was here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from cluster_app.errors import UsageError
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotDelta, SnapshotHeader

CHUNK_ROWS: Final = 65_536
"""Rows of a table that are read at a time."""

_SQLITE: Final = "sqlite:///"
_POSTGRES: Final = ("postgresql+psycopg://", "postgresql://")


class SnapshotStore(Protocol):
    """One snapshot at an address.

    All methods raise StoreUnavailable when the store can't be reached or takes nothing now,
    SnapshotRefused for a newer format or what isn't ours, SnapshotDamaged for a changed row.
    """

    name: str
    """The address without its password, for logs."""

    def newest(self) -> SnapshotHeader | None:
        """The stored snapshot's header, or None; nothing is created."""

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        """Give all rows to the restorer that `begin` makes, in one read transaction."""

    def read_base(self) -> SnapshotBase | None:
        """The header and the open holds: what the next delta is made against."""

    def save(self, delta: SnapshotDelta) -> int:
        """Store a delta in one transaction; returns the bytes written.

        Creates the tables when there are none. Raises SnapshotMoved, having changed nothing, when
        the stored snapshot isn't the one that the delta follows. After StoreUnavailable it may be
        stored or not: `newest` tells.
        """


def open_snapshots(url: str) -> SnapshotStore:
    """The store at `sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE`.

    Nothing is opened or created yet. Raises UsageError for anything else, or without the extra.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from cluster_app.sqlite_snapshots import SqliteSnapshots

        return SqliteSnapshots(Path(url[len(_SQLITE) :]))
    if url.startswith(_POSTGRES):
        try:
            from cluster_app.postgres_snapshots import PostgresSnapshots
        except ModuleNotFoundError as error:
            raise UsageError(
                f"snapshot store: {error}: install the extra, pip install 'ringledger[postgres]'"
            ) from None
        return PostgresSnapshots(url)
    shown = url.partition("://")[0]
    raise UsageError(
        f"snapshot store {shown!r}: use sqlite:///PATH or postgresql+psycopg://HOST:PORT/DATABASE"
    )
