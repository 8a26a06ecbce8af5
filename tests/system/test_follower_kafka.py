"""A follower of a Kafka journal, with its snapshots in PostgreSQL."""

from pathlib import Path

import grpc
import pytest

from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, Load, create_account, deposits, status, submit
from tests.server_process import poll_until
from tests.services import KafkaCluster, Postgres
from tests.store_address import PostgresAddress
from tests.system.test_follower_life import all_accounts, wait_applied


@pytest.fixture
def snapshots(postgres: Postgres) -> str:
    return PostgresAddress(postgres).url


def test_it_begins_with_the_snapshot_follows_and_outlives_a_restart_of_the_broker(
    tmp_path: Path, kafka: KafkaCluster, kafka_topic: str, snapshots: str
) -> None:
    del kafka  # which skips where Kafka can't run
    with KafkaCluster(tmp_path / "broker") as cluster:
        url = f"kafka://{cluster.bootstrap}/{kafka_topic}"
        with LeaderProcess(url, "--no-snapshot", "--append-timeout-s", "120") as leader:
            submit(leader.wait_ready().address, create_account(), deposits(50))
            with LearnerProcess(tmp_path, url, snapshots) as learner:
                learner.wait_ready().stop()
            submit(leader.address, deposits(3))
            flags = ("--snapshots", snapshots, "--workers", "2")
            with FollowerProcess(tmp_path, url, *flags) as follower:
                wait_applied(follower.wait_ready(), leader)
                [restored] = follower.events("restored a snapshot")
                assert restored["applied"] == 51
                load = Load(leader.address)
                load.wait_some()
                [broker] = cluster.brokers
                broker.kill()
                assert status(follower.address).accounts == 1
                broker.start()
                broker.wait_ready()
                answered = len(load.answered)
                assert poll_until(lambda: len(load.answered) > answered + 20, 3 * DEADLINE_S)
                load.finish()
                wait_applied(follower, leader)
                assert all_accounts(follower.address) == all_accounts(leader.address)
                follower.stop()


def test_it_follows_from_one_leader_to_the_next(
    tmp_path: Path, kafka: KafkaCluster, kafka_topic: str
) -> None:
    url = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    with FollowerProcess(tmp_path, url, "--no-snapshot") as follower:
        with LeaderProcess(url, "--no-snapshot") as leader:
            submit(leader.wait_ready().address, create_account(), deposits(5))
            wait_applied(follower.wait_ready(), leader)
            assert poll_until(lambda: _leader(follower) == leader.address, DEADLINE_S)
            leader.kill()
        with LeaderProcess(url, "--no-snapshot") as successor:
            submit(successor.wait_ready().address, deposits(5))
            wait_applied(follower, successor)
            assert poll_until(lambda: _leader(follower) == successor.address, DEADLINE_S)
            assert status(follower.address).epoch == 2
            assert all_accounts(follower.address) == all_accounts(successor.address)
        follower.stop()


def _leader(follower: FollowerProcess) -> str:
    try:
        return str(status(follower.address).leader)
    except grpc.RpcError:
        return ""
