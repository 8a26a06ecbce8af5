"""`make bench-recovery`: snapshots, restarts, replay and failover, on servers of its own.

Everything runs on this machine at once: broker, leader, replicas and clients share its cores.
"""

import asyncio
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import ROOT, RunFailed, fresh_folder
from tests.bench_drive import WINDOW, drive_messages, open_accounts
from tests.bench_engine import rows_named
from tests.bench_failover import measure_failover
from tests.bench_nodes import node
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, target
from tests.bench_services import kafka, postgres, server_versions

_ACCOUNTS: Final = 1_000_000
_REST: Final = 5_000_000
_REPLAYED: Final = 10_000_000
_UNDER_LOAD: Final = 12_000_000
_BATCH: Final = 1_024
_ROUNDS: Final = 5
_NEVER: Final = ("--snapshot-interval-s", "86400")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""

    def measure(options: Options) -> list[Report]:
        return run_rows(ROWS, options)

    names = [row.name for row in ROWS]
    return target("recovery", measure, arguments, names=names, versions=server_versions)


def _measure_replay(options: Options) -> Outcome:
    with kafka() as journal:
        command, result = options.run_json(
            *("cluster_app", "measure", "replay", "--batch", "1024", "--shared"),
            *("--commands", str(options.count(_REPLAYED)), "--journal", journal),
        )
    values = {"rate": result["commands_per_second"]}
    return Outcome((command,), result.pop("parameters"), values, result)


def _measure_snapshots(store: str) -> Callable[[Options], Outcome]:
    """First snapshot, one in which everything has changed, and a restart from it and a rest."""

    def measure(options: Options) -> Outcome:
        accounts = options.count(_ACCOUNTS) + 1
        with fresh_folder() as inside, ExitStack() as stack:
            folder = ROOT / inside
            journal = f"sqlite:///{folder}/journal.db"
            snapshots = f"sqlite:///{folder}/snapshots.db"
            if store == "postgres":
                journal = stack.enter_context(kafka())
                snapshots = stack.enter_context(postgres()).url
            places = ("--journal", journal, "--snapshots", snapshots)
            with node(folder, "leader", *places) as leader:
                opened = open_accounts(leader, accounts)
                drive_messages(leader, opened, options.count(WINDOW), batch=_BATCH)
                first = _snapshot(folder, places)
                drive_messages(leader, opened, options.count(2 * WINDOW), batch=_BATCH)
                changed = _snapshot(folder, places)
                drive_messages(leader, opened, options.count(_REST), batch=_BATCH)
            with node(folder, "leader", *places) as again:
                ready_s = again.ready_s
        rows = {"first": first["rows"], "changed": changed["rows"]}
        values = {"first": first["seconds"], "changed": changed["seconds"], "ready": ready_s}
        parameters = {
            "accounts": accounts,
            "window": options.count(WINDOW),
            "rest": options.count(_REST),
        }
        return Outcome((leader.command, again.command), parameters, values, rows | values)

    return measure


def _snapshot(folder: Path, places: tuple[str, ...]) -> dict[str, Any]:
    """What a learner says of the one that it takes when it is stopped."""
    with node(folder, "learner", *places, *_NEVER, "--stop-timeout-s", "120") as learner:
        learner.stop()
        [snapshot] = learner.events("snapshot")
    return snapshot


def _measure_stop(options: Options) -> Outcome:
    """A learner's longest stop while its leader is under full load."""
    with fresh_folder() as inside, kafka() as journal:
        folder = ROOT / inside
        places = ("--journal", journal, "--snapshots", f"sqlite:///{folder}/snapshots.db")
        accounts = options.count(_ACCOUNTS) + 1
        with node(folder, "leader", *places) as leader:
            opened = open_accounts(leader, accounts)
            drive_messages(leader, opened, options.count(WINDOW), batch=_BATCH)
            with node(folder, "learner", *places, "--snapshot-interval-s", "3") as learner:
                commands = options.count(_UNDER_LOAD)
                rate = drive_messages(leader, opened, commands, batch=_BATCH).rate
                stops = [event["stop_ms"] for event in learner.events("snapshot")]
    if not stops:
        raise RunFailed("the learner took no snapshot under load")
    values = {"longest": max(stops), "rate": rate}
    result = {"stops_ms": stops, "transfers_per_second": rate}
    return Outcome((leader.command, learner.command), {"accounts": accounts}, values, result)


def _measure_failover(kind: str) -> Callable[[Options], Outcome]:
    """Kills and hand-overs in turn: how long clients are without an answer."""

    def measure(options: Options) -> Outcome:
        rounds = options.count(_ROUNDS)
        with ExitStack() as stack:
            if kind == "kafka":
                journal = f"{stack.enter_context(kafka())}-failover"
            else:
                folder = ROOT / stack.enter_context(fresh_folder())
                journal = f"sqlite:///{folder}/journal.db"
            gaps_ms = asyncio.run(measure_failover(journal, rounds))
        values = {}
        for name, gaps in gaps_ms.items():
            values[f"{name}_p50"], values[f"{name}_longest"] = statistics.median(gaps), max(gaps)
        return Outcome((), {"rounds": rounds, "callers": 16}, values, gaps_ms)

    return measure


def _snapshot_figures(store: str, floor: float, aim: float) -> tuple[Figure, ...]:
    return (
        Figure("first", f"{store}: first snapshot, 1 M accounts, full window", "s"),
        Figure("changed", f"{store}: the next, all of it changed", "s", floor, aim),
        Figure("ready", f"{store}: restart, and 5 M commands after it, to ready", "s", 8, 4),
    )


def _failover_figures(journal: str) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"{name}_{which}", f"{journal}: {what}, without service, {which}", "ms")
        for name, what in (("kill", "`kill -9` of the leader"), ("handover", "hand-over"))
        for which in ("p50", "longest")
    )


ROWS: Final = (
    *rows_named("start", "replay-1024"),
    Row(
        "replay-kafka",
        (Figure("rate", "replay from Kafka into a follower's memory", "/s", 3e6, 6e6),),
        _measure_replay,
    ),
    Row("snapshots-sqlite", _snapshot_figures("SQLite", 4, 2), _measure_snapshots("sqlite")),
    Row(
        "snapshots-postgres",
        _snapshot_figures("PostgreSQL, Kafka", 6, 3),
        _measure_snapshots("postgres"),
    ),
    Row(
        "learner-stop",
        (
            Figure("longest", "learner's longest stop, leader at full load", "ms", 500, 100),
            Figure("rate", "that leader's transfers", "/s"),
        ),
        _measure_stop,
    ),
    Row("failover-kafka", _failover_figures("Kafka"), _measure_failover("kafka")),
    Row("failover-sqlite", _failover_figures("SQLite"), _measure_failover("sqlite")),
)


if __name__ == "__main__":
    sys.exit(main())
