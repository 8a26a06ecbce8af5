# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The operations that move no money: opening, locking, limiting and closing accounts; assets.

Compiled into the kernel; each checks its values in the order of `Status`, then writes. Unsigned
fields are converted to int64 as they are read, so an account id beyond 2^63 - 1 is negative here,
and unknown.
"""

from typing import Any, Final

import numpy as np

from cluster_core.books import Books
from cluster_core.compiled import called, inlined
from cluster_core.record import (
    AMOUNT_MAX,
    MAX_ASSET_DECIMALS,
    MAX_ASSETS,
    AccountState,
    Status,
)

_OK: Final = int(Status.OK)
_DEBIT_NOT_FOUND: Final = int(Status.DEBIT_ACCOUNT_NOT_FOUND)
_DEBIT_CLOSED: Final = int(Status.DEBIT_ACCOUNT_CLOSED)
_ASSET_NOT_FOUND: Final = int(Status.ASSET_NOT_FOUND)
_CAPACITY_REACHED: Final = int(Status.ACCOUNT_CAPACITY_REACHED)
_NUMBER_OUT_OF_RANGE: Final = int(Status.ASSET_NUMBER_OUT_OF_RANGE)
_DECIMALS_OUT_OF_RANGE: Final = int(Status.ASSET_DECIMALS_OUT_OF_RANGE)
_SYMBOL_INVALID: Final = int(Status.ASSET_SYMBOL_INVALID)
_ASSET_EXISTS: Final = int(Status.ASSET_EXISTS)
_SYMBOL_TAKEN: Final = int(Status.ASSET_SYMBOL_TAKEN)
_LOCK_CODE_INVALID: Final = int(Status.LOCK_CODE_INVALID)
_FLOOR_OUT_OF_RANGE: Final = int(Status.FLOOR_OUT_OF_RANGE)
_FLOOR_ABOVE_CEILING: Final = int(Status.FLOOR_ABOVE_CEILING)
_OUTSIDE_LIMITS: Final = int(Status.BALANCE_OUTSIDE_LIMITS)
_NOT_ZERO: Final = int(Status.BALANCE_NOT_ZERO)
_HOLDS_OPEN: Final = int(Status.HOLDS_OPEN)
_CLOSED: Final = int(AccountState.CLOSED)
_LOCKS: Final = int(AccountState.DEBITS_LOCKED | AccountState.CREDITS_LOCKED)

_MAX: Final = AMOUNT_MAX
_BYTE: Final = np.uint64(0xFF)
_BYTE_BITS: Final = np.uint64(8)


@inlined
def changed(account: Any, sequence: int) -> None:
    """Note that a command changed an account."""
    account.version += np.uint64(1)
    account.last_sequence = sequence


@called
def create_account(command: Any, sequence: int, timestamp_ns: int, reply: Any, books: Books) -> int:
    """Open the next account of an asset."""
    number = np.int64(command.asset)
    if number < 1 or number >= MAX_ASSETS or books.assets[number].number == 0:
        return _ASSET_NOT_FOUND
    state = books.ledger[0]
    if state.accounts >= state.account_capacity:
        return _CAPACITY_REACHED
    account_id = state.accounts + 1
    account = books.accounts[account_id]
    account.ceiling = _MAX
    account.version = 1
    account.last_sequence = sequence
    account.asset = command.asset
    account.account_id = account_id
    account.reference = command.reference
    account.opened_ns = timestamp_ns
    account.code = command.code
    books.assets[number].accounts += np.uint64(1)
    state.accounts = account_id
    reply.entity = account_id
    return _OK


@inlined
def _changeable(account_id: int, books: Books) -> int:
    """_OK for an account that is open, or why a command can't change it."""
    if account_id < 1 or account_id > books.ledger[0].accounts:
        return _DEBIT_NOT_FOUND
    if np.int64(books.accounts[account_id].state) & _CLOSED != 0:
        return _DEBIT_CLOSED
    return _OK


@called
def set_locks(command: Any, sequence: int, reply: Any, books: Books, locked: bool) -> int:
    """Lock or unlock an account's debits, credits or both."""
    account_id, locks = np.int64(command.debit_account), np.int64(command.code)
    status = _changeable(account_id, books)
    if status != _OK:
        return status
    if locks < 1 or locks > _LOCKS:
        return _LOCK_CODE_INVALID
    account = books.accounts[account_id]
    state = np.int64(account.state)
    account.state = state | locks if locked else state & ~locks
    changed(account, sequence)
    reply.debit_balance = account.posted
    return _OK


@called
def set_limits(command: Any, sequence: int, reply: Any, books: Books) -> int:
    """Set an account's floor and ceiling."""
    account_id = np.int64(command.debit_account)
    floor, ceiling = command.amount, np.int64(command.reference)
    status = _changeable(account_id, books)
    if status != _OK:
        return status
    if floor < -_MAX or ceiling < -_MAX:
        return _FLOOR_OUT_OF_RANGE
    if floor > ceiling:
        return _FLOOR_ABOVE_CEILING
    account = books.accounts[account_id]
    if account.posted - account.held < floor or account.posted > ceiling:
        return _OUTSIDE_LIMITS
    account.floor = floor
    account.ceiling = ceiling
    changed(account, sequence)
    reply.debit_balance = account.posted
    return _OK


@called
def close_account(command: Any, sequence: int, books: Books) -> int:
    """Close an empty account for ever; it stays readable."""
    account_id = np.int64(command.debit_account)
    status = _changeable(account_id, books)
    if status != _OK:
        return status
    account = books.accounts[account_id]
    if account.posted != 0:
        return _NOT_ZERO
    if account.open_holds != 0:
        return _HOLDS_OPEN
    account.state = np.int64(account.state) | _CLOSED
    changed(account, sequence)
    return _OK


@inlined
def _is_symbol(symbol: np.uint64) -> bool:
    """1 to 8 bytes of A-Z and 0-9, the first byte lowest, then zeros."""
    rest = symbol
    length = 0
    while rest & _BYTE != np.uint64(0):
        letter = rest & _BYTE
        upper = np.uint64(65) <= letter <= np.uint64(90)
        digit = np.uint64(48) <= letter <= np.uint64(57)
        if not (upper or digit):
            return False
        rest >>= _BYTE_BITS
        length += 1
    return length > 0 and rest == np.uint64(0)


@called
def register_asset(command: Any, books: Books) -> int:
    """Add an asset to the asset table."""
    assets = books.assets
    number, decimals = np.int64(command.asset), np.int64(command.code)
    if number < 1 or number >= MAX_ASSETS:
        return _NUMBER_OUT_OF_RANGE
    if decimals > MAX_ASSET_DECIMALS:
        return _DECIMALS_OUT_OF_RANGE
    if not _is_symbol(command.reference):
        return _SYMBOL_INVALID
    if assets[number].number != 0:
        return _ASSET_EXISTS
    state = books.ledger[0]
    for other in range(1, state.highest_asset + 1):
        if assets[other].symbol == command.reference:
            return _SYMBOL_TAKEN
    asset = assets[number]
    asset.number = command.asset
    asset.decimals = command.code
    asset.symbol = command.reference
    state.highest_asset = max(state.highest_asset, number)
    return _OK
