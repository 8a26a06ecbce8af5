"""One node's channel, and its status."""

from typing import Final

import grpc

from client_core.errors import Unavailable
from proto import ledger_pb2

MAX_MESSAGE_BYTES: Final = 4 << 20
"""The largest message, 8,192 commands, is 512 KiB; the rest is for what later reads return."""


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel to `HOST:PORT`. It connects when first used."""
    return grpc.aio.insecure_channel(
        target,
        options=(
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ),
    )


async def get_status(
    channel: grpc.aio.Channel, timeout_s: float = 5.0
) -> ledger_pb2.GetStatusResponse:
    """The node's status. Raises Unavailable when it can't be had within `timeout_s`."""
    call = channel.unary_unary(
        "/ringledger.v1.ClusterService/GetStatus",
        request_serializer=ledger_pb2.GetStatusRequest.SerializeToString,
        response_deserializer=ledger_pb2.GetStatusResponse.FromString,
    )
    try:
        return await call(ledger_pb2.GetStatusRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"{error.code().name}: {error.details()}") from error
