"""Errors as application/problem+json (RFC 9457), with a status that tells the truth.

| status | nothing was done, because |
| --- | --- |
| 400 | the request can't be read: JSON, Idempotency-Key, an unknown amount of bytes |
| 401, 403, 429 | who calls isn't known, or calls too often |
| 404, 405, 410 | there is no such thing, way of asking, or there was one |
| 409 | the state of the ledger doesn't allow it; or the same key is under way |
| 413, 415, 431 | it is too large, or no JSON |
| 422 | it is read and makes no sense; or the key had another body before |
| 503 | nobody leads, or too much is under way: it was surely not run, send it again |
| 501, 502 | a node doesn't know this, or refuses this app |
| 507 | a capacity of the ledger is used up |

504 alone says "perhaps": the outcome is unknown, and the same Idempotency-Key tells.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json

from client_core import (
    ChainRefused,
    IdInFuture,
    InvalidRequest,
    NotFound,
    NotServed,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Retryable,
    RingledgerClientError,
    Status,
    StreamBusy,
    Unauthenticated,
)

Headers = list[tuple[bytes, bytes]]

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_S: Final = 1
_MAX_FIELD_ERRORS: Final = 20
_MAX_DETAIL: Final = 500

_AMOUNTS: Final = ("amount", "floor", "ceiling")

_HTTP_STATUSES: Final[dict[Status, int]] = (
    dict.fromkeys(
        (
            Status.HOLD_NOT_FOUND,
            Status.DEBIT_ACCOUNT_NOT_FOUND,
            Status.CREDIT_ACCOUNT_NOT_FOUND,
            Status.ASSET_NOT_FOUND,
        ),
        404,
    )
    | dict.fromkeys(
        (
            Status.COMMAND_ID_REUSED,
            Status.AMOUNT_NOT_POSITIVE,
            Status.SAME_ACCOUNT,
            Status.ASSETS_DIFFER,
            Status.ASSET_NUMBER_OUT_OF_RANGE,
            Status.ASSET_DECIMALS_OUT_OF_RANGE,
            Status.ASSET_SYMBOL_INVALID,
            Status.LOCK_CODE_INVALID,
            Status.FLOOR_OUT_OF_RANGE,
            Status.FLOOR_ABOVE_CEILING,
        ),
        422,
    )
    | dict.fromkeys((Status.ACCOUNT_CAPACITY_REACHED, Status.HOLD_CAPACITY_REACHED), 507)
)
"""All others, and those of newer nodes, are 409: the ledger's state doesn't allow it."""

_TITLES: Final = {
    "ACCOUNT_NOT_FOUND": "There is no such account",
    "COMMAND_ID_REUSED": "The idempotency key was used with another request",
    "COMMAND_ID_TOO_OLD": "The idempotency key is too old: the outcome is no longer known",
    "COMMAND_ID_IN_FUTURE": "The idempotency key's time is ahead of the ledger's",
    "OUTCOME_UNKNOWN": "The outcome is unknown: ask again with the same idempotency key",
    "BEYOND_HISTORY": "History hasn't come that far yet: ask again",
    "NOT_KEPT": "History doesn't keep that any more",
    "COMMAND_NOT_FOUND": "History has no such command, so far",
    "HISTORY_NOT_SET": "This app knows no archiver to ask",
    "NOT_READY": "Nobody can answer now, and nothing was done: send it again",
    "OVERLOADED": "Too much is under way, and nothing was done: send it again later",
}


class Problem(Exception):
    """An answer that is an error: HTTP status, code (the ledger's status name or our own)."""

    def __init__(
        self,
        http_status: int,
        code: str,
        detail: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.http_status = http_status
        self.code = code
        self.detail = detail
        self.headers = list(headers)
        self.more = more or {}

    def body(self) -> bytes:
        """The JSON text."""
        return to_json(
            {
                "type": f"urn:ringledger:problem:{self.code}",
                "title": _TITLES.get(self.code) or self.code.replace("_", " ").capitalize(),
                "status": self.http_status,
                "code": self.code,
                "detail": self.detail[:_MAX_DETAIL],
                **self.more,
            }
        )


def retry_later(http_status: int, code: str, detail: str, after_s: float = 0) -> Problem:
    """A problem that waiting mends; `after_s` in seconds."""
    after_s = max(_RETRY_AFTER_S, math.ceil(after_s))
    header = (b"retry-after", str(after_s).encode())
    return Problem(http_status, code, detail, headers=[header])


def http_status_of(status: Status) -> int:
    """The HTTP status of a refusal."""
    return _HTTP_STATUSES.get(status, 409)


def problem_of(error: Exception) -> Problem:
    """What to answer when a handler raised `error`; what nobody expected is logged, and 500."""
    match error:
        case Problem():
            return error
        case ValidationError():
            return _not_valid(error)
        case RingledgerClientError():
            return _of_ledger(error)
        case ValueError():  # client_core: amounts and ids that no command can carry
            return Problem(422, "INVALID_REQUEST", str(error))
    structlog.get_logger().error("a request failed", error=repr(error), exc_info=error)
    return Problem(500, "INTERNAL", "this is a fault of the admin app: its log says more")


def _of_ledger(error: RingledgerClientError) -> Problem:
    match error:
        case ChainRefused():
            more = {"failed_command": error.index}
            return Problem(http_status_of(error.status), error.status.name, str(error), more=more)
        case Refused():
            return Problem(http_status_of(error.status), error.status.name, str(error))
        case NotFound():
            gone = error.reason == Status.HOLD_NOT_OPEN.name
            return Problem(410 if gone else 404, error.reason, str(error))
        case IdInFuture():
            return retry_later(409, Status.COMMAND_ID_IN_FUTURE.name, str(error))
        case StreamBusy():
            return retry_later(503, "OVERLOADED", str(error))
        case Retryable():
            return retry_later(503, "NOT_READY", str(error))
        case OutcomeUnsettled():
            old = any(reply.status is Status.COMMAND_ID_TOO_OLD for reply in error.replies)
            code = Status.COMMAND_ID_TOO_OLD.name if old else "OUTCOME_UNSETTLED"
            return Problem(409, code, str(error), more=_ids(error))
        case OutcomeUnknown():
            problem = retry_later(504, "OUTCOME_UNKNOWN", str(error))
            problem.more = _ids(error)
            return problem
        case InvalidRequest(reason="BEYOND_HISTORY"):
            return retry_later(409, error.reason, str(error))
        case InvalidRequest(reason="NOT_KEPT"):
            return Problem(410, error.reason, str(error))
        case NotServed():
            return Problem(501, "NOT_SERVED", f"the ledger's nodes are too old for this: {error}")
        case InvalidRequest() | Unauthenticated():
            structlog.get_logger().error("a node refused a message", error=str(error))
    return Problem(502, "NODE_REFUSED", f"a node did not take the message: {error}")


def _ids(error: OutcomeUnknown) -> dict[str, Any]:
    ids = error.command_ids
    return {"command_id": ids[0].hex()} if len(ids) == 1 else {}


def _not_valid(error: ValidationError) -> Problem:
    """Which fields are wrong, and why; never the whole of what was sent."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return Problem(400, "INVALID_JSON", errors[0]["msg"])
    named = [
        {"field": ".".join(map(str, entry["loc"]))[:100], "message": _message(entry)}
        for entry in errors[:_MAX_FIELD_ERRORS]
    ]
    first = named[0]
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return Problem(422, "INVALID_REQUEST", detail, more={"errors": named})


def _message(entry: ErrorDetails) -> str:
    if entry["type"].startswith("string_") and entry["loc"] and entry["loc"][-1] in _AMOUNTS:
        return (
            'Amounts are text of decimal digits such as "12.50", 38 characters at most, without '
            "exponent, spaces or separators"
        )
    return entry["msg"][:200]
