"""The bank contract's REST paths, as its existing clients use them.

Ids and amounts are numbers or text, amounts in minor units; answers are `{"code", "message"}`. What
is refused has the HTTP status in `code` too. There is no idempotency key: whoever gets no answer
must look at the balance before sending again.
"""

import re
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from client_app.documents import problem_response
from client_app.problems import Problem, http_status_of, problem_of
from client_app.routes import Disconnected, Requests, ThinRoute, read_body
from client_app.schemas import U64_MAX, BankAnswer, BankNumber
from client_core import Client, NotFound, Refused, Status, records

_JSON: Final = (b"content-type", b"application/json")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_UNIT: Final = 1
"""The asset of balances that this contract creates."""

_TEXTS: Final = {
    Status.AMOUNT_NOT_POSITIVE: "Amount must be greater than 0",
    Status.SAME_ACCOUNT: "FromId and ToId must be different",
    Status.INSUFFICIENT_FUNDS: "Insufficient balance",
    Status.ACCOUNT_CAPACITY_REACHED: "No more balances can be created",
}


class _BankRequest(BaseModel):
    model_config = ConfigDict(strict=True)  # fields of other clients' own are left alone


class BankPosting(_BankRequest):
    """The bank contract's deposit and withdrawal."""

    id: BankNumber
    amount: BankNumber


class BankTransfer(_BankRequest):
    """The bank contract's transfer."""

    fromId: BankNumber  # noqa: N815  # the contract's own name
    toId: BankNumber  # noqa: N815
    amount: BankNumber


class BankQuery(_BankRequest):
    """The bank contract's query."""

    id: str


class BankRefused(Exception):
    """What is answered instead of success: HTTP status and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class BankRoute(ThinRoute):
    """A thin route that answers in the bank contract's form, errors included."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        shared: Requests = scope["requests"]
        headers = [_JSON]
        try:
            body = await shared.bodies.read(receive)
            shared.begin()
            try:
                answer = await self._answer(body, scope["query_string"])
            finally:
                shared.end()
            status = 200
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001  # each becomes an answer
            status, text, more = _failed(error)
            answer = {"code": status, "message": f"{status}::{text}"}
            headers += more
        content = to_json(answer)
        headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, body: bytes, query: bytes) -> Any:
        if self._body is not None:
            return await self._endpoint(body=read_body(self._body, body))
        if self._query is not None:
            return await self._endpoint(query=self.query_of(query))
        return await self._endpoint()


class BankRest:
    """Handlers over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def routes(self, app: FastAPI) -> dict[tuple[str, str], ThinRoute]:
        """All routes, which are added to `app` for its document."""
        return {
            (method, path): _route(app, method, path, handler)
            for method, path, handler in (
                ("POST", "/api/v1/balance/command/create", self.create_balance),
                ("POST", "/api/v1/balance/command/deposit", self.deposit_balance),
                ("POST", "/api/v1/balance/command/withdraw", self.withdraw_balance),
                ("POST", "/api/v1/balance/command/transfer", self.transfer_balance),
                ("GET", "/api/v1/balance/query", self.query_balance),
            )
        }

    async def create_balance(self) -> Any:
        """Open an account of asset 1."""
        reply = await self._ledger.create_account(_UNIT)
        return {"code": 0, "message": f"0::Create balance success::{reply.entity}"}

    async def deposit_balance(self, body: BankPosting) -> Any:
        """Bring money in, minor units."""
        account, amount = _account(body.id), _amount(body.amount)
        await self._run(records.deposit(self._ledger.new_id(), account, amount), account)
        return {"code": 0, "message": "0::Deposit success"}

    async def withdraw_balance(self, body: BankPosting) -> Any:
        """Take money out, minor units."""
        account, amount = _account(body.id), _amount(body.amount)
        await self._run(records.withdraw(self._ledger.new_id(), account, amount), account)
        return {"code": 0, "message": "0::Withdraw success"}

    async def transfer_balance(self, body: BankTransfer) -> Any:
        """Move money, minor units."""
        debit, credit = _account(body.fromId), _account(body.toId)
        if debit == credit:
            raise BankRefused(422, _TEXTS[Status.SAME_ACCOUNT])
        command = records.transfer(self._ledger.new_id(), debit, credit, _amount(body.amount))
        await self._run(command, debit, credit)
        return {"code": 0, "message": "0::Transfer success"}

    async def query_balance(self, query: Annotated[BankQuery, Query()]) -> Any:
        """The posted balance, minor units; 0 for an overdrawn one."""
        number = _account(query.id)
        try:
            account = await self._ledger.account(number)
        except NotFound:
            raise BankRefused(404, f"Balance {number} not found") from None
        posted = max(account.asset.to_minor(account.posted), 0)
        return {"code": 0, "message": None, "id": number, "amount": posted}

    async def _run(self, command: bytes, first: int, second: int = 0) -> None:
        """Raises BankRefused, and what client_core raises."""
        reply = await self._ledger.submit(command)
        status = reply.status
        if status is Status.OK:
            return
        if status in {Status.COMMAND_ID_TOO_OLD, Status.COMMAND_ID_IN_FUTURE}:
            reply.raise_for_status(command)
        if status is Status.DEBIT_ACCOUNT_NOT_FOUND:
            raise BankRefused(404, f"Balance {first} not found")
        if status is Status.CREDIT_ACCOUNT_NOT_FOUND:
            raise BankRefused(404, f"Balance {second or first} not found")
        raise BankRefused(http_status_of(status), _TEXTS.get(status) or status.name)


def _route(app: FastAPI, method: str, path: str, handler: Any) -> ThinRoute:
    failed = {"model": BankAnswer, "description": "Refused; the text says why."}
    route = BankRoute(
        path,
        handler,
        methods=[method],
        response_model=BankAnswer,
        responses=dict.fromkeys((400, 404, 409, 413, 422, 500, 502, 503, 504, 507), failed)
        # before it is known whose form to answer in
        | {number: problem_response(number) for number in (401, 403, 429)},
        operation_id=handler.__name__,
        tags=["balance"],
    )
    app.router.routes.append(route)
    return route


def _account(value: int | str) -> int:
    number = _whole(value, "Id")
    if not 1 <= number <= U64_MAX:
        raise BankRefused(404, f"Balance {number} not found")
    return number


def _amount(value: int | str) -> int:
    amount = _whole(value, "Amount")
    if amount <= 0:
        raise BankRefused(422, _TEXTS[Status.AMOUNT_NOT_POSITIVE])
    if amount > records.AMOUNT_MAX:
        raise BankRefused(422, f"Amount must be at most {records.AMOUNT_MAX}")
    return amount


def _whole(value: int | str, name: str) -> int:
    if isinstance(value, int):
        if not -(2**64) < value < 2**64:
            raise BankRefused(422, f"{name} is out of range")
        return value
    if _NUMBER.fullmatch(value) is None:
        raise BankRefused(400, f"{name} must be a whole number")
    return int(value)


def _failed(error: Exception) -> tuple[int, str, list[tuple[bytes, bytes]]]:
    if isinstance(error, BankRefused):
        return error.code, str(error), []
    problem: Problem = problem_of(error)
    status = problem.http_status
    if isinstance(error, ValidationError):
        status = 400
    elif isinstance(error, Refused) and error.status in _TEXTS:
        return status, _TEXTS[error.status], []
    if problem.code == "OUTCOME_UNKNOWN":
        # there is no key to ask again with
        return status, "the outcome is unknown: look at the balances before sending again", []
    return status, problem.detail, problem.headers
