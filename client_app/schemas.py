"""What the REST API takes and answers, as pydantic models: strict, and unknown fields refused.

Amounts are text, exact to the asset's decimals: JSON numbers are floats to most programs.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

U64_MAX: Final = 2**64 - 1
U32_MAX: Final = 2**32 - 1
MAX_PAGE: Final = 1_000
MAX_BATCH: Final = 5_000
"""Commands of a batch: 2 MiB of JSON hold them, and one message of the ledger does."""

_UNSIGNED: Final = r"^(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?$"
_SIGNED: Final = r"^-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?$"
_ABOUT_AMOUNT: Final = (
    "Decimal text such as 12.50, with no more decimals than the asset has: never rounded. No "
    "exponent, no sign, no spaces."
)

Id = Annotated[int, Field(ge=1, le=U64_MAX)]
Asset = Annotated[int, Field(ge=1, le=4_095)]
Code = Annotated[int, Field(ge=0, le=U32_MAX, description="Your own.")]
Reference = Annotated[int, Field(ge=0, le=U64_MAX, description="Your own.")]
Amount = Annotated[
    str, Field(pattern=_UNSIGNED, max_length=38, description=_ABOUT_AMOUNT, examples=["12.50"])
]
Balance = Annotated[str, Field(pattern=_SIGNED, max_length=39, examples=["-12.50"])]
Version = Annotated[
    int, Field(ge=0, le=U64_MAX, description="The account's version must be this; 0 for any.")
]
AccountState = Literal["open", "locked", "closed"]


class Request(BaseModel):
    """What a request brings: strict, without unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CreateAccount(Request):
    """Open an account."""

    asset: Asset = 1
    reference: Reference = 0
    code: Code = 0
    model_config = ConfigDict(json_schema_extra={"examples": [{"asset": 1, "reference": 4711}]})


class Deposit(Request):
    """Bring money in from outside."""

    credit_account: Id
    amount: Amount
    expected_version: Version = 0
    code: Code = 0
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"credit_account": 1, "amount": "100.00"}]}
    )


class Withdraw(Request):
    """Take money out of the ledger."""

    debit_account: Id
    amount: Amount
    expected_version: Version = 0
    code: Code = 0
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"debit_account": 1, "amount": "20.00"}]}
    )


class Transfer(Request):
    """Move money between two accounts; `balancing` moves what is available, up to the amount."""

    debit_account: Id
    credit_account: Id
    amount: Amount
    balancing: bool = False
    expected_version: Version = 0
    code: Code = 0
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"debit_account": 1, "credit_account": 2, "amount": "25.00"}]
        }
    )


class Hold(Request):
    """Reserve money, to be captured later; `timeout_s` seconds of ledger time, 0 for ever."""

    debit_account: Id
    credit_account: Id
    amount: Amount
    timeout_s: Annotated[int, Field(ge=0, le=U32_MAX)] = 0
    expected_version: Version = 0
    code: Code = 0
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"debit_account": 1, "credit_account": 2, "amount": "30.00", "timeout_s": 3600}
            ]
        }
    )


HoldAsset = Annotated[
    Asset | None,
    Field(description="The hold's asset: only to repeat a batch after its hold has gone."),
]
Part = Annotated[Amount | None, Field(description="All that is held, if left out.")]


class Capture(Request):
    """Move what a hold reserved; what is not captured is freed, or stays held."""

    amount: Part = None
    balancing: bool = False
    keep_rest_held: bool = False
    asset: HoldAsset = None
    code: Code = 0
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "12.50"}]})


class Release(Request):
    """Free what a hold reserved."""

    amount: Part = None
    asset: HoldAsset = None
    code: Code = 0
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "5.00"}]})


class Lock(Request):
    """Which sides to lock or unlock."""

    debits: bool = True
    credits: bool = True
    model_config = ConfigDict(json_schema_extra={"examples": [{"debits": True, "credits": False}]})


class Close(Request):
    """Close an account for ever: empty and without open holds."""

    code: Code = 0
    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class Limits(Request):
    """Both limits: the least that posted - held may be, and the most that posted may be."""

    floor: Balance
    ceiling: Balance | None
    code: Code = 0
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"floor": "-50.00", "ceiling": None}]}
    )


class RegisterAsset(Request):
    """Register an asset number, for ever."""

    number: Asset
    symbol: Annotated[str, Field(pattern="^[A-Z0-9]{1,8}$")]
    decimals: Annotated[int, Field(ge=0, le=18)]
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"number": 2, "symbol": "EUR", "decimals": 2}]}
    )


class BatchCreateAccount(CreateAccount):
    """A member of a batch."""

    operation: Literal["create_account"]


class BatchDeposit(Deposit):
    """A member of a batch."""

    operation: Literal["deposit"]


class BatchWithdraw(Withdraw):
    """A member of a batch."""

    operation: Literal["withdraw"]


class BatchTransfer(Transfer):
    """A member of a batch."""

    operation: Literal["transfer"]


class BatchHold(Hold):
    """A member of a batch."""

    operation: Literal["hold"]


class BatchCapture(Capture):
    """A member of a batch."""

    operation: Literal["capture"]
    hold: Id


class BatchRelease(Release):
    """A member of a batch."""

    operation: Literal["release"]
    hold: Id


class BatchLock(Lock):
    """A member of a batch."""

    operation: Literal["lock", "unlock"]
    account: Id


class BatchClose(Close):
    """A member of a batch."""

    operation: Literal["close"]
    account: Id


class BatchLimits(Limits):
    """A member of a batch."""

    operation: Literal["set_limits"]
    account: Id


Member = Annotated[
    BatchCreateAccount
    | BatchDeposit
    | BatchWithdraw
    | BatchTransfer
    | BatchHold
    | BatchCapture
    | BatchRelease
    | BatchLock
    | BatchClose
    | BatchLimits,
    Field(discriminator="operation"),
]


