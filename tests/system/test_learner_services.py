"""A learner between Kafka and PostgreSQL, as variables name them: either may die or be full."""

import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from cluster_app.snapshot_store import open_snapshots
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import Load, create_account, status, submit
from tests.services import KafkaBroker, KafkaCluster, Postgres
from tests.stored_snapshot import check_stored

OFTEN: Final = ("--snapshot-interval-s", "0.1")
FILE_BYTES: Final = 17 << 20
"""PostgreSQL's own log has files of 16 MiB: these must still fit."""


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that a test may kill."""
    with Postgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture
def broker(kafka: KafkaCluster, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that a test may kill."""
    del kafka  # which skips where Kafka can't run
    with KafkaCluster(tmp_path / "kafka") as cluster:
        yield cluster.brokers[0]


def test_a_learner_between_kafka_and_postgres_outlives_both(
    tmp_path: Path,
    broker: KafkaBroker,
    own_postgres: Postgres,
    kafka_topic: str,
) -> None:
    journal, snapshots = f"kafka://{broker.address}/{kafka_topic}", own_postgres.url
    variables = {"RINGLEDGER_JOURNAL": journal, "RINGLEDGER_SNAPSHOTS": snapshots}
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, "", "", *OFTEN, variables=variables) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, batch=100)
        learner.wait_ready().wait_snapshots(2)
        for server in (broker, own_postgres, broker, own_postgres):
            # within one of the next snapshots, which come ten times a second
            time.sleep(moments.random() * 0.3)
            saved = len(learner.events("snapshot"))
            server.kill()
            server.start()
            server.wait_ready()
            answered = len(load.answered)
            learner.wait_snapshots(saved + 2)
            learner.wait_until(lambda answered=answered: len(load.answered) > answered)
        load.finish()
        assert load.error is None
        applied = 1 + sum(map(len, load.answered))
        learner.wait_until(lambda: status(learner.address).applied_sequence == applied)
        learner.stop()
        leader.kill()
    assert "ringledger:ringledger" not in learner.log
    header = check_stored(journal, open_snapshots(snapshots))
    assert header.applied == applied
    with LeaderProcess(journal, "--snapshots", snapshots) as second:
        assert second.wait_ready().applied == header.applied


def test_killed_at_random_moments_a_learner_of_kafka_goes_on_from_what_is_stored(
    tmp_path: Path, kafka: KafkaCluster, kafka_topic: str, own_postgres: Postgres
) -> None:
    journal, snapshots = f"kafka://{kafka.bootstrap}/{kafka_topic}", own_postgres.url
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with LeaderProcess(journal, "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, batch=50, in_flight=1)
        offset = 0
        for _ in range(3):
            with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
                learner.wait_snapshots(1)
                time.sleep(moments.random() * 0.3)
                learner.kill()
            header = check_stored(journal, open_snapshots(snapshots))
            assert header.position.next_offset > offset
            offset = header.position.next_offset
        load.finish()


@contextmanager
def small_files() -> Iterator[None]:
    """Processes started meanwhile can't write beyond FILE_BYTES of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_under_postgres_is_told_and_the_snapshot_is_tried_again(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    """A limit on the size of the server's files stands for the disk."""
    journal, snapshots = journal_url(tmp_path), own_postgres.url
    own_postgres.stop()
    with small_files():
        own_postgres.start()
    own_postgres.wait_ready()
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_snapshots(1)
        load = Load(leader.address, batch=8_000, in_flight=2)
        learner.wait_until(lambda: learner.events("the snapshot was not saved"))
        load.finish()
        told = learner.events("the snapshot was not saved")[0]["error"]
        assert "could not extend file" in told or "could not write" in told
        check_stored(journal, open_snapshots(snapshots))
        own_postgres.stop()
        own_postgres.start()
        own_postgres.wait_ready()
        learner.wait_snapshots(len(learner.events("snapshot")) + 1)
        learner.stop()
        leader.kill()
    header = check_stored(journal, open_snapshots(snapshots))
    assert header.applied == 1 + sum(map(len, load.answered))


def test_another_program_s_tables_end_a_learner_with_one_line(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    with psycopg.connect(own_postgres.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE accounts(id int)")
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, own_postgres.url, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        code, log = learner.wait_exit()
        leader.kill()
    said = [line for line in log.splitlines() if not line.startswith("{")]
    assert code == 1
    assert len(said) == 1
    assert "another program's tables are there" in said[0]
