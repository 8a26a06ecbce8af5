# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""What a leader has answered, counted by compiled code once a batch and read at a scrape.

One flat array, so that a call passes one pointer: commands by operation and status, duplicates by
operation, batches by size, batches by how long their append took, and the sum of those times.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.compiled import array_type, kernel
from cluster_core.record import (
    COMMAND_BYTES,
    MAX_MESSAGE_COMMANDS,
    REPLY_BYTES,
    Operation,
    ReplyFlag,
    Status,
)
from cluster_core.ring_buffer import RingBuffer

SIZE_BOUNDS: Final = tuple(1 << bits for bits in range(MAX_MESSAGE_COMMANDS.bit_length()))
"""Upper bounds, in commands, of the counts of batches by size: 1, 2, 4 .. 8,192."""

APPEND_BOUNDS_NS: Final = tuple(
    round(bound * unit)
    for unit in (1e5, 1e6, 1e7, 1e8, 1e9, 1e10)
    for bound in (1.0, 2.5, 5.0)
    if bound * unit <= 2.5e10
)
"""Upper bounds of the counts of batches by append time: 0.1 ms .. 25 s. Longer ones come last."""

_OPERATIONS: Final = max(Operation) + 1
_STATUSES: Final = max(Status) + 1
_DUPLICATES: Final = _OPERATIONS * _STATUSES
_SIZES: Final = _DUPLICATES + _OPERATIONS
_APPENDS: Final = _SIZES + len(SIZE_BOUNDS)
_APPEND_SUM: Final = _APPENDS + len(APPEND_BOUNDS_NS) + 1
_LENGTH: Final = _APPEND_SUM + 1

_DUPLICATE: Final = np.uint64(ReplyFlag.DUPLICATE)
_OPERATION_SHIFT: Final = np.uint64(32)
_FLAGS_SHIFT: Final = np.uint64(16)
_LOW_16: Final = np.uint64(0xFFFF)


@kernel(
    types.void(
        array_type(np.uint64, 2),
        array_type(np.uint64, 2),
        types.int64,
        types.int64,
        types.int64,
        array_type(np.uint64),
    )
)
def _count_batch(
    commands: npt.NDArray[np.uint64],
    replies: npt.NDArray[np.uint64],
    first: int,
    end: int,
    append_ns: int,
    counts: npt.NDArray[np.uint64],
) -> None:
    """Count the answered commands [first, end) of the two rings, u64 [n, 8] and u64 [n, 6].

    Word 6 of a command holds its operation in bits 32-47; word 5 of a reply its status in the
    lower 16 bits and its flags in the next.
    """
    mask = commands.shape[0] - 1
    for sequence in range(first, end):
        operation = np.int64((commands[sequence & mask, 6] >> _OPERATION_SHIFT) & _LOW_16)
        outcome = replies[sequence & mask, 5]
        status = np.int64(outcome & _LOW_16)
        if operation < _OPERATIONS and status < _STATUSES:
            counts[operation * _STATUSES + status] += np.uint64(1)
            if (outcome >> _FLAGS_SHIFT) & _DUPLICATE != 0:
                counts[_DUPLICATES + operation] += np.uint64(1)
    if end > first:
        size = 0
        while (1 << size) < end - first:
            size += 1
        counts[_SIZES + size] += np.uint64(1)
    bucket = 0
    while bucket < len(APPEND_BOUNDS_NS) and append_ns > APPEND_BOUNDS_NS[bucket]:
        bucket += 1
    counts[_APPENDS + bucket] += np.uint64(1)
    counts[_APPEND_SUM] += np.uint64(max(append_ns, 0))


class Tally:
    """The counts of one leadership. One thread counts; any thread may read, a batch torn or not."""

    def __init__(self, commands: RingBuffer, replies: RingBuffer) -> None:
        """`commands` and `replies` are the leader's rings, of one capacity."""
        words: Any = np.uint64
        self._commands = commands.array((words, COMMAND_BYTES // 8))
        self._replies = replies.array((words, REPLY_BYTES // 8))
        self._counts = np.zeros(_LENGTH, np.uint64)

    def count(self, first: int, end: int, append_ns: int) -> None:
        """Count a batch that was answered, while both rings still hold it; [n, n) is a HEARTBEAT.

        `append_ns`: from its sealing to the journal's report.
        """
        _count_batch(self._commands, self._replies, first, end, append_ns, self._counts)

    @property
    def commands(self) -> npt.NDArray[np.uint64]:
        """A copy of the commands answered, u64 [operation, status]."""
        return self._counts[:_DUPLICATES].reshape(_OPERATIONS, _STATUSES).copy()

    @property
    def duplicates(self) -> npt.NDArray[np.uint64]:
        """Those of `commands` that were answered with their first reply, u64 [operation]."""
        return self._counts[_DUPLICATES:_SIZES].copy()

    @property
    def batch_sizes(self) -> npt.NDArray[np.uint64]:
        """Batches of commands above the bound before and up to SIZE_BOUNDS[i], u64 [i]."""
        return self._counts[_SIZES:_APPENDS].copy()

    @property
    def append_times(self) -> npt.NDArray[np.uint64]:
        """All batches by append time, likewise by APPEND_BOUNDS_NS, u64 [i]; longer ones last."""
        return self._counts[_APPENDS:_APPEND_SUM].copy()

    @property
    def append_sum_ns(self) -> int:
        """The sum of all append times."""
        return int(self._counts[_APPEND_SUM])
