"""Every way in which a command can end has an HTTP status that tells the truth."""

import json

import pytest

from client_app.answers import amount_text
from client_app.problems import http_status_of, problem_of
from client_core import (
    Asset,
    ChainRefused,
    IdInFuture,
    InvalidRequest,
    LedgerReply,
    NotFound,
    NotLeader,
    NotServed,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Reply,
    Status,
    StreamBusy,
    Unauthenticated,
    Unavailable,
    records,
)

COMMAND = records.deposit(bytes(range(16)), 1, 1)
TOO_OLD = Reply(0, 0, 0, 0, 0, int(Status.COMMAND_ID_TOO_OLD), 0, 0)
FAILED = LedgerReply(Reply(0, 0, 0, 0, 0, int(Status.INSUFFICIENT_FUNDS), 0, 0), None)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_refusal_is_a_4xx_or_507_that_carries_its_name(status: Status) -> None:
    problem = problem_of(Refused(status, None))
    body = json.loads(problem.body())
    assert problem.http_status in {404, 409, 422, 507}
    assert (body["code"], body["status"]) == (status.name, problem.http_status)
    assert body["type"].endswith(status.name)
    assert body["title"]
    if status.name.endswith("NOT_FOUND"):
        assert problem.http_status == 404
    if "CAPACITY" in status.name:
        assert problem.http_status == 507


def test_a_status_of_a_newer_node_is_a_refusal_with_its_number() -> None:
    problem = problem_of(Refused(Status(999), None))
    assert (problem.http_status, problem.code) == (409, "STATUS_999")
    assert http_status_of(Status(999)) == 409


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (ChainRefused(1, [FAILED, FAILED]), 409, "INSUFFICIENT_FUNDS", False),
        (NotFound("ACCOUNT_NOT_FOUND", "none"), 404, "ACCOUNT_NOT_FOUND", False),
        (NotFound("HOLD_NOT_OPEN", "gone"), 410, "HOLD_NOT_OPEN", False),
        (IdInFuture(), 409, "COMMAND_ID_IN_FUTURE", True),
        (NotLeader("x:1"), 503, "NOT_READY", True),
        (Unavailable("away"), 503, "NOT_READY", True),
        (StreamBusy("full"), 503, "OVERLOADED", True),
        (OutcomeUnknown(COMMAND, "cut off"), 504, "OUTCOME_UNKNOWN", True),
        (OutcomeUnsettled(COMMAND, [TOO_OLD], "old"), 409, "COMMAND_ID_TOO_OLD", False),
        (OutcomeUnsettled(COMMAND, [], "part"), 409, "OUTCOME_UNSETTLED", False),
        (NotServed("old node"), 501, "NOT_SERVED", False),
        (InvalidRequest("bad"), 502, "NODE_REFUSED", False),
        (Unauthenticated("no"), 502, "NODE_REFUSED", False),
        (ValueError("1.005 has more decimals"), 422, "INVALID_REQUEST", False),
        (RuntimeError("secret"), 500, "INTERNAL", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_fault_tells_what_is_known_of_the_outcome(
    error: Exception, status: int, code: str, retry: bool
) -> None:
    problem = problem_of(error)
    assert (problem.http_status, problem.code) == (status, code)
    assert (b"retry-after" in dict(problem.headers)) is retry
    assert b"secret" not in problem.body()


def test_an_unknown_outcome_names_the_command() -> None:
    body = json.loads(problem_of(OutcomeUnknown(COMMAND, "cut off")).body())
    assert body["command_id"] == bytes(range(16)).hex()


@pytest.mark.parametrize(
    ("decimals", "minor", "text"),
    [
        *((2, 0, "0.00"), (2, 5, "0.05"), (2, -5, "-0.05"), (2, 1250, "12.50"), (0, -7, "-7")),
        *((18, 2**63 - 1, "9.223372036854775807"), (18, -1, "-0.000000000000000001")),
    ],
)
def test_minor_units_become_exact_text(decimals: int, minor: int, text: str) -> None:
    assert amount_text(Asset(1, "X", decimals), minor) == text
    assert Asset(1, "X", decimals).to_minor(text) == minor


def test_an_amount_of_an_unknown_asset_is_null() -> None:
    assert amount_text(None, 5) is None
