"""`python -m cluster_app measure WHAT`: parts of the cluster alone, without clients or network.

kernel: the state machine on batches of 1,024 transfers with the window of recent ids full.
replay: a journal, written for it, read from zero into a fresh state as at a leader's start.
Commands are made outside the timed parts, a million at a time, so memory stays bounded.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_app.election import JournalFollower
from cluster_app.errors import Fault, UsageError
from cluster_app.journals import open_journal
from cluster_app.logs import configure_logs
from cluster_app.measure_echo import serve_echo
from cluster_app.memory import keep_freed_memory
from cluster_core.batch import CHAIN_START, EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Delivery, Journal, JournalWriter
from cluster_core.record import (
    COMMAND,
    DEFAULT_ASSET,
    MAX_MESSAGE_COMMANDS,
    REPLY,
    Operation,
    Status,
)
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine

Commands = npt.NDArray[np.void]

KERNEL_BATCH: Final = 1_024
ROUND: Final = 1 << 20
"""Commands made at once: 64 MiB."""

_REPLY_SLOTS: Final = 1 << 17
_NS_PER_COMMAND: Final = 125
"""Ledger time between two commands: 8 million a second."""

_FIRST_NS: Final = 1_764_000_000_000_000_000
_FUNDS: Final = 10**9
_AMOUNT_MAX: Final = 100
_MAX_COMMANDS: Final = 1 << 36
_LEADER_ID: Final = b"measured journal"
_UNREPORTED_MAX: Final = 256
"""Batches that the writer may hold: what bounds its queue."""

_APPEND_TIMEOUT_S: Final = 60.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns 0. Raises UsageError, Fault, and what the journal raises."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app measure", description="Measure a part of the cluster alone."
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    kernel = parts.add_parser("kernel", help="transfers through the state machine, window full")
    _add(kernel, "--commands", 8 * ROUND, "measured")
    _add(kernel, "--accounts", 100_000, "created and funded first")
    _add(kernel, "--warm-up", LedgerParameters().window_capacity, "fill the window first")
    replay = parts.add_parser("replay", help="a journal into a fresh state, from zero")
    _add(replay, "--commands", 10_000_000, "in the journal, all replayed")
    _add(replay, "--accounts", 100_000, "at most; never over a quarter of the commands")
    _add(replay, "--batch", KERNEL_BATCH, "commands a batch")
    place = replay.add_mutually_exclusive_group()
    place.add_argument("--journal", metavar="URL", help="an empty one, kept (SQLite, removed)")
    place.add_argument("--folder", metavar="PATH", help="for that SQLite one (the system's own)")
    echo = parts.add_parser("echo", help="serve a bare gRPC echo of the bank query, until SIGTERM")
    echo.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="(%(default)s)")
    for part in (kernel, replay):
        part.add_argument("--seed", type=int, default=1, metavar="N", help="(%(default)s)")
        part.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    if given.what == "echo":
        serve_echo(given.listen)
        return 0
    _check(given)
    configure_logs("warning")
    keep_freed_memory()
    if given.what == "kernel":
        result = measure_kernel(given.accounts, given.commands, given.warm_up, given.seed)
        rates = result["commands_per_second"]
        told = ", ".join(f"{name} {rate / 1e6:.2f}" for name, rate in rates.items())
        print(f"kernel: {result['commands']:,} commands, M/s a round: {told}")
    else:
        result = measure_replay(
            given.accounts, given.commands, given.batch, given.seed, given.folder, given.journal
        )
        print(
            f"replay: {result['commands']:,} commands in {result['seconds']:.3f} s, "
            f"{result['commands_per_second'] / 1e6:.3f} M/s"
        )
    if given.json:
        print(json.dumps(result))
    return 0


def measure_kernel(accounts: int, commands: int, warm_up: int, seed: int) -> dict[str, Any]:
    """Rates of `StateMachine.apply_into` on transfers, in rounds of about a million.

    `commands` and `warm_up` are rounded up to whole batches. Raises Fault when a reply isn't OK.
    """
    state = StateMachine(LedgerParameters(), hash_seed=seed)
    replies = np.zeros(_REPLY_SLOTS, REPLY)
    source = _Source(accounts, seed)
    for made in (source.openings(0, accounts), source.deposits(accounts, accounts)):
        _apply(state, made, replies)
    for count in _rounds(_whole_batches(warm_up)):
        _apply(state, source.transfers(state.applied, count), replies)
    rates, seconds = [], 0.0
    for count in _rounds(_whole_batches(commands)):
        took_s = _apply(state, source.transfers(state.applied, count), replies)
        rates.append(count / took_s)
        seconds += took_s
    return {
        "commands": _whole_batches(commands),
        "seconds": round(seconds, 6),
        "commands_per_second": {
            "min": round(min(rates), 1),
            "median": round(statistics.median(rates), 1),
            "max": round(max(rates), 1),
        },
        "rounds": len(rates),
        "window_entries": state.window_entries,
        "window_capacity": state.parameters.window_capacity,
        "parameters": {
            "accounts": accounts,
            "batch": KERNEL_BATCH,
            "warm_up": _whole_batches(warm_up),
            "seed": seed,
        },
    }


def measure_replay(
    accounts: int,
    commands: int,
    batch: int,
    seed: int,
    folder: str | None,
    url: str | None,
) -> dict[str, Any]:
    """Write a journal of exactly `commands` commands, then time reading it from zero.

    It creates `accounts` (at most a quarter of the commands), funds each, then transfers. What
    was just written is read from the page cache. Raises UsageError when the journal at `url`
    isn't empty, Fault when the state lacks anything.
    """
    accounts = max(2, min(accounts, commands // 4))
    with (
        tempfile.TemporaryDirectory(prefix="ringledger-replay-", dir=folder) as own,
        closing(open_journal(url or f"sqlite:///{Path(own, 'journal.db')}")) as journal,
    ):
        if journal.end_offset():
            raise UsageError(f"--journal {url} isn't empty: name one that is new")
        journal_bytes = _write_journal(journal, _Source(accounts, seed), commands, batch)
        end_offset = journal.end_offset()
        replica = Replica(hash_seed=seed)
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
        "parameters": {"accounts": accounts, "batch": batch, "seed": seed},
    }


class _Source:
    """Makes commands with fresh UUIDv7 ids; `first` is the sequence of the first of `count`."""

    def __init__(self, accounts: int, seed: int) -> None:
        self.accounts = accounts
        self._random = np.random.default_rng(seed)

    def openings(self, first: int, count: int) -> tuple[int, Commands]:
        """CREATE_ACCOUNT."""
        commands = self._commands(Operation.CREATE_ACCOUNT, first, count)
        commands["asset"] = DEFAULT_ASSET
        return first, commands

    def deposits(self, first: int, count: int) -> tuple[int, Commands]:
        """DEPOSIT, one into each account when `first` is the number of accounts."""
        commands = self._commands(Operation.DEPOSIT, first, count)
        commands["credit_account"] = np.arange(first, first + count) % self.accounts + 1
        commands["amount"] = _FUNDS
        return first, commands

    def transfers(self, first: int, count: int) -> tuple[int, Commands]:
        """TRANSFER between uniformly random pairs of accounts."""
        commands = self._commands(Operation.TRANSFER, first, count)
        debit = self._random.integers(1, self.accounts + 1, count)
        credit = self._random.integers(1, self.accounts, count)
        commands["debit_account"] = debit
        commands["credit_account"] = credit + (credit >= debit)
        commands["amount"] = self._random.integers(1, _AMOUNT_MAX, count)
        return first, commands

    def _commands(self, operation: Operation, first: int, count: int) -> Commands:
        """COMMAND [n] with UUIDv7 ids (RFC 9562): 48 bits of ms, version, 12 and 62 random bits."""
        commands = np.zeros(count, COMMAND)
        commands["operation"] = operation
        milliseconds = (_timestamp_ns(first) + np.arange(count) * _NS_PER_COMMAND) // 1_000_000
        high = self._random.integers(0, 1 << 12, count, np.uint64)
        high |= np.uint64(0x7000) | (milliseconds.astype(np.uint64) << np.uint64(16))
        low = self._random.integers(0, 1 << 62, count, np.uint64) | np.uint64(1 << 63)
        commands["id_0"], commands["id_1"] = high.byteswap(), low.byteswap()
        return commands


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


def _write_journal(journal: Journal, source: _Source, commands: int, batch: int) -> int:
    """The bytes of its batches, without what the journal adds to them."""
    with closing(_ChainedWriter(journal)) as writer:
        start = EpochStart("measure", "127.0.0.1:0", LedgerParameters())
        writer.append(Kind.EPOCH_START, 0, _timestamp_ns(0), start.pack())
        for first, made in _phases(source, commands):
            for at in range(0, len(made), batch):
                sequence = first + at
                body = made[at : at + batch].view(np.uint8).data
                writer.append(Kind.COMMANDS, sequence, _timestamp_ns(sequence), body)
        writer.append(Kind.EPOCH_END, commands, _timestamp_ns(commands))
    return writer.appended_bytes


def _phases(source: _Source, commands: int) -> Iterator[tuple[int, Commands]]:
    """Openings, deposits and transfers, `commands` in all, in pieces of at most ROUND."""
    phases: tuple[tuple[Callable[[int, int], tuple[int, Commands]], int], ...] = (
        (source.openings, source.accounts),
        (source.deposits, source.accounts),
        (source.transfers, commands - 2 * source.accounts),
    )
    first = 0
    for make, total in phases:
        for count in _rounds(total):
            yield make(first, count)
            first += count


def _apply(state: StateMachine, made: tuple[int, Commands], replies: npt.NDArray[np.void]) -> float:
    """Apply commands in batches; the seconds that `apply_into` took. Raises Fault."""
    first, commands = made
    batches = [
        (commands[at : at + KERNEL_BATCH], _timestamp_ns(first + at))
        for at in range(0, len(commands), KERNEL_BATCH)
    ]
    start = time.perf_counter()
    for batch, timestamp_ns in batches:
        state.apply_into(batch, timestamp_ns, replies)
    seconds = time.perf_counter() - start
    newest = np.arange(max(first, state.applied - _REPLY_SLOTS), state.applied)
    statuses = replies["status"][newest & (_REPLY_SLOTS - 1)]
    if state.applied != first + len(commands) or np.any(statuses != Status.OK):
        raise Fault(f"commands were refused: statuses {np.unique(statuses).tolist()}")
    return seconds


def _rounds(count: int) -> Iterator[int]:
    """Sizes of at most ROUND that add up to `count`."""
    for at in range(0, count, ROUND):
        yield min(ROUND, count - at)


def _whole_batches(count: int) -> int:
    return -(-count // KERNEL_BATCH) * KERNEL_BATCH


def _timestamp_ns(sequence: int) -> int:
    return _FIRST_NS + sequence * _NS_PER_COMMAND


def _add(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{text} (%(default)s)")


def _check(given: argparse.Namespace) -> None:
    most = {"commands": _MAX_COMMANDS, "accounts": 4 * ROUND, "batch": MAX_MESSAGE_COMMANDS}
    least = {"commands": 8, "accounts": 2, "batch": 1}
    for name, value in vars(given).items():
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = least.get(name, 0), most.get(name, _MAX_COMMANDS)
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is {value}: give {low} to {high}")
