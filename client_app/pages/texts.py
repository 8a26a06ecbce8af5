"""Numbers, names and reasons as people read them."""

import re
from typing import Any, Final

from client_app.schemas import Json

NONE: Final = "\u2013"
"""What stands where there is no value."""

_MINUS: Final = "\u2212"
_GROUPS: Final = re.compile(r"\B(?=(\d{3})+(?!\d))")
_NAMES: Final = {
    "create_account": "Open account",
    "deposit": "Deposit",
    "withdraw": "Withdraw",
    "transfer": "Transfer",
    "register_asset": "Register asset",
    "hold": "Hold",
    "capture": "Capture",
    "release": "Release",
    "expire": "Expire",
    "lock": "Lock",
    "unlock": "Unlock",
    "close": "Close",
    "set_limits": "Set limits",
}
_REASONS: Final = {
    "ACCOUNT_CAPACITY_REACHED": "The ledger has no room for further accounts.",
    "AMOUNT_NOT_POSITIVE": "The amount must be above zero.",
    "ASSETS_DIFFER": "The two accounts are of different assets.",
    "ASSET_EXISTS": "This asset number is taken.",
    "ASSET_SYMBOL_TAKEN": "Another asset has this symbol.",
    "BALANCE_NOT_ZERO": "Only an empty account can be closed: move its balance first.",
    "BALANCE_OUTSIDE_LIMITS": "The present balance breaks these limits.",
    "CEILING_EXCEEDED": "The receiving account would pass its ceiling.",
    "CREDIT_ACCOUNT_CLOSED": "The receiving account is closed.",
    "CREDIT_ACCOUNT_LOCKED": "The receiving account is locked for credits.",
    "CREDIT_ACCOUNT_NOT_FOUND": "There is no such receiving account.",
    "DEBIT_ACCOUNT_CLOSED": "The account is closed.",
    "DEBIT_ACCOUNT_LOCKED": "The account is locked for debits.",
    "DEBIT_ACCOUNT_NOT_FOUND": "There is no such account.",
    "FLOOR_ABOVE_CEILING": "The floor is above the ceiling.",
    "HOLDS_OPEN": "Some of its money is held: capture or release that first.",
    "HOLD_CAPACITY_REACHED": "The ledger has no room for further holds.",
    "HOLD_EXCEEDED": "The hold has less than that.",
    "HOLD_EXPIRED": "The hold's time is over.",
    "HOLD_NOT_FOUND": "There is no such hold.",
    "HOLD_NOT_OPEN": "The hold was captured or released, or has expired.",
    "INSUFFICIENT_FUNDS": "Less is available than the amount.",
    "SAME_ACCOUNT": "From and to are the same account.",
}


def grouped(value: Any) -> str:
    """A number, or decimal text, with its digits in groups; a dash for None."""
    if value is None:
        return NONE
    whole, _, fraction = str(value).partition(".")
    text = _GROUPS.sub(",", whole).replace("-", _MINUS)
    return f"{text}.{fraction}" if fraction else text


def rounded(value: float | None) -> str:
    """A rate, with one decimal below ten."""
    if value is None:
        return NONE
    return grouped(round(value, 1) if value < 10 else round(value))


def duration(seconds: float) -> str:
    """A span in the unit that people would name."""
    if seconds < 1:
        return "under 1 s"
    for limit, size, unit in ((90, 1, "s"), (5_400, 60, "min"), (129_600, 3_600, "h")):
        if seconds < limit:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86_400)} days"


def operation_name(operation: str) -> str:
    """An operation, as its form and its entries are headed."""
    return _NAMES.get(operation, operation)


def reason(code: str, detail: str) -> str:
    """Why the ledger refuses, for people; else the answer's own words."""
    return _REASONS.get(code, detail)


def is_zero(amount: str) -> bool:
    """Whether decimal text is nothing."""
    return not any(digit in "123456789" for digit in amount)


def change_text(amount: str) -> str:
    """A change of a balance, with its sign."""
    if is_zero(amount):
        return NONE
    return grouped(amount) if amount.startswith("-") else f"+{grouped(amount)}"


def hold_text(entry: Json) -> str:
    """What of an entry is no change of the balance: which hold, and how much of it."""
    if not entry["hold"]:
        return ""
    if entry["operation"] == "hold":
        return f" {entry['hold']}: {grouped(entry['amount'])}"
    if entry["operation"] in ("release", "expire"):
        return f" of hold {entry['hold']}: {grouped(entry['amount'])}"
    return f" of hold {entry['hold']}"
