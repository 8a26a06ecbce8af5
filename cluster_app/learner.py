"""The learner: replays the journal, follows it, and keeps a snapshot of the newest state.

One thread replays. For a snapshot it stops shortly to copy what changed; another thread sorts,
hashes and saves the copies meanwhile. What changed is forgotten only once a save is done for
sure, so a failed one is simply contained in the next.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import structlog

from cluster_app.election import JournalFollower
from cluster_app.http_side import http_side
from cluster_app.journals import open_journal
from cluster_app.lag import LagWatch
from cluster_app.learner_service import LearnerService
from cluster_app.logs import ReplayProgress
from cluster_app.memory import keep_freed_memory
from cluster_app.metrics import NodeMetrics, SnapshotMetrics
from cluster_app.recovery import check_history, read_base, recover, recover_overtaken
from cluster_app.retry import Retry, patiently
from cluster_app.settings import LearnerSettings
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.errors import (
    OffsetTrimmed,
    SnapshotMoved,
    SnapshotRefused,
    StoreUnavailable,
)
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotBase, SnapshotDelta, Snapshotter, TakenState

_READ_TIMEOUT_S: Final = 0.05


def run(settings: LearnerSettings) -> None:
    """Learn until SIGTERM or SIGINT. Raises Exit and RingledgerError when it can't go on."""
    keep_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = open_snapshots(settings.snapshots_url())
    metrics = NodeMetrics("learner", settings.node_id)
    metrics.health.not_ready("waiting for the journal")
    with (
        http_side(settings, metrics.registry, metrics.health) as http_address,
        closing(LearnerService(settings)) as service,
        closing(open_journal(settings.journal, settings.kafka(), stop.is_set)) as journal,
    ):
        metrics.health.not_ready("replaying")
        snapshotter = patiently(
            lambda: _begin(journal, store, stop.is_set, from_snapshot=settings.snapshot),
            stop.is_set,
            metrics.health,
        )
        learner = Learner(settings, journal, store, snapshotter, service, metrics, http_address)
        learner.learn(stop)


def _begin(
    journal: Journal, store: SnapshotStore, stopping: Callable[[], bool], *, from_snapshot: bool
) -> Snapshotter:
    """Without `from_snapshot` what is stored is replaced, as soon as replay is beyond it."""
    if from_snapshot:
        return Snapshotter(*recover(journal, store, stopping))
    stored = store.newest()
    if stored is not None:
        check_history(journal, stored)
    return Snapshotter(*recover(journal, None, stopping), replaced=stored)


@dataclass(frozen=True)
class Saving:
    """How a save ended: with a delta stored, another learner's base, or an error."""

    delta: SnapshotDelta | None = None
    moved: bool = False
    base: SnapshotBase | None = None
    error: Exception | None = None


