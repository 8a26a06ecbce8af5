"""Command ids: UUIDv7 by ledger time, unique and rising whatever the clocks do."""

import itertools
import uuid

import numpy as np
import pytest

from client_core.command_ids import CommandIds, LedgerClock

START_NS = 1_764_000_000_000_000_000
SECOND_NS = 1_000_000_000


class FakeMonotonic:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now_ns = 5 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def monotonic() -> FakeMonotonic:
    return FakeMonotonic()


@pytest.fixture
def clock(monotonic: FakeMonotonic) -> LedgerClock:
    return LedgerClock(START_NS, monotonic)


def id_ms(command_id: bytes) -> int:
    return int.from_bytes(command_id[:6], "big")


def test_an_id_is_a_uuid_of_version_7_with_ledger_time(clock: LedgerClock) -> None:
    command_id = CommandIds(clock).next_id()
    read = uuid.UUID(bytes=command_id)
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert id_ms(command_id) == START_NS // 1_000_000


def test_ids_rise_one_by_one_and_in_blocks(clock: LedgerClock, monotonic: FakeMonotonic) -> None:
    ids = CommandIds(clock)
    drawn: list[bytes] = []
    for turn in range(50):
        drawn.append(ids.next_id())
        drawn += [row.tobytes() for row in ids.take(turn)]
        monotonic.now_ns += 400_000
    assert all(before < after for before, after in itertools.pairwise(drawn))
    assert all(uuid.UUID(bytes=command_id).version == 7 for command_id in drawn)


def test_a_block_is_rows_of_sixteen_bytes(clock: LedgerClock) -> None:
    block = CommandIds(clock).take(8_192)
    assert (block.shape, block.dtype, block.nbytes) == ((8_192, 2), np.dtype(">u8"), 8_192 * 16)
    assert len(np.unique(block.view(np.uint8).reshape(-1, 16), axis=0)) == 8_192


def test_ten_million_ids_in_a_second_stay_at_ledger_time(
    clock: LedgerClock, monotonic: FakeMonotonic
) -> None:
    ids = CommandIds(clock)
    last = b""
    for _ in range(1_000):
        block = ids.take(10_000)
        assert block[0].tobytes() > last
        last = block[-1].tobytes()
        assert id_ms(last) == clock.now_ns() // 1_000_000
        monotonic.now_ns += 1_000_000


def test_two_processes_draw_different_ids_at_the_same_time(clock: LedgerClock) -> None:
    ours, theirs = CommandIds(clock).take(10_000), CommandIds(clock).take(10_000)
    both = np.concatenate((ours, theirs)).view(np.uint8).reshape(-1, 16)
    assert len(np.unique(both, axis=0)) == 20_000


def test_ids_rise_while_ledger_time_is_corrected_backwards(
    clock: LedgerClock, monotonic: FakeMonotonic
) -> None:
    ids = CommandIds(clock)
    monotonic.now_ns += 20 * SECOND_NS
    before = ids.next_id()
    clock.observe(START_NS + 17 * SECOND_NS)
    assert clock.now_ns() == START_NS + 17 * SECOND_NS
    assert before < ids.next_id()


def test_ledger_time_that_is_ahead_is_taken_at_once(clock: LedgerClock) -> None:
    clock.observe(START_NS + 3 * SECOND_NS)
    assert clock.now_ns() == START_NS + 3 * SECOND_NS


def test_a_late_response_does_not_set_the_clock_back(
    clock: LedgerClock, monotonic: FakeMonotonic
) -> None:
    monotonic.now_ns += SECOND_NS
    clock.observe(START_NS)
    assert clock.now_ns() == START_NS + SECOND_NS


def test_a_clock_that_runs_fast_stays_well_within_a_second_of_the_ledger(
    clock: LedgerClock, monotonic: FakeMonotonic
) -> None:
    ledger_ns = START_NS
    for turn in range(10_000):
        ledger_ns += 10 * SECOND_NS // 100
        monotonic.now_ns += 10 * SECOND_NS // 100 + 10_000
        latency_ns = turn % 7 * 300_000
        clock.observe(ledger_ns - latency_ns)
        assert -10_000_000 < clock.now_ns() - ledger_ns < 10_000_000


def test_after_an_id_in_the_future_the_clock_comes_down_at_once(
    clock: LedgerClock, monotonic: FakeMonotonic
) -> None:
    ids = CommandIds(clock)
    monotonic.now_ns += 3 * SECOND_NS
    refused = ids.next_id()
    clock.come_down(START_NS + SECOND_NS)
    assert clock.now_ns() == START_NS + SECOND_NS
    block = ids.take(3)
    assert id_ms(block[0].tobytes()) == (START_NS + SECOND_NS) // 1_000_000
    assert block[0].tobytes() < refused
    later = ids.next_id()
    assert later > block[-1].tobytes()


def test_coming_down_never_sets_the_clock_ahead(clock: LedgerClock) -> None:
    clock.come_down(START_NS + SECOND_NS)
    assert clock.now_ns() == START_NS


def test_ids_that_are_drawn_twice_for_one_millisecond_differ(clock: LedgerClock) -> None:
    ids = CommandIds(clock)
    blocks = []
    for _ in range(100):
        blocks.append(ids.take(100))
        clock.come_down(START_NS - SECOND_NS)
        clock.observe(START_NS)
    drawn = np.concatenate(blocks).view(np.uint8).reshape(-1, 16)
    assert len(np.unique(drawn, axis=0)) == len(drawn)
