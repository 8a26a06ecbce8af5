"""Where an archiver begins: at its history's head, with the state as of there.

The state comes from the archiver's own saved one or from a learner's snapshot, whichever is newer
and not beyond the history, else from the journal's start; the rest is replayed without writing.
"""

import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import structlog

from cluster_app.election import READ_BACK_TIMEOUT_S, JournalStalled, check_stop
from cluster_app.history_store import HistoryRefused, HistoryStore
from cluster_app.history_tables import Extent
from cluster_app.logs import ReplayProgress
from cluster_app.recovery import digest_if_kept, recover
from cluster_app.snapshot_store import SnapshotStore
from cluster_core.errors import OffsetTrimmed
from cluster_core.journal import Journal
from cluster_core.recent_commands import MakeWindow, empty_window
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotBase, SnapshotHeader


@dataclass(frozen=True)
class Start:
    """The replica as of the history's head; `extent` None: there is no history yet.

    `base` and `replaced` are what the archiver's state store holds, for the next save.
    """

    replica: Replica
    extent: Extent | None
    base: SnapshotBase | None = None
    replaced: SnapshotHeader | None = None


def begin_archive(
    journal: Journal,
    store: HistoryStore,
    states: SnapshotStore,
    snapshots: SnapshotStore,
    stopping: Callable[[], bool],
    make_window: MakeWindow = empty_window,
) -> Start:
    """The start for a history, or for a new one.

    Raises HistoryRefused for a history that the journal contradicts, OffsetTrimmed when the journal
    lacks what the history needs, StoreUnavailable, SnapshotDamaged, Stopped.
    """
    extent = store.extent()
    replaced = states.newest()
    if extent is None:
        return _begin_new(journal, snapshots, replaced, stopping, make_window)
    check_head(journal, extent)
    at = extent.head.next_offset
    known = [
        (header.position.next_offset, found)
        for found in (states, snapshots)
        if (header := found.newest()) is not None
        and header.ledger_id == extent.ledger_id
        and header.position.next_offset <= at
    ]
    chosen = max(known, key=lambda pair: pair[0])[1] if known else None
    start = journal.start_offset()
    if chosen is None and start > 0:
        raise OffsetTrimmed(
            f"the journal begins at offset {start}, and neither {states.name} nor "
            f"{snapshots.name} has a state that is not beyond this history, which ends before "
            f"offset {at}: begin another --history from a snapshot"
        )
    replica, base = recover(journal, chosen, stopping, make_window=make_window)
    _replay_silently(journal, replica, extent, stopping)
    own = chosen is states
    return Start(replica, extent, base if own else None, None if own else replaced)


def _begin_new(
    journal: Journal,
    snapshots: SnapshotStore,
    replaced: SnapshotHeader | None,
    stopping: Callable[[], bool],
    make_window: MakeWindow,
) -> Start:
    """From the journal's first record, or from a snapshot where that was trimmed."""
    if journal.start_offset() == 0:
        replica = Replica(hash_seed=secrets.randbits(64), make_window=make_window)
        return Start(replica, None, replaced=replaced)
    replica, _ = recover(journal, snapshots, stopping, make_window=make_window)
    structlog.get_logger().info(
        "a new history begins with a snapshot: what was before is not in it",
        sequence=replica.position.next_sequence,
    )
    return Start(replica, None, replaced=replaced)


def check_head(journal: Journal, extent: Extent) -> None:
    """Compare a history with the journal. Raises HistoryRefused, or what reading raises."""
    head = extent.head
    start, end = journal.start_offset(), journal.end_offset()
    advice = "name another --history or --journal"
    if start == 0 and end > 0 and digest_if_kept(journal, 0) not in {None, extent.ledger_id}:
        raise HistoryRefused(
            f"the history is of another ledger ({extent.ledger_id.hex()[:16]}...) than the "
            f"journal: {advice}"
        )
    if end < head.next_offset:
        raise HistoryRefused(
            f"the history is ahead of the journal: it has everything below offset "
            f"{head.next_offset}, and the journal ends at {end}. The journal has lost answered "
            f"commands: bring it back from a copy; else {advice}"
        )
    if head.next_offset < start:
        raise OffsetTrimmed(
            f"the journal begins at offset {start}, and the history ends before "
            f"{head.next_offset}: what lies between was trimmed. Begin another --history from a "
            "snapshot, and name it with trim's --history"
        )
    kept = head.counted_offset >= start
    if kept and digest_if_kept(journal, head.counted_offset) not in {None, head.chain}:
        raise HistoryRefused(
            f"the journal disagrees with the history at offset {head.counted_offset}: one of them "
            f"has another past; {advice}"
        )


def _replay_silently(
    journal: Journal, replica: Replica, extent: Extent, stopping: Callable[[], bool]
) -> None:
    """Apply everything below the history's head, and compare the chain there."""
    head = extent.head
    position = replica.position
    if position.next_offset < head.next_offset:
        progress = ReplayProgress(position.next_offset, head.next_offset, position.next_sequence)
        try:
            with closing(journal.reader(position.next_offset)) as reader:
                while (offset := replica.position.next_offset) < head.next_offset:
                    check_stop(stopping)
                    left = head.next_offset - offset
                    records = reader.read(READ_BACK_TIMEOUT_S, min(left, 64))
                    if not records:
                        raise JournalStalled(f"cannot read the journal's offset {offset}")
                    for record in records:
                        replica.take(record)
                    progress.update(replica.position.next_offset, replica.position.next_sequence)
        finally:
            progress.close()
    if replica.position.chain != head.chain:
        raise HistoryRefused(
            f"the journal disagrees with the history before offset {head.next_offset}: one of "
            "them has another past; name another --history or --journal"
        )
