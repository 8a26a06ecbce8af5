"""The engine: the pipeline on an event loop.

One thread owns ring, state and replies: the loop's. Whatever streams submit in one turn of the
loop is journaled together, at the end of that turn at the latest; the journal's thread only wakes
the loop.

Messages come in by `submit`, one by one, or wait in a `Source` until the engine takes them: when
the journal has reported, or when so many wait that another batch may be worth it. Who finds no
room in the ring stands in one line, the source with one message at a time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from cluster_app.read_waits import ReadWaits, Waited
from cluster_core.journal import Delivery
from cluster_core.pipeline import Fate, Pipeline, Route


class Source(Protocol):
    """Messages that wait elsewhere. It calls `Engine.look` when there are enough of them."""

    def take(self, enough: int) -> tuple[bytes, Any] | None:
        """The oldest message and its token, handed over.

        None if there is none: then `look` is to be called as soon as `enough` commands wait. After
        a message it need not be: the engine looks again.
        """

    @property
    def route(self) -> Route:
        """Where the replies of all of them go."""


@dataclass(slots=True)
class _Waiting:
    """A message that waits for room: a caller's, or the source's oldest."""

    packed: bytes | memoryview
    route: Route
    token: Any
    room: asyncio.Future[None] | None = None
    """The caller's; None for the source."""

    @property
    def gave_up(self) -> bool:
        return self.room is not None and self.room.done()


