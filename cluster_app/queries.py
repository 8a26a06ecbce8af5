"""Queries and status of `ringledger.v1`, answered from the applied state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from cluster_app.rpc import Context, Refusal, unary
from cluster_core.reader_rule import Position
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


class QueryService:
    """One account by its id."""

    def __init__(self, state: StateMachine) -> None:
        self._state = state

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            QUERY_SERVICE,
            {"GetAccount": unary(self.get_account, ledger_pb2.GetAccountRequest)},
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
            account=_typed_account(account), applied_sequence=applied
        )


class ClusterService:
    """Who this node is and how far it has come."""

    def __init__(self, state: StateMachine, status: NodeStatus) -> None:
        self._state = state
        self._status = status

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
            assets=[
                _typed_asset(self._state.asset(number)) for number in self._state.asset_numbers()
            ],
        )


def _typed_account(account: Any) -> ledger_pb2.Account:
    return ledger_pb2.Account(
        account_id=int(account["account_id"]),
        asset=int(account["asset"]),
        posted=int(account["posted"]),
        held=int(account["held"]),
        debits_total=int(account["credits_total"]) - int(account["posted"]),
        credits_total=int(account["credits_total"]),
        version=int(account["version"]),
        last_sequence=int(account["last_sequence"]),
        reference=int(account["reference"]),
        code=int(account["code"]),
        opened_ns=int(account["opened_ns"]),
    )


def _typed_asset(asset: Any) -> ledger_pb2.Asset:
    return ledger_pb2.Asset(
        asset=int(asset["number"]),
        decimals=int(asset["decimals"]),
        symbol=int(asset["symbol"]).to_bytes(8, "little").rstrip(b"\0").decode("ascii"),
        posted_total=-int(asset["external"]),
        accounts=int(asset["accounts"]),
    )
