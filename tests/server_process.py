"""A server's process for tests: started, waited for, ended by its id; and its port."""

import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.service_programs import ServiceFailed, with_setpriv

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0

_POLL_S: Final = 0.05
_LOG_TAIL_LINES: Final = 30
_PORT_RANGE: Final = range(20_000, 32_000)
"""Below where Linux takes the ports of outgoing connections from (32,768 upwards): nothing takes
a server's port while it is killed and not yet started again."""


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports of loopback that nobody listens on now."""
    ports: list[int] = []
    for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)):
        if len(ports) == count:
            break
        if port_is_free(port):
            ports.append(port)
    return ports


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as listener:
        # As servers do: the rests of closed connections don't make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def poll_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask again and again until it holds; False if it does not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def command_of(pid: int) -> list[str]:
    """A process's command line; empty if there is none, or only what is left of an ended one."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


class ServerProcess:
    """One server's process: started, waited for, ended by its id. Its output goes to `log`."""

    stop_signal = signal.SIGTERM
    unprivileged = False

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process started last. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, detached: bool = False) -> None:
        """Start the process, without waiting until it answers: that is `wait_ready`'s.

        A detached one outlives us. Others are killed by the kernel together with the thread that
        starts them, so that must be the main one: RuntimeError on another, or if it runs already.
        """
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        if not detached and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self.name} would end with this thread: start it on the main one")
        self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                with_setpriv(self.command, unprivileged=self.unprivileged, detached=detached),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                # A Ctrl-C in the terminal is ours to handle: servers end after their users.
                start_new_session=True,
            )

    def prepare(self) -> None:
        """Make what the process finds when it starts; the second time there is nothing to do."""

    def kill(self) -> None:
        """kill -9, and wait. Nothing happens if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end in an orderly way, and wait. Raises ServiceFailed if it does not."""
        if not self.is_running:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceFailed(
                f"{self.name} did not end within {STOP_TIMEOUT_S:g} s and was killed\n"
                + self.log_tail()
            ) from None

    def wait_until(self, answers: Callable[[], bool], timeout_s: float) -> None:
        """Poll until it answers. Raises ServiceFailed, with the log's tail, if it never does."""
        ready = False

        def answers_or_ended() -> bool:
            nonlocal ready
            ready = answers()
            return ready or (self._process is not None and self._process.poll() is not None)

        if not poll_until(answers_or_ended, timeout_s):
            raise ServiceFailed(
                f"{self.name} did not answer within {timeout_s:g} s\n{self.log_tail()}"
            )
        if not ready:
            raise ServiceFailed(
                f"{self.name} ended with exit code {self.process.returncode} "
                f"before it answered\n{self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The log's name and its last lines."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"the end of {self.log}:", *lines[-_LOG_TAIL_LINES:]])