class Engine:
    """What every edge submits to. Create it inside the running loop that will own it."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        heartbeat_interval_s: float,
        append_timeout_s: float,
        on_stopped: Callable[[str], None],
    ) -> None:
        self._pipeline = pipeline
        self._loop = asyncio.get_running_loop()
        self._heartbeat_interval_s = heartbeat_interval_s
        self._append_timeout_s = append_timeout_s
        self._on_stopped = on_stopped
        self._deliveries: deque[Delivery] = deque()
        self._line: deque[_Waiting] = deque()
        """Messages that found no room in the ring, in the order of their coming."""
        self._source: Source | None = None
        self._source_waits = False
        self._barriers = ReadWaits()
        self._sequences = ReadWaits()
        self._turn_scheduled = False
        self._batches_seen = 0
        self._reported = self._loop.time()
        self._accepting = True
        self._told = False
        self.is_doubtful = False
        """True after a fault of the core: nothing may be answered from its state any more."""
        self._timer = self._loop.call_later(heartbeat_interval_s, self._tick)

    async def submit(self, packed: bytes | memoryview, route: Route, token: Any = None) -> None:
        """Take one well-formed message; waits while the ring is full, so that nobody reads on.

        After a stop the route is told at once that nothing was run.
        """
        if not self._accepting:
            route.failed(token, Fate.NOT_RUN, self._not_accepting_because)
        elif not self._line and self._pipeline.submit(packed, route, token):
            self._schedule_end_of_turn()
        else:
            room = self._loop.create_future()
            self._line.append(_Waiting(packed, route, token, room))
            await room

    def take_from(self, source: Source) -> None:
        """Take what waits there, from now on, until the end of the term."""
        self._source = source
        self.look()

    def look(self) -> None:
        """Take what waits for the ring, as far as there is room, and journal what is in it.

        After a stop all that waits is told that nothing was run.
        """
        if not self._accepting:
            self._refuse_waiting()
        with self._stopping_on_fault():
            while self._admit():
                if self._pipeline.has_full_batch:
                    self._pipeline.journal_waiting()
            self._pipeline.journal_waiting()

    def _admit(self) -> bool:
        """Move the first in line into the ring. False if none can go."""
        if not self._accepting or self._pipeline.stopped_because:
            return False
        if self._deliveries:  # they make room, and lead to the next look
            return False
        self._line_up()
        if not self._line:
            return False
        first = self._line[0]
        if first.gave_up:
            self._line.popleft()
            return True
        if not self._pipeline.submit(first.packed, first.route, first.token):
            return False
        self._line.popleft()
        self._leave(first)
        return True

    def _line_up(self) -> None:
        """The source has one place in the line, whatever waits there."""
        if self._source is not None and not self._source_waits:
            taken = self._source.take(self._pipeline.enough)
            if taken is not None:
                self._line.append(_Waiting(taken[0], self._source.route, taken[1]))
                self._source_waits = True

    def _leave(self, message: _Waiting) -> None:
        if message.room is None:
            self._source_waits = False
        else:
            message.room.set_result(None)

    def _refuse_waiting(self) -> None:
        """All of it, to the last in the source: nothing that comes after a lost message is run."""
        reason = self._not_accepting_because
        while self._line:
            message = self._line.popleft()
            if not message.gave_up:
                message.route.failed(message.token, Fate.NOT_RUN, reason)
                self._leave(message)
        while self._source is not None and (taken := self._source.take(1)) is not None:
            self._source.route.failed(taken[1], Fate.NOT_RUN, reason)

    @property
    def _not_accepting_because(self) -> str:
        return self._pipeline.stopped_because or "stopping"

    async def read_barrier(self, timeout_s: float) -> Waited:
        """Wait until the state is not older than this call, on any node: for linearizable reads.

        The next batch that is sealed must count: one that carries commands, or a HEARTBEAT. All
        who wait share it.
        """
        if not self._accepting:
            return Waited.TERM_ENDED
        if self._barriers.full:
            return Waited.TOO_MANY
        self._schedule_end_of_turn()
        return await self._barriers.wait(self._pipeline.barrier(), timeout_s)

    async def applied_beyond(self, sequence: int, timeout_s: float) -> Waited:
        """Wait until the command of this sequence is applied."""
        if self._pipeline.applied > sequence:
            return Waited.DONE
        if not self._accepting:
            return Waited.TERM_ENDED
        if self._sequences.full:
            return Waited.TOO_MANY
        return await self._sequences.wait(sequence + 1, timeout_s)

    def _schedule_end_of_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._turn_scheduled = False
        self.look()

    def delivered(self, delivery: Delivery) -> None:
        """Take a report of the journal, on the journal's thread."""
        self._deliveries.append(delivery)
        if len(self._deliveries) == 1:
            self._loop.call_soon_threadsafe(self._take_deliveries)

    def _take_deliveries(self) -> None:
        with self._stopping_on_fault():
            deliveries = self._deliveries
            while deliveries:
                self._pipeline.delivered(deliveries[0])
                deliveries.popleft()
                self._reported = self._loop.time()
            if self._accepting:
                self._pipeline.expire_holds()
        if self._barriers:
            self._barriers.reached(self._pipeline.batches_counted)
        if self._sequences:
            self._sequences.reached(self._pipeline.applied)
        self.look()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._heartbeat_interval_s, self._tick)
        pipeline = self._pipeline
        with self._stopping_on_fault():
            if pipeline.idle:
                self._reported = self._loop.time()
            elif self._loop.time() - self._reported > self._append_timeout_s:
                pipeline.stop(f"the journal reported nothing for {self._append_timeout_s:.0f} s")
            pipeline.expire_holds()
            pipeline.journal_waiting()
            if pipeline.batches == self._batches_seen:
                pipeline.heartbeat()
            self._batches_seen = pipeline.batches

    @contextmanager
    def _stopping_on_fault(self) -> Iterator[None]:
        """A fault of the core ends the leadership: nothing is answered from a doubtful state."""
        try:
            yield
        except Exception as fault:  # noqa: BLE001 - any fault must end the leadership
            structlog.get_logger().exception("engine_fault")
            self.is_doubtful = True
            self._pipeline.stop(f"fault in the engine: {fault!r}")
        if self._pipeline.stopped_because and not self._told:
            self._told = True
            self._accepting = False
            self._end_reads()
            self._on_stopped(self._pipeline.stopped_because)
            self._refuse_waiting()

    def _end_reads(self) -> None:
        self._barriers.end()
        self._sequences.end()

    async def drain(self, timeout_s: float, *, or_go_on: bool = False) -> bool:
        """Take no more, answer what was taken, append EPOCH_END. False past `timeout_s`.

        Then the term is over; with `or_go_on` it goes on if EPOCH_END was not appended yet, and
        `accepting` tells.
        """
        self._take_deliveries()  # and most of what waits: it came in time
        self._accepting = False
        self._refuse_waiting()
        deadline = self._loop.time() + timeout_s
        self._timer.cancel()
        if await self._until(lambda: self._pipeline.idle, deadline):
            with self._stopping_on_fault():
                self._pipeline.end_epoch()
            if await self._until(lambda: self._pipeline.idle, deadline):
                self._end_reads()
                return True
        elif or_go_on and not self._pipeline.stopped_because:
            self._accepting = True
            self._tick()
            return False
        with self._stopping_on_fault():
            self._pipeline.stop(f"the journal did not take what was in flight in {timeout_s:g} s")
        return False

    async def _until(self, done: Callable[[], bool], deadline: float) -> bool:
        while not done():
            if self._loop.time() > deadline:
                structlog.get_logger().error("drain_timed_out")
                return False
            await asyncio.sleep(0.001)
        return not self._pipeline.stopped_because

    @property
    def deposed(self) -> bool:
        """True when the leadership ended because somebody else leads."""
        return self._pipeline.deposed

    @property
    def applied(self) -> int:
        """All commands below this sequence are in the state."""
        return self._pipeline.applied

    @property
    def accepting(self) -> bool:
        """False once the leadership has ended or is being drained."""
        return self._accepting

    def close(self) -> None:
        """Stop the heartbeat, and leave the source to the next term. Idempotent."""
        self._timer.cancel()
        self._source = None
