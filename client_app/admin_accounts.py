"""Routes of accounts: open, read, list, lock, unlock, close, limits."""

from typing import Annotated

from fastapi import Path, Query

from client_app.answers import account_json, done
from client_app.documents import Routes
from client_app.routes import Answer, Call
from client_app.schemas import (
    U64_MAX,
    AccountAnswer,
    AccountsAnswer,
    AccountsQuery,
    ChangeAnswer,
    Close,
    CreateAccount,
    Limits,
    Lock,
)
from client_core import Client, LedgerReply, Side

AccountId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]
_ACCOUNT = "/api/v1/accounts/{account_id}"


class AccountRoutes:
    """Handlers over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def add_to(self, routes: Routes) -> None:
        """Add them all."""
        routes.get(_ACCOUNT, self.account, AccountAnswer, missing=(404,))
        routes.post("/api/v1/accounts", self.create, ChangeAnswer, created=True)
        routes.get("/api/v1/accounts", self.accounts, AccountsAnswer)
        routes.post(f"{_ACCOUNT}/lock", self.lock, ChangeAnswer)
        routes.post(f"{_ACCOUNT}/unlock", self.unlock, ChangeAnswer)
        routes.post(f"{_ACCOUNT}/close", self.close, ChangeAnswer)
        routes.put(f"{_ACCOUNT}/limits", self.limits, ChangeAnswer)

    async def account(self, call: Call, account_id: AccountId) -> Answer:
        """One account. It shows at least what this app has answered before."""
        return Answer(account_json(await self._ledger.account(account_id)))

    async def create(self, call: Call, body: CreateAccount) -> Answer:
        """Open an account of an asset; its id is the ledger's choice."""
        reply = await self._ledger.create_account(
            body.asset, reference=body.reference, code=body.code, command_id=call.command_id
        )
        content = {**done(reply), "account": reply.entity, "asset": body.asset}
        return Answer(content, reply.duplicate, 201, f"/api/v1/accounts/{reply.entity}")

    async def accounts(
        self,
        call: Call,
        query: Annotated[AccountsQuery, Query()],
    ) -> Answer:
        """A page of accounts. Follow `next_after` until it is null."""
        page = await self._ledger.list_accounts(
            after=query.after,
            page_size=query.page_size,
            asset=query.asset,
            state=query.state,
            code=query.code,
            reference=query.reference,
        )
        return Answer(
            {
                "accounts": list(map(account_json, page.accounts)),
                "next_after": page.next_after or None,
            }
        )

    async def lock(self, call: Call, account_id: AccountId, body: Lock) -> Answer:
        """Lock an account against debits, credits or both (an empty body)."""
        reply = await self._ledger.lock(account_id, _side(body), command_id=call.command_id)
        return _changed(reply, account_id)

    async def unlock(self, call: Call, account_id: AccountId, body: Lock) -> Answer:
        """Take locks off an account."""
        reply = await self._ledger.unlock(account_id, _side(body), command_id=call.command_id)
        return _changed(reply, account_id)

    async def close(self, call: Call, account_id: AccountId, body: Close) -> Answer:
        """Close an account for ever: it must be empty and without open holds."""
        reply = await self._ledger.close_account(
            account_id, code=body.code, command_id=call.command_id
        )
        return _changed(reply, account_id)

    async def limits(self, call: Call, account_id: AccountId, body: Limits) -> Answer:
        """Set floor and ceiling; a floor below zero is a credit line, a null ceiling none."""
        reply = await self._ledger.set_limits(
            account_id,
            floor=body.floor,
            ceiling=body.ceiling,
            code=body.code,
            command_id=call.command_id,
        )
        return _changed(reply, account_id)


def _side(body: Lock) -> Side:
    """Raises ValueError for neither side."""
    if not body.debits and not body.credits:
        raise ValueError("debits and credits are both false: name a side")
    return (Side.DEBITS if body.debits else Side(0)) | (Side.CREDITS if body.credits else Side(0))


def _changed(reply: LedgerReply, account_id: int) -> Answer:
    return Answer({**done(reply), "account": account_id}, reply.duplicate)
