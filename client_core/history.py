"""History: what the archiver knows of every command, with amounts in the assets' decimals.

async with History("127.0.0.1:9503") as history:
page = await history.statement(1)
balance = await history.balance(1, at_sequence=1_000)
"""

import asyncio
import datetime as dt
import os
from collections.abc import AsyncGenerator
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self

import grpc

from client_core.answers import read_asset
from client_core.assets import Asset
from client_core.channel import get_status, open_channel, unless_closed
from client_core.endpoints import is_endpoint
from client_core.errors import Behind, NotFound, StreamClosed
from client_core.history_answers import (
    BalancePage,
    DayTotal,
    Extent,
    FoundCommand,
    HistoryBalance,
    HistoryEntry,
    HistoryPage,
)
from client_core.queries import query_error
from client_core.records import COMMAND_ID_BYTES, U64_MAX, Status, check_range
from client_core.security import read_security
from proto import ledger_pb2

_SERVICE: Final = "/ringledger.v1.HistoryService/"
_PAGE_MAX: Final = 1_000
_I64_MAX: Final = 2**63 - 1
_U32_MAX: Final = 2**32 - 1
_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_PREFIX: Final = "OPERATION_"
_LOOK_S: Final = 0.05
"""Between two looks at a history that isn't far enough yet."""


