"""A node's HTTP side: metrics, health and the log's level, on a thread of its own.

    GET /metrics                       the registry, in Prometheus's text formats
    GET /health, /health/live, /health/ready   200 or 503, with the reason
    GET, PUT /log-level                {"level": "debug"} or plain debug; PUT on loopback only

Whoever reaches the port may read. Connections, threads, requests and the time that each may take
are limited, so that a hostile peer costs the node no more than these few threads.
"""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server

from cluster_app.errors import Fault
from cluster_app.logs import LOG_LEVELS, log_level, set_log_level
from cluster_app.settings import NodeSettings

STALLED_AFTER_S: Final = 60.0
"""A node whose own thread gave no sign for so long is not live. A leader may read its journal back
for 10 s, and a learner copies changed rows for a second."""

REQUEST_TIMEOUT_S: Final = 10
"""For a request to arrive whole, and for a connection to be used again."""

_CLEANUP_INTERVAL_S: Final = 2
_CONNECTIONS_MAX: Final = 32
_THREADS: Final = 2
_HEADER_BYTES_MAX: Final = 8_192
_BODY_BYTES_MAX: Final = 256
_OWN_SOCKETS: Final = 2
"""The server's listener and its trigger count as connections."""

Headers = list[tuple[str, str]]


class NodeHealth:
    """What a node's own thread says of itself, for `/health`. Not ready at first."""

    def __init__(self) -> None:
        self._not_ready_because = "starting"
        self._doubt: Callable[[], str] = str
        self._beat_s: float | None = None

    def ready(self) -> None:
        """The node serves."""
        self._not_ready_because = ""

    def doubt(self, reason: Callable[[], str]) -> None:
        """From now on a node that serves is asked, at each look, for a reason why it doesn't.

        `reason`, from any thread, gives "" when all is well.
        """
        self._doubt = reason

    @property
    def not_ready_because(self) -> str:
        """Why the node doesn't serve; "" when it does."""
        return self._not_ready_because or self._doubt()

    def not_ready(self, reason: str) -> None:
        """The node doesn't serve, yet or any more; `reason` in a few words.

        It may take long, so its own thread is not missed until it beats again.
        """
        self._not_ready_because = reason
        self.rest()

    def rest(self) -> None:
        """What comes may take long: the node's own thread is not missed until it beats again."""
        self._beat_s = None

    def beat(self) -> None:
        """The node's own thread goes on; call it several times a minute, or never."""
        self._beat_s = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether the node serves."""
        return not self.not_ready_because and self.is_live

    @property
    def is_live(self) -> bool:
        """False when there were beats and there are none any more."""
        return self._beat_s is None or time.monotonic() - self._beat_s < STALLED_AFTER_S


@dataclass(frozen=True)
class Answer:
    """Status and JSON body of a response."""

    status: HTTPStatus
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


class HttpApp:
    """The routes, as a WSGI application."""

    def __init__(self, registry: CollectorRegistry, health: NodeHealth) -> None:
        self._metrics: Any = make_wsgi_app(registry)
        self._health = health
        self._routes: dict[str, dict[str, Callable[[WSGIEnvironment], Answer]]] = {
            "/health": {"GET": self._whole_health},
            "/health/live": {"GET": self._live},
            "/health/ready": {"GET": self._ready},
            "/log-level": {"GET": _show_level, "PUT": _change_level},
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        try:
            if path == "/metrics" and method == "GET":
                scraped: Iterable[bytes] = self._metrics(environ, start)
                return scraped
            answer = self._answer(path, method, environ)
        except Exception:  # noqa: BLE001 - one request's fault is not the node's
            structlog.get_logger().exception("http_fault", path=path[:100])
            answer = _refused(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault; the log has it")
        body = json.dumps(answer.body).encode() + b"\n"
        headers: Headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *answer.headers,
        ]
        start(f"{answer.status.value} {answer.status.phrase}", headers)
        return [body]

    def _answer(self, path: str, method: str, environ: WSGIEnvironment) -> Answer:
        methods = {"GET": None} if path == "/metrics" else self._routes.get(path)
        if methods is None:
            known = " ".join(("/metrics", *self._routes))
            return _refused(HTTPStatus.NOT_FOUND, f"no such path; there are: {known}")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(methods)
            return Answer(
                HTTPStatus.METHOD_NOT_ALLOWED,
                {"error": f"{path} takes {allowed}"},
                (("Allow", allowed),),
            )
        return handler(environ)

    def _whole_health(self, _: WSGIEnvironment) -> Answer:
        health = self._health
        live, ready = health.is_live, health.is_ready
        body = {"live": live, "ready": ready, "reason": self._reason()}
        return Answer(_ok_if(ready), body)

    def _live(self, _: WSGIEnvironment) -> Answer:
        live = self._health.is_live
        return Answer(_ok_if(live), {"live": live})

    def _ready(self, _: WSGIEnvironment) -> Answer:
        ready = self._health.is_ready
        return Answer(_ok_if(ready), {"ready": ready, "reason": self._reason()})

    def _reason(self) -> str:
        if not self._health.is_live:
            return f"its own thread gave no sign for {STALLED_AFTER_S:.0f} s"
        return self._health.not_ready_because


def _ok_if(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE


def _refused(status: HTTPStatus, error: str) -> Answer:
    return Answer(status, {"error": error})


def _show_level(_: WSGIEnvironment) -> Answer:
    return Answer(HTTPStatus.OK, {"level": log_level()})


def _change_level(environ: WSGIEnvironment) -> Answer:
    if not _is_loopback(environ["REMOTE_ADDR"]):
        return _refused(HTTPStatus.FORBIDDEN, "only this machine's own users may change the level")
    if environ.get("HTTP_ORIGIN"):
        return _refused(HTTPStatus.FORBIDDEN, "no page in a browser may change the level")
    # waitress has read the body, bounded, and says its length also where it came in chunks
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    level = _level_in(text)
    if level not in LOG_LEVELS:
        wanted = ", ".join(LOG_LEVELS)
        return _refused(
            HTTPStatus.BAD_REQUEST, f'send {{"level": "..."}} or the bare word: one of {wanted}'
        )
    before = log_level()
    set_log_level(level)
    structlog.get_logger().warning("log level changed", level_was=before, level_is=level)
    return Answer(HTTPStatus.OK, {"level": level})


def _level_in(body: bytes) -> str:
    """The level that a body names, or "" when it names none."""
    try:
        text = body.decode().strip()
        named = json.loads(text) if text.startswith("{") else {"level": text}
    except ValueError:
        return ""
    level = named.get("level") if len(named) == 1 else None
    return level if isinstance(level, str) else ""


def _is_loopback(peer: str) -> bool:
    address = ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class _TimedChannel(HTTPChannel):
    """A connection whose request must arrive whole in time: single bytes don't keep it open."""

    def handle_read(self) -> None:
        begun = self.last_activity
        super().handle_read()
        if self.request is not None:
            self.last_activity = begun


