"""What clients read of followers, standby and leader during a campaign, with read-your-writes.

stale    an answer lacks a command that the same client had been answered before it asked
misread  a balance is not what the replay has after exactly the commands that the answer names
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.campaign.archived import balances_after, expected_entries
from tests.campaign.findings import Found
from tests.campaign.replayed import Replayed

_PLACE_BITS: Final = 32


def check_reads(reads: Mapping[str, npt.NDArray[Any]], replayed: Replayed, found: Found) -> None:
    """Compare every client's reads, READ [n] by its name, with the replay."""
    for client, items in reads.items():
        old = np.flatnonzero(items["applied"] < items["known"])
        if len(old):
            item = items[old[0]]
            said = (
                f"{client} read account {item['account']} as of sequence {item['applied']}, and "
                f"had been answered below {item['known']}"
            )
            found.add("stale", len(old), said)
    names = list(reads)
    together = [reads[name] for name in names]
    if not any(len(items) for items in together):
        return
    owners = np.repeat(np.arange(len(names)), [len(items) for items in together])
    items = np.concatenate(together)
    expected = _balances(items, replayed)
    wrong = np.flatnonzero(items["posted"] != expected)
    if len(wrong):
        item = items[wrong[0]]
        said = (
            f"{names[owners[wrong[0]]]} read {item['posted']} of account {item['account']} as of "
            f"sequence {item['applied']}, the replay has {expected[wrong[0]]}"
        )
        found.add("misread", len(wrong), said)


def _balances(items: npt.NDArray[Any], replayed: Replayed) -> npt.NDArray[np.int64]:
    """The replay's balance for each of the items, READ [n]; of a position it doesn't have, -1."""
    result = np.where(items["applied"] == 0, np.int64(0), np.int64(-1))
    sides = np.zeros((replayed.state.next_hold, 2), np.uint64)
    last = np.zeros(replayed.state.accounts + 1, np.int64)
    applied, wanted = items["applied"].astype(np.int64), items["account"].astype(np.int64)
    for first, entries in expected_entries(replayed, sides):
        rows = np.flatnonzero(entries["status"])
        accounts, balances = balances_after(entries[rows])
        keys = accounts << _PLACE_BITS | np.repeat(rows, 2)
        order = np.argsort(keys, kind="stable")
        mine = np.flatnonzero((applied > first) & (applied <= first + len(entries)))
        # the newest entry below the position, if it is the account's own; else an earlier chunk's
        places = np.searchsorted(keys[order], wanted[mine] << _PLACE_BITS | (applied[mine] - first))
        newest = order[np.maximum(places - 1, 0)] if len(order) else np.zeros(len(mine), np.int64)
        here = (places > 0) & (
            accounts[newest] == wanted[mine] if len(accounts) else np.zeros(len(mine), np.bool_)
        )
        result[mine] = last[wanted[mine]]
        result[mine[here]] = balances[newest[here]]
        last[accounts] = balances
    return result
