"""Planned hand-overs between real nodes under load: quick, and without one failed call."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from cluster_app.handover_call import BEHIND_OFFSETS_MAX
from proto import ledger_pb2, ledger_pb2_grpc
from tests.campaign.skewed_node import ClockFile
from tests.integration.test_leader_contracts import reason
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import Load, check_retry, create_account, deposits, status, submit
from tests.moving_money import MovingMoney
from tests.property.strategies import NS_PER_S
from tests.server_process import poll_until
from tests.services import KafkaCluster

DEADLINE_S = 30.0
LEADER = ledger_pb2.ROLE_LEADER
SILENCE_S = 20.0
"""Nobody waits for it after a hand-over; how long one takes is `tests.bench_failover`'s to tell."""

TOKEN = "a-token-0123456789"

pytestmark = pytest.mark.timeout(120)


@contextmanager
def pair(journal: str, *flags: str) -> Iterator[tuple[LeaderProcess, LeaderProcess]]:
    with (
        LeaderProcess(journal, "--no-snapshot", "--node-id", "a", *flags) as one,
        LeaderProcess(journal, "--no-snapshot", "--node-id", "b", *flags) as other,
    ):
        # both at once: who is first leads
        one.wait_leads_or_stands_by()
        other.wait_leads_or_stands_by()
        yield (one, other) if one.leads else (other, one)


