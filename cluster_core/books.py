"""The books: the arrays and counters that the operations read and change.

Each array is mapped at its capacity and takes memory as it is first written. The memory is this
process's own, or shared with readers in others (`shared_books.py`, `reading.py`).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.batch import LedgerParameters
from cluster_core.compiled import array_type, records, sparse_array
from cluster_core.record import ACCOUNT, ASSET, HOLD, MAX_ASSETS

LEDGER: Final = np.dtype(
    [
        ("applied", "<i8"),
        ("accounts", "<i8"),
        ("highest_asset", "<i8"),
        ("next_hold", "<i8"),
        ("window_entries", "<i8"),
        ("evicted_high", "<u8"),
        ("evicted_low", "<u8"),
        ("account_capacity", "<i8"),
        ("hold_capacity", "<i8"),
        ("id_ahead_ns", "<i8"),
        ("open_holds", "<i8"),
        ("timed_holds", "<i8"),
        ("used_hold_slots", "<i8"),
        ("free_hold_slot", "<i8"),
        ("hold_buckets", "<i8"),
        ("hold_mask", "<u8"),
    ]
)
"""The state's scalars. `evicted_*`: newest UUIDv7 id evicted, as two big-endian numbers.

Those from `timed_holds` on are the hold store's own and no part of the state (`holds.py`).
"""


TURN: Final = 0
UNDONE: Final = 1
CHANGES_MADE: Final = 2
WATCHING: Final = 3
MARKS: Final = 64
"""Words of `marks`, u64: what readers in other threads and processes go by.

TURN is odd while the kernel changes the books, and rises twice with each turn; UNDONE counts
chains that were undone, whose accounts have their old versions again; CHANGES_MADE counts rows
ever written to `changes`; WATCHING is not zero while changes are to be written at all,
and has another number each time that this begins.
"""

CHANGES_CAPACITY: Final = 1 << 17
"""Rows of the ring of changes, 16 MiB: 60 ms of a million transfers a second."""


class Books(NamedTuple):
    """What the operations change. Only the kernel writes.

    `ledger` LEDGER [1]; `accounts` ACCOUNT [capacity + 1], by account id; `assets` ASSET
    [MAX_ASSETS], by number. `holds` HOLD [capacity + 1], `hold_heads` u32 [capacity] and
    `hold_heap` u32 [capacity + 1] are the hold store; `hold_seed` keys its hash. `marks` u64
    [MARKS] and `changes` ACCOUNT [CHANGES_CAPACITY], a ring of accounts as each command left them
    (`changes.py`), are no part of the state.
    """

    ledger: npt.NDArray[Any]
    accounts: npt.NDArray[Any]
    assets: npt.NDArray[Any]
    holds: npt.NDArray[Any]
    hold_heads: npt.NDArray[np.uint32]
    hold_heap: npt.NDArray[np.uint32]
    hold_seed: np.uint64
    marks: npt.NDArray[np.uint64]
    changes: npt.NDArray[Any]


BOOKS: Final[Any] = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        array_type(LEDGER),
        array_type(ACCOUNT),
        array_type(ASSET),
        array_type(HOLD),
        array_type(np.uint32),
        array_type(np.uint32),
        types.uint64,
        array_type(np.uint64),
        array_type(ACCOUNT),
    ),
    Books,
)
"""Numba's type of the books, for a kernel's signature."""


Allocate = Callable[[int, Any], npt.NDArray[Any]]
"""Gives a zeroed array of so many rows of a dtype."""

MakeBooks = Callable[[LedgerParameters, int], "Books"]
"""Makes empty books from a ledger's parameters and a hash seed."""


def map_books(parameters: LedgerParameters, hash_seed: int, allocate: Allocate) -> Books:
    """Lay the books' arrays out, in one fixed order. Raises OSError when memory is refused."""
    return Books(
        records(allocate(1, LEDGER)),
        records(allocate(parameters.account_capacity + 1, ACCOUNT)),
        records(allocate(MAX_ASSETS, ASSET)),
        records(allocate(parameters.hold_capacity + 1, HOLD)),
        allocate(parameters.hold_capacity, np.uint32),
        allocate(parameters.hold_capacity + 1, np.uint32),
        np.uint64(hash_seed & (2**64 - 1)),
        allocate(MARKS, np.uint64),
        records(allocate(CHANGES_CAPACITY, ACCOUNT)),
    )


def empty_books(
    parameters: LedgerParameters, hash_seed: int, allocate: Allocate = sparse_array
) -> Books:
    """Books without accounts, assets and holds. Raises OSError when memory is refused."""
    books = map_books(parameters, hash_seed, allocate)
    ledger = books.ledger
    ledger["account_capacity"] = parameters.account_capacity
    ledger["hold_capacity"] = parameters.hold_capacity
    ledger["id_ahead_ns"] = parameters.id_ahead_ns
    ledger["next_hold"] = 1
    ledger["hold_buckets"] = 1
    ledger["hold_mask"] = 1
    return books
