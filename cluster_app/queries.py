"""Queries of `ringledger.v1`, answered from the applied state of this node."""

from typing import Final

import grpc
import numpy as np

from cluster_app.asset_messages import AssetMessages
from cluster_app.consistency import Reads, satisfy
from cluster_app.rpc import Context, Refusal, invalid, unary, unary_stream
from cluster_app.state_view import StateView
from cluster_app.typed import read_account, read_hold
from cluster_app.watching import Watches
from cluster_core.account_filter import LOCKED_STATES, AccountFilter
from cluster_core.reading import MAX_READ_ACCOUNTS
from cluster_core.record import AccountState
from proto import ledger_pb2

QUERY_SERVICE: Final = "ringledger.v1.QueryService"

PAGE_MAX: Final = 1_000
_PAGE_DEFAULT: Final = 100
_ID_BYTES: Final = 8
_CLOSED: Final = int(AccountState.CLOSED)
_STATES: Final = {
    ledger_pb2.ACCOUNT_STATE_FILTER_UNSPECIFIED: (0, 0, 0),
    ledger_pb2.ACCOUNT_STATE_FILTER_OPEN: (_CLOSED | LOCKED_STATES, 0, 0),
    ledger_pb2.ACCOUNT_STATE_FILTER_LOCKED: (_CLOSED, 0, LOCKED_STATES),
    ledger_pb2.ACCOUNT_STATE_FILTER_CLOSED: (_CLOSED, _CLOSED, 0),
}
"""(bits that are looked at, what they must be, bits of which one must be set)."""


class QueryService:
    """Accounts, holds and totals, by id, in pages, and as they change.

    `reads` makes a read wait for what it demands.
    """

    def __init__(self, view: StateView, reads: Reads, watches: Watches) -> None:
        self._view = view
        self._reader = view.reader
        self._reads = reads
        self._watches = watches
        self._assets = AssetMessages(view.reader)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            QUERY_SERVICE,
            {
                "GetAccount": unary(self.get_account, ledger_pb2.GetAccountRequest),
                "GetAccounts": unary(self.get_accounts, ledger_pb2.GetAccountsRequest),
                "ListAccounts": unary(self.list_accounts, ledger_pb2.ListAccountsRequest),
                "GetHold": unary(self.get_hold, ledger_pb2.GetHoldRequest),
                "GetTotals": unary(self.get_totals, ledger_pb2.GetTotalsRequest),
                "Watch": unary_stream(self.watch, ledger_pb2.WatchRequest),
            },
        )

    async def get_account(
        self, request: ledger_pb2.GetAccountRequest, context: Context
    ) -> ledger_pb2.GetAccountResponse:
        """The account and the sequence up to which it is known. NOT_FOUND for an unknown id."""
        await satisfy(request.consistency, context, self._reads)
        account, applied = await self._view.read(
            lambda: self._reader.account(request.account_id), context
        )
        if account is None:
            await unknown_account(request.account_id, applied).abort(context)
        return ledger_pb2.GetAccountResponse(
            account=read_account(account), applied_sequence=applied
        )

    async def get_accounts(
        self, request: ledger_pb2.GetAccountsRequest, context: Context
    ) -> ledger_pb2.GetAccountsResponse:
        """Many accounts as of one moment, packed; zeros for unknown ids."""
        packed = request.account_ids
        if not 0 < len(packed) <= MAX_READ_ACCOUNTS * _ID_BYTES or len(packed) % _ID_BYTES:
            await invalid(
                f"account_ids has {len(packed)} bytes: give 8 for each of 1 to "
                f"{MAX_READ_ACCOUNTS} ids, little-endian"
            ).abort(context)
        await satisfy(request.consistency, context, self._reads)
        ids = np.frombuffer(packed, "<u8")
        rows, applied = await self._view.read(lambda: self._reader.accounts(ids), context)
        return ledger_pb2.GetAccountsResponse(accounts=rows.tobytes(), applied_sequence=applied)

    async def list_accounts(
        self, request: ledger_pb2.ListAccountsRequest, context: Context
    ) -> ledger_pb2.ListAccountsResponse:
        """One page, rising by id."""
        if request.page_size > PAGE_MAX:
            await invalid(
                f"page_size is {request.page_size}: give 1 to {PAGE_MAX}, or 0 for {_PAGE_DEFAULT}"
            ).abort(context)
        if request.state not in _STATES:
            await invalid(f"state {request.state} is no AccountStateFilter").abort(context)
        await satisfy(request.consistency, context, self._reads)
        mask, state, any_of = _STATES[request.state]
        wanted = AccountFilter(
            asset=request.asset if request.HasField("asset") else None,
            code=request.code if request.HasField("code") else None,
            reference=request.reference if request.HasField("reference") else None,
            state_mask=mask,
            state=state,
            any_of=any_of,
        )
        limit = request.page_size or _PAGE_DEFAULT
        rows, after, applied = await self._view.read(
            lambda: self._reader.page(request.after_account_id, limit, wanted), context
        )
        return ledger_pb2.ListAccountsResponse(
            accounts=[read_account(row) for row in rows],
            next_after_account_id=after,
            applied_sequence=applied,
        )

    async def get_hold(
        self, request: ledger_pb2.GetHoldRequest, context: Context
    ) -> ledger_pb2.GetHoldResponse:
        """The open hold and the sequence up to which it is known.

        NOT_FOUND tells an id that was never given (HOLD_NOT_FOUND) from a hold that was captured,
        released or has expired (HOLD_NOT_OPEN).
        """
        await satisfy(request.consistency, context, self._reads)
        hold, given, applied = await self._view.read(
            lambda: self._reader.hold(request.hold_id), context
        )
        if hold is None:
            await Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"hold {request.hold_id} {'is no longer open' if given else 'does not exist'}",
                "HOLD_NOT_OPEN" if given else "HOLD_NOT_FOUND",
                {"hold_id": str(request.hold_id), "applied_sequence": str(applied)},
            ).abort(context)
        return ledger_pb2.GetHoldResponse(hold=read_hold(hold), applied_sequence=applied)

    async def get_totals(
        self, request: ledger_pb2.GetTotalsRequest, context: Context
    ) -> ledger_pb2.GetTotalsResponse:
        """Every asset with its sums and counts, kept as the ledger changes: no scan."""
        await satisfy(request.consistency, context, self._reads)
        assets, applied = await self._view.read(self._assets.read, context)
        return ledger_pb2.GetTotalsResponse(
            assets=assets,
            applied_sequence=applied,
            ledger_time_ns=self._view.progress().position.timestamp_ns,
        )

    async def watch(self, request: ledger_pb2.WatchRequest, context: Context) -> None:
        """The accounts as they are, then their changes as these are applied."""
        refusal = self._watches.refuse(len(request.account_ids))
        if refusal is not None:
            await refusal.abort(context)
        await satisfy(request.consistency, context, self._reads)
        await self._watches.serve(list(dict.fromkeys(request.account_ids)), context)


def unknown_account(account_id: int, applied: int) -> Refusal:
    """No account has had this id yet."""
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        f"account {account_id} does not exist",
        "ACCOUNT_NOT_FOUND",
        {"account_id": str(account_id), "applied_sequence": str(applied)},
    )
