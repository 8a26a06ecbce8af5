"""`make bench-latency`: latency by offered rate, to the point where it breaks (open loop).

Single transfers with ids are sent when they are due, whatever the answers do, and a latency begins
at that moment: nothing is left out when the ledger stalls. A rate is broken when less than 95 % of
it was served or p99 is over a second; after two of these the sweep ends. The client is
Python's; `rust` rows are single deposits of the bank contract by `tests/load_client`, which a
Python client can't offer.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram

from client_app.bench_machine import SQLITE, NotMeasured, RunFailed, cpu_s
from tests.bench_drive import WINDOW, Serving, drive_messages, drive_open_loop, open_accounts
from tests.bench_load_client import ask_load_client, load_client
from tests.bench_reads import LAG_ROW
from tests.bench_report import (
    Figure,
    Options,
    Outcome,
    Report,
    Row,
    run_row,
    run_rows,
    target,
    unmeasured,
)
from tests.bench_services import kafka, server_versions

CANONICAL: Final = 10_000
"""Commands a second of the headline."""

_LOW: Final = (1_000, 5_000, CANONICAL, 20_000, 40_000, 60_000, 80_000)
RATES: Final = (*_LOW, 100_000, 150_000, 200_000, 300_000, 400_000)
_RUST_LOW: Final = (CANONICAL, 50_000, 100_000, 200_000, 400_000)
RUST_RATES: Final = (*_RUST_LOW, 600_000, 800_000, 1_000_000, 1_400_000, 2_000_000)
ACCOUNTS: Final = 100_000
SERVED_LEAST: Final = 0.95
P99_MS_MOST: Final = 1_000.0

_SECONDS: Final = 5
_CANONICAL_S: Final = 10
_CANONICAL_RUNS: Final = 3
_BROKEN_MOST: Final = 2
_WARM_UP_BATCH: Final = 1_024
_WARM_UP_PACED: Final = 100_000
"""After the window is full: what a steady pace calls for has been compiled and allocated."""

_RUST_STREAMS: Final = 64
_RUST_IN_FLIGHT: Final = 512
_HIGHEST_US: Final = 120_000_000
_DIGITS: Final = 3
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


def histogram_of(latencies_us: Any) -> HdrHistogram:
    """An HdrHistogram of 1 us to 2 minutes with three digits, of latencies in us (array)."""
    histogram = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    values, counts = np.unique(np.clip(latencies_us, 1, _HIGHEST_US), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(int(value), int(count))
    return histogram


def percentiles_ms(histogram: HdrHistogram) -> dict[str, float]:
    """What the figures show, in ms."""
    return {
        name: histogram.get_value_at_percentile(share) / 1e3 for name, share in PERCENTILES.items()
    }


def _values(histogram: HdrHistogram, rate: float, leader_cpu_us: float) -> dict[str, float]:
    return percentiles_ms(histogram) | {"rate": rate, "leader_cpu": leader_cpu_us}


def _result(histogram: HdrHistogram, values: dict[str, float]) -> dict[str, Any]:
    return values | {"hdr_histogram_us": histogram.encode().decode()}


def _figures(what: str, rate: int) -> tuple[Figure, ...]:
    goals = (3.0, 1.0) if rate == CANONICAL else (None, None)
    return (
        Figure("rate", f"{what}, {rate:,} a second offered: served", "/s"),
        Figure("p50", "p50", "ms"),
        Figure("p99", "p99", "ms", *goals),
        Figure("p999", "p99.9", "ms"),
        Figure("max", "max", "ms"),
        Figure("leader_cpu", "CPU of the leader a command", "us"),
    )


def _phase_s(rate: int) -> int:
    return _CANONICAL_S if rate == CANONICAL else _SECONDS


def broke(values: Mapping[str, float], offered: float) -> bool:
    """Whether the ledger no longer keeps up with this rate."""
    return values["rate"] < SERVED_LEAST * offered or values["p99"] > P99_MS_MOST


Point = Callable[[int, Options], Outcome]


def settle(options: Options) -> None:
    """Write what filling the window has left in the page cache: a steady pace has no such past."""
    if options.scale == 1:
        os.sync()


def _python_point(leader: Serving, options: Options) -> Point:
    accounts = open_accounts(leader, options.count(ACCOUNTS) + 1)
    drive_messages(leader, accounts, options.count(2 * WINDOW), batch=_WARM_UP_BATCH)
    settle(options)
    drive_open_loop(leader, accounts, options.count(_WARM_UP_PACED), rate=CANONICAL)

    def measure(rate: int, own: Options) -> Outcome:
        commands = own.count(rate * _phase_s(rate))
        done = drive_open_loop(leader, accounts, commands, rate=rate)
        histogram = histogram_of(done.latencies_ns // 1_000)
        values = _values(histogram, done.rate, done.leader_cpu_us)
        shown = f"python -m client_app bench --target HOST:PORT --rate {rate} --commands {commands}"
        return Outcome((shown,), {"commands": commands}, values, _result(histogram, values))

    return measure


def _rust_point(leader: Serving, options: Options) -> Point:
    program = load_client()
    shape = (str(_RUST_STREAMS), str(_RUST_IN_FLIGHT))
    accounts = open_accounts(leader, options.count(ACCOUNTS) + 1)
    drive_messages(leader, accounts, options.count(2 * WINDOW), batch=_WARM_UP_BATCH)
    settle(options)
    paced = (str(options.count(_WARM_UP_PACED)), str(CANONICAL))
    ask_load_client(program, leader.address, *shape, *paced)

    def measure(rate: int, own: Options) -> Outcome:
        commands = own.count(rate * _phase_s(rate))
        counts = (*shape, str(commands), str(rate))
        used_s = cpu_s(leader.pid)
        result = ask_load_client(program, leader.address, *counts)
        used_us = (cpu_s(leader.pid) - used_s) * 1e6 / commands
        waits = np.repeat(*np.array(result.pop("waits_us"), np.int64).reshape(-1, 2).T)
        histogram = histogram_of(waits)
        values = _values(histogram, result["commands_per_second"], used_us)
        shown = " ".join((program.name, "HOST:PORT", *counts))
        return Outcome((shown,), {"commands": commands}, values, _result(histogram, values))

    return measure


@dataclass(frozen=True)
class Series:
    """A sweep: where the journal is, who sends, and at which rates."""

    name: str
    what: str
    journal: str
    rates: Sequence[int]
    start: Callable[[Serving, Options], Point]

    def names(self) -> list[str]:
        """Its rows."""
        return [f"{self.name}-{rate}" for rate in self.rates]


SERIES: Final = (
    Series("kafka", "Kafka: single transfers, open loop", "kafka", RATES, _python_point),
    Series(
        "rust",
        "Kafka: single deposits of the bank contract, client in Rust",
        "kafka",
        RUST_RATES,
        _rust_point,
    ),
    Series("sqlite", "SQLite: single transfers, open loop", "sqlite", RATES, _python_point),
)


def sweep(series: Series, point: Point, options: Options) -> list[Report]:
    """The chosen rates upwards, until two in a row are broken: one may be a hiccup."""
    reports: list[Report] = []
    broken = 0
    for rate in series.rates:
        name = f"{series.name}-{rate}"
        if not options.wants(name):
            continue

        def measure(own: Options, rate: int = rate) -> Outcome:
            return point(rate, own)

        axes: dict[str, str | int] = {"series": series.name, "offered": rate}
        row = Row(name, _figures(series.what, rate), measure, axes=axes)
        reports.append(report := Report(row))
        least = _CANONICAL_RUNS if rate == CANONICAL else 1
        for _ in range(max(options.runs, least)):
            run_row(row, options, report)
        if not report.runs:
            if broken:  # the ledger refuses what it can't serve: that is an answer
                report.not_measured, report.failed = f"broken: {report.failed}", ""
            break
        medians = {key: report.measured(key) or 0.0 for key in ("rate", "p99")}
        broken = broken + 1 if broke(medians, rate) else 0
        if broken == _BROKEN_MOST:
            break
    return reports


def _measure_series(series: Series, options: Options) -> list[Report]:
    """A broker and a leader of its own."""
    if not options.wants(*series.names()):
        return []
    try:
        with kafka() if series.journal == "kafka" else nullcontext(SQLITE) as journal:
            own = replace(options, journal=journal)
            with own.leader() as leader:
                return sweep(series, series.start(leader, own), own)
    except (NotMeasured, RunFailed) as error:
        return unmeasured([Row(series.name, _figures(series.what, CANONICAL), _never)], error)


def _never(_: Options) -> Outcome:
    raise RunFailed("this row only tells why there is none")


def measure(options: Options) -> list[Report]:
    """All chosen rows."""
    reports = [report for series in SERIES for report in _measure_series(series, options)]
    return [*reports, *run_rows([LAG_ROW], options)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweeps; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""
    names = [*(name for series in SERIES for name in series.names()), LAG_ROW.name]
    return target("latency", measure, arguments, names=names, versions=server_versions)


if __name__ == "__main__":
    sys.exit(main())
