"""The state machine: balances, assets and the window of recent commands.

Deterministic: the same batches give the same state on every node, however they were batched.
"""

import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from cluster_core.batch import LedgerParameters
from cluster_core.compiled import records, sparse_array
from cluster_core.kernel import CHUNK, LEDGER, apply_batch
from cluster_core.recent_commands import RecentCommands
from cluster_core.record import (
    ACCOUNT,
    ASSET,
    DEFAULT_ASSET,
    DEFAULT_ASSET_DECIMALS,
    DEFAULT_ASSET_SYMBOL,
    MAX_ASSETS,
    MAX_MESSAGE_COMMANDS,
    REPLY,
)
from cluster_core.structure import find_malformed

__all__ = ["StateMachine", "find_malformed"]

_DIGEST_MAGIC: Final = b"RLSTATE1"


class StateMachine:
    """The ledger's state and its kernel.

    `hash_seed` keys the window's hash table: random in servers, and without effect on replies,
    state or digest. One thread at a time may call `apply`.
    """

    def __init__(self, parameters: LedgerParameters, *, hash_seed: int = 0) -> None:
        self.parameters = parameters
        self._ledger = records(np.zeros(1, LEDGER))
        self._ledger["account_capacity"] = parameters.account_capacity
        self._ledger["id_ahead_ns"] = parameters.id_ahead_ns
        self._accounts = sparse_array(parameters.account_capacity + 1, ACCOUNT)
        self._assets = sparse_array(MAX_ASSETS, ASSET)
        self._window = RecentCommands(parameters, hash_seed)
        self._hashes = np.zeros(CHUNK, np.uint64)
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
        apply_batch(
            records(commands),
            words,
            timestamp_ns,
            records(replies),
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
        """Apply a batch and return its REPLY [n], in order. Raises ValueError over 8,192."""
        if len(commands) > len(self._scratch):
            raise ValueError(f"a batch has at most {len(self._scratch)} commands")
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
        return _copy(self._accounts, account_id)

    def asset(self, number: int) -> np.void | None:
        """A copy of one ASSET record, or None."""
        if not 1 <= number < MAX_ASSETS or not self._assets[number]["number"]:
            return None
        return _copy(self._assets, number)

    def asset_numbers(self) -> list[int]:
        """The numbers of all registered assets, rising."""
        highest = int(self._ledger["highest_asset"][0])
        return [int(number) for number in self._assets["number"][: highest + 1] if number]

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
        hasher.update(struct.pack(">QQ", int(state["evicted_high"]), int(state["evicted_low"])))
        for rows in (
            self._accounts[1 : self.accounts + 1],
            self._assets[1 : highest + 1],
            window.ids[:filled],
            window.fingerprints[:filled],
            window.replies[:filled],
        ):
            hasher.update(rows.view(np.uint8).reshape(-1).data)
        return hasher.digest()


def _copy(rows: npt.NDArray[Any], index: int) -> np.void:
    """One record with its unnamed bytes, which numpy's own copy of a record leaves out."""
    record: np.void = np.frombuffer(rows[index : index + 1].tobytes(), rows.dtype)[0]
    return record
