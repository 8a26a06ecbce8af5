"""`make bench-throughput`: transfers a second by batch size and by journal, beside its peers.

Throw-away servers on this machine, one setting after the other, so that only one runs at a time:
PostgreSQL (the peer), one broker that answers from its page cache, PostgreSQL again, the other
peers, SQLite, one broker that syncs each batch, three brokers of which two must have it. A leader
serves all batch sizes of its setting; its window of recent ids is full before any counts.
"""

import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from client_app.bench_machine import BUILD, SQLITE, NotMeasured, RunFailed
from tests.bench_drive import (
    IN_FLIGHT,
    WINDOW,
    Accounts,
    Serving,
    drive_messages,
    open_accounts,
)
from tests.bench_engine import rows_named
from tests.bench_peers import PEER_ROWS
from tests.bench_report import (
    Figure,
    Options,
    Outcome,
    Report,
    Row,
    run_row,
    run_rows,
    single_report,
    target,
    unmeasured,
)
from tests.bench_services import HEAP, SMALL_HEAP, kafka, server_versions

BATCHES: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 8_192)
ACCOUNTS: Final = 100_000
CANONICAL: Final = 1_024
"""The batch size of the headline."""

HEADLINE_RUNS: Final = 3
RATIO: Final = "ratio"
PEER: Final = "peer-postgres-set"
"""What the ratios are to."""

_LEAST_COMMANDS: Final = 100_000
_MOST_COMMANDS: Final = 3_000_000
_CANONICAL_COMMANDS: Final = 10_000_000
"""Of the headline: some seconds, as a burst is faster than what lasts."""

_BATCHES_SENT: Final = 40_000
"""Of a phase: two or three seconds at any batch size."""

_SINGLE_COMMANDS: Final = 10_000
_WARM_UP: Final = 2 * WINDOW
_FREE_BYTES_LEAST: Final = 20 * 10**9
"""A setting writes 8 GB, and a deleted topic's files go a little later."""


@dataclass(frozen=True)
class Setting:
    """Where the journal is; no `brokers` means SQLite. `goals` are the floor and aim of the
    canonical batch, `single_goals` those of one command at a time (p50, p99).
    """

    name: str
    what: str
    brokers: int = 0
    java_flags: Sequence[str] = HEAP
    leader_flags: Sequence[str] = ()
    goals: tuple[float | None, float | None] = (None, None)
    single_goals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def journal(self) -> Iterator[str]:
        """What a leader takes as `--journal`, its brokers behind it. Raises as `kafka` does."""
        with ExitStack() as stack:
            brokers = self.brokers and stack.enter_context(kafka(self.brokers, self.java_flags))
            yield brokers or SQLITE

    def rows(self, leader: Serving, accounts: Accounts) -> list[Row]:
        """The sweep of batch sizes, then one command at a time."""
        sweep = [self._batch_row(leader, accounts, batch) for batch in BATCHES]
        return [*sweep, self._single_row(leader, accounts)]

    def names(self) -> list[str]:
        """The rows' names."""
        return [*(f"{self.name}-batch-{batch}" for batch in BATCHES), f"{self.name}-single"]

    def _batch_row(self, leader: Serving, accounts: Accounts, batch: int) -> Row:
        goals = self.goals if batch == CANONICAL else (None, None)
        what = f"{self.what}: transfers, batches of {batch:,}"
        figures = (
            Figure("rate", what, "/s", *goals),
            Figure("p99", "a message's way there and back, p99", "ms"),
            Figure("leader_cpu", "CPU of the leader a command", "us"),
            Figure("client_cpu", "CPU of the client a command", "us"),
        )

        def measure(options: Options) -> Outcome:
            commands = options.count(phase_commands(batch))
            done = drive_messages(leader, accounts, commands, batch=batch)
            values = {
                "rate": done.rate,
                "p99": done.latency_ms["p99"],
                "leader_cpu": done.leader_cpu_us,
                "client_cpu": done.client_cpu_us,
            }
            flags = {"batch": batch, "in-flight": IN_FLIGHT, "commands": commands}
            return Outcome((by_hand(**flags),), flags, values, done.as_json())

        axes: dict[str, str | int] = {"journal": self.name, "batch": batch}
        runs = HEADLINE_RUNS if batch == CANONICAL else 1
        name = f"{self.name}-batch-{batch}"
        return Row(name, figures, measure, axes=axes, runs_least=runs)

    def _single_row(self, leader: Serving, accounts: Accounts) -> Row:
        figures = tuple(
            Figure(
                key,
                f"{self.what}: one command at a time, {key}",
                "ms",
                *self.single_goals.get(key, (None, None)),
            )
            for key in ("p50", "p99")
        )

        def measure(options: Options) -> Outcome:
            commands = options.count(_SINGLE_COMMANDS)
            done = drive_messages(leader, accounts, commands, batch=1, in_flight=1)
            flags = {"batch": 1, "in-flight": 1, "commands": commands}
            return Outcome((by_hand(**flags),), flags, done.latency_ms, done.as_json())

        return Row(f"{self.name}-single", figures, measure, axes={"journal": self.name})


