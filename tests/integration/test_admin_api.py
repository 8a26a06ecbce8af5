"""The admin app's routes, on a real leader: what is done, what is refused, and how it is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_app.problems import Problem, http_status_of
from client_core import Status
from tests.admin_process import AdminProcess, Got
from tests.leader_process import LeaderProcess, journal_url

TRANSFER = {"debit_account": 1, "credit_account": 2, "amount": "1.00"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminProcess]:
    """One app over one leader; accounts 1 and 2 are of UNIT, 1 has plenty."""
    journal = journal_url(tmp_path_factory.mktemp("admin"))
    with LeaderProcess(journal).wait_ready() as leader:
        flags = ("--rate-limit", "0", "--max-body-bytes", "1000000")
        with AdminProcess(leader.address, *flags).wait_ready() as admin:
            for _ in range(2):
                assert admin.call("POST", "/api/v1/accounts").status == 201
            deposit(admin, 1, "1000000.00")
            yield admin


def post(
    app: AdminProcess, path: str, body: Any = None, key: str | None = None, method: str = "POST"
) -> Got:
    headers = {} if key is None else {"idempotency-key": key}
    return app.call(method, f"/api/v1{path}", body, headers)


def deposit(app: AdminProcess, account: int, amount: str) -> Got:
    return post(app, "/deposits", {"credit_account": account, "amount": amount})


def new_account(app: AdminProcess, amount: str = "", **fields: Any) -> int:
    account: int = post(app, "/accounts", fields).json["account"]
    if amount:
        assert deposit(app, account, amount).status == 200
    return account


def read(app: AdminProcess, account: int) -> Any:
    return app.call("GET", f"/api/v1/accounts/{account}").json


def assert_problem(got: Got, status: int, code: str) -> None:
    assert (got.status, got.json["code"]) == (status, code), got
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json["status"] == status
    assert got.json["type"] == f"urn:ringledger:problem:{code}"
    assert got.json["title"]
    assert got.json["detail"]


def test_an_account_is_opened_read_locked_limited_and_closed(app: AdminProcess) -> None:
    opened = post(app, "/accounts", {"reference": 2**64 - 1, "code": 7})
    assert opened.status == 201
    account = opened.json["account"]
    assert opened.headers["location"] == f"/api/v1/accounts/{account}"
    shown = read(app, account)
    assert shown["state"] == "open"
    assert (shown["reference"], shown["code"]) == (2**64 - 1, 7)
    assert (shown["posted"], shown["ceiling"]) == ("0.00", None)
    assert post(app, f"/accounts/{account}/lock", {"credits": False}).status == 200
    assert read(app, account)["debits_locked"] is True
    assert read(app, account)["credits_locked"] is False
    assert post(app, f"/accounts/{account}/unlock").status == 200
    limits = {"floor": "-5.50", "ceiling": "100"}
    assert post(app, f"/accounts/{account}/limits", limits, method="PUT").status == 200
    shown = read(app, account)
    assert (shown["floor"], shown["ceiling"], shown["available"]) == ("-5.50", "100.00", "5.50")
    assert post(app, f"/accounts/{account}/close").status == 200
    assert read(app, account)["state"] == "closed"
    assert_problem(deposit(app, account, "1"), 409, "CREDIT_ACCOUNT_CLOSED")


def test_money_is_moved_and_both_balances_are_told(app: AdminProcess) -> None:
    one, two = new_account(app, "10.00"), new_account(app)
    body = {"debit_account": one, "credit_account": two, "amount": "2.5"}
    got = post(app, "/transfers", body)
    assert got.status == 200
    assert got.json | {"sequence": 0} == {
        "status": "OK",
        "sequence": 0,
        "amount": "2.50",
        "debit_account": one,
        "credit_account": two,
        "debit_balance": "7.50",
        "credit_balance": "2.50",
    }
    got = post(app, "/withdrawals", {"debit_account": two, "amount": "0.01"})
    assert got.json["debit_balance"] == "2.49"
    got = post(app, "/transfers", {**body, "amount": "100", "balancing": True})
    assert got.json["amount"] == "7.50"


def test_a_hold_is_captured_in_parts_released_and_then_gone(app: AdminProcess) -> None:
    one, two = new_account(app, "10.00"), new_account(app)
    body = {"debit_account": one, "credit_account": two, "amount": "6.00", "timeout_s": 3600}
    opened = post(app, "/holds", body)
    assert opened.status == 201
    hold = opened.json["hold"]
    shown = app.call("GET", f"/api/v1/holds/{hold}").json
    assert (shown["remaining"], shown["debit_account"]) == ("6.00", one)
    assert shown["expires_ns"] > 0
    part = {"amount": "2.00", "keep_rest_held": True}
    got = post(app, f"/holds/{hold}/capture", part)
    assert (got.json["amount"], got.json["credit_balance"]) == ("2.00", "2.00")
    assert post(app, f"/holds/{hold}/release").json["amount"] == "4.00"
    assert_problem(app.call("GET", f"/api/v1/holds/{hold}"), 410, "HOLD_NOT_OPEN")
    assert_problem(post(app, f"/holds/{hold}/capture"), 409, "HOLD_NOT_OPEN")
    assert_problem(app.call("GET", "/api/v1/holds/999999"), 404, "HOLD_NOT_FOUND")


def test_assets_have_their_own_decimals_and_totals(app: AdminProcess) -> None:
    body = {"number": 9, "symbol": "BTC", "decimals": 8}
    assert post(app, "/assets", body).status == 201
    assert_problem(post(app, "/assets", body), 409, "ASSET_EXISTS")
    account = new_account(app, "0.00000001", asset=9)
    assert read(app, account)["posted"] == "0.00000001"
    listed = app.call("GET", "/api/v1/assets").json["assets"]
    assert body in listed
    totals = app.call("GET", "/api/v1/totals").json
    assert next(entry for entry in totals["assets"] if entry["number"] == 9)["posted"] == (
        "0.00000001"
    )
    across = {"debit_account": 1, "credit_account": account, "amount": "1"}
    assert_problem(post(app, "/transfers", across), 422, "ASSETS_DIFFER")


def test_the_cluster_tells_of_its_nodes(app: AdminProcess) -> None:
    [node] = app.call("GET", "/api/v1/cluster").json["nodes"]
    assert node["role"] == "leader"
    assert node["reachable"] is True


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**TRANSFER, "amount": "100000000"}, 409, "INSUFFICIENT_FUNDS"),
        ({**TRANSFER, "debit_account": 999_999}, 404, "DEBIT_ACCOUNT_NOT_FOUND"),
        ({**TRANSFER, "credit_account": 999_999}, 404, "CREDIT_ACCOUNT_NOT_FOUND"),
        ({**TRANSFER, "credit_account": 1}, 422, "SAME_ACCOUNT"),
        ({**TRANSFER, "amount": "0.00"}, 422, "AMOUNT_NOT_POSITIVE"),
        ({**TRANSFER, "expected_version": 2**60}, 409, "VERSION_MISMATCH"),
    ],
)
def test_a_refusal_has_its_status_name_and_changes_nothing(
    app: AdminProcess, body: Any, status: int, code: str
) -> None:
    before = read(app, 1)
    assert_problem(post(app, "/transfers", body), status, code)
    assert read(app, 1) == before


def test_what_is_not_there_is_404_and_other_methods_405(app: AdminProcess) -> None:
    for number in (
        "999999",
        "0",
        "-1",
        "x",
        "1.0",
        "18446744073709551616",
        "9" * 100,
        "%00",
        "%31",
    ):
        assert app.call("GET", f"/api/v1/accounts/{number}").status == 404
    assert_problem(app.call("GET", "/api/v1/nothing"), 404, "NOT_FOUND")
    assert_problem(app.call("GET", "/api/v1/accounts/{}/lock/x"), 404, "NOT_FOUND")
    # whoever stands before the app and reads paths must read them as it does
    assert_problem(app.call("POST", "/api/v1/accounts/1%2Flock"), 404, "NOT_FOUND")
    got = app.call("DELETE", "/api/v1/accounts")
    assert_problem(got, 405, "METHOD_NOT_ALLOWED")
    assert got.headers["allow"] == "GET, POST"
    assert app.call("GET", "/api/v1/accounts/1/limits").headers["allow"] == "PUT"


REQUIRED = {
    "/transfers": TRANSFER,
    "/deposits": {"credit_account": 1, "amount": "1.00"},
    "/withdrawals": {"debit_account": 1, "amount": "1.00"},
    "/holds": TRANSFER,
    "/assets": {"number": 77, "symbol": "XXX", "decimals": 2},
    "/batches": {"atomic": True, "commands": [{"operation": "deposit", **TRANSFER}]},
}
OPTIONAL = {
    "/accounts": ("asset", "reference", "code"),
    "/transfers": ("balancing", "expected_version", "code"),
    "/deposits": ("expected_version", "code"),
    "/holds": ("timeout_s", "expected_version", "code"),
    "/accounts/1/lock": ("debits", "credits"),
    "/accounts/1/close": ("code",),
    "/holds/1/capture": ("keep_rest_held", "balancing", "code"),
}


@pytest.mark.parametrize("path", REQUIRED)
def test_every_required_field_is_missed_when_missing_null_or_of_another_type(
    app: AdminProcess, path: str
) -> None:
    before = app.call("GET", "/api/v1/totals").json
    for name in REQUIRED[path]:
        left_out = {key: value for key, value in REQUIRED[path].items() if key != name}
        assert_problem(post(app, path, left_out), 422, "INVALID_REQUEST")
        wrong_values: list[Any] = [None, [], {}, 1.5, name == "atomic" and "true", "x" * 5_000]
        for wrong in wrong_values:
            got = post(app, path, {**REQUIRED[path], name: wrong})
            assert_problem(got, 422, "INVALID_REQUEST")
            assert any(entry["field"].startswith(name) for entry in got.json["errors"])
        assert_problem(post(app, path, {**REQUIRED[path], "more": 1}), 422, "INVALID_REQUEST")
    after = app.call("GET", "/api/v1/totals").json
    assert after["assets"] == before["assets"]


@pytest.mark.parametrize("path", OPTIONAL)
def test_optional_fields_may_be_left_out_and_are_never_null_or_of_another_type(
    app: AdminProcess, path: str
) -> None:
    for name in OPTIONAL[path]:
        wrong_values: list[Any] = [None, [], "1", 1.5, -1, 2**64]
        for wrong in wrong_values:
            body = {**REQUIRED.get(path, {}), name: wrong}
            assert_problem(post(app, path, body), 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "amount",
    [
        *("1.005", "1e2", "1E2", "-1", "+1", "NaN", "Infinity", "-0", "", " 1", "1 ", "1\n", "1,0"),
        *(".5", "1.", "01", "1_000", "٣", "0x10", "1/2", "9" * 19, "9" * 20, "9" * 10_000),
        *("0." + "0" * 18 + "1", "1" + "0" * 18, 1, 1.5, 10**30, None, True, [], {"amount": "1"}),
    ],
    ids=lambda amount: repr(amount)[:20],
)
def test_an_amount_that_is_not_exact_decimal_text_is_refused(
    app: AdminProcess, amount: Any
) -> None:
    before = read(app, 1)
    for path in ("/transfers", "/withdrawals", "/holds", "/deposits"):
        body = {**REQUIRED[path], "amount": amount}
        assert_problem(post(app, path, body), 422, "INVALID_REQUEST")
    assert read(app, 1) == before


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"{", 400, "INVALID_JSON"),
        (b"[" * 100_000, 400, "INVALID_JSON"),
        (b'{"debit_account": NaN}', 422, "INVALID_REQUEST"),
        (b"\xff\xfe", 400, "INVALID_JSON"),
        (b'"\xed\xa0\x80"', 400, "INVALID_JSON"),
        (b"null", 422, "INVALID_REQUEST"),
        (b"[]", 422, "INVALID_REQUEST"),
        (b'{"debit_account": ' + b"9" * 5_000 + b"}", 400, "INVALID_JSON"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_body_that_is_no_right_json_is_refused(
    app: AdminProcess, raw: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"} if raw else {"content-type": "text/plain"}
    got = app.call("POST", "/api/v1/transfers", raw or b"{}", headers)
    assert got.json["code"] == code, got
    assert got.status == status


def test_a_query_is_read_strictly(app: AdminProcess) -> None:
    for query in (
        *("page_size=0", "page_size=1001", "page_size=x", "page_size=", "after=-1", "state=gone"),
        *(
            "asset=0",
            "reference=18446744073709551616",
            "more=1",
            "after=1_0",
            "after=1.0",
            "after=%2B1",
            "after=1&after=2",
            "after",
            "%ff",
        ),
        "&".join(f"a{number}=1" for number in range(100)),
    ):
        got = app.call("GET", f"/api/v1/accounts?{query}")
        assert (got.status, got.json["code"]) == (422, "INVALID_REQUEST"), query
    assert app.call("GET", "/api/v1/totals?x=1").status == 422


def test_a_batch_is_all_or_nothing_or_each_for_itself(app: AdminProcess) -> None:
    one, two = new_account(app, "5.00"), new_account(app)
    move = {"operation": "transfer", "debit_account": one, "credit_account": two}
    commands = [{**move, "amount": "4.00"}, {**move, "amount": "4.00"}]
    got = post(app, "/batches", {"atomic": True, "commands": commands})
    assert_problem(got, 409, "INSUFFICIENT_FUNDS")
    assert got.json["failed_command"] == 1
    assert read(app, one)["posted"] == "5.00"
    got = post(app, "/batches", {"atomic": False, "commands": commands})
    assert got.status == 200
    assert (got.json["accepted"], got.json["refused"]) == (1, 1)
    assert [result["status"] for result in got.json["results"]] == ["OK", "INSUFFICIENT_FUNDS"]
    assert got.json["results"][0]["credit_balance"] == "4.00"
    missing = {"operation": "deposit", "credit_account": 999_999, "amount": "1"}
    got = post(app, "/batches", {"atomic": False, "commands": [missing, *commands[:1]]})
    assert [result["status"] for result in got.json["results"]] == [
        "CREDIT_ACCOUNT_NOT_FOUND",
        "INSUFFICIENT_FUNDS",
    ]
    got = post(app, "/batches", {"atomic": True, "commands": [missing, *commands[:1]]})
    assert_problem(got, 404, "CREDIT_ACCOUNT_NOT_FOUND")
    wrong = {**move, "amount": "1.005"}
    got = post(app, "/batches", {"atomic": False, "commands": [*commands[:1], wrong]})
    assert_problem(got, 422, "INVALID_REQUEST")
    assert "commands.1" in got.json["detail"]


def test_every_operation_may_be_a_member_of_a_batch(app: AdminProcess) -> None:
    one, two = new_account(app, "50.00"), new_account(app)
    both = {"debit_account": one, "credit_account": two}
    hold = post(app, "/holds", {**both, "amount": "10"}).json["hold"]
    other = post(app, "/holds", {**both, "amount": "10"}).json["hold"]
    commands = [
        {"operation": "create_account", "reference": 5},
        {"operation": "deposit", "credit_account": one, "amount": "1"},
        {"operation": "withdraw", "debit_account": one, "amount": "1"},
        {"operation": "transfer", **both, "amount": "1"},
        {"operation": "hold", **both, "amount": "1", "timeout_s": 60},
        {"operation": "capture", "hold": hold, "amount": "4"},
        {"operation": "release", "hold": other},
        {"operation": "set_limits", "account": one, "floor": "0", "ceiling": None},
        {"operation": "lock", "account": two, "debits": False},
        {"operation": "unlock", "account": two},
        {"operation": "close", "account": new_account(app)},
    ]
    got = post(app, "/batches", {"atomic": True, "commands": commands})
    assert [result["status"] for result in got.json["results"]] == ["OK"] * len(commands), got
    assert read(app, two)["posted"] == "5.00"
    assert got.json["results"][0]["account"]
    assert got.json["results"][4]["hold"]


def test_a_batch_has_at_most_5000_commands(app: AdminProcess) -> None:
    command = {"operation": "deposit", "credit_account": 1, "amount": "0.01"}
    got = post(app, "/batches", {"atomic": False, "commands": [command] * 5_000})
    assert got.json["accepted"] == 5_000
    got = post(app, "/batches", {"atomic": False, "commands": [command] * 5_001})
    assert_problem(got, 422, "INVALID_REQUEST")
    assert_problem(post(app, "/batches", {"atomic": False, "commands": []}), 422, "INVALID_REQUEST")
    unknown = [{"operation": "expire", "hold": 1}]
    got = post(app, "/batches", {"atomic": False, "commands": unknown})
    assert_problem(got, 422, "INVALID_REQUEST")


def test_a_body_over_the_limit_is_refused_before_it_is_read(app: AdminProcess) -> None:
    got = app.call("POST", "/api/v1/transfers", b" " * 1_000_001)
    assert_problem(got, 413, "BODY_TOO_LARGE")
    assert got.headers["connection"] == "close"


def test_the_bank_contracts_paths_answer_as_its_clients_expect(app: AdminProcess) -> None:
    base = "/balance/command"
    created = post(app, f"{base}/create").json
    assert created["code"] == 0
    text, _, number = created["message"].rpartition("::")
    assert text == "0::Create balance success"
    account, other = int(number), new_account(app)
    for body in ({"id": account, "amount": 150}, {"id": str(account), "amount": "150"}):
        assert post(app, f"{base}/deposit", body).json == {
            "code": 0,
            "message": "0::Deposit success",
        }
    assert post(app, f"{base}/withdraw", {"id": account, "amount": 50}).json["code"] == 0
    moved = {"fromId": account, "toId": other, "amount": 100}
    assert post(app, f"{base}/transfer", moved).json["message"] == "0::Transfer success"
    assert app.call("GET", f"/api/v1/balance/query?id={account}").json == {
        "code": 0,
        "message": None,
        "id": account,
        "amount": 150,
    }
    assert read(app, account)["posted"] == "1.50"


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("deposit", {"id": 99_999_999, "amount": 1}, 404, "Balance 99999999 not found"),
        ("deposit", {"id": 1, "amount": 0}, 422, "Amount must be greater than 0"),
        ("deposit", {"id": 1, "amount": -5}, 422, "Amount must be greater than 0"),
        ("deposit", {"id": 1, "amount": 2**63}, 422, "Amount must be at most 9223372036854775807"),
        ("deposit", {"id": 1, "amount": 2**63 - 1}, 409, "BALANCE_OVERFLOW"),
        ("deposit", {"id": 1, "amount": "1.5"}, 400, "Amount must be a whole number"),
        ("withdraw", {"id": 2, "amount": 10**12}, 409, "Insufficient balance"),
        ("transfer", {"fromId": 1, "toId": 1, "amount": 1}, 422, "FromId and ToId must be differe"),
        ("transfer", {"fromId": 1, "amount": 1}, 400, "toId: Field required"),
        ("deposit", {"id": True, "amount": 1}, 400, "id"),
        ("deposit", {"id": 1, "amount": 1.5}, 400, "amount"),
    ],
)
def test_the_bank_contracts_failures_have_true_codes(
    app: AdminProcess, path: str, body: Any, code: int, text: str
) -> None:
    got = post(app, f"/balance/command/{path}", body)
    assert (got.status, got.json["code"]) == (code, code), got
    assert got.json["message"].startswith(f"{code}::{text}")


def test_the_bank_contracts_query_of_an_unknown_balance_is_404(app: AdminProcess) -> None:
    got = app.call("GET", "/api/v1/balance/query?id=99999999")
    assert (got.status, got.json["code"]) == (404, 404)
    for query in ("", "id=x", "id=1&id=2", "id=0"):
        assert app.call("GET", f"/api/v1/balance/query?{query}").status in {400, 404, 422}


def test_the_openapi_document_has_an_example_for_each_body_and_no_foreign_errors(
    app: AdminProcess,
) -> None:
    document = app.call("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(document)
    operations = 0
    for path, item in document["paths"].items():
        for operation in item.values():
            operations += 1
            assert operation["description"], path
            body = operation.get("requestBody")
            if body is None or "balance" in path:
                continue
            reference = json.dumps(body["content"]["application/json"]["schema"])
            name = reference.rpartition("/")[2].partition('"')[0]
            assert schemas[name]["examples"], name
    assert operations == 28


def test_each_status_in_the_document_has_an_example_that_can_be_its_answer(
    app: AdminProcess,
) -> None:
    document = app.call("GET", "/openapi.json").json
    seen = set()
    for item in document["paths"].values():
        for operation in item.values():
            assert {"401", "403", "429"} <= operation["responses"].keys()
            for number, response in operation["responses"].items():
                content = response["content"].get("application/problem+json")
                if content is None:
                    continue
                example = content["example"]
                seen.add(number)
                assert example["status"] == int(number)
                status = Status.__members__.get(example["code"])
                if status is not None and number != "410":
                    assert http_status_of(status) == int(number)
                assert (
                    example["title"] == json.loads(Problem(1, example["code"], "").body())["title"]
                )
    assert len(seen) == 16


def test_sigterm_is_a_clean_stop(tmp_path: Path) -> None:
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        AdminProcess(leader.address).wait_ready() as admin,
    ):
        assert admin.call("GET", "/api/v1/totals").status == 200
        code, log = admin.stop()
        assert code == 0, log
