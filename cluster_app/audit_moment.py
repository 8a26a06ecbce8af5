"""`audit --at-sequence N`, `--at-time T`: the state as it was, and what history says of it.

The state is built anew from a snapshot that is not beyond the moment, or from the journal's start.
Then every account's posted balance is compared with the history's. A snapshot beyond the moment is
compared as well: the replay goes on up to it, and the state digests must be the same.
"""

import argparse
import os
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from cluster_app import history_queries as questions
from cluster_app.archiver_start import check_head
from cluster_app.audit import check_not_empty, describe
from cluster_app.audited_books import check_books
from cluster_app.election import READ_BACK_TIMEOUT_S
from cluster_app.errors import Fault, UsageError
from cluster_app.history_queries import Moment, NotInHistory
from cluster_app.history_store import open_history
from cluster_app.journals import open_journal
from cluster_app.logs import ReplayProgress, configure_logs
from cluster_app.recovery import recover
from cluster_app.settings import NodeSettings
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import HEADER_BYTES, Header, Kind, open_batch
from cluster_core.errors import JournalFault
from cluster_core.journal import Journal, JournalRecord
from cluster_core.reader_rule import Verdict, judge
from cluster_core.record import COMMAND, CommandFlag
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotHeader

_HISTORY_TIMEOUT_S = 60.0
_PAGE = 1_000


@dataclass(frozen=True)
class MomentSettings:
    """What the audit of a moment takes; one of `sequence` and `time_ns` is given."""

    node: NodeSettings
    sequence: int | None
    time_ns: int | None
    digest: bytes | None
    history: str = field(repr=False)
    snapshots: str = field(repr=False)


def main(arguments: Sequence[str]) -> int:
    """Rebuild, compare and print; returns 0 when all is equal. Raises Fault and JournalError."""
    settings = read_settings(arguments)
    configure_logs("info")
    node = settings.node
    check_not_empty(node.journal)
    with closing(open_journal(node.journal, node.kafka(), create=False)) as journal:
        replica, beyond = begin(journal, settings)
        first_offset = replica.position.next_offset
        cut = replay_to(journal, replica, settings)
        state = replica.state
        if state is None:
            raise Fault("no ledger begins in this journal before that moment")
        print(describe(replica, state, first_offset))
        faults = check_books(state)
        if faults:
            raise Fault(f"books as of sequence {state.applied - 1}: {'; '.join(faults)}")
        if settings.digest not in (None, state.digest()):
            raise Fault(f"the state digest is {state.digest().hex()}, another was expected")
        if settings.history:
            compare_history(journal, replica, settings.history)
            print(f"history=equal below={state.applied}")
        if beyond is not None and cut is None:
            compare_snapshot(journal, replica, beyond)
            print(f"snapshot=equal applied={beyond.applied}")
        elif beyond is not None:
            print("snapshot=not compared: the moment lies within a batch")
    print("sound", flush=True)
    return 0


