"""Raw HTTP/2 bodies against both edges: broken frames, bombs, and what is no gRPC at all."""

import random
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.integration.test_leader_contracts import balance, bank, commands_of, create, reason
from tests.leader_process import LeaderProcess, journal_url

DEADLINE_S = 20.0
MESSAGE_BYTES_MAX = 1 << 20
METHODS = (
    "gc.garcol.bank.proto.BalanceCommandService/sendCommand",
    "gc.garcol.bank.proto.BalanceQueryService/sendQuery",
    "ringledger.v1.CommandService/Submit",
)
CALLS = (
    "ringledger.v1.CommandService/Execute",
    "ringledger.v1.CommandService/ExecuteBatch",
    "ringledger.v1.QueryService/GetAccount",
    "ringledger.v1.QueryService/GetAccounts",
    "ringledger.v1.QueryService/ListAccounts",
    "ringledger.v1.ClusterService/GetStatus",
)
OWN_FAULTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


@pytest.fixture(scope="module")
def leader(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("hostile"))) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def channel(leader: LeaderProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(leader.address) as channel:
        yield channel


def samples() -> list[bytes]:
    """Well-formed requests of all kinds, to be broken."""
    transfer = {"debit_account": 1, "credit_account": 2, "amount": 3}
    return [
        balance_pb2.BalanceCommand(
            transferCommand={"fromId": 1, "toId": 2, "amount": 3, "correlationId": "c"}
        ).SerializeToString(),
        balance_pb2.BalanceQuery(singleBalanceQuery={"id": 1}).SerializeToString(),
        ledger_pb2.ExecuteRequest(command={"transfer": transfer, "code": 9}).SerializeToString(),
        ledger_pb2.SubmitRequest(
            commands=commands_of(3, operation=4, debit_account=1, amount=7).tobytes()
        ).SerializeToString(),
        ledger_pb2.GetAccountRequest(account_id=1).SerializeToString(),
    ]


def broken(source: random.Random) -> bytes:
    """A request with bytes changed, left out, doubled, or put in."""
    data = bytearray(source.choice(samples()))
    for _ in range(source.randint(0, 4)):
        place = source.randrange(len(data) + 1)
        match source.randrange(4):
            case 0 if place < len(data):
                data[place] = source.randrange(256)
            case 1:
                del data[place : place + source.randint(1, 8)]
            case 2:
                data[place:place] = data[: source.randint(1, 16)]
            case _:
                data[place:place] = source.randbytes(source.randint(1, 8))
    return bytes(data)


def test_broken_messages_are_answered_or_refused_and_never_a_fault_of_the_node(
    channel: grpc.Channel,
) -> None:
    seed = random.randrange(2**32)
    source = random.Random(seed)
    for _ in range(300):
        requests = [broken(source) for _ in range(source.randint(1, 4))]
        method = source.choice((*METHODS, *CALLS))
        if method in METHODS:
            call: Any = channel.stream_stream(f"/{method}")
            answers: Any = call(iter(requests), timeout=DEADLINE_S)
        else:
            unary: Any = channel.unary_unary(f"/{method}")
            answers = (unary(request, timeout=DEADLINE_S) for request in requests)
        try:
            for _answer in answers:
                pass
        except grpc.RpcError as error:
            status: Any = error
            assert status.code() not in OWN_FAULTS, (seed, method, requests, status.details())
    assert create(channel, 3)


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_taken(channel: grpc.Channel, encoding: grpc.Compression) -> None:
    account = create(channel)
    stub = balance_pb2_grpc.BalanceCommandServiceStub(channel)
    deposit = balance_pb2.BalanceCommand(
        depositCommand={"id": account, "amount": 1, "correlationId": "c" * 2_000}
    )
    replies = stub.sendCommand(iter([deposit] * 20), timeout=DEADLINE_S, compression=encoding)
    assert [reply.code for reply in replies] == [0] * 20
    assert balance(channel, account) == 20


def test_a_compressed_message_that_grows_beyond_the_limit_is_refused(
    channel: grpc.Channel,
) -> None:
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    request = ledger_pb2.SubmitRequest(commands=bytes(64 << 20))
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Submit(iter([request]), compression=grpc.Compression.Gzip, timeout=DEADLINE_S))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_fields_that_the_node_does_not_know_are_refused_in_a_command_and_ignored_around_it(
    channel: grpc.Channel,
) -> None:
    account = create(channel)
    command = ledger_pb2.Command(deposit={"credit_account": account, "amount": 1})
    unknown = struct.pack("<BBB", 0xF8, 0x07, 1)  # field 127, a varint
    execute: Any = channel.unary_unary("/ringledger.v1.CommandService/Execute")
    plain = ledger_pb2.ExecuteRequest(command=command).SerializeToString()
    execute(plain + unknown, timeout=DEADLINE_S)
    inner = command.SerializeToString() + unknown
    with pytest.raises(grpc.RpcError) as error:
        execute(b"\x0a" + bytes([len(inner)]) + inner, timeout=DEADLINE_S)
    assert reason(error.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS")
    assert balance(channel, account) == 1


def test_a_client_that_takes_no_replies_is_held_and_costs_nobody_else_anything(
    leader: LeaderProcess, channel: grpc.Channel
) -> None:
    account = create(channel)
    deposit = balance_pb2.BalanceCommand(
        depositCommand={"id": account, "amount": 1, "correlationId": "c" * 4_000}
    )
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(leader.address, options) as idle:
        call = balance_pb2_grpc.BalanceCommandServiceStub(idle).sendCommand(
            iter([deposit] * 20_000), timeout=5 * DEADLINE_S
        )
        for _ in range(20):
            assert bank(channel, {"depositCommand": {"id": account, "amount": 1}})[0][0] == 0
        assert sum(1 for _ in call) == 20_000
    assert balance(channel, account) == 20_020


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    unknown: Any = channel.unary_unary("/ringledger.v1.CommandService/Nothing")
    with pytest.raises(grpc.RpcError) as error:
        unknown(b"", timeout=DEADLINE_S)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_whose_deadline_passes_while_it_waits_ends_in_time(channel: grpc.Channel) -> None:
    request = ledger_pb2.GetAccountRequest(
        account_id=create(channel), consistency={"at_least_sequence": 10**12}
    )
    with pytest.raises(grpc.RpcError) as error:
        ledger_pb2_grpc.QueryServiceStub(channel).GetAccount(request, timeout=0.5)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
