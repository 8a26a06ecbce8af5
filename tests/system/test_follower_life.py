"""Followers as processes: begin, die, stop, and go back to a snapshot."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from cluster_app.__main__ import main
from proto import ledger_pb2, ledger_pb2_grpc
from tests.follower_process import FollowerProcess
from tests.integration.test_leader_contracts import reason
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, Load, create_account, deposits, status, submit
from tests.server_process import command_of, free_ports, poll_until

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account(), deposits(5))
        yield leader


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    import structlog

    before = structlog.get_config()
    yield
    structlog.configure(**before)


def posted_of(
    channel: grpc.Channel, at_least: int | None = None, timeout: float = DEADLINE_S
) -> int:
    request = ledger_pb2.GetAccountRequest(account_id=1)
    if at_least is not None:
        request.consistency.at_least_sequence = at_least
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    return int(stub.GetAccount(request, timeout=timeout).account.posted)


def all_accounts(address: str, count: int = 10) -> bytes:
    ids = np.arange(1, count + 1, dtype="<u8").tobytes()
    with grpc.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.QueryServiceStub(channel)
        request = ledger_pb2.GetAccountsRequest(account_ids=ids)
        return bytes(stub.GetAccounts(request, timeout=DEADLINE_S).accounts)


def wait_applied(follower: FollowerProcess, leader: LeaderProcess) -> None:
    wanted = status(leader.address).applied_sequence
    assert poll_until(lambda: status(follower.address).applied_sequence == wanted, DEADLINE_S)


def last_words(log: str) -> str:
    """The one line that is no log line."""
    [line] = [line for line in log.splitlines() if not line.startswith("{")]
    return line


def test_a_stop_ends_follower_and_workers_without_a_word_of_complaint(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path), "--workers", "2") as follower:
        follower.wait_ready()
        assert (follower.applied, follower.serving, len(follower.workers())) == (6, 2, 2)
        with grpc.insecure_channel(follower.address) as channel:
            assert posted_of(channel) == 5
            watch = ledger_pb2_grpc.QueryServiceStub(channel).Watch(
                ledger_pb2.WatchRequest(account_ids=[1])
            )
            next(watch)
            follower.stop()
    assert "warning" not in follower.log
    assert follower.events("stopped")


def test_a_supervisor_that_ends_all_processes_at_once_is_no_death_of_workers(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path), "--workers", "2") as follower:
        follower.wait_ready()
        workers = follower.workers()
        follower.process.send_signal(signal.SIGTERM)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        assert follower.wait_exit()[0] == 0
        assert not any(command_of(pid) for pid in workers)
        assert "warning" not in follower.log


def test_it_follows_while_its_workers_still_start(tmp_path: Path, leader: LeaderProcess) -> None:
    [port] = free_ports(1)
    flags = ("--workers", "2", "--listen", f"127.0.0.1:{port}")
    with FollowerProcess(tmp_path, journal_url(tmp_path), *flags) as follower:
        follower.wait_until(lambda: len(follower.workers()) == 2)
        late = follower.workers()[0]
        os.kill(late, signal.SIGSTOP)
        submit(leader.address, deposits(3))
        address = f"127.0.0.1:{port}"
        assert poll_until(lambda: _applied(address) == 9, DEADLINE_S)
        os.kill(late, signal.SIGCONT)
        follower.wait_ready()
        assert follower.applied == 9
        follower.stop()


def _applied(address: str) -> int:
    try:
        return int(status(address).applied_sequence)
    except grpc.RpcError:  # nobody serves yet
        return -1


def test_a_killed_worker_is_replaced_and_leaves_nothing_wanted(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with (
        FollowerProcess(tmp_path, journal_url(tmp_path), "--workers", "3") as follower,
        ExitStack() as stack,
    ):
        follower.wait_ready()
        watching = stack.enter_context(grpc.insecure_channel(follower.address, OWN_CONNECTION))
        watch = ledger_pb2_grpc.QueryServiceStub(watching).Watch(
            ledger_pb2.WatchRequest(account_ids=[1])
        )
        next(watch)
        [victim] = follower.connected_workers()
        assert [1 for _, streams in follower.reader_words() if streams] == [1]
        channels = []
        while len(follower.connected_workers()) < 3:
            channel = stack.enter_context(grpc.insecure_channel(follower.address, OWN_CONNECTION))
            channels.append(channel)
            assert posted_of(channel) == 5
        others = [pid for pid in follower.workers() if pid != victim]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            next(watch)
        watch.cancel()
        watching.close()
        for channel in channels:  # those of the killed one connect again
            assert poll_until(partial(_answers, channel), DEADLINE_S)
        follower.wait_until(lambda: len(follower.workers()) == 3)
        assert set(others) < set(follower.workers())
        [event] = follower.events("a query worker died: another one takes its place")
        assert event["exit_code"] == -signal.SIGKILL
        assert not any(any(words) for words in follower.reader_words())
        follower.stop()


def _answers(channel: grpc.Channel) -> bool:
    try:
        return posted_of(channel) == 5
    except grpc.RpcError:
        return False


def test_workers_end_with_a_killed_follower_and_the_next_one_serves_the_same(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    [port] = free_ports(1)
    flags = ("--workers", "2", "--listen", f"127.0.0.1:{port}")
    load = Load(leader.address)
    with FollowerProcess(tmp_path, journal_url(tmp_path), *flags) as follower:
        follower.wait_ready()
        load.wait_some()
        workers = follower.workers()
        follower.kill()
        assert poll_until(lambda: not any(command_of(pid) for pid in workers), DEADLINE_S)
    load.finish()
    with FollowerProcess(tmp_path, journal_url(tmp_path), *flags) as follower:
        wait_applied(follower.wait_ready(), leader)
        assert follower.address == f"127.0.0.1:{port}"
        assert all_accounts(follower.address) == all_accounts(leader.address)
        follower.stop()


def test_workers_answer_from_the_old_state_while_the_follower_is_stopped(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path)) as follower:
        follower.wait_ready()
        with grpc.insecure_channel(follower.address) as channel:
            assert posted_of(channel) == 5
            follower.pause()
            [replies] = submit(leader.address, deposits(1))
            sequence = int(replies["sequence"][0])
            assert posted_of(channel) == 5
            for _ in range(8):
                with pytest.raises(grpc.RpcError) as error:
                    posted_of(channel, sequence, timeout=2.5)
                if rpc_status.from_call(cast(grpc.Call, error.value)) is not None:
                    break  # else the call's own end came first
            code, why, metadata = reason(error.value)
            assert (code, why) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BEHIND")
            assert metadata["applied_sequence"] == str(sequence)
            follower.resume()
            assert posted_of(channel, sequence) == 6
        follower.stop()


def test_a_second_follower_on_the_port_leaves_with_one_line(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path)) as first:
        listen = ("--listen", first.wait_ready().address)
        with FollowerProcess(tmp_path, journal_url(tmp_path), *listen) as second:
            code, log = second.wait_exit()
        assert code == 1
        assert last_words(log).startswith(f"ringledger follower: cannot listen on {listen[1]}: ")
        with grpc.insecure_channel(first.address) as channel:
            assert posted_of(channel) == 5
        first.stop()


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_of_a_stranger_is_refused_with_one_line(tmp_path: Path, shares: bool) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        listen = f"127.0.0.1:{stranger.getsockname()[1]}"
        with FollowerProcess(tmp_path, journal_url(tmp_path), "--listen", listen) as follower:
            code, log = follower.wait_exit()
    assert code == 1
    assert last_words(log).startswith(f"ringledger follower: cannot listen on {listen}: ")


def test_a_follower_that_comes_before_the_first_leader_waits_and_then_serves(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with FollowerProcess(tmp_path, journal) as follower:
        waiting = "the journal is empty: waiting for its first leader"
        follower.wait_until(lambda: follower.events(waiting))
        with LeaderProcess(journal, "--no-snapshot") as leader:
            submit(leader.wait_ready().address, create_account(), deposits(3))
            wait_applied(follower.wait_ready(), leader)
            assert all_accounts(follower.address) == all_accounts(leader.address)
            follower.stop()


def test_a_stop_while_it_waits_for_the_first_leader_is_clean(tmp_path: Path) -> None:
    with FollowerProcess(tmp_path, journal_url(tmp_path)) as follower:
        waiting = "the journal is empty: waiting for its first leader"
        follower.wait_until(lambda: follower.events(waiting))
        follower.stop()


def test_it_begins_with_the_snapshot_and_the_rest_or_the_whole_journal(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    with LearnerProcess(tmp_path, journal, snapshots) as learner:
        learner.wait_ready().stop()
    submit(leader.address, create_account(), deposits(7, 2))
    with FollowerProcess(tmp_path, journal, "--snapshots", snapshots) as follower:
        wait_applied(follower.wait_ready(), leader)
        [restored] = follower.events("restored a snapshot")
        assert restored["applied"] == 6
        assert all_accounts(follower.address) == all_accounts(leader.address)
        follower.stop()
    with FollowerProcess(tmp_path, journal, "--no-snapshot") as follower:
        wait_applied(follower.wait_ready(), leader)
        assert not follower.events("restored a snapshot")
        assert all_accounts(follower.address) == all_accounts(leader.address)
        follower.stop()


def test_a_snapshot_of_another_ledger_is_refused_with_one_line(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    other, snapshots = tmp_path / "other", f"sqlite:///{tmp_path / 'other' / 'snapshots.db'}"
    other.mkdir()
    with LeaderProcess(journal_url(other), "--no-snapshot") as stranger:
        submit(stranger.wait_ready().address, create_account())
        with LearnerProcess(other, journal_url(other), snapshots) as learner:
            learner.wait_ready().stop()
    with FollowerProcess(tmp_path, journal_url(tmp_path), "--snapshots", snapshots) as follower:
        code, log = follower.wait_exit()
    assert code == 1
    assert "the snapshot is of another ledger" in last_words(log)


def test_a_follower_that_a_trim_overtakes_goes_back_to_the_snapshot_and_serves_again(
    tmp_path: Path, leader: LeaderProcess
) -> None:
    journal, snapshots = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    flags = ("--snapshots", snapshots, "--workers", "2")
    with FollowerProcess(tmp_path, journal, *flags) as follower:
        follower.wait_ready()
        follower.pause()
        load = Load(leader.address)
        load.wait_some()
        load.finish()
        with LearnerProcess(tmp_path, journal, snapshots) as learner:
            learner.wait_ready().stop()
        trim = ["trim", "--journal", journal, "--snapshots", snapshots, "--margin-commands", "0"]
        assert main(trim) == 0
        follower.resume()
        event = "the journal was trimmed beyond this node: going back to the newest snapshot"
        follower.wait_until(lambda: follower.events(event))
        assert poll_until(lambda: _has_all(follower, leader), DEADLINE_S), follower.log
        assert follower.events("restored a snapshot")
        assert follower.books_mapped() == 1
        assert all_accounts(follower.address) == all_accounts(leader.address)
        follower.stop()


def _has_all(follower: FollowerProcess, leader: LeaderProcess) -> bool:
    """Whether all of its workers, old and new, are where the leader is."""
    try:
        told: Any = status(follower.address)
    except grpc.RpcError:  # nobody serves while it restores
        return False
    return bool(told.applied_sequence == status(leader.address).applied_sequence)
