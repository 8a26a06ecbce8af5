"""A person's own accounts: what a token's holder may read and do, and nothing else.

Each handler first compares the accounts in the request with those of the token, and then uses the
admin app's handler. What that tells about other people's accounts is left out of the answer.
"""

from typing import Annotated, Final

from fastapi import Path, Query

from client_app.admin_history import HistoryRoutes
from client_app.admin_postings import PostingRoutes
from client_app.answers import account_json, hold_json
from client_app.auth import Caller
from client_app.documents import Routes
from client_app.history_schemas import StatementQuery
from client_app.open_holds import OpenHoldRoutes, OpenHoldsAnswer
from client_app.problems import Problem
from client_app.routes import Answer, Call
from client_app.schemas import (
    U64_MAX,
    AccountAnswer,
    Capture,
    Deposit,
    Hold,
    HoldAnswer,
    PostingAnswer,
    Release,
    Transfer,
    Withdraw,
)
from client_app.user_schemas import (
    OwnAccountsAnswer,
    OwnCapture,
    OwnDeposit,
    OwnEntry,
    OwnHold,
    OwnRelease,
    OwnStatementAnswer,
    OwnTransfer,
    OwnWithdraw,
)
from client_core import LINEARIZABLE, Client, NotFound, OpenHold, Status

AccountId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]
HoldId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]
_ACCOUNT: Final = "/api/v1/accounts/{account_id}"
_ENTRY_FIELDS: Final = tuple(OwnEntry.model_fields)


class UserRoutes:
    """Handlers over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger
        self._postings = PostingRoutes(ledger)
        self._history = HistoryRoutes(ledger)
        self._holds = OpenHoldRoutes(ledger)

    def add_to(self, routes: Routes) -> None:
        """Add them all."""
        routes.get("/api/v1/accounts", self.accounts, OwnAccountsAnswer)
        routes.get(_ACCOUNT, self.account, AccountAnswer, missing=(404,))
        routes.get(f"{_ACCOUNT}/statement", self.statement, OwnStatementAnswer, missing=(404,))
        routes.get(f"{_ACCOUNT}/holds", self.open_holds, OpenHoldsAnswer, missing=(404,))
        routes.post("/api/v1/deposits", self.deposit, PostingAnswer)
        routes.post("/api/v1/withdrawals", self.withdraw, PostingAnswer)
        routes.post("/api/v1/transfers", self.transfer, PostingAnswer)
        routes.post("/api/v1/holds", self.hold, PostingAnswer, created=True)
        routes.get("/api/v1/holds/{hold_id}", self.hold_of, HoldAnswer, missing=(404, 410))
        routes.post("/api/v1/holds/{hold_id}/capture", self.capture, PostingAnswer)
        routes.post("/api/v1/holds/{hold_id}/release", self.release, PostingAnswer)

    async def accounts(self, call: Call) -> Answer:
        """All accounts of the token; one that the ledger doesn't have is left out."""
        found = await self._ledger.accounts(sorted(_own(call)))
        return Answer(
            {
                "subject": call.caller.removeprefix("user:"),
                "valid_until": int(call.who.until_s),
                "accounts": [account_json(account) for account in found if account],
            }
        )

    async def account(self, call: Call, account_id: AccountId) -> Answer:
        """One account of the token."""
        call.who.check_accounts([account_id])
        return Answer(account_json(await self._ledger.account(account_id)))

    async def statement(
        self, call: Call, account_id: AccountId, query: Annotated[StatementQuery, Query()]
    ) -> Answer:
        """A page of what was done with an account of the token."""
        call.who.check_accounts([account_id])
        answer = await self._history.statement(call, account_id, query)
        # an entry also has the other account's balance, and who sent it
        answer.content["entries"] = [
            {name: entry[name] for name in _ENTRY_FIELDS} for entry in answer.content["entries"]
        ]
        return answer

    async def open_holds(self, call: Call, account_id: AccountId) -> Answer:
        """The open holds on an account's money, and for it."""
        call.who.check_accounts([account_id])
        return await self._holds.open_holds(call, account_id)

    async def deposit(self, call: Call, body: OwnDeposit) -> Answer:
        """Bring money in from outside."""
        call.who.check_accounts([body.credit_account])
        wanted = Deposit(credit_account=body.credit_account, amount=body.amount)
        return await self._postings.deposit(call, wanted)

    async def withdraw(self, call: Call, body: OwnWithdraw) -> Answer:
        """Take money out of the ledger."""
        call.who.check_accounts([body.debit_account])
        wanted = Withdraw(debit_account=body.debit_account, amount=body.amount)
        return await self._postings.withdraw(call, wanted)

    async def transfer(self, call: Call, body: OwnTransfer) -> Answer:
        """Move money to any account; only an own one's balance is told."""
        call.who.check_accounts([body.debit_account])
        wanted = Transfer(
            debit_account=body.debit_account,
            credit_account=body.credit_account,
            amount=body.amount,
        )
        answer = await self._postings.transfer(call, wanted)
        if body.credit_account not in _own(call):
            del answer.content["credit_balance"]
        return answer

    async def hold(self, call: Call, body: OwnHold) -> Answer:
        """Reserve money of one's own: only who it is held for may capture or release it."""
        call.who.check_accounts([body.debit_account])
        wanted = Hold(
            debit_account=body.debit_account,
            credit_account=body.credit_account,
            amount=body.amount,
            timeout_s=body.timeout_s,
        )
        return await self._postings.hold(call, wanted)

    async def hold_of(self, call: Call, hold_id: HoldId) -> Answer:
        """One open hold, of one's own money or for an account of one's own."""
        hold = await self._ledger.hold_of(hold_id, consistency=LINEARIZABLE)
        if not {hold.debit_account, hold.credit_account} & _own(call):
            raise _not_there(hold_id)
        return Answer(hold_json(hold))

    async def capture(self, call: Call, hold_id: HoldId, body: OwnCapture) -> Answer:
        """Take what was held for an account of one's own."""
        hold = await self._held_for(call, hold_id)
        answer = await self._postings.capture(call, hold_id, Capture(amount=body.amount))
        if hold is None or hold.debit_account not in _own(call):
            del answer.content["debit_balance"]
        return answer

    async def release(self, call: Call, hold_id: HoldId, body: OwnRelease) -> Answer:
        """Give back what was held for an account of one's own."""
        await self._held_for(call, hold_id)
        return await self._postings.release(call, hold_id, Release(amount=body.amount))

    async def _held_for(self, call: Call, hold_id: int) -> OpenHold | None:
        """A hold that is for an account of one's own. Raises Problem for any other.

        None for one that has gone: it never opens again, so a command on it does nothing, and finds
        nothing but the first answer of this very caller's request.
        """
        try:
            hold = await self._ledger.hold_of(hold_id, consistency=LINEARIZABLE)
        except NotFound as error:
            if error.reason == Status.HOLD_NOT_OPEN.name:
                return None
            raise
        own = _own(call)
        if hold.credit_account in own:
            return hold
        if hold.debit_account in own:
            detail = "only who the money is held for may capture or release it"
            raise Problem(403, "NOT_YOURS", detail)
        raise _not_there(hold_id)


def _own(call: Call) -> frozenset[int]:
    who: Caller = call.who
    if who.accounts is None:
        raise TypeError("the user app's callers have accounts of their own")
    return who.accounts


def _not_there(hold_id: int) -> Problem:
    """Other people's holds are not even known to exist."""
    return Problem(404, Status.HOLD_NOT_FOUND.name, f"hold {hold_id} does not exist")
