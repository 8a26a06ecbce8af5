"""What pages are shown as it happens: one Watch and one look at the nodes, shared by all pages.

    Watch of all accounts on any page --> newest state of each --> every 0.2 s: rendered once
                                          --> each page that shows it --> its browser

Nothing queues: a page that reads slowly gets, when it is ready, the newest state of what changed.
Without pages nothing is watched and nobody asked.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final, NamedTuple

import structlog

from client_app.answers import account_json
from client_app.problems import Problem, retry_later
from client_app.schemas import Json
from client_core import Account, Client, NodeStatus, NotFound, RingledgerClientError, at_least

ACCOUNTS_MAX: Final = 200
"""Accounts on one page: twice what the console shows at most."""

WATCHED_MAX: Final = 10_000
"""Accounts on all pages: what one Watch of the ledger takes."""

PAGES_EACH: Final = 8
"""Pages of one person, so that nobody takes all of them."""

_SPACING_S: Final = 0.2
"""Between two updates of a page: five a second look alive, and more cost 50 browsers' worth."""

_GATHER_S: Final = 0.05
"""Pages that open together begin one Watch anew, not one each."""

_LOOK_S: Final = 1.0
"""Between two looks at the nodes."""

_RATES_KEPT: Final = 180
"""Commands/s of three minutes: what the plot shows to a page that has just been opened."""

_RETRY_S: Final = 1.0
_BEHIND_S: Final = 5.0
"""What a follower doesn't have of so long ago, it may never get: it is watched no more."""

_AGAIN_S: Final = 15.0
"""Between two such changes."""


class News(NamedTuple):
    """What is new to a page: shared with other pages, so to be read only."""

    accounts: list[Json]
    status: Json | None
    """`nodes`, `now_ns`, `rate`, `behind` (a follower that may have been asked is); `rates` of the
    last minutes at first; or `nodes_error`.
    """


