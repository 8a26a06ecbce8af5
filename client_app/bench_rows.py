"""The bench suite's rows: what is measured, how, and what it must reach."""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import (
    SQLITE,
    Leader,
    RunFailed,
    find_ghz,
    fresh_echo,
    fresh_folder,
    fresh_journal,
    fresh_leader,
    run_ghz,
    run_json,
)
from client_app.bench_tally import Totals
from client_core.channel import get_status, open_channel
from client_core.errors import RingledgerClientError

_QUICK_SHARE: Final = 10
_STARTS: Final = 3
_IDLE_S: Final = 10.0
_SETTLE_S: Final = 2.0
"""After the load, before the idle leader is watched."""


@dataclass(frozen=True)
class Figure:
    """One line of the table: `floor` and `aim` in `unit`; None where there is none to reach."""

    key: str
    what: str
    unit: str
    floor: float | None
    aim: float | None

    @property
    def more_is_better(self) -> bool:
        """Rates and ratios are to be high, times and sizes low."""
        return self.unit in ("/s", "x")

    def misses_floor(self, value: float) -> bool:
        """True when `value` is worse than the floor."""
        if self.floor is None:
            return False
        return value < self.floor if self.more_is_better else value > self.floor

    def shown(self, value: float | None) -> str:
        """A value with its unit, four digits at most."""
        if value is None:
            return "-"
        for limit, name in ((1e6, " M"), (1e3, " k")) if self.unit == "/s" else ():
            if value >= limit:
                return f"{value / limit:.4g}{name}{self.unit}"
        return f"{value:.4g} {self.unit}"


@dataclass(frozen=True)
class Outcome:
    """What a row's run gave: `values` by Figure.key; `result` is the program's own report."""

    commands: Sequence[str]
    parameters: Mapping[str, Any]
    values: Mapping[str, float]
    result: Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Options:
    """The command line. `journal` is SQLITE or kafka://HOST:PORT/PREFIX."""

    only: Sequence[str]
    quick: bool
    ghz: Path | None
    json: Path
    journal: str = SQLITE
    leader_flags: Sequence[str] = ()

    def leader(self) -> AbstractContextManager[Leader]:
        """A leader on an empty journal."""
        return fresh_leader(self.journal, self.leader_flags)

    def count(self, count: int) -> int:
        """A tenth with --quick."""
        return count // _QUICK_SHARE if self.quick else count


@dataclass(frozen=True)
class Row:
    """One run: how, and which figures it gives; `on_kafka` are those of a Kafka journal."""

    name: str
    figures: Sequence[Figure]
    measure: Callable[[Options], Outcome]
    on_kafka: Sequence[Figure] = ()

    def on(self, journal: str) -> "Row":
        """The row with the figures of that journal."""
        return self if journal == SQLITE else replace(self, figures=self.on_kafka or self.figures)


def _client(commands: int, *flags: str, warm_up: int | None = None) -> Callable[..., Outcome]:
    """A run of `python -m client_app bench` on a fresh leader."""

    def measure(options: Options) -> Outcome:
        warm = () if warm_up is None else ("--warm-up", str(options.count(warm_up)))
        counts = ("--commands", str(options.count(commands)), *warm)
        with options.leader() as leader:
            command, result = run_json(
                "client_app", "bench", "--target", leader.address, *flags, *counts
            )
        values = {"rate": result["commands_per_second"], **result["latency_ms"]}
        return Outcome((leader.command, command), result.pop("parameters"), values, result)

    return measure


def _ghz(service: str, data: str, *, deposits: bool) -> Callable[[Options], Outcome]:
    """A run of ghz over the bank contract: a stream for each call."""

    def measure(options: Options) -> Outcome:
        ghz = find_ghz(options.ghz)
        parameters = {"concurrency": 200, "connections": 8, "calls": options.count(60_000)}
        with options.leader() as leader:
            prepared, _ = run_json(
                *("client_app", "bench", "--target", leader.address),
                *("--accounts", "1000", "--commands", "1000"),
            )
            before = _totals(leader.address)
            command, result = run_ghz(
                ghz,
                *("--insecure", "--proto", "proto/balance.proto"),
                *("--call", f"gc.garcol.bank.proto.{service}", "-d", data),
                *("-c", "200", "--connections", "8", "-n", str(parameters["calls"])),
                *("-O", "json", leader.address),
            )
            after = _totals(leader.address)
        # Statuses of calls don't show what a reply said; a deposit of 1 each shows in the sums.
        moved = after.posted - before.posted
        if moved != (parameters["calls"] if deposits else 0):
            raise RunFailed(f"{command}: the ledger's balances grew by {moved}")
        values = {"rate": result["rps"]}
        return Outcome((leader.command, prepared, command), parameters, values, result)

    return measure


