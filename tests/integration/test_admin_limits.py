"""Whoever calls the admin app: keys, rates, and connections that mean no good."""

import contextlib
import http.client
import os
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_core.testing import FakeNode
from tests.admin_process import AdminProcess, read_answer
from tests.server_process import poll_until

KEY = "0123456789abcdef-secret"
REQUEST = b"GET /api/v1/assets HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


@contextlib.contextmanager
def running(node: FakeNode, *flags: str) -> Iterator[AdminProcess]:
    with AdminProcess(node.address, *flags).wait_ready() as app:
        yield app


def connected(app: AdminProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", app.port), timeout=20)


def is_ended(sock: socket.socket, timeout_s: float) -> bool:
    """Whether the other side ends the connection in time, whatever it sends before."""
    sock.settimeout(timeout_s)
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def resident_bytes(app: AdminProcess) -> int:
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1_024


def test_without_a_right_key_nobody_is_served_and_no_key_is_logged(node: FakeNode) -> None:
    with running(node, "--api-keys", f"a:{KEY}") as app:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            for path in ("/api/v1/assets", "/openapi.json", "/api/v1/balance/query?id=1", "/other"):
                got = app.call("GET", path, headers=header)
                assert (got.status, got.json["code"]) == (401, "UNAUTHENTICATED")
                assert got.headers["www-authenticate"] == "Bearer"
        right = {"authorization": f"Bearer {KEY}"}
        assert app.call("GET", "/api/v1/assets", headers=right).status == 200
        code, log = app.stop()
        assert code == 0
        assert KEY not in log
        assert "wrong" not in log.replace("wrong keys", "")


def test_in_development_no_page_of_another_site_is_served(node: FakeNode) -> None:
    with running(node) as app:
        headers = {"origin": "https://example.org", "content-type": "text/plain"}
        got = app.call("POST", "/api/v1/balance/command/create", headers=headers)
        assert (got.status, got.json["code"]) == (403, "ORIGIN_REFUSED")
        # a name of another site's that it lets point here: its pages send no origin
        for host in ("example.org", f"example.org:{app.port}", "127.0.0.1.example.org", "[::2]:1"):
            got = app.call("GET", "/api/v1/totals", headers={"host": host})
            assert (got.status, got.json["code"]) == (403, "ORIGIN_REFUSED")
        for host in ("localhost", f"LOCALHOST:{app.port}", "127.0.0.1", "[::1]:8900", "::1", ""):
            assert app.call("GET", "/api/v1/totals", headers={"host": host}).status == 200


def test_a_header_that_decides_is_given_once(node: FakeNode) -> None:
    with running(node, "--api-keys", f"a:{KEY},b:{KEY}-2") as app:
        connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=20)
        connection.putrequest("GET", "/api/v1/assets")
        connection.putheader("authorization", f"Bearer {KEY}")
        connection.putheader("authorization", f"Bearer {KEY}-2")
        connection.endheaders()
        got = read_answer(connection.getresponse())
        connection.close()
        assert (got.status, got.json["code"]) == (401, "UNAUTHENTICATED")


def test_many_wrong_keys_are_slowed_down(node: FakeNode) -> None:
    with running(node, "--api-keys", f"a:{KEY}") as app:
        statuses = {app.call("GET", "/api/v1/assets").status}
        assert statuses == {401}
        for _ in range(3_000):  # until they come quicker than ten a second
            if 429 in statuses:
                break
            statuses.add(app.call("GET", "/api/v1/assets").status)
        assert statuses == {401, 429}
        right = {"authorization": f"Bearer {KEY}"}
        assert app.call("GET", "/api/v1/assets", headers=right).status == 200


def test_a_caller_over_its_rate_is_told_when_to_come_back(node: FakeNode) -> None:
    with running(node, "--rate-limit", "0.02", "--rate-burst", "3") as app:
        statuses = [app.call("GET", "/api/v1/assets").status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        got = app.call("GET", "/api/v1/assets")
        assert got.json["code"] == "RATE_LIMITED"
        assert 1 <= int(got.headers["retry-after"]) <= 50


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--no-development",), "RINGLEDGER_API_KEYS"),
        (("--listen", "0.0.0.0:0"), "RINGLEDGER_DEVELOPMENT"),
        (("--https-cert", "/nowhere", "--https-key", "/nowhere"), "no file"),
    ],
)
def test_it_refuses_to_start_with_one_clear_line(flags: tuple[str, ...], text: str) -> None:
    with AdminProcess("127.0.0.1:1", *flags) as app:
        log = app.output()
        assert app.process.returncode == 2
        assert text in log
        assert log.startswith("error: ")
        assert log.count("\n") == 1


def test_a_port_in_use_or_a_ledger_away_is_one_line_and_exit_code_1(node: FakeNode) -> None:
    with running(node) as first, AdminProcess(node.address, listen=first.address) as second:
        assert "can't listen" in second.output()
        assert second.process.returncode == 1
    with AdminProcess("127.0.0.1:1") as app:
        assert "no node of 127.0.0.1:1" in app.output()
        assert app.process.returncode == 1


def test_pages_of_accounts_are_walked_and_filtered(node: FakeNode) -> None:
    with running(node, "--rate-limit", "0") as app:
        for number in range(25):
            app.call("POST", "/api/v1/accounts", {"code": number % 2, "reference": number})
        seen: list[int] = []
        after: int | None = 0
        while after is not None:
            page = app.call("GET", f"/api/v1/accounts?page_size=10&after={after}").json
            seen += [account["account"] for account in page["accounts"]]
            after = page["next_after"]
        assert len(seen) >= 25
        assert seen == sorted(set(seen))
        odd = app.call("GET", "/api/v1/accounts?code=1&page_size=1000").json["accounts"]
        assert {account["code"] for account in odd} == {1}
        one = app.call("GET", "/api/v1/accounts?reference=7&state=open&asset=1").json
        assert [account["reference"] for account in one["accounts"]] == [7]


