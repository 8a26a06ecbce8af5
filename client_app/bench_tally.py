"""What a bench run counts: replies by outcome, the sums they claim, and latencies."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from client_core.errors import RingledgerClientError
from client_core.records import DUPLICATE_FLAG, Reply, Status
from proto import ledger_pb2

BENCH_ASSET: Final = 1
"""Asset 1 exists from the start."""

PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
_NS_PER_MS: Final = 1e6

REPLY: Final = np.dtype(
    {
        "names": ["entity", "amount", "status", "flags"],
        "formats": ["<u8", "<i8", "<u2", "<u2"],
        "offsets": [8, 16, 40, 42],
        "itemsize": 48,
    }
)
"""The fields of a packed reply that the bench reads."""

Progress = Callable[[int], object]
"""Told how many more commands were answered."""


class BenchFailed(RingledgerClientError):
    """The run can't be trusted or could not go on; the message says why."""


@dataclass
class Tally:
    """Counts of one phase. `posted` is the change of all balances' sum, in minor units."""

    brings_in: bool
    """True where accepted amounts come from outside: deposits."""
    progress: Progress = lambda _: None
    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    posted: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    latencies_ns: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    """How many commands each latency stands for."""

    @property
    def commands(self) -> int:
        """Replies counted."""
        return self.accepted + self.refused + self.duplicates

    def add_message(
        self, replies: NDArray[np.void], amounts: NDArray[np.int64], latency_ns: int
    ) -> None:
        """Count a message's replies (REPLY [n]) to commands of these amounts (int64 [n]).

        Raises BenchFailed when an accepted reply moved another amount than was asked.
        """
        count = len(replies)
        ok = replies["status"] == Status.OK
        duplicate = (replies["flags"] & DUPLICATE_FLAG) != 0
        duplicates = int(np.count_nonzero(duplicate))
        fresh = ok & ~duplicate if duplicates else ok
        accepted = int(np.count_nonzero(fresh))
        moved = replies["amount"]
        if not np.array_equal(moved[fresh], amounts[fresh]):
            raise BenchFailed("a reply says another amount than its command: replies are mixed up")
        self.accepted += accepted
        self.duplicates += duplicates
        self.refused += count - accepted - duplicates
        if self.brings_in:
            self.posted += int(moved[fresh].sum())
        if count > accepted + duplicates:
            for number in replies["status"][~ok & ~duplicate].tolist():
                self.refusals[Status(number).name] += 1
        self._add_latency(latency_ns, count)

    def add_reply(self, reply: Reply, amount: int, latency_ns: int) -> None:
        """Count one reply. Raises as `add_message` does."""
        if reply.flags & DUPLICATE_FLAG:
            self.duplicates += 1
        elif reply.status_number == Status.OK:
            if reply.amount != amount:
                raise BenchFailed("a reply says another amount than its command")
            self._accept(amount)
        else:
            self.refused += 1
            self.refusals[reply.status.name] += 1
        self._add_latency(latency_ns, 1)

    def add_outcome(self, refusal: str, amount: int, latency_ns: int) -> None:
        """Count one reply of the bank contract; `refusal` is empty for code 0."""
        if refusal:
            self.refused += 1
            self.refusals[refusal] += 1
        else:
            self._accept(amount)
        self._add_latency(latency_ns, 1)

    def check_all_accepted(self, what: str) -> None:
        """Raise BenchFailed if anything was refused or a duplicate."""
        if self.accepted != self.commands:
            told = ", ".join(f"{count} {name}" for name, count in self.refusals.items())
            raise BenchFailed(f"{what}: not all were accepted ({told or 'duplicates'})")

    def latency_ms(self) -> dict[str, float]:
        """Exact percentiles by nearest rank; each command counts with its message's latency."""
        return percentiles_ms(self.latencies_ns, self.weights)

    def _accept(self, amount: int) -> None:
        self.accepted += 1
        if self.brings_in:
            self.posted += amount

    def _add_latency(self, latency_ns: int, count: int) -> None:
        self.latencies_ns.append(latency_ns)
        self.weights.append(count)
        self.progress(count)


@dataclass(frozen=True)
class Totals:
    """A node's sums that a run moves."""

    accounts: int
    posted: int
    applied: int

    @staticmethod
    def of(status: ledger_pb2.GetStatusResponse) -> "Totals":
        """From a node's status; all assets, since the bench uses only one."""
        return Totals(
            status.accounts,
            sum(asset.posted_total for asset in status.assets),
            status.applied_sequence,
        )

    def check(self, before: "Totals", accounts: int, tallies: Sequence[Tally]) -> None:
        """Compare the node's own change since `before` with the replies' sums.

        Raises BenchFailed when they differ.
        """
        expected = Totals(
            accounts,
            sum(tally.posted for tally in tallies),
            sum(tally.commands for tally in tallies),
        )
        actual = Totals(
            self.accounts - before.accounts,
            self.posted - before.posted,
            self.applied - before.applied,
        )
        if actual != expected:
            raise BenchFailed(
                f"the server's totals moved by {actual}, the replies say {expected}: either "
                "another client was at work, or the server lost or doubled a command"
            )


class Load(Protocol):
    """One way to put load on a node."""

    async def prepare(self, accounts: int, progress: Progress) -> Sequence[Tally]:
        """Create and fund the accounts; their tallies, all accepted."""

    async def run(self, commands: int, tally: Tally) -> None:
        """Send so many commands and count every reply."""

    async def close(self) -> None:
        """Disconnect."""


def percentiles_ms(latencies_ns: Sequence[int], weights: Sequence[int]) -> dict[str, float]:
    """Exact weighted percentiles by nearest rank, in milliseconds."""
    if not latencies_ns:
        return {name: 0.0 for name, _ in PERCENTILES}
    latencies = np.asarray(latencies_ns, np.int64)
    order = np.argsort(latencies, kind="stable")
    ranks = np.cumsum(np.asarray(weights, np.int64)[order])
    total = int(ranks[-1])
    result = {}
    for name, share in PERCENTILES:
        rank = max(1, int(np.ceil(share * total)))
        at = order[np.searchsorted(ranks, rank)]
        result[name] = round(float(latencies[at]) / _NS_PER_MS, 4)
    return result