def _ghz_echo(options: Options) -> Outcome:
    """The same calls to a server that does nothing: grpc.aio's own limit on this machine."""
    ghz = find_ghz(options.ghz)
    parameters = {"concurrency": 200, "connections": 8, "calls": options.count(60_000)}
    with fresh_echo() as echo:
        command, result = run_ghz(
            ghz,
            *("--insecure", "--proto", "proto/balance.proto"),
            *("--call", "gc.garcol.bank.proto.BalanceQueryService/sendQuery", "-d", _QUERY_DATA),
            *("-c", "200", "--connections", "8", "-n", str(parameters["calls"])),
            *("-O", "json", echo.address),
        )
    return Outcome((echo.command, command), parameters, {"rate": result["rps"]}, result)


def _totals(address: str) -> Totals:
    async def ask() -> Totals:
        async with open_channel(address) as channel:
            return Totals.of(await get_status(channel))

    try:
        return asyncio.run(ask())
    except RingledgerClientError as error:
        raise RunFailed(f"the leader's totals: {error}") from None


def _kernel(*flags: str) -> Callable[[Options], Outcome]:
    def measure(options: Options) -> Outcome:
        commands = str(options.count(8_388_608))
        command, result = run_json(
            "cluster_app", "measure", "kernel", *flags, "--commands", commands
        )
        values = {"rate": result["commands_per_second"]["median"]}
        return Outcome((command,), result.pop("parameters"), values, result)

    return measure


def _measure_growth(options: Options) -> Outcome:
    counts = {"--accounts": options.count(10_000_000), "--holds": options.count(2_000_000)}
    flags = (part for name, count in counts.items() for part in (name, str(count)))
    command, result = run_json("cluster_app", "measure", "growth", *flags)
    values = {
        "account": result["account"]["bytes_each"],
        "hold": result["hold"]["bytes_each"],
        "slowest": result["account"]["slowest_batch_ms"],
    }
    return Outcome((command,), result.pop("parameters"), values, result)


def _replay(commands: int, batch: int) -> Callable[[Options], Outcome]:
    def measure(options: Options) -> Outcome:
        with fresh_folder() as folder, fresh_journal(options.journal, folder) as url:
            command, result = run_json(
                *("cluster_app", "measure", "replay", "--batch", str(batch)),
                *("--commands", str(options.count(commands)), "--journal", url),
            )
        values = {"rate": result["commands_per_second"]}
        return Outcome((command,), result.pop("parameters"), values, result)

    return measure


def _measure_start(options: Options) -> Outcome:
    """The first start, which may compile, is not counted."""
    starts = 1 if options.quick else _STARTS
    with options.leader():
        pass
    times_s = []
    for _ in range(starts):
        with options.leader() as leader:
            times_s.append(leader.ready_s)
    values = {"ready": statistics.median(times_s)}
    return Outcome((leader.command,), {"starts": starts}, values, {"seconds": times_s})


def _measure_idle(options: Options) -> Outcome:
    watched_s = _IDLE_S / _QUICK_SHARE if options.quick else _IDLE_S
    parameters = {"accounts": 100_000, "watched_s": watched_s}
    with options.leader() as leader:
        prepared, _ = run_json(
            *("client_app", "bench", "--target", leader.address),
            *("--accounts", "100000", "--commands", "1000"),
        )
        time.sleep(_SETTLE_S)
        begun_s, used_s = time.perf_counter(), leader.cpu_s()
        time.sleep(watched_s)
        used_s = leader.cpu_s() - used_s
        elapsed_s = time.perf_counter() - begun_s
        values = {"cpu": 100 * used_s / elapsed_s, "memory": leader.resident_mb()}
    result = {"cpu_percent": values["cpu"], "resident_mb": values["memory"]}
    return Outcome((leader.command, prepared), parameters, values, result)


