"""What a real follower shows of itself over HTTP: lag, its workers, and whether it serves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.follower_process import FollowerProcess
from tests.http_get import answer, scrape, value
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import create_account, deposits, submit
from tests.server_process import HOST, free_ports


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account(), deposits(99))
        yield leader


def test_a_follower_shows_what_it_applied_and_how_far_it_is_behind(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path), "--no-snapshot") as follower:
        here = follower.wait_ready().http_address
        assert value(here, "applied_sequence") == value(here, "replayed_commands_total") == 100
        follower.pause()
        submit(leader.address, *[deposits(1_000)] * 3)
        follower.resume()
        follower.wait_until(lambda: value(here, "applied_sequence") == 3_100)
        follower.wait_until(lambda: value(here, "lag_commands") == 0)
        assert 0 <= value(here, "lag_seconds") < 60
        assert value(here, "accounts") == value(here, "epoch") == 1
        shown = scrape(here)
        assert shown["ringledger_node_info", (("node_id", "follower"), ("role", "follower"))]
        assert not [name for name, _ in shown if "snapshot" in name or "ring_fill" in name]
        follower.stop()


def test_a_dead_worker_is_seen_and_without_any_the_follower_is_not_ready(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    flags = ("--no-snapshot", "--workers", "2")
    with FollowerProcess(tmp_path, journal_url(tmp_path), *flags) as follower:
        here = follower.wait_ready().http_address
        assert answer(here, "/health/ready") == {"status": 200, "ready": True, "reason": ""}
        assert (value(here, "query_workers"), value(here, "replaced_query_workers_total")) == (2, 0)
        first, second = follower.workers()
        os.kill(first, signal.SIGKILL)
        follower.wait_until(lambda: value(here, "replaced_query_workers_total") == 1)
        # the other one serves
        assert answer(here, "/health")["ready"]
        follower.wait_until(lambda: value(here, "query_workers") == 2)
        [third] = set(follower.workers()) - {first, second}
        os.kill(second, signal.SIGKILL)
        os.kill(third, signal.SIGKILL)
        # both places are empty for half a second at least: a worker that died young is waited with
        follower.wait_until(lambda: value(here, "query_workers") == 0)
        gone = answer(here, "/health/ready")
        assert gone == {"status": 503, "ready": False, "reason": "no query worker serves"}
        assert value(here, "ready") == 0
        assert answer(here, "/health/live")["status"] == 200
        follower.wait_until(lambda: answer(here, "/health/ready")["status"] == 200)
        assert value(here, "replaced_query_workers_total") == 3
        follower.stop()


def test_a_follower_without_a_first_leader_is_live_and_not_ready(tmp_path: Path) -> None:
    here = f"{HOST}:{free_ports(1)[0]}"
    with FollowerProcess(tmp_path, journal_url(tmp_path), "--http-listen", here) as follower:
        waiting = "the journal is empty: waiting for its first leader"
        follower.wait_until(lambda: follower.events(waiting) != [])
        # a wrong path looks just like that
        assert follower.events(waiting)[0]["journal"] == journal_url(tmp_path)
        assert answer(here, "/health/ready")["status"] == 503
        assert answer(here, "/health/live")["status"] == 200
        with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
            leader.wait_ready()
            follower.wait_ready()
            assert answer(here, "/health/ready")["status"] == 200
        follower.stop()
