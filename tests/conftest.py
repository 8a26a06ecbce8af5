"""Settings and servers of the whole suite: Hypothesis profiles, Kafka, PostgreSQL."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.leader_process import journal_url
from tests.service_programs import missing_for_kafka, missing_for_postgres
from tests.services import KafkaCluster, Postgres

# The first example of a test may compile a kernel: no deadline, and no check of speed.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    parent=settings.get_profile("local"),
    # The same examples on every run: a red CI is a change's fault, never chance's.
    derandomize=True,
    database=None,
    max_examples=200,
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker for all tests of this process; it starts with the first that wants it."""
    _demand(missing_for_kafka())
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture
def kafka_topic() -> str:
    """The name of a topic of this test's own; nobody has made it yet."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL server for all tests of this process."""
    _demand(missing_for_postgres())
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "kafka"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new journal of each kind."""
    if request.param == "sqlite":
        return journal_url(tmp_path)
    cluster: KafkaCluster = request.getfixturevalue("kafka")
    return f"kafka://{cluster.bootstrap}/{request.getfixturevalue('kafka_topic')}"


def _demand(missing: str | None) -> None:
    """Skip the test if something is missing; in CI nothing is skipped for want of a server."""
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
