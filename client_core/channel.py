"""One node's channel, and its status."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import grpc

from client_core.errors import RingledgerClientError, Unauthenticated, Unavailable
from client_core.security import PLAIN, Security
from proto import ledger_pb2

MAX_MESSAGE_BYTES: Final = 4 << 20
"""The largest message, 8,192 commands, is 512 KiB; the rest is for what later reads return."""

_KEEPALIVE_MS: Final = 10_000
"""A node that is frozen, or gone without a word, holds a Watch or a stream for twice this at most.
Nodes allow a question every 5 s."""

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own pauses grow to two minutes: a restarted node is to be found at once
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # how long one attempt to connect may take
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
    # gRPC's own pings, which measure the line, would otherwise be waited for a minute first
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),  # as many as it takes
)
_DENIED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def open_channel(target: str, security: Security = PLAIN) -> grpc.aio.Channel:
    """A channel to `HOST:PORT`. It connects when first used."""
    credentials = security.credentials
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


async def get_status(
    channel: grpc.aio.Channel, timeout_s: float = 5.0, security: Security = PLAIN
) -> ledger_pb2.GetStatusResponse:
    """The node's status.

    Raises Unavailable when it can't be had within `timeout_s`, Unauthenticated when the node
    wants another token.
    """
    call = channel.unary_unary(
        "/ringledger.v1.ClusterService/GetStatus",
        request_serializer=ledger_pb2.GetStatusRequest.SerializeToString,
        response_deserializer=ledger_pb2.GetStatusResponse.FromString,
    )
    try:
        async with unless_closed():
            return await call(
                ledger_pb2.GetStatusRequest(), timeout=timeout_s, metadata=security.metadata
            )
    except grpc.aio.AioRpcError as error:
        raise denied_or_unavailable(error.code(), error.details()) from error


@asynccontextmanager
async def unless_closed() -> AsyncGenerator[None, None]:
    """A call on a channel that is closed meanwhile is Unavailable.

    grpc.aio cancels it, which its caller would take for a cancellation of its own.
    """
    try:
        yield
    except grpc.aio.UsageError:
        raise Unavailable("the channel is closed") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise Unavailable("the channel was closed") from None
        raise


def denied_or_unavailable(code: grpc.StatusCode, details: str | None) -> RingledgerClientError:
    """The error of a call that reached nothing behind the node's door."""
    text = f"{code.name}: {details}{_advice(details or '')}"
    return Unauthenticated(text) if code in _DENIED else Unavailable(text)


_ADVICE: Final = (
    ("WRONG_VERSION_NUMBER", "the node speaks no TLS: leave out tls_ca"),
    ("CERTIFICATE_VERIFY_FAILED", "the node's certificate is not signed by tls_ca, or not for it"),
    ("Socket closed", "perhaps it wants TLS (tls_ca), or another client certificate (tls_cert)"),
    ("Secure read failed", "perhaps the node wants another client certificate (tls_cert)"),
)
"""What gRPC says of a connection that never came up, and what to look at."""


def _advice(details: str) -> str:
    if "failed to connect" not in details:
        return ""
    return next((f": {advice}" for sign, advice in _ADVICE if sign in details), "")
