"""A real leader process for tests: started, waited for, ended by its id."""

import os
import re
import selectors
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

EDGE_VARIABLE = "RINGLEDGER_EDGE"
START_TIMEOUT_S = 60.0
"""Compiling the kernels for the first time takes most of it."""


def node_environment() -> dict[str, str]:
    """This process's environment without settings of nodes, but for the edge to be tested."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == EDGE_VARIABLE or "RINGLEDGER_" not in name
    }


class LeaderProcess:
    """`python -m cluster_app leader` on a free port; `address` and `epoch` come from `ready`."""

    def __init__(
        self,
        journal: str,
        *flags: str,
        listen: str = "127.0.0.1:0",
        open_files: int = 0,
        program: Sequence[str] = ("cluster_app",),
    ) -> None:
        """`open_files`: how many the process may have; 0 for what this one may."""
        environment = node_environment()
        self.process = subprocess.Popen(
            [
                *(("prlimit", f"--nofile={open_files}") if open_files else ()),
                *(sys.executable, "-m", *program, "leader"),
                *("--journal", journal, "--listen", listen),
                # where it listens is a test's own; 100 above that may be taken
                *("--http-listen", "127.0.0.1:0", *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a line is read when it is there, not kept behind `select`'s back
            bufsize=0,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        self.ready_line = ""
        self.address = ""
        self.http_address = ""
        self.epoch = 0
        self.applied = 0

    def wait_ready(self) -> "LeaderProcess":
        """Wait until it leads. Raises AssertionError, with the log, when it doesn't get there."""
        self._read_line()
        while self.ready_line.startswith("ready standby "):
            self._read_line()
        return self._take("leader")

    def wait_standby(self) -> "LeaderProcess":
        """Wait until it stands by another leader. Raises AssertionError as `wait_ready` does."""
        self._read_line()
        return self._take("standby")

    def wait_leads_or_stands_by(self) -> "LeaderProcess":
        """Wait until it does either; `leads` tells which. Raises AssertionError as the others."""
        self._read_line()
        return self._take("standby" if "standby" in self.ready_line else "leader")

    @property
    def leads(self) -> bool:
        """Whether its newest line said that it leads."""
        return self.ready_line.startswith("ready leader ")

    def wait_ready_again_as_standby(self) -> "LeaderProcess":
        """Wait until this node, which led, stands by: lines of its terms before are left out."""
        self._read_line()
        while self.ready_line.startswith("ready leader "):
            self._read_line()
        return self._take("standby")

    def wait_said(self, text: bytes) -> None:
        """Read its log to a line with this text. Raises AssertionError when it ends before."""
        assert self.process.stderr is not None
        while text not in (line := self.process.stderr.readline()):
            assert line, f"it ended and never said {text!r}"

    def pause_between_appends(self, journal: str) -> None:
        """SIGSTOP where the leader doesn't hold SQLite's lock: nobody could depose it there."""
        if not journal.startswith("sqlite"):
            self.signal(signal.SIGSTOP)
            return
        path, deadline = journal.removeprefix("sqlite:///"), time.monotonic() + START_TIMEOUT_S
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
            while time.monotonic() < deadline:
                self.signal(signal.SIGSTOP)
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                try:
                    database.execute("BEGIN IMMEDIATE")
                    database.execute("ROLLBACK")
                    return
                except sqlite3.OperationalError:
                    self.signal(signal.SIGCONT)
                    time.sleep(0.005)  # for it to let go
        raise AssertionError("the leader never let go of its lock")

    def _read_line(self) -> None:
        assert self.process.stdout is not None
        self.ready_line = ""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if selector.select(START_TIMEOUT_S):
                self.ready_line = self.process.stdout.readline().decode().strip()

    def _take(self, role: str) -> "LeaderProcess":
        match = re.fullmatch(
            rf"ready {role} address=(\S+) epoch=(\d+) applied=(\d+) http=(\S+)", self.ready_line
        )
        if match is None:
            self.process.kill()
            raise AssertionError(f"no {role}: {self.ready_line!r} {self.output()}")
        self.address, self.epoch, self.applied = match[1], int(match[2]), int(match[3])
        self.http_address = match[4]
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