class History:
    """The questions of one archiver at `target`, `HOST:PORT`. For one event loop.

    TLS and token as for `Client`; `timeout_s` is each question's deadline. Questions raise
    InvalidRequest for a moment that the history hasn't reached or doesn't keep, NotFound,
    Unavailable, Unauthenticated, and ValueError for what can't be asked.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:9503",
        *,
        timeout_s: float = 10.0,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        if not 0 < timeout_s < 1e6:
            raise ValueError(f"timeout_s is {timeout_s!r}: give seconds above 0")
        if not is_endpoint(target):
            raise ValueError(
                f"history: {target[:80]!r} is no endpoint: write the archiver's HOST:PORT, such as "
                "127.0.0.1:9503"
            )
        self._target = target
        self._timeout_s = timeout_s
        self._security = read_security(
            tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, token=token
        )
        self._assets: dict[int, Asset] = {}
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Reach the archiver. Raises Unavailable, Unauthenticated."""
        self.open()
        try:
            await self._learn_assets()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Get ready to ask, inside the event loop; the archiver is reached by the first question.

        Idempotent. `async with` does it, and reaches the archiver at once.
        """
        if self._channel is None:
            self._channel = open_channel(self._target, self._security)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def statement(
        self,
        account_id: int,
        *,
        before: int | None = None,
        page_size: int = 50,
        from_ns: int | None = None,
        until_ns: int | None = None,
        operation: str | None = None,
        code: int | None = None,
    ) -> HistoryPage:
        """Entries of an account, the newest first; `before` is the page before's `following`.

        `from_ns` and `until_ns` (exclusive) are ledger time, ns since 1970.
        """
        check_range("account_id", account_id, 1, U64_MAX)
        check_range("page_size", page_size, 1, _PAGE_MAX)
        request = ledger_pb2.GetStatementRequest(
            account_id=account_id,
            page_size=page_size,
            before_sequence=_checked("before", before, 0, U64_MAX),
            from_ns=_checked("from_ns", from_ns, 0, _I64_MAX),
            until_ns=_checked("until_ns", until_ns, 0, _I64_MAX),
            operation=_operation(operation),
            code=_checked("code", code, 0, _U32_MAX),
        )
        answer = await self._ask("GetStatement", request, ledger_pb2.GetStatementResponse)
        more = answer.HasField("next_before_sequence")
        following = answer.next_before_sequence if more else None
        return await self._page(answer, following)

    async def balance(
        self, account_id: int, *, at_sequence: int | None = None, at_ns: int | None = None
    ) -> HistoryBalance:
        """An account's balance after a sequence or a ledger time; now without either.

        Raises NotFound when it wasn't open then.
        """
        check_range("account_id", account_id, 1, U64_MAX)
        request = ledger_pb2.GetBalanceRequest(
            account_id=account_id, at=_moment(at_sequence, at_ns)
        )
        answer = await self._ask("GetBalance", request, ledger_pb2.GetBalanceResponse)
        return await self._balance(answer.balance, answer)

    async def balances(
        self,
        *,
        at_sequence: int | None = None,
        at_ns: int | None = None,
        after: int = 0,
        page_size: int = 100,
    ) -> BalancePage:
        """Balances of all accounts with ids above `after`, as of one moment.

        Ask for further pages with `at_sequence=page.below_sequence - 1`.
        """
        check_range("after", after, 0, U64_MAX)
        check_range("page_size", page_size, 1, _PAGE_MAX)
        request = ledger_pb2.ListBalancesRequest(
            at=_moment(at_sequence, at_ns), after_account_id=after, page_size=page_size
        )
        answer = await self._ask("ListBalances", request, ledger_pb2.ListBalancesResponse)
        return BalancePage(
            tuple([await self._balance(balance, answer) for balance in answer.balances]),
            answer.next_after_account_id,
            answer.below_sequence,
            _extent(answer),
        )

    async def command(self, command_id: bytes, *, at_least: int | None = None) -> FoundCommand:
        """A command by its id: what settles OutcomeUnknown and OutcomeUnsettled.

        Without an entry it wasn't done below `extent.complete_sequence`. With `at_least` the answer
        waits until that is beyond this sequence; raises Behind when it isn't within `timeout_s`.
        """
        if len(command_id) != COMMAND_ID_BYTES or not any(command_id):
            raise ValueError(f"command_id must be {COMMAND_ID_BYTES} bytes, not all zero")
        check_range("at_least", at_least or 0, 0, U64_MAX)
        request = ledger_pb2.FindCommandRequest(command_id=command_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while True:
            answer = await self._ask("FindCommand", request, ledger_pb2.FindCommandResponse)
            complete = answer.extent.complete_sequence
            if at_least is None or complete > at_least:
                break
            if loop.time() + _LOOK_S > deadline:
                raise Behind(
                    f"history is complete below sequence {complete}, and not beyond {at_least} "
                    f"after {self._timeout_s:g} s: look at the archiver's lag"
                )
            await asyncio.sleep(_LOOK_S)
        entry = await self._entry(answer.entry) if answer.HasField("entry") else None
        return FoundCommand(entry, _extent(answer))

    async def by_reference(
        self,
        reference: int,
        *,
        operation: str | None = None,
        from_sequence: int = 0,
        page_size: int = 50,
    ) -> HistoryPage:
        """Commands with a reference, rising by sequence."""
        check_range("reference", reference, 1, U64_MAX)
        check_range("from_sequence", from_sequence, 0, U64_MAX)
        check_range("page_size", page_size, 1, _PAGE_MAX)
        request = ledger_pb2.ListByReferenceRequest(
            reference=reference,
            operation=_operation(operation),
            from_sequence=from_sequence,
            page_size=page_size,
        )
        answer = await self._ask("ListByReference", request, ledger_pb2.ListByReferenceResponse)
        following = answer.next_sequence if answer.HasField("next_sequence") else None
        return await self._page(answer, following)

    async def changes(self, from_sequence: int = 0, *, page_size: int = 100) -> HistoryPage:
        """Entries from a sequence on, rising. `following` is never None: go on there, later too."""
        check_range("from_sequence", from_sequence, 0, U64_MAX)
        check_range("page_size", page_size, 1, _PAGE_MAX)
        request = ledger_pb2.ListChangesRequest(from_sequence=from_sequence, page_size=page_size)
        answer = await self._ask("ListChanges", request, ledger_pb2.ListChangesResponse)
        return await self._page(answer, answer.next_sequence)

    async def statements(
        self, account_id: int, **wanted: Any
    ) -> AsyncGenerator[HistoryEntry, None]:
        """All entries of an account, page by page; takes what `statement` takes."""
        before: int | None = wanted.pop("before", None)
        while True:
            page = await self.statement(account_id, before=before, **wanted)
            for entry in page.entries:
                yield entry
            before = page.following
            if before is None:
                return

    async def day_totals(
        self, from_day: dt.date, until_day: dt.date, *, asset: int = 0
    ) -> list[DayTotal]:
        """What was moved on the days `[from_day, until_day)`, 366 at most."""
        request = ledger_pb2.ListDayTotalsRequest(
            from_day=from_day.toordinal() - _EPOCH_DAY,
            until_day=until_day.toordinal() - _EPOCH_DAY,
            asset=asset,
        )
        answer = await self._ask("ListDayTotals", request, ledger_pb2.ListDayTotalsResponse)
        totals = []
        for total in answer.totals:
            of = await self.asset(total.asset)
            amount = of.to_decimal(int(total.amount))
            day = dt.date.fromordinal(total.day + _EPOCH_DAY)
            totals.append(DayTotal(day, of, _name(total.operation), total.commands, amount))
        return totals

    async def asset(self, number: int) -> Asset:
        """One registered asset. Raises NotFound."""
        if number not in self._assets:
            await self._learn_assets()
        try:
            return self._assets[number]
        except KeyError:
            raise NotFound("ASSET_NOT_FOUND", f"asset {number} is not registered") from None

    async def _learn_assets(self) -> None:
        status = await get_status(self._open, self._timeout_s, self._security)
        self._assets |= {asset.asset: read_asset(asset) for asset in status.assets}

    @property
    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise StreamClosed("this History is not open: use `async with`")
        return self._channel

    async def _ask(self, name: str, request: Any, answer: Any) -> Any:
        if not self._assets:
            await self._learn_assets()
        call = self._open.unary_unary(
            _SERVICE + name,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            async with unless_closed():
                return await call(
                    request, timeout=self._timeout_s, metadata=self._security.metadata
                )
        except grpc.aio.AioRpcError as error:
            raise query_error(error) from error

    async def _page(self, answer: Any, following: int | None) -> HistoryPage:
        entries = [await self._entry(entry) for entry in answer.entries]
        return HistoryPage(tuple(entries), following, _extent(answer))

    async def _entry(self, entry: ledger_pb2.HistoryEntry) -> HistoryEntry:
        asset: Asset | None = None
        status = Status(entry.status)
        # a refused command may name an asset that there isn't
        if entry.asset and (status is Status.OK or entry.asset in self._assets):
            asset = await self.asset(entry.asset)
        amount, debit_balance, credit_balance = (
            asset.to_decimal(minor) if asset else Decimal(minor)
            for minor in (entry.amount, entry.debit_balance, entry.credit_balance)
        )
        return HistoryEntry(
            entry.sequence,
            entry.timestamp_ns,
            entry.command_id,
            _name(entry.operation),
            status,
            entry.debit_account,
            entry.credit_account,
            asset,
            amount,
            debit_balance,
            credit_balance,
            entry.hold_id,
            entry.code,
            entry.reference,
        )

    async def _balance(self, balance: ledger_pb2.HistoryBalance, answer: Any) -> HistoryBalance:
        return HistoryBalance(
            balance.account_id,
            await self.asset(balance.asset) if balance.asset else None,
            balance.posted,
            answer.below_sequence,
            balance.last_sequence if balance.HasField("last_sequence") else None,
            _extent(answer),
        )


def _extent(answer: Any) -> Extent:
    extent: ledger_pb2.HistoryExtent = answer.extent
    return Extent(
        extent.first_sequence, extent.complete_sequence, extent.ledger_time_ns, extent.refused
    )


def _moment(at_sequence: int | None, at_ns: int | None) -> ledger_pb2.HistoryMoment | None:
    if at_sequence is not None and at_ns is not None:
        raise ValueError("give at_sequence or at_ns, not both")
    if at_sequence is not None:
        check_range("at_sequence", at_sequence, 0, U64_MAX)
        return ledger_pb2.HistoryMoment(sequence=at_sequence)
    if at_ns is not None:
        check_range("at_ns", at_ns, 0, _I64_MAX)
        return ledger_pb2.HistoryMoment(timestamp_ns=at_ns)
    return None


def _operation(name: str | None) -> Any:
    if name is None:
        return ledger_pb2.OPERATION_UNSPECIFIED
    try:
        return ledger_pb2.Operation.Value(_PREFIX + name)
    except ValueError:
        raise ValueError(f"operation is {name!r}: give TRANSFER, HOLD, ...") from None


def _name(number: Any) -> str:
    name: str = ledger_pb2.Operation.Name(number)
    return name.removeprefix(_PREFIX)


def _checked(name: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None:
        check_range(name, value, least, most)
    return value
