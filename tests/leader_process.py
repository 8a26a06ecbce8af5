"""A real leader process for tests: started, waited for, ended by its id."""

import os
import re
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 60.0
"""Compiling the kernels for the first time takes most of it."""


class LeaderProcess:
    """`python -m cluster_app leader` on a free port; `address` and `epoch` come from `ready`."""

    def __init__(self, journal: str, *flags: str, listen: str = "127.0.0.1:0") -> None:
        environment = {
            name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cluster_app", "leader"),
                *("--journal", journal, "--listen", listen, *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        self.ready_line = ""
        self.address = ""
        self.epoch = 0
        self.applied = 0

    def wait_ready(self) -> "LeaderProcess":
        """Wait for the ready line. Raises AssertionError, with the log, when there is none."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if selector.select(START_TIMEOUT_S):
                self.ready_line = self.process.stdout.readline().decode().strip()
        match = re.fullmatch(
            r"ready leader address=(\S+) epoch=(\d+) applied=(\d+)", self.ready_line
        )
        if match is None:
            self.process.kill()
            raise AssertionError(f"no leader: {self.ready_line!r} {self.output()}")
        self.address, self.epoch, self.applied = match[1], int(match[2]), int(match[3])
        return self

    def wait_exit(self, timeout_s: float = START_TIMEOUT_S) -> tuple[int, str]:
        """Wait for the process to end by itself: (exit code, what it wrote on standard error)."""
        text = self.output(timeout_s)
        return self.process.returncode, text

    def output(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Standard error up to the end of the process."""
        _, error = self.process.communicate(timeout=timeout_s)
        return error.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        self.process.send_signal(number)

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
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def journal_url(folder: Path) -> str:
    """A SQLite journal's URL in a folder of the test's own."""
    return f"sqlite:///{folder / 'journal.db'}"
