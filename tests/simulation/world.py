"""Simulated time, processes and threads: one seed, one run.

The world is a heap of events in virtual nanoseconds. A process is what one `python -m cluster_app`
is in reality: an event loop of its own, threads, a wall clock. Its threads are greenlets, so the
roles' blocking code runs as it is: where it waits, the world goes on with the next event.

A crash is `kill -9`: nothing of the process runs again, no `finally`, until the scenario is over.
A pause is SIGSTOP: what would have run is kept until the process continues.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

import greenlet

NS_PER_S: Final = 1_000_000_000
START_WALL_NS: Final = 1_700_000_000 * NS_PER_S
EVENTS_AT_ONCE_MAX: Final = 200_000
"""So many events at one instant are a loop that waits for nothing."""

Action = Callable[[], None]


class Stuck(AssertionError):
    """The simulated program does not come to an end."""


class World:
    """Virtual time from 0, the processes in it, and the trace of what happened."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_ns = 0
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.thread: Thread | None = None
        self.over = False
        self._events: list[tuple[int, int, Process | None, Action]] = []
        self._serial = 0
        self._at_once = 0
        self.hub = greenlet.getcurrent()
        self._trace = hashlib.blake2b(digest_size=16)
        self.lines: list[str] | None = None
        """The trace as text, where somebody wants to read it."""

    # events

    def post(self, delay_ns: int, action: Action, process: "Process | None" = None) -> None:
        """Do something later, in a process or nowhere."""
        self._serial += 1
        heappush(self._events, (self.now_ns + delay_ns, self._serial, process, action))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Go on until a condition holds. Raises Stuck past `limit_s` of virtual time."""
        limit_ns = self.now_ns + int(limit_s * NS_PER_S)
        while not until():
            if not self._events:
                raise Stuck("nothing happens any more")
            at_ns, _, process, action = heappop(self._events)
            if at_ns > limit_ns:
                raise Stuck(f"not done after {limit_s} s of virtual time")
            self._at_once = self._at_once + 1 if at_ns == self.now_ns else 0
            if self._at_once > EVENTS_AT_ONCE_MAX:
                raise Stuck(
                    f"time stands still at {self.now_ns / 1e9:.6f} s in "
                    f"{process.name if process else 'the world'}: {action}"
                )
            self.now_ns = at_ns
            if process is None:
                action()
            elif process.paused:
                process.deferred.append(action)
            elif process.alive:
                self.current = process
                action()
                self.current = None

    def die(self) -> None:
        """Kill the running process; its thread gets no further."""
        process, thread = self.current, self.thread
        if process is not None:
            process.kill()
            if thread is not None:
                self.hub.switch()
                raise greenlet.GreenletExit

    def between(self, low_ns: int, high_ns: int) -> int:
        """A random duration."""
        return self.random.randrange(low_ns, high_ns + 1)

    # threads

    def switch_to(self, thread: "Thread") -> None:
        """Run a thread until it waits; in the hub only."""
        self.thread = thread
        asyncio._set_running_loop(thread.loop)
        try:
            thread.greenlet.switch()
        finally:
            asyncio._set_running_loop(None)
            self.thread = None

    def park(self, timeout_ns: int | None) -> bool:
        """Wait in the running thread until `unpark`, True, or the timeout, False."""
        thread = self.thread
        if self.over:
            raise greenlet.GreenletExit
        if thread is None:
            raise AssertionError("nothing that waits may run outside a thread")
        thread.ticket += 1
        thread.parked = True
        if timeout_ns is not None:
            ticket = thread.ticket
            self.post(max(timeout_ns, 0), lambda: thread.time_out(ticket), thread.process)
        self.hub.switch()
        if self.over:
            raise greenlet.GreenletExit
        return thread.woken

    def end(self) -> None:
        """Unwind every thread; nothing that they do matters any more."""
        self.over = True
        self._events.clear()
        for process in self.processes:
            for thread in process.threads:
                if not thread.greenlet.dead:
                    thread.greenlet.throw(greenlet.GreenletExit)
            for unwind in process.unwind:
                unwind()
            process.threads.clear()
            process.deferred.clear()

    # the trace

    def note(self, what: str, data: bytes = b"") -> None:
        """Add to the trace; two runs of a seed have the same."""
        if self.over:
            return
        name = self.current.name if self.current else "-"
        line = f"{self.now_ns} {name} {what}"
        self._trace.update(line.encode())
        self._trace.update(data)
        if self.lines is not None:
            tail = hashlib.blake2b(data, digest_size=4).hexdigest() if data else ""
            self.lines.append(f"{self.now_ns / 1e9:12.6f} {name:10} {what} {tail}")
        process = self.current
        if process is not None and process.steps_left:
            process.steps_left -= 1
            if not process.steps_left:
                self.die()

    def trace_digest(self) -> str:
        """The digest of all notes so far."""
        return self._trace.hexdigest()


class Thread:
    """A greenlet of a process; `loop` is its running event loop, if it has one."""

    def __init__(self, process: "Process", run: Action, loop: Any = None) -> None:
        self.process = process
        self.loop = loop
        self.parked = False
        self.woken = False
        self.ticket = 0
        self.joiners: list[Thread] = []
        self.world = process.world
        self.greenlet = greenlet.greenlet(self._run, self.world.hub)
        self._target = run
        process.threads.append(self)

    def start(self) -> None:
        """Run it soon."""
        self.world.post(0, lambda: self.world.switch_to(self), self.process)

    def unpark(self) -> None:
        """Wake it, once, if it waits."""
        if self.parked and self.process.alive:
            self.parked = False
            self.woken = True
            self.ticket += 1
            self.world.post(0, lambda: self.world.switch_to(self), self.process)

    def time_out(self, ticket: int) -> None:
        """The end of a wait that nothing ended before."""
        if self.parked and ticket == self.ticket:
            self.parked = False
            self.woken = False
            self.world.switch_to(self)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            if not self.world.over:
                self.process.threads.remove(self)
                for joiner in self.joiners:
                    joiner.unpark()


class Process:
    """One simulated process. `wall_offset_ns` is how far its wall clock is off."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self.wall_offset_ns = 0
        self.clock_was_read = False
        self.steps_left = 0
        """Notes until it crashes; 0: it doesn't."""
        self.deferred: deque[Action] = deque()
        self.threads: list[Thread] = []
        self._serial = 0
        self.on_death: list[Action] = []
        self.unwind: list[Action] = []
        """What ends its coroutines when the scenario is over."""
        self.signals: dict[int, Callable[..., None]] = {}
        world.processes.append(self)

    def spawn(self, run: Action, loop: Any = None) -> Thread:
        """A new thread."""
        thread = Thread(self, run, loop)
        thread.start()
        return thread

    def next_serial(self) -> int:
        """A number that nothing else in this process has: a hash that is the same in each run."""
        self._serial += 1
        return self._serial

    def wall_ns(self) -> int:
        """Its wall clock."""
        self.clock_was_read = True
        return START_WALL_NS + self.world.now_ns + self.wall_offset_ns

    def kill(self) -> None:
        """End it at once."""
        if not self.alive:
            return
        self.world.note(f"killed {self.name}")
        self.alive = False
        self.paused = False
        for tell in self.on_death:
            tell()

    def pause(self) -> None:
        """SIGSTOP."""
        self.world.note(f"paused {self.name}")
        self.paused = True

    def go_on(self) -> None:
        """SIGCONT: what was kept happens now, in its order."""
        if self.paused:
            self.world.note(f"continued {self.name}")
            self.paused = False
            deferred, self.deferred = self.deferred, deque()
            for action in deferred:
                self.world.post(0, action, self)
