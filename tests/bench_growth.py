"""`make bench-growth`: what more accounts and more followers cost.

Accounts: a leader on SQLite each, its window full, from 10 thousand to 10 million. Followers: one
leader on Kafka, alone and with 1 to 4 of them, all on the same cores.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from client_app.bench_machine import ROOT, NotMeasured, RunFailed, fresh_folder, resident_mb
from tests.bench_drive import WINDOW, Driven, drive_messages, open_accounts
from tests.bench_engine import rows_named
from tests.bench_nodes import node
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

ACCOUNTS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
FOLLOWERS: Final = (0, 1, 2, 3, 4)
_BATCH: Final = 1_024
_TRANSFERS: Final = 4_000_000
_FOLLOWED_TRANSFERS: Final = 3_000_000
_FOLLOWED_ACCOUNTS: Final = 100_000
_FIRST_ACCOUNTS: Final = 100
_MANY: Final = 1_000_000


def _figures(what: str) -> tuple[Figure, ...]:
    return (
        Figure("rate", f"transfers, {what}", "/s"),
        Figure("p99", "a message's way there and back, p99", "ms"),
        Figure("leader_cpu", "CPU of the leader a command", "us"),
    )


def _values(done: Driven) -> dict[str, float]:
    return {
        "rate": done.rate,
        "p99": done.latency_ms["p99"],
        "leader_cpu": done.leader_cpu_us,
    }


def _measure_accounts(accounts: int) -> Callable[[Options], Outcome]:
    """The window fills first, so that what memory grows by is the accounts'."""

    def measure(options: Options) -> Outcome:
        count = options.count(accounts) + 1
        with options.leader() as leader:
            few = open_accounts(leader, _FIRST_ACCOUNTS)
            empty_mb = resident_mb(leader.pid)
            drive_messages(leader, few, options.count(2 * WINDOW), batch=_BATCH)
            before_mb = resident_mb(leader.pid)
            opened = open_accounts(leader, count)
            grown_mb = resident_mb(leader.pid) - before_mb
            done = drive_messages(leader, opened, options.count(_TRANSFERS), batch=_BATCH)
            values = _values(done) | {
                "resident": resident_mb(leader.pid),
                "account": grown_mb * 1e6 / count,
                "command": (before_mb - empty_mb) * 1e6 / WINDOW,
            }
        return Outcome((leader.command,), {"accounts": count}, values, done.as_json())

    return measure


def _accounts_row(accounts: int) -> Row:
    figures = [
        *_figures(f"{accounts:,} accounts"),
        Figure("resident", "memory of the leader, window full", "MB"),
        Figure("command", f"of that: a command of the last {WINDOW:,}, with its buffers", "bytes"),
    ]
    if accounts >= _MANY:  # fewer drown in the rest
        figures.append(Figure("account", "of that: an account", "bytes"))
    axes = {"accounts": accounts}
    return Row(f"accounts-{accounts}", figures, _measure_accounts(accounts), axes=axes)


def _measure_followers(options: Options) -> list[Report]:
    """One after the other joins; each is ready before its turn counts."""
    wanted = [count for count in FOLLOWERS if options.wants(f"followers-{count}")]
    reports: list[Report] = []
    if not wanted:
        return reports
    try:
        with fresh_folder() as inside, kafka() as journal, ExitStack() as stack:
            folder = ROOT / inside
            leader = stack.enter_context(node(folder, "leader", "--journal", journal))
            accounts = open_accounts(leader, options.count(_FOLLOWED_ACCOUNTS) + 1)
            drive_messages(leader, accounts, options.count(2 * WINDOW), batch=_BATCH)

            def measure(own: Options) -> Outcome:
                commands = own.count(_FOLLOWED_TRANSFERS)
                done = drive_messages(leader, accounts, commands, batch=_BATCH)
                return Outcome((leader.command,), {}, _values(done), done.as_json())

            for followers in range(max(wanted) + 1):
                if followers:
                    stack.enter_context(node(folder, "follower", "--journal", journal))
                if followers in wanted:
                    reports.append(Report(_followers_row(followers, measure)))
                    for _ in range(options.runs):
                        run_row(reports[-1].row, options, reports[-1])
    except (NotMeasured, RunFailed) as error:
        left = wanted[len(reports) :]
        reports += unmeasured((_followers_row(count, _no_leader) for count in left), error)
    return reports


def _followers_row(followers: int, measure: Callable[[Options], Outcome]) -> Row:
    figures = _figures(f"{followers} followers beside the leader")
    return Row(f"followers-{followers}", figures, measure, axes={"followers": followers})


def _no_leader(_: Options) -> Outcome:
    raise RunFailed("there is no leader")


def measure(options: Options) -> list[Report]:
    """All chosen rows."""
    alone = [*map(_accounts_row, ACCOUNTS), *rows_named("kernel-10m", "growth")]
    return run_rows(alone, options) + _measure_followers(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; returns the exit code: 0 well, 1 a run failed, 2 wrong flags."""
    names = [*(f"accounts-{count}" for count in ACCOUNTS), "kernel-10m", "growth"]
    names += [f"followers-{count}" for count in FOLLOWERS]
    return target("growth", measure, arguments, names=names, versions=server_versions)


if __name__ == "__main__":
    sys.exit(main())
