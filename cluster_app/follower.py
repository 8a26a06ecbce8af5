"""The follower: replays the journal, follows it, and serves queries from its state.

One process replays, into shared memory; `--workers` others answer queries from it, on one port. So
reads cost the replay nothing but a short wait, now and then, for a reader that found no moment.
"""

import gc
import os
import signal
import threading
import time
from contextlib import closing
from typing import Final

import msgspec
import structlog

from cluster_app.election import JournalFollower
from cluster_app.http_side import http_side
from cluster_app.journals import open_journal
from cluster_app.lag import LagWatch
from cluster_app.logs import ReplayProgress
from cluster_app.memory import keep_freed_memory
from cluster_app.metrics import NodeMetrics
from cluster_app.query_workers import QueryWorkers, Served
from cluster_app.recovery import recover, recover_overtaken
from cluster_app.retry import patiently
from cluster_app.settings import FollowerSettings
from cluster_app.shared_port import SharedPort
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_app.state_view import Progress
from cluster_core.errors import OffsetTrimmed
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.shared_blob import SharedBlob, new_blob_memory
from cluster_core.shared_books import SharedMemory

_READ_TIMEOUT_S: Final = 0.05
_PAUSE_S_MAX: Final = 0.002
"""The longest that replay waits for readers between two batches."""

_PAUSE_LOOK_S: Final = 0.00005


def run(settings: FollowerSettings) -> None:
    """Follow until SIGTERM or SIGINT. Raises Exit and RingledgerError when it can't go on."""
    keep_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = open_snapshots(settings.snapshots_url()) if settings.snapshot else None
    metrics = NodeMetrics("follower", settings.node_id)
    metrics.health.not_ready("waiting for the journal")
    with (
        http_side(settings, metrics.registry, metrics.health) as http_address,
        SharedPort(settings.listen) as port,
        closing(open_journal(settings.journal, settings.kafka(), stop.is_set)) as journal,
    ):
        Follower(settings, journal, store, port.address, metrics, http_address).follow(stop)


class Follower:
    """A replica in shared memory, and the workers that serve it."""

    def __init__(
        self,
        settings: FollowerSettings,
        journal: Journal,
        store: SnapshotStore | None,
        listen: str,
        metrics: NodeMetrics,
        http_address: str,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._store = store
        self._listen = listen
        self._address = settings.advertise or listen
        self._replica = Replica()
        self._memory = SharedMemory()
        self._is_ready = False
        self._metrics = metrics
        self._http_address = http_address
        self._workers: QueryWorkers | None = None
        metrics.follow(lambda: self._replica)
        self._replaced = metrics.workers(lambda: self._workers.serving if self._workers else 0)

    def follow(self, stop: threading.Event) -> None:
        """Until `stop`; from the newest snapshot again when a trim overtakes this node."""
        self._metrics.health.not_ready("replaying")
        try:
            self._replica = patiently(
                lambda: recover(self._journal, self._store, stop.is_set, self._memory.make_books),
                stop.is_set,
                self._metrics.health,
            )[0]
            while not stop.is_set():
                if self._is_overtaken(stop):
                    self._begin_again(stop)
        finally:
            self._metrics.health.not_ready("stopping")
            self._memory.close()
        structlog.get_logger().info("stopped", applied=self._replica.position.next_sequence)

    def _is_overtaken(self, stop: threading.Event) -> bool:
        # not handled where it is caught: the error's frames hold the old state
        try:
            patiently(lambda: self._follow(stop), stop.is_set, self._metrics.health)
        except OffsetTrimmed:
            return True
        return False

    def _begin_again(self, stop: threading.Event) -> None:
        self._metrics.health.not_ready("restoring a snapshot")
        position, ledger_id = self._replica.position, self._replica.ledger_id
        # the old state goes before the new one comes: both may not fit into memory
        self._replica = Replica()
        self._memory.close_books()
        gc.collect()
        self._replica = patiently(
            lambda: recover_overtaken(
                self._journal,
                self._store,
                position,
                ledger_id,
                stop.is_set,
                self._memory.make_books,
            ),
            stop.is_set,
            self._metrics.health,
        )[0]

    def _follow(self, stop: threading.Event) -> None:
        """Until `stop`. Raises OffsetTrimmed when the journal was trimmed beyond the replica."""
        self._replica.between_batches = self._let_readers_in
        with (
            closing(LagWatch(self._journal, lambda: self._replica.position)) as lag_watch,
            closing(JournalFollower(self._journal, self._replica)) as follower,
        ):
            self._metrics.lag(lambda: lag_watch.lag)
            # 1. all that is in the journal now; without a first epoch there is nothing to serve
            self._catch_up(follower, stop)
            state = self._replica.state
            if state is None:
                return
            progress_fd = new_blob_memory()
            try:
                # 2. service
                blob = SharedBlob(progress_fd, writable=True)
                self._publish(blob, lag_watch)
                served = Served(
                    self._settings,
                    self._listen,
                    self._address,
                    self._memory,
                    progress_fd,
                    state,
                    self._replica.ledger_id,
                )

                def go_on() -> None:
                    state.watch(self._memory.readers.watched)
                    follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                    self._publish(blob, lag_watch)
                    self._metrics.observe()

                with closing(QueryWorkers(served, stop, go_on, self._replaced.inc)) as workers:
                    self._workers = workers
                    self._say_ready(workers, stop)
                    # 3. what comes from now on
                    while not stop.is_set():
                        go_on()
            finally:
                self._workers = None
                os.close(progress_fd)

    def _catch_up(self, follower: JournalFollower, stop: threading.Event) -> None:
        """Take all that is in the journal now, and the first leader's epoch if there is none."""
        position, end_offset = self._replica.position, self._journal.end_offset()
        self._metrics.health.not_ready("replaying")
        progress = ReplayProgress(position.next_offset, end_offset, position.next_sequence)
        try:
            while not stop.is_set() and self._replica.position.next_offset < end_offset:
                follower.take_next(_READ_TIMEOUT_S, read_ahead=True)
                position = self._replica.position
                progress.update(position.next_offset, position.next_sequence)
                self._metrics.observe()
        finally:
            progress.close()
        if self._replica.state is None and not stop.is_set():
            structlog.get_logger().info(
                "the journal is empty: waiting for its first leader", journal=self._settings.journal
            )
        while self._replica.state is None and not stop.is_set():
            follower.take_next(_READ_TIMEOUT_S)

    def _publish(self, blob: SharedBlob, lag_watch: LagWatch) -> None:
        """Tell the workers how far this node has come."""
        replica = self._replica
        leader = replica.leader.address if replica.leader and replica.position.has_leader else ""
        blob.write(msgspec.msgpack.encode(Progress(replica.position, leader, lag_watch.lag)))

    def _let_readers_in(self) -> None:
        readers = self._memory.readers
        if not readers.pause_wanted:
            return
        deadline = time.monotonic() + _PAUSE_S_MAX
        while readers.pause_wanted and time.monotonic() < deadline:
            time.sleep(_PAUSE_LOOK_S)

    def _say_ready(self, workers: QueryWorkers, stop: threading.Event) -> None:
        if stop.is_set():
            return
        self._metrics.health.ready()
        if self._is_ready:
            return
        self._is_ready = True
        gc.collect()
        gc.freeze()
        print(
            f"ready follower address={self._address} "
            f"applied={self._replica.position.next_sequence} workers={workers.serving} "
            f"http={self._http_address}",
            flush=True,
        )
