"""The user app: a token's accounts, and nothing else, however one asks."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest

from client_core import SyncClient
from tests.admin_process import Got, UserProcess
from tests.archiver_process import ArchiverProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import poll_until
from tests.socket_page import SocketPage

KEY = "0123456789abcdef0123456789abcdef"


class App:
    """A ledger with an archiver, and the user app; accounts 1 (Alice), 2 (Bob), 3 (nobody's)."""

    def __init__(self, process: UserProcess, ledger: SyncClient) -> None:
        self.process = process
        self.ledger = ledger

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accounts: tuple[int, ...] = (1,),
        subject: str = "alice",
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        claims = {
            "sub": subject,
            "accounts": list(accounts),
            "aud": "ringledger-user",
            "exp": int(time.time()) + 60,
        }
        token = jwt.encode(claims, KEY, algorithm="HS256")
        sent = {"authorization": f"Bearer {token}"} | dict(headers or {})
        return self.process.call(method, f"/api/v1{path}", body, sent)

    def digest(self) -> Any:
        """All balances, as the leader has them."""
        return [
            (account.posted, account.held, account.version)
            for account in self.ledger.accounts([1, 2, 3])
            if account is not None
        ]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("user-api")
    journal = journal_url(folder)
    with (
        LeaderProcess(journal).wait_ready() as leader,
        ArchiverProcess(folder, journal, f"sqlite:///{folder / 'history.db'}") as archiver,
    ):
        archiver.wait_ready()
        flags = ("--history-endpoint", archiver.address, "--jwt-keys", f"k1:{KEY}")
        with (
            UserProcess(leader.address, *flags, "--rate-limit", "0").wait_ready() as process,
            SyncClient(leader.address) as ledger,
        ):
            for _ in range(3):
                ledger.deposit(ledger.create_account().entity, "1000.00")
            yield App(process, ledger)


def test_a_person_reads_and_moves_what_is_theirs(app: App) -> None:
    before = app.digest()
    mine = app.call("GET", "/accounts").json
    assert (mine["subject"], [entry["account"] for entry in mine["accounts"]]) == ("alice", [1])
    assert app.call("GET", "/accounts/1").json["account"] == 1
    assert app.call("POST", "/deposits", {"credit_account": 1, "amount": "5.00"}).status == 200
    assert app.call("POST", "/withdrawals", {"debit_account": 1, "amount": "2.00"}).status == 200
    body = {"debit_account": 1, "credit_account": 2, "amount": "3.00"}
    assert app.call("POST", "/transfers", body).status == 200
    after = app.digest()
    assert (after[0][0] - before[0][0], after[1][0] - before[1][0]) == (0, 3)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/accounts/2", None),
        ("GET", "/accounts/999999", None),
        ("GET", "/accounts/2/statement", None),
        ("GET", "/accounts/2/holds", None),
        ("POST", "/deposits", {"credit_account": 2, "amount": "1.00"}),
        ("POST", "/withdrawals", {"debit_account": 2, "amount": "1.00"}),
        ("POST", "/transfers", {"debit_account": 2, "credit_account": 1, "amount": "1.00"}),
        ("POST", "/holds", {"debit_account": 2, "credit_account": 1, "amount": "1.00"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_another_persons_account_cant_be_touched(
    app: App, method: str, path: str, body: Any
) -> None:
    before = app.digest()
    got = app.call(method, path, body)
    assert (got.status, got.json["code"]) == (403, "NOT_YOURS")
    assert app.digest() == before


@pytest.mark.parametrize(
    "more",
    [
        {"balancing": True},
        {"code": 7},
        {"expected_version": 1},
        {"accounts": [1, 2]},
        {"sub": "bob"},
        {"account": 2},
        {"command_id": "0" * 32},
        {"asset": 2},
        {"debit_account ": 2},
    ],
    ids=str,
)
def test_fields_that_are_not_a_persons_to_set_are_refused(app: App, more: dict[str, Any]) -> None:
    before = app.digest()
    body = {"debit_account": 1, "credit_account": 2, "amount": "1.00"}
    got = app.call("POST", "/transfers", body | more)
    assert (got.status, got.json["code"]) == (422, "INVALID_REQUEST")
    assert app.digest() == before


def test_an_account_given_twice_or_as_text_is_refused(app: App) -> None:
    before = app.digest()
    text = b'{"debit_account": 1, "credit_account": 3, "debit_account": 2, "amount": "1.00"}'
    assert app.call("POST", "/transfers", text).status in (400, 403)
    for account in ("2", 2.0, [2], None, True, -1, 2**64):
        body = {"debit_account": account, "credit_account": 3, "amount": "1.00"}
        assert app.call("POST", "/transfers", body).status == 422
    assert app.digest() == before


def test_what_is_answered_never_has_another_persons_balance(app: App) -> None:
    body = {"debit_account": 1, "credit_account": 2, "amount": "1.00"}
    told = app.call("POST", "/transfers", body)
    assert "debit_balance" in told.json
    assert "credit_balance" not in told.json
    assert "credit_balance" in app.call("POST", "/transfers", body, accounts=(1, 2)).json
    sequence = app.ledger.transfer(2, 1, "0.01").sequence

    def statement() -> Any:
        return app.call("GET", "/accounts/1/statement?page_size=10").json

    assert poll_until(lambda: statement()["complete_sequence"] > sequence, 30)
    for entry in statement()["entries"]:
        assert not {"debit_balance", "credit_balance", "command_id", "reference"} & entry.keys()
        assert entry["balance"]


def test_a_hold_is_taken_or_given_back_by_whom_it_is_for_alone(app: App) -> None:
    body = {"debit_account": 1, "credit_account": 2, "amount": "10.00"}
    hold = app.call("POST", "/holds", body).json["hold"]
    before = app.digest()
    for action in ("capture", "release"):
        got = app.call("POST", f"/holds/{hold}/{action}", {})
        assert (got.status, got.json["code"]) == (403, "NOT_YOURS")
        # who is neither doesn't even learn that there is such a hold
        stranger = app.call("POST", f"/holds/{hold}/{action}", {}, accounts=(3,))
        unknown = app.call("POST", f"/holds/999999/{action}", {}, accounts=(3,))
        for told in (stranger, unknown):
            assert (told.status, told.json["code"]) == (404, "HOLD_NOT_FOUND")
    assert app.call("GET", f"/holds/{hold}", accounts=(3,)).status == 404
    assert app.call("GET", f"/holds/{hold}").json["remaining"] == "10.00"
    assert app.digest() == before
    key = {"idempotency-key": str(uuid.uuid4())}
    taken = app.call(
        "POST",
        f"/holds/{hold}/capture",
        {"amount": "4.00"},
        accounts=(2,),
        subject="bob",
        headers=key,
    )
    assert taken.status == 200
    assert "debit_balance" not in taken.json
    again = app.call(
        "POST",
        f"/holds/{hold}/capture",
        {"amount": "4.00"},
        accounts=(2,),
        subject="bob",
        headers=key,
    )
    assert again.json == taken.json
    assert again.headers["idempotent-replayed"] == "true"
    stranger = app.call(
        "POST", f"/holds/{hold}/capture", {"amount": "4.00"}, accounts=(3,), headers=key
    )
    assert stranger.status in (409, 410)
    assert "4.00" not in json.dumps(stranger.json)


def test_another_persons_idempotency_key_shows_and_does_nothing_of_theirs(app: App) -> None:
    key = {"idempotency-key": str(uuid.uuid4())}
    body = {"credit_account": 1, "amount": "1.00"}
    first = app.call("POST", "/deposits", body, headers=key)
    other = app.call("POST", "/deposits", body, headers=key, subject="bob")
    assert "idempotent-replayed" not in other.headers
    assert other.json["sequence"] != first.json["sequence"]


@pytest.mark.parametrize(
    "path", ["/totals", "/cluster", "/assets", "/batches", "/balance/query?id=1", "/commands/x"]
)
def test_what_is_the_operators_is_not_there(app: App, path: str) -> None:
    assert app.call("GET", path).status == 404
    assert app.call("POST", path.partition("?")[0], {}).status == 404


def test_account_operations_of_the_operators_are_not_there(app: App) -> None:
    for action in ("lock", "unlock", "close"):
        assert app.call("POST", f"/accounts/1/{action}", {}).status == 404
    assert app.call("PUT", "/accounts/1/limits", {"floor": "-9.00", "ceiling": None}).status == 404
    assert app.call("POST", "/accounts", {}).status == 405


def test_no_token_is_logged_and_wrong_ones_are_slowed_down(app: App) -> None:
    for token in ("", "x.y.z", "eyJhbGciOiJub25lIn0.e30."):
        got = app.process.call(
            "GET", "/api/v1/accounts", None, {"authorization": f"Bearer {token}"}
        )
        assert (got.status, got.json["code"]) == (401, "UNAUTHENTICATED")
        assert got.json["detail"] == "send a token: Authorization: Bearer TOKEN"
    statuses = {401}
    for _ in range(3_000):  # until they come quicker than ten a second
        if 429 in statuses:
            break
        statuses.add(app.process.call("GET", "/api/v1/accounts").status)
    assert statuses == {401, 429}


def test_the_document_has_what_there_is(app: App) -> None:
    got = app.process.call("GET", "/openapi.json", None, {"authorization": f"Bearer {_token()}"})
    assert len(got.json["paths"]) == 11
    assert "/api/v1/totals" not in got.json["paths"]


def test_one_person_cant_take_all_pages(app: App) -> None:
    with contextlib.ExitStack() as stack:

        def opened(subject: str) -> SocketPage:
            page = stack.enter_context(SocketPage(app.process.port))
            page.sign_in(_token(subject))
            return page

        stop = threading.Event()
        readers = stack.enter_context(ThreadPoolExecutor(8))
        stack.callback(stop.set)
        for _ in range(8):
            page = opened("greedy")
            page.wait_for("Live")
            readers.submit(page.drain, stop)  # who answers no ping is cut off
        opened("greedy").wait_for("Too many pages")
        opened("modest").wait_for("Live")


def test_one_person_cant_keep_others_from_opening_a_page(app: App, tmp_path: Path) -> None:
    with (
        contextlib.ExitStack() as stack,
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        SyncClient(leader.address) as ledger,
    ):
        ledger.create_account()
        flags = ("--jwt-keys", f"k:{KEY}", "--max-pages", "10", "--rate-limit", "0")
        process = stack.enter_context(UserProcess(leader.address, *flags).wait_ready())
        for _ in range(2 * 10 + 32):
            page = stack.enter_context(SocketPage(process.port))
            page.sign_in(_token("greedy"))
            page.wait_for("My accounts")
        for _ in range(2):
            modest = stack.enter_context(SocketPage(process.port))
            modest.sign_in(_token("modest"))
            modest.wait_for("Live")


def test_a_page_is_not_called_live_when_nobody_leads(tmp_path: Path) -> None:
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        UserProcess(leader.address, "--jwt-keys", f"k:{KEY}").wait_ready() as process,
        SyncClient(leader.address) as ledger,
    ):
        ledger.create_account()
        with SocketPage(process.port) as page:
            page.sign_in(_token())
            page.wait_for("Live")
            leader.process.kill()
            page.wait_for("Nobody leads")


def test_a_page_shows_the_tokens_accounts_whatever_its_address(app: App) -> None:
    with SocketPage(app.process.port, "/account/2") as page:
        page.sign_in(_token())
        said = ""
        for message in page.messages():
            said += str(message)
            if "Account #1" in said:
                break
        said += str(list(page.messages(1)))
        assert "Account #1" in said
        assert "Account #2" not in said


def test_a_page_where_somebody_has_signed_out_tells_nothing_of_theirs_again(
    tmp_path: Path,
) -> None:
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        UserProcess(leader.address, "--jwt-keys", f"k:{KEY}").wait_ready() as process,
        SyncClient(leader.address) as ledger,
    ):
        ledger.deposit(ledger.create_account().entity, "77.31")
        with SocketPage(process.port) as page:
            page.sign_in(_token())
            page.click("Sign out")
            page.wait_for("Sign in")
            with page.open_again() as socket:
                socket.send("40")
                said = ""
                with contextlib.suppress(TimeoutError):
                    while "reload" not in said:
                        said += str(socket.recv(timeout=20))
            assert "reload" in said
            assert "77.31" not in said


def test_a_page_with_a_tampered_token_asks_for_another_one(app: App) -> None:
    with SocketPage(app.process.port) as page:
        page.sign_in(_token()[:-2] + "xx")
        page.wait_for("This token isn't taken")


def _token(subject: str = "a") -> str:
    claims = {
        "sub": subject,
        "accounts": [1],
        "aud": "ringledger-user",
        "exp": int(time.time()) + 60,
    }
    return jwt.encode(claims, KEY, algorithm="HS256")


def test_a_person_without_an_archiver_is_told(tmp_path: Path) -> None:
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        UserProcess(leader.address, "--jwt-keys", f"k:{KEY}").wait_ready() as process,
        SyncClient(leader.address) as ledger,
    ):
        ledger.create_account()
        got = App(process, ledger).call("GET", "/accounts/1/statement")
        assert (got.status, got.json["code"]) == (501, "HISTORY_NOT_SET")
        code, log = process.stop()
        assert code == 0
        assert KEY not in log
