"""The trim: delete what the snapshots have made needless from the journal's beginning.

1. Verify. The newest snapshot of every store named is restored as a node would do it: compared
   with the journal, with each row's checksum and with its state digest.
2. Bound. Nothing at or above the last counted record of the least advanced one is deleted, for a
   restore reads that record again; a margin of commands before it stays as well.
3. Delete, while leader, followers and learners go on.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from cluster_app.audit import check_not_empty
from cluster_app.election import READ_BACK_TIMEOUT_S
from cluster_app.errors import Fault, UsageError
from cluster_app.journals import open_journal
from cluster_app.kafka_options import KafkaOptions
from cluster_app.logs import configure_logs
from cluster_app.recovery import recover
from cluster_app.settings import NodeSettings
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_core.batch import HEADER_BYTES, Header, open_batch
from cluster_core.errors import JournalFault, SnapshotError
from cluster_core.journal import Journal
from cluster_core.record import COMMAND_BYTES
from cluster_core.snapshot import SnapshotHeader

MARGIN_COMMANDS: Final = 1_000_000
"""64 MB: what a node may be behind before a trim sends it back to the snapshot."""

_STORES_MAX: Final = 16


@dataclass(frozen=True)
class TrimSettings:
    """What `trim` takes. `snapshots` and `history` are secret: they may hold passwords."""

    journal: str
    snapshots: tuple[str, ...]
    margin_commands: int
    dry_run: bool
    kafka: KafkaOptions
    history: str = ""


@dataclass(frozen=True)
class Cut:
    """What a trim deletes: offsets `[first, below)`, with so many commands."""

    first: int
    below: int
    commands: int

    @property
    def bytes(self) -> int:
        """Of the values, but for what a few of them hold beside commands."""
        return (self.below - self.first) * HEADER_BYTES + self.commands * COMMAND_BYTES


def main(arguments: Sequence[str]) -> int:
    """Trim the journal that the flags name and print what was done; returns 0.

    Raises Fault, having deleted nothing, where a store has no snapshot or one that can't be begun
    from; JournalFault when not all was deleted; UsageError.
    """
    settings = read_settings(arguments)
    configure_logs("info")
    stores = [open_snapshots(url) for url in settings.snapshots]
    check_not_empty(settings.journal)
    with closing(open_journal(settings.journal, settings.kafka, create=False)) as journal:
        headers = [verified(journal, store) for store in stores]
        archived = archived_offset(journal, settings.history) if settings.history else None
        cut = plan(journal, headers, settings.margin_commands, archived)
        if cut is None:
            print(
                f"nothing to trim: the journal begins at offset {journal.start_offset()}, the "
                f"snapshot's last record is {min(h.counted_offset for h in headers)}, and "
                f"{settings.margin_commands} commands before it stay (--margin-commands)",
                flush=True,
            )
            return 0
        if not settings.dry_run:
            journal.trim(cut.below)
        print(
            f"{'would_trim' if settings.dry_run else 'trimmed'} offsets={cut.first}.."
            f"{cut.below - 1} commands={cut.commands} bytes={cut.bytes}"
        )
        print(
            f"kept offsets={cut.below if settings.dry_run else journal.start_offset()}.."
            f"{journal.end_offset() - 1}",
            flush=True,
        )
    return 0


def verified(journal: Journal, store: SnapshotStore) -> SnapshotHeader:
    """The header of a store's newest snapshot, which was restored. Raises Fault."""
    if store.newest() is None:
        raise Fault(
            f"{store.name} has no snapshot: nothing was trimmed. Let a learner save one there, or "
            "name another --snapshots"
        )
    try:
        _, base = recover(journal, store, lambda: False)
    except SnapshotError as error:
        raise Fault(f"nothing was trimmed: {error}") from error
    if base is None:
        raise Fault(f"{store.name} has no snapshot any more: nothing was trimmed")
    header = base.header
    print(
        f"verified snapshots={store.name} applied={header.applied} "
        f"offset={header.counted_offset} digest={header.state_digest.hex()}",
        flush=True,
    )
    return header


def archived_offset(journal: Journal, url: str) -> int:
    """The newest record in the archiver's own saved state, which it begins with. Raises Fault."""
    from cluster_app.archiver_start import check_head
    from cluster_app.history_store import open_history

    store = open_history(url)
    try:
        extent = store.extent()
        if extent is None or extent.state_offset < 0:
            raise Fault(
                f"{store.name} has no history with a saved state: nothing was trimmed. Let an "
                "archiver save one (--state-interval-s, or stop it once)"
            )
        check_head(journal, extent)
    except SnapshotError as error:
        raise Fault(f"nothing was trimmed: {error}") from error
    print(
        f"verified history={store.name} archived={extent.head.next_sequence} "
        f"state_offset={extent.state_offset}",
        flush=True,
    )
    return extent.state_offset


