"""Ingress: gRPC streams become packed records and routes; the engine never sees a message.

Each stream is read by its own call's coroutine: decode, submit, read on. It is not read while too
much of it is unanswered or the ring is full: gRPC's own back-pressure then holds the client.
"""

import asyncio
from typing import Any, Final, Protocol

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from cluster_app.egress import CallRoute, Codec, StreamRoute
from cluster_app.engine import Engine
from cluster_app.envelope import read_request, write_response
from cluster_app.rpc import Context, Refusal, not_leader, unary
from cluster_app.typed import pack_commands, read_reply
from cluster_core.errors import InvalidCommands
from cluster_core.pipeline import Fate
from cluster_core.record import COMMAND_BYTES, REPLY
from cluster_core.structure import read_message
from proto import ledger_pb2

COMMAND_SERVICE: Final = "ringledger.v1.CommandService"


class StreamCodec(Codec, Protocol):
    """A contract's stream: how a request becomes packed commands, and replies become messages."""

    def decode(
        self, request: Any, index: int
    ) -> "tuple[bytes | memoryview, Any] | bytes | Refusal":
        """Request `index` of its stream as (count * 64 bytes, token); or an answer that needs no
        command; or the refusal that ends the stream.
        """


class Ingress:
    """A node's command side: it refuses commands, naming the leader, until it is told to lead."""

    def __init__(self, *, max_in_flight: int, max_streams: int) -> None:
        self._engine: Engine | None = None
        self._leader = ""
        self._max_in_flight = max_in_flight
        self._max_streams = max_streams
        self._routes: dict[StreamRoute, None] = {}  # in order of opening

    def lead(self, engine: Engine, address: str) -> None:
        """Commands go to this engine from now on; `address` is this node's own."""
        self._engine, self._leader = engine, address

    def follow(self, leader: str) -> None:
        """Commands are refused from now on; `leader` is the address that leads, "" for none."""
        self._engine, self._leader = None, leader

    @property
    def open_streams(self) -> int:
        """Command streams that are open now."""
        return len(self._routes)

    async def serve_stream(self, context: Context, codec: StreamCodec) -> None:
        """Serve one bidirectional command stream to its end."""
        if self._engine is None or not self._engine.accepting:
            await not_leader(self._leader).abort(context)
            return
        if len(self._routes) >= self._max_streams:
            await too_many_streams(self._max_streams).abort(context)
            return
        route = StreamRoute(context, codec, self._max_in_flight)
        self._routes[route] = None
        try:
            await self._read_stream(context, codec, route, self._engine)
            await route.drained()
        finally:
            route.close()
            self._routes.pop(route, None)

    async def _read_stream(
        self,
        context: Context,
        codec: StreamCodec,
        route: StreamRoute,
        engine: Engine,
    ) -> None:
        index = 0
        while (request := await context.read()) is not grpc.aio.EOF and not route.over:
            decoded = self.judge(codec, request, index)
            if isinstance(decoded, tuple):
                packed, token = decoded
                route.taken(len(packed) // COMMAND_BYTES)
                await engine.submit(packed, route, token)
                await route.room()
            elif isinstance(decoded, bytes):
                route.send(decoded, 0)
                await route.room()
            else:
                route.end(decoded)
                return
            index += 1

    def judge(
        self, codec: StreamCodec, request: Any, index: int
    ) -> tuple[bytes | memoryview, Any] | bytes | Refusal:
        """What request `index` of a stream is: as in StreamCodec, within this node's limits."""
        decoded = codec.decode(request, index)
        if isinstance(decoded, tuple):
            count = len(decoded[0]) // COMMAND_BYTES
            if count > self._max_in_flight:
                return _over_limit(count, self._max_in_flight, index)
        return decoded

    def pack(self, commands: Any, *, atomic: bool = False) -> bytes | Refusal:
        """Typed commands as one message, as one chain when `atomic`; or why they can't be run."""
        try:
            if len(commands) > self._max_in_flight:
                return _over_limit(len(commands), self._max_in_flight, 0)
            packed = pack_commands(commands, atomic=atomic)
            read_message(packed)
        except InvalidCommands as error:
            return _invalid(error, 0)
        return packed

    async def execute(
        self, context: Context, commands: Any, *, atomic: bool = False
    ) -> tuple[np.ndarray[Any, Any], int]:
        """Run typed commands as one message, as one chain when `atomic`: (REPLY [n], time)."""
        engine = self._engine
        if engine is None or not engine.accepting:
            await not_leader(self._leader).abort(context)
            raise AssertionError("abort raises")
        packed = self.pack(commands, atomic=atomic)
        if isinstance(packed, Refusal):
            await packed.abort(context)
            raise AssertionError("abort raises")
        route = CallRoute()
        await engine.submit(packed, route)
        try:
            replies, ledger_time_ns = await route.answer
        except asyncio.CancelledError:
            if route.fate is None:
                raise
            await commands_lost(0, int(route.fate is Fate.UNKNOWN), route.reason).abort(context)
        return np.frombuffer(replies, REPLY), ledger_time_ns

    def end_streams(self, reason: str) -> None:
        """End every stream, after its replies: the leadership is over."""
        for route in list(self._routes):
            route.end_of_term(reason)


class NativeCodec:
    """`ringledger.v1.CommandService/Submit`: packed commands in, packed replies out."""

    def decode(self, request: bytes, index: int) -> Any:
        """The request's packed commands, checked whole."""
        try:
            packed = read_request(request)
            read_message(packed)
        except DecodeError:
            return _invalid(InvalidCommands(-1, "not a SubmitRequest"), index)
        except InvalidCommands as error:
            return _invalid(error, index)
        return packed, None

    def encode(self, token: Any, replies: memoryview, ledger_time_ns: int) -> bytes:
        """A serialized SubmitResponse."""
        return write_response(replies, ledger_time_ns)

    def lost(self, answered: int, not_run_from: int, reason: str) -> Refusal:
        """Callers retry with the same ids: exactly once through a change of leaders."""
        return commands_lost(answered, not_run_from, reason)


class CommandService:
    """The generic handlers of `ringledger.v1.CommandService`."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._codec = NativeCodec()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server; Submit's messages are read and written by its codec."""
        messages = ledger_pb2
        return grpc.method_handlers_generic_handler(
            COMMAND_SERVICE,
            {
                "Submit": grpc.stream_stream_rpc_method_handler(self.submit, None, None),
                "Execute": unary(self.execute, messages.ExecuteRequest),
                "ExecuteBatch": unary(self.execute_batch, messages.ExecuteBatchRequest),
            },
        )

    async def submit(self, _: Any, context: Context) -> None:
        """Serve one stream of packed commands."""
        await self._ingress.serve_stream(context, self._codec)

    async def execute(
        self, request: ledger_pb2.ExecuteRequest, context: Context
    ) -> ledger_pb2.ExecuteResponse:
        """Run one typed command."""
        replies, ledger_time_ns = await self._ingress.execute(context, [request.command])
        return ledger_pb2.ExecuteResponse(
            reply=read_reply(replies[0]), ledger_time_ns=ledger_time_ns
        )

    async def execute_batch(
        self, request: ledger_pb2.ExecuteBatchRequest, context: Context
    ) -> ledger_pb2.ExecuteBatchResponse:
        """Run typed commands next to each other, independent or all or nothing."""
        replies, ledger_time_ns = await self._ingress.execute(
            context, request.commands, atomic=request.atomic
        )
        return ledger_pb2.ExecuteBatchResponse(
            replies=[read_reply(reply) for reply in replies],
            ledger_time_ns=ledger_time_ns,
        )


def _invalid(error: InvalidCommands, message: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"message {message} was refused whole, nothing of it was run: {error}",
        "INVALID_COMMANDS",
        {"message": str(message), "command": str(error.index), "cause": error.reason},
    )


def too_many_streams(limit: int) -> Refusal:
    """As many command streams are open as there may be."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{limit} command streams are open, which is the limit: share one, or try again later",
        "STREAM_LIMIT",
        {"limit": str(limit)},
    )


def _over_limit(count: int, limit: int, message: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"message {message} holds {count} commands, over the limit of {limit} in flight: "
        "send smaller messages",
        "IN_FLIGHT_LIMIT",
        {"message": str(message), "limit": str(limit)},
    )


def commands_lost(answered: int, not_run_from: int, reason: str) -> Refusal:
    """The leadership has ended: messages below `answered` have their reply, those from
    `not_run_from` on did nothing, the outcome between is unknown.
    """
    unknown = not_run_from - answered
    known = "nothing more of this stream was run" if not unknown else "their outcome is unknown"
    return Refusal(
        grpc.StatusCode.UNAVAILABLE,
        f"this node stopped leading ({reason}); {unknown} messages without a reply: {known}. "
        "Send them to the next leader with the same command ids",
        "LEADERSHIP_LOST",
        {"not_run_from_message": str(not_run_from)},
    )
