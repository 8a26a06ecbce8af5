"""What is waited for at a start, how often a refusal is heard, and what health says meanwhile."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from cluster_app import retry
from cluster_app.errors import JournalUnreachable, Stopped, StoreRefuses
from cluster_app.http_side import NodeHealth
from cluster_app.retry import REFUSALS_MAX, patiently
from cluster_core.errors import JournalFault, StoreUnavailable


class Clock:
    """Time that passes only where somebody sleeps; each stretch without a try is one wait."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


@pytest.fixture
def health() -> NodeHealth:
    health = NodeHealth()
    health.not_ready("replaying")
    return health


def failing(health: NodeHealth, *errors: Exception) -> tuple[Callable[[], str], list[str]]:
    """A read that fails so often and then gives "read"; what health says at each try."""
    left, said = list(errors), []

    def read() -> str:
        said.append(health.not_ready_because)
        if left:
            raise left.pop(0)
        return "read"

    return read, said


def running() -> bool:
    return False


def test_what_can_not_be_reached_is_asked_again_less_and_less_often(
    health: NodeHealth, clock: Clock
) -> None:
    read, said = failing(
        health,
        StoreUnavailable("no store"),
        JournalUnreachable("no journal"),
        *(StoreUnavailable("no store") for _ in range(8)),
    )
    with capture_logs() as logs:
        assert patiently(read, running, health) == "read"
    assert [line["retry_in_s"] for line in logs] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert [line["error"] for line in logs[:3]] == ["no store", "no journal", "no store"]
    assert {line["log_level"] for line in logs} == {"warning"}
    assert clock.now_s >= 100 + 0.5 + 1 + 2 + 4 + 8 + 16 + 4 * 30
    assert said[:3] == ["replaying", "waiting for a store", "waiting for the journal"]
    assert health.not_ready_because == "replaying"
    assert health.is_live


def test_what_was_set_while_it_was_read_stays_when_nothing_failed(health: NodeHealth) -> None:
    patiently(health.ready, running, health)
    assert health.is_ready


def test_a_refusal_is_believed_when_it_has_come_a_few_times_in_a_row(health: NodeHealth) -> None:
    refusal = StoreRefuses("wrong password")
    read, said = failing(health, *[refusal] * REFUSALS_MAX)
    with pytest.raises(StoreRefuses, match="wrong password"):
        patiently(read, running, health)
    assert len(said) == REFUSALS_MAX


def test_a_server_that_comes_back_may_refuse_for_a_moment(health: NodeHealth) -> None:
    refusals = [StoreRefuses("too many clients")] * (REFUSALS_MAX - 1)
    read, _ = failing(health, *refusals, StoreUnavailable("it restarts"), *refusals)
    assert patiently(read, running, health) == "read"


def test_a_stop_ends_the_wait(health: NodeHealth, clock: Clock) -> None:
    read, said = failing(health, *[StoreUnavailable("no store")] * 9)
    with pytest.raises(Stopped):
        patiently(read, lambda: clock.now_s > 120, health)
    assert len(said) == 6  # at 0, 0.5, 1.5, 3.5, 7.5 and 15.5 s
    assert clock.now_s < 120.2


def test_other_errors_are_not_waited_for(health: NodeHealth) -> None:
    read, said = failing(health, JournalFault("journal offset 3: torn or altered"))
    with pytest.raises(JournalFault, match="torn"):
        patiently(read, running, health)
    assert len(said) == 1
