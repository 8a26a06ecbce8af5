"""The archiver: replays the journal, follows it, and writes every command's entry to a history.

One thread replays and makes entries, another writes them (`archive_writer.py`), a third answers
questions (`history_service.py`). To begin again without the whole journal, the archiver now and
then saves its own state, as a snapshot that is never newer than the history.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from cluster_app.archive_metrics import ArchiveMetrics
from cluster_app.archive_writer import ArchiveWriter
from cluster_app.archiver_start import Start, begin_archive
from cluster_app.election import JournalFollower
from cluster_app.errors import UsageError
from cluster_app.history_service import ArchiverService
from cluster_app.history_store import HistoryMoved, HistoryStore, begin_history, open_history
from cluster_app.history_tables import Chunk, Extent, Head
from cluster_app.http_side import http_side
from cluster_app.journals import open_journal
from cluster_app.lag import Lag, LagWatch, measure_lag
from cluster_app.logs import ReplayProgress
from cluster_app.metrics import NodeMetrics
from cluster_app.retry import Retry, patiently
from cluster_app.settings import ArchiverSettings
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_app.window_file import WindowFile
from cluster_core.entries import EntryRecorder
from cluster_core.errors import OffsetTrimmed, SnapshotMoved, StoreUnavailable
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.snapshot import Snapshotter

CHUNK_ROWS: Final = 65_536
"""Entries that are handed to the writer at a time: 7 MB."""

_RECORDS_AT_A_TIME: Final = 8
"""Full ones are as many commands as a chunk."""

_CHUNK_BATCHES: Final = 8_192
_CHUNK_S: Final = 0.1
"""The oldest entry waits no longer for others."""

_IDLE_HEAD_S: Final = 10.0
"""A journal of heartbeats moves the history's head so often."""

_READ_TIMEOUT_S: Final = 0.05
_BALANCES_AT_A_TIME: Final = 65_536