def test_10000_idle_connections_harm_nobody(node: FakeNode) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip("this machine lets a process have too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    try:
        with running(node) as app:
            held.extend(connected(app) for _ in range(10_000))
            begun = time.monotonic()
            assert app.call("GET", "/api/v1/assets").status == 200
            assert app.call("POST", "/api/v1/accounts").status == 201
            assert time.monotonic() - begun < 10
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_beyond_the_limit_idle_connections_are_closed_for_new_ones(node: FakeNode) -> None:
    with running(node, "--max-connections", "50") as app, contextlib.ExitStack() as held:
        socks = [held.enter_context(connected(app)) for _ in range(200)]
        for _ in range(20):
            assert app.call("GET", "/api/v1/assets").status == 200
        assert poll_until(lambda: sum(is_ended(sock, 0.001) for sock in socks) >= 140, 20)


def test_a_request_that_doesnt_arrive_is_ended(node: FakeNode) -> None:
    with running(node, "--transfer-timeout-s", "0.5") as app:
        head = b"POST /api/v1/deposits HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
        for sent in (b"", b"GET /api", b"\r\n", b"GET / HTTP/1.1\r\nhost", head, REQUEST + b"GE"):
            with connected(app) as sock:
                sock.sendall(sent)
                assert is_ended(sock, 15), sent


def test_a_client_that_idles_after_its_answer_is_ended(node: FakeNode) -> None:
    with running(node, "--idle-timeout-s", "0.5") as app, connected(app) as sock:
        sock.sendall(REQUEST)
        assert is_ended(sock, 15)


def test_a_reader_that_reads_nothing_is_ended_and_harms_nobody(node: FakeNode) -> None:
    with running(node, "--rate-limit", "0", "--transfer-timeout-s", "1") as app:
        before = resident_bytes(app)
        with connected(app) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.settimeout(0.5)
            request = REQUEST.replace(b"/api/v1/assets", b"/openapi.json") * 20
            with contextlib.suppress(OSError):  # it fills, or is ended
                for _ in range(2_000):
                    sock.sendall(request)
            assert app.call("GET", "/api/v1/assets").status == 200
            assert is_ended(sock, 20)
        assert resident_bytes(app) - before < 100 << 20


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000,
        b"GET / HTTP/1.1\r\na: " + b"b" * 1_000_000,
        b"GET /" + b"x" * 1_000_000,
        b"\x16\x03\x01\x00" * 100,
        REQUEST * 10_000,
    ],
    ids=["many headers", "long header", "long path", "no HTTP", "pipelined"],
)
def test_heads_without_end_and_floods_of_requests_end_the_connection(
    node: FakeNode, sent: bytes
) -> None:
    with running(node, "--rate-limit", "0") as app:
        with connected(app) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(sent)
            assert is_ended(sock, 20)
        assert app.call("GET", "/api/v1/assets").status == 200


def test_a_body_of_100_mb_is_refused_without_taking_memory(node: FakeNode) -> None:
    with running(node) as app:
        before = resident_bytes(app)
        head = b"POST /api/v1/batches HTTP/1.1\r\nhost: localhost\r\n"
        head += b"content-type: application/json\r\n"
        for framing in (
            b"content-length: 100000000\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\n",
        ):
            with connected(app) as sock:
                sock.sendall(head + framing)
                chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
                with contextlib.suppress(OSError):
                    for _ in range(100):
                        sock.sendall(chunk)
                with contextlib.suppress(OSError):
                    assert sock.recv(100).startswith(b"HTTP/1.1 413")
        assert resident_bytes(app) - before < 30 << 20


def test_too_many_requests_at_a_time_are_told_to_come_back() -> None:
    with FakeNode() as node, running(node, "--max-requests", "4") as app:
        deposit = b'{"credit_account": 1, "amount": "1.00"}'
        assert app.call("POST", "/api/v1/accounts").status == 201
        assert app.call("POST", "/api/v1/deposits", deposit).status == 200
        node.stop_leading()
        head = b"POST /api/v1/deposits HTTP/1.1\r\nhost: localhost\r\n"
        head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(deposit)
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(connected(app)).sendall(head + deposit)
            assert poll_until(lambda: app.call("GET", "/api/v1/assets").status == 503, 10)
            got = app.call("GET", "/api/v1/assets")
            assert (got.json["code"], got.headers["retry-after"]) == ("OVERLOADED", "1")


def test_bodies_that_dont_arrive_keep_nobody_out(node: FakeNode) -> None:
    with running(node, "--max-requests", "4") as app, contextlib.ExitStack() as held:
        head = b"POST /api/v1/deposits HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
        for _ in range(20):
            held.enter_context(connected(app)).sendall(head)
        for _ in range(20):
            assert app.call("GET", "/api/v1/assets").status == 200


def test_it_serves_https_with_a_certificate(node: FakeNode, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "OPENSSL_CONF": os.devnull},
    )
    with running(node, "--https-cert", str(cert), "--https-key", str(key)) as app:
        trusted = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", app.port, timeout=20, context=trusted)
        with contextlib.closing(connection):
            connection.request("GET", "/api/v1/assets")
            assert connection.getresponse().status == 200
        with connected(app) as sock:
            sock.sendall(REQUEST)
            assert is_ended(sock, 20)
