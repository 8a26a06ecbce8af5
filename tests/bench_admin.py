"""`make bench-admin`: requests/s of the admin app, by autocannon, and calls/s of `Client`.

Broker, leader, app and autocannon share this machine; the rate limit is off, 32 connections are
kept alive. autocannon is run by npx, which fetches it when it isn't there. `Client` has a leader
on SQLite: 1,000 callers wait for one transfer each at a time, then 64 for one account each.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import uvloop

from client_app.bench_machine import NotMeasured, RunFailed
from client_core import Client
from tests.admin_process import AdminProcess
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, target
from tests.bench_services import kafka, server_versions
from tests.leader_process import LeaderProcess

AUTOCANNON: Final = "autocannon@8"
CONNECTIONS: Final = 32
_JSON: Final = "content-type: application/json"
_SECONDS: Final = 10.0
_WARM_UP_S: Final = 5.0
_CLIENT_SECONDS: Final = 5.0
_CLIENT_ACCOUNTS: Final = 100
_FUNDS: Final = 10**9


def _cannon(path: str, *flags: str) -> Callable[[Options], Outcome]:
    """autocannon on one path."""

    def measure(options: Options) -> Outcome:
        if shutil.which("npx") is None:
            raise NotMeasured("npx isn't there: install Node.js, which runs autocannon")
        with kafka() as journal, LeaderProcess(f"{journal}-admin") as leader:
            leader.wait_ready()
            with AdminProcess(leader.address, "--rate-limit", "0") as app:
                app.wait_ready()
                for _ in range(2):
                    app.call("POST", "/api/v1/accounts")
                app.call(
                    "POST", "/api/v1/deposits", {"credit_account": 1, "amount": "1000000000.00"}
                )
                url = f"http://{app.address}{path}"
                # warm: the broker's compiler takes seconds
                _fire(_WARM_UP_S * options.scale, *flags, url)
                found = _fire(_SECONDS * options.scale, *flags, url)
        failed = found["non2xx"] + found["errors"] + found["timeouts"]
        if failed:
            raise RunFailed(f"{failed} requests to {path} failed")
        latency = found["latency"]
        values = {
            "rate": found["requests"]["average"],
            "p50": latency["p50"],
            "p99": latency["p99"],
        }
        parameters = {"connections": CONNECTIONS, "seconds": found["duration"], "path": path}
        return Outcome((f"npx {AUTOCANNON} -c {CONNECTIONS} URL",), parameters, values, latency)

    return measure


def _fire(seconds: float, *flags: str) -> Any:
    whole = ("npx", "--yes", AUTOCANNON, "-c", str(CONNECTIONS), "--json", "--no-progress")
    done = subprocess.run(
        (*whole, "-d", str(max(1, round(seconds))), *flags),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RunFailed(f"autocannon: {done.stderr[-500:]}")
    return json.loads(done.stdout)


Call = Callable[[int], Awaitable[Any]]


def _client(callers: int, choose: Callable[[Client, list[int]], Call]) -> Callable[..., Outcome]:
    """So many callers of one Client in this process."""

    def measure(options: Options) -> Outcome:
        seconds = _CLIENT_SECONDS * options.scale
        with options.leader() as leader:
            rate, cpu_us = uvloop.run(_call(leader.address, callers, seconds, choose))
        values = {"rate": rate, "cpu": cpu_us}
        return Outcome((leader.command,), {"callers": callers, "seconds": seconds}, values)

    return measure


async def _call(
    address: str, callers: int, seconds: float, choose: Callable[[Client, list[int]], Call]
) -> tuple[float, float]:
    """(calls a second, this process's CPU time for each in us)."""
    async with Client(address) as ledger:
        accounts = [(await ledger.create_account()).entity for _ in range(_CLIENT_ACCOUNTS)]
        for account in accounts:
            await ledger.deposit(account, _FUNDS)
        call, done = choose(ledger, accounts), 0
        began, cpu_began = time.monotonic(), time.process_time()

        async def caller(index: int) -> None:
            nonlocal done
            while time.monotonic() < began + seconds:
                await call(index)
                done += 1

        await asyncio.gather(*(caller(index) for index in range(callers)))
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
        return done / took_s, cpu_s / done * 1e6


def _transfers(ledger: Client, accounts: list[int]) -> Call:
    async def transfer(index: int) -> None:
        debit = accounts[index % len(accounts)]
        await ledger.transfer(debit, accounts[(index + 1) % len(accounts)], "1.25")

    return transfer


def _look_ups(ledger: Client, accounts: list[int]) -> Call:
    async def look_up(index: int) -> None:
        await ledger.account(accounts[index % len(accounts)])

    return look_up


def _figures(
    what: str, floor: int, aim: int, p99: tuple[float | None, float | None]
) -> tuple[Figure, ...]:
    return (
        Figure("rate", what, "/s", floor, aim),
        Figure("p50", f"{what}: p50", "ms"),
        Figure("p99", f"{what}: p99", "ms", *p99),
    )


def _client_figures(what: str, floor: int | None, aim: int | None) -> tuple[Figure, ...]:
    return (
        Figure("rate", what, "/s", floor, aim),
        Figure("cpu", f"{what}: CPU of the client each", "us"),
    )


ROWS: Final = (
    Row(
        "deposit",
        _figures("`POST /api/v1/balance/command/deposit`", 7_000, 11_000, (40, 15)),
        _cannon(
            "/api/v1/balance/command/deposit",
            *("-m", "POST", "-H", _JSON, "-b", '{"id": 1, "amount": 1}'),
        ),
    ),
    Row(
        "transfer",
        _figures(
            "`POST /api/v1/transfers`, a new Idempotency-Key each", 5_000, 9_000, (None, None)
        ),
        _cannon(
            "/api/v1/transfers",
            *("-m", "POST", "-H", _JSON, "-I", "-H", "idempotency-key: [<id>]-"),
            *("-b", '{"debit_account": 1, "credit_account": 2, "amount": "0.01"}'),
        ),
    ),
    Row(
        "account",
        _figures("`GET /api/v1/accounts/{id}`", 8_000, 12_000, (None, None)),
        _cannon("/api/v1/accounts/1"),
    ),
    Row(
        "client-transfer",
        _client_figures("`Client.transfer()`, 1,000 callers in one process", 30_000, 80_000),
        _client(1_000, _transfers),
    ),
    Row(
        "client-account",
        _client_figures("`Client.account()`, 64 callers", None, None),
        _client(64, _look_ups),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen rows; returns the exit code."""

    def measure(options: Options) -> list[Report]:
        return run_rows(ROWS, options)

    names = [row.name for row in ROWS]
    return target("admin", measure, arguments, names=names, versions=server_versions)


if __name__ == "__main__":
    sys.exit(main())
