"""The ring: fixed-size slots between the stages of a pipeline, in one block of memory.

Words and rules are the LMAX Disruptor's (Thompson et al., "Disruptor", 2011), except that every
cursor here is an exclusive end: `published` means that all below it may be read.

    reader cursors <= published <= claimed <= slowest reader + capacity

A sequence's slot is `sequence & (capacity - 1)`, so a block may wrap once. Producers claim, write
and publish; with several of them `published` only moves over what is contiguous. Readers gate:
a slot is claimed anew only after every reader has moved past it.
"""

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cluster_core.errors import InvariantViolated

_CACHE_LINE_BYTES: Final = 64
"""The memory begins on a cache line: a 64-byte slot then costs the kernel one line, not two."""

Block = bytes | bytearray | memoryview


class RingReader:
    """One gating reader. Its cursor `sequence` is written by the reader's own thread only."""

    __slots__ = ("_ring", "name", "sequence")

    def __init__(self, ring: "RingBuffer", name: str, sequence: int) -> None:
        self._ring = ring
        self.name = name
        self.sequence = sequence

    def advance(self, to: int) -> None:
        """Give back all slots below `to`.

        Raises InvariantViolated when `to` lies behind this cursor or past `published`.
        """
        if not self.sequence <= to <= self._ring.published:
            raise InvariantViolated(
                f"ring reader {self.name} at {self.sequence} can't advance to {to}: "
                f"published is {self._ring.published}"
            )
        self.sequence = to


