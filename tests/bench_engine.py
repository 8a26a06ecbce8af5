"""Rows of the engine alone: a fresh leader on an empty journal each, or a part of it measured.

They are the other benchmarks' to choose from, and what `make bench-compare` compares. One by
itself: `python -m tests.bench_engine --only transfers`, with `--journal` on a Kafka that runs.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from client_app.bench_machine import (
    RunFailed,
    cpu_s,
    find_ghz,
    fresh_echo,
    fresh_folder,
    fresh_journal,
    resident_mb,
    run_ghz,
)
from client_app.bench_tally import Totals
from client_core.channel import get_status, open_channel
from client_core.errors import RingledgerClientError
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, target

_STARTS: Final = 3
_IDLE_S: Final = 10.0
_SETTLE_S: Final = 2.0
"""After the load, before the idle leader is watched."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen rows; returns the exit code."""

    def measure(options: Options) -> list[Report]:
        return run_rows([row.on(options.journal) for row in ROWS], options)

    return target("engine", measure, arguments, names=[row.name for row in ROWS], journal=True)


def rows_named(*names: str) -> list[Row]:
    """These rows, in this order."""
    known = {row.name: row for row in ROWS}
    return [known[name] for name in names]


def _client(commands: int, *flags: str, warm_up: int | None = None) -> Callable[..., Outcome]:
    """A run of `python -m client_app bench` on a fresh leader."""

    def measure(options: Options) -> Outcome:
        warm = () if warm_up is None else ("--warm-up", str(options.count(warm_up)))
        counts = ("--commands", str(options.count(commands)), *warm)
        with options.leader() as leader:
            command, result = options.run_json(
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
            prepared, _ = options.run_json(
                *("client_app", "bench", "--target", leader.address),
                *("--accounts", "1000", "--commands", "1000"),
            )
            before, used_s = _totals(leader.address), cpu_s(leader.pid)
            command, result = run_ghz(
                ghz,
                *("--insecure", "--proto", "proto/balance.proto"),
                *("--call", f"gc.garcol.bank.proto.{service}", "-d", data),
                *("-c", "200", "--connections", "8", "-n", str(parameters["calls"])),
                *("-O", "json", leader.address),
            )
            used_s = cpu_s(leader.pid) - used_s
            after = _totals(leader.address)
        # Statuses of calls don't show what a reply said; a deposit of 1 each shows in the sums.
        moved = after.posted - before.posted
        if moved != (parameters["calls"] if deposits else 0):
            raise RunFailed(f"{command}: the ledger's balances grew by {moved}")
        values = {"rate": result["rps"], "cpu": 1e6 * used_s / parameters["calls"]}
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
        command, result = options.run_json(
            "cluster_app", "measure", "kernel", *flags, "--commands", commands
        )
        values = {"rate": result["commands_per_second"]["median"]}
        return Outcome((command,), result.pop("parameters"), values, result)

    return measure


def _measure_growth(options: Options) -> Outcome:
    counts = {"--accounts": options.count(10_000_000), "--holds": options.count(2_000_000)}
    flags = (part for name, count in counts.items() for part in (name, str(count)))
    command, result = options.run_json("cluster_app", "measure", "growth", *flags)
    values = {
        "account": result["account"]["bytes_each"],
        "hold": result["hold"]["bytes_each"],
        "slowest": result["account"]["slowest_batch_ms"],
    }
    return Outcome((command,), result.pop("parameters"), values, result)


def _replay(commands: int, batch: int) -> Callable[[Options], Outcome]:
    def measure(options: Options) -> Outcome:
        with (
            fresh_folder(options.tree) as folder,
            fresh_journal(options.journal, folder) as url,
        ):
            command, result = options.run_json(
                *("cluster_app", "measure", "replay", "--batch", str(batch)),
                *("--commands", str(options.count(commands)), "--journal", url),
            )
        values = {"rate": result["commands_per_second"]}
        return Outcome((command,), result.pop("parameters"), values, result)

    return measure


def _measure_start(options: Options) -> Outcome:
    """The first start, which may compile, is not counted."""
    starts = 1 if options.scale < 1 else _STARTS
    with options.leader():
        pass
    times_s = []
    for _ in range(starts):
        with options.leader() as leader:
            times_s.append(leader.ready_s)
    values = {"ready": statistics.median(times_s)}
    return Outcome((leader.command,), {"starts": starts}, values, {"seconds": times_s})


def _measure_idle(options: Options) -> Outcome:
    watched_s = _IDLE_S * options.scale
    parameters = {"accounts": 100_000, "watched_s": watched_s}
    with options.leader() as leader:
        prepared, _ = options.run_json(
            *("client_app", "bench", "--target", leader.address),
            *("--accounts", "100000", "--commands", "1000"),
        )
        time.sleep(_SETTLE_S)
        begun_s, used_s = time.perf_counter(), cpu_s(leader.pid)
        time.sleep(watched_s)
        used_s = cpu_s(leader.pid) - used_s
        elapsed_s = time.perf_counter() - begun_s
        values = {"cpu": 100 * used_s / elapsed_s, "memory": resident_mb(leader.pid)}
    result = {"cpu_percent": values["cpu"], "resident_mb": values["memory"]}
    return Outcome((leader.command, prepared), parameters, values, result)


def _called(what: str, floor: float, aim: float) -> tuple[Figure, Figure]:
    cpu = Figure("cpu", "the same: CPU of the leader a call", "us")
    return (Figure("rate", what, "/s", floor, aim), cpu)


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
            warm_up=16_777_216,  # at --scale 0.3 it still fills the window
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
        _called("ghz, bank query, 200 concurrent, a stream each", 9e3, 12e3),
        _ghz("BalanceQueryService/sendQuery", _QUERY_DATA, deposits=False),
    ),
    Row(
        "ghz-deposit",
        _called("ghz, bank deposit, 200 concurrent, a stream each", 7e3, 10e3),
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


if __name__ == "__main__":
    sys.exit(main())
