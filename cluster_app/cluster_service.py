"""`ringledger.v1.ClusterService`: who a node is, how far it has come, and the hand-over."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import grpc

from cluster_app.asset_messages import AssetMessages
from cluster_app.rpc import Context, not_leader, unary
from cluster_app.state_view import Progress, StateView
from proto import ledger_pb2

CLUSTER_SERVICE: Final = "ringledger.v1.ClusterService"


@dataclass(frozen=True)
class NodeIdentity:
    """What of a node's status never changes. `address` is what others are told."""

    role: ledger_pb2.Role
    node_id: str
    address: str
    ledger_id: bytes


def status_message(
    identity: NodeIdentity,
    progress: Progress,
    *,
    applied: int,
    accounts: int,
    assets: list[ledger_pb2.Asset],
) -> ledger_pb2.GetStatusResponse:
    """A node's status."""
    position, lag = progress.position, progress.lag
    return ledger_pb2.GetStatusResponse(
        role=identity.role,
        node_id=identity.node_id,
        address=identity.address,
        leader=progress.leader,
        epoch=position.epoch,
        applied_sequence=applied,
        ledger_time_ns=position.timestamp_ns,
        accounts=accounts,
        ledger_id=identity.ledger_id,
        chain=position.chain,
        assets=assets,
        lag_commands=lag.commands,
        lag_s=lag.seconds,
        next_offset=position.next_offset,
        in_flight_commands=progress.in_flight_commands,
        ring_capacity=progress.ring_capacity,
        snapshot_taken_ns=progress.snapshot[0],
        snapshot_applied_sequence=progress.snapshot[1],
        cannot_lead_because=progress.cannot_lead_because,
    )


HandOver = Callable[[ledger_pb2.HandOverRequest, Context], Awaitable[ledger_pb2.HandOverResponse]]


class ClusterService:
    """The status of a node that has a state to read.

    `identity` gives what it is now; `hand_over` is what a node that can lead does when asked to.
    """

    def __init__(
        self,
        view: StateView,
        identity: Callable[[], NodeIdentity],
        hand_over: HandOver | None = None,
    ) -> None:
        self._view = view
        self._identity = identity
        self._hand_over = hand_over
        self._assets = AssetMessages(view.reader)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            CLUSTER_SERVICE,
            {
                "GetStatus": unary(self.get_status, ledger_pb2.GetStatusRequest),
                "HandOver": unary(self.hand_over, ledger_pb2.HandOverRequest),
            },
        )

    async def get_status(
        self, request: ledger_pb2.GetStatusRequest, context: Context
    ) -> ledger_pb2.GetStatusResponse:
        """The node's status as of now."""
        assets, _ = await self._view.read(self._assets.read, context)
        applied, accounts, _, _ = await self._view.read(self._view.reader.progress, context)
        return status_message(
            self._identity(),
            self._view.progress(),
            applied=applied,
            accounts=accounts,
            assets=assets,
        )

    async def hand_over(
        self, request: ledger_pb2.HandOverRequest, context: Context
    ) -> ledger_pb2.HandOverResponse:
        """End the epoch for a standby to take the next one; NOT_LEADER at a node that follows."""
        if self._hand_over is None:
            await not_leader(self._view.progress().leader).abort(context)
            raise AssertionError("abort raises")
        return await self._hand_over(request, context)
