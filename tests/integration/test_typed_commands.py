"""The typed contract of the whole ledger domain, against a real leader."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cluster_core.record import Operation
from proto import ledger_pb2, ledger_pb2_grpc
from tests.leader_process import LeaderProcess, journal_url

DEADLINE_S = 20.0
MAX = 2**63 - 1


@pytest.fixture(scope="module")
def channel(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    journal = journal_url(tmp_path_factory.mktemp("journal"))
    with (
        LeaderProcess(journal) as process,
        grpc.insecure_channel(process.wait_ready().address) as channel,
    ):
        yield channel


def execute(channel: grpc.Channel, **command: Any) -> ledger_pb2.Reply:
    request = ledger_pb2.ExecuteRequest(command=command)
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    reply: ledger_pb2.Reply = stub.Execute(request, timeout=DEADLINE_S).reply
    return reply


def done(channel: grpc.Channel, **command: Any) -> ledger_pb2.Reply:
    reply = execute(channel, **command)
    assert reply.status == ledger_pb2.STATUS_OK, ledger_pb2.Status.Name(reply.status)
    return reply


def refusal(channel: grpc.Channel, **command: Any) -> str:
    return ledger_pb2.Status.Name(execute(channel, **command).status)


def execute_batch(channel: grpc.Channel, *commands: dict[str, Any], atomic: bool) -> list[str]:
    request = ledger_pb2.ExecuteBatchRequest(commands=commands, atomic=atomic)
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    replies = stub.ExecuteBatch(request, timeout=DEADLINE_S).replies
    return [ledger_pb2.Status.Name(reply.status).removeprefix("STATUS_") for reply in replies]


def create(channel: grpc.Channel, amount: int = 0, asset: int = 1) -> int:
    account = done(channel, create_account={"asset": asset}).entity
    if amount:
        done(channel, deposit={"credit_account": account, "amount": amount})
    return account


def account_of(channel: grpc.Channel, account: int) -> ledger_pb2.Account:
    request = ledger_pb2.GetAccountRequest(account_id=account)
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    found: ledger_pb2.Account = stub.GetAccount(request, timeout=DEADLINE_S).account
    return found


def hold_of(channel: grpc.Channel, hold: int) -> ledger_pb2.OpenHold:
    request = ledger_pb2.GetHoldRequest(hold_id=hold)
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    answer = stub.GetHold(request, timeout=DEADLINE_S)
    assert answer.applied_sequence > answer.hold.opened_sequence
    found: ledger_pb2.OpenHold = answer.hold
    return found


def reason(error: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, dict(info.metadata)


def test_a_hold_is_captured_in_parts_and_its_rest_released(channel: grpc.Channel) -> None:
    payer, payee = create(channel, 1_000), create(channel)
    opened = done(
        channel,
        code=77,
        hold={"debit_account": payer, "credit_account": payee, "amount": 600, "timeout_s": 3_600},
    )
    assert (opened.amount, opened.debit_balance, opened.credit_balance) == (600, 1_000, 0)
    hold = hold_of(channel, opened.entity)
    assert (hold.hold_id, hold.debit_account, hold.credit_account) == (opened.entity, payer, payee)
    assert (hold.asset, hold.remaining, hold.code) == (1, 600, 77)
    assert hold.opened_sequence == opened.sequence
    account = account_of(channel, payer)
    assert (account.posted, account.held, account.available, account.open_holds) == (
        (1_000, 600, 400, 1)
    )
    assert hold.expires_ns - account.opened_ns >= 3_600 * 10**9

    part = {"hold_id": opened.entity, "amount": 100, "keep_rest_held": True}
    captured = done(channel, capture=part)
    assert (captured.entity, captured.amount) == (opened.entity, 100)
    assert (captured.debit_balance, captured.credit_balance) == (900, 100)
    assert done(channel, release={"hold_id": opened.entity, "amount": 50}).amount == 50
    assert hold_of(channel, opened.entity).remaining == 450
    more = {"hold_id": opened.entity, "amount": 451}
    assert refusal(channel, capture=more) == "STATUS_HOLD_EXCEEDED"
    last = done(channel, capture=more | {"balancing": True})
    assert (last.amount, last.debit_balance, last.credit_balance) == (450, 450, 550)
    account = account_of(channel, payer)
    assert (account.posted, account.held, account.open_holds) == (450, 0, 0)
    assert refusal(channel, release={"hold_id": opened.entity}) == "STATUS_HOLD_NOT_OPEN"


def test_a_hold_that_is_gone_and_one_that_never_was_are_told_apart(channel: grpc.Channel) -> None:
    payer, payee = create(channel, 10), create(channel)
    terms = {"debit_account": payer, "credit_account": payee, "amount": 5}
    opened = done(channel, hold=terms).entity
    assert hold_of(channel, opened).expires_ns == 0
    done(channel, release={"hold_id": opened})
    for hold, told in ((opened, "HOLD_NOT_OPEN"), (opened + 1, "HOLD_NOT_FOUND")):
        for unknown in (hold,) if hold == opened else (hold, 0, 2**64 - 1):
            with pytest.raises(grpc.RpcError) as error:
                hold_of(channel, unknown)
            code, why, metadata = reason(error.value)
            assert (code, why) == (grpc.StatusCode.NOT_FOUND, told)
            assert metadata["hold_id"] == str(unknown)


def test_locks_keep_money_in_or_out_until_they_are_taken_off(channel: grpc.Channel) -> None:
    account, other = create(channel, 100), create(channel, 100)
    away = {"debit_account": account, "credit_account": other, "amount": 1}
    back = {"debit_account": other, "credit_account": account, "amount": 1}
    assert done(channel, lock={"account": account, "debits": True}).debit_balance == 100
    assert refusal(channel, transfer=away) == "STATUS_DEBIT_ACCOUNT_LOCKED"
    done(channel, transfer=back)
    done(channel, lock={"account": account, "credits": True})
    found = account_of(channel, account)
    assert (found.debits_locked, found.credits_locked, found.closed) == (True, True, False)
    assert refusal(channel, transfer=back) == "STATUS_CREDIT_ACCOUNT_LOCKED"
    done(channel, unlock={"account": account, "debits": True})
    done(channel, transfer=away)
    found = account_of(channel, account)
    assert (found.debits_locked, found.credits_locked) == (False, True)
    assert refusal(channel, lock={"account": account}) == "STATUS_LOCK_CODE_INVALID"


def test_an_account_closes_only_when_it_is_empty(channel: grpc.Channel) -> None:
    account = create(channel, 5)
    assert refusal(channel, close={"account": account}) == "STATUS_BALANCE_NOT_ZERO"
    done(channel, withdraw={"debit_account": account, "amount": 5})
    done(channel, close={"account": account})
    assert account_of(channel, account).closed
    deposit = {"credit_account": account, "amount": 5}
    assert refusal(channel, deposit=deposit) == "STATUS_CREDIT_ACCOUNT_CLOSED"


def test_limits_allow_a_credit_line_and_bound_the_balance(channel: grpc.Channel) -> None:
    account, other = create(channel), create(channel)
    found = account_of(channel, account)
    assert (found.floor, found.ceiling, found.available) == (0, MAX, 0)
    done(channel, set_limits={"account": account, "floor": -50, "ceiling": 20})
    found = account_of(channel, account)
    assert (found.floor, found.ceiling, found.available) == (-50, 20, 50)
    away = {"debit_account": account, "credit_account": other, "amount": 51}
    assert refusal(channel, transfer=away) == "STATUS_INSUFFICIENT_FUNDS"
    moved = done(channel, transfer=away | {"balancing": True})
    assert (moved.amount, moved.debit_balance) == (50, -50)
    deposit = {"credit_account": account, "amount": 71}
    assert refusal(channel, deposit=deposit) == "STATUS_CEILING_EXCEEDED"
    # without a ceiling there is none
    done(channel, set_limits={"account": account, "floor": -MAX})
    found = account_of(channel, account)
    assert (found.ceiling, found.available) == (MAX, MAX - 50)
    too_high = {"account": account, "floor": 2, "ceiling": 1}
    assert refusal(channel, set_limits=too_high) == "STATUS_FLOOR_ABOVE_CEILING"


def test_what_is_available_may_pass_2_to_the_63(channel: grpc.Channel) -> None:
    # an asset of its own, for the money of all accounts of an asset must fit too
    done(channel, register_asset={"asset": 99, "symbol": "BIG"})
    account = create(channel, asset=99)
    done(channel, set_limits={"account": account, "floor": -MAX})
    done(channel, deposit={"credit_account": account, "amount": MAX})
    assert account_of(channel, account).available == 2 * MAX
    done(channel, withdraw={"debit_account": account, "amount": MAX})


@pytest.mark.parametrize("operation", ["deposit", "withdraw", "transfer", "hold"])
def test_a_version_that_is_expected_must_be_the_accounts(
    channel: grpc.Channel, operation: str
) -> None:
    account, other = create(channel, 10), create(channel)
    terms: dict[str, Any] = {"amount": 1}
    terms["credit_account" if operation == "deposit" else "debit_account"] = account
    if operation in ("transfer", "hold"):
        terms["credit_account"] = other
    version = account_of(channel, account).version
    wrong = terms | {"expected_version": version + 1}
    assert refusal(channel, **{operation: wrong}) == "STATUS_VERSION_MISMATCH"
    done(channel, **{operation: terms | {"expected_version": version}})
    assert account_of(channel, account).version == version + 1
    done(channel, **{operation: terms})


def test_an_atomic_batch_is_done_whole_or_not_at_all(channel: grpc.Channel) -> None:
    first, second = create(channel, 100), create(channel)
    there = {"transfer": {"debit_account": first, "credit_account": second, "amount": 60}}
    back = {"transfer": {"debit_account": second, "credit_account": first, "amount": 60}}
    assert execute_batch(channel, there, back, there, atomic=True) == ["OK"] * 3
    assert account_of(channel, second).posted == 60
    version = account_of(channel, first).version
    assert execute_batch(channel, back, there, there, atomic=True) == [
        *("LINKED_FAILED", "LINKED_FAILED", "INSUFFICIENT_FUNDS")
    ]
    assert account_of(channel, first).version == version
    assert execute_batch(channel, back, there, there, atomic=False) == [
        *("OK", "OK", "INSUFFICIENT_FUNDS")
    ]
    assert execute_batch(channel, back, atomic=True) == ["OK"]


def test_an_id_that_was_used_stops_an_atomic_batch(channel: grpc.Channel) -> None:
    account = create(channel)
    deposit = {"deposit": {"credit_account": account, "amount": 1}}
    known, fresh = (bytes([9]) * 15 + bytes([last]) for last in (1, 2))
    assert execute_batch(channel, deposit | {"command_id": known}, atomic=False) == ["OK"]
    assert execute_batch(
        channel, deposit | {"command_id": known}, deposit | {"command_id": fresh}, atomic=True
    ) == ["COMMAND_ID_REUSED", "CHAIN_ID_REUSED"]
    twice = [deposit | {"command_id": fresh}] * 2
    assert execute_batch(channel, *twice, atomic=True) == ["CHAIN_ID_REUSED"] * 2
    assert account_of(channel, account).posted == 1


def test_totals_are_the_sums_of_all_accounts_and_holds(channel: grpc.Channel) -> None:
    done(channel, register_asset={"asset": 55, "decimals": 3, "symbol": "SUM"})
    first, second = create(channel, 1_000, asset=55), create(channel, 500, asset=55)
    terms = {"debit_account": first, "credit_account": second}
    done(channel, hold=terms | {"amount": 300})
    done(channel, hold=terms | {"amount": 200})
    done(channel, withdraw={"debit_account": second, "amount": 100})
    last = done(channel, create_account={"asset": 1})
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    totals = stub.GetTotals(ledger_pb2.GetTotalsRequest(), timeout=DEADLINE_S)
    [found] = [asset for asset in totals.assets if asset.asset == 55]
    assert (found.symbol, found.decimals) == ("SUM", 3)
    assert (found.posted_total, found.held_total) == (1_400, 500)
    assert (found.accounts, found.open_holds) == (2, 2)
    assert totals.applied_sequence == last.sequence + 1
    assert totals.ledger_time_ns >= account_of(channel, last.entity).opened_ns
    assert sum(asset.accounts for asset in totals.assets) == last.entity


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ({"code": 1, "lock": {"account": 1, "debits": True}}, "code is not used by LOCK"),
        ({"code": 1, "unlock": {"account": 1, "debits": True}}, "code is not used by UNLOCK"),
        (
            {"code": 1, "register_asset": {"asset": 9, "symbol": "A"}},
            "code is not used by REGISTER_ASSET",
        ),
        ({"command_id": b"x" * 15, "close": {"account": 1}}, "16 bytes, or empty"),
        ({}, "no operation is set"),
    ],
)
def test_what_cannot_be_a_command_is_named_by_its_place_and_stops_the_whole_call(
    channel: grpc.Channel, command: dict[str, Any], told: str
) -> None:
    account = create(channel)
    good = {"deposit": {"credit_account": account, "amount": 1}}
    for atomic in (False, True):
        with pytest.raises(grpc.RpcError) as error:
            execute_batch(channel, good, good, command, good, atomic=atomic)
        code, why, metadata = reason(error.value)
        assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS")
        assert metadata["command"] == "2"
        assert told in metadata["cause"]
    assert account_of(channel, account).posted == 0


UNKNOWN_FIELD = b"\xf8\x07\x01"
"""Field 127, varint 1: what a newer contract could have."""


@pytest.mark.parametrize("inner", [True, False])
def test_a_field_that_the_node_does_not_know_is_refused_and_not_dropped(
    channel: grpc.Channel, inner: bool
) -> None:
    account = create(channel)
    deposit = ledger_pb2.Deposit(credit_account=account, amount=1)
    if inner:
        deposit.MergeFromString(UNKNOWN_FIELD)
    command = ledger_pb2.Command(deposit=deposit)
    if not inner:
        command.MergeFromString(UNKNOWN_FIELD)
    with pytest.raises(grpc.RpcError) as error:
        ledger_pb2_grpc.CommandServiceStub(channel).Execute(
            ledger_pb2.ExecuteRequest(command=command), timeout=DEADLINE_S
        )
    code, why, metadata = reason(error.value)
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS")
    assert "fields that this node does not know" in metadata["cause"]
    assert account_of(channel, account).posted == 0


@pytest.mark.parametrize("symbol", ["NUL\0", "\0", "A\0B"])
def test_a_symbol_with_nul_is_refused(channel: grpc.Channel, symbol: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        execute(channel, register_asset={"asset": 98, "symbol": symbol})
    assert "1 to 8 characters of A-Z and 0-9" in reason(error.value)[2]["cause"]


def test_every_operation_but_the_leaders_own_has_a_typed_command() -> None:
    typed = {field.name for field in ledger_pb2.Command.DESCRIPTOR.oneofs[0].fields}
    assert typed == {operation.name.lower() for operation in Operation} - {"expire"}
