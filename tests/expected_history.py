"""What a history must hold, told by the oracle: entries from its replies, in plain Python."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Final, NamedTuple

from cluster_app.journals import open_journal
from cluster_core.batch import HEADER_BYTES, Kind, LedgerParameters, open_batch
from tests.journal_replay import SMALL_LEDGER, records_of
from tests.reference import (
    CAPTURE,
    COMMAND,
    CREATE_ACCOUNT,
    EXPIRE,
    HOLD,
    Command,
    ReferenceLedger,
)
from tests.reference import REPLY as ORACLE_REPLY

DUPLICATE: Final = 1
OK: Final = 1


class Expected(NamedTuple):
    """An entry of a command that was done."""

    sequence: int
    timestamp_ns: int
    command_id: bytes
    debit_account: int
    credit_account: int
    amount: int
    debit_balance: int
    credit_balance: int
    reference: int
    hold: int
    asset: int
    code: int
    operation: int
    status: int
    flags: int


class ExpectedHistory:
    """The oracle, and what it says a history holds of the batches that it was given."""

    def __init__(self, parameters: LedgerParameters = SMALL_LEDGER) -> None:
        self.entries: list[Expected] = []
        self.refused: list[tuple[int, int]] = []
        """(sequence, status)."""
        self.batches: list[tuple[int, int]] = []
        self.ledger = ReferenceLedger(**asdict(parameters))
        self._sides: dict[int, tuple[int, int]] = {}
        self._sequence = 0

    def apply(self, packed: bytes, timestamp_ns: int) -> None:
        self.batches.append((self._sequence, timestamp_ns))
        replies = self.ledger.apply(packed, timestamp_ns)
        for command, reply in zip(COMMAND.iter_unpack(packed), replies, strict=True):
            self._add(Command(*command), reply, timestamp_ns)
            self._sequence += 1

    def _add(self, command: Command, packed_reply: bytes, timestamp_ns: int) -> None:
        _, entity, amount, debit_balance, credit_balance, status, flags = ORACLE_REPLY.unpack(
            packed_reply
        )
        if flags & DUPLICATE:
            return
        if status != OK:
            self.refused.append((self._sequence, status))
            return
        debit, credit, hold = command.debit_account, command.credit_account, 0
        if command.operation == CREATE_ACCOUNT:
            debit = entity
        elif command.operation == HOLD:
            hold = entity
            self._sides[hold] = (debit, credit)
        elif CAPTURE <= command.operation <= EXPIRE:
            hold = command.reference
            debit, credit = self._sides[hold]
        known = debit or credit
        asset = self.ledger.accounts[known - 1].asset if known else command.asset
        self.entries.append(
            Expected(
                self._sequence,
                timestamp_ns,
                command.command_id,
                debit,
                credit,
                amount,
                debit_balance,
                credit_balance,
                command.reference,
                hold,
                asset,
                command.code,
                command.operation,
                status,
                command.flags,
            )
        )

    def statement(self, account: int) -> list[Expected]:
        """The newest first."""
        mine = [e for e in self.entries if account in (e.debit_account, e.credit_account)]
        return mine[::-1]

    def balance(self, account: int, below: int) -> int | None:
        """None before the account is opened."""
        for entry in self.statement(account):
            if entry.sequence < below:
                debit = entry.debit_account == account
                return entry.debit_balance if debit else entry.credit_balance
        return None


def expected_of(url: str, parameters: LedgerParameters = SMALL_LEDGER) -> ExpectedHistory:
    """From all batches of a journal of one epoch."""
    expected = ExpectedHistory(parameters)
    for packed, timestamp_ns in _batches(url):
        expected.apply(packed, timestamp_ns)
    return expected


def _batches(url: str) -> Iterator[tuple[bytes, int]]:
    sequence = 0
    with closing(open_journal(url)) as journal:
        for record in records_of(journal, journal.start_offset(), journal.end_offset()):
            header = open_batch(record.value)
            if header.kind is Kind.COMMANDS and header.first_sequence == sequence:
                sequence += header.count
                yield record.value[HEADER_BYTES:], header.timestamp_ns