class Batch(Request):
    """Commands next to each other; `atomic` is all or nothing."""

    atomic: bool
    commands: Annotated[list[Member], Field(min_length=1, max_length=MAX_BATCH)]
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "atomic": True,
                    "commands": [
                        {"operation": "deposit", "credit_account": 1, "amount": "10.00"},
                        {
                            "operation": "transfer",
                            "debit_account": 1,
                            "credit_account": 2,
                            "amount": "10.00",
                        },
                    ],
                }
            ]
        }
    )


def digits(text: str) -> int:
    """A whole number of plain digits. Raises ValueError.

    Pydantic would also take "+1", "1_0" and "1.0" from a query.
    """
    if len(text) > len(str(U64_MAX)) or not (text.isascii() and text.isdigit()):
        raise ValueError(f"give a whole number of {len(str(U64_MAX))} digits at most")
    return int(text)


_Digits: Final = BeforeValidator(digits)


class AccountsQuery(Request):
    """A page of accounts, rising by id; an account must fit all filters."""

    after: Annotated[
        int,
        Field(ge=0, le=U64_MAX, description="Only ids above; `next_after` of the page before."),
        _Digits,
    ] = 0
    page_size: Annotated[int, Field(ge=1, le=MAX_PAGE), _Digits] = 100
    asset: Annotated[Asset | None, _Digits] = None
    state: AccountState | None = None
    code: Annotated[int | None, Field(ge=0, le=U32_MAX), _Digits] = None
    reference: Annotated[int | None, Field(ge=0, le=U64_MAX), _Digits] = None


# Answers: what the OpenAPI document says of them. Handlers write plain dicts of this form.


class PostingAnswer(BaseModel):
    """A command that was done. Balances are the accounts' posted balances after it."""

    status: Annotated[str, Field(examples=["OK"])]
    sequence: int
    amount: Balance | None = None
    debit_account: int | None = None
    credit_account: int | None = None
    hold: int | None = None
    debit_balance: Balance | None = None
    credit_balance: Balance | None = None


class ChangeAnswer(BaseModel):
    """An account that was opened or changed, or an asset that was registered."""

    status: Annotated[str, Field(examples=["OK"])]
    sequence: int
    account: int | None = None
    asset: int | None = None


class AccountAnswer(BaseModel):
    """One account, amounts in its asset's decimals. `available` is posted - held - floor."""

    account: int
    asset: int
    symbol: str
    state: AccountState
    posted: Balance
    held: Balance
    available: Balance
    floor: Balance
    ceiling: Balance | None
    debits_total: Balance
    credits_total: Balance
    debits_locked: bool
    credits_locked: bool
    open_holds: int
    reference: int
    code: int
    version: int
    last_sequence: int
    opened_ns: int


class AccountsAnswer(BaseModel):
    """A page; it can be short, or empty, before the end: the end is where `next_after` is null."""

    accounts: list[AccountAnswer]
    next_after: int | None


class HoldAnswer(BaseModel):
    """One open hold; `expires_ns` is ledger time in ns since the Unix epoch, 0 for never."""

    hold: int
    debit_account: int
    credit_account: int
    asset: int
    symbol: str
    remaining: Balance
    expires_ns: int
    opened_sequence: int
    code: int


class MemberAnswer(BaseModel):
    """How one command of a batch ended: `status` is OK, or why it was refused."""

    status: str
    sequence: int | None = None
    replayed: bool = False
    amount: Balance | None = None
    account: int | None = None
    hold: int | None = None
    debit_balance: Balance | None = None
    credit_balance: Balance | None = None


class BatchAnswer(BaseModel):
    """The members' answers, in the order of the commands."""

    accepted: int
    refused: int
    results: list[MemberAnswer]


class AssetAnswer(BaseModel):
    """A registered asset."""

    number: int
    symbol: str
    decimals: int


class AssetsAnswer(BaseModel):
    """All registered assets, by number."""

    assets: list[AssetAnswer]


class AssetTotals(AssetAnswer):
    """Sums over all accounts of one asset; the outside's balance is the negative of `posted`."""

    posted: Balance
    held: Balance
    accounts: int
    open_holds: int


class TotalsAnswer(BaseModel):
    """All assets' totals as of one moment."""

    assets: list[AssetTotals]
    accounts: int
    open_holds: int
    applied_sequence: int
    ledger_time_ns: int


class NodeAnswer(BaseModel):
    """One node; what can't be reached has only `endpoint` and `error`."""

    endpoint: str
    reachable: bool
    error: str | None = None
    role: str | None = None
    node_id: str | None = None
    address: str | None = None
    leader: str | None = None
    epoch: int | None = None
    applied_sequence: int | None = None
    lag_commands: int | None = None
    ledger_time_ns: int | None = None


class ClusterAnswer(BaseModel):
    """Every node that this app was told of."""

    nodes: list[NodeAnswer]


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemAnswer(BaseModel):
    """RFC 9457. `code` is the ledger's status name, or the app's own."""

    type: str
    title: str
    status: int
    code: Annotated[str, Field(examples=["INSUFFICIENT_FUNDS"])]
    detail: str
    errors: list[FieldError] | None = None
    command_id: str | None = None
    idempotency_key: str | None = None
    failed_command: int | None = None
    complete_sequence: int | None = None
    ledger_time_ns: int | None = None
    first_sequence: int | None = None


class BankAnswer(BaseModel):
    """The bank contract's answer; amounts there are minor units."""

    code: int
    message: str | None
    id: int | None = None
    amount: int | None = None


BankNumber = Annotated[int | str, Field(examples=[1])]


Json = dict[str, Any]
