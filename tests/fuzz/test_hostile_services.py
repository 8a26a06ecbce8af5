"""Random bytes to a real leader and admin app: every method, every route, and none at all."""

import http.client
import json
import random
import socket
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import balance_pb2, ledger_pb2, ledger_pb2_grpc
from tests.admin_process import AdminProcess
from tests.leader_process import LeaderProcess, journal_url

CALLS_OF_A_METHOD = 60
REQUESTS = 400
RAW_CONNECTIONS = 120
TIMEOUT_S = 20.0
GROWTH_BYTES_MAX = 96 << 20

_SERVICE = "/ringledger.v1."
UNARY: dict[str, Any] = {
    f"{_SERVICE}CommandService/Execute": ledger_pb2.ExecuteRequest,
    f"{_SERVICE}CommandService/ExecuteBatch": ledger_pb2.ExecuteBatchRequest,
    f"{_SERVICE}QueryService/GetAccount": ledger_pb2.GetAccountRequest,
    f"{_SERVICE}QueryService/GetAccounts": ledger_pb2.GetAccountsRequest,
    f"{_SERVICE}QueryService/ListAccounts": ledger_pb2.ListAccountsRequest,
    f"{_SERVICE}QueryService/GetHold": ledger_pb2.GetHoldRequest,
    f"{_SERVICE}QueryService/GetTotals": ledger_pb2.GetTotalsRequest,
    f"{_SERVICE}ClusterService/GetStatus": ledger_pb2.GetStatusRequest,
    f"{_SERVICE}HistoryService/GetStatement": ledger_pb2.GetStatementRequest,
}
STREAMS: dict[str, Any] = {
    f"{_SERVICE}CommandService/Submit": ledger_pb2.SubmitRequest,
    "/gc.garcol.bank.proto.BalanceCommandService/sendCommand": balance_pb2.BalanceCommand,
    "/gc.garcol.bank.proto.BalanceQueryService/sendQuery": balance_pb2.BalanceQuery,
}
FAULTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("fuzz"))) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def app(leader: LeaderProcess) -> Iterator[AdminProcess]:
    with AdminProcess(leader.address, "--rate-limit", "0").wait_ready() as admin:
        yield admin


def applied(leader: LeaderProcess) -> int:
    with grpc.insecure_channel(leader.address) as channel:
        stub = ledger_pb2_grpc.ClusterServiceStub(channel)
        request = ledger_pb2.GetStatusRequest()
        return int(stub.GetStatus(request, timeout=TIMEOUT_S).applied_sequence)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1_024


def hostile(draw: random.Random, samples: list[bytes]) -> bytes:
    """Random bytes, or a sample that was changed, cut or doubled."""
    if draw.random() < 0.4:
        return draw.randbytes(draw.choice((0, 1, 3, 20, 64, 200, 5_000)))
    data = bytearray(draw.choice(samples))
    for _ in range(draw.randrange(1, 4)):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.2:
        data *= 2
    return bytes(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.2 else data)


