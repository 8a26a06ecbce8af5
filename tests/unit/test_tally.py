"""What a leader counts of its answers, against a count in plain Python."""

import random
from collections import Counter

import numpy as np
import pytest

from cluster_core.record import COMMAND, COMMAND_BYTES, REPLY, REPLY_BYTES, Operation, Status
from cluster_core.ring_buffer import RingBuffer
from cluster_core.tally import APPEND_BOUNDS_NS, SIZE_BOUNDS, Tally

CAPACITY = 1 << 14


class Rings:
    """Rings full of random commands and replies, and their tally."""

    def __init__(self, seed: int = 1) -> None:
        rings = RingBuffer(CAPACITY, COMMAND_BYTES), RingBuffer(CAPACITY, REPLY_BYTES)
        self.commands, self.replies = rings[0].array(COMMAND), rings[1].array(REPLY)
        chosen = np.random.default_rng(seed)
        for column in ("amount", "reference", "debit_account"):
            self.commands[column] = chosen.integers(0, 2**63, CAPACITY)
        self.commands["flags"] = chosen.integers(0, 2**16, CAPACITY)
        self.commands["asset"] = chosen.integers(0, 2**32, CAPACITY)
        self.commands["operation"] = chosen.choice(list(map(int, Operation)), CAPACITY)
        self.replies["status"] = chosen.choice(list(map(int, Status)), CAPACITY)
        self.replies["flags"] = chosen.integers(0, 2, CAPACITY)
        self.replies["reserved"] = chosen.integers(0, 2**32, CAPACITY)
        self.tally = Tally(*rings)


def test_every_command_is_counted_once_by_operation_and_status_over_the_ring_s_end() -> None:
    rings, seed = Rings(), random.randrange(2**32)
    print(f"seed {seed}")
    lengths = random.Random(seed)
    wanted: Counter[tuple[int, int]] = Counter()
    duplicates: Counter[int] = Counter()
    first = 5 * CAPACITY - 100
    for _ in range(20):
        end = first + lengths.randint(1, 8_192)
        rings.tally.count(first, end, 0)
        for sequence in range(first, end):
            slot = sequence % CAPACITY
            operation = int(rings.commands["operation"][slot])
            wanted[operation, int(rings.replies["status"][slot])] += 1
            duplicates[operation] += int(rings.replies["flags"][slot])
        first = end
    counted = rings.tally.commands
    assert {
        (operation, status): int(counted[operation, status])
        for operation, status in zip(*map(np.ndarray.tolist, np.nonzero(counted)), strict=True)
    } == wanted
    assert dict(enumerate(rings.tally.duplicates.tolist()[1:], 1)) == {
        int(operation): duplicates[operation] for operation in Operation
    }


@pytest.mark.parametrize(
    ("count", "bound"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (4_097, 8_192), (8_192, 8_192)]
)
def test_a_batch_is_counted_under_the_first_bound_that_it_does_not_pass(
    count: int, bound: int
) -> None:
    tally = Rings().tally
    tally.count(7, 7 + count, 0)
    sizes = dict(zip(SIZE_BOUNDS, tally.batch_sizes.tolist(), strict=True))
    assert sizes == {other: int(other == bound) for other in SIZE_BOUNDS}
    assert tally.commands.sum() == count


@pytest.mark.parametrize(
    ("append_ns", "bucket"),
    [
        (0, 0),
        (-5, 0),
        (100_000, 0),
        (100_001, 1),
        (25_000_000_000, len(APPEND_BOUNDS_NS) - 1),
        (25_000_000_001, len(APPEND_BOUNDS_NS)),
    ],
)
def test_an_append_s_time_is_counted_for_heartbeats_too_and_never_negative(
    append_ns: int, bucket: int
) -> None:
    tally = Rings().tally
    tally.count(9, 9, append_ns)
    assert np.flatnonzero(tally.append_times).tolist() == [bucket]
    assert tally.append_sum_ns == max(append_ns, 0)
    assert tally.commands.sum() == tally.batch_sizes.sum() == 0


def test_numbers_that_no_enum_has_are_not_counted_and_harm_nothing() -> None:
    rings = Rings()
    rings.commands["operation"] = 65_535
    rings.tally.count(0, 100, 0)
    rings.commands["operation"] = 2
    rings.replies["status"] = 65_535
    rings.tally.count(0, 100, 0)
    assert rings.tally.commands.sum() == rings.tally.duplicates.sum() == 0
    assert rings.tally.batch_sizes.sum() == 2
