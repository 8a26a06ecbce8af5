"""The engine: the pipeline on an event loop.

One thread owns ring, state and replies: the loop's. Whatever streams submit in one turn of the
loop is journaled together at the end of that turn; the journal's thread only wakes the loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from cluster_core.journal import Delivery
from cluster_core.pipeline import Fate, Pipeline, Route


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
        self._room: deque[asyncio.Future[None]] = deque()
        self._turn_scheduled = False
        self._batches_seen = 0
        self._reported = self._loop.time()
        self._accepting = True
        self._told = False
        self._timer = self._loop.call_later(heartbeat_interval_s, self._tick)

    async def submit(self, packed: bytes | memoryview, route: Route, token: Any = None) -> None:
        """Take one well-formed message; waits while the ring is full, so that nobody reads on.

        After a stop the route is told at once that nothing was run.
        """
        while self._accepting and not self._pipeline.submit(packed, route, token):
            room = self._loop.create_future()
            self._room.append(room)
            await room
        if not self._accepting:
            route.failed(token, Fate.NOT_RUN, self._pipeline.stopped_because or "stopping")
        elif not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._turn_scheduled = False
        with self._stopping_on_fault():
            self._pipeline.journal_waiting()

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
            self._pipeline.journal_waiting()
        self._wake_waiting()

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
            self._pipeline.stop(f"fault in the engine: {fault!r}")
        if self._pipeline.stopped_because and not self._told:
            self._told = True
            self._stop_accepting()
            self._on_stopped(self._pipeline.stopped_because)

    def _stop_accepting(self) -> None:
        self._accepting = False
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        while self._room:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)

    async def drain(self, timeout_s: float) -> bool:
        """Take no more, answer what was taken, append EPOCH_END. False past `timeout_s`."""
        self._stop_accepting()
        deadline = self._loop.time() + timeout_s
        self._timer.cancel()
        if await self._until(lambda: self._pipeline.idle, deadline):
            with self._stopping_on_fault():
                self._pipeline.end_epoch()
            if await self._until(lambda: self._pipeline.idle, deadline):
                return True
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
    def accepting(self) -> bool:
        """False once the leadership has ended or is being drained."""
        return self._accepting

    def close(self) -> None:
        """Stop the heartbeat. Idempotent."""
        self._timer.cancel()
