"""An archiver of a random ledger: its history is what the oracle says, in both databases."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster_app.history_store import open_history
from cluster_app.history_tables import ENTRY_NAMES
from cluster_app.journals import open_journal
from proto import ledger_pb2, ledger_pb2_grpc
from tests.archiver_process import ArchiverProcess
from tests.expected_history import Expected, ExpectedHistory, expected_of
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.services import Postgres
from tests.store_address import Address, PostgresAddress, SqliteAddress

DEADLINE_S = 30.0
ACCOUNTS = 12


@pytest.fixture(params=["sqlite", "postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """An empty history of each kind."""
    return history_of(request, tmp_path)


def history_of(request: pytest.FixtureRequest, folder: Path) -> Address:
    if request.param == "sqlite":
        return SqliteAddress(folder)
    postgres: Postgres = request.getfixturevalue("postgres")
    address = PostgresAddress(postgres)
    address.sql("DROP SCHEMA IF EXISTS ringledger_archiver CASCADE")
    return address


@pytest.fixture
def journal_path(tmp_path: Path) -> str:
    """A journal of an epoch's start, 40 first commands and 200 batches of 50."""
    url = journal_url(tmp_path)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 17, SMALL_LEDGER)) as ledger,
    ):
        for _ in range(200):
            ledger.run_some(50)
    return url


@pytest.fixture
def archived(
    journal_path: str, history: Address, tmp_path: Path
) -> Iterator[tuple[ExpectedHistory, Address, ledger_pb2_grpc.HistoryServiceStub]]:
    flags = ("--partition-rows", "1000")
    with ArchiverProcess(tmp_path, journal_path, history.url, *flags) as archiver:
        archiver.wait_ready()
        with grpc.insecure_channel(archiver.address) as channel:
            stub = ledger_pb2_grpc.HistoryServiceStub(channel)
            yield expected_of(journal_path), history, stub
        archiver.stop()


def rows_of(history: Address) -> list[Expected]:
    """All entries by SQL, as the oracle gives them."""
    rows = history.sql(f"SELECT {', '.join(ENTRY_NAMES)} FROM entries ORDER BY sequence")
    return [entry_of(row) for row in rows]


def archived_below(history: Address) -> int:
    return int(history.sql("SELECT next_sequence FROM history")[0][0])


def entry_of(row: tuple[Any, ...]) -> Expected:
    entry = Expected(*row)
    packed: Any = entry.command_id
    return entry._replace(
        command_id=packed.bytes if isinstance(packed, uuid.UUID) else packed,
        reference=entry.reference % 2**64,
        hold=entry.hold % 2**64,
    )


def seen(entry: ledger_pb2.HistoryEntry) -> Expected:
    return Expected(
        entry.sequence,
        entry.timestamp_ns,
        entry.command_id or bytes(16),
        entry.debit_account,
        entry.credit_account,
        entry.amount,
        entry.debit_balance,
        entry.credit_balance,
        entry.reference,
        entry.hold_id,
        entry.asset,
        entry.code,
        entry.operation,
        entry.status,
        0,
    )


def without_flags(entries: list[Expected]) -> list[Expected]:
    return [entry._replace(flags=0) for entry in entries]


def test_history_holds_what_the_oracle_answered(archived: Any) -> None:
    expected, history, _ = archived
    assert rows_of(history) == expected.entries
    assert history.sql("SELECT * FROM batches ORDER BY first_sequence") == expected.batches
    assert len(history.sql("SELECT * FROM partitions")) >= 3


def test_a_statement_has_every_entry_of_an_account_page_by_page(archived: Any) -> None:
    expected, _, stub = archived
    for account in range(1, ACCOUNTS):
        found: list[Expected] = []
        request = ledger_pb2.GetStatementRequest(account_id=account, page_size=7)
        while True:
            answer = stub.GetStatement(request, timeout=DEADLINE_S)
            found += [seen(entry) for entry in answer.entries]
            assert answer.extent.complete_sequence == len_of(expected)
            if not answer.HasField("next_before_sequence"):
                break
            request.before_sequence = answer.next_before_sequence
        assert found == without_flags(expected.statement(account))


def len_of(expected: ExpectedHistory) -> int:
    first, _ = expected.batches[-1]
    return first + 50


