"""Following the journal: every role's state is what this makes of the records.

`Replica.take` judges one record by the reader rule and applies it; nothing else changes a state,
except the leader's pipeline on batches that it has seen counted.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from cluster_core.batch import (
    HEADER_BYTES,
    EpochStart,
    Header,
    Kind,
    LedgerParameters,
    open_batch,
)
from cluster_core.books import MakeBooks, empty_books
from cluster_core.entries import EntryRecorder
from cluster_core.errors import InvariantViolated, JournalFault
from cluster_core.journal import JournalRecord
from cluster_core.reader_rule import Judgement, Position, Verdict, judge
from cluster_core.recent_commands import MakeWindow, empty_window
from cluster_core.record import COMMAND, MAX_MESSAGE_COMMANDS, REPLY
from cluster_core.state_machine import StateMachine
from cluster_core.structure import find_malformed

NO_LEDGER: Final = bytes(32)


class Replica:
    """A position in the journal and the state as of it.

    `state` is None until the first EPOCH_START has fixed the ledger's parameters. `ledger_id` is
    the digest of the ledger's first batch. `leader` is the body of the newest counted EPOCH_START,
    `counted_offset` the offset of the newest counted record, -1 before the first.
    `recorder`, if set, sees each batch before and after it is applied.
    `between_batches`, if set, is called after each batch of commands: readers are let in there.
    `replayed_commands` and `skipped_records` count what this object has read.
    """

    def __init__(
        self,
        *,
        hash_seed: int = 0,
        make_books: MakeBooks = empty_books,
        make_window: MakeWindow = empty_window,
    ) -> None:
        self.position = Position()
        self.state: StateMachine | None = None
        self.ledger_id = NO_LEDGER
        self.leader: EpochStart | None = None
        self.counted_offset = -1
        self.skipped_records = 0
        self.recorder: EntryRecorder | None = None
        self.between_batches: Callable[[], None] | None = None
        self.replayed_commands = 0
        self._hash_seed = hash_seed
        self._make_books = make_books
        self._make_window = make_window
        self._replies = np.zeros(MAX_MESSAGE_COMMANDS, REPLY)

    @property
    def parameters(self) -> LedgerParameters | None:
        """The ledger's parameters, or None before its first epoch."""
        return self.state.parameters if self.state else None

    def take(self, record: JournalRecord) -> Judgement:
        """Judge one record and, if it counts, apply it.

        Raises JournalFault, naming the offset and what to do, where the reader rule says stop.
        """
        try:
            return self.take_opened(record, open_batch(record.value))
        except JournalFault as fault:
            raise JournalFault(f"journal offset {record.offset}: {fault}") from None

    def take_opened(self, record: JournalRecord, header: Header) -> Judgement:
        """`take` for a record whose header was opened elsewhere; faults lack the offset."""
        judgement = judge(self.position, record.offset, header)
        if judgement.verdict is Verdict.STOP:
            raise JournalFault(judgement.reason)
        if judgement.verdict is Verdict.SKIP:
            self.skipped_records += 1
        elif header.kind is Kind.EPOCH_START:
            self._begin_epoch(EpochStart.unpack(record.value[HEADER_BYTES:]), header)
        elif header.kind is Kind.COMMANDS:
            self._apply(record.value, header)
        if judgement.verdict is Verdict.COUNTS:
            self.counted_offset = record.offset
        self.position = judgement.position
        return judgement

    def _begin_epoch(self, start: EpochStart, header: Header) -> None:
        if self.state is None:
            self.state = StateMachine(
                start.parameters,
                hash_seed=self._hash_seed,
                make_books=self._make_books,
                make_window=self._make_window,
            )
            self.ledger_id = header.digest
        elif start.parameters != self.state.parameters:
            raise JournalFault(
                f"epoch {header.epoch} has {start.parameters}, the ledger was begun with "
                f"{self.state.parameters}"
            )
        self.leader = start

    def _apply(self, value: bytes, header: Header) -> None:
        if self.state is None or self.state.applied != header.first_sequence:
            raise InvariantViolated(f"a batch at {header.first_sequence} does not fit the state")
        commands = np.frombuffer(value, COMMAND, offset=HEADER_BYTES)
        malformed = find_malformed(commands, from_client=False)
        if malformed is not None:
            raise JournalFault(
                f"command {malformed[0]}: {malformed[1]}: use the newer program that wrote it"
            )
        if self.recorder is not None:
            self.recorder.before(self.state, commands)
        self.state.apply_into(commands, header.timestamp_ns, self._replies)
        self.replayed_commands += len(commands)
        if self.recorder is not None:
            self.recorder.after(self.state, commands, self._replies, header.timestamp_ns)
        if self.between_batches is not None:
            self.between_batches()
