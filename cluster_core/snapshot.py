"""Snapshots: what changed in a state since a base, taken out of it in one short stop.

A snapshot is a header and rows: accounts, open holds, assets and segments of the window. It is
stored as the difference to the one before: accounts with `last_sequence` at or above the base's
`applied`, holds that are new, changed or closed, segments with entries made since. Each row has
an 8-byte checksum, so a changed one can be named (`restore.py`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from cluster_core.batch import LedgerParameters
from cluster_core.compiled import sparse_array
from cluster_core.errors import InvariantViolated
from cluster_core.reader_rule import Position
from cluster_core.recent_commands import RecentCommands
from cluster_core.record import (
    ACCOUNT,
    ACCOUNT_BYTES,
    ASSET,
    HOLD,
    HOLD_BYTES,
    HOLD_STATE_BYTES,
    REPLY_BYTES,
)
from cluster_core.replay import Replica
from cluster_core.snapshot_rows import (
    ACCOUNT_KEY,
    ASSET_KEY,
    HOLD_KEY,
    checksums,
    copy_changed,
    count_changed,
    words_of,
)
from cluster_core.state_digest import add_rows, begin_digest, end_digest, open_holds_by_id
from cluster_core.state_machine import StateMachine
from cluster_core.window_segments import SEGMENT_ENTRIES, pack_segment

SNAPSHOT_FORMAT: Final = 2
"""What is written. 1 had no segments stored as planes (`window_segments.py`); both are read."""

READ_FORMATS: Final = (1, 2)

KEEP_UP_ENTRIES: Final = 1 << 20
"""Window entries copied at a time between two reads of the journal: 75 MB, 10 to 20 ms."""

_KEPT_ROWS: Final = 1 << 21
"""Copies of rows up to this many, 256 MB of accounts, use the same memory each time: taking new
pages from the system costs as much as the copying."""

_TOUCHED_ROWS: Final = 1 << 17
"""Rows whose memory is taken at a time, 16 MB: some milliseconds."""

_HEADER: Final = struct.Struct("<I32s4QQ16sQQqqqQ32sQQQQQ16s32s")


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot is of. All counters are as of `position`; times are ns.

    `epoch_start` is the body of the newest counted EPOCH_START, `counted_offset` the offset of the
    newest counted record, `evicted_id` the newest UUIDv7 that left the window (big-endian).
    """

    ledger_id: bytes
    parameters: LedgerParameters
    position: Position
    counted_offset: int
    epoch_start: bytes
    accounts: int
    highest_asset: int
    next_hold: int
    open_holds: int
    window_entries: int
    evicted_id: bytes
    state_digest: bytes
    taken_ns: int

    @property
    def applied(self) -> int:
        """All sequences below this one are in the snapshot."""
        return self.position.next_sequence

    @property
    def filled(self) -> int:
        """Slots of the window that hold an entry."""
        return min(self.window_entries, self.parameters.window_capacity)

    def checksum(self, format_number: int = SNAPSHOT_FORMAT) -> int:
        """i64 over all fields, and the format that it is stored in."""
        fixed, position = self.parameters, self.position
        packed = _HEADER.pack(
            format_number,
            self.ledger_id,
            fixed.window_capacity,
            fixed.id_ahead_ns,
            fixed.account_capacity,
            fixed.hold_capacity,
            position.epoch,
            position.leader_id,
            position.next_offset,
            position.next_sequence,
            position.timestamp_ns,
            self.counted_offset,
            self.taken_ns,
            len(self.epoch_start),
            position.chain,
            self.accounts,
            self.highest_asset,
            self.next_hold,
            self.open_holds,
            self.window_entries,
            self.evicted_id,
            self.state_digest,
        )
        return _first_i64(blake3(packed).update(self.epoch_start))


@dataclass(frozen=True)
class SnapshotBase:
    """A stored snapshot's header, and its open holds: `hold_ids` u64 [n] rising, `remaining`."""

    header: SnapshotHeader
    hold_ids: npt.NDArray[np.uint64]
    remaining: npt.NDArray[np.int64]

    @classmethod
    def of(cls, header: SnapshotHeader, holds: npt.NDArray[Any]) -> Self:
        """From all open holds of that snapshot, HOLD [n] rising by id."""
        return cls(header, holds["hold_id"].copy(), holds["remaining"].copy())


