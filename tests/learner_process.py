"""A real learner process for tests: started, waited for, ended by its id; its log is read."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.leader_process import START_TIMEOUT_S
from tests.server_process import poll_until

_PATIENCE_S = 150.0
"""More than the longest pause between two looks of a node that waits, and both looks."""


class LearnerProcess:
    """`python -m cluster_app learner`; what it writes goes to files in `folder`.

    An empty address leaves the flag out: then a variable gives it.
    """

    role = "learner"

    def __init__(
        self,
        folder: Path,
        journal: str,
        snapshots: str,
        *flags: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        environment = {
            name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name
        }
        number = len(list(folder.glob(f"{self.role}-*.log")))
        self._log = folder / f"{self.role}-{number}.log"
        self._ready = folder / f"{self.role}-{number}.out"
        with self._log.open("wb") as log, self._ready.open("wb") as ready:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster_app", self.role),
                    *("--listen", "127.0.0.1:0"),
                    *(("--journal", journal) if journal else ()),
                    *(("--snapshots", snapshots) if snapshots else ()),
                    *flags,
                ],
                stdout=ready,
                stderr=log,
                env=environment | dict(variables or {}),
                cwd=Path(__file__).parent.parent,
            )

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self._log.read_text()

    @property
    def address(self) -> str:
        """Where it serves, once it is ready."""
        return self._ready.read_text().partition("address=")[2].split()[0]

    @property
    def http_address(self) -> str:
        """Where metrics and health are, once it is ready."""
        return self._ready.read_text().partition("http=")[2].split()[0]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's complete lines of one event."""
        lines = [json.loads(line) for line in self.log.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_ready(self) -> Self:
        """Wait until it has read the whole journal. Raises AssertionError with the log."""
        self.wait_until(lambda: self._ready.read_text().startswith(f"ready {self.role}"))
        return self

    def wait_snapshots(self, count: int) -> None:
        """Wait until it has logged so many snapshots."""
        self.wait_until(lambda: len(self.events("snapshot")) >= count)

    def wait_until(self, condition: Any) -> None:
        """Poll until it holds. Raises AssertionError with the log if it doesn't."""

        def holds_or_ended() -> bool:
            return condition() or self.process.poll() is not None

        assert poll_until(holds_or_ended, _PATIENCE_S), self.log
        assert condition(), self.log

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_TIMEOUT_S) == 0, self.log
        assert "Traceback" not in self.log

    def wait_exit(self) -> tuple[int, str]:
        """Wait for the end by itself: (exit code, log)."""
        return self.process.wait(START_TIMEOUT_S), self.log

    def pause(self) -> None:
        """SIGSTOP."""
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
