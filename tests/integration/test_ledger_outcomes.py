"""What client_core's Ledger concludes from an id's own status, against a real leader."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

import client_core
from client_core import (
    ChainRefused,
    CommandStream,
    IdInFuture,
    Ledger,
    LedgerClock,
    NotFound,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Retryable,
    Status,
)
from tests.leader_process import LeaderProcess, journal_url
from tests.property.strategies import uuid7

WINDOW = 8
YEAR_5138_MS = 10**14


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    journal = journal_url(tmp_path_factory.mktemp("journal"))
    with LeaderProcess(journal, "--window-capacity", str(WINDOW)) as process:
        yield process.wait_ready().address


@pytest_asyncio.fixture
async def stream(address: str) -> AsyncIterator[CommandStream]:
    async with CommandStream(address) as stream:
        yield stream


@pytest.fixture
def ledger(stream: CommandStream) -> Ledger:
    return Ledger(stream)


async def opened(ledger: Ledger, amount: int = 0) -> int:
    account = (await ledger.create_account()).entity
    if amount:
        await ledger.deposit(account, amount)
    return account


async def forgotten(ledger: Ledger, account: int, commands: int = WINDOW) -> None:
    """The ids of so many earlier commands leave the window."""
    for _ in range(commands):
        await ledger.deposit(account, 1)


def deposits(ledger: Ledger, account: int, count: int) -> list[bytes]:
    return [client_core.deposit(ledger.new_id(), account, 100) for _ in range(count)]


async def test_an_id_too_old_to_be_known_is_an_unknown_outcome_and_no_refusal(
    ledger: Ledger,
) -> None:
    account, command_id = await opened(ledger), ledger.new_id()
    await ledger.deposit(account, 5, command_id=command_id)
    await forgotten(ledger, account)
    with pytest.raises(OutcomeUnsettled, match="ask history or read the state") as error:
        await ledger.deposit(account, 5, command_id=command_id)
    assert isinstance(error.value, OutcomeUnknown)
    assert error.value.command_ids == [command_id]
    assert [reply.status for reply in error.value.replies] == [Status.COMMAND_ID_TOO_OLD]
    assert (await ledger.account(account)).posted == 5 + WINDOW


async def test_an_id_ahead_of_ledger_time_was_surely_not_run_and_may_be_sent_again(
    ledger: Ledger,
) -> None:
    account, ahead = await opened(ledger), uuid7(YEAR_5138_MS, 7)
    with pytest.raises(IdInFuture, match="wait") as error:
        await ledger.deposit(account, 5, command_id=ahead)
    assert isinstance(error.value, Retryable)
    early = client_core.deposit(ahead, account, 100)
    with pytest.raises(IdInFuture, match="command 1 of 3"):
        await ledger.execute_all(
            [*deposits(ledger, account, 1), early, *deposits(ledger, account, 1)], atomic=True
        )
    assert (await ledger.account(account)).posted == 0


async def test_one_reply_about_the_future_brings_a_clock_that_is_ahead_down(
    address: str, ledger: Ledger
) -> None:
    account = await opened(ledger)
    ahead = LedgerClock(time.time_ns() + 60 * 10**9)
    async with CommandStream(address, clock=ahead) as stream:
        early = client_core.deposit(stream.command_ids.next_id(), account, 1)
        assert (await stream.submit(early)).status is Status.COMMAND_ID_IN_FUTURE
        soon = client_core.deposit(stream.command_ids.next_id(), account, 1)
        assert (await stream.submit(soon)).status is Status.OK


async def test_a_chain_of_which_a_part_left_the_window_is_an_unknown_outcome(
    ledger: Ledger,
) -> None:
    account = await opened(ledger)
    chain = deposits(ledger, account, 3)
    await ledger.execute_all(chain, atomic=True)
    # all known: the first replies; then the first has left the window, then all have
    for left, statuses in (
        (0, None),
        (WINDOW - 2, ["COMMAND_ID_TOO_OLD", "OK", "OK"]),
        (2, ["COMMAND_ID_TOO_OLD"] * 3),
    ):
        await forgotten(ledger, account, left)
        if statuses is None:
            assert all(reply.duplicate for reply in await ledger.execute_all(chain, atomic=True))
            continue
        with pytest.raises(OutcomeUnsettled, match="command 0 of 3 has an id too old") as error:
            await ledger.execute_all(chain, atomic=True)
        assert [reply.status.name for reply in error.value.replies] == statuses
        assert len(error.value.command_ids) == 3
    assert (await ledger.account(account)).posted == 3 + WINDOW


async def test_a_chain_with_a_member_without_id_that_is_sent_again_is_not_called_refused(
    ledger: Ledger,
) -> None:
    account = await opened(ledger)
    chain = [*deposits(ledger, account, 1), client_core.deposit(bytes(16), account, 100)]
    await ledger.execute_all(chain, atomic=True)
    with pytest.raises(OutcomeUnsettled, match="command 0 of 2 was run before"):
        await ledger.execute_all(chain, atomic=True)
    assert (await ledger.account(account)).posted == 2


async def test_a_chain_that_was_refused_is_refused_again_when_it_is_sent_again(
    ledger: Ledger,
) -> None:
    account = await opened(ledger)
    chain = [*deposits(ledger, account, 1), client_core.withdraw(ledger.new_id(), account, 500)]
    for _ in range(2):
        with pytest.raises(ChainRefused) as error:
            await ledger.execute_all(chain, atomic=True)
        assert (error.value.index, error.value.status) == (1, Status.INSUFFICIENT_FUNDS)
    # an early id beside a known refusal: waiting would not help
    early = client_core.deposit(uuid7(YEAR_5138_MS, 7), account, 100)
    with pytest.raises(ChainRefused) as error:
        await ledger.execute_all([chain[0], early], atomic=True)
    assert error.value.status is Status.COMMAND_ID_IN_FUTURE


async def test_the_asset_given_with_a_hold_must_be_the_holds(
    ledger: Ledger, stream: CommandStream
) -> None:
    payer, payee = await opened(ledger, 10), await opened(ledger)
    await ledger.register_asset(7, "KWD", 3)
    hold = (await ledger.hold(payer, payee, 6)).entity
    for other in (ledger, Ledger(stream)):
        for call in (other.capture(hold, 1, asset=7), other.release(hold, 1, asset=7)):
            with pytest.raises(ValueError, match=f"hold {hold} is of asset 1"):
                await call
    part = await Ledger(stream).capture(hold, 1, asset=1, keep_rest_held=True)
    assert part.minor.amount == 100
    await ledger.release(hold)
    # gone, so nobody knows it any more but the caller; never opened, so the caller can't know it
    other = Ledger(stream)
    with pytest.raises(Refused, match="HOLD_NOT_OPEN"):
        await other.capture(hold, 1, asset=1)
    with pytest.raises(Refused, match="HOLD_NOT_FOUND"):
        await other.capture(hold + 10**6, 1, asset=1)
    with pytest.raises(NotFound):
        await other.hold_of(hold)


@pytest.mark.parametrize(
    ("command_id", "kind"),
    [(b"", ValueError), (b"x" * 15, ValueError), ("x" * 16, TypeError), (7, TypeError)],
)
async def test_a_command_id_that_is_none_is_refused_and_not_replaced(
    ledger: Ledger, command_id: Any, kind: type[Exception]
) -> None:
    account = await opened(ledger)
    for call in (
        ledger.deposit(account, 1, command_id=command_id),
        ledger.create_account(command_id=command_id),
    ):
        with pytest.raises(kind, match=r"command_id is .*: give 16"):
            await call
    assert (await ledger.account(account)).posted == 0


@pytest.mark.parametrize("count", [0, 8_193])
async def test_more_commands_than_a_message_holds_are_refused_before_any_look_up(
    ledger: Ledger, count: int
) -> None:
    commands = [client_core.deposit(ledger.new_id(), 10**9 + n, 1) for n in range(count)]
    with pytest.raises(ValueError, match=f"{count} commands: give 1 to 8192"):
        await ledger.execute_all(commands)
    assert not ledger._assets
