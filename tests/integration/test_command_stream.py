"""CommandStream against a real gRPC server on loopback that does what a test tells it."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from client_core import records
from client_core.command_stream import CommandStream
from client_core.errors import (
    InvalidRequest,
    NotLeader,
    OutcomeUnknown,
    StreamBusy,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.records import Reply
from proto import ledger_pb2, ledger_pb2_grpc

LIMIT_S = 10
"""No test waits longer for anything."""

START_NS = 1_764_000_000_000_000_000

pytestmark = pytest.mark.timeout(30)


def command(number: int) -> bytes:
    """A transfer whose amount, and id, tell it from others."""
    return records.transfer(number.to_bytes(16, "big"), 1, 2, number)


def commands(*numbers: int) -> bytes:
    return b"".join(command(number) for number in numbers)


def numbers_in(packed: bytes) -> list[int]:
    return [int.from_bytes(packed[at : at + 16], "big") for at in range(0, len(packed), 64)]


def answer_to(packed: bytes) -> ledger_pb2.SubmitResponse:
    """Accept each command, with its own number as amount."""
    replies = b"".join(
        struct.pack("<QQqqqHHI", 1_000 + number, 0, number, 0, 0, 1, 0, 0)
        for number in numbers_in(packed)
    )
    return ledger_pb2.SubmitResponse(replies=replies, ledger_time_ns=START_NS + 5)


async def abort(context: Any, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    """End the stream as a leader does."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="ringledger", metadata=metadata))
    rich = status_pb2.Status(code=code.value[0], message=reason, details=[detail])
    trailing = (("grpc-status-details-bin", rich.SerializeToString()),)
    await context.abort(code, reason, trailing)


