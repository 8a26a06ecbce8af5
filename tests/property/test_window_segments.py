"""Segments of the window: what was packed comes back, and nothing else is taken for one."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_core.window_segments import (
    ENTRY_BYTES,
    SEGMENT_ENTRIES,
    Columns,
    pack_segment,
    unpack_segment,
)

WIDTHS = (16, 8, 48)


def empty(count: int) -> Columns:
    return [np.full((count, width), 0xEE, np.uint8) for width in WIDTHS]


def columns_of(entries: npt.NDArray[np.uint8]) -> Columns:
    """u8 [n, 72] as ids, fingerprints and replies."""
    return [np.ascontiguousarray(part) for part in np.split(entries, (16, 24), axis=1)]


def varied(count: int, places: set[int], seed: int) -> npt.NDArray[np.uint8]:
    """Entries u8 [count, 72] that are alike but for the bytes at `places`."""
    random = np.random.default_rng(seed)
    entries = np.repeat(random.integers(0, 256, (1, ENTRY_BYTES), np.uint8), count, axis=0)
    for place in places:
        entries[:, place] = random.integers(0, 256, count, np.uint8)
    return entries


@given(
    st.integers(1, SEGMENT_ENTRIES),
    st.sets(st.integers(0, ENTRY_BYTES - 1)),
    st.integers(0, 1_000),
)
def test_what_was_packed_comes_back(count: int, places: set[int], seed: int) -> None:
    entries = varied(count, places, seed)
    data = pack_segment(columns_of(entries))
    assert len(data) <= count * ENTRY_BYTES
    back = empty(count)
    assert unpack_segment(data, back)
    assert np.array_equal(np.concatenate(back, axis=1), entries)


def test_a_segment_takes_its_planes_and_no_more() -> None:
    entries = varied(SEGMENT_ENTRIES, {5, 20, 70}, 1)
    assert len(pack_segment(columns_of(entries))) == 72 + 9 + 3 * SEGMENT_ENTRIES


def test_what_planes_make_no_shorter_is_stored_as_format_1_had_it() -> None:
    entries = varied(100, set(range(ENTRY_BYTES)), 1)
    columns = columns_of(entries)
    data = b"".join(column.tobytes() for column in columns)
    assert pack_segment(columns) == data
    back = empty(100)
    assert unpack_segment(data, back)
    assert np.array_equal(np.concatenate(back, axis=1), entries)


@pytest.mark.parametrize("count", [0, 1, 2, SEGMENT_ENTRIES])
def test_bytes_of_another_length_are_no_segment(count: int) -> None:
    planes = pack_segment(columns_of(varied(SEGMENT_ENTRIES, {3}, 1)))
    for data in (b"x", planes[:80], planes[:-1], planes + b"x", bytes(count * ENTRY_BYTES + 1)):
        assert not unpack_segment(data, empty(count))
