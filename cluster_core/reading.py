# mypy: disable-error-code="no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""Reading the books while another thread or process changes them, as of one moment.

The kernel changes the books in turns: `marks[TURN]` is odd during one. Of rows with a version the
reader notes all versions, waits for a moment between two turns, copies the rows, waits for another
such moment, and looks at the versions again: if none has moved, no command has touched these rows
between the two moments, whatever else was changed meanwhile. Rows without a version are copied
between two looks at the turn itself: a sequence lock. What an undone chain did for a while leaves
no version behind, so `marks[UNDONE]` is compared as well.

A read that finds no such moment gives BUSY, and is tried again. The writer can help by waiting
between two batches (`PAUSE_WANTED`), but no reader depends on that for being right.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.account_filter import AccountFilter
from cluster_core.atomics import fence_acquire, fence_both, load_acquire, store_release
from cluster_core.books import (
    CHANGES_CAPACITY,
    CHANGES_MADE,
    LEDGER,
    TURN,
    UNDONE,
    WATCHING,
    Books,
)
from cluster_core.compiled import array_type, inlined, kernel
from cluster_core.record import (
    ACCOUNT,
    ACCOUNT_BYTES,
    ASSET,
    ASSET_BYTES,
    HOLD,
    HOLD_BYTES,
    HOLD_STATE_BYTES,
    MAX_ASSETS,
    MAX_CHAIN_COMMANDS,
)

BUSY: Final = -1
MAX_READ_ACCOUNTS: Final = 8_192
"""Accounts in one read: 1 MiB."""

SCANNED_AT_ONCE: Final = 1 << 18
"""Accounts that one call of `find_accounts` looks at: 10 to 20 ms where their memory is cold."""

_SPINS: Final = 20_000
"""Looks at an odd turn before a try is given up: 20 to 100 us, a turn without long chains."""

_TRIES: Final = 16
_BLOCK: Final = 4_096
"""Accounts that `_find_accounts` looks at between two looks at the marks."""

_HOLDS_IN_BUCKET_MAX: Final = 1_024
_UNPUBLISHED_MAX: Final = 2 * MAX_CHAIN_COMMANDS + 256
"""Changes that one turn makes at most: they may be overwriting the oldest rows of the ring."""

_VERSION: Final = ACCOUNT.fields["version"][1] // 8  # type: ignore[index]
_ASSET_AND_STATE: Final = ACCOUNT.fields["asset"][1] // 8  # type: ignore[index]
_REFERENCE: Final = ACCOUNT.fields["reference"][1] // 8  # type: ignore[index]
_CODE: Final = ACCOUNT.fields["code"][1] // 8  # type: ignore[index]
_ACCOUNT_WORDS: Final = ACCOUNT_BYTES // 8
_HOLD_WORDS: Final = HOLD_BYTES // 8
_ONE: Final = np.uint64(1)
_U0: Final = np.uint64(0)
_LOW_32: Final = np.uint64(0xFFFFFFFF)

WORDS: Final = array_type(np.uint64)
_MARKS: Final = array_type(np.uint64, readonly=True)
_LEDGER: Final = array_type(LEDGER, readonly=True)
_ROWS: Final = array_type(np.uint64, 2, readonly=True)
_LINKS: Final = array_type(np.uint32, readonly=True)


@inlined
def _between_turns(marks: npt.NDArray[np.uint64]) -> np.uint64:
    """The turn's number at a moment when it is even, or an odd one after `_SPINS` looks."""
    turn = load_acquire(marks, TURN)
    spins = 0
    while turn & _ONE != _U0 and spins < _SPINS:
        turn = load_acquire(marks, TURN)
        spins += 1
    return turn


@kernel(
    types.int64(
        array_type(np.uint64, readonly=True),
        array_type(np.uint64, 2),
        array_type(np.uint64),
        _MARKS,
        _LEDGER,
        _ROWS,
    )
)
def _copy_accounts(
    ids: npt.NDArray[np.uint64],
    copies: npt.NDArray[np.uint64],
    versions: npt.NDArray[np.uint64],
    marks: npt.NDArray[np.uint64],
    ledger: npt.NDArray[Any],
    accounts: npt.NDArray[np.uint64],
) -> int:
    """Copy rows u64 [n, 16] by id, zeros for unknown ones; all commands below the result are in it.

    `versions` u64 [n] is scratch. BUSY when no moment was found.
    """
    undone = load_acquire(marks, UNDONE)
    known = np.uint64(ledger[0].accounts)
    for place in range(ids.shape[0]):
        account_id = ids[place]
        versions[place] = _U0
        if account_id != _U0 and account_id <= known:
            versions[place] = accounts[np.int64(account_id), _VERSION]
    fence_acquire()
    if _between_turns(marks) & _ONE != _U0:
        return BUSY
    applied = ledger[0].applied
    for place in range(ids.shape[0]):
        account_id = ids[place]
        if account_id != _U0 and account_id <= known:
            row = np.int64(account_id)
            for word in range(_ACCOUNT_WORDS):
                copies[place, word] = accounts[row, word]
        else:
            for word in range(_ACCOUNT_WORDS):
                copies[place, word] = _U0
    fence_acquire()
    if _between_turns(marks) & _ONE != _U0:
        return BUSY
    known_after = np.uint64(ledger[0].accounts)
    for place in range(ids.shape[0]):
        account_id = ids[place]
        if account_id == _U0 or account_id > known:
            if account_id != _U0 and account_id <= known_after:
                return BUSY
        elif accounts[np.int64(account_id), _VERSION] != versions[place]:
            return BUSY
    if load_acquire(marks, UNDONE) != undone:
        return BUSY
    return applied


