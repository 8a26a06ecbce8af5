"""The leader: replay, candidacy, service, clean stop; wired in one function, top to bottom."""

import asyncio
import gc
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster_app import bank, ingress, queries
from cluster_app.election import (
    READ_BACK_TIMEOUT_S,
    JournalFollower,
    Term,
    await_silence,
    check_stop,
    take_epoch,
)
from cluster_app.engine import Engine
from cluster_app.errors import Fault, NotLeading
from cluster_app.journals import open_journal
from cluster_app.logs import ReplayProgress
from cluster_app.memory import keep_freed_memory
from cluster_app.recovery import recover
from cluster_app.settings import LeaderSettings
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import NO_LEADER, EpochStart
from cluster_core.journal import Journal, JournalRecord
from cluster_core.pipeline import Pipeline
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine
from proto import ledger_pb2

_CLOSE_STREAMS_TIMEOUT_S: Final = 2.0
_OTHER_CALLS_MAX: Final = 1_024
"""Unary calls and queries beside the command streams, so that health is always answered."""

_KEEPALIVE_MS: Final = 20_000
"""A peer that vanished without a word (cable, NAT) holds its streams for twice this at most."""

_GC_THRESHOLD: Final = 50_000
_SERVICES: Final = (
    bank.COMMAND_SERVICE,
    bank.QUERY_SERVICE,
    ingress.COMMAND_SERVICE,
    queries.QUERY_SERVICE,
    queries.CLUSTER_SERVICE,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


class LeaderClock:
    """Ledger time's source: begins at max(wall clock, last counted time), moves monotonically."""

    def __init__(self, last_counted_ns: int) -> None:
        self._offset_ns = max(time.time_ns(), last_counted_ns) - time.monotonic_ns()

    def __call__(self) -> int:
        """Nanoseconds since the Unix epoch; never goes back."""
        return time.monotonic_ns() + self._offset_ns


@dataclass
class Service:
    """A bound server and what it serves with."""

    server: grpc.aio.Server
    ingress: ingress.Ingress
    health: health.aio.HealthServicer
    address: str


async def lead(settings: LeaderSettings) -> None:
    """Run a leader until SIGTERM or SIGINT. Raises Exit when it can't lead or must stop."""
    stop = _stop_on_signals()
    # 1. the port, before anybody is deposed for nothing
    service = await _bind(settings)
    # Kafka may have to be waited for
    opened = await asyncio.to_thread(open_journal, settings.journal, settings.kafka(), stop.is_set)
    with closing(opened) as journal:
        journal.prepare_writers(1)
        # 2. the state: the newest snapshot, and the rest of the journal
        store = open_snapshots(settings.snapshots_url()) if settings.snapshot else None
        replica, _ = await asyncio.to_thread(recover, journal, store, stop.is_set)
        with closing(JournalFollower(journal, replica)) as follower:
            await asyncio.to_thread(_replay, journal, follower, stop.is_set)
            parameters = settings.parameters(replica.parameters)
            # 3. the epoch
            start = EpochStart(settings.node_id, service.address, parameters)
            term = await asyncio.to_thread(
                _become_leader, settings, journal, follower, start, stop.is_set
            )
        if replica.state is None:
            raise Fault("the journal has no first epoch")
        # 4. the stages
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pipeline = _pipeline(journal, replica, term)
        engine = Engine(
            pipeline,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            append_timeout_s=settings.append_timeout_s,
            on_stopped=ended.set_result,
        )
        term.deliveries.pass_on(engine.delivered)
        # 5. service
        service.ingress.engine = engine
        try:
            await _serve(service, settings, replica, pipeline)
            await _until_end(stop, ended)
            # 6. the end: answer what was taken, then say that nobody need wait
            await _stop(service, engine, ended, settings.drain_timeout_s)
        finally:
            engine.close()
            term.writer.close()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _bind(settings: LeaderSettings) -> Service:
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_streams + _OTHER_CALLS_MAX,
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_concurrent_streams", settings.max_streams + _OTHER_CALLS_MAX),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
        ),
    )
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError:
        port = 0
    if not port:
        raise Fault(f"cannot listen on {settings.listen}: is the port in use?")
    host = settings.listen.rpartition(":")[0]
    address = settings.advertise or f"{host}:{port}"
    return Service(
        server,
        ingress.Ingress(max_in_flight=settings.max_in_flight, max_streams=settings.max_streams),
        health.aio.HealthServicer(),
        address,
    )


