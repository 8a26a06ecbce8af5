"""Routes that FastAPI describes and that run without its machinery for each request.

FastAPI reads a handler's signature for the OpenAPI document: `body` and `query` models, numbers
and command ids in the path, the answer's model. `ThinRoute` serves the same handler: one pass over
the headers, one strict parse of the body by pydantic, one answer written.

    headers -> Call -> body -> idempotency key -> handler -> Answer or Problem
"""

import inspect
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, Protocol, get_args
from urllib.parse import parse_qsl

from fastapi import Path, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Message, Receive, Scope, Send

from client_app.auth import Caller
from client_app.idempotency import IdempotencyKey, key_of, read_key
from client_app.problems import MEDIA_TYPE, Headers, Problem, problem_of, retry_later

_JSON: Final = (b"content-type", b"application/json")
_PROBLEM: Final = (b"content-type", MEDIA_TYPE.encode())
_REPLAYED: Final = (b"idempotent-replayed", b"true")
_CLOSE: Final = (b"connection", b"close")
_PATH_NUMBER: Final = re.compile(r"[1-9][0-9]{0,19}")
_COMMAND_ID: Final = (
    r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"
)
_COMMAND_ID_FORM: Final = re.compile(_COMMAND_ID)
CommandId = Annotated[
    str,
    Path(
        pattern=f"^({_COMMAND_ID})$",
        description="A command's id: 32 hex digits, or the same as a UUID.",
        examples=["0192d5e07d1c7a3b9f005a1b2c3d4e5f"],
    ),
]
"""In a handler it is read already: 16 bytes in 32 hex digits."""

_U64_MAX: Final = 2**64 - 1
_MAX_QUERY_FIELDS: Final = 32


class Disconnected(Exception):
    """The client has gone: there is nobody to answer."""


class Answer(NamedTuple):
    """What a handler returns; `replayed` marks a first reply that was sent again."""

    content: Any
    replayed: bool = False
    http_status: int = 200
    location: str = ""


class Call(Request):
    """One request: who calls, and the idempotency key that names its command."""

    key: IdempotencyKey

    def __init__(self, scope: Scope) -> None:
        # Starlette's own checks and caches are not needed here
        self.scope = scope
        self.caller: str = scope["caller"]
        self.who: Caller = scope["who"]

    @property
    def command_id(self) -> bytes:
        """The command's id, 16 bytes. Only on routes that write."""
        return self.key.command_id()


class BodyLimits:
    """How much of bodies is held: of one, and of all that come in pieces, in bytes."""

    def __init__(self, one_max: int, all_max: int) -> None:
        self.one_max = one_max
        self._all_max = all_max
        self._held = 0

    async def read(self, receive: Receive) -> bytes:
        """A request's body. Raises Problem for too large a one, Disconnected."""
        message = await receive()
        if not message.get("more_body") and message["type"] == "http.request":
            body: bytes = message.get("body", b"")
            if len(body) > self.one_max:
                raise self.too_large()
            return body
        return await self._read_pieces(message, receive)

    def too_large(self) -> Problem:
        """The answer to a body that is over the limit; the connection ends with it."""
        detail = f"a body is {self.one_max:,} bytes at most: send less at once"
        return Problem(413, "BODY_TOO_LARGE", detail, headers=[_CLOSE])

    async def _read_pieces(self, message: Message, receive: Receive) -> bytes:
        pieces = bytearray()
        held = 0
        try:
            while True:
                if message["type"] != "http.request":
                    raise Disconnected
                pieces += message.get("body", b"")
                self._held += len(pieces) - held
                held = len(pieces)
                if held > self.one_max:
                    raise self.too_large()
                if self._held > self._all_max:
                    raise retry_later(503, "OVERLOADED", "too many large bodies at once")
                if not message.get("more_body"):
                    return bytes(pieces)
                message = await receive()
        finally:
            self._held -= held


class Requests:
    """What all routes share: limits of bodies and requests, fresh ids, the commands under way."""

    def __init__(self, bodies: BodyLimits, new_id: Callable[[], bytes], served_max: int) -> None:
        self.bodies = bodies
        self.new_id = new_id
        self._served = 0
        self._served_max = served_max
        self.under_way: set[bytes] = set()
        """First command ids: as many as there are requests, so bounded by their limit."""

    def begin(self) -> None:
        """One more is served, now that it has arrived: who only begins to send takes no place.

        Raises Problem if there are too many.
        """
        if self._served >= self._served_max:
            raise retry_later(503, "OVERLOADED", f"{self._served} requests are under way")
        self._served += 1

    def end(self) -> None:
        """One that was begun is answered."""
        self._served -= 1


