"""Reads of a history for an event loop: a few threads, each with a connection of its own.

A read that waits for a thread is bounded in number, one that runs in time.
"""

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import grpc
import structlog

from cluster_app.history_queries import read_extent
from cluster_app.history_store import Execute, HistoryReader, HistoryRefused, HistoryStore
from cluster_app.history_tables import Extent
from cluster_app.read_waits import READS_WAITING_MAX
from cluster_app.rpc import Context, Refusal
from cluster_core.errors import StoreUnavailable

READERS: Final = 8
READ_TIMEOUT_S: Final = 10.0
"""After so long a database ends a read."""

Answer = TypeVar("Answer")


class HistoryReaders:
    """`READERS` connections to a store, opened when they are first wanted."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._idle: queue.SimpleQueue[HistoryReader] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(READERS, "history-reader")
        self._running = 0

    async def read(
        self, question: Callable[[Execute, Extent], Answer], context: Context
    ) -> tuple[Answer, Extent]:
        """What a question gives, and how far the history went then; else ends the call."""
        refusal: Refusal
        if self._running >= READS_WAITING_MAX:
            await Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{READS_WAITING_MAX} reads wait here already, which is the limit: try again later",
                "READS_WAITING_LIMIT",
                {"limit": str(READS_WAITING_MAX)},
            ).abort(context)
        self._running += 1
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._read, question
            )
            if answer is not None:
                return answer
            refusal = unavailable("this history has no entries yet: ask again later")
        except StoreUnavailable as error:
            structlog.get_logger().warning("history can't be read", error=str(error))
            refusal = unavailable("the history's database does not answer now: ask again later")
        except HistoryRefused as error:
            refusal = unavailable(str(error))
        finally:
            self._running -= 1
        await refusal.abort(context)
        raise AssertionError("abort raises")

    def close(self) -> None:
        """End the threads and connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def _read(self, question: Callable[[Execute, Extent], Any]) -> tuple[Any, Extent] | None:
        try:
            reader = self._idle.get_nowait()
        except queue.Empty:
            reader = self._store.reader(READ_TIMEOUT_S)

        def ask(execute: Execute) -> tuple[Any, Extent] | None:
            extent = read_extent(execute)
            return None if extent is None else (question(execute, extent), extent)

        try:
            return reader.read(ask)
        finally:
            self._idle.put(reader)


def unavailable(message: str) -> Refusal:
    """Nothing can be told now."""
    return Refusal(grpc.StatusCode.UNAVAILABLE, message, "HISTORY_UNAVAILABLE")
