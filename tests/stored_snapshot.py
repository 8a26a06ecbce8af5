"""What a store holds, compared with a replay of its journal."""

from contextlib import closing

from cluster_app.journals import open_journal
from cluster_app.recovery import recover
from cluster_app.snapshot_store import SnapshotStore
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotHeader
from tests.journal_replay import records_of


def check_stored(journal_address: str, store: SnapshotStore) -> SnapshotHeader:
    """What is stored is the state of the journal up to there, and its rest leads to the same."""
    with closing(open_journal(journal_address)) as journal:
        restored, base = recover(journal, store, lambda: False)
        assert base is not None
        header, replayed = base.header, Replica(hash_seed=1)
        for record in records_of(journal, 0, header.position.next_offset):
            replayed.take(record)
        check_alike(restored, replayed)
        for record in records_of(journal, header.position.next_offset, journal.end_offset()):
            for replica in (restored, replayed):
                replica.take(record)
        check_alike(restored, replayed)
        return header


def check_alike(restored: Replica, replayed: Replica) -> None:
    assert restored.state is not None
    assert replayed.state is not None
    assert restored.state.digest() == replayed.state.digest()
    assert restored.position == replayed.position
    assert restored.counted_offset == replayed.counted_offset
