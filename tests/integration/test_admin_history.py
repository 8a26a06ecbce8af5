"""The admin app's routes of history, on a real leader and a real archiver."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from client_app.history_schemas import read_time_ns, time_text
from client_core.testing import FakeNode
from tests.admin_process import AdminProcess, Got
from tests.archiver_process import ArchiverProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import HOST, free_ports, poll_until

DEADLINE_S = 30.0
KEY = "0192d5e0-7d1c-7a3b-9f00-5a1b2c3d4e5f"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminProcess]:
    """One app over one leader and its archiver."""
    folder = tmp_path_factory.mktemp("history")
    journal, history = journal_url(folder), f"sqlite:///{folder / 'history.db'}"
    with (
        LeaderProcess(journal).wait_ready() as leader,
        ArchiverProcess(folder, journal, history).wait_ready() as archiver,
        AdminProcess(
            leader.address, "--rate-limit", "0", "--history-endpoint", archiver.address
        ).wait_ready() as admin,
    ):
        yield admin


def get(app: AdminProcess, path: str, **query: Any) -> Got:
    pairs = "&".join(f"{name.rstrip('_')}={quote(str(text))}" for name, text in query.items())
    return app.call("GET", f"/api/v1{path}" + (f"?{pairs}" if pairs else ""))


def post(app: AdminProcess, path: str, body: Any = None) -> Any:
    got = app.call("POST", f"/api/v1{path}", body)
    assert got.status in (200, 201), got
    return got.json


def wait_archived(app: AdminProcess, sequence: int) -> None:
    """Until history has the command of this sequence."""

    def has_it() -> bool:
        answer = get(app, "/accounts/1/statement")
        return answer.status == 200 and answer.json["complete_sequence"] > sequence

    assert poll_until(has_it, DEADLINE_S)


def assert_problem(got: Got, status: int, code: str) -> None:
    assert (got.status, got.json["code"]) == (status, code), got
    assert got.headers["content-type"] == "application/problem+json"


def test_a_statement_shows_changes_and_balances_page_by_page(app: AdminProcess) -> None:
    one, two = (post(app, "/accounts")["account"] for _ in range(2))
    post(app, "/deposits", {"credit_account": one, "amount": "100.00", "code": 9})
    moved = {"debit_account": one, "credit_account": two, "amount": "25.00"}
    post(app, "/transfers", moved)
    last = post(app, "/transfers", {**moved, "amount": "0.01", "code": 9})
    wait_archived(app, last["sequence"])
    page = get(app, f"/accounts/{one}/statement", page_size=2).json
    assert page["account"] == one
    assert page["complete_sequence"] > last["sequence"]
    told = [(entry["operation"], entry["change"], entry["balance"]) for entry in page["entries"]]
    assert told == [("transfer", "-0.01", "74.99"), ("transfer", "-25.00", "75.00")]
    newest = page["entries"][0]
    assert (newest["amount"], newest["debit_account"], newest["credit_account"]) == (
        "0.01",
        one,
        two,
    )
    assert (newest["symbol"], newest["status"], newest["hold"]) == ("UNIT", "OK", None)
    assert read_time_ns(newest["time"]) == newest["timestamp_ns"]
    rest = get(app, f"/accounts/{one}/statement", before=page["next_before"]).json
    assert [entry["operation"] for entry in rest["entries"]] == ["deposit", "create_account"]
    assert rest["next_before"] is None
    found = get(app, f"/accounts/{one}/statement", operation="transfer", code=9).json["entries"]
    assert [entry["sequence"] for entry in found] == [last["sequence"]]
    times = {"from_": newest["time"], "to": time_text(newest["timestamp_ns"] + 1)}
    found = get(app, f"/accounts/{one}/statement", **times).json["entries"]
    assert last["sequence"] in [entry["sequence"] for entry in found]
    assert (
        get(app, f"/accounts/{one}/statement", to=rest["entries"][-1]["time"]).json["entries"] == []
    )


def test_a_balance_is_told_as_of_a_sequence_or_a_time(app: AdminProcess) -> None:
    account = post(app, "/accounts")["account"]
    sequences = [
        post(app, "/deposits", {"credit_account": account, "amount": "1.50"})["sequence"]
        for _ in range(3)
    ]
    wait_archived(app, sequences[-1])
    for count, sequence in enumerate(sequences, 1):
        shown = get(app, f"/accounts/{account}/balance", at=sequence).json
        assert Decimal(shown["posted"]) == Decimal("1.50") * count
        assert (shown["below_sequence"], shown["last_sequence"]) == (sequence + 1, sequence)
        assert shown["complete_sequence"] > sequence
    now = get(app, f"/accounts/{account}/balance").json
    assert (now["posted"], now["symbol"], now["asset"]) == ("4.50", "UNIT", 1)
    [entry, *_] = get(app, f"/accounts/{account}/statement").json["entries"]
    at_time = get(app, f"/accounts/{account}/balance", at=entry["time"]).json
    assert at_time["posted"] == "4.50"
    assert_problem(
        get(app, f"/accounts/{account}/balance", at=sequences[0] - 2), 404, "ACCOUNT_NOT_FOUND"
    )
    beyond = get(app, f"/accounts/{account}/balance", at=10**12)
    assert_problem(beyond, 409, "BEYOND_HISTORY")
    assert beyond.headers["retry-after"]


def test_a_command_is_found_by_its_id_in_both_forms(app: AdminProcess) -> None:
    account = post(app, "/accounts")["account"]
    body = {"credit_account": account, "amount": "3.00"}
    last = post(app, "/deposits", body)
    wait_archived(app, last["sequence"])
    [entry, *_] = get(app, f"/accounts/{account}/statement").json["entries"]
    command_id = entry["command_id"]
    with_dashes = "-".join(
        command_id[low:high] for low, high in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    )
    for form in (command_id, with_dashes.upper()):
        shown = get(app, f"/commands/{form}").json
        assert shown["command"]["sequence"] == last["sequence"]
        assert (shown["command"]["status"], shown["command"]["amount"]) == ("OK", "3.00")
        assert shown["complete_sequence"] > last["sequence"]
    missing = get(app, f"/commands/{KEY}")
    assert_problem(missing, 404, "COMMAND_NOT_FOUND")
    assert missing.json["complete_sequence"] > last["sequence"]
    for wrong in ("1", "0" * 32, "g" * 32, command_id + "0"):
        assert_problem(get(app, f"/commands/{wrong}"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    [
        *({"at": "yesterday"}, {"at": "2026-02-30T00:00:00Z"}, {"at": "-1"}, {"at": "9" * 20}),
        *({"at": "2026-11-21T14:00:00"}, {"at": "1969-12-31T23:59:59Z"}, {"when": "1"}),
    ],
)
def test_a_moment_that_cannot_be_read_says_how_to_write_it(
    app: AdminProcess, query: dict[str, str]
) -> None:
    assert_problem(get(app, "/accounts/1/balance", **query), 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "query",
    [
        *({"page_size": "1001"}, {"page_size": "0"}, {"before": "x"}, {"operation": "TRANSFER"}),
        *({"from_": "1"}, {"to": "tomorrow"}, {"code": str(2**32)}, {"limit": "1"}),
    ],
)
def test_a_statement_is_refused_for_what_it_cannot_be_asked(
    app: AdminProcess, query: dict[str, str]
) -> None:
    assert_problem(get(app, "/accounts/1/statement", **query), 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-21T14:00:00.123456789Z", 1_795_269_600_123_456_789),
        ("2026-11-21T15:30:00.1+01:30", 1_795_269_600_100_000_000),
        ("2026-11-21T15:30:00.1 01:30", 1_795_269_600_100_000_000),
        ("2026-11-21T13:00:00-01:00", 1_795_269_600_000_000_000),
    ],
)
def test_times_are_read_exactly(text: str, time_ns: int) -> None:
    assert read_time_ns(text) == time_ns
    assert read_time_ns(time_text(time_ns)) == time_ns


def test_without_an_archiver_the_answer_names_the_setting() -> None:
    with FakeNode() as node, AdminProcess(node.address).wait_ready() as admin:
        for path in ("/accounts/1/statement", "/accounts/1/balance", f"/commands/{KEY}"):
            got = get(admin, path)
            assert_problem(got, 501, "HISTORY_NOT_SET")
            assert "RINGLEDGER_HISTORY_ENDPOINT" in got.json["detail"]


def test_an_archiver_that_is_away_is_a_503_and_the_rest_goes_on() -> None:
    away = f"{HOST}:{free_ports(1)[0]}"
    with (
        FakeNode() as node,
        AdminProcess(
            node.address, variables={"RINGLEDGER_HISTORY_ENDPOINT": away}
        ).wait_ready() as admin,
    ):
        assert post(admin, "/accounts")["account"] == 1
        got = get(admin, "/accounts/1/statement")
        assert_problem(got, 503, "NOT_READY")
        assert got.headers["retry-after"]


def test_a_node_without_history_is_told_apart(tmp_path: Path) -> None:
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        AdminProcess(leader.address, "--history-endpoint", leader.address).wait_ready() as admin,
    ):
        assert_problem(get(admin, f"/commands/{KEY}"), 501, "NOT_SERVED")