class ScriptedNode(ledger_pb2_grpc.CommandServiceServicer, ledger_pb2_grpc.ClusterServiceServicer):
    """Answers each message unless `on_message` was set; keeps what it got."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.streams = 0
        self.got_message = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.on_message: Callable[[int, Any], Any] | None = None
        self.reply = answer_to

    async def GetStatus(  # noqa: N802 the contract's name
        self, request: Any, context: Any
    ) -> ledger_pb2.GetStatusResponse:
        return ledger_pb2.GetStatusResponse(ledger_time_ns=START_NS)

    async def Submit(self, requests: Any, context: Any) -> None:  # noqa: N802
        self.streams += 1
        index = 0
        async for request in requests:
            async with self.got_message:
                self.messages.append(numbers_in(request.commands))
                self.got_message.notify_all()
            if self.on_message is not None:
                await self.on_message(index, context)
            await self.may_answer.wait()
            await context.write(self.reply(request.commands))
            index += 1

    async def received(self, messages: int) -> None:
        """Wait until so many messages came."""
        async with self.got_message, asyncio.timeout(LIMIT_S):
            await self.got_message.wait_for(lambda: len(self.messages) >= messages)

    async def start(self, address: str = "127.0.0.1:0") -> tuple[Any, str]:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        ledger_pb2_grpc.add_CommandServiceServicer_to_server(self, server)
        ledger_pb2_grpc.add_ClusterServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        await server.start()
        return server, f"127.0.0.1:{port}"


@pytest.fixture
async def node() -> ScriptedNode:
    return ScriptedNode()


@pytest.fixture
async def target(node: ScriptedNode) -> AsyncIterator[str]:
    server, address = await node.start()
    yield address
    node.may_answer.set()
    await server.stop(0)


async def outcomes(*calls: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_callers_of_one_turn_share_one_message(node: ScriptedNode, target: str) -> None:
    async with CommandStream(target) as stream:
        replies = await outcomes(*(stream.submit(command(n)) for n in range(1, 65)))
    assert node.messages == [list(range(1, 65))]
    assert [reply.amount for reply in replies] == list(range(1, 65))
    assert all(isinstance(reply, Reply) and reply.accepted for reply in replies)


async def test_many_and_single_commands_get_their_own_replies(target: str) -> None:
    async with CommandStream(target) as stream:
        first, many, one_of_many, last = await outcomes(
            stream.submit(command(1)),
            stream.submit_many(commands(2, 3, 4)),
            stream.submit_many(commands(5)),
            stream.submit(command(6)),
        )
    assert (first.amount, last.amount) == (1, 6)
    assert [reply.amount for reply in records.unpack_replies(many)] == [2, 3, 4]
    assert [reply.amount for reply in records.unpack_replies(one_of_many)] == [5]


async def test_a_block_is_never_split_over_messages(node: ScriptedNode, target: str) -> None:
    blocks = [commands(*range(1, 5_001)), commands(*range(5_001, 10_001)), commands(10_001)]
    async with CommandStream(target) as stream:
        replies = await outcomes(*(stream.submit_many(block) for block in blocks))
    assert [len(message) for message in node.messages] == [5_000, 5_001]
    assert [len(packed) // 48 for packed in replies] == [5_000, 5_000, 1]


async def test_callers_wait_in_line_when_enough_is_in_flight(
    node: ScriptedNode, target: str
) -> None:
    node.may_answer.clear()
    async with CommandStream(target, max_in_flight_messages=1) as stream:
        first = stream.send(command(1))
        await node.received(1)
        rest = [stream.send(command(n)) for n in (2, 3)]
        assert not first.done()
        assert node.messages == [[1]]
        node.may_answer.set()
        assert [reply.amount for reply in await outcomes(first, *rest)] == [1, 2, 3]
    assert node.messages == [[1], [2, 3]]


async def test_commands_in_flight_are_bounded(node: ScriptedNode, target: str) -> None:
    node.may_answer.clear()
    block = commands(*range(1, 8_193))
    async with CommandStream(target, max_in_flight_commands=8_192) as stream:
        calls = [asyncio.ensure_future(stream.submit_many(block)) for _ in range(3)]
        await node.received(1)
        assert stream._in_flight_commands == 8_192
        node.may_answer.set()
        assert [len(packed) for packed in await outcomes(*calls)] == [8_192 * 48] * 3
    assert [len(message) for message in node.messages] == [8_192] * 3


async def test_a_late_reply_is_dropped_and_costs_nobody_else_anything(
    node: ScriptedNode, target: str
) -> None:
    node.may_answer.clear()
    async with CommandStream(target) as stream:
        slow = stream.send(command(1), deadline_s=0.02)
        patient = stream.send(command(2))
        [error] = await outcomes(slow)
        assert isinstance(error, OutcomeUnknown)
        assert error.command_ids == [(1).to_bytes(16, "big")]
        assert not patient.done()
        node.may_answer.set()
        [second, third] = await outcomes(patient, stream.submit(command(3)))
    assert (second.amount, third.amount) == (2, 3)


async def test_a_command_never_sent_within_its_deadline_is_retryable(
    node: ScriptedNode, target: str
) -> None:
    node.may_answer.clear()
    async with CommandStream(target, max_in_flight_messages=1) as stream:
        first = stream.send(command(1))
        await node.received(1)
        [error] = await outcomes(stream.submit(command(2), deadline_s=0.02))
        assert isinstance(error, StreamBusy)
        node.may_answer.set()
        await outcomes(first, stream.submit(command(3)))
    assert node.messages == [[1], [3]]


async def test_a_cancelled_caller_costs_nobody_else_anything(
    node: ScriptedNode, target: str
) -> None:
    node.may_answer.clear()
    async with CommandStream(target) as stream:
        gone = asyncio.ensure_future(stream.submit(command(1)))
        stays = asyncio.ensure_future(stream.submit(command(2)))
        await node.received(1)
        gone.cancel()
        node.may_answer.set()
        [cancelled, reply] = await outcomes(gone, stays)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert reply.amount == 2


async def test_a_node_that_does_not_lead_names_the_leader(node: ScriptedNode, target: str) -> None:
    async def refuse(index: int, context: Any) -> None:
        await abort(
            context, grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", leader="10.0.0.7:9500"
        )

    node.on_message = refuse
    async with CommandStream(target) as stream:
        [error] = await outcomes(stream.submit(command(1)))
    assert isinstance(error, NotLeader)
    assert error.leader == "10.0.0.7:9500"


async def test_details_that_cannot_be_read_give_no_reason_and_hide_no_status(
    node: ScriptedNode, target: str
) -> None:
    async def refuse(index: int, context: Any) -> None:
        trailing = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a proxy's words", trailing)

    node.on_message = refuse
    async with CommandStream(target) as stream:
        [error] = await outcomes(stream.submit(command(1)))
    assert isinstance(error, OutcomeUnknown)
    assert "FAILED_PRECONDITION: a proxy's words" in str(error)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_LIMIT", Unavailable),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_WRONG", Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, "", Unauthenticated),
    ],
)
async def test_a_stream_that_was_never_let_in_ran_nothing(
    node: ScriptedNode,
    target: str,
    code: grpc.StatusCode,
    reason: str,
    kind: type[Exception],
) -> None:
    async def refuse(index: int, context: Any) -> None:
        await abort(context, code, reason)

    node.on_message = refuse
    async with CommandStream(target) as stream:
        [error] = await outcomes(stream.submit(command(1)))
    assert type(error) is kind


async def send_one_by_one(stream: CommandStream, node: ScriptedNode, count: int) -> list[Any]:
    """`count` commands, each a message of its own."""
    calls = []
    for number in range(1, count + 1):
        calls.append(stream.send(command(number)))
        await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT_S):
            while stream._waiting:  # noqa: ASYNC110 the writer has no event for tests
                await asyncio.sleep(0)
    return calls


async def test_a_lost_leadership_parts_unknown_from_not_run(
    node: ScriptedNode, target: str
) -> None:
    async def lose(index: int, context: Any) -> None:
        if index == 1:
            await abort(
                context,
                grpc.StatusCode.UNAVAILABLE,
                "LEADERSHIP_LOST",
                not_run_from_message="2",
            )

    node.may_answer.clear()
    node.on_message = lose
    async with CommandStream(target) as stream:
        calls = await send_one_by_one(stream, node, 4)
        node.may_answer.set()
        answered, unknown, *not_run = await outcomes(*calls)
    assert answered.amount == 1
    assert isinstance(unknown, OutcomeUnknown)
    assert [type(error) for error in not_run] == [NotLeader, NotLeader]


async def test_a_wrong_message_is_told_apart_from_its_neighbours(
    node: ScriptedNode, target: str
) -> None:
    async def refuse(index: int, context: Any) -> None:
        if index == 1:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS", message="1")

    node.may_answer.clear()
    node.on_message = refuse
    async with CommandStream(target) as stream:
        calls = await send_one_by_one(stream, node, 3)
        node.may_answer.set()
        answered, wrong, later = await outcomes(*calls)
    assert answered.amount == 1
    assert isinstance(wrong, InvalidRequest)
    assert isinstance(later, Unavailable)


async def test_only_the_caller_of_the_wrong_command_is_to_blame(
    node: ScriptedNode, target: str
) -> None:
    async def refuse(index: int, context: Any) -> None:
        await abort(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_COMMANDS",
            message="0",
            command="2",
        )

    node.on_message = refuse
    async with CommandStream(target) as stream:
        errors = await outcomes(
            stream.submit(command(1)),
            stream.submit_many(commands(2, 3)),
            stream.submit(command(4)),
        )
    assert [type(error) for error in errors] == [Unavailable, InvalidRequest, Unavailable]


async def test_an_end_that_races_with_a_write_hides_no_outcome(
    node: ScriptedNode, target: str
) -> None:
    async def refuse(index: int, context: Any) -> None:
        if index == 3:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS", message="3")

    node.on_message = refuse
    block = commands(*range(1, 1_001))
    async with CommandStream(target, max_in_flight_commands=1 << 20) as stream:
        for _ in range(20):
            calls = [asyncio.ensure_future(stream.submit_many(block)) for _ in range(200)]
            results = await outcomes(*calls)
            # Eight blocks a message: 0-2 are answered, 3 is wrong, none of the rest was run.
            for kind, part in (
                (bytes, results[:24]),
                (InvalidRequest, results[24:32]),
                (Unavailable, results[32:]),
            ):
                assert {type(result) for result in part} == {kind}


async def test_a_refusal_on_the_first_message_is_not_hidden_by_a_second_that_fails(
    node: ScriptedNode, target: str
) -> None:
    async def refuse(index: int, context: Any) -> None:
        await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", leader="")

    node.on_message = refuse
    for _ in range(50):
        async with CommandStream(target) as stream:
            calls = []
            for number in (1, 2, 3):
                calls.append(stream.send(command(number)))
                await asyncio.sleep(0)
            errors = await outcomes(*calls)
        assert OutcomeUnknown not in {type(error) for error in errors}


async def test_a_stream_cut_midway_leaves_the_sent_unknown_and_the_unsent_retryable(
    node: ScriptedNode, target: str
) -> None:
    async def cut(index: int, context: Any) -> None:
        if index == 1:
            raise RuntimeError("a node that fails")

    node.on_message = cut
    async with CommandStream(target, max_in_flight_messages=1) as stream:
        [answered] = await outcomes(stream.submit(command(1)))
        sent = stream.send(command(2))
        await asyncio.sleep(0)
        unsent = asyncio.ensure_future(stream.submit_many(commands(*range(10, 8_202))))
        errors = await outcomes(sent, unsent)
    assert answered.amount == 1
    assert [type(error) for error in errors] == [OutcomeUnknown, Unavailable]


async def test_a_dead_node_is_unavailable_and_its_return_is_found(node: ScriptedNode) -> None:
    server, address = await node.start()
    node.may_answer.clear()
    async with CommandStream(address) as stream:
        sent = stream.send(command(1))
        await node.received(1)
        await server.stop(None)
        [unknown] = await outcomes(sent)
        assert isinstance(unknown, OutcomeUnknown)
        [error] = await outcomes(stream.submit(command(2)))
        assert isinstance(error, Unavailable)
        node.may_answer.set()
        server, _ = await node.start(address)
        reply: Any = None
        async with asyncio.timeout(LIMIT_S):
            while not isinstance(reply, Reply):
                [reply] = await outcomes(stream.submit(command(2)))
                assert isinstance(reply, Reply | Unavailable)
        assert reply.amount == 2
    await server.stop(0)


async def test_connecting_to_nobody_is_unavailable(node: ScriptedNode) -> None:
    server, address = await node.start()
    await server.stop(0)
    with pytest.raises(Unavailable):
        async with CommandStream(address, connect_timeout_s=2):
            pass


async def test_a_response_of_the_wrong_length_is_never_taken_for_an_answer(
    node: ScriptedNode, target: str
) -> None:
    node.reply = lambda packed: ledger_pb2.SubmitResponse(replies=bytes(48), ledger_time_ns=1)
    async with CommandStream(target) as stream:
        errors = await outcomes(stream.submit(command(1)), stream.submit(command(2)))
    assert [type(error) for error in errors] == [OutcomeUnknown, OutcomeUnknown]


async def test_a_stream_that_ended_is_followed_by_another(node: ScriptedNode, target: str) -> None:
    async def refuse_first(index: int, context: Any) -> None:
        if node.streams == 1:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER")

    node.on_message = refuse_first
    async with CommandStream(target) as stream:
        [error] = await outcomes(stream.submit(command(1)))
        assert isinstance(error, NotLeader)
        [reply] = await outcomes(stream.submit(command(1)))
    assert reply.amount == 1
    assert node.streams == 2


async def test_closing_answers_what_was_sent_and_refuses_what_comes_later(
    node: ScriptedNode, target: str
) -> None:
    node.may_answer.clear()
    stream = CommandStream(target)
    async with stream:
        sent = stream.send(command(1))
        await node.received(1)
        closing = asyncio.ensure_future(stream.close())
        await asyncio.sleep(0)
        with pytest.raises(StreamClosed):
            stream.send(command(2))
        node.may_answer.set()
        [reply, _] = await outcomes(sent, closing)
    assert reply.amount == 1


async def test_closing_on_a_stalled_node_ends_in_time(node: ScriptedNode, target: str) -> None:
    node.may_answer.clear()
    async with asyncio.timeout(LIMIT_S):
        async with CommandStream(target, drain_timeout_s=0.05) as stream:
            sent = stream.send(command(1))
            await node.received(1)
    [error] = await outcomes(sent)
    assert isinstance(error, OutcomeUnknown)


async def test_ids_come_from_ledger_time(target: str) -> None:
    async with CommandStream(target) as stream:
        ids = stream.command_ids
        drawn = [ids.next_id() for _ in range(3)]
        assert drawn == sorted(set(drawn))
        age_ms = int.from_bytes(drawn[0][:6], "big") - START_NS // 1_000_000
        assert 0 <= age_ms < LIMIT_S * 1_000


@pytest.mark.parametrize("size", [0, 63, 65, 128])
async def test_a_command_of_the_wrong_length_is_refused_at_once(target: str, size: int) -> None:
    async with CommandStream(target) as stream:
        with pytest.raises(ValueError, match="64 bytes"):
            await stream.submit(bytes(size))


@pytest.mark.parametrize("size", [0, 63, 64 * 8_193])
async def test_a_block_of_the_wrong_length_is_refused_at_once(target: str, size: int) -> None:
    async with CommandStream(target) as stream:
        with pytest.raises(ValueError, match="1 to 8192 commands"):
            await stream.submit_many(bytes(size))
