"""Was any answer of a campaign lost, doubled, wrong or out of order? From the clients' histories.

What is compared: each client's own history, the journal's order, and what the kernel answers when
it replays the journal from its start.

1. lost       an answered command is in the journal, at the sequence that the answer named
2. wrong      the answer is what the replay gives for that sequence
3. doubled    no id was run at two sequences, no sequence is the answer to two commands
4. reordered  what was answered before another one was called has the lower sequence
5. unresolved every outcome is known in the end, by asking again with the same id
6. invented   nothing ran that no client called
7. balances   the sums of what clients were told are the balances of the replay
8. history    the archiver kept what clients were told was done, and nothing they were refused
9. stale, misread   reads: `reads.py`
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.record import COMMAND, REPLY, Operation, ReplyFlag, Status
from tests.campaign.archived import Archived, check_told
from tests.campaign.findings import Found
from tests.campaign.history import READ, Kind, read_history
from tests.campaign.reads import check_reads
from tests.campaign.replayed import Replayed

CHUNK_COMMANDS: Final = 65_536
"""Compared at a time."""

_DUPLICATE_BIT: Final = np.uint64(int(ReplyFlag.DUPLICATE) << 16)
_NOT_RUN: Final = (
    Status.COMMAND_ID_REUSED,
    Status.COMMAND_ID_TOO_OLD,
    Status.COMMAND_ID_IN_FUTURE,
    Status.CHAIN_ID_REUSED,
)
"""Answers that say nothing was run this time."""


@dataclass
class Checked:
    """The result: what was found, and what all clients together did."""

    found: Found
    commands: int
    answered: int
    unknown: int
    resolved: int
    not_run: int
    repeated: int
    reply_ns: npt.NDArray[np.int64]
    """When answers came, rising."""
    statuses: dict[str, int]
    reads: int = 0
    """Balances that clients read."""


@dataclass
class _Chunk:
    """Answers of one client that are compared together; all arrays have one row a command."""

    commands: npt.NDArray[Any]
    replies: npt.NDArray[Any]
    call_ns: npt.NDArray[np.int64]
    reply_ns: npt.NDArray[np.int64]


@dataclass
class _Client:
    """What one history tells beside its answers."""

    name: str
    commands: int = 0
    unknown: set[int] = field(default_factory=set)
    unknown_commands: int = 0
    resolved: int = 0
    not_run: int = 0
    repeated: int = 0
    open_calls: dict[int, tuple[int, npt.NDArray[Any]]] = field(default_factory=dict)
    reads: list[npt.NDArray[Any]] = field(default_factory=lambda: [np.empty(0, READ)])


def check_histories(
    paths: Iterable[Path], replayed: Replayed, archived: Archived | None = None
) -> Checked:
    """Compare all clients' histories with the journal, its replay, and what was archived."""
    found = Found()
    clients = [_Client(path.stem) for path in paths]
    books = _ClientBooks(replayed)
    parts: list[tuple[npt.NDArray[np.int64], ...]] = []
    statuses = np.zeros(1 << 16, np.int64)
    for number, (client, path) in enumerate(zip(clients, paths, strict=True)):
        for chunk, first_answers in _chunks(client, path):
            sequences = _check_answers(chunk, replayed, client.name, found)
            if first_answers:
                if archived is not None:
                    check_told(archived, chunk.commands, chunk.replies, client.name, found)
                books.take(chunk)
                statuses += np.bincount(chunk.replies["status"], minlength=len(statuses))
                owner = np.full(len(sequences), number, np.int64)
                parts.append((sequences, chunk.call_ns, chunk.reply_ns, owner))
        unresolved = sum(len(commands) for _, commands in client.open_calls.values())
        found.add("unresolved", unresolved, f"{client.name} was never told an outcome")
    nothing = np.empty(0, np.int64)
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)] or [nothing] * 4
    names = [client.name for client in clients]
    _check_order(columns, names, found)
    answered = np.sort(columns[0])
    _check_journal(replayed, answered, found)
    books.compare(found)
    reads = {client.name: np.concatenate(client.reads) for client in clients}
    check_reads(reads, replayed, found)
    return Checked(
        found,
        commands=sum(client.commands for client in clients),
        answered=len(answered),
        unknown=sum(client.unknown_commands for client in clients),
        resolved=sum(client.resolved for client in clients),
        not_run=sum(client.not_run for client in clients),
        repeated=sum(client.repeated for client in clients),
        reply_ns=np.sort(columns[2]),
        statuses={Status(int(n)).name: int(statuses[n]) for n in np.flatnonzero(statuses)},
        reads=sum(len(items) for items in reads.values()),
    )