@kernel(
    types.UniTuple(types.int64, 2)(  # type: ignore[no-untyped-call]
        _MARKS, _ROWS, types.int64, types.int64, array_type(np.uint64, readonly=True), WORDS
    )
)
def _find_accounts(
    marks: npt.NDArray[np.uint64],
    accounts: npt.NDArray[np.uint64],
    after: int,
    end: int,
    wanted: npt.NDArray[np.uint64],
    found: npt.NDArray[np.uint64],
) -> tuple[int, int]:
    """Ids in (after, end) that fit, u64 [page]: (how many were found, the last id looked at).

    `wanted` u64 [7]: (word & mask) == value for asset and state, code, reference; then bits of
    asset and state of which one at least must be set, if there are any. A block of accounts is
    looked at again when a chain was undone meanwhile, which may have locked them for a while;
    after some tries all of it whose asset, code and reference fit counts as found.
    """
    count = 0
    account_id = after + 1
    while account_id < end and count < found.shape[0]:
        first, known, tries = account_id, count, 0
        block_end = min(first + _BLOCK, end)
        while True:
            settled = _between_turns(marks) & _ONE == _U0
            undone = load_acquire(marks, UNDONE)
            any_state = tries == _TRIES
            mask = wanted[0] & _LOW_32 if any_state else wanted[0]
            value = wanted[1] & _LOW_32 if any_state else wanted[1]
            one_of = _U0 if any_state else wanted[6]
            account_id, count = first, known
            while account_id < block_end and count < found.shape[0]:
                if (
                    accounts[account_id, _ASSET_AND_STATE] & mask == value
                    and accounts[account_id, _CODE] & wanted[2] == wanted[3]
                    and accounts[account_id, _REFERENCE] & wanted[4] == wanted[5]
                    and (one_of == _U0 or accounts[account_id, _ASSET_AND_STATE] & one_of != _U0)
                ):
                    found[count] = account_id
                    count += 1
                account_id += 1
            fence_acquire()
            settled = settled and _between_turns(marks) & _ONE == _U0
            if any_state or (settled and load_acquire(marks, UNDONE) == undone):
                break
            tries += 1
    return count, account_id - 1


@kernel(types.int64(types.uint64, WORDS, _MARKS, _LEDGER, _ROWS, _LINKS, types.uint64))
def _copy_hold(
    hold_id: np.uint64,
    copy: npt.NDArray[np.uint64],
    marks: npt.NDArray[np.uint64],
    ledger: npt.NDArray[Any],
    holds: npt.NDArray[np.uint64],
    heads: npt.NDArray[np.uint32],
    seed: np.uint64,
) -> int:
    """Copy an open hold's row u64 [8], zeros when it isn't open; the result as in accounts.

    The last word is not the row's but the next hold's id. The bucket is found as in `holds.py`;
    links may change under the walk, so it is bounded.
    """
    turn = _between_turns(marks)
    if turn & _ONE != _U0:
        return BUSY
    applied = ledger[0].applied
    mixed = (hold_id ^ seed) * np.uint64(0xFF51AFD7ED558CCD)
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    mask = ledger[0].hold_mask
    bucket = np.int64(mixed & mask)
    if bucket >= ledger[0].hold_buckets:
        bucket = np.int64(mixed & (mask >> _ONE))
    copy[:] = _U0
    copy[_HOLD_WORDS - 1] = ledger[0].next_hold
    if bucket < heads.shape[0]:
        slot = np.int64(heads[bucket])
        steps = 0
        while slot != 0 and slot < holds.shape[0] and steps < _HOLDS_IN_BUCKET_MAX:
            if holds[slot, 0] == hold_id:
                for word in range(_HOLD_WORDS - 1):
                    copy[word] = holds[slot, word]
                break
            slot = np.int64(holds[slot, _HOLD_WORDS - 1] & _LOW_32)
            steps += 1
    fence_acquire()
    if load_acquire(marks, TURN) != turn:
        return BUSY
    return applied


