"""A real follower process for tests, with its workers: started, waited for, ended by its id."""

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.leader_process import START_TIMEOUT_S, node_environment
from tests.server_process import command_of, poll_until

_READY = re.compile(r"ready follower address=(\S+) applied=(\d+) workers=(\d+) http=(\S+)\n")
_ESTABLISHED = "01"


class FollowerProcess:
    """`python -m cluster_app follower`; what it writes goes to files in `folder`."""

    def __init__(self, folder: Path, journal: str, *flags: str) -> None:
        environment = node_environment()
        number = len(list(folder.glob("follower-*.log")))
        self._log = folder / f"follower-{number}.log"
        self._ready = folder / f"follower-{number}.out"
        with self._log.open("wb") as log, self._ready.open("wb") as ready:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster_app", "follower"),
                    *("--listen", "127.0.0.1:0", "--journal", journal, *flags),
                ],
                stdout=ready,
                stderr=log,
                env=environment,
                cwd=Path(__file__).parent.parent,
            )
        self.address = ""
        self.http_address = ""
        self.applied = 0
        self.serving = 0

    @property
    def log(self) -> str:
        """Standard error so far, the workers' included."""
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's complete lines of one event."""
        lines = [json.loads(line) for line in self.log.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_ready(self) -> Self:
        """Wait for the ready line. Raises AssertionError with the log."""
        self.wait_until(lambda: _READY.fullmatch(self._ready.read_text()) is not None)
        match = _READY.fullmatch(self._ready.read_text())
        assert match is not None
        self.address, self.applied, self.serving = match[1], int(match[2]), int(match[3])
        self.http_address = match[4]
        return self

    def wait_until(self, condition: Any) -> None:
        """Poll until it holds. Raises AssertionError with the log if it doesn't."""

        def holds_or_ended() -> bool:
            return condition() or self.process.poll() is not None

        assert poll_until(holds_or_ended, START_TIMEOUT_S), self.log
        assert condition(), self.log

    def workers(self) -> list[int]:
        """The living workers' ids."""
        found: list[int] = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                found += map(int, children.read_text().split())
        return sorted(pid for pid in found if "cluster_app.query_worker" in command_of(pid))

    def connected_workers(self) -> list[int]:
        """Those of them that clients are connected to."""
        port = f":{int(self.address.rpartition(':')[2]):04X}"
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        ours = {
            f"socket:[{line[9]}]"
            for table in tables
            for line in map(str.split, table.splitlines())
            if line[1].endswith(port) and line[3] == _ESTABLISHED
        }
        return [pid for pid in self.workers() if ours & _open_files(pid)]

    def reader_words(self) -> list[list[int]]:
        """(pause wanted, streams that watch) of every reader, from the shared memory itself."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        for path in folder.iterdir():
            if "memfd:ringledger-readers" in str(path.readlink()):
                words = np.frombuffer(path.read_bytes(), np.uint64).reshape(-1, 8)
                return [[int(word) for word in row[:2]] for row in words]
        raise AssertionError("no shared memory")

    def books_mapped(self) -> int:
        """How many states this process keeps in memory."""
        return Path(f"/proc/{self.process.pid}/maps").read_text().count("memfd:ringledger-books")

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end: of the workers too, and without a complaint."""
        workers = self.workers()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_TIMEOUT_S) == 0, self.log
        assert not [pid for pid in workers if command_of(pid)]
        assert "Traceback" not in self.log, self.log
        assert '"level":"error"' not in self.log.replace(" ", ""), self.log

    def wait_exit(self) -> tuple[int, str]:
        """Wait for the end by itself: (exit code, log)."""
        return self.process.wait(START_TIMEOUT_S), self.log

    def pause(self) -> None:
        """SIGSTOP, of the follower but not its workers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, and wait."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()


def _open_files(pid: int) -> set[str]:
    try:
        return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return set()