class Route(Protocol):
    """What answers one method of one path; the gate has looked at the request before."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""


class ThinRoute(APIRoute):
    """An APIRoute whose handler runs without dependencies, exit stacks and response models.

    A handler takes `call`, perhaps `body` and `query` (pydantic models) and one number, or command
    id, of the path, and returns an Answer. All but GET get an idempotency key.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        signature = inspect.signature(endpoint, eval_str=True).parameters
        self._endpoint = endpoint
        self._body = _model(signature.get("body"))
        self._body_optional = self._body is not None and not any(
            field.is_required() for field in self._body.model_fields.values()
        )
        self._query = _model(signature.get("query"))
        named = [name for name in signature if name not in ("call", "body", "query")]
        self._named = named[0] if named else ""
        self._is_number = bool(named) and signature[named[0]].annotation != CommandId
        methods = sorted(self.methods or ())
        self._writes = methods != ["GET"]
        self._name = f"{methods[0]} {path}"
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. `scope` has what the gate found in its headers."""
        shared: Requests = scope["requests"]
        headers: Headers
        call = Call(scope)
        first_id = b""
        begun = False
        try:
            arguments: dict[str, Any] = {}
            if self._named:
                read = _path_number if self._is_number else read_command_id
                arguments[self._named] = read(scope["path_params"][self._named])
            if self._writes:
                arguments |= await self._read_body(scope, receive, shared.bodies)
                call.key = self._key(scope, call.caller, shared)
                command_id = call.command_id
                if command_id in shared.under_way:
                    detail = "a request with this Idempotency-Key is under way: wait for its answer"
                    raise retry_later(409, "KEY_UNDER_WAY", detail)
                shared.under_way.add(command_id)
                first_id = command_id
            elif self._query is not None:
                arguments["query"] = self.query_of(scope["query_string"])
            elif scope["query_string"]:
                raise Problem(422, "INVALID_REQUEST", "this route takes no query parameters")
            shared.begin()
            begun = True
            answer: Answer = await self._endpoint(call=call, **arguments)
            status, content = answer.http_status, to_json(answer.content)
            headers = [_JSON, (b"content-length", b"%d" % len(content))]
            if answer.replayed:
                headers.append(_REPLAYED)
            if answer.location:
                headers.append((b"location", answer.location.encode()))
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001  # each becomes an answer, the unexpected a 500
            status, headers, content = _failed(error, call)
        finally:
            shared.under_way.discard(first_id)
            if begun:
                shared.end()
        if first_id:
            headers.append((b"idempotency-key", call.key.text.encode()))
            headers.append((b"command-id", first_id.hex().encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _read_body(
        self, scope: Scope, receive: Receive, bodies: BodyLimits
    ) -> dict[str, Any]:
        raw = await bodies.read(receive)
        if self._body is None:
            if raw:
                raise Problem(422, "INVALID_REQUEST", "this route takes no body")
            return {}
        if not raw and self._body_optional:
            return {"body": self._body()}
        content_type: bytes = scope["content_type"]
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            detail = "send JSON, with content-type: application/json"
            raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", detail)
        return {"body": read_body(self._body, raw)}

    def query_of(self, query: bytes) -> BaseModel:
        """The query parameters. Raises Problem and ValidationError."""
        if self._query is None:
            raise TypeError(f"{self._name} has no query model")
        return read_query(self._query, query)

    def _key(self, scope: Scope, caller: str, shared: Requests) -> IdempotencyKey:
        header: bytes | None = scope["idempotency_key"]
        text = key_of(shared.new_id()) if header is None else read_key(header)
        return IdempotencyKey(caller, self._name, text)


def read_body(model: type[BaseModel], raw: bytes) -> Any:
    """A body of this model. Raises ValidationError; Problem for a field given twice.

    Of two amounts this program would take the last, and another one in front of it the first.
    """
    body = model.__pydantic_validator__.validate_json(raw)
    _ONCE_EACH.decode(raw.decode())
    return body


def _once_each(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise Problem(400, "INVALID_JSON", "a field is given twice: give each once")


_ONCE_EACH: Final = json.JSONDecoder(object_pairs_hook=_once_each)


async def send_problem(problem: Problem, send: Send) -> None:
    """Write one problem as the whole answer."""
    content = problem.body()
    headers = [_PROBLEM, (b"content-length", b"%d" % len(content)), *problem.headers]
    await send({"type": "http.response.start", "status": problem.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _failed(error: Exception, call: Call) -> tuple[int, Headers, bytes]:
    problem = problem_of(error)
    if hasattr(call, "key"):
        problem.more["idempotency_key"] = call.key.text
    content = problem.body()
    headers = [_PROBLEM, (b"content-length", b"%d" % len(content)), *problem.headers]
    return problem.http_status, headers, content


def _model(parameter: inspect.Parameter | None) -> type[BaseModel] | None:
    if parameter is None:
        return None
    annotation = parameter.annotation
    if get_args(annotation) and not inspect.isclass(annotation):
        annotation = get_args(annotation)[0]
    model: type[BaseModel] = annotation
    return model


def _path_number(text: str) -> int:
    """A number in a path. Raises Problem 404: a wrong one names nothing."""
    if _PATH_NUMBER.fullmatch(text) is None or int(text) > _U64_MAX:
        raise Problem(404, "NOT_FOUND", "the id in the path must be a number, 1 to 2^64 - 1")
    return int(text)


def read_command_id(text: str) -> str:
    """A command id in a path, as 32 hex digits. Raises Problem 404: a wrong one names nothing."""
    if _COMMAND_ID_FORM.fullmatch(text) is None:
        raise Problem(404, "NOT_FOUND", "a command's id is 32 hex digits, or a UUID")
    return text.replace("-", "").lower()


def read_query(model: type[BaseModel], query: bytes) -> BaseModel:
    """The query parameters. Raises Problem and ValidationError."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            max_num_fields=_MAX_QUERY_FIELDS,
            errors="strict",
        )
    except ValueError:
        raise Problem(422, "INVALID_REQUEST", "the query can't be read: NAME=VALUE&...") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise Problem(422, "INVALID_REQUEST", "a query parameter is given twice")
    return model.model_validate_strings(dict(pairs))
