"""What every benchmark writes: rows with their runs in one JSON envelope, and a table for people.

A Row measures some Figures; run several times it gives a Report with as many Outcomes, of which
the median counts. A missed floor is marked and is no failure; a run that failed is.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import (
    BUILD,
    ROOT,
    SQLITE,
    Leader,
    NotMeasured,
    RunFailed,
    describe_commit,
    describe_machine,
    describe_versions,
    fresh_leader,
    read_journal,
    run_json,
)
from tests.service_programs import ServiceFailed

FORMAT: Final = 1
"""Of the envelope; one who reads another says so."""

MAX_RUNS: Final = 100
_FAULTS: Final = (RunFailed, ServiceFailed, AssertionError, OSError, subprocess.SubprocessError)
"""What ends a row, and not the half hour that others took: tests' own servers assert."""

_BELOW: Final = "BELOW FLOOR"
_MORE_IS_BETTER: Final = ("/s", "x")


@dataclass(frozen=True)
class Figure:
    """One line of the table: `floor` and `aim` in `unit`; None where there is none to reach."""

    key: str
    what: str
    unit: str
    floor: float | None = None
    aim: float | None = None

    @property
    def more_is_better(self) -> bool:
        """Rates and ratios are to be high, times and sizes low."""
        return self.unit in _MORE_IS_BETTER

    def misses_floor(self, value: float) -> bool:
        """True when `value` is worse than the floor."""
        if self.floor is None:
            return False
        return value < self.floor if self.more_is_better else value > self.floor

    def shown(self, value: float | None) -> str:
        """A value with its unit, three digits."""
        return shown(value, self.unit)


@dataclass(frozen=True)
class Outcome:
    """What one run of a row gave: `values` by Figure.key; `result` is the program's own report."""

    commands: Sequence[str]
    parameters: Mapping[str, Any]
    values: Mapping[str, float]
    result: Mapping[str, Any] | Sequence[Any] = ()


@dataclass(frozen=True)
class Options:
    """The command line. `journal` is SQLITE or kafka://HOST:PORT/PREFIX; `tree` the code's."""

    only: Sequence[str] = ()
    scale: float = 1.0
    runs: int = 1
    ghz: Path | None = None
    json: Path = BUILD / "bench.json"
    journal: str = SQLITE
    leader_flags: Sequence[str] = ()
    tree: Path = ROOT

    def leader(self) -> AbstractContextManager[Leader]:
        """A leader on an empty journal."""
        return fresh_leader(self.journal, self.leader_flags, self.tree)

    def run_json(self, module: str, *arguments: str) -> tuple[str, dict[str, Any]]:
        """A program of the tree: its command line and the object of its last line."""
        return run_json(module, *arguments, tree=self.tree)

    def count(self, count: int) -> int:
        """So many, or fewer where the scale is below 1; never none."""
        return max(1, round(count * self.scale))

    def wants(self, *names: str) -> bool:
        """Whether one of these rows was asked for."""
        return not self.only or any(fnmatch(name, only) for name in names for only in self.only)


@dataclass(frozen=True)
class Row:
    """One measurement and its figures; `on_kafka` are those of a Kafka journal.

    `axes` say where the row lies in a sweep: {"journal": "kafka", "batch": 64}.
    """

    name: str
    figures: Sequence[Figure]
    measure: Callable[[Options], Outcome]
    on_kafka: Sequence[Figure] = ()
    axes: Mapping[str, str | int] = field(default_factory=dict)
    runs_least: int = 1
    """Where a headline needs more than one."""

    def on(self, journal: str) -> "Row":
        """The row with the figures of that journal."""
        return self if journal == SQLITE else replace(self, figures=self.on_kafka or self.figures)


@dataclass(frozen=True)
class Run:
    """One time that a row was measured; the load average shows whether others were at work."""

    outcome: Outcome
    begun: str
    seconds: float
    load_before: float