@dataclass(frozen=True)
class SnapshotDelta:
    """What a store must write to get from `base` to `header`; without a base it is everything.

    `stored` is the header that the store must hold before: the base's, or that of a snapshot whose
    rows are all to be replaced. None: the store must be empty.

    `accounts` ACCOUNT [n] and `holds` HOLD [n] rise by id, `assets` ASSET [n] are all registered
    ones; their checksums are i64 [n]. `closed_holds` u64 [n] are to be deleted.
    """

    base: SnapshotBase | None
    stored: SnapshotHeader | None
    header: SnapshotHeader
    accounts: npt.NDArray[Any]
    account_checksums: npt.NDArray[np.int64]
    holds: npt.NDArray[Any]
    hold_checksums: npt.NDArray[np.int64]
    closed_holds: npt.NDArray[np.uint64]
    assets: npt.NDArray[Any]
    asset_checksums: npt.NDArray[np.int64]
    segment_numbers: list[int]
    new_base: SnapshotBase
    _window: "WindowCopy"

    def segments(self) -> Iterator[tuple[int, bytes, int]]:
        """(number, SEGMENT as it is stored, its checksum) of each changed segment."""
        for number in self.segment_numbers:
            data = self._window.segment(number, self.header.filled)
            yield number, data, segment_checksum(number, data)

    @property
    def rows(self) -> int:
        """Rows to write or delete."""
        return (
            len(self.accounts)
            + len(self.holds)
            + len(self.closed_holds)
            + len(self.assets)
            + len(self.segment_numbers)
        )


