"""client_core's Ledger against a real leader: Decimal in, Decimal out."""

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

import client_core
from client_core import (
    Asset,
    ChainRefused,
    CommandStream,
    Ledger,
    NotFound,
    OutcomeUnsettled,
    Refused,
    Side,
    Status,
    StreamClosed,
    Unavailable,
)
from tests.leader_process import LeaderProcess, journal_url

EUR = Asset(2, "EUR", 2)
KWD = Asset(3, "KWD", 3)


@pytest.fixture(scope="module")
def address(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("journal"))) as process:
        yield process.wait_ready().address


@pytest_asyncio.fixture
async def stream(address: str) -> AsyncIterator[CommandStream]:
    async with CommandStream(address) as stream:
        yield stream


@pytest_asyncio.fixture
async def ledger(stream: CommandStream) -> Ledger:
    """With EUR and KWD registered."""
    ledger = Ledger(stream)
    for asset in (EUR, KWD):
        command = client_core.register_asset(
            ledger.new_id(), asset=asset.number, symbol=asset.symbol, decimals=asset.decimals
        )
        assert (await stream.submit(command)).status in (Status.OK, Status.ASSET_EXISTS)
    return ledger


async def opened(ledger: Ledger, amount: str = "0", asset: Asset = EUR) -> int:
    account = (await ledger.create_account(asset.number)).entity
    if Decimal(amount):
        await ledger.deposit(account, amount)
    return account


async def test_amounts_go_in_and_come_out_in_the_assets_decimals(ledger: Ledger) -> None:
    alice, bob = await opened(ledger, "100"), await opened(ledger)
    reply = await ledger.transfer(alice, bob, Decimal("12.5"))
    assert (str(reply.amount), str(reply.debit_balance), str(reply.credit_balance)) == (
        *("12.50", "87.50", "12.50"),
    )
    assert (reply.status, reply.accepted, reply.duplicate) == (Status.OK, True, False)
    assert reply.minor.amount == 1_250
    dinar = await opened(ledger, "1.234", KWD)
    assert str((await ledger.withdraw(dinar, "0.234")).debit_balance) == "1.000"
    account = await ledger.account(dinar)
    assert (str(account.posted), str(account.debits_total)) == ("1.000", "0.234")
    assert account.asset == KWD


@pytest.mark.parametrize(
    ("amount", "error", "told"),
    [
        (12.5, TypeError, "floats are not exact"),
        ("0.001", ValueError, "2 of EUR"),
        ("0", ValueError, "more than zero"),
        (-1, ValueError, "more than zero"),
        ("1e30", ValueError, "at most"),
        ("ten", ValueError, "no amount of EUR"),
    ],
)
async def test_an_amount_that_cannot_be_sent_is_refused_before_sending(
    ledger: Ledger, amount: Any, error: type[Exception], told: str
) -> None:
    alice, bob = await opened(ledger, "5"), await opened(ledger)
    hold = (await ledger.hold(alice, bob, 1)).entity
    before = (await ledger.totals()).applied_sequence
    for call in (
        ledger.deposit(alice, amount),
        ledger.withdraw(alice, amount),
        ledger.transfer(alice, bob, amount),
        ledger.hold(alice, bob, amount),
        ledger.capture(hold, amount),
        ledger.release(hold, amount),
    ):
        with pytest.raises(error, match=told):
            await call
    assert (await ledger.totals()).applied_sequence == before


async def test_a_hold_lives_from_reserving_to_its_last_part(ledger: Ledger) -> None:
    payer, payee = await opened(ledger, "10"), await opened(ledger)
    hold = (await ledger.hold(payer, payee, "6.00", timeout_s=3_600, code=7)).entity
    found = await ledger.hold_of(hold)
    assert (found.debit_account, found.credit_account, found.code) == (payer, payee, 7)
    assert (str(found.remaining), found.asset) == ("6.00", EUR)
    account = await ledger.account(payer)
    assert (str(account.held), str(account.available), account.open_holds) == ("6.00", "4.00", 1)
    assert (await ledger.capture(hold, "1.5", keep_rest_held=True)).amount == Decimal("1.5")
    assert str((await ledger.release(hold, "0.25")).amount) == "0.25"
    with pytest.raises(Refused) as refused:
        await ledger.capture(hold, "4.26")
    assert refused.value.status is Status.HOLD_EXCEEDED
    assert refused.value.reply is not None
    assert refused.value.reply.sequence > found.opened_sequence
    last = await ledger.capture(hold)
    assert (str(last.amount), str(last.credit_balance), last.entity) == ("4.25", "5.75", hold)
    with pytest.raises(NotFound) as gone:
        await ledger.hold_of(hold)
    assert gone.value.reason == "HOLD_NOT_OPEN"
    with pytest.raises(NotFound) as never:
        await ledger.hold_of(hold + 1_000)
    assert never.value.reason == "HOLD_NOT_FOUND"