@dataclass
class Report:
    """A row after its runs: their outcomes, or why there is none."""

    row: Row
    runs: list[Run] = field(default_factory=list)
    not_measured: str = ""
    failed: str = ""

    def values(self, key: str) -> list[float]:
        """A figure's value in each run."""
        return [run.outcome.values[key] for run in self.runs]

    def measured(self, key: str) -> float | None:
        """A figure's median over the runs."""
        values = self.values(key)
        return statistics.median(values) if values else None


def run_row(row: Row, options: Options, report: Report | None = None) -> Report:
    """Measure a row once, into `report` if it was measured before; what goes wrong is told there.

    Progress goes to standard error.
    """
    report = Report(row) if report is None else report
    if report.failed or report.not_measured:
        return report
    print(f"{row.name} ...", file=sys.stderr, flush=True)
    begun, load = _now(), os.getloadavg()[0]
    start = time.perf_counter()
    try:
        outcome = row.measure(options)
    except NotMeasured as reason:
        report.not_measured = str(reason)
    except _FAULTS as error:
        report.failed = str(error) or type(error).__name__
    else:
        report.runs.append(Run(outcome, begun, time.perf_counter() - start, load))
    told = "; ".join(f"{figure.what}: {_newest(report, figure)}" for figure in row.figures)
    print(f"{row.name}, {time.perf_counter() - start:.1f} s: {told}", file=sys.stderr, flush=True)
    return report


def run_rows(rows: Iterable[Row], options: Options) -> list[Report]:
    """Measure the chosen rows, `options.runs` times round, so that a drift shows in each."""
    reports = [Report(row) for row in rows if options.wants(row.name)]
    rounds = max((max(options.runs, report.row.runs_least) for report in reports), default=0)
    for number in range(rounds):
        for report in reports:
            if number < max(options.runs, report.row.runs_least):
                run_row(report.row, options, report)
    return reports


def unmeasured(rows: Iterable[Row], error: NotMeasured | RunFailed) -> list[Report]:
    """Reports of rows that none of can be had, and why."""
    if isinstance(error, RunFailed):
        return [Report(row, failed=str(error)) for row in rows]
    return [Report(row, not_measured=str(error)) for row in rows]


def single_report(row: Row, outcome: Outcome) -> Report:
    """A report that was worked out, not run."""
    return Report(row, [Run(outcome, _now(), 0.0, os.getloadavg()[0])])


def target(
    name: str,
    measure: Callable[[Options], list[Report]],
    arguments: Sequence[str] | None,
    *,
    names: Sequence[str],
    versions: Callable[[], Mapping[str, str]] = dict,
    journal: bool = False,
) -> int:
    """A benchmark's whole program, `python -m tests.bench_NAME`, from its flags to its JSON.

    `names` are the rows that `--only` takes. Returns the exit code:
    0 well, 1 a run failed, 2 wrong flags.
    """
    options = _read_options(name, names, arguments, journal=journal)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    about = {
        "format": FORMAT,
        "target": name,
        "command": f"python -m tests.bench_{name} {given}".strip(),
        "begun": _now(),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions() | dict(versions()),
        "scale": options.scale,
        "only": list(options.only),
    }
    start = time.perf_counter()
    try:
        reports = measure(options)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    about["seconds"] = round(time.perf_counter() - start, 1)
    return publish(reports, about, options)


def publish(reports: Sequence[Report], about: Mapping[str, Any], options: Options) -> int:
    """Print the table, write the JSON; returns the exit code, 1 when a run failed."""
    print(_table(reports))
    if options.scale < 1:
        print(f"\n--scale {options.scale:g}: for trying; these figures compare with nothing")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = {"rows": [_row_as_json(report) for report in reports]}
    options.json.write_text(json.dumps({**about, **rows}, indent=1) + "\n")
    print(f"\nwritten to {options.json}")
    for report in reports:
        if report.failed:
            print(f"{report.row.name} failed: {report.failed}", file=sys.stderr)
    return 1 if any(report.failed for report in reports) else 0


