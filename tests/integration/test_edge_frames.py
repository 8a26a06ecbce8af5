"""Clients against both edges frame by frame: slow, sudden, late, or half a client only."""

import contextlib
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest

from proto import balance_pb2, ledger_pb2, ledger_pb2_grpc
from tests.integration.test_leader_contracts import bank, create
from tests.leader_process import LeaderProcess, journal_url
from tests.raw_http2 import (
    END_STREAM,
    PREFACE,
    Frame,
    Kind,
    RawConnection,
    message,
    opening,
    reset,
    room,
)
from tests.server_process import poll_until

DEADLINE_S = 20.0
LOOK_S = 0.2
MAX_STREAMS = 4
MESSAGE_BYTES_MAX = 1 << 20
SEND_COMMAND = "gc.garcol.bank.proto.BalanceCommandService/sendCommand"
SEND_QUERY = "gc.garcol.bank.proto.BalanceQueryService/sendQuery"
GET_ACCOUNT = "ringledger.v1.QueryService/GetAccount"
GET_ACCOUNTS = "ringledger.v1.QueryService/GetAccounts"
EXECUTE = "ringledger.v1.CommandService/Execute"
AT_MOST = 100_000
ONLY_NATIVE = pytest.mark.parametrize("edge", ["native"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def leader(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    journal = journal_url(tmp_path_factory.mktemp("frames"))
    with LeaderProcess(journal, "--max-streams", str(MAX_STREAMS)) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def channel(leader: LeaderProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(leader.address) as channel:
        yield channel


@pytest.fixture
def connection(leader: LeaderProcess) -> Iterator[RawConnection]:
    with RawConnection(leader.address) as connection:
        yield connection


def until(connection: RawConnection, wanted: Callable[[Frame], bool], why: str) -> Frame:
    """The first frame that is wanted. Fails with `why` when it doesn't come in time."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for read in connection.frames(LOOK_S):
            assert read.kind != Kind.GOAWAY, (why, read)
            if wanted(read):
                return read
    raise AssertionError(why)


def memory_mb(process: LeaderProcess) -> int:
    """Resident memory of a process, MiB."""
    statm = Path(f"/proc/{process.process.pid}/statm").read_text()
    return int(statm.split()[1]) * resource.getpagesize() >> 20


def send_all_that_has_room(connection: RawConnection, one: bytes, payload: int) -> int:
    """Messages that were sent until the node gave no more room: its back-pressure.

    At most AT_MOST, less than gRPC's first window: it has been seen to end a call with OK in the
    midst of a third one.
    """
    sent, quiet = 0, -100  # a node may be slow to begin
    while quiet < 5 and sent < AT_MOST:
        count = min(connection.room // payload, 2_000)
        if count:
            connection.send(one * count, count * payload)
            sent, quiet = sent + count, min(quiet, 0)
        for read in connection.frames(0.0 if count else LOOK_S):
            assert read.kind != Kind.GOAWAY, (sent, read)
            quiet = 0 if read.kind == Kind.WINDOW_UPDATE and read.stream else quiet
        quiet += not count
    return sent


@pytest.mark.timeout(300)  # hundreds of thousands of replies, one frame each
def test_a_client_of_small_messages_that_takes_no_replies_is_held_and_then_answered_whole(
    connection: RawConnection, channel: grpc.Channel, edge: str
) -> None:
    deposit = balance_pb2.BalanceCommand(
        depositCommand={"id": create(channel), "amount": 1, "correlationId": "c" * 20}
    )
    one = message(1, deposit.SerializeToString())
    connection.send(opening(1, SEND_COMMAND))
    sent = send_all_that_has_room(connection, one, len(one) - 9)
    assert sent > 2_000
    assert edge == "grpcio" or sent < AT_MOST  # held by its replies alone
    # others are served meanwhile, on the same connection too
    query = balance_pb2.BalanceQuery(singleBalanceQuery={"id": 1})
    connection.send(opening(3, SEND_QUERY) + message(3, query.SerializeToString()))
    until(connection, lambda read: read.stream == 3, "a call beside one that is held")
    connection.send(room(0, 1 << 30) + room(1, 1 << 30))
    got, deadline = 0, time.monotonic() + DEADLINE_S
    while got < sent and time.monotonic() < deadline:
        for read in connection.frames(LOOK_S):
            assert read.kind != Kind.GOAWAY, (got, read)
        if connection.messages(1) > got:
            got, deadline = connection.messages(1), time.monotonic() + DEADLINE_S
    assert got == sent


def test_of_many_short_calls_that_python_serves_each_is_answered(leader: LeaderProcess) -> None:
    # one that the edge forgets is rare: one in 100,000 once was
    over = time.monotonic() + 8.0

    def ask(_: int) -> int:
        calls, request = 0, ledger_pb2.ListAccountsRequest(page_size=1)
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(leader.address, options) as channel:
            queries = ledger_pb2_grpc.QueryServiceStub(channel)
            while time.monotonic() < over:
                queries.ListAccounts(request, timeout=DEADLINE_S)
                calls += 1
        return calls

    with ThreadPoolExecutor(6) as callers:
        assert min(callers.map(ask, range(6))) > 0


@pytest.mark.parametrize("method", ["Submit", "ExecuteBatch"])
def test_a_message_longer_than_a_window_is_read_whole(channel: grpc.Channel, method: str) -> None:
    longest: Any = channel.stream_stream(f"/ringledger.v1.CommandService/{method}")
    with pytest.raises(grpc.RpcError) as error:
        list(longest(iter([b"\xff" * MESSAGE_BYTES_MAX]), timeout=DEADLINE_S))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@ONLY_NATIVE  # gRPC gives two minutes for the handshake
@pytest.mark.parametrize("begun", [b"", PREFACE[:10]])
def test_who_connects_and_never_gets_to_http2_loses_the_connection(
    leader: LeaderProcess, begun: bytes
) -> None:
    host, port = leader.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as idle:
        idle.sendall(begun)
        while idle.recv(4_096):  # the node's own settings, maybe
            pass


def test_calls_that_come_and_go_pile_up_nowhere(
    leader: LeaderProcess, connection: RawConnection, channel: grpc.Channel
) -> None:
    # each is passed on to Python, with a message, and would last for years
    wanted = ledger_pb2.GetAccountRequest(
        account_id=create(channel), consistency={"at_least_sequence": 10**12}
    )
    held = wanted.SerializeToString() + b"\xfa\x07\xff\x1f" + bytes(4_095)  # an unknown field
    before, calls_at_once = memory_mb(leader), 100
    for first in range(1, 2 * 20_000, 2 * calls_at_once + 2):
        calls = range(first, first + 2 * calls_at_once, 2)
        opened = [
            opening(call, GET_ACCOUNT, grpc_timeout="99999999H") + message(call, held)
            for call in calls
        ]
        data_bytes = calls_at_once * (len(held) + 5)
        while connection.connection_bytes < data_bytes:
            for read in connection.frames(LOOK_S):
                assert read.kind != Kind.GOAWAY, read
        # taken back once they have been seen: at once, they would be too many for the connection
        mark = first + 2 * calls_at_once
        connection.send(b"".join(opened) + opening(mark, "", content_type="text/plain"), data_bytes)
        until(connection, lambda read, mark=mark: read.stream == mark, "an answer")  # type: ignore[misc]
        connection.send(b"".join(map(reset, calls)))
    # what is still held may be as many as may be served: others are told so, for a moment
    assert poll_until(lambda: has_totals(channel), DEADLINE_S)
    assert bank(channel, {"createBalanceCommand": {}})[0][0] == 0
    assert memory_mb(leader) - before < 128


def has_totals(channel: grpc.Channel) -> bool:
    """Whether a query that Python serves is answered; False when too many calls are served."""
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    try:
        stub.GetTotals(ledger_pb2.GetTotalsRequest(), timeout=DEADLINE_S)
    except grpc.RpcError as refused:
        if refused.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def test_a_call_ends_after_its_deadline_though_its_client_says_nothing(
    connection: RawConnection,
) -> None:
    for stream, method in ((1, SEND_COMMAND), (3, SEND_QUERY), (5, EXECUTE), (7, GET_ACCOUNT)):
        connection.send(opening(stream, method, grpc_timeout="200m"))
        until(
            connection,
            lambda read, stream=stream: (
                read.stream == stream  # type: ignore[misc]
                and (read.kind == Kind.RST_STREAM or bool(read.flags & END_STREAM))
            ),
            f"{method} outlives its deadline",
        )


def test_refused_streams_whose_clients_write_on_cost_the_connection_nothing(
    connection: RawConnection, channel: grpc.Channel
) -> None:
    command = balance_pb2.BalanceCommand(createBalanceCommand={}).SerializeToString()
    working = range(1, 2 * MAX_STREAMS, 2)
    for stream in working:
        connection.send(opening(stream, SEND_COMMAND) + message(stream, command))
        until(connection, lambda read, stream=stream: read.stream == stream, "a stream")  # type: ignore[misc]
    refused = range(101, 101 + 2 * 3_000, 2)
    for first in range(0, len(refused), 200):
        some = refused[first : first + 200]
        connection.send(b"".join(opening(stream, SEND_COMMAND) for stream in some))
        ended: set[int] = set()
        deadline = time.monotonic() + DEADLINE_S
        while len(ended) < len(some) and time.monotonic() < deadline:
            for read in connection.frames(0.01):
                assert read.kind != Kind.GOAWAY, (first, read)
                if read.flags & END_STREAM or read.kind == Kind.RST_STREAM:
                    ended |= {read.stream} & set(some)
        assert len(ended) == len(some)
        connection.send(b"".join(message(stream, command) for stream in some))
    for stream in working:
        connection.send(message(stream, command))
        until(
            connection,
            lambda read, stream=stream: (read.kind, read.stream) == (Kind.DATA, stream),  # type: ignore[misc]
            "a stream beside refused ones",
        )


def test_a_client_may_take_back_many_calls_at_once(connection: RawConnection) -> None:
    execute = ledger_pb2.ExecuteRequest(
        command={"create_account": {"asset": 1}}
    ).SerializeToString()
    calls = range(1, 401, 2)
    connection.send(
        b"".join(opening(call, EXECUTE) + message(call, execute) for call in calls)
        + b"".join(map(reset, calls))
    )
    connection.send(opening(1_001, EXECUTE) + message(1_001, execute))
    until(
        connection,
        lambda read: (read.kind, read.stream) == (Kind.DATA, 1_001),
        "the connection after many resets",
    )


@ONLY_NATIVE  # gRPC takes connections as long as there are descriptors
@pytest.mark.usefixtures("edge")
def test_connections_leave_the_node_files_enough_for_itself(tmp_path: Path) -> None:
    with (
        LeaderProcess(journal_url(tmp_path), open_files=400) as process,
        contextlib.ExitStack() as held,
    ):
        process.wait_ready()
        with grpc.insecure_channel(process.address) as channel:
            assert bank(channel, {"createBalanceCommand": {}})[0][0] == 0
            for _ in range(500):
                held.enter_context(RawConnection(process.address))
            assert bank(channel, {"createBalanceCommand": {}})[0][0] == 0
            with urlopen(f"http://{process.http_address}/metrics", timeout=DEADLINE_S) as metrics:
                assert metrics.status == 200


@pytest.mark.usefixtures("edge")
def test_a_stopping_node_waits_for_a_client_that_is_still_taking_its_answer(
    tmp_path: Path,
) -> None:
    ids = bytes(8) * 2_000  # one frame, and answered with four windows
    request = ledger_pb2.GetAccountsRequest(account_ids=ids).SerializeToString()
    with LeaderProcess(journal_url(tmp_path)) as process:
        process.wait_ready()
        with RawConnection(process.address) as connection:
            connection.send(opening(1, GET_ACCOUNTS) + message(1, request))
            until(connection, lambda read: read.kind == Kind.DATA, "the answer's beginning")
            process.signal(signal.SIGTERM)
            for read in connection.frames(DEADLINE_S):
                if read.kind == Kind.GOAWAY:
                    break
            connection.send(room(0, 1 << 30) + room(1, 1 << 30))
            for read in connection.frames(DEADLINE_S):
                if read.flags & END_STREAM:
                    break
            assert connection.messages(1) == 1
        assert process.wait_exit()[0] == 0


@ONLY_NATIVE  # gRPC tells it as a fault of the node's
@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_what_is_no_request_of_health_is_refused(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.unary_stream(f"/grpc.health.v1.Health/{method}")
    with pytest.raises(grpc.RpcError) as error:
        list(call(b"\xff", timeout=DEADLINE_S))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
