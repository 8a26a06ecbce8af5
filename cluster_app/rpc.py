"""What the gRPC services share: handlers, and errors as a status with google.rpc details.

Reasons (ErrorInfo, domain `ringledger`): NOT_LEADER, LEADERSHIP_LOST, INVALID_COMMANDS,
INVALID_ARGUMENT, IN_FLIGHT_LIMIT, STREAM_LIMIT, OUTCOME_UNKNOWN, ACCOUNT_NOT_FOUND,
HOLD_NOT_FOUND, HOLD_NOT_OPEN, BEHIND, BARRIER_NOT_COUNTED, READS_WAITING_LIMIT, READ_BUSY,
WATCH_LIMIT, NOT_WATCHING, TOKEN_MISSING, TOKEN_UNKNOWN, BEYOND_HISTORY, NOT_KEPT,
HISTORY_UNAVAILABLE, STANDBY_BEHIND, HAND_OVER_GIVEN_UP.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

Context = grpc.aio.ServicerContext[Any, Any]

DOMAIN: Final = "ringledger"
_DETAILS_KEY: Final = "grpc-status-details-bin"


@dataclass(frozen=True)
class Refusal:
    """Why a call ends: status code, a sentence for people, a reason and metadata for programs."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str] = field(default_factory=dict)

    def details(self) -> tuple[str, bytes]:
        """The trailer with reason and metadata: its name, a serialized google.rpc.Status."""
        detail = any_pb2.Any()
        detail.Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        )
        rich = status_pb2.Status(code=self.code.value[0], message=self.message, details=[detail])
        return _DETAILS_KEY, rich.SerializeToString()

    async def abort(self, context: Context) -> None:
        """End the call with this refusal; raises grpc's own AbortError."""
        await context.abort(self.code, self.message, (self.details(),))


def not_leader(leader: str) -> Refusal:
    """This node doesn't lead; `leader` is the address of the one that does, if known."""
    told = f"; the leader is at {leader}" if leader else ""
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"this node does not lead{told}",
        "NOT_LEADER",
        {"leader": leader},
    )


def unary(behaviour: Callable[[Any, Context], Awaitable[Any]], message: Any) -> Any:
    """A handler for a unary call whose request is of the class `message`.

    What can't be parsed as one is an INVALID_ARGUMENT, like any other bad input.
    """

    async def parse_and_call(request: bytes, context: Context) -> bytes:
        try:
            parsed = message.FromString(request)
        except DecodeError:
            await not_parsed(message).abort(context)
        answer: bytes = (await behaviour(parsed, context)).SerializeToString()
        return answer

    return grpc.unary_unary_rpc_method_handler(parse_and_call, None, None)


def unary_stream(behaviour: Callable[[Any, Context], Awaitable[None]], message: Any) -> Any:
    """The same for a call that is answered by a stream, which `behaviour` writes to the context."""

    async def parse_and_serve(request: bytes, context: Context) -> None:
        try:
            parsed = message.FromString(request)
        except DecodeError:
            await not_parsed(message).abort(context)
        await behaviour(parsed, context)

    return grpc.unary_stream_rpc_method_handler(parse_and_serve, None, None)


def invalid(message: str) -> Refusal:
    """A request with a field that can't be taken; `message` says which and what can."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_ARGUMENT")


def not_parsed(message: Any) -> Refusal:
    """Bytes that are no message of the class `message`."""
    return invalid(f"the request is not a {message.DESCRIPTOR.full_name}")
