"""A query worker: answers a follower's queries from its shared memory, in a process of its own.

`python -m cluster_app.query_worker`, started by the follower only. One line of JSON on standard
input says what to serve; when that input ends, the follower has ended, and so does the worker.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import Any, Final

import msgspec
import uvloop
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from cluster_app import bank, ingress, queries
from cluster_app.cluster_service import CLUSTER_SERVICE, ClusterService, NodeIdentity
from cluster_app.consistency import FollowerReads
from cluster_app.edges import bind_edge
from cluster_app.errors import Exit
from cluster_app.logs import configure_logs
from cluster_app.settings import FollowerSettings
from cluster_app.state_view import Progress, StateView
from cluster_app.watching import Watches
from cluster_core.batch import LedgerParameters
from cluster_core.books import Books
from cluster_core.reading import BooksReader
from cluster_core.shared_blob import SharedBlob
from cluster_core.shared_books import ReaderWords, open_shared_books
from proto import ledger_pb2

_CLOSE_STREAMS_TIMEOUT_S: Final = 2.0
_LEADER_INTERVAL_S: Final = 0.05
_GC_THRESHOLD: Final = 50_000
_SERVED: Final = (bank.QUERY_SERVICE, queries.QUERY_SERVICE, CLUSTER_SERVICE)
_REFUSED: Final = (bank.COMMAND_SERVICE, ingress.COMMAND_SERVICE)


class WorkerTask(msgspec.Struct):
    """What a worker is told. `..._fd` are descriptors that it inherits; `reader` is its number."""

    settings: dict[str, Any]
    listen: str
    address: str
    reader: int
    books_fd: int
    words_fd: int
    progress_fd: int
    parameters: LedgerParameters
    hash_seed: int
    ledger_id: bytes


def main() -> int:
    """Serve until standard input or SIGTERM ends it; returns the exit code."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerTask)
    settings = FollowerSettings(**task.settings)
    configure_logs(settings.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the follower, which ends us
    try:
        uvloop.run(_serve(task, settings))
    except Exit as end:
        print(f"ringledger query worker: {end}", file=sys.stderr, flush=True)
        return end.exit_code
    return 0


def shared_view(task: WorkerTask, books: Books) -> StateView:
    """The follower's state, as this process sees it."""
    words, blob = ReaderWords(task.words_fd), SharedBlob(task.progress_fd)
    decoder = msgspec.msgpack.Decoder(Progress)
    reader = task.reader
    return StateView(
        BooksReader(books),
        lambda: decoder.decode(blob.read()),
        set_watchers=lambda watchers: words.watch(reader, watchers),
        want_pause=lambda wanted: words.want_pause(reader, wanted),
    )


async def _serve(task: WorkerTask, settings: FollowerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_await_end_of_input, args=(loop, stop), daemon=True).start()
    # 1. the state
    books = open_shared_books(task.books_fd, task.parameters, task.hash_seed)
    view = shared_view(task, books)
    # 2. the services
    edge = bind_edge(settings, task.listen, shared_port=True, tells=task.reader == 0)
    edge.answer_queries(view, books)
    commands = edge.ingress
    reads = FollowerReads(
        lambda: view.reader.applied,
        lambda: view.progress().leader,
        lambda: view.progress().lag.seconds,
    )
    watches = Watches(view, task.parameters.account_capacity)
    identity = NodeIdentity(
        ledger_pb2.ROLE_FOLLOWER, settings.node_id, task.address, task.ledger_id
    )
    servicer = health.aio.HealthServicer()
    edge.add(
        (
            bank.BankQueryService(view).handlers(),
            bank.BankCommandService(commands).handlers(),
            ingress.CommandService(commands).handlers(),
            queries.QueryService(view, reads, watches).handlers(),
            ClusterService(view, lambda: identity).handlers(),
        ),
        servicer,
        (*_SERVED, *_REFUSED, health.SERVICE_NAME, reflection.SERVICE_NAME),
    )
    for name in ("", *_SERVED):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    for name in _REFUSED:
        await servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    # 3. service
    await edge.server.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    print("ready", flush=True)
    while not stop.is_set():
        commands.follow(view.progress().leader)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LEADER_INTERVAL_S)
    # 4. the end
    await servicer.enter_graceful_shutdown()
    await edge.server.stop(_CLOSE_STREAMS_TIMEOUT_S)


def _await_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # not through sys.stdin, whose lock the end of the interpreter would wait for
    while os.read(sys.stdin.fileno(), 4_096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    sys.exit(main())
