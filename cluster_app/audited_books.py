"""What must hold of the books at any moment, checked over all accounts, assets and open holds.

  per asset    the balances and the external account sum to zero; what is held, the open holds and
               the accounts are as many as the asset says; symbols are unique, decimals <= 18
  per account  floor <= posted - held, 0 <= held, posted <= ceiling; its open holds are what it
               holds; its totals are in range; it was changed by what is applied; a closed one
               has and holds nothing
  per hold     two accounts that exist, of its asset; found by its id; in the heap if it expires

Sums are exact: 64-bit numbers are summed in two halves of 32 bits.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.books import Books
from cluster_core.holds import NO_SLOT
from cluster_core.record import AMOUNT_MAX, MAX_ASSET_DECIMALS, MAX_ASSETS, AccountState
from cluster_core.state_machine import StateMachine

CHUNK_ACCOUNTS: Final = 1 << 20
"""Accounts looked at together, so that the sums take little memory of their own."""

LONGEST_BUCKET: Final = 256
"""Holds of one bucket that are looked through; with a keyed hash even 30 are never met."""

_KNOWN_STATE: Final = np.uint16(
    AccountState.DEBITS_LOCKED | AccountState.CREDITS_LOCKED | AccountState.CLOSED
)
_HALF_BITS: Final = 32
_HALF_MASK: Final = (1 << _HALF_BITS) - 1
_Rows = npt.NDArray[Any]


class ExactSums:
    """Sums of int64 values by a small key: `sums[key]` is a Python int of any size."""

    def __init__(self, keys: int) -> None:
        self._high = np.zeros(keys, np.int64)
        self._low = np.zeros(keys, np.int64)

    def add(self, keys: _Rows, values: _Rows) -> None:
        """Add each of `values`, i64 [n], to the sum of its key, [n]."""
        np.add.at(self._high, keys, values >> _HALF_BITS)
        np.add.at(self._low, keys, values & _HALF_MASK)

    def __getitem__(self, key: int) -> int:
        return (int(self._high[key]) << _HALF_BITS) + int(self._low[key])

    def wrapped(self) -> npt.NDArray[np.int64]:
        """All sums, exact but for multiples of 2^64."""
        return (self._high << _HALF_BITS) + self._low


def check_books(state: StateMachine) -> list[str]:
    """What is wrong in the books, at most one line for each kind of fault; empty when sound.

    Nothing may be applied meanwhile.
    """
    # An audit must not ask the code that it audits: it reads the arrays.
    books = state.books
    accounts = books.accounts[1 : state.accounts + 1]
    used = books.holds[1 : int(books.ledger["used_hold_slots"][0]) + 1]
    slots = np.flatnonzero(used["hold_id"] != 0) + 1
    holds = books.holds[slots]
    faults: dict[str, str] = {}
    for kind, fault in (
        *_check_assets(books.assets),
        *_check_accounts(accounts, books.assets, state.applied),
        *_check_holds(books, holds, state),
        *_check_totals(accounts, books.assets, holds),
        *_check_held(accounts, holds),
        *_check_store(books, slots),
    ):
        faults.setdefault(kind, fault)
    return list(faults.values())


def _check_assets(assets: _Rows) -> Iterator[tuple[str, str]]:
    """Each asset for itself, and their symbols."""
    numbers = np.flatnonzero(assets["number"])
    rows = assets[numbers]
    _, firsts = np.unique(rows["symbol"], return_index=True)
    again = np.ones(len(rows), np.bool_)
    again[firsts] = False
    for what, wrong in (
        ("number is not its place", rows["number"] != numbers),
        (f"decimals are over {MAX_ASSET_DECIMALS}", rows["decimals"] > MAX_ASSET_DECIMALS),
        ("symbol is another asset's too", again),
    ):
        for index in np.flatnonzero(wrong)[:1]:
            yield what, f"asset {int(numbers[index])}: {what}"


def _check_accounts(accounts: _Rows, assets: _Rows, applied: int) -> Iterator[tuple[str, str]]:
    """Each account for itself."""
    for start in range(0, len(accounts), CHUNK_ACCOUNTS):
        rows = accounts[start : start + CHUNK_ACCOUNTS]
        posted, held, floor, state = (rows[name] for name in ("posted", "held", "floor", "state"))
        # Unsigned, posted - floor is exact wherever posted >= floor.
        above_floor = posted.astype(np.uint64) - floor.astype(np.uint64)
        closed = (state & AccountState.CLOSED) != 0
        ids = np.arange(start + 1, start + 1 + len(rows), dtype=np.uint64)
        for what, wrong in (
            ("account_id is not its place", rows["account_id"] != ids),
            ("asset is not registered", ~_registered(assets, rows["asset"])),
            ("state has unknown bits", (state & ~_KNOWN_STATE) != 0),
            ("version is zero", rows["version"] == 0),
            ("last_sequence is not applied yet", rows["last_sequence"] >= np.uint64(applied)),
            ("held is negative", held < 0),
            ("posted is above the ceiling", posted > rows["ceiling"]),
            ("posted - held is below the floor", (posted < floor) | (_u64(held) > above_floor)),
            ("it is closed and not empty", closed & ((posted != 0) | (held != 0))),
            ("it is closed and has open holds", closed & (rows["open_holds"] != 0)),
            ("a lifetime total is out of range", _totals_out_of_range(rows)),
        ):
            for index in np.flatnonzero(wrong)[:1]:
                yield what, f"account {start + 1 + int(index)}: {what}"


def _check_holds(books: Books, holds: _Rows, state: StateMachine) -> Iterator[tuple[str, str]]:
    """Each open hold for itself, and against its two accounts."""
    assets, accounts = books.assets, books.accounts[1 : state.accounts + 1]
    debits, credits_ = holds["debit_account"], holds["credit_account"]
    no_debit, no_credit = _outside(accounts, debits), _outside(accounts, credits_)
    for what, wrong in (
        ("nothing is held", holds["remaining"] <= 0),
        ("hold_id was never given", holds["hold_id"] >= np.uint64(state.next_hold)),
        ("its account does not exist", no_debit),
        ("its credit account does not exist", no_credit),
        ("its asset is not registered", ~_registered(assets, holds["asset"])),
        ("its two accounts are one", debits == credits_),
        ("its account is of another asset", _of_other_asset(books, debits, no_debit, holds)),
        (
            "its credit account is of another asset",
            _of_other_asset(books, credits_, no_credit, holds),
        ),
        ("its time is negative", holds["expires_ns"] < 0),
        ("it is not opened yet", holds["opened_sequence"] >= np.uint64(state.applied)),
    ):
        for index in np.flatnonzero(wrong)[:1]:
            yield what, f"hold {int(holds['hold_id'][index])}: {what}"
    if len(np.unique(holds["hold_id"])) != len(holds):
        yield "twice", "a hold id stands twice among the open holds"


def _of_other_asset(books: Books, ids: _Rows, absent: _Rows, holds: _Rows) -> npt.NDArray[np.bool_]:
    """Where an account, of those that exist, is not of its hold's asset."""
    assets = books.accounts["asset"][np.where(absent, 0, ids).astype(np.int64)]
    other: npt.NDArray[np.bool_] = (assets != holds["asset"]) & ~absent
    return other


