"""The ring holds what was published, in order, and never reuses a slot that somebody may read.

A model in plain Python (a list of blocks and a few ints) is driven beside the ring.
"""

import threading
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster_core.errors import InvariantViolated
from cluster_core.record import COMMAND, REPLY
from cluster_core.ring_buffer import RingBuffer, RingReader

SLOT_BYTES: Final = 8
DEADLINE_S: Final = 20.0


def block(sequence: int, count: int) -> bytes:
    """Slots that hold their own sequence."""
    return np.arange(sequence, sequence + count, dtype="<u8").tobytes()


def content(ring: RingBuffer, lo: int, hi: int) -> bytes:
    return b"".join(ring.views(lo, hi))


class RingModel(RuleBasedStateMachine):
    """Several producers and readers, every interleaving of claim, write, publish and advance."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = RingBuffer(1, SLOT_BYTES)
        self.readers: list[RingReader] = []
        self.open_blocks: list[tuple[int, int]] = []
        self.first = 0
        self.claimed = 0

    @initialize(bits=st.integers(0, 5), first=st.sampled_from([0, 1, 7, 2**40 + 3]))
    def start(self, bits: int, first: int) -> None:
        self.ring = RingBuffer(1 << bits, SLOT_BYTES, first)
        self.readers = [self.ring.add_reader("first")]
        self.first = self.claimed = first

    def published(self) -> int:
        """What the model says: all below the lowest block that is still being written."""
        return min([lo for lo, _ in self.open_blocks], default=self.claimed)

    def room(self) -> int:
        slowest = min(reader.sequence for reader in self.readers)
        return slowest + self.ring.capacity - self.claimed

    @rule(data=st.data())
    def claim_and_write(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.ring.capacity))
        room = self.room()
        sequence = self.ring.claim(count)
        if count > room:
            assert sequence is None
            return
        assert sequence == self.claimed
        self.claimed += count
        self.ring.write(sequence, block(sequence, count))
        self.open_blocks.append((sequence, sequence + count))

    @rule(data=st.data(), kind=st.sampled_from([bytes, bytearray, memoryview]))
    def put(self, data: st.DataObject, kind: type) -> None:
        count = data.draw(st.integers(1, self.ring.capacity))
        room = self.room()
        sequence = self.ring.put(kind(block(self.claimed, count)))
        if count > room:
            assert sequence is None
        else:
            assert sequence == self.claimed
            self.claimed += count

    @precondition(lambda self: self.open_blocks)
    @rule(data=st.data())
    def publish_any(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.open_blocks) - 1))
        self.ring.publish(*self.open_blocks.pop(index))

    @rule(data=st.data())
    def advance_any(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.advance(data.draw(st.integers(reader.sequence, self.ring.published)))

    @precondition(lambda self: len(self.readers) < 4)
    @rule()
    def add_reader(self) -> None:
        reader = self.ring.add_reader("another")
        assert reader.sequence == self.ring.published
        self.readers.append(reader)

    @rule(past=st.integers(1, 3))
    def a_reader_never_passes_published_nor_goes_back(self, past: int) -> None:
        for reader in self.readers:
            before = reader.sequence
            for wrong in (self.ring.published + past, before - past):
                with pytest.raises(InvariantViolated):
                    reader.advance(wrong)
            assert reader.sequence == before

    @invariant()
    def cursors_are_in_order(self) -> None:
        assert self.ring.published == self.published()
        assert self.ring.claimed == self.claimed
        for reader in self.readers:
            assert reader.sequence <= self.ring.published <= self.claimed
            assert self.claimed <= reader.sequence + self.ring.capacity

    @invariant()
    def all_that_may_be_read_is_what_was_written(self) -> None:
        for reader in self.readers:
            lo, hi = reader.sequence, self.ring.published
            assert content(self.ring, lo, hi) == block(lo, hi - lo)


TestRingModel = RingModel.TestCase


@given(capacity=st.integers(-2, 70), slot_bytes=st.integers(-1, 3))
def test_only_a_power_of_two_of_real_slots_makes_a_ring(capacity: int, slot_bytes: int) -> None:
    if capacity in (1, 2, 4, 8, 16, 32, 64) and slot_bytes > 0:
        assert RingBuffer(capacity, slot_bytes).capacity == capacity
    else:
        with pytest.raises(ValueError, match=r"capacity|slot"):
            RingBuffer(capacity, slot_bytes)


@given(bits=st.integers(0, 4), before=st.integers(0, 40), data=st.data())
def test_a_block_that_wraps_reads_back_as_two_views(
    bits: int, before: int, data: st.DataObject
) -> None:
    capacity = 1 << bits
    ring = RingBuffer(capacity, SLOT_BYTES, before)
    ring.add_reader("only")
    count = data.draw(st.integers(1, capacity))
    sequence = ring.put(block(before, count))
    assert sequence == before
    views = ring.views(before, before + count)
    assert len(views) == (2 if before % capacity + count > capacity else 1)
    assert b"".join(views) == block(before, count)
    slots = ring.array(np.dtype("<u8"))
    for n in range(before, before + count):
        assert slots[n % capacity] == n


def test_a_full_ring_takes_nothing_until_its_slowest_reader_moves() -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    slow, fast = ring.add_reader("slow"), ring.add_reader("fast")
    assert ring.put(block(0, 8)) == 0
    assert ring.claim(1) is None
    fast.advance(8)
    assert ring.claim(1) is None
    assert ring.put(block(8, 1)) is None
    slow.advance(3)
    assert ring.claim(4) is None
    assert ring.claim(3) == 8
    assert ring.claim(1) is None


def test_a_block_larger_than_what_is_free_leaves_the_free_slots_to_smaller_ones() -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    ring.add_reader("only")
    assert ring.put(block(0, 5)) == 0
    assert ring.put(block(5, 4)) is None
    assert ring.claim(4) is None
    assert ring.put(block(5, 3)) == 5


def test_a_ring_without_readers_fills_once_and_never_overwrites() -> None:
    ring = RingBuffer(4, SLOT_BYTES)
    assert ring.put(block(0, 4)) == 0
    assert ring.put(block(4, 1)) is None
    assert content(ring, 0, 4) == block(0, 4)


@pytest.mark.parametrize("count", [-1, 0, 9])
def test_a_block_that_no_empty_ring_could_hold_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        RingBuffer(8, SLOT_BYTES).claim(count)


@pytest.mark.parametrize("size_bytes", [0, 1, SLOT_BYTES + 1, 9 * SLOT_BYTES])
def test_data_that_is_no_whole_number_of_slots_is_an_error(size_bytes: int) -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    for send in (ring.put, lambda data: ring.write(0, data)):
        with pytest.raises(ValueError, match="slots"):
            send(bytes(size_bytes))
    assert ring.claimed == 0


def test_slots_that_are_not_claimed_can_neither_be_written_nor_published() -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    ring.add_reader("only")
    assert ring.claim(4) == 0
    ring.write(0, block(0, 4))
    with pytest.raises(InvariantViolated):
        ring.write(2, block(2, 3))
    with pytest.raises(InvariantViolated):
        ring.publish(0, 5)
    ring.publish(2, 4)
    for lo, hi in ((2, 4), (3, 4), (0, 3), (0, 4), (1, 1)):
        with pytest.raises(InvariantViolated):
            ring.publish(lo, hi)
    assert ring.published == 0
    ring.publish(0, 2)
    assert ring.published == 4
    with pytest.raises(InvariantViolated):
        ring.publish(0, 2)
    with pytest.raises(InvariantViolated):
        ring.write(0, block(0, 1))


def test_views_of_nothing_are_none_and_of_too_much_an_error() -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    assert ring.views(5, 5) == ()
    for lo, hi in ((0, 9), (3, 2), (-1, 1)):
        with pytest.raises(ValueError, match="range"):
            ring.views(lo, hi)


def test_a_record_ring_is_an_array_of_records_on_cache_lines() -> None:
    commands = RingBuffer(4, COMMAND.itemsize)
    slots = commands.array(COMMAND)
    assert slots.shape == (4,)
    assert slots.ctypes.data % 64 == 0
    replies = RingBuffer(4, REPLY.itemsize)
    replies.array(REPLY)["sequence"][3] = 77
    assert content(replies, 3, 4)[:8] == (77).to_bytes(8, "little")
    with pytest.raises(ValueError, match="slot"):
        replies.array(COMMAND)


def test_wait_published_returns_at_its_timeout_and_at_once_when_already_past() -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    assert ring.wait_published(0, 0.0) == 0
    assert ring.wait_published(0, 0.001) == 0
    ring.put(block(0, 2))
    assert ring.wait_published(1, DEADLINE_S) == 2


@pytest.mark.parametrize("fused", [True, False])
def test_a_waiting_reader_is_woken_by_the_next_publish(fused: bool) -> None:
    ring = RingBuffer(8, SLOT_BYTES)
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(ring.wait_published(0, DEADLINE_S)))
    waiter.start()
    if fused:
        ring.put(block(0, 3))
    else:
        assert ring.claim(3) == 0
        ring.write(0, block(0, 3))
        ring.publish(0, 3)
    waiter.join(DEADLINE_S)
    assert seen == [3]


@pytest.mark.parametrize("fused", [True, False])
def test_real_producer_threads_lose_double_and_mix_nothing(fused: bool) -> None:
    ring = RingBuffer(64, SLOT_BYTES)
    reader = ring.add_reader("only")
    blocks_each, producers = 300, 4
    room = threading.Event()

    def produce(producer: int) -> None:
        for n in range(blocks_each):
            count = 1 + (n + producer) % 7
            data = np.full(count, producer << 32 | n, "<u8").tobytes()
            while not _send(ring, data, count, fused=fused):
                room.clear()
                room.wait(0.001)

    threads = [threading.Thread(target=produce, args=(n,)) for n in range(producers)]
    for thread in threads:
        thread.start()
    expected = sum(1 + (n + p) % 7 for p in range(producers) for n in range(blocks_each))
    read: list[int] = []
    while len(read) < expected:
        hi = ring.wait_published(reader.sequence, DEADLINE_S)
        assert hi > reader.sequence, "the producers fell silent"
        read += np.frombuffer(content(ring, reader.sequence, hi), "<u8").tolist()
        reader.advance(hi)
        room.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert ring.published == ring.claimed == expected
    for producer in range(producers):
        own = [value & 0xFFFFFFFF for value in read if value >> 32 == producer]
        assert own == [n for n in range(blocks_each) for _ in range(1 + (n + producer) % 7)]
    switches = sum(a != b for a, b in pairwise(read))
    assert switches == producers * blocks_each - 1, "a block was torn apart by another"


def _send(ring: RingBuffer, data: bytes, count: int, *, fused: bool) -> bool:
    if fused:
        return ring.put(data) is not None
    sequence = ring.claim(count)
    if sequence is None:
        return False
    ring.write(sequence, data)
    ring.publish(sequence, sequence + count)
    return True
