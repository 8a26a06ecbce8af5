# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""A snapshot's rows: finding those that changed, and the checksum that each is stored with.

`h = key; for each u64 word w of the row: h = (h ^ w) * 0xFF51AFD7ED558CCD; h ^= h >> 32`, stored
as i64. Each step is a bijection, so a row with one changed word never keeps its checksum. The key
is the table's; the row's own id is among the words.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.compiled import array_type, kernel
from cluster_core.record import HOLD, HOLD_STATE_BYTES

ACCOUNT_KEY: Final = np.uint64(0x4143434F554E5453)
HOLD_KEY: Final = np.uint64(0x484F4C4453000000)
ASSET_KEY: Final = np.uint64(0x4153534554530000)
"""The tables' names, in ASCII."""

_MULTIPLIER: Final = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT_32: Final = np.uint64(32)
_LAST_SEQUENCE: Final = 40 // 8
"""`last_sequence`, by ACCOUNT's drawing."""


@kernel(types.int64(array_type(np.uint64, 2), types.int64, types.uint64))
def count_changed(words: npt.NDArray[np.uint64], accounts: int, since: np.uint64) -> int:
    """How many of the accounts 1 .. `accounts` a sequence from `since` on has changed.

    `words` u64 [capacity + 1, 16] are the account rows.
    """
    count = 0
    for row in range(1, accounts + 1):
        if words[row, _LAST_SEQUENCE] >= since:
            count += 1
    return count


@kernel(types.void(array_type(np.uint64, 2), types.int64, types.uint64, array_type(np.uint64, 2)))
def copy_changed(
    words: npt.NDArray[np.uint64],
    accounts: int,
    since: np.uint64,
    copies: npt.NDArray[np.uint64],
) -> None:
    """Copy what `count_changed` counted, in order, to `copies` u64 [count, 16]."""
    count = 0
    for row in range(1, accounts + 1):
        if words[row, _LAST_SEQUENCE] >= since:
            for column in range(copies.shape[1]):
                copies[count, column] = words[row, column]
            count += 1


@kernel(
    types.void(
        array_type(np.uint64, 2, readonly=True),
        types.int64,
        types.uint64,
        array_type(np.uint64),
    )
)
def _sum_rows(
    words: npt.NDArray[np.uint64], columns: int, key: np.uint64, sums: npt.NDArray[np.uint64]
) -> None:
    for row in range(words.shape[0]):
        mixed = key
        for column in range(columns):
            mixed = (mixed ^ words[row, column]) * _MULTIPLIER
            mixed ^= mixed >> _SHIFT_32
        sums[row] = mixed


def words_of(records: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Records [n] as u64 [n, words each], unnamed bytes too; no copy of a contiguous array."""
    words = np.ascontiguousarray(records).view(np.ndarray).view(np.uint64)
    return words.reshape(len(records), records.dtype.itemsize // 8)


def checksums(rows: npt.NDArray[Any], key: np.uint64) -> npt.NDArray[np.int64]:
    """The checksums i64 [n] of records [n]; a hold's links are left out."""
    words = words_of(rows)
    columns = HOLD_STATE_BYTES // 8 if rows.dtype == HOLD else words.shape[1]
    sums = np.empty(len(rows), np.uint64)
    _sum_rows(words, columns, key, sums)
    return sums.view(np.int64)
