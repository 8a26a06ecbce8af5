"""A follower's query workers: started, watched, and replaced when one dies."""

import contextlib
import dataclasses
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from cluster_app.errors import Fault
from cluster_app.query_worker import WorkerTask
from cluster_app.settings import FollowerSettings
from cluster_core.shared_books import SharedMemory
from cluster_core.state_machine import StateMachine

_READY_TIMEOUT_S: Final = 60.0
_LOOK_S: Final = 0.05
_STOP_TIMEOUT_S: Final = 5.0
_LIVED_S: Final = 10.0
"""A worker that lived so long is replaced at once; others after a pause that grows."""

_PAUSE_FIRST_S: Final = 0.5
_PAUSE_MAX_S: Final = 10.0


@dataclass(frozen=True)
class Served:
    """What workers serve: a follower's shared memory, and where."""

    settings: FollowerSettings
    listen: str
    address: str
    memory: SharedMemory
    progress_fd: int
    state: StateMachine
    ledger_id: bytes


class _Worker:
    """One place among the workers, and the process that fills it now."""

    def __init__(self, served: Served, reader: int) -> None:
        self.reader = reader
        self._served = served
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._started = 0.0
        self._pause_s = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether its process had said that it serves at the last look; from any thread."""
        return self._ready

    def look(self) -> None:
        """See whether its process says that it serves."""
        process = self._process
        if process is None or process.stdout is None or self._ready:
            return
        if select.select([process.stdout], [], [], 0)[0]:
            self._ready = process.stdout.readline().startswith(b"ready")

    def start(self) -> None:
        """Start a process. Raises Fault when the system refuses."""
        served, memory = self._served, self._served.memory
        task = WorkerTask(
            dataclasses.asdict(served.settings),
            served.listen,
            served.address,
            self.reader,
            memory.books_fd,
            memory.words_fd,
            served.progress_fd,
            served.state.parameters,
            served.state.hash_seed,
            served.ledger_id,
        )
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "cluster_app.query_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(memory.books_fd, memory.words_fd, served.progress_fd),
                cwd=_import_root(),
            )
        except OSError as error:
            raise Fault(f"cannot start a query worker: {error}") from None
        self._process, self._ready, self._started = process, False, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died at once: seen as such
            if process.stdin is not None:
                process.stdin.write(msgspec.json.encode(task) + b"\n")
                process.stdin.flush()

    @property
    def exit_code(self) -> int | None:
        """None while its process lives."""
        return self._process.poll() if self._process else None

    def bury(self) -> float:
        """Note that its process has died; returns the seconds to wait before the next."""
        lived_s = time.monotonic() - self._started
        self._served.memory.readers.forget(self.reader)
        self._close_pipes()
        self._process, self._ready = None, False
        grown = min(max(2 * self._pause_s, _PAUSE_FIRST_S), _PAUSE_MAX_S)
        self._pause_s = 0.0 if lived_s >= _LIVED_S else grown
        return self._pause_s

    def stop(self) -> None:
        """Ask its process to end."""
        if self._process is not None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for its process until `deadline`, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._served.memory.readers.forget(self.reader)
        self._close_pipes()
        self._process = None

    def _close_pipes(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class QueryWorkers:
    """All of them, ready when this is made; `replaced` is called for each one that died.

    `meanwhile` is called again and again while they start, a second or two: the node's own work.
    Raises Fault when one can't be started or doesn't get ready, and what `meanwhile` raises.
    """

    def __init__(
        self,
        served: Served,
        stop: threading.Event,
        meanwhile: Callable[[], None],
        replaced: Callable[[], None],
    ) -> None:
        self._replaced = replaced
        self._workers = [_Worker(served, reader) for reader in range(served.settings.workers)]
        self._stop = stop
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="query-workers", daemon=True)
        try:
            for worker in self._workers:
                worker.start()
            self._await_ready(stop, meanwhile)
        except BaseException:
            self._end_all()
            raise
        self._thread.start()

    @property
    def serving(self) -> int:
        """How many serve, as far as was seen; from any thread."""
        return sum(worker.is_ready for worker in self._workers)

    def close(self) -> None:
        """End them all. Idempotent."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._end_all()

    def _await_ready(self, stop: threading.Event, meanwhile: Callable[[], None]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not all(worker.is_ready for worker in self._workers):
            for worker in self._workers:
                worker.look()
                if worker.exit_code is not None and not worker.is_ready:
                    raise Fault(
                        f"a query worker ended with exit code {worker.exit_code} before it "
                        "served: its own line on standard error says why"
                    )
            if time.monotonic() > deadline:
                raise Fault(f"a query worker did not serve within {_READY_TIMEOUT_S:.0f} s")
            if stop.is_set():
                return
            meanwhile()

    def _watch(self) -> None:
        due: dict[int, float] = {}
        while not self._closed.wait(_LOOK_S):
            if self._stop.is_set():  # a supervisor may end workers and follower at once
                continue
            now = time.monotonic()
            for worker in self._workers:
                worker.look()
                if worker.exit_code is not None:
                    code = worker.exit_code
                    pause_s = worker.bury()
                    due[worker.reader] = now + pause_s
                    self._replaced()
                    structlog.get_logger().warning(
                        "a query worker died: another one takes its place",
                        worker=worker.reader,
                        exit_code=code,
                        in_s=pause_s,
                    )
                elif due.get(worker.reader, now + 1) <= now:
                    del due[worker.reader]
                    try:
                        worker.start()
                    except Fault as fault:
                        structlog.get_logger().error("no_query_worker", error=str(fault))
                        due[worker.reader] = now + worker.bury()

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for worker in self._workers:
            worker.end(deadline)


def _import_root() -> str:
    """Where this program was imported from: workers run the same code, wherever it was started."""
    return str(Path(__file__).parent.parent)
