# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The window of recent command ids: what makes a command run exactly once.

The last N ids, each with the fingerprint of its command and its first reply, in a ring: entry n
lies in slot `n % N`. A hash table of 64-bit words finds an id in it: the upper 32 bits are the
hash's upper bits, the lower 32 bits the slot + 1, 0 is empty. Linear probing at half load;
deletion shifts back, so that there are no tombstones, and needs no look at the ids, because a
word's upper bits tell its home. The hash is keyed by a seed of the process, so that nobody
outside can craft ids that collide; the table is no part of the state.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.batch import LedgerParameters
from cluster_core.compiled import array_type, inlined, kernel, prefetch, records, sparse_array
from cluster_core.record import REPLY, ReplyFlag, Status

NOT_FOUND: Final = -1
ANSWERED: Final = -1

_OK: Final = int(Status.OK)
_REUSED: Final = int(Status.COMMAND_ID_REUSED)
_TOO_OLD: Final = int(Status.COMMAND_ID_TOO_OLD)
_IN_FUTURE: Final = int(Status.COMMAND_ID_IN_FUTURE)
_DUPLICATE: Final = int(ReplyFlag.DUPLICATE)
_NS_PER_MS: Final = 1_000_000

_MULTIPLIER_0: Final = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_1: Final = np.uint64(0xC4CEB9FE1A85EC53)
_FINGERPRINT_SEED: Final = np.uint64(0x9E3779B97F4A7C15)
_ONE: Final = np.uint64(1)
_EMPTY: Final = np.uint64(0)
_SHIFT_32: Final = np.uint64(32)
_SHIFT_33: Final = np.uint64(33)
_LOW_32: Final = np.uint64(0xFFFFFFFF)
_VERSION_MASK: Final = np.uint64(0x00000000_0000F000)
_VERSION_7: Final = np.uint64(0x00000000_00007000)
_VARIANT_MASK: Final = np.uint64(0xC0000000_00000000)
_VARIANT_RFC: Final = np.uint64(0x80000000_00000000)
_FETCH_AHEAD: Final = 32
"""Entries between the fetch of a place in the table and its use, when all are entered at once."""

_MS_SHIFT: Final = np.uint64(16)
"""A UUIDv7's upper 48 bits are its milliseconds."""


class RecentCommands(NamedTuple):
    """The window's arrays. Only the kernel writes them.

    `ids` u64 [N, 2] (little-endian halves), `fingerprints` u64 [N], `replies` REPLY [N],
    `table` u64 [2 N]; a hash's upper bits, `hash >> shift`, are its home in the table.
    """

    ids: npt.NDArray[np.uint64]
    fingerprints: npt.NDArray[np.uint64]
    replies: npt.NDArray[Any]
    table: npt.NDArray[np.uint64]
    shift: np.uint64
    seed: np.uint64


RECENT_COMMANDS: Final[Any] = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        array_type(np.uint64, 2),
        array_type(np.uint64),
        array_type(REPLY),
        array_type(np.uint64),
        types.uint64,
        types.uint64,
    ),
    RecentCommands,
)
"""Numba's type of the window, for a kernel's signature."""


MakeWindow = Callable[[LedgerParameters, int], RecentCommands]
"""Makes a window without entries from a ledger's parameters and a hash seed."""

AllocateRows = Callable[[int, Any, int], npt.NDArray[Any]]
"""Gives a zeroed array of so many rows of a dtype, with so many columns (one: of one dimension)."""


def empty_window(parameters: LedgerParameters, hash_seed: int) -> RecentCommands:
    """A window without entries. Raises OSError when memory is refused."""

    def in_memory(count: int, dtype: Any, columns: int) -> npt.NDArray[Any]:
        return sparse_array(count, dtype, columns=columns)

    return map_window(parameters, hash_seed, in_memory)