class Saver:
    """Finishes and saves one taken state at a time, on a thread of its own."""

    def __init__(self, journal: Journal, store: SnapshotStore, metrics: SnapshotMetrics) -> None:
        self._journal = journal
        self._store = store
        self._metrics = metrics
        self._thread: threading.Thread | None = None
        self._ended: Saving | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way or its end was not taken yet."""
        return self._thread is not None

    def save(self, taken: TakenState, stop_ms: float) -> None:
        """Begin to save; `stop_ms`, for which replay stood, goes into the log."""
        self._thread = threading.Thread(
            target=self._run, args=(taken, stop_ms), name="snapshot-saver", daemon=True
        )
        self._thread.start()

    def take_end(self, timeout_s: float = 0.0) -> Saving | None:
        """How the save ended, once; None while it is under way."""
        if self._thread is None:
            return None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return None
        self._thread = None
        return self._ended

    def _run(self, taken: TakenState, stop_ms: float) -> None:
        begun = time.monotonic()
        try:
            delta = taken.finish()
            sent = self._store.save(delta)
            self._ended = Saving(delta)
            seconds = time.monotonic() - begun
            self._metrics.saved(
                rows=delta.rows, sent_bytes=sent, duration_s=seconds, stop_s=stop_ms / 1e3
            )
            structlog.get_logger().info(
                "snapshot",
                applied=delta.header.applied,
                offset=delta.header.position.next_offset,
                rows=delta.rows,
                bytes=sent,
                seconds=round(seconds, 3),
                stop_ms=round(stop_ms, 1),
            )
        except SnapshotMoved:
            self._ended = self._read_base()
        except Exception as error:  # noqa: BLE001 - the learner's thread judges it
            self._ended = Saving(error=error)

    def _read_base(self) -> Saving:
        try:
            return Saving(moved=True, base=read_base(self._journal, self._store))
        except Exception as error:  # noqa: BLE001 - as above
            return Saving(error=error)


class Learner:
    """A replica that follows the journal, and its snapshots."""

    def __init__(
        self,
        settings: LearnerSettings,
        journal: Journal,
        store: SnapshotStore,
        snapshotter: Snapshotter,
        service: LearnerService,
        metrics: NodeMetrics,
        http_address: str,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._replica = snapshotter.replica
        self._clock_ns = clock_ns
        self._snapshotter = snapshotter
        self._service = service
        self._is_ready = False
        self._store = store
        self._metrics = metrics
        self._http_address = http_address
        metrics.follow(lambda: self._replica)
        self._snapshots = metrics.snapshots(self._stored)
        self._saver = Saver(journal, store, self._snapshots)
        self._retry = Retry()
        self._next_s = time.monotonic() + settings.snapshot_interval_s

    def learn(self, stop: threading.Event) -> None:
        """Follow and save until `stop`, then save once more. Raises where it must not go on."""
        with closing(LagWatch(self._journal, lambda: self._replica.position)) as self._lag_watch:
            self._metrics.lag(lambda: self._lag_watch.lag)
            while not stop.is_set():
                try:
                    patiently(lambda: self._follow(stop), stop.is_set, self._metrics.health)
                    continue
                except OffsetTrimmed:
                    pass  # out of here first: the error holds on to the old state
                self._begin_again(stop)
        self._metrics.health.not_ready("stopping")
        self._save_last()
        structlog.get_logger().info("stopped", applied=self._replica.position.next_sequence)

    def _follow(self, stop: threading.Event) -> None:
        """Until `stop`. Raises OffsetTrimmed when the journal was trimmed beyond the replica."""
        with closing(JournalFollower(self._journal, self._replica)) as follower:
            self._catch_up(follower, stop)
            if not stop.is_set():
                self._say_ready()
            while not stop.is_set():
                follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                self._between_reads()

    def _begin_again(self, stop: threading.Event) -> None:
        """From the newest snapshot, which the one who trimmed has proved to be sound.

        Raises OffsetTrimmed when there is none farther on, or none was to be used.
        """
        if not self._settings.snapshot and not self._snapshotter.has_base:
            raise OffsetTrimmed(
                f"the journal was trimmed beyond offset {self._replica.position.next_offset} while "
                "it was replayed: start without --no-snapshot"
            )
        while self._saver.is_busy:
            # its copies are of the old state, and its thread uses them
            self._end_save(_READ_TIMEOUT_S)
        self._metrics.health.not_ready("restoring a snapshot")
        position, ledger_id = self._replica.position, self._replica.ledger_id
        # the old state goes before the new one comes
        self._replica = Replica()
        self._replica.position = position
        self._snapshotter = Snapshotter(self._replica, None)
        self._snapshotter = Snapshotter(
            *patiently(
                lambda: recover_overtaken(
                    self._journal, self._store, position, ledger_id, stop.is_set
                ),
                stop.is_set,
                self._metrics.health,
            )
        )
        self._replica = self._snapshotter.replica
        self._next_s = time.monotonic() + self._settings.snapshot_interval_s

    def _say_ready(self) -> None:
        self._metrics.health.ready()
        if self._is_ready:
            return
        self._is_ready = True
        self._service.set_ready()
        position = self._replica.position
        print(
            f"ready learner address={self._service.address} applied={position.next_sequence} "
            f"offset={position.next_offset} http={self._http_address}",
            flush=True,
        )

    def _catch_up(self, follower: JournalFollower, stop: threading.Event) -> None:
        position, end_offset = self._replica.position, self._journal.end_offset()
        self._metrics.health.not_ready("replaying")
        progress = ReplayProgress(position.next_offset, end_offset, position.next_sequence)
        try:
            while self._replica.position.next_offset < end_offset and not stop.is_set():
                follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                position = self._replica.position
                progress.update(position.next_offset, position.next_sequence)
                self._between_reads()
        finally:
            progress.close()

    def _between_reads(self) -> None:
        """Publish the status, keep the copy of the window up, and begin or end a save."""
        self._metrics.observe()
        self._service.publish(self._replica, self._lag_watch.lag, snapshot=self._stored())
        if self._saver.is_busy:
            self._end_save()
        if self._saver.is_busy:
            return
        if self._snapshotter.keep_up() and self._is_due():
            self._begin_save()

    def _is_due(self) -> bool:
        if not self._has_moved() or not self._retry.is_due:
            return False
        commands = self._settings.snapshot_interval_commands
        stored = self._snapshotter.stored
        made = self._replica.position.next_sequence - (stored.applied if stored else 0)
        return time.monotonic() >= self._next_s or 0 < commands <= made

    def _has_moved(self) -> bool:
        """Whether the replica is beyond what is stored; another learner's may be ahead of it.

        A snapshot that is to be replaced need only be reached.
        """
        stored = self._snapshotter.stored
        offset = stored.position.next_offset if stored else 0
        if stored is not None and not self._snapshotter.has_base:
            offset -= 1
        return self._replica.state is not None and self._replica.position.next_offset > offset

    def _stored(self) -> tuple[int, int] | None:
        header = self._snapshotter.stored
        return (header.taken_ns, header.applied) if header else None

    def _begin_save(self) -> None:
        begun = time.perf_counter()
        taken = self._snapshotter.take(self._clock_ns())
        self._saver.save(taken, (time.perf_counter() - begun) * 1e3)
        self._next_s = time.monotonic() + self._settings.snapshot_interval_s

    def _end_save(self, timeout_s: float = 0.0) -> None:
        ended = self._saver.take_end(timeout_s)
        if ended is None:
            return
        if ended.delta is not None:
            self._snapshotter.go_on_from(ended.delta.new_base)
            self._retry.succeeded()
        elif ended.moved:
            self._go_on_from(ended.base)
        elif isinstance(ended.error, StoreUnavailable):
            self._retry.failed()
            self._snapshots.failed()
            self._next_s = time.monotonic()
            structlog.get_logger().warning(
                "the snapshot was not saved",
                error=str(ended.error),
                retry_in_s=self._retry.wait_s,
            )
        elif ended.error is not None:
            raise ended.error

    def _go_on_from(self, base: SnapshotBase | None) -> None:
        """Another learner saved, or an own save was done without an answer: begin from there."""
        if base is not None and base.header.ledger_id != self._replica.ledger_id:
            raise SnapshotRefused("the snapshot store holds another ledger now")
        self._snapshotter.go_on_from(base)
        self._next_s = time.monotonic() + self._settings.snapshot_interval_s
        structlog.get_logger().info(
            "the store has another snapshot: going on from it",
            applied=base.header.applied if base else 0,
        )

    def _save_last(self) -> None:
        """Save until the store has everything, or the time for it is over."""
        deadline = time.monotonic() + self._settings.stop_timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._saver.is_busy:
                self._end_save(left_s)
            elif not self._has_moved():
                return
            elif self._retry.is_due:
                self._begin_save()
            else:
                time.sleep(min(left_s, _READ_TIMEOUT_S))
        if self._saver.is_busy or self._has_moved():
            stored = self._snapshotter.stored
            structlog.get_logger().warning(
                "stopped without the last snapshot",
                snapshot_applied=stored.applied if stored else None,
            )