def _chunks(client: _Client, path: Path) -> Iterator[tuple[_Chunk, bool]]:
    """(answers, whether they are the first to their commands), thousands at a time."""
    waiting: dict[bool, list[tuple[npt.NDArray[Any], npt.NDArray[Any], int, int]]]
    waiting = {True: [], False: []}
    sizes = {True: 0, False: 0}
    answered: dict[int, tuple[int, npt.NDArray[Any]]] = {}
    for record in read_history(path):
        if record.kind is Kind.CALL:
            client.commands += record.count
            client.open_calls[record.first] = (record.time_ns, record.items)
        elif record.kind is Kind.UNKNOWN:
            # not of a repeated one that was answered before
            if record.first in client.open_calls and record.first not in client.unknown:
                client.unknown.add(record.first)
                client.unknown_commands += record.count
        elif record.kind is Kind.NOT_RUN:
            client.not_run += record.count
        elif record.kind is Kind.AGAIN and record.first not in client.open_calls:
            client.repeated += record.count
        elif record.kind is Kind.READ:
            client.reads.append(record.items)
        elif record.kind is Kind.REPLY:
            is_first = record.first in client.open_calls
            if is_first:
                answered[record.first] = client.open_calls.pop(record.first)
                client.resolved += record.count if record.first in client.unknown else 0
            call_ns, commands = answered[record.first]
            waiting[is_first].append((commands, record.items, call_ns, record.time_ns))
            sizes[is_first] += record.count
            if sizes[is_first] >= CHUNK_COMMANDS:
                yield _joined(waiting[is_first]), is_first
                waiting[is_first], sizes[is_first] = [], 0
    for is_first, answers in waiting.items():
        if answers:
            yield _joined(answers), is_first


def _joined(answers: list[tuple[npt.NDArray[Any], npt.NDArray[Any], int, int]]) -> _Chunk:
    counts = [len(commands) for commands, _, _, _ in answers]
    return _Chunk(
        np.frombuffer(b"".join(commands.tobytes() for commands, _, _, _ in answers), COMMAND),
        np.frombuffer(b"".join(replies.tobytes() for _, replies, _, _ in answers), REPLY),
        np.repeat(np.array([call for _, _, call, _ in answers], np.int64), counts),
        np.repeat(np.array([reply for _, _, _, reply in answers], np.int64), counts),
    )


def _check_answers(
    chunk: _Chunk, replayed: Replayed, client: str, found: Found
) -> npt.NDArray[np.int64]:
    """1 and 2: each answer by itself. Returns the sequences that were answered."""
    sequences: npt.NDArray[np.int64] = chunk.replies["sequence"].astype(np.int64)
    known = sequences < len(replayed.commands)
    missing = np.flatnonzero(~known)
    if len(missing):
        said = f"{client} was answered sequence {sequences[missing[0]]}, the journal has it not"
        found.add("lost", len(missing), said)
    inside = sequences[known]
    sent = _words(chunk.commands[known], 8)
    in_journal = _words(replayed.commands[inside], 8)
    others = np.flatnonzero((sent != in_journal).any(axis=1))
    if len(others):
        said = f"{client} was answered sequence {inside[others[0]]}, where another command is"
        found.add("lost", len(others), said)
    told = _words(chunk.replies[known], 6)
    told[:, 5] &= ~_DUPLICATE_BIT
    expected = _words(replayed.replies[inside], 6)
    same_command = (sent == in_journal).all(axis=1)
    wrong = np.flatnonzero((told != expected).any(axis=1) & same_command)
    if len(wrong):
        index = wrong[0]
        said = _difference(chunk.replies[known][index], replayed.replies[inside[index]])
        found.add("wrong", len(wrong), f"{client}, sequence {inside[index]}: {said}")
    return sequences


def _words(records: npt.NDArray[Any], count: int) -> npt.NDArray[np.uint64]:
    copied = np.frombuffer(bytearray(np.ascontiguousarray(records).tobytes()), np.uint64)
    return copied.reshape(-1, count)


def _difference(told: Any, expected: Any) -> str:
    names = [name for name in told.dtype.names if told[name] != expected[name]]
    return ", ".join(f"{name} told {told[name]}, replayed {expected[name]}" for name in names)


