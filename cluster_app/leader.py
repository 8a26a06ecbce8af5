"""The leader and its standby: one process that follows the journal until it may lead, leads until
somebody else does or it hands over, and follows again. Its turns read top to bottom in `Node`.
"""

import asyncio
import gc
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Final

import structlog
import uvloop

from cluster_app.election import (
    JournalFollower,
    Term,
    check_stop,
    follow_until_silence,
    open_follower,
    take_epoch,
)
from cluster_app.errors import ClockOff, Fault, JournalSilent, NotLeading, Stopped
from cluster_app.handover_call import Asked, HandOvers
from cluster_app.http_side import http_side
from cluster_app.journals import open_journal
from cluster_app.lag import Lag, LagWatch
from cluster_app.leadership import Leadership
from cluster_app.logs import ReplayProgress
from cluster_app.memory import keep_freed_memory
from cluster_app.metrics import NodeMetrics
from cluster_app.node_service import NodeService
from cluster_app.recovery import recover, recover_overtaken
from cluster_app.retry import patiently
from cluster_app.settings import LeaderSettings
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.batch import NO_LEADER, EpochStart
from cluster_core.candidacy import Silence
from cluster_core.errors import JournalError, OffsetTrimmed
from cluster_core.journal import Journal
from cluster_core.reader_rule import Position
from cluster_core.replay import Replica

_GC_THRESHOLD: Final = 50_000
_OBSERVE_INTERVAL_S: Final = 0.25
_COLLECT_AFTER_S: Final = 1.0
"""A term's streams have ended by then; what they leave holds its rings, some 14 MiB."""


async def lead(settings: LeaderSettings, metrics: NodeMetrics, http_address: str) -> None:
    """Lead or stand by until SIGTERM or SIGINT. Raises Exit when it can't, or must stop."""
    stop = _stop_on_signals()
    node = Node(settings, metrics, http_address, stop)
    # Kafka may have to be waited for
    metrics.health.not_ready("waiting for the journal")
    opened = await asyncio.to_thread(open_journal, settings.journal, settings.kafka(), stop.is_set)
    with closing(opened) as journal:
        try:
            await node.live(journal)
        except Stopped:
            if not node.stands_by:
                raise
        finally:
            await node.close()
    structlog.get_logger().info("stopped")


