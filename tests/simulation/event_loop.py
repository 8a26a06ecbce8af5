"""An asyncio event loop in virtual time: one for each simulated process.

It has no selector: what happens is what the world posts. Tasks and futures hash by a number of
the world, for asyncio keeps them in sets, whose order would else hang on addresses in memory.
"""

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tests.simulation.world import NS_PER_S, Process, World

UNWIND_TRIES: Final = 50


class SimTask(asyncio.Task[Any]):
    """A task with a hash that is the same in each run."""

    def __init__(self, coroutine: Any, *, serial: int, **options: Any) -> None:
        self.serial = serial
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.serial


class SimFuture(asyncio.Future[Any]):
    """A future likewise."""

    def __init__(self, *, serial: int, loop: asyncio.AbstractEventLoop) -> None:
        self.serial = serial
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.serial


_Loop: Any = asyncio.AbstractEventLoop
"""Untyped, for half of its methods are of no use here."""


class SimLoop(_Loop):  # type: ignore[misc]
    """The event loop of one process; `failures` are exceptions that nobody took."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world: World = process.world
        self.failures: list[dict[str, Any]] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._idle = False
        self._thread = process.spawn(self._run, self)
        process.unwind.append(self._unwind)

    def _run(self) -> None:
        ready = self._ready
        while True:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
            self._idle = True
            self.world.park(None)
            self._idle = False

    def _unwind(self) -> None:
        """End every coroutine that is left; whatever it awaits meanwhile never comes."""
        asyncio._set_running_loop(self)
        for task in asyncio.all_tasks(self):
            for _ in range(UNWIND_TRIES):
                try:
                    task.get_coro().close()
                    break
                except BaseException:  # noqa: BLE001 - RuntimeError where it awaited something anew
                    continue
        asyncio._set_running_loop(None)

    def _add(self, handle: asyncio.Handle) -> None:
        if self.world.over or not self.process.alive:
            return
        self._ready.append(handle)
        if self._idle:
            self._thread.unpark()

    # what asyncio calls

    def time(self) -> float:
        return self.world.now_ns / NS_PER_S

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._add(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if self.process.alive and not self.world.over:
            # later than now is never now, whatever a float makes of it
            least_ns = int(when > self.time())
            delay_ns = max(math.ceil(when * NS_PER_S) - self.world.now_ns, least_ns)
            self.world.post(delay_ns, lambda: self._time_up(timer), self.process)
        return timer

    def _time_up(self, timer: asyncio.TimerHandle) -> None:
        if not timer.cancelled():
            self._add(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The world drops it when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(serial=self.process.next_serial(), loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any] | Any, *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        if self.world.over:
            # nothing runs any more, and nobody shall be told that it was never awaited
            coro.close()
            coro = _never()
        serial = self.process.next_serial()
        task = SimTask(coro, serial=serial, loop=self, name=name, context=context)
        if self.world.over:
            coro.close()
        return task

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """A thread of its own; the executor is not asked."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                self.call_soon(_settle, future, None, error)
            else:
                self.call_soon(_settle, future, result, None)

        self.process.spawn(run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.process.alive and not self.world.over and context.get("exception") is not None:
            self.failures.append(context)

    default_exception_handler = call_exception_handler

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        def handle(*_: object) -> None:
            self.call_soon(callback, *args)

        self.process.signals[sig] = handle


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _never() -> None:
    await asyncio.Event().wait()
