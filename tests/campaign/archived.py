"""The history that the archiver kept of a campaign: is it the journal's, and the clients'?

It is read once, in bulk, by binary COPY, and laid down by sequence beside the replay's files.

1. missing   each command that was done, by the replay, has an entry
2. doubled   no sequence has two entries
3. needless  nothing has one that was refused, is a duplicate, or that the journal doesn't have
4. changed   id, operation, status, accounts, amount, balances, hold, reference and code are the
             replay's
5. balances  the balances of each account's last entry are the replay's, as the leader's are

`checks.py` compares what each client was told with the same entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg

from cluster_core.entries import ENTRY
from cluster_core.record import Operation, ReplyFlag, Status
from tests.campaign.findings import Found
from tests.campaign.replayed import Replayed

CHUNK_COMMANDS: Final = 1 << 19
"""Compared at a time, and fetched by one COPY."""

HISTORY: Final = "history"
"""The kind of what is found here."""

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
_WIDTHS: Final = {
    "sequence": ">i8",
    "command_id": "V16",
    "debit_account": ">i8",
    "credit_account": ">i8",
    "amount": ">i8",
    "debit_balance": ">i8",
    "credit_balance": ">i8",
    "reference": ">i8",
    "hold": ">i8",
    "code": ">i8",
    "operation": ">i2",
    "status": ">i2",
}
_ROW: Final = np.dtype(
    [
        ("fields", ">i2"),
        *(
            part
            for name, kind in _WIDTHS.items()
            for part in ((f"{name}_bytes", ">i4"), (name, kind))
        ),
    ]
)
"""A row of binary COPY: none of the columns can be NULL, and all have one width."""

_COMPARED: Final = (
    *("id_0", "id_1", "operation", "status", "debit_account", "credit_account", "amount"),
    *("debit_balance", "credit_balance", "hold", "reference", "code"),
)
_OF_HOLDS: Final = (Operation.CAPTURE, Operation.RELEASE, Operation.EXPIRE)

_NAMED_BY_SENDER: Final = (
    *(Operation.TRANSFER, Operation.DEPOSIT, Operation.WITHDRAW, Operation.HOLD),
)


@dataclass(frozen=True)
class Archived:
    """All entries, ENTRY [commands] by sequence, zeros where there is none.

    `twice` are sequences that had more than one, `beyond` those the journal doesn't have.
    """

    entries: npt.NDArray[Any]
    twice: list[int]
    beyond: list[int]


def fetch(conninfo: str, folder: Path, commands: int) -> Archived:
    """All entries of a PostgreSQL history, into a file in `folder`. Raises psycopg.Error."""
    archived = _empty(folder, commands)
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        newest = cursor.execute("SELECT coalesce(max(sequence), -1) FROM entries").fetchone()
        end = max(newest[0] + 1 if newest else 0, commands)
        for first in range(0, end, CHUNK_COMMANDS):
            query = (
                f"COPY (SELECT {', '.join(_WIDTHS)} FROM entries WHERE sequence >= {first} "
                f"AND sequence < {first + CHUNK_COMMANDS}) TO STDOUT (FORMAT BINARY)"
            )
            with cursor.copy(query) as copy:
                lay_down(archived, _rows(b"".join(copy)))
    return archived


def _rows(copied: bytes) -> npt.NDArray[Any]:
    """ENTRY [rows] of one binary COPY. Raises ValueError for any other shape."""
    body = memoryview(copied)[len(_COPY_HEADER) : -len(_COPY_END)]
    if not copied.startswith(_COPY_HEADER) or not copied.endswith(_COPY_END):
        raise ValueError("this is no binary COPY")
    rows = np.frombuffer(body, _ROW)
    if (rows["fields"] != len(_WIDTHS)).any():
        raise ValueError("the rows of this COPY have other widths")
    entries = np.zeros(len(rows), ENTRY)
    ids = np.ascontiguousarray(rows["command_id"]).view("<u8").reshape(-1, 2)
    entries["id_0"], entries["id_1"] = ids[:, 0], ids[:, 1]
    for name in _WIDTHS:
        if name != "command_id":
            # two's complement stands for what is above 2^63 - 1
            entries[name] = rows[name].astype(np.int64)
    return entries


def laid_down(entries: npt.NDArray[Any], folder: Path, commands: int) -> Archived:
    """Entries that come in any order, by sequence."""
    archived = _empty(folder, commands)
    lay_down(archived, entries)
    return archived


def _empty(folder: Path, commands: int) -> Archived:
    path = folder / "entries.bin"
    path.write_bytes(b"")
    if not commands:
        return Archived(np.zeros(0, ENTRY), [], [])
    return Archived(np.memmap(path, ENTRY, "w+", shape=(commands,)), [], [])


def lay_down(archived: Archived, entries: npt.NDArray[Any]) -> None:
    """Put entries at their sequences, and note those that can't be put there."""
    sequences = entries["sequence"].astype(np.int64)
    inside = sequences < len(archived.entries)
    archived.beyond.extend(sequences[~inside].tolist())
    entries, sequences = entries[inside], sequences[inside]
    places, firsts = np.unique(sequences, return_index=True)
    taken = archived.entries["status"][places] != 0
    again = np.delete(sequences, firsts)
    archived.twice.extend([*places[taken].tolist(), *again.tolist()])
    archived.entries[places[~taken]] = entries[firsts[~taken]]


