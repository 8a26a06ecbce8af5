"""What real nodes show of themselves, compared with what was really sent and done."""

import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cluster_core.record import COMMAND, CommandFlag, Operation, ReplyFlag, Status
from tests.http_get import Labels, answer, request, scrape, value
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import (
    DEADLINE_S,
    create_account,
    deposits,
    holds,
    open_holds,
    status,
    submit,
)
from tests.property.strategies import first_commands, packed, random_batch
from tests.reference import Command
from tests.server_process import HOST, free_ports, poll_until
from tests.services import Postgres

Message = np.ndarray[Any, Any]


def random_messages(seed: int, count: int) -> list[Message]:
    """Messages of all operations that clients may send, many of them refused or sent twice."""
    chosen = random.Random(seed)
    messages = [np.frombuffer(packed(first_commands(40, amount=100_000)), COMMAND)]
    newest_ms = time.time_ns() // 1_000_000
    history: list[Command] = []
    for _ in range(count):
        batch = random_batch(chosen, chosen.randint(1, 300), 60, newest_ms, history, next_hold=200)
        commands = np.frombuffer(packed(batch), COMMAND).copy()
        commands = commands[commands["operation"] != Operation.EXPIRE]
        if len(commands):
            commands["flags"][-1] &= 0xFFFF ^ CommandFlag.LINKED
            messages.append(commands)
    return messages


def counted(address: str, name: str) -> Counter[tuple[str, ...]]:
    """A counter as of now: see `counted_in`."""
    return counted_in(scrape(address), name)


def counted_in(samples: dict[tuple[str, Labels], float], name: str) -> Counter[tuple[str, ...]]:
    """A counter's samples by its labels' values, in the order of their names; zeros left out."""
    return Counter(
        {
            tuple(label[1] for label in labels): int(count)
            for (sample, labels), count in samples.items()
            if sample == f"ringledger_{name}" and count
        }
    )


def test_the_leader_s_counters_are_what_was_sent_by_operation_and_status(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        address = leader.wait_ready().address
        first, *rest = random_messages(seed, 150)
        sent, replies = [first], submit(address, first)
        with ThreadPoolExecutor(4) as streams:
            parts = [[*rest[part::4], *rest[part::8]] for part in range(4)]
            for part, answered in zip(
                parts, streams.map(lambda part: submit(address, *part), parts), strict=True
            ):
                sent += part
                replies += answered
        commands, answers = np.concatenate(sent), np.concatenate(replies)
        wanted: Counter[tuple[str, ...]] = Counter(
            (Operation(operation).name, Status(status).name)
            for operation, status in zip(commands["operation"], answers["status"], strict=True)
        )
        again = answers["flags"] & ReplyFlag.DUPLICATE != 0
        duplicates = Counter((Operation(one).name,) for one in commands["operation"][again])
        assert len(wanted) > 60, "the messages are too tame to show anything"
        assert len(duplicates) > 8
        samples = scrape(leader.http_address)
        shown = counted_in(samples, "commands_total")
        # the leader expires holds meanwhile
        expired = {key: count for key, count in shown.items() if key[0] == Operation.EXPIRE.name}
        assert shown - Counter(expired) == wanted
        assert counted_in(samples, "duplicate_commands_total") == duplicates
        total = sum(wanted.values()) + sum(expired.values())
        assert samples["ringledger_batch_size_commands_sum", ()] == total
        check_state(leader)
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as second:
        second.wait_ready()
        assert value(second.http_address, "replayed_commands_total") >= total
        assert counted(second.http_address, "commands_total")[("DEPOSIT", "OK")] == 0
        assert value(second.http_address, "epoch") == 2


def check_state(leader: LeaderProcess) -> None:
    told = status(leader.address)
    shown = scrape(leader.http_address)
    assert shown["ringledger_applied_sequence", ()] >= told.applied_sequence > 0
    assert shown["ringledger_accounts", ()] == told.accounts
    assert shown["ringledger_epoch", ()] == told.epoch == 1
    assert abs(shown["ringledger_ledger_time_seconds", ()] - told.ledger_time_ns / 1e9) < 60
    here = leader.http_address
    for name in ("command_streams", "in_flight_commands", "ring_fill_ratio"):
        assert poll_until(lambda name=name: value(here, name) == 0, DEADLINE_S), name  # type: ignore[misc]
    assert (
        shown["ringledger_batch_size_commands_count", ()]
        <= shown["ringledger_journal_append_seconds_count", ()]
    )
    assert shown["ringledger_journal_append_seconds_sum", ()] > 0
    # it goes on with ledger time, which heartbeats carry
    assert poll_until(lambda: 0 < value(here, "window_span_seconds") < 120, DEADLINE_S)


def test_holds_that_the_leader_expires_are_counted_as_its_own_commands(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        address = leader.wait_ready().address
        submit(address, create_account(), create_account(), deposits(10), holds(7, 1))
        assert counted(leader.http_address, "commands_total")[("HOLD", "OK")] == 7
        assert poll_until(lambda: open_holds(address) == 0, DEADLINE_S)
        assert counted(leader.http_address, "commands_total")[("EXPIRE", "OK")] == 7
        assert value(leader.http_address, "open_holds") == 0


def test_a_learner_shows_its_lag_and_its_snapshots(tmp_path: Path) -> None:
    journal, store = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, store, "--snapshot-interval-s", "0.2") as learner,
    ):
        submit(leader.wait_ready().address, create_account(), *[deposits(100)] * 10)
        learner.wait_ready().wait_snapshots(2)
        here = learner.http_address
        learner.wait_until(lambda: value(here, "applied_sequence") == 1_001)
        assert value(here, "replayed_commands_total") == 1_001
        learner.wait_until(lambda: value(here, "snapshot_applied_sequence") == 1_001)
        learner.wait_until(lambda: value(here, "lag_commands") == 0)
        assert 0 <= value(here, "lag_seconds") < 60
        assert 0 <= value(here, "snapshot_age_seconds") < 60
        logged = len(learner.events("snapshot"))
        assert 2 <= logged <= value(here, "snapshots_total") + 1
        for name in ("snapshot_rows", "snapshot_bytes", "snapshot_duration_seconds"):
            assert value(here, name) > 0
        assert value(here, "snapshot_failures_total") == 0
        assert scrape(here)["ringledger_node_info", (("node_id", "learner"), ("role", "learner"))]
        learner.stop()


