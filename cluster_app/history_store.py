"""Where history is kept: one way to write it, over two databases.

A transaction moves the stored head from the one it began with (a compare-and-set), then adds rows:
so rows and head are one, and of two archivers one writes. While the journal is far ahead, a whole
partition is loaded in one transaction and indexed at its end: that takes half the time of keeping
the indexes up row by row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cluster_app.errors import UsageError
from cluster_app.history_tables import Chunk, DayTotal, Extent, Head, day_totals
from cluster_core.errors import SnapshotError

WRITE_ROWS: Final = 16_384
"""Rows that are made into a database's own form at a time: 3 MB."""

_SQLITE: Final = "sqlite:///"
_POSTGRES: Final = ("postgresql+psycopg://", "postgresql://")


class HistoryMoved(SnapshotError):
    """The stored head isn't the one that a chunk follows: another archiver writes, or wrote."""


class HistoryRefused(SnapshotError):
    """A history that this archiver must not go on with; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Entries of `[first, end)`: a table, or, with `exported_to`, a file that was made of it."""

    first: int
    end: int
    exported_to: str = ""

    @property
    def table(self) -> str:
        """The table's name."""
        return f"entries_{self.first}"


Answer = TypeVar("Answer")
Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Runs one SELECT with `?` marks and gives its rows."""


class HistoryReader(Protocol):
    """A connection for reads, kept from one to the next. For one thread at a time."""

    def read(self, question: Callable[[Execute], Answer]) -> Answer:
        """What `question` gives in one read transaction, which sees one moment.

        Raises StoreUnavailable when the database can't be reached or takes too long, and
        HistoryRefused.
        """

    def close(self) -> None:
        """End the connection. Idempotent."""


class HistoryStore(Protocol):
    """One history at an address.

    All methods raise StoreUnavailable when it can't be reached or takes nothing now, and
    HistoryRefused for a newer format or what isn't ours.
    """

    name: str
    """The address without its password, for logs."""

    partition_rows: int
    """Entries of a partition unless it is told otherwise."""

    def extent(self) -> Extent | None:
        """The stored history, or None; nothing is created."""

    def state_url(self) -> str:
        """Where the archiver of this history keeps its own state: a snapshot store's address."""

    def reader(self, timeout_s: float) -> HistoryReader:
        """A reader whose reads take `timeout_s` at most; it connects with the first."""

    def begin(self) -> None:
        """Begin a transaction that writes; creates the tables when there are none."""

    def create(self, extent: Extent) -> None:
        """Enter the history. Raises HistoryMoved when there is one."""

    def move(self, base: Head, head: Head) -> None:
        """Put the head where its base is. Raises HistoryMoved."""

    def note_state(self, offset: int) -> None:
        """Remember the newest journal record in the archiver's saved state."""

    def partitions(self) -> list[Partition]:
        """All of them, rising."""

    def add_partition(self, partition: Partition, *, indexed: bool) -> None:
        """Make its table; one without indexes belongs to nothing until it is finished."""

    def finish_partition(self, partition: Partition, *, is_full: bool) -> None:
        """Index a table that was made without, and make it a part of `entries`.

        `is_full`: it has all rows that it will ever have.
        """

    def remove_partition(self, partition: Partition, first_sequence: int) -> None:
        """Drop its table; the history's entries begin at `first_sequence` from then on."""

    def add_entries(
        self, partition: Partition, entries: npt.NDArray[Any], *, loading: bool
    ) -> None:
        """Add ENTRY [n] to its table; `loading` one that this transaction has made."""

    def add_batches(self, batches: npt.NDArray[np.int64]) -> None:
        """Add first sequences and ledger times, i64 [n, 2]."""

    def add_totals(self, totals: Sequence[DayTotal]) -> None:
        """Add to the days' sums."""

    def add_balances(self, below: int, ids: npt.NDArray[Any], posted: npt.NDArray[Any]) -> None:
        """Keep balances as of all commands below a sequence: u64 [n] ids and i64 [n]."""

    def commit(self) -> None:
        """End the transaction. After StoreUnavailable it may be done or not: `extent` tells."""

    def rollback(self) -> None:
        """End the transaction and its connection, if there is one. Never raises."""