def _replay(journal: Journal, follower: JournalFollower, stopping: Callable[[], bool]) -> None:
    end_offset = journal.end_offset()
    position = follower.replica.position
    progress = ReplayProgress(position.next_offset, end_offset, position.next_sequence)

    def told(replica: Replica) -> None:
        progress.update(replica.position.next_offset, replica.position.next_sequence)
        check_stop(stopping)

    try:
        follower.catch_up(end_offset, told)
    finally:
        progress.close()


def _become_leader(
    settings: LeaderSettings,
    journal: Journal,
    follower: JournalFollower,
    start: EpochStart,
    stopping: Callable[[], bool],
) -> Term:
    if not settings.takeover:
        jitter = 1 + secrets.randbelow(500) / 1_000
        await_silence(journal, follower, settings.election_timeout_s * jitter, stopping)
    return take_epoch(
        journal,
        follower,
        start,
        new_leader_id=_new_leader_id,
        clock_ns=time.time_ns,
        deadline_s=settings.takeover_deadline_s if settings.takeover else None,
        stopping=stopping,
    )


def _new_leader_id() -> bytes:
    while (leader_id := secrets.token_bytes(16)) == NO_LEADER:
        pass
    return leader_id


def _pipeline(journal: Journal, replica: Replica, term: Term) -> Pipeline:
    def read_journal(first_offset: int, last_offset: int) -> Iterable[JournalRecord]:
        deadline = time.monotonic() + READ_BACK_TIMEOUT_S
        with closing(journal.reader(first_offset)) as reader:
            while time.monotonic() < deadline:
                for record in reader.read(READ_BACK_TIMEOUT_S):
                    yield record
                    if record.offset >= last_offset:
                        return

    if replica.state is None:
        raise Fault("the journal has no first epoch")
    return Pipeline(
        replica.state,
        term.writer,
        replica.position,
        clock_ns=LeaderClock(replica.position.timestamp_ns),
        read_journal=read_journal,
    )


async def _serve(
    service: Service, settings: LeaderSettings, replica: Replica, pipeline: Pipeline
) -> None:
    state: StateMachine = replica.state  # type: ignore[assignment]
    service.ingress.leader = service.address
    status = queries.NodeStatus(
        ledger_pb2.ROLE_LEADER,
        settings.node_id,
        service.address,
        service.address,
        replica.ledger_id,
        lambda: pipeline.counted,
    )
    server = service.server
    server.add_generic_rpc_handlers(
        (
            bank.BankCommandService(service.ingress).handlers(),
            bank.BankQueryService(state).handlers(),
            ingress.CommandService(service.ingress).handlers(),
            queries.QueryService(state, status.position).handlers(),
            queries.ClusterService(state, status).handlers(),
        )
    )
    for name in ("", *_SERVICES[:-2]):
        await service.health.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    reflection.enable_server_reflection(_SERVICES, server)
    await server.start()
    # what start-up made stays: the collector need not look at it again and again
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    print(
        f"ready leader address={service.address} epoch={pipeline.counted.epoch} "
        f"applied={state.applied}",
        flush=True,
    )


async def _until_end(stop: asyncio.Event, ended: asyncio.Future[str]) -> None:
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _stop(
    service: Service, engine: Engine, ended: asyncio.Future[str], drain_timeout_s: float
) -> None:
    await service.health.enter_graceful_shutdown()
    drained = await engine.drain(drain_timeout_s) if not ended.done() else False
    service.ingress.engine = None
    service.ingress.leader = ""
    service.ingress.end_streams(ended.result() if ended.done() else "clean stop")
    await service.server.stop(_CLOSE_STREAMS_TIMEOUT_S)
    if engine.deposed:
        raise NotLeading(f"no longer the leader: {ended.result()}")
    if not drained:
        raise Fault(f"stopped leading: {ended.result()}")
    structlog.get_logger().info("stopped")


def run(settings: LeaderSettings) -> None:
    """Run `lead` on its event loop. Raises Exit."""
    keep_freed_memory()
    uvloop.run(lead(settings))
