"""The first thing that each request meets: who calls, and how often.

It reads the headers once, for all that follow, and finds the route: by a table, which has a
number's place at the fourth part of a path (`/api/v1/accounts/42/lock`).
"""

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from client_app.auth import Callers, RateLimit
from client_app.problems import Problem, retry_later
from client_app.routes import Requests, Route, send_problem

if TYPE_CHECKING:  # where there are no pages, what makes them isn't loaded
    from client_app.page_host import PageHost

_LOG_INTERVAL_S: Final = 1.0
"""Refusals are counted, and logged this often at most: a flood must not fill the disk."""

_HERE: Final = re.compile(rb"(localhost|127\.[0-9.]+|\[?::1\]?)(:[0-9]+)?", re.IGNORECASE)

_FAILED_RATE: Final = 10.0
_FAILED_BURST: Final = 100
"""Requests without a right key, each second from one address."""


class Gate:
    """ASGI: checks a request, then hands it to its route; else answers with a problem.

    `pages` serves the addresses of pages, where there are any.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[tuple[str, str], Route],
        keys: Callers,
        rate_limit: RateLimit,
        requests: Requests,
    ) -> None:
        self.pages: PageHost | None = None
        self._app = app
        self._exact = {named: route for named, route in routes.items() if "{" not in named[1]}
        self._numbered = {
            (method, _pattern(path)): (route, _name_in(path))
            for (method, path), route in routes.items()
            if "{" in path
        }
        self._keys = keys
        self._rate_limit = rate_limit
        self._failures = RateLimit(_FAILED_RATE, _FAILED_BURST)
        self._requests = requests
        self._logged_s = 0.0
        self._unlogged = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's lifespan."""
        if scope["type"] != "http":
            await self._serve_socket(scope, receive, send)
            return
        pages = self.pages
        if pages and scope["method"] in ("GET", "HEAD") and pages.has(scope["path"]):
            # what they show is asked for with their user's key, by this gate's own requests
            if self._is_ours(scope):
                await pages.serve(scope, send)
            else:
                await send_problem(_origin_refused(), send)
            return
        try:
            if self._keys.open_to_anybody:
                _check_site(scope["headers"])
            self._read_headers(scope)
        except Problem as problem:
            self._count(scope, problem)
            await send_problem(problem, send)
        else:
            await self._serve(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What runs as long as requests are served."""
        if self.pages is None:
            yield
            return
        async with self.pages.running():
            yield

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
        elif self.pages is not None and self._is_ours(scope):
            await self.pages.serve_socket(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _is_ours(self, scope: Scope) -> bool:
        """Without keys a page is only for who names this machine: a site's name may point here."""
        return not self._keys.open_to_anybody or all(
            _is_here(value) for name, value in scope["headers"] if name == b"host"
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if b"%" in scope["raw_path"]:
            # no path of ours needs it; whoever checks paths before us may not decode them
            await send_problem(_nothing_there(), send)
            return
        route = self._exact.get((scope["method"], path))
        if route is None and path.startswith("/api/v1/"):
            parts = path.split("/", 5)
            if len(parts) > 4 and parts[4]:
                number, parts[4] = parts[4], "{}"
                route, name = self._numbered.get((scope["method"], "/".join(parts)), (None, ""))
                scope["path_params"] = {name: number}
        if route is not None:
            await route.serve(scope, receive, send)
        elif scope["method"] == "GET" and path == "/openapi.json":
            await self._app(scope, receive, send)
        else:
            await send_problem(self._not_routed(path), send)

    def _not_routed(self, path: str) -> Problem:
        parts = path.split("/")
        patterns = {path, "/".join([*parts[:4], "{}", *parts[5:]]) if len(parts) > 4 else path}
        routes = [*self._exact, *self._numbered, ("GET", "/openapi.json")]
        allowed = sorted({method for method, pattern in routes if pattern in patterns})
        if not allowed:
            return _nothing_there()
        return Problem(
            405,
            "METHOD_NOT_ALLOWED",
            f"this route takes {', '.join(allowed)}",
            headers=[(b"allow", ", ".join(allowed).encode())],
        )

    def _read_headers(self, scope: Scope) -> None:
        """Put what the routes need into the scope. Raises Problem."""
        authorization = key = None
        content_type = b""
        content_bytes = 0
        for name, value in scope["headers"]:
            if name == b"authorization":
                # of two, somebody before us may have checked the other one
                authorization = value if authorization is None else b""
            elif name == b"idempotency-key":
                if key is not None:
                    detail = "Idempotency-Key is given twice"
                    raise Problem(400, "IDEMPOTENCY_KEY_INVALID", detail)
                key = value
            elif name == b"content-type":
                content_type = value
            elif name == b"content-length":
                content_bytes = int(value)  # the HTTP parser takes digits only
        self._admit(scope, authorization)
        if content_bytes > self._requests.bodies.one_max:
            raise self._requests.bodies.too_large()
        scope["idempotency_key"] = key
        scope["content_type"] = content_type
        scope["requests"] = self._requests

    def _admit(self, scope: Scope, authorization: bytes | None) -> None:
        caller = self._keys.caller(authorization)
        if caller is None:
            address = scope["client"][0] if scope["client"] else ""
            wait_s = self._failures.take(address)
            if wait_s:
                raise retry_later(429, "RATE_LIMITED", "too many wrong keys", wait_s)
            raise Problem(
                401,
                "UNAUTHENTICATED",
                self._keys.asks_for,
                headers=[(b"www-authenticate", b"Bearer")],
            )
        wait_s = self._rate_limit.take(caller.name)
        if wait_s:
            raise retry_later(429, "RATE_LIMITED", f"{caller.name} calls too often", wait_s)
        scope["caller"] = caller.name
        scope["who"] = caller

    def _count(self, scope: Scope, problem: Problem) -> None:
        self._unlogged += 1
        now = time.monotonic()
        if now - self._logged_s >= _LOG_INTERVAL_S:
            structlog.get_logger().warning(
                "refused",
                code=problem.code,
                path=scope["path"][:100],
                client=scope["client"],
                count=self._unlogged,
            )
            self._logged_s, self._unlogged = now, 0


def _nothing_there() -> Problem:
    return Problem(404, "NOT_FOUND", "no such route: /openapi.json has all")


def _check_site(headers: list[tuple[bytes, bytes]]) -> None:
    """Without keys only this app's own pages may ask from a browser. Raises Problem.

    Another site's page names itself as origin; one that lets its own name point here names that as
    host; and what it loads as an image or a script is told by the browser.
    """
    hosts = [value for name, value in headers if name == b"host"]
    for name, value in headers:
        if (
            (name == b"host" and not _is_here(value))
            or (name == b"origin" and value.partition(b"://")[2] not in hosts)
            or (name == b"sec-fetch-site" and value not in (b"same-origin", b"none"))
        ):
            raise _origin_refused()


def _origin_refused() -> Problem:
    return Problem(403, "ORIGIN_REFUSED", "without API keys, other sites' pages can't ask")


def _is_here(host: bytes) -> bool:
    """Whether a Host header names this machine: a name of another site's may point here too."""
    return not host or _HERE.fullmatch(host) is not None


def _pattern(path: str) -> str:
    parts = path.split("/")
    return "/".join("{}" if part.startswith("{") else part for part in parts)


def _name_in(path: str) -> str:
    return path.partition("{")[2].partition("}")[0]
