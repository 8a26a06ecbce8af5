"""The archiver's writing side: a thread that adds chunks to the history, one after the other.

Between it and the replay lies a short queue: while the database is slow, the replay waits. What was
added since the last commit is kept, so a lost transaction is simply made again; a head that another
archiver moved on is taken up.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import structlog

from cluster_app.archive_metrics import Archived, ArchiveMetrics
from cluster_app.history_store import HistoryMoved, HistoryRefused, HistoryStore, HistoryWriter
from cluster_app.history_tables import Chunk, Extent, Head
from cluster_app.retry import Retry
from cluster_core.errors import StoreUnavailable

QUEUED_CHUNKS: Final = 2
_LOOK_S: Final = 0.05
_IDLE_COMMIT_S: Final = 1.0
"""Rows that wait for more are committed when none has come for so long."""


class ArchiveWriter:
    """Owns the store's writing connection until it is closed.

    `extent` is what is committed. `end_sequence` tells how far the journal goes, as far as known.
    """

    def __init__(
        self,
        store: HistoryStore,
        extent: Extent,
        end_sequence: Callable[[], int],
        metrics: ArchiveMetrics,
    ) -> None:
        self.extent = extent
        self.error: BaseException | None = None
        self._metrics = metrics
        self._begun_s = 0.0
        self._store = store
        self._writer = HistoryWriter(store, extent.partition_rows)
        self._end_sequence = end_sequence
        self._chunks: queue.Queue[Chunk] = queue.Queue(QUEUED_CHUNKS)
        self._uncommitted: list[Chunk] = []
        self._ending = threading.Event()
        self._flushing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk, stopping: Callable[[], bool]) -> bool:
        """Hand a chunk over, when there is room; False when `stopping` says so before.

        Raises what has ended the writing.
        """
        while True:
            self.check()
            try:
                self._chunks.put(chunk, timeout=_LOOK_S)
            except queue.Full:
                if stopping():
                    return False
            else:
                return True

    def flush(self, stopping: Callable[[], bool]) -> bool:
        """Wait until all that was handed over is committed; False when `stopping` says so before.

        Raises what has ended the writing.
        """
        self._flushing.set()
        try:
            while self._chunks.unfinished_tasks or self._uncommitted:
                self.check()
                if stopping():
                    return False
                time.sleep(_LOOK_S / 5)
        finally:
            self._flushing.clear()
        return True

    def check(self) -> None:
        """Raises what has ended the writing, if anything has."""
        if self.error is not None:
            raise self.error

    def note_state(self, offset: int) -> None:
        """Remember how far the archiver's own state was saved. After `flush`, from one thread."""
        try:
            self._store.begin()
            self._store.note_state(offset)
            self._store.commit()
        except BaseException:
            self._store.rollback()
            raise

    def close(self) -> None:
        """End the thread and its connection; what isn't committed is undone. Idempotent."""
        self._ending.set()
        self._thread.join()
        self._writer.rollback()

    def _run(self) -> None:
        try:
            idle_since = time.monotonic()
            while not self._ending.is_set():
                try:
                    chunk = self._chunks.get(timeout=_LOOK_S)
                except queue.Empty:
                    waited = time.monotonic() - idle_since > _IDLE_COMMIT_S
                    if self._uncommitted and (waited or self._flushing.is_set()):
                        self._do(self._commit)
                    continue
                self._uncommitted.append(chunk)
                self._do(self._append_last)
                self._chunks.task_done()
                idle_since = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - the archiver's thread raises it
            self.error = error

    def _do(self, step: Callable[[], None]) -> None:
        """One step; a lost transaction is begun again with all that it held, until it is done."""
        retry = Retry()
        while not self._ending.is_set():
            try:
                step()
            except StoreUnavailable as error:
                retry.failed()
                self._metrics.failed()
                structlog.get_logger().warning(
                    "history can't be written", error=str(error), retry_in_s=retry.wait_s
                )
                self._ending.wait(retry.wait_s)
            except HistoryMoved:
                if self._take_up():
                    return
            else:
                return
            step = self._append_all

    def _append_last(self) -> None:
        self._append(self._uncommitted[-1])

    def _append_all(self) -> None:
        for chunk in list(self._uncommitted):
            self._append(chunk)
        if self._uncommitted and self._chunks.empty():
            self._commit()

    def _append(self, chunk: Chunk) -> None:
        if not self._writer.has_uncommitted:
            self._begun_s = time.monotonic()
        ahead = self._end_sequence() - chunk.head.next_sequence
        least = 1 if self._writer.is_loading else self.extent.partition_rows
        if self._writer.append(chunk, more=ahead >= least):
            self._committed(chunk.head)

    def _commit(self) -> None:
        self._writer.commit()
        if self._uncommitted:
            self._committed(self._uncommitted[-1].head)

    def _committed(self, head: Head) -> None:
        rows = sum(
            len(chunk.entries)
            for chunk in self._uncommitted
            if chunk.head.next_offset <= head.next_offset
        )
        self._metrics.committed(
            Archived(
                head.next_sequence - self.extent.head.next_sequence,
                rows,
                self._writer.kept_partitions,
                time.monotonic() - self._begun_s,
            )
        )
        self.extent = with_head(self.extent, head)
        self._uncommitted = [
            chunk for chunk in self._uncommitted if chunk.head.next_offset > head.next_offset
        ]

    def _take_up(self) -> bool:
        """Go on from the stored head; whether nothing is left to add. Raises HistoryRefused."""
        stored = self._store.extent()
        if stored is None or stored.ledger_id != self.extent.ledger_id:
            raise HistoryRefused(
                f"{self._store.name} holds another history now: start the archiver again"
            )
        head = stored.head
        begin = self._uncommitted[0].base if self._uncommitted else self.extent.head
        if head.next_offset < begin.next_offset:
            raise HistoryRefused(
                f"{self._store.name} went back to journal offset {head.next_offset}, this archiver "
                f"was at {begin.next_offset}: start it again"
            )
        left: list[Chunk] = []
        for chunk in self._uncommitted:
            if chunk.head.next_offset == head.next_offset and chunk.head.chain != head.chain:
                raise HistoryRefused(
                    f"{self._store.name} has another history at journal offset "
                    f"{head.next_offset}: two archivers read different journals"
                )
            if chunk.head.next_offset > head.next_offset:
                left.append(rest_of(chunk, head))
        structlog.get_logger().info(
            "another archiver has written: going on from there", archived=head.next_sequence
        )
        self._uncommitted = left
        self.extent = stored
        return not left


def rest_of(chunk: Chunk, head: Head) -> Chunk:
    """What of a chunk lies beyond a head."""
    if chunk.base.next_offset >= head.next_offset:
        return chunk
    low = int(np.searchsorted(chunk.entries["sequence"], np.uint64(head.next_sequence)))
    batches = chunk.batches[chunk.batches[:, 0] >= head.next_sequence]
    return Chunk(head, chunk.head, chunk.entries[low:], batches)


def with_head(extent: Extent, head: Head) -> Extent:
    """The same history, as far as `head`."""
    return Extent(
        extent.ledger_id,
        head,
        extent.first_sequence,
        extent.refused,
        extent.partition_rows,
        extent.state_offset,
    )
