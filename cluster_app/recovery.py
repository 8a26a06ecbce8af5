"""Where a node begins: the newest snapshot and the rest of the journal, or the journal's start.

A snapshot is only taken up if the journal still says the same at the snapshot's last counted
record: its digest names the whole history before it.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

import structlog

from cluster_app.election import READ_BACK_TIMEOUT_S, JournalStalled, check_stop
from cluster_app.logs import RestoreProgress
from cluster_app.snapshot_store import SnapshotStore
from cluster_core.batch import open_batch
from cluster_core.books import MakeBooks, empty_books
from cluster_core.errors import (
    JournalFault,
    OffsetTrimmed,
    SnapshotOvertaken,
    SnapshotRefused,
)
from cluster_core.journal import Journal
from cluster_core.reader_rule import Position
from cluster_core.recent_commands import MakeWindow, empty_window
from cluster_core.replay import NO_LEDGER, Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotHeader

_TRIES: Final = 3


def recover(
    journal: Journal,
    store: SnapshotStore | None,
    stopping: Callable[[], bool],
    make_books: MakeBooks = empty_books,
    make_window: MakeWindow = empty_window,
) -> tuple[Replica, SnapshotBase | None]:
    """(the replica to go on from, the base that it came from).

    A snapshot that a trim overtakes while it is read is left for the newer one, a few times.

    Without a store or a snapshot it is empty, at offset 0. Raises SnapshotRefused for a snapshot
    that the journal contradicts, SnapshotDamaged, StoreUnavailable, and OffsetTrimmed when there
    is no snapshot and the journal doesn't begin with its first record any more; Stopped when
    `stopping` says so.
    """
    for _ in range(_TRIES - 1):
        try:
            recovered = _recover(journal, store, stopping, make_books, make_window)
        except SnapshotOvertaken:
            continue
        position = recovered[0].position
        # while a snapshot is read, a learner may store a newer one, and a trim go up to that
        if position.next_offset >= journal.start_offset():
            return recovered
        del recovered
    return _recover(journal, store, stopping, make_books, make_window)


def _recover(
    journal: Journal,
    store: SnapshotStore | None,
    stopping: Callable[[], bool],
    make_books: MakeBooks,
    make_window: MakeWindow,
) -> tuple[Replica, SnapshotBase | None]:
    begun = time.monotonic()
    hash_seed = secrets.randbits(64)
    progress = RestoreProgress()

    def begin(header: SnapshotHeader) -> Restorer:
        check_history(journal, header)
        return Restorer(header, hash_seed=hash_seed, make_books=make_books, make_window=make_window)

    def told(restorer: Restorer) -> None:
        progress.update(restorer.rows, restorer.total_rows)
        check_stop(stopping)

    restorer = None
    if store is not None:
        try:
            restorer = store.restore(begin, told)
        finally:
            progress.close()
    log = structlog.get_logger()
    if restorer is None:
        start = journal.start_offset()
        if start > 0:
            raise OffsetTrimmed(
                f"the journal begins at offset {start}, what was before was trimmed, and "
                f"{store.name if store else '--no-snapshot'} gives no snapshot: name the store "
                "that has one with --snapshots"
            )
        log.info(
            "replaying from the journal's start",
            snapshots=store.name if store else "not looked for",
        )
        replica = Replica(hash_seed=hash_seed, make_books=make_books, make_window=make_window)
        return replica, None
    replica = restorer.finish()
    header = restorer.header
    log.info(
        "restored a snapshot",
        snapshots=store.name if store else "",
        applied=header.applied,
        offset=header.position.next_offset,
        accounts=header.accounts,
        open_holds=header.open_holds,
        age_s=round(time.time() - header.taken_ns / 1e9, 1),
        seconds=round(time.monotonic() - begun, 3),
    )
    return replica, restorer.base()


def recover_overtaken(
    journal: Journal,
    store: SnapshotStore | None,
    position: Position,
    ledger_id: bytes,
    stopping: Callable[[], bool],
    make_books: MakeBooks = empty_books,
) -> tuple[Replica, SnapshotBase]:
    """(a replica, its base) for a node that stood at `position` of the ledger when a trim overtook
    it: reading on raised OffsetTrimmed.

    The node should have let go of its own state before: both may not fit into memory. Raises
    OffsetTrimmed when the store has no snapshot beyond `position`, else as `recover`.
    """
    structlog.get_logger().warning(
        "the journal was trimmed beyond this node: going back to the newest snapshot",
        offset=position.next_offset,
        journal_start=journal.start_offset(),
    )
    replica, base = recover(journal, store, stopping, make_books) if store else (None, None)
    if replica is None or base is None or replica.position.next_offset <= position.next_offset:
        raise OffsetTrimmed(
            f"offset {position.next_offset} was trimmed, and "
            f"{store.name if store else '--no-snapshot'} has no snapshot beyond it: name the store "
            "that has one with --snapshots"
        )
    if ledger_id not in (NO_LEDGER, replica.ledger_id):
        raise SnapshotRefused(
            f"the snapshot is of another ledger ({replica.ledger_id.hex()[:16]}...) than this "
            "node followed: name another --snapshots"
        )
    return replica, base


def read_base(journal: Journal, store: SnapshotStore) -> SnapshotBase | None:
    """What is stored now, for a replica of `journal` to go on from; None when nothing is.

    Raises SnapshotRefused for a snapshot that the journal contradicts, SnapshotDamaged,
    StoreUnavailable.
    """
    for left in reversed(range(_TRIES)):
        base = store.read_base()
        try:
            if base is not None:
                check_history(journal, base.header)
        except SnapshotOvertaken:
            if left == 0:
                raise
        else:
            break
    return base


def check_history(journal: Journal, header: SnapshotHeader) -> None:
    """Compare a snapshot with the journal.

    Raises SnapshotOvertaken when a trim went beyond the snapshot, else SnapshotRefused, or what
    reading raises.
    """
    advice = "name another --snapshots, or start with --no-snapshot to replay the whole journal"
    start, end = journal.start_offset(), journal.end_offset()
    if start == 0 and end > 0 and digest_if_kept(journal, 0) not in {None, header.ledger_id}:
        raise SnapshotRefused(
            f"the snapshot is of another ledger ({header.ledger_id.hex()[:16]}...) than the "
            f"journal: {advice}"
        )
    position = header.position
    if end < position.next_offset:
        raise SnapshotRefused(
            f"the snapshot is ahead of the journal: it has applied everything below offset "
            f"{position.next_offset}, and the journal ends at {end}. The journal has lost "
            "answered commands: bring it back from a copy, or give them up with --no-snapshot and "
            "an empty store"
        )
    overtaken = SnapshotOvertaken(
        f"the journal begins at offset {start}, and the snapshot ends with "
        f"{header.counted_offset}: what lies between was trimmed; {advice}"
    )
    if header.counted_offset < start:
        raise overtaken
    digest = digest_if_kept(journal, header.counted_offset)
    if digest is None:
        raise overtaken
    if digest != position.chain:
        raise SnapshotRefused(
            f"the journal disagrees with the snapshot at offset {header.counted_offset}, the last "
            f"record that the snapshot holds: one of them has another history; {advice}"
        )


def digest_at(journal: Journal, offset: int) -> bytes:
    """The digest of the record at an offset. Raises JournalFault, JournalStalled."""
    with closing(journal.reader(offset)) as reader:
        records = reader.read(READ_BACK_TIMEOUT_S, 1)
    if not records:
        raise JournalStalled(f"cannot read the journal's offset {offset}")
    try:
        return open_batch(records[0].value).digest
    except JournalFault as fault:
        raise JournalFault(f"journal offset {offset}: {fault}") from None


def digest_if_kept(journal: Journal, offset: int) -> bytes | None:
    """The same; None when a trim has taken the record, be it since its start was asked for."""
    try:
        return digest_at(journal, offset)
    except OffsetTrimmed:
        return None