@kernel(types.int64(array_type(np.uint64, 2), _MARKS, _LEDGER, _ROWS))
def _copy_assets(
    copies: npt.NDArray[np.uint64],
    marks: npt.NDArray[np.uint64],
    ledger: npt.NDArray[Any],
    assets: npt.NDArray[np.uint64],
) -> int:
    """Copy the asset table up to the highest registered one; the result as in accounts."""
    turn = _between_turns(marks)
    if turn & _ONE != _U0:
        return BUSY
    applied = ledger[0].applied
    end = min(ledger[0].highest_asset + 1, assets.shape[0])
    for row in range(end):
        for word in range(assets.shape[1]):
            copies[row, word] = assets[row, word]
    fence_acquire()
    if load_acquire(marks, TURN) != turn:
        return BUSY
    return applied


@kernel(types.int64(WORDS, _MARKS, _LEDGER))
def _read_progress(
    progress: npt.NDArray[np.uint64], marks: npt.NDArray[np.uint64], ledger: npt.NDArray[Any]
) -> int:
    """u64 [4]: applied, accounts, next hold id, changes made; all of one moment, else BUSY."""
    turn = _between_turns(marks)
    if turn & _ONE != _U0:
        return BUSY
    progress[0] = ledger[0].applied
    progress[1] = ledger[0].accounts
    progress[2] = ledger[0].next_hold
    progress[3] = marks[CHANGES_MADE]
    fence_acquire()
    if load_acquire(marks, TURN) != turn:
        return BUSY
    return 0


@kernel(
    types.int64(
        types.int64,
        types.int64,
        array_type(np.uint8, readonly=True),
        array_type(np.uint64, 2),
        _MARKS,
        _ROWS,
    )
)
def _copy_changes(
    first: int,
    end: int,
    watched: npt.NDArray[np.uint8],
    copies: npt.NDArray[np.uint64],
    marks: npt.NDArray[np.uint64],
    changes: npt.NDArray[np.uint64],
) -> int:
    """Copy the watched ones of changes [first, end); how many, or BUSY when some were overwritten.

    `watched` u8 [accounts] says which ids are wanted.
    """
    mask = changes.shape[0] - 1
    count = 0
    id_word = 8
    for number in range(first, end):
        slot = number & mask
        account_id = changes[slot, id_word]
        if account_id < np.uint64(watched.shape[0]) and watched[np.int64(account_id)] != 0:
            for word in range(_ACCOUNT_WORDS):
                copies[count, word] = changes[slot, word]
            count += 1
    fence_acquire()
    made = np.int64(load_acquire(marks, CHANGES_MADE))
    if made - first > changes.shape[0] - _UNPUBLISHED_MAX:
        return BUSY
    return count


@kernel(types.void(WORDS, types.int64, types.uint64))
def set_word(words: npt.NDArray[np.uint64], index: int, value: np.uint64) -> None:
    """Store a word that another process looks at; everything before it is visible first."""
    store_release(words, index, value)
    fence_both()


@kernel(types.uint64(_MARKS, types.int64))
def get_word(words: npt.NDArray[np.uint64], index: int) -> np.uint64:
    """Load a word that another process stores."""
    return load_acquire(words, index)


class ReadBusy(Exception):
    """The books were changed all the time: wait a millisecond and read again."""


