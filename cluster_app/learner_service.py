"""The gRPC side of a node that only follows: status, health, reflection, and what it adds.

Commands are refused with the leader's name.

It runs on a thread and an event loop of its own, and sees only what the thread that replays has
published: so no answer is of two moments.
"""

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster_app import bank, ingress
from cluster_app.cluster_service import CLUSTER_SERVICE, NodeIdentity, status_message
from cluster_app.lag import Lag
from cluster_app.rpc import Context, not_leader, unary
from cluster_app.server import server_on
from cluster_app.settings import NodeSettings
from cluster_app.state_view import Progress
from cluster_app.typed import read_asset
from cluster_core.reader_rule import Position
from cluster_core.record import ASSET
from cluster_core.replay import Replica
from proto import ledger_pb2

_SERVED: Final = ("", CLUSTER_SERVICE)
_REFUSED: Final = (ingress.COMMAND_SERVICE, bank.COMMAND_SERVICE)
_CLOSE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Published:
    """A replica's status as of one position; `assets` are ASSET [n], unregistered ones among."""

    position: Position
    leader: str
    accounts: int
    ledger_id: bytes
    assets: npt.NDArray[Any]
    lag: Lag
    applied: int
    snapshot: tuple[int, int]

    @classmethod
    def of(
        cls,
        replica: Replica,
        lag: Lag,
        applied: int | None = None,
        snapshot: tuple[int, int] | None = None,
    ) -> "Published":
        """Copies, a few microseconds; from the thread that replays.

        `applied`: the sequence up to which the node is done, if it isn't the replica's. `snapshot`:
        (taken_ns, applied) of the stored one.
        """
        state, leader = replica.state, replica.leader
        packed = b""
        if state is not None:
            highest = int(state.books.ledger[0]["highest_asset"])
            packed = state.books.assets[1 : highest + 1].tobytes()
        return cls(
            replica.position,
            leader.address if leader and replica.position.has_leader else "",
            state.accounts if state else 0,
            replica.ledger_id,
            np.frombuffer(packed, ASSET),
            lag,
            replica.position.next_sequence if applied is None else applied,
            snapshot or (0, 0),
        )


class LearnerService:
    """A server on `settings.listen`. Other roles add to it: `role`, `services`, `more_handlers`."""

    role: ledger_pb2.Role = ledger_pb2.ROLE_LEARNER
    services: tuple[str, ...] = ()

    def __init__(self, settings: NodeSettings) -> None:
        """Serves at once, not ready yet. Raises Fault when the port can't be had."""
        self._settings = settings
        self._published = Published.of(Replica(), Lag())
        self._commands = ingress.Ingress(max_in_flight=0, max_streams=0)
        self._loop = asyncio.new_event_loop()
        self._health = health.aio.HealthServicer()
        self._ended = asyncio.Event()
        self._closed = False
        bound: Future[str] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(bound,), name="learner-service", daemon=True
        )
        self._thread.start()
        try:
            self.address: Final = bound.result()
        except BaseException:
            self._thread.join()
            raise

    def publish(
        self,
        replica: Replica,
        lag: Lag,
        applied: int | None = None,
        snapshot: tuple[int, int] | None = None,
    ) -> None:
        """From now on this is the status. From the thread that replays."""
        self._published = Published.of(replica, lag, applied, snapshot)
        self._commands.follow(self._published.leader)

    def more_handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Handlers of `services`, made inside the running loop."""
        return ()

    def set_ready(self) -> None:
        """Health answers SERVING from now on."""
        asyncio.run_coroutine_threadsafe(
            self._set_health(health_pb2.HealthCheckResponse.SERVING), self._loop
        ).result()

    def close(self) -> None:
        """End the server and its thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def _run(self, bound: "Future[str]") -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(bound))

    async def _serve(self, bound: "Future[str]") -> None:
        try:
            server, address = server_on(self._settings, self._settings.listen)
            server.add_generic_rpc_handlers(
                (
                    ingress.CommandService(self._commands).handlers(),
                    bank.BankCommandService(self._commands).handlers(),
                    self._status_handlers(address),
                    *self.more_handlers(),
                )
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            reflection.enable_server_reflection(
                (
                    *_REFUSED,
                    *self.services,
                    CLUSTER_SERVICE,
                    health.SERVICE_NAME,
                    reflection.SERVICE_NAME,
                ),
                server,
            )
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            for name in _REFUSED:
                await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
            await server.start()
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            bound.set_exception(error)
            return
        bound.set_result(address)
        await self._ended.wait()
        await self._health.enter_graceful_shutdown()
        await server.stop(_CLOSE_TIMEOUT_S)

    async def _set_health(self, status: Any) -> None:
        for name in (*_SERVED, *self.services):
            await self._health.set(name, status)

    def _status_handlers(self, address: str) -> grpc.GenericRpcHandler:
        async def get_status(
            _: ledger_pb2.GetStatusRequest, __: Context
        ) -> ledger_pb2.GetStatusResponse:
            shown = self._published
            identity = NodeIdentity(self.role, self._settings.node_id, address, shown.ledger_id)
            return status_message(
                identity,
                Progress(shown.position, shown.leader, shown.lag, snapshot=shown.snapshot),
                applied=shown.applied,
                accounts=shown.accounts,
                assets=[read_asset(asset) for asset in shown.assets if asset["number"]],
            )

        async def hand_over(_: ledger_pb2.HandOverRequest, context: Context) -> None:
            await not_leader(self._published.leader).abort(context)

        return grpc.method_handlers_generic_handler(
            CLUSTER_SERVICE,
            {
                "GetStatus": unary(get_status, ledger_pb2.GetStatusRequest),
                "HandOver": unary(hand_over, ledger_pb2.HandOverRequest),
            },
        )
