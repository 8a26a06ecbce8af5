"""Routes of history, asked of the archiver: statements, past balances, commands by their ids."""

from typing import Annotated

from fastapi import Path, Query

from client_app.answers import decimal_text
from client_app.documents import Routes
from client_app.history_schemas import (
    BalanceQuery,
    CommandAnswer,
    PastBalanceAnswer,
    StatementAnswer,
    StatementQuery,
    read_moment,
    time_text,
)
from client_app.problems import Problem
from client_app.routes import Answer, Call, CommandId
from client_app.schemas import U64_MAX, Json
from client_core import Client, Extent, History, HistoryEntry, NotServed

AccountId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]
_ACCOUNT = "/api/v1/accounts/{account_id}"


class HistoryRoutes:
    """Handlers over one ledger and its archiver."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def add_to(self, routes: Routes) -> None:
        """Add them all."""
        routes.get(f"{_ACCOUNT}/statement", self.statement, StatementAnswer, missing=(404,))
        routes.get(
            f"{_ACCOUNT}/balance", self.past_balance, PastBalanceAnswer, missing=(404, 409, 410)
        )
        routes.get("/api/v1/commands/{command_id}", self.command, CommandAnswer, missing=(404,))

    async def statement(
        self, call: Call, account_id: AccountId, query: Annotated[StatementQuery, Query()]
    ) -> Answer:
        """A page of what was done with an account. Follow `next_before` until it is null."""
        page = await history_of(self._ledger).statement(
            account_id,
            before=query.before,
            page_size=query.page_size,
            from_ns=query.from_,
            until_ns=query.to,
            operation=query.operation.upper() if query.operation else None,
            code=query.code,
        )
        entries = [
            entry_json(entry)
            | {
                "change": decimal_text(entry.change_of(account_id)),
                "balance": decimal_text(entry.balance_of(account_id)),
            }
            for entry in page.entries
        ]
        content = {"account": account_id, "entries": entries, "next_before": page.following}
        return Answer(content | extent_json(page.extent))

    async def past_balance(
        self, call: Call, account_id: AccountId, query: Annotated[BalanceQuery, Query()]
    ) -> Answer:
        """An account's posted balance at a sequence or a time, or as new as history has it."""
        sequence, time_ns = (None, None) if query.at is None else read_moment(query.at)
        found = await history_of(self._ledger).balance(
            account_id, at_sequence=sequence, at_ns=time_ns
        )
        # where all its entries were exported, only the ledger knows the asset
        asset = found.asset or (await self._ledger.account(account_id)).asset
        content = {
            "account": account_id,
            "asset": asset.number,
            "symbol": asset.symbol,
            "posted": decimal_text(asset.to_decimal(found.minor)),
            "below_sequence": found.below_sequence,
            "last_sequence": found.last_sequence,
        }
        return Answer(content | extent_json(found.extent))

    async def command(self, call: Call, command_id: CommandId) -> Answer:
        """A command with its outcome: what settles a 504, whose `command_id` is this one's.

        404 says that it was not done below `complete_sequence`.
        """
        wanted = bytes.fromhex(command_id)
        if not any(wanted):
            raise Problem(404, "NOT_FOUND", "an id of zeros is none: such commands have no id")
        found = await history_of(self._ledger).command(wanted)
        extent = extent_json(found.extent)
        if found.entry is None:
            done = f"it was not done below sequence {found.extent.complete_sequence}"
            raise Problem(404, "COMMAND_NOT_FOUND", done, more=extent)
        return Answer({"command": entry_json(found.entry)} | extent)


def history_of(ledger: Client) -> History:
    """The archiver's questions. Raises Problem without an archiver."""
    try:
        return ledger.history
    except NotServed:
        raise Problem(
            501,
            "HISTORY_NOT_SET",
            "set RINGLEDGER_HISTORY_ENDPOINT (--history-endpoint) to the archiver's HOST:PORT, "
            "such as 127.0.0.1:9503",
        ) from None


def extent_json(extent: Extent) -> Json:
    """How far the history goes."""
    return {
        "complete_sequence": extent.complete_sequence,
        "ledger_time_ns": extent.ledger_time_ns,
        "first_sequence": extent.first_sequence,
    }


def entry_json(entry: HistoryEntry) -> Json:
    """One command and what it did."""
    asset = entry.asset
    amounts = {
        "amount": entry.amount,
        "debit_balance": entry.debit_balance,
        "credit_balance": entry.credit_balance,
    }
    return {
        "sequence": entry.sequence,
        "time": time_text(entry.timestamp_ns),
        "timestamp_ns": entry.timestamp_ns,
        "command_id": entry.command_id.hex() or None,
        "operation": entry.operation.lower(),
        "status": entry.status.name,
        "debit_account": entry.debit_account,
        "credit_account": entry.credit_account,
        "asset": asset.number if asset else None,
        "symbol": asset.symbol if asset else None,
        **{name: decimal_text(value) if asset else None for name, value in amounts.items()},
        "hold": entry.hold_id or None,
        "code": entry.code,
        "reference": entry.reference,
    }