def _check_order(columns: list[npt.NDArray[np.int64]], names: list[str], found: Found) -> None:
    """3 and 4, over all clients: one command a sequence; real time is kept."""
    order = np.argsort(columns[0], kind="stable")
    sequences, call_ns, reply_ns, owners = (column[order] for column in columns)
    twice = np.flatnonzero(sequences[1:] == sequences[:-1])
    if len(twice):
        pair = names[owners[twice[0]]], names[owners[twice[0] + 1]]
        said = f"sequence {sequences[twice[0]]} answers two commands, of {' and '.join(pair)}"
        found.add("doubled", len(twice), said)
    # of all that come later in the journal, the one that was answered first
    earliest = np.minimum.accumulate(reply_ns[::-1])[::-1]
    late = np.flatnonzero(earliest[1:] < call_ns[:-1])
    if len(late):
        index = int(late[0])
        later = index + 1 + int(np.argmin(reply_ns[index + 1 :]))
        gap_ms = (call_ns[index] - reply_ns[later]) / 1e6
        said = (
            f"{names[owners[index]]}'s sequence {sequences[index]} was called {gap_ms:.3f} ms "
            f"after {names[owners[later]]} was answered sequence {sequences[later]}"
        )
        found.add("reordered", len(late), said)


def _check_journal(replayed: Replayed, answered: npt.NDArray[np.int64], found: Found) -> None:
    """3 and 6, from the journal's side: each id ran once, and nothing ran that nobody called."""
    replies, commands = replayed.replies, replayed.commands
    ran = replies["sequence"] == np.arange(len(replies), dtype=np.uint64)
    ran &= (replies["flags"] & ReplyFlag.DUPLICATE) == 0
    ran &= ~np.isin(replies["status"], _NOT_RUN)
    ran &= commands["operation"] != Operation.EXPIRE
    sequences = np.flatnonzero(ran)
    ids = np.empty(len(sequences), np.dtype([("high", "<u8"), ("low", "<u8")]))
    ids["high"], ids["low"] = commands["id_0"][sequences], commands["id_1"][sequences]
    order = np.lexsort((ids["low"], ids["high"]))
    ids = ids[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        pair = sorted(sequences[order[twice[0] : twice[0] + 2]])
        found.add("doubled", len(twice), f"one id ran at sequences {pair[0]} and {pair[1]}")
    places = np.searchsorted(answered, sequences)
    places[places == len(answered)] = 0
    strangers = sequences[answered[places] != sequences] if len(answered) else sequences
    if len(strangers) and not found.count("unresolved"):
        said = f"sequence {strangers[0]} ran and answers no client's call"
        found.add("invented", len(strangers), said)


class _ClientBooks:
    """7: balances as the clients know them, from nothing but what they sent and were told."""

    def __init__(self, replayed: Replayed) -> None:
        self._state = replayed.state
        self._posted = np.zeros(self._state.accounts + 1, np.int64)
        self._sides = np.zeros((self._state.next_hold, 2), np.uint64)
        self._captures: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []

    def take(self, chunk: _Chunk) -> None:
        """Add up accepted commands."""
        accepted = chunk.replies["status"] == Status.OK
        operations = chunk.commands["operation"]
        moved = accepted & np.isin(
            operations, (Operation.TRANSFER, Operation.DEPOSIT, Operation.WITHDRAW)
        )
        self._move(
            chunk.commands["debit_account"][moved],
            chunk.commands["credit_account"][moved],
            chunk.replies["amount"][moved],
        )
        held = accepted & (operations == Operation.HOLD)
        holds = chunk.replies["entity"][held]
        inside = holds < len(self._sides)
        self._sides[holds[inside], 0] = chunk.commands["debit_account"][held][inside]
        self._sides[holds[inside], 1] = chunk.commands["credit_account"][held][inside]
        captured = accepted & (operations == Operation.CAPTURE)
        self._captures.append(
            (chunk.replies["entity"][captured], chunk.replies["amount"][captured])
        )

    def _move(self, debit: Any, credit: Any, amount: Any) -> None:
        for accounts, amounts in ((debit, -amount), (credit, amount)):
            inside = accounts < len(self._posted)
            np.add.at(self._posted, accounts[inside].astype(np.int64), amounts[inside])

    def compare(self, found: Found) -> None:
        """The replay's balances, and that they sum to zero with the external account's."""
        for holds, amounts in self._captures:
            sides = self._sides[holds]
            self._move(sides[:, 0], sides[:, 1], amounts)
        rows = self._state.books.accounts[1 : self._state.accounts + 1]
        wrong = np.flatnonzero(rows["posted"] != self._posted[1:])
        if len(wrong) and not found.count("unresolved"):
            account = int(wrong[0]) + 1
            said = (
                f"account {account} has {rows['posted'][wrong[0]]}, its clients were told of "
                f"{self._posted[account]}"
            )
            found.add("balances", len(wrong), said)
        for number in self._state.asset_numbers():
            asset: Any = self._state.asset(number)
            off = int(asset["external"]) + int(rows["posted"][rows["asset"] == number].sum())
            found.add("balances", int(off != 0), f"asset {number} sums to {off}, not to zero")
