"""A snapshot store in memory: one transaction a save, with the faults of a store.

It can't be reached for a while, takes long, dies in the middle of a save (then nothing of it is
there), or after it before the answer. Torn: a save that is not a transaction at all, as a broken
disk or a hand would leave it; a restore must refuse it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster_core.errors import SnapshotMoved, StoreUnavailable
from cluster_core.record import ACCOUNT, ASSET, HOLD
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotDelta, SnapshotHeader
from tests.simulation.journals import MS
from tests.simulation.world import Process, World

_Rows = dict[int, tuple[bytes, int]]


@dataclass
class Tables:
    """What is stored: rows by id, with their checksums."""

    header: SnapshotHeader | None = None
    accounts: _Rows = field(default_factory=dict)
    holds: _Rows = field(default_factory=dict)
    assets: _Rows = field(default_factory=dict)
    segments: _Rows = field(default_factory=dict)
    is_torn: bool = False

    def copy(self) -> "Tables":
        """A transaction's own."""
        return Tables(
            self.header,
            dict(self.accounts),
            dict(self.holds),
            dict(self.assets),
            dict(self.segments),
            self.is_torn,
        )


class SimStore:
    """The store that every process reaches (`cluster_app.snapshot_store.SnapshotStore`)."""

    name = "simulated://snapshots"

    def __init__(self, world: World) -> None:
        self.tables = Tables()
        self.saves = 0
        self.restores = 0
        self.asked = 0
        self.saving = False
        self.reachable = True
        self.tear_next = False
        self.read_torn: dict[Process, None] = {}
        """Who has read a torn snapshot, and must have refused it."""
        self.slow_ns = 0
        self.lose_answer = False
        self.on_fault: Callable[[str], None] = lambda _: None
        self._world = world

    def newest(self) -> SnapshotHeader | None:
        self._take_time()
        return self.tables.header

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        self._take_time()
        stored = self.tables  # one read transaction: a save puts another in its place
        if stored.header is None:
            return None
        if stored.is_torn and self._world.current is not None:
            self.read_torn[self._world.current] = None
        restorer = begin(stored.header)
        restorer.add_accounts(*_columns(stored.accounts, ACCOUNT))
        progress(restorer)
        restorer.add_holds(*_columns(stored.holds, HOLD))
        restorer.add_assets(*_columns(stored.assets, ASSET))
        for number, (data, checksum) in sorted(stored.segments.items()):
            restorer.add_segment(number, data, checksum)
        self._take_time()
        self.restores += 1
        self._world.note("restored")
        return restorer

    def read_base(self) -> SnapshotBase | None:
        self._take_time()
        if self.tables.header is None:
            return None
        restorer = Restorer(self.tables.header)
        restorer.add_holds(*_columns(self.tables.holds, HOLD))
        return restorer.base()

    def save(self, delta: SnapshotDelta) -> int:
        self.saving = True
        try:
            return self._save(delta)
        finally:
            self.saving = False

    def _save(self, delta: SnapshotDelta) -> int:
        self._take_time()
        if _moved(self.tables.header, delta.stored):
            raise SnapshotMoved("another learner saved a snapshot")
        tables = self.tables.copy()
        if delta.base is None:
            tables = Tables()
        tables.header = delta.header
        if self.tear_next:
            # some rows are new and the header is; the rest is as it was
            self.tear_next = False
            tables.is_torn = True
            self.tables = tables
            self._world.note("torn")
            self.on_fault("torn snapshot")
            self._world.die()
        _write(tables.accounts, delta.accounts, delta.account_checksums, "account_id")
        for hold_id in delta.closed_holds.tolist():
            tables.holds.pop(hold_id, None)
        _write(tables.holds, delta.holds, delta.hold_checksums, "hold_id")
        _write(tables.assets, delta.assets, delta.asset_checksums, "number")
        for number, data, checksum in delta.segments():
            tables.segments[number] = (data, checksum)
        self._take_time()
        if _moved(self.tables.header, delta.stored):
            raise SnapshotMoved("another learner was faster")
        self.tables = tables
        self.saves += 1
        self._world.note(f"saved {delta.header.applied}")
        if self.lose_answer:
            self.lose_answer = False
            self.on_fault("lost answer of the store")
            raise StoreUnavailable("the connection broke at the commit")
        self._take_time()
        return delta.rows

    def _take_time(self) -> None:
        self.asked += 1
        if self._world.thread is not None:
            self._world.park(self._world.between(1 * MS, 20 * MS) + self.slow_ns)
        if not self.reachable:
            self.on_fault("store out of reach")
            raise StoreUnavailable("the store can't be reached")


def _moved(stored: SnapshotHeader | None, expected: SnapshotHeader | None) -> bool:
    if stored is None or expected is None:
        return stored is not expected
    return (stored.position, stored.state_digest) != (expected.position, expected.state_digest)


def _write(table: _Rows, rows: Any, sums: Any, key: str) -> None:
    for index, (number, checksum) in enumerate(zip(rows[key].tolist(), sums.tolist(), strict=True)):
        table[number] = (rows[index : index + 1].tobytes(), checksum)


def _columns(table: _Rows, dtype: Any) -> tuple[Any, Any]:
    rows = [table[number] for number in sorted(table)]
    data = b"".join(row for row, _ in rows)
    return np.frombuffer(data, dtype), np.array([checksum for _, checksum in rows], np.int64)
