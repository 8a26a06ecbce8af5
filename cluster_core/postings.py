# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The operations that move or reserve money: each checks in the order of `Status`, then writes.

Compiled into the kernel. All arithmetic is int64: unsigned fields are converted as they are read,
so an account id beyond 2^63 - 1 is negative here, and unknown. Sums are compared with what is
left up to 2^63 - 1, so no check can overflow itself; only what an account may spend, up to
2^64 - 2, is a u64.
"""

from typing import Any, Final

import numpy as np

from cluster_core.accounts import changed
from cluster_core.books import Books
from cluster_core.compiled import called, inlined
from cluster_core.holds import NO_SLOT, close_hold, enter_hold, find_hold, take_slot
from cluster_core.record import AMOUNT_MAX, AccountState, CommandFlag, Status

_OK: Final = int(Status.OK)
_HOLD_NOT_FOUND: Final = int(Status.HOLD_NOT_FOUND)
_HOLD_NOT_OPEN: Final = int(Status.HOLD_NOT_OPEN)
_HOLD_EXPIRED: Final = int(Status.HOLD_EXPIRED)
_HOLD_NOT_EXPIRED: Final = int(Status.HOLD_NOT_EXPIRED)
_AMOUNT_NOT_POSITIVE: Final = int(Status.AMOUNT_NOT_POSITIVE)
_HOLD_EXCEEDED: Final = int(Status.HOLD_EXCEEDED)
_SAME_ACCOUNT: Final = int(Status.SAME_ACCOUNT)
_DEBIT_NOT_FOUND: Final = int(Status.DEBIT_ACCOUNT_NOT_FOUND)
_CREDIT_NOT_FOUND: Final = int(Status.CREDIT_ACCOUNT_NOT_FOUND)
_ASSETS_DIFFER: Final = int(Status.ASSETS_DIFFER)
_DEBIT_CLOSED: Final = int(Status.DEBIT_ACCOUNT_CLOSED)
_CREDIT_CLOSED: Final = int(Status.CREDIT_ACCOUNT_CLOSED)
_DEBIT_LOCKED: Final = int(Status.DEBIT_ACCOUNT_LOCKED)
_CREDIT_LOCKED: Final = int(Status.CREDIT_ACCOUNT_LOCKED)
_VERSION_MISMATCH: Final = int(Status.VERSION_MISMATCH)
_INSUFFICIENT: Final = int(Status.INSUFFICIENT_FUNDS)
_OVERFLOW: Final = int(Status.BALANCE_OVERFLOW)
_CEILING_EXCEEDED: Final = int(Status.CEILING_EXCEEDED)
_HOLD_CAPACITY_REACHED: Final = int(Status.HOLD_CAPACITY_REACHED)

_BALANCING: Final = int(CommandFlag.BALANCING)
_EXPECT_VERSION: Final = int(CommandFlag.EXPECT_VERSION)
_KEEP_REST_HELD: Final = int(CommandFlag.KEEP_REST_HELD)
_DEBITS_LOCKED: Final = int(AccountState.DEBITS_LOCKED)
_CREDITS_LOCKED: Final = int(AccountState.CREDITS_LOCKED)
_CLOSED: Final = int(AccountState.CLOSED)

_MAX: Final = AMOUNT_MAX
_NS_PER_S: Final = 1_000_000_000


@inlined
def _debits_total(account: Any) -> int:
    return np.int64(account.credits_total - account.posted)


@inlined
def _available(account: Any) -> np.uint64:
    """What an account may spend: never negative, and up to 2^64 - 2 with a floor below zero."""
    return np.uint64(account.posted - account.held) - np.uint64(account.floor)


@inlined
def _debit(account: Any, amount: int, sequence: int) -> None:
    account.posted -= amount
    changed(account, sequence)


@inlined
def _credit(account: Any, amount: int, sequence: int) -> None:
    account.posted += amount
    account.credits_total += amount
    changed(account, sequence)


@inlined
def _judge_pair(command: Any, books: Books) -> int:
    """_OK, or why no money may go from the command's debit to its credit account."""
    debit_id, credit_id = np.int64(command.debit_account), np.int64(command.credit_account)
    known = books.ledger[0].accounts
    if command.amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if debit_id == credit_id:
        return _SAME_ACCOUNT
    if debit_id < 1 or debit_id > known:
        return _DEBIT_NOT_FOUND
    if credit_id < 1 or credit_id > known:
        return _CREDIT_NOT_FOUND
    debit, credit = books.accounts[debit_id], books.accounts[credit_id]
    if debit.asset != credit.asset:
        return _ASSETS_DIFFER
    debit_state, credit_state = np.int64(debit.state), np.int64(credit.state)
    if debit_state & _CLOSED != 0:
        return _DEBIT_CLOSED
    if credit_state & _CLOSED != 0:
        return _CREDIT_CLOSED
    if debit_state & _DEBITS_LOCKED != 0:
        return _DEBIT_LOCKED
    if credit_state & _CREDITS_LOCKED != 0:
        return _CREDIT_LOCKED
    return _judge_version(command, debit)


