"""Queries and status of `ringledger.v1`, answered from the applied state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np

from cluster_app.rpc import Context, Refusal, unary
from cluster_app.typed import read_account, read_asset, read_hold
from cluster_core.reader_rule import Position
from cluster_core.record import MAX_ASSETS
from cluster_core.state_machine import StateMachine
from proto import ledger_pb2

QUERY_SERVICE: Final = "ringledger.v1.QueryService"
CLUSTER_SERVICE: Final = "ringledger.v1.ClusterService"


@dataclass(frozen=True)
class NodeStatus:
    """What a node says of itself. `position` gives the newest counted position."""

    role: ledger_pb2.Role
    node_id: str
    address: str
    leader: str
    ledger_id: bytes
    position: Callable[[], Position]


class AssetMessages:
    """Every registered asset with its totals, as messages by number.

    4,095 assets take 20 ms to build, on the engine's own loop: so only those that have changed
    since the last reading are built again.
    """

    def __init__(self, state: StateMachine) -> None:
        self._state = state
        # whole records are compared, and the table is never moved
        self._words = state._books.assets.view(np.uint64).reshape(MAX_ASSETS, -1)
        self._read_words = np.zeros_like(self._words)
        self._read_applied = -1
        self._by_number: dict[int, ledger_pb2.Asset] = {}
        self._sorted: list[ledger_pb2.Asset] = []

    def read(self) -> list[ledger_pb2.Asset]:
        """The assets as of now. The list is not the caller's to change."""
        applied = self._state.applied
        if applied != self._read_applied:
            changed = np.flatnonzero((self._words != self._read_words).any(axis=1))
            for number in map(int, changed):
                self._by_number[number] = read_asset(self._state.asset(number))
            self._read_words[changed] = self._words[changed]
            self._sorted = [message for _, message in sorted(self._by_number.items())]
            self._read_applied = applied
        return self._sorted


class QueryService:
    """One account or open hold by its id, and the totals of all.

    `position` gives the newest counted position.
    """

    def __init__(self, state: StateMachine, position: Callable[[], Position]) -> None:
        self._state = state
        self._position = position
        self._assets = AssetMessages(state)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            QUERY_SERVICE,
            {
                "GetAccount": unary(self.get_account, ledger_pb2.GetAccountRequest),
                "GetHold": unary(self.get_hold, ledger_pb2.GetHoldRequest),
                "GetTotals": unary(self.get_totals, ledger_pb2.GetTotalsRequest),
            },
        )

    async def get_account(
        self, request: ledger_pb2.GetAccountRequest, context: Context
    ) -> ledger_pb2.GetAccountResponse:
        """The account and the sequence up to which it is known. NOT_FOUND for an unknown id."""
        applied = self._state.applied
        account = self._state.account(request.account_id)
        if account is None:
            await Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"account {request.account_id} does not exist",
                "ACCOUNT_NOT_FOUND",
                {
                    "account_id": str(request.account_id),
                    "applied_sequence": str(applied),
                },
            ).abort(context)
        return ledger_pb2.GetAccountResponse(
            account=read_account(account), applied_sequence=applied
        )

    async def get_hold(
        self, request: ledger_pb2.GetHoldRequest, context: Context
    ) -> ledger_pb2.GetHoldResponse:
        """The open hold and the sequence up to which it is known.

        NOT_FOUND tells an id that was never given (HOLD_NOT_FOUND) from a hold that was captured,
        released or has expired (HOLD_NOT_OPEN).
        """
        applied = self._state.applied
        hold = self._state.hold(request.hold_id)
        if hold is None:
            given = 1 <= request.hold_id < self._state.next_hold
            await Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"hold {request.hold_id} {'is no longer open' if given else 'does not exist'}",
                "HOLD_NOT_OPEN" if given else "HOLD_NOT_FOUND",
                {"hold_id": str(request.hold_id), "applied_sequence": str(applied)},
            ).abort(context)
        return ledger_pb2.GetHoldResponse(hold=read_hold(hold), applied_sequence=applied)

    async def get_totals(
        self, request: ledger_pb2.GetTotalsRequest, context: Context
    ) -> ledger_pb2.GetTotalsResponse:
        """Every asset with its sums and counts, kept as the ledger changes: no scan."""
        return ledger_pb2.GetTotalsResponse(
            assets=self._assets.read(),
            applied_sequence=self._state.applied,
            ledger_time_ns=self._position().timestamp_ns,
        )


class ClusterService:
    """Who this node is and how far it has come."""

    def __init__(self, state: StateMachine, status: NodeStatus) -> None:
        self._state = state
        self._status = status
        self._assets = AssetMessages(state)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            CLUSTER_SERVICE,
            {"GetStatus": unary(self.get_status, ledger_pb2.GetStatusRequest)},
        )

    async def get_status(
        self, request: ledger_pb2.GetStatusRequest, context: Context
    ) -> ledger_pb2.GetStatusResponse:
        """The node's status as of now."""
        status, position = self._status, self._status.position()
        return ledger_pb2.GetStatusResponse(
            role=status.role,
            node_id=status.node_id,
            address=status.address,
            leader=status.leader,
            epoch=position.epoch,
            applied_sequence=self._state.applied,
            ledger_time_ns=position.timestamp_ns,
            accounts=self._state.accounts,
            ledger_id=status.ledger_id,
            chain=position.chain,
            assets=self._assets.read(),
        )
