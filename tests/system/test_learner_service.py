"""What a learner answers on its port: status and health; commands go to the leader."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.leader_process import LeaderProcess
from tests.learner_process import LearnerProcess
from tests.ledger_load import DEADLINE_S, Load, create_account, deposits, status, submit
from tests.server_process import poll_until

OFTEN = ("--snapshot-interval-s", "0.1")


def refusal(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    metadata = dict(error.trailing_metadata())
    [detail] = status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    detail.Unpack(info)
    return error.code(), info


def test_status_tells_where_the_learner_is_and_commands_are_sent_to_the_leader(
    tmp_path: Path, journal: str
) -> None:
    snapshots = f"sqlite:///{tmp_path / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot", "--node-id", "first") as leader,
        LearnerProcess(tmp_path, journal, snapshots, "--node-id", "l1", *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        submit(leader.address, deposits(5))  # of its own: both could share a record
        learner.wait_ready()
        assert poll_until(lambda: status(learner.address).applied_sequence == 6, DEADLINE_S)
        led, told = status(leader.address), status(learner.address)
        assert told.role == ledger_pb2.ROLE_LEARNER
        assert (told.node_id, told.address, told.leader) == ("l1", learner.address, leader.address)
        assert (told.epoch, told.ledger_id) == (led.epoch, led.ledger_id)
        assert (told.accounts, list(told.assets)) == (1, list(led.assets))
        assert told.next_offset > 2
        assert led.ring_capacity > led.in_flight_commands == 0
        assert poll_until(
            lambda: status(learner.address).snapshot_applied_sequence == 6, DEADLINE_S
        )
        assert status(learner.address).snapshot_taken_ns > led.ledger_time_ns - 10**12
        assert poll_until(lambda: status(learner.address).lag_commands == 0, DEADLINE_S)
        with grpc.insecure_channel(learner.address) as channel:
            commands = ledger_pb2_grpc.CommandServiceStub(channel)
            bank = balance_pb2_grpc.BalanceCommandServiceStub(channel)
            for call in (
                lambda: commands.Execute(ledger_pb2.ExecuteRequest(), timeout=DEADLINE_S),
                lambda: commands.ExecuteBatch(ledger_pb2.ExecuteBatchRequest(), timeout=DEADLINE_S),
                lambda: list(commands.Submit(iter(()), timeout=DEADLINE_S)),
                lambda: list(
                    bank.sendCommand(iter([balance_pb2.BalanceCommand()]), timeout=DEADLINE_S)
                ),
            ):
                code, info = refusal(call)
                assert code == grpc.StatusCode.FAILED_PRECONDITION
                assert (info.reason, info.metadata["leader"]) == ("NOT_LEADER", leader.address)
            check_health_and_reflection(channel)
        leader.kill()
        learner.stop()


def check_health_and_reflection(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for name, expected in (("", 1), ("ringledger.v1.CommandService", 2)):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_S)
        assert answer.status == expected
    reflected: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [listed] = reflected.ServerReflectionInfo(iter([request]), timeout=DEADLINE_S)
    names = {service.name for service in listed.list_services_response.service}
    assert {"ringledger.v1.ClusterService", "grpc.health.v1.Health"} <= names


def test_after_a_clean_end_of_the_leader_the_learner_knows_none(
    tmp_path: Path, journal: str
) -> None:
    snapshots = f"sqlite:///{tmp_path / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        leader.wait_ready()
        learner.wait_ready()
        assert poll_until(lambda: status(learner.address).leader == leader.address, DEADLINE_S)
        leader.process.terminate()
        assert poll_until(lambda: status(learner.address).leader == "", DEADLINE_S)
        learner.stop()


def test_a_learner_that_was_stopped_tells_its_lag_and_catches_up(
    tmp_path: Path, journal: str
) -> None:
    """Stopped for a moment, it is behind the load: the lag rises, and falls to nothing again."""
    snapshots = f"sqlite:///{tmp_path / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(tmp_path, journal, snapshots, *OFTEN) as learner,
    ):
        submit(leader.wait_ready().address, create_account())
        learner.wait_ready()
        learner.pause()
        load = Load(leader.address, batch=100)
        load.wait_some()
        load.finish()
        applied = status(leader.address).applied_sequence
        learner.resume()
        assert poll_until(
            lambda: (
                status(learner.address).applied_sequence == applied
                and status(learner.address).lag_commands == 0
            ),
            DEADLINE_S,
        )
        learner.stop()


def test_a_port_in_use_ends_a_learner_with_one_line(tmp_path: Path, journal: str) -> None:
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(
            tmp_path, journal, "sqlite:///never.db", "--listen", leader.wait_ready().address
        ) as learner,
    ):
        code, log = learner.wait_exit()
    assert code == 1
    # gRPC's own library writes a line before
    assert log.splitlines()[-1].startswith("ringledger learner: cannot listen on ")
    assert "Traceback" not in log