class BooksReader:
    """Reads of the books, each as of one moment; for one thread.

    Every method raises ReadBusy after some tries. `applied` and the sequences that come with the
    answers: all commands below are in them.
    """

    def __init__(self, books: Books) -> None:
        self._marks = _frozen(books.marks)
        self._ledger = _frozen(books.ledger.view(np.ndarray))
        self._accounts = _rows(books.accounts, ACCOUNT_BYTES)
        self._assets = _rows(books.assets, ASSET_BYTES)
        self._holds = _rows(books.holds, HOLD_BYTES)
        self._heads = _frozen(books.hold_heads)
        self._changes = _rows(books.changes, ACCOUNT_BYTES)
        self._seed = books.hold_seed
        self._progress = np.zeros(4, np.uint64)
        self._one_id = np.zeros(1, np.uint64)
        self._versions = np.zeros(MAX_READ_ACCOUNTS, np.uint64)
        self._hold = np.zeros(_HOLD_WORDS, np.uint64)

    @property
    def applied(self) -> int:
        """How far the state has come; what is read from now on has all commands below."""
        return int(self._ledger["applied"][0])

    def progress(self) -> tuple[int, int, int, int]:
        """(applied, number of accounts, next hold's id, changes ever made), of one moment."""
        for _ in range(_TRIES):
            if _read_progress(self._progress, self._marks, self._ledger) != BUSY:
                applied, accounts, next_hold, made = self._progress.tolist()
                return applied, accounts, next_hold, made
        raise ReadBusy

    def account(self, account_id: int) -> tuple[np.void | None, int]:
        """(one ACCOUNT record or None, applied). Ids are 0 .. 2^64 - 1."""
        self._one_id[0] = account_id
        rows, applied = self.accounts(self._one_id)
        return (rows[0] if rows["version"][0] else None), applied

    def accounts(self, ids: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[Any], int]:
        """(ACCOUNT [n], zeros for unknown ids; applied). Raises ValueError over 8,192 ids."""
        if len(ids) > MAX_READ_ACCOUNTS:
            raise ValueError(f"{len(ids)} accounts: at most {MAX_READ_ACCOUNTS} in one read")
        copies = np.empty((len(ids), _ACCOUNT_WORDS), np.uint64)
        ids = _frozen(ids)
        for _ in range(_TRIES):
            applied = _copy_accounts(
                ids, copies, self._versions, self._marks, self._ledger, self._accounts
            )
            if applied != BUSY:
                return copies.reshape(-1).view(ACCOUNT), int(applied)
        raise ReadBusy

    def page(
        self, after: int, limit: int, wanted: AccountFilter
    ) -> tuple[npt.NDArray[Any], int, int]:
        """(ACCOUNT [n <= limit] rising by id, the last id looked at or 0 at the end, applied).

        Looks at 262,144 accounts at most, so a page can be short, or empty, before the end.
        """
        applied, known, _, _ = self.progress()
        end = min(after + 1 + SCANNED_AT_ONCE, known + 1)
        found = np.zeros(limit, np.uint64)
        if after >= known:
            return np.zeros(0, ACCOUNT), 0, applied
        count, last = _find_accounts(self._marks, self._accounts, after, end, wanted.words, found)
        rows, _ = self.accounts(found[:count])
        words = rows.view(np.uint64).reshape(-1, _ACCOUNT_WORDS)
        rows = words[wanted.fitting(words)].reshape(-1).view(ACCOUNT)
        return rows, int(last) if last < known else 0, applied

    def hold(self, hold_id: int) -> tuple[np.void | None, bool, int]:
        """(an open HOLD record with zero links or None, whether the id was ever given, applied)."""
        for _ in range(_TRIES):
            applied = _copy_hold(
                np.uint64(hold_id),
                self._hold,
                self._marks,
                self._ledger,
                self._holds,
                self._heads,
                self._seed,
            )
            if applied != BUSY:
                given = 1 <= hold_id < int(self._hold[-1])
                self._hold[-1] = 0
                if not self._hold[0]:
                    return None, given, int(applied)
                return self._hold.copy().view(HOLD)[0], True, int(applied)
        raise ReadBusy

    def assets(self) -> tuple[npt.NDArray[Any], int]:
        """(ASSET [highest registered + 1] by number, applied)."""
        copies = np.zeros((MAX_ASSETS, ASSET_BYTES // 8), np.uint64)
        for _ in range(_TRIES):
            applied = _copy_assets(copies, self._marks, self._ledger, self._assets)
            if applied != BUSY:
                return copies.reshape(-1).view(ASSET), int(applied)
        raise ReadBusy

    @property
    def watching(self) -> int:
        """0 while the writer notes no changes; else another number each time that it began to.

        The same number as before means that all changes up to the newest `progress` were noted.
        """
        return int(get_word(self._marks, WATCHING))

    def changes(
        self, first: int, end: int, watched: npt.NDArray[np.uint8]
    ) -> npt.NDArray[Any] | None:
        """Those of the changes [first, end) whose ids `watched` has set: ACCOUNT [n], in order.

        None when some of them were overwritten before they were read.
        """
        if end - first > CHANGES_CAPACITY - _UNPUBLISHED_MAX:
            return None
        copies = np.empty((end - first, _ACCOUNT_WORDS), np.uint64)
        count = _copy_changes(first, end, watched, copies, self._marks, self._changes)
        if count == BUSY:
            return None
        return copies[:count].reshape(-1).view(ACCOUNT)


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that can't be written through: what reading kernels take."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _rows(array: npt.NDArray[Any], row_bytes: int) -> npt.NDArray[Any]:
    return _frozen(array.view(np.ndarray).view(np.uint64).reshape(-1, row_bytes // 8))


if HOLD_STATE_BYTES != (_HOLD_WORDS - 1) * 8:
    raise ImportError("a hold's state is not all but its last word")
