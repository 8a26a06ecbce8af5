"""What a real archiver shows of itself over HTTP: its history's end, and whether it serves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archiver_process import ArchiverProcess
from tests.http_get import answer, scrape, value
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import create_account, deposits, submit
from tests.server_process import HOST, free_ports
from tests.services import Postgres


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account(), deposits(99))
        yield leader


def test_an_archiver_shows_what_it_has_written_and_how_far_it_is_behind(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    history = f"sqlite:///{tmp_path / 'history.db'}"
    with ArchiverProcess(tmp_path, journal_url(tmp_path), history) as archiver:
        here = archiver.wait_ready().http_address
        assert answer(here, "/health/ready") == {"status": 200, "ready": True, "reason": ""}
        assert value(here, "history_complete_sequence") == 100
        assert value(here, "history_commands_total") == 100
        assert value(here, "history_rows_total") == 100
        refused = deposits(10, account=99)
        submit(leader.address, deposits(1_000), refused)
        archiver.wait_until(lambda: value(here, "history_complete_sequence") == 1_110)
        archiver.wait_until(lambda: value(here, "lag_commands") == 0)
        assert 0 <= value(here, "lag_seconds") < 60
        assert value(here, "history_commands_total") == 1_110
        assert value(here, "history_rows_total") == 1_100  # refused ones have none
        assert value(here, "history_partitions") == 1
        assert value(here, "history_transaction_seconds_count") >= 2
        assert value(here, "history_failures_total") == 0
        assert value(here, "applied_sequence") == 1_110
        shown = scrape(here)
        assert shown["ringledger_node_info", (("node_id", "archiver"), ("role", "archiver"))]
        archiver.stop()


def test_a_restarted_archiver_says_how_far_its_history_goes(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    history = f"sqlite:///{tmp_path / 'history.db'}"
    with ArchiverProcess(tmp_path, journal_url(tmp_path), history) as archiver:
        archiver.wait_ready().stop()
    with ArchiverProcess(tmp_path, journal_url(tmp_path), history) as archiver:
        here = archiver.wait_ready().http_address
        assert value(here, "history_complete_sequence") == 100
        assert value(here, "history_commands_total") == 0  # of this process
        archiver.stop()


def test_an_archiver_whose_database_is_away_lags_and_says_so(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with (
        Postgres(tmp_path / "postgres") as server,
        ArchiverProcess(tmp_path, journal_url(tmp_path), server.url) as archiver,
    ):
        here = archiver.wait_ready().http_address
        server.kill()
        for _ in range(5):
            submit(leader.address, deposits(1_000))
        archiver.wait_until(lambda: value(here, "lag_commands") == 5_000)
        archiver.wait_until(lambda: value(here, "history_failures_total") > 0)
        assert value(here, "history_complete_sequence") == 100
        assert answer(here, "/health/live")["status"] == 200
        server.start()
        server.wait_ready()
        archiver.wait_until(lambda: value(here, "history_complete_sequence") == 5_100)
        archiver.wait_until(lambda: value(here, "lag_commands") == 0)
        archiver.stop()


def test_an_archiver_without_a_database_is_live_and_not_ready(tmp_path: Path) -> None:
    here = f"{HOST}:{free_ports(1)[0]}"
    away = f"postgresql+psycopg://nobody:none@{HOST}:{free_ports(1)[0]}/none"
    with ArchiverProcess(tmp_path, journal_url(tmp_path), away, "--http-listen", here) as archiver:
        archiver.wait_until(lambda: "retry_in_s" in archiver.log)
        assert answer(here, "/health/ready") == {
            "status": 503,
            "ready": False,
            "reason": "waiting for a store",
        }
        assert answer(here, "/health/live")["status"] == 200
