# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""One command: which operation it is, and its reply before anything is known."""

from typing import Any, Final

import numpy as np

from cluster_core.accounts import (
    close_account,
    create_account,
    register_asset,
    set_limits,
    set_locks,
)
from cluster_core.books import WATCHING, Books
from cluster_core.changes import note_changes
from cluster_core.compiled import called, inlined
from cluster_core.holds import NO_SLOT, find_hold
from cluster_core.postings import (
    capture,
    deposit,
    expire,
    hold,
    release,
    transfer,
    withdraw,
)
from cluster_core.record import Operation, Status

_OK: Final = int(Status.OK)
_CREATE_ACCOUNT: Final = int(Operation.CREATE_ACCOUNT)
_DEPOSIT: Final = int(Operation.DEPOSIT)
_WITHDRAW: Final = int(Operation.WITHDRAW)
_TRANSFER: Final = int(Operation.TRANSFER)
_REGISTER_ASSET: Final = int(Operation.REGISTER_ASSET)
_HOLD: Final = int(Operation.HOLD)
_CAPTURE: Final = int(Operation.CAPTURE)
_RELEASE: Final = int(Operation.RELEASE)
_EXPIRE: Final = int(Operation.EXPIRE)
_LOCK: Final = int(Operation.LOCK)
_UNLOCK: Final = int(Operation.UNLOCK)
_CLOSE: Final = int(Operation.CLOSE)


@inlined
def begin_reply(reply: Any, sequence: int) -> None:
    """A reply without a status: what a refusal leaves as it is."""
    reply.sequence = sequence
    reply.entity = 0
    reply.amount = 0
    reply.debit_balance = 0
    reply.credit_balance = 0
    reply.status = 0
    reply["flags"] = 0
    reply.reserved = 0


@inlined
def execute(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    """Check one command's values, then write. Returns its status and fills the reply."""
    if books.marks[WATCHING] != np.uint64(0):
        return _execute_watched(command, sequence, timestamp_ns, reply, books)
    return _execute(command, sequence, timestamp_ns, reply, books)


@called
def _execute_watched(
    command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books
) -> int:
    """`execute`, and note the accounts as the command left them."""
    operation = np.int64(command.operation)
    debit_id, credit_id = np.int64(command.debit_account), np.int64(command.credit_account)
    if _CAPTURE <= operation <= _EXPIRE:
        slot = find_hold(command.reference, books)
        if slot != NO_SLOT:
            debit_id = np.int64(books.holds[slot].debit_account)
            credit_id = np.int64(books.holds[slot].credit_account)
    status = _execute(command, sequence, timestamp_ns, reply, books)
    if status == _OK:
        if operation == _CREATE_ACCOUNT:
            debit_id = np.int64(reply.entity)
        note_changes(debit_id, credit_id, sequence, books)
    return status


@inlined
def _execute(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    operation = np.int64(command.operation)
    if operation == _TRANSFER:
        return transfer(command, sequence, reply, books)
    if operation == _DEPOSIT:
        return deposit(command, sequence, reply, books)
    if operation == _WITHDRAW:
        return withdraw(command, sequence, reply, books)
    return _execute_rarer(operation, command, sequence, timestamp_ns, reply, books)


@called
def _execute_rarer(
    operation: int, command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books
) -> int:
    """The other operations, apart from those that a hot loop should hold."""
    if operation == _HOLD:
        return hold(command, sequence, timestamp_ns, reply, books)
    if operation == _CAPTURE:
        return capture(command, sequence, timestamp_ns, reply, books)
    if operation == _RELEASE:
        return release(command, sequence, reply, books)
    if operation == _EXPIRE:
        return expire(command, sequence, timestamp_ns, reply, books)
    if operation == _CREATE_ACCOUNT:
        return create_account(command, sequence, timestamp_ns, reply, books)
    if operation == _REGISTER_ASSET:
        return register_asset(command, books)
    if operation in (_LOCK, _UNLOCK):
        return set_locks(command, sequence, reply, books, operation == _LOCK)
    if operation == _CLOSE:
        return close_account(command, sequence, books)
    return set_limits(command, sequence, reply, books)
