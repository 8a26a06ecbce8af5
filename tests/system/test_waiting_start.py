"""Nodes that are started while their database or their brokers are down, or refuse them."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient

from cluster_app.journals import open_journal
from tests.archiver_process import ArchiverProcess
from tests.http_get import answer, scrape
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, create_account, submit
from tests.random_ledger import RandomJournal
from tests.server_process import HOST, free_ports
from tests.services import KafkaBroker, KafkaCluster, Postgres

ROLES: Final = ("leader", "follower", "learner", "archiver")
_STORE_WAITS: Final = "a store gives nothing: waiting for it"
_JOURNAL_WAITS: Final = "the journal gives nothing: waiting for it"
_STOP_TIMEOUT_S: Final = 30.0
_JAVA_FLAGS: Final = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class StartedNode(LearnerProcess):
    """A node of any role, with its HTTP side known before it is ready."""

    def __init__(
        self, role: str, folder: Path, journal: str, database: str = "", *flags: str
    ) -> None:
        """`database`: where snapshots are, an archiver's history; by default a file of none."""
        self.role = role
        self.http = f"{HOST}:{free_ports(1)[0]}"
        database = database or f"sqlite:///{folder / f'{role}.db'}"
        is_archiver = role == ArchiverProcess.role
        super().__init__(
            folder,
            journal,
            f"sqlite:///{folder / 'none.db'}" if is_archiver else database,
            *(("--history", database) if is_archiver else ()),
            *("--http-listen", self.http, *flags),
        )

    def wait_waits(self, event: str, reason: str) -> None:
        """Wait until it says that it waits, in its log and by its health; it must go on so."""
        self.wait_until(lambda: len(self.events(event)) >= 2)
        said = self.events(event)
        assert all(line["level"] == "warning" for line in said)
        assert all(line["retry_in_s"] > 0 for line in said)
        assert answer(self.http, "/health/live")["status"] == 200
        ready = answer(self.http, "/health/ready")
        assert (ready["status"], ready["reason"]) == (503, reason)
        assert self.process.poll() is None

    def stop_waiting(self) -> None:
        """SIGTERM, and a clean end before anything is there that it waits for."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_STOP_TIMEOUT_S) == 0, self.log
        assert "Traceback" not in self.log

    def refused(self) -> str:
        """Wait for the end with exit code 1: the one line that says why."""
        code, log = self.wait_exit()
        said = [line for line in log.splitlines() if not line.startswith("{")]
        assert code == 1, log
        assert len(said) == 1, log
        assert said[0].startswith(f"ringledger {self.role}: ")
        return said[0]


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """A journal of a few batches, which nobody leads."""
    address = journal_url(tmp_path)
    with closing(open_journal(address)) as opened:
        ledger = RandomJournal(opened, 5, SMALL_LEDGER)
        ledger.run_some(100)
        ledger.close()
    return address


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that tests may stop; each must leave it serving."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def stopped_postgres(own_postgres: Postgres) -> Iterator[Postgres]:
    own_postgres.stop()
    yield own_postgres
    if not own_postgres.is_running:
        own_postgres.start()
    own_postgres.wait_ready()


@pytest.mark.parametrize("role", ROLES)
def test_a_node_waits_for_a_postgres_that_is_down_at_its_start(
    tmp_path: Path, journal: str, stopped_postgres: Postgres, role: str
) -> None:
    with StartedNode(role, tmp_path, journal, stopped_postgres.url) as node:
        node.wait_waits(_STORE_WAITS, "waiting for a store")
        assert "ringledger:ringledger" not in node.log
        stopped_postgres.start()
        node.wait_ready()
        assert answer(node.http, "/health/ready")["status"] == 200
        node.stop()


@pytest.mark.parametrize("role", ROLES)
def test_sigterm_ends_the_wait_for_a_postgres_at_once(
    tmp_path: Path, journal: str, stopped_postgres: Postgres, role: str
) -> None:
    with StartedNode(role, tmp_path, journal, stopped_postgres.url) as node:
        node.wait_waits(_STORE_WAITS, "waiting for a store")
        node.stop_waiting()


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_password_ends_a_start_with_one_line(
    tmp_path: Path, journal: str, postgres: Postgres, role: str
) -> None:
    wrong = postgres.url.replace(":ringledger@", ":wrong@")
    with StartedNode(role, tmp_path, journal, wrong) as node:
        line = node.refused()
    assert "password authentication failed" in line
    assert ":wrong@" not in node.log


@pytest.mark.parametrize("role", ["leader", "archiver"])
def test_an_unknown_database_ends_a_start_with_one_line(
    tmp_path: Path, journal: str, postgres: Postgres, role: str
) -> None:
    unknown = postgres.url.removesuffix("ringledger") + "nowhere"
    with StartedNode(role, tmp_path, journal, unknown) as node:
        assert 'database "nowhere" does not exist' in node.refused()


@pytest.mark.parametrize("role", ROLES)
def test_a_node_waits_for_brokers_as_long_as_it_takes(
    tmp_path: Path, kafka_topic: str, role: str
) -> None:
    journal = f"kafka://{HOST}:{free_ports(1)[0]}/{kafka_topic}"
    with StartedNode(role, tmp_path, journal) as node:
        node.wait_until(lambda: node.events("journal_unreachable"))
        said, *_ = node.events("journal_unreachable")
        assert said["journal"] == journal
        assert said["retry_in_s"] > 0
        assert "seconds_left" not in said
        assert answer(node.http, "/health/live")["status"] == 200
        ready = answer(node.http, "/health/ready")
        assert (ready["status"], ready["reason"]) == (503, "waiting for the journal")
        node.stop_waiting()


@pytest.mark.timeout(300)
def test_nodes_wait_for_the_broker_that_has_the_partition(
    kafka: KafkaCluster, tmp_path: Path, kafka_topic: str
) -> None:
    """The others answer, know the topic, and can't say where the log ends."""
    del kafka  # which skips where Kafka can't run
    with KafkaCluster(tmp_path / "kafka", brokers=3, java_flags=_JAVA_FLAGS) as cluster:
        journal = f"kafka://{cluster.bootstrap}/{kafka_topic}"
        with LeaderProcess(journal, "--kafka-replication-factor", "1") as leader:
            submit(leader.wait_ready().address, create_account())
            leader.signal(signal.SIGTERM)
            assert leader.wait_exit()[0] == 0
        broker = _broker_of(cluster, kafka_topic)
        broker.kill()
        with ExitStack() as stack:
            nodes = [
                stack.enter_context(StartedNode(role, tmp_path, journal))
                for role in (*ROLES, "follower")
            ]
            for node in nodes:
                node.wait_waits(_JOURNAL_WAITS, "waiting for the journal")
            nodes.pop().stop_waiting()
            broker.start()
            broker.wait_ready()
            for node in nodes:
                node.wait_ready()
            for node in nodes:
                node.stop()