@inlined
def _judge_version(command: Any, account: Any) -> int:
    if np.int64(command["flags"]) & _EXPECT_VERSION != 0 and account.version != command.reference:
        return _VERSION_MISMATCH
    return _OK


@inlined
def _judge_move(debit: Any, credit: Any, amount: int) -> int:
    """_OK, or which total an amount would take too far."""
    room = _MAX - amount
    if credit.posted > room or credit.credits_total > room or _debits_total(debit) > room:
        return _OVERFLOW
    if credit.posted + amount > credit.ceiling:
        return _CEILING_EXCEEDED
    return _OK


@inlined
def transfer(command: Any, sequence: int, reply: Any, books: Books) -> int:
    """Move an amount between two accounts of one asset; BALANCING: up to what there is."""
    status = _judge_pair(command, books)
    if status != _OK:
        return status
    debit = books.accounts[np.int64(command.debit_account)]
    credit = books.accounts[np.int64(command.credit_account)]
    amount, funds = command.amount, _available(debit)
    if np.uint64(amount) > funds:
        if np.int64(command["flags"]) & _BALANCING == 0 or funds == np.uint64(0):
            return _INSUFFICIENT
        amount = np.int64(funds)
    status = _judge_move(debit, credit, amount)
    if status != _OK:
        return status
    _debit(debit, amount, sequence)
    _credit(credit, amount, sequence)
    reply.amount = amount
    reply.debit_balance = debit.posted
    reply.credit_balance = credit.posted
    return _OK


@inlined
def deposit(command: Any, sequence: int, reply: Any, books: Books) -> int:
    """Move an amount from the asset's external account to an account."""
    credit_id, amount = np.int64(command.credit_account), command.amount
    if amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if credit_id < 1 or credit_id > books.ledger[0].accounts:
        return _CREDIT_NOT_FOUND
    credit = books.accounts[credit_id]
    state = np.int64(credit.state)
    if state & _CLOSED != 0:
        return _CREDIT_CLOSED
    if state & _CREDITS_LOCKED != 0:
        return _CREDIT_LOCKED
    status = _judge_version(command, credit)
    if status != _OK:
        return status
    asset = books.assets[credit.asset]
    room = _MAX - amount
    if credit.posted > room or credit.credits_total > room or asset.external < -room:
        return _OVERFLOW
    if credit.posted + amount > credit.ceiling:
        return _CEILING_EXCEEDED
    _credit(credit, amount, sequence)
    asset.external -= amount
    reply.amount = amount
    reply.debit_balance = asset.external
    reply.credit_balance = credit.posted
    return _OK


@inlined
def withdraw(command: Any, sequence: int, reply: Any, books: Books) -> int:
    """Move an amount from an account to the asset's external account."""
    debit_id, amount = np.int64(command.debit_account), command.amount
    if amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if debit_id < 1 or debit_id > books.ledger[0].accounts:
        return _DEBIT_NOT_FOUND
    debit = books.accounts[debit_id]
    state = np.int64(debit.state)
    if state & _CLOSED != 0:
        return _DEBIT_CLOSED
    if state & _DEBITS_LOCKED != 0:
        return _DEBIT_LOCKED
    status = _judge_version(command, debit)
    if status != _OK:
        return status
    if np.uint64(amount) > _available(debit):
        return _INSUFFICIENT
    asset = books.assets[debit.asset]
    room = _MAX - amount
    if _debits_total(debit) > room or asset.external > room:
        return _OVERFLOW
    _debit(debit, amount, sequence)
    asset.external += amount
    reply.amount = amount
    reply.debit_balance = debit.posted
    reply.credit_balance = asset.external
    return _OK


@inlined
def _reply_on_hold(hold: Any, amount: int, reply: Any, books: Books) -> None:
    reply.entity = hold.hold_id
    reply.amount = amount
    reply.debit_balance = books.accounts[np.int64(hold.debit_account)].posted
    reply.credit_balance = books.accounts[np.int64(hold.credit_account)].posted


@inlined
def _expiry(timeout_s: int, timestamp_ns: int) -> int:
    """When a hold ends, 0 without a timeout; the end of time where it would be later."""
    if timeout_s == 0:
        return 0
    timeout_ns = timeout_s * _NS_PER_S
    return timestamp_ns + timeout_ns if timestamp_ns < _MAX - timeout_ns else _MAX


