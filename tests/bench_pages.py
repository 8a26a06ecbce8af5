"""`make bench-pages`: the first paint of a large ledger's accounts, and what open pages cost.

Leader (SQLite journal), app, pages and load share this machine. Pages under load are plain sockets,
each with the accounts table at a place of its own: 50 browsers would take the two cores for
drawing, which is theirs and not the ledger's. For the same reason the process that reads them all
takes only what the others leave (nice 19).
"""

import multiprocessing
import os
import random
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event as ProcessEvent
from typing import Final, NamedTuple

from playwright.sync_api import Error as BrowserError
from websockets.exceptions import WebSocketException

from client_app.bench_machine import (
    ROOT,
    NotMeasured,
    RunFailed,
    cpu_s,
    fresh_folder,
    resident_mb,
)
from client_core import RingledgerClientError, SyncClient
from tests.admin_process import AdminProcess
from tests.bench_drive import Accounts, Driven, drive_open_loop, open_accounts
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, target
from tests.browser import Browser, missing_for_browser
from tests.leader_process import LeaderProcess, journal_url
from tests.socket_page import SocketPage

ACCOUNTS: Final = 1_000_000
PAGES: Final = 50
RATE: Final = 10_000
_SECONDS: Final = 10
_MINUTES: Final = 10
_RATE_OF_MINUTES: Final = 1_000
_PAINTS: Final = 5
_SHOWN: Final = 50
_LOADED: Final = 10_000
"""Accounts of one load: more than a fifth of its changes are on a page."""

_PROBE_INTERVAL_S: Final = 0.3
_TIMEOUT_S: Final = 60.0

_SPAWN: Final = multiprocessing.get_context("spawn")


@contextmanager
def _served() -> Iterator[tuple[LeaderProcess, AdminProcess]]:
    flags = ("--rate-limit", "0", "--timeout-s", "60")
    with (
        fresh_folder() as folder,
        LeaderProcess(journal_url(ROOT / folder)).wait_ready() as leader,
        AdminProcess(leader.address, *flags).wait_ready() as app,
    ):
        yield leader, app


def _measure_first_paint(options: Options) -> Outcome:
    if missing := missing_for_browser():
        raise NotMeasured(missing)
    accounts = options.count(ACCOUNTS) + _SHOWN
    with _served() as (leader, app):
        open_accounts(_Node.of(leader), accounts)
        with Browser() as browser:
            seconds = [_paint_s(browser, app) for _ in range(_PAINTS)]
    values = {"median": statistics.median(seconds), "first": seconds[0]}
    return Outcome((), {"accounts": accounts, "paints": _PAINTS}, values, seconds)


def _paint_s(browser: Browser, app: AdminProcess) -> float:
    """From asking for the table to its last row. Raises RunFailed."""
    opened = browser.open("about:blank")
    try:
        opened.page.goto(f"http://{app.address}/accounts", wait_until="commit")
        opened.page.wait_for_selector(f"tr[data-account] >> nth={_SHOWN - 1}")
        return float(opened.page.evaluate("performance.now()")) / 1e3
    except BrowserError as error:
        raise RunFailed(f"the accounts table: {error}") from error
    finally:
        opened.context.close()


def _measure_under_load(options: Options) -> Outcome:
    """The same load without pages, with them, and with one more page that is asked."""
    seconds, count = 1 + options.count(_SECONDS), options.count(PAGES)
    with _served() as (leader, app), _load(leader) as load:
        load(1, RATE).result()  # its connection, its kernels
        alone = load(seconds, RATE).result()
        with _pages(app, load.accounts, count):
            before_s = cpu_s(app.process.pid)
            watched = load(seconds, RATE).result()
            served_s = cpu_s(app.process.pid) - before_s
            stop = threading.Event()
            with ThreadPoolExecutor(1) as prober:
                probing = prober.submit(_probe, leader, app, stop)
                # its totals differ by the probe's commands, so that it complains in the end
                complaint = load(seconds, RATE).exception()
                stop.set()
                seen = _result_of(probing)
    if not seen or "another client was at work" not in str(complaint):
        raise RunFailed(f"no page was told of a change while there was load: {complaint}")
    values = {
        "reply_p50": _at(seen, 0.5),
        "reply_p99": _at(seen, 0.99),
        "alone": alone.latency_ms["p99"],
        "watched": watched.latency_ms["p99"],
        "leader_cpu": alone.leader_cpu_us * alone.commands / 1e6,
        "leader_cpu_watched": watched.leader_cpu_us * watched.commands / 1e6,
        "app_cpu": served_s,
    }
    parameters = {"pages": count, "rate": RATE, "seconds": seconds}
    return Outcome((), parameters, values, {"reply_ms": seen})


def _measure_memory(options: Options) -> Outcome:
    """In equal parts of the time: it must not grow from one to the next."""
    part_s = options.count(60 * _MINUTES) / _MINUTES
    with _served() as (leader, app), _load(leader) as load:
        told = [resident_mb(app.process.pid)]
        with _pages(app, load.accounts, options.count(PAGES)):
            for _ in range(_MINUTES):
                load(part_s, _RATE_OF_MINUTES).result()
                told.append(resident_mb(app.process.pid))
    values = {"before": told[0], "first": told[1], "after": told[-1]}
    return Outcome((), {"minutes": _MINUTES, "part_s": part_s}, values, {"resident_mb": told})


