"""Settings and servers of the whole suite: Hypothesis profiles, Kafka, PostgreSQL."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.leader_process import EDGE_VARIABLE, journal_url
from tests.service_programs import demand, missing_for_kafka, missing_for_postgres
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


_WHOLE_PROGRAMS: Final = ("system", "browsing")


class ProgramsApart(LoadScopeScheduling):  # type: ignore[misc]
    """Shares tests out file by file: the first process begins with what starts whole programs.

    The others begin with the rest: several nodes, brokers and browsers at a time are enough for two
    cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: Any) -> None:
        is_first = node.gateway.id == "gw0"
        # of programs the files with the fewest tests come first: these take the longest
        waiting = reversed(self.workqueue) if is_first else iter(self.workqueue)
        wanted = (file for file in waiting if _starts_programs(file) == is_first)
        if (file := next(wanted, None)) is not None:
            self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)


def _starts_programs(file: str) -> bool:
    return PurePosixPath(file).parent.name in _WHOLE_PROGRAMS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ProgramsApart:
    """How `make test` shares the tests out."""
    return ProgramsApart(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker for all tests of this process; it starts with the first that wants it."""
    demand(missing_for_kafka())
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["native", "grpcio"])
def edge(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the edges that can serve a node, in turn: nodes that start meanwhile have it."""
    name: str = request.param
    if name == "native":
        demand(_missing_for_native())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EDGE_VARIABLE, name)
        yield name


def _missing_for_native() -> str | None:
    try:
        import cluster_app.edge._native  # noqa: F401
    except ImportError:
        return "the native edge isn't built: install Rust and run `make setup`"
    return None


@pytest.fixture
def kafka_topic() -> str:
    """The name of a topic of this test's own; nobody has made it yet."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL server for all tests of this process."""
    demand(missing_for_postgres())
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "kafka"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new journal of each kind."""
    if request.param == "sqlite":
        return journal_url(tmp_path)
    cluster: KafkaCluster = request.getfixturevalue("kafka")
    return f"kafka://{cluster.bootstrap}/{request.getfixturevalue('kafka_topic')}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, headless, for the tests of one file: `tests.browser.Browser`."""
    from tests.browser import Browser, missing_for_browser

    demand(missing_for_browser())
    with Browser() as browser:
        yield browser


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """A program that a test runs in this process sets where logs go, to a file of that test."""
    yield
    structlog.reset_defaults()