def handover(*endpoints: str, flags: tuple[str, ...] = ()) -> tuple[int, str]:
    """The admin command: (exit code, all that it said)."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cluster_app", "handover"),
            *("--endpoints", ",".join(endpoints), *flags),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stdout + done.stderr


async def test_hand_overs_there_and_back_fail_no_call_and_take_a_moment(journal: str) -> None:
    with pair(journal, "--election-timeout-s", str(SILENCE_S)) as (first, second):
        here, there = first, second
        async with MovingMoney([first.address, second.address]) as money:
            for epoch in (2, 3):
                await money.answers(300)
                money.forget_gaps()
                code, said = await asyncio.to_thread(handover, there.address, here.address)
                assert code == 0, said
                match = re.fullmatch(
                    r"handed_over from=(\S+) to=(\S+) epoch=(\d+) applied=\d+ took_ms=\d+\n", said
                )
                assert match is not None, said
                assert match.groups() == (here.address, there.address, str(epoch))
                await money.answers(300)
                assert money.longest_gap_s < SILENCE_S / 2
                assert status(here.address).role == ledger_pb2.ROLE_STANDBY
                here, there = there, here
            await money.finish()


def test_without_a_standby_or_a_leader_nothing_is_done_and_the_line_says_why(
    tmp_path: Path,
) -> None:
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot") as leader:
        submit(leader.wait_ready().address, create_account())
        code, said = handover(leader.address)
        assert code == 1
        assert "no standby among --endpoints, so nothing was done" in said
        assert status(leader.address).role == ledger_pb2.ROLE_LEADER
        assert submit(leader.address, deposits(1))[0]["status"][0] == 1
    code, said = handover("127.0.0.1:1")
    assert code == 1
    assert "no leader among --endpoints" in said
    assert handover("nowhere")[0] == 2


@pytest.mark.timeout(300)
def test_a_standby_that_is_far_behind_or_no_address_is_refused_by_the_leader(
    tmp_path: Path,
) -> None:
    often = ("--heartbeat-interval-s", "0.0005")
    with LeaderProcess(journal_url(tmp_path), "--no-snapshot", *often) as leader:
        submit(leader.wait_ready().address, create_account())
        assert poll_until(
            lambda: status(leader.address).next_offset > BEHIND_OFFSETS_MAX, 4 * DEADLINE_S
        )
        with grpc.insecure_channel(leader.address) as channel:
            stub = ledger_pb2_grpc.ClusterServiceStub(channel)
            for standby, offset, said in (
                ("127.0.0.1:1", 0, (grpc.StatusCode.FAILED_PRECONDITION, "STANDBY_BEHIND")),
                ("127.0.0.1:1", 1 << 60, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")),
                ("nowhere", 0, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")),
                ("x" * 9_999, 0, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")),
            ):
                request = ledger_pb2.HandOverRequest(standby=standby, standby_next_offset=offset)
                with pytest.raises(grpc.RpcError) as error:
                    stub.HandOver(request, timeout=DEADLINE_S)
                assert reason(error.value)[:2] == said
        assert submit(leader.address, deposits(1))[0]["status"][0] == 1


def test_a_standby_whose_clock_is_off_says_so_and_is_not_chosen(tmp_path: Path) -> None:
    journal, clock = journal_url(tmp_path), ClockFile(tmp_path / "clock")
    skewed = ("tests.campaign.skewed_node", str(tmp_path / "clock"))
    with ExitStack() as stack:
        patient = ("--no-snapshot", "--election-timeout-s", "20")
        leader = stack.enter_context(LeaderProcess(journal, *patient)).wait_ready()
        standby = stack.enter_context(LeaderProcess(journal, *patient, program=skewed))
        standby.wait_standby()
        assert status(standby.address).cannot_lead_because == ""
        clock.set(60 * NS_PER_S)
        said = "this machine's clock is"
        assert poll_until(lambda: said in status(standby.address).cannot_lead_because, DEADLINE_S)
        code, line = handover(leader.address, standby.address)
        assert code == 1
        assert "no standby could lead, so nothing was done" in line
        assert f"{standby.address}: {said}" in line
        assert (status(leader.address).role, status(leader.address).epoch) == (LEADER, 1)
        clock.set(0)
        assert poll_until(lambda: not status(standby.address).cannot_lead_because, DEADLINE_S)
        code, line = handover(leader.address, standby.address)
        assert code == 0, line


def test_a_hand_over_that_is_not_drained_in_time_is_given_up_and_the_leader_leads_on(
    kafka: KafkaCluster, kafka_topic: str
) -> None:
    [broker] = kafka.brokers
    journal = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    flags = ("--drain-timeout-s", "1", "--election-timeout-s", str(SILENCE_S))
    with pair(journal, *flags) as (first, second):
        submit(first.address, create_account())
        load = Load(first.address)
        load.wait_some()
        told = status(second.address)
        request = ledger_pb2.HandOverRequest(
            standby=told.address, standby_next_offset=told.next_offset
        )
        broker.pause()
        try:
            assert poll_until(lambda: status(first.address).in_flight_commands > 0, DEADLINE_S)
            with grpc.insecure_channel(first.address) as channel:
                stub = ledger_pb2_grpc.ClusterServiceStub(channel)
                with pytest.raises(grpc.RpcError) as error:
                    stub.HandOver(request, timeout=DEADLINE_S)
        finally:
            broker.resume()
        assert reason(error.value)[:2] == (grpc.StatusCode.ABORTED, "HAND_OVER_GIVEN_UP")
        assert "this node goes on leading" in str(error.value)
        load.finish()
        check_retry(load, first.address)
        assert (status(first.address).role, status(first.address).epoch) == (LEADER, 1)
        code, line = handover(first.address, second.address)
        assert code == 0, line


def test_a_leader_whose_standby_vanished_after_the_hand_over_leads_again(tmp_path: Path) -> None:
    with pair(journal_url(tmp_path), "--election-timeout-s", "5") as (first, second):
        told = status(second.address)
        second.kill()
        with grpc.insecure_channel(first.address) as channel:
            stub = ledger_pb2_grpc.ClusterServiceStub(channel)
            request = ledger_pb2.HandOverRequest(
                standby=told.address, standby_next_offset=told.next_offset
            )
            assert stub.HandOver(request, timeout=DEADLINE_S).epoch == 1
        first.wait_ready()
        assert first.epoch == 2
        assert submit(first.address, create_account())[0]["status"][0] == 1


def test_a_hand_over_needs_the_nodes_token_and_a_standby_refuses_to_do_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n")
    flags = ("--token", f"@{file}", "--election-timeout-s", "20")
    with pair(journal_url(tmp_path), *flags) as (first, second):
        code, said = handover(first.address, second.address)
        assert (code, "UNAUTHENTICATED" in said) == (1, True)
        with grpc.insecure_channel(second.address) as channel:
            stub = ledger_pb2_grpc.ClusterServiceStub(channel)
            request = ledger_pb2.HandOverRequest(standby=second.address)
            for metadata, reason_said in (
                ((), "TOKEN_MISSING"),
                ((("authorization", f"Bearer {TOKEN}"),), "NOT_LEADER"),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    stub.HandOver(request, metadata=metadata, timeout=DEADLINE_S)
                assert reason(error.value)[1] == reason_said
        code, said = handover(first.address, second.address, flags=("--token", f"@{file}"))
        assert code == 0, said
        assert TOKEN not in said
