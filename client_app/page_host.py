"""NiceGUI inside an app: which of it can be reached, by whom, and how much of it there may be.

    GET a page --> room for one more, nonce, policy --> NiceGUI makes it, in Python
    GET a file --> from memory, packed, kept by browsers for good
    socket     --> origin, a page that is open and has none yet --> frames checked --> NiceGUI

Nothing else of NiceGUI is served: no polling, no upload, no file of this machine.
"""

import asyncio
import gc
import gzip
import hashlib
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs

import nicegui
import structlog
from fastapi import FastAPI
from nicegui import Client, ui
from nicegui.dependencies import js_components, libraries, vue_components
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from client_app.auth import Caller, RateLimit
from client_app.http_server import PAGE_SOCKET
from client_app.live import PAGES_EACH
from client_app.page_socket import CheckedSocket
from client_app.pages.own_files import CONTENTS, address_of
from client_app.pages.visit import SCRIPT, SIGNED_IN, UNREAD_MAX
from client_app.problems import Problem, retry_later
from client_app.routes import send_problem

MakePage = Callable[[Client, Request], Awaitable[None]]

_LIBRARY: Final = f"/_nicegui/{nicegui.__version__}"
_LOADED_LAST: Final = f"{_LIBRARY}/static/dompurify.mjs"
"""A file that a page asks for only when all others are there."""

_KINDS: Final = {".css": b"text/css; charset=utf-8", ".svg": b"image/svg+xml"}
_FILE_BYTES_MAX: Final = 1 << 20
"""The library has larger files, which no page of ours needs: each is kept, twice."""

_RECONNECT_S: Final = 15.0
"""How long a page waits for its browser, with all that was typed; pings follow from it."""

_UNSEEN_S: Final = 20.0
"""How long a page that was asked for may stay without a socket."""

_PAGES_RATE: Final = 5.0
_PAGES_BURST: Final = 64
"""Pages that one address may ask for, each made by the server: all at once after a restart."""

_GONE_MAX: Final = 64
_FAREWELL_S: Final = 5.0
"""How long the socket of a page that is no more may stay, and how many of them at a time."""

_CLIENT_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ENDED_MAX: Final = 16
"""Pages of about 0.5 MiB that may be gone and still take memory."""

_SPARE: Final = 32
"""Pages where nobody is signed in, beside twice those that are told of changes."""

_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_SECURITY: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
]
_FOREVER: Final = (b"cache-control", b"public, max-age=31536000, immutable")
_ACCEPTED: Final = frozenset({b"host", b"user-agent", b"accept"})
"""Headers that NiceGUI gets: others steer it, X-Forwarded-Prefix for instance."""


class _File(NamedTuple):
    headers: list[tuple[bytes, bytes]]
    content: bytes
    packed: bytes