class Page:
    """One open page: what has changed since it last took something."""

    def __init__(self, owner: str, accounts: frozenset[int], *, nodes: bool) -> None:
        self.owner = owner
        self.accounts = accounts
        self.nodes = nodes
        self._changed: dict[int, Json] = {}
        self._status: Json | None = None
        self._wake = asyncio.Event()
        self.ended = False

    def show(self, account_id: int, state: Json) -> None:
        """An account's newest state."""
        self._changed[account_id] = state
        self._wake.set()

    def show_first(self, account_id: int, state: Json) -> None:
        """An account's state when the page opens, unless a newer one was shown already."""
        self._changed.setdefault(account_id, state)
        self._wake.set()

    def show_status(self, status: Json) -> None:
        """The nodes' newest status. All rates of a status that wasn't taken stay with it."""
        if self._status is not None and "rates" in self._status and "rate" in status:
            status = status | {"rates": [*self._status["rates"], status["rate"]]}
        self._status = status
        self._wake.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._wake.set()

    async def take(self, timeout_s: float) -> News:
        """All that is new; after `timeout_s` perhaps nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()
        news = News(list(self._changed.values()), self._status)
        self._changed, self._status = {}, None
        return news


class LiveLedger:
    """All pages of one process. `pages_max` of them at a time."""

    def __init__(self, ledger: Client, pages_max: int) -> None:
        self._ledger = ledger
        self._pages_max = pages_max
        self._pages: set[Page] = set()
        self._viewers: dict[int, set[Page]] = {}
        self._watched: frozenset[int] = frozenset()
        self._newest: dict[int, tuple[int, int]] = {}
        self._told: dict[int, tuple[tuple[int, int], Json]] = {}
        self._dirty: dict[int, Account] = {}
        self._wanted = asyncio.Event()
        self._has_dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._status = ClusterStatus(ledger)
        self._begun_s = 0.0
        self._closed = False

    @property
    def pages(self) -> int:
        """How many are open."""
        return len(self._pages)

    @contextlib.asynccontextmanager
    async def page(
        self, owner: str, accounts: Iterable[int], *, nodes: bool, each_max: int | None = None
    ) -> AsyncGenerator[Page, None]:
        """A page that is told of these accounts, and of the nodes if `nodes`, until it is left.

        It begins with the state of all its accounts. `owner` may have `each_max` pages. Raises
        Problem for too many, and for an account that there isn't; what client_core raises.
        """
        page = Page(owner, frozenset(accounts), nodes=nodes)
        if self._closed:
            raise retry_later(503, "NOT_READY", "the app is stopping")
        if len(self._pages) >= self._pages_max:
            raise retry_later(503, "OVERLOADED", f"{self._pages_max} pages are open: close one", 5)
        if each_max and sum(other.owner == owner for other in self._pages) >= each_max:
            detail = f"{each_max} pages of yours are open: close one"
            raise retry_later(503, "OVERLOADED", detail, 5)
        watched = page.accounts | self._viewers.keys()
        if len(page.accounts) > ACCOUNTS_MAX or len(watched) > WATCHED_MAX:
            raise retry_later(503, "OVERLOADED", "too many accounts are shown at once", 5)
        self._pages.add(page)
        for account_id in page.accounts:
            self._viewers.setdefault(account_id, set()).add(page)
        try:
            await self._begin(page)
            yield page
        finally:
            self._leave(page)

    def end_pages(self) -> None:
        """End all pages, and take no more. Idempotent."""
        self._closed = True
        for page in self._pages:
            page.end()

    async def close(self) -> None:
        """End all pages, and watch no more. Idempotent."""
        self.end_pages()
        tasks = self._tasks
        self._forget()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, page: Page) -> None:
        if page.accounts:
            wanted = sorted(page.accounts)
            found = await self._ledger.accounts(wanted)
            for account_id, account in zip(wanted, found, strict=True):
                if account is None:
                    detail = f"account {account_id} does not exist"
                    raise Problem(404, "ACCOUNT_NOT_FOUND", detail)
                told = self._told.get(account_id)
                if told is None or told[0] < _age(account):
                    page.show_first(account_id, account_json(account))
                else:  # by a node that is ahead of the one that was asked
                    page.show_first(account_id, told[1])
        if page.nodes and self._status.first:
            page.show_status(self._status.first)
        if self._closed:
            page.end()
            return
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._watch(), name="live-watch"),
                asyncio.create_task(self._spread(), name="live-spread"),
                asyncio.create_task(self._look(), name="live-look"),
            ]
            for task in self._tasks:
                task.add_done_callback(self._failed)
        if not page.accounts <= self._watched:
            self._wanted.set()

    def _leave(self, page: Page) -> None:
        self._pages.discard(page)
        for account_id in page.accounts:
            viewers = self._viewers[account_id]
            viewers.discard(page)
            if not viewers:
                del self._viewers[account_id]
        if not self._pages:
            for task in self._tasks:
                task.cancel()
            self._forget()

    def _forget(self) -> None:
        self._tasks = []
        self._watched = frozenset()
        self._newest, self._told, self._dirty = {}, {}, {}
        self._status.pause()

    def _failed(self, task: asyncio.Task[None]) -> None:
        """A fault of this program: pages begin anew, rather than show what was."""
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().error("pages are told nothing", exc_info=task.exception())
            for page in self._pages:
                page.end()

    async def _watch(self) -> None:
        """One Watch of all that pages show, begun anew when there is more to show."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_GATHER_S)
            self._wanted.clear()
            self._watched = frozenset(self._viewers)
            if not self._watched:
                continue
            following = asyncio.create_task(self._follow(self._watched))
            waiting = asyncio.create_task(self._wanted.wait())
            try:
                await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (following, waiting):
                    task.cancel()
                await asyncio.gather(following, waiting, return_exceptions=True)
            if not self._wanted.is_set():  # the Watch ended by itself
                self._watched = frozenset()
                self._wanted.set()
                await asyncio.sleep(_RETRY_S)

    async def _follow(self, accounts: frozenset[int]) -> None:
        self._newest = {key: at for key, at in self._newest.items() if key in accounts}
        self._told = {key: told for key, told in self._told.items() if key in accounts}
        self._begun_s = time.monotonic()
        level = at_least(self._status.settled - 1) if self._status.behind else None
        watched = self._ledger.watch(accounts, gather_s=_SPACING_S / 2, consistency=level)
        try:
            async with aclosing(watched) as changes:
                async for change in changes:
                    for account in change.accounts:
                        self._changed(account)
        except NotFound:
            pass  # an account that a page named and that a node doesn't know yet
        except RingledgerClientError as error:
            structlog.get_logger().warning("pages are not told of changes", error=str(error)[:200])

    def _changed(self, account: Account) -> None:
        if self._newest.get(account.account_id, (-1, -1)) < _age(account):
            self._newest[account.account_id] = _age(account)
            self._dirty[account.account_id] = account
            self._has_dirty.set()

    async def _spread(self) -> None:
        """Render what changed, once, and give it to each page that shows it."""
        while True:
            await self._has_dirty.wait()
            self._has_dirty.clear()
            dirty, self._dirty = self._dirty, {}
            for account_id, account in dirty.items():
                viewers = self._viewers.get(account_id)
                if viewers:
                    state = account_json(account)
                    self._told[account_id] = _age(account), state
                    for page in viewers:
                        page.show(account_id, state)
            await asyncio.sleep(_SPACING_S)

    async def _look(self) -> None:
        while True:
            begun = time.monotonic()
            if any(page.nodes for page in self._pages):
                status = await self._status.look()
                for page in self._pages:
                    if page.nodes:
                        page.show_status(status)
                if self._status.behind and begun - self._begun_s > _AGAIN_S:
                    self._wanted.set()  # over a node that isn't
            await asyncio.sleep(max(0.1, begun + _LOOK_S - time.monotonic()))


