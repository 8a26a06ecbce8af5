"""Everything that a campaign runs, as real processes: brokers, PostgreSQL, nodes, proxy, clients.

All talk through the proxy's links, so that each of these can be cut by itself:

    clients --clients-NAME--> leader, standby      nodes --kafka-NAME--> brokers
    clients --queries-N-----> followers            broker --replication-N--> the others
                                                   learner --postgres--> PostgreSQL
                                                   archiver --history--> PostgreSQL
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cluster_app.settings import LeaderSettings
from proto import ledger_pb2, ledger_pb2_grpc
from tests.campaign.clients import Counts, CountsFile
from tests.campaign.proxy import ProxyControl
from tests.campaign.skewed_node import ClockFile
from tests.server_process import HOST, START_TIMEOUT_S, ServerProcess, free_ports
from tests.service_programs import REPOSITORY
from tests.services import (
    KafkaBroker,
    KafkaCluster,
    Postgres,
    registered_brokers,
)

BROKERS: Final = 3
TOPIC: Final = "campaign"
ACCOUNTS: Final = 1_000
FIRST_MONEY: Final = 1_000_000
CLIENTS_OF_A_PROCESS: Final = 4
CLIENT_PROCESSES: Final = 2

_JAVA_FLAGS: Final = ("-Xms96m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PARAMETERS: Final = (
    *("--window-capacity", str(1 << 20)),
    *("--account-capacity", str(1 << 16)),
    *("--hold-capacity", str(1 << 20)),
)
_RESTART_PAUSE_S: Final = 0.5
_STATUS_TIMEOUT_S: Final = 0.5
HAS_STANDBY: Final = "standby" in LeaderSettings.__dataclass_fields__
"""Whether a second leader waits; else one alone is restarted again and again."""


class Program(ServerProcess):
    """One of our own programs, on the sources beside this file."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        python = ("env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", *arguments)
        super().__init__(name, python, folder / f"{name}.log")
        self._started_at = 0

    def prepare(self) -> None:
        """Note where this run's part of the log begins."""
        self._started_at = self.log.stat().st_size if self.log.exists() else 0

    def output(self) -> str:
        """What this run wrote so far."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._started_at)
            return file.read().decode(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it has said so."""
        return self.is_running and any(
            line.startswith("ready ") for line in self.output().splitlines()
        )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for its ready line. Raises ServiceFailed."""
        self.wait_until(lambda: self.is_ready, timeout_s)


class ProxiedKafka(KafkaCluster):
    """Brokers with a listener for each group of users, advertised at the proxy's ports."""

    def __init__(self, folder: Path, groups: list[str], ports: "Ports") -> None:
        self.groups = groups
        self.behind = {(g, b): ports.take() for g in groups for b in range(1, BROKERS + 1)}
        self.proxied = {(g, b): ports.take() for g in groups for b in range(1, BROKERS + 1)}
        super().__init__(
            folder,
            BROKERS,
            {
                "replica.lag.time.max.ms": "3000",
                "num.io.threads": "2",
                "num.network.threads": "2",
                "background.threads": "2",
            },
            ports=[ports.take() for _ in range(BROKERS)],
            java_flags=_JAVA_FLAGS,
        )
        self._controllers = {b: ports.take() for b in range(1, BROKERS + 1)}

    def broker_properties(self, broker: KafkaBroker) -> dict[str, str]:
        """As in every test, and the listeners."""
        ours = super().broker_properties(broker)
        node = broker.node_id
        listeners = [f"{g.upper()}://{HOST}:{self.behind[g, node]}" for g in self.groups]
        advertised = [f"{g.upper()}://{HOST}:{self.proxied[g, node]}" for g in self.groups]
        names = ["CONTROLLER", "PLAINTEXT", *(group.upper() for group in self.groups)]
        return ours | {
            "listeners": ",".join([ours["listeners"], *listeners]),
            "advertised.listeners": ",".join([f"PLAINTEXT://{broker.address}", *advertised]),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
            "inter.broker.listener.name": "REPLICATION",
        }

    def journal(self, group: str) -> str:
        """The journal's URL for one group of users."""
        ports = ",".join(f"{HOST}:{self.proxied[group, b]}" for b in range(1, BROKERS + 1))
        return f"kafka://{ports}/{TOPIC}"

    def links(self) -> dict[str, list[tuple[int, int]]]:
        """What may be cut: all of a group's ways, and replication broker by broker."""
        pairs = {key: (self.proxied[key], self.behind[key]) for key in self.behind}
        links = {
            f"kafka-{group}": [pairs[group, b] for b in range(1, BROKERS + 1)]
            for group in self.groups
            if group != "replication"
        }
        for b in range(1, BROKERS + 1):
            links[f"replication-{b}"] = [pairs["replication", b]]
        return links


class Ports:
    """Ports that nobody listens on, all drawn at once, so that none is given twice."""

    def __init__(self, count: int = 96) -> None:
        self._free = free_ports(count)

    def take(self) -> int:
        """One of them."""
        return self._free.pop()


