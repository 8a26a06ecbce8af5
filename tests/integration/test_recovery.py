"""Where a node begins: a snapshot and the rest of the journal, or it says why not."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from cluster_app import leader
from cluster_app.archiver import head_of
from cluster_app.archiver_start import check_head
from cluster_app.errors import Stopped
from cluster_app.history_tables import Extent
from cluster_app.metrics import NodeMetrics
from cluster_app.recovery import read_base, recover, recover_overtaken
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.batch import Kind
from cluster_core.errors import OffsetTrimmed, SnapshotOvertaken, SnapshotRefused
from cluster_core.journal import Journal, MemoryJournal, MemoryReader
from cluster_core.replay import Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotHeader, Snapshotter
from tests.journal_replay import SMALL_LEDGER, replay
from tests.random_ledger import RandomJournal

NEVER: Final[Callable[[], bool]] = lambda: False  # noqa: E731


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return open_snapshots(f"sqlite:///{tmp_path / 'snapshots.db'}")


def save_at(journal: Journal, store: SnapshotStore, end: int) -> None:
    """Replace what is stored by a snapshot of everything below `end`."""
    replica = replay(journal, Replica(), end)
    delta = Snapshotter(replica, None, store.newest()).take(1).finish()
    store.save(delta)


def random_journal(journal: Journal, batches: int = 60) -> RandomJournal:
    ledger = RandomJournal(journal, 11, SMALL_LEDGER)
    for number in range(batches):
        ledger.run_some(1 + 37 * number % 200)
        if number % 7 == 0:
            ledger.append(Kind.HEARTBEAT)
        if number % 11 == 0:
            ledger.append(Kind.HEARTBEAT, chain=bytes(32))
    return ledger


def test_twenty_snapshots_at_random_points_all_lead_to_the_same_state(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    ledger, random = random_journal(journal), Random(5)
    end = journal.end_offset()
    for offset in sorted(random.sample(range(1, end + 1), 20)):
        save_at(journal, store, offset)
        replica, base = recover(journal, store, NEVER)
        assert replica.position.next_offset == offset
        assert base is not None
        replay(journal, replica, end)
        assert replica.state is not None
        assert replica.state.digest() == ledger.machine.digest()


def test_without_a_snapshot_a_node_begins_at_the_journal_s_start(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    random_journal(journal, 3)
    for looked_at in (store, None):
        replica, base = recover(journal, looked_at, NEVER)
        assert (replica.position.next_offset, replica.state, base) == (0, None, None)


def test_without_a_snapshot_a_trimmed_journal_is_refused(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    random_journal(journal, 3)
    journal.trim(2)
    with pytest.raises(OffsetTrimmed, match="begins at offset 2"):
        recover(journal, store, NEVER)


def test_a_snapshot_is_taken_up_from_a_journal_that_was_trimmed_up_to_its_last_record(
    store: SnapshotStore,
) -> None:
    journal = MemoryJournal()
    ledger = random_journal(journal, 30)
    save_at(journal, store, journal.end_offset())
    header = store.newest()
    assert header is not None
    journal.trim(header.counted_offset)
    replica, _ = recover(journal, store, NEVER)
    assert replica.state is not None
    assert replica.state.digest() == ledger.machine.digest()
    journal.trim(header.counted_offset + 1)
    with pytest.raises(SnapshotRefused, match="trimmed"):
        recover(journal, store, NEVER)


def test_a_snapshot_of_another_ledger_is_refused(store: SnapshotStore) -> None:
    journal, other = MemoryJournal(), MemoryJournal()
    random_journal(journal, 3)
    RandomJournal(other, 12, SMALL_LEDGER)
    save_at(journal, store, journal.end_offset())
    with pytest.raises(SnapshotRefused, match="of another ledger"):
        recover(other, store, NEVER)


def test_a_snapshot_that_is_ahead_of_its_journal_is_refused(store: SnapshotStore) -> None:
    journal, shorter = MemoryJournal(), MemoryJournal()
    random_journal(journal, 6)
    random_journal(shorter, 3)
    save_at(journal, store, journal.end_offset())
    with pytest.raises(SnapshotRefused, match="ahead of the journal"):
        recover(shorter, store, NEVER)
    with pytest.raises(SnapshotRefused, match="ahead of the journal"):
        recover(MemoryJournal(), store, NEVER)


def test_a_journal_that_disagrees_at_the_snapshot_s_last_record_is_refused(
    store: SnapshotStore,
) -> None:
    journal, other = MemoryJournal(), MemoryJournal()
    for made in (journal, other):
        ledger = random_journal(made, 4)
        ledger.now_ns += 1 if made is other else 2
        ledger.run_some(5)
    save_at(journal, store, journal.end_offset())
    with pytest.raises(SnapshotRefused, match="disagrees with the snapshot at offset"):
        recover(other, store, NEVER)


def test_a_restore_ends_when_it_is_asked_to(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    random_journal(journal, 3)
    save_at(journal, store, journal.end_offset())
    with pytest.raises(Stopped):
        recover(journal, store, lambda: True)


class RacingStore:
    """A store of which a newer snapshot is saved, and a trim follows, after each restore."""

    def __init__(self, journal: Journal, store: SnapshotStore, offsets: list[int]) -> None:
        self.name = store.name
        self._journal = journal
        self._store = store
        self._replica = Replica()
        self._offsets = offsets

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        restorer = self._store.restore(begin, progress)
        self.overtake()
        return restorer

    def overtake(self) -> None:
        """Save a snapshot up to the next offset, if one is left, and trim up to that."""
        if self._offsets:
            replay(self._journal, self._replica, self._offsets.pop(0))
            delta = Snapshotter(self._replica, None, self._store.newest()).take(1).finish()
            self._store.save(delta)
            self._journal.trim(delta.header.counted_offset)


def test_a_snapshot_that_a_trim_overtakes_is_left_for_the_newer_one(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    ledger = random_journal(journal, 30)
    save_at(journal, store, 5)
    racing: Any = RacingStore(journal, store, [15, 25])
    replica, _ = recover(journal, racing, NEVER)
    assert replica.position.next_offset == 25
    replay(journal, replica, journal.end_offset())
    assert replica.state is not None
    assert replica.state.digest() == ledger.machine.digest()


class OvertakenStore(RacingStore):
    """The same as each base and each header is read, before anybody has looked at it."""

    def read_base(self) -> SnapshotBase | None:
        base = self._store.read_base()
        self.overtake()
        return base

    def restore(
        self, begin: Callable[[SnapshotHeader], Restorer], progress: Callable[[Restorer], None]
    ) -> Restorer | None:
        def begin_late(header: SnapshotHeader) -> Restorer:
            self.overtake()
            return begin(header)

        return self._store.restore(begin_late, progress)


def test_a_base_that_a_trim_overtakes_as_it_is_read_is_left_for_the_newer_one(
    store: SnapshotStore,
) -> None:
    journal = MemoryJournal()
    random_journal(journal, 30)
    save_at(journal, store, 5)
    overtaken: Any = OvertakenStore(journal, store, [15, 20, 22, 24, 26])
    with pytest.raises(SnapshotOvertaken, match="what lies between was trimmed"):
        read_base(journal, overtaken)
    base = read_base(journal, overtaken)
    assert base is not None
    assert base.header.position.next_offset == 26


def test_a_snapshot_that_a_trim_overtakes_as_its_header_is_read_is_left_for_the_newer_one(
    store: SnapshotStore,
) -> None:
    journal = MemoryJournal()
    random_journal(journal, 30)
    save_at(journal, store, 5)
    overtaken: Any = OvertakenStore(journal, store, [15, 25])
    replica, _ = recover(journal, overtaken, NEVER)
    assert replica.position.next_offset == 25


class JustTrimmedJournal(MemoryJournal):
    """A trim takes its first records after its start was asked for, before they are read."""

    below = 0

    def reader(self, offset: int) -> MemoryReader:
        self.trim(max(self.below, self.start_offset()))
        return super().reader(offset)


def test_first_records_that_a_trim_takes_before_they_are_read_contradict_no_snapshot(
    store: SnapshotStore,
) -> None:
    journal = JustTrimmedJournal()
    random_journal(journal, 30)
    save_at(journal, store, 20)
    header = store.newest()
    assert header is not None
    journal.below = header.counted_offset
    base = read_base(journal, store)
    assert base is not None
    assert base.header == header


@pytest.mark.parametrize("kept", [True, False])
def test_first_records_that_a_trim_takes_before_they_are_read_contradict_no_history(
    kept: bool,
) -> None:
    journal = JustTrimmedJournal()
    random_journal(journal, 30)
    replica = replay(journal, Replica(), 20)
    head = head_of(replica)
    journal.below = head.counted_offset + (not kept)
    check_head(journal, Extent(replica.ledger_id, head, 0, False, 1))


def test_a_node_that_a_trim_overtook_goes_on_from_the_newest_snapshot(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    ledger = random_journal(journal, 30)
    save_at(journal, store, 20)
    behind = replay(journal, Replica(), 7)
    header = store.newest()
    assert header is not None
    journal.trim(header.counted_offset)
    with pytest.raises(OffsetTrimmed):
        replay(journal, behind, 8)
    replica, base = recover_overtaken(journal, store, behind.position, behind.ledger_id, NEVER)
    assert base.header == header
    replay(journal, replica, journal.end_offset())
    assert replica.state is not None
    assert replica.state.digest() == ledger.machine.digest()


class TrappedJournal(MemoryJournal):
    """A journal that something happens to once, when reading begins at an offset."""

    trap = -1
    spring: Callable[[], None]

    def reader(self, offset: int) -> MemoryReader:
        reader = super().reader(offset)
        if offset == self.trap:
            self.trap = -1
            self.spring()
        return reader


def test_a_leader_that_a_trim_overtakes_while_it_replays_begins_again(store: SnapshotStore) -> None:
    journal = TrappedJournal()
    ledger = random_journal(journal, 30)
    save_at(journal, store, 5)

    def save_and_trim() -> None:
        save_at(journal, store, 20)
        newest = store.newest()
        assert newest is not None
        journal.trim(newest.counted_offset)

    journal.trap, journal.spring = 5, save_and_trim
    with closing(leader._restore(journal, store, NodeMetrics("leader", "test"), NEVER)) as follower:
        assert journal.start_offset() > 5
        replica = follower.replica
        assert replica.position.next_offset == journal.end_offset()
        assert replica.state is not None
        assert replica.state.digest() == ledger.machine.digest()


def test_a_node_that_a_trim_overtook_says_when_no_snapshot_leads_on(store: SnapshotStore) -> None:
    journal = MemoryJournal()
    random_journal(journal, 30)
    save_at(journal, store, 5)
    here, ledger_id = replay(journal, Replica(), 7).position, bytes(32)
    for looked_at in (store, None):
        with pytest.raises(OffsetTrimmed, match=r"offset 7 was trimmed, and .* has no snapshot"):
            recover_overtaken(journal, looked_at, here, ledger_id, NEVER)
    save_at(journal, store, 9)
    with pytest.raises(SnapshotRefused, match="of another ledger"):
        recover_overtaken(journal, store, here, b"x" * 32, NEVER)