class Node:
    """A node in its turns. The port is bound here, before anybody is deposed for nothing."""

    def __init__(
        self,
        settings: LeaderSettings,
        metrics: NodeMetrics,
        http_address: str,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._http_address = http_address
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._hand_overs = HandOvers()
        self._service = NodeService(settings, settings.listen, self._hand_overs.serve)
        self._silence = Silence(
            lambda: settings.election_timeout_s * (1 + secrets.randbelow(500) / 1_000)
        )
        self._takes_over = settings.takeover
        self._follower: JournalFollower | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._announcing: asyncio.Task[None] | None = None
        self.stands_by = False
        """Whether it has stood by a living leader: it then outlives a journal that falls silent."""
        self._is_ready = False
        metrics.leads()

    async def live(self, journal: Journal) -> None:
        """Turn after turn, until a stop; from the newest snapshot when a trim overtakes it."""
        settings, self._journal = self._settings, journal
        store = open_snapshots(settings.snapshots_url()) if settings.snapshot else None
        # a producer takes half a second to be ready: a candidate must not wait for it
        journal.prepare_writers(1)
        before: tuple[Position, bytes] | None = None
        while True:
            # 1. the state: the newest snapshot, and the rest of the journal
            self._metrics.health.not_ready("replaying")
            self._follower = await asyncio.to_thread(
                _restore, journal, store, self._metrics, self._stop.is_set, before
            )
            before = await self._until_overtaken()
            if before is None:
                return

    async def _until_overtaken(self) -> tuple[Position, bytes] | None:
        """(position, ledger) where a trim overtook it; None after a clean stop."""
        # not handled where it is caught: the error's frames hold the old state
        try:
            await self._take_turns()
            return None
        except OffsetTrimmed:
            if self._follower is None:
                raise
            replica = self._follower.replica
        before = replica.position, replica.ledger_id
        self._metrics.health.not_ready("restoring a snapshot")
        self._metrics.show(None)
        # the old state goes before the new one comes: both may not fit into memory
        address = self._service.address
        await self._service.close()
        self._follower.close()
        self._follower = None
        del replica
        self._service = NodeService(
            self._settings,
            self._settings.listen if self._settings.advertise else address,
            self._hand_overs.serve,
        )
        gc.unfreeze()
        gc.collect()
        self._is_ready = False
        return before

    async def _take_turns(self) -> None:
        while self._follower is not None:
            replica = self._follower.replica
            self._settings.parameters(replica.parameters)
            # 2. standby
            if not self._takes_over:
                await self._stand_by(self._follower)
            # 3. candidate
            term = await self._stand(self._follower)
            self._takes_over = False
            if term is None:
                continue
            # 4. leader
            self._in_background(self._follower.close)
            if await self._lead(replica, term):
                return
            # not on the loop: clients ask this node who leads just now
            self._follower = await asyncio.to_thread(
                open_follower, self._journal, replica, self._stop.is_set
            )

    # standby

    async def _stand_by(self, follower: JournalFollower) -> None:
        """Follow, and serve queries, until this node may stand."""
        if follower.replica.state is not None and not self._service.is_started:
            await self._service.start(follower.replica)
        if not self.stands_by:
            self._metrics.health.not_ready("not leading yet")
            # what was written while this node replayed is no sign of life
            await asyncio.to_thread(
                patiently,
                partial(self._catch_up, follower),
                self._stop.is_set,
                self._metrics.health,
            )
        self._journal.prepare_writers(1)
        lag_watch = LagWatch(self._journal, lambda: follower.replica.position)
        self._service.lag = lambda: lag_watch.lag
        self._service.cannot_lead_because = lambda: follower.clock_doubt
        self._metrics.lag(self._service.lag)
        try:
            await asyncio.to_thread(
                follow_until_silence,
                follower,
                self._silence,
                stopping=self._stop.is_set,
                on_living=self._somebody_leads,
                on_look=self._looked,
            )
        finally:
            self._in_background(lag_watch.close)
            announcing, self._announcing = self._announcing, None
            if announcing is not None:
                await announcing

    def _catch_up(self, follower: JournalFollower) -> None:
        """Take all that is in the journal as of now; it blocks."""
        follower.catch_up(self._journal.end_offset(), lambda _: check_stop(self._stop.is_set))

    def _somebody_leads(self) -> None:
        """On the thread that follows."""
        if self.stands_by:
            return
        replica = self._follower.replica if self._follower else Replica()
        who = "another leader"
        if replica.leader is not None:
            who = f"{replica.leader.name} at {replica.leader.address}"
        if not self._settings.standby:
            raise NotLeading(
                f"{who} leads epoch {replica.position.epoch}; use --takeover to depose it"
            )
        self.stands_by = True
        structlog.get_logger().info("standing by", leader=who, epoch=replica.position.epoch)
        self._loop.call_soon_threadsafe(self._announce_standby, replica)

    def _looked(self) -> None:
        """On the thread that follows."""
        self._service.looked()
        self._metrics.observe()

    def _announce_standby(self, replica: Replica) -> None:
        self._announcing = asyncio.create_task(self._say_standby(replica))

    async def _say_standby(self, replica: Replica) -> None:
        # who lost the first race for an empty journal has had no state to serve until now
        if not self._service.is_started:
            await self._service.start(replica)
        position = replica.position
        self._collect_garbage_once()
        self._metrics.health.ready()
        print(
            f"ready standby address={self._service.address} epoch={position.epoch} "
            f"applied={position.next_sequence} http={self._http_address}",
            flush=True,
        )

    # candidate

    async def _stand(self, follower: JournalFollower) -> Term | None:
        """The won term; None when somebody else was faster, and this node stands by."""
        settings, log = self._settings, structlog.get_logger()
        parameters = settings.parameters(follower.replica.parameters)
        try:
            return await asyncio.to_thread(
                take_epoch,
                self._journal,
                follower,
                EpochStart(settings.node_id, self._service.address, parameters),
                new_leader_id=_new_leader_id,
                clock_ns=time.time_ns,
                deadline_s=settings.takeover_deadline_s if self._takes_over else None,
                stopping=self._stop.is_set,
            )
        except NotLeading as lost:
            if not settings.standby:
                raise
            log.info("not leading", reason=str(lost))
        except (JournalSilent, ClockOff) as hindered:
            if not self.stands_by and (self._takes_over or isinstance(hindered, ClockOff)):
                raise
            log.warning("can't lead now: standing by", reason=str(hindered))
            # also where nobody leads it must not try without a pause
            self._silence.gives_way(time.monotonic())
        return None

    # leader

    async def _lead(self, replica: Replica, term: Term) -> bool:
        """Lead to the term's end; True after a clean stop, False to stand by.

        Raises NotLeading when somebody else leads and this node is not to stand by, and Fault.
        """
        leadership = Leadership(self._settings, self._journal, replica, term)
        service, metrics = self._service, self._metrics
        try:
            if not service.is_started:
                await service.start(replica)
            await service.lead(leadership.engine, leadership.pipeline)
            metrics.lead(leadership.pipeline, lambda: self._service.open_streams)
            metrics.lag(Lag)
            observing = asyncio.create_task(_observe(metrics))
            self._say_leads(leadership)
            # 5. the end: answer what was taken, then say that nobody need wait
            asked, drained = await self._until_over(leadership)
            observing.cancel()
        finally:
            leadership.end()
            metrics.stand_by()
            self._in_background(leadership.close)
        reason = leadership.reason or ("handed over" if asked else "clean stop")
        await service.follow(reason, asked.standby if asked else "")
        self._hand_overs.ended(leadership, drained=drained)
        if drained and asked is None:
            return True
        if drained:
            self._silence.gives_way(time.monotonic())
        elif not await self._is_deposed(leadership, replica):
            raise Fault(f"stopped leading: {reason}")
        if not self._settings.standby:
            raise NotLeading(f"no longer the leader: {reason}")
        self.stands_by = True
        structlog.get_logger().warning("no longer the leader", reason=reason)
        self._announce_standby(replica)
        self._loop.call_later(_COLLECT_AFTER_S, gc.collect)
        return False

    async def _until_over(self, leadership: Leadership) -> tuple[Asked | None, bool]:
        """(the hand-over that ended the term, whether all was answered and the epoch ended)."""
        while True:
            asked = await self._hand_overs.until_asked(leadership, self._stop)
            if asked is None and not leadership.stopped.done():
                self._metrics.health.not_ready("stopping")
                await self._service.say_stopping()
            drained = await leadership.drain(or_go_on=asked is not None)
            if asked is None or drained or not leadership.goes_on:
                return asked, drained
            self._hand_overs.given_up(asked, leadership)

    async def _is_deposed(self, leadership: Leadership, replica: Replica) -> bool:
        """Whether somebody else has led since: what this node couldn't tell, the journal may."""
        if leadership.engine.deposed:
            return True
        if leadership.engine.is_doubtful:
            return False

        def read_on() -> None:
            with closing(JournalFollower(self._journal, replica)) as follower:
                self._catch_up(follower)

        with suppress(JournalError, Stopped):
            await asyncio.to_thread(read_on)
        return replica.position.epoch > leadership.epoch

    def _say_leads(self, leadership: Leadership) -> None:
        counted = leadership.pipeline.counted
        self._collect_garbage_once()
        self._metrics.health.ready()
        print(
            f"ready leader address={self._service.address} epoch={counted.epoch} "
            f"applied={counted.next_sequence} http={self._http_address}",
            flush=True,
        )

    def _collect_garbage_once(self) -> None:
        """What start-up made stays: the collector need not look at it again and again.

        Not at later turns: what is under way just then would stay for ever, too.
        """
        if self._is_ready:
            return
        self._is_ready = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)

    # the end

    def _in_background(self, close: Callable[[], None]) -> None:
        """Release what takes a moment while the node goes on."""
        task = asyncio.create_task(asyncio.to_thread(close))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """End the service, and wait for what is being released."""
        self._metrics.health.not_ready("stopping")
        await self._service.say_stopping()
        await self._service.close()
        if self._follower is not None:
            self._in_background(self._follower.close)
        if self._background:
            await asyncio.wait(self._background)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _restore(
    journal: Journal,
    store: SnapshotStore | None,
    metrics: NodeMetrics,
    stopping: Callable[[], bool],
    before: tuple[Position, bytes] | None = None,
) -> JournalFollower:
    """Snapshot and rest, up to the journal's end as of now; again when a trim overtakes it.

    A store or journal that can't be reached is waited for.
    `before`: where this node stood, and of which ledger, when a trim overtook it.
    """
    health = metrics.health
    while True:
        replica = patiently(partial(_recovered, journal, store, before, stopping), stopping, health)
        follower = patiently(partial(JournalFollower, journal, replica), stopping, health)
        metrics.show(replica)
        try:
            patiently(partial(_replay, journal, follower, metrics, stopping), stopping, health)
            return follower
        except OffsetTrimmed:
            follower.close()
            before = replica.position, replica.ledger_id
        except BaseException:
            follower.close()
            raise
        metrics.show(None)
        del follower, replica


