"""`make bench-kafka`: the engine's figures on Kafka journals, beside SQLite and PostgreSQL.

Throw-away servers on this machine, one setting after the other, so that only one runs at a time:
PostgreSQL (the peer), one broker that answers from its page cache, PostgreSQL again, SQLite, one
broker that syncs each batch, three brokers of which two must have it. Rows are the bench suite's.
"""

import argparse
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import psycopg

from client_app.bench_machine import (
    BUILD,
    ROOT,
    SQLITE,
    NotMeasured,
    describe_commit,
    describe_machine,
    describe_versions,
    fresh_folder,
    run_json,
)
from client_app.bench_rows import ROWS, Figure, Options, Outcome, Row
from client_app.bench_suite import Report, publish, run_row
from tests.service_programs import (
    KAFKA_VERSION,
    ServiceFailed,
    java_program,
    missing_for_kafka,
    missing_for_postgres,
    postgres_programs,
)
from tests.services import KafkaCluster

PEER_TRANSFERS: Final = 1_000_000
FREE_BYTES_LEAST: Final = 20 * 10**9
"""The largest run writes 4 GB, and a deleted topic's files go a little later."""

BROKER_PROPERTIES: Final = {
    # A deleted topic's files stay a minute by default: with them the disk fills up.
    "log.segment.delete.delay.ms": "1000",
}
_HEAP: Final = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")
_SMALL_HEAP: Final = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC")
"""Three brokers share the machine with leader and client."""

_PEER: Final = "postgres"
_TRANSFERS: Final = "transfers"
_NO_GOAL: Final = (None, None)
_WARM_UPS: Final = 2


@dataclass(frozen=True)
class Setting:
    """Where the journal is while some of the suite's rows run; no `brokers` means SQLite.

    `goals` are a row's floor and aim where they differ from the suite's.
    """

    name: str
    what: str
    rows: Sequence[str]
    brokers: int = 0
    java_flags: Sequence[str] = ()
    leader_flags: Sequence[str] = ()
    goals: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def own_rows(self) -> list[Row]:
        """The suite's rows under names and with figures of this setting."""
        journal = "kafka://" if self.brokers else SQLITE
        return [self._own(row.on(journal)) for row in ROWS if row.name in self.rows]

    def _own(self, row: Row) -> Row:
        figures = []
        for figure in row.figures:
            floor, aim = self.goals.get(row.name, (figure.floor, figure.aim))
            what = f"{self.what}: {figure.what}"
            figures.append(replace(figure, what=what, floor=floor, aim=aim))
        return replace(row, name=f"{self.name}-{row.name}", figures=figures)


PAGE_CACHE: Final = Setting(
    "kafka",
    "Kafka, one broker, acks=all (page cache)",
    (_TRANSFERS, "single", "open-loop", "replay-1024"),
    brokers=1,
    java_flags=_HEAP,
)
EMBEDDED: Final = Setting("sqlite", "SQLite, synced", (_TRANSFERS,))
FLUSHED: Final = Setting(
    "flush",
    "Kafka, one broker, flush.messages=1",
    (_TRANSFERS, "single"),
    brokers=1,
    java_flags=_HEAP,
    leader_flags=("--kafka-topic-properties=flush.messages=1",),
    goals={_TRANSFERS: (1.2e6, 2.5e6), "single": _NO_GOAL},
)
REPLICATED: Final = Setting(
    "rf3",
    "Kafka, three brokers, RF 3, min ISR 2",
    (_TRANSFERS, "single"),
    brokers=3,
    java_flags=_SMALL_HEAP,
    leader_flags=(
        "--kafka-replication-factor=3",
        "--kafka-topic-properties=min.insync.replicas=2",
    ),
    goals={_TRANSFERS: _NO_GOAL, "single": _NO_GOAL},
)
STEPS: Final = (_PEER, PAGE_CACHE, _PEER, EMBEDDED, FLUSHED, REPLICATED)
"""The peer before and after the one it is compared with: a machine's speed drifts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the settings; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""
    options = _read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    BUILD.mkdir(exist_ok=True)
    free_bytes = shutil.disk_usage(BUILD).free
    if free_bytes < FREE_BYTES_LEAST:
        print(
            f"warning: {free_bytes / 1e9:.1f} GB are free under {BUILD}, "
            f"a whole run may need {FREE_BYTES_LEAST / 1e9:.0f} GB",
            file=sys.stderr,
        )
    about = {
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions() | _server_versions(),
        "quick": options.quick,
    }
    reports: list[Report] = []
    try:
        for step in STEPS:
            reports += _measure(step, options)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    reports += compare(reports)
    return publish(reports, about, options)


def compare(reports: Sequence[Report]) -> list[Report]:
    """The transfers of each journal over the median of the peer's: one report, or none."""
    peers = [
        report.outcome.values["rate"]
        for report in reports
        if report.row.name == _PEER and report.outcome is not None
    ]
    rows = [report for report in reports if report.row.name.endswith(f"-{_TRANSFERS}")]
    ours = {report.row.name: report.outcome for report in rows if report.outcome is not None}
    if not peers or not ours:
        return []
    peer = statistics.median(peers)
    figures, values = [], {}
    for setting in (PAGE_CACHE, EMBEDDED, FLUSHED, REPLICATED):
        name = f"{setting.name}-{_TRANSFERS}"
        if name in ours:
            goals = (15.0, 30.0) if setting is PAGE_CACHE else _NO_GOAL
            figures.append(Figure(name, f"{setting.what}: times the peer's", "x", *goals))
            values[name] = ours[name].values["rate"] / peer
    outcome = Outcome((), {"peer": "the median of its runs"}, values, peers)
    return [Report(Row("ratio", figures, lambda _: outcome), outcome)]


