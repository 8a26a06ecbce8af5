# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The operations: each checks its values in the order of `Status`, then writes.

Compiled into the kernel. All arithmetic is int64: unsigned fields are converted as they are read,
so an account id beyond 2^63 - 1 is negative here, and unknown. Sums are compared with what is
left up to 2^63 - 1, so no check can overflow itself.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.compiled import inlined
from cluster_core.record import AMOUNT_MAX, MAX_ASSET_DECIMALS, MAX_ASSETS, Status

_OK: Final = int(Status.OK)
_AMOUNT_NOT_POSITIVE: Final = int(Status.AMOUNT_NOT_POSITIVE)
_SAME_ACCOUNT: Final = int(Status.SAME_ACCOUNT)
_DEBIT_NOT_FOUND: Final = int(Status.DEBIT_ACCOUNT_NOT_FOUND)
_CREDIT_NOT_FOUND: Final = int(Status.CREDIT_ACCOUNT_NOT_FOUND)
_ASSETS_DIFFER: Final = int(Status.ASSETS_DIFFER)
_INSUFFICIENT: Final = int(Status.INSUFFICIENT_FUNDS)
_OVERFLOW: Final = int(Status.BALANCE_OVERFLOW)
_ASSET_NOT_FOUND: Final = int(Status.ASSET_NOT_FOUND)
_CAPACITY_REACHED: Final = int(Status.ACCOUNT_CAPACITY_REACHED)
_NUMBER_OUT_OF_RANGE: Final = int(Status.ASSET_NUMBER_OUT_OF_RANGE)
_DECIMALS_OUT_OF_RANGE: Final = int(Status.ASSET_DECIMALS_OUT_OF_RANGE)
_SYMBOL_INVALID: Final = int(Status.ASSET_SYMBOL_INVALID)
_ASSET_EXISTS: Final = int(Status.ASSET_EXISTS)
_SYMBOL_TAKEN: Final = int(Status.ASSET_SYMBOL_TAKEN)

_MAX: Final = AMOUNT_MAX
_BYTE: Final = np.uint64(0xFF)
_BYTE_BITS: Final = np.uint64(8)


@inlined
def _debits_total(account: Any) -> int:
    return np.int64(account.credits_total - account.posted)


@inlined
def _debit(account: Any, amount: int, sequence: int) -> None:
    account.posted -= amount
    account.version += np.uint64(1)
    account.last_sequence = sequence


@inlined
def _credit(account: Any, amount: int, sequence: int) -> None:
    account.posted += amount
    account.credits_total += amount
    account.version += np.uint64(1)
    account.last_sequence = sequence


@inlined
def transfer(
    command: Any,
    sequence: int,
    reply: Any,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
) -> int:
    """Move an amount between two accounts of one asset."""
    debit_id, credit_id = (
        np.int64(command.debit_account),
        np.int64(command.credit_account),
    )
    amount, known = command.amount, ledger[0].accounts
    if amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if debit_id == credit_id:
        return _SAME_ACCOUNT
    if debit_id < 1 or debit_id > known:
        return _DEBIT_NOT_FOUND
    if credit_id < 1 or credit_id > known:
        return _CREDIT_NOT_FOUND
    debit, credit = accounts[debit_id], accounts[credit_id]
    if debit.asset != credit.asset:
        return _ASSETS_DIFFER
    if debit.posted < amount:
        return _INSUFFICIENT
    room = _MAX - amount
    if credit.posted > room or credit.credits_total > room or _debits_total(debit) > room:
        return _OVERFLOW
    _debit(debit, amount, sequence)
    _credit(credit, amount, sequence)
    reply.amount = amount
    reply.debit_balance = debit.posted
    reply.credit_balance = credit.posted
    return _OK


@inlined
def deposit(
    command: Any,
    sequence: int,
    reply: Any,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    assets: npt.NDArray[Any],
) -> int:
    """Move an amount from the asset's external account to an account."""
    credit_id, amount = np.int64(command.credit_account), command.amount
    if amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if credit_id < 1 or credit_id > ledger[0].accounts:
        return _CREDIT_NOT_FOUND
    credit = accounts[credit_id]
    asset = assets[credit.asset]
    room = _MAX - amount
    if credit.posted > room or credit.credits_total > room or asset.external < -room:
        return _OVERFLOW
    _credit(credit, amount, sequence)
    asset.external -= amount
    reply.amount = amount
    reply.debit_balance = asset.external
    reply.credit_balance = credit.posted
    return _OK


@inlined
def withdraw(
    command: Any,
    sequence: int,
    reply: Any,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    assets: npt.NDArray[Any],
) -> int:
    """Move an amount from an account to the asset's external account."""
    debit_id, amount = np.int64(command.debit_account), command.amount
    if amount <= 0:
        return _AMOUNT_NOT_POSITIVE
    if debit_id < 1 or debit_id > ledger[0].accounts:
        return _DEBIT_NOT_FOUND
    debit = accounts[debit_id]
    if debit.posted < amount:
        return _INSUFFICIENT
    asset = assets[debit.asset]
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
def create_account(
    command: Any,
    sequence: int,
    timestamp_ns: int,
    reply: Any,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    assets: npt.NDArray[Any],
) -> int:
    """Open the next account of an asset."""
    number = np.int64(command.asset)
    if number < 1 or number >= MAX_ASSETS or assets[number].number == 0:
        return _ASSET_NOT_FOUND
    state = ledger[0]
    if state.accounts >= state.account_capacity:
        return _CAPACITY_REACHED
    account_id = state.accounts + 1
    account = accounts[account_id]
    account.ceiling = _MAX
    account.version = 1
    account.last_sequence = sequence
    account.asset = command.asset
    account.account_id = account_id
    account.reference = command.reference
    account.opened_ns = timestamp_ns
    account.code = command.code
    assets[number].accounts += np.uint64(1)
    state.accounts = account_id
    reply.entity = account_id
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


@inlined
def register_asset(command: Any, ledger: npt.NDArray[Any], assets: npt.NDArray[Any]) -> int:
    """Add an asset to the asset table."""
    number, decimals = np.int64(command.asset), np.int64(command.code)
    if number < 1 or number >= MAX_ASSETS:
        return _NUMBER_OUT_OF_RANGE
    if decimals > MAX_ASSET_DECIMALS:
        return _DECIMALS_OUT_OF_RANGE
    if not _is_symbol(command.reference):
        return _SYMBOL_INVALID
    if assets[number].number != 0:
        return _ASSET_EXISTS
    state = ledger[0]
    for other in range(1, state.highest_asset + 1):
        if assets[other].symbol == command.reference:
            return _SYMBOL_TAKEN
    asset = assets[number]
    asset.number = command.asset
    asset.decimals = command.code
    asset.symbol = command.reference
    state.highest_asset = max(state.highest_asset, number)
    return _OK
