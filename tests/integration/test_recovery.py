"""Where a node begins: a snapshot and the rest of the journal, or it says why not."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

import pytest

from cluster_app.errors import Stopped
from cluster_app.recovery import recover
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.batch import Kind, LedgerParameters
from cluster_core.errors import OffsetTrimmed, SnapshotRefused
from cluster_core.journal import Journal, JournalRecord, MemoryJournal
from cluster_core.replay import Replica
from cluster_core.snapshot import Snapshotter
from tests.property.strategies import NS_PER_S
from tests.random_ledger import RandomJournal

PARAMETERS: Final = LedgerParameters(1_024, NS_PER_S, 1_000, 200)
NEVER: Final[Callable[[], bool]] = lambda: False  # noqa: E731


class TrimmedJournal(MemoryJournal):
    """A journal whose first records are gone."""

    first = 0

    def start_offset(self) -> int:
        return self.first


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return open_snapshots(f"sqlite:///{tmp_path / 'snapshots.db'}")


def records_of(journal: Journal, first: int, end: int) -> Iterator[JournalRecord]:
    with closing(journal.reader(first)) as reader:
        while first < end:
            for record in reader.read(0.0, end - first):
                yield record
                first += 1


def replay(journal: Journal, replica: Replica, end: int) -> Replica:
    for record in records_of(journal, replica.position.next_offset, end):
        replica.take(record)
    return replica


def save_at(journal: Journal, store: SnapshotStore, end: int) -> None:
    """Replace what is stored by a snapshot of everything below `end`."""
    replica = replay(journal, Replica(), end)
    delta = Snapshotter(replica, None, store.newest()).take(1).finish()
    store.save(delta)


def random_journal(journal: Journal, batches: int = 60) -> RandomJournal:
    ledger = RandomJournal(journal, 11, PARAMETERS)
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
    journal = TrimmedJournal()
    random_journal(journal, 3)
    journal.first = 2
    with pytest.raises(OffsetTrimmed, match="begins at offset 2"):
        recover(journal, store, NEVER)


def test_a_snapshot_is_taken_up_from_a_journal_that_was_trimmed_up_to_its_last_record(
    store: SnapshotStore,
) -> None:
    journal = TrimmedJournal()
    ledger = random_journal(journal, 30)
    save_at(journal, store, journal.end_offset())
    header = store.newest()
    assert header is not None
    journal.first = header.counted_offset
    replica, _ = recover(journal, store, NEVER)
    assert replica.state is not None
    assert replica.state.digest() == ledger.machine.digest()
    journal.first += 1
    with pytest.raises(SnapshotRefused, match="trimmed"):
        recover(journal, store, NEVER)


def test_a_snapshot_of_another_ledger_is_refused(store: SnapshotStore) -> None:
    journal, other = MemoryJournal(), MemoryJournal()
    random_journal(journal, 3)
    RandomJournal(other, 12, PARAMETERS)
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
