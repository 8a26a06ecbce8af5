"""The ledger's answers as JSON values: amounts as text in the asset's decimals."""

from decimal import Decimal

from client_app.schemas import Json
from client_core import Account, Asset, LedgerReply, OpenHold


def amount_text(asset: Asset | None, minor: int) -> str | None:
    """Minor units as exact text: 1250 with two decimals is 12.50. None if the asset isn't known."""
    if asset is None:
        return None
    if not asset.decimals:
        return str(minor)
    digits = str(abs(minor)).rjust(asset.decimals + 1, "0")
    sign = "-" if minor < 0 else ""
    return f"{sign}{digits[: -asset.decimals]}.{digits[-asset.decimals :]}"


def decimal_text(amount: Decimal) -> str:
    """A Decimal without an exponent."""
    return f"{amount:f}"


def done(reply: LedgerReply) -> Json:
    """What every accepted command's answer begins with."""
    return {"status": reply.status.name, "sequence": reply.sequence}


def account_json(account: Account) -> Json:
    """One account."""
    state = "locked" if account.debits_locked or account.credits_locked else "open"
    return {
        "account": account.account_id,
        "asset": account.asset.number,
        "symbol": account.asset.symbol,
        "state": "closed" if account.closed else state,
        "posted": decimal_text(account.posted),
        "held": decimal_text(account.held),
        "available": decimal_text(account.available),
        "floor": decimal_text(account.floor),
        "ceiling": None if account.ceiling is None else decimal_text(account.ceiling),
        "debits_total": decimal_text(account.debits_total),
        "credits_total": decimal_text(account.credits_total),
        "debits_locked": account.debits_locked,
        "credits_locked": account.credits_locked,
        "open_holds": account.open_holds,
        "reference": account.reference,
        "code": account.code,
        "version": account.version,
        "last_sequence": account.last_sequence,
        "opened_ns": account.opened_ns,
    }


def hold_json(hold: OpenHold) -> Json:
    """One open hold."""
    return {
        "hold": hold.hold_id,
        "debit_account": hold.debit_account,
        "credit_account": hold.credit_account,
        "asset": hold.asset.number,
        "symbol": hold.asset.symbol,
        "remaining": decimal_text(hold.remaining),
        "expires_ns": hold.expires_ns,
        "opened_sequence": hold.opened_sequence,
        "code": hold.code,
    }
