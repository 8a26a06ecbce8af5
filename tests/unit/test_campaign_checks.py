"""The campaign's checks, proved by planted faults: each kind is found and named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_core import batch
from cluster_core.batch import HEADER_BYTES, LedgerParameters, open_batch
from cluster_core.entries import ENTRY
from cluster_core.journal import MemoryJournal
from cluster_core.record import COMMAND, REPLY, Operation
from cluster_core.state_machine import StateMachine
from tests.campaign.archived import check_archived, laid_down
from tests.campaign.checks import Checked, check_histories
from tests.campaign.findings import Found
from tests.campaign.history import READ, HistoryWriter, Kind
from tests.campaign.nodes import NodeView, check_nodes
from tests.campaign.replayed import replay
from tests.expected_history import ExpectedHistory
from tests.journal_replay import records_of
from tests.random_ledger import START_NS, RandomJournal

PARAMETERS = LedgerParameters(window_capacity=1 << 10, account_capacity=1_000, hold_capacity=1_000)
ACCOUNTS = 4


class BareJournal(RandomJournal):
    """A leader that journals and answers what it is given, and nothing of its own."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.started = False
        super().__init__(journal, 1, PARAMETERS)
        self.machine = StateMachine(PARAMETERS)
        self.started = True

    def run(self, commands: Any) -> None:
        if self.started:
            super().run(commands)

    def answer(self, commands: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Journal and apply; the replies."""
        self.append(batch.Kind.COMMANDS, commands.tobytes())
        self._sequence += len(commands)
        return self.machine.apply(commands, START_NS)


class Campaign:
    """Two clients, one call after the other, on a clock that rises by a millisecond a record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = MemoryJournal()
        self.leader = BareJournal(self.journal)
        self.now_ns = 0
        self.ids = 0
        self.paths = [folder / "one.history", folder / "two.history"]
        self.clients = [HistoryWriter(path, self.clock) for path in self.paths]
        self.call(0, self.commands(Operation.CREATE_ACCOUNT, ACCOUNTS, asset=1))
        self.call(0, self.commands(Operation.DEPOSIT, 2, credit_account=1, amount=100))

    def clock(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def commands(self, operation: Operation, count: int, **fields: int) -> np.ndarray[Any, Any]:
        commands = np.zeros(count, COMMAND)
        commands["operation"] = operation
        for name, value in fields.items():
            commands[name] = value
        self.ids += count
        commands["id_0"] = np.arange(self.ids - count + 1, self.ids + 1)
        return commands

    def transfers(self, count: int) -> np.ndarray[Any, Any]:
        return self.commands(Operation.TRANSFER, count, debit_account=1, credit_account=2, amount=1)

    def call(
        self,
        client: int,
        commands: np.ndarray[Any, Any],
        told: Callable[[np.ndarray[Any, Any]], None] = lambda _: None,
    ) -> np.ndarray[Any, Any]:
        """A call, run and answered; `told` may falsify what the client hears."""
        first = self.clients[client].call(commands.tobytes())
        replies = self.leader.answer(commands).copy()
        told(replies)
        self.clients[client].reply(first, replies.tobytes())
        return replies

    def move_in_all_ways(self) -> None:
        """Ten transfers, one refused, a hold captured in a part, and one command sent twice."""
        self.call(0, self.transfers(10))
        self.call(0, self.commands(Operation.WITHDRAW, 1, debit_account=4, amount=1 << 40))
        hold = self.commands(Operation.HOLD, 1, debit_account=2, credit_account=3, amount=4)
        held = self.call(1, hold)
        self.call(1, self.commands(Operation.CAPTURE, 1, reference=held["entity"][0], amount=3))
        self.leader.answer(hold)

    def entries(self) -> np.ndarray[Any, Any]:
        """What a history of the journal holds, by the oracle."""
        expected = ExpectedHistory(PARAMETERS)
        for record in records_of(self.journal, 0, self.journal.end_offset()):
            header = open_batch(record.value)
            if header.kind is batch.Kind.COMMANDS:
                expected.apply(record.value[HEADER_BYTES:], header.timestamp_ns)
        rows = np.zeros(len(expected.entries), ENTRY)
        for row, entry in zip(rows, expected.entries, strict=True):
            for name, value in entry._asdict().items():
                if name != "command_id":
                    row[name] = value
            row["id_0"], row["id_1"] = np.frombuffer(entry.command_id, "<u8")
        return rows

    def check_history(self, entries: np.ndarray[Any, Any]) -> Found:
        """What is found when the archiver kept these."""
        for client in self.clients:
            client.close()
        replayed = replay(self.journal, self.folder)
        archived = laid_down(entries, self.folder, len(replayed.commands))
        found = check_histories(self.paths, replayed, archived).found
        check_archived(archived, replayed, found)
        return found

    def check(self) -> Checked:
        for client in self.clients:
            client.close()
        return check_histories(self.paths, replay(self.journal, self.folder))


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path)


def test_a_true_history_has_nothing_found(campaign: Campaign) -> None:
    campaign.call(0, campaign.transfers(10))
    campaign.call(1, campaign.transfers(5))
    held = campaign.call(
        1, campaign.commands(Operation.HOLD, 1, debit_account=2, credit_account=3, amount=4)
    )
    hold = int(held["entity"][0])
    campaign.call(1, campaign.commands(Operation.CAPTURE, 1, reference=hold, amount=3))
    checked = campaign.check()
    assert checked.found.shown == []
    assert checked.answered == checked.commands == ACCOUNTS + 2 + 10 + 5 + 2
    assert checked.statuses == {"OK": checked.commands}


def test_an_outcome_that_was_unknown_is_resolved_by_its_first_reply(campaign: Campaign) -> None:
    commands = campaign.transfers(3)
    client = campaign.clients[0]
    first = client.call(commands.tobytes())
    campaign.leader.answer(commands)
    client.note(Kind.UNKNOWN, first, 3)
    client.note(Kind.AGAIN, first, 3)
    client.reply(first, campaign.leader.answer(commands).tobytes())
    checked = campaign.check()
    assert checked.found.shown == []
    assert (checked.unknown, checked.resolved) == (3, 3)


def test_an_outcome_that_stays_unknown_is_found(campaign: Campaign) -> None:
    commands = campaign.transfers(3)
    campaign.clients[0].call(commands.tobytes())
    campaign.leader.answer(commands)
    assert campaign.check().found.counts == {"unresolved": 3}


def test_an_answer_to_what_the_journal_never_got_is_lost(campaign: Campaign) -> None:
    commands = campaign.transfers(1)
    first = campaign.clients[0].call(commands.tobytes())
    reply = np.zeros(1, REPLY)
    reply["sequence"], reply["status"] = campaign.leader.machine.applied, 1
    campaign.clients[0].reply(first, reply.tobytes())
    found = campaign.check().found
    assert found.counts == {"lost": 1}
    assert "one was answered sequence 6, the journal has it not" in found.shown[0]


def test_an_answer_that_names_anothers_sequence_is_lost(campaign: Campaign) -> None:
    def one_before(replies: np.ndarray[Any, Any]) -> None:
        replies["sequence"] -= 1

    campaign.call(1, campaign.transfers(1), told=one_before)
    found = campaign.check().found
    assert found.count("lost") == 1
    assert any("where another command is" in line for line in found.shown)


def test_a_command_that_ran_twice_is_doubled(campaign: Campaign) -> None:
    commands = campaign.transfers(1)
    campaign.call(0, commands)
    # the window forgot it
    campaign.call(1, campaign.transfers(1))
    forgotten = campaign.transfers(PARAMETERS.window_capacity)
    for start in range(0, len(forgotten), 100):
        campaign.call(1, forgotten[start : start + 100])
    first = campaign.clients[0].call(commands.tobytes())
    campaign.clients[0].reply(first, campaign.leader.answer(commands).tobytes())
    found = campaign.check().found
    assert found.counts == {"doubled": 1}
    assert "one id ran at sequences 6 and " in found.shown[0]


def test_two_commands_with_one_answer_are_doubled(campaign: Campaign) -> None:
    commands = campaign.transfers(1)
    replies = campaign.call(0, commands)
    first = campaign.clients[1].call(commands.tobytes())
    campaign.clients[1].reply(first, replies.tobytes())
    found = campaign.check().found
    assert found.count("doubled") == 1
    assert any("answers two commands, of one and two" in line for line in found.shown)


def test_a_command_that_ran_before_what_was_answered_before_its_call_is_reordered(
    campaign: Campaign,
) -> None:
    later, earlier = campaign.transfers(1), campaign.transfers(1)
    first = campaign.clients[0].call(later.tobytes())
    answers = [campaign.leader.answer(earlier), campaign.leader.answer(later)]
    campaign.clients[0].reply(first, answers[1].tobytes())
    first = campaign.clients[1].call(earlier.tobytes())
    campaign.clients[1].reply(first, answers[0].tobytes())
    found = campaign.check().found
    assert found.counts == {"reordered": 1}
    assert "two's sequence 6 was called 1.000 ms after one was answered" in found.shown[0]


@pytest.mark.parametrize("field", ["amount", "credit_balance", "status", "entity"])
def test_an_answer_with_another_value_is_wrong(campaign: Campaign, field: str) -> None:
    def changed(replies: np.ndarray[Any, Any]) -> None:
        replies[field] += 1

    campaign.call(1, campaign.transfers(1), told=changed)
    found = campaign.check().found
    assert found.count("wrong") == 1
    assert f"two, sequence 6: {field} told" in found.shown[0]


def test_what_ran_and_nobody_called_is_invented(campaign: Campaign) -> None:
    campaign.leader.answer(campaign.transfers(1))
    found = campaign.check().found
    assert found.count("invented") == 1
    assert found.count("balances") == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("applied", 1, "has applied 1 of 10"),
        ("chain", bytes(32), "has another chain"),
        ("accounts", np.zeros((ACCOUNTS, 128), np.uint8), "has other accounts than the replay"),
        ("name", "stranger", "follower did not catch up"),
    ],
)
def test_a_node_that_differs_from_the_replay_is_named(
    campaign: Campaign, name: str, value: Any, said: str
) -> None:
    campaign.call(0, campaign.transfers(4))
    replayed = replay(campaign.journal, campaign.folder)
    position = replayed.position
    sound = NodeView("follower", 10, position.next_offset, position.chain, replayed.accounts())
    found = Found()
    check_nodes(["follower"], [sound], None, replayed, found)
    assert found.shown == ["nodes: the learner saved no snapshot"]
    found = Found()
    check_nodes(["follower"], [replace(sound, **{name: value})], None, replayed, found)
    assert any(said in line for line in found.shown)