def run(settings: ArchiverSettings) -> None:
    """Archive until SIGTERM or SIGINT. Raises Exit and RingledgerError when it can't go on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = open_history(settings.history)
    states = open_snapshots(store.state_url())
    metrics = NodeMetrics("archiver", settings.node_id)
    metrics.health.not_ready("waiting for the journal")
    with (
        http_side(settings, metrics.registry, metrics.health) as http_address,
        WindowFile() as window_file,
        closing(ArchiverService(settings, open_history(settings.history))) as service,
        closing(open_journal(settings.journal, settings.kafka(), stop.is_set)) as journal,
    ):
        metrics.health.not_ready("finding where the history ends")
        start = patiently(
            lambda: begin_archive(
                journal,
                store,
                states,
                open_snapshots(settings.snapshots_url()),
                stop.is_set,
                window_file.make_window,
            ),
            stop.is_set,
            metrics.health,
        )
        archiver = Archiver(settings, journal, store, states, start, service, metrics, window_file)
        archiver.archive(stop, http_address)


class Archiver:
    """A replica that follows the journal, and the history of what it applies."""

    def __init__(
        self,
        settings: ArchiverSettings,
        journal: Journal,
        store: HistoryStore,
        states: SnapshotStore,
        start: Start,
        service: ArchiverService,
        metrics: NodeMetrics,
        window_file: WindowFile,
    ) -> None:
        """Raises UsageError when the settings contradict the history's own."""
        if start.extent is not None and start.extent.refused != settings.refused:
            kept = "with" if start.extent.refused else "without"
            raise UsageError(
                f"this history was begun {kept} refused commands: start with "
                f"--{'' if start.extent.refused else 'no-'}refused, or begin another --history"
            )
        self._settings = settings
        self._journal = journal
        self._store = store
        self._states = states
        self._service = service
        self._metrics = metrics
        self._window_file = window_file
        self._replica = start.replica
        self._extent = start.extent
        self._recorder = EntryRecorder(
            refused=settings.refused, from_sequence=start.replica.position.next_sequence
        )
        self._replica.recorder = self._recorder
        self._snapshotter = Snapshotter(
            start.replica, start.base, start.replaced, copy_window=False
        )
        self._handed = head_of(start.replica)
        self._pending: Chunk | None = None
        partition_rows = settings.partition_rows or store.partition_rows
        if start.extent is not None:
            partition_rows = start.extent.partition_rows
        self._chunk_rows = min(CHUNK_ROWS, partition_rows)
        self._cut_s = self._state_s = time.monotonic()
        self._state_retry = Retry()
        self._writer: ArchiveWriter | None = None
        self._is_ready = False
        self._end_sequence = 0
        self._lag = self._shown_lag = Lag()
        metrics.show(self._replica)
        metrics.lag(lambda: self._shown_lag)
        self._archive_metrics = ArchiveMetrics(metrics.registry, self._complete)
        self._http_address = "off"
        self._stop_event = threading.Event()

    def archive(self, stop: threading.Event, http_address: str = "off") -> None:
        """Follow and write until `stop`, then write and save what is left."""
        self._stop_event, self._http_address = stop, http_address
        self._metrics.health.not_ready("filling the history")
        try:
            patiently(lambda: self._run(stop), stop.is_set, self._metrics.health)
            self._metrics.health.not_ready("stopping")
            self._stop()
        except OffsetTrimmed as error:
            raise OffsetTrimmed(
                f"{error}: the journal was trimmed beyond this history, which ends before sequence "
                f"{self._handed.next_sequence}. Name it with trim's --history the next time; now "
                "begin another --history from a snapshot"
            ) from None
        finally:
            if self._writer is not None:
                self._writer.close()
        structlog.get_logger().info("stopped", archived=self._handed.next_sequence)

    def _run(self, stop: threading.Event) -> None:
        with (
            closing(LagWatch(self._journal, lambda: self._replica.position)) as self._lag_watch,
            closing(JournalFollower(self._journal, self._replica, _RECORDS_AT_A_TIME)) as follower,
        ):
            # how far the journal is ahead decides how the first partition is written
            self._lag = measure_lag(self._journal, lambda: self._replica.position) or Lag()
            self._follow(follower, stop)

    def _follow(self, follower: JournalFollower, stop: threading.Event) -> None:
        end_offset = self._journal.end_offset()
        self._metrics.health.not_ready("filling the history")
        first = self._handed
        progress: ReplayProgress | None = ReplayProgress(
            first.next_offset, end_offset, first.next_sequence
        )
        try:
            while not stop.is_set():
                # 1. replay
                follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                # 2. hand over what is enough, or has waited long enough
                if self._is_due():
                    self._hand_over(self._tell_and_ask(stop))
                # 3. tell
                extent = self._publish()
                if progress is not None and extent is not None:
                    head = extent.head
                    progress.update(min(head.next_offset, end_offset), head.next_sequence)
                    if head.next_offset >= end_offset:
                        progress.close()
                        progress = None
                        self._say_ready(extent)
                # 4. the archiver's own state
                if self._is_state_due():
                    self._save_state(self._tell_and_ask(stop))
        finally:
            if progress is not None:
                progress.close()

    def _is_due(self) -> bool:
        position, waiting = self._replica.position, self._recorder.batches
        if self._recorder.rows >= self._chunk_rows or waiting >= _CHUNK_BATCHES:
            return True
        waited_s = time.monotonic() - self._cut_s
        if waiting:
            return waited_s >= _CHUNK_S
        if not self._is_ready:
            return position.next_offset > self._handed.next_offset and waited_s >= _CHUNK_S
        return position.next_offset > self._handed.next_offset and waited_s >= _IDLE_HEAD_S

    def _hand_over(self, stopping: Callable[[], bool]) -> bool:
        """Give the writer all entries up to the replica's position; False when it stopped before.

        What the writer didn't take is kept for the next time.
        """
        if self._replica.state is None:
            return True
        writer = self._writer or self._begin_writer()
        if self._pending is None:
            self._pending = Chunk(self._handed, head_of(self._replica), *self._recorder.take())
        self._cut_s = time.monotonic()
        if not writer.put(self._pending, stopping):
            return False
        self._handed = self._pending.head
        self._pending = None
        return True

    def _begin_writer(self) -> ArchiveWriter:
        self._metrics.health.rest()
        extent = self._extent or patiently(
            self._begin_history, self._stop_event.is_set, self._metrics.health
        )
        self._writer = ArchiveWriter(self._store, extent, self._journal_end, self._archive_metrics)
        return self._writer

    def _begin_history(self) -> Extent:
        """Enter the new history; another archiver's that was begun meanwhile is as good."""
        extent = Extent(
            self._replica.ledger_id,
            self._handed,
            self._handed.next_sequence,
            self._settings.refused,
            self._settings.partition_rows or self._store.partition_rows,
        )
        balances = posted_balances(self._replica) if self._handed.next_sequence else iter(())
        try:
            begin_history(self._store, extent, balances)
        except HistoryMoved:
            stored = self._store.extent()
            if stored is None or stored.ledger_id != extent.ledger_id:
                raise
            return stored
        return extent

    def _journal_end(self) -> int:
        """How many commands the journal holds, as it was last looked at. From the writer."""
        return max(self._replica.position.next_sequence, self._end_sequence)

    def _publish(self) -> Extent | None:
        """Tell the service and the writer what is known; raises what has ended the writing."""
        self._metrics.observe()
        if self._lag_watch.lag.end_offset >= 0:
            self._lag = self._lag_watch.lag
        lag = self._lag
        if lag.commands:
            self._end_sequence = self._replica.position.next_sequence + lag.commands
        if self._writer is None:
            extent = self._extent
        else:
            self._writer.check()
            extent = self._writer.extent
        here = self._replica.position
        archived = extent.head.next_sequence if extent else 0
        behind_ns = 0
        # a new history has no time yet, and while only heartbeats come it is moved rarely
        if extent and extent.head.timestamp_ns and archived < here.next_sequence:
            behind_ns = here.timestamp_ns - extent.head.timestamp_ns
        self._shown_lag = replace(
            lag,
            commands=lag.commands + here.next_sequence - archived,
            seconds=lag.seconds + behind_ns / 1e9,
        )
        self._service.publish(self._replica, self._shown_lag, archived)
        return extent

    def _tell_and_ask(self, stop: threading.Event) -> Callable[[], bool]:
        """For long waits: whether to stop, after telling how things are meanwhile."""

        def stopping() -> bool:
            self._publish()
            return stop.is_set()

        return stopping

    def _complete(self) -> int | None:
        """Where the history ends; from any thread."""
        extent = self._writer.extent if self._writer else self._extent
        return extent.head.next_sequence if extent else None

    def _say_ready(self, extent: Extent) -> None:
        self._is_ready = True
        self._service.set_ready()
        self._metrics.health.ready()
        print(
            f"ready archiver address={self._service.address} "
            f"archived={extent.head.next_sequence} offset={extent.head.next_offset} "
            f"http={self._http_address}",
            flush=True,
        )

    def _is_state_due(self) -> bool:
        waited_s = time.monotonic() - self._state_s
        return waited_s >= self._settings.state_interval_s and self._state_retry.is_due

    def _save_state(self, stopping: Callable[[], bool]) -> None:
        """Save the replica once the history has all of it; the replay waits meanwhile."""
        self._state_s = time.monotonic()
        stored = self._snapshotter.stored
        at = stored.position.next_offset if stored else -1
        if self._replica.state is None or self._replica.position.next_offset <= at:
            return
        while self._handed.next_offset < self._replica.position.next_offset:
            if not self._hand_over(stopping):
                return
        writer = self._writer
        if writer is None or not writer.flush(stopping):
            return
        if writer.extent.head.next_offset < self._replica.position.next_offset:
            return
        begun = time.monotonic()
        self._metrics.health.rest()
        try:
            taken = self._snapshotter.take(time.time_ns())
            in_slices = self._window_file.in_slices(taken.window)
            delta = replace(taken, window=in_slices).finish()
            self._states.save(delta)
            self._snapshotter.go_on_from(delta.new_base)
            writer.note_state(delta.header.counted_offset)
            self._state_retry.succeeded()
        except SnapshotMoved:
            self._snapshotter.go_on_from(self._states.read_base())
            return
        except StoreUnavailable as error:
            self._state_retry.failed()
            structlog.get_logger().warning("the archiver's state was not saved", error=str(error))
            return
        structlog.get_logger().info(
            "state",
            applied=delta.header.applied,
            rows=delta.rows,
            seconds=round(time.monotonic() - begun, 3),
        )

    def _stop(self) -> None:
        """Write what was replayed, and save the state, in the time that there is for it."""
        deadline = time.monotonic() + self._settings.stop_timeout_s
        self._save_state(lambda: time.monotonic() > deadline)
        if self._writer is not None and self._writer.extent.head.next_offset < (
            self._replica.position.next_offset
        ):
            structlog.get_logger().warning(
                "stopped before all was archived", archived=self._writer.extent.head.next_sequence
            )


def head_of(replica: Replica) -> Head:
    """A history's head at a replica's position."""
    position = replica.position
    return Head(
        position.next_offset,
        replica.counted_offset,
        position.next_sequence,
        position.timestamp_ns,
        position.chain,
    )


def posted_balances(replica: Replica) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """(ids u64 [n], posted balances i64 [n]) of all accounts, some at a time."""
    state = replica.state
    if state is None:
        return
    for first in range(1, state.accounts + 1, _BALANCES_AT_A_TIME):
        rows = state.books.accounts[first : min(first + _BALANCES_AT_A_TIME, state.accounts + 1)]
        yield np.array(rows["account_id"]), np.array(rows["posted"])
