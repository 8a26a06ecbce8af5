# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The compiled loop over a batch: judge ids, execute, remember.

The kernel reads no clock, no random and no float; time is the batch header's. Every command is
checked in the order of `Status`, then mutates: after the first write nothing can fail.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.compiled import array_type, inlined, kernel, prefetch
from cluster_core.postings import (
    create_account,
    deposit,
    register_asset,
    transfer,
    withdraw,
)
from cluster_core.recent_commands import (
    NOT_FOUND,
    find,
    fingerprint,
    hash_id,
    insert,
    is_uuid7,
    remove,
    swap_bytes,
)
from cluster_core.record import (
    ACCOUNT,
    ASSET,
    COMMAND,
    REPLY,
    Operation,
    ReplyFlag,
    Status,
)

LEDGER: Final = np.dtype(
    [
        ("applied", "<i8"),
        ("accounts", "<i8"),
        ("highest_asset", "<i8"),
        ("window_entries", "<i8"),
        ("evicted_high", "<u8"),
        ("evicted_low", "<u8"),
        ("account_capacity", "<i8"),
        ("id_ahead_ns", "<i8"),
    ]
)
"""The state's scalars. `evicted_*`: newest UUIDv7 id evicted, as two big-endian numbers."""

CHUNK: Final = 64
"""Commands whose cache lines are fetched ahead at a time."""

_OK: Final = int(Status.OK)
_REUSED: Final = int(Status.COMMAND_ID_REUSED)
_TOO_OLD: Final = int(Status.COMMAND_ID_TOO_OLD)
_IN_FUTURE: Final = int(Status.COMMAND_ID_IN_FUTURE)
_DUPLICATE: Final = int(ReplyFlag.DUPLICATE)
_CREATE_ACCOUNT: Final = int(Operation.CREATE_ACCOUNT)
_DEPOSIT: Final = int(Operation.DEPOSIT)
_WITHDRAW: Final = int(Operation.WITHDRAW)
_TRANSFER: Final = int(Operation.TRANSFER)
_NS_PER_MS: Final = 1_000_000
_U0: Final = np.uint64(0)
_MS_SHIFT: Final = np.uint64(16)
"""A UUIDv7's upper 48 bits are its milliseconds."""


