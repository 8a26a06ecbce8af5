"""What the roles' code reaches for by module, replaced while a scenario runs.

`time`, `threading`, `queue`, `secrets`, `random`, `os.urandom` and thread pools: each stand-in
speaks to the world in which the calling code runs now. Everything else of the roles is real.
"""

import importlib
import math
import queue
import random
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Self

from tests.simulation.world import NS_PER_S, START_WALL_NS, Process, Thread, World

_PACKAGES: Final = ("cluster_app", "client_core")
_world: World | None = None


def world() -> World:
    """The world that runs now."""
    if _world is None:
        raise AssertionError("no scenario runs")
    return _world


def process() -> Process:
    """The process whose code runs now."""
    current = world().current
    if current is None:
        raise AssertionError("no process runs")
    return current


class SimEvent:
    """threading.Event."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            thread.unpark()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            _wait(self._waiting, timeout)
        return self._set


class SimThread:
    """threading.Thread, as far as the roles use it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] = lambda: None,
        name: str = "",
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool = False,
    ) -> None:
        self._run = lambda: target(*args, **(kwargs or {}))
        self._thread: Thread | None = None

    def start(self) -> None:
        self._thread = process().spawn(self._run)

    def is_alive(self) -> bool:
        return self._thread is not None and not self._thread.greenlet.dead

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None and self.is_alive() and (timeout is None or timeout > 0):
            _wait(self._thread.joiners, timeout)


