"""Routes that move money: deposits, withdrawals, transfers, holds with capture and release."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Path

from client_app.answers import amount_text, done, hold_json
from client_app.documents import Routes
from client_app.problems import Problem
from client_app.routes import Answer, Call
from client_app.schemas import (
    U64_MAX,
    Capture,
    Deposit,
    Hold,
    HoldAnswer,
    Json,
    PostingAnswer,
    Release,
    Transfer,
    Withdraw,
)
from client_core import LINEARIZABLE, Client, LedgerReply, Refused, Status

HoldId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]


class PostingRoutes:
    """Handlers over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def add_to(self, routes: Routes) -> None:
        """Add them all."""
        routes.post("/api/v1/transfers", self.transfer, PostingAnswer)
        routes.post("/api/v1/deposits", self.deposit, PostingAnswer)
        routes.post("/api/v1/withdrawals", self.withdraw, PostingAnswer)
        routes.post("/api/v1/holds", self.hold, PostingAnswer, created=True)
        routes.get("/api/v1/holds/{hold_id}", self.hold_of, HoldAnswer, missing=(404, 410))
        routes.post("/api/v1/holds/{hold_id}/capture", self.capture, PostingAnswer)
        routes.post("/api/v1/holds/{hold_id}/release", self.release, PostingAnswer)

    async def transfer(self, call: Call, body: Transfer) -> Answer:
        """Move money between two accounts of one asset."""
        _check(body.amount, body.debit_account, body.credit_account)
        reply = await self._ledger.transfer(
            body.debit_account,
            body.credit_account,
            body.amount,
            balancing=body.balancing,
            expected_version=body.expected_version,
            code=body.code,
            command_id=call.command_id,
        )
        content = _moved(reply)
        content["debit_account"] = body.debit_account
        content["credit_account"] = body.credit_account
        content["debit_balance"] = amount_text(reply.asset, reply.minor.debit_balance)
        content["credit_balance"] = amount_text(reply.asset, reply.minor.credit_balance)
        return Answer(content, reply.duplicate)

    async def deposit(self, call: Call, body: Deposit) -> Answer:
        """Bring money in from outside the ledger."""
        _check(body.amount)
        reply = await self._ledger.deposit(
            body.credit_account,
            body.amount,
            expected_version=body.expected_version,
            code=body.code,
            command_id=call.command_id,
        )
        content = _moved(reply)
        content["credit_account"] = body.credit_account
        content["credit_balance"] = amount_text(reply.asset, reply.minor.credit_balance)
        return Answer(content, reply.duplicate)

    async def withdraw(self, call: Call, body: Withdraw) -> Answer:
        """Take money out of the ledger."""
        _check(body.amount)
        reply = await self._ledger.withdraw(
            body.debit_account,
            body.amount,
            expected_version=body.expected_version,
            code=body.code,
            command_id=call.command_id,
        )
        content = _moved(reply)
        content["debit_account"] = body.debit_account
        content["debit_balance"] = amount_text(reply.asset, reply.minor.debit_balance)
        return Answer(content, reply.duplicate)

    async def hold(self, call: Call, body: Hold) -> Answer:
        """Reserve money of the debit account for a later capture into the credit account."""
        _check(body.amount, body.debit_account, body.credit_account)
        reply = await self._ledger.hold(
            body.debit_account,
            body.credit_account,
            body.amount,
            timeout_s=body.timeout_s,
            expected_version=body.expected_version,
            code=body.code,
            command_id=call.command_id,
        )
        content = _moved(reply)
        content["hold"] = reply.entity
        content["debit_account"] = body.debit_account
        content["credit_account"] = body.credit_account
        return Answer(content, reply.duplicate, 201, f"/api/v1/holds/{reply.entity}")

    async def hold_of(self, call: Call, hold_id: HoldId) -> Answer:
        """One open hold; 410 for one that was captured, released or has expired."""
        return Answer(hold_json(await self._ledger.hold_of(hold_id)))

    async def capture(self, call: Call, hold_id: HoldId, body: Capture) -> Answer:
        """Move what a hold reserved, all of it or a part."""

        async def capture(asset: int | None) -> LedgerReply:
            return await self._ledger.capture(
                hold_id,
                body.amount,
                balancing=body.balancing,
                keep_rest_held=body.keep_rest_held,
                asset=asset,
                code=body.code,
                command_id=call.command_id,
            )

        reply = await self._of_hold(capture, body.asset)
        content = _moved(reply)
        content["hold"] = hold_id
        content["debit_balance"] = amount_text(reply.asset, reply.minor.debit_balance)
        content["credit_balance"] = amount_text(reply.asset, reply.minor.credit_balance)
        return Answer(content, reply.duplicate)

    async def release(self, call: Call, hold_id: HoldId, body: Release) -> Answer:
        """Free what a hold reserved, all of it or a part."""

        async def release(asset: int | None) -> LedgerReply:
            return await self._ledger.release(
                hold_id, body.amount, asset=asset, code=body.code, command_id=call.command_id
            )

        reply = await self._of_hold(release, body.asset)
        content = _moved(reply)
        content["hold"] = hold_id
        return Answer(content, reply.duplicate)

    async def _of_hold(
        self, run: Callable[[int | None], Awaitable[LedgerReply]], named: int | None
    ) -> LedgerReply:
        """A part of a hold; if that has gone, the first answer of a request that is sent again.

        Nobody knows any more of which asset the hold was. It never opens again, so the command may
        be sent with the amount in each asset's decimals: one of them is the command that was run,
        all others do nothing. Raises Refused.
        """
        try:
            return await run(named)
        except Refused as refused:
            gone = refused.reply is None and refused.status is Status.HOLD_NOT_OPEN
            if not gone or named is not None:
                raise
            failure = refused
        totals = await self._ledger.totals(consistency=LINEARIZABLE)
        by_decimals = {entry.asset.decimals: entry.asset.number for entry in totals.assets}
        for number in by_decimals.values():
            try:
                return await run(number)
            except Refused as refused:
                failure = refused
                if refused.status is not Status.COMMAND_ID_REUSED:
                    break
            except ValueError:  # the amount has more decimals than these
                continue
        raise failure


def _moved(reply: LedgerReply) -> Json:
    content = done(reply)
    content["amount"] = amount_text(reply.asset, reply.minor.amount)
    return content


def _check(amount: str, debit_account: int = 0, credit_account: int = -1) -> None:
    """What the ledger would refuse and client_core doesn't send. Raises Problem."""
    if not amount.strip("0."):
        raise Problem(422, Status.AMOUNT_NOT_POSITIVE.name, "the amount must be above zero")
    if debit_account == credit_account:
        detail = f"debit and credit account are both {debit_account}: name two accounts"
        raise Problem(422, Status.SAME_ACCOUNT.name, detail)