def shown(value: float | None, unit: str) -> str:
    """A value for people, three digits: `1.8 M/s`, `4.3 ms`, `-` for none."""
    if value is None:
        return "-"
    for limit, name in ((1e6, " M"), (1e3, " k")) if unit == "/s" else ():
        if abs(value) >= limit:
            return f"{_digits(value / limit)}{name}{unit}"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    """Three digits, whole numbers whole: 1.80, 12.3, 0.0123, 1,234."""
    if value == 0:
        return "0"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    places = max(0, 2 - int(f"{abs(value):e}".partition("e")[2]))
    return f"{value:.{places}f}"


def _read_options(
    name: str, names: Sequence[str], arguments: Sequence[str] | None, *, journal: bool
) -> Options:
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.bench_{name}",
        description="Measure on servers of its own on this machine; print a table, write JSON.",
    )
    add = parser.add_argument
    add(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help=f"these rows alone, as 'kafka-*'; may be repeated: {', '.join(names)}",
    )
    add("--scale", type=float, default=1.0, metavar="F", help="of the counts: 0.01 for trying (1)")
    add("--runs", type=int, default=1, metavar="N", help="of each row; the median counts (1)")
    add("--ghz", type=Path, metavar="PATH", help="ghz (PATH, or built with Go)")
    path = BUILD / f"bench-{name}.json"
    add("--json", type=Path, default=path, metavar="PATH", help=f"(build/{path.name})")
    if journal:
        add(
            "--journal",
            type=read_journal,
            default=SQLITE,
            metavar="URL",
            help="kafka://HOST:PORT[,...]/PREFIX: new topics, deleted afterwards (%(default)s)",
        )
        add(
            "--leader-flag",
            action="append",
            dest="leader_flags",
            default=[],
            metavar="FLAG",
            help="of every leader, as --leader-flag=--max-streams=64; may be repeated",
        )
    options = Options(**vars(parser.parse_args(arguments)))
    if not 0 < options.scale <= 1 or not 1 <= options.runs <= MAX_RUNS:
        parser.error(f"give --scale above 0, 1 at most, and --runs 1 to {MAX_RUNS}")
    for only in options.only:
        if not any(fnmatch(name, only) for name in names):
            parser.error(f"--only {only}: there is none; there are {', '.join(names)}")
    if options.ghz is not None and not options.ghz.is_file():
        parser.error(f"--ghz {options.ghz}: no such file")
    return options


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _newest(report: Report, figure: Figure) -> str:
    if report.failed or report.not_measured or not report.runs:
        return _measured(report, figure)
    return figure.shown(report.values(figure.key)[-1])


def _measured(report: Report, figure: Figure) -> str:
    if report.failed:
        return "FAILED"
    value = report.measured(figure.key)
    if value is None:
        return f"not measured: {report.not_measured}"
    return figure.shown(value) + (f" {_BELOW}" if figure.misses_floor(value) else "")


def _table(reports: Sequence[Report]) -> str:
    """A table that Markdown renders too."""
    lines = [("what", "measured", "floor", "aim")]
    lines += [
        (
            figure.what,
            _measured(report, figure),
            figure.shown(figure.floor),
            figure.shown(figure.aim),
        )
        for report in reports
        for figure in report.row.figures
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    lines.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _row_as_json(report: Report) -> dict[str, Any]:
    last = report.runs[-1].outcome if report.runs else Outcome((), {}, {})
    return {
        "name": report.row.name,
        "axes": dict(report.row.axes),
        "commands": list(last.commands),
        "parameters": dict(last.parameters),
        "figures": [_figure_as_json(report, figure) for figure in report.row.figures],
        "runs": [
            {
                "begun": run.begun,
                "seconds": round(run.seconds, 3),
                "load_before": run.load_before,
                "values": dict(run.outcome.values),
                "result": run.outcome.result,
            }
            for run in report.runs
        ],
        "not_measured": report.not_measured or None,
        "failed": report.failed or None,
    }


def _figure_as_json(report: Report, figure: Figure) -> dict[str, Any]:
    values, value = report.values(figure.key), report.measured(figure.key)
    return {
        **asdict(figure),
        "measured": value,
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "misses_floor": None if value is None else figure.misses_floor(value),
    }
