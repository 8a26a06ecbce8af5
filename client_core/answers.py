"""What `Ledger` answers: small values with exact decimal amounts."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from client_core.assets import Asset
from client_core.records import AMOUNT_MAX, Reply, Status
from proto import ledger_pb2

_ACCOUNT: Final = struct.Struct("<qqqqQQqIH2xQQqII32x")
"""posted, held, floor, ceiling, version, last_sequence, credits_total, asset, state, account_id,
reference, opened_ns, code, open_holds (ACCOUNT in ARCHITECTURE.md)."""

ACCOUNT_BYTES: Final = 128
_ASSET_AT: Final = 56
_DEBITS_LOCKED, _CREDITS_LOCKED, _CLOSED = 1, 2, 4

if _ACCOUNT.size != ACCOUNT_BYTES:
    raise ImportError("record layouts do not match the format")


class AccountState(StrEnum):
    """What `list_accounts` can be asked for: neither locked nor closed, locked, or closed."""

    OPEN = "open"
    LOCKED = "locked"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LedgerReply:
    """How one command ended, its amounts in the asset's decimals.

    `minor` is the packed reply, in minor units. `asset` is None where it could not be known: an
    amount other than zero then raises LookupError when it is read.
    """

    minor: Reply
    asset: Asset | None

    @property
    def status(self) -> Status:
        """How it ended."""
        return self.minor.status

    @property
    def accepted(self) -> bool:
        """True when the ledger did what was asked, now or at its first execution."""
        return self.minor.accepted

    @property
    def duplicate(self) -> bool:
        """True when the command id had been executed before: this is its first reply again."""
        return self.minor.duplicate

    @property
    def sequence(self) -> int:
        """Sequence of the first execution."""
        return self.minor.sequence

    @property
    def entity(self) -> int:
        """The account opened, or the hold opened, captured or released; else 0."""
        return self.minor.entity

    @property
    def amount(self) -> Decimal:
        """What was moved, reserved or freed."""
        return self._decimal(self.minor.amount)

    @property
    def debit_balance(self) -> Decimal:
        """Posted balance of the debit account after the command."""
        return self._decimal(self.minor.debit_balance)

    @property
    def credit_balance(self) -> Decimal:
        """Posted balance of the credit account after the command."""
        return self._decimal(self.minor.credit_balance)

    def _decimal(self, minor: int) -> Decimal:
        if self.asset is not None:
            return self.asset.to_decimal(minor)
        if minor:
            raise LookupError(
                "the asset of this reply is not known (its hold is no longer open): "
                "give asset= with the command, or read `minor`"
            )
        return Decimal(0)


@dataclass(frozen=True, slots=True)
class Account:
    """One account. `available` may be moved out or held now; `ceiling` None is no ceiling."""

    account_id: int
    asset: Asset
    posted: Decimal
    held: Decimal
    available: Decimal
    floor: Decimal
    ceiling: Decimal | None
    debits_total: Decimal
    credits_total: Decimal
    version: int
    last_sequence: int
    reference: int
    code: int
    opened_ns: int
    open_holds: int
    debits_locked: bool
    credits_locked: bool
    closed: bool
    applied_sequence: int
    """All commands below this sequence are in the answer."""


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Some accounts, rising by id. `next_after` begins the next page; 0: there is none.

    With rare matches a page can be short, or empty, before the end.
    """

    accounts: tuple[Account, ...]
    next_after: int
    applied_sequence: int


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """What `watch` gives: accounts as they are after a change, in the order of the changes.

    The first has all of the watched. All changes below `applied_sequence` have been given, apart
    from those from `missed_from_sequence` on, where that is set: this watcher was too slow, or
    another node had to be asked; then `accounts` has the state of all of them again.
    """

    accounts: tuple[Account, ...]
    applied_sequence: int
    missed_from_sequence: int | None


@dataclass(frozen=True, slots=True)
class OpenHold:
    """One open hold; `expires_ns` is ledger time, ns since the Unix epoch, 0 for never."""

    hold_id: int
    debit_account: int
    credit_account: int
    asset: Asset
    remaining: Decimal
    expires_ns: int
    opened_sequence: int
    code: int
    applied_sequence: int