class Cluster:
    """The processes of a campaign by name, and the links between them. For the main thread."""

    def __init__(self, folder: Path, rate: float) -> None:
        ports = Ports()
        self.folder = folder
        self.leaders = ["a", "b"] if HAS_STANDBY else ["a"]
        self.followers = ["follower-1", "follower-2"]
        self.kafka = ProxiedKafka(
            folder / "kafka",
            [*self.leaders, "followers", "learner", "archiver", "replication"],
            ports,
        )
        self.postgres = Postgres(
            folder / "postgres",
            {
                "shared_buffers": "32MB",
                "max_connections": "40",
                "fsync": "on",
                # or it spends the campaign on recovering from its kills
                "max_wal_size": "128MB",
                "checkpoint_timeout": "30s",
            },
            ports.take(),
        )
        self.addresses = {name: f"{HOST}:{ports.take()}" for name in self._nodes}
        self.proxied = {name: ports.take() for name in self._nodes}
        self.clocks = {name: ClockFile(folder / f"{name}.clock") for name in self._nodes}
        self.ended_by_themselves: list[str] = []
        self.held: set[str] = set()
        """Names that a fault keeps down."""
        self.expected: set[str] = set()
        """Names whose end is a fault's doing."""
        self._started_s: dict[str, float] = {}
        self._restarted_brokers: set[KafkaBroker] = set()
        self._turn = 0
        self._channels: dict[str, grpc.Channel] = {}
        self._admin: AdminClient | None = None
        self._control_port = ports.take()
        databases = {"learner": ports.take(), "archiver": ports.take()}
        links = self.kafka.links() | {
            "postgres": [(databases["learner"], self.postgres.port)],
            "history": [(databases["archiver"], self.postgres.port)],
            **{f"clients-{n}": [self._proxied_pair(n)] for n in self.leaders},
            **{f"queries-{n[-1]}": [self._proxied_pair(n)] for n in self.followers},
        }
        self.links = list(links)
        self.proxy = Program(
            "proxy", folder, "tests.campaign.proxy", str(self._control_port), json.dumps(links)
        )
        urls = {
            name: self.postgres.url.replace(str(self.postgres.port), str(port))
            for name, port in databases.items()
        }
        self.nodes = {name: self._node(name, urls) for name in self._nodes}
        self.clients = {
            f"clients-{n}": self._clients(n, rate) for n in range(1, CLIENT_PROCESSES + 1)
        }

    @property
    def _nodes(self) -> list[str]:
        return [*self.leaders, *self.followers, "learner", "archiver"]

    def _proxied_pair(self, name: str) -> tuple[int, int]:
        return self.proxied[name], int(self.addresses[name].rpartition(":")[2])

    def _node(self, name: str, databases: dict[str, str]) -> Program:
        """`databases` are what the learner and the archiver write to, by their links."""
        role = "leader" if name in self.leaders else name.partition("-")[0]
        group = "followers" if role == "follower" else name
        snapshots = databases.get(name, self.postgres.url)
        flags = {
            "leader": _PARAMETERS,
            "learner": ("--snapshot-interval-s", "3"),
            "archiver": ("--history", snapshots, "--state-interval-s", "5"),
        }.get(role, ())
        return Program(
            name,
            self.folder,
            *("tests.campaign.skewed_node", str(self.folder / f"{name}.clock"), role),
            *("--node-id", name, "--listen", self.addresses[name]),
            *("--advertise", f"{HOST}:{self.proxied[name]}", "--http-listen", "off"),
            *("--journal", self.kafka.journal(group), "--snapshots", snapshots, *flags),
        )

    def _clients(self, number: int, rate: float) -> Program:
        first = (number - 1) * CLIENTS_OF_A_PROCESS
        names = [f"client-{first + i}" for i in range(1, CLIENTS_OF_A_PROCESS + 1)]
        return Program(
            f"clients-{number}",
            self.folder,
            *("tests.campaign.clients", "--names", ",".join(names)),
            *("--rate", f"{rate / CLIENT_PROCESSES:g}", *self._clients_flags()),
        )

    def _clients_flags(self) -> tuple[str, ...]:
        nodes = [*self.leaders, *self.followers]
        endpoints = ",".join(f"{HOST}:{self.proxied[name]}" for name in nodes)
        return (
            *("--endpoints", endpoints, "--folder", str(self.folder)),
            *("--accounts", str(ACCOUNTS)),
        )

    def histories(self) -> list[Path]:
        """Every client's own history."""
        return sorted(self.folder.glob("*.history"))

    # Life

    def start(self) -> None:
        """Start everything, open and fund the accounts, begin to move money.

        Followers, learner and archiver may still be starting then: that is life too.
        """
        self.proxy.start()
        self.postgres.start()
        self.kafka.start()
        self.proxy.wait_ready()
        self.control = ProxyControl(self._control_port)
        self.postgres.wait_ready()
        flags = ("--names", "setup", "--prepare", str(FIRST_MONEY), *self._clients_flags())
        setup = Program("setup", self.folder, "tests.campaign.clients", *flags)
        first, *others = self.nodes.values()
        first.start()
        setup.start()
        first.wait_ready()
        for node in others:
            node.start()
        if setup.process.wait(START_TIMEOUT_S):
            raise RuntimeError(setup.log_tail())
        for program in self.clients.values():
            program.start()
        for program in (*(self.nodes[name] for name in self.leaders), *self.clients.values()):
            program.wait_ready()

    @property
    def programs(self) -> dict[str, ServerProcess]:
        """All that are restarted when they die; the proxy is not of them."""
        brokers = {f"broker-{broker.node_id}": broker for broker in self.kafka.brokers}
        return {**self.nodes, **self.clients, **brokers, "postgres": self.postgres}

    def supervise(self) -> None:
        """Start again what has died, unless a fault holds it down."""
        for name, program in self.programs.items():
            if program.is_running or name in self.held:
                continue
            now = time.monotonic()
            if now - self._started_s.get(name, 0.0) < _RESTART_PAUSE_S:
                continue
            code = program.process.returncode
            if code != -9 and name not in self.expected:
                last = program.log.read_text(errors="replace").splitlines()[-1:]
                self.ended_by_themselves.append(f"{name}: exit code {code}: {''.join(last)[:300]}")
            self.expected.discard(name)
            self._started_s[name] = now
            if isinstance(program, KafkaBroker):
                self._restarted_brokers.add(program)
            program.start()

    def wait(
        self,
        seconds: float,
        condition: Callable[[], bool] = lambda: False,
        every_s: float = 0.03,
    ) -> bool:
        """Supervise until the condition holds (True) or time is up; other threads only wait."""
        deadline = time.monotonic() + seconds
        supervises = threading.current_thread() is threading.main_thread()
        while not condition():
            if time.monotonic() > deadline:
                return False
            if supervises:
                self.supervise()
            time.sleep(every_s)
        return True

    def kill(self) -> None:
        """End everything at once."""
        for program in (*self.programs.values(), self.proxy):
            program.kill()

    # What can be seen

    def counts(self) -> Counts:
        """The clients' counts, added up."""
        first = (n * CLIENTS_OF_A_PROCESS + 1 for n in range(CLIENT_PROCESSES))
        read = [CountsFile(self.folder / f"client-{n}.counts").read() for n in first]
        return Counts(*(sum(getattr(c, f) for c in read) for f in Counts.__dataclass_fields__))

    def status(self, name: str) -> ledger_pb2.GetStatusResponse | None:
        """What a node says of itself, asked past the proxy; None when it says nothing."""
        channel = self._channels.get(name)
        if channel is None:
            # a dead node's successor is looked for at once, not after gRPC's own pause
            options = [("grpc.max_reconnect_backoff_ms", 200)]
            channel = grpc.insecure_channel(self.addresses[name], options)
            self._channels[name] = channel
        stub = ledger_pb2_grpc.ClusterServiceStub(channel)
        try:
            answer: ledger_pb2.GetStatusResponse = stub.GetStatus(
                ledger_pb2.GetStatusRequest(), timeout=_STATUS_TIMEOUT_S
            )
        except grpc.RpcError:
            return None
        return answer

    def channel(self, name: str) -> grpc.Channel:
        """The channel to a node, past the proxy."""
        self.status(name)
        return self._channels[name]

    def leader(self) -> str:
        """The name of the node that leads; empty while none says so."""
        claims = [
            (status.epoch, name)
            for name in self.leaders
            if self.nodes[name].is_running
            and (status := self.status(name)) is not None
            and status.role == ledger_pb2.ROLE_LEADER
        ]
        return max(claims)[1] if claims else ""

    def partition(self) -> tuple[int, list[int]]:
        """(the broker that leads the journal's partition, brokers in sync); (-1, []) if unknown."""
        try:
            if self._admin is None:
                self._admin = AdminClient(
                    {"bootstrap.servers": self.kafka.bootstrap, "log_level": 0}
                )
            topic = self._admin.list_topics(TOPIC, timeout=2).topics[TOPIC]
            found = topic.partitions[0]
        except (KafkaException, KeyError):
            return -1, []
        return found.leader, sorted(found.isrs)

    def next_broker(self) -> KafkaBroker:
        """One broker after the other."""
        self._turn += 1
        return self.kafka.brokers[self._turn % BROKERS]

    def _comes_back(self, broker: KafkaBroker) -> bool:
        """Whether a broker was restarted and doesn't serve yet; others count it in sync for a
        while as if it had never been away.
        """
        everyone = set(range(1, BROKERS + 1))
        if registered_brokers(broker.address, self.kafka.cluster_id) != everyone:
            return True
        self._restarted_brokers.discard(broker)
        return False

    def wait_served(self, seconds: float) -> bool:
        """Supervise until `is_served` or time is up."""
        return self.wait(seconds, self.is_served, every_s=0.1)

    def is_served(self) -> bool:
        """Whether a leader leads, a standby stands by, and all brokers are in sync."""
        return (
            all(broker.is_running for broker in self.kafka.brokers)
            and all(self.nodes[name].is_ready for name in self.leaders)
            and all(self.status(name) is not None for name in self.leaders)
            and bool(self.leader())
            and not any(self._comes_back(broker) for broker in list(self._restarted_brokers))
            and len(self.partition()[1]) == BROKERS
        )
