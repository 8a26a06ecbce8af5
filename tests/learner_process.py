"""A real learner process for tests: started, waited for, ended by its id; its log is read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.leader_process import START_TIMEOUT_S
from tests.server_process import poll_until


class LearnerProcess:
    """`python -m cluster_app learner`; what it writes goes to files in `folder`."""

    def __init__(self, folder: Path, journal: str, snapshots: str, *flags: str) -> None:
        environment = {
            name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name
        }
        number = len(list(folder.glob("learner-*.log")))
        self._log = folder / f"learner-{number}.log"
        self._ready = folder / f"learner-{number}.out"
        with self._log.open("wb") as log, self._ready.open("wb") as ready:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster_app", "learner"),
                    *("--journal", journal, "--snapshots", snapshots, *flags),
                ],
                stdout=ready,
                stderr=log,
                env=environment,
                cwd=Path(__file__).parent.parent,
            )

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's complete lines of one event."""
        lines = [json.loads(line) for line in self.log.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_ready(self) -> Self:
        """Wait until it has read the whole journal. Raises AssertionError with the log."""
        self.wait_until(lambda: self._ready.read_text().startswith("ready learner"))
        return self

    def wait_snapshots(self, count: int) -> None:
        """Wait until it has logged so many snapshots."""
        self.wait_until(lambda: len(self.events("snapshot")) >= count)

    def wait_until(self, condition: Any) -> None:
        """Poll until it holds. Raises AssertionError with the log if it doesn't."""

        def holds_or_ended() -> bool:
            return condition() or self.process.poll() is not None

        assert poll_until(holds_or_ended, START_TIMEOUT_S), self.log
        assert condition(), self.log

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_TIMEOUT_S) == 0, self.log
        assert "Traceback" not in self.log

    def wait_exit(self) -> tuple[int, str]:
        """Wait for the end by itself: (exit code, log)."""
        return self.process.wait(START_TIMEOUT_S), self.log

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
