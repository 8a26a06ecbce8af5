"""Routes and what the OpenAPI document says of each: keys, problems, headers, examples."""

import json
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from client_app.idempotency import KEY_MAX
from client_app.problems import MEDIA_TYPE, Problem
from client_app.routes import ThinRoute
from client_app.schemas import ProblemAnswer

_PROBLEMS: Final = {
    400: "The request can't be read.",
    401: "No key, or a wrong one.",
    403: "Not this caller's; or, in development mode, another site's page asks.",
    404: "There is no such thing.",
    409: "The ledger's state doesn't allow it, or the same key is under way.",
    410: "It is no longer there.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "It makes no sense, or the key was used with another request.",
    429: "Too many requests: wait as Retry-After says.",
    500: "A fault of the app.",
    501: "The ledger's nodes are too old for this, or no archiver is set.",
    502: "A node didn't take the message.",
    503: "Surely not done: send it again, as Retry-After says.",
    504: "The outcome is unknown: send it again with the same Idempotency-Key.",
    507: "A capacity of the ledger is used up.",
}
_READING: Final = (400, 401, 403, 422, 429, 500, 501, 502, 503, 504)
_WRITING: Final = (404, 409, 413, 415, 507)
_EXAMPLES: Final = {
    400: ("INVALID_JSON", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
    401: ("UNAUTHENTICATED", "send an API key: Authorization: Bearer KEY"),
    403: ("ORIGIN_REFUSED", "without API keys, other sites' pages can't ask"),
    404: ("ACCOUNT_NOT_FOUND", "account 7 does not exist"),
    409: ("INSUFFICIENT_FUNDS", "refused: INSUFFICIENT_FUNDS"),
    410: ("HOLD_NOT_OPEN", "hold 1 is no longer open"),
    413: ("BODY_TOO_LARGE", "a body is 2,097,152 bytes at most: send less at once"),
    415: ("UNSUPPORTED_MEDIA_TYPE", "send JSON, with content-type: application/json"),
    422: ("SAME_ACCOUNT", "debit and credit account are both 1: name two accounts"),
    429: ("RATE_LIMITED", "billing calls too often"),
    500: ("INTERNAL", "this is a fault of the admin app: its log says more"),
    501: ("NOT_SERVED", "the ledger's nodes are too old for this"),
    502: ("NODE_REFUSED", "a node did not take the message"),
    503: ("NOT_READY", "no leader: 127.0.0.1:9500: follower, its leader is unknown"),
    504: ("OUTCOME_UNKNOWN", "outcome unknown: no answer within 10 s"),
    507: ("ACCOUNT_CAPACITY_REACHED", "refused: ACCOUNT_CAPACITY_REACHED"),
}
"""Code and detail of one answer of each status."""
_KEY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the command: sent again, it is not run again but gets its first answer, "
    "with the header Idempotent-Replayed. Best a UUIDv7: then that holds for ever.",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[!-~]+$"},
    "example": "0192d5e0-7d1c-7a3b-9f00-5a1b2c3d4e5f",
}
_KEY_HEADERS: Final = {
    "Idempotency-Key": {
        "description": "The key: the request's own, or one drawn for it.",
        "schema": {"type": "string"},
    },
    "Command-Id": {
        "description": "What the ledger knows the command by, a batch's first: /api/v1/commands/ID "
        "tells what it did.",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "true: the first answer again.",
        "schema": {"type": "string"},
    },
}


class Routes:
    """Adds thin routes to a FastAPI app, which documents them."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.by_path: dict[tuple[str, str], ThinRoute] = {}
        """(method, path) of all routes, with `{name}` where a number stands."""

    def get(
        self,
        path: str,
        handler: Callable[..., Any],
        answer: type[BaseModel],
        *,
        missing: tuple[int, ...] = (),
    ) -> None:
        """A route that reads."""
        self._add("GET", path, handler, answer, 200, (*_READING, *missing), {})

    def post(
        self,
        path: str,
        handler: Callable[..., Any],
        answer: type[BaseModel],
        *,
        created: bool = False,
    ) -> None:
        """A route that writes."""
        extra = {"parameters": [_KEY_PARAMETER]}
        status = 201 if created else 200
        self._add("POST", path, handler, answer, status, (*_READING, *_WRITING), extra)

    def put(self, path: str, handler: Callable[..., Any], answer: type[BaseModel]) -> None:
        """A route that sets something to what the body says."""
        extra = {"parameters": [_KEY_PARAMETER]}
        self._add("PUT", path, handler, answer, 200, (*_READING, *_WRITING), extra)

    def _add(
        self,
        method: str,
        path: str,
        handler: Callable[..., Any],
        answer: type[BaseModel],
        status: int,
        problems: tuple[int, ...],
        extra: dict[str, Any],
    ) -> None:
        responses: dict[int | str, dict[str, Any]] = {
            number: problem_response(number) for number in sorted(set(problems))
        }
        if extra:
            responses[status] = {"headers": _KEY_HEADERS}
        route = ThinRoute(
            path,
            handler,
            methods=[method],
            response_model=answer,
            status_code=status,
            responses=responses,
            openapi_extra=extra or None,
            operation_id=handler.__name__,
            summary=handler.__name__.replace("_", " ").capitalize(),
            tags=[path.split("/")[3]],
        )
        self._app.router.routes.append(route)
        self.by_path[method, path] = route


def describe(app: FastAPI) -> dict[str, Any]:
    """Complete the app's OpenAPI document, and return it."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    schemas["Problem"] = ProblemAnswer.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )
    schemas |= schemas["Problem"].pop("$defs", {})
    # FastAPI's own form of errors is never answered
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    return document


def problem_response(number: int) -> dict[str, Any]:
    """One status of a route, as OpenAPI's response object."""
    code, detail = _EXAMPLES[number]
    content = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": json.loads(Problem(number, code, detail).body()),
    }
    response: dict[str, Any] = {"description": _PROBLEMS[number], "content": {MEDIA_TYPE: content}}
    if number in {429, 503, 504}:
        response["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return response
