"""Reads of a real leader that demand how new the answer must be."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest
from grpc_status import rpc_status

from proto import ledger_pb2, ledger_pb2_grpc
from tests.integration.test_leader_contracts import create, reason
from tests.leader_process import LeaderProcess, journal_url

DEADLINE_S = 20.0
LINEARIZABLE = ledger_pb2.Consistency(linearizable=True)
Read = Callable[..., Any]


@pytest.fixture(scope="module")
def leader(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("journal"))) as process:
        yield process.wait_ready()


@pytest.fixture
def channel(leader: LeaderProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(leader.address) as channel:
        yield channel


def get_account(channel: grpc.Channel, consistency: ledger_pb2.Consistency, **options: Any) -> Any:
    request = ledger_pb2.GetAccountRequest(account_id=1, consistency=consistency)
    return ledger_pb2_grpc.QueryServiceStub(channel).GetAccount(
        request, **{"timeout": DEADLINE_S, **options}
    )


def get_hold(channel: grpc.Channel, consistency: ledger_pb2.Consistency, **options: Any) -> Any:
    request = ledger_pb2.GetHoldRequest(hold_id=1, consistency=consistency)
    return ledger_pb2_grpc.QueryServiceStub(channel).GetHold(
        request, **{"timeout": DEADLINE_S, **options}
    )


def get_totals(channel: grpc.Channel, consistency: ledger_pb2.Consistency, **options: Any) -> Any:
    request = ledger_pb2.GetTotalsRequest(consistency=consistency)
    return ledger_pb2_grpc.QueryServiceStub(channel).GetTotals(
        request, **{"timeout": DEADLINE_S, **options}
    )


@pytest.mark.parametrize("read", [get_account, get_hold, get_totals])
def test_every_query_waits_for_the_sequence_it_names_and_says_when_it_is_behind(
    channel: grpc.Channel, read: Read
) -> None:
    create(channel)
    applied = get_totals(channel, LINEARIZABLE).applied_sequence
    for _ in range(8):
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            read(channel, ledger_pb2.Consistency(at_least_sequence=applied), timeout=2.5)
        assert time.monotonic() - begun > 1
        if rpc_status.from_call(cast(grpc.Call, error.value)) is not None:
            break  # else the call's own end came first
    code, why, metadata = reason(error.value)
    assert (code, why) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BEHIND")
    assert metadata == {
        "applied_sequence": str(applied),
        "wanted": str(applied),
        "lag": "0.000",
    }


def test_a_read_that_waits_for_a_command_is_answered_once_that_is_applied(
    channel: grpc.Channel,
) -> None:
    create(channel)
    applied = get_totals(channel, LINEARIZABLE).applied_sequence
    wanted = ledger_pb2.Consistency(at_least_sequence=applied)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(get_account, channel, wanted)
        create(channel)
        assert read.result(DEADLINE_S).applied_sequence > applied


def test_a_call_without_a_deadline_is_told_behind_by_itself(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        get_totals(channel, ledger_pb2.Consistency(at_least_sequence=2**64 - 1), timeout=None)
    assert reason(error.value)[1] == "BEHIND"


def test_linearizable_reads_see_every_answered_command_and_share_their_barriers(
    channel: grpc.Channel,
) -> None:
    for _ in range(20):
        account = create(channel, amount=7)
        request = ledger_pb2.GetAccountRequest(account_id=account, consistency=LINEARIZABLE)
        answer = ledger_pb2_grpc.QueryServiceStub(channel).GetAccount(request, timeout=DEADLINE_S)
        assert answer.account.posted == 7
    with ThreadPoolExecutor(16) as pool:
        reads = [pool.submit(get_account, channel, LINEARIZABLE) for _ in range(500)]
        assert {read.result(DEADLINE_S).account.account_id for read in reads} == {1}


def test_a_deposed_leader_answers_no_linearizable_read_and_its_successor_does(
    journal: str,
) -> None:
    with LeaderProcess(journal, "--heartbeat-interval-s", "0.5", "--no-standby") as first:
        first.wait_ready()
        with grpc.insecure_channel(first.address) as channel:
            create(channel)
            with LeaderProcess(journal, "--takeover") as second:
                second.wait_ready()
                with pytest.raises(grpc.RpcError) as error:
                    get_totals(channel, LINEARIZABLE)
                assert error.value.code() in (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.UNAVAILABLE,
                )
                with grpc.insecure_channel(second.address) as successor:
                    assert get_totals(successor, LINEARIZABLE).applied_sequence == 1
        assert first.wait_exit()[0] == 3