def test_no_method_breaks_or_changes_anything_by_bytes_that_it_refuses(
    leader: LeaderProcess,
) -> None:
    draw = random.Random(1)
    command = ledger_pb2.Command(
        command_id=bytes(16), deposit=ledger_pb2.Deposit(credit_account=1, amount=1)
    )
    samples = [
        ledger_pb2.ExecuteRequest(command=command).SerializeToString(),
        ledger_pb2.ExecuteBatchRequest(commands=[command] * 3).SerializeToString(),
        ledger_pb2.SubmitRequest(commands=bytes(128)).SerializeToString(),
        balance_pb2.BalanceCommand(
            depositCommand=balance_pb2.DepositCommand(id=1, amount=1, correlationId="c")
        ).SerializeToString(),
        ledger_pb2.GetAccountsRequest(account_ids=bytes(16)).SerializeToString(),
    ]
    before = resident_bytes(leader.process.pid)
    with grpc.insecure_channel(leader.address) as channel:
        for method in UNARY:
            call: Any = channel.unary_unary(method)
            for _ in range(CALLS_OF_A_METHOD):
                sequence = applied(leader) if method.endswith("Execute") else -1
                try:
                    call(hostile(draw, samples), timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    check_refusal(method, error)
                    assert sequence in (-1, applied(leader))
        for method in STREAMS:
            stream: Any = channel.stream_stream(method)
            for _ in range(CALLS_OF_A_METHOD):
                messages = [hostile(draw, samples) for _ in range(draw.randrange(1, 5))]
                try:
                    for _ in stream(iter(messages), timeout=TIMEOUT_S):
                        pass
                except grpc.RpcError as error:
                    check_refusal(method, error)
    assert leader.process.poll() is None
    assert applied(leader) >= 0
    assert resident_bytes(leader.process.pid) - before < GROWTH_BYTES_MAX


def check_refusal(method: str, error: Any) -> None:
    assert error.code() not in FAULTS, (method, error)


def json_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(9 if depth < 3 else 7)
    text = "".join(draw.choices(string.printable + "é\u0000\ud7ff", k=draw.randrange(12)))
    plain: tuple[Any, ...] = (
        None, draw.random() < 0.5, draw.choice((0, 1, -1, 2**63, 2**64, 10**40, -(2**63))),
        draw.choice((0.1, 1e308, -1e-300)), text, "1.00", str(draw.randrange(10**20)),
    )  # fmt: skip
    if kind < len(plain):
        return plain[kind]
    if kind == 7:
        return [json_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = ("credit_account", "debit_account", "amount", "asset", "commands", "operation", text)
    return {draw.choice(names): json_value(draw, depth + 1) for _ in range(draw.randrange(5))}


def test_no_route_breaks_by_any_body_or_path(leader: LeaderProcess, app: AdminProcess) -> None:
    draw = random.Random(2)
    paths = [*app.call("GET", "/openapi.json").json["paths"], "/", "/api/v1/%00", "/api/v1/../x"]
    before = resident_bytes(app.process.pid)
    seen = set()
    for _ in range(REQUESTS):
        path = draw.choice(paths)
        while "{" in path:
            start, _, rest = path.partition("{")
            name = draw.choice(("1", "-1", "0", "99999999999999999999", "x", "%2e%2e", "1%00"))
            path = start + name + rest.partition("}")[2]
        body = (
            hostile(draw, [b'{"amount": "1.00"}', b"[[[[[[", b'{"a":' * 50])
            if draw.random() < 0.4
            else json.dumps(json_value(draw)).encode()
        )
        kind = draw.choice(("application/json", "text/plain", "application/json; charset=utf-16"))
        headers = {"content-type": kind}
        if draw.random() < 0.3:
            headers["idempotency-key"] = "".join(draw.choices(string.ascii_letters, k=9))
        sequence = applied(leader)
        got = app.call(draw.choice(("GET", "POST", "PUT", "DELETE")), path, body, headers)
        seen.add(got.status)
        assert got.status < 500 or got.status in (503, 504), (path, body, got)
        if 400 <= got.status < 500 and got.status not in (404, 409, 422):
            assert applied(leader) == sequence, (path, body, got)
    assert {200, 400, 404} & seen
    assert app.process.poll() is None
    assert resident_bytes(app.process.pid) - before < GROWTH_BYTES_MAX


def test_bytes_that_are_no_http_end_their_connection_and_nothing_else(app: AdminProcess) -> None:
    draw = random.Random(3)
    sound = (
        b"POST /api/v1/deposits HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: 40\r\n\r\n" + b'{"credit_account": 1, "amount": "1.00"}\n'
    )
    before = resident_bytes(app.process.pid)
    for _ in range(RAW_CONNECTIONS):
        with socket.create_connection(("127.0.0.1", app.port), timeout=TIMEOUT_S) as sock:
            try:
                sock.sendall(hostile(draw, [sound]))
                sock.shutdown(socket.SHUT_WR)
                while answer := sock.recv(1 << 16):
                    assert not answer.startswith(b"HTTP/1.1 500"), answer
            except ConnectionError:
                continue
    assert app.call("GET", "/api/v1/assets").status == 200
    assert resident_bytes(app.process.pid) - before < GROWTH_BYTES_MAX


def test_a_huge_claim_of_a_body_allocates_nothing(app: AdminProcess) -> None:
    before = resident_bytes(app.process.pid)
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=TIMEOUT_S)
        connection.putrequest("POST", "/api/v1/deposits")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(1 << 40))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    assert resident_bytes(app.process.pid) - before < GROWTH_BYTES_MAX
