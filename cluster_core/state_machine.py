"""The state machine: balances, assets and the window of recent commands, in one compiled loop.

Deterministic: the same batches give the same state on every node. The kernel reads no clock, no
random and no float; time is the batch header's. Every command is checked in the order of
`Status`, then mutates: after the first write nothing can fail.
"""

import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from numba.core import types

from cluster_core.batch import LedgerParameters
from cluster_core.compiled import array_type, inlined, kernel, prefetch, sparse_array
from cluster_core.postings import (
    create_account,
    deposit,
    register_asset,
    transfer,
    withdraw,
)
from cluster_core.recent_commands import (
    NOT_FOUND,
    RecentCommands,
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
    DEFAULT_ASSET,
    DEFAULT_ASSET_DECIMALS,
    DEFAULT_ASSET_SYMBOL,
    MAX_ASSETS,
    MAX_MESSAGE_COMMANDS,
    REPLY,
    Operation,
    ReplyFlag,
    Status,
)
from cluster_core.structure import find_malformed

__all__ = ["LEDGER", "StateMachine", "find_malformed"]

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

_DIGEST_MAGIC: Final = b"RLSTATE1"
_CHUNK: Final = 64
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

    `hashes` u64 [2, chunk]: of the commands, and of the ids that they will evict.
    """
    capacity = ids.shape[0]
    known = np.uint64(ledger[0].accounts)
    entries = ledger[0].window_entries
    for row in range(first, end):
        place = row - first
        hashed = hash_id(words[row, 0], words[row, 1], seed)
        hashes[0, place] = hashed
        prefetch(table, np.int64(hashed >> shift))
        if entries + place >= capacity:
            slot = (entries + place) & (capacity - 1)
            leaving = hash_id(ids[slot, 0], ids[slot, 1], seed)
            hashes[1, place] = leaving
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
    if high < state.evicted_high or (
        high == state.evicted_high and low <= state.evicted_low
    ):
        return _TOO_OLD
    if high >> _MS_SHIFT > newest_ms:
        return _IN_FUTURE
    return _OK


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
            high > state.evicted_high
            or (high == state.evicted_high and low > state.evicted_low)
        ):
            state.evicted_high = high
            state.evicted_low = low
    ids[slot, 0] = words[row, 0]
    ids[slot, 1] = words[row, 1]
    fingerprints[slot] = fingerprint(words, row)
    window_replies[slot] = reply
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
        return create_account(
            command, sequence, timestamp_ns, reply, ledger, accounts, assets
        )
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
        array_type(np.uint64, 2),
    )
)
def _apply(
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
    for first in range(0, commands.shape[0], _CHUNK):
        end = min(first + _CHUNK, commands.shape[0])
        _fetch_ahead(
            words, first, end, ledger, accounts, ids, table, shift, seed, hashes
        )
        for row in range(first, end):
            sequence = state.applied
            reply = replies[sequence & (replies.shape[0] - 1)]
            reply.sequence = sequence
            reply.entity = 0
            reply.amount = 0
            reply.debit_balance = 0
            reply.credit_balance = 0
            reply.flags = 0
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
            hashed = hashes[0, row - first]
            slot = find(table, shift, ids, id_0, id_1, hashed)
            if slot != NOT_FOUND:
                if fingerprints[slot] == fingerprint(words, row):
                    replies[sequence & (replies.shape[0] - 1)] = window_replies[slot]
                    reply.flags = _DUPLICATE
                else:
                    reply.status = _REUSED
                continue
            status = _judge_new_id(
                swap_bytes(id_0), swap_bytes(id_1), ledger, newest_ms
            )
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


class StateMachine:
    """The ledger's state and its kernel.

    `hash_seed` keys the window's hash table: random in servers, and without effect on replies,
    state or digest. One thread at a time may call `apply`.
    """

    def __init__(self, parameters: LedgerParameters, *, hash_seed: int = 0) -> None:
        self.parameters = parameters
        self._ledger = np.zeros(1, LEDGER)
        self._ledger["account_capacity"] = parameters.account_capacity
        self._ledger["id_ahead_ns"] = parameters.id_ahead_ns
        self._accounts = sparse_array(parameters.account_capacity + 1, ACCOUNT)
        self._assets = sparse_array(MAX_ASSETS, ASSET)
        self._window = RecentCommands(parameters, hash_seed)
        self._hashes = np.zeros((2, _CHUNK), np.uint64)
        self._scratch = np.zeros(MAX_MESSAGE_COMMANDS, REPLY)
        self._register_default_asset()

    def _register_default_asset(self) -> None:
        asset = self._assets[DEFAULT_ASSET]
        asset["number"] = DEFAULT_ASSET
        asset["decimals"] = DEFAULT_ASSET_DECIMALS
        asset["symbol"] = int.from_bytes(DEFAULT_ASSET_SYMBOL.ljust(8, b"\0"), "little")
        self._ledger["highest_asset"] = DEFAULT_ASSET

    def apply_into(
        self, commands: npt.NDArray[Any], timestamp_ns: int, replies: npt.NDArray[Any]
    ) -> None:
        """Apply a batch: COMMAND [n], at ledger time `timestamp_ns`.

        `replies` is a ring, REPLY [power of two >= n]: sequence s is answered in slot
        s & (length - 1). The commands must be structurally right (`find_malformed`).
        """
        words = commands.view(np.uint64).reshape(-1, 8)
        window = self._window
        _apply(
            commands,
            words,
            timestamp_ns,
            replies,
            self._ledger,
            self._accounts,
            self._assets,
            window.ids,
            window.fingerprints,
            window.replies,
            window.table,
            window.seed,
            self._hashes,
        )

    def apply(self, commands: npt.NDArray[Any], timestamp_ns: int) -> npt.NDArray[Any]:
        """Apply a batch of at most 8,192 commands and return its REPLY [n], in order."""
        first = self.applied
        self.apply_into(commands, timestamp_ns, self._scratch)
        slots = np.arange(first, self.applied) & (len(self._scratch) - 1)
        replies: npt.NDArray[Any] = self._scratch[slots]
        return replies

    @property
    def applied(self) -> int:
        """All sequences below this one are applied."""
        return int(self._ledger["applied"][0])

    @property
    def accounts(self) -> int:
        """Number of accounts; ids are 1 .. accounts."""
        return int(self._ledger["accounts"][0])

    @property
    def window_entries(self) -> int:
        """Command ids that ever entered the window."""
        return int(self._ledger["window_entries"][0])

    def account(self, account_id: int) -> np.void | None:
        """A copy of one ACCOUNT record, or None."""
        if not 1 <= account_id <= self.accounts:
            return None
        record: np.void = self._accounts[account_id].copy()
        return record

    def asset(self, number: int) -> np.void | None:
        """A copy of one ASSET record, or None."""
        if not 1 <= number < MAX_ASSETS or not self._assets[number]["number"]:
            return None
        record: np.void = self._assets[number].copy()
        return record

    def asset_numbers(self) -> list[int]:
        """The numbers of all registered assets, rising."""
        highest = int(self._ledger["highest_asset"][0])
        return [
            int(number) for number in self._assets["number"][: highest + 1] if number
        ]

    def digest(self) -> bytes:
        """BLAKE3 of the whole state, in the byte order that ARCHITECTURE.md fixes."""
        state, parameters, window = self._ledger[0], self.parameters, self._window
        filled = min(self.window_entries, window.capacity)
        highest = int(state["highest_asset"])
        hasher = blake3(_DIGEST_MAGIC)
        hasher.update(
            struct.pack(
                "<QQQQQQQ",
                parameters.window_capacity,
                parameters.id_ahead_ns,
                parameters.account_capacity,
                self.applied,
                self.accounts,
                highest,
                self.window_entries,
            )
        )
        hasher.update(
            struct.pack(">QQ", int(state["evicted_high"]), int(state["evicted_low"]))
        )
        for rows in (
            self._accounts[1 : self.accounts + 1],
            self._assets[1 : highest + 1],
            window.ids[:filled],
            window.fingerprints[:filled],
            window.replies[:filled],
        ):
            hasher.update(memoryview(rows.view(np.uint8).reshape(-1)))
        return hasher.digest()
