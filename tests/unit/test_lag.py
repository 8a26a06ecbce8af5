"""The lag of a node behind its journal, from offsets and the newest records' headers."""

from contextlib import closing

import pytest

from cluster_app.lag import Lag, LagWatch, measure_lag
from cluster_core.batch import Kind
from cluster_core.journal import MemoryJournal
from cluster_core.replay import Replica
from tests.journal_replay import SMALL_LEDGER, records_of, replay
from tests.random_ledger import RandomJournal
from tests.server_process import poll_until

DEADLINE_S = 30.0


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def ledger(journal: MemoryJournal) -> RandomJournal:
    ledger = RandomJournal(journal, 3, SMALL_LEDGER)
    for count in (100, 200, 300):
        ledger.run_some(count)
    return ledger


def test_a_node_that_has_everything_has_no_lag(
    journal: MemoryJournal, ledger: RandomJournal
) -> None:
    replica = replay(journal, Replica(), journal.end_offset())
    assert measure_lag(journal, lambda: replica.position) == Lag(0, 0.0, 5)


def test_the_lag_is_in_commands_and_ledger_time_up_to_the_newest_record(
    journal: MemoryJournal, ledger: RandomJournal
) -> None:
    replica = replay(journal, Replica(), 3)
    then_ns = replica.position.timestamp_ns
    lag = measure_lag(journal, lambda: replica.position)
    assert lag == Lag(500, (ledger.now_ns - then_ns) / 1e9, 5)
    ledger.now_ns += 10**9
    ledger.append(Kind.HEARTBEAT)
    lag = measure_lag(journal, lambda: replica.position)
    assert lag == Lag(500, (ledger.now_ns - then_ns) / 1e9, 6)


def test_late_writes_and_foreign_records_at_the_end_say_nothing(
    journal: MemoryJournal, ledger: RandomJournal
) -> None:
    replica = replay(journal, Replica(), 4)
    ledger.append_raw(b"no batch of ours")
    lag = measure_lag(journal, lambda: replica.position)
    assert lag is not None
    assert (lag.commands, lag.end_offset) == (300, 6)


def test_an_empty_journal_is_no_lag() -> None:
    replica = Replica()
    assert measure_lag(MemoryJournal(), lambda: replica.position) == Lag(0, 0.0, 0)


def test_the_watch_sees_a_lag_come_and_go(journal: MemoryJournal, ledger: RandomJournal) -> None:
    replica = replay(journal, Replica(), journal.end_offset())
    with closing(LagWatch(journal, lambda: replica.position, interval_s=0.01)) as watch:
        assert poll_until(lambda: watch.lag == Lag(0, 0.0, 5), DEADLINE_S)
        ledger.run_some(50)
        assert poll_until(lambda: watch.lag.commands == 50, DEADLINE_S)
        for record in records_of(journal, 5, 6):
            replica.take(record)
        assert poll_until(lambda: watch.lag == Lag(0, 0.0, 6), DEADLINE_S)