async def test_a_capture_sent_again_by_another_process_gets_its_first_reply(
    ledger: Ledger, stream: CommandStream
) -> None:
    payer, payee = await opened(ledger, "10"), await opened(ledger)
    hold = (await ledger.hold(payer, payee, "6")).entity
    command_id = ledger.new_id()
    first = await ledger.capture(hold, "2", command_id=command_id)
    for other in (ledger, Ledger(stream)):
        again = await other.capture(hold, "2", asset=EUR.number, command_id=command_id)
        assert (again.duplicate, str(again.amount), again.sequence) == (
            *(True, "2.00", first.sequence),
        )
    # without the asset a part can't be turned into minor units: nothing is sent
    with pytest.raises(Refused, match="asset=") as refused:
        await Ledger(stream).capture(hold, "2", command_id=command_id)
    assert (refused.value.status, refused.value.reply) == (Status.HOLD_NOT_OPEN, None)
    # all of it can be asked for, but its amount can't be told
    whole = (await ledger.hold(payer, payee, "1")).entity
    whole_id = ledger.new_id()
    await ledger.capture(whole, command_id=whole_id)
    reply = await Ledger(stream).capture(whole, command_id=whole_id)
    assert (reply.accepted, reply.duplicate, reply.minor.amount) == (True, True, 100)
    with pytest.raises(LookupError, match="asset="):
        _ = reply.amount


async def test_what_does_not_exist_is_refused_with_the_ledgers_own_status(
    ledger: Ledger, stream: CommandStream
) -> None:
    known, unknown = await opened(ledger, "1"), 10**12
    other = Ledger(stream)
    for call, status in (
        (other.deposit(unknown, 1), Status.CREDIT_ACCOUNT_NOT_FOUND),
        (other.withdraw(unknown, 1), Status.DEBIT_ACCOUNT_NOT_FOUND),
        (other.transfer(known, unknown, 1), Status.CREDIT_ACCOUNT_NOT_FOUND),
        (other.hold(unknown, known, 1), Status.DEBIT_ACCOUNT_NOT_FOUND),
        (other.lock(unknown), Status.DEBIT_ACCOUNT_NOT_FOUND),
        (other.close_account(unknown), Status.DEBIT_ACCOUNT_NOT_FOUND),
        (other.set_limits(unknown, floor="-5"), Status.DEBIT_ACCOUNT_NOT_FOUND),
        (other.capture(unknown), Status.HOLD_NOT_FOUND),
        (other.capture(unknown, "1"), Status.HOLD_NOT_FOUND),
        (other.release(unknown), Status.HOLD_NOT_FOUND),
        (other.create_account(4_000), Status.ASSET_NOT_FOUND),
    ):
        with pytest.raises(Refused) as refused:
            await call
        assert refused.value.status is status
    with pytest.raises(NotFound) as missing:
        await other.account(unknown)
    assert missing.value.reason == "ACCOUNT_NOT_FOUND"
    with pytest.raises(NotFound) as asset:
        await other.asset(4_000)
    assert asset.value.reason == "ASSET_NOT_FOUND"


