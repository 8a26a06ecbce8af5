"""Watch in this process, beside a kernel that the test runs itself: limits, gaps and the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from cluster_app import queries, watching
from cluster_app.consistency import FollowerReads
from cluster_app.state_view import Progress, StateView
from cluster_app.watching import Watches
from cluster_core.batch import LedgerParameters
from cluster_core.reading import BooksReader
from cluster_core.record import COMMAND, Operation
from cluster_core.state_machine import StateMachine
from proto import ledger_pb2, ledger_pb2_grpc
from tests.integration.test_leader_contracts import reason

PARAMETERS = LedgerParameters(1 << 10, account_capacity=1_000, hold_capacity=100)
NOW_NS = 1_700_000_000_000_000_000
ACCOUNTS = 20
DEADLINE_S = 20.0


class Node:
    """A state, and the query service of it on a port of its own."""

    def __init__(self) -> None:
        self.state = StateMachine(PARAMETERS)
        opening = np.zeros(ACCOUNTS, COMMAND)
        opening["operation"], opening["asset"] = Operation.CREATE_ACCOUNT, 1
        self.state.apply(opening, NOW_NS)
        self.reader = BooksReader(self.state.books)
        self.obeys = True
        view = StateView(self.reader, Progress, set_watchers=self._set_watchers)
        self.watches = Watches(view, PARAMETERS.account_capacity)
        self.reads = FollowerReads(lambda: self.reader.applied, lambda: "", lambda: 0.0)
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers(
            (queries.QueryService(view, self.reads, self.watches).handlers(),)
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def _set_watchers(self, watchers: int) -> None:
        if self.obeys:
            self.state.watch(watchers > 0)

    def deposit(self, account: int, count: int = 1) -> int:
        """Deposits of 1; the last one's sequence."""
        commands = np.zeros(count, COMMAND)
        commands["operation"] = Operation.DEPOSIT
        commands["credit_account"], commands["amount"] = account, 1
        return int(self.state.apply(commands, NOW_NS)["sequence"][-1])

    @property
    def noted(self) -> int:
        """Changes ever noted."""
        return self.reader.progress()[3]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.server.start()
    yield node
    await node.server.stop(None)


@pytest.fixture
async def stub(node: Node) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as channel:
        yield ledger_pb2_grpc.QueryServiceStub(channel)


def watch(stub: Any, *ids: int, since: int = 0) -> Any:
    request = ledger_pb2.WatchRequest(account_ids=ids)
    if since:
        request.consistency.at_least_sequence = since
    return stub.Watch(request, timeout=DEADLINE_S)


async def until(stream: Any, sequence: int) -> list[ledger_pb2.WatchResponse]:
    messages: list[ledger_pb2.WatchResponse] = []
    while not messages or messages[-1].applied_sequence <= sequence:
        messages.append(await stream.read())
    return messages


async def refusal(stream: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()
    return reason(error.value)


async def ended(node: Node) -> bool:
    """Whether nobody watches any more, soon."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while node.reader.watching and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return not node.reader.watching


async def test_changes_are_noted_while_somebody_watches_and_not_afterwards(
    node: Node, stub: Any
) -> None:
    node.deposit(1)
    assert node.noted == 0
    streams = [watch(stub, 1), watch(stub, 2)]
    for stream in streams:
        await stream.read()
    node.deposit(1, 3)
    assert node.noted == 3
    streams[0].cancel()
    end = node.deposit(2)
    [message] = await until(streams[1], end)
    assert [account.account_id for account in message.accounts] == [2]
    streams[1].cancel()
    assert await ended(node)
    node.deposit(1)
    assert node.noted == 4


async def test_a_change_is_told_in_one_message_with_how_far_the_node_is(
    node: Node, stub: Any
) -> None:
    stream = watch(stub, 1)
    await stream.read()
    for _ in range(20):
        sequence = node.deposit(1)
        message = await stream.read()
        assert [account.last_sequence for account in message.accounts] == [sequence]
        assert message.applied_sequence == sequence + 1


async def test_changes_that_nobody_noted_for_a_moment_are_told_as_missed(
    node: Node, stub: Any
) -> None:
    """The writer may see nobody watch, between one that leaves and the next one."""
    stream = watch(stub, 1, 2)
    first = await stream.read()
    node.state.watch(False)
    node.deposit(1)
    node.state.watch(True)
    end = node.deposit(2)
    [message] = await until(stream, end)
    assert message.missed_from_sequence == first.applied_sequence
    assert [account.posted for account in message.accounts] == [1, 1]
    end = node.deposit(2)
    [message] = await until(stream, end)
    assert not message.HasField("missed_from_sequence")
    assert [account.posted for account in message.accounts] == [2]


async def test_a_ring_that_overtakes_everybody_is_told_as_missed(node: Node, stub: Any) -> None:
    stream = watch(stub, 1)
    await stream.read()
    for _ in range(16):
        end = node.deposit(1, 8_192)
    messages = await until(stream, end)
    assert messages[0].HasField("missed_from_sequence")
    assert messages[-1].accounts[0].posted == 16 * 8_192


async def test_streams_that_waited_are_counted_when_they_begin(
    node: Node, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCHED_TOTAL_MAX", 2 * ACCOUNTS)
    everything = list(range(1, ACCOUNTS + 1))
    waiting = [watch(stub, *everything, since=node.reader.applied) for _ in range(4)]
    firsts = [asyncio.ensure_future(stream.read()) for stream in waiting]
    async with asyncio.timeout(DEADLINE_S):
        while node.reads.waiting < len(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    node.deposit(1)
    answers = await asyncio.gather(*firsts, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == 2
    assert {reason(error)[:2] for error in refused} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCH_LIMIT")
    }
    for stream in waiting:
        stream.cancel()
    assert await ended(node)
    assert (await watch(stub, *everything).read()).accounts


async def test_too_many_streams_are_refused(
    node: Node, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STREAMS_MAX", 1)
    stream = watch(stub, 1)
    await stream.read()
    assert (await refusal(watch(stub, 2)))[1] == "WATCH_LIMIT"
    stream.cancel()


async def test_many_slow_watchers_share_the_room_for_what_waits(
    node: Node, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_PENDING_TOTAL_MAX", 100)
    streams = [watch(stub, 1) for _ in range(2)]
    for stream in streams:
        await stream.read()
    end = node.deposit(1, 60)
    for stream in streams:
        messages = await until(stream, end)
        assert [message.HasField("missed_from_sequence") for message in messages] == [False, True]
        assert len(messages[0].accounts) == 50
        assert messages[1].missed_from_sequence == end - 9
        assert messages[1].accounts[0].posted == 60


async def test_a_writer_that_notes_nothing_refuses_the_watch(
    node: Node, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_BEGIN_S", 0.05)
    node.obeys = False
    assert (await refusal(watch(stub, 1)))[:2] == (grpc.StatusCode.UNAVAILABLE, "NOT_WATCHING")


async def test_after_a_failure_of_the_feed_watchers_are_told_and_the_next_one_is_served(
    node: Node, stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = watch(stub, 1)
    await stream.read()

    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Watches, "_take_changes", broken)
    code, why, _ = await refusal(stream)
    assert (code, why) == (grpc.StatusCode.UNAVAILABLE, "NOT_WATCHING")
    monkeypatch.undo()
    again = watch(stub, 1)
    await again.read()
    end = node.deposit(1)
    assert (await until(again, end))[0].accounts
    assert "watching_failed" in capsys.readouterr().out