def _read_options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_durability",
        description="Measure leaders on Kafka journals of their own; print a table, write JSON.",
    )
    settings = [step for step in STEPS if isinstance(step, Setting)]
    names = [_PEER, *(setting.name for setting in settings)]
    names += [row.name for setting in settings for row in setting.own_rows()]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        default=[],
        metavar="NAME",
        help=f"this row or setting alone; may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts, for trying")
    parser.add_argument(
        "--json",
        type=Path,
        default=BUILD / "bench-kafka.json",
        metavar="PATH",
        help="(build/bench-kafka.json)",
    )
    return Options(**vars(parser.parse_args(arguments)), ghz=None)


def _measure(step: Setting | str, options: Options) -> list[Report]:
    """The reports of one step's chosen rows; none of its servers runs afterwards."""
    if isinstance(step, str):
        figures = (Figure("rate", "PostgreSQL, one SQL function: transfers", "/s", None, None),)
        peer = Row(_PEER, figures, _measure_peer)
        return [run_row(peer, options)] if not options.only or _PEER in options.only else []
    wanted = {*options.only}
    rows = [row for row in step.own_rows() if not wanted or wanted & {step.name, row.name}]
    if not rows:
        return []
    if step.brokers and (missing := missing_for_kafka()):
        return [Report(row, not_measured=missing) for row in rows]
    try:
        with _journal(step) as journal:
            own = replace(options, journal=journal, leader_flags=step.leader_flags)
            if step.brokers:
                _warm_up(own)
            return [run_row(row, own) for row in rows]
    except ServiceFailed as error:
        return [Report(row, failed=str(error)) for row in rows]


def _warm_up(options: Options) -> None:
    """The transfers, uncounted: a broker's JVM compiles while it works, for a minute at first."""
    [transfers] = [row for row in ROWS if row.name == _TRANSFERS]
    for _ in range(_WARM_UPS):
        run_row(transfers, options)


@contextmanager
def _journal(setting: Setting) -> Iterator[str]:
    """What the suite takes as --journal, with its brokers behind it. Raises ServiceFailed."""
    with ExitStack() as stack:
        if not setting.brokers:
            yield SQLITE
            return
        folder = stack.enter_context(fresh_folder())
        cluster = KafkaCluster(
            ROOT / folder,
            setting.brokers,
            BROKER_PROPERTIES,
            java_flags=setting.java_flags,
        )
        yield f"kafka://{stack.enter_context(cluster).bootstrap}/bench"


def _measure_peer(options: Options) -> Outcome:
    if missing := missing_for_postgres():
        raise NotMeasured(missing)
    transfers = str(options.count(PEER_TRANSFERS))
    command, result = run_json("tests.bench_postgres", "--transfers", transfers)
    values = {"rate": result["transfers_per_second"]}
    return Outcome((command,), result.pop("parameters"), values, result)


def _server_versions() -> dict[str, str]:
    versions = {"kafka": KAFKA_VERSION, "psycopg": psycopg.__version__}
    programs, java = postgres_programs(), java_program()
    if programs is not None:
        versions["postgres"] = _first_line(str(programs / "postgres"), "--version")
    if java is not None:
        versions["java"] = _first_line(java, "-version")
    return versions


def _first_line(*command: str) -> str:
    """What a program says of its version, or that it says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    found = re.search(r"\S.*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


if __name__ == "__main__":
    sys.exit(main())
