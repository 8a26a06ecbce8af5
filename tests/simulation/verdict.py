"""What must hold at the end of a scenario, from the clients' histories and the journal's order.

The journal's counted batches go through the oracle (`tests/reference.py`); everything else is
compared with that. Nothing here uses the roles' own reader rule or kernel.
"""

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from client_core.records import COMMAND_BYTES, NO_ID, REPLY_BYTES
from cluster_core.batch import LedgerParameters
from tests.reference import COMMAND, DUPLICATE, REPLY, ReferenceLedger, Reply, Status
from tests.simulation.clients import Call, Clients, Outcome, Read
from tests.simulation.history import JournalHistory

_NOT_EXECUTED: Final = frozenset(
    {Status.COMMAND_ID_IN_FUTURE, Status.COMMAND_ID_TOO_OLD, Status.CHAIN_ID_REUSED}
)
_FLAGS: Final = struct.Struct("<H")


@dataclass
class Oracle:
    """The ledger as the journal's order makes it: commands and replies by sequence."""

    commands: list[bytes] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    balances: list[tuple[int, dict[int, tuple[int, int]]]] = field(default_factory=list)
    """(applied, {account: (posted, held)}) after each batch."""
    digests: dict[int, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run_oracle(history: JournalHistory, parameters: LedgerParameters) -> Oracle:
    """Apply every counted batch."""
    ledger = ReferenceLedger(
        parameters.window_capacity,
        parameters.id_ahead_ns,
        parameters.account_capacity,
        parameters.hold_capacity,
    )
    oracle = Oracle()
    for batch in history.batches:
        if batch.first_sequence != len(oracle.commands):
            oracle.wrong.append(f"a batch at {batch.first_sequence} leaves a gap")
        packed = batch.commands
        oracle.replies += map(
            Reply._make, map(REPLY.unpack, ledger.apply(packed, batch.timestamp_ns))
        )
        oracle.commands += [
            packed[at : at + COMMAND_BYTES] for at in range(0, len(packed), COMMAND_BYTES)
        ]
        oracle.balances.append(
            (
                len(oracle.commands),
                {account.account_id: (account.posted, account.held) for account in ledger.accounts},
            )
        )
    for asset in ledger.assets.values():
        posted = sum(a.posted for a in ledger.accounts if a.asset == asset.number)
        if posted + asset.external:
            oracle.wrong.append(f"asset {asset.number} does not sum to zero")
    oracle.digests[len(oracle.commands)] = ledger.digest()
    return oracle


def judge_calls(clients: Clients, oracle: Oracle) -> list[str]:
    """What is wrong with the clients' histories; nothing, if all is well."""
    wrong = list(oracle.wrong)
    executed = _executed(oracle, wrong)
    for call in clients.calls:
        if call.outcome is Outcome.ANSWERED:
            _judge_answer(call, oracle, wrong)
        elif call.outcome is Outcome.NOT_RUN:
            for at in range(0, len(call.commands), COMMAND_BYTES):
                key = _key(call.commands[at : at + COMMAND_BYTES])
                if key in executed:
                    wrong.append(f"{call.client}: told that it was not run, and it was: {key!r}")
        elif call.outcome is Outcome.RUNNING:
            wrong.append(f"{call.client}: a call never ended")
    _judge_order(clients.calls, wrong)
    _judge_reads(clients, oracle, wrong)
    return wrong


def _executed(oracle: Oracle, wrong: list[str]) -> dict[bytes, int]:
    """Each command that was executed, by its key; more than once is wrong."""
    executed: dict[bytes, int] = {}
    for sequence, (command, reply) in enumerate(zip(oracle.commands, oracle.replies, strict=True)):
        if reply.flags & DUPLICATE or reply.status in _NOT_EXECUTED:
            continue
        key = _key(command)
        if key == b"":
            continue
        if key in executed:
            wrong.append(f"a command was executed twice, at {executed[key]} and {sequence}")
        executed[key] = sequence
    return executed


def _key(command: bytes) -> bytes:
    """What tells a client's command: its id, or all of it; nothing for the leader's own."""
    if command[:16] != NO_ID:
        return command[:16]
    return b"" if COMMAND.unpack(command)[6] == 9 else command


def _judge_answer(call: Call, oracle: Oracle, wrong: list[str]) -> None:
    if len(call.replies) != call.count * REPLY_BYTES:
        wrong.append(f"{call.client}: {len(call.replies)} bytes for {call.count} commands")
        return
    for index in range(call.count):
        packed = call.replies[index * REPLY_BYTES : (index + 1) * REPLY_BYTES]
        command = call.commands[index * COMMAND_BYTES : (index + 1) * COMMAND_BYTES]
        reply = Reply._make(REPLY.unpack(packed))
        if reply.sequence >= len(oracle.commands):
            wrong.append(f"{call.client}: the answered command {reply.sequence} was lost")
        elif oracle.commands[reply.sequence] != command:
            wrong.append(f"{call.client}: sequence {reply.sequence} holds another command")
        elif oracle.replies[reply.sequence] != reply._replace(flags=reply.flags & ~DUPLICATE):
            expected = oracle.replies[reply.sequence]
            wrong.append(f"{call.client}: answered {reply}, the oracle says {expected}")


def _judge_order(calls: list[Call], wrong: list[str]) -> None:
    """Whatever was answered before a call began lies before it in the journal."""
    answered = [call for call in calls if call.outcome is Outcome.ANSWERED]
    by_end = sorted(answered, key=lambda call: call.ended_ns)
    newest, place = -1, 0
    for call in sorted(answered, key=lambda call: call.begun_ns):
        while place < len(by_end) and by_end[place].ended_ns < call.begun_ns:
            newest = max(newest, *by_end[place].sequences)
            place += 1
        first = min(call.sequences)
        if first <= newest:
            wrong.append(f"{call.client}: {first} was called after {newest} had been answered")


def _judge_reads(clients: Clients, oracle: Oracle, wrong: list[str]) -> None:
    answered = sorted(
        (call for call in clients.calls if call.outcome is Outcome.ANSWERED),
        key=lambda call: call.ended_ns,
    )
    for read in clients.reads:
        seen = [
            call
            for call in answered
            if call.ended_ns < read.begun_ns and (read.linearizable or call.client == read.client)
        ]
        newest = max((max(call.sequences) for call in seen), default=-1)
        if read.applied <= newest:
            wrong.append(f"{read.client}: a read as of {read.applied} after {newest} was answered")
        _judge_balance(read, oracle, wrong)


def _judge_balance(read: Read, oracle: Oracle, wrong: list[str]) -> None:
    """Roles change threads where they wait, never in a batch: a read is as of a batch's end."""
    place = bisect_left(oracle.balances, read.applied, key=lambda entry: entry[0])
    if place == len(oracle.balances) or oracle.balances[place][0] != read.applied:
        wrong.append(f"{read.client}: a read as of {read.applied}, where no batch ends")
        return
    expected = oracle.balances[place][1].get(read.account)
    if expected != (read.posted, read.held):
        wrong.append(
            f"{read.client}: account {read.account} at {read.applied} is {expected}, "
            f"read as {(read.posted, read.held)}"
        )
