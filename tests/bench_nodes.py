"""Real nodes for benchmarks: started with flags, timed until they are ready, ended by their id."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import ROOT, RunFailed
from tests.server_process import poll_until

_READY_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 120.0


@dataclass
class Node:
    """A serving node; `ready_s` is the time from its start to its ready line."""

    process: subprocess.Popen[bytes]
    address: str
    ready_s: float
    command: str
    log: Path

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's complete lines of one event."""
        text = self.log.read_text()
        lines = [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end. Raises RunFailed."""
        self.process.terminate()
        try:
            code = self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{self.command} did not stop") from None
        if code:
            raise RunFailed(f"{self.command} ended with {code}: {self.log.read_text()[-1_000:]}")


@contextmanager
def node(folder: Path, role: str, *flags: str) -> Iterator[Node]:
    """`python -m cluster_app ROLE flags`, ready, in `folder`; stopped afterwards if it still runs.

    Raises RunFailed.
    """
    number = len(list(folder.glob(f"{role}-*.log")))
    log, out = folder / f"{role}-{number}.log", folder / f"{role}-{number}.out"
    arguments = (role, "--listen", "127.0.0.1:0", *flags)
    begun = time.perf_counter()
    with log.open("wb") as errors, out.open("wb") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", "cluster_app", *arguments),
            stdout=output,
            stderr=errors,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name},
        )
    try:

        def ready_or_ended() -> bool:
            return out.read_text().startswith("ready ") or process.poll() is not None

        if not poll_until(ready_or_ended, _READY_TIMEOUT_S) or process.poll() is not None:
            raise RunFailed(f"the {role} did not get ready: {log.read_text()[-1_000:]}")
        ready_s = time.perf_counter() - begun
        found = re.search(r"address=(\S+)", out.read_text())
        shown = " ".join(("python -m cluster_app", *arguments))
        running = Node(process, found[1] if found else "", ready_s, shown, log)
        yield running
        if process.poll() is None:
            running.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