def check_archived(archived: Archived, replayed: Replayed, found: Found) -> None:
    """1 to 5, by the replay."""
    for kind, sequences in (("twice", archived.twice), ("and no command", archived.beyond)):
        if sequences:
            found.add(HISTORY, len(sequences), f"sequence {min(sequences)} has an entry {kind}")
    sides = np.zeros((replayed.state.next_hold, 2), np.uint64)
    last = np.zeros(replayed.state.accounts + 1, np.int64)
    for first, expected in expected_entries(replayed, sides):
        entries = archived.entries[first : first + len(expected)]
        done = expected["status"] != 0
        there = entries["status"] != 0
        for which, said in ((done & ~there, "no entry"), (there & ~done, "a needless entry")):
            at = np.flatnonzero(which)
            if len(at):
                found.add(HISTORY, len(at), f"sequence {first + at[0]} has {said}")
        _check_fields(first, entries, expected, done & there, found)
        _learn_balances(last, entries[there])
    posted = replayed.state.books.accounts["posted"][1 : len(last)]
    wrong = np.flatnonzero(posted != last[1:])
    if len(wrong):
        said = f"account {wrong[0] + 1} ends with {last[wrong[0] + 1]}, has {posted[wrong[0]]}"
        found.add(HISTORY, len(wrong), said)


def check_told(archived: Archived, commands: Any, replies: Any, client: str, found: Found) -> None:
    """What a client was told was done is what history has of it; of what was refused it has none.

    `commands` COMMAND [n] as they were sent, `replies` REPLY [n] as they were answered.
    """
    known = replies["sequence"] < len(archived.entries)
    commands, replies = commands[known], replies[known]
    entries = archived.entries[replies["sequence"].astype(np.int64)]
    done = replies["status"] == Status.OK
    differ = entries["status"] != np.where(done, replies["status"], 0)
    for name in ("id_0", "id_1", "operation"):
        differ |= done & (entries[name] != commands[name])
    for name in ("amount", "debit_balance", "credit_balance"):
        differ |= done & (entries[name] != replies[name])
    operations = commands["operation"]
    as_sent = done & np.isin(operations, _NAMED_BY_SENDER)
    for name in ("debit_account", "credit_account"):
        differ |= as_sent & (entries[name] != commands[name])
    differ |= done & (operations == Operation.HOLD) & (entries["hold"] != replies["entity"])
    differ |= done & np.isin(operations, _OF_HOLDS) & (entries["hold"] != commands["reference"])
    at = np.flatnonzero(differ)
    if len(at):
        said = f"{client} was told otherwise of sequence {replies['sequence'][at[0]]}"
        found.add(HISTORY, len(at), said)


def _check_fields(
    first: int, entries: Any, expected: npt.NDArray[Any], both: npt.NDArray[np.bool_], found: Found
) -> None:
    for name in _COMPARED:
        at = np.flatnonzero((entries[name] != expected[name]) & both)
        if len(at):
            said = f"{name} {entries[name][at[0]]}, replayed {expected[name][at[0]]}"
            found.add(HISTORY, len(at), f"sequence {first + at[0]} has {said}")


def expected_entries(
    replayed: Replayed, sides: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(first sequence, ENTRY [some]) of all commands; those without an entry have status 0."""
    for first in range(0, len(replayed.commands), CHUNK_COMMANDS):
        commands = replayed.commands[first : first + CHUNK_COMMANDS]
        replies = replayed.replies[first : first + CHUNK_COMMANDS]
        done = replies["status"] == Status.OK
        done &= (replies["flags"] & ReplyFlag.DUPLICATE) == 0
        entries = np.zeros(len(commands), ENTRY)
        for name in ("id_0", "id_1", "operation", "reference", "code"):
            entries[name] = commands[name]
        for name in ("debit_account", "credit_account"):
            entries[name] = commands[name]
        for name in ("amount", "debit_balance", "credit_balance", "status"):
            entries[name] = replies[name]
        operations = commands["operation"]
        opened = done & (operations == Operation.CREATE_ACCOUNT)
        entries["debit_account"][opened] = replies["entity"][opened]
        held = done & (operations == Operation.HOLD)
        holds = replies["entity"][held]
        sides[holds, 0] = commands["debit_account"][held]
        sides[holds, 1] = commands["credit_account"][held]
        entries["hold"][held] = holds
        closed = done & np.isin(operations, _OF_HOLDS)
        holds = commands["reference"][closed]
        entries["hold"][closed] = holds
        entries["debit_account"][closed] = sides[holds, 0]
        entries["credit_account"][closed] = sides[holds, 1]
        entries["status"][~done] = 0
        yield first, entries


def _learn_balances(last: npt.NDArray[np.int64], entries: Any) -> None:
    """What the accounts have after these entries, which rise by sequence."""
    accounts, balances = balances_after(entries)
    inside = accounts < len(last)
    last[accounts[inside]] = balances[inside]


def balances_after(entries: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(accounts, their posted balances), both [2 * entries]: debit and credit side in turn."""
    accounts = np.stack((entries["debit_account"], entries["credit_account"]), axis=1)
    balances = np.stack((entries["debit_balance"], entries["credit_balance"]), axis=1)
    return accounts.reshape(-1).astype(np.int64), balances.reshape(-1)