class WindowCopy:
    """A second copy of the window, kept up between batches so that a snapshot need not wait."""

    def __init__(self, capacity: int) -> None:
        self.entries = 0
        self._columns = (
            sparse_array(capacity, np.uint64, columns=2),
            sparse_array(capacity, np.uint64, columns=1).reshape(-1, 1),
            sparse_array(capacity, np.uint64, columns=REPLY_BYTES // 8),
        )

    def keep_up(self, window: RecentCommands, entries: int, limit: int | None = None) -> None:
        """Copy what was entered since, `limit` entries at most; `entries` were ever made."""
        capacity = len(window.ids)
        first = max(self.entries, entries - capacity)
        end = entries if limit is None else min(entries, first + limit)
        sources = (
            window.ids,
            window.fingerprints.reshape(-1, 1),
            words_of(window.replies),
        )
        at = first
        while at < end:
            slot = at % capacity
            count = min(end - at, capacity - slot)
            for source, copied in zip(sources, self._columns, strict=True):
                copied[slot : slot + count] = source[slot : slot + count]
            at += count
        self.entries = max(self.entries, end)

    def filled(self, count: int) -> Iterator[npt.NDArray[np.uint64]]:
        """The first `count` slots' ids, fingerprints and replies."""
        return (column[:count] for column in self._columns)

    def segment(self, number: int, filled: int) -> bytes:
        """One SEGMENT as it is stored."""
        first = number * SEGMENT_ENTRIES
        end = min(first + SEGMENT_ENTRIES, filled)
        return pack_segment([column[first:end].view(np.uint8) for column in self._columns])


class WindowInPlace(WindowCopy):
    """The window itself, for a replica that stands still until its snapshot is saved."""

    def __init__(self, window: RecentCommands) -> None:
        self.entries = 0
        self._columns = (
            window.ids,
            window.fingerprints.reshape(-1, 1),
            words_of(window.replies),
        )

    def keep_up(self, window: RecentCommands, entries: int, limit: int | None = None) -> None:
        """Nothing is copied."""
        self.entries = entries


@dataclass(frozen=True)
class TakenState:
    """Copies of what changed, as of one sequence. `finish` needs the state no more."""

    base: SnapshotBase | None
    stored: SnapshotHeader | None
    header: SnapshotHeader
    hasher: Any
    accounts: npt.NDArray[Any]
    assets: npt.NDArray[Any]
    hold_pool: npt.NDArray[Any]
    window: WindowCopy

    def finish(self) -> SnapshotDelta:
        """Sort, compare, sum and hash: on any thread, while replay goes on."""
        packed = open_holds_by_id(self.hold_pool)
        holds = holds_from_bytes(packed)
        header, base = self.header, self.base
        if self.hasher is not None:
            digest = end_digest(self.hasher, self.assets, packed, self.window.filled(header.filled))
            header = replace(header, state_digest=digest)
        changed, closed = _compare_holds(base, holds)
        registered = np.flatnonzero(self.assets["number"])
        assets = words_of(self.assets)[registered].reshape(-1).view(ASSET)
        return SnapshotDelta(
            base,
            self.stored,
            header,
            self.accounts,
            checksums(self.accounts, ACCOUNT_KEY),
            holds[changed],
            checksums(holds[changed], HOLD_KEY),
            closed,
            assets,
            checksums(assets, ASSET_KEY),
            _changed_segments(base, header),
            SnapshotBase.of(header, holds),
            self.window,
        )


class Snapshotter:
    """Takes snapshots of one replica, each against the last one that is known to be stored.

    `take` and `keep_up` belong to the thread that replays. While a taken state is being finished
    and saved, neither may be called: both write to the copies that it is in.
    """

    def __init__(
        self,
        replica: Replica,
        base: SnapshotBase | None,
        replaced: SnapshotHeader | None = None,
        *,
        copy_window: bool = True,
    ) -> None:
        """Without a base, `replaced` is the header of what the first delta replaces, if any.

        Without `copy_window` the replay must stand still until a taken state is saved: it is read
        where it lies, which spares the memory of a second window.
        """
        self.replica = replica
        self._base = base
        self._replaced = replaced
        self._copy_window = copy_window
        self._window: WindowCopy | None = None
        self._copies = _RowCopies()

    def keep_up(self) -> bool:
        """Copy a part of what has entered the window; whether that was all: then `take` is short.

        Call it between two reads of the journal.
        """
        state = self.replica.state
        if state is None:
            return True
        self._copies.make_room(state.accounts)
        window = self._window_of(state)
        window.keep_up(state.window, state.window_entries, KEEP_UP_ENTRIES)
        return window.entries == state.window_entries

    def take(self, now_ns: int) -> TakenState:
        """Copy what changed since the base. Raises InvariantViolated before the first epoch."""
        replica, base = self.replica, self._base
        state = replica.state
        if state is None or replica.leader is None:
            raise InvariantViolated("there is no ledger to take a snapshot of")
        since = base.header.applied if base else 0
        books, ledger = state.books, state.books.ledger[0]
        unchanged = base is not None and base.header.applied == state.applied
        window = self._window_of(state)
        window.keep_up(state.window, state.window_entries)
        hasher = None
        if not unchanged:
            hasher = begin_digest(state.parameters, ledger)
            add_rows(hasher, books.accounts[1 : state.accounts + 1])
        header = SnapshotHeader(
            replica.ledger_id,
            state.parameters,
            replica.position,
            replica.counted_offset,
            replica.leader.pack(),
            state.accounts,
            int(ledger["highest_asset"]),
            state.next_hold,
            state.open_holds,
            state.window_entries,
            struct.pack(">QQ", int(ledger["evicted_high"]), int(ledger["evicted_low"])),
            base.header.state_digest if base else bytes(32),
            now_ns,
        )
        return TakenState(
            base,
            base.header if base else self._replaced,
            header,
            hasher,
            self._copies.changed_accounts(state, since),
            # as bytes: numpy's own copy of records leaves out what has no name
            np.frombuffer(books.assets[1 : header.highest_asset + 1].tobytes(), ASSET),
            self._copies.hold_pool(state),
            window,
        )

    def go_on_from(self, base: SnapshotBase | None) -> None:
        """The store holds this for sure, or nothing: changes below it are forgotten."""
        self._base = base
        self._replaced = None

    @property
    def has_base(self) -> bool:
        """False when the next delta will be everything."""
        return self._base is not None

    @property
    def stored(self) -> SnapshotHeader | None:
        """The header that the store holds, as far as it is known here."""
        return self._base.header if self._base else self._replaced

    def _window_of(self, state: StateMachine) -> WindowCopy:
        if self._window is None:
            self._window = (
                WindowCopy(state.parameters.window_capacity)
                if self._copy_window
                else WindowInPlace(state.window)
            )
        return self._window


def segment_checksum(number: int, data: bytes) -> int:
    """i64 over a segment's number and bytes."""
    return _first_i64(blake3(struct.pack("<Q", number)).update(data))


def holds_from_bytes(packed: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """HOLD [n] with zero links from u8 [n, 56]."""
    holds = np.zeros((len(packed), HOLD.itemsize), np.uint8)
    holds[:, :HOLD_STATE_BYTES] = packed
    return holds.view(HOLD).reshape(-1)


def _first_i64(hasher: blake3) -> int:
    return int.from_bytes(hasher.digest(8), "little", signed=True)


class _RowCopies:
    """Where rows are copied to during the stop; one taken state at a time uses it."""

    def __init__(self) -> None:
        self._touched = 0
        self._accounts = sparse_array(_KEPT_ROWS, np.uint64, columns=ACCOUNT_BYTES // 8)
        self._holds = sparse_array(_KEPT_ROWS, np.uint64, columns=HOLD_BYTES // 8)

    def make_room(self, accounts: int) -> None:
        """Take some of the memory for so many accounts before it is needed."""
        end = min(accounts, self._touched + _TOUCHED_ROWS, len(self._accounts))
        self._accounts[self._touched : end] = 0
        self._touched = max(self._touched, end)

    def changed_accounts(self, state: StateMachine, since: int) -> npt.NDArray[Any]:
        """ACCOUNT [n] rising by id: what a command from sequence `since` on has changed."""
        words = words_of(state.books.accounts)
        count = int(count_changed(words, state.accounts, np.uint64(since)))
        copies = self._accounts
        if count > len(copies):
            copies = np.empty((count, copies.shape[1]), np.uint64)
        copy_changed(words, state.accounts, np.uint64(since), copies)
        return copies[:count].reshape(-1).view(ACCOUNT)

    def hold_pool(self, state: StateMachine) -> npt.NDArray[Any]:
        """HOLD [n]: the used slots of the pool, free ones among them."""
        count = int(state.books.ledger[0]["used_hold_slots"])
        copies = self._holds
        if count > len(copies):
            copies = np.empty((count, copies.shape[1]), np.uint64)
        copies[:count] = words_of(state.books.holds)[1 : count + 1]
        return copies[:count].reshape(-1).view(HOLD)


def _compare_holds(
    base: SnapshotBase | None, holds: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """(which of `holds` are new or changed, ids that are open no more), both rising by id."""
    ids, remaining = holds["hold_id"], holds["remaining"]
    if base is None or not len(base.hold_ids):
        return np.ones(len(ids), np.bool_), np.zeros(0, np.uint64)
    places = np.minimum(np.searchsorted(base.hold_ids, ids), len(base.hold_ids) - 1)
    known = base.hold_ids[places] == ids
    still_open = np.zeros(len(base.hold_ids), np.bool_)
    still_open[places[known]] = True
    changed = ~known | (base.remaining[places] != remaining)
    return changed, base.hold_ids[~still_open]


def _changed_segments(base: SnapshotBase | None, header: SnapshotHeader) -> list[int]:
    """Numbers of the segments that hold an entry made since the base."""
    capacity = header.parameters.window_capacity
    first, end = base.header.window_entries if base else 0, header.window_entries
    first = max(first, end - capacity)
    numbers: set[int] = set()
    if first == end:
        return []
    for at in range(first - first % SEGMENT_ENTRIES, end, SEGMENT_ENTRIES):
        numbers.add(max(at, first) % capacity // SEGMENT_ENTRIES)
        numbers.add((min(at + SEGMENT_ENTRIES, end) - 1) % capacity // SEGMENT_ENTRIES)
    return sorted(numbers)