class HistoryWriter:
    """Adds chunks to a store. For one thread."""

    def __init__(self, store: HistoryStore, partition_rows: int) -> None:
        self._store = store
        self._partition_rows = partition_rows
        self._is_open = False
        self._partitions: list[Partition] = []
        self._head_sequence = 0
        self._loading: Partition | None = None
        self._loaded_rows = 0

    def append(self, chunk: Chunk, *, more: bool) -> bool:
        """Add a chunk; whether all that was added is committed by now.

        With `more` rows are surely to come: then a new partition may be loaded whole before it is
        indexed and committed. Raises HistoryMoved and StoreUnavailable, with everything since the
        last commit undone.
        """
        try:
            self._append(chunk, more)
            if more and self._loading and self._loaded_rows < self._partition_rows:
                return False
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return True

    @property
    def has_uncommitted(self) -> bool:
        """Whether chunks were added that are not committed yet."""
        return self._is_open

    @property
    def kept_partitions(self) -> int:
        """How many partitions have a table, as of the newest chunk."""
        return sum(not partition.exported_to for partition in self._partitions)

    @property
    def is_loading(self) -> bool:
        """Whether a partition is being loaded that will be indexed at its end."""
        return self._loading is not None

    def commit(self) -> None:
        """Finish a partition that is being loaded, and commit."""
        if not self._is_open:
            return
        if self._loading is not None:
            whole = self._loaded_rows >= self._partition_rows
            end = self._head_sequence
            if not whole:
                end = max(end, self._loading.first + self._partition_rows)
            self._store.finish_partition(replace(self._loading, end=end), is_full=whole)
            self._loading = None
        self._store.commit()
        self._is_open = False

    def rollback(self) -> None:
        """Undo what isn't committed."""
        self._store.rollback()
        self._is_open, self._loading = False, None

    def _append(self, chunk: Chunk, more: bool) -> None:
        store = self._store
        if not self._is_open:
            store.begin()
            self._is_open = True
            self._loaded_rows = 0
        # 1. the head: from here on no other archiver gets further than its own compare-and-set
        store.move(chunk.base, chunk.head)
        self._partitions = self._partitions if self._loading else store.partitions()
        self._head_sequence = chunk.head.next_sequence
        # 2. the rows, each in its partition
        at, first = 0, chunk.base.next_sequence
        while first < chunk.head.next_sequence:
            partition = self._partition_at(first, more)
            end = chunk.head.next_sequence
            if partition is not self._loading:
                end = min(end, partition.end)
            upto = int(np.searchsorted(chunk.entries["sequence"], np.uint64(end)))
            for low in range(at, upto, WRITE_ROWS):
                rows = chunk.entries[low : min(low + WRITE_ROWS, upto)]
                store.add_entries(partition, rows, loading=partition is self._loading)
            if partition is self._loading:
                self._loaded_rows += end - first
            at, first = upto, end
        # 3. what is asked for by time and by day
        store.add_batches(chunk.batches)
        store.add_totals(list(day_totals(chunk.entries)))
        if not more:
            self._make_next()

    def _partition_at(self, sequence: int, more: bool) -> Partition:
        if self._loading is not None:
            return self._loading
        for partition in reversed(self._partitions):
            if partition.first <= sequence < partition.end:
                return partition
        made = Partition(sequence, sequence + self._partition_rows)
        self._store.add_partition(made, indexed=not more)
        if more:
            self._loading, self._loaded_rows = made, 0
        self._partitions.append(made)
        return made

    def _make_next(self) -> None:
        """Create a partition ahead, once the newest is half full."""
        newest = self._partitions[-1] if self._partitions else None
        if newest is None or self._loading is not None:
            return
        if self._head_sequence >= newest.end - self._partition_rows // 2:
            ahead = Partition(newest.end, newest.end + self._partition_rows)
            self._store.add_partition(ahead, indexed=True)
            self._partitions.append(ahead)


def begin_history(
    store: HistoryStore,
    extent: Extent,
    balances: Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> None:
    """Enter a new history, with the balances that it begins with. Raises HistoryMoved."""
    try:
        store.begin()
        store.create(extent)
        for ids, posted in balances:
            store.add_balances(extent.first_sequence, ids, posted)
        store.commit()
    except BaseException:
        store.rollback()
        raise


def open_history(url: str) -> HistoryStore:
    """The history at `sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE`.

    Nothing is opened or created yet. Raises UsageError for anything else, or without the extra.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from cluster_app.sqlite_history import SqliteHistory

        return SqliteHistory(url[len(_SQLITE) :])
    if url.startswith(_POSTGRES):
        try:
            from cluster_app.postgres_history import PostgresHistory
        except ModuleNotFoundError as error:
            raise UsageError(
                f"history: {error}: install the extra, pip install 'ringledger[postgres]'"
            ) from None
        return PostgresHistory(url)
    shown = url.partition("://")[0]
    raise UsageError(
        f"history {shown!r}: use sqlite:///PATH or postgresql+psycopg://HOST:PORT/DATABASE"
    )
