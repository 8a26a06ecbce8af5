"""The state digest: one name for a whole state, the same on every node.

BLAKE3 in the byte order that ARCHITECTURE.md fixes, in two steps: accounts first, the rest later,
so that a snapshot can hash its copies while the state moves on.
"""

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from cluster_core.batch import LedgerParameters
from cluster_core.record import HOLD, HOLD_STATE_BYTES

_MAGIC: Final = b"RLSTATE1"


def begin_digest(parameters: LedgerParameters, ledger: Any) -> blake3:
    """A hasher that has taken the scalars; `ledger` is one LEDGER record. Accounts come next."""
    hasher = blake3(_MAGIC)
    hasher.update(
        struct.pack(
            "<QQQQQQQQQ",
            parameters.window_capacity,
            parameters.id_ahead_ns,
            parameters.account_capacity,
            parameters.hold_capacity,
            int(ledger["applied"]),
            int(ledger["accounts"]),
            int(ledger["highest_asset"]),
            int(ledger["next_hold"]),
            int(ledger["window_entries"]),
        )
    )
    hasher.update(struct.pack(">QQ", int(ledger["evicted_high"]), int(ledger["evicted_low"])))
    return hasher


def add_rows(hasher: blake3, rows: npt.NDArray[Any]) -> None:
    """Hash an array's bytes as they lie."""
    hasher.update(rows.view(np.uint8).reshape(-1).data)


def end_digest(
    hasher: blake3,
    assets: npt.NDArray[Any],
    open_holds: npt.NDArray[np.uint8],
    window: Iterable[npt.NDArray[Any]],
) -> bytes:
    """The digest, from a hasher that has taken the accounts.

    `assets` ASSET [highest number], `open_holds` u8 [n, 56] rising by id, `window` its filled
    ids, fingerprints and replies.
    """
    add_rows(hasher, assets)
    add_rows(hasher, np.array([len(open_holds)], "<u8"))
    add_rows(hasher, open_holds)
    for rows in window:
        add_rows(hasher, rows)
    return hasher.digest()


def open_holds_by_id(pool: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The open holds' bytes without their links, u8 [n, 56], rising by id, from a HOLD pool."""
    ids = pool["hold_id"]
    taken = np.flatnonzero(ids)
    order = taken[np.argsort(ids[taken])]
    packed = pool.view(np.uint8).reshape(-1, HOLD.itemsize)
    return np.ascontiguousarray(packed[order, :HOLD_STATE_BYTES])
