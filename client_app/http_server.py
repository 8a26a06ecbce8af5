"""uvicorn with limits on what a connection may do, or not do.

uvicorn bounds the time between two requests. Left to us: how long a request may take to arrive
and an answer to be read, how large its head is, and how many connections there are: beyond that
an idle one is closed for each new one, so whoever only holds connections keeps nobody out.
"""

import asyncio
import contextlib
import logging
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536
"""Of a request's line and headers, and of what stands in trailers."""

BACKLOG: Final = 4_096
"""Connections that the system has taken and this program has not."""

PAGE_SOCKET: Final = "/_nicegui_ws/socket.io/"
"""Where pages have their sockets: the only path that takes a WebSocket."""

_SOCKET_LINE: Final = b"GET " + PAGE_SOCKET.encode()
_SOCKET_FRAME_MAX: Final = 65_536
_PIPELINE_MAX: Final = 64
"""Requests of one connection that wait for those before: each takes 2 KB, its bytes only 40."""

_OFFER: Final = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
"""The header that offers another protocol."""

_SWEEP_INTERVAL_S: Final = 1.0
_FILES_ELSEWHERE: Final = 128
"""Open files beside the connections: logs, gRPC, libraries."""

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-length: 0\r\n\r\n"
)


@dataclass(frozen=True)
class ConnectionLimits:
    """`transfer_timeout_s` is for a request to arrive, and for an answer to be taken."""

    connections_max: int
    idle_timeout_s: float
    transfer_timeout_s: float


class RefusedConnection(Exception):
    """A connection's requests pass a limit. The parser makes it a 400, and the connection ends."""


class JoinedWrites:
    """A transport that sends all that is written in one turn of the loop at once.

    uvicorn writes an answer's head and body one after the other: two system calls, two packets.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.abort = transport.abort
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        """Send `data` in the end of this turn."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            joined = b"".join(self._pieces)
            self._pieces.clear()
            self._transport.write(joined)


class BoundedConnection(HttpToolsProtocol):
    """One connection. `limits` is set on a subclass, for uvicorn makes the objects."""

    limits: ConnectionLimits

    _receiving_since: float | None = None
    _stuck_since: float | None = None
    _in_head = False
    _in_body = False
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Take a connection; close an idle one if there are too many, or else this one."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        self._receiving_since = self.loop.time()
        if len(self.connections) > self.limits.connections_max and not self._close_an_idle_one():
            self.transport.write(_FULL)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came. The clock of a request starts with its first byte."""
        if self._receiving_since is None and self._is_idle():
            self._receiving_since = self.loop.time()
        if b"pgrade:" in data and not self._in_body and not self._begins_socket(data):
            data = _without_offer(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request's head begins."""
        super().on_message_begin()
        self._receiving_since = self.loop.time()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer after the body. Raises RefusedConnection."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise RefusedConnection

    def on_headers_complete(self) -> None:
        """A request's head is complete. Raises RefusedConnection."""
        if len(self.pipeline) >= _PIPELINE_MAX:
            raise RefusedConnection
        if self.parser.should_upgrade():
            # the parser takes no body then: it would run as one without
            self._check_socket()
            self._in_head = False
        else:
            self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._receiving_since = None
        self._in_body = False
        super().on_message_complete()

    def sweep(self, now: float) -> None:
        """End the connection if it has kept this side waiting for too long."""
        closing = self.transport.is_closing()
        if not closing and not self.flow.write_paused:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > self.limits.transfer_timeout_s:
            self.transport.abort()
            return
        since = self._receiving_since
        if not closing and since is not None and now - since > self.limits.transfer_timeout_s:
            # what it sent is incomplete: no answer could be told from one to the next request
            self.transport.abort()

    def _begins_socket(self, data: bytes) -> bool:
        """Whether this is a page's socket, whose offer is taken."""
        return self.ws_protocol_class is not None and data.startswith(_SOCKET_LINE)

    def _check_socket(self) -> None:
        """Raises RefusedConnection for an offer that isn't a page's socket, or has a body."""
        names = {name for name, _ in self.headers}
        if (
            not self._should_upgrade()
            or self.parser.get_method() != b"GET"
            or self.url.partition(b"?")[0] != PAGE_SOCKET.encode()
            or names & {b"content-length", b"transfer-encoding"}
            or not self._is_idle()
        ):
            raise RefusedConnection

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_an_idle_one(self) -> bool:
        for other in self.connections:
            if (
                other is not self
                and isinstance(other, BoundedConnection)
                and other._is_idle()
                and not other.transport.is_closing()
            ):
                other.transport.abort()
                return True
        return False


def _without_offer(data: bytes) -> bytes:
    """A request without its offer of another protocol, which a server may overlook (RFC 9110, 7.8).

    Java's HttpClient offers HTTP/2 so. An offer that is missed here (it came in pieces, or behind
    another request) is refused when its head is complete.
    """
    end = data.find(b"\r\n\r\n")
    head = len(data) if end < 0 else end + 2
    return _OFFER.sub(b"", data[:head]) + data[head:]


def raise_file_limit(connections_max: int) -> int:
    """Allow as many open files as this process may have; how many connections that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return connections_max
    possible = max(1, hard - _FILES_ELSEWHERE)
    if possible < connections_max:
        structlog.get_logger().warning(
            "fewer connections than set: the limit of open files is too low",
            connections=possible,
            open_files=hard,
        )
    return min(possible, connections_max)


class HttpServer(uvicorn.Server):
    """Serves one app on a listening socket; with a certificate over TLS."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ConnectionLimits,
        stop_timeout_s: float,
        certificate: tuple[str, str] | None = None,
        on_stop: Callable[[], None] = lambda: None,
        *,
        sockets: bool = False,
    ) -> None:
        """`on_stop` is called when a stop begins, so that what would go on for ever ends.

        `sockets`: pages may have theirs.
        """
        self._on_stop = on_stop
        bounded = type("Connection", (BoundedConnection,), {"limits": limits})
        tls: dict[str, Any] = {}
        if certificate is not None:
            tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=bounded,
                ws="websockets-sansio" if sockets else "none",
                ws_max_size=_SOCKET_FRAME_MAX,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=limits.idle_timeout_s,  # type: ignore[arg-type]  # or a float
                timeout_graceful_shutdown=max(1, round(stop_timeout_s)),
                **tls,
            )
        )
        # its warnings are about what clients send: those would fill the log
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT, then answer what is under way."""
        sweep = asyncio.create_task(self._sweep())
        try:
            await self.serve([listener])
        finally:
            sweep.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A stop begins."""
        self._on_stop()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Both signals begin a clean stop; uvicorn's own way would end the process by them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            now = loop.time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.sweep(now)


def listen_on(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
    except BaseException:
        listener.close()
        raise
    return listener