def test_a_record_that_a_killed_client_left_half_written_is_cut_off(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    commands = campaign.transfers(2)
    first = campaign.clients[0].call(commands.tobytes())
    campaign.clients[0].close()
    with campaign.paths[0].open("ab") as file:
        file.write(b"\x01\0\0\0\x02\0\0\0")
    campaign.clients[0] = again = HistoryWriter(campaign.paths[0], campaign.clock)
    assert again.open_calls == {first: commands.tobytes()}
    assert again.next_index == first + 2
    again.reply(first, campaign.leader.answer(commands).tobytes())
    assert campaign.check().found.shown == []


def test_a_history_that_the_archiver_kept_well_has_nothing_found(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    assert campaign.check_history(entries[::-1]).shown == []


MOVED = 8
"""The place of a transfer's entry, and its sequence."""


def test_an_entry_that_is_missing_is_named(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    found = campaign.check_history(np.delete(campaign.entries(), MOVED))
    assert found.shown == [
        f"history: one was told otherwise of sequence {MOVED}",
        f"history: sequence {MOVED} has no entry",
    ]


def test_an_entry_that_is_there_twice_is_named(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    found = campaign.check_history(np.append(entries, entries[MOVED]))
    assert found.shown == [f"history: sequence {MOVED} has an entry twice"]


def test_an_entry_of_what_the_journal_does_not_have_is_named(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    stranger = entries[-1:].copy()
    stranger["sequence"] = 10**6
    found = campaign.check_history(np.append(entries, stranger))
    assert found.shown == ["history: sequence 1000000 has an entry and no command"]


def test_an_entry_of_a_refused_command_is_named(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    refused = entries[-1:].copy()
    refused["sequence"] = MOVED + 8
    assert not (entries["sequence"] == MOVED + 8).any()
    found = campaign.check_history(np.append(entries, refused))
    assert f"history: one was told otherwise of sequence {MOVED + 8}" in found.shown
    assert f"history: sequence {MOVED + 8} has a needless entry" in found.shown


@pytest.mark.parametrize(
    ("field", "told"),
    [
        *(("id_1", True), ("operation", True), ("debit_account", True), ("amount", True)),
        *(("credit_balance", True), ("hold", False), ("reference", False), ("code", False)),
    ],
)
def test_an_entry_that_was_changed_is_named(campaign: Campaign, field: str, told: bool) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    before = entries[field][MOVED]
    entries[field][MOVED] += 1
    found = campaign.check_history(entries)
    said = f"history: sequence {MOVED} has {field} {before + 1}, replayed {before}"
    assert said in found.shown
    assert (f"history: one was told otherwise of sequence {MOVED}" in found.shown) is told


def test_a_last_balance_that_is_not_the_leaders_is_named(campaign: Campaign) -> None:
    campaign.move_in_all_ways()
    entries = campaign.entries()
    of_third = np.flatnonzero(entries["credit_account"] == 3)[-1]
    entries["credit_balance"][of_third] = 77
    assert "history: account 3 ends with 77, has 3" in campaign.check_history(entries).shown


def read(campaign: Campaign, client: int, known: int, applied: int, posted: int) -> None:
    """Account 2 is read as of `applied`."""
    campaign.clients[client].read(np.array([(known, applied, 2, posted)], READ))


def test_reads_of_any_moment_that_hold_what_their_clients_knew_are_well(
    campaign: Campaign,
) -> None:
    campaign.call(0, campaign.transfers(10))
    for moved in range(11):
        read(campaign, moved % 2, 6, 6 + moved, moved)
    read(campaign, 0, 0, 0, 0)
    checked = campaign.check()
    assert (checked.found.shown, checked.reads) == ([], 12)


def test_a_read_that_lacks_what_its_client_was_answered_is_stale(campaign: Campaign) -> None:
    campaign.call(0, campaign.transfers(10))
    read(campaign, 1, 9, 8, 2)
    said = "stale: two read account 2 as of sequence 8, and had been answered below 9"
    assert campaign.check().found.shown == [said]


@pytest.mark.parametrize("applied", [8, 100])
def test_a_read_of_another_balance_than_the_replays_is_named(
    campaign: Campaign, applied: int
) -> None:
    campaign.call(0, campaign.transfers(10))
    read(campaign, 1, 6, applied, 3)
    found = campaign.check().found
    assert found.counts == {"misread": 1}
    assert f"two read 3 of account 2 as of sequence {applied}" in found.shown[0]
