"""Queries of one node, as the contract's own messages."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from client_core.channel import denied_or_unavailable, unless_closed
from client_core.consistency import ANY, Consistency, consistency_message
from client_core.errors import (
    Behind,
    InvalidRequest,
    NotFound,
    NotLeader,
    NotServed,
    RingledgerClientError,
)
from client_core.security import PLAIN, Security
from client_core.stream_end import StreamEnd, stream_end
from proto import ledger_pb2

_SERVICE: Final = "/ringledger.v1.QueryService/"


class Query(NamedTuple):
    """One query of the contract: its name and the class of its answer."""

    name: str
    answer: Any


GET_ACCOUNT: Final = Query("GetAccount", ledger_pb2.GetAccountResponse)
GET_ACCOUNTS: Final = Query("GetAccounts", ledger_pb2.GetAccountsResponse)
LIST_ACCOUNTS: Final = Query("ListAccounts", ledger_pb2.ListAccountsResponse)
GET_HOLD: Final = Query("GetHold", ledger_pb2.GetHoldResponse)
GET_TOTALS: Final = Query("GetTotals", ledger_pb2.GetTotalsResponse)
WATCH: Final = Query("Watch", ledger_pb2.WatchResponse)


class Reader(Protocol):
    """Where queries go: one node (`NodeReader`), or the best of a cluster (`ClusterReader`)."""

    async def ask(self, query: Query, request: Any, consistency: Consistency | None) -> Any:
        """The answer's message. Raises NotFound, InvalidRequest, NotServed, Unavailable."""

    def watch(
        self, request: ledger_pb2.WatchRequest, consistency: Consistency | None
    ) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
        """Changes, until the generator is closed."""


class NodeReader:
    """Queries of one node. `timeout_s` is each one's deadline."""

    def __init__(
        self, channel: grpc.aio.Channel, timeout_s: float, security: Security = PLAIN
    ) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._security = security

    async def ask(self, query: Query, request: Any, consistency: Consistency | None) -> Any:
        """One query. What was answered here is in the answer: it is the same node."""
        set_consistency(request, consistency or ANY, -1)
        return await ask(self._channel, query, request, self._timeout_s, self._security)

    async def watch(
        self, request: ledger_pb2.WatchRequest, consistency: Consistency | None
    ) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
        """The node's own stream, to its end."""
        set_consistency(request, consistency or ANY, -1)
        async with aclosing(watch(self._channel, request, self._security)) as responses:
            async for response in responses:
                yield response


def set_consistency(request: Any, consistency: Consistency, newest_sequence: int) -> None:
    """Fill a request's `consistency`."""
    message = consistency_message(consistency, newest_sequence)
    if message.WhichOneof("level") is not None:
        request.consistency.CopyFrom(message)


async def ask(
    channel: grpc.aio.Channel,
    query: Query,
    request: Message,
    timeout_s: float,
    security: Security = PLAIN,
) -> Any:
    """One query of one node. Raises what `query_error` gives."""
    call = channel.unary_unary(
        _SERVICE + query.name,
        request_serializer=type(request).SerializeToString,
        response_deserializer=query.answer.FromString,
    )
    try:
        async with unless_closed():
            return await call(request, timeout=timeout_s, metadata=security.metadata)
    except grpc.aio.AioRpcError as error:
        raise query_error(error) from error


async def watch(
    channel: grpc.aio.Channel, request: ledger_pb2.WatchRequest, security: Security = PLAIN
) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
    """A node's Watch; it is cancelled when the iterator is closed."""
    call: Any = channel.unary_stream(
        _SERVICE + WATCH.name,
        request_serializer=ledger_pb2.WatchRequest.SerializeToString,
        response_deserializer=ledger_pb2.WatchResponse.FromString,
    )(request, metadata=security.metadata)
    try:
        async with unless_closed():
            async for response in call:
                yield response
    except grpc.aio.AioRpcError as error:
        raise query_error(error) from error
    finally:
        call.cancel()


def query_error(error: grpc.aio.AioRpcError) -> RingledgerClientError:
    """NotFound, InvalidRequest, NotLeader, NotServed, Unauthenticated, Behind or Unavailable."""
    end: StreamEnd = stream_end(error.code(), error.details(), error.trailing_metadata())
    if end.code is grpc.StatusCode.NOT_FOUND:
        return NotFound(end.reason, end.details)
    if end.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        return InvalidRequest(str(end), end.reason)
    if end.code is grpc.StatusCode.UNIMPLEMENTED:
        return NotServed(str(end))
    if end.reason == "NOT_LEADER":
        return NotLeader(end.metadata.get("leader", ""), str(end))
    if end.reason == "BEHIND":
        return Behind(str(end))
    return denied_or_unavailable(end.code, str(end.details))
