"""What is run is what was sent: nothing of a request is dropped, doubled or guessed."""

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from client_core.testing import FakeNode
from tests.admin_process import AdminProcess, Got, read_answer

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
"""What Java's HttpClient sends with its first request to a plain http address."""


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


@pytest.fixture(scope="module")
def app(node: FakeNode) -> Iterator[AdminProcess]:
    with AdminProcess(node.address, "--rate-limit", "0").wait_ready() as app:
        for _ in range(2):
            assert post(app, "/accounts").status == 201
        assert post(app, "/deposits", {"credit_account": 1, "amount": "1000.00"}).status == 200
        yield app


def post(app: AdminProcess, path: str, body: Any = None, key: str | None = None) -> Got:
    headers = {} if key is None else {"idempotency-key": key}
    return app.call("POST", f"/api/v1{path}", body, headers)


def new_hold(app: AdminProcess) -> int:
    body = {"debit_account": 1, "credit_account": 2, "amount": "10.00"}
    hold: int = post(app, "/holds", body).json["hold"]
    return hold


def remaining(app: AdminProcess, hold: int) -> str:
    amount: str = app.call("GET", f"/api/v1/holds/{hold}").json["remaining"]
    return amount


def head(path: str, body: bytes, headers: str) -> bytes:
    return (
        f"POST /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode()


def receive(sock: socket.socket) -> Got:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return read_answer(response)


def test_a_request_that_offers_http2_is_served_with_its_body_and_the_next_one_too(
    app: AdminProcess,
) -> None:
    hold = new_hold(app)
    body = json.dumps({"amount": "1.00", "keep_rest_held": True}).encode()
    sent = head(f"/holds/{hold}/capture", body, H2C)
    with socket.create_connection(("127.0.0.1", app.port), timeout=20) as sock:
        sock.sendall(sent + body)
        assert receive(sock).json["amount"] == "1.00"
        sock.sendall(sent)
        sock.sendall(body)
        assert receive(sock).json["amount"] == "1.00"
        sock.sendall(b"GET /api/v1/assets HTTP/1.1\r\nHost: 127.0.0.1\r\n" + H2C.encode() + b"\r\n")
        assert receive(sock).status == 200
        sock.sendall(sent + body)
        assert receive(sock).json["amount"] == "1.00"
    assert remaining(app, hold) == "7.00"


@pytest.mark.parametrize("cut", ["Upg", "Upgrade: h", "UPGRADE"])
def test_an_offer_that_comes_in_pieces_is_refused_before_anything_is_run(
    app: AdminProcess, cut: str
) -> None:
    hold = new_hold(app)
    body = b'{"amount": "1.00", "keep_rest_held": true}'
    offer = H2C.replace("Upgrade: h2c", "UPGRADE: h2c") if cut == "UPGRADE" else H2C
    sent = head(f"/holds/{hold}/capture", body, offer) + body
    at = sent.index(b"\r\n" + cut.encode()) + 2 + len(cut)
    with socket.create_connection(("127.0.0.1", app.port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(sent[:at])
        # an answer to another connection: what was sent before has been read by then
        assert app.call("GET", "/api/v1/assets").status == 200
        sock.sendall(sent[at:])
        status = receive(sock).status
    assert remaining(app, hold) == {200: "9.00", 400: "10.00"}[status]


@pytest.mark.parametrize("operation", ["capture", "release"])
def test_an_amount_of_zero_never_means_all_that_is_held(app: AdminProcess, operation: str) -> None:
    hold = new_hold(app)
    for amount in ("0", "0.00"):
        assert post(app, f"/holds/{hold}/{operation}", {"amount": amount}).status == 422
        member = {"operation": operation, "hold": hold, "amount": amount}
        for atomic in (True, False):
            got = post(app, "/batches", {"atomic": atomic, "commands": [member]})
            assert (got.status, got.json["code"]) == (422, "INVALID_REQUEST")
    assert remaining(app, hold) == "10.00"


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("operation", ["capture", "release"])
def test_a_batch_sent_again_after_its_hold_has_gone_gets_its_first_answers(
    app: AdminProcess, operation: str, atomic: bool
) -> None:
    key, hold = str(uuid.uuid4()), new_hold(app)
    member = {"operation": operation, "hold": hold, "amount": "10.00"}
    body = {"atomic": atomic, "commands": [member]}
    first = post(app, "/batches", body, key)
    assert first.json["accepted"] == 1
    again = post(app, "/batches", body, key)
    assert again.headers.get("idempotent-replayed") == "true", again
    assert again.json["results"] == [{**first.json["results"][0], "replayed": True}]


def test_through_another_process_the_batch_names_the_asset_of_a_hold_that_has_gone(
    node: FakeNode, app: AdminProcess
) -> None:
    key, hold = str(uuid.uuid4()), new_hold(app)
    member = {"operation": "capture", "hold": hold, "amount": "10.00"}
    assert post(app, "/batches", {"atomic": True, "commands": [{**member, "asset": 2}]}).status == (
        422
    )
    first = post(app, "/batches", {"atomic": True, "commands": [member]}, key)
    assert first.status == 200
    with AdminProcess(node.address).wait_ready() as other:
        got = post(other, "/batches", {"atomic": True, "commands": [member]}, key)
        assert (got.status, got.json["code"]) == (409, "HOLD_NOT_OPEN")
        assert "asset" in got.json["detail"]
        body = {"atomic": True, "commands": [{**member, "asset": 1}]}
        again = post(other, "/batches", body, key)
        assert again.headers.get("idempotent-replayed") == "true", again


@pytest.mark.parametrize("operation", ["capture", "release"])
def test_through_another_process_a_part_of_a_hold_that_has_gone_gets_its_first_answer(
    node: FakeNode, app: AdminProcess, operation: str
) -> None:
    for number, decimals in ((2, 0), (3, 3)):
        post(app, "/assets", {"number": number, "symbol": f"A{number}", "decimals": decimals})
    payer, payee = (post(app, "/accounts", {"asset": 3}).json["account"] for _ in range(2))
    assert post(app, "/deposits", {"credit_account": payer, "amount": "20"}).status == 200
    body = {"debit_account": payer, "credit_account": payee, "amount": "10.000"}
    path = f"/holds/{post(app, '/holds', body).json['hold']}/{operation}"
    key = str(uuid.uuid4())
    first = post(app, path, {"amount": "10.00"}, key)
    assert first.json["amount"] == "10.000"
    with AdminProcess(node.address).wait_ready() as other:
        again = post(other, path, {"amount": "10.00"}, key)
        assert (again.status, again.json) == (200, first.json)
        assert again.headers["idempotent-replayed"] == "true"
        got = post(other, path, {"amount": "9"}, key)
        assert (got.status, got.json["code"]) == (422, "COMMAND_ID_REUSED")
        got = post(other, path, {"amount": "1"}, str(uuid.uuid4()))
        assert (got.status, got.json["code"]) == (409, "HOLD_NOT_OPEN")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"credit_account": 1, "amount": "1.00", "amount": "2.00"}',
        b'{"credit_account": 1, "amount": "1.00", "\\u0061mount": "2.00"}',
        b'{"credit_account": 2, "credit_account": 1, "amount": "1.00"}',
    ],
)
def test_a_field_given_twice_is_refused(app: AdminProcess, raw: bytes) -> None:
    before = app.call("GET", "/api/v1/totals").json["assets"]
    got = post(app, "/deposits", raw)
    assert (got.status, got.json["code"]) == (400, "INVALID_JSON")
    member = raw.replace(b"{", b'{"operation": "deposit", ', 1)
    got = post(app, "/batches", b'{"atomic": false, "commands": [' + member + b"]}")
    assert (got.status, got.json["code"]) == (400, "INVALID_JSON")
    bank = raw.replace(b"credit_account", b"id").replace(b'"1.00"', b"1").replace(b'"2.00"', b"2")
    assert post(app, "/balance/command/deposit", bank).status == 400
    assert app.call("GET", "/api/v1/totals").json["assets"] == before