@inlined
def _fetch_ahead(
    words: npt.NDArray[np.uint64],
    first: int,
    end: int,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    table: npt.NDArray[np.uint64],
    shift: np.uint64,
    seed: np.uint64,
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Hash the ids of commands [first, end) and fetch what those commands will touch.

    `hashes` u64 [chunk] keeps the hash of each command's id.
    """
    capacity = ids.shape[0]
    known = np.uint64(ledger[0].accounts)
    entries = ledger[0].window_entries
    for row in range(first, end):
        place = row - first
        hashed = hash_id(words[row, 0], words[row, 1], seed)
        hashes[place] = hashed
        prefetch(table, np.int64(hashed >> shift))
        if entries + place >= capacity:
            slot = (entries + place) & (capacity - 1)
            leaving = hash_id(ids[slot, 0], ids[slot, 1], seed)
            prefetch(table, np.int64(leaving >> shift))
        if words[row, 2] <= known:
            prefetch(accounts, np.int64(words[row, 2]))
        if words[row, 3] <= known:
            prefetch(accounts, np.int64(words[row, 3]))


@inlined
def _judge_new_id(
    high: np.uint64, low: np.uint64, ledger: npt.NDArray[Any], newest_ms: np.uint64
) -> int:
    """Status of an id that is not in the window: _OK, or why it must not run."""
    if not is_uuid7(high, low):
        return _OK
    state = ledger[0]
    if high < state.evicted_high or (high == state.evicted_high and low <= state.evicted_low):
        return _TOO_OLD
    if high >> _MS_SHIFT > newest_ms:
        return _IN_FUTURE
    return _OK


@inlined
def _copy_reply(source: Any, target: Any) -> None:
    """Field by field: a wide load right behind the narrow stores would wait for all of them."""
    target.sequence = source.sequence
    target.entity = source.entity
    target.amount = source.amount
    target.debit_balance = source.debit_balance
    target.credit_balance = source.credit_balance
    target.status = source.status
    target["flags"] = source["flags"]


@inlined
def _remember(
    words: npt.NDArray[np.uint64],
    row: int,
    hashed: np.uint64,
    reply: Any,
    ledger: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    fingerprints: npt.NDArray[np.uint64],
    window_replies: npt.NDArray[Any],
    table: npt.NDArray[np.uint64],
    shift: np.uint64,
    seed: np.uint64,
) -> None:
    """Enter an executed command into the window; the oldest entry leaves a full one."""
    state = ledger[0]
    slot = state.window_entries & (ids.shape[0] - 1)
    if state.window_entries >= ids.shape[0]:
        old_0, old_1 = ids[slot, 0], ids[slot, 1]
        remove(table, shift, hash_id(old_0, old_1, seed), slot)
        high, low = swap_bytes(old_0), swap_bytes(old_1)
        if is_uuid7(high, low) and (
            high > state.evicted_high or (high == state.evicted_high and low > state.evicted_low)
        ):
            state.evicted_high = high
            state.evicted_low = low
    ids[slot, 0] = words[row, 0]
    ids[slot, 1] = words[row, 1]
    fingerprints[slot] = fingerprint(words, row)
    _copy_reply(reply, window_replies[slot])
    insert(table, shift, hashed, slot)
    state.window_entries += 1


@inlined
def _execute(
    command: Any,
    sequence: int,
    timestamp_ns: int,
    reply: Any,
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    assets: npt.NDArray[Any],
) -> int:
    """Check one command's values, then mutate. Returns its status and fills the reply."""
    operation = np.int64(command.operation)
    if operation == _TRANSFER:
        return transfer(command, sequence, reply, ledger, accounts)
    if operation == _DEPOSIT:
        return deposit(command, sequence, reply, ledger, accounts, assets)
    if operation == _WITHDRAW:
        return withdraw(command, sequence, reply, ledger, accounts, assets)
    if operation == _CREATE_ACCOUNT:
        return create_account(command, sequence, timestamp_ns, reply, ledger, accounts, assets)
    return register_asset(command, ledger, assets)


@kernel(
    types.void(
        array_type(COMMAND, readonly=True),
        array_type(np.uint64, 2, readonly=True),
        types.int64,
        array_type(REPLY),
        array_type(LEDGER),
        array_type(ACCOUNT),
        array_type(ASSET),
        array_type(np.uint64, 2),
        array_type(np.uint64),
        array_type(REPLY),
        array_type(np.uint64),
        types.uint64,
        array_type(np.uint64),
    )
)
def apply_batch(
    commands: npt.NDArray[Any],
    words: npt.NDArray[np.uint64],
    timestamp_ns: int,
    replies: npt.NDArray[Any],
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[Any],
    assets: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    fingerprints: npt.NDArray[np.uint64],
    window_replies: npt.NDArray[Any],
    table: npt.NDArray[np.uint64],
    seed: np.uint64,
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Apply COMMAND [n] (`words` are the same bytes as u64 [n, 8]) and fill the reply ring.

    `replies` REPLY [power of two]: the reply of sequence s goes to slot s & (length - 1).
    """
    bits = 0
    while 1 << bits < table.shape[0]:
        bits += 1
    shift = np.uint64(64 - bits)
    state = ledger[0]
    newest_ms = np.uint64((timestamp_ns + state.id_ahead_ns) // _NS_PER_MS)
    for first in range(0, commands.shape[0], CHUNK):
        end = min(first + CHUNK, commands.shape[0])
        _fetch_ahead(words, first, end, ledger, accounts, ids, table, shift, seed, hashes)
        for row in range(first, end):
            sequence = state.applied
            reply = replies[sequence & (replies.shape[0] - 1)]
            reply.sequence = sequence
            reply.entity = 0
            reply.amount = 0
            reply.debit_balance = 0
            reply.credit_balance = 0
            reply["flags"] = 0
            reply.reserved = 0
            state.applied = sequence + 1
            id_0, id_1 = words[row, 0], words[row, 1]
            if id_0 | id_1 == _U0:
                reply.status = _execute(
                    commands[row],
                    sequence,
                    timestamp_ns,
                    reply,
                    ledger,
                    accounts,
                    assets,
                )
                continue
            hashed = hashes[row - first]
            slot = find(table, shift, ids, id_0, id_1, hashed)
            if slot != NOT_FOUND:
                if fingerprints[slot] == fingerprint(words, row):
                    replies[sequence & (replies.shape[0] - 1)] = window_replies[slot]
                    reply["flags"] = _DUPLICATE
                else:
                    reply.status = _REUSED
                continue
            status = _judge_new_id(swap_bytes(id_0), swap_bytes(id_1), ledger, newest_ms)
            if status != _OK:
                reply.status = status
                continue
            reply.status = _execute(
                commands[row], sequence, timestamp_ns, reply, ledger, accounts, assets
            )
            _remember(
                words,
                row,
                hashed,
                reply,
                ledger,
                ids,
                fingerprints,
                window_replies,
                table,
                shift,
                seed,
            )
