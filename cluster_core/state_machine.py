"""The state machine: balances, assets and the window of recent commands.

Deterministic: the same batches give the same state on every node, however they were batched.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cluster_core.batch import LedgerParameters
from cluster_core.books import WATCHING, Books, MakeBooks, empty_books
from cluster_core.chains import new_chain
from cluster_core.compiled import records
from cluster_core.holds import NO_SLOT, list_expired, slot_of_hold
from cluster_core.kernel import apply_batch
from cluster_core.recent_commands import MakeWindow, RecentCommands, empty_window
from cluster_core.record import (
    DEFAULT_ASSET,
    DEFAULT_ASSET_DECIMALS,
    DEFAULT_ASSET_SYMBOL,
    HOLD,
    HOLD_STATE_BYTES,
    MAX_ASSETS,
    MAX_MESSAGE_COMMANDS,
    REPLY,
)
from cluster_core.state_digest import add_rows, begin_digest, end_digest, open_holds_by_id
from cluster_core.structure import find_malformed

__all__ = ["StateMachine", "find_malformed"]


class StateMachine:
    """The ledger's state and its kernel.

    `hash_seed` keys the hash tables of command ids and holds: random in servers, and without
    effect on replies, state or digest. `make_books` and `make_window` say in which memory they lie.
    One thread at a time may call `apply`; others read through `reading.BooksReader`.
    """

    def __init__(
        self,
        parameters: LedgerParameters,
        *,
        hash_seed: int = 0,
        make_books: MakeBooks = empty_books,
        make_window: MakeWindow = empty_window,
    ) -> None:
        self.parameters = parameters
        self.hash_seed = hash_seed
        self._books = make_books(parameters, hash_seed)
        self._ledger, self._accounts, self._assets, self._holds, *_ = self._books
        self._window = make_window(parameters, hash_seed)
        self._chain = new_chain()
        self._hashes = np.zeros(MAX_MESSAGE_COMMANDS, np.uint64)
        self._scratch = np.zeros(MAX_MESSAGE_COMMANDS, REPLY)
        self._times_watched = 0
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
        s & (length - 1). The commands must be structurally right (`find_malformed`). Raises
        ValueError over 8,192.
        """
        if len(commands) > len(self._hashes):
            raise ValueError(f"a batch has at most {len(self._hashes)} commands")
        apply_batch(
            records(commands),
            commands.view(np.uint64).reshape(-1, 8),
            timestamp_ns,
            records(replies),
            self._books,
            self._window,
            self._chain,
            self._hashes,
        )

    def apply(self, commands: npt.NDArray[Any], timestamp_ns: int) -> npt.NDArray[Any]:
        """Apply a batch and return its REPLY [n], in order. Raises ValueError over 8,192."""
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

    @property
    def open_holds(self) -> int:
        """Number of holds that are neither captured, released nor expired."""
        return int(self._ledger["open_holds"][0])

    @property
    def next_hold(self) -> int:
        """The id of the next hold to be opened; ids are 1 .. next_hold - 1."""
        return int(self._ledger["next_hold"][0])

    @property
    def next_expiry_ns(self) -> int | None:
        """When the first of the open holds expires, or None while none does."""
        if not self._ledger["timed_holds"][0]:
            return None
        return int(self._holds[int(self._books.hold_heap[1])]["expires_ns"])

    def expired_holds(self, timestamp_ns: int, limit: int) -> npt.NDArray[np.uint64]:
        """Ids u64 [n <= limit] of open holds whose time has come, the earliest first.

        Holds of one time are in the order of their ids. Changes nothing.
        """
        limit = min(limit, int(self._ledger["timed_holds"][0]))
        found, frontier = np.zeros(limit, np.uint64), np.zeros(limit + 1, np.int64)
        return found[: list_expired(timestamp_ns, found, frontier, self._books)]

    def account(self, account_id: int) -> np.void | None:
        """A copy of one ACCOUNT record, or None."""
        if not 1 <= account_id <= self.accounts:
            return None
        return _copy(self._accounts, account_id)

    def asset(self, number: int) -> np.void | None:
        """A copy of one ASSET record, or None."""
        if not 1 <= number < MAX_ASSETS or not self._assets[number]["number"]:
            return None
        return _copy(self._assets, number)

    def hold(self, hold_id: int) -> np.void | None:
        """A copy of one open HOLD record, its links zero, or None."""
        if not 1 <= hold_id < self.next_hold:
            return None
        slot = int(slot_of_hold(np.uint64(hold_id), self._books))
        if slot == NO_SLOT:
            return None
        state = self._holds[slot : slot + 1].tobytes()[:HOLD_STATE_BYTES]
        record: np.void = np.frombuffer(state.ljust(HOLD.itemsize, b"\0"), HOLD)[0]
        return record

    def asset_numbers(self) -> list[int]:
        """The numbers of all registered assets, rising."""
        highest = int(self._ledger["highest_asset"][0])
        return [int(number) for number in self._assets["number"][: highest + 1] if number]

    @property
    def books(self) -> Books:
        """Accounts, assets, holds and counters, for snapshots and readers; read them only."""
        return self._books

    def watch(self, watched: bool) -> None:
        """Note accounts in `books.changes` as commands leave them, or stop it.

        Readers tell by the mark that it was stopped meanwhile: each time it has another number.
        """
        marks = self._books.marks
        if watched and not marks[WATCHING]:
            self._times_watched += 1
            marks[WATCHING] = self._times_watched
        elif not watched:
            marks[WATCHING] = 0

    @property
    def window(self) -> RecentCommands:
        """The window of recent commands, for snapshots; read it only."""
        return self._window

    def digest(self) -> bytes:
        """BLAKE3 of the whole state, in the byte order that ARCHITECTURE.md fixes."""
        ledger, window = self._ledger[0], self._window
        hasher = begin_digest(self.parameters, ledger)
        add_rows(hasher, self._accounts[1 : self.accounts + 1])
        assets = self._assets[1 : int(ledger["highest_asset"]) + 1]
        pool = self._holds[1 : int(ledger["used_hold_slots"]) + 1]
        filled = min(self.window_entries, len(window.ids))
        return end_digest(
            hasher,
            assets,
            open_holds_by_id(pool),
            (window.ids[:filled], window.fingerprints[:filled], window.replies[:filled]),
        )


def _copy(rows: npt.NDArray[Any], index: int) -> np.void:
    """One record with its unnamed bytes, which numpy's own copy of a record leaves out."""
    record: np.void = np.frombuffer(rows[index : index + 1].tobytes(), rows.dtype)[0]
    return record
