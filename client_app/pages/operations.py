"""The operations that have a form: their fields, where they are sent, what is asked before."""

import re
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from client_app.schemas import Json

Kind = Literal["amount", "number", "text", "check", "asset"]

_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,18})([.][0-9]{1,18})?")
_SIGNED: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})([.][0-9]{1,18})?")
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,19}")
_ID: Final = re.compile(r"[1-9][0-9]{0,19}")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,8}")


class Field(NamedTuple):
    """One field of a form."""

    name: str
    label: str
    kind: Kind = "number"
    pattern: re.Pattern[str] = _DIGITS
    hint: str = "Digits only"
    characters_max: int = 20
    optional: bool = False
    value: Any = None
    own: bool = False
    """Whether it names an account of whom the page belongs to."""

    operator: bool = False
    """Whether only the console has it."""

    null: bool = False
    """Whether empty means null, and is sent."""

    def wrong(self, value: Any) -> str | None:
        """What is wrong with a value that came from the browser, if anything."""
        if self.kind == "check":
            return None if isinstance(value, bool) else "Yes or no"
        text = value.strip() if isinstance(value, str) else ""
        if not text:
            return None if self.optional else "Please fill this in"
        if len(text) > self.characters_max or self.pattern.fullmatch(text) is None:
            return self.hint
        return None


class Operation(NamedTuple):
    """One operation. `of` names the field that stands in the path."""

    path: str
    fields: tuple[Field, ...]
    asks: Callable[[Json], str]
    of: str = ""
    method: str = "POST"
    dangerous: bool = False


def _own(name: str, label: str) -> Field:
    return Field(name, label, pattern=_ID, hint="An id: digits only", own=True)


def _id(name: str, label: str) -> Field:
    return Field(name, label, pattern=_ID, hint="An id: digits only")


def _amount(name: str = "amount", label: str = "Amount", *, optional: bool = False) -> Field:
    hint = "Digits with a point: 12.50"
    return Field(name, label, "amount", _AMOUNT, hint, 38, optional)


def _check(name: str, label: str, *, value: bool = False, operator: bool = False) -> Field:
    return Field(name, label, "check", value=value, operator=operator)


_PART: Final = _amount(label="Amount (empty: all)", optional=True)
_CODE: Final = Field("code", "Your code", characters_max=10, optional=True)
_HINT_SIGNED: Final = "Digits with a point: -12.50"
_LOCKS: Final = (
    _own("account", "Account"),
    _check("debits", "Debits", value=True),
    _check("credits", "Credits", value=True),
)


def _asks_transfer(v: Json) -> str:
    most = "up to " if v.get("balancing") else ""
    return (
        f"Transfer {most}{v['amount']} from account {v['debit_account']} "
        f"to account {v['credit_account']}?"
    )


def _asks_hold(v: Json) -> str:
    until = f", for {v['timeout_s']} s" if v.get("timeout_s") else ""
    return (
        f"Hold {v['amount']} of account {v['debit_account']} "
        f"for account {v['credit_account']}{until}?"
    )


def _asks_limits(v: Json) -> str:
    ceiling = "no ceiling" if v["ceiling"] is None else f"a ceiling of {v['ceiling']}"
    return f"Set account {v['account']} to a floor of {v['floor']} and {ceiling}?"


OPERATIONS: Final[dict[str, Operation]] = {
    "transfer": Operation(
        "/transfers",
        (
            _own("debit_account", "From account"),
            _id("credit_account", "To account"),
            _amount(),
            _check("balancing", "Up to what is available", operator=True),
        ),
        _asks_transfer,
    ),
    "deposit": Operation(
        "/deposits",
        (_own("credit_account", "To account"), _amount()),
        lambda v: f"Deposit {v['amount']} to account {v['credit_account']}?",
    ),
    "withdraw": Operation(
        "/withdrawals",
        (_own("debit_account", "From account"), _amount()),
        lambda v: f"Withdraw {v['amount']} from account {v['debit_account']}?",
    ),
    "hold": Operation(
        "/holds",
        (
            _own("debit_account", "From account"),
            _id("credit_account", "For account"),
            _amount(),
            Field("timeout_s", "Expires after, s (empty: never)", optional=True),
        ),
        _asks_hold,
    ),
    "capture": Operation(
        "/holds/{}/capture",
        (
            _id("hold", "Hold"),
            _PART,
            _check("keep_rest_held", "Keep the rest held", operator=True),
        ),
        lambda v: f"Capture {v.get('amount', 'all')} of hold {v['hold']}?",
        of="hold",
    ),
    "release": Operation(
        "/holds/{}/release",
        (_id("hold", "Hold"), _PART),
        lambda v: f"Release {v.get('amount', 'all')} of hold {v['hold']}?",
        of="hold",
    ),
    "create_account": Operation(
        "/accounts",
        (
            Field("asset", "Asset", "asset", _ID),
            Field("reference", "Your reference", optional=True),
            _CODE,
        ),
        lambda v: f"Open an account of asset {v['asset']}?",
    ),
    "lock": Operation(
        "/accounts/{}/lock", _LOCKS, lambda v: f"Lock account {v['account']}?", of="account"
    ),
    "unlock": Operation(
        "/accounts/{}/unlock", _LOCKS, lambda v: f"Unlock account {v['account']}?", of="account"
    ),
    "set_limits": Operation(
        "/accounts/{}/limits",
        (
            _own("account", "Account"),
            Field(
                "floor",
                "Floor (below zero: a credit line)",
                "amount",
                _SIGNED,
                _HINT_SIGNED,
                38,
                value="0",
            ),
            Field(
                "ceiling",
                "Ceiling (empty: none)",
                "amount",
                _SIGNED,
                _HINT_SIGNED,
                38,
                optional=True,
                null=True,
            ),
        ),
        _asks_limits,
        of="account",
        method="PUT",
    ),
    "close": Operation(
        "/accounts/{}/close",
        (_own("account", "Account"), _CODE),
        lambda v: f"Close account {v['account']} for ever?",
        of="account",
        dangerous=True,
    ),
    "register_asset": Operation(
        "/assets",
        (
            Field("number", "Number, 1 to 4,095", pattern=_ID, characters_max=4),
            Field("symbol", "Symbol", "text", _SYMBOL, "1 to 8 of A-Z and 0-9", 8),
            Field("decimals", "Decimals, 0 to 18", characters_max=2, value="2"),
        ),
        lambda v: (
            f"Register asset {v['number']}, {v['symbol']}, with {v['decimals']} decimals, for ever?"
        ),
    ),
}
"""In the order in which the console offers them."""


def body_of(fields: list[Field], raw: dict[str, Any]) -> Json:
    """The request's body from the fields' values, which are checked already."""
    body: Json = {}
    for field in fields:
        value = raw[field.name]
        if field.kind == "check":
            body[field.name] = value
            continue
        text = value.strip() if isinstance(value, str) else ""
        if text:
            body[field.name] = int(text) if field.kind in ("number", "asset") else text
        elif field.null:
            body[field.name] = None
    return body
