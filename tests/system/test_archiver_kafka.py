"""An archiver between Kafka and PostgreSQL: killed in its backfill, every command is there once."""

import time
from pathlib import Path
from random import Random

import pytest

from tests.archiver_process import ArchiverProcess
from tests.http_get import value
from tests.services import KafkaCluster, Postgres
from tests.store_address import PostgresAddress
from tests.system.test_archiver_life import (
    archived,
    assert_nothing_halved,
    assert_whole,
    fill,
    flags,
)

BATCHES = 200
KILLS = 5


@pytest.mark.timeout(300)
def test_killed_in_a_backfill_from_kafka_every_command_is_there_once(
    tmp_path: Path, kafka: KafkaCluster, kafka_topic: str
) -> None:
    url = f"kafka://{kafka.brokers[0].address}/{kafka_topic}"
    commands = fill(url, BATCHES)
    random = Random(11)
    with Postgres(tmp_path / "postgres") as server:
        history = PostgresAddress(server)
        for _ in range(KILLS):
            before = archived(history)
            with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
                archiver.wait_until(lambda before=before: _is_done(history, before, commands))
                deadline = time.monotonic() + random.uniform(0.0, 0.3)
                archiver.wait_until(lambda deadline=deadline: time.monotonic() > deadline)
                archiver.kill()
            assert archived(history) >= before
            assert_nothing_halved(history)
        with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
            here = archiver.wait_ready().http_address
            archiver.wait_until(lambda: value(here, "history_complete_sequence") == commands)
            archiver.stop()
        assert_whole(history, commands)


def _is_done(history: PostgresAddress, before: int, commands: int) -> bool:
    return archived(history) > before or archived(history) == commands
