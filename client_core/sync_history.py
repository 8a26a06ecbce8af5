"""SyncHistory: `History` for programs without an event loop, behind `SyncClient.history`."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from client_core.history import History
from client_core.history_answers import HistoryEntry

P = ParamSpec("P")
T = TypeVar("T")


class Waits(Protocol):
    """Runs a coroutine on the client's loop, and waits for its value."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """The value. Raises what it raises."""


def _waiting(
    method: Callable[Concatenate[History, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[SyncHistory, P], T]":
    def call(self: "SyncHistory", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._history, *args, **kwargs))

    update_wrapper(call, method)
    return call


class SyncHistory:
    """Every question of `History`, waiting for its answer. For any number of threads."""

    def __init__(self, history: History, wait: Waits) -> None:
        self._history = history
        self._wait = wait

    statement = _waiting(History.statement)
    balance = _waiting(History.balance)
    balances = _waiting(History.balances)
    command = _waiting(History.command)
    by_reference = _waiting(History.by_reference)
    changes = _waiting(History.changes)
    day_totals = _waiting(History.day_totals)
    asset = _waiting(History.asset)

    def statements(self, account_id: int, **wanted: Any) -> Iterator[HistoryEntry]:
        """All entries of an account, page by page; takes what `statement` takes."""
        entries: AsyncGenerator[HistoryEntry, None]
        entries = self._history.statements(account_id, **wanted)

        async def following() -> HistoryEntry | None:
            return await anext(entries, None)

        try:
            while (entry := self._wait(following())) is not None:
                yield entry
        finally:
            self._wait(entries.aclose())
