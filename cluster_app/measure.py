"""`python -m cluster_app measure WHAT`: parts of the cluster alone, without clients or network.

kernel: the state machine on batches of 1,024 with the window of recent ids full.
growth: what accounts and open holds take of memory, and the slowest batch while they grow.
replay: a journal, written for it, read from zero into a fresh state as at a leader's start.
Commands are made outside the timed parts, a million at a time, so memory stays bounded.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster_app.election import JournalFollower
from cluster_app.errors import Fault, UsageError
from cluster_app.journals import open_journal
from cluster_app.logs import configure_logs
from cluster_app.measure_echo import serve_echo
from cluster_app.measure_kernel import measure_growth, measure_kernel
from cluster_app.measured_commands import (
    KERNEL_BATCH,
    ROUND,
    Commands,
    CommandSource,
    rounds,
    timestamp_at,
)
from cluster_app.memory import keep_freed_memory
from cluster_core.batch import CHAIN_START, EpochStart, Kind, LedgerParameters, seal
from cluster_core.books import empty_books
from cluster_core.journal import Delivery, Journal, JournalWriter
from cluster_core.record import MAX_MESSAGE_COMMANDS
from cluster_core.replay import Replica
from cluster_core.shared_books import SharedMemory

_MAX_COMMANDS: Final = 1 << 36
_LEADER_ID: Final = b"measured journal"
_UNREPORTED_MAX: Final = 256
"""Batches that the writer may hold: what bounds its queue."""

_APPEND_TIMEOUT_S: Final = 60.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns 0. Raises UsageError, Fault, and what the journal raises."""
    given = _parser().parse_args(arguments)
    if given.what == "echo":
        serve_echo(given.listen)
        return 0
    _check(given)
    configure_logs("warning")
    keep_freed_memory()
    if given.what == "kernel":
        result = measure_kernel(
            given.accounts, given.commands, given.warm_up, given.seed, mixed=given.mix
        )
        rates = result["commands_per_second"]
        told = ", ".join(f"{name} {rate / 1e6:.2f}" for name, rate in rates.items())
        print(f"kernel: {result['commands']:,} commands, M/s a round: {told}")
    elif given.what == "growth":
        result = measure_growth(given.accounts, given.holds, given.warm_up, given.seed)
        for name in ("account", "hold"):
            told = result[name]
            print(
                f"growth: {told['count']:,} {name}s, {told['bytes_each']:.1f} bytes each, "
                f"slowest batch {told['slowest_batch_ms']:.2f} ms, "
                f"{told['commands_per_second'] / 1e6:.2f} M/s"
            )
    else:
        result = measure_replay(
            given.accounts,
            given.commands,
            given.batch,
            given.seed,
            given.folder,
            given.journal,
            shared=given.shared,
        )
        print(
            f"replay: {result['commands']:,} commands in {result['seconds']:.3f} s, "
            f"{result['commands_per_second'] / 1e6:.3f} M/s"
        )
    if given.json:
        print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app measure", description="Measure a part of the cluster alone."
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    kernel = parts.add_parser("kernel", help="commands through the state machine, window full")
    _add(kernel, "--commands", 8 * ROUND, "measured")
    _add(kernel, "--accounts", 100_000, "created and funded first")
    _add(kernel, "--warm-up", LedgerParameters().window_capacity, "fill the window first")
    kernel.add_argument(
        "--mix", action="store_true", help="also deposits, holds and chains, not only transfers"
    )
    growth = parts.add_parser("growth", help="memory and the slowest batch while the state grows")
    _add(growth, "--accounts", 10_000_000, "opened")
    _add(growth, "--holds", 2_000_000, "opened after them")
    _add(growth, "--warm-up", LedgerParameters().window_capacity, "fill the window first")
    replay = parts.add_parser("replay", help="a journal into a fresh state, from zero")
    _add(replay, "--commands", 10_000_000, "in the journal, all replayed")
    _add(replay, "--accounts", 100_000, "at most; never over a quarter of the commands")
    _add(replay, "--batch", KERNEL_BATCH, "commands a batch")
    replay.add_argument(
        "--shared", action="store_true", help="into memory that others can read, as a follower's"
    )
    place = replay.add_mutually_exclusive_group()
    place.add_argument("--journal", metavar="URL", help="an empty one, kept (SQLite, removed)")
    place.add_argument("--folder", metavar="PATH", help="for that SQLite one (the system's own)")
    echo = parts.add_parser("echo", help="serve a bare gRPC echo of the bank query, until SIGTERM")
    echo.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="(%(default)s)")
    for part in (kernel, growth, replay):
        part.add_argument("--seed", type=int, default=1, metavar="N", help="(%(default)s)")
        part.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def measure_replay(
    accounts: int,
    commands: int,
    batch: int,
    seed: int,
    folder: str | None,
    url: str | None,
    *,
    shared: bool = False,
) -> dict[str, Any]:
    """Write a journal of exactly `commands` commands, then time reading it from zero.

    It creates `accounts` (at most a quarter of the commands), funds each, then transfers. What
    was just written is read from the page cache. Raises UsageError when the journal at `url`
    isn't empty, Fault when the state lacks anything.
    """
    accounts = max(2, min(accounts, commands // 4))
    memory = SharedMemory() if shared else None
    with (
        tempfile.TemporaryDirectory(prefix="ringledger-replay-", dir=folder) as own,
        closing(open_journal(url or f"sqlite:///{Path(own, 'journal.db')}")) as journal,
    ):
        if journal.end_offset():
            raise UsageError(f"--journal {url} isn't empty: name one that is new")
        journal_bytes = _write_journal(journal, CommandSource(accounts, seed), commands, batch)
        end_offset = journal.end_offset()
        make_books = memory.make_books if memory else empty_books
        replica = Replica(hash_seed=seed, make_books=make_books)
        with closing(JournalFollower(journal, replica)) as follower:
            start = time.perf_counter()
            follower.catch_up(end_offset, lambda _: None)
            seconds = time.perf_counter() - start
    state = replica.state
    if state is None or (state.applied, state.accounts) != (commands, accounts):
        raise Fault("the replayed state lacks commands or accounts")
    return {
        "commands": commands,
        "seconds": round(seconds, 6),
        "commands_per_second": round(commands / seconds, 1),
        "batches": end_offset,
        "journal_bytes": journal_bytes,
        "parameters": {"accounts": accounts, "batch": batch, "seed": seed, "shared": shared},
    }


class _ChainedWriter:
    """Seals batches onto the chain and appends them, a bounded number unreported."""

    def __init__(self, journal: Journal) -> None:
        self._free = threading.BoundedSemaphore(_UNREPORTED_MAX)
        self._error = ""
        self._chain = CHAIN_START
        self.appended_bytes = 0
        self._writer: JournalWriter = journal.writer(0, self._delivered)

    def append(
        self, kind: Kind, first_sequence: int, timestamp_ns: int, body: bytes | memoryview = b""
    ) -> None:
        """Append one batch of epoch 1. Raises Fault when the journal takes none."""
        value, self._chain = seal(
            kind,
            epoch=1,
            leader_id=_LEADER_ID,
            first_sequence=first_sequence,
            timestamp_ns=timestamp_ns,
            previous_chain=self._chain,
            body=(body,) if len(body) else (),
        )
        taken = self._free.acquire(timeout=_APPEND_TIMEOUT_S)
        if not taken or self._error:
            raise Fault(f"the journal takes no appends: {self._error or 'it does not report'}")
        self._writer.append(value)
        self.appended_bytes += len(value)

    def close(self) -> None:
        """Wait until everything is on disk. Raises Fault when something isn't."""
        self._writer.close()
        if self._error:
            raise Fault(f"the journal takes no appends: {self._error}")

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.offset is None:
            self._error = delivery.error
        self._free.release()


def _write_journal(journal: Journal, source: CommandSource, commands: int, batch: int) -> int:
    """The bytes of its batches, without what the journal adds to them."""
    with closing(_ChainedWriter(journal)) as writer:
        start = EpochStart("measure", "127.0.0.1:0", LedgerParameters())
        writer.append(Kind.EPOCH_START, 0, timestamp_at(0), start.pack())
        for first, made in _phases(source, commands):
            for at in range(0, len(made), batch):
                sequence = first + at
                body = made[at : at + batch].view(np.uint8).data
                writer.append(Kind.COMMANDS, sequence, timestamp_at(sequence), body)
        writer.append(Kind.EPOCH_END, commands, timestamp_at(commands))
    return writer.appended_bytes


def _phases(source: CommandSource, commands: int) -> Iterator[tuple[int, Commands]]:
    """Openings, deposits and transfers, `commands` in all, in pieces of at most ROUND."""
    phases: tuple[tuple[Callable[[int, int], tuple[int, Commands]], int], ...] = (
        (source.openings, source.accounts),
        (source.deposits, source.accounts),
        (source.transfers, commands - 2 * source.accounts),
    )
    first = 0
    for make, total in phases:
        for count in rounds(total):
            yield make(first, count)
            first += count


def _add(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{text} (%(default)s)")


def _check(given: argparse.Namespace) -> None:
    most = {"commands": _MAX_COMMANDS, "accounts": 16 * ROUND, "batch": MAX_MESSAGE_COMMANDS}
    least = {"commands": 8, "accounts": 3, "batch": 1, "holds": 1}
    for name, value in vars(given).items():
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = least.get(name, 0), most.get(name, _MAX_COMMANDS)
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is {value}: give {low} to {high}")
