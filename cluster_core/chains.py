# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""Chains: linked commands that stand or fall together.

The ids of a whole chain are judged before anything of it runs. While it runs, what each member
may touch is copied first; the first refused member ends it, and the copies are put back in
reverse. Undoing costs the chain's length, and commands outside chains pay nothing for it.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.atomics import store_release
from cluster_core.books import CHANGES_MADE, UNDONE, Books
from cluster_core.compiled import array_type, called, inlined, records, sparse_array
from cluster_core.holds import NO_SLOT, close_hold, enter_hold, find_hold, take_slot
from cluster_core.operations import begin_reply, execute
from cluster_core.recent_commands import (
    ANSWERED,
    RecentCommands,
    free_place,
    judge_id,
    remember,
)
from cluster_core.record import (
    ACCOUNT,
    ASSET,
    HOLD,
    MAX_ASSETS,
    MAX_CHAIN_COMMANDS,
    Operation,
    Status,
)

_OK: Final = int(Status.OK)
_CHAIN_ID_REUSED: Final = int(Status.CHAIN_ID_REUSED)
_LINKED_FAILED: Final = int(Status.LINKED_FAILED)
_CREATE_ACCOUNT: Final = int(Operation.CREATE_ACCOUNT)
_REGISTER_ASSET: Final = int(Operation.REGISTER_ASSET)
_HOLD: Final = int(Operation.HOLD)
_CAPTURE: Final = int(Operation.CAPTURE)
_EXPIRE: Final = int(Operation.EXPIRE)

_U0: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_SEEN_PLACES: Final = 2 * MAX_CHAIN_COMMANDS
_MEMBER_BITS: Final = np.uint64(16)
_MEMBER_MASK: Final = np.uint64(0xFFFF)

SAVED: Final = np.dtype(
    [
        ("generation", "<u8"),
        ("accounts", "<i8"),
        ("highest_asset", "<i8"),
        ("next_hold", "<i8"),
        ("account_images", "<i8"),
        ("asset_images", "<i8"),
        ("hold_images", "<i8"),
        ("changes_made", "<u8"),
    ]
)
"""The ledger's counters before a chain, and how many images it has saved since.

`generation` counts chains: it tells this chain's entries in `seen` from those before.
"""


class Chain(NamedTuple):
    """What one chain at a time needs; nothing of it is state.

    `saved` SAVED [1]. `account_ids` i64 and `account_images` ACCOUNT, two a member;
    `asset_numbers` i64, `asset_images` ASSET and `hold_images` HOLD, one a member. A hold that
    wasn't open is an image whose `remaining` is 0. `seen` u64, a hash table of the chain's ids:
    the generation above 16 bits of member number.
    """

    saved: npt.NDArray[Any]
    account_ids: npt.NDArray[np.int64]
    account_images: npt.NDArray[Any]
    asset_numbers: npt.NDArray[np.int64]
    asset_images: npt.NDArray[Any]
    hold_images: npt.NDArray[Any]
    seen: npt.NDArray[np.uint64]


CHAIN: Final[Any] = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        array_type(SAVED),
        array_type(np.int64),
        array_type(ACCOUNT),
        array_type(np.int64),
        array_type(ASSET),
        array_type(HOLD),
        array_type(np.uint64),
    ),
    Chain,
)
"""Numba's type of a chain, for a kernel's signature."""


def new_chain() -> Chain:
    """Room for the longest chain. Raises OSError when memory is refused."""
    return Chain(
        records(np.zeros(1, SAVED)),
        sparse_array(2 * MAX_CHAIN_COMMANDS, np.int64),
        sparse_array(2 * MAX_CHAIN_COMMANDS, ACCOUNT),
        sparse_array(MAX_CHAIN_COMMANDS, np.int64),
        sparse_array(MAX_CHAIN_COMMANDS, ASSET),
        sparse_array(MAX_CHAIN_COMMANDS, HOLD),
        sparse_array(_SEEN_PLACES, np.uint64),
    )


@inlined
def _is_doubled(
    words: npt.NDArray[np.uint64], first: int, row: int, hashed: np.uint64, chain: Chain
) -> bool:
    """Whether an id stood earlier in this chain, whose rows begin at `first`; notes it if not."""
    seen = chain.seen
    generation = chain.saved[0].generation
    mask = np.uint64(_SEEN_PLACES - 1)
    place = hashed & mask
    while seen[place] >> _MEMBER_BITS == generation:
        other = first + np.int64(seen[place] & _MEMBER_MASK)
        if words[other, 0] == words[row, 0] and words[other, 1] == words[row, 1]:
            return True
        place = (place + _ONE) & mask
    seen[place] = (generation << _MEMBER_BITS) | np.uint64(row - first)
    return False


@called
def _may_run(
    words: npt.NDArray[np.uint64],
    first: int,
    end: int,
    newest_ms: np.uint64,
    replies: npt.NDArray[Any],
    books: Books,
    window: RecentCommands,
    chain: Chain,
    hashes: npt.NDArray[np.uint64],
) -> bool:
    """Judge all ids of a chain. When one isn't new, all replies are complete."""
    chain.saved[0].generation += _ONE
    applied, mask = books.ledger[0].applied, replies.shape[0] - 1
    all_new = True
    for row in range(first, end):
        reply = replies[(applied + row - first) & mask]
        begin_reply(reply, applied + row - first)
        if words[row, 0] | words[row, 1] == _U0:
            continue
        place = judge_id(words, row, hashes[row], window, books.ledger, newest_ms, reply)
        if place == ANSWERED or _is_doubled(words, first, row, hashes[row], chain):
            all_new = False
    if not all_new:
        for row in range(first, end):
            reply = replies[(applied + row - first) & mask]
            if reply.status == 0:
                reply.status = _CHAIN_ID_REUSED
    return all_new


