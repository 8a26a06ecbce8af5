"""The gRPC side of a node that leads or stands by: one server over one state, in turn in two roles.

A standby answers queries, from the state that its replay thread changes meanwhile, and refuses
commands with the leader's address. A change of roles leaves server and connections as they are;
only command streams end, each told what was run.
"""

import time
from collections.abc import Callable
from typing import Final

from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from cluster_app import bank, ingress, queries
from cluster_app.cluster_service import (
    CLUSTER_SERVICE,
    ClusterService,
    HandOver,
    NodeIdentity,
)
from cluster_app.consistency import FollowerReads, LeaderReads, Reads
from cluster_app.edges import bind_edge
from cluster_app.engine import Engine
from cluster_app.lag import Lag
from cluster_app.rpc import Refusal
from cluster_app.settings import LeaderSettings
from cluster_app.state_view import Progress, StateView
from cluster_app.watching import Watches
from cluster_core.errors import InvariantViolated
from cluster_core.pipeline import Pipeline
from cluster_core.reading import BooksReader
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine
from proto import ledger_pb2

_CLOSE_STREAMS_TIMEOUT_S: Final = 2.0
_PAUSE_S_MAX: Final = 0.002
"""The longest that a standby's replay waits for readers between two batches."""

_PAUSE_LOOK_S: Final = 0.00005
_COMMANDS: Final = (bank.COMMAND_SERVICE, ingress.COMMAND_SERVICE)
_QUERIES: Final = ("", bank.QUERY_SERVICE, queries.QUERY_SERVICE, CLUSTER_SERVICE)
_SERVICES: Final = (
    *_COMMANDS,
    *_QUERIES[1:],
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


class NodeService:
    """A server bound to `listen`. `start` once there is a state; then `lead` and `follow` in turn.

    Create it inside the running loop. Raises Fault when the port can't be had.
    """

    def __init__(self, settings: LeaderSettings, listen: str, hand_over: HandOver) -> None:
        self._settings = settings
        self._edge = bind_edge(
            settings,
            listen,
            max_in_flight=settings.max_in_flight,
            max_streams=settings.max_streams,
        )
        self.address: Final = self._edge.address
        self._ingress = self._edge.ingress
        self._hand_over = hand_over
        self._health = health.aio.HealthServicer()
        self._replica: Replica | None = None
        self._pipeline: Pipeline | None = None
        self._engine: Engine | None = None
        self._successor = ""
        self._ended_epoch = 0
        self._watched = False
        self._pause_wanted = False
        self.lag: Callable[[], Lag] = Lag
        self.cannot_lead_because: Callable[[], str] = str
        """Of a standby, from any thread: "" when it could lead."""

    @property
    def open_streams(self) -> int:
        """Command streams that are open now."""
        return self._ingress.open_streams

    @property
    def is_started(self) -> bool:
        """Whether there is a state that it serves from."""
        return self._replica is not None

    async def start(self, replica: Replica) -> None:
        """Serve this replica's state, as a standby at first."""
        state = replica.state
        if state is None:
            raise InvariantViolated("a node serves only what it has")
        self._replica = replica
        replica.between_batches = self._let_readers_in
        view = StateView(
            BooksReader(state.books),
            self._progress,
            set_watchers=lambda watchers: self._watch(state, watchers),
            want_pause=self._want_pause,
        )
        self._add_handlers(view, state)
        await self._set_health(_QUERIES, serving=True)
        await self._set_health(_COMMANDS, serving=False)
        await self._edge.server.start()

    def _add_handlers(self, view: StateView, state: StateMachine) -> None:
        reads = _RoleReads(
            FollowerReads(
                lambda: view.reader.applied,
                lambda: view.progress().leader,
                lambda: view.progress().lag.seconds,
            ),
            lambda: self._engine,
        )
        watches = Watches(view, state.parameters.account_capacity)
        cluster = ClusterService(view, self._identity, self._hand_over)
        self._edge.answer_queries(view, state.books)
        self._edge.add(
            (
                bank.BankCommandService(self._ingress).handlers(),
                bank.BankQueryService(view).handlers(),
                ingress.CommandService(self._ingress).handlers(),
                queries.QueryService(view, reads, watches).handlers(),
                cluster.handlers(),
            ),
            self._health,
            _SERVICES,
        )

    async def lead(self, engine: Engine, pipeline: Pipeline) -> None:
        """Take commands from now on."""
        self._successor = ""
        self._pipeline, self._engine = pipeline, engine
        self._ingress.lead(engine, self.address)
        await self._set_health(_COMMANDS, serving=True)

    async def follow(self, reason: str, successor: str = "") -> None:
        """Take no more commands: the term has ended. `successor`: whom to ask, if known.

        The replica must be where the term ended by now.
        """
        if self._pipeline is not None:
            self._ended_epoch = self._pipeline.counted.epoch
        self._engine = self._pipeline = None
        self._successor = successor
        self._ingress.follow(successor)
        self._ingress.end_streams(reason)
        await self._set_health(_COMMANDS, serving=False)

    def looked(self) -> None:
        """The replay thread has read on: what it must do between two batches."""
        if self._replica is None or self._replica.state is None:
            return
        self._replica.state.watch(self._watched)
        self._ingress.follow(self._leader(self._replica))

    async def say_stopping(self) -> None:
        """Health answers NOT_SERVING from now on."""
        await self._health.enter_graceful_shutdown()

    async def close(self) -> None:
        """End the server; calls under way get 2 s."""
        self._ingress.follow("")
        await self._edge.server.stop(_CLOSE_STREAMS_TIMEOUT_S)

    def _identity(self) -> NodeIdentity:
        leads = self._engine is not None
        return NodeIdentity(
            ledger_pb2.ROLE_LEADER if leads else ledger_pb2.ROLE_STANDBY,
            self._settings.node_id,
            self.address,
            self._replica.ledger_id if self._replica else b"",
        )

    def _progress(self) -> Progress:
        if self._pipeline is not None:
            return Progress(
                self._pipeline.counted,
                self.address,
                in_flight_commands=self._pipeline.in_flight_commands,
                ring_capacity=self._pipeline.ring_capacity,
            )
        if self._replica is None:
            return Progress()
        return Progress(
            self._replica.position,
            self._leader(self._replica),
            self.lag(),
            cannot_lead_because=self.cannot_lead_because(),
        )

    def _leader(self, replica: Replica) -> str:
        """Who leads, as far as the journal was read; of its own term this node knows the end."""
        if (
            replica.leader is not None
            and replica.position.has_leader
            and replica.position.epoch != self._ended_epoch
        ):
            self._successor = ""
            return replica.leader.address
        return self._successor

    def _watch(self, state: StateMachine, watchers: int) -> None:
        self._watched = watchers > 0
        if self._engine is not None:  # else the replay thread does it
            state.watch(self._watched)

    def _want_pause(self, wanted: bool) -> None:
        self._pause_wanted = wanted

    def _let_readers_in(self) -> None:
        if not self._pause_wanted:
            return
        deadline = time.monotonic() + _PAUSE_S_MAX
        while self._pause_wanted and time.monotonic() < deadline:
            time.sleep(_PAUSE_LOOK_S)

    async def _set_health(self, names: tuple[str, ...], *, serving: bool) -> None:
        answers = health_pb2.HealthCheckResponse
        for name in names:
            await self._health.set(name, answers.SERVING if serving else answers.NOT_SERVING)


class _RoleReads:
    """Reads by the role that the node has when they arrive."""

    def __init__(self, standby: FollowerReads, engine: Callable[[], Engine | None]) -> None:
        self._standby = standby
        self._engine = engine

    async def barrier(self, timeout_s: float) -> Refusal | None:
        return await self._reads().barrier(timeout_s)

    async def beyond(self, sequence: int, timeout_s: float) -> Refusal | None:
        return await self._reads().beyond(sequence, timeout_s)

    def _reads(self) -> Reads:
        engine = self._engine()
        return self._standby if engine is None else LeaderReads(engine)
