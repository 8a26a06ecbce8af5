"""A leader on files that SQLite can't use, or that were changed behind its back."""

import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import Load, check_retry, create_account, deposits, submit


def _make_ledger(folder: Path) -> Path:
    with LeaderProcess(journal_url(folder)) as leader:
        submit(leader.wait_ready().address, create_account(), deposits(10))
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    return folder / "journal.db"


def _rewrite(path: Path, offset: int, index: int, mask: int) -> None:
    """Flip the bits of `mask` in one byte of a stored value."""
    with closing(sqlite3.connect(path)) as database:
        select = "SELECT value FROM batches WHERE offset = ?"
        [value] = database.execute(select, (offset,)).fetchone()
        changed = bytearray(value)
        changed[index] ^= mask
        database.execute("UPDATE batches SET value = ? WHERE offset = ?", (bytes(changed), offset))
        database.commit()


def test_a_full_disk_ends_the_leader_with_one_line_and_loses_no_answer(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        resource.prlimit(leader.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        load = Load(leader.address, batch=500)
        code, log = leader.wait_exit()
        load.finish()
    assert code == 1
    assert "the disk" in log
    assert load.error is not None
    with LeaderProcess(journal) as leader:
        check_retry(load, leader.wait_ready().address)


def test_a_journal_under_two_names_is_refused(tmp_path: Path) -> None:
    path = _make_ledger(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "journal.db").hardlink_to(path)
    with LeaderProcess(journal_url(other)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "hard links" in log


def test_a_flipped_byte_in_the_journal_stops_the_start_and_names_the_offset(
    tmp_path: Path,
) -> None:
    path = _make_ledger(tmp_path)
    with closing(sqlite3.connect(path)) as database:  # which batch has commands may vary
        select = "SELECT min(offset) FROM batches WHERE length(value) > 200"
        [offset] = database.execute(select).fetchone()
    _rewrite(path, offset, 200, 0xFF)
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert f"journal offset {offset}: digest does not match" in log
    assert "Traceback" not in log


def test_a_journal_of_a_newer_format_stops_the_start_and_says_so(tmp_path: Path) -> None:
    path = _make_ledger(tmp_path)
    _rewrite(path, 1, 8, 1 ^ 2)
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "format version 2" in log
    assert "newer program" in log


def test_a_file_that_is_no_journal_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE recipes(name)")
        database.commit()
    content = path.read_bytes()
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "another application" in log
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_said_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with LeaderProcess(f"sqlite:///{tmp_path}/file/journal.db") as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert f"{tmp_path}/file" in log
    assert "Traceback" not in log


def test_a_journal_removed_under_leader_follower_and_learner_ends_each_with_one_line(
    tmp_path: Path,
) -> None:
    journal, store = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        FollowerProcess(tmp_path, journal, "--no-snapshot") as follower,
        LearnerProcess(tmp_path, journal, store) as learner,
    ):
        submit(leader.wait_ready().address, create_account(), deposits(10))
        follower.wait_ready()
        learner.wait_ready()
        for file in tmp_path.glob("journal.db*"):
            file.unlink()
        for code, log in (leader.wait_exit(), follower.wait_exit(), learner.wait_exit()):
            assert code == 1
            assert "was removed or replaced under this node: stop all nodes" in log
            assert "Traceback" not in log
