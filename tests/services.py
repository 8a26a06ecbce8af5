"""Throw-away Kafka clusters and PostgreSQL servers on loopback, for tests and benchmarks.

Each keeps everything it writes, its log too, in a folder of the caller's, and its data survive
`kill()` and `start()`. tests/dev_services.py runs the same servers for development.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.server_process import (
    HOST,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    ServerProcess,
    command_of,
    free_ports,
    poll_until,
)
from tests.service_programs import (
    UNPRIVILEGED_USER,
    ServiceFailed,
    java_program,
    kafka_libraries,
    missing_for_kafka,
    missing_for_postgres,
    postgres_programs,
    runs_as_root,
    with_setpriv,
)


class KafkaBroker(ServerProcess):
    """One node of a KafkaCluster, broker and controller in one process."""

    def __init__(
        self, cluster: "KafkaCluster", node_id: int, port: int, java_flags: Sequence[str]
    ) -> None:
        self.node_id = node_id
        self.port = port
        self.address = f"{HOST}:{port}"
        self.folder = cluster.folder / f"broker-{node_id}"
        self._properties = self.folder / "server.properties"
        self._cluster = cluster
        java = [java_program() or "java", *java_flags, "-cp", f"{cluster.libraries}/*"]
        self._format = [
            *(*java, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"),
            # With "=": an id may begin with "-".
            *(f"--cluster-id={cluster.cluster_id}", "--config", str(self._properties)),
        ]
        super().__init__(
            f"Kafka broker {node_id} on {self.address}",
            [*java, "kafka.Kafka", str(self._properties)],
            self.folder / "broker.log",
        )

    def prepare(self) -> None:
        """Write the settings; format the data's folder if it is new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self._cluster.broker_properties(self)
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        if (self.folder / "data" / "meta.properties").exists():
            return
        formatting = subprocess.run(self._format, capture_output=True, text=True, check=False)
        if formatting.returncode != 0:
            raise ServiceFailed(
                f"{self.name}: its folder could not be formatted\n"
                + formatting.stdout
                + formatting.stderr
            )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until this broker serves requests and the cluster counts it among its brokers."""
        self.wait_registered({self.node_id}, timeout_s)

    def wait_registered(self, node_ids: set[int], timeout_s: float) -> None:
        """Wait until this broker serves requests and knows these brokers as serving."""
        cluster_id = self._cluster.cluster_id
        self.wait_until(lambda: node_ids <= registered_brokers(self.address, cluster_id), timeout_s)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)  # with all its threads

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


class KafkaCluster:
    """One to a few Kafka brokers; each is a voter of the KRaft quorum as well.

    `ports` are the brokers' own, free ones by default; `properties` are server.properties' and
    replace ours; `java_flags` are the JVM's. What we set makes small brokers that start fast.
    Raises ServiceFailed, with the sentence of `missing_for_kafka`, if Kafka can't run here.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        ports: Sequence[int] | None = None,
        java_flags: Sequence[str] = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC"),
    ) -> None:
        missing = missing_for_kafka()
        if missing is not None:
            raise ServiceFailed(missing)
        self.folder = folder.absolute()
        self.libraries = kafka_libraries()
        self.cluster_id = _formatted_cluster_id(self.folder / "broker-1" / "data") or (
            base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        )
        self._properties = dict(properties or {})
        free = free_ports(2 * brokers)
        self._controllers = dict(enumerate(free[brokers:], start=1))
        flags = (
            *java_flags,
            "-XX:-UsePerfData",  # no files outside the folder
            "-XX:+ExitOnOutOfMemoryError",
            # "info" is hundreds of lines a start, and buries why one failed.
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
        )
        self.brokers = [
            KafkaBroker(self, node_id, port, flags)
            for node_id, port in enumerate(ports or free[:brokers], start=1)
        ]
        self.bootstrap = ",".join(broker.address for broker in self.brokers)

    def broker_properties(self, broker: KafkaBroker) -> dict[str, str]:
        """A broker's settings, as in Kafka's server.properties."""
        copies = str(min(3, len(self.brokers)))
        controller = f"CONTROLLER://{HOST}:{self._controllers[broker.node_id]}"
        voters = (f"{node}@{HOST}:{port}" for node, port in self._controllers.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker.node_id),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{broker.address},{controller}",
            "log.dirs": str(broker.folder / "data"),
            # A journal is made on purpose, in one partition, and nothing in it ever expires.
            "auto.create.topics.enable": "false",
            "num.partitions": "1",
            "default.replication.factor": copies,
            "log.retention.ms": "-1",
            "message.max.bytes": str(2 * 1024 * 1024),
            # Kafka's own topics: few partitions are made sooner.
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker may come back only when its old session has run out.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            # 128 MB of the heap by default, for compacted topics of any size.
            "log.cleaner.dedupe.buffer.size": str(2 * 1024 * 1024),
            **self._properties,
        }

    def start(self, *, detached: bool = False) -> None:
        """Start all brokers and wait until each one serves and knows all the others."""
        with ThreadPoolExecutor(len(self.brokers)) as formatters:
            for _ in formatters.map(KafkaBroker.prepare, self.brokers):
                pass  # raises what the preparation raised
        for broker in self.brokers:
            broker.start(detached=detached)
        self.wait_ready()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until each broker serves requests and knows all the others."""
        everyone = {broker.node_id for broker in self.brokers}
        for broker in self.brokers:
            broker.wait_registered(everyone, timeout_s)

    def kill(self) -> None:
        """kill -9 all brokers, and wait."""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Postgres(ServerProcess):
    """One PostgreSQL server with the database, the user and the password `ringledger`.

    `port` is a free one by default; `settings` are postgresql.conf's. Works for root too. Raises
    ServiceFailed, with the sentence of `missing_for_postgres`, if PostgreSQL can't run here.
    """

    stop_signal = signal.SIGINT  # "fast": it does not wait for its clients to go
    unprivileged = True

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        missing = missing_for_postgres()
        programs = postgres_programs()
        if missing is not None or programs is None:
            raise ServiceFailed(missing or "PostgreSQL is not installed")
        self.folder = folder.absolute()
        self.port = port or free_ports(1)[0]
        login = "ringledger:ringledger"
        self.url = f"postgresql+psycopg://{login}@{HOST}:{self.port}/ringledger"
        self.conninfo = self.url.replace("+psycopg", "")
        self._programs = programs
        self._data = self.folder / "data"
        chosen = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            # Shared memory in the data's folder: a killed server leaves nothing elsewhere.
            "dynamic_shared_memory_type": "mmap",
            **(settings or {}),
        }
        super().__init__(
            f"PostgreSQL on {HOST}:{self.port}",
            [
                *(str(programs / "postgres"), "-D", str(self._data)),
                *(part for name, value in chosen.items() for part in ("-c", f"{name}={value}")),
            ],
            self.folder / "postgres.log",
        )

    def prepare(self) -> None:
        """Make the data's folder, the user and the database if there are none."""
        if self._data.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Under another name until it is complete: half a folder would never start.
        scratch = self.folder / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        password = self.folder / "password"
        password.write_text("ringledger\n")
        if runs_as_root():
            shutil.chown(scratch, UNPRIVILEGED_USER)
        self._run(
            *("initdb", "-D", str(scratch), "--username=ringledger", f"--pwfile={password}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        password.unlink()
        self._run(
            *("postgres", "--single", "-D", str(scratch), "postgres"),
            statement="CREATE DATABASE ringledger;\n",
        )
        scratch.rename(self._data)

    def _run(self, program: str, *arguments: str, statement: str = "") -> None:
        """Run one of PostgreSQL's programs to its end. Raises ServiceFailed if it fails."""
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            with_setpriv(command, unprivileged=True),
            input=statement,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceFailed(f"PostgreSQL's {program} failed\n{done.stdout}{done.stderr}")

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it takes a connection to its database."""
        self.wait_until(lambda: takes_connections(self.conninfo), timeout_s)

    def kill(self) -> None:
        """kill -9 the server and its helper processes, and wait.

        They would notice soon, but until the last one is gone no new server may use the data.
        """
        if not self.is_running:
            return
        pid = self.process.pid
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        super().kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        poll_until(lambda: not any(map(command_of, children)), STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def registered_brokers(address: str, cluster_id: str) -> set[int]:
    """The ids of the brokers that the one at this address knows as serving.

    Empty if it doesn't answer, or if it is one of another cluster.
    """
    if not _accepts(address):
        return set()
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    try:
        metadata = admin.list_topics(timeout=2)
    except KafkaException:
        return set()
    return set(metadata.brokers) if metadata.cluster_id == cluster_id else set()


def takes_connections(conninfo: str) -> bool:
    """Whether a PostgreSQL server takes a connection and answers."""
    try:
        with psycopg.connect(conninfo, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _formatted_cluster_id(data: Path) -> str | None:
    properties = data / "meta.properties"
    if not properties.exists():
        return None
    lines = properties.read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))


def _accepts(address: str) -> bool:
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
