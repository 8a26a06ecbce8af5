"""What an archiver shows beside every node's metrics: how far its history goes, and how fast."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cluster_app.metrics import Reading, Readings

_PREFIX: Final = "ringledger_"
_TRANSACTION_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""A few rows take milliseconds, a whole partition with its indexes takes seconds."""


@dataclass(frozen=True, slots=True)
class Archived:
    """One transaction that was committed; `seconds` from its begin, `partitions` as of then."""

    commands: int
    rows: int
    partitions: int
    seconds: float


class ArchiveMetrics:
    """A history's growth: counted as transactions are committed, by the thread that writes."""

    def __init__(self, registry: CollectorRegistry, complete: Callable[[], int | None]) -> None:
        """`complete` gives the history's end, from any thread; None before the first look."""
        Readings(
            registry,
            Reading(
                "history_complete_sequence",
                "All commands below this sequence are in the history",
                complete,
            ),
        )
        self._commands = _counter(registry, "commands", "Commands that the history took in")
        self._rows = _counter(
            registry, "rows", "Entries written; without --refused, refused commands have none"
        )
        self._failures = _counter(
            registry, "failures", "Transactions that were lost, and made again"
        )
        self._partitions = Gauge(
            f"{_PREFIX}history_partitions",
            "Partitions whose entries are in the database, those made ahead among them",
            registry=registry,
        )
        self._transactions = Histogram(
            f"{_PREFIX}history_transaction_seconds",
            "From a transaction's begin to its commit",
            buckets=_TRANSACTION_BOUNDS_S,
            registry=registry,
        )

    def committed(self, done: Archived) -> None:
        """A transaction is in the database."""
        self._commands.inc(done.commands)
        self._rows.inc(done.rows)
        self._partitions.set(done.partitions)
        self._transactions.observe(done.seconds)

    def failed(self) -> None:
        """A transaction was lost, or the database took none."""
        self._failures.inc()


def _counter(registry: CollectorRegistry, name: str, text: str) -> Counter:
    return Counter(f"{_PREFIX}history_{name}_total", text, registry=registry)
