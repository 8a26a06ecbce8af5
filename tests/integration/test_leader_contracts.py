"""Both contracts against a real leader: what existing clients rely on, and bad input."""

import itertools
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from cluster_core.record import COMMAND, REPLY, Operation, Status
from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.leader_process import LeaderProcess, journal_url
from tests.services import KafkaCluster

MAX_IN_FLIGHT = 4_096
DEADLINE_S = 20.0


@pytest.fixture(scope="module", params=["sqlite", "kafka"])
def leader(
    edge: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LeaderProcess]:
    journal = journal_url(tmp_path_factory.mktemp("journal"))
    if request.param == "kafka":
        kafka: KafkaCluster = request.getfixturevalue("kafka")
        journal = f"kafka://{kafka.bootstrap}/contracts-{uuid.uuid4()}"
    with LeaderProcess(journal, "--max-in-flight", str(MAX_IN_FLIGHT)) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def channel(leader: LeaderProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(leader.address) as channel:
        yield channel


def bank(channel: grpc.Channel, *commands: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Send single commands on one stream, half-close at once, and collect the replies."""
    stub = balance_pb2_grpc.BalanceCommandServiceStub(channel)
    requests = iter([balance_pb2.BalanceCommand(**command) for command in commands])
    return [
        (reply.code, reply.message, reply.correlationId)
        for reply in stub.sendCommand(requests, timeout=DEADLINE_S)
    ]


def create(channel: grpc.Channel, amount: int = 0) -> int:
    """A new account with a balance, over the bank contract."""
    [(code, message, _)] = bank(channel, {"createBalanceCommand": {"correlationId": "c"}})
    assert code == 0
    account = int(message.split("::")[2])
    if amount:
        assert bank(channel, {"depositCommand": {"id": account, "amount": amount}})[0][0] == 0
    return account


def query(channel: grpc.Channel, **request: Any) -> balance_pb2.BalanceQueryResult:
    stub = balance_pb2_grpc.BalanceQueryServiceStub(channel)
    queries = iter([balance_pb2.BalanceQuery(**request)])
    result: balance_pb2.BalanceQueryResult
    [result] = stub.sendQuery(queries, timeout=DEADLINE_S)
    return result


def balance(channel: grpc.Channel, account: int) -> int:
    return int(query(channel, singleBalanceQuery={"id": account}).singleBalanceResult.amount)


def commands_of(count: int, **fields: Any) -> np.ndarray[Any, Any]:
    commands = np.zeros(count, COMMAND)
    for name, value in fields.items():
        commands[name] = value
    return commands


def submit(channel: grpc.Channel, *messages: bytes) -> list[np.ndarray[Any, Any]]:
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    requests = iter([ledger_pb2.SubmitRequest(commands=message) for message in messages])
    return [
        np.frombuffer(response.replies, REPLY)
        for response in stub.Submit(requests, timeout=DEADLINE_S)
    ]


def reason(error: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status code, ErrorInfo reason and metadata of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, dict(info.metadata)


def test_the_bank_contract_answers_in_its_own_words(channel: grpc.Channel) -> None:
    first, second = create(channel, 500), create(channel)
    assert bank(
        channel,
        {"depositCommand": {"id": first, "amount": 50, "correlationId": "d"}},
        {"withdrawCommand": {"id": first, "amount": 50, "correlationId": "w"}},
        {"transferCommand": {"fromId": first, "toId": second, "amount": 30, "correlationId": "t"}},
        {"transferCommand": {"fromId": first, "toId": first, "amount": 30, "correlationId": "s"}},
        {"depositCommand": {"id": first, "amount": 0, "correlationId": "z"}},
        {"depositCommand": {"id": 99_999, "amount": 1, "correlationId": "n"}},
        {"withdrawCommand": {"id": second, "amount": 31, "correlationId": "i"}},
    ) == [
        (0, "0::Deposit success", "d"),
        (0, "0::Withdraw success", "w"),
        (0, "0::Transfer success", "t"),
        (400, "400::FromId and ToId must be different", "s"),
        (400, "400::Amount must be greater than 0", "z"),
        (400, "400::Balance 99999 not found", "n"),
        (400, "400::Insufficient balance", "i"),
    ]
    assert (balance(channel, first), balance(channel, second)) == (470, 30)


def test_an_unset_oneof_is_an_invalid_command_and_costs_the_stream_nothing(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    replies = bank(channel, {}, {"depositCommand": {"id": account, "amount": 1}})
    assert sorted(replies) == [(0, "0::Deposit success", ""), (400, "Invalid command", "")]


def test_bytes_that_are_no_command_end_the_stream_after_all_earlier_replies(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    deposit = balance_pb2.BalanceCommand(depositCommand={"id": account, "amount": 1})
    method = "/gc.garcol.bank.proto.BalanceCommandService/sendCommand"
    call: Any = channel.stream_stream(method)
    requests = [deposit.SerializeToString()] * 50 + [b"\xff\xff"]
    replies = call(iter(requests), timeout=DEADLINE_S)
    answered = sum(1 for _ in itertools.islice(replies, 50))
    with pytest.raises(grpc.RpcError) as error:
        next(replies)
    assert reason(error.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert (answered, balance(channel, account)) == (50, 50)


@pytest.mark.parametrize(
    "method",
    [
        "ringledger.v1.CommandService/Execute",
        "ringledger.v1.CommandService/ExecuteBatch",
        "ringledger.v1.QueryService/GetAccount",
    ],
)
def test_bytes_that_are_no_request_are_invalid_arguments(
    channel: grpc.Channel, method: str
) -> None:
    call: Any = channel.unary_unary(f"/{method}")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\xff\xff", timeout=DEADLINE_S)
    assert reason(error.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


def test_a_correlation_id_beyond_its_limit_is_refused(channel: grpc.Channel) -> None:
    account = create(channel)
    [(code, message, _)] = bank(
        channel, {"depositCommand": {"id": account, "amount": 1, "correlationId": "x" * 5_000}}
    )
    assert (code, "at most 4096" in message) == (400, True)


def test_a_negative_typed_amount_is_answered_with_its_status(channel: grpc.Channel) -> None:
    request = ledger_pb2.ExecuteRequest(
        command={"deposit": {"credit_account": create(channel), "amount": -1}}
    )
    reply = ledger_pb2_grpc.CommandServiceStub(channel).Execute(request).reply
    assert reply.status == ledger_pb2.STATUS_AMOUNT_NOT_POSITIVE


def test_ids_and_amounts_at_the_edges_of_64_bits_are_refused(channel: grpc.Channel) -> None:
    account = create(channel, 50)
    replies = bank(
        channel,
        {"depositCommand": {"id": 2**64 - 1, "amount": 1}},
        {"depositCommand": {"id": 2**63, "amount": 1}},
        {"depositCommand": {"id": 0, "amount": 1}},
        {"depositCommand": {"id": account, "amount": 2**63 - 1}},
        {"depositCommand": {"id": account, "amount": 2**63, "correlationId": "big"}},
    )
    assert [code for code, _, _ in replies] == [400] * 5
    assert (400, "400::Amount must be at most 9223372036854775807", "big") in replies
    assert balance(channel, account) == 50


def test_a_correlation_id_may_come_again_and_again_and_is_no_idempotency_key(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    deposit = {"depositCommand": {"id": account, "amount": 1, "correlationId": "random-uuid"}}
    assert bank(channel, *[deposit] * 500) == [(0, "0::Deposit success", "random-uuid")] * 500
    assert balance(channel, account) == 500


def test_queries_of_unknown_ids_and_empty_queries_are_answered(channel: grpc.Channel) -> None:
    unknown = query(channel, singleBalanceQuery={"id": 10**9, "correlationId": "q"}).baseResult
    assert (unknown.code, unknown.correlationId) == (404, "q")
    assert query(channel).baseResult.code == 400
    account = create(channel, 7)
    found = query(channel, singleBalanceQuery={"id": account}).singleBalanceResult
    assert (found.id, found.amount, found.precision, found.active) == (account, 7, 2, True)


def test_a_closed_account_is_not_active_and_an_overdrawn_one_shows_nothing(
    channel: grpc.Channel,
) -> None:
    account, other = create(channel), create(channel)
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    for command in (
        {"set_limits": {"account": account, "floor": -50}},
        {"transfer": {"debit_account": account, "credit_account": other, "amount": 50}},
        {"withdraw": {"debit_account": other, "amount": 50}},
        {"close": {"account": other}},
    ):
        request = ledger_pb2.ExecuteRequest(command=command)
        assert stub.Execute(request, timeout=DEADLINE_S).reply.status == ledger_pb2.STATUS_OK
    overdrawn = query(channel, singleBalanceQuery={"id": account}).singleBalanceResult
    assert (overdrawn.amount, overdrawn.active) == (0, True)
    closed = query(channel, singleBalanceQuery={"id": other}).singleBalanceResult
    assert (closed.amount, closed.active) == (0, False)
    # the sums of all tests' money stay above zero
    assert bank(channel, {"depositCommand": {"id": account, "amount": 50}})[0][0] == 0


def test_a_client_that_cancels_mid_reply_costs_nobody_else_anything(
    leader: LeaderProcess, channel: grpc.Channel
) -> None:
    account = create(channel)
    for _ in range(20):
        with grpc.insecure_channel(leader.address) as vanishing:
            stub = balance_pb2_grpc.BalanceCommandServiceStub(vanishing)
            deposit = balance_pb2.BalanceCommand(depositCommand={"id": account, "amount": 1})
            call = stub.sendCommand(iter([deposit] * 200), timeout=DEADLINE_S)
            next(call)
            call.cancel()
    replies = bank(channel, *[{"depositCommand": {"id": account, "amount": 1}}] * 100)
    assert replies == [(0, "0::Deposit success", "")] * 100


def test_packed_commands_are_answered_in_order_with_the_balances_after_each(
    channel: grpc.Channel,
) -> None:
    accounts = [create(channel, 1_000), create(channel)]
    transfers = commands_of(
        100,
        operation=Operation.TRANSFER,
        debit_account=accounts[0],
        credit_account=accounts[1],
        amount=10,
    )
    first, second = submit(channel, transfers.tobytes(), transfers[:1].tobytes())
    assert set(first["status"]) == {Status.OK}
    assert list(first["credit_balance"]) == list(range(10, 1_001, 10))
    assert list(np.diff(first["sequence"].astype(np.int64))) == [1] * 99
    assert second["status"][0] == Status.INSUFFICIENT_FUNDS


def test_the_same_command_id_again_gets_the_first_reply_and_moves_nothing(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    deposit = commands_of(1, operation=Operation.DEPOSIT, credit_account=account, amount=5)
    deposit.view(np.uint8)[:16] = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    [first], [again] = submit(channel, deposit.tobytes(), deposit.tobytes())
    assert (first["status"], first["flags"], again["flags"]) == (Status.OK, 0, 1)
    assert again["sequence"] == first["sequence"]
    deposit["amount"] = 6
    [[reused]] = submit(channel, deposit.tobytes())
    assert reused["status"] == Status.COMMAND_ID_REUSED
    assert balance(channel, account) == 5


@pytest.mark.parametrize(
    ("packed", "cause"),
    [
        (b"x" * 63, "not a multiple of 64"),
        (b"", "1 to 8192 commands"),
        (bytes(64 * 8_193), "1 to 8192 commands"),
        (commands_of(1, operation=99).tobytes(), "unknown operation 99"),
        (commands_of(1, operation=Operation.DEPOSIT, flags=16).tobytes(), "unknown flag"),
        (commands_of(1, operation=Operation.DEPOSIT, asset=1).tobytes(), "field asset"),
        (commands_of(1, operation=Operation.DEPOSIT, timeout_s=1).tobytes(), "field timeout_s"),
    ],
)
def test_malformed_messages_are_refused_whole_and_say_why(
    channel: grpc.Channel, packed: bytes, cause: str
) -> None:
    account = create(channel)
    good = commands_of(1, operation=Operation.DEPOSIT, credit_account=account, amount=5)
    with pytest.raises(grpc.RpcError) as error:
        submit(channel, good.tobytes(), good.tobytes() + packed if len(packed) == 64 else packed)
    code, what, metadata = reason(error.value)
    assert (code, what) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS")
    assert cause in metadata["cause"]
    assert metadata["message"] == "1"
    assert balance(channel, account) == 5


def test_a_message_over_the_in_flight_limit_is_refused_and_says_so(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        submit(
            channel,
            commands_of(
                MAX_IN_FLIGHT + 1, operation=Operation.DEPOSIT, credit_account=1, amount=1
            ).tobytes(),
        )
    code, what, metadata = reason(error.value)
    assert (code, what) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "IN_FLIGHT_LIMIT")
    assert metadata["limit"] == str(MAX_IN_FLIGHT)


def test_more_than_the_in_flight_limit_in_many_messages_waits_and_is_all_answered(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    message = commands_of(
        1_000, operation=Operation.DEPOSIT, credit_account=account, amount=1
    ).tobytes()
    assert sum(len(replies) for replies in submit(channel, *[message] * 50)) == 50_000
    assert balance(channel, account) == 50_000


def test_an_oversized_grpc_message_is_refused_before_it_is_read(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        submit(channel, bytes(2 << 20))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_garbage_on_the_port_costs_nobody_else_anything(
    leader: LeaderProcess, channel: grpc.Channel
) -> None:
    host, port = leader.address.split(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, b"PRI * HTTP/2.0\r\n\r\n"):
        with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
            connection.sendall(garbage)
    assert create(channel, 3)


def test_typed_calls_carry_the_same_fields(channel: grpc.Channel) -> None:
    commands = ledger_pb2_grpc.CommandServiceStub(channel)
    created = commands.Execute(
        ledger_pb2.ExecuteRequest(
            command={"code": 9, "create_account": {"asset": 1, "reference": 77}}
        )
    ).reply
    batch = ledger_pb2.ExecuteBatchRequest(
        commands=[
            {
                "command_id": uuid.uuid4().bytes,
                "deposit": {"credit_account": created.entity, "amount": 12},
            },
            {"withdraw": {"debit_account": created.entity, "amount": 13}},
            {"register_asset": {"asset": 7, "decimals": 3, "symbol": "GEM"}},
        ]
    )
    replies = commands.ExecuteBatch(batch).replies
    assert [reply.status for reply in replies] == [
        ledger_pb2.STATUS_OK,
        ledger_pb2.STATUS_INSUFFICIENT_FUNDS,
        ledger_pb2.STATUS_OK,
    ]
    answer = ledger_pb2_grpc.QueryServiceStub(channel).GetAccount(
        ledger_pb2.GetAccountRequest(account_id=created.entity)
    )
    account = answer.account
    assert (account.posted, account.reference, account.code, account.version) == (12, 77, 9, 2)
    assert answer.applied_sequence > account.last_sequence
    status = ledger_pb2_grpc.ClusterServiceStub(channel).GetStatus(ledger_pb2.GetStatusRequest())
    assert [(a.asset, a.symbol, a.decimals) for a in status.assets] == [
        (1, "UNIT", 2),
        (7, "GEM", 3),
    ]


@pytest.mark.parametrize(
    "command",
    [
        {},
        {"command_id": b"short", "deposit": {"credit_account": 1, "amount": 1}},
        {"register_asset": {"asset": 9, "symbol": "TOOLONGNAME"}},
    ],
)
def test_malformed_typed_commands_are_invalid_arguments(
    channel: grpc.Channel, command: dict[str, Any]
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        ledger_pb2_grpc.CommandServiceStub(channel).Execute(
            ledger_pb2.ExecuteRequest(command=command)
        )
    assert reason(error.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS")


def test_an_unknown_account_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        ledger_pb2_grpc.QueryServiceStub(channel).GetAccount(
            ledger_pb2.GetAccountRequest(account_id=2**63)
        )
    assert reason(error.value)[:2] == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")


def test_status_names_of_the_contract_are_those_of_the_records() -> None:
    typed = {
        name.removeprefix("STATUS_"): number for name, number in ledger_pb2.Status.items() if number
    }
    assert typed == {status.name: int(status) for status in Status}


def test_health_and_reflection_are_served(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    health = stub.Check(health_pb2.HealthCheckRequest(service="ringledger.v1.CommandService"))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    [answer] = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"ringledger.v1.CommandService", "gc.garcol.bank.proto.BalanceQueryService"} <= names


def test_balances_of_all_accounts_are_what_the_status_totals(channel: grpc.Channel) -> None:
    status = ledger_pb2_grpc.ClusterServiceStub(channel).GetStatus(ledger_pb2.GetStatusRequest())
    stub = balance_pb2_grpc.BalanceQueryServiceStub(channel)
    queries = iter(
        [
            balance_pb2.BalanceQuery(singleBalanceQuery={"id": account})
            for account in range(1, status.accounts + 1)
        ]
    )
    total = sum(result.singleBalanceResult.amount for result in stub.sendQuery(queries))
    assert total == sum(asset.posted_total for asset in status.assets)


def test_the_journal_of_the_leader_lies_where_it_was_told(tmp_path: Path) -> None:
    journal = tmp_path / "deep" / "er" / "ledger.db"
    with LeaderProcess(f"sqlite:///{journal}") as process:
        process.wait_ready()
        assert journal.is_file()