class _Node(NamedTuple):
    """A leader, as another process may know it."""

    address: str
    pid: int

    @staticmethod
    def of(leader: LeaderProcess) -> "_Node":
        return _Node(leader.address, leader.process.pid)


class _Load(NamedTuple):
    """Single transfers between these accounts, offered by a process of its own."""

    loader: ProcessPoolExecutor
    leader: _Node
    accounts: Accounts

    def __call__(self, seconds: float, rate: int) -> Future[Driven]:
        """Offer `rate` a second for so long."""
        commands = int(seconds * rate)
        return self.loader.submit(
            drive_open_loop, self.leader, self.accounts, commands, rate=float(rate)
        )


@contextmanager
def _load(leader: LeaderProcess) -> Iterator[_Load]:
    with ProcessPoolExecutor(1, _SPAWN) as loader:
        node = _Node.of(leader)
        accounts = loader.submit(open_accounts, node, _LOADED).result()
        yield _Load(loader, node, accounts)


@contextmanager
def _pages(app: AdminProcess, accounts: Accounts, count: int) -> Iterator[None]:
    """So many open pages, each of some of these accounts. Raises RunFailed unless all stay open."""
    draw = random.Random(1)
    befores = [int(accounts[draw.randrange(_LOADED - _SHOWN)]) for _ in range(count)]
    opened, stop = _SPAWN.Event(), _SPAWN.Event()
    watcher = _SPAWN.Process(target=_watch, args=(app.port, befores, opened, stop))
    watcher.start()
    try:
        if not opened.wait(_TIMEOUT_S):
            raise RunFailed("not all pages opened")
        yield
    finally:
        stop.set()
        watcher.join()
    if watcher.exitcode:
        raise RunFailed("pages were closed while there was load")


def _watch(port: int, befores: Sequence[int], opened: ProcessEvent, stop: ProcessEvent) -> None:
    """Open these pages of the accounts table and read them; fails if one is closed by the app."""
    os.nice(19)
    own_stop = threading.Event()
    with ExitStack() as stack:
        pages = [
            stack.enter_context(SocketPage(port, f"/accounts?after={before}")) for before in befores
        ]
        threads = [threading.Thread(target=page.drain, args=(own_stop,)) for page in pages]
        for thread in threads:
            thread.start()
        opened.set()
        stop.wait()
        closed = sum(not thread.is_alive() for thread in threads)
        own_stop.set()
        for thread in threads:
            thread.join()
    sys.exit(closed)


def _probe(leader: LeaderProcess, app: AdminProcess, stop: threading.Event) -> list[float]:
    """A page of an account whose floor changes: ms from each reply to the page."""
    told: list[float] = []
    with SyncClient(leader.address) as ledger:
        probed = ledger.create_account().entity
        with SocketPage(app.port, f"/account/{probed}") as page:
            page.wait_for("Live")
            while not stop.is_set():
                floor = len(told) + 1
                ledger.set_limits(probed, floor=-floor, ceiling=None)
                told.append(page.wait_for(f"\u2212{floor:,}.00", _TIMEOUT_S) * 1e3)
                stop.wait(_PROBE_INTERVAL_S)
    return told


def _result_of(work: Future[list[float]]) -> list[float]:
    """What a thread returned. Raises RunFailed and AssertionError as it did."""
    try:
        return work.result()
    except (RingledgerClientError, WebSocketException) as error:
        raise RunFailed(f"a page: {error}") from error


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


ROWS: Final = (
    Row(
        "paint",
        (
            Figure("median", "accounts table of 1 M accounts painted in a new browser", "s", 2, 1),
            Figure("first", "the first of five times", "s"),
        ),
        _measure_first_paint,
    ),
    Row(
        "load",
        (
            Figure("reply_p50", "50 pages of 50 accounts, from a reply to a page, p50", "ms"),
            Figure("reply_p99", "the same, p99", "ms", 1_000),
            Figure("alone", "p99 of a command without pages", "ms"),
            Figure("watched", "p99 of a command with them", "ms"),
            Figure("leader_cpu", "CPU of the leader in that load, without pages", "s"),
            Figure("leader_cpu_watched", "CPU of the leader in that load, with them", "s"),
            Figure("app_cpu", "CPU of the app in that load", "s"),
        ),
        _measure_under_load,
    ),
    Row(
        "memory",
        (
            Figure("before", "memory of the app without pages", "MB"),
            Figure("first", "after a minute of 50 pages at 1,000 commands/s", "MB"),
            Figure("after", "after ten", "MB"),
        ),
        _measure_memory,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen rows; returns the exit code."""

    def measure(options: Options) -> list[Report]:
        return run_rows(ROWS, options)

    return target("pages", measure, arguments, names=[row.name for row in ROWS])


if __name__ == "__main__":
    sys.exit(main())
