"""A ledger that is fed random batches of all operations, in memory or through a journal."""

import queue
from random import Random
from typing import Final

import numpy as np

from cluster_core.batch import CHAIN_START, EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Delivery, Journal, JournalWriter
from cluster_core.record import COMMAND
from cluster_core.state_machine import StateMachine
from tests.property.strategies import NS_PER_MS, NS_PER_S, first_commands, packed, random_batch
from tests.reference import Command

START_NS: Final = 1_700_000_000 * NS_PER_S
LEADER_ID: Final = bytes(range(1, 17))
_DELIVERY_TIMEOUT_S: Final = 30.0


class RandomLedger:
    """A state machine that is given random batches."""

    def __init__(self, seed: int, parameters: LedgerParameters) -> None:
        self.random = Random(seed)
        self.machine = StateMachine(parameters, hash_seed=seed)
        self.now_ns = START_NS
        self.history: list[Command] = []
        self.run(first_commands(40, amount=100_000))

    def run(self, commands: list[Command]) -> None:
        self.machine.apply(np.frombuffer(packed(commands), COMMAND), self.now_ns)

    def run_some(self, count: int) -> list[Command]:
        """Up to a second later, apply `count` random commands; returns them."""
        self.now_ns += self.random.randrange(NS_PER_S)
        machine, newest_ms = self.machine, self.now_ns // NS_PER_MS + 1_000
        batch = random_batch(
            self.random,
            count,
            machine.accounts,
            newest_ms,
            self.history,
            next_hold=machine.next_hold,
        )
        self.run(batch)
        return batch


class RandomJournal(RandomLedger):
    """The same, and each batch goes into a journal, by a leader that appends and applies."""

    def __init__(self, journal: Journal, seed: int, parameters: LedgerParameters) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._chain = CHAIN_START
        self._sequence = 0
        self._writer: JournalWriter = journal.writer(journal.end_offset(), self._deliveries.put)
        start = EpochStart(f"leader-{seed}", "127.0.0.1:9500", parameters)
        self.now_ns = START_NS
        self.append(Kind.EPOCH_START, start.pack())
        super().__init__(seed, parameters)

    def run(self, commands: list[Command]) -> None:
        self.append(Kind.COMMANDS, packed(commands))
        super().run(commands)
        self._sequence += len(commands)

    def append(self, kind: Kind, body: bytes = b"", *, chain: bytes | None = None) -> None:
        """Append one batch; one with another chain is skipped by every reader."""
        value, digest = seal(
            kind,
            epoch=1,
            leader_id=LEADER_ID,
            first_sequence=self._sequence,
            timestamp_ns=self.now_ns,
            previous_chain=chain or self._chain,
            body=(body,) if body else (),
        )
        self.append_raw(value)
        if chain is None:
            self._chain = digest

    def append_raw(self, value: bytes) -> None:
        """Append what no leader would."""
        self._writer.append(value)
        delivery = self._deliveries.get(timeout=_DELIVERY_TIMEOUT_S)
        assert delivery.offset is not None, delivery.error

    def close(self) -> None:
        """Release the journal's writer."""
        self._writer.close()
