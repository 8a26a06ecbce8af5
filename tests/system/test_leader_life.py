"""A leader's life in real processes: restart, crash, takeover, stop, bad journals."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster_app.journals import open_journal
from cluster_core.batch import Kind, open_batch
from cluster_core.record import Status
from proto import balance_pb2, balance_pb2_grpc
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import (
    DEADLINE_S,
    Load,
    check_retry,
    create_account,
    deposits,
    holds,
    open_holds,
    posted,
    status,
    submit,
)


def test_a_restart_brings_everything_back(journal: str) -> None:
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account(), deposits(1_000), deposits(17))
        before = status(leader.address)
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    with LeaderProcess(journal) as leader:
        leader.wait_ready()
        assert (leader.epoch, leader.applied) == (2, 1_018)
        after = status(leader.address)
        assert after.assets == before.assets
        assert after.ledger_id == before.ledger_id


def test_after_a_clean_stop_a_start_waits_for_no_silence_and_after_a_crash_it_does(
    journal: str,
) -> None:
    silence_s = 6
    with LeaderProcess(journal) as leader:
        leader.wait_ready().signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    with LeaderProcess(journal, "--election-timeout-s", "600") as leader:
        leader.wait_ready().kill()
    begun = time.monotonic()
    with LeaderProcess(journal, "--election-timeout-s", str(silence_s)) as leader:
        leader.wait_ready()
        assert time.monotonic() - begun >= silence_s


@pytest.mark.parametrize("round_number", range(3))
def test_what_was_answered_survives_kill_9_and_the_rest_may_be_retried(
    journal: str, round_number: int
) -> None:
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, batch=1 + 100 * round_number)
        load.wait_some()
        leader.kill()
        load.finish()
    assert load.error is not None
    with LeaderProcess(journal) as leader:
        check_retry(load, leader.wait_ready().address)


def test_sigterm_answers_what_was_accepted_and_says_what_was_not_run(journal: str) -> None:
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, in_flight=16)
        load.wait_some()
        leader.signal(signal.SIGTERM)
        code, log = leader.wait_exit()
        load.finish()
    assert (code, "Traceback" in log) == (0, False)
    assert load.error is not None
    assert load.error.code() == grpc.StatusCode.UNAVAILABLE
    with LeaderProcess(journal) as leader:
        assert posted(leader.wait_ready().address) == 10 * len(load.answered)
        check_retry(load, leader.address)


def test_a_second_leader_says_who_leads_and_leaves_with_exit_code_3(journal: str) -> None:
    with LeaderProcess(journal, "--node-id", "first") as leader:
        leader.wait_ready()
        with LeaderProcess(journal, "--no-standby", "--election-timeout-s", "30") as second:
            code, log = second.wait_exit()
        assert code == 3
        assert f"first at {leader.address} leads epoch 1" in log
        [replies] = submit(leader.address, create_account())
        assert replies["status"][0] == Status.OK


def test_a_takeover_under_load_deposes_the_leader_and_no_answer_is_wrong(
    journal: str,
) -> None:
    with LeaderProcess(journal, "--no-standby") as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        with LeaderProcess(journal, "--takeover") as successor:
            successor.wait_ready()
            code, log = leader.wait_exit()
            load.finish()
            assert code == 3
            assert [line for line in log.splitlines() if "no longer the leader" in line]
            assert "Traceback" not in log
            assert successor.epoch == 2
            check_retry(load, successor.address)


def test_a_leader_paused_past_a_takeover_never_answers_again(journal: str) -> None:
    with LeaderProcess(journal, "--no-standby") as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        leader.pause_between_appends(journal)
        with LeaderProcess(journal, "--takeover") as successor:
            submit(successor.wait_ready().address, deposits(5))
            leader.signal(signal.SIGCONT)
            assert leader.wait_exit()[0] == 3
            load.finish()
            again = load.retry_all(successor.address)
            for first, second in zip(load.answered, again, strict=False):
                assert list(first["credit_balance"]) == list(second["credit_balance"])
            total = sum(len(message) for message in load.sent) + 5
            assert posted(successor.address) == total


def test_holds_past_their_time_expire_also_while_the_leader_is_idle(journal: str) -> None:
    with LeaderProcess(journal) as leader:
        opened = holds(5_000, timeout_s=1)
        submit(leader.wait_ready().address, create_account(), create_account(), deposits(6_000))
        for replies in submit(leader.address, opened, holds(1, timeout_s=0)):
            assert set(replies["status"]) == {Status.OK}
        deadline = time.monotonic() + DEADLINE_S
        while open_holds(leader.address) > 1:
            assert time.monotonic() < deadline
        assert open_holds(leader.address) == 1


def test_holds_that_fell_due_while_nobody_led_are_expired_by_the_next_leader(journal: str) -> None:
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account(), create_account(), deposits(10))
        submit(leader.address, holds(3, timeout_s=1))
        leader.kill()
    with LeaderProcess(journal, "--election-timeout-s", "2") as leader:
        deadline = time.monotonic() + DEADLINE_S
        leader.wait_ready()
        while open_holds(leader.address):
            assert time.monotonic() < deadline
        [replies] = submit(leader.address, holds(10, timeout_s=0))
        assert set(replies["status"]) == {Status.OK}


def test_a_port_in_use_is_said_before_anybody_is_deposed(journal: str) -> None:
    with LeaderProcess(journal) as leader, socket.create_server(("127.0.0.1", 0)) as taken:
        leader.wait_ready()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with LeaderProcess(journal, "--takeover", listen=address) as second:
            code, log = second.wait_exit()
        assert code == 1
        assert f"cannot listen on {address}" in log
        with LeaderProcess(journal, "--takeover", listen=leader.address) as second:
            assert second.wait_exit()[0] == 1
        assert status(leader.address).epoch == 1


def test_sigterm_while_waiting_for_silence_leaves_the_journal_as_it_was(journal: str) -> None:
    with LeaderProcess(journal) as leader:
        leader.wait_ready().kill()
    with closing(open_journal(journal)) as opened:
        before = opened.end_offset()
        with LeaderProcess(journal, "--election-timeout-s", "600") as waiting:
            for event in (b"replaying from the journal's start", b"replayed"):
                waiting.wait_said(event)
            waiting.signal(signal.SIGTERM)
            code, log = waiting.wait_exit()
        assert (code, "Traceback" in log) == (0, False)
        assert "stopped before it could begin" in log
        assert opened.end_offset() == before


def test_a_client_that_never_reads_is_not_read_either(tmp_path: Path) -> None:
    with LeaderProcess(journal_url(tmp_path)) as leader:
        leader.wait_ready()
        sent = threading.Semaphore(0)

        def endless() -> Iterator[balance_pb2.BalanceCommand]:
            while True:
                sent.release()
                yield balance_pb2.BalanceCommand(
                    depositCommand={"amount": 2**63, "correlationId": "x" * 4_000}
                )

        with grpc.insecure_channel(leader.address) as channel:
            call = balance_pb2_grpc.BalanceCommandServiceStub(channel).sendCommand(endless())
            while sent.acquire(timeout=2):
                pass
            [memory] = [
                int(line.split()[1])
                for line in Path(f"/proc/{leader.process.pid}/status").read_text().splitlines()
                if line.startswith("VmRSS")
            ]
            call.cancel()
        assert memory < 400_000
        assert status(leader.address).epoch == 1


def test_the_limit_of_streams_is_said_and_health_is_answered_all_the_same(
    tmp_path: Path,
) -> None:
    with LeaderProcess(journal_url(tmp_path), "--max-streams", "3") as leader:
        submit(leader.wait_ready().address, create_account())
        loads = [Load(leader.address, in_flight=1) for _ in range(3)]
        for load in loads:
            load.wait_some()
        with pytest.raises(grpc.RpcError) as error:
            submit(leader.address, deposits(1))
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with grpc.insecure_channel(leader.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(service="")).status == 1
        for load in loads:
            load.finish()
        [replies] = submit(leader.address, deposits(1))
        assert replies["status"][0] == Status.OK


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--listen", "nowhere"), "--listen must be HOST:PORT"),
        (("--journal", "redis://x"), "use sqlite:///PATH"),
        (("--window-capacity", "1000"), "power of two"),
        (("--heartbeat-interval-s", "x"), "must be a number"),
        (("--heartbeat-interval-s", "0.9"), "at least twice"),
        (("--log-level", "loud"), "--log-level"),
    ],
)
def test_settings_that_cannot_be_used_end_with_exit_code_2(
    tmp_path: Path, flags: tuple[str, str], said: str
) -> None:
    with LeaderProcess(journal_url(tmp_path), *flags) as leader:
        code, log = leader.wait_exit()
    assert code == 2
    assert said in log


def test_parameters_are_fixed_by_the_first_start(journal: str) -> None:
    with LeaderProcess(journal, "--window-capacity", "1024") as leader:
        leader.wait_ready().signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    with LeaderProcess(journal, "--window-capacity", "2048") as leader:
        code, log = leader.wait_exit()
    assert code == 2
    assert "begun with 1024" in log
    with LeaderProcess(journal) as leader:
        assert leader.wait_ready().epoch == 2


def test_settings_come_from_the_environment_and_flags_win(tmp_path: Path) -> None:
    code = (
        "from cluster_app.settings import LeaderSettings, read_settings\n"
        "s = read_settings(LeaderSettings, 'leader', ['--node-id', 'flag'],"
        " {'RINGLEDGER_NODE_ID': 'variable', 'RINGLEDGER_LISTEN': '127.0.0.1:1',"
        " 'RINGLEDGER_TAKEOVER': 'true'})\n"
        "print(s.node_id, s.listen, s.takeover)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["flag", "127.0.0.1:1", "True"]


def test_an_idle_leader_appends_heartbeats_and_a_stopped_one_an_epoch_end(
    journal: str,
) -> None:
    with LeaderProcess(journal, "--heartbeat-interval-s", "0.05") as leader:
        leader.wait_ready()
        first = status(leader.address).ledger_time_ns
        deadline = time.monotonic() + DEADLINE_S
        while status(leader.address).ledger_time_ns <= first:
            assert time.monotonic() < deadline
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    kinds: list[Kind] = []
    with closing(open_journal(journal)) as opened, closing(opened.reader(0)) as reader:
        while len(kinds) < opened.end_offset():
            kinds += [open_batch(record.value).kind for record in reader.read(DEADLINE_S)]
    assert (kinds[0], kinds[1], kinds[-1]) == (Kind.EPOCH_START, Kind.HEARTBEAT, Kind.EPOCH_END)