class SimLock:
    """threading.Lock and RLock: threads here change only where they wait."""

    def __init__(self) -> None:
        self._held = 0
        self._owner: Thread | None = None
        self._waiting: list[Thread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._held and self._owner is not world().thread:
            if not blocking:
                return False
            _wait(self._waiting, None)
        self._owner = world().thread
        self._held += 1
        return True

    def release(self) -> None:
        self._held -= 1
        if not self._held and self._waiting:
            self._waiting.pop(0).unpark()

    def locked(self) -> bool:
        return self._held > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimQueue:
    """queue.SimpleQueue and Queue."""

    def __init__(self, maxsize: int = 0) -> None:
        self._items: deque[Any] = deque()
        self._waiting: list[Thread] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting:
            self._waiting.pop(0).unpark()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._items and block:
            _wait(self._waiting, timeout)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class SimPool:
    """concurrent.futures.ThreadPoolExecutor with one worker: jobs run one after another."""

    def __init__(self, max_workers: int = 1, thread_name_prefix: str = "") -> None:
        self._jobs: deque[tuple[SimJob, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._worker: Thread | None = None
        self._idle = False
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> "SimJob":
        job = SimJob()
        self._jobs.append((job, fn, args))
        if self._worker is None:
            self._worker = process().spawn(self._work)
        elif self._idle:
            self._worker.unpark()
        return job

    def _work(self) -> None:
        while self._jobs or not self._closed:
            if self._jobs:
                job, fn, args = self._jobs.popleft()
                job.run(fn, args)
            else:
                self._idle = True
                world().park(None)
                self._idle = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True
        if cancel_futures:
            self._jobs.clear()
        if self._worker is not None and not self._worker.greenlet.dead:
            if self._idle:
                self._worker.unpark()
            if wait:
                _wait(self._worker.joiners, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


class SimJob:
    """concurrent.futures.Future."""

    def __init__(self) -> None:
        self._done = SimEvent()
        self._result: Any = None
        self._error: Exception | None = None

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Run the job on the worker's thread."""
        try:
            self._result = fn(*args)
        except Exception as error:  # noqa: BLE001 - it is for whoever asks for the result
            self._error = error
        self._done.set()

    def done(self) -> bool:
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> Any:
        if not self._done.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result


def _wait(waiting: list[Thread], timeout_s: float | None) -> bool:
    """Park the running thread on a list; False when its time was up."""
    here = world()
    thread = here.thread
    if thread is None:
        return here.park(0)  # raises
    waiting.append(thread)
    woken = here.park(None if timeout_s is None else math.ceil(timeout_s * NS_PER_S))
    if not woken:
        waiting.remove(thread)
    return woken


def sleep(seconds: float) -> None:
    """time.sleep."""
    world().park(math.ceil(seconds * NS_PER_S))


def wall_ns() -> int:
    """time.time_ns: the process's own wall clock."""
    current = world().current
    return START_WALL_NS + world().now_ns if current is None else current.wall_ns()


def monotonic_ns() -> int:
    """time.monotonic_ns."""
    return world().now_ns


def monotonic() -> float:
    """time.monotonic."""
    return world().now_ns / NS_PER_S


def random_bytes(count: int) -> bytes:
    """os.urandom and secrets.token_bytes."""
    return world().random.randbytes(count)


def random_bits(count: int) -> int:
    """secrets.randbits."""
    return world().random.getrandbits(count)


def random_below(end: int) -> int:
    """secrets.randbelow."""
    return world().random.randrange(end)


def random_part() -> float:
    """random.random."""
    return world().random.random()


_TIME: Final = SimpleNamespace(
    time=lambda: wall_ns() / NS_PER_S,
    time_ns=wall_ns,
    monotonic=monotonic,
    monotonic_ns=monotonic_ns,
    perf_counter=monotonic,
    perf_counter_ns=monotonic_ns,
    sleep=sleep,
)
_THREADING: Final = SimpleNamespace(
    Event=SimEvent,
    Thread=SimThread,
    Lock=SimLock,
    RLock=SimLock,
    current_thread=lambda: world().thread,
)
_SECRETS: Final = SimpleNamespace(
    token_bytes=random_bytes, randbits=random_bits, randbelow=random_below
)
_RANDOM: Final = SimpleNamespace(random=random_part)
_STAND_INS: Final[dict[int, Any]] = {
    id(time): _TIME,
    id(threading): _THREADING,
    id(queue): SimpleNamespace(SimpleQueue=SimQueue, Queue=SimQueue, Empty=queue.Empty),
    id(secrets): _SECRETS,
    id(random): _RANDOM,
    id(ThreadPoolExecutor): SimPool,
    id(time.time_ns): wall_ns,
    id(time.monotonic_ns): monotonic_ns,
    id(time.monotonic): monotonic,
    id(time.sleep): sleep,
    id(random.random): random_part,
}
_Patch = tuple[Any, str, Any]


class Patches:
    """Attributes to be replaced, and put back."""

    def __init__(self, wanted: tuple[_Patch, ...] = ()) -> None:
        self.wanted: list[_Patch] = [*wanted]

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute, or add one that is not there."""
        self.wanted.append((owner, name, value))

    def put_default(self, function: Any, name: str, value: Any) -> None:
        """Replace the default of a keyword-only argument."""
        keywords = function.__kwdefaults__
        self.put(_Keyword(keywords, name, keywords[name]), "now", value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs."""
        before = [(owner, name, vars(owner).get(name, self)) for owner, name, _ in self.wanted]
        for owner, name, value in self.wanted:
            setattr(owner, name, value)
        try:
            yield
        finally:
            for owner, name, value in reversed(before):
                if value is self:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)


def stand_ins(modules: tuple[str, ...]) -> Patches:
    """What has to be replaced in these modules and all others that are loaded of the packages."""
    return Patches(_found_in(modules))


@cache
def _found_in(modules: tuple[str, ...]) -> tuple[_Patch, ...]:
    for name in modules:
        importlib.import_module(name)
    patches = Patches()
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES and isinstance(module, ModuleType):
            _look_through(module, patches)
    return tuple(patches.wanted)


def _look_through(module: ModuleType, patches: Patches) -> None:
    for name, value in list(vars(module).items()):
        if id(value) in _STAND_INS:
            patches.put(module, name, _STAND_INS[id(value)])
        elif getattr(value, "__module__", None) == module.__name__:
            functions = [value] if callable(value) and not isinstance(value, type) else []
            if isinstance(value, type):
                functions = [found for found in vars(value).values() if callable(found)]
            for function in functions:
                _replace_defaults(function, patches)


def _replace_defaults(function: Any, patches: Patches) -> None:
    defaults = getattr(function, "__defaults__", None) or ()
    if any(id(value) in _STAND_INS for value in defaults):
        replaced = tuple(_STAND_INS.get(id(value), value) for value in defaults)
        function_patches = _Defaults(function, defaults, replaced)
        patches.put(function_patches, "now", replaced)
    keywords = getattr(function, "__kwdefaults__", None) or {}
    for name, value in keywords.items():
        if id(value) in _STAND_INS:
            patches.put(_Keyword(keywords, name, value), "now", _STAND_INS[id(value)])


class _Defaults:
    """A function's defaults as an attribute `now`."""

    def __init__(self, function: Any, before: Any, _: Any) -> None:
        self.__dict__["function"] = function
        self.__dict__["now"] = before

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["now"] = value
        self.__dict__["function"].__defaults__ = value


class _Keyword:
    """A function's keyword default likewise."""

    def __init__(self, keywords: dict[str, Any], key: str, before: Any) -> None:
        self.__dict__["keywords"] = keywords
        self.__dict__["key"] = key
        self.__dict__["now"] = before

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["now"] = value
        self.__dict__["keywords"][self.__dict__["key"]] = value


@contextmanager
def running(here: World) -> Iterator[None]:
    """Let the stand-ins speak to this world while the block runs."""
    global _world  # noqa: PLW0603 - the roles' modules find their world by nothing else
    _world = here
    try:
        yield
    finally:
        here.end()
        _world = None
