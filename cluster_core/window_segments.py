# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""A part of the window as a snapshot stores it: ids, fingerprints and replies as bytes.

SEGMENT of n <= 4,096 entries of 72 bytes, ids (16), fingerprints (8) and replies (48), of the
window's slots [number * 4,096, number * 4,096 + n). It is stored as planes, where that is shorter;
a plane is one of the 72 bytes in all entries:

    72  the first entry
     9  bits, the highest first: 1 where the plane has other bytes than the first entry's
     n  bytes of each such plane, in order

Entries of one time have the same high bytes in ids, sequences and amounts, so it has a third to a
half of the 72 n bytes, which a store writes two or three times. Else it is n ids, n fingerprints,
n replies: what all segments of format 1 are.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.compiled import array_type, kernel
from cluster_core.record import REPLY_BYTES

SEGMENT_ENTRIES: Final = 4_096
"""295 kB: little enough to write again for a few new entries, few enough rows for a window."""

ENTRY_BYTES: Final = 16 + 8 + REPLY_BYTES
_BITS_BYTES: Final = ENTRY_BYTES // 8
_HEAD_BYTES: Final = ENTRY_BYTES + _BITS_BYTES

Columns = Sequence[npt.NDArray[Any]]
"""Ids, fingerprints and replies: bytes u8 [n, 16], [n, 8], [n, 48], each C-contiguous."""


def pack_segment(columns: Columns) -> bytes:
    """What is stored of n >= 1 entries."""
    count = len(columns[0])
    planes = np.empty((ENTRY_BYTES, count), np.uint8)
    varies = np.zeros(ENTRY_BYTES, np.uint8)
    kept = at = 0
    for column in columns:
        kept = _gather(column, planes, kept, varies[at : at + column.shape[1]])
        at += column.shape[1]
    if _HEAD_BYTES + kept * count >= ENTRY_BYTES * count:
        return b"".join(column.tobytes() for column in columns)
    first = b"".join(column[0].tobytes() for column in columns)
    return b"".join((first, np.packbits(varies).tobytes(), planes[:kept].data))


def unpack_segment(data: bytes, columns: Columns) -> bool:
    """Fill `columns` from what was stored of so many entries; False when it can't be that."""
    count = len(columns[0])
    if len(data) == ENTRY_BYTES * count:
        at = 0
        for column in columns:
            column[:] = np.frombuffer(data, np.uint8, column.size, at).reshape(column.shape)
            at += column.size
        return True
    if len(data) < _HEAD_BYTES:
        return False
    head = np.frombuffer(data, np.uint8, _HEAD_BYTES)
    varies = np.unpackbits(head[ENTRY_BYTES:])
    kept = int(varies.sum())
    if len(data) != _HEAD_BYTES + kept * count:
        return False
    planes = np.frombuffer(data, np.uint8, kept * count, _HEAD_BYTES).reshape(kept, count)
    done = at = 0
    for column in columns:
        end = at + column.shape[1]
        done = _scatter(head[at:end], varies[at:end], planes, done, column)
        at = end
    return True


@kernel(
    types.int64(array_type(np.uint8, 2), array_type(np.uint8, 2), types.int64, array_type(np.uint8))
)
def _gather(
    column: npt.NDArray[np.uint8],
    planes: npt.NDArray[np.uint8],
    kept: int,
    varies: npt.NDArray[np.uint8],
) -> int:
    """Copy the planes of u8 [n, width] that vary to `planes`, after those kept; how many are."""
    for place in range(column.shape[1]):
        first = column[0, place]
        differs = np.uint8(0)
        for row in range(column.shape[0]):
            byte = column[row, place]
            planes[kept, row] = byte
            differs |= byte ^ first
        if differs:
            varies[place] = 1
            kept += 1
    return kept


@kernel(
    types.int64(
        array_type(np.uint8, readonly=True),
        array_type(np.uint8),
        array_type(np.uint8, 2, readonly=True),
        types.int64,
        array_type(np.uint8, 2),
    )
)
def _scatter(
    first: npt.NDArray[np.uint8],
    varies: npt.NDArray[np.uint8],
    planes: npt.NDArray[np.uint8],
    done: int,
    column: npt.NDArray[np.uint8],
) -> int:
    """`_gather` back, from plane `done` on; how many planes are done."""
    for place in range(column.shape[1]):
        if varies[place]:
            for row in range(column.shape[0]):
                column[row, place] = planes[done, row]
            done += 1
        else:
            for row in range(column.shape[0]):
                column[row, place] = first[place]
    return done
