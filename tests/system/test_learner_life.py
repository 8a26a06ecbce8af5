"""A learner's life in real processes: kills, lost databases, full disks, two at once."""

import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cluster_app.journals import open_journal
from cluster_app.snapshot_store import open_snapshots
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, Load, check_retry, create_account, status, submit
from tests.random_ledger import RandomJournal
from tests.server_process import poll_until
from tests.services import Postgres
from tests.store_address import PostgresAddress
from tests.stored_snapshot import check_stored

OFTEN = ("--snapshot-interval-s", "0.1")


@pytest.fixture(params=["sqlite", "postgres"])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'snapshots.db'}"
    return PostgresAddress(request.getfixturevalue("postgres")).url


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that a test may kill."""
    with Postgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as process:
        submit(process.wait_ready().address, create_account())
        yield process


def test_a_leader_starts_from_the_learner_s_snapshot_and_the_rest(
    tmp_path: Path, snapshots: str, leader: LeaderProcess
) -> None:
    journal = journal_url(tmp_path)
    load = Load(leader.address)
    load.wait_some()
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        learner.wait_ready().wait_snapshots(3)
        learner.stop()
        stored = learner.events("snapshot")[-1]
    more = Load(leader.address)
    more.wait_some()
    leader.kill()
    load.finish()
    more.finish()
    assert check_stored(journal, open_snapshots(snapshots)).applied == stored["applied"]
    with LeaderProcess(journal, "--snapshots", snapshots) as second:
        check_retry(load, second.wait_ready().address, more)
        second.signal(signal.SIGTERM)
        code, log = second.wait_exit()
    assert code == 0
    assert "restored a snapshot" in log
    with LeaderProcess(journal, "--snapshots", snapshots, "--no-snapshot") as third:
        third.wait_ready().signal(signal.SIGTERM)
        assert "replaying from the journal's start" in third.wait_exit()[1]


def test_killed_at_random_moments_a_learner_goes_on_and_what_is_stored_is_always_whole(
    tmp_path: Path, snapshots: str, leader: LeaderProcess
) -> None:
    journal, store = journal_url(tmp_path), open_snapshots(snapshots)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    load = Load(leader.address, batch=50, in_flight=1)
    load.wait_some()
    offset = 0
    for _ in range(5):
        with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
            learner.wait_snapshots(1)
            # within one of the next snapshots, which come ten times a second
            time.sleep(moments.random() * 0.3)
            learner.kill()
        header = check_stored(journal, store)
        assert header.position.next_offset > offset
        offset = header.position.next_offset
    load.finish()
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        learner.wait_ready().stop()
    with closing(open_journal(journal)) as opened:
        assert check_stored(journal, store).position.next_offset <= opened.end_offset()


def test_two_learners_on_one_store_never_spoil_it_and_one_is_enough(
    tmp_path: Path, snapshots: str, leader: LeaderProcess
) -> None:
    journal = journal_url(tmp_path)
    load = Load(leader.address, in_flight=1)
    with (
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as one,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as other,
    ):
        going_on = "the store has another snapshot: going on from it"
        one.wait_until(lambda: one.events(going_on) or other.events(going_on))
        first, second = (one, other) if other.events(going_on) else (other, one)
        first.wait_snapshots(1)
        first.kill()
        second.wait_snapshots(len(second.events("snapshot")) + 2)
        load.finish()
        leader.signal(signal.SIGTERM)
        leader.process.wait(DEADLINE_S)
        with closing(open_journal(journal)) as opened:
            end = opened.end_offset()
        second.wait_until(lambda: status(second.address).next_offset == end)
        second.stop()
    header = check_stored(journal, open_snapshots(snapshots))
    with closing(open_journal(journal)) as opened:
        assert header.position.next_offset == opened.end_offset()


def test_a_learner_outlives_its_postgres_killed_between_and_during_snapshots(
    tmp_path: Path, own_postgres: Postgres, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), own_postgres.url
    moments = random.Random(1)
    load = Load(leader.address, batch=500)
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        for _ in range(4):
            saved = len(learner.events("snapshot"))
            learner.wait_snapshots(saved + 2)
            time.sleep(moments.random() * 0.2)
            failed = len(learner.events("the snapshot was not saved"))
            own_postgres.kill()
            learner.wait_until(
                lambda failed=failed: len(learner.events("the snapshot was not saved")) > failed
            )
            own_postgres.start()
            own_postgres.wait_ready()
            check_stored(journal, open_snapshots(snapshots))
        saved = len(learner.events("snapshot"))
        learner.wait_snapshots(saved + 1)
        load.finish()
        learner.stop()
    check_stored(journal, open_snapshots(snapshots))


def test_a_learner_waits_for_a_postgres_that_is_down_at_its_start(
    tmp_path: Path, own_postgres: Postgres, leader: LeaderProcess
) -> None:
    journal = journal_url(tmp_path)
    own_postgres.stop()
    with LearnerProcess(tmp_path, journal, own_postgres.url, *OFTEN) as learner:
        learner.wait_until(lambda: learner.events("a store gives nothing: waiting for it"))
        assert "ringledger:ringledger" not in learner.log
        own_postgres.start()
        own_postgres.wait_ready()
        learner.wait_snapshots(1)
        learner.stop()
    check_stored(journal, open_snapshots(own_postgres.url))


def test_a_refused_transaction_is_told_and_tried_again(
    tmp_path: Path, postgres: Postgres, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), PostgresAddress(postgres).url
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        learner.wait_snapshots(1)
        database = "ALTER DATABASE ringledger SET default_transaction_read_only"
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            connection.execute(f"{database} = on".encode())
            learner.wait_until(lambda: learner.events("the snapshot was not saved"))
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"{database} = off".encode())
        assert "read-only" in learner.events("the snapshot was not saved")[0]["error"]
        learner.wait_snapshots(len(learner.events("snapshot")) + 1)
        learner.stop()
    check_stored(journal, open_snapshots(snapshots))


def test_a_table_that_somebody_locks_is_told_and_the_snapshot_is_tried_again(
    tmp_path: Path, postgres: Postgres, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), PostgresAddress(postgres).url
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        learner.wait_snapshots(1)
        with psycopg.connect(postgres.conninfo) as connection:
            connection.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
            learner.wait_until(lambda: learner.events("the snapshot was not saved"))
        assert "lock" in learner.events("the snapshot was not saved")[0]["error"]
        learner.wait_snapshots(len(learner.events("snapshot")) + 1)
        learner.stop()
    check_stored(journal, open_snapshots(snapshots))


def test_a_full_disk_is_told_and_the_snapshot_is_tried_again(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    """A limit on the size of the process's files stands for the disk."""
    journal, snapshots = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    load = Load(leader.address, batch=500)
    load.wait_some()
    with LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner:
        learner.wait_snapshots(1)
        before = resource.prlimit(learner.process.pid, resource.RLIMIT_FSIZE, (65_536, -1))
        learner.wait_until(lambda: learner.events("the snapshot was not saved"))
        resource.prlimit(learner.process.pid, resource.RLIMIT_FSIZE, before)
        learner.wait_snapshots(len(learner.events("snapshot")) + 1)
        load.finish()
        learner.stop()
    check_stored(journal, open_snapshots(snapshots))


