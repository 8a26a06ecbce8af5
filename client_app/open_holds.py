"""The open holds of an account: found by history's entries, asked of the ledger one by one."""

import asyncio
from typing import Annotated, Final

from fastapi import Path
from pydantic import BaseModel

from client_app.admin_history import history_of
from client_app.answers import hold_json
from client_app.documents import Routes
from client_app.routes import Answer, Call
from client_app.schemas import U64_MAX, HoldAnswer
from client_core import Client, NotFound, OpenHold

_LOOKED_AT_MAX: Final = 100
"""The newest holds of the account: each is a query."""

_AT_ONCE: Final = 16

AccountId = Annotated[int, Path(ge=1, le=U64_MAX, examples=[1])]


class OpenHoldsAnswer(BaseModel):
    """Open holds, the newest first; of an account with many only those among its newest 100."""

    account: int
    holds: list[HoldAnswer]


class OpenHoldRoutes:
    """One handler over one ledger and its archiver."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def add_to(self, routes: Routes) -> None:
        """Add it."""
        path = "/api/v1/accounts/{account_id}/holds"
        routes.get(path, self.open_holds, OpenHoldsAnswer, missing=(404,))

    async def open_holds(self, call: Call, account_id: AccountId) -> Answer:
        """The open holds of an account, on its money and for it."""
        page = await history_of(self._ledger).statement(
            account_id, operation="HOLD", page_size=_LOOKED_AT_MAX
        )
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def look_up(hold_id: int) -> OpenHold | None:
            async with at_once:
                try:
                    return await self._ledger.hold_of(hold_id)
                except NotFound:
                    return None

        found = await asyncio.gather(*(look_up(entry.hold_id) for entry in page.entries))
        return Answer({"account": account_id, "holds": [hold_json(hold) for hold in found if hold]})
