"""The state machine measured alone: how fast it applies, and what growing costs.

Each measurement first fills the window of recent ids, so that none of its memory is taken later.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize
from typing import Any, Final

import numpy as np

from cluster_app.errors import Fault
from cluster_app.measured_commands import (
    KERNEL_BATCH,
    Commands,
    CommandSource,
    rounds,
    timestamp_at,
    whole_batches,
)
from cluster_core.batch import LedgerParameters
from cluster_core.record import REPLY, Status
from cluster_core.state_machine import StateMachine

_REPLY_SLOTS: Final = 1 << 17
_MIX_HOLDS: Final = 1 << 18
"""Holds that are open while the mix runs; each round resolves about 90,000 of them."""

_FIRST_ACCOUNTS: Final = 100
"""What the window is filled with."""


def measure_kernel(
    accounts: int, commands: int, warm_up: int, seed: int, *, mixed: bool = False
) -> dict[str, Any]:
    """Rates of `StateMachine.apply_into` on transfers or the mix, in rounds of about a million.

    `commands` and `warm_up` are rounded up to whole batches. Raises Fault when a reply isn't OK.
    """
    bench = _Bench(accounts, seed)
    source = bench.source
    for make in (source.openings, source.deposits):
        bench.apply_all(make, accounts)
    if mixed:
        bench.apply_all(source.holds, _MIX_HOLDS)
    bench.apply_all(source.transfers, whole_batches(warm_up))
    seconds = bench.apply_all(source.mix if mixed else source.transfers, whole_batches(commands))
    counts = list(rounds(whole_batches(commands)))
    rates = [count / took_s for count, took_s in zip(counts, bench.round_seconds, strict=True)]
    return {
        "commands": whole_batches(commands),
        "seconds": round(seconds, 6),
        "commands_per_second": {
            "min": round(min(rates), 1),
            "median": round(statistics.median(rates), 1),
            "max": round(max(rates), 1),
        },
        "rounds": len(rates),
        "window_entries": bench.state.window_entries,
        "window_capacity": bench.state.parameters.window_capacity,
        "open_holds": bench.state.open_holds,
        "parameters": {
            "accounts": accounts,
            "batch": KERNEL_BATCH,
            "warm_up": whole_batches(warm_up),
            "seed": seed,
            "mixed": mixed,
        },
    }


def measure_growth(accounts: int, holds: int, warm_up: int, seed: int) -> dict[str, Any]:
    """Memory an account and an open hold take, and the slowest batch on the way there.

    From a few accounts to `accounts`, then `holds` holds open at once. Raises Fault as
    `measure_kernel` does.
    """
    bench = _Bench(accounts, seed)
    source = bench.source
    source.accounts = first = min(_FIRST_ACCOUNTS, accounts // 2 + 1)
    for make in (source.openings, source.deposits):
        bench.apply_all(make, first)
    bench.apply_all(source.transfers, whole_batches(warm_up))
    result: dict[str, Any] = {}
    source.accounts = accounts
    for name, make, count in (
        ("account", source.openings, accounts - first),
        ("hold", source.holds, holds),
    ):
        if name == "hold":
            bench.apply_all(source.deposits, accounts)
        before = _resident_bytes()
        seconds = bench.apply_all(make, count)
        result[name] = {
            "count": count,
            "bytes_each": round((_resident_bytes() - before) / count, 2),
            "slowest_batch_ms": round(bench.slowest_batch_s * 1e3, 3),
            "commands_per_second": round(count / seconds, 1),
        }
    return result | {"parameters": {"accounts": accounts, "holds": holds, "seed": seed}}


class _Bench:
    """A state machine that is given a source's commands, with what that took."""

    def __init__(self, accounts: int, seed: int) -> None:
        self.state = StateMachine(LedgerParameters(), hash_seed=seed)
        self.source = CommandSource(accounts, seed)
        self.round_seconds: list[float] = []
        self.slowest_batch_s = 0.0
        self._replies = np.zeros(_REPLY_SLOTS, REPLY)

    def apply_all(self, make: Callable[[int, int], tuple[int, Commands]], count: int) -> float:
        """Make and apply `count` commands; the seconds that applying took. Raises Fault."""
        self.round_seconds, self.slowest_batch_s = [], 0.0
        for size in rounds(count):
            _, commands = make(self.state.applied, size)
            self.round_seconds.append(self._apply(commands))
        return sum(self.round_seconds)

    def _apply(self, commands: Commands) -> float:
        """Apply commands in batches; the seconds that `apply_into` took. Raises Fault."""
        first, state, replies = self.state.applied, self.state, self._replies
        batches = [
            (commands[at : at + KERNEL_BATCH], timestamp_at(first + at))
            for at in range(0, len(commands), KERNEL_BATCH)
        ]
        ends = [time.perf_counter()]
        for batch, timestamp_ns in batches:
            state.apply_into(batch, timestamp_ns, replies)
            ends.append(time.perf_counter())
        self.slowest_batch_s = max(self.slowest_batch_s, float(np.diff(ends).max()))
        newest = np.arange(max(first, state.applied - _REPLY_SLOTS), state.applied)
        statuses = replies["status"][newest & (_REPLY_SLOTS - 1)]
        if state.applied != first + len(commands) or np.any(statuses != Status.OK):
            raise Fault(f"commands were refused: statuses {np.unique(statuses).tolist()}")
        return ends[-1] - ends[0]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * getpagesize()
