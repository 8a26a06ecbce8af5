"""The client library of ringledger: commands in, replies out, and what to conclude without one.

`Ledger` speaks Decimal; `CommandStream` takes packed commands, in minor units, at full speed.
"""

from client_core.answers import Account, AssetTotals, LedgerReply, OpenHold, Totals
from client_core.assets import Asset
from client_core.command_ids import CommandIds, LedgerClock
from client_core.command_stream import CommandStream
from client_core.errors import (
    ChainRefused,
    IdInFuture,
    InvalidRequest,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Retryable,
    RingledgerClientError,
    StreamBusy,
    StreamClosed,
    Unavailable,
)
from client_core.ledger import Ledger
from client_core.records import (
    Operation,
    Reply,
    Side,
    Status,
    capture,
    close_account,
    create_account,
    deposit,
    hold,
    lock,
    register_asset,
    release,
    set_limits,
    transfer,
    unlock,
    withdraw,
)

__all__ = [
    "Account",
    "Asset",
    "AssetTotals",
    "ChainRefused",
    "CommandIds",
    "CommandStream",
    "IdInFuture",
    "InvalidRequest",
    "Ledger",
    "LedgerClock",
    "LedgerReply",
    "NotFound",
    "NotLeader",
    "OpenHold",
    "Operation",
    "OutcomeUnknown",
    "OutcomeUnsettled",
    "Refused",
    "Reply",
    "Retryable",
    "RingledgerClientError",
    "Side",
    "Status",
    "StreamBusy",
    "StreamClosed",
    "Totals",
    "Unavailable",
    "capture",
    "close_account",
    "create_account",
    "deposit",
    "hold",
    "lock",
    "register_asset",
    "release",
    "set_limits",
    "transfer",
    "unlock",
    "withdraw",
]
