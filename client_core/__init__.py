"""The client library of ringledger: commands in, replies out, and what to conclude without one.

`Client` finds and follows the leader, tries again, and reads from followers; `SyncClient` is the
same for programs without an event loop. `Ledger` is one node's, over a `CommandStream`, which takes
packed commands, in minor units, at full speed. `client_core.testing` has a fake node for tests.
"""

from client_core.answers import (
    Account,
    AccountChanges,
    AccountPage,
    AccountState,
    AssetTotals,
    LedgerReply,
    OpenHold,
    Totals,
)
from client_core.assets import Asset
from client_core.client import Client
from client_core.cluster import NodeStatus
from client_core.command_ids import CommandIds, LedgerClock
from client_core.command_stream import CommandStream
from client_core.consistency import (
    ANY,
    LINEARIZABLE,
    READ_YOUR_WRITES,
    AtLeast,
    Consistency,
    at_least,
)
from client_core.errors import (
    Behind,
    ChainRefused,
    IdInFuture,
    InvalidRequest,
    NotFound,
    NotLeader,
    NotServed,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Retryable,
    RingledgerClientError,
    StreamBusy,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.history import History
from client_core.history_answers import (
    BalancePage,
    DayTotal,
    Extent,
    FoundCommand,
    HistoryBalance,
    HistoryEntry,
    HistoryPage,
)
from client_core.leader_stream import ClientStats
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
from client_core.sync_client import SyncClient
from client_core.sync_history import SyncHistory

__all__ = [
    "ANY",
    "LINEARIZABLE",
    "READ_YOUR_WRITES",
    "Account",
    "AccountChanges",
    "AccountPage",
    "AccountState",
    "Asset",
    "AssetTotals",
    "AtLeast",
    "BalancePage",
    "Behind",
    "ChainRefused",
    "Client",
    "ClientStats",
    "CommandIds",
    "CommandStream",
    "Consistency",
    "DayTotal",
    "Extent",
    "FoundCommand",
    "History",
    "HistoryBalance",
    "HistoryEntry",
    "HistoryPage",
    "IdInFuture",
    "InvalidRequest",
    "Ledger",
    "LedgerClock",
    "LedgerReply",
    "NodeStatus",
    "NotFound",
    "NotLeader",
    "NotServed",
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
    "SyncClient",
    "SyncHistory",
    "Totals",
    "Unauthenticated",
    "Unavailable",
    "at_least",
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
