"""SyncClient: `Client` for programs without an event loop. Its own loop runs in a thread."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

import uvloop

from client_core.client import Client
from client_core.errors import StreamClosed
from client_core.leader_stream import ClientStats
from client_core.sync_history import SyncHistory

P = ParamSpec("P")
T = TypeVar("T")

_JOIN_TIMEOUT_S: Final = 10.0


def _waiting(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[SyncClient, P], T]":
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._client, *args, **kwargs))

    update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> "Callable[Concatenate[SyncClient, P], Iterator[T]]":
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        values = method(self._client, *args, **kwargs)
        try:
            while (value := self._wait(_next(values))) is not None:
                yield value[0]
        finally:
            self._wait(values.aclose())

    update_wrapper(call, method)
    return call


def _taking(
    made: Callable[P, Client],
) -> "Callable[Concatenate[SyncClient, P], None]":
    def init(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> None:
        self._client = made(*args, **kwargs)
        self._loop = None

    update_wrapper(init, Client.__init__)
    return init


async def _next(values: AsyncGenerator[T, None]) -> tuple[T] | None:
    async for value in values:
        return (value,)
    return None


class SyncClient:
    """Every method of `Client`, waiting for its answer: `with SyncClient("127.0.0.1:9500") as ...`.

    Takes what `Client` takes. Any number of threads may share one; their commands go together.
    """

    _client: Client
    _loop: asyncio.AbstractEventLoop | None
    _thread: threading.Thread

    __init__ = _taking(Client)

    def __repr__(self) -> str:
        return f"Sync{self._client!r}"

    def __enter__(self) -> Self:
        """Start the thread and reach a node. Raises as `Client` does."""
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ringledger-client", daemon=True
        )
        self._thread.start()
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer what was sent, disconnect, and end the thread. Idempotent."""
        if self._loop is None:
            return
        try:
            self._wait(self._client.close())
        finally:
            self._end_loop()

    @property
    def stats(self) -> ClientStats:
        """Counters: what was retried behind the callers' backs."""
        return self._client.stats

    @property
    def newest_sequence(self) -> int:
        """As `Client.newest_sequence`."""
        return self._client.newest_sequence

    @property
    def history(self) -> SyncHistory:
        """As `Client.history`, each question waiting for its answer."""
        return SyncHistory(self._client.history, self._wait)

    def new_id(self) -> bytes:
        """A command id for one command: a UUIDv7 drawn from ledger time."""

        async def drawn() -> bytes:
            return self._client.new_id()

        return self._wait(drawn())

    register_asset = _waiting(Client.register_asset)
    create_account = _waiting(Client.create_account)
    deposit = _waiting(Client.deposit)
    withdraw = _waiting(Client.withdraw)
    transfer = _waiting(Client.transfer)
    hold = _waiting(Client.hold)
    capture = _waiting(Client.capture)
    release = _waiting(Client.release)
    lock = _waiting(Client.lock)
    unlock = _waiting(Client.unlock)
    close_account = _waiting(Client.close_account)
    set_limits = _waiting(Client.set_limits)
    execute_all = _waiting(Client.execute_all)
    submit = _waiting(Client.submit)
    account = _waiting(Client.account)
    accounts = _waiting(Client.accounts)
    list_accounts = _waiting(Client.list_accounts)
    all_accounts = _iterating(Client.all_accounts)
    watch = _iterating(Client.watch)
    hold_of = _waiting(Client.hold_of)
    totals = _waiting(Client.totals)
    asset = _waiting(Client.asset)
    status = _waiting(Client.status)
    cluster = _waiting(Client.cluster)
    wait_for_leader = _waiting(Client.wait_for_leader)
    settle = _waiting(Client.settle)

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise StreamClosed("the client is not open: use it in `with`")
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C while waiting: the call is given up, the connection stays
            future.cancel()
            raise

    def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_JOIN_TIMEOUT_S)
            if not self._thread.is_alive():
                loop.close()
