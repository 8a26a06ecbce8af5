"""The client library of ringledger: commands in, replies out, and what to conclude without one."""

from client_core.command_ids import CommandIds, LedgerClock
from client_core.command_stream import CommandStream
from client_core.errors import (
    InvalidRequest,
    NotLeader,
    OutcomeUnknown,
    Refused,
    Retryable,
    RingledgerClientError,
    StreamBusy,
    StreamClosed,
    Unavailable,
)
from client_core.records import (
    Operation,
    Reply,
    Status,
    create_account,
    deposit,
    register_asset,
    transfer,
    withdraw,
)

__all__ = [
    "CommandIds",
    "CommandStream",
    "InvalidRequest",
    "LedgerClock",
    "NotLeader",
    "Operation",
    "OutcomeUnknown",
    "Refused",
    "Reply",
    "Retryable",
    "RingledgerClientError",
    "Status",
    "StreamBusy",
    "StreamClosed",
    "Unavailable",
    "create_account",
    "deposit",
    "register_asset",
    "transfer",
    "withdraw",
]