def test_a_stop_saves_once_more_and_gives_up_at_its_deadline(
    tmp_path: Path, own_postgres: Postgres, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), own_postgres.url
    seldom = ("--snapshot-interval-s", "3600")
    with LearnerProcess(tmp_path, journal, snapshots, *seldom) as learner:
        learner.wait_ready().stop()
        assert len(learner.events("snapshot")) == 1
    submit(leader.address, create_account())
    with LearnerProcess(tmp_path, journal, snapshots, *seldom, "--stop-timeout-s", "2") as learner:
        learner.wait_ready()
        own_postgres.kill()
        begun = time.monotonic()
        learner.stop()
        assert time.monotonic() - begun < DEADLINE_S
        assert learner.events("stopped without the last snapshot")


def test_a_snapshot_comes_after_so_many_commands_too(tmp_path: Path, leader: LeaderProcess) -> None:
    journal, snapshots = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    flags = ("--snapshot-interval-s", "3600", "--snapshot-interval-commands", "100")
    load = Load(leader.address, batch=50)
    with LearnerProcess(tmp_path, journal, snapshots, *flags) as learner:
        learner.wait_snapshots(2)
        load.finish()


def test_a_fault_in_the_journal_ends_a_learner_with_one_line(tmp_path: Path) -> None:
    address, snapshots = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    with closing(open_journal(address)) as journal:
        ledger = RandomJournal(journal, 5, SMALL_LEDGER)
        ledger.run_some(100)
        with LearnerProcess(tmp_path, address, snapshots, *OFTEN) as learner:
            learner.wait_snapshots(1)
            ledger.append_raw(b"no batch")
            code, log = learner.wait_exit()
        ledger.close()
    said = [line for line in log.splitlines() if not line.startswith("{")]
    assert code == 1
    assert len(said) == 1
    assert said[0].startswith("ringledger learner: journal offset 3: ")
    assert poll_until(lambda: open_snapshots(snapshots).newest() is not None, DEADLINE_S)


@pytest.mark.parametrize("role", ["leader", "learner"])
def test_a_changed_row_stops_leader_and_learner_with_one_line_that_names_it(
    tmp_path: Path, snapshots: str, role: str
) -> None:
    address = journal_url(tmp_path)
    with closing(open_journal(address)) as journal:
        ledger = RandomJournal(journal, 5, SMALL_LEDGER)
        ledger.run_some(100)
        ledger.close()
    with LearnerProcess(tmp_path, address, snapshots) as learner:
        learner.wait_ready().stop()
    change(snapshots, "UPDATE accounts SET posted = posted + 1 WHERE account_id = 3")
    if role == "leader":
        with LeaderProcess(address, "--snapshots", snapshots) as leader:
            code, log = leader.wait_exit()
    else:
        with LearnerProcess(tmp_path, address, snapshots) as learner:
            code, log = learner.wait_exit()
    assert code == 1
    assert "Traceback" not in log
    assert "accounts: the row with account_id 3 was changed" in log
    with LearnerProcess(tmp_path, address, snapshots, "--no-snapshot") as learner:
        learner.wait_ready().stop()
    check_stored(address, open_snapshots(snapshots))


def change(snapshots: str, statement: str) -> None:
    if snapshots.startswith("sqlite"):
        import sqlite3

        with closing(sqlite3.connect(snapshots.removeprefix("sqlite:///"))) as connection:
            connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(snapshots.replace("+psycopg", "")) as connection:
        connection.execute(statement.encode())