class RingBuffer:
    """`capacity` slots of `slot_bytes` bytes each; nothing here ever blocks but `wait_published`.

    `first_sequence` is what the first claim returns. Without any reader nothing is given back:
    the ring takes `capacity` slots and is full.
    """

    def __init__(self, capacity: int, slot_bytes: int, first_sequence: int = 0) -> None:
        """Raises ValueError unless capacity is a power of two and the others make sense."""
        if capacity < 1 or capacity.bit_count() != 1:
            raise ValueError(f"ring capacity must be a power of two, not {capacity}")
        if slot_bytes < 1:
            raise ValueError(f"a slot must have at least one byte, not {slot_bytes}")
        if first_sequence < 0:
            raise ValueError(f"sequences are not negative: {first_sequence}")
        self.capacity: Final = capacity
        self.slot_bytes: Final = slot_bytes
        self.claimed = first_sequence
        self.published = first_sequence
        self._mask = capacity - 1
        self._room_end = first_sequence + capacity
        """Claims may end here. A lower bound: readers only ever make more room."""
        self._bytes = _cache_aligned(capacity * slot_bytes)
        self._readers: tuple[RingReader, ...] = ()
        self._published_ahead: dict[int, int] = {}
        """Blocks published before the ones below them: first sequence to end."""
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._waiting_count = 0

    def claim(self, count: int) -> int | None:
        """Take `count` successive slots to write; their first sequence, or None without room.

        Raises ValueError for less than one slot and for a block that no empty ring could hold.
        """
        if not 0 < count <= self.capacity:
            raise ValueError(f"a block is 1 to {self.capacity} slots, not {count}")
        with self._lock:
            sequence = self.claimed
            end = sequence + count
            if end > self._room_end and end > self._find_room_end():
                return None
            self.claimed = end
            return sequence

    def write(self, sequence: int, data: Block) -> None:
        """Copy whole slots to `sequence` and on, which the caller has claimed and not published.

        `data` is count * slot_bytes single bytes. Raises ValueError for a part of a slot and
        InvariantViolated for slots that are not claimed.
        """
        data = data if type(data) is bytes else memoryview(data).cast("B")
        count = self._count_of(data)
        if not self.published <= sequence <= self.claimed - count:
            raise InvariantViolated(
                f"slots [{sequence}, {sequence + count}) are not being written: published is "
                f"{self.published}, claimed is {self.claimed}"
            )
        self._copy(sequence, count, data)

    def publish(self, lo: int, hi: int) -> None:
        """Let readers see [lo, hi), as soon as all below is published too.

        Raises InvariantViolated for slots that were not claimed or are published already.
        """
        with self._lock:
            ahead = self._published_ahead
            if not self.published <= lo < hi <= self.claimed or (
                ahead and any(lo < end and first < hi for first, end in ahead.items())
            ):
                raise InvariantViolated(
                    f"can't publish [{lo}, {hi}): published is {self.published}, "
                    f"claimed is {self.claimed}, published ahead is {ahead}"
                )
            if lo != self.published:
                ahead[lo] = hi
                return
            while ahead and (end := ahead.pop(hi, 0)):
                hi = end
            self.published = hi
            if self._waiting_count:
                self._moved.notify_all()

    def put(self, data: Block) -> int | None:
        """Claim, write and publish in one step; the first sequence, or None without room.

        `data` as in `write`. Raises ValueError for a part of a slot or too large a block.
        """
        data = data if type(data) is bytes else memoryview(data).cast("B")
        count = self._count_of(data)
        with self._lock:
            sequence = self.claimed
            end = sequence + count
            if end > self._room_end and end > self._find_room_end():
                return None
            if sequence == self.published:
                self._copy(sequence, count, data)
                self.claimed = self.published = end
                if self._waiting_count:
                    self._moved.notify_all()
                return sequence
            self.claimed = end
        self._copy(sequence, count, data)
        self.publish(sequence, end)
        return sequence

    def add_reader(self, name: str) -> RingReader:
        """A gating reader that begins at `published`."""
        with self._lock:
            reader = RingReader(self, name, self.published)
            self._readers = (*self._readers, reader)
            return reader

    def wait_published(self, beyond: int, timeout_s: float) -> int:
        """Sleep until `published` is past `beyond` or the time is up; returns `published`."""
        with self._lock:
            if self.published <= beyond and timeout_s > 0:
                self._waiting_count += 1
                try:
                    self._moved.wait_for(lambda: self.published > beyond, timeout_s)
                finally:
                    self._waiting_count -= 1
            return self.published

    def views(self, lo: int, hi: int) -> tuple[memoryview, ...]:
        """The bytes of [lo, hi) without a copy: one memoryview, two at the wrap, none if empty.

        They stay valid until the caller's reader advances past them (or, for a producer, until
        it publishes). Raises ValueError for a range that the ring can't hold.
        """
        count = hi - lo
        if not 0 <= count <= self.capacity or lo < 0:
            raise ValueError(f"[{lo}, {hi}) is no range of a ring of {self.capacity} slots")
        if count == 0:
            return ()
        begin = (lo & self._mask) * self.slot_bytes
        end = begin + count * self.slot_bytes
        size = len(self._bytes)
        if end <= size:
            return (self._bytes[begin:end],)
        return self._bytes[begin:], self._bytes[: end - size]

    def array(self, dtype: DTypeLike) -> NDArray[Any]:
        """All slots as a writable (capacity,) array of `dtype`, indexed by slot, not copied.

        Raises ValueError when an element isn't exactly one slot.
        """
        if np.dtype(dtype).itemsize != self.slot_bytes:
            raise ValueError(
                f"{np.dtype(dtype).itemsize} bytes an element, {self.slot_bytes} a slot"
            )
        return np.frombuffer(self._bytes, dtype)

    def _count_of(self, data: bytes | memoryview) -> int:
        count, rest = divmod(len(data), self.slot_bytes)
        if rest or not 0 < count <= self.capacity:
            raise ValueError(
                f"{len(data)} bytes are not 1 to {self.capacity} slots of {self.slot_bytes} bytes"
            )
        return count

    def _find_room_end(self) -> int:
        if self._readers:
            slowest = min([reader.sequence for reader in self._readers])
            self._room_end = slowest + self.capacity
        return self._room_end

    def _copy(self, sequence: int, count: int, data: bytes | memoryview) -> None:
        slot = sequence & self._mask
        begin = slot * self.slot_bytes
        if slot + count <= self.capacity:
            self._bytes[begin : begin + len(data)] = data
            return
        size = len(self._bytes) - begin
        view = memoryview(data)
        self._bytes[begin:] = view[:size]
        self._bytes[: len(view) - size] = view[size:]


def _cache_aligned(size_bytes: int) -> memoryview:
    # np.zeros maps fresh pages, so an idle ring of any capacity costs no memory.
    block = np.zeros(size_bytes + _CACHE_LINE_BYTES, np.uint8)
    begin = -block.ctypes.data % _CACHE_LINE_BYTES
    return block[begin : begin + size_bytes].data
