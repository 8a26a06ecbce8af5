# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""What history keeps of each command: its ENTRY, made of command, reply and books.

ENTRY, 104 bytes (little-endian)
 0 sequence       u64      48 amount         i64  moved      88 asset      u32
 8 timestamp_ns   i64      56 debit_balance  i64  after      92 code       u32
16 command_id     16       64 credit_balance i64  after      96 operation  u16
32 debit_account  u64      72 reference      u64  as sent    98 status     u16
40 credit_account u64      80 hold           u64            100 flags      u16  the command's
                                                            102 reserved   u16

What CAPTURE, RELEASE and EXPIRE are about stands in their hold, which they may close: a hold from
an earlier batch is looked up before the batch is applied, one of the same batch is found by the
HOLD that opened it. A new account is in `debit_account`, like the account of every operation that
has one only.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.books import BOOKS, Books
from cluster_core.compiled import array_type, kernel, records
from cluster_core.holds import NO_SLOT, find_hold
from cluster_core.record import (
    COMMAND,
    MAX_MESSAGE_COMMANDS,
    REPLY,
    Operation,
    ReplyFlag,
    Status,
)
from cluster_core.state_machine import StateMachine

ENTRY: Final = np.dtype(
    [
        ("sequence", "<u8"),
        ("timestamp_ns", "<i8"),
        ("id_0", "<u8"),
        ("id_1", "<u8"),
        ("debit_account", "<u8"),
        ("credit_account", "<u8"),
        ("amount", "<i8"),
        ("debit_balance", "<i8"),
        ("credit_balance", "<i8"),
        ("reference", "<u8"),
        ("hold", "<u8"),
        ("asset", "<u4"),
        ("code", "<u4"),
        ("operation", "<u2"),
        ("status", "<u2"),
        ("flags", "<u2"),
        ("reserved", "<u2"),
    ]
)
"""`id_0` and `id_1` are the command id's first and last 8 bytes, each read as little-endian."""

ENTRY_BYTES: Final = 104

if ENTRY.itemsize != ENTRY_BYTES:
    raise ImportError(f"ENTRY is {ENTRY.itemsize} bytes, the format says {ENTRY_BYTES}")

_OK: Final = int(Status.OK)
_CREATE_ACCOUNT: Final = int(Operation.CREATE_ACCOUNT)
_HOLD: Final = int(Operation.HOLD)
_CAPTURE: Final = int(Operation.CAPTURE)
_EXPIRE: Final = int(Operation.EXPIRE)
_DUPLICATE: Final = int(ReplyFlag.DUPLICATE)
_U0: Final = np.uint64(0)


@kernel(types.void(array_type(COMMAND, readonly=True), array_type(np.uint64, 2), BOOKS))
def _look_up_holds(commands: npt.NDArray[Any], sides: npt.NDArray[np.uint64], books: Books) -> None:
    """Fill `sides` u64 [>= n, 2] with the accounts of the holds that commands [n] name, or 0."""
    for row in range(commands.shape[0]):
        sides[row, 0] = _U0
        sides[row, 1] = _U0
        if _CAPTURE <= np.int64(commands[row].operation) <= _EXPIRE:
            slot = find_hold(commands[row].reference, books)
            if slot != NO_SLOT:
                sides[row, 0] = books.holds[slot].debit_account
                sides[row, 1] = books.holds[slot].credit_account