async def test_locks_limits_and_closing_are_seen_in_the_account(ledger: Ledger) -> None:
    account, other = await opened(ledger, "10"), await opened(ledger)
    assert str((await ledger.lock(account, Side.DEBITS)).debit_balance) == "10.00"
    with pytest.raises(Refused, match="DEBIT_ACCOUNT_LOCKED"):
        await ledger.withdraw(account, 1)
    assert (await ledger.account(account)).debits_locked
    await ledger.unlock(account)
    await ledger.set_limits(account, floor="-5.50", ceiling=Decimal(20))
    found = await ledger.account(account)
    assert (str(found.floor), str(found.ceiling), str(found.available)) == (
        *("-5.50", "20.00", "15.50"),
    )
    moved = await ledger.transfer(account, other, 100, balancing=True)
    assert (str(moved.amount), str(moved.debit_balance)) == ("15.50", "-5.50")
    await ledger.deposit(account, "5.50")
    await ledger.set_limits(account)
    found = await ledger.account(account)
    assert (str(found.floor), found.ceiling, str(found.posted)) == ("0.00", None, "0.00")
    await ledger.close_account(account)
    assert (await ledger.account(account)).closed
    with pytest.raises(Refused, match="CREDIT_ACCOUNT_CLOSED"):
        await ledger.deposit(account, 1)


async def test_a_version_is_checked_when_one_is_given(ledger: Ledger) -> None:
    account = await opened(ledger, "10")
    version = (await ledger.account(account)).version
    await ledger.deposit(account, 1, expected_version=version)
    with pytest.raises(Refused) as refused:
        await ledger.withdraw(account, 1, expected_version=version)
    assert refused.value.status is Status.VERSION_MISMATCH


async def test_an_id_given_again_runs_once(ledger: Ledger) -> None:
    account, command_id = await opened(ledger), ledger.new_id()
    first = await ledger.deposit(account, 1, command_id=command_id)
    again = await ledger.deposit(account, 1, command_id=command_id)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.sequence == first.sequence
    assert (await ledger.account(account)).posted == 1


async def test_commands_run_all_together_or_not_at_all(ledger: Ledger) -> None:
    alice, bob = await opened(ledger, "10"), await opened(ledger)

    def moves(*amounts: str) -> list[bytes]:
        return [
            client_core.transfer(ledger.new_id(), alice, bob, EUR.to_minor(amount))
            for amount in amounts
        ]

    commands = moves("1", "2.50")
    replies = await ledger.execute_all(commands, atomic=True)
    assert [str(reply.credit_balance) for reply in replies] == ["1.00", "3.50"]
    again = await ledger.execute_all(commands, atomic=True)
    assert [reply.duplicate for reply in again] == [True, True]
    failing = moves("1", "6", "1")
    for _ in range(2):
        with pytest.raises(ChainRefused, match="command 1 of 3") as refused:
            await ledger.execute_all(failing, atomic=True)
        assert (refused.value.index, refused.value.status) == (1, Status.INSUFFICIENT_FUNDS)
        assert [reply.status for reply in refused.value.replies] == [
            *(Status.LINKED_FAILED, Status.INSUFFICIENT_FUNDS, Status.LINKED_FAILED)
        ]
    assert (await ledger.account(bob)).posted == Decimal("3.50")
    replies = await ledger.execute_all(moves("1", "6", "1"))
    assert [reply.status for reply in replies] == [
        *(Status.OK, Status.INSUFFICIENT_FUNDS, Status.OK)
    ]
    assert [reply.amount for reply in replies] == [1, 0, 1]


async def test_a_chain_with_a_known_id_names_it(ledger: Ledger) -> None:
    account = await opened(ledger)
    known = client_core.deposit(ledger.new_id(), account, 100)
    await ledger.execute_all([known])
    fresh = client_core.deposit(ledger.new_id(), account, 100)
    # as the last of a chain it is the same command still: its first reply, and nothing runs now
    with pytest.raises(OutcomeUnsettled, match="command 1 of 2 was run before") as unsettled:
        await ledger.execute_all([fresh, known], atomic=True)
    assert [reply.status for reply in unsettled.value.replies] == [
        *(Status.CHAIN_ID_REUSED, Status.OK)
    ]
    with pytest.raises(ChainRefused) as refused:
        await ledger.execute_all([fresh, known, fresh], atomic=True)
    assert (refused.value.index, refused.value.status) == (1, Status.COMMAND_ID_REUSED)
    assert (await ledger.account(account)).posted == 1


