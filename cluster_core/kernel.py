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

from cluster_core.atomics import fence_release, store_release
from cluster_core.books import BOOKS, TURN, Books
from cluster_core.chains import CHAIN, Chain, run_chain
from cluster_core.compiled import array_type, inlined, kernel, prefetch
from cluster_core.holds import prefetch_bucket, prefetch_hold
from cluster_core.operations import begin_reply, execute
from cluster_core.recent_commands import (
    ANSWERED,
    RECENT_COMMANDS,
    RecentCommands,
    hash_id,
    judge_id,
    newest_allowed_ms,
    remember,
)
from cluster_core.record import COMMAND, REPLY, CommandFlag, Operation

CHUNK: Final = 64
"""Commands whose cache lines are fetched ahead at a time, and that readers see together."""

_LINKED: Final = int(CommandFlag.LINKED)
_HOLD: Final = int(Operation.HOLD)
_CAPTURE: Final = int(Operation.CAPTURE)
_EXPIRE: Final = int(Operation.EXPIRE)
_U0: Final = np.uint64(0)
_ONE: Final = np.uint64(1)


@inlined
def _fetch_ahead(
    commands: npt.NDArray[Any],
    words: npt.NDArray[np.uint64],
    first: int,
    end: int,
    books: Books,
    window: RecentCommands,
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Hash the ids of commands [first, end) and fetch what those commands will touch.

    `hashes` u64 [n] keeps the hash of each command's id.
    """
    capacity = window.ids.shape[0]
    state = books.ledger[0]
    known = np.uint64(state.accounts)
    entries = state.window_entries
    opening, resolving = state.next_hold, 0
    for row in range(first, end):
        hashed = hash_id(words[row, 0], words[row, 1], window.seed)
        hashes[row] = hashed
        prefetch(window.table, np.int64(hashed >> window.shift))
        entry = entries + row - first
        if entry >= capacity:
            slot = entry & (capacity - 1)
            leaving = hash_id(window.ids[slot, 0], window.ids[slot, 1], window.seed)
            prefetch(window.table, np.int64(leaving >> window.shift))
        if words[row, 2] <= known:
            prefetch(books.accounts, np.int64(words[row, 2]))
        if words[row, 3] <= known:
            prefetch(books.accounts, np.int64(words[row, 3]))
        operation = np.int64(commands[row].operation)
        if operation == _HOLD:
            prefetch_bucket(np.uint64(opening), books)
            opening += 1
        elif _CAPTURE <= operation <= _EXPIRE:
            prefetch_bucket(words[row, 5], books)
            resolving += 1
    if resolving != 0:
        for row in range(first, end):
            if _CAPTURE <= np.int64(commands[row].operation) <= _EXPIRE:
                prefetch_hold(words[row, 5], books)


@inlined
def _end_of_chain(commands: npt.NDArray[Any], first: int) -> int:
    """The row behind the chain that begins at row `first`."""
    last = first
    while last < commands.shape[0] - 1 and np.int64(commands[last]["flags"]) & _LINKED != 0:
        last += 1
    return last + 1


@inlined
def _begin_turn(books: Books) -> None:
    """Readers wait from here on (`reading.py`): the turn is odd before anything is written."""
    store_release(books.marks, TURN, books.marks[TURN] + _ONE)
    fence_release()


@inlined
def _end_turn(books: Books) -> None:
    """All that was written is there before the turn is even again."""
    store_release(books.marks, TURN, books.marks[TURN] + _ONE)


@kernel(
    types.void(
        array_type(COMMAND, readonly=True),
        array_type(np.uint64, 2, readonly=True),
        types.int64,
        array_type(REPLY),
        BOOKS,
        RECENT_COMMANDS,
        CHAIN,
        array_type(np.uint64),
    )
)
def apply_batch(
    commands: npt.NDArray[Any],
    words: npt.NDArray[np.uint64],
    timestamp_ns: int,
    replies: npt.NDArray[Any],
    books: Books,
    window: RecentCommands,
    chain: Chain,
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Apply COMMAND [n] (`words` are the same bytes as u64 [n, 8]) and fill the reply ring.

    `replies` REPLY [power of two]: the reply of sequence s goes to slot s & (length - 1).
    `chain` and `hashes` u64 [>= n] are scratch.
    """
    ledger = books.ledger
    state = ledger[0]
    newest_ms = newest_allowed_ms(timestamp_ns, ledger)
    row: Any = np.int64(0)  # a literal 0 would have everything below compiled twice
    while row < commands.shape[0]:
        end = min(row + CHUNK, commands.shape[0])
        _fetch_ahead(commands, words, row, end, books, window, hashes)
        _begin_turn(books)
        while row < end:
            if np.int64(commands[row]["flags"]) & _LINKED != 0:
                after = _end_of_chain(commands, row)
                if after > end:
                    _fetch_ahead(commands, words, end, after, books, window, hashes)
                run_chain(
                    commands,
                    words,
                    row,
                    after,
                    timestamp_ns,
                    newest_ms,
                    replies,
                    books,
                    window,
                    chain,
                    hashes,
                )
                row = after
                continue
            sequence = state.applied
            reply = replies[sequence & (replies.shape[0] - 1)]
            begin_reply(reply, sequence)
            state.applied = sequence + 1
            if words[row, 0] | words[row, 1] == _U0:
                reply.status = execute(commands[row], sequence, timestamp_ns, reply, books)
            else:
                place = judge_id(words, row, hashes[row], window, ledger, newest_ms, reply)
                if place != ANSWERED:
                    reply.status = execute(commands[row], sequence, timestamp_ns, reply, books)
                    remember(words, row, hashes[row], place, reply, window, ledger)
            row += 1
        _end_turn(books)
