"""What the routes of history take and answer, as pydantic models."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from client_app.schemas import U32_MAX, U64_MAX, Balance, Request, digits

_PAGE_MAX: Final = 1_000
_NS_PER_S: Final = 10**9
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = (2**63 - 1) // _NS_PER_S
_TIME: Final = (
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_TIME_FORM: Final = re.compile(_TIME)
_ABOUT_TIME: Final = "RFC 3339, up to ns; write the + of an offset as %2B, or use Z."
_EXAMPLE_TIME: Final = "2026-11-21T14:00:00Z"

OPERATIONS: Final = (
    "create_account",
    "deposit",
    "withdraw",
    "transfer",
    "register_asset",
    "hold",
    "capture",
    "release",
    "expire",
    "lock",
    "unlock",
    "close",
    "set_limits",
)
OperationName = Literal[OPERATIONS]  # type: ignore[valid-type]  # a tuple of names is its form


def read_time_ns(text: str) -> int:
    """An RFC 3339 time as ns since the Unix epoch, exactly. Raises ValueError."""
    given = text
    if len(text) > 6 and text[-6] == " ":  # a plus that nobody escaped
        text = f"{text[:-6]}+{text[-5:]}"
    if _TIME_FORM.fullmatch(text) is None:
        raise ValueError(f"{given[:40]!r} is no time: write it as {_EXAMPLE_TIME}. {_ABOUT_TIME}")
    zone = "+00:00" if text.endswith("Z") else text[-6:]
    fraction = text[19:].removesuffix("Z").removesuffix(zone)[1:]
    try:
        moment = datetime.fromisoformat(text[:19] + zone)
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise ValueError(f"{given[:40]!r} is no day of the calendar") from None
    if not 0 <= seconds < _LAST_SECOND:
        raise ValueError(f"{given[:40]!r}: give a time from 1970 to 2262")
    return seconds * _NS_PER_S + int(fraction.ljust(9, "0"))


def time_text(timestamp_ns: int) -> str:
    """Ns since the Unix epoch as RFC 3339, to the ns."""
    seconds, ns = divmod(timestamp_ns, _NS_PER_S)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{ns:09}Z"


def read_moment(text: str) -> tuple[int | None, int | None]:
    """(sequence, None) of digits, (None, ns) of a time. Raises ValueError."""
    if text.isascii() and text.isdigit():
        sequence = digits(text)
        if sequence > U64_MAX:
            raise ValueError("a sequence is 2^64 - 1 at most")
        return sequence, None
    return None, read_time_ns(text)


Time = Annotated[
    int,
    BeforeValidator(read_time_ns),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{_TIME}$"}),
]
_Digits: Final = BeforeValidator(digits)


class StatementQuery(Request):
    """An account's entries, the newest first; one must fit all filters."""

    before: Annotated[
        int | None,
        Field(ge=0, le=U64_MAX, description="Only sequences below; the last page's `next_before`."),
        _Digits,
    ] = None
    page_size: Annotated[int, Field(ge=1, le=_PAGE_MAX), _Digits] = 50
    from_: Annotated[
        Time | None,
        Field(alias="from", description=f"Ledger time, inclusive. {_ABOUT_TIME}"),
    ] = None
    to: Annotated[Time | None, Field(description=f"Ledger time, exclusive. {_ABOUT_TIME}")] = None
    operation: OperationName | None = None
    code: Annotated[int | None, Field(ge=0, le=U32_MAX), _Digits] = None


def _moment_of(text: str) -> str:
    read_moment(text)
    return text


class BalanceQuery(Request):
    """When: now, without it."""

    at: Annotated[
        str | None,
        BeforeValidator(_moment_of),
        Field(
            description="After the command of this sequence, or after all of this ledger time "
            f"({_ABOUT_TIME})",
            examples=[_EXAMPLE_TIME, "1000"],
        ),
        WithJsonSchema({"type": "string", "pattern": f"^([0-9]{{1,19}}|{_TIME})$"}),
    ] = None


class Extent(BaseModel):
    """How far history goes: it has all commands below `complete_sequence`."""

    complete_sequence: Annotated[int, Field(examples=[1042])]
    ledger_time_ns: Annotated[
        int, Field(description="Ledger time of the newest, ns since the Unix epoch.")
    ]
    first_sequence: Annotated[
        int, Field(description="Entries below are not kept any more, or never were.")
    ]


class EntryAnswer(BaseModel):
    """One command and what it did. Amounts are null where a refused one's asset isn't known.

    Account 0 is the outside; the only account of an operation is `debit_account`, and so is a new
    one. Balances are posted ones, after the command.
    """

    sequence: int
    time: Annotated[str, Field(examples=["2026-11-21T14:00:00.123456789Z"])]
    timestamp_ns: int
    command_id: Annotated[str | None, Field(examples=["0192d5e07d1c7a3b9f005a1b2c3d4e5f"])]
    operation: OperationName
    status: Annotated[str, Field(examples=["OK"])]
    debit_account: int
    credit_account: int
    asset: int | None
    symbol: Annotated[str | None, Field(examples=["UNIT"])]
    amount: Balance | None
    debit_balance: Balance | None
    credit_balance: Balance | None
    hold: int | None
    code: int
    reference: int


class StatementEntry(EntryAnswer):
    """An entry as its account sees it: what it added to the posted balance, and that after it."""

    change: Balance
    balance: Balance


class StatementAnswer(Extent):
    """A page; it can be short, or empty, before the end: the end is where `next_before` is null."""

    account: int
    entries: list[StatementEntry]
    next_before: int | None
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "account": 1,
                    "entries": [
                        {
                            "sequence": 7,
                            "time": "2026-11-21T14:00:00.123456789Z",
                            "timestamp_ns": 1795269600123456789,
                            "command_id": "0192d5e07d1c7a3b9f005a1b2c3d4e5f",
                            "operation": "transfer",
                            "status": "OK",
                            "debit_account": 1,
                            "credit_account": 2,
                            "asset": 1,
                            "symbol": "UNIT",
                            "amount": "25.00",
                            "debit_balance": "75.00",
                            "credit_balance": "25.00",
                            "hold": None,
                            "code": 0,
                            "reference": 0,
                            "change": "-25.00",
                            "balance": "75.00",
                        }
                    ],
                    "next_before": 7,
                    "complete_sequence": 8,
                    "ledger_time_ns": 1795269600123456789,
                    "first_sequence": 0,
                }
            ]
        }
    )


class PastBalanceAnswer(Extent):
    """A posted balance as of all commands below `below_sequence`."""

    account: int
    asset: int
    symbol: str
    posted: Balance
    below_sequence: int
    last_sequence: Annotated[
        int | None, Field(description="The entry it comes from; null if it isn't kept any more.")
    ]


class CommandAnswer(Extent):
    """A command with its outcome."""

    command: EntryAnswer