async def test_what_a_batch_itself_opens_is_answered_in_its_asset(
    ledger: Ledger, stream: CommandStream
) -> None:
    newest = await opened(ledger)
    new_id, payer, payee = ledger.new_id, newest + 1, newest + 2
    totals = await ledger.totals()
    # a ledger that knows nothing yet, not even the asset
    replies = await Ledger(stream).execute_all(
        [
            client_core.create_account(new_id(), asset=KWD.number),
            client_core.create_account(new_id(), asset=KWD.number),
            client_core.deposit(new_id(), payer, KWD.to_minor("5")),
            client_core.hold(new_id(), payer, payee, KWD.to_minor("2")),
            client_core.lock(new_id(), payee, Side.DEBITS),
        ],
        atomic=True,
    )
    assert [str(reply.amount) for reply in replies] == ["0.000", "0.000", "5.000", "2.000", "0.000"]
    captured = await Ledger(stream).execute_all(
        [client_core.capture(new_id(), replies[3].entity, KWD.to_minor("0.5"))]
    )
    assert str(captured[0].credit_balance) == "0.500"
    after = await ledger.totals()
    assert after.accounts == totals.accounts + 2
    assert after.open_holds == totals.open_holds


async def test_totals_are_in_each_assets_decimals(ledger: Ledger) -> None:
    before = {totals.asset: totals for totals in (await ledger.totals()).assets}
    payer, payee = await opened(ledger, "1.5", KWD), await opened(ledger, asset=KWD)
    await ledger.hold(payer, payee, "0.125")
    after = await ledger.totals()
    found = {totals.asset: totals for totals in after.assets}
    assert str(found[KWD].posted - before[KWD].posted) == "1.500"
    assert str(found[KWD].held - before[KWD].held) == "0.125"
    assert found[KWD].accounts == before[KWD].accounts + 2
    assert found[KWD].open_holds == before[KWD].open_holds + 1
    assert found[EUR] == before[EUR]
    assert after.applied_sequence > (await ledger.account(payer)).last_sequence


async def test_many_commands_on_many_accounts_are_looked_up_and_run(
    ledger: Ledger, stream: CommandStream
) -> None:
    accounts = [
        reply.entity
        for reply in await ledger.execute_all(
            [client_core.create_account(ledger.new_id(), asset=EUR.number) for _ in range(300)]
        )
    ]
    replies = await Ledger(stream).execute_all(
        [client_core.deposit(ledger.new_id(), account, 5) for account in accounts]
    )
    assert {str(reply.credit_balance) for reply in replies} == {"0.05"}


async def test_an_account_whose_asset_was_forgotten_is_looked_up_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_core.ledger_queries, "REMEMBERED_MAX", 2)
    accounts = [await opened(ledger, "1", asset) for asset in (EUR, KWD, EUR, KWD)]
    for account, told in zip(accounts, ("3.00", "3.000") * 2, strict=True):
        assert str((await ledger.deposit(account, 2)).credit_balance) == told
    assert len(ledger._account_assets) == 2


@pytest.mark.parametrize(
    "commands", [[b"short"], [client_core.transfer(bytes(16), 1, 2, 3, linked=True)]]
)
async def test_commands_that_are_no_message_are_refused_before_sending(
    ledger: Ledger, commands: list[bytes]
) -> None:
    with pytest.raises(ValueError, match=r"bytes|linked"):
        await ledger.execute_all(commands)


async def test_a_linked_command_cannot_reach_for_other_callers_commands(
    stream: CommandStream,
) -> None:
    linked = client_core.transfer(bytes(16), 1, 2, 3, linked=True)
    with pytest.raises(ValueError, match="linked"):
        await stream.submit(linked)
    with pytest.raises(ValueError, match="linked"):
        await stream.submit_many(linked * 2)


async def test_a_node_that_is_gone_is_unavailable_to_queries_and_operations(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("gone"))) as process:
        async with CommandStream(process.wait_ready().address) as stream:
            ledger = Ledger(stream, query_timeout_s=5.0)
            account = (await ledger.create_account()).entity
            process.kill()
            with pytest.raises(Unavailable):
                await ledger.totals()
            with pytest.raises(Unavailable):
                await ledger.deposit(account, 1)
    with pytest.raises(StreamClosed):
        await stream.submit(client_core.deposit(bytes(16), account, 1))
