"""Entries of random ledgers, compared with what the oracle's replies say."""

import numpy as np
import pytest

from cluster_app.history_tables import command_ids, copy_rows, day_totals, entry_rows
from cluster_core.entries import ENTRY, EntryRecorder
from cluster_core.record import COMMAND, REPLY, Status
from cluster_core.state_machine import StateMachine
from tests.expected_history import Expected, ExpectedHistory
from tests.journal_replay import SMALL_LEDGER
from tests.property.strategies import packed
from tests.random_ledger import RandomLedger
from tests.reference import Command


class RecordedLedger(RandomLedger):
    """Random batches, with a recorder beside the kernel and the oracle beside both."""

    def __init__(self, seed: int, *, refused: bool) -> None:
        self.recorder = EntryRecorder(refused=refused)
        self.expected = ExpectedHistory()
        self._replies = np.zeros(8_192, REPLY)
        super().__init__(seed, SMALL_LEDGER)

    def run(self, commands: list[Command]) -> None:
        machine: StateMachine = self.machine
        records = np.frombuffer(packed(commands), COMMAND)
        self.recorder.before(machine, records)
        machine.apply_into(records, self.now_ns, self._replies)
        self.recorder.after(machine, records, self._replies, self.now_ns)
        self.expected.apply(packed(commands), self.now_ns)


def ledger_of(seed: int, *, refused: bool = False) -> RecordedLedger:
    ledger = RecordedLedger(seed, refused=refused)
    for _ in range(25):
        ledger.run_some(80)
    return ledger


@pytest.mark.parametrize("seed", range(12))
def test_entries_are_what_the_oracle_answered(seed: int) -> None:
    ledger = ledger_of(seed)
    entries, batches = ledger.recorder.take()
    found = [Expected(*row) for row in entry_rows(entries)]
    unsigned = [
        row._replace(reference=row.reference % 2**64, hold=row.hold % 2**64) for row in found
    ]
    assert unsigned == ledger.expected.entries
    assert batches.tolist() == [list(batch) for batch in ledger.expected.batches]
    assert {entry.operation for entry in found} >= {6, 7, 8, 9}


@pytest.mark.parametrize("seed", range(3))
def test_refused_commands_are_kept_when_asked_for_and_duplicates_never(seed: int) -> None:
    ledger = ledger_of(seed, refused=True)
    entries, _ = ledger.recorder.take()
    refused = entries[entries["status"] != Status.OK]
    assert list(zip(refused["sequence"].tolist(), refused["status"].tolist(), strict=True)) == (
        ledger.expected.refused
    )
    assert not refused["amount"].any()
    assert not refused["debit_balance"].any()
    done = entries[entries["status"] == Status.OK]
    assert done["sequence"].tolist() == [entry.sequence for entry in ledger.expected.entries]


def test_commands_below_the_beginning_are_passed_over() -> None:
    ledger = ledger_of(5)
    again = RecordedLedger(5, refused=False)
    again.recorder.take()
    again.recorder.from_sequence = 300
    for _ in range(25):
        again.run_some(80)
    found = again.recorder.take()[0]["sequence"].tolist()
    firsts = [first for first, _ in ledger.expected.batches if first >= 300]
    assert found == [e.sequence for e in ledger.expected.entries if e.sequence >= firsts[0]]


def test_rows_for_a_copy_hold_the_same_values() -> None:
    entries, _ = ledger_of(3, refused=True).recorder.take()
    data = bytes(copy_rows(entries))
    width = len(data) // len(entries)
    row, at = data[:width], 2
    values = []
    for _ in range(int.from_bytes(row[:2], "big")):
        length = int.from_bytes(row[at : at + 4], "big")
        values.append(row[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == width
    expected = next(entry_rows(entries))
    read = [v if len(v) == 16 else int.from_bytes(v, "big", signed=True) for v in values]
    assert tuple(read) == expected


def test_sums_of_a_day_do_not_overflow() -> None:
    entries = np.zeros(3, ENTRY)
    entries["status"], entries["operation"], entries["asset"] = Status.OK, 4, 1
    entries["amount"] = 2**63 - 1
    (total,) = day_totals(entries)
    assert (total.commands, total.amount) == (3, 3 * (2**63 - 1))


def test_a_command_id_keeps_its_bytes() -> None:
    command = np.frombuffer(bytes(range(16)) + bytes(48), COMMAND)
    entries = np.zeros(1, ENTRY)
    entries["id_0"], entries["id_1"] = command["id_0"], command["id_1"]
    assert command_ids(entries).tobytes() == bytes(range(16))
