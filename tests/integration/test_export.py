"""`export`: old partitions become Parquet files, and the balances of their accounts stay known."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet
import pytest

from cluster_app import history_queries as questions
from cluster_app.__main__ import main
from cluster_app.export import export, old_partitions
from cluster_app.history_queries import Moment, NotInHistory
from cluster_app.history_store import Partition, open_history
from cluster_app.history_tables import ENTRY_NAMES
from cluster_app.journals import open_journal
from cluster_core.errors import StoreUnavailable
from tests.archiver_process import ArchiverProcess
from tests.expected_history import Expected, expected_of
from tests.integration.test_archiver import history_of, rows_of
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.server_process import poll_until
from tests.services import Postgres
from tests.store_address import Address, PostgresAddress


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    import structlog

    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(params=["sqlite", "postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return history_of(request, tmp_path)


def ask(history: Address, question: Any) -> Any:
    with closing(open_history(history.url).reader(10)) as reader:
        return reader.read(lambda execute: question(execute, questions.read_extent(execute)))


def archived_journal(history: Address, folder: Path) -> str:
    """A journal of 10,000 commands, archived in partitions of 1,000."""
    url = journal_url(folder)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 23, SMALL_LEDGER)) as ledger,
    ):
        for _ in range(200):
            ledger.run_some(50)
    with ArchiverProcess(folder, url, history.url, "--partition-rows", "1000") as archiver:
        archiver.wait_ready().stop()
    return url


def test_old_balances_are_the_same_before_and_after_an_export(
    history: Address, tmp_path: Path
) -> None:
    url = archived_journal(history, tmp_path)
    expected = expected_of(url)
    first, second = history.sql(
        "SELECT end_sequence FROM partitions ORDER BY first_sequence LIMIT 2"
    )
    end = second[0]
    moments = (first[0] - 1, end - 1, end, end + 700)
    accounts = range(1, len(expected.ledger.accounts) + 1)

    def balances() -> list[int | None]:
        found: list[int | None] = ask(history, balances_at)
        return found

    def balances_at(execute: Any, extent: Any) -> list[int | None]:
        found = [
            questions.balance(execute, extent, account, Moment(sequence))[0]
            for sequence in moments
            for account in accounts
        ]
        return [known.posted if known else None for known in found]

    before = balances()
    assert before == [expected.balance(one, at + 1) for at in moments for one in accounts]
    arguments = ["export", "--history", history.url, "--to", str(tmp_path / "old")]
    assert main([*arguments, "--before-sequence", str(end)]) == 0
    assert balances() == before

    # what was exported is in the files, and no more in the tables
    files = sorted((tmp_path / "old").glob("*.parquet"))
    assert len(files) == 2
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    found = [Expected(*(row[name] for name in ENTRY_NAMES)) for row in rows]
    unsigned = [
        one._replace(reference=one.reference % 2**64, hold=one.hold % 2**64) for one in found
    ]
    assert sorted(unsigned) == [entry for entry in expected.entries if entry.sequence < end]
    assert rows_of(history) == [entry for entry in expected.entries if entry.sequence >= end]

    # within it, the refusal names the file
    with pytest.raises(NotInHistory, match=r"exported to .*\.parquet"):
        ask(history, lambda execute, extent: questions.balance(execute, extent, 1, Moment(5)))

    # the archiver goes on, and a second export finds nothing
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        archiver.wait_ready().stop()
    assert main([*arguments, "--before-sequence", str(end)]) == 0
    assert len(list((tmp_path / "old").iterdir())) == 2


def test_an_export_that_waits_for_the_archiver_holds_up_neither_it_nor_readers(
    postgres: Postgres, tmp_path: Path
) -> None:
    history = PostgresAddress(postgres)
    history.sql("DROP SCHEMA IF EXISTS ringledger_archiver CASCADE")
    archived_journal(history, tmp_path)
    store = open_history(history.url)
    extent = store.extent()
    assert extent is not None
    oldest = old_partitions(store, extent, extent.head.next_sequence)[0]
    exporting = threading.Thread(target=export, args=(store, oldest, tmp_path / "old"))
    with psycopg.connect(history.conninfo) as archiver:
        # 1. a transaction of the archiver: it has moved the head
        archiver.execute("SELECT * FROM history FOR UPDATE")
        exporting.start()
        assert poll_until(lambda: waits_for_a_lock(history), 30)
        # 2. readers read, and the archiver attaches its partition
        history.sql("SET statement_timeout = 5000; SELECT count(*) FROM entries")
        archiver.execute("SET lock_timeout = 5000")
        archiver.execute("LOCK TABLE entries IN SHARE UPDATE EXCLUSIVE MODE")
        archiver.commit()
    exporting.join(30)
    assert not exporting.is_alive()
    assert [file.name for file in (tmp_path / "old").iterdir()] == [f"{oldest.table}.parquet"]
    assert history.sql("SELECT min(sequence) FROM entries") == [(oldest.end,)]


def waits_for_a_lock(history: Address) -> bool:
    waiting = history.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return int(waiting[0][0]) > 0


def test_an_export_that_fails_leaves_no_half_file(history: Address, tmp_path: Path) -> None:
    archived_journal(history, tmp_path)
    with pytest.raises(StoreUnavailable):
        export(open_history(history.url), Partition(77, 78), tmp_path / "old")
    assert list((tmp_path / "old").iterdir()) == []


def test_two_exports_at_a_time_leave_one_whole_file(history: Address, tmp_path: Path) -> None:
    archived_journal(history, tmp_path)
    stores = [open_history(history.url) for _ in range(2)]
    extent = stores[0].extent()
    assert extent is not None
    oldest = old_partitions(stores[0], extent, extent.head.next_sequence)[0]

    def export_quietly(store: Any) -> None:
        with suppress(StoreUnavailable):  # the other one was the first
            export(store, oldest, tmp_path / "old")

    threads = [threading.Thread(target=export_quietly, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (file,) = (tmp_path / "old").iterdir()
    assert pyarrow.parquet.read_table(file).num_rows > 0
    assert history.sql("SELECT first_sequence FROM history") == [(oldest.end,)]
