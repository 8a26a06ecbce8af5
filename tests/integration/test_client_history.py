"""History through client_core, of real nodes and fake ones: statements, and outcomes settled."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest

from client_core import (
    Behind,
    Client,
    CommandStream,
    History,
    InvalidRequest,
    Ledger,
    NotFound,
    NotServed,
    OutcomeUnknown,
    OutcomeUnsettled,
    SyncClient,
    Unavailable,
    deposit,
)
from client_core.testing import FakeLedger, FakeNode
from tests.archiver_process import ArchiverProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import HOST, free_ports


async def test_statements_balances_and_outcomes_come_in_decimals(tmp_path: Path) -> None:
    url, history_url = journal_url(tmp_path), f"sqlite:///{tmp_path / 'history.db'}"
    command_id = bytes(range(1, 17))
    with LeaderProcess(url) as leader:
        leader.wait_ready()
        async with CommandStream(leader.address) as stream:
            ledger = Ledger(stream)
            alice = (await ledger.create_account(reference=77)).entity
            bob = (await ledger.create_account()).entity
            await ledger.deposit(alice, "100.00", code=9)
            paid = await ledger.transfer(alice, bob, "25.00", command_id=command_id)
            held = await ledger.hold(alice, bob, "30.00")
            last = await ledger.capture(held.entity, "12.50")
    with ArchiverProcess(tmp_path, url, history_url) as archiver:
        archiver.wait_ready()
        async with History(archiver.address) as history:
            page = await history.statement(alice, page_size=3)
            assert [(one.operation, one.change_of(alice)) for one in page.entries] == [
                ("CAPTURE", Decimal("-12.50")),
                ("HOLD", Decimal(0)),
                ("TRANSFER", Decimal("-25.00")),
            ]
            assert page.entries[0].balance_of(alice) == Decimal("62.50")
            rest = await history.statement(alice, before=page.following)
            assert [one.operation for one in rest.entries] == ["DEPOSIT", "CREATE_ACCOUNT"]
            everything = [one.sequence async for one in history.statements(alice, page_size=2)]
            assert len(everything) == 5
            only = (await history.statement(alice, operation="DEPOSIT", code=9)).entries
            assert [one.amount for one in only] == [Decimal("100.00")]

            then = await history.balance(bob, at_sequence=paid.sequence)
            assert then.posted == Decimal("25.00")
            assert (await history.balance(bob)).posted == Decimal("37.50")
            at_time = await history.balance(alice, at_ns=page.entries[2].timestamp_ns)
            assert at_time.below_sequence > paid.sequence
            balances = (await history.balances(at_sequence=last.sequence)).balances
            assert [one.posted for one in balances] == [Decimal("62.50"), Decimal("37.50")]
            with pytest.raises(NotFound):
                await history.balance(9)
            with pytest.raises(InvalidRequest, match="complete below"):
                await history.balance(bob, at_sequence=1_000_000)

            found = await history.command(command_id)
            assert found.entry is not None
            assert (found.entry.accepted, found.entry.amount) == (True, Decimal("25.00"))
            assert (await history.command(b"\x01" * 16)).entry is None
            assert found.extent.complete_sequence > last.sequence

            created = await history.by_reference(77)
            assert [one.debit_account for one in created.entries] == [alice]
            feed = await history.changes(paid.sequence)
            first = (feed.entries[0].command_id, feed.following)
            assert first == (command_id, feed.extent.complete_sequence)

            day = dt.date.fromordinal(719_163 + found.entry.timestamp_ns // 86_400_000_000_000)
            totals = await history.day_totals(day, day + dt.timedelta(days=1))
            assert {one.operation: one.amount for one in totals}["TRANSFER"] == Decimal("25.00")
        archiver.stop()


async def too_old(ledger: Client, account: int, command_id: bytes) -> OutcomeUnsettled:
    """The error of a deposit whose id the window no longer knows."""
    with pytest.raises(OutcomeUnsettled) as caught:
        await ledger.deposit(account, "5.00", command_id=command_id)
    return caught.value


async def test_an_id_that_is_too_old_is_settled_by_history(tmp_path: Path) -> None:
    url, history_url = journal_url(tmp_path), f"sqlite:///{tmp_path / 'history.db'}"
    with (
        LeaderProcess(url, "--window-capacity", "64") as leader,
        ArchiverProcess(tmp_path, url, history_url) as archiver,
    ):
        leader.wait_ready()
        archiver.wait_ready()
        async with Client(leader.address, history=archiver.address, query_timeout_s=30) as ledger:
            done, never = ledger.new_id(), ledger.new_id()
            account = (await ledger.create_account()).entity
            first = await ledger.deposit(account, "5.00", command_id=done)
            for _ in range(70):
                await ledger.deposit(account, "1.00")
            [found] = await ledger.settle(await too_old(ledger, account, done))
            assert found.entry is not None
            assert (found.entry.sequence, found.entry.amount) == (first.sequence, Decimal("5.00"))
            error = await too_old(ledger, account, never)
            [found] = await ledger.settle(error)
            assert found.entry is None
            assert found.extent.complete_sequence > error.replies[0].sequence


async def test_a_client_asks_history_beside_its_ledger() -> None:
    with FakeNode() as node:
        async with Client(node.address, history=node.address) as ledger:
            alice = (await ledger.create_account(reference=7)).entity
            bob = (await ledger.create_account()).entity
            await ledger.deposit(alice, "100.00")
            paid = await ledger.transfer(alice, bob, "25.00", command_id=b"\x07" * 16)
            held = await ledger.hold(alice, bob, "30.00")
            await ledger.capture(held.entity, "12.50")
            page = await ledger.history.statement(alice, page_size=2)
            assert [(one.operation, one.change_of(alice)) for one in page.entries] == [
                ("CAPTURE", Decimal("-12.50")),
                ("HOLD", Decimal(0)),
            ]
            rest = await ledger.history.statement(alice, before=page.following)
            assert [one.operation for one in rest.entries] == [
                "TRANSFER",
                "DEPOSIT",
                "CREATE_ACCOUNT",
            ]
            then = await ledger.history.balance(bob, at_sequence=paid.sequence)
            assert then.posted == Decimal("25.00")
            balances = (await ledger.history.balances()).balances
            assert [one.posted for one in balances] == [Decimal("62.50"), Decimal("37.50")]
            found = await ledger.history.command(b"\x07" * 16)
            assert found.entry is not None
            assert found.entry.sequence == paid.sequence
            created = await ledger.history.by_reference(7)
            assert [one.debit_account for one in created.entries] == [alice]
            feed = await ledger.history.changes(paid.sequence)
            assert feed.following == feed.extent.complete_sequence == 6
            day = dt.date.fromordinal(719_163 + found.entry.timestamp_ns // 86_400_000_000_000)
            totals = await ledger.history.day_totals(day, day + dt.timedelta(days=2))
            assert {one.operation: one.amount for one in totals}["TRANSFER"] == Decimal("25.00")
            with pytest.raises(NotFound):
                await ledger.history.balance(9)
            with pytest.raises(InvalidRequest):
                await ledger.history.balance(bob, at_sequence=1_000_000)
            with pytest.raises(ValueError, match="page_size"):
                await ledger.history.statement(alice, page_size=1_001)


async def test_an_unknown_outcome_is_looked_up_by_its_id() -> None:
    with FakeNode() as node:
        async with (
            Client(node.address, history=node.address) as ledger,
            Client(node.address, timeout_s=1) as hasty,
        ):
            account = (await ledger.create_account()).entity
            await hasty.account(account)  # it knows the asset now
            node.drop_replies(1_000)
            with pytest.raises(OutcomeUnknown) as caught:
                await hasty.deposit(account, "5.00")
            [found] = await ledger.settle(caught.value)
            assert found.entry is not None
            assert found.entry.command_id == caught.value.command_id
            with pytest.raises(ValueError, match="command_id"):
                await ledger.settle(OutcomeUnknown(deposit(bytes(16), 1, 1), "no id"))


async def test_a_history_that_is_not_far_enough_says_behind_at_its_deadline() -> None:
    with FakeNode() as node:
        async with Client(node.address, history=node.address, query_timeout_s=3) as ledger:
            await ledger.create_account()
            with pytest.raises(Behind, match="complete below sequence 1, and not beyond 5"):
                await ledger.history.command(b"\x01" * 16, at_least=5)


async def test_a_client_without_an_archiver_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeNode() as node:
        async with Client(node.address) as ledger:
            with pytest.raises(NotServed, match="RINGLEDGER_HISTORY_ENDPOINT"):
                await ledger.history.statement(1)
        monkeypatch.setenv("RINGLEDGER_HISTORY_ENDPOINT", node.address)
        async with Client(node.address) as ledger:
            assert (await ledger.history.statement(1)).entries == ()
    with pytest.raises(ValueError, match=r"is no endpoint: write the archiver's HOST:PORT"):
        Client("127.0.0.1:1", history="sqlite:///history.db")


async def test_an_archiver_that_is_away_costs_a_client_only_its_questions() -> None:
    away = f"{HOST}:{free_ports(1)[0]}"
    with FakeNode() as node:
        async with Client(node.address, history=away) as ledger:
            assert (await ledger.create_account()).entity == 1
            with pytest.raises(Unavailable):
                await ledger.history.statement(1)


def test_a_sync_client_asks_the_same() -> None:
    fake = FakeLedger(window_capacity=4)
    with FakeNode(fake) as node, SyncClient(node.address, history=node.address) as ledger:
        old = ledger.new_id()
        account = ledger.create_account(command_id=old).entity
        for _ in range(5):
            ledger.deposit(account, "1.00")
        entries = ledger.history.statement(account, operation="DEPOSIT").entries
        assert [one.balance_of(account) for one in entries] == [Decimal(n) for n in range(5, 0, -1)]
        assert len(list(ledger.history.statements(account, page_size=2))) == 6
        with pytest.raises(OutcomeUnsettled) as caught:
            ledger.create_account(command_id=old)
        [found] = ledger.settle(caught.value)
        assert found.entry is not None
        assert found.entry.debit_account == account
