"""`kill -9` between every two steps of a save: the store holds the old snapshot or the new one."""

import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.batch import LedgerParameters
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotDelta, Snapshotter
from tests.property.strategies import NS_PER_S
from tests.random_ledger import RandomLedger
from tests.snapshot_rows import move, replica_of
from tests.store_address import PostgresAddress

PARAMETERS: Final = LedgerParameters(8_192, NS_PER_S, 1_000, 800)
STEPS_MAX: Final = 60


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotStore:
    if request.param == "sqlite":
        return open_snapshots(f"sqlite:///{tmp_path / 'snapshots.db'}")
    return open_snapshots(PostgresAddress(request.getfixturevalue("postgres")).url)


class Steps:
    """Kills this process before the step of a given number."""

    def __init__(self, last: int) -> None:
        self._left = last

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return called

    def count(self) -> None:
        """Make each statement, COPY and commit of both databases' modules a step."""

        class Counted(sqlite3.Connection):
            execute = self.before(sqlite3.Connection.execute)
            executemany = self.before(sqlite3.Connection.executemany)
            close = self.before(sqlite3.Connection.close)

        connect = partial(sqlite3.connect, factory=Counted)
        vars(sqlite3)["connect"] = connect
        for owner, name in (
            (psycopg.Connection, "execute"),
            (psycopg.Connection, "commit"),
            (psycopg.Connection, "close"),
            (psycopg.Cursor, "executemany"),
            (psycopg.Cursor, "copy"),
            (psycopg.Copy, "write"),
        ):
            setattr(owner, name, self.before(getattr(owner, name)))


def save_and_die(store: SnapshotStore, delta: SnapshotDelta, step: int) -> bool:
    """Save in a process that is killed before a step; False if the save has fewer."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Steps(step).count()
            store.save(delta)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def stored_digest(store: SnapshotStore) -> bytes:
    restorer = store.restore(Restorer, lambda _: None)
    assert restorer is not None
    state = restorer.finish().state
    assert state is not None
    return state.digest()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_save_that_is_killed_at_any_step_was_done_wholly_or_not_at_all(
    store: SnapshotStore,
) -> None:
    ledger = RandomLedger(21, PARAMETERS)
    replica = replica_of(ledger.machine)
    ledger.run_some(2_000)
    move(replica, 2)
    first = Snapshotter(replica, None).take(1).finish()
    for _ in range(3):
        ledger.run_some(2_000)
    move(replica, 3)
    second = Snapshotter(replica, first.new_base).take(2).finish()
    digests, outcomes = [delta.header.state_digest for delta in (first, second)], []
    for step in range(1, STEPS_MAX):
        store.save(replace(first, stored=store.newest()))
        died = save_and_die(store, second, step)
        outcomes.append(digests.index(stored_digest(store)))
        if not died:
            break
    assert not died
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}
