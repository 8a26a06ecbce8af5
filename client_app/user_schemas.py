"""What the user app takes and answers: less than the admin app, and nobody else's balances."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from client_app.history_schemas import Extent, OperationName
from client_app.schemas import U32_MAX, AccountAnswer, Amount, Balance, Id, Part, Request


class OwnDeposit(Request):
    """Bring money in from outside to an account of one's own."""

    credit_account: Id
    amount: Amount
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"credit_account": 1, "amount": "100.00"}]}
    )


class OwnWithdraw(Request):
    """Take money of an account of one's own out of the ledger."""

    debit_account: Id
    amount: Amount
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"debit_account": 1, "amount": "20.00"}]}
    )


class OwnTransfer(Request):
    """Move money of an account of one's own to any account."""

    debit_account: Id
    credit_account: Id
    amount: Amount
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"debit_account": 1, "credit_account": 2, "amount": "25.00"}]
        }
    )


class OwnHold(Request):
    """Reserve money of an account of one's own for another's; `timeout_s` 0: until it is used."""

    debit_account: Id
    credit_account: Id
    amount: Amount
    timeout_s: Annotated[int, Field(ge=0, le=U32_MAX)] = 0
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"debit_account": 1, "credit_account": 2, "amount": "30.00", "timeout_s": 3600}
            ]
        }
    )


class OwnCapture(Request):
    """Take what was held for an account of one's own, all or a part; the rest is freed."""

    amount: Part = None
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "12.50"}]})


class OwnRelease(Request):
    """Give back what was held for an account of one's own, all or a part."""

    amount: Part = None
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "5.00"}]})


class OwnAccountsAnswer(BaseModel):
    """Whose token it is, until when (seconds since the Unix epoch), and all its accounts."""

    subject: str
    valid_until: int
    accounts: list[AccountAnswer]


class OwnEntry(BaseModel):
    """One entry: what it added to the posted balance, and that after it."""

    sequence: int
    time: str
    timestamp_ns: int
    operation: OperationName
    debit_account: int
    credit_account: int
    symbol: str | None
    amount: Balance | None
    change: Balance
    balance: Balance
    hold: int | None


class OwnStatementAnswer(Extent):
    """A page; it can be short, or empty, before the end: the end is where `next_before` is null."""

    account: int
    entries: list[OwnEntry]
    next_before: int | None
