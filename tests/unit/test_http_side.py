"""The HTTP side alone, on real sockets: routes, limits, slow and hostile peers."""

import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge

from cluster_app import http_side as served
from cluster_app.errors import Fault, UsageError
from cluster_app.http_side import HttpApp, NodeHealth, http_side
from cluster_app.logs import configure_logs, log_level
from cluster_app.settings import LeaderSettings, LearnerSettings
from tests.http_get import answer, request, scrape
from tests.server_process import poll_until

SETTINGS = LeaderSettings(listen="127.0.0.1:0")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    configure_logs("info")
    yield
    configure_logs("info")
    structlog.reset_defaults()


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("seven", "A number", registry=registry).set(7)
    return registry


@pytest.fixture
def health() -> NodeHealth:
    return NodeHealth()


@pytest.fixture
def address(registry: CollectorRegistry, health: NodeHealth) -> Iterator[str]:
    with http_side(SETTINGS, registry, health) as address:
        yield address


@contextmanager
def impatient() -> Iterator[str]:
    """Served with a second for each request."""
    with (
        served._listener("127.0.0.1", 0) as listener,
        served._served(listener, HttpApp(CollectorRegistry(), NodeHealth()), 1),
    ):
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it; nothing is expected to come."""
    connection.settimeout(0.01)
    try:
        return connection.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_metrics_are_given_in_prometheus_s_text_format(address: str) -> None:
    assert scrape(address) == {("seven", ()): 7.0}
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert request(address, "/metrics", headers=accept)[1].endswith("# EOF\n")


def test_a_node_is_ready_once_it_says_so_and_not_any_more_when_it_stops(
    address: str, health: NodeHealth
) -> None:
    for path in ("/health", "/health/ready"):
        assert answer(address, path)["status"] == 503
        assert answer(address, path)["reason"] == "starting"
    assert answer(address, "/health/live") == {"status": 200, "live": True}
    health.ready()
    assert answer(address, "/health") == {"status": 200, "live": True, "ready": True, "reason": ""}
    assert answer(address, "/health/ready")["status"] == 200
    health.not_ready("stopping")
    assert answer(address, "/health/ready") == {"status": 503, "ready": False, "reason": "stopping"}


def test_a_node_whose_own_thread_stands_still_is_neither_live_nor_ready(
    address: str, health: NodeHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.ready()
    health.beat()
    assert answer(address, "/health/live")["status"] == 200
    monkeypatch.setattr(served, "STALLED_AFTER_S", 0.0)
    assert answer(address, "/health/live") == {"status": 503, "live": False}
    assert "no sign" in answer(address, "/health/ready")["reason"]


def test_a_node_that_restores_or_stops_for_long_is_live_though_it_gives_no_sign(
    address: str, health: NodeHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "STALLED_AFTER_S", 0.0)
    health.beat()
    health.not_ready("stopping")
    assert answer(address, "/health/live") == {"status": 200, "live": True}
    assert answer(address, "/health")["reason"] == "stopping"


@pytest.mark.parametrize(
    "body", [b'{"level": "debug"}', b"debug", b"debug\n", b' {"level":"debug"}\r\n']
)
def test_the_log_s_level_is_changed_while_the_node_runs(
    address: str, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(address, "/log-level") == {"status": 200, "level": "info"}
    structlog.get_logger().debug("before")
    assert answer(address, "/log-level", "PUT", body) == {"status": 200, "level": "debug"}
    assert answer(address, "/log-level")["level"] == log_level() == "debug"
    structlog.get_logger().debug("after")
    logged = capsys.readouterr().err
    assert '"after"' in logged
    assert '"before"' not in logged


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"loud",
        b"DEBUG",
        b"{",
        b"[]",
        b"{}",
        b'{"level": null}',
        b'{"level": ["debug"]}',
        b'{"level": "debug", "for": 1}',
        b'{"levels": "debug"}',
        b"\xff\xfe",
        b"{" * 200,
    ],
)
def test_a_level_that_there_is_not_is_refused_and_says_which_there_are(
    address: str, body: bytes
) -> None:
    refused = answer(address, "/log-level", "PUT", body)
    assert refused["status"] == 400
    assert "debug, info, warning, error" in refused["error"]
    assert log_level() == "info"


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", "200"),
        ("127.9.9.9", "200"),
        ("::1", "200"),
        ("::ffff:127.0.0.1", "200"),
        ("10.0.0.1", "403"),
        ("::ffff:10.0.0.1", "403"),
        ("fe80::1%eth0", "403"),
        ("2001:db8::1", "403"),
    ],
)
def test_only_the_machine_s_own_users_may_change_the_level(peer: str, status: str) -> None:
    body = b"debug"
    environ: dict[str, Any] = {
        "PATH_INFO": "/log-level",
        "REQUEST_METHOD": "PUT",
        "REMOTE_ADDR": peer,
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    told: list[str] = []

    def start(line: str, *_: Any) -> Any:
        told.append(line)

    HttpApp(CollectorRegistry(), NodeHealth())(environ, start)
    assert told[0].startswith(status)
    assert (log_level() == "debug") == (status == "200")


def test_a_page_in_a_browser_can_t_change_the_level(address: str) -> None:
    headers = {"Origin": "http://example.com"}
    assert request(address, "/log-level", "PUT", b"debug", headers)[0] == 403
    assert request(address, "/log-level", "OPTIONS", headers=headers)[0] == 405
    assert log_level() == "info"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/health/../log-level", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/health", 405),
        ("POST", "/log-level", 405),
        ("HEAD", "/health/live", 200),
    ],
)
def test_paths_and_methods_that_there_are_not_are_refused(
    address: str, method: str, path: str, status: int
) -> None:
    assert request(address, path, method)[0] == status


def test_what_is_too_large_is_refused_before_it_is_read(address: str) -> None:
    assert request(address, "/log-level", "PUT", b"x" * 257)[0] == 413
    assert request(address, "/metrics", headers={"X-Long": "x" * 9_000})[0] == 431
    with connect(address) as peer:
        peer.sendall(b"PUT /log-level HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.sendall(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n0\r\n\r\n")
        assert b" 413 " in peer.recv(1 << 16).split(b"\r\n")[0]


def test_what_is_no_http_ends_its_connection_only(address: str) -> None:
    for junk in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", os.urandom(9_000), b"PRI * HTTP/2.0\r\n\r\n"):
        with connect(address) as peer:
            peer.sendall(junk)
            assert poll_until(lambda peer=peer: is_closed(peer), 10)  # type: ignore[misc]
    assert request(address, "/health/live")[0] == 200


def test_single_bytes_now_and_then_don_t_hold_a_connection() -> None:
    with impatient() as address, connect(address) as peer:
        deadline = time.monotonic() + 15
        closed = False
        for byte in b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 1_000:
            try:
                peer.sendall(bytes([byte]))
            except ConnectionError:
                closed = True
            if closed or is_closed(peer) or time.monotonic() > deadline:
                break
            poll_until(lambda: False, 0.05)
        assert time.monotonic() < deadline


def test_idle_connections_are_closed_and_let_others_in() -> None:
    with impatient() as address, ExitStack() as idle:
        for _ in range(60):
            idle.enter_context(connect(address))
        assert request(address, "/health/live")[0] == 200


def test_it_serves_beside_more_descriptors_than_select_can_take(
    registry: CollectorRegistry, health: NodeHealth
) -> None:
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        with http_side(SETTINGS, registry, health) as address:
            assert scrape(address) == {("seven", ()): 7.0}
    finally:
        for descriptor in taken:
            os.close(descriptor)


def test_after_its_end_nobody_listens_and_the_port_can_be_had_again(
    registry: CollectorRegistry, health: NodeHealth
) -> None:
    with http_side(SETTINGS, registry, health) as address:
        kept = connect(address)
        kept.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
        assert kept.recv(1 << 16)
    assert poll_until(lambda: is_closed(kept), 10)
    kept.close()
    with (
        http_side(LeaderSettings(http_listen=address), registry, health) as again,
        pytest.raises(Fault, match="set --http-listen"),
        http_side(LeaderSettings(http_listen=address), registry, health),
    ):
        assert again == address


def test_it_can_be_switched_off(registry: CollectorRegistry, health: NodeHealth) -> None:
    with http_side(LeaderSettings(http_listen="off"), registry, health) as address:
        assert address == "off"


def test_a_port_is_a_hundred_above_the_node_s_own_unless_set() -> None:
    assert LeaderSettings().http_address() == ("127.0.0.1", 9_600)
    assert LearnerSettings().http_address() == ("127.0.0.1", 9_602)
    assert LeaderSettings(listen="[::1]:9500").http_address() == ("::1", 9_600)
    assert LeaderSettings(listen="[::]:0").http_address() == ("::", 0)
    assert LeaderSettings(http_listen="0.0.0.0:1").http_address() == ("0.0.0.0", 1)
    assert LeaderSettings(http_listen="off").http_address() is None
    assert LeaderSettings(listen="h:65535", http_listen="h:1").http_address() == ("h", 1)
    for wrong in ("9600", "on", "h:65536", ":1"):
        with pytest.raises(UsageError, match="--http-listen must be HOST:PORT"):
            LeaderSettings(http_listen=wrong)
    with pytest.raises(UsageError, match="set --http-listen"):
        LeaderSettings(listen="h:65500")
