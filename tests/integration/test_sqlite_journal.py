"""What only a journal in a file can meet: a torn, foreign or full one, a lock, a killed writer."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from cluster_app import sqlite_journal
from cluster_app.sqlite_journal import APPLICATION_ID, PAGE_BYTES, SqliteJournal
from cluster_core.batch import CHAIN_START, Kind, open_batch, seal
from cluster_core.errors import JournalFault, JournalRefused, JournalStopped, OffsetTrimmed
from cluster_core.journal import Delivery
from tests.integration.test_journals import (
    DEADLINE_S,
    Deliveries,
    append_all,
    read_all,
    values_upto,
)

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.db"


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def fill(path: Path, count: int) -> None:
    """Batches 0 .. count - 1; closing the last connection moves all into the file itself."""
    journal = SqliteJournal(path)
    values, chain = [], CHAIN_START
    for n in range(count):
        value, chain = seal(
            Kind.COMMANDS,
            epoch=1,
            leader_id=b"L" * 16,
            first_sequence=n * 400,
            timestamp_ns=n,
            previous_chain=chain,
            body=(bytes([n]) * 64 * 400,),
        )
        values.append(value)
    assert append_all(journal, values) == list(range(count))
    journal.close()


def test_a_failed_writer_fails_every_later_append_too(path: Path) -> None:
    journal, deliveries = SqliteJournal(path), Deliveries()
    writer = journal.writer(1, deliveries)
    for _ in range(5):
        writer.append(b"never")
    reports = deliveries.wait(5)
    sql(path, "UPDATE head SET next = 1")
    writer.append(b"nor when the offset would fit again")
    reports = deliveries.wait(6)
    writer.close()
    assert {report.offset for report in reports} == {None}
    assert all("another writer appended" in report.error for report in reports)
    assert append_all(journal, [b"next"]) == [1]
    journal.close()


def test_a_writer_behind_a_held_lock_fails_instead_of_waiting_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "LOCK_TIMEOUT_S", 0.05)
    journal, deliveries = SqliteJournal(path), Deliveries()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writer = journal.writer(0, deliveries)
    writer.append(b"value")
    assert "locked" in deliveries.wait(1)[0].error
    holder.close()
    writer.close()
    journal.close()


def test_a_failing_callback_ends_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())
    journal = SqliteJournal(path)

    def fail(_: Delivery) -> None:
        raise RuntimeError("the caller's fault")

    writer = journal.writer(0, fail)
    writer.append(b"value")
    assert failed.wait(DEADLINE_S)
    with pytest.raises(JournalStopped):
        writer.append(b"late")
    writer.close()
    journal.close()


def test_checkpoints_go_on_while_a_reader_reads_and_the_wal_stays_small(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "CHECKPOINT_BYTES", 1 << 20)
    journal, deliveries = SqliteJournal(path), Deliveries()
    writer, reader = journal.writer(0, deliveries), journal.reader(0)
    for n in range(400):
        writer.append(bytes([n % 256]) * 60_000)
        if n % 8 == 7:
            assert deliveries.offsets(n + 1)[-1] == n
            assert [r.value[0] for r in read_all(reader, 8)] == [
                k % 256 for k in range(n - 7, n + 1)
            ]
    wal_bytes = path.with_name("journal.db-wal").stat().st_size
    writer.close()
    journal.close()
    assert wal_bytes < 8 << 20, f"24 MB were appended and the WAL holds {wal_bytes}"


def test_trimmed_offsets_are_named_and_a_trimmed_journal_goes_on(path: Path) -> None:
    fill(path, 5)
    journal = SqliteJournal(path)
    sql(path, "DELETE FROM batches WHERE offset < 3")
    assert (journal.start_offset(), journal.end_offset()) == (3, 5)
    with pytest.raises(OffsetTrimmed, match="first kept is 3"):
        journal.reader(1).read(0.0)
    assert len(journal.reader(3).read(0.0)) == 2
    sql(path, "DELETE FROM batches")
    assert (journal.start_offset(), journal.end_offset()) == (5, 5)
    with pytest.raises(OffsetTrimmed):
        journal.reader(4).read(0.0)
    assert append_all(journal, [b"next"]) == [5]
    journal.close()


def test_a_missing_record_is_a_fault_and_what_lies_before_it_is_read(path: Path) -> None:
    fill(path, 5)
    sql(path, "DELETE FROM batches WHERE offset = 2")
    journal = SqliteJournal(path)
    reader = journal.reader(0)
    assert [record.offset for record in reader.read(0.0)] == [0, 1]
    with pytest.raises(JournalFault, match="offset 2 is missing"):
        reader.read(0.0)
    journal.close()


@pytest.mark.parametrize("where", [0, 50, 100, 127, 128, 25_000, -1])
def test_a_byte_flipped_in_a_stored_value_is_found_by_its_digest(path: Path, where: int) -> None:
    fill(path, 3)
    connection = sqlite3.connect(path, isolation_level=None)
    value = bytearray(connection.execute("SELECT value FROM batches WHERE offset=1").fetchone()[0])
    value[where] ^= 0x20
    connection.execute("UPDATE batches SET value = ? WHERE offset = 1", (bytes(value),))
    connection.close()
    journal = SqliteJournal(path)
    records = journal.reader(0).read(DEADLINE_S)
    journal.close()
    assert open_batch(records[0].value).first_sequence == 0
    with pytest.raises(JournalFault):
        open_batch(records[1].value)
    assert open_batch(records[2].value).first_sequence == 800


def test_a_torn_value_is_found_by_its_digest(path: Path) -> None:
    fill(path, 2)
    sql(path, "UPDATE batches SET value = substr(value, 1, length(value) - 64) WHERE offset = 1")
    journal = SqliteJournal(path)
    (record,) = journal.reader(1).read(DEADLINE_S)
    journal.close()
    with pytest.raises(JournalFault, match="torn or altered"):
        open_batch(record.value)


def test_a_byte_flipped_anywhere_in_the_file_is_never_taken_for_good(path: Path) -> None:
    fill(path, 8)
    journal = SqliteJournal(path)
    good = [record.value for record in journal.reader(0).read(DEADLINE_S)]
    journal.close()
    intact = path.read_bytes()
    found = 0
    for position in range(0, len(intact), 997):
        damaged = bytearray(intact)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        found += _follows_or_faults(path, good)
        for side in ("journal.db-wal", "journal.db-shm"):
            path.with_name(side).unlink(missing_ok=True)
    assert found > len(intact) // 997 // 2, "most bytes of the file are values"


def _follows_or_faults(path: Path, good: list[bytes]) -> bool:
    """True when the damage was found; else every value was read as it had been written."""
    journal = None
    try:
        journal = SqliteJournal(path)
        records = read_all(journal.reader(0), len(good))
        for record in records:
            open_batch(record.value)
    except (JournalFault, JournalRefused, OffsetTrimmed):
        return True
    finally:
        if journal:
            journal.close()
    assert [record.value for record in records] == good
    return False


def test_a_damaged_page_is_a_fault_that_names_the_offset(path: Path) -> None:
    fill(path, 3)
    data = bytearray(path.read_bytes())
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name='batches'"
    ).fetchone()
    connection.close()
    start = (root - 1) * PAGE_BYTES
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    journal = SqliteJournal(path)
    with pytest.raises(JournalFault, match=r"damaged at offset 0 .*restore the file"):
        journal.reader(0).read(DEADLINE_S)
    journal.close()


@pytest.mark.parametrize("content", [b"x", b"no database\n" * 50, b"SQLite format 3\0"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalRefused, match="not a SQLite database: choose another"):
        SqliteJournal(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_database_of_another_application_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    sql(path, "CREATE TABLE head(next)", "INSERT INTO head VALUES (7)")
    before = path.read_bytes()
    with pytest.raises(JournalRefused, match="another application"):
        SqliteJournal(path)
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    path.parent.mkdir()
    sql(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 2")
    with pytest.raises(JournalRefused, match="version 2, this program reads 1: use the program"):
        SqliteJournal(path)


def test_places_where_no_file_can_be_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for wrong in (file / "journal.db", file / "deeper" / "journal.db", tmp_path):
        with pytest.raises(JournalRefused, match="choose another --journal"):
            SqliteJournal(wrong)


@pytest.mark.parametrize("read_only", ["folder", "file"])
def test_a_read_only_folder_or_file_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, read_only: str
) -> None:
    fill(path, 1)
    locked = path.parent if read_only == "folder" else path
    may = os.access
    # The superuser may write anywhere: so the system's answer is played, for root's test runs.
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != locked and may(asked, mode))
    with pytest.raises(JournalRefused, match="must be writable"):
        SqliteJournal(path)


def test_two_processes_may_create_the_journal_at_the_same_time(path: Path) -> None:
    script = "import sys; from cluster_app.sqlite_journal import SqliteJournal as J; "
    script += "J(sys.argv[1]).close(); print('open')"
    command = [sys.executable, "-c", script, str(path)]
    starts = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    assert [start.communicate(timeout=DEADLINE_S)[0] for start in starts] == [b"open\n"] * 3


LOADER: Final = """
import sys
import threading
from cluster_app.sqlite_journal import SqliteJournal
in_flight = threading.Semaphore(16)
def report(delivery):
    print(-1 if delivery.offset is None else delivery.offset, delivery.error, flush=True)
    in_flight.release()