def map_window(
    parameters: LedgerParameters, hash_seed: int, allocate: AllocateRows
) -> RecentCommands:
    """A window whose ring `allocate` gives: ids, fingerprints and replies, in this order.

    The ring is written slot after slot, and read where it is written next; else only to answer
    a duplicate. The table is hit at random. Raises OSError when memory is refused.
    """
    capacity = parameters.window_capacity
    return RecentCommands(
        records(allocate(capacity, np.uint64, 2)),
        records(allocate(capacity, np.uint64, 1)),
        records(allocate(capacity, REPLY, 1)),
        sparse_array(2 * capacity, np.uint64),
        np.uint64(64 - capacity.bit_length()),
        np.uint64(hash_seed & (2**64 - 1)),
    )


@inlined
def swap_bytes(value: np.uint64) -> np.uint64:
    """Reverse a 64-bit word's bytes: a little-endian load becomes the big-endian number."""
    value = ((value >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)) | (
        (value & np.uint64(0x00FF00FF00FF00FF)) << np.uint64(8)
    )
    value = ((value >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)) | (
        (value & np.uint64(0x0000FFFF0000FFFF)) << np.uint64(16)
    )
    return (value >> _SHIFT_32) | (value << _SHIFT_32)


@inlined
def is_uuid7(high: np.uint64, low: np.uint64) -> bool:
    """Check version and variant of an id given as two big-endian numbers (RFC 9562)."""
    return (high & _VERSION_MASK) == _VERSION_7 and (low & _VARIANT_MASK) == _VARIANT_RFC


@inlined
def hash_id(id_0: np.uint64, id_1: np.uint64, seed: np.uint64) -> np.uint64:
    """Keyed 64-bit hash of an id (murmur3's finaliser over each half)."""
    mixed = (id_0 ^ seed) * _MULTIPLIER_0
    mixed = (mixed ^ (mixed >> _SHIFT_33)) * _MULTIPLIER_1
    mixed = (mixed ^ (mixed >> _SHIFT_33) ^ id_1) * _MULTIPLIER_0
    mixed = (mixed ^ (mixed >> _SHIFT_33) ^ seed) * _MULTIPLIER_1
    return mixed ^ (mixed >> _SHIFT_33)


@inlined
def fingerprint(words: npt.NDArray[np.uint64], row: int) -> np.uint64:
    """64-bit fingerprint of a command's bytes 16-63, given commands as u64 [n, 8]."""
    mixed = _FINGERPRINT_SEED
    for column in range(2, 8):
        mixed = (mixed ^ words[row, column]) * _MULTIPLIER_0
        mixed ^= mixed >> _SHIFT_32
    return mixed


@inlined
def _find(
    window: RecentCommands, id_0: np.uint64, id_1: np.uint64, hashed: np.uint64
) -> tuple[int, int]:
    """(the slot that holds an id or NOT_FOUND, its place in the table or the free one for it)."""
    table, ids = window.table, window.ids
    mask = np.uint64(table.shape[0] - 1)
    place = hashed >> window.shift
    while True:
        word = table[place]
        if word == _EMPTY:
            return NOT_FOUND, np.int64(place)
        if (word ^ hashed) >> _SHIFT_32 == _EMPTY:
            slot = np.int64(word & _LOW_32) - 1
            if ids[slot, 0] == id_0 and ids[slot, 1] == id_1:
                return slot, np.int64(place)
        place = (place + _ONE) & mask


@inlined
def free_place(window: RecentCommands, hashed: np.uint64) -> int:
    """The place in the table for an id that is not in it."""
    table = window.table
    mask = np.uint64(table.shape[0] - 1)
    place = hashed >> window.shift
    while table[place] != _EMPTY:
        place = (place + _ONE) & mask
    return np.int64(place)


@inlined
def _word(hashed: np.uint64, slot: int) -> np.uint64:
    """What the table holds for a slot."""
    return (hashed & ~_LOW_32) | np.uint64(slot + 1)