@kernel(
    types.int64(
        array_type(COMMAND, readonly=True),
        array_type(REPLY),
        types.int64,
        types.int64,
        types.int64,
        types.boolean,
        array_type(np.uint64, 2),
        array_type(np.int64),
        BOOKS,
        array_type(ENTRY),
    )
)
def _make_entries(
    commands: npt.NDArray[Any],
    replies: npt.NDArray[Any],
    first_sequence: int,
    timestamp_ns: int,
    first_hold: int,
    refused: bool,
    sides: npt.NDArray[np.uint64],
    opened: npt.NDArray[np.int64],
    books: Books,
    entries: npt.NDArray[Any],
) -> int:
    """Fill `entries` from a batch that was just applied; returns how many there are.

    `replies` is the ring that it was answered into, `first_hold` the id that its first HOLD got.
    `opened` i64 [>= n] is scratch: the row of each hold that the batch opened.
    """
    mask, count, holds = replies.shape[0] - 1, 0, 0
    accounts = np.uint64(books.ledger[0].accounts)
    for row in range(commands.shape[0]):
        command, reply = commands[row], replies[(first_sequence + row) & mask]
        operation, status = np.int64(command.operation), np.int64(reply.status)
        if np.int64(reply["flags"]) & _DUPLICATE != 0:
            continue  # the first execution has the entry
        done = status == _OK
        if done and operation == _HOLD:
            # ids rise by one with each HOLD that stands
            opened[holds] = row
            holds += 1
        if not (done or refused):
            continue
        debit, credit, hold = command.debit_account, command.credit_account, reply.entity
        if operation == _CREATE_ACCOUNT:
            debit = reply.entity
            hold = _U0
        elif _CAPTURE <= operation <= _EXPIRE:
            hold = command.reference
            debit, credit = sides[row, 0], sides[row, 1]
            place = np.int64(hold) - first_hold
            if debit == _U0 and 0 <= place < holds:
                debit = commands[opened[place]].debit_account
                credit = commands[opened[place]].credit_account
        entry = entries[count]
        count += 1
        entry.sequence = first_sequence + row
        entry.timestamp_ns = timestamp_ns
        entry.id_0 = command.id_0
        entry.id_1 = command.id_1
        entry.debit_account = debit
        entry.credit_account = credit
        entry.amount = reply.amount
        entry.debit_balance = reply.debit_balance
        entry.credit_balance = reply.credit_balance
        entry.reference = command.reference
        entry.hold = hold
        entry.asset = command.asset
        if _U0 < debit <= accounts:
            entry.asset = books.accounts[np.int64(debit)].asset
        elif _U0 < credit <= accounts:
            entry.asset = books.accounts[np.int64(credit)].asset
        entry.code = command.code
        entry.operation = command.operation
        entry.status = reply.status
        entry["flags"] = command["flags"]
        entry.reserved = 0
    return count


class EntryRecorder:
    """Makes the entries of every batch that a replica applies, and keeps them until they are taken.

    Set it as `Replica.recorder`. Commands below `from_sequence` are passed over; refused ones, too,
    unless `refused`.
    """

    def __init__(self, *, refused: bool, from_sequence: int = 0) -> None:
        self.rows = 0
        """Entries that wait to be taken."""
        self.from_sequence = from_sequence
        self._refused = refused
        self._sides = np.zeros((MAX_MESSAGE_COMMANDS, 2), np.uint64)
        self._opened = np.zeros(MAX_MESSAGE_COMMANDS, np.int64)
        self._scratch = records(np.zeros(MAX_MESSAGE_COMMANDS, ENTRY))
        self._first_hold = 0
        self._entries: list[npt.NDArray[Any]] = []
        self._batches: list[tuple[int, int]] = []

    def before(self, state: StateMachine, commands: npt.NDArray[Any]) -> None:
        """Look up what the batch may close. Before it is applied."""
        self._first_hold = state.next_hold
        _look_up_holds(records(commands), self._sides, state.books)

    def after(
        self,
        state: StateMachine,
        commands: npt.NDArray[Any],
        replies: npt.NDArray[Any],
        timestamp_ns: int,
    ) -> None:
        """Make the batch's entries. After it was applied, with the ring that it was answered in."""
        first = state.applied - len(commands)
        if first < self.from_sequence:
            return
        count = _make_entries(
            records(commands),
            records(replies),
            first,
            timestamp_ns,
            self._first_hold,
            self._refused,
            self._sides,
            self._opened,
            state.books,
            self._scratch,
        )
        self._batches.append((first, timestamp_ns))
        self._entries.append(self._scratch.view(np.ndarray)[:count].copy())
        self.rows += count

    def take(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """(ENTRY [n], i64 [batches, 2]: first sequence and ledger time) since the last take."""
        entries = np.concatenate(self._entries) if self._entries else np.zeros(0, ENTRY)
        batches = np.array(self._batches, np.int64).reshape(-1, 2)
        self._entries, self._batches, self.rows = [], [], 0
        return entries, batches

    @property
    def batches(self) -> int:
        """Batches that wait to be taken."""
        return len(self._batches)