@contextlib.contextmanager
def http_side(
    settings: NodeSettings, registry: CollectorRegistry, health: NodeHealth
) -> Iterator[str]:
    """Serve on `settings.http_address()` until the end of the block; gives its HOST:PORT, or `off`.

    Raises Fault when the port can't be had.
    """
    address = settings.http_address()
    if address is None:
        yield "off"
        return
    with _listener(*address) as listener, _served(listener, HttpApp(registry, health)):
        port = listener.getsockname()[1]
        yield f"[{address[0]}]:{port}" if ":" in address[0] else f"{address[0]}:{port}"


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, *_, bound_to = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(bound_to[:2], family=family)
    except OSError as error:
        raise Fault(
            f"cannot listen on {host}:{port} for metrics and health ({error.strerror}): "
            "set --http-listen to another HOST:PORT, or to off"
        ) from None


@contextlib.contextmanager
def _served(
    listener: socket.socket, app: HttpApp, request_timeout_s: int = REQUEST_TIMEOUT_S
) -> Iterator[None]:
    # what it has to say, of slow peers and full queues, is no fault of the node's
    log = logging.getLogger("waitress")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    options: dict[str, Any] = {
        "sockets": [listener],
        "threads": _THREADS,
        "connection_limit": _CONNECTIONS_MAX + _OWN_SOCKETS,
        "channel_timeout": request_timeout_s,
        "cleanup_interval": _CLEANUP_INTERVAL_S,
        "max_request_header_size": _HEADER_BYTES_MAX,
        "max_request_body_size": _BODY_BYTES_MAX,
        "backlog": _CONNECTIONS_MAX,
        # select() can't tell descriptors above 1,023 apart, and a leader may have more streams
        "asyncore_use_poll": True,
        "clear_untrusted_proxy_headers": True,
        "ident": None,
    }
    waited_for: dict[int, Any] = {}
    server = create_server(app, map=waited_for, **options)
    if not isinstance(server, BaseWSGIServer):
        raise TypeError("one socket makes one server")
    server.channel_class = _TimedChannel
    thread = threading.Thread(target=server.run, name="http-side", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.task_dispatcher.shutdown()
        # the server's own thread closes everything that it waits for, and so it ends
        trigger: Any = server.trigger
        trigger.pull_trigger(lambda: server.asyncore.close_all(waited_for))
        thread.join()
