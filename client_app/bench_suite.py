"""`make bench`: every figure that the engine must reach, measured, as a table and as JSON.

Each row that needs a leader gets a fresh one, on an empty journal, on this machine: client and
leader share its cores. A missed floor is marked and is no failure; a run that failed is.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import (
    BUILD,
    SQLITE,
    NotMeasured,
    RunFailed,
    describe_commit,
    describe_machine,
    describe_versions,
    read_journal,
)
from client_app.bench_rows import ROWS, Figure, Options, Outcome, Row

_BELOW: Final = "BELOW FLOOR"


@dataclass
class Report:
    """A row after its run: an outcome, or why there is none."""

    row: Row
    outcome: Outcome | None = None
    not_measured: str = ""
    failed: str = ""
    seconds: float = 0.0
    begun: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    """Load average of the minute before: shows whether others were at work too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""
    options = _read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    about = {
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "quick": options.quick,
    }
    chosen = [row for row in ROWS if not options.only or row.name in options.only]
    try:
        reports = [run_row(row.on(options.journal), options) for row in chosen]
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return publish(reports, about, options)


def publish(reports: Sequence[Report], about: Mapping[str, Any], options: Options) -> int:
    """Print the table, write the JSON; returns the exit code, 1 when a run failed."""
    print(_table(reports))
    if options.quick:
        print("\n--quick: a tenth of the counts, for trying; these figures compare with nothing")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = {"rows": [_row_as_json(report) for report in reports]}
    options.json.write_text(json.dumps({**about, **rows}, indent=2) + "\n")
    print(f"\nwritten to {options.json}")
    for report in reports:
        if report.failed:
            print(f"{report.row.name} failed: {report.failed}", file=sys.stderr)
    return 1 if any(report.failed for report in reports) else 0


def _read_options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m client_app.bench_suite",
        description="Measure leaders of its own on this machine; print a table, write JSON.",
    )
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        default=[],
        metavar="NAME",
        help=f"this row alone; may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts, for trying")
    parser.add_argument("--ghz", type=Path, metavar="PATH", help="ghz (PATH, or built with Go)")
    parser.add_argument(
        "--json", type=Path, default=BUILD / "bench.json", metavar="PATH", help="(build/bench.json)"
    )
    parser.add_argument(
        "--journal",
        type=read_journal,
        default=SQLITE,
        metavar="URL",
        help="kafka://HOST:PORT[,...]/PREFIX: new topics there, deleted afterwards (%(default)s)",
    )
    parser.add_argument(
        "--leader-flag",
        action="append",
        dest="leader_flags",
        default=[],
        metavar="FLAG",
        help="of every leader, as --leader-flag=--max-streams=64; may be repeated",
    )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.ghz is not None and not options.ghz.is_file():
        parser.error(f"--ghz {options.ghz}: no such file")
    return options


def run_row(row: Row, options: Options) -> Report:
    """Measure one row; what goes wrong is in the report. Progress goes to standard error."""
    print(f"{row.name} ...", file=sys.stderr, flush=True)
    report, start = Report(row), time.perf_counter()
    try:
        report.outcome = row.measure(options)
    except NotMeasured as reason:
        report.not_measured = str(reason)
    except RunFailed as error:
        report.failed = str(error)
    report.seconds = time.perf_counter() - start
    told = "; ".join(f"{figure.what}: {_measured(report, figure)}" for figure in row.figures)
    print(f"{row.name}, {report.seconds:.1f} s: {told}", file=sys.stderr, flush=True)
    return report


def _measured(report: Report, figure: Figure) -> str:
    if report.outcome is None:
        return f"not measured: {report.not_measured}" if report.not_measured else "FAILED"
    value = report.outcome.values[figure.key]
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
    outcome = report.outcome
    figures = []
    for figure in report.row.figures:
        value = None if outcome is None else outcome.values[figure.key]
        missed = None if value is None else figure.misses_floor(value)
        figures.append({**asdict(figure), "measured": value, "misses_floor": missed})
    return {
        "name": report.row.name,
        "begun": report.begun,
        "seconds": round(report.seconds, 3),
        "load_before": report.load_before,
        "commands": list(outcome.commands) if outcome else [],
        "parameters": dict(outcome.parameters) if outcome else {},
        "figures": figures,
        "result": outcome.result if outcome else None,
        "not_measured": report.not_measured or None,
        "failed": report.failed or None,
    }


if __name__ == "__main__":
    sys.exit(main())
