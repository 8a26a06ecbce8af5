"""Where a node begins: the newest snapshot and the rest of the journal, or the journal's start.

A snapshot is only taken up if the journal still says the same at the snapshot's last counted
record: its digest names the whole history before it.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from cluster_app.election import READ_BACK_TIMEOUT_S, check_stop
from cluster_app.logs import RestoreProgress
from cluster_app.snapshot_store import SnapshotStore
from cluster_core.batch import open_batch
from cluster_core.errors import (
    JournalFault,
    OffsetTrimmed,
    SnapshotRefused,
)
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import SnapshotBase, SnapshotHeader


def recover(
    journal: Journal, store: SnapshotStore | None, stopping: Callable[[], bool]
) -> tuple[Replica, SnapshotBase | None]:
    """(the replica to go on from, the base that it came from).

    Without a store or a snapshot it is empty, at offset 0. Raises SnapshotRefused for a snapshot
    that the journal contradicts, SnapshotDamaged, StoreUnavailable, and OffsetTrimmed when there
    is no snapshot and the journal doesn't begin with its first record any more; Stopped when
    `stopping` says so.
    """
    begun = time.monotonic()
    hash_seed = secrets.randbits(64)
    progress = RestoreProgress()

    def begin(header: SnapshotHeader) -> Restorer:
        check_history(journal, header)
        return Restorer(header, hash_seed=hash_seed)

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
        return Replica(hash_seed=hash_seed), None
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


def check_history(journal: Journal, header: SnapshotHeader) -> None:
    """Compare a snapshot with the journal. Raises SnapshotRefused, or what reading raises."""
    advice = "name another --snapshots, or start with --no-snapshot to replay the whole journal"
    start, end = journal.start_offset(), journal.end_offset()
    if start == 0 and end > 0 and _digest_at(journal, 0) != header.ledger_id:
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
    if header.counted_offset < start:
        raise SnapshotRefused(
            f"the journal begins at offset {start}, and the snapshot ends with "
            f"{header.counted_offset}: what lies between was trimmed; {advice}"
        )
    if _digest_at(journal, header.counted_offset) != position.chain:
        raise SnapshotRefused(
            f"the journal disagrees with the snapshot at offset {header.counted_offset}, the last "
            f"record that the snapshot holds: one of them has another history; {advice}"
        )


def _digest_at(journal: Journal, offset: int) -> bytes:
    with closing(journal.reader(offset)) as reader:
        records = reader.read(READ_BACK_TIMEOUT_S, 1)
    if not records:
        raise JournalFault(f"cannot read the journal's offset {offset}")
    try:
        return open_batch(records[0].value).digest
    except JournalFault as fault:
        raise JournalFault(f"journal offset {offset}: {fault}") from None
