"""The cluster's processes: the real roles' code, and a supervisor that starts them again.

A leader (or standby) runs `cluster_app.leader.lead`, a learner `cluster_app.learner.run`, a reader
what every follower does with the journal. What they take by name from their surroundings (journal,
store, server, signals, metrics) is put in their modules by `roles_in`.
"""

import asyncio
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import grpc

from client_core import command_ids
from cluster_app import leader, learner
from cluster_app.election import JournalFollower
from cluster_app.errors import Exit
from cluster_app.recovery import recover
from cluster_app.settings import LeaderSettings, LearnerSettings
from cluster_core.batch import LedgerParameters
from cluster_core.errors import SnapshotDamaged, StoreUnavailable
from cluster_core.replay import Replica
from proto import ledger_pb2
from tests.simulation.event_loop import SimLoop
from tests.simulation.journals import MS, Log, SimJournal, open_sim_journal
from tests.simulation.network import Network, SimChannel, SimServer
from tests.simulation.snapshots import SimStore
from tests.simulation.stand_ins import Patches, process, random_bytes, stand_ins
from tests.simulation.world import Process, World

PARAMETERS: Final = LedgerParameters(
    window_capacity=1 << 9, account_capacity=1 << 8, hold_capacity=1 << 8
)
ADDRESSES: Final = {f"node-{n}": f"127.0.0.1:{9500 + n}" for n in (1, 2, 3)}
_JOURNAL: Final = "sqlite:///simulated/journal.db"
_MODULES: Final = ("cluster_app.leader", "cluster_app.learner", "client_core.client")


