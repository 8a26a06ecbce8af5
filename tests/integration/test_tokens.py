"""Bearer tokens of a real leader: which calls need one, and that none is ever shown."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cluster_app.errors import UsageError
from cluster_app.settings import LeaderSettings, LearnerSettings, read_settings
from cluster_core.record import Operation
from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.integration.test_leader_contracts import commands_of, reason
from tests.leader_process import LeaderProcess, journal_url

DEADLINE_S = 20.0
OLD, NEW = "old-token-0123456789", "new-token-9876543210"
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def leader(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    folder = tmp_path_factory.mktemp("tokens")
    file = folder / "tokens"
    file.write_text(f"# being rotated\n{OLD}\n\n{NEW}\n")
    with LeaderProcess(journal_url(folder), "--token", f"@{file}") as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def channel(leader: LeaderProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(leader.address) as channel:
        yield channel


def submit(channel: grpc.Channel, metadata: Metadata) -> Any:
    commands = commands_of(1, operation=Operation.CREATE_ACCOUNT, asset=1).tobytes()
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    requests = iter([ledger_pb2.SubmitRequest(commands=commands)])
    return list(stub.Submit(requests, metadata=metadata, timeout=DEADLINE_S))


def submit_without_end(channel: grpc.Channel, metadata: Metadata) -> Any:
    """A client that never ends its side: the refusal must reach it all the same."""
    commands = commands_of(1, operation=Operation.CREATE_ACCOUNT, asset=1).tobytes()
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    requests = itertools.repeat(ledger_pb2.SubmitRequest(commands=commands))
    call = stub.Submit(requests, metadata=metadata, timeout=DEADLINE_S)
    answer = next(call)
    call.cancel()
    return answer


def execute(channel: grpc.Channel, metadata: Metadata) -> Any:
    request = ledger_pb2.ExecuteRequest(command={"create_account": {"asset": 1}})
    stub = ledger_pb2_grpc.CommandServiceStub(channel)
    return stub.Execute(request, metadata=metadata, timeout=DEADLINE_S)


def get_totals(channel: grpc.Channel, metadata: Metadata) -> Any:
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    return stub.GetTotals(ledger_pb2.GetTotalsRequest(), metadata=metadata, timeout=DEADLINE_S)


def get_account(channel: grpc.Channel, metadata: Metadata) -> Any:
    execute(channel, metadata)
    request = ledger_pb2.GetAccountRequest(account_id=1)
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    return stub.GetAccount(request, metadata=metadata, timeout=DEADLINE_S)


def bank_command(channel: grpc.Channel, metadata: Metadata) -> Any:
    command = balance_pb2.BalanceCommand(createBalanceCommand={"correlationId": "c"})
    stub = balance_pb2_grpc.BalanceCommandServiceStub(channel)
    return list(stub.sendCommand(iter([command]), metadata=metadata, timeout=DEADLINE_S))


def bank_query(channel: grpc.Channel, metadata: Metadata) -> Any:
    query = balance_pb2.BalanceQuery(singleBalanceQuery={"id": 1})
    stub = balance_pb2_grpc.BalanceQueryServiceStub(channel)
    return list(stub.sendQuery(iter([query]), metadata=metadata, timeout=DEADLINE_S))


def reflect(channel: grpc.Channel, metadata: Metadata) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    return list(stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=DEADLINE_S))


CALLS = (
    submit, submit_without_end, execute, get_account, get_totals, bank_command, bank_query, reflect
)  # fmt: skip


def bearing(value: str) -> Metadata:
    return (("authorization", value),)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_with_one_of_the_tokens_is_served_and_others_are_not(
    channel: grpc.Channel, call: Callable[[grpc.Channel, Metadata], Any]
) -> None:
    for token in (OLD, NEW):
        assert call(channel, bearing(f"Bearer {token}"))
    for metadata, why in (
        ((), "TOKEN_MISSING"),
        (bearing(OLD), "TOKEN_MISSING"),
        (bearing(f"Basic {OLD}"), "TOKEN_MISSING"),
        (bearing(f"Bearer {OLD}") * 2, "TOKEN_MISSING"),
        (bearing("Bearer "), "TOKEN_MISSING"),
        (bearing(f"Bearer {OLD}{NEW}"), "TOKEN_UNKNOWN"),
        (bearing(f"Bearer {OLD[:-1]}"), "TOKEN_UNKNOWN"),
        (bearing(f"Bearer {OLD} {NEW}"), "TOKEN_UNKNOWN"),
        (bearing("Bearer " + "x" * 4_000), "TOKEN_UNKNOWN"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(channel, metadata)
        assert reason(error.value)[:2] == (grpc.StatusCode.UNAUTHENTICATED, why)


def test_the_scheme_is_case_insensitive_and_an_unknown_method_is_not_told_apart(
    channel: grpc.Channel,
) -> None:
    assert get_totals(channel, bearing(f"bearer {NEW}"))
    unknown: Any = channel.unary_unary("/ringledger.v1.CommandService/Nothing")
    with pytest.raises(grpc.RpcError) as error:
        unknown(b"", timeout=DEADLINE_S)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as error:
        unknown(b"", metadata=bearing(f"Bearer {NEW}"), timeout=DEADLINE_S)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_needs_no_token(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(request, timeout=DEADLINE_S).status == serving
    watch = stub.Watch(request, timeout=DEADLINE_S)
    assert next(watch).status == serving
    watch.cancel()


def test_no_token_is_in_the_log_in_help_or_in_repr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--token", OLD, "--log-level", "debug")
    with LeaderProcess(journal_url(tmp_path), *flags, listen="0.0.0.0:0") as process:
        address = process.wait_ready().address.replace("0.0.0.0", "127.0.0.1")
        with grpc.insecure_channel(address) as channel:
            execute(channel, bearing(f"Bearer {OLD}"))
            with pytest.raises(grpc.RpcError):
                execute(channel, bearing(f"Bearer {NEW}"))
        process.process.terminate()
        code, log = process.wait_exit()
    assert code == 0
    assert OLD not in log
    assert NEW not in log
    assert log.count("open to the network") == 1
    assert "--tls-cert" in log
    variable = {"RINGLEDGER_TOKEN": OLD}
    assert OLD not in repr(read_settings(LeaderSettings, "leader", [], variable))
    with pytest.raises(SystemExit):
        read_settings(LeaderSettings, "leader", ["--help"], variable)
    said = capsys.readouterr().out
    assert "--token" in said
    assert OLD not in said


def test_on_loopback_nobody_is_warned(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path)) as process:
        process.wait_ready().process.terminate()
        assert "open to the network" not in process.wait_exit()[1]


def test_without_tokens_the_server_imports_no_certificates() -> None:
    code = "import sys, cluster_app.server; print('cryptography' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("short", "16 to 512"),
        ("spaces in a token 0123456789", "16 to 512"),
        ("ümlaut-token-0123456789", "16 to 512"),
        ("x" * 513, "16 to 512"),
        ("\n# nothing but a comment\n", "0 tokens"),
        ("\n".join(f"token-number-{number:06}" for number in range(65)), "65 tokens"),
        ("@/nowhere/tokens", "cannot read /nowhere/tokens"),
    ],
)
def test_tokens_that_cannot_be_used_are_refused_without_being_shown(text: str, said: str) -> None:
    for settings in (LeaderSettings, LearnerSettings):
        with pytest.raises(UsageError, match=said) as error:
            settings(token=text)
        assert text.strip() not in str(error.value) or text.startswith("@")