_SINGLE_GOALS: Final = {"p50": (0.5, 0.15), "p99": (3.0, 1.0)}
PAGE_CACHE: Final = Setting(
    "kafka",
    "Kafka, one broker, acks=all (page cache)",
    brokers=1,
    goals=(2.5e6, 5e6),
    single_goals=_SINGLE_GOALS,
)
EMBEDDED: Final = Setting("sqlite", "SQLite, a full sync for each transaction", goals=(2e6, 4e6))
FLUSHED: Final = Setting(
    "flush",
    "Kafka, one broker, flush.messages=1",
    brokers=1,
    leader_flags=("--kafka-topic-properties=flush.messages=1",),
    goals=(1.2e6, 2.5e6),
)
REPLICATED: Final = Setting(
    "rf3",
    "Kafka, three brokers on these cores, RF 3, min ISR 2",
    brokers=3,
    java_flags=SMALL_HEAP,
    leader_flags=(
        "--kafka-replication-factor=3",
        "--kafka-topic-properties=min.insync.replicas=2",
    ),
)
SETTINGS: Final = (PAGE_CACHE, EMBEDDED, FLUSHED, REPLICATED)
_KERNEL: Final = ("kernel", "kernel-mix")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the settings; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""
    names = [name for setting in SETTINGS for name in setting.names()]
    names += [*_KERNEL, *(row.name for row in PEER_ROWS)]
    return target("throughput", measure, arguments, names=names, versions=server_versions)


def measure(options: Options) -> list[Report]:
    """All chosen rows, and the ratios of what was measured."""
    free_bytes = shutil.disk_usage(BUILD.parent).free
    if free_bytes < _FREE_BYTES_LEAST:
        print(
            f"warning: {free_bytes / 1e9:.1f} GB are free, a whole run may need "
            f"{_FREE_BYTES_LEAST / 1e9:.0f} GB",
            file=sys.stderr,
        )
    once = replace(options, runs=1)
    peers = [Report(row) for row in PEER_ROWS if options.wants(row.name)]
    first = [report for report in peers if report.row.name == PEER]
    # The peer before and after the one it is compared with: a machine's speed drifts.
    for report in first:
        run_row(report.row, once, report)
    reports = measure_setting(PAGE_CACHE, options)
    for report in peers:
        run_row(report.row, once, report)
    for setting in (EMBEDDED, FLUSHED, REPLICATED):
        reports += measure_setting(setting, options)
    reports += run_rows(rows_named(*_KERNEL), options) + peers
    return reports + ratios(reports)


def measure_setting(setting: Setting, options: Options) -> list[Report]:
    """A setting's chosen rows on one leader; none of its servers runs afterwards."""
    wanted = [name for name in setting.names() if options.wants(name)]
    if not wanted:
        return []
    try:
        with setting.journal() as journal:
            own = replace(options, journal=journal, leader_flags=setting.leader_flags)
            with own.leader() as leader:
                accounts = open_accounts(leader, options.count(ACCOUNTS) + 1)
                # A broker's JVM compiles while it works, for a minute at first.
                drive_messages(leader, accounts, options.count(_WARM_UP), batch=CANONICAL)
                return run_rows(setting.rows(leader, accounts), own)
    except (NotMeasured, RunFailed) as error:
        figures = (Figure("rate", setting.what, "/s"),)
        return unmeasured((Row(name, figures, _never) for name in wanted), error)


def phase_commands(batch: int) -> int:
    """How many commands a phase of the sweep has."""
    if batch == CANONICAL:
        return _CANONICAL_COMMANDS
    return min(max(_LEAST_COMMANDS, _BATCHES_SENT * batch), _MOST_COMMANDS)


def by_hand(**flags: int) -> str:
    """The command line that does the same load on a leader that runs, its window filled first."""
    told = f"--warm-up {_WARM_UP} " + " ".join(f"--{name} {value}" for name, value in flags.items())
    return f"python -m client_app bench --target HOST:PORT --accounts {ACCOUNTS} {told}"


def ratios(reports: Sequence[Report]) -> list[Report]:
    """The canonical transfers of each journal over the peer's, and each peer's too: one report."""
    rates = {
        report.row.name: statistics.median(report.values("rate"))
        for report in reports
        if report.runs and "rate" in report.runs[-1].outcome.values
    }
    if PEER not in rates:
        return []
    figures, values = [], {}
    for setting in SETTINGS:
        name = f"{setting.name}-batch-{CANONICAL}"
        if name in rates:
            goals = (15.0, 30.0) if setting is PAGE_CACHE else (None, None)
            figures.append(Figure(setting.name, f"{setting.what}: times the peer's", "x", *goals))
            values[setting.name] = rates[name] / rates[PEER]
    for row in PEER_ROWS:
        if row.name in rates:
            figures.append(Figure(row.name, f"{row.figures[0].what}: times the peer's", "x"))
            values[row.name] = rates[row.name] / rates[PEER]
    row = Row(RATIO, figures, _never)
    return [single_report(row, Outcome((), {"peer": PEER}, values))]


def _never(_: Options) -> Outcome:
    raise RunFailed("this row is worked out from others")


if __name__ == "__main__":
    sys.exit(main())
