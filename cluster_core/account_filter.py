"""Which accounts a page is to have."""

from typing import Final

import numpy as np
import numpy.typing as npt

from cluster_core.record import ACCOUNT, AccountState

LOCKED_STATES: Final = int(AccountState.DEBITS_LOCKED | AccountState.CREDITS_LOCKED)

_ASSET_AND_STATE: Final = ACCOUNT.fields["asset"][1] // 8  # type: ignore[index]


class AccountFilter:
    """What accounts of a page must be: `asset`, `code` and `reference` as they are, or any.

    `state_mask` and `state` are bits of AccountState: those of the mask must be as in `state`.
    `any_of` asks for at least one of its bits.
    """

    def __init__(
        self,
        *,
        asset: int | None = None,
        code: int | None = None,
        reference: int | None = None,
        state_mask: int = 0,
        state: int = 0,
        any_of: int = 0,
    ) -> None:
        mask = value = 0
        if asset is not None:
            mask, value = 0xFFFFFFFF, asset
        mask |= state_mask << 32
        value |= state << 32
        self.words = np.zeros(7, np.uint64)
        self.words[0], self.words[1] = mask, value
        if code is not None:
            self.words[2], self.words[3] = 0xFFFFFFFF, code
        if reference is not None:
            self.words[4], self.words[5] = 0xFFFFFFFF_FFFFFFFF, reference
        self.words[6] = any_of << 32
        self.words.flags.writeable = False

    def fitting(self, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which rows u64 [n, 16] fit; asset, code and reference never change, a state does."""
        word, wanted = rows[:, _ASSET_AND_STATE], self.words
        fits: npt.NDArray[np.bool_] = word & wanted[0] == wanted[1]
        return fits & (word & wanted[6] != 0) if wanted[6] else fits