def _rate(what: str, floor: float | None, aim: float | None) -> tuple[Figure]:
    return (Figure("rate", what, "/s", floor, aim),)


_TRANSFERS: Final = "transfers, batches of 1,024, 16 in flight, window full"
_SINGLE: Final = ("--batch", "1", "--in-flight", "1")
_BANK: Final = ("--contract", "bank", "--streams", "64", "--operation", "deposit")
_QUERY_DATA: Final = '{"singleBalanceQuery": {"id": 1, "correlationId": "any"}}'
_DEPOSIT_DATA: Final = '{"depositCommand": {"id": 1, "amount": 1, "correlationId": "any"}}'

ROWS: Final = (
    Row(
        "transfers",
        _rate(_TRANSFERS, 2e6, 4e6),
        _client(
            10_000_000,
            *("--accounts", "100000", "--batch", "1024", "--in-flight", "16"),
            warm_up=8_388_608,
        ),
        on_kafka=_rate(_TRANSFERS, 2.5e6, 5e6),
    ),
    Row(
        "single",
        (
            Figure("p50", "one command at a time, p50", "ms", 0.5, 0.15),
            Figure("p99", "one command at a time, p99", "ms", 3, 1),
        ),
        _client(10_000, *_SINGLE),
    ),
    Row(
        "open-loop",
        (Figure("p99", "open loop, 10,000 single commands/s, p99", "ms", 20, 3),),
        _client(300_000, "--rate", "10000"),
    ),
    Row(
        "callers",
        _rate("single commands, 64 callers through CommandStream", 40e3, 100e3),
        _client(300_000, "--callers", "64"),
    ),
    Row(
        "bank-16",
        _rate("bank contract, 64 streams, 16 in flight each", 25e3, 45e3),
        _client(200_000, *_BANK, "--in-flight", "16"),
    ),
    Row(
        "bank-1",
        _rate("bank contract, 64 streams, 1 in flight each", 25e3, 45e3),
        _client(100_000, *_BANK, "--in-flight", "1"),
    ),
    Row("ghz-echo", _rate("ghz, bare grpc.aio echo, the same calls", None, None), _ghz_echo),
    Row(
        "ghz-query",
        _rate("ghz, bank query, 200 concurrent, a stream each", 9e3, 12e3),
        _ghz("BalanceQueryService/sendQuery", _QUERY_DATA, deposits=False),
    ),
    Row(
        "ghz-deposit",
        _rate("ghz, bank deposit, 200 concurrent, a stream each", 7e3, 10e3),
        _ghz("BalanceCommandService/sendCommand", _DEPOSIT_DATA, deposits=True),
    ),
    Row(
        "kernel",
        _rate("kernel alone, transfers, 100,000 accounts, window full", 4e6, 8e6),
        _kernel("--accounts", "100000"),
    ),
    Row(
        "kernel-10m",
        _rate("kernel alone, transfers, 10 million accounts, window full", 2e6, 4e6),
        _kernel("--accounts", "10000000"),
    ),
    Row(
        "kernel-mix",
        _rate("kernel alone, the mix of operations, 100,000 accounts, window full", 3e6, None),
        _kernel("--accounts", "100000", "--mix"),
    ),
    Row(
        "growth",
        (
            Figure("account", "memory an account", "bytes", 160, None),
            Figure("hold", "memory an open hold", "bytes", 80, None),
            Figure("slowest", "slowest batch while growing to 10 million accounts", "ms", 50, None),
        ),
        _measure_growth,
    ),
    Row(
        "replay-1024",
        _rate("replay from SQLite, batches of 1,024", 3e6, 6e6),
        _replay(10_000_000, 1_024),
        on_kafka=_rate("replay from Kafka, batches of 1,024", 3e6, 6e6),
    ),
    Row(
        "replay-1",
        _rate("replay from SQLite, batches of 1", None, None),
        _replay(200_000, 1),
        on_kafka=_rate("replay from Kafka, batches of 1", None, None),
    ),
    Row(
        "start",
        (Figure("ready", "start to ready, empty journal, code cached", "s", 3, 1.5),),
        _measure_start,
    ),
    Row(
        "idle",
        (
            Figure("cpu", "idle leader, CPU of one core", "%", 2, 1),
            Figure("memory", "idle leader, memory with 100,000 accounts", "MB", 400, 250),
        ),
        _measure_idle,
    ),
)