@called
def hold(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    """Reserve an amount of the debit account, for the credit account to receive."""
    status = _judge_pair(command, books)
    if status != _OK:
        return status
    state = books.ledger[0]
    debit = books.accounts[np.int64(command.debit_account)]
    asset = books.assets[debit.asset]
    amount = command.amount
    if np.uint64(amount) > _available(debit):
        return _INSUFFICIENT
    if asset.held > _MAX - amount or debit.held > _MAX - amount:
        return _OVERFLOW
    if state.open_holds >= state.hold_capacity:
        return _HOLD_CAPACITY_REACHED
    expires_ns = _expiry(np.int64(command.timeout_s), timestamp_ns)
    debit.held += amount
    debit.open_holds = np.int64(debit.open_holds) + 1
    changed(debit, sequence)
    asset.held += amount
    asset.open_holds += np.uint64(1)
    slot = take_slot(books)
    opened = books.holds[slot]
    opened.hold_id = state.next_hold
    opened.debit_account = command.debit_account
    opened.credit_account = command.credit_account
    opened.remaining = amount
    opened.expires_ns = expires_ns
    opened.opened_sequence = sequence
    opened.code = command.code
    opened.asset = debit.asset
    enter_hold(slot, books)
    state.next_hold += 1
    _reply_on_hold(opened, amount, reply, books)
    return _OK


@inlined
def _release(slot: int, amount: int, books: Books) -> None:
    """Give back an amount of an open hold; without a rest it is resolved."""
    released = books.holds[slot]
    debit = books.accounts[np.int64(released.debit_account)]
    asset = books.assets[released.asset]
    debit.held -= amount
    asset.held -= amount
    released.remaining -= amount
    if released.remaining == 0:
        debit.open_holds = np.int64(debit.open_holds) - 1
        asset.open_holds -= np.uint64(1)
        close_hold(slot, books)


@inlined
def _missing(hold_id: np.uint64, books: Books) -> int:
    """Why a hold isn't open: it never was, or it is resolved."""
    number = np.int64(hold_id)
    if number < 1 or number >= books.ledger[0].next_hold:
        return _HOLD_NOT_FOUND
    return _HOLD_NOT_OPEN


@called
def capture(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    """Move a hold's amount to its credit account; the rest is released or stays held."""
    flags, amount = np.int64(command["flags"]), command.amount
    slot = find_hold(command.reference, books)
    if slot == NO_SLOT:
        return _missing(command.reference, books)
    held = books.holds[slot]
    if held.expires_ns != 0 and timestamp_ns >= held.expires_ns:
        return _HOLD_EXPIRED
    if amount < 0:
        return _AMOUNT_NOT_POSITIVE
    remaining = held.remaining
    if amount == 0 or (flags & _BALANCING != 0 and amount > remaining):
        amount = remaining
    if amount > remaining:
        return _HOLD_EXCEEDED
    debit = books.accounts[np.int64(held.debit_account)]
    credit = books.accounts[np.int64(held.credit_account)]
    credit_state = np.int64(credit.state)
    if credit_state & _CLOSED != 0:
        return _CREDIT_CLOSED
    if np.int64(debit.state) & _DEBITS_LOCKED != 0:
        return _DEBIT_LOCKED
    if credit_state & _CREDITS_LOCKED != 0:
        return _CREDIT_LOCKED
    status = _judge_move(debit, credit, amount)
    if status != _OK:
        return status
    _debit(debit, amount, sequence)
    _credit(credit, amount, sequence)
    _reply_on_hold(held, amount, reply, books)
    _release(slot, amount if flags & _KEEP_REST_HELD != 0 else remaining, books)
    return _OK


@called
def release(command: Any, sequence: int, reply: Any, books: Books) -> int:
    """Give back an amount of a hold, also past its time."""
    amount = command.amount
    slot = find_hold(command.reference, books)
    if slot == NO_SLOT:
        return _missing(command.reference, books)
    held = books.holds[slot]
    if amount < 0:
        return _AMOUNT_NOT_POSITIVE
    if amount == 0:
        amount = held.remaining
    if amount > held.remaining:
        return _HOLD_EXCEEDED
    changed(books.accounts[np.int64(held.debit_account)], sequence)
    _reply_on_hold(held, amount, reply, books)
    _release(slot, amount, books)
    return _OK


@called
def expire(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    """Give back all of a hold whose time has come."""
    slot = find_hold(command.reference, books)
    if slot == NO_SLOT:
        return _missing(command.reference, books)
    held = books.holds[slot]
    if held.expires_ns == 0 or timestamp_ns < held.expires_ns:
        return _HOLD_NOT_EXPIRED
    amount = held.remaining
    changed(books.accounts[np.int64(held.debit_account)], sequence)
    _reply_on_hold(held, amount, reply, books)
    _release(slot, amount, books)
    return _OK
