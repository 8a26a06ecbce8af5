"""`make bench-ghz`: what the edges cost, by clients that outrun a Python one, on one Kafka broker.

Each row runs on a leader of its own with the native edge, and next with grpc.aio. The load client
is `tests/load_client`, built here by cargo; ghz is found, or built with Go.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from client_app.bench_machine import ROOT, NotMeasured, cpu_s, find_ghz, fresh_folder, run_ghz
from tests.bench_engine import rows_named
from tests.bench_load_client import ask_load_client, load_client
from tests.bench_reads import READ_ROWS
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_row, run_rows, target
from tests.bench_services import kafka, server_versions

EDGES: Final = ("native", "grpcio")
_STREAMS: Final = 64
_SLOWER: Final = 20
"""By so much: else its turn would take minutes."""

_EXECUTE: Final = '{"command": {"deposit": {"credit_account": 1, "amount": 1}}}'


def _load(commands: int, in_flight: int, *rate: str) -> Callable[[Options], Outcome]:
    """Single deposits of the bank contract over long-lived streams; grpc.aio gets what it can."""

    def measure(options: Options) -> Outcome:
        program = load_client()
        slow = _SLOWER if "grpcio" in options.leader_flags else 1
        offered = options.count(commands if rate else commands // slow)
        counts = (str(_STREAMS), str(in_flight // min(slow, 8)), str(offered), *rate)
        with options.leader() as leader:
            # at a rate each command is a batch, and the broker's own code wants thousands of them
            warm_up = str(max(1, offered if rate else offered // 10))
            ask_load_client(program, leader.address, *counts[:2], warm_up, *rate)
            before_s = cpu_s(leader.pid)
            result = ask_load_client(program, leader.address, *counts)
            used_s = cpu_s(leader.pid) - before_s
        del result["waits_us"]
        cpu_us = 1e6 * used_s / result["done"]
        values = {"rate": result["commands_per_second"], "cpu": cpu_us, "p99": result["p99_ms"]}
        shown = " ".join((program.name, "HOST:PORT", *counts))
        parameters = {"streams": _STREAMS, "in_flight": int(counts[1]), "commands": result["done"]}
        return Outcome((leader.command, shown), parameters, values, result)

    return measure


def _measure_execute(options: Options) -> Outcome:
    """Unary typed commands. ghz's parser knows no `optional`, which is the same on the wire."""
    ghz = find_ghz(options.ghz)
    parameters = {"concurrency": 200, "connections": 8, "calls": options.count(60_000)}
    with fresh_folder() as folder, options.leader() as leader:
        contract = folder / "ledger.proto"
        text = (ROOT / "proto/ledger.proto").read_text()
        (ROOT / contract).write_text(text.replace("  optional ", "  "))
        options.run_json(
            *("client_app", "bench", "--target", leader.address),
            *("--accounts", "1000", "--commands", "1000"),
        )
        used_s = cpu_s(leader.pid)
        command, result = run_ghz(
            ghz,
            *("--insecure", "--proto", str(contract)),
            *("--call", "ringledger.v1.CommandService/Execute", "-d", _EXECUTE),
            *("-c", "200", "--connections", "8", "-n", str(parameters["calls"])),
            *("-O", "json", leader.address),
        )
        cpu_us = 1e6 * (cpu_s(leader.pid) - used_s) / parameters["calls"]
    values = {"rate": result["rps"], "cpu": cpu_us}
    return Outcome((leader.command, command), parameters, values, result)


def _of_engine(name: str, what: str, unit: str, floor: float, aim: float, key: str = "rate") -> Row:
    """A row of the engine with this table's goals; what a call costs the leader where it says."""
    [row] = rows_named(name)
    cpu = tuple(figure for figure in row.figures if figure.unit == "us")
    return replace(row, figures=(Figure(key, what, unit, floor, aim), *cpu), on_kafka=())


EDGE_ROWS: Final = (
    _of_engine("ghz-query", "ghz, bank query, 200 concurrent, a stream each", "/s", 38e3, 48e3),
    _of_engine("ghz-deposit", "ghz, bank deposit, 200 concurrent, a stream each", "/s", 28e3, 45e3),
    Row(
        "ghz-execute",
        (
            Figure("rate", "ghz, typed Execute, unary, 200 concurrent", "/s", 30e3, 45e3),
            Figure("cpu", "the same: CPU of the leader a call", "us"),
        ),
        _measure_execute,
    ),
    Row(
        "streams",
        (
            Figure("rate", "bank contract, 64 streams of single commands", "/s", 200e3, 500e3),
            Figure("cpu", "the same: CPU of the leader a command", "us", 2, 0.7),
        ),
        _load(2_000_000, 512),
    ),
    Row(
        "open-loop",
        (Figure("p99", "open loop, 10,000 single commands/s, p99", "ms", 3, 1),),
        _load(100_000, 512, "10000"),
    ),
    _of_engine("transfers", "transfers, batches of 1,024, 16 in flight", "/s", 3e6, 6e6),
    _of_engine("idle", "idle leader, CPU of a core", "%", 1, 0.5, "cpu"),
)


def _on(edge: str, row: Row) -> Row:
    """The row of one edge. Goals are the native one's."""
    figures = tuple(
        replace(
            one,
            what=f"{edge}: {one.what}",
            floor=one.floor if edge == "native" else None,
            aim=one.aim if edge == "native" else None,
        )
        for one in row.figures
    )
    return replace(row, name=f"{edge}-{row.name}", figures=figures)


def measure(options: Options) -> list[Report]:
    """Each row on both edges, then those of followers and of a bare echo."""
    # side by side: broker and machine change with time
    rows = [(edge, _on(edge, row)) for row in EDGE_ROWS for edge in EDGES]
    chosen = [(edge, row) for edge, row in rows if options.wants(row.name)]
    reports = run_rows([*rows_named("ghz-echo"), *READ_ROWS], options)
    if not chosen:
        return reports
    try:
        with kafka() as journal:
            own = replace(options, journal=journal)
            [transfers] = [row for row in EDGE_ROWS if row.name == "transfers"]
            # a broker's JVM compiles while it works
            run_row(transfers, replace(own, scale=own.scale / 10))
            for edge, row in chosen:
                reports += run_rows([row], replace(own, leader_flags=("--edge", edge)))
    except NotMeasured as reason:
        reports += [Report(row, not_measured=str(reason)) for _, row in chosen]
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen rows; returns the exit code."""
    names = ["ghz-echo", *(row.name for row in READ_ROWS)]
    names += [_on(edge, row).name for row in EDGE_ROWS for edge in EDGES]
    return target("ghz", measure, arguments, names=names, versions=server_versions)


if __name__ == "__main__":
    sys.exit(main())