def _age(account: Account) -> tuple[int, int]:
    return account.version, account.last_sequence


class ClusterStatus:
    """The nodes' status, with the leader's commands/s of the last minutes."""

    def __init__(self, ledger: Client, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._monotonic_s = monotonic_s
        self._rates: deque[float | None] = deque(maxlen=_RATES_KEPT)
        self._before: tuple[int, float] | None = None
        self._led: deque[tuple[float, int]] = deque()
        self.settled = 0
        """How many commands the leader had applied `_BEHIND_S` ago; 0 before it is known."""

        self.behind = False
        """Whether a follower doesn't have all of that."""

        self.first: Json = {}
        """What a page gets first: the newest status with all rates. Empty before the first look."""

    def pause(self) -> None:
        """Nobody looks for a while: the rates so far say nothing about then."""
        self._rates.clear()
        self._before = None
        self._led.clear()
        self.settled, self.behind = 0, False
        self.first = {}

    async def look(self) -> Json:
        """Ask all nodes. What can't be reached says why."""
        try:
            statuses = await self._ledger.cluster()
        except RingledgerClientError as error:
            return {"nodes_error": str(error)[:300]}
        self._settle(statuses)
        rate = self._rate(statuses)
        self._rates.append(rate)
        shown: Json = {
            "nodes": [node_json(status) for status in statuses],
            "now_ns": time.time_ns(),
            "spacing_s": _LOOK_S,
            "behind": self.behind,
        }
        self.first = shown | {"rate": rate, "rates": list(self._rates)}
        return shown | {"rate": rate}

    def _settle(self, statuses: list[NodeStatus]) -> None:
        now = self._monotonic_s()
        for status in statuses:
            if status.role == "leader":
                self._led.append((now, status.applied_sequence))
        while self._led and now - self._led[0][0] >= _BEHIND_S:
            self.settled = max(self.settled, self._led.popleft()[1])
        self.behind = any(
            status.reachable
            and status.role == "follower"
            and status.applied_sequence < self.settled
            for status in statuses
        )

    def _rate(self, statuses: list[NodeStatus]) -> float | None:
        """Commands/s since the look before, by the leader; None when nobody leads."""
        applied = [status.applied_sequence for status in statuses if status.role == "leader"]
        now = self._monotonic_s()
        before, self._before = self._before, (max(applied), now) if applied else None
        if before is None or not applied:
            return None
        return round(max(0, max(applied) - before[0]) / max(now - before[1], 1e-3), 1)


def node_json(status: NodeStatus) -> Json:
    """One node, as pages show it."""
    if not status.reachable:
        return {"endpoint": status.endpoint, "reachable": False, "error": status.error[:300]}
    return {
        "endpoint": status.endpoint,
        "reachable": True,
        "role": status.role,
        "node_id": status.node_id,
        "address": status.address,
        "leader": status.leader,
        "epoch": status.epoch,
        "applied_sequence": status.applied_sequence,
        "accounts": status.accounts,
        "lag_commands": status.lag_commands,
        "lag_s": round(status.lag_s, 3),
        "ledger_time_ns": status.ledger_time_ns,
        "in_flight_commands": status.in_flight_commands,
        "ring_capacity": status.ring_capacity,
        "snapshot_taken_ns": status.snapshot_taken_ns,
        "snapshot_applied_sequence": status.snapshot_applied_sequence,
    }
