"""What a fake ledger remembers of each command that was done, and HistoryService over it.

As an archiver's history that is always complete and keeps everything but refused commands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc

from client_core.records import NO_ID, Fields, Operation, Reply
from client_core.testing.fake_values import FakeAccount, FakeHold
from proto import ledger_pb2

_STATEMENT: Final = 50
_PAGE: Final = 100
_PAGE_MAX: Final = 1_000
_DAYS_MAX: Final = 366
_DAY_NS: Final = 86_400 * 10**9

Abort = Callable[[Any, Any, str, dict[str, str]], NoReturn]


@dataclass(frozen=True, slots=True)
class FakeEntry:
    """One command and what it did, named as in the contract."""

    sequence: int
    timestamp_ns: int
    command_id: bytes
    operation: int
    debit_account: int
    credit_account: int
    amount: int
    debit_balance: int
    credit_balance: int
    hold_id: int
    asset: int
    code: int
    reference: int

    def message(self) -> ledger_pb2.HistoryEntry:
        """In the contract's form."""
        return ledger_pb2.HistoryEntry(
            sequence=self.sequence,
            timestamp_ns=self.timestamp_ns,
            command_id=b"" if self.command_id == NO_ID else self.command_id,
            operation=ledger_pb2.Operation.Name(self.operation),
            status=ledger_pb2.STATUS_OK,
            debit_account=self.debit_account,
            credit_account=self.credit_account,
            amount=self.amount,
            debit_balance=self.debit_balance,
            credit_balance=self.credit_balance,
            hold_id=self.hold_id,
            asset=self.asset,
            code=self.code,
            reference=self.reference,
        )


class FakeHistory:
    """The entries of one ledger, in the order of their sequences; its owner's lock guards them."""

    def __init__(self) -> None:
        self.entries: list[FakeEntry] = []
        self._sides: dict[int, tuple[int, int]] = {}

    def add(
        self,
        sequence: int,
        now_ns: int,
        command: Fields,
        reply: Reply,
        accounts: Mapping[int, FakeAccount],
    ) -> None:
        """Remember a command that was done."""
        debit, credit, hold = command.debit_account, command.credit_account, 0
        if command.operation == Operation.CREATE_ACCOUNT:
            debit = reply.entity
        elif command.operation == Operation.HOLD:
            hold = reply.entity
            self._sides[hold] = debit, credit
        elif command.operation in (Operation.CAPTURE, Operation.RELEASE):
            hold = command.reference
            debit, credit = self._sides[hold]
        assets = [accounts[one].asset for one in (debit, credit) if one in accounts]
        entry = FakeEntry(
            sequence,
            now_ns,
            command.command_id,
            command.operation,
            debit,
            credit,
            reply.amount,
            reply.debit_balance,
            reply.credit_balance,
            hold,
            assets[0] if assets else command.asset,
            command.code,
            command.reference,
        )
        self.entries.append(entry)

    def add_expired(
        self, sequence: int, now_ns: int, hold: FakeHold, accounts: Mapping[int, FakeAccount]
    ) -> None:
        """Remember that a hold was freed at its time's end."""
        debit, credit = accounts[hold.debit_account], accounts[hold.credit_account]
        self.entries.append(
            FakeEntry(
                sequence,
                now_ns,
                NO_ID,
                ledger_pb2.OPERATION_EXPIRE,
                hold.debit_account,
                hold.credit_account,
                hold.remaining,
                debit.posted,
                credit.posted,
                hold.hold_id,
                hold.asset,
                0,
                hold.hold_id,
            )
        )


