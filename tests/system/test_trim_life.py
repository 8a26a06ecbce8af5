"""A journal trimmed while its nodes live: they go on, or go back to the snapshot by themselves."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from cluster_app.journals import open_journal
from cluster_app.recovery import recover
from cluster_app.snapshot_store import open_snapshots
from tests.journal_replay import replay
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, Load, check_retry, create_account, status, submit
from tests.server_process import poll_until

OFTEN = ("--snapshot-interval-s", "0.1")
ROUND_MESSAGES = 120
NO_MARGIN = ("--margin-commands", "0")
GOING_BACK = "the journal was trimmed beyond this node: going back to the newest snapshot"


@pytest.fixture
def snapshots(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'snapshots.db'}"


def start_trim(journal: str, snapshots: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cluster_app", "trim", "--journal", journal),
            *("--snapshots", snapshots, *NO_MARGIN),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name},
        cwd=Path(__file__).parent.parent.parent,
    )


def trim(journal: str, snapshots: str) -> str:
    """Run `trim`; what it printed."""
    with start_trim(journal, snapshots) as process:
        printed, log = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 0, log
    return printed


def write_some(leader: LeaderProcess, messages: int) -> None:
    """Have so many messages of half a megabyte answered, or a few more."""
    load = Load(leader.address, batch=8_000, in_flight=2)
    assert poll_until(lambda: len(load.answered) > messages, DEADLINE_S)
    load.finish()


def start_of(journal: str) -> int:
    with closing(open_journal(journal)) as opened:
        return opened.start_offset()


def test_trims_under_load_cost_no_answer_and_every_node_goes_on(
    tmp_path: Path, journal: str, snapshots: str
) -> None:
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, batch=100)
        learner.wait_ready()
        starts = [0]
        for _ in range(3):
            learner.wait_snapshots(len(learner.events("snapshot")) + 2)
            assert "trimmed offsets=" in trim(journal, snapshots)
            starts.append(start_of(journal))
        assert starts == sorted(set(starts))
        answered = len(load.answered)
        assert poll_until(lambda: len(load.answered) > answered, DEADLINE_S)
        learner.wait_snapshots(len(learner.events("snapshot")) + 1)
        load.finish()
        assert load.error is None
        learner.stop()
        leader.kill()
    with LeaderProcess(journal, "--snapshots", snapshots) as second:
        check_retry(load, second.wait_ready().address)
        second.signal(signal.SIGTERM)
        assert second.wait_exit()[0] == 0


def pause_between_saves(learner: LearnerProcess, other: LearnerProcess) -> None:
    """Pause it where it holds no lock of the store: the other one goes on saving."""
    for _ in range(5):
        learner.pause()
        wanted = len(other.events("snapshot")) + 2  # one of them was begun after the pause
        if poll_until(lambda: len(other.events("snapshot")) >= wanted, 15.0):  # noqa: B023
            return
        learner.resume()
    raise AssertionError(other.log)


def test_a_learner_that_a_trim_overtakes_goes_back_to_the_snapshot_and_on(
    tmp_path: Path, journal: str, snapshots: str
) -> None:
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as stopped,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as other,
    ):
        submit(leader.wait_ready().address, create_account())
        stopped.wait_ready()
        other.wait_ready()
        assert poll_until(lambda: status(stopped.address).accounts == 1, DEADLINE_S)
        load = Load(leader.address, batch=100)
        load.wait_some()
        pause_between_saves(stopped, other)
        other.wait_snapshots(len(other.events("snapshot")) + 2)
        trim(journal, snapshots)
        other.wait_snapshots(len(other.events("snapshot")) + 1)
        load.finish()
        stopped.resume()
        stopped.wait_until(lambda: stopped.events(GOING_BACK))
        applied = status(leader.address).applied_sequence
        assert poll_until(lambda: status(stopped.address).applied_sequence == applied, DEADLINE_S)
        other.kill()
        stopped.wait_snapshots(len(stopped.events("snapshot")) + 1)
        leader.kill()
        stopped.stop()
    with closing(open_journal(journal)) as opened:
        replica, _ = recover(opened, open_snapshots(snapshots), lambda: False)
        replay(opened, replica, opened.end_offset())
        assert replica.position.next_sequence == applied


def test_a_standby_that_a_trim_overtakes_goes_back_to_the_snapshot_and_can_lead(
    tmp_path: Path, snapshots: str
) -> None:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_snapshots(1)
        with LeaderProcess(journal, "--snapshots", snapshots) as standby:
            address = standby.wait_standby().address
            standby.signal(signal.SIGSTOP)
            load = Load(leader.address, batch=100)
            load.wait_some()
            load.finish()
            learner.wait_snapshots(len(learner.events("snapshot")) + 2)
            trim(journal, snapshots)
            standby.signal(signal.SIGCONT)
            told = status(leader.address)
            assert poll_until(lambda: _caught_up(address, told.applied_sequence), DEADLINE_S)
            leader.kill()
            assert standby.wait_ready().address == address
            check_retry(load, address)
            standby.signal(signal.SIGTERM)
            code, log = standby.wait_exit()
        assert (code, GOING_BACK in log, "Traceback" in log) == (0, True, False), log


def _caught_up(address: str, applied: int) -> bool:
    """Whether it has applied so much; it serves nothing while it restores its snapshot."""
    try:
        return status(address).applied_sequence == applied
    except grpc.RpcError:
        return False


def test_a_node_without_the_snapshot_says_what_to_name_after_a_trim(
    tmp_path: Path, snapshots: str
) -> None:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_ready().wait_snapshots(2)
        trim(journal, snapshots)
        leader.kill()
        learner.stop()
    with LeaderProcess(journal, "--snapshots", f"sqlite:///{tmp_path / 'none.db'}") as leader:
        code, log = leader.wait_exit()
        assert code == 1
        assert "name the store that has one with --snapshots" in log.splitlines()[-1]
    with LearnerProcess(tmp_path, journal, snapshots, "--no-snapshot") as learner:
        code, log = learner.wait_exit()
        assert code == 1
        assert "Traceback" not in log


def test_a_trim_that_is_killed_leaves_a_whole_journal_and_the_next_one_goes_on(
    tmp_path: Path, snapshots: str
) -> None:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_ready()
        write_some(leader, ROUND_MESSAGES)
        applied = status(leader.address).applied_sequence
        learner.wait_until(lambda: status(learner.address).applied_sequence == applied)
        leader.kill()
        learner.stop()
    header = open_snapshots(snapshots).newest()
    assert header is not None
    with start_trim(journal, snapshots) as process:
        assert poll_until(lambda: start_of(journal) > 0, DEADLINE_S)
        process.kill()
        process.wait()
    assert 0 < start_of(journal) <= header.counted_offset
    with closing(open_journal(journal)) as opened:
        replica, _ = recover(opened, open_snapshots(snapshots), lambda: False)
        assert replica.position.next_sequence == applied
    trim(journal, snapshots)
    assert start_of(journal) == header.counted_offset


def test_the_space_of_trimmed_records_is_used_again_and_vacuum_gives_it_back(
    tmp_path: Path, snapshots: str
) -> None:
    journal, file = journal_url(tmp_path), tmp_path / "journal.db"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_ready()
        sizes = []
        for _ in range(4):
            write_some(leader, ROUND_MESSAGES)
            learner.wait_snapshots(len(learner.events("snapshot")) + 2)
            trim(journal, snapshots)
            sizes.append(file.stat().st_size)
        leader.kill()
        learner.stop()
    # what is still in the WAL or not yet in a snapshot differs from round to round
    assert sizes[0] > ROUND_MESSAGES * 8_000 * 64 / 2
    assert sizes[-1] < 2 * sizes[0]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM")
    assert file.stat().st_size < sizes[0] / 2
    with LeaderProcess(journal, "--snapshots", snapshots) as leader:
        leader.wait_ready().signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