def read_settings(arguments: Sequence[str]) -> MomentSettings:
    """Settings from flags and environment; argparse itself ends on an unknown flag."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app audit",
        description="Rebuild the state as of a moment, and compare it with history and snapshot.",
    )
    moment = parser.add_mutually_exclusive_group(required=True)
    moment.add_argument("--at-sequence", metavar="N", help="after the command of this sequence")
    moment.add_argument(
        "--at-time", metavar="NS", help="after all batches up to this ledger time, ns since 1970"
    )
    parser.add_argument("--journal", metavar="URL", default=os.environ.get("RINGLEDGER_JOURNAL"))
    parser.add_argument("--history", metavar="URL", default="", help="compare it with this history")
    parser.add_argument("--snapshots", metavar="URL", default="", help="use this store's snapshot")
    parser.add_argument("--digest", metavar="HEX", help="the state digest that it must have")
    parser.add_argument("--kafka-properties", metavar="TEXT", default=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.journal:
        raise UsageError("name the journal: --journal sqlite:///PATH")
    for flag, text in (("--at-sequence", given.at_sequence), ("--at-time", given.at_time)):
        if text is not None and not (text.isdecimal() and int(text) < 1 << 63):
            raise UsageError(f"{flag} must be 0 or more, below 2^63")
    try:
        digest = bytes.fromhex(given.digest) if given.digest else None
    except ValueError:
        raise UsageError("--digest must be hexadecimal digits") from None
    properties = getattr(
        given, "kafka_properties", os.environ.get("RINGLEDGER_KAFKA_PROPERTIES", "")
    )
    return MomentSettings(
        NodeSettings(journal=given.journal, kafka_properties=properties),
        None if given.at_sequence is None else int(given.at_sequence),
        None if given.at_time is None else int(given.at_time),
        digest,
        given.history,
        given.snapshots,
    )


def begin(journal: Journal, settings: MomentSettings) -> tuple[Replica, SnapshotHeader | None]:
    """(where to begin, the header of a snapshot that lies beyond the moment, if there is one)."""
    header = open_snapshots(settings.snapshots).newest() if settings.snapshots else None
    beyond = header is not None and (
        header.applied > settings.sequence + 1
        if settings.sequence is not None
        else header.position.timestamp_ns > (settings.time_ns or 0)
    )
    if header is not None and not beyond:
        replica, _ = recover(journal, open_snapshots(settings.snapshots), lambda: False)
        return replica, None
    start = journal.start_offset()
    if start > 0:
        raise Fault(
            f"the journal begins at offset {start}: name a --snapshots whose snapshot is not "
            "beyond the moment"
        )
    return Replica(hash_seed=secrets.randbits(64)), header if beyond else None


def replay_to(journal: Journal, replica: Replica, settings: MomentSettings) -> int | None:
    """Apply what had happened by the moment.

    Returns the sequence at which a batch was cut, else None. A chain is never cut: the state is as
    of its end. Raises Fault when the journal ends before the sequence.
    """
    end = journal.end_offset()
    progress = ReplayProgress(replica.position.next_offset, end, replica.position.next_sequence)
    try:
        with closing(journal.reader(replica.position.next_offset)) as reader:
            while (offset := replica.position.next_offset) < end:
                records = reader.read(READ_BACK_TIMEOUT_S, min(end - offset, 64))
                if not records:
                    raise JournalFault(f"cannot read the journal's offset {offset}")
                for record in records:
                    header = open_batch(record.value)
                    if is_beyond(replica, record, header, settings):
                        return cut_batch(replica, record, header, settings.sequence)
                    replica.take(record)
                progress.update(replica.position.next_offset, replica.position.next_sequence)
    finally:
        progress.close()
    wanted, applied = settings.sequence, replica.position.next_sequence
    if wanted is not None and applied <= wanted:
        raise Fault(f"the journal ends before sequence {applied}, {wanted} is beyond it")
    return None


def is_beyond(
    replica: Replica, record: JournalRecord, header: Header, settings: MomentSettings
) -> bool:
    """Whether a record holds commands of which not all had happened by the moment."""
    if header.kind is not Kind.COMMANDS:
        return False
    if judge(replica.position, record.offset, header).verdict is not Verdict.COUNTS:
        return False
    if settings.sequence is not None:
        return header.first_sequence + header.count > settings.sequence + 1
    return header.timestamp_ns > (settings.time_ns or 0)


def cut_batch(
    replica: Replica, record: JournalRecord, header: Header, sequence: int | None
) -> int | None:
    """Apply a batch's commands up to a sequence, and to its chain's end; None when none is."""
    state = replica.state
    if sequence is None or state is None or header.first_sequence > sequence:
        return None
    commands = np.frombuffer(record.value, COMMAND, offset=HEADER_BYTES)
    count = sequence + 1 - header.first_sequence
    while count < len(commands) and int(commands[count - 1]["flags"]) & CommandFlag.LINKED:
        count += 1
    state.apply(commands[:count], header.timestamp_ns)
    replica.position = replace(replica.position, next_sequence=state.applied)
    return state.applied


def compare_history(journal: Journal, replica: Replica, url: str) -> None:
    """Every account's balance, as of what is applied. Raises Fault, naming the first difference."""
    state, store = replica.state, open_history(url)
    extent = store.extent()
    if state is None or extent is None:
        raise Fault(f"{store.name} has no history")
    check_head(journal, extent)
    after, moment = 0, Moment(sequence=state.applied - 1)
    with closing(store.reader(_HISTORY_TIMEOUT_S)) as reader:
        while True:
            try:
                found, after, _ = reader.read(
                    lambda execute, after=after: questions.balances(  # type: ignore[misc]
                        execute, questions.read_extent(execute) or extent, moment, after, _PAGE
                    )
                )
            except NotInHistory as error:
                raise Fault(f"{store.name}: {error}") from error
            for balance in found:
                account = state.account(balance.account_id)
                posted = None if account is None else int(account["posted"])
                if posted != balance.posted:
                    raise Fault(
                        f"account {balance.account_id} as of sequence {moment.sequence}: the "
                        f"history says {balance.posted}, the journal {posted}"
                    )
            if not after:
                known = found[-1].account_id if found else 0
                break
    if known < state.accounts and state.accounts % _PAGE:
        raise Fault(f"account {known + 1}: the history doesn't know it, the journal opened it")
    structlog.get_logger().info("compared with history", accounts=state.accounts)


def compare_snapshot(journal: Journal, replica: Replica, header: SnapshotHeader) -> None:
    """Replay up to a snapshot, and compare the digests. Raises Fault."""
    end = header.position.next_offset
    with closing(journal.reader(replica.position.next_offset)) as reader:
        while (offset := replica.position.next_offset) < end:
            records = reader.read(READ_BACK_TIMEOUT_S, min(end - offset, 64))
            if not records:
                raise JournalFault(f"cannot read the journal's offset {offset}")
            for record in records:
                replica.take(record)
    if replica.state is None or replica.state.digest() != header.state_digest:
        raise Fault(
            f"the snapshot's state digest as of sequence {header.applied - 1} is "
            f"{header.state_digest.hex()}, the journal gives another"
        )