@dataclass(frozen=True, slots=True)
class AssetTotals:
    """Sums over all accounts of one asset; `accounts` counts those ever opened."""

    asset: Asset
    posted: Decimal
    held: Decimal
    accounts: int
    open_holds: int


@dataclass(frozen=True, slots=True)
class Totals:
    """All assets' totals, by number, as of one sequence and ledger time (ns)."""

    assets: tuple[AssetTotals, ...]
    applied_sequence: int
    ledger_time_ns: int

    @property
    def accounts(self) -> int:
        """Accounts ever opened."""
        return sum(totals.accounts for totals in self.assets)

    @property
    def open_holds(self) -> int:
        """Holds that are open now."""
        return sum(totals.open_holds for totals in self.assets)


def read_account(account: ledger_pb2.Account, asset: Asset, applied_sequence: int) -> Account:
    """An answer's account in the decimals of its asset."""
    decimal = asset.to_decimal
    return Account(
        account_id=account.account_id,
        asset=asset,
        posted=decimal(account.posted),
        held=decimal(account.held),
        available=decimal(account.available),
        floor=decimal(account.floor),
        ceiling=None if account.ceiling == AMOUNT_MAX else decimal(account.ceiling),
        debits_total=decimal(account.debits_total),
        credits_total=decimal(account.credits_total),
        version=account.version,
        last_sequence=account.last_sequence,
        reference=account.reference,
        code=account.code,
        opened_ns=account.opened_ns,
        open_holds=account.open_holds,
        debits_locked=account.debits_locked,
        credits_locked=account.credits_locked,
        closed=account.closed,
        applied_sequence=applied_sequence,
    )


def asset_number(record: bytes) -> int:
    """The asset of a packed ACCOUNT; 0, for there is none, of a record that is all zeros."""
    return int.from_bytes(record[_ASSET_AT : _ASSET_AT + 4], "little")


def unpack_account(record: bytes, asset: Asset, applied_sequence: int) -> Account:
    """A packed ACCOUNT, 128 bytes, in the decimals of its asset."""
    fields = _ACCOUNT.unpack(record)
    posted, held, floor, ceiling, version, last_sequence, credits_total, _, state = fields[:9]
    account_id, reference, opened_ns, code, open_holds = fields[9:]
    decimal: Callable[[int], Decimal] = asset.to_decimal
    return Account(
        account_id=account_id,
        asset=asset,
        posted=decimal(posted),
        held=decimal(held),
        available=decimal(posted - held - floor),
        floor=decimal(floor),
        ceiling=None if ceiling == AMOUNT_MAX else decimal(ceiling),
        debits_total=decimal(credits_total - posted),
        credits_total=decimal(credits_total),
        version=version,
        last_sequence=last_sequence,
        reference=reference,
        code=code,
        opened_ns=opened_ns,
        open_holds=open_holds,
        debits_locked=bool(state & _DEBITS_LOCKED),
        credits_locked=bool(state & _CREDITS_LOCKED),
        closed=bool(state & _CLOSED),
        applied_sequence=applied_sequence,
    )


def read_hold(answer: ledger_pb2.GetHoldResponse, asset: Asset) -> OpenHold:
    """The answer's hold in the decimals of its asset."""
    hold = answer.hold
    return OpenHold(
        hold_id=hold.hold_id,
        debit_account=hold.debit_account,
        credit_account=hold.credit_account,
        asset=asset,
        remaining=asset.to_decimal(hold.remaining),
        expires_ns=hold.expires_ns,
        opened_sequence=hold.opened_sequence,
        code=hold.code,
        applied_sequence=answer.applied_sequence,
    )


def read_asset(asset: ledger_pb2.Asset) -> Asset:
    """One asset of an answer."""
    return Asset(asset.asset, asset.symbol, asset.decimals)


def read_totals(answer: ledger_pb2.GetTotalsResponse) -> Totals:
    """The answer's totals, each in the decimals of its asset."""
    totals = []
    for entry in answer.assets:
        asset = read_asset(entry)
        totals.append(
            AssetTotals(
                asset=asset,
                posted=asset.to_decimal(entry.posted_total),
                held=asset.to_decimal(entry.held_total),
                accounts=entry.accounts,
                open_holds=entry.open_holds,
            )
        )
    return Totals(tuple(totals), answer.applied_sequence, answer.ledger_time_ns)