class FakeHistoryService:
    """HistoryService of a node. `abort` ends a call as nodes do."""

    def __init__(self, node: Any, came: Callable[[str, Any], None], abort: Abort) -> None:
        self._ledger = node.ledger
        self._came = came
        self._abort = abort

    def GetStatement(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("GetStatement", context)
        size = self._size(request.page_size, _STATEMENT, context)
        with self._ledger.changed:
            fitting = [
                entry
                for entry in reversed(self._ledger.history.entries)
                if request.account_id in (entry.debit_account, entry.credit_account)
                and _fits(entry, request)
            ]
            more = len(fitting) > size
            return ledger_pb2.GetStatementResponse(
                entries=[entry.message() for entry in fitting[:size]],
                next_before_sequence=fitting[size - 1].sequence if more else None,
                extent=self._extent(),
            )

    def GetBalance(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("GetBalance", context)
        with self._ledger.changed:
            below = self._below(request.at, context)
            balance = self._balance(request.account_id, below)
            if balance is None:
                what = {"what": f"account {request.account_id}"}
                self._abort(context, grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND", what)
            return ledger_pb2.GetBalanceResponse(
                balance=balance, below_sequence=below, extent=self._extent()
            )

    def ListBalances(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("ListBalances", context)
        size = self._size(request.page_size, _PAGE, context)
        with self._ledger.changed:
            below = self._below(request.at, context)
            wanted = range(request.after_account_id + 1, request.after_account_id + 1 + size)
            known = [self._balance(account_id, below) for account_id in wanted]
            found = [balance for balance in known if balance is not None]
            return ledger_pb2.ListBalancesResponse(
                balances=found,
                next_after_account_id=wanted[-1] if len(found) == size else 0,
                below_sequence=below,
                extent=self._extent(),
            )

    def FindCommand(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("FindCommand", context)
        if len(request.command_id) != len(NO_ID) or request.command_id == NO_ID:
            self._refuse(context)
        with self._ledger.changed:
            entries = self._ledger.history.entries
            found = (entry for entry in entries if entry.command_id == request.command_id)
            entry = next(found, None)
            return ledger_pb2.FindCommandResponse(
                entry=entry.message() if entry else None, extent=self._extent()
            )

    def ListByReference(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("ListByReference", context)
        size = self._size(request.page_size, _STATEMENT, context)
        if not request.reference:
            self._refuse(context)
        with self._ledger.changed:
            fitting = [
                entry
                for entry in self._ledger.history.entries
                if entry.reference == request.reference
                and entry.sequence >= request.from_sequence
                and request.operation in (0, entry.operation)
            ]
            following = fitting[size].sequence if len(fitting) > size else None
            return ledger_pb2.ListByReferenceResponse(
                entries=[entry.message() for entry in fitting[:size]],
                next_sequence=following,
                extent=self._extent(),
            )

    def ListChanges(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("ListChanges", context)
        size = self._size(request.page_size, _PAGE, context)
        with self._ledger.changed:
            entries = self._ledger.history.entries
            page = [entry for entry in entries if entry.sequence >= request.from_sequence][:size]
            following = max(request.from_sequence, self._ledger.applied)
            if len(page) == size:
                following = page[-1].sequence + 1
            return ledger_pb2.ListChangesResponse(
                entries=[entry.message() for entry in page],
                next_sequence=following,
                extent=self._extent(),
            )

    def ListDayTotals(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("ListDayTotals", context)
        if not 0 < request.until_day - request.from_day <= _DAYS_MAX:
            self._refuse(context)
        sums: dict[tuple[int, int, int], tuple[int, int]] = {}
        with self._ledger.changed:
            for entry in self._ledger.history.entries:
                key = entry.timestamp_ns // _DAY_NS, entry.asset, entry.operation
                in_days = request.from_day <= key[0] < request.until_day
                if in_days and request.asset in (0, entry.asset):
                    commands, amount = sums.get(key, (0, 0))
                    sums[key] = commands + 1, amount + entry.amount
            extent = self._extent()
        totals = [
            ledger_pb2.DayTotal(
                day=day,
                asset=asset,
                operation=ledger_pb2.Operation.Name(operation),
                commands=commands,
                amount=str(amount),
            )
            for (day, asset, operation), (commands, amount) in sorted(sums.items())
        ]
        return ledger_pb2.ListDayTotalsResponse(totals=totals, extent=extent)

    def _balance(self, account_id: int, below: int) -> ledger_pb2.HistoryBalance | None:
        for entry in reversed(self._ledger.history.entries):
            if entry.sequence < below and account_id in (entry.debit_account, entry.credit_account):
                is_debit = account_id == entry.debit_account
                return ledger_pb2.HistoryBalance(
                    account_id=account_id,
                    asset=entry.asset,
                    posted=entry.debit_balance if is_debit else entry.credit_balance,
                    last_sequence=entry.sequence,
                )
        return None

    def _below(self, at: Any, context: Any) -> int:
        """The sequence below which everything had happened at a moment."""
        end: int = self._ledger.applied
        match at.WhichOneof("moment"):
            case "sequence":
                if at.sequence >= end:
                    self._beyond(context)
                return int(at.sequence) + 1
            case "timestamp_ns":
                if at.timestamp_ns > self._ledger.time_ns:
                    self._beyond(context)
                entries = self._ledger.history.entries
                later = (one.sequence for one in entries if one.timestamp_ns > at.timestamp_ns)
                return next(later, end)
        return end

    def _beyond(self, context: Any) -> NoReturn:
        told = {"complete_sequence": str(self._ledger.applied)}
        self._abort(context, grpc.StatusCode.OUT_OF_RANGE, "BEYOND_HISTORY", told)

    def _refuse(self, context: Any) -> NoReturn:
        self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {})

    def _size(self, asked: int, default: int, context: Any) -> int:
        if asked > _PAGE_MAX:
            self._refuse(context)
        return asked or default

    def _extent(self) -> ledger_pb2.HistoryExtent:
        return ledger_pb2.HistoryExtent(
            complete_sequence=self._ledger.applied,
            ledger_time_ns=self._ledger.time_ns,
            ledger_id=self._ledger.ledger_id,
        )


def _fits(entry: FakeEntry, request: Any) -> bool:
    given = request.HasField
    return (
        (not given("before_sequence") or entry.sequence < request.before_sequence)
        and (not given("from_ns") or entry.timestamp_ns >= request.from_ns)
        and (not given("until_ns") or entry.timestamp_ns < request.until_ns)
        and request.operation in (0, entry.operation)
        and (not given("code") or entry.code == request.code)
    )