def plan(
    journal: Journal,
    headers: Sequence[SnapshotHeader],
    margin_commands: int,
    archived: int | None = None,
) -> Cut | None:
    """What may go below all these verified snapshots; None when that is nothing.

    Nothing goes at or above `archived`, the newest record that an archiver's state holds.

    Raises JournalFault for a record that can't be read.
    """
    least = min(headers, key=lambda header: header.counted_offset)
    keep_from = least.applied - margin_commands
    first = low = journal.start_offset()
    high = least.counted_offset if archived is None else min(least.counted_offset, archived)
    begun = _header_at(journal, first).first_sequence if first < high else 0
    if keep_from <= begun:
        high = first
    # the last offset up to which a record begins at or below `keep_from`; sequences only rise,
    # but for late writes of a deposed leader, which can only shift the margin a little
    while low < high:
        middle = (low + high + 1) // 2
        if _header_at(journal, middle).first_sequence <= keep_from:
            low = middle
        else:
            high = middle - 1
    if low <= first:
        return None
    commands = max(_header_at(journal, low).first_sequence - begun, 0)
    return Cut(first, low, commands)


def read_settings(arguments: Sequence[str]) -> TrimSettings:
    """Settings from flags and environment; argparse itself ends on an unknown flag."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app trim",
        description="Verify the newest snapshots by restoring them, then delete what lies below "
        "them from the journal. Leader, followers and learners may go on meanwhile.",
    )
    parser.add_argument(
        "--journal",
        metavar="URL",
        default=os.environ.get("RINGLEDGER_JOURNAL"),
        help="the journal, as for a leader; also RINGLEDGER_JOURNAL",
    )
    parser.add_argument(
        "--snapshots",
        metavar="URL",
        action="append",
        help="a snapshot store, as for a learner; name it again for each further one, for what "
        "all of them have is deleted; also RINGLEDGER_SNAPSHOTS, for one",
    )
    parser.add_argument(
        "--history",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="a history, as for an archiver: what its archiver would need to go on stays; also "
        "RINGLEDGER_HISTORY",
    )
    parser.add_argument(
        "--margin-commands",
        metavar="N",
        default=os.environ.get("RINGLEDGER_MARGIN_COMMANDS", str(MARGIN_COMMANDS)),
        help="commands below the snapshot that stay, for nodes that are behind "
        f"(default: {MARGIN_COMMANDS})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="verify and tell, but delete nothing"
    )
    parser.add_argument(
        "--kafka-properties",
        metavar="TEXT",
        default=argparse.SUPPRESS,
        help="librdkafka properties, as for a leader; also RINGLEDGER_KAFKA_PROPERTIES",
    )
    given = parser.parse_args(arguments)
    if not given.journal:
        raise UsageError("name the journal: --journal sqlite:///PATH")
    if not given.margin_commands.isdecimal() or int(given.margin_commands) >= 1 << 62:
        raise UsageError("--margin-commands must be 0 or more")
    properties = getattr(
        given, "kafka_properties", os.environ.get("RINGLEDGER_KAFKA_PROPERTIES", "")
    )
    node = NodeSettings(
        journal=given.journal,
        kafka_properties=properties,
        snapshots=os.environ.get("RINGLEDGER_SNAPSHOTS", ""),
    )
    stores = tuple(dict.fromkeys(given.snapshots or [node.snapshots_url()]))
    if len(stores) > _STORES_MAX:
        raise UsageError(f"--snapshots may be named {_STORES_MAX} times at most")
    return TrimSettings(
        given.journal,
        stores,
        int(given.margin_commands),
        given.dry_run,
        node.kafka(),
        getattr(given, "history", os.environ.get("RINGLEDGER_HISTORY", "")),
    )


def _header_at(journal: Journal, offset: int) -> Header:
    with closing(journal.reader(offset)) as reader:
        records = reader.read(READ_BACK_TIMEOUT_S, 1)
    if not records:
        raise JournalFault(f"cannot read the journal's offset {offset}")
    try:
        return open_batch(records[0].value)
    except JournalFault as fault:
        raise JournalFault(f"journal offset {offset}: {fault}") from None
