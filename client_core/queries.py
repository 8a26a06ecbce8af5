"""Queries of one node, as the contract's own messages."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message

from client_core.errors import InvalidRequest, NotFound, Unavailable
from client_core.stream_end import stream_end
from proto import ledger_pb2

_SERVICE = "/ringledger.v1.QueryService/"
_Answer = TypeVar("_Answer", bound=Message)


async def get_account(
    channel: grpc.aio.Channel, account_id: int, timeout_s: float = 5.0
) -> ledger_pb2.GetAccountResponse:
    """One account. Raises NotFound, Unavailable."""
    request = ledger_pb2.GetAccountRequest(account_id=account_id)
    return await _ask(channel, "GetAccount", request, ledger_pb2.GetAccountResponse, timeout_s)


async def get_hold(
    channel: grpc.aio.Channel, hold_id: int, timeout_s: float = 5.0
) -> ledger_pb2.GetHoldResponse:
    """One open hold. Raises NotFound with the reason HOLD_NOT_OPEN or HOLD_NOT_FOUND."""
    request = ledger_pb2.GetHoldRequest(hold_id=hold_id)
    return await _ask(channel, "GetHold", request, ledger_pb2.GetHoldResponse, timeout_s)


async def get_totals(
    channel: grpc.aio.Channel, timeout_s: float = 5.0
) -> ledger_pb2.GetTotalsResponse:
    """All assets with their sums and counts. Raises Unavailable."""
    request = ledger_pb2.GetTotalsRequest()
    return await _ask(channel, "GetTotals", request, ledger_pb2.GetTotalsResponse, timeout_s)


async def _ask(
    channel: grpc.aio.Channel,
    method: str,
    request: Message,
    response: type[_Answer],
    timeout_s: float,
) -> _Answer:
    call = channel.unary_unary(
        _SERVICE + method,
        request_serializer=type(request).SerializeToString,
        response_deserializer=response.FromString,
    )
    try:
        answer: _Answer = await call(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        end = stream_end(error.code(), error.details(), error.trailing_metadata())
        if end.code is grpc.StatusCode.NOT_FOUND:
            raise NotFound(end.reason, end.details) from error
        if end.code is grpc.StatusCode.INVALID_ARGUMENT:
            raise InvalidRequest(str(end)) from error
        raise Unavailable(str(end)) from error
    return answer