@inlined
def _remove(window: RecentCommands, hashed: np.uint64, slot: int) -> None:
    """Forget a slot that is in the table: shift back what was displaced behind it."""
    table, shift = window.table, window.shift
    mask = np.uint64(table.shape[0] - 1)
    hole = hashed >> shift
    wanted = _word(hashed, slot)
    while table[hole] != wanted:
        hole = (hole + _ONE) & mask
    place = hole
    while True:
        place = (place + _ONE) & mask
        word = table[place]
        if word == _EMPTY:
            break
        home = word >> shift
        if (place - home) & mask >= (place - hole) & mask:
            table[hole] = word
            hole = place
    table[hole] = _EMPTY


@inlined
def newest_allowed_ms(timestamp_ns: int, ledger: npt.NDArray[Any]) -> np.uint64:
    """The newest UUIDv7 time, ms, that a batch of this time lets in."""
    return np.uint64((timestamp_ns + ledger[0].id_ahead_ns) // _NS_PER_MS)


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
def judge_id(
    words: npt.NDArray[np.uint64],
    row: int,
    hashed: np.uint64,
    window: RecentCommands,
    ledger: npt.NDArray[Any],
    newest_ms: np.uint64,
    reply: Any,
) -> int:
    """ANSWERED when a command's id, not zero, is its whole answer: known, reused, too old, early.

    The reply is then complete. A new id leaves it as it is, and its free place in the table is
    returned, good until the window changes.
    """
    id_0, id_1 = words[row, 0], words[row, 1]
    slot, place = _find(window, id_0, id_1, hashed)
    if slot != NOT_FOUND:
        if window.fingerprints[slot] == fingerprint(words, row):
            _copy_reply(window.replies[slot], reply)
            reply["flags"] = _DUPLICATE
        else:
            reply.status = _REUSED
        return ANSWERED
    status = _judge_new_id(swap_bytes(id_0), swap_bytes(id_1), ledger, newest_ms)
    if status != _OK:
        reply.status = status
        return ANSWERED
    return place


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
def remember(
    words: npt.NDArray[np.uint64],
    row: int,
    hashed: np.uint64,
    place: int,
    reply: Any,
    window: RecentCommands,
    ledger: npt.NDArray[Any],
) -> None:
    """Enter an executed command into the window; the oldest entry leaves a full one.

    `place` is the free one of its id. The new entry takes the old one's slot, and its word goes
    into the table first: where the two words are alike, either may go.
    """
    state, ids = ledger[0], window.ids
    slot = state.window_entries & (ids.shape[0] - 1)
    window.table[place] = _word(hashed, slot)
    if state.window_entries >= ids.shape[0]:
        old_0, old_1 = ids[slot, 0], ids[slot, 1]
        _remove(window, hash_id(old_0, old_1, window.seed), slot)
        high, low = swap_bytes(old_0), swap_bytes(old_1)
        if is_uuid7(high, low) and (
            high > state.evicted_high or (high == state.evicted_high and low > state.evicted_low)
        ):
            state.evicted_high = high
            state.evicted_low = low
    ids[slot, 0] = words[row, 0]
    ids[slot, 1] = words[row, 1]
    window.fingerprints[slot] = fingerprint(words, row)
    _copy_reply(reply, window.replies[slot])
    state.window_entries += 1


@kernel(types.void(RECENT_COMMANDS, types.int64))
def enter_restored(window: RecentCommands, filled: int) -> None:
    """Build the table of a window whose first `filled` slots were put in from a snapshot."""
    ids, seed = window.ids, window.seed
    for slot in range(filled):
        ahead = min(slot + _FETCH_AHEAD, filled - 1)
        soon = hash_id(ids[ahead, 0], ids[ahead, 1], seed)
        prefetch(window.table, np.int64(soon >> window.shift))
        hashed = hash_id(ids[slot, 0], ids[slot, 1], seed)
        window.table[free_place(window, hashed)] = _word(hashed, slot)
