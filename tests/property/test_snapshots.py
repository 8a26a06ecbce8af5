"""A chain of snapshots, restored at any point, is the state that it was taken of."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_core.batch import LedgerParameters
from cluster_core.errors import SnapshotDamaged
from cluster_core.record import COMMAND
from cluster_core.snapshot import Snapshotter, segment_checksum
from cluster_core.window_segments import SEGMENT_ENTRIES
from tests.property.strategies import NS_PER_S, packed
from tests.random_ledger import RandomLedger
from tests.snapshot_rows import SnapshotRows, move, replica_of


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    window_capacity=st.sampled_from((2, 64, 1_024)),
    hold_capacity=st.sampled_from((20, 800)),
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    saves=st.lists(st.sampled_from(("saved", "lost", "none")), min_size=12, max_size=12),
)
def test_a_chain_of_deltas_restores_to_the_same_state_and_goes_on_alike(
    seed: int, window_capacity: int, hold_capacity: int, steps: list[int], saves: list[str]
) -> None:
    """`lost` deltas were taken, but never stored: the next one holds their changes too."""
    ledger = RandomLedger(seed, LedgerParameters(window_capacity, NS_PER_S, 100, hold_capacity))
    replica, rows = replica_of(ledger.machine), SnapshotRows()
    snapshotter = Snapshotter(replica, None)
    for offset, (count, outcome) in enumerate(zip(steps, saves, strict=False), start=2):
        if count:
            ledger.run_some(count)
        move(replica, offset)
        snapshotter.keep_up()
        if outcome == "none":
            continue
        delta = snapshotter.take(ledger.now_ns).finish()
        assert delta.header.state_digest == ledger.machine.digest()
        if outcome == "saved":
            rows.save(delta)
            snapshotter.go_on_from(delta.new_base)
            restored = rows.restore(hash_seed=seed ^ 1)
            assert restored.state is not None
            assert restored.state.digest() == ledger.machine.digest()
            assert (restored.position, restored.leader) == (replica.position, replica.leader)
    if rows.header is None:
        return
    restored = rows.restore(hash_seed=seed ^ 2)
    assert restored.state is not None
    if rows.header.applied == ledger.machine.applied:
        batch = ledger.run_some(300)
        restored.state.apply(np.frombuffer(packed(batch), COMMAND), ledger.now_ns)
        assert restored.state.digest() == ledger.machine.digest()
        limit = ledger.machine.open_holds
        expired = ledger.machine.expired_holds(2**63 - 1, limit)
        assert restored.state.expired_holds(2**63 - 1, limit).tolist() == expired.tolist()


@pytest.mark.parametrize("number", [1, 7, 2**50])
@pytest.mark.parametrize("data", [b"", bytes(81)])
def test_a_segment_beyond_those_that_were_saved_is_refused(number: int, data: bytes) -> None:
    ledger = RandomLedger(7, LedgerParameters(8 * SEGMENT_ENTRIES, NS_PER_S, 100, 800))
    ledger.run_some(100)
    replica, rows = replica_of(ledger.machine), SnapshotRows()
    rows.save(Snapshotter(replica, None).take(ledger.now_ns).finish())
    with pytest.raises(SnapshotDamaged, match=f"segment {number} "):
        rows.restorer().add_segment(number, data, segment_checksum(number, data))


@pytest.mark.parametrize("window_capacity", [2 * SEGMENT_ENTRIES, 8 * SEGMENT_ENTRIES])
def test_a_window_of_many_segments_is_saved_in_parts_and_restored_whole(
    window_capacity: int,
) -> None:
    ledger = RandomLedger(7, LedgerParameters(window_capacity, NS_PER_S, 100, 800))
    replica, rows = replica_of(ledger.machine), SnapshotRows()
    snapshotter = Snapshotter(replica, None)
    for offset in range(2, 12):
        for _ in range(ledger.random.randrange(4)):
            ledger.run_some(4_000)
            snapshotter.keep_up()
        move(replica, offset)
        delta = snapshotter.take(ledger.now_ns).finish()
        rows.save(delta)
        snapshotter.go_on_from(delta.new_base)
        state = rows.restore().state
        assert state is not None
        assert state.digest() == ledger.machine.digest()
    assert ledger.machine.window_entries > 2 * SEGMENT_ENTRIES
