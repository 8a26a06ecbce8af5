"""Idempotency keys, leaders that stop, crash and come back: each request once, and told truly."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin_process import AdminProcess, Got
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import poll_until

KEY_A, KEY_B = "a" * 32, "b" * 32
KEYS = f"alice:{KEY_A},bob:{KEY_B}"


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    folder = tmp_path_factory.mktemp("keys")
    with LeaderProcess(journal_url(folder)).wait_ready() as leader:
        yield leader


@pytest.fixture(scope="module")
def app(leader: LeaderProcess) -> Iterator[AdminProcess]:
    flags = ("--api-keys", KEYS, "--rate-limit", "0")
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        for _ in range(2):
            assert call(app, "/accounts", {}).status == 201
        assert deposit(app, str(uuid.uuid4()), "1000.00").status == 200
        yield app


def call(
    app: AdminProcess, path: str, body: Any, key: str | None = None, caller: str = KEY_A
) -> Got:
    headers = {"authorization": f"Bearer {caller}"}
    if key is not None:
        headers["idempotency-key"] = key
    method = "GET" if body is None else "POST"
    return app.call(method, f"/api/v1{path}", body, headers)


def deposit(app: AdminProcess, key: str | None, amount: str = "1.00", caller: str = KEY_A) -> Got:
    return call(app, "/deposits", {"credit_account": 1, "amount": amount}, key, caller)


def posted(app: AdminProcess) -> str:
    amount: str = call(app, "/accounts/1", None).json["posted"]
    return amount


def uuidv7(ahead_s: float = 0) -> str:
    ms = int((time.time() + ahead_s) * 1_000)
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int & (1 << 62) - 1))


@pytest.mark.parametrize("key", ["plain", "a-UUIDv7"])
def test_a_request_sent_again_gets_its_first_answer_marked_as_such(
    app: AdminProcess, key: str
) -> None:
    key = uuidv7() if key == "a-UUIDv7" else str(uuid.uuid4())
    before = float(posted(app))
    first = deposit(app, key)
    assert first.status == 200
    assert "idempotent-replayed" not in first.headers
    deposit(app, None)
    again = deposit(app, key)
    assert again.json == first.json
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["idempotency-key"] == key
    assert float(posted(app)) == before + 2


def test_a_refusal_is_replayed_too(app: AdminProcess) -> None:
    key = str(uuid.uuid4())
    body = {"debit_account": 2, "credit_account": 1, "amount": "999999"}
    assert call(app, "/transfers", body, key).json["code"] == "INSUFFICIENT_FUNDS"
    call(app, "/deposits", {"credit_account": 2, "amount": "1000000"})
    got = call(app, "/transfers", body, key)
    assert got.json["code"] == "INSUFFICIENT_FUNDS"


def test_another_body_under_the_same_key_is_422_and_does_nothing(app: AdminProcess) -> None:
    key = str(uuid.uuid4())
    assert deposit(app, key, "1.00").status == 200
    before = posted(app)
    for amount in ("2.00", "1.01"):
        got = deposit(app, key, amount)
        assert (got.status, got.json["code"]) == (422, "COMMAND_ID_REUSED")
    assert deposit(app, key, "1").status == 200  # the same amount
    assert posted(app) == before


def test_a_key_names_one_command_on_each_route(app: AdminProcess) -> None:
    key = str(uuid.uuid4())
    assert deposit(app, key).status == 200
    got = call(app, "/withdrawals", {"debit_account": 1, "amount": "1.00"}, key)
    assert got.status == 200
    assert "idempotent-replayed" not in got.headers


def test_another_callers_key_never_shows_what_the_first_was_answered(app: AdminProcess) -> None:
    key = str(uuid.uuid4())
    alice = call(app, "/accounts", {}, key, KEY_A)
    bob = call(app, "/accounts", {}, key, KEY_B)
    assert alice.json["account"] != bob.json["account"]
    assert "idempotent-replayed" not in bob.headers
    assert call(app, "/accounts", {}, key, KEY_A).json == alice.json


def test_a_key_drawn_for_a_request_without_one_repeats_it(app: AdminProcess) -> None:
    first = deposit(app, None)
    key = first.headers["idempotency-key"]
    again = deposit(app, key)
    assert again.json == first.json
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_a_key_that_cant_be_kept_is_refused(app: AdminProcess, key: str) -> None:
    got = deposit(app, key)
    assert (got.status, got.json["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")


def test_a_uuidv7_key_older_than_the_ledger_remembers_is_never_run(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--window-capacity", "1024").wait_ready() as leader,
        AdminProcess(leader.address, "--api-keys", KEYS, "--rate-limit", "0").wait_ready() as app,
    ):
        call(app, "/accounts", {})
        key, other = uuidv7(), uuidv7(-1)
        assert deposit(app, key).status == 200
        one = {"operation": "deposit", "credit_account": 1, "amount": "1.00"}
        call(app, "/batches", {"atomic": False, "commands": [one] * 2_000}, uuidv7())
        for old in (key, other):
            got = deposit(app, old)
            assert (got.status, got.json["code"]) == (409, "COMMAND_ID_TOO_OLD")
            assert got.json["idempotency_key"] == old
        assert posted(app) == "2001.00"


def test_a_uuidv7_key_from_a_clock_far_ahead_is_refused(
    leader: LeaderProcess,
) -> None:
    flags = ("--api-keys", KEYS, "--timeout-s", "1")
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        for _ in range(20):
            got = deposit(app, uuidv7(3_600))
            if got.status == 409:
                break
            # the deadline came with the last attempt under way
            assert got.status in (503, 504), got.json
        assert (got.status, got.json["code"]) == (409, "COMMAND_ID_IN_FUTURE")
        assert int(got.headers["retry-after"]) >= 1


def test_a_batch_sent_again_gets_its_first_answers_and_another_under_its_key_is_422(
    app: AdminProcess,
) -> None:
    one = {"operation": "deposit", "credit_account": 1, "amount": "1.00"}
    for atomic in (True, False):
        key = str(uuid.uuid4())
        body = {"atomic": atomic, "commands": [one, one]}
        first = call(app, "/batches", body, key)
        before = posted(app)
        again = call(app, "/batches", body, key)
        assert again.headers["idempotent-replayed"] == "true"
        assert all(result["replayed"] for result in again.json["results"])
        assert [result["sequence"] for result in again.json["results"]] == [
            result["sequence"] for result in first.json["results"]
        ]
        for commands in ([one], [one] * 3, [one, {**one, "amount": "2.00"}]):
            got = call(app, "/batches", {"atomic": atomic, "commands": commands}, key)
            assert (got.status, got.json["code"]) == (422, "COMMAND_ID_REUSED")
        assert posted(app) == before


def test_keys_hold_in_another_process_of_the_app(leader: LeaderProcess, app: AdminProcess) -> None:
    key = str(uuid.uuid4())
    first = deposit(app, key)
    commands = [{"operation": "deposit", "credit_account": 1, "amount": "1.00"}] * 2
    batch = {"atomic": False, "commands": commands}
    call(app, "/batches", batch, key)
    with AdminProcess(leader.address, "--api-keys", KEYS).wait_ready() as other:
        assert deposit(other, key).json == first.json
        assert deposit(other, key, "7.00").status == 422
        assert call(other, "/batches", batch, key).headers["idempotent-replayed"] == "true"
        changed = {"atomic": False, "commands": [{**commands[0], "amount": "3.00"}] * 2}
    with AdminProcess(leader.address, "--api-keys", KEYS).wait_ready() as other:
        got = call(other, "/batches", changed, key)
        assert (got.status, got.json["code"]) == (422, "COMMAND_ID_REUSED")


def done_in_the_end(app: AdminProcess, key: str) -> None:
    """An app with a second for each request may need several."""

    def is_done() -> bool:
        got = deposit(app, key)
        assert got.status in (200, 503, 504), got.json
        return got.status == 200

    assert poll_until(is_done, 60)


class Twice:
    """One deposit sent twice at a time, while the leader is stopped: one of them must wait."""

    def __init__(self, app: AdminProcess, key: str) -> None:
        self._got: list[Got] = []
        self._threads = [
            threading.Thread(target=lambda: self._got.append(deposit(app, key))) for _ in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def refused(self) -> Got:
        """The answer to the one that was too many."""
        assert poll_until(lambda: len(self._got) > 0, 20)
        return self._got[0]

    def result(self) -> Got:
        """The answer to the other one."""
        for thread in self._threads:
            thread.join(100)
        return self._got[1]


def test_the_same_key_under_way_is_409_and_the_first_is_answered(
    leader: LeaderProcess, app: AdminProcess
) -> None:
    key = str(uuid.uuid4())
    before = float(posted(app))
    leader.signal(signal.SIGSTOP)
    try:
        twice = Twice(app, key)
        got = twice.refused()
        assert (got.status, got.json["code"]) == (409, "KEY_UNDER_WAY")
    finally:
        leader.signal(signal.SIGCONT)
    assert twice.result().status == 200
    assert float(posted(app)) == before + 1


def test_past_the_deadline_the_outcome_is_unknown_and_the_same_key_tells_it(
    leader: LeaderProcess, app: AdminProcess
) -> None:
    before = float(posted(app))
    with AdminProcess(leader.address, "--api-keys", KEYS, "--timeout-s", "1").wait_ready() as hasty:
        done_in_the_end(hasty, str(uuid.uuid4()))  # it knows the account's asset now
        leader.signal(signal.SIGSTOP)
        try:
            got = deposit(hasty, None)
        finally:
            leader.signal(signal.SIGCONT)
        assert (got.status, got.json["code"]) == (504, "OUTCOME_UNKNOWN")
        assert len(got.json["command_id"]) == 32
        assert int(got.headers["retry-after"]) >= 1
        done_in_the_end(hasty, got.json["idempotency_key"])
    assert float(posted(app)) == before + 2


def test_a_leader_killed_in_the_middle_of_requests_and_started_again_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal).wait_ready() as first:
        flags = ("--api-keys", KEYS, "--rate-limit", "0", "--timeout-s", "60")
        with AdminProcess(first.address, *flags).wait_ready() as app:
            call(app, "/accounts", {})
            keys = [str(uuid.uuid4()) for _ in range(12)]
            first.signal(signal.SIGSTOP)
            try:
                waiting = [Twice(app, key) for key in keys]
                assert {twice.refused().status for twice in waiting} == {409}
            finally:
                first.kill()
            with LeaderProcess(journal, listen=first.address).wait_ready():
                answers = [twice.result() for twice in waiting]
                assert [got.status for got in answers] == [200] * 12, (answers, app.stop())
                assert posted(app) == "12.00"
                assert [deposit(app, key).status for key in keys] == [200] * 12
                assert posted(app) == "12.00"


def test_without_a_leader_nothing_is_done_and_503_says_so(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path)).wait_ready() as leader:
        flags = ("--api-keys", KEYS, "--timeout-s", "1")
        with AdminProcess(leader.address, *flags).wait_ready() as app:
            call(app, "/accounts", {})
            done_in_the_end(app, str(uuid.uuid4()))
            leader.kill()
            deposit(app, None)  # may have been on its way
            got = deposit(app, None)
            assert (got.status, got.json["code"]) == (503, "NOT_READY")
            assert int(got.headers["retry-after"]) >= 1
            body = {"id": 1, "amount": 1}
            got = call(app, "/balance/command/deposit", body)
            assert (got.status, got.json["code"]) == (503, 503)
            assert got.headers["retry-after"]
            [node] = call(app, "/cluster", None).json["nodes"]
            assert node["reachable"] is False
