"""Putting a snapshot back into an empty state, and proving that it is what was saved.

Every row is compared with its checksum as it comes, so a changed one is named; then the rows'
counts and the whole state's digest are. Tables of hashes and the heap are built anew.
"""

import struct
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from cluster_core.batch import EpochStart
from cluster_core.books import MakeBooks, empty_books
from cluster_core.compiled import records
from cluster_core.errors import SnapshotDamaged
from cluster_core.holds import enter_restored_holds
from cluster_core.recent_commands import MakeWindow, empty_window, enter_restored
from cluster_core.record import HOLD, MAX_ASSETS
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotBase, SnapshotHeader, segment_checksum
from cluster_core.snapshot_rows import ACCOUNT_KEY, ASSET_KEY, HOLD_KEY, checksums, words_of
from cluster_core.state_machine import StateMachine
from cluster_core.window_segments import SEGMENT_ENTRIES, unpack_segment

_ADVICE: Final = (
    "restore the store from a copy, or start with --no-snapshot to replay the whole journal"
)


class Restorer:
    """Takes a snapshot's rows in any order, in chunks, then gives the replica that they are.

    All `add_...` methods raise SnapshotDamaged, naming the first row that isn't what was saved.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        *,
        hash_seed: int = 0,
        make_books: MakeBooks = empty_books,
        make_window: MakeWindow = empty_window,
    ) -> None:
        """Raises SnapshotDamaged for a header whose parts don't fit each other."""
        self.header = header
        self.rows = 0
        _check_header(header)
        self._hash_seed = hash_seed
        self._state = StateMachine(
            header.parameters,
            hash_seed=hash_seed,
            make_books=make_books,
            make_window=make_window,
        )
        self._accounts = 0
        self._entries = 0
        self._holds: list[npt.NDArray[Any]] = []

    @property
    def total_rows(self) -> int:
        """Rows that the header promises, but for the assets."""
        segments = -(-self.header.filled // SEGMENT_ENTRIES)
        return self.header.accounts + self.header.open_holds + segments

    def add_accounts(self, rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> None:
        """ACCOUNT [n] and the i64 [n] checksums they were stored with."""
        if not len(rows):
            return
        ids = rows["account_id"]
        self._check_sums("accounts", "account_id", rows, sums, ACCOUNT_KEY)
        beyond = np.flatnonzero((ids < 1) | (ids > self.header.accounts))
        if len(beyond):
            damaged(
                f"accounts: the row with account_id {ids[beyond[0]]} is too much, there were "
                f"{self.header.accounts}"
            )
        words, source = words_of(self._state.books.accounts), words_of(rows)
        if int(ids[-1]) - int(ids[0]) == len(ids) - 1 and (np.diff(ids) == 1).all():
            words[int(ids[0]) : int(ids[-1]) + 1] = source
        else:
            words[ids] = source
        self._accounts += len(rows)
        self.rows += len(rows)

    def add_holds(self, rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> None:
        """HOLD [n], links zero, and their checksums."""
        self._check_sums("holds", "hold_id", rows, sums, HOLD_KEY)
        self._holds.append(rows)
        self.rows += len(rows)

    def add_assets(self, rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> None:
        """ASSET [n] and their checksums."""
        self._check_sums("assets", "asset", rows, sums, ASSET_KEY, column="number")
        numbers = rows["number"]
        beyond = np.flatnonzero((numbers < 1) | (numbers > self.header.highest_asset))
        if len(beyond):
            damaged(f"assets: the row with asset {numbers[beyond[0]]} is too much")
        words_of(self._state.books.assets)[numbers] = words_of(rows)

    def add_segment(self, number: int, data: bytes, checksum: int) -> None:
        """One SEGMENT of the window, as it was stored."""
        first = number * SEGMENT_ENTRIES
        count = max(min(SEGMENT_ENTRIES, self.header.filled - first), 0)
        window = self._state.window
        rows = slice(first, first + count)
        columns = (window.ids, window.fingerprints.reshape(-1, 1), words_of(window.replies))
        if (
            number < 0
            or not count
            or segment_checksum(number, data) != checksum
            or not unpack_segment(data, [column[rows].view(np.uint8) for column in columns])
        ):
            damaged(f"window_segments: the row with segment {number} was changed")
        self._entries += count
        self.rows += 1

    def finish(self) -> Replica:
        """The replica at the snapshot's position. Raises SnapshotDamaged."""
        header, state = self.header, self._state
        self._check_complete()
        holds = self.open_holds()
        books, ledger = state.books, state.books.ledger
        high, low = struct.unpack(">QQ", header.evicted_id)
        for name, value in (
            ("applied", header.applied),
            ("accounts", header.accounts),
            ("highest_asset", header.highest_asset),
            ("next_hold", header.next_hold),
            ("window_entries", header.window_entries),
            ("evicted_high", high),
            ("evicted_low", low),
        ):
            ledger[name] = value
        enter_restored_holds(records(holds), books)
        enter_restored(state.window, header.filled)
        if state.digest() != header.state_digest:
            damaged(
                "every row has its own checksum, but together they are not the state that was "
                "saved: rows of another snapshot are among them"
            )
        replica = Replica(hash_seed=self._hash_seed)
        replica.state = state
        replica.position = header.position
        replica.ledger_id = header.ledger_id
        replica.leader = EpochStart.unpack(header.epoch_start)
        replica.counted_offset = header.counted_offset
        return replica

    def base(self) -> SnapshotBase:
        """What the next delta is made against."""
        return SnapshotBase.of(self.header, self.open_holds())

    def open_holds(self) -> npt.NDArray[Any]:
        """All holds that were added, HOLD [n] rising by id."""
        holds = np.concatenate([np.zeros(0, HOLD), *self._holds])
        ordered = words_of(holds)[np.argsort(holds["hold_id"])]
        return ordered.reshape(-1).view(HOLD)

    def _check_sums(
        self,
        table: str,
        name: str,
        rows: npt.NDArray[Any],
        sums: npt.NDArray[np.int64],
        key: np.uint64,
        column: str = "",
    ) -> None:
        wrong = np.flatnonzero(checksums(rows, key) != sums)
        if len(wrong):
            number = rows[column or name][wrong[0]]
            damaged(f"{table}: the row with {name} {number} was changed")

    def _check_complete(self) -> None:
        header, accounts = self.header, self._state.books.accounts
        if self._accounts != header.accounts:
            missing = np.flatnonzero(accounts["account_id"][1 : header.accounts + 1] == 0)
            number = int(missing[0]) + 1 if len(missing) else 0
            damaged(f"accounts: the row with account_id {number} is missing")
        known = self._state.books.assets["number"] != 0
        used = np.flatnonzero(np.bincount(accounts["asset"][1 : header.accounts + 1]))
        for number in (*used, header.highest_asset):
            if not known[number]:
                damaged(f"assets: the row with asset {number} is missing")
        count = sum(map(len, self._holds))
        if count != header.open_holds:
            damaged(f"holds: {count} rows where {header.open_holds} holds were open")
        if self._entries != header.filled:
            damaged(f"window_segments: {self._entries} entries where {header.filled} were saved")


def damaged(what: str) -> NoReturn:
    """Raise SnapshotDamaged with what to do."""
    raise SnapshotDamaged(f"the snapshot is damaged: {what}: {_ADVICE}")


def _check_header(header: SnapshotHeader) -> None:
    fixed = header.parameters
    if (
        not 0 <= header.accounts <= fixed.account_capacity
        or not 0 <= header.open_holds <= fixed.hold_capacity
        or not 1 <= header.highest_asset < MAX_ASSETS
        or min(header.window_entries, header.next_hold - 1, header.applied) < 0
        or not 0 <= header.counted_offset < header.position.next_offset
    ):
        damaged("the header's counters don't fit each other")