def _check_store(books: Books, slots: _Rows) -> Iterator[tuple[str, str]]:
    """The hold store's counters; each open hold against the hash table and the heap."""
    ledger, holds = books.ledger[0], books.holds[slots]
    timed = holds["expires_ns"] != 0
    for what, found, wanted in (
        ("open_holds", int(ledger["open_holds"]), len(slots)),
        ("timed_holds", int(ledger["timed_holds"]), int(np.count_nonzero(timed))),
    ):
        if found != wanted:
            yield what, f"ledger: {what} is {found}, there are {wanted}"
    places = _inside(holds["heap_place"], int(ledger["timed_holds"]))
    lost = np.where(timed, books.hold_heap[places] != slots, holds["heap_place"] != 0)
    for what, wrong in (
        ("its id does not lead to it", ~_found_by_id(books, slots)),
        ("the heap does not lead to it", lost),
    ):
        for index in np.flatnonzero(wrong)[:1]:
            yield what, f"hold {int(holds['hold_id'][index])}: {what}"


def _found_by_id(books: Books, slots: _Rows) -> npt.NDArray[np.bool_]:
    """Whether each hold in `slots` is the first with its id in the chain of its id's bucket."""
    ids, capacity = books.holds["hold_id"][slots], len(books.hold_heads)
    at = _inside(books.hold_heads[_buckets_of(ids, books)], capacity)
    found = np.zeros(len(slots), np.bool_)
    searching = np.arange(len(slots))
    for _ in range(LONGEST_BUCKET):
        same = books.holds["hold_id"][at] == ids[searching]
        found[searching[same]] = at[same] == slots[searching[same]]
        following = _inside(books.holds["next"][at], capacity)
        on = ~same & (following != NO_SLOT)
        searching, at = searching[on], following[on]
    return found


