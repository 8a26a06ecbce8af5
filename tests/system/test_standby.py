"""Standbys of real leaders: they take over by themselves, one of them, and nothing is lost."""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from client_core.cluster import NodeStatus
from cluster_core.record import Status
from proto import ledger_pb2, ledger_pb2_grpc
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import create_account, deposits, status, submit
from tests.moving_money import MovingMoney
from tests.server_process import free_ports, poll_until

DEADLINE_S = 20.0
PATIENT = ("--election-timeout-s", "30")
"""Nobody waits where nobody leads, or after a clean stop; a leader that gets no CPU stays."""

SERVICE_AGAIN_S = 10.0
"""A bound that a busy machine keeps too; the figure itself is `tests.bench_failover`'s."""

pytestmark = pytest.mark.timeout(120)


def node(journal: str, name: str, *flags: str) -> LeaderProcess:
    # a port that may be listened on again: no outgoing connection may take it meanwhile
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    return LeaderProcess(journal, "--no-snapshot", "--node-id", name, *flags, listen=listen)


@contextmanager
def nodes(journal: str, count: int = 2, *flags: str) -> Iterator[list[LeaderProcess]]:
    """A leader, then its standbys."""
    with ExitStack() as stack:
        # all at once: who is first leads
        started = [stack.enter_context(node(journal, name, *flags)) for name in "abcde"[:count]]
        running = [each.wait_leads_or_stands_by() for each in started]
        yield sorted(running, key=lambda each: not each.leads)


def is_leader(address: str) -> bool:
    return status(address).role == ledger_pb2.ROLE_LEADER


async def test_of_two_standbys_one_serves_soon_after_kill_9_and_a_deposed_leader_stands_by(
    journal: str,
) -> None:
    with nodes(journal, 3) as [first, *standbys]:
        async with MovingMoney([each.address for each in (first, *standbys)]) as money:
            await money.answers(300)
            money.forget_gaps()
            first.kill()
            await money.answers(300)
            assert money.longest_gap_s < SERVICE_AGAIN_S
            assert poll_until(lambda: leaders(standbys) == 1, DEADLINE_S)
            winner, other = sorted(standbys, key=lambda each: not is_leader(each.address))
            assert poll_until(lambda: status(other.address).leader == winner.address, DEADLINE_S)
            assert status(winner.address).epoch == status(other.address).epoch
            with node(journal, "d", "--takeover") as third:
                await asyncio.to_thread(third.wait_ready)
                await money.answers(100)
                await asyncio.to_thread(winner.wait_ready_again_as_standby)
                assert other.process.poll() is None
                assert poll_until(lambda: leaders([third, *standbys]) == 1, DEADLINE_S)
                assert poll_until(lambda: one_led([third, *standbys]), DEADLINE_S)
                await money.finish()


def leaders(running: list[LeaderProcess]) -> int:
    return sum(is_leader(each.address) for each in running)


def one_led(running: list[LeaderProcess]) -> bool:
    """Whether one leads and the others stand by it: the one that took over, if it got its CPU."""
    [leading, *others] = sorted(running, key=lambda each: not is_leader(each.address))
    return all(knows(each.address, leading.address) for each in others)


def knows(address: str, leader: str) -> bool:
    """Whether this node stands by that leader."""
    told = status(address)
    return (told.role, told.leader) == (ledger_pb2.ROLE_STANDBY, leader)


@pytest.mark.timeout(300)
def test_whoever_loses_the_first_race_for_an_empty_journal_serves_as_a_standby(
    tmp_path: Path,
) -> None:
    # a race: one try in six finds a node that says that it stands by and serves nothing
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with nodes(journal_url(folder), 5, *PATIENT) as [first, *standbys]:
            for each in standbys:
                told = partial(knows, each.address, first.address)
                assert poll_until(told, DEADLINE_S)