def test_snapshots_that_can_t_be_saved_are_counted_and_the_learner_stays_ready(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with (
        Postgres(tmp_path / "postgres") as postgres,
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, postgres.url, "--snapshot-interval-s", "0.1") as learner,
    ):
        leader.wait_ready()
        learner.wait_ready().wait_snapshots(1)
        here = learner.http_address
        postgres.kill()
        learner.wait_until(lambda: value(here, "snapshot_failures_total") >= 1)
        assert answer(here, "/health/ready")["status"] == 200
        postgres.start()
        saved = value(here, "snapshots_total")
        learner.wait_until(lambda: value(here, "snapshots_total") > saved)
        learner.stop()


def test_a_learner_that_can_t_read_its_store_is_live_and_not_ready(tmp_path: Path) -> None:
    journal, here = journal_url(tmp_path), free_address()
    store = "postgresql+psycopg://nobody:nothing@127.0.0.1:1/none"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, store, "--http-listen", here) as learner,
    ):
        leader.wait_ready()
        learner.wait_until(lambda: learner.events("a store gives nothing: waiting for it") != [])
        assert answer(here, "/health/live")["status"] == 200
        assert answer(here, "/health/ready")["reason"] == "waiting for a store"
        assert scrape(here)["ringledger_ready", ()] == 0


def free_address() -> str:
    return f"{HOST}:{free_ports(1)[0]}"


def test_health_follows_a_leader_from_its_start_to_its_end(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal, "--no-snapshot") as first:
        submit(first.wait_ready().address, create_account())
        assert answer(first.http_address, "/health") == {
            "status": 200,
            "live": True,
            "ready": True,
            "reason": "",
        }
        here = free_address()
        with LeaderProcess(
            journal, "--no-snapshot", "--http-listen", here, "--election-timeout-s", "5"
        ) as second:
            first.kill()
            assert poll_until(lambda: is_up(here), DEADLINE_S)
            waiting = answer(here, "/health/ready")
            assert (waiting["status"], waiting["reason"] != "") == (503, True)
            assert answer(here, "/health/live")["status"] == 200
            second.wait_ready()
            assert second.http_address == here
            assert answer(here, "/health/ready")["status"] == 200
            second.signal(signal.SIGTERM)
            second.wait_exit()
            assert not is_up(here)


def is_up(address: str) -> bool:
    try:
        return request(address, "/health/live")[0] == 200
    except OSError:
        return False


def test_a_taken_http_port_is_told_in_one_line_and_off_needs_none(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        leader.wait_ready()
        flags = ("--http-listen", leader.http_address)
        with LeaderProcess(journal_url(tmp_path / "other"), *flags) as second:
            code, log = second.wait_exit()
        assert code == 1
        assert "for metrics and health" in log
        assert "set --http-listen to another HOST:PORT, or to off" in log
        assert "Traceback" not in log
    (tmp_path / "third").mkdir()
    with LeaderProcess(journal_url(tmp_path / "third"), "--http-listen", "off") as third:
        assert third.wait_ready().http_address == "off"


def test_openmetrics_of_a_leader_pass_the_strict_parser(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account(), deposits(5))
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        _, text = request(leader.http_address, "/metrics", headers=accept)
    parsed = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["ringledger_commands"].type == "counter"
    assert families["ringledger_journal_append_seconds"].type == "histogram"


@pytest.mark.parametrize("level", ["debug", "error"])
def test_the_level_of_a_running_leader_s_log_is_changed(tmp_path: Path, level: str) -> None:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        leader.wait_ready()
        changed = answer(leader.http_address, "/log-level", "PUT", level.encode())
        assert changed == {"status": 200, "level": level}
        leader.signal(signal.SIGTERM)
        code, log = leader.wait_exit()
    assert code == 0
    assert ('"stopped"' in log) == (level == "debug")
