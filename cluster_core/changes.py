# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The ring of changes: accounts as each command left them, while somebody watches.

Row n ever made lies in slot n & (capacity - 1) and is an ACCOUNT; its `last_sequence` names the
command. Rows of a chain that is undone are taken back. What the kernel made is readable once its
turn is over (`books.TURN`).
"""

from typing import Final

import numpy as np

from cluster_core.books import CHANGES_CAPACITY, CHANGES_MADE, Books
from cluster_core.compiled import called, inlined

_ONE: Final = np.uint64(1)
_SLOT_MASK: Final = np.uint64(CHANGES_CAPACITY - 1)


@inlined
def _note(account_id: int, sequence: int, books: Books) -> None:
    if account_id < 1 or account_id > books.ledger[0].accounts:
        return
    account = books.accounts[account_id]
    if np.int64(account.last_sequence) != sequence:
        return
    made = books.marks[CHANGES_MADE]
    books.changes[np.int64(made & _SLOT_MASK)] = account
    books.marks[CHANGES_MADE] = made + _ONE


@called
def note_changes(debit_id: int, credit_id: int, sequence: int, books: Books) -> None:
    """Add those of two accounts that the command `sequence` has changed; 0 is no account."""
    _note(debit_id, sequence, books)
    if credit_id != debit_id:
        _note(credit_id, sequence, books)