def test_a_first_leader_waits_for_brokers_that_fall_silent_before_it_leads(
    kafka: KafkaCluster, kafka_topic: str, tmp_path: Path
) -> None:
    [broker] = kafka.brokers
    journal = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    hindered = "can't lead now: standing by"
    with LeaderProcess(journal) as before:
        submit(before.wait_ready().address, create_account())
        before.kill()
    with StartedNode("leader", tmp_path, journal, "", "--election-timeout-s", "10") as node:
        # its first look at the journal's end is over: what comes next is its candidacy
        node.wait_until(lambda: node.events("replayed"))
        node.wait_until(lambda: ("ringledger_lag_commands", ()) in scrape(node.http))
        broker.pause()
        try:
            node.wait_until(lambda: node.events(hindered))
            assert "the end of the log is unknown" in node.events(hindered)[0]["reason"]
            assert answer(node.http, "/health/live")["status"] == 200
            assert answer(node.http, "/health/ready")["status"] == 503
        finally:
            broker.resume()
        node.wait_ready().stop()


def _broker_of(cluster: KafkaCluster, topic: str) -> KafkaBroker:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    partition = admin.list_topics(topic, DEADLINE_S).topics[topic].partitions[0]
    assert partition.replicas == [partition.leader]
    return cluster.brokers[partition.leader - 1]