def test_a_statement_is_filtered_by_time_operation_and_code(archived: Any) -> None:
    expected, _, stub = archived
    account = max(range(1, ACCOUNTS), key=lambda one: len(expected.statement(one)))
    statement = expected.statement(account)
    early, late = statement[-len(statement) // 4].timestamp_ns, statement[3].timestamp_ns
    for operation, code in ((0, None), (4, None), (0, statement[0].code), (6, 0)):
        answer = stub.GetStatement(
            ledger_pb2.GetStatementRequest(
                account_id=account,
                page_size=1_000,
                from_ns=early,
                until_ns=late,
                operation=ledger_pb2.Operation.Name(operation),
                code=code,
            ),
            timeout=DEADLINE_S,
        )
        assert [seen(entry) for entry in answer.entries] == without_flags(
            [
                entry
                for entry in statement
                if early <= entry.timestamp_ns < late
                and operation in (0, entry.operation)
                and code in (None, entry.code)
            ]
        )


def test_any_balance_at_any_sequence_and_time_is_the_oracles(archived: Any) -> None:
    expected, _, stub = archived
    for sequence in range(0, len_of(expected), 397):
        for account in (1, 3, 7):
            moment = ledger_pb2.HistoryMoment(sequence=sequence)
            assert balance(stub, account, moment) == expected.balance(account, sequence + 1)
    for first, timestamp_ns in expected.batches[::31]:
        later = [at for at, time_ns in expected.batches if time_ns > timestamp_ns]
        below = later[0] if later else len_of(expected)
        moment = ledger_pb2.HistoryMoment(timestamp_ns=timestamp_ns)
        assert balance(stub, 2, moment) == expected.balance(2, below), first


def balance(
    stub: ledger_pb2_grpc.HistoryServiceStub, account: int, moment: ledger_pb2.HistoryMoment
) -> int | None:
    request = ledger_pb2.GetBalanceRequest(account_id=account, at=moment)
    try:
        return int(stub.GetBalance(request, timeout=DEADLINE_S).balance.posted)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return None


def test_all_balances_at_a_sequence_come_in_pages(archived: Any) -> None:
    expected, _, stub = archived
    sequence = len_of(expected) // 2
    request = ledger_pb2.ListBalancesRequest(
        at=ledger_pb2.HistoryMoment(sequence=sequence), page_size=5
    )
    found: dict[int, int] = {}
    while True:
        answer = stub.ListBalances(request, timeout=DEADLINE_S)
        found |= {one.account_id: one.posted for one in answer.balances}
        request.after_account_id = answer.next_after_account_id
        if not answer.next_after_account_id:
            break
    everyone = range(1, len(expected.ledger.accounts) + 1)
    balances = {account: expected.balance(account, sequence + 1) for account in everyone}
    assert found == {account: known for account, known in balances.items() if known is not None}
    assert found


def test_a_command_is_found_by_its_id_and_its_reference(archived: Any) -> None:
    expected, _, stub = archived
    with_ids = [entry for entry in expected.entries if entry.command_id != bytes(16)]
    for entry in with_ids[:: len(with_ids) // 20]:
        request = ledger_pb2.FindCommandRequest(command_id=entry.command_id)
        found = stub.FindCommand(request, timeout=DEADLINE_S)
        assert seen(found.entry) == entry._replace(flags=0)
    nobody = ledger_pb2.FindCommandRequest(command_id=b"\x09" * 16)
    answer = stub.FindCommand(nobody, timeout=DEADLINE_S)
    assert not answer.HasField("entry")
    assert answer.extent.complete_sequence == len_of(expected)
    for reference in {entry.reference for entry in expected.entries if entry.reference}:
        wanted = ledger_pb2.ListByReferenceRequest(reference=reference, page_size=1_000)
        answer = stub.ListByReference(wanted, timeout=DEADLINE_S)
        assert [seen(entry) for entry in answer.entries] == without_flags(
            [entry for entry in expected.entries if entry.reference == reference]
        )


def test_changes_since_a_sequence_leave_nothing_out(archived: Any) -> None:
    expected, _, stub = archived
    found: list[Expected] = []
    at = 0
    while at < len_of(expected):
        request = ledger_pb2.ListChangesRequest(from_sequence=at, page_size=1_000)
        answer = stub.ListChanges(request, timeout=DEADLINE_S)
        found += [seen(entry) for entry in answer.entries]
        assert answer.next_sequence > at
        at = answer.next_sequence
    assert found == without_flags(expected.entries)


def test_sums_of_a_day_are_the_oracles(archived: Any) -> None:
    expected, _, stub = archived
    day = expected.batches[0][1] // (86_400 * 10**9)
    request = ledger_pb2.ListDayTotalsRequest(from_day=day, until_day=day + 2)
    answer = stub.ListDayTotals(request, timeout=DEADLINE_S)
    sums: dict[tuple[int, int, int], list[int]] = {}
    for entry in expected.entries:
        entry_day = entry.timestamp_ns // (86_400 * 10**9)
        known = sums.setdefault((entry_day, entry.asset, entry.operation), [0, 0])
        known[0] += 1
        known[1] += entry.amount
    assert {
        (one.day, one.asset, one.operation): [one.commands, int(one.amount)]
        for one in answer.totals
    } == sums


def test_a_moment_that_history_has_not_reached_is_refused_with_where_it_is(archived: Any) -> None:
    expected, _, stub = archived
    request = ledger_pb2.GetBalanceRequest(
        account_id=1, at=ledger_pb2.HistoryMoment(sequence=len_of(expected))
    )
    with pytest.raises(grpc.RpcError, match="is complete below sequence") as caught:
        stub.GetBalance(request, timeout=DEADLINE_S)
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetStatement", ledger_pb2.GetStatementRequest(account_id=1, page_size=1_001)),
        ("FindCommand", ledger_pb2.FindCommandRequest(command_id=b"short")),
        ("ListByReference", ledger_pb2.ListByReferenceRequest()),
        ("ListDayTotals", ledger_pb2.ListDayTotalsRequest(from_day=0, until_day=400)),
    ],
)
@pytest.mark.parametrize("history", ["sqlite"], indirect=True)
def test_what_can_not_be_asked_is_refused(archived: Any, method: str, request_: Any) -> None:
    _, _, stub = archived
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request_, timeout=DEADLINE_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_archiver_goes_on_where_its_history_ends(
    journal_path: str, history: Address, tmp_path: Path
) -> None:
    flags = ("--partition-rows", "1000")
    with ArchiverProcess(tmp_path, journal_path, history.url, *flags) as first:
        first.wait_ready().stop()
    head = open_history(history.url).extent()
    assert head is not None
    with closing(open_journal(journal_path)) as journal:
        assert head.head.next_offset == journal.end_offset()
        assert head.state_offset == head.head.counted_offset
    with ArchiverProcess(tmp_path, journal_path, history.url, *flags) as second:
        second.wait_ready()
        assert second.events("restored a snapshot"), second.log
        second.stop()
    assert rows_of(history) == expected_of(journal_path).entries