def _inside(places: _Rows, last: int) -> npt.NDArray[np.int64]:
    """The places as i64, those beyond the last as 0, which is no place."""
    return np.where(places <= last, places, 0).astype(np.int64)


def _buckets_of(hold_ids: _Rows, books: Books) -> npt.NDArray[np.int64]:
    """The buckets of linear hashing, as `cluster_core/holds.py` says them for one id."""
    mask = books.ledger["hold_mask"][0]
    mixed = (hold_ids ^ books.hold_seed) * np.uint64(0xFF51AFD7ED558CCD)
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    buckets = mixed & mask
    there = buckets < np.uint64(books.ledger["hold_buckets"][0])
    chosen: npt.NDArray[np.int64] = np.where(there, buckets, mixed & (mask >> np.uint64(1))).astype(
        np.int64
    )
    return chosen


def _check_totals(accounts: _Rows, assets: _Rows, holds: _Rows) -> Iterator[tuple[str, str]]:
    """Each asset against all accounts and holds of it."""
    posted, held, of_holds = (ExactSums(MAX_ASSETS) for _ in range(3))
    counts, open_holds = np.zeros(MAX_ASSETS, np.int64), ExactSums(MAX_ASSETS)
    for start in range(0, len(accounts), CHUNK_ACCOUNTS):
        rows = accounts[start : start + CHUNK_ACCOUNTS]
        rows = rows[_registered(assets, rows["asset"])]
        posted.add(rows["asset"], rows["posted"])
        held.add(rows["asset"], rows["held"])
        open_holds.add(rows["asset"], rows["open_holds"].astype(np.int64))
        counts += np.bincount(rows["asset"], minlength=MAX_ASSETS)
    holds = holds[_registered(assets, holds["asset"])]
    of_holds.add(holds["asset"], holds["remaining"])
    for number in map(int, np.flatnonzero(assets["number"])):
        asset = assets[number]
        for what, found, wanted in (
            ("sum of posted + external", posted[number] + int(asset["external"]), 0),
            ("sum of held", held[number], int(asset["held"])),
            ("sum of what its open holds hold", of_holds[number], int(asset["held"])),
            ("open holds of its accounts", open_holds[number], int(asset["open_holds"])),
            ("accounts", int(counts[number]), int(asset["accounts"])),
        ):
            if found != wanted:
                yield what, f"asset {number}: {what} is {found}, not {wanted}"


def _check_held(accounts: _Rows, holds: _Rows) -> Iterator[tuple[str, str]]:
    """Each account that has open holds against them; the totals settle that no other holds."""
    holds = holds[~_outside(accounts, holds["debit_account"])]
    debits, places = np.unique(holds["debit_account"], return_inverse=True)
    sums = ExactSums(len(debits))
    sums.add(places, holds["remaining"])
    counts = np.bincount(places, minlength=len(debits))
    rows = accounts[debits.astype(np.int64) - 1]
    for what, found, kept in (
        ("held", sums.wrapped(), rows["held"]),
        ("open_holds", counts, rows["open_holds"]),
    ):
        for place in np.flatnonzero(found != kept)[:1]:
            wrong = f"{what} is {int(kept[place])}, by its open holds {int(found[place])}"
            yield what, f"account {int(debits[place])}: {wrong}"


def _registered(assets: _Rows, numbers: _Rows) -> npt.NDArray[np.bool_]:
    inside = (numbers > 0) & (numbers < MAX_ASSETS)
    known: npt.NDArray[np.bool_] = inside & (assets["number"][numbers * inside] != 0)
    return known


def _outside(accounts: _Rows, ids: _Rows) -> npt.NDArray[np.bool_]:
    outside: npt.NDArray[np.bool_] = (ids < 1) | (ids > len(accounts))
    return outside


def _totals_out_of_range(rows: _Rows) -> npt.NDArray[np.bool_]:
    """Credits below zero, or debits (credits - posted) below zero or above 2^63 - 1."""
    credits_total, posted = rows["credits_total"], rows["posted"]
    debits = _u64(credits_total) - _u64(posted)
    wrong: npt.NDArray[np.bool_] = (
        (credits_total < 0) | (posted > credits_total) | (debits > np.uint64(AMOUNT_MAX))
    )
    return wrong


def _u64(values: _Rows) -> npt.NDArray[np.uint64]:
    return values.astype(np.uint64)
