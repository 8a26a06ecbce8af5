"""What history answers: entries, balances and sums, with amounts in the assets' decimals."""

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from client_core.assets import Asset
from client_core.records import Status

_MOVES: Final = frozenset({"DEPOSIT", "WITHDRAW", "TRANSFER", "CAPTURE"})


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a history goes: `[first_sequence, complete_sequence)`, up to a ledger time.

    With `refused` it has refused commands as well.
    """

    first_sequence: int
    complete_sequence: int
    ledger_time_ns: int
    refused: bool


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One command and what it did. `asset` is None for a refused one whose asset isn't known.

    Account 0 is the asset's external account; the only account of an operation is the debit
    account, and so is a new one. Balances are posted ones, after the command. `operation` is named
    as in the contract, "TRANSFER" or "EXPIRE".
    """

    sequence: int
    timestamp_ns: int
    command_id: bytes
    operation: str
    status: Status
    debit_account: int
    credit_account: int
    asset: Asset | None
    amount: Decimal
    debit_balance: Decimal
    credit_balance: Decimal
    hold_id: int
    code: int
    reference: int

    @property
    def accepted(self) -> bool:
        """Whether it was done."""
        return self.status is Status.OK

    def change_of(self, account_id: int) -> Decimal:
        """What it added to an account's posted balance."""
        if not self.accepted or self.operation not in _MOVES:
            return Decimal(0)
        if account_id == self.credit_account:
            return self.amount
        return -self.amount if account_id == self.debit_account else Decimal(0)

    def balance_of(self, account_id: int) -> Decimal:
        """The account's posted balance after it. Raises ValueError for another account's."""
        if account_id == self.debit_account:
            return self.debit_balance
        if account_id == self.credit_account:
            return self.credit_balance
        raise ValueError(f"entry {self.sequence} is not of account {account_id}")


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some entries. `following` begins the next page; None: there is none.

    With rare matches a page can be short, or empty, before the end.
    """

    entries: tuple[HistoryEntry, ...]
    following: int | None
    extent: Extent


@dataclass(frozen=True, slots=True)
class HistoryBalance:
    """A posted balance as of all commands below `below_sequence`.

    Without an entry that is still kept, `asset` and `last_sequence` are None, and `posted` is read
    from `minor`, in minor units, by who knows the asset.
    """

    account_id: int
    asset: Asset | None
    minor: int
    below_sequence: int
    last_sequence: int | None
    extent: Extent

    @property
    def posted(self) -> Decimal:
        """The balance. Raises LookupError when its asset isn't known here and it isn't zero."""
        if self.asset is not None:
            return self.asset.to_decimal(self.minor)
        if self.minor:
            raise LookupError("the asset of this balance is not kept any more: read `minor`")
        return Decimal(0)


@dataclass(frozen=True, slots=True)
class BalancePage:
    """Some accounts' balances, rising by id. `next_after` begins the next page; 0: none."""

    balances: tuple[HistoryBalance, ...]
    next_after: int
    below_sequence: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class FoundCommand:
    """A command by its id. `entry` None: within `extent` it was not done."""

    entry: HistoryEntry | None
    extent: Extent


@dataclass(frozen=True, slots=True)
class DayTotal:
    """What one operation moved on a day of ledger time (UTC)."""

    day: dt.date
    asset: Asset
    operation: str
    commands: int
    amount: Decimal
