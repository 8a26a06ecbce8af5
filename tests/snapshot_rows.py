"""A snapshot as plain rows in dictionaries: what any store holds after a chain of deltas."""

from typing import Any, Final

import numpy as np

from cluster_core.batch import EpochStart, LedgerParameters
from cluster_core.reader_rule import Position
from cluster_core.record import ACCOUNT, ASSET, HOLD
from cluster_core.replay import Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotDelta, SnapshotHeader
from cluster_core.state_machine import StateMachine

LEADER_ID: Final = bytes(range(16))


def replica_of(state: StateMachine, *, epoch: int = 1, offset: int = 1) -> Replica:
    """A replica whose position says that it has read just what the state has applied."""
    replica = Replica()
    replica.state = state
    replica.ledger_id = bytes([7]) * 32
    replica.leader = EpochStart("one", "127.0.0.1:9500", state.parameters)
    move(replica, offset, epoch)
    return replica


def move(replica: Replica, offset: int, epoch: int = 1) -> None:
    """Put the position behind the record at `offset`, as if that was the newest counted one."""
    assert replica.state is not None
    replica.counted_offset = offset
    chain = offset.to_bytes(8, "little") * 4
    applied = replica.state.applied
    replica.position = Position(offset + 1, epoch, LEADER_ID, applied, 10**18 + offset, chain)


class SnapshotRows:
    """Rows by id, as bytes with their checksums; a delta is applied as a store does it."""

    def __init__(self) -> None:
        self.header: SnapshotHeader | None = None
        self.accounts: dict[int, tuple[bytes, int]] = {}
        self.holds: dict[int, tuple[bytes, int]] = {}
        self.assets: dict[int, tuple[bytes, int]] = {}
        self.segments: dict[int, tuple[bytes, int]] = {}

    def save(self, delta: SnapshotDelta) -> None:
        assert self.header == (delta.base.header if delta.base else None)
        self.header = delta.header
        for hold_id in delta.closed_holds.tolist():
            del self.holds[hold_id]
        for rows, records, sums, name in (
            (self.accounts, delta.accounts, delta.account_checksums, "account_id"),
            (self.holds, delta.holds, delta.hold_checksums, "hold_id"),
            (self.assets, delta.assets, delta.asset_checksums, "number"),
        ):
            for record, checksum in zip(records, sums.tolist(), strict=True):
                rows[int(record[name])] = (record.tobytes(), checksum)
        self.segments |= {number: (data, checksum) for number, data, checksum in delta.segments()}

    def restorer(self, hash_seed: int = 0) -> Restorer:
        assert self.header is not None
        restorer = Restorer(self.header, hash_seed=hash_seed)
        restorer.add_accounts(*_arrays(self.accounts, ACCOUNT))
        restorer.add_holds(*_arrays(self.holds, HOLD))
        restorer.add_assets(*_arrays(self.assets, ASSET))
        for number, (data, checksum) in self.segments.items():
            restorer.add_segment(number, data, checksum)
        return restorer

    def restore(self, hash_seed: int = 0) -> Replica:
        return self.restorer(hash_seed).finish()


def _arrays(rows: dict[int, tuple[bytes, int]], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    packed = b"".join(record for record, _ in rows.values())
    return np.frombuffer(packed, dtype), np.array([sum_ for _, sum_ in rows.values()], np.int64)


SMALL: Final = LedgerParameters(
    window_capacity=16, id_ahead_ns=10**9, account_capacity=100, hold_capacity=60
)
