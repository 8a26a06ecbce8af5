"""One term on a journal in memory whose deliveries the test reports by hand."""

from collections import deque
from typing import Any

import numpy as np

from cluster_core.batch import EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Delivery, JournalRecord, MemoryJournal
from cluster_core.pipeline import Fate, Pipeline
from cluster_core.record import COMMAND, REPLY, Operation
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine

PARAMETERS = LedgerParameters(window_capacity=1024, account_capacity=1000)
LEADER = b"L" * 16


class Caller:
    """A route that keeps what it was told."""

    def __init__(self) -> None:
        self.replies: list[tuple[Any, np.ndarray[Any, Any], int]] = []
        self.fates: list[tuple[Any, Fate]] = []

    def replied(self, token: Any, replies: memoryview, ledger_time_ns: int) -> None:
        self.replies.append((token, np.frombuffer(bytes(replies), REPLY), ledger_time_ns))

    def failed(self, token: Any, fate: Fate, reason: str) -> None:
        self.fates.append((token, fate))


class HeldWriter:
    """A journal writer whose deliveries the test reports by hand."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.held: deque[Delivery] = deque()
        self.values: list[bytes] = []
        self.purged = False
        self._writer = journal.writer(0, self.held.append)

    def append(self, value: bytes) -> None:
        self.values.append(value)
        self._writer.append(value)

    def purge(self) -> None:
        self.purged = True

    def close(self) -> None:
        self._writer.close()


class Leadership:
    """A pipeline after its EPOCH_START on a journal in memory."""

    def __init__(self, capacity: int = 1 << 14) -> None:
        self.now_ns = 1_000
        self.journal = MemoryJournal(lambda: self.now_ns)
        replica = Replica()
        self.append_foreign(_epoch_start(replica, LEADER))
        for record in self.journal.reader(0).read(0):
            replica.take(record)
        assert replica.state is not None
        self.state: StateMachine = replica.state
        self.writer = HeldWriter(self.journal)
        self.caller = Caller()
        self.pipeline = Pipeline(
            self.state,
            self.writer,
            replica.position,
            clock_ns=lambda: self.now_ns,
            read_journal=self._read,
            capacity=capacity,
        )

    def _read(self, first: int, last: int) -> list[JournalRecord]:
        return list(self.journal.reader(first).read(0, last - first + 1))

    def append_foreign(self, value: bytes) -> None:
        """Append a record that is not the pipeline's."""
        self.journal.writer(0, lambda _: None).append(value)

    def append_successor(self) -> None:
        """Another leader's EPOCH_START, which counts."""
        replica = Replica()
        for record in self.journal.reader(0).read(0):
            replica.take(record)
        self.append_foreign(_epoch_start(replica, b"N" * 16))

    def one_command(self) -> bytes:
        """Packed, well formed."""
        return creates(1)

    def submit(self, count: int, token: Any = None) -> bool:
        """So many commands as one message of `caller`."""
        return self.pipeline.submit(creates(count), self.caller, token)

    def deliver(self) -> None:
        """Report the oldest batch that was not reported."""
        self.pipeline.delivered(self.writer.held.popleft())


def _epoch_start(replica: Replica, leader_id: bytes) -> bytes:
    position = replica.position
    value, _ = seal(
        Kind.EPOCH_START,
        epoch=position.epoch + 1,
        leader_id=leader_id,
        first_sequence=position.next_sequence,
        timestamp_ns=position.timestamp_ns,
        previous_chain=position.chain,
        body=(EpochStart("node", "127.0.0.1:1", PARAMETERS).pack(),),
    )
    return value


def creates(count: int) -> bytes:
    """So many CREATE_ACCOUNT commands, packed."""
    commands = np.zeros(count, COMMAND)
    commands["operation"] = Operation.CREATE_ACCOUNT
    commands["asset"] = 1
    return commands.tobytes()
