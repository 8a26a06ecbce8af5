"""How PostgreSQL looks for what history is asked: by an index, and in few partitions."""

import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster_app import history_queries as questions
from cluster_app.history_queries import Entry, StatementFilter, is_uuid7, read_extent
from cluster_app.history_store import Execute, open_history
from cluster_app.journals import open_journal
from tests.archiver_process import ArchiverProcess
from tests.integration.test_archiver import history_of
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.store_address import Address

TIMEOUT_S = 30.0


@pytest.fixture(params=["postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A history of some partitions, of which the database has statistics."""
    address, url = history_of(request, tmp_path), journal_url(tmp_path)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 23, SMALL_LEDGER)) as ledger,
    ):
        for batches in (40, 1):
            for _ in range(batches):
                ledger.run_some(100)
            flags = ("--partition-rows", "1000")
            with ArchiverProcess(tmp_path, url, address.url, *flags) as archiver:
                archiver.wait_ready().stop()
    address.sql("ANALYZE entries")
    return address


def test_no_question_looks_through_a_partition_however_small_it_was(history: Address) -> None:
    plans: list[str] = []

    def ask(execute: Execute) -> None:
        extent = read_extent(execute)
        assert extent is not None

        def explained(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
            plans.append("\n".join(row[0] for row in execute(f"EXPLAIN {sql}", values)))
            return execute(sql, values)

        questions.command(explained, extent, bytes(range(1, 17)))
        questions.statement(explained, extent, 1, StatementFilter(operation=4), 50)
        questions.balance(explained, extent, 1, questions.Moment(timestamp_ns=1))
        questions.by_reference(explained, extent.first_sequence + 1, 0, 0, 50)
        questions.changes(explained, extent, 0, 50)

    with closing(open_history(history.url).reader(TIMEOUT_S)) as reader:
        reader.read(ask)
    assert len(plans) > 8
    for plan in plans:
        assert "Seq Scan on entries" not in plan, plan


def test_an_id_that_tells_its_time_is_looked_for_in_few_partitions(history: Address) -> None:
    ids = [
        row[0].bytes
        for row in history.sql(
            "SELECT command_id FROM entries WHERE status = 1 AND "
            "uuid_extract_version(command_id) = 7 ORDER BY sequence"
        )
    ]
    assert ids
    asked: list[str] = []

    def ask(execute: Execute) -> list[Entry | None]:
        extent = read_extent(execute)
        assert extent is not None

        def noted(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
            asked.append(sql)
            return execute(sql, values)

        return [questions.command(noted, extent, one) for one in ids]

    with closing(open_history(history.url).reader(TIMEOUT_S)) as reader:
        found = reader.read(ask)
    assert [one.command_id if one else None for one in found] == ids
    over_all = [sql for sql in asked if "FROM entries" in sql and "sequence <" not in sql]
    assert len(over_all) < len(ids) / 2


def test_only_partitions_that_were_loaded_whole_are_left_alone_by_autovacuum(
    history: Address,
) -> None:
    partitions = history.sql(
        "SELECT relname, reloptions, end_sequence FROM pg_class JOIN partitions "
        "ON relname = 'entries_' || first_sequence ORDER BY first_sequence"
    )
    [(head,)] = history.sql("SELECT next_sequence FROM history")
    full = [options for _, options, end in partitions if end <= head]
    assert full == [["autovacuum_enabled=off"]] * len(full)
    assert full
    growing = [options for _, options, end in partitions if end > head]
    assert growing == [None] * len(growing)
    assert growing


def test_only_uuids_of_version_7_tell_their_time() -> None:
    assert is_uuid7(uuid.UUID("0192f5a0-0000-7000-8000-000000000000").bytes)
    assert not is_uuid7(uuid.UUID("0192f5a0-0000-4000-8000-000000000000").bytes)
    assert not is_uuid7(uuid.UUID("0192f5a0-0000-7000-0000-000000000000").bytes)