class PageHost:
    """The pages of one app: `make` fills one, `paths` are their addresses."""

    def __init__(
        self,
        app: FastAPI,
        title: str,
        paths: re.Pattern[str],
        make: MakePage,
        pages_max: int,
    ) -> None:
        self._app = app
        self._paths = paths
        self._clients_max = 2 * pages_max + _SPARE
        self._addresses = RateLimit(_PAGES_RATE, max(_PAGES_BURST, pages_max))
        self._files = {
            address_of(name): _file(_KINDS[name[name.rindex(".") :]], content)
            for name, content in CONTENTS.items()
        }
        self._static = _static_files()
        self._sockets: dict[str, CheckedSocket] = {}
        self._gone = 0
        self._ended = 0
        self._configure(title, make)

    def has(self, path: str) -> bool:
        """Whether a path is a page's, or a file's."""
        return (
            self._paths.fullmatch(path) is not None
            or path in self._files
            or path in self._static
            or self._is_component(path)
        )

    async def serve(self, scope: Scope, send: Send) -> None:
        """Answer GET or HEAD of a path that there is."""
        path = scope["path"]
        try:
            if self._paths.fullmatch(path) is not None:
                await self._serve_page(scope, send)
            else:
                await self._serve_file(scope, send)
        except Problem as problem:
            await send_problem(problem, send)

    async def serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One page's socket, until either side ends it."""
        client_id = self._page_of(scope)
        if client_id is None:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        socket = self._sockets[client_id] = CheckedSocket(client_id, receive, send)
        is_gone = client_id not in Client.instances
        self._gone += is_gone
        try:
            # a page of an earlier process, or one that was ended, is told so: it loads anew
            async with asyncio.timeout(_FAREWELL_S if is_gone else None):
                await self._app(scope, socket.receive, socket.send)
        except TimeoutError:
            await socket.end()
        finally:
            del self._sockets[client_id]
            self._gone -= is_gone

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """NiceGUI's own start and stop."""
        async with self._app.router.lifespan_context(self._app):
            yield

    def _configure(self, title: str, make: MakePage) -> None:
        # what a browser sends can make it log: never more than a little of that
        logging.getLogger("nicegui").addFilter(_Seldom())
        nicegui.app.config.socket_io_js_transports = ["websocket"]
        nicegui.app.storage.max_tab_storage_age = _UNSEEN_S  # nothing of ours is kept there
        nicegui.app.on_delete(self._page_ended)
        nicegui.app.colors(
            primary="#0f766e", negative="#b42318", positive="#14683b", dark_page="#10161c"
        )

        @ui.page("/{_:path}", title=title, response_timeout=30.0)
        async def page(client: Client, request: Request) -> None:
            try:
                await make(client, request)
            except Exception:  # noqa: BLE001  # its browser is told no more than that
                structlog.get_logger().exception("a page can't be made")
                raise Problem(500, "INTERNAL", "the app's log says more") from None

        ui.add_head_html(
            f'<link rel="stylesheet" href="{address_of("ledger.css")}">'
            f'<link rel="modulepreload" href="{_LOADED_LAST}"><script>{SCRIPT}</script>',
            shared=True,
        )
        ui.run_with(
            self._app,
            title=title,
            favicon=CONTENTS["icon.svg"].decode(),
            dark=None,
            binding_refresh_interval=None,
            reconnect_timeout=_RECONNECT_S,
            message_history_length=UNREAD_MAX + 16,
            gzip_middleware_factory=None,
            tailwind=False,
            show_welcome_message=False,
        )

    def _is_component(self, path: str) -> bool:
        """Whether NiceGUI has this file; at any address but the right one it would make a page."""
        kind, _, key = path.removeprefix(f"{_LIBRARY}/").partition("/")
        match kind:
            case "components":  # known as they are used first
                return key in js_components or key in vue_components
            case "libraries":
                return key in libraries
        return False

    def _page_ended(self) -> None:
        """Its elements name each other: they only go when such rings are looked for."""
        self._ended += 1
        if self._ended % _ENDED_MAX == 0:
            asyncio.get_running_loop().call_soon(gc.collect)

    def _page_of(self, scope: Scope) -> str | None:
        """The open page that a socket is for; None for one that isn't to be had."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").partition(b"://")[2]
        query = parse_qs(scope["query_string"].decode("ascii", "replace"), max_num_fields=16)
        client_id = query.get("client_id", [""])[0]
        good = (
            scope["path"] == PAGE_SOCKET
            and bool(origin)
            and origin == headers.get(b"host")
            and query.get("transport") == ["websocket"]
            and _CLIENT_ID.fullmatch(client_id) is not None
            and (client_id in Client.instances or self._gone < _GONE_MAX)
            and client_id not in self._sockets
        )
        return client_id if good else None

    async def _serve_page(self, scope: Scope, send: Send) -> None:
        if scope["method"] == "HEAD":
            headers = [(b"content-type", b"text/html; charset=utf-8"), *_page_headers("none")]
            await _respond(send, 200, headers, b"")
            return
        wait_s = self._addresses.take(scope["client"][0] if scope["client"] else "")
        if wait_s:
            raise retry_later(429, "RATE_LIMITED", "too many pages are asked for", wait_s)
        await self._make_room()
        status, _, html = await self._ask(scope)
        nonce = secrets.token_urlsafe(16)
        # text of the ledger stands in the page with its < escaped: these tags are the page's own
        html = html.replace(b"<script", b'<script nonce="%s"' % nonce.encode())
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"no-store"),
            *_page_headers(nonce),
        ]
        if b"gzip" in dict(scope["headers"]).get(b"accept-encoding", b""):
            headers.append((b"content-encoding", b"gzip"))
            html = gzip.compress(html, 3, mtime=0)
        await _respond(send, status, headers, html)

    async def _serve_file(self, scope: Scope, send: Send) -> None:
        path = scope["path"]
        file = self._files.get(path)
        if file is None:
            status, headers, content = await self._ask(scope)
            if status != 200:
                raise Problem(404, "NOT_FOUND", "no such file")
            kind = dict(headers).get(b"content-type", b"application/octet-stream")
            file = self._files[path] = _file(kind, content)
        sent = list(file.headers)
        content = file.content
        if b"gzip" in dict(scope["headers"]).get(b"accept-encoding", b""):
            sent.append((b"content-encoding", b"gzip"))
            content = file.packed
        body = b"" if scope["method"] == "HEAD" else content
        sent.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": 200, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _ask(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """NiceGUI's whole answer."""
        status, headers, content = 500, [], bytearray()
        inner = dict(scope) | {
            "method": "GET",
            "headers": [pair for pair in scope["headers"] if pair[0] in _ACCEPTED],
        }

        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # it is read to its end, whoever goes
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            elif message["type"] == "http.response.body":
                content.extend(message.get("body", b""))

        await self._app(inner, receive, keep)
        return status, headers, bytes(content)

    async def _make_room(self) -> None:
        """End pages that never got a socket, then one that there is most reason to end.

        Raises Problem if all are somebody's who hasn't too many.
        """
        Client.prune_instances(client_age_threshold=_UNSEEN_S)
        if len(Client.instances) < self._clients_max:
            return
        client = _to_end(list(Client.instances.values()))
        if client is None:
            raise retry_later(503, "OVERLOADED", "too many pages are open: close one", 5)
        client.delete()
        socket = self._sockets.get(client.id)
        if socket is not None:
            await socket.end()


