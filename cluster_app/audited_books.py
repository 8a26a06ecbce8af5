"""What must hold of the books at any moment, checked over all accounts, assets and open holds.

  per asset    the balances and the external account sum to zero; what is held, the open holds and
               the accounts are as many as the asset says
  per account  floor <= posted - held, 0 <= held, posted <= ceiling; its open holds are what it
               holds; its totals are in range

Sums are exact: 64-bit numbers are summed in two halves of 32 bits.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.record import AMOUNT_MAX, MAX_ASSETS
from cluster_core.state_machine import StateMachine

CHUNK_ACCOUNTS: Final = 1 << 20
"""Accounts looked at together, so that the sums take little memory of their own."""

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
    books = state._books
    accounts = books.accounts[1 : state.accounts + 1]
    assets = books.assets
    used = books.holds[1 : int(books.ledger["used_hold_slots"][0]) + 1]
    holds = used[used["hold_id"] != 0]
    faults: dict[str, str] = {}
    for kind, fault in (
        *_check_records(accounts, assets, holds, state.next_hold),
        *_check_totals(accounts, assets, holds),
        *_check_held(accounts, holds),
    ):
        faults.setdefault(kind, fault)
    return list(faults.values())


def _check_records(
    accounts: _Rows, assets: _Rows, holds: _Rows, next_hold: int
) -> Iterator[tuple[str, str]]:
    """Each account and hold for itself."""
    for start in range(0, len(accounts), CHUNK_ACCOUNTS):
        rows = accounts[start : start + CHUNK_ACCOUNTS]
        posted, held, floor = rows["posted"], rows["held"], rows["floor"]
        # Unsigned, posted - floor is exact wherever posted >= floor.
        above_floor = posted.astype(np.uint64) - floor.astype(np.uint64)
        ids = np.arange(start + 1, start + 1 + len(rows), dtype=np.uint64)
        for what, wrong in (
            ("account_id is not its place", rows["account_id"] != ids),
            ("asset is not registered", ~_registered(assets, rows["asset"])),
            ("held is negative", held < 0),
            ("posted is above the ceiling", posted > rows["ceiling"]),
            ("posted - held is below the floor", (posted < floor) | (_u64(held) > above_floor)),
            ("a lifetime total is out of range", _totals_out_of_range(rows)),
        ):
            for index in np.flatnonzero(wrong)[:1]:
                yield what, f"account {start + 1 + int(index)}: {what}"
    for what, wrong in (
        ("nothing is held", holds["remaining"] <= 0),
        ("hold_id was never given", holds["hold_id"] >= next_hold),
        ("its account does not exist", _outside(accounts, holds["debit_account"])),
        ("its credit account does not exist", _outside(accounts, holds["credit_account"])),
        ("its asset is not registered", ~_registered(assets, holds["asset"])),
    ):
        for index in np.flatnonzero(wrong)[:1]:
            yield what, f"hold {int(holds['hold_id'][index])}: {what}"
    if len(np.unique(holds["hold_id"])) != len(holds):
        yield "twice", "a hold id stands twice among the open holds"


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