def test_a_second_archiver_is_harmless(journal_path: str, history: Address, tmp_path: Path) -> None:
    with (
        ArchiverProcess(tmp_path, journal_path, history.url, "--partition-rows", "1000") as one,
        ArchiverProcess(tmp_path, journal_path, history.url, "--partition-rows", "1000") as two,
    ):
        one.wait_ready()
        two.wait_ready()
        one.stop()
        two.stop()
    assert rows_of(history) == expected_of(journal_path).entries


@pytest.mark.parametrize("history", ["sqlite"], indirect=True)
def test_a_history_with_refused_commands_stays_one(
    journal_path: str, history: Address, tmp_path: Path
) -> None:
    with ArchiverProcess(tmp_path, journal_path, history.url, "--refused") as first:
        first.wait_ready().stop()
    refused = history.sql("SELECT sequence, status FROM entries WHERE status <> 1")
    assert refused == expected_of(journal_path).refused
    with ArchiverProcess(tmp_path, journal_path, history.url) as second:
        code, log = second.wait_exit()
    assert code == 2
    assert "--refused" in log


@pytest.mark.parametrize("history", ["sqlite"], indirect=True)
def test_a_history_of_another_ledger_is_refused(
    journal_path: str, history: Address, tmp_path: Path
) -> None:
    with ArchiverProcess(tmp_path, journal_path, history.url) as first:
        first.wait_ready().stop()
    (tmp_path / "other").mkdir()
    url = journal_url(tmp_path / "other")
    with closing(open_journal(url)) as journal:
        RandomJournal(journal, 18, SMALL_LEDGER).close()
    with ArchiverProcess(tmp_path, url, history.url) as second:
        code, log = second.wait_exit()
    assert code == 1
    assert "of another ledger" in log


def test_what_is_journaled_later_is_archived_soon(history: Address, tmp_path: Path) -> None:
    url = journal_url(tmp_path)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 3, SMALL_LEDGER)) as ledger,
        ArchiverProcess(tmp_path, url, history.url) as archiver,
    ):
        archiver.wait_ready()
        for _ in range(3):
            ledger.run_some(20)
            end = ledger.machine.applied
            archiver.wait_until(lambda end=end: archived_below(history) == end)
        archiver.stop()
    assert rows_of(history) == expected_of(url).entries
