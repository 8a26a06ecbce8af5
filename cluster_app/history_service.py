"""`ringledger.v1.HistoryService`: what the history says, and up to where it goes."""

from typing import Any, Final

import grpc

from cluster_app import history_queries as questions
from cluster_app.history_queries import Balance, Entry, Moment, NotInHistory, StatementFilter
from cluster_app.history_readers import HistoryReaders
from cluster_app.history_store import HistoryStore
from cluster_app.history_tables import Extent
from cluster_app.learner_service import LearnerService
from cluster_app.queries import unknown_account
from cluster_app.rpc import Context, Refusal, invalid, unary
from cluster_app.settings import NodeSettings
from proto import ledger_pb2

HISTORY_SERVICE: Final = "ringledger.v1.HistoryService"

PAGE_MAX: Final = 1_000
DAYS_MAX: Final = 366
_STATEMENT_DEFAULT: Final = 50
_PAGE_DEFAULT: Final = 100
_ID_BYTES: Final = 16
_NO_ID: Final = bytes(_ID_BYTES)
_OPERATIONS: Final = frozenset(ledger_pb2.Operation.values())


class HistoryService:
    """Statements, balances, commands, changes and sums, from the history's database."""

    def __init__(self, readers: HistoryReaders) -> None:
        self._readers = readers

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        methods: dict[str, tuple[Any, Any]] = {
            "GetStatement": (self.get_statement, ledger_pb2.GetStatementRequest),
            "GetBalance": (self.get_balance, ledger_pb2.GetBalanceRequest),
            "ListBalances": (self.list_balances, ledger_pb2.ListBalancesRequest),
            "FindCommand": (self.find_command, ledger_pb2.FindCommandRequest),
            "ListByReference": (self.list_by_reference, ledger_pb2.ListByReferenceRequest),
            "ListChanges": (self.list_changes, ledger_pb2.ListChangesRequest),
            "ListDayTotals": (self.list_day_totals, ledger_pb2.ListDayTotalsRequest),
        }
        return grpc.method_handlers_generic_handler(
            HISTORY_SERVICE, {name: unary(*method) for name, method in methods.items()}
        )

    async def get_statement(
        self, request: ledger_pb2.GetStatementRequest, context: Context
    ) -> ledger_pb2.GetStatementResponse:
        """One page of an account's entries, the newest first."""
        limit = await _page_size(request.page_size, _STATEMENT_DEFAULT, context)
        await _check_operation(request.operation, context)
        wanted = StatementFilter(
            request.before_sequence if request.HasField("before_sequence") else None,
            request.from_ns if request.HasField("from_ns") else None,
            request.until_ns if request.HasField("until_ns") else None,
            request.operation,
            request.code if request.HasField("code") else None,
        )
        (entries, before), extent = await self._readers.read(
            lambda execute, extent: questions.statement(
                execute, extent, request.account_id, wanted, limit
            ),
            context,
        )
        return ledger_pb2.GetStatementResponse(
            entries=[entry_message(entry) for entry in entries],
            next_before_sequence=before,
            extent=extent_message(extent),
        )

    async def get_balance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        """An account's balance at a moment. NOT_FOUND when it wasn't open then."""
        moment = _moment(request.at)
        try:
            (balance, below), extent = await self._readers.read(
                lambda execute, extent: questions.balance(
                    execute, extent, request.account_id, moment
                ),
                context,
            )
        except NotInHistory as error:
            await _not_in_history(error).abort(context)
        if balance is None:
            await unknown_account(request.account_id, below).abort(context)
            raise AssertionError("abort raises")
        return ledger_pb2.GetBalanceResponse(
            balance=_balance_message(balance), below_sequence=below, extent=extent_message(extent)
        )

    async def list_balances(
        self, request: ledger_pb2.ListBalancesRequest, context: Context
    ) -> ledger_pb2.ListBalancesResponse:
        """One page of all accounts' balances at a moment, rising by id."""
        limit = await _page_size(request.page_size, _PAGE_DEFAULT, context)
        moment = _moment(request.at)
        try:
            (balances, after, below), extent = await self._readers.read(
                lambda execute, extent: questions.balances(
                    execute, extent, moment, request.after_account_id, limit
                ),
                context,
            )
        except NotInHistory as error:
            await _not_in_history(error).abort(context)
        return ledger_pb2.ListBalancesResponse(
            balances=[_balance_message(balance) for balance in balances],
            next_after_account_id=after,
            below_sequence=below,
            extent=extent_message(extent),
        )

    async def find_command(
        self, request: ledger_pb2.FindCommandRequest, context: Context
    ) -> ledger_pb2.FindCommandResponse:
        """A command by its id, with its outcome."""
        if len(request.command_id) != _ID_BYTES or request.command_id == _NO_ID:
            await invalid(
                f"command_id has {len(request.command_id)} bytes: give {_ID_BYTES}, not all zero"
            ).abort(context)
        entry, extent = await self._readers.read(
            lambda execute, extent: questions.command(execute, extent, request.command_id), context
        )
        return ledger_pb2.FindCommandResponse(
            entry=None if entry is None else entry_message(entry), extent=extent_message(extent)
        )

    async def list_by_reference(
        self, request: ledger_pb2.ListByReferenceRequest, context: Context
    ) -> ledger_pb2.ListByReferenceResponse:
        """One page of the commands with a reference."""
        limit = await _page_size(request.page_size, _STATEMENT_DEFAULT, context)
        await _check_operation(request.operation, context)
        if not request.reference:
            await invalid("reference is 0, which is none: give another").abort(context)
        (entries, following), extent = await self._readers.read(
            lambda execute, _: questions.by_reference(
                execute, request.reference, request.operation, request.from_sequence, limit
            ),
            context,
        )
        return ledger_pb2.ListByReferenceResponse(
            entries=[entry_message(entry) for entry in entries],
            next_sequence=following,
            extent=extent_message(extent),
        )

    async def list_changes(
        self, request: ledger_pb2.ListChangesRequest, context: Context
    ) -> ledger_pb2.ListChangesResponse:
        """One page of the feed."""
        limit = await _page_size(request.page_size, _PAGE_DEFAULT, context)
        try:
            (entries, following), extent = await self._readers.read(
                lambda execute, extent: questions.changes(
                    execute, extent, request.from_sequence, limit
                ),
                context,
            )
        except NotInHistory as error:
            await _not_in_history(error).abort(context)
        return ledger_pb2.ListChangesResponse(
            entries=[entry_message(entry) for entry in entries],
            next_sequence=following,
            extent=extent_message(extent),
        )

    async def list_day_totals(
        self, request: ledger_pb2.ListDayTotalsRequest, context: Context
    ) -> ledger_pb2.ListDayTotalsResponse:
        """What was moved on some days."""
        if not 0 < request.until_day - request.from_day <= DAYS_MAX:
            await invalid(
                f"days {request.from_day} to {request.until_day}: give 1 to {DAYS_MAX} days, the "
                "last exclusive"
            ).abort(context)
        sums, extent = await self._readers.read(
            lambda execute, _: questions.day_sums(
                execute, request.from_day, request.until_day, request.asset
            ),
            context,
        )
        return ledger_pb2.ListDayTotalsResponse(
            totals=[
                ledger_pb2.DayTotal(
                    day=day,
                    asset=asset,
                    operation=_operation(operation),
                    commands=commands,
                    amount=str(amount),
                )
                for day, asset, operation, commands, amount in sums
            ],
            extent=extent_message(extent),
        )


