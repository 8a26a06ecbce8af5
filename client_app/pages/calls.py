"""What a page asks: the REST API itself, inside the process.

Every question and every operation of a page is a whole request through the gate, with the key or
the token of the page's user: the same checks, limits and handlers as for everybody else.
"""

import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Scope

from client_app.schemas import Json

_OPEN: Final = (401, 429, 500, 502, 503, 504)
"""Answers that say nothing about what became of the same request when it was sent before."""

_OPEN_CODES: Final = ("COMMAND_ID_IN_FUTURE", "KEY_UNDER_WAY")

_DOUBTFUL: Final = (500, 504)
"""Answers after which it may have been done."""


class Refusal(Exception):
    """An answer that isn't the wanted one."""

    def __init__(self, status: int, content: Json) -> None:
        super().__init__(content.get("detail", ""))
        self.status = status
        self.code: str = content.get("code", "")
        self.title: str = content.get("title", f"HTTP {status}")
        self.detail: str = content.get("detail", "")
        self.content = content

    @property
    def is_open(self) -> bool:
        """Whether the outcome may still become good by sending the same again."""
        return self.status in _OPEN or self.code in _OPEN_CODES

    @property
    def is_doubtful(self) -> bool:
        """Whether it may have been done."""
        return self.status in _DOUBTFUL or self.code == "KEY_UNDER_WAY"


class Reply:
    """An operation's answer: its content, its command's id, and whether it had been done before."""

    def __init__(self, content: Json, headers: dict[bytes, bytes]) -> None:
        self.content = content
        self.command_id = headers.get(b"command-id", b"").decode()
        self.replayed = headers.get(b"idempotent-replayed") == b"true"


class Calls:
    """Requests of one page. `key` is what its user typed; it is never in an address or a log."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        """`scope` is that of the request for the page: whose address and host it is."""
        self._app = app
        self._client = scope["client"]
        self._scheme = scope["scheme"]
        self._server = scope["server"]
        self._host = [(name, value) for name, value in scope["headers"] if name == b"host"]
        self.key = ""
        self.on_unknown: Callable[[Refusal], Any] = lambda _: None
        """Called when the key isn't taken, before the one who asked is told."""

    @property
    def authorization(self) -> bytes | None:
        """The header that says who asks."""
        return b"Bearer " + self.key.encode() if self.key else None

    async def get(self, path: str, **query: Any) -> Json:
        """Ask for something; what is None or empty is left out. Raises Refusal."""
        wanted = {name: value for name, value in query.items() if value not in (None, "")}
        return (await self.send("GET", path, query=urlencode(wanted).encode())).content

    async def send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        key: str = "",
        query: bytes = b"",
    ) -> Reply:
        """One request under `/api/v1`; `key` is its idempotency key. Raises Refusal."""
        content = b"" if body is None else to_json(body)
        headers = list(self._host)
        if self.authorization:
            headers.append((b"authorization", self.authorization))
        if key:
            headers.append((b"idempotency-key", key.encode()))
        if body is not None:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", b"%d" % len(content)))
        full = f"/api/v1{path}"
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": self._scheme,
            "path": full,
            "raw_path": full.encode(),
            "root_path": "",
            "query_string": query,
            "headers": headers,
            "client": self._client,
            "server": self._server,
        }
        return await self._answer(scope, content)

    async def _answer(self, scope: Scope, content: bytes) -> Reply:
        status, answered = 500, b""
        headers: dict[bytes, bytes] = {}

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers, answered
            if message["type"] == "http.response.start":
                status, headers = message["status"], dict(message["headers"])
            else:
                answered += message.get("body", b"")

        await self._app(scope, receive, send)
        told: Json = json.loads(answered) if answered else {}
        if status >= 400:
            refusal = Refusal(status, told)
            if status == 401:
                self.on_unknown(refusal)
            raise refusal
        return Reply(told, headers)