def test_a_standby_answers_queries_and_refuses_commands_with_the_leader_s_address(
    tmp_path: Path,
) -> None:
    with nodes(journal_url(tmp_path), 2, *PATIENT) as [first, second]:
        submit(first.address, create_account(), deposits(100))
        assert poll_until(lambda: status(second.address).applied_sequence == 101, DEADLINE_S)
        told = status(second.address)
        assert (told.role, told.leader, told.epoch) == (ledger_pb2.ROLE_STANDBY, first.address, 1)
        with grpc.insecure_channel(second.address) as channel:
            stub = ledger_pb2_grpc.QueryServiceStub(channel)
            request = ledger_pb2.GetAccountRequest(account_id=1)
            assert stub.GetAccount(request, timeout=DEADLINE_S).account.posted == 100
            linearizable = ledger_pb2.Consistency(linearizable=True)
            request = ledger_pb2.GetAccountRequest(account_id=1, consistency=linearizable)
            for refused in (
                lambda: stub.GetAccount(request, timeout=DEADLINE_S),
                lambda: submit(second.address, deposits(1)),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    refused()
                assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
                assert first.address in str(error.value)
        second.signal(signal.SIGTERM)
        code, log = second.wait_exit()
        assert (code, "Traceback" in log) == (0, False)
        [replies] = submit(first.address, deposits(1))
        assert replies["status"][0] == Status.OK


def test_a_standby_whose_journal_takes_no_append_goes_on_standing_by_until_it_does(
    tmp_path: Path,
) -> None:
    with nodes(journal_url(tmp_path)) as [first, second]:
        submit(first.address, create_account(), deposits(10))
        database = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
        with closing(database):
            database.execute("BEGIN IMMEDIATE")  # the leader waits longer for it than the kill
            first.kill()
            assert second.process.stderr is not None
            while b"can't lead now: standing by" not in (line := second.process.stderr.readline()):
                assert line, "the standby has ended"
            told = status(second.address)
            assert (told.role, told.epoch) == (ledger_pb2.ROLE_STANDBY, 1)
            database.execute("ROLLBACK")
        assert poll_until(lambda: is_leader(second.address), DEADLINE_S)
        [replies] = submit(second.address, deposits(1))
        assert replies["credit_balance"][0] == 11


async def test_a_leader_stopped_and_continued_after_the_switch_never_answers_wrongly(
    journal: str,
) -> None:
    with nodes(journal) as [first, second]:
        async with MovingMoney([first.address, second.address], callers=4) as money:
            await money.answers(100)
            first.pause_between_appends(journal)
            assert await asyncio.to_thread(
                poll_until, lambda: is_leader(second.address), DEADLINE_S
            )
            await money.answers(100)
            answered = len(money.replies)
            # straight to the old leader: nothing that it says may be older than what was answered
            epoch = status(second.address).epoch
            first.signal(signal.SIGCONT)
            await asyncio.to_thread(_never_older, first.address, epoch, answered)
            await asyncio.to_thread(first.wait_ready_again_as_standby)
            await money.answers(50)
            await money.finish()


def _never_older(address: str, epoch: int, answered: int) -> None:
    """What an old leader may say to those who have been answered so much: that, or no answer."""
    query = ledger_pb2.GetAccountRequest(
        account_id=2, consistency=ledger_pb2.Consistency(linearizable=True)
    )
    command = ledger_pb2.ExecuteRequest(command={"deposit": {"credit_account": 2, "amount": 0}})
    with grpc.insecure_channel(address) as channel:
        queries = ledger_pb2_grpc.QueryServiceStub(channel)
        commands = ledger_pb2_grpc.CommandServiceStub(channel)
        for _ in range(20):
            with contextlib.suppress(grpc.RpcError):  # any refusal is right
                assert queries.GetAccount(query, timeout=1.0).account.posted >= answered
            try:
                reply = commands.Execute(command, timeout=1.0).reply
            except grpc.RpcError:
                continue
            # unless the other one got no CPU for so long that this one leads again
            assert status(address).epoch > epoch, f"a deposed leader answered: {reply}"


async def test_clients_find_the_successor_by_themselves_however_often_it_changes(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with ExitStack() as stack, nodes(journal, 2, *PATIENT) as running:
        async with MovingMoney([each.address for each in running]) as money:
            for _ in range(2):
                await money.answers(100)
                leader = next(each for each in running if is_leader(each.address))
                leader.signal(signal.SIGTERM)
                await asyncio.to_thread(leader.wait_exit)
                await money.answers(100)
                again = stack.enter_context(
                    LeaderProcess(journal, "--no-snapshot", *PATIENT, listen=leader.address)
                )
                await asyncio.to_thread(again.wait_standby)
                running[running.index(leader)] = again
            # a channel that found nobody there pauses for half a second
            deadline = time.monotonic() + DEADLINE_S
            roles: list[str] = []
            while roles != ["leader", "standby"] and time.monotonic() < deadline:
                statuses: list[NodeStatus] = await money.ledger.cluster()
                roles = sorted(each.role for each in statuses)
            assert roles == ["leader", "standby"]
            await money.finish()