class ArchiverService(LearnerService):
    """The archiver's server: a learner's, with the history's questions."""

    role = ledger_pb2.ROLE_ARCHIVER
    services = (HISTORY_SERVICE,)

    def __init__(self, settings: NodeSettings, store: HistoryStore) -> None:
        """Serves at once, not ready yet. Raises Fault when the port can't be had."""
        self._readers = HistoryReaders(store)
        super().__init__(settings)

    def more_handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The history's."""
        return (HistoryService(self._readers).handlers(),)

    def close(self) -> None:
        """End the server, its thread and its connections. Idempotent."""
        super().close()
        self._readers.close()


def entry_message(entry: Entry) -> ledger_pb2.HistoryEntry:
    """The typed form of an entry."""
    return ledger_pb2.HistoryEntry(
        sequence=entry.sequence,
        timestamp_ns=entry.timestamp_ns,
        command_id=b"" if entry.command_id == _NO_ID else entry.command_id,
        operation=_operation(entry.operation),
        status=ledger_pb2.Status.Name(entry.status),
        debit_account=entry.debit_account,
        credit_account=entry.credit_account,
        amount=entry.amount,
        debit_balance=entry.debit_balance,
        credit_balance=entry.credit_balance,
        hold_id=entry.hold,
        asset=entry.asset,
        code=entry.code,
        reference=entry.reference,
    )


def extent_message(extent: Extent) -> ledger_pb2.HistoryExtent:
    """The typed form of an extent."""
    return ledger_pb2.HistoryExtent(
        complete_sequence=extent.head.next_sequence,
        ledger_time_ns=extent.head.timestamp_ns,
        first_sequence=extent.first_sequence,
        refused=extent.refused,
        ledger_id=extent.ledger_id,
    )


def _balance_message(balance: Balance) -> ledger_pb2.HistoryBalance:
    return ledger_pb2.HistoryBalance(
        account_id=balance.account_id,
        asset=balance.asset,
        posted=balance.posted,
        last_sequence=balance.last_sequence,
    )


def _operation(number: int) -> Any:
    return ledger_pb2.Operation.Name(number)


def _moment(at: ledger_pb2.HistoryMoment) -> Moment:
    kind = at.WhichOneof("moment")
    if kind == "sequence":
        return Moment(sequence=at.sequence)
    return Moment(timestamp_ns=at.timestamp_ns) if kind == "timestamp_ns" else Moment()


async def _page_size(asked: int, default: int, context: Context) -> int:
    if asked > PAGE_MAX:
        await invalid(f"page_size is {asked}: give 1 to {PAGE_MAX}, or 0 for {default}").abort(
            context
        )
    return asked or default


async def _check_operation(operation: int, context: Context) -> None:
    if operation not in _OPERATIONS:
        await invalid(f"operation {operation} is no Operation").abort(context)


def _not_in_history(error: NotInHistory) -> Refusal:
    return Refusal(
        grpc.StatusCode.OUT_OF_RANGE,
        str(error),
        "BEYOND_HISTORY" if error.beyond else "NOT_KEPT",
    )
