"""A real admin app for tests: started, waited for, ended by its id."""

import json
import os
import re
import selectors
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 100.0


class Got(NamedTuple):
    """An HTTP answer; `json` is None for anything else."""

    status: int
    headers: Mapping[str, str]
    json: Any


class AdminProcess:
    """`python -m client_app admin` on a free port, in development mode unless given keys."""

    program = "admin"

    def __init__(
        self,
        endpoints: str,
        *flags: str,
        listen: str = "127.0.0.1:0",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        environment = {
            name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name
        }
        if not any(flag.startswith(("--api-keys", "--jwt-", "--no-development")) for flag in flags):
            environment["RINGLEDGER_DEVELOPMENT"] = "1"
        environment |= variables or {}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "client_app", self.program),
                *("--endpoints", endpoints, "--listen", listen, *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        self.address = ""

    def wait_ready(self) -> Self:
        """Wait for the ready line. Raises AssertionError, with the log, when there is none."""
        assert self.process.stdout is not None
        line = ""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if selector.select(START_TIMEOUT_S):
                line = self.process.stdout.readline().decode().strip()
        match = re.fullmatch(rf"ready {self.program} address=(\S+)", line)
        if match is None:
            self.process.kill()
            raise AssertionError(f"no {self.program} app: {line!r} {self.output()}")
        self.address = match[1]
        return self

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return int(self.address.rpartition(":")[2])

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Got:
        """One request on a connection of its own; `body` is bytes, or becomes JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            sent = dict(headers or {})
            if body is not None:
                sent = {"content-type": "application/json"} | sent
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            # Refused before it is read, a body may find the pipe closed: the answer is there.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, data, sent)
            return read_answer(connection.getresponse())
        finally:
            connection.close()

    def output(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Standard error up to the end of the process."""
        _, error = self.process.communicate(timeout=timeout_s)
        return error.decode()

    def stop(self) -> tuple[int, str]:
        """SIGTERM, and wait: (exit code, standard error)."""
        self.process.terminate()
        text = self.output()
        return self.process.returncode, text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class UserProcess(AdminProcess):
    """`python -m client_app user` on a free port; give it `--jwt-keys`."""

    program = "user"


def read_answer(response: HTTPResponse) -> Got:
    """A response, read to its end."""
    content = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    is_json = "json" in headers.get("content-type", "")
    return Got(response.status, headers, json.loads(content) if is_json else None)
