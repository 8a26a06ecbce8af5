"""Kafka and PostgreSQL for development: `make setup-dev`, `make down-dev`.

`python -m tests.dev_services up|down|status`. With a Docker daemon they are compose.yaml's
containers; without one, the processes of tests/services.py, detached, with data, logs and pid
files in `data/dev`. `down` ends the servers and keeps the data. Ports 9092 and 5432 of loopback,
or RINGLEDGER_DEV_KAFKA_PORT and RINGLEDGER_DEV_POSTGRES_PORT; RINGLEDGER_DEV_DATA is another
folder for the data.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.server_process import HOST, STOP_TIMEOUT_S, command_of, poll_until, port_is_free
from tests.service_programs import REPOSITORY, ServiceFailed, locked
from tests.services import KafkaBroker, KafkaCluster, Postgres

_PORT_VARIABLE: Final = {
    "kafka": "RINGLEDGER_DEV_KAFKA_PORT",
    "postgres": "RINGLEDGER_DEV_POSTGRES_PORT",
}
_USUAL_PORT: Final = {"kafka": "9092", "postgres": "5432"}
_STOP_SIGNAL: Final = {"kafka": KafkaBroker.stop_signal, "postgres": Postgres.stop_signal}
_DOCKER_TIMEOUT_S: Final = 5.0
"""How long a daemon may take to answer; one that is slower is treated as absent."""


@dataclass(frozen=True)
class NativeServer:
    """One server that runs without Docker and outlives the command that started it."""

    name: str
    port: int
    folder: Path
    process: Callable[[Path, int], KafkaBroker | Postgres]
    """Its process, not started, for a folder and a port. Raises ServiceFailed."""

    @property
    def pid_file(self) -> Path:
        """Where the process's id and port are kept while it runs."""
        return self.folder.with_suffix(".pid")

    def running(self) -> tuple[int, int] | None:
        """The pid and the port of our own running server, else None.

        A number in the pid file is not enough: after a crash another program may have it. Ours
        names its folder on its command line.
        """
        try:
            pid, port = map(int, self.pid_file.read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        ours = (str(self.folder), f"{self.folder}/")
        is_ours = any(part == ours[0] or part.startswith(ours[1]) for part in command_of(pid))
        return (pid, port) if is_ours else None

    def up(self) -> str:
        """Start it unless it runs; wait until it serves. Returns what there is to say.

        Raises ServiceFailed.
        """
        running = self.running()
        if running is None:
            pid = self._start()
            return f"{self.name}: started on {HOST}:{self.port}, process {pid}; {self._data()}"
        pid, port = running
        if port != self.port:
            raise ServiceFailed(
                f"{self.name}: already running on port {port}, not {self.port}: "
                "run `make down-dev` first"
            )
        self.process(self.folder, port).wait_ready()
        return f"{self.name}: already running on {HOST}:{port}, process {pid}; {self._data()}"

    def _start(self) -> int:
        if not port_is_free(self.port):
            raise ServiceFailed(
                f"{self.name}: port {self.port} of {HOST} is in use by another program: "
                f"end it or set {_PORT_VARIABLE[self.name]} to a free port"
            )
        process = self.process(self.folder, self.port)
        process.start(detached=True)
        try:
            self.pid_file.write_text(f"{process.process.pid} {self.port}\n")
            process.wait_ready()
        except BaseException:
            process.kill()
            self.pid_file.unlink(missing_ok=True)
            raise
        return process.process.pid

    def down(self) -> str:
        """End it if it runs. Returns what there is to say."""
        running = self.running()
        how = "not running"
        if running is not None:
            pid, _ = running
            os.kill(pid, _STOP_SIGNAL[self.name])
            how = "stopped"
            if not poll_until(lambda: self.running() is None, STOP_TIMEOUT_S):
                os.kill(pid, signal.SIGKILL)
                how = f"killed, for it did not stop within {STOP_TIMEOUT_S:g} s"
        self.pid_file.unlink(missing_ok=True)
        return f"{self.name}: {how}; {self._data()}"

    def status(self) -> str:
        """Whether it runs, and where."""
        running = self.running()
        if running is None:
            return f"{self.name}: not running; {self._data()}"
        return f"{self.name}: running on {HOST}:{running[1]}, process {running[0]}; {self._data()}"

    def _data(self) -> str:
        return f"data in {self.folder}" if self.folder.exists() else "no data yet"


def kafka_broker(folder: Path, port: int) -> KafkaBroker:
    """The one broker of a cluster for development."""
    return KafkaCluster(folder, ports=[port]).brokers[0]


def postgres_server(folder: Path, port: int) -> Postgres:
    """The server for development."""
    return Postgres(folder, port=port)


def native_servers() -> list[NativeServer]:
    """Both, as the environment wants them. Raises ServiceFailed for a port that is none."""
    data = Path(os.environ.get("RINGLEDGER_DEV_DATA", REPOSITORY / "data" / "dev")).resolve()
    return [
        NativeServer("postgres", wanted_port("postgres"), data / "postgres", postgres_server),
        NativeServer("kafka", wanted_port("kafka"), data / "kafka", kafka_broker),
    ]


def wanted_port(name: str) -> int:
    """A server's port: its variable's, else its usual one. Raises ServiceFailed."""
    text = os.environ.get(_PORT_VARIABLE[name]) or _USUAL_PORT[name]
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise ServiceFailed(f"{_PORT_VARIABLE[name]} must be a port, 1 to 65535, not {text!r}")
    return int(text)


def docker_compose_works() -> bool:
    """Whether a Docker daemon answers and `docker compose` is there."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            answer = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DOCKER_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        if answer.returncode != 0:
            return False
    return True


def compose(*arguments: str) -> None:
    """`docker compose` on compose.yaml. Raises ServiceFailed if it fails; it has said why."""
    if subprocess.run(["docker", "compose", *arguments], cwd=REPOSITORY, check=False).returncode:
        raise ServiceFailed(f"`docker compose {' '.join(arguments)}` failed")


def up(servers: list[NativeServer]) -> None:
    """Start what does not run yet. Raises ServiceFailed, after trying both, with one sentence."""
    runs_natively = any(server.running() is not None for server in servers)
    if not runs_natively and docker_compose_works():
        compose("up", "--detach", "--wait")
    else:
        if not runs_natively:
            print("Starting without Docker; the first time, Maven fetches Kafka", flush=True)
        failures = []
        for server in servers:
            try:
                print(server.up(), flush=True)
            except ServiceFailed as failure:
                failures.append(str(failure))
        if failures:
            raise ServiceFailed("\n".join(failures))
    print(f"RINGLEDGER_JOURNAL=kafka://{HOST}:{wanted_port('kafka')}/ringledger")
    login = f"ringledger:ringledger@{HOST}:{wanted_port('postgres')}"
    print(f"RINGLEDGER_SNAPSHOTS=postgresql+psycopg://{login}/ringledger")


def down(servers: list[NativeServer]) -> None:
    """End what runs, containers and processes; the data stay. Raises ServiceFailed."""
    for server in servers:
        print(server.down(), flush=True)
    if docker_compose_works():
        compose("--profile", "metrics", "down")
        print("containers: removed; their data stay in Docker's volumes")


def status(servers: list[NativeServer]) -> None:
    """Say what runs. Raises ServiceFailed."""
    for server in servers:
        print(server.status(), flush=True)
    if docker_compose_works():
        compose("ps")


def main() -> int:
    """Do one of up, down, status; the exit code is 1 after a failure, with its reason in a line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.dev_services", description="Kafka and PostgreSQL for development."
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    action = {"up": up, "down": down, "status": status}[parser.parse_args().action]
    try:
        servers = native_servers()
        with locked(servers[0].folder.parent / ".lock"):
            action(servers)
    except ServiceFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