def _recovered(
    journal: Journal,
    store: SnapshotStore | None,
    before: tuple[Position, bytes] | None,
    stopping: Callable[[], bool],
) -> Replica:
    if before is None:
        return recover(journal, store, stopping)[0]
    return recover_overtaken(journal, store, *before, stopping)[0]


async def _observe(metrics: NodeMetrics) -> None:
    while True:
        metrics.observe()
        await asyncio.sleep(_OBSERVE_INTERVAL_S)


def _replay(
    journal: Journal,
    follower: JournalFollower,
    metrics: NodeMetrics,
    stopping: Callable[[], bool],
) -> None:
    end_offset = journal.end_offset()
    position = follower.replica.position
    progress = ReplayProgress(position.next_offset, end_offset, position.next_sequence)

    def told(replica: Replica) -> None:
        metrics.note_window()
        progress.update(replica.position.next_offset, replica.position.next_sequence)
        check_stop(stopping)

    try:
        follower.catch_up(end_offset, told)
    finally:
        progress.close()


def _new_leader_id() -> bytes:
    while (leader_id := secrets.token_bytes(16)) == NO_LEADER:
        pass
    return leader_id


def run(settings: LeaderSettings) -> None:
    """Run `lead` on its event loop, and the HTTP side beside it. Raises Exit."""
    keep_freed_memory()
    metrics = NodeMetrics("leader", settings.node_id)
    with http_side(settings, metrics.registry, metrics.health) as http_address:
        uvloop.run(lead(settings, metrics, http_address))