def _to_end(clients: list[Client]) -> Client | None:
    """The oldest page of a person who has too many, or else the oldest where nobody is signed in.

    Who has an API key may have any number.
    """
    callers: list[Caller | None] = [client.storage.get(SIGNED_IN) for client in clients]
    pages = Counter(each.name for each in callers if each is not None and each.accounts is not None)
    for client, caller in zip(clients, callers, strict=True):
        if caller is not None and pages[caller.name] > PAGES_EACH:
            return client
    nobodys = (pair[0] for pair in zip(clients, callers, strict=True) if pair[1] is None)
    return next(nobodys, None)


def _static_files() -> frozenset[str]:
    folder = Path(nicegui.__file__).parent / "static"
    return frozenset(
        f"{_LIBRARY}/static/{file.relative_to(folder).as_posix()}"
        for file in folder.rglob("*")
        if file.is_file() and file.stat().st_size <= _FILE_BYTES_MAX
    )


class _Seldom(logging.Filter):
    """Lets one line a second pass."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last_s < 1.0:
            return False
        self._last_s = now
        return True


def _page_headers(nonce: str) -> list[tuple[bytes, bytes]]:
    policy = _POLICY.replace("{nonce}", nonce)
    return [(b"content-security-policy", policy.encode()), *_SECURITY]


async def _respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes
) -> None:
    sized = [*headers, (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": content})


def _file(kind: bytes, content: bytes) -> _File:
    etag = hashlib.sha256(content).hexdigest()[:16].encode()
    headers = [
        (b"content-type", kind),
        (b"etag", b'"%s"' % etag),
        (b"vary", b"accept-encoding"),
        _FOREVER,
        (b"content-security-policy", b"default-src 'none'"),
        *_SECURITY,
    ]
    return _File(headers, content, gzip.compress(content, 9, mtime=0))