class _Quiet:
    """Metrics and the like: takes every call, shows nothing."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getattr__(self, _: str) -> Any:
        return self


@dataclass
class Node:
    """One place where a process runs, again and again."""

    name: str
    role: str
    process: Process | None = None
    loop: SimLoop | None = None
    started: int = 0
    from_snapshot: bool = True
    takeover: bool = False
    wall_offset_ns: int = 0
    replica: Replica | None = None
    """A reader's."""

    @property
    def is_up(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.alive


@dataclass
class Site:
    """Everything that outlives a process: log, store, network, and what went wrong."""

    world: World
    log: Log
    store: SimStore
    network: Network
    nodes: list[Node] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    on_torn: Callable[[], None] = lambda: None
    election_timeout_s: float = 1.0
    is_over: bool = False
    hand_overs: int = 0
    """Planned ones that were done."""
    _operator: SimLoop | None = None

    def start(self, node: Node) -> None:
        """Start a node's process, unless it runs."""
        if node.is_up or self.is_over:
            return
        node.started += 1
        started = Process(self.world, node.name)
        started.wall_offset_ns = node.wall_offset_ns
        node.process = started
        started.on_death.append(partial(self._died, node, started))
        # what runs in it must find it
        before, self.world.current = self.world.current, started
        self.world.note("started")
        if node.role == "leader":
            node.loop = SimLoop(started)
            node.loop.call_soon(self._begin_leader, node)
        else:
            run = self._learn if node.role == "learner" else self._read
            started.spawn(partial(self._run_to_end, node, partial(run, node)))
        self.world.current = before

    def stop(self, node: Node) -> None:
        """SIGTERM."""
        running = node.process
        if running is not None and running.alive and signal.SIGTERM in running.signals:
            self.world.post(0, lambda: running.signals[signal.SIGTERM](signal.SIGTERM), running)

    def hand_over(self, leads: Node, standby: Node, next_offset: int) -> None:
        """`python -m cluster_app handover`: ask the leader to make room for a standby."""
        if self._operator is None:
            self._operator = SimLoop(Process(self.world, "operator"))
        operator, before = self._operator, self.world.current
        self.world.current = operator.process
        operator.call_soon(
            lambda: operator.create_task(
                self._ask_for_hand_over(ADDRESSES[leads.name], ADDRESSES[standby.name], next_offset)
            )
        )
        self.world.current = before

    async def _ask_for_hand_over(self, leader_at: str, standby: str, next_offset: int) -> None:
        call = SimChannel(self.network, leader_at).unary_unary(
            "/ringledger.v1.ClusterService/HandOver",
            request_serializer=ledger_pb2.HandOverRequest.SerializeToString,
            response_deserializer=ledger_pb2.HandOverResponse.FromString,
        )
        request = ledger_pb2.HandOverRequest(standby=standby, standby_next_offset=next_offset)
        try:
            await call(request, timeout=5.0)
        except grpc.aio.AioRpcError as refused:
            self.world.note(f"no hand-over: {refused.code().name}")
        else:
            self.hand_overs += 1
            self.world.note("handed over")

    def _died(self, node: Node, dead: Process) -> None:
        self.network.lose_process(dead)
        self.world.post(
            self.world.between(50 * MS, 1_500 * MS),
            lambda: None if node.process is not dead else self.start(node),
        )

    def _begin_leader(self, node: Node) -> None:
        settings = LeaderSettings(
            listen=ADDRESSES[node.name],
            node_id=node.name,
            journal=_JOURNAL,
            snapshot=node.from_snapshot,
            http_listen="off",
            takeover=node.takeover,
            takeover_deadline_s=5.0,
            election_timeout_s=self.election_timeout_s,
            drain_timeout_s=3.0,
            append_timeout_s=2.0,
            max_in_flight=2_048,
            window_capacity=PARAMETERS.window_capacity,
            account_capacity=PARAMETERS.account_capacity,
            hold_capacity=PARAMETERS.hold_capacity,
        )
        node.takeover = False
        metrics: Any = _Quiet()
        task = asyncio.get_running_loop().create_task(leader.lead(settings, metrics, "off"))
        ran = node.process

        def ended(_: Any) -> None:
            error = None if task.cancelled() else task.exception()
            if ran is not None and ran.alive:
                self._ended(node, ran, error)

        task.add_done_callback(ended)

    def _learn(self, node: Node) -> None:
        learner.run(
            LearnerSettings(
                node_id=node.name,
                journal=_JOURNAL,
                snapshot=node.from_snapshot,
                snapshot_interval_s=1.0,
                snapshot_interval_commands=300,
                stop_timeout_s=30.0,
                http_listen="off",
            )
        )

    def _read(self, node: Node) -> None:
        """What `Follower` does, but for its query workers."""
        journal = SimJournal(self.log)
        replica, _ = recover(journal, self.store if node.from_snapshot else None, lambda: False)
        node.replica = replica
        with closing(JournalFollower(journal, replica)) as follower:
            while True:
                follower.take_next(0.2, read_ahead=True)

    def _run_to_end(self, node: Node, run: Callable[[], None]) -> None:
        ran, error = node.process, None
        try:
            run()
        except Exception as caught:  # noqa: BLE001 - it is judged below
            error = caught
        if ran is not None and ran.alive and not self.world.over:
            self._ended(node, ran, error)

    def _ended(self, node: Node, ran: Process, error: BaseException | None) -> None:
        """The program has ended: its supervisor starts it again."""
        self.world.note(f"ended {type(error).__name__}: {error}")
        if isinstance(error, SnapshotDamaged) and ran in self.store.read_torn:
            # its operator reads the advice; the learner then replaces the snapshot
            self.on_torn()
            node.from_snapshot = False
        elif error is None or isinstance(error, (Exit, StoreUnavailable)):
            node.from_snapshot = True
        else:
            told = "".join(traceback.format_exception(error, limit=-4)).strip()
            self.failures.append(f"{node.name}: {told}")
        ran.kill()


class _Log:
    """structlog's logger: what tells of a fault of the program is a failure."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def info(self, event: str, **values: Any) -> None:
        if self._site.world.lines is not None:
            self._site.world.note(f"log {event} {values}")

    debug = info
    warning = info
    error = info

    def exception(self, event: str, **_: Any) -> None:
        self._site.failures.append(f"{event}: {traceback.format_exc(limit=-4)}")


def roles_in(site: Site) -> Patches:
    """What is put in place of the surroundings of the roles' code."""
    patches = stand_ins(_MODULES)
    network, quiet = site.network, _Quiet()

    def server_on(settings: Any, listen: str, **_: Any) -> tuple[SimServer, str]:
        return SimServer(network, listen), settings.advertise or listen

    def open_channel(target: str, *_: Any) -> SimChannel:
        return SimChannel(network, target)

    class Signals:
        SIGTERM = signal.SIGTERM
        SIGINT = signal.SIGINT

        @staticmethod
        def signal(number: int, handler: Callable[..., None]) -> None:
            process().signals[number] = handler

    surroundings: dict[str, Any] = {
        "server_on": server_on,
        "open_channel": open_channel,
        "open_journal": open_sim_journal(site.log),
        "open_snapshots": lambda _: site.store,
        "NodeMetrics": quiet,
        "LearnerService": quiet,
        "LagWatch": quiet,
        "reflection": SimpleNamespace(
            SERVICE_NAME="reflection", aio=SimpleNamespace(ReflectionServicer=lambda _: quiet)
        ),
        # the edge in Rust has threads and sockets of its own
        "is_native": lambda *_, **__: False,
        "http_side": lambda *_: nullcontext("off"),
        "keep_freed_memory": lambda: True,
        "ReplayProgress": quiet,
        "RestoreProgress": quiet,
        "structlog": SimpleNamespace(get_logger=lambda: _Log(site)),
        "signal": Signals,
        "gc": quiet,
    }
    patches.put(command_ids, "os", SimpleNamespace(urandom=random_bytes))
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in ("cluster_app", "client_core"):
            for key, value in surroundings.items():
                if key in vars(module):
                    patches.put(module, key, value)
            if name in ("cluster_app.leader", "cluster_app.learner"):
                patches.put(module, "print", lambda *_, **__: None)
    return patches