@inlined
def _save_account(account_id: np.uint64, books: Books, chain: Chain) -> int:
    """Keep an account's image, if there is one; returns its asset's number or 0."""
    number = np.int64(account_id)
    if number < 1 or number > books.ledger[0].accounts:
        return 0
    saved = chain.saved[0]
    chain.account_ids[saved.account_images] = number
    chain.account_images[saved.account_images] = books.accounts[number]
    saved.account_images += 1
    return np.int64(books.accounts[number].asset)


@inlined
def _save_asset(number: int, books: Books, chain: Chain) -> None:
    """Keep an asset's image, if the number can be one."""
    if number < 1 or number >= MAX_ASSETS:
        return
    saved = chain.saved[0]
    chain.asset_numbers[saved.asset_images] = number
    chain.asset_images[saved.asset_images] = books.assets[number]
    saved.asset_images += 1


@called
def _save_before(command: Any, books: Books, chain: Chain) -> None:
    """Keep images of all that a command may change: what its fields name."""
    state, saved = books.ledger[0], chain.saved[0]
    operation = np.int64(command.operation)
    if operation in (_CREATE_ACCOUNT, _REGISTER_ASSET):
        _save_asset(np.int64(command.asset), books, chain)
        return
    if _CAPTURE <= operation <= _EXPIRE:
        slot = find_hold(command.reference, books)
        if slot != NO_SLOT:
            held = books.holds[slot]
            chain.hold_images[saved.hold_images] = held
            saved.hold_images += 1
            _save_account(held.debit_account, books, chain)
            _save_account(held.credit_account, books, chain)
            _save_asset(np.int64(held.asset), books, chain)
        return
    debit_asset = _save_account(command.debit_account, books, chain)
    credit_asset = _save_account(command.credit_account, books, chain)
    _save_asset(max(debit_asset, credit_asset), books, chain)
    if operation == _HOLD:
        image = chain.hold_images[saved.hold_images]
        image.hold_id = state.next_hold
        image.remaining = 0
        saved.hold_images += 1


@inlined
def _begin(books: Books, chain: Chain) -> None:
    state, saved = books.ledger[0], chain.saved[0]
    saved.accounts = state.accounts
    saved.highest_asset = state.highest_asset
    saved.next_hold = state.next_hold
    saved.changes_made = books.marks[CHANGES_MADE]
    saved.account_images = 0
    saved.asset_images = 0
    saved.hold_images = 0


@called
def _restore_hold(image: Any, books: Books) -> None:
    """Make a hold what it was: open with its old rest, or not open."""
    slot = find_hold(image.hold_id, books)
    if image.remaining == 0:
        if slot != NO_SLOT:
            close_hold(slot, books)
    elif slot != NO_SLOT:
        books.holds[slot].remaining = image.remaining
    else:
        slot = take_slot(books)
        books.holds[slot] = image
        enter_hold(slot, books)


@called
def _undo(books: Books, chain: Chain) -> None:
    """Put everything back that the chain has changed since `_begin`."""
    state, saved = books.ledger[0], chain.saved[0]
    for place in range(saved.hold_images - 1, -1, -1):
        _restore_hold(chain.hold_images[place], books)
    for place in range(saved.asset_images - 1, -1, -1):
        books.assets[chain.asset_numbers[place]] = chain.asset_images[place]
    for place in range(saved.account_images - 1, -1, -1):
        books.accounts[chain.account_ids[place]] = chain.account_images[place]
    for account_id in range(saved.accounts + 1, state.accounts + 1):  # row 0 is always zero
        books.accounts[account_id] = books.accounts[0]
    state.accounts = saved.accounts
    state.highest_asset = saved.highest_asset
    state.next_hold = saved.next_hold
    books.marks[CHANGES_MADE] = saved.changes_made
    # who sees it sees the old versions too
    store_release(books.marks, UNDONE, books.marks[UNDONE] + _ONE)


@called
def run_chain(
    commands: npt.NDArray[Any],
    words: npt.NDArray[np.uint64],
    first: int,
    end: int,
    timestamp_ns: int,
    newest_ms: np.uint64,
    replies: npt.NDArray[Any],
    books: Books,
    window: RecentCommands,
    chain: Chain,
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Apply the chain of commands [first, end): all of it, or none.

    `words`, `replies` and `hashes` as in `apply_batch`; the hashes of its ids must be there.
    """
    state, mask = books.ledger[0], replies.shape[0] - 1
    applied = state.applied
    runs = _may_run(words, first, end, newest_ms, replies, books, window, chain, hashes)
    state.applied = applied + end - first
    if not runs:
        return
    _begin(books, chain)
    refused = end
    for row in range(first, end):
        sequence = applied + row - first
        reply = replies[sequence & mask]
        _save_before(commands[row], books, chain)
        reply.status = execute(commands[row], sequence, timestamp_ns, reply, books)
        if reply.status != _OK:
            refused = row
            break
    if refused != end:
        _undo(books, chain)
        for row in range(first, end):
            if row != refused:
                sequence = applied + row - first
                begin_reply(replies[sequence & mask], sequence)
                replies[sequence & mask].status = _LINKED_FAILED
    for row in range(first, end):
        if words[row, 0] | words[row, 1] != _U0:
            reply = replies[(applied + row - first) & mask]
            place = free_place(window, hashes[row])
            remember(words, row, hashes[row], place, reply, window, books.ledger)
