"""Watch: the changes of chosen accounts, each as a command left it, in the order of the journal.

The kernel notes changed accounts in a ring while anybody watches (`cluster_core/changes.py`). One
task a process reads the ring every 5 ms and hands each row to those who watch it. Who doesn't take
them fast enough, or is overtaken by the ring itself, is told from which sequence on it missed
some, and gets the state of all its accounts anew.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final

import grpc
import numpy as np
import structlog

from cluster_app.rpc import Context, Refusal, invalid
from cluster_app.state_view import StateView
from cluster_app.typed import read_account
from cluster_core.reading import MAX_READ_ACCOUNTS, ReadBusy
from proto import ledger_pb2

WATCHED_MAX: Final = 10_000
"""Accounts in one stream."""

WATCHED_TOTAL_MAX: Final = 1_000_000
"""Accounts in all streams of a process: 100 bytes each."""

STREAMS_MAX: Final = 1_000
_TICK_S: Final = 0.005
_PENDING_MAX: Final = 16_384
"""Changes that wait for one slow watcher: 8 MB of messages."""

_PENDING_TOTAL_MAX: Final = 1 << 20
"""Changes that wait for all of them: with more than 64 streams each may have fewer."""

_MESSAGE_ACCOUNTS: Final = 1_000
"""Changes in one message: 100 kB."""

_PROGRESS_S: Final = 1.0
"""A watcher whose accounts rest hears this often how far the node has come."""

_BEGIN_S: Final = 5.0


class Watches:
    """All watchers of one process, and the task that feeds them while there are any."""

    def __init__(self, view: StateView, account_capacity: int) -> None:
        self._view = view
        self._watched = np.zeros(account_capacity + 1, np.uint8)
        self._by_id: dict[int, list[_Watcher]] = {}
        self._watchers: set[_Watcher] = set()
        self._total = 0
        self._next = 0
        self._applied = 0
        self._watching = 0
        self._task: asyncio.Task[None] | None = None
        self._begun: asyncio.Future[None] | None = None

    def refuse(self, count: int) -> Refusal | None:
        """Why so many accounts can't be watched now, or None."""
        if not 1 <= count <= WATCHED_MAX:
            return invalid(f"{count} account_ids: give 1 to {WATCHED_MAX}")
        if len(self._watchers) >= STREAMS_MAX or self._total + count > WATCHED_TOTAL_MAX:
            return Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{len(self._watchers)} streams watch {self._total} accounts here, which is the "
                "limit: try again later, or ask another follower",
                "WATCH_LIMIT",
            )
        return None

    async def serve(self, account_ids: list[int], context: Context) -> None:
        """Serve one stream until its client ends it."""
        _, known, _, _ = await self._view.read(self._view.reader.progress, context)
        for account_id in account_ids:
            if not 1 <= account_id <= known:
                await Refusal(
                    grpc.StatusCode.NOT_FOUND,
                    f"account {account_id} does not exist",
                    "ACCOUNT_NOT_FOUND",
                    {"account_id": str(account_id)},
                ).abort(context)
        refusal = self.refuse(len(account_ids))
        if refusal is not None:  # others came while this one waited
            await refusal.abort(context)
        watcher = _Watcher(account_ids)
        self._enter(watcher)
        try:
            await self._until_noted()
            await self._feed(watcher, context)
        except (TimeoutError, _NotWatching):
            await Refusal(
                grpc.StatusCode.UNAVAILABLE,
                "this node notes no changes now: try again, or ask another one",
                "NOT_WATCHING",
            ).abort(context)
        finally:
            self._leave(watcher)

    async def _feed(self, watcher: "_Watcher", context: Context) -> None:
        await self._send_states(watcher, context)
        while True:
            await watcher.wait()
            while watcher.pending:
                rows = watcher.take(_MESSAGE_ACCOUNTS)
                if rows:
                    whole = not watcher.pending and watcher.missed_from is None
                    watcher.told = watcher.applied if whole else rows[-1].last_sequence
                    await _write(context, rows, watcher.told)
            if watcher.missed_from is not None:
                await self._send_states(watcher, context)
            elif watcher.told < watcher.applied:
                watcher.told = watcher.applied
                await _write(context, (), watcher.told)

    async def _send_states(self, watcher: "_Watcher", context: Context) -> None:
        """All accounts as they are now; what is noted and not newer than that isn't sent again."""
        missed_from = watcher.take_gap()
        ids = np.array(watcher.ids, np.uint64)
        accounts: list[ledger_pb2.Account] = []
        told = 0
        for first in range(0, len(ids), MAX_READ_ACCOUNTS):
            part = ids[first : first + MAX_READ_ACCOUNTS]
            rows, applied = await self._view.read(
                partial(self._view.reader.accounts, part), context
            )
            told = min(told, applied) if first else applied
            for start in range(0, len(rows), _MESSAGE_ACCOUNTS):
                accounts += [read_account(row) for row in rows[start : start + _MESSAGE_ACCOUNTS]]
                await asyncio.sleep(0)  # others want the loop as well
        for account in accounts:
            watcher.versions[account.account_id] = account.version
        watcher.told = told
        watcher.applied = max(watcher.applied, told)
        await _write(context, accounts, told, missed_from)

    # The watchers, and the task that reads the ring

    def _enter(self, watcher: "_Watcher") -> None:
        self._watchers.add(watcher)
        self._total += len(watcher.ids)
        for account_id in watcher.ids:
            self._by_id.setdefault(account_id, []).append(watcher)
            self._watched[account_id] = 1
        self._view.set_watchers(len(self._watchers))
        if self._task is None:
            self._begun = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._begun))

    def _leave(self, watcher: "_Watcher") -> None:
        self._watchers.discard(watcher)
        self._total -= len(watcher.ids)
        for account_id in watcher.ids:
            others = self._by_id[account_id]
            others.remove(watcher)
            if not others:
                del self._by_id[account_id]
                self._watched[account_id] = 0
        self._view.set_watchers(len(self._watchers))
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = self._begun = None

    async def _until_noted(self) -> None:
        """Raises TimeoutError when the writer doesn't begin to note changes."""
        if self._begun is not None:
            await asyncio.wait_for(asyncio.shield(self._begun), _BEGIN_S)

    async def _run(self, begun: "asyncio.Future[None]") -> None:
        try:
            await self._await_watching()
            self._applied, _, _, self._next = await self._progress()
            begun.set_result(None)
            loop = asyncio.get_running_loop()
            said = loop.time()
            while True:
                await asyncio.sleep(_TICK_S)
                applied, _, _, made = await self._progress()
                if self._view.reader.watching != self._watching:
                    # the writer saw nobody watch for a moment, between two of us
                    self._all_miss()
                    await self._await_watching()
                    applied, _, _, self._next = await self._progress()
                else:
                    self._take_changes(made)
                self._applied = applied
                now = loop.time()
                everybody = now - said >= _PROGRESS_S
                said = now if everybody else said
                for watcher in self._watchers:
                    watcher.go_on(applied, everybody)
        except Exception:  # noqa: BLE001 - told to everybody who watches
            structlog.get_logger().exception("watching_failed")
            self._task = self._begun = None  # the next one begins anew
            for watcher in self._watchers:
                watcher.fail()

    async def _await_watching(self) -> None:
        while not (watching := self._view.reader.watching):  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(_TICK_S)
        self._watching = watching

    async def _progress(self) -> tuple[int, int, int, int]:
        while True:
            try:
                return self._view.reader.progress()
            except ReadBusy:
                await asyncio.sleep(0.001)

    def _take_changes(self, made: int) -> None:
        if made == self._next:
            return
        rows = self._view.reader.changes(self._next, made, self._watched)
        self._next = made
        if rows is None:
            self._all_miss()
            return
        pending_max = min(_PENDING_MAX, _PENDING_TOTAL_MAX // len(self._watchers))
        for row in rows:
            account = read_account(row)
            for watcher in self._by_id.get(account.account_id, ()):
                watcher.add(account, pending_max)

    def _all_miss(self) -> None:
        for watcher in self._watchers:
            watcher.miss(self._applied)


class _NotWatching(Exception):
    """Changes are not read any more."""


class _Watcher:
    """One stream: its accounts, what waits to be sent, and where it was too slow."""

    def __init__(self, account_ids: list[int]) -> None:
        self.ids = account_ids
        self.versions: dict[int, int] = {}
        self.pending: deque[ledger_pb2.Account] = deque()
        self.missed_from: int | None = None
        self.applied = 0
        self.told = 0
        self._wake = asyncio.Event()
        self._failed = False

    async def wait(self) -> None:
        """Until there is something to send. Raises _NotWatching when nothing comes any more."""
        await self._wake.wait()
        self._wake.clear()
        if self._failed:
            raise _NotWatching

    def add(self, account: ledger_pb2.Account, pending_max: int) -> None:
        """A change, unless it belongs to what was missed."""
        if self.missed_from is not None:
            return
        if len(self.pending) >= pending_max:
            self.miss(account.last_sequence)
            return
        self.pending.append(account)

    def miss(self, sequence: int) -> None:
        """Changes from this sequence on are not sent."""
        if self.missed_from is None:
            self.missed_from = sequence

    def take_gap(self) -> int | None:
        """Where the gap begins that the states will close, never below what was sent already."""
        missed_from, self.missed_from = self.missed_from, None
        return None if missed_from is None else max(missed_from, self.told)

    def go_on(self, applied: int, everybody: bool) -> None:
        """All changes below `applied` were added."""
        if self.missed_from is None:
            self.applied = max(self.applied, applied)
        if self.pending or self.missed_from is not None or everybody:
            self._wake.set()

    def fail(self) -> None:
        """Nothing more will come."""
        self._failed = True
        self._wake.set()

    def take(self, limit: int) -> list[ledger_pb2.Account]:
        """The next changes that are newer than the states that were sent."""
        rows: list[ledger_pb2.Account] = []
        while self.pending and len(rows) < limit:
            account = self.pending.popleft()
            if account.version > self.versions.get(account.account_id, 0):
                self.versions[account.account_id] = account.version
                rows.append(account)
        return rows


async def _write(
    context: Context,
    accounts: Iterable[ledger_pb2.Account],
    applied: int,
    missed_from: int | None = None,
) -> None:
    message = ledger_pb2.WatchResponse(accounts=accounts, applied_sequence=applied)
    if missed_from is not None:
        message.missed_from_sequence = missed_from
    await context.write(message.SerializeToString())
