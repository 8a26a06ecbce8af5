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
from cluster_app.errors import Stopped
from cluster_app.journals import open_journal
from cluster_app.logs import ReplayProgress
from cluster_app.memory import keep_freed_memory
from cluster_app.recovery import check_history, recover
from cluster_app.settings import LearnerSettings
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.errors import SnapshotMoved, SnapshotRefused, StoreUnavailable
from cluster_core.journal import Journal
from cluster_core.snapshot import SnapshotBase, SnapshotDelta, Snapshotter, TakenState

_READ_TIMEOUT_S: Final = 0.05
_RETRY_FIRST_S: Final = 0.5
_RETRY_MAX_S: Final = 30.0
"""A store that takes nothing is tried again after the first time, then less and less often."""


def run(settings: LearnerSettings) -> None:
    """Learn until SIGTERM or SIGINT. Raises Exit and RingledgerError when it can't go on."""
    keep_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = open_snapshots(settings.snapshots_url())
    with closing(open_journal(settings.journal, settings.kafka(), stop.is_set)) as journal:
        snapshotter = _begin(journal, store, stop, from_snapshot=settings.snapshot)
        Learner(settings, journal, store, snapshotter).learn(stop)


def _begin(
    journal: Journal, store: SnapshotStore, stop: threading.Event, *, from_snapshot: bool
) -> Snapshotter:
    """`recover`, again and again while the store can't be reached.

    Without `from_snapshot` what is stored is replaced, as soon as replay is beyond it.
    """
    retry = Retry()
    while not stop.is_set():
        try:
            if from_snapshot:
                return Snapshotter(*recover(journal, store, stop.is_set))
            stored = store.newest()
            if stored is not None:
                check_history(journal, stored)
            return Snapshotter(*recover(journal, None, stop.is_set), replaced=stored)
        except StoreUnavailable as error:
            retry.failed()
            structlog.get_logger().warning(
                "the snapshot store can't be read", error=str(error), retry_in_s=retry.wait_s
            )
            stop.wait(retry.wait_s)
    raise Stopped("stopped before it had a snapshot to begin from")


class Retry:
    """When to try again."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self._at = 0.0

    def failed(self) -> None:
        """Wait, longer than the last time."""
        self.wait_s = min(max(2 * self.wait_s, _RETRY_FIRST_S), _RETRY_MAX_S)
        self._at = time.monotonic() + self.wait_s

    def succeeded(self) -> None:
        """Wait no more."""
        self.wait_s = self._at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the wait is over."""
        return time.monotonic() >= self._at


@dataclass(frozen=True)
class Saving:
    """How a save ended: with a delta stored, another learner's base, or an error."""

    delta: SnapshotDelta | None = None
    moved: bool = False
    base: SnapshotBase | None = None
    error: Exception | None = None


class Saver:
    """Finishes and saves one taken state at a time, on a thread of its own."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
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
            structlog.get_logger().info(
                "snapshot",
                applied=delta.header.applied,
                offset=delta.header.position.next_offset,
                rows=delta.rows,
                bytes=sent,
                seconds=round(time.monotonic() - begun, 3),
                stop_ms=round(stop_ms, 1),
            )
        except SnapshotMoved:
            self._ended = self._read_base()
        except Exception as error:  # noqa: BLE001 - the learner's thread judges it
            self._ended = Saving(error=error)

    def _read_base(self) -> Saving:
        try:
            return Saving(moved=True, base=self._store.read_base())
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
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._replica = snapshotter.replica
        self._clock_ns = clock_ns
        self._snapshotter = snapshotter
        self._saver = Saver(store)
        self._retry = Retry()
        self._next_s = time.monotonic() + settings.snapshot_interval_s

    def learn(self, stop: threading.Event) -> None:
        """Follow and save until `stop`, then save once more. Raises where it must not go on."""
        with closing(JournalFollower(self._journal, self._replica)) as follower:
            self._catch_up(follower, stop)
            if not stop.is_set():
                print(
                    f"ready learner applied={self._replica.position.next_sequence} "
                    f"offset={self._replica.position.next_offset}",
                    flush=True,
                )
            while not stop.is_set():
                follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                self._between_reads()
        self._save_last()
        structlog.get_logger().info("stopped", applied=self._replica.position.next_sequence)

    def _catch_up(self, follower: JournalFollower, stop: threading.Event) -> None:
        position, end_offset = self._replica.position, self._journal.end_offset()
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
        """Keep the copy of the window up, and begin or end a save."""
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
        if base is not None:
            if base.header.ledger_id != self._replica.ledger_id:
                raise SnapshotRefused("the snapshot store holds another ledger now")
            check_history(self._journal, base.header)
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