journal = SqliteJournal(sys.argv[1])
writer = journal.writer(0, report)
for n in range(int(sys.argv[2])):
    in_flight.acquire()
    writer.append(b"%d " % n * 2000)
writer.close()
"""


def delivered(lines: list[bytes]) -> list[int]:
    """Offsets of the whole lines that a loader printed."""
    offsets = [int(line.split()[0]) for line in lines if line.endswith(b"\n")]
    return [offset for offset in offsets if offset >= 0]


def check_nothing_delivered_is_lost(path: Path, offsets: list[int]) -> None:
    assert offsets == list(range(len(offsets)))
    journal = SqliteJournal(path)
    end = journal.end_offset()
    assert end >= len(offsets) > 0
    for record in read_all(journal.reader(0), end):
        assert record.value == b"%d " % record.offset * 2000
    assert append_all(journal, [b"goes on"]) == [end]
    journal.close()


def test_a_full_disk_ends_the_writer_and_loses_nothing_delivered(path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

    loader = subprocess.run(
        [sys.executable, "-c", LOADER, path, "3000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=limit,
        timeout=DEADLINE_S,
        check=True,
    )
    lines = loader.stdout.splitlines(keepends=True)
    assert len(lines) == 3000, "every append is reported"
    offsets = delivered(lines)
    assert 0 < len(offsets) < 3000
    assert all(line.startswith(b"-1 ") for line in lines[len(offsets) :])
    assert b"full" in lines[-1]
    check_nothing_delivered_is_lost(path, offsets)


@pytest.mark.parametrize("kill_after", [1, 40, 700])
def test_every_delivered_value_survives_kill_nine(path: Path, kill_after: int) -> None:
    loader = subprocess.Popen(
        [sys.executable, "-c", LOADER, path, "1000000"], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert loader.stdout is not None
    lines = [loader.stdout.readline() for _ in range(kill_after)]
    loader.send_signal(signal.SIGKILL)
    lines += loader.stdout.readlines()
    loader.wait(DEADLINE_S)
    loader.stdout.close()
    check_nothing_delivered_is_lost(path, delivered(lines))


def test_a_copy_of_file_and_wal_of_a_living_journal_is_a_journal(path: Path) -> None:
    journal = SqliteJournal(path)
    append_all(journal, values_upto(20))
    copy = path.parent / "copy.db"
    shutil.copy(path, copy)
    shutil.copy(path.with_name("journal.db-wal"), copy.with_name("copy.db-wal"))
    journal.close()
    copied = SqliteJournal(copy)
    assert [r.value for r in read_all(copied.reader(0), 20)] == values_upto(20)
    copied.close()


@pytest.mark.parametrize("with_another", [False, True])
def test_a_file_that_is_removed_or_replaced_under_its_node_stops_reader_and_writer(
    path: Path, with_another: bool
) -> None:
    fill(path, 3)
    journal = SqliteJournal(path)
    reader = journal.reader(0)
    assert len(reader.read(DEADLINE_S)) == 3
    assert reader.read(0) == []
    deliveries = Deliveries()
    writer = journal.writer(3, deliveries)
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    path.unlink()
    if with_another:
        copy.rename(path)
    with pytest.raises(JournalFault, match="was removed or replaced under this node"):
        reader.read(0)
    writer.append(values_upto(4)[3])
    [delivery] = deliveries.wait(1)
    assert delivery.offset is None
    assert "was removed or replaced under this node" in delivery.error
    writer.close()
    reader.close()
    journal.close()
