"""A leader's life in real processes: restart, crash, takeover, stop, bad journals."""

import queue
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster_core.batch import Kind, open_batch
from cluster_core.record import COMMAND, REPLY, Operation, Status
from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.leader_process import LeaderProcess, journal_url

DEADLINE_S = 30.0


def deposits(count: int, account: int = 1) -> np.ndarray[Any, Any]:
    """Deposits of 1 with fresh random ids."""
    commands = np.zeros(count, COMMAND)
    commands["operation"] = Operation.DEPOSIT
    commands["credit_account"] = account
    commands["amount"] = 1
    ids = np.frombuffer(b"".join(uuid.uuid4().bytes for _ in range(count)), "<u8").reshape(-1, 2)
    commands["id_0"], commands["id_1"] = ids[:, 0], ids[:, 1]
    return commands


def create_account() -> np.ndarray[Any, Any]:
    command = np.zeros(1, COMMAND)
    command["operation"] = Operation.CREATE_ACCOUNT
    command["asset"] = 1
    return command


def submit(address: str, *messages: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    with grpc.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.CommandServiceStub(channel)
        requests = [ledger_pb2.SubmitRequest(commands=message.tobytes()) for message in messages]
        return [
            np.frombuffer(response.replies, REPLY)
            for response in stub.Submit(iter(requests), timeout=DEADLINE_S)
        ]


def status(address: str) -> ledger_pb2.GetStatusResponse:
    with grpc.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.ClusterServiceStub(channel)
        answer: ledger_pb2.GetStatusResponse = stub.GetStatus(
            ledger_pb2.GetStatusRequest(), timeout=DEADLINE_S
        )
        return answer


def posted(address: str) -> int:
    return int(status(address).assets[0].posted_total)


class Load:
    """A client that sends messages of deposits and keeps what was answered, until the stream ends.

    At most `in_flight` messages are unanswered.
    """

    def __init__(self, address: str, batch: int = 10, in_flight: int = 4) -> None:
        self.sent: list[np.ndarray[Any, Any]] = []
        self.answered: list[np.ndarray[Any, Any]] = []
        self.error: grpc.RpcError | None = None
        self.some_answered = threading.Event()
        self._batch = batch
        self._permits: queue.Queue[bool] = queue.Queue()
        for _ in range(in_flight):
            self._permits.put(True)
        self._channel = grpc.insecure_channel(address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _requests(self) -> Iterator[ledger_pb2.SubmitRequest]:
        while self._permits.get():
            commands = deposits(self._batch)
            self.sent.append(commands)
            yield ledger_pb2.SubmitRequest(commands=commands.tobytes())

    def _run(self) -> None:
        stub = ledger_pb2_grpc.CommandServiceStub(self._channel)
        try:
            for response in stub.Submit(self._requests()):
                self.answered.append(np.frombuffer(response.replies, REPLY))
                self._permits.put(True)
                if len(self.answered) == 50:
                    self.some_answered.set()
        except grpc.RpcError as error:
            self.error = error

    def wait_some(self) -> None:
        assert self.some_answered.wait(DEADLINE_S)

    def finish(self) -> None:
        """Send no more, take the last answers and close."""
        self._permits.put(False)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._channel.close()

    def retry_all(self, address: str) -> list[np.ndarray[Any, Any]]:
        """Send everything again, with the same ids."""
        return submit(address, *self.sent)


def check_retry(load: Load, address: str) -> None:
    """Every answer is found again as it was; every command ran exactly once in the end."""
    again = load.retry_all(address)
    for first, second in zip(load.answered, again, strict=False):
        assert set(second["flags"]) == {1}
        assert list(first["sequence"]) == list(second["sequence"])
        assert list(first["credit_balance"]) == list(second["credit_balance"])
    assert posted(address) == sum(len(message) for message in load.sent)


def test_a_restart_brings_everything_back(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
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
    tmp_path: Path,
) -> None:
    journal, silence_s = journal_url(tmp_path), 8
    flags = ("--election-timeout-s", str(silence_s))
    with LeaderProcess(journal, *flags) as leader:
        leader.wait_ready().signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    begun = time.monotonic()
    with LeaderProcess(journal, *flags) as leader:
        leader.wait_ready()
        assert time.monotonic() - begun < silence_s
        leader.kill()
    begun = time.monotonic()
    with LeaderProcess(journal, *flags) as leader:
        leader.wait_ready()
        assert time.monotonic() - begun >= silence_s


@pytest.mark.parametrize("round_number", range(3))
def test_what_was_answered_survives_kill_9_and_the_rest_may_be_retried(
    tmp_path: Path, round_number: int
) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address, batch=1 + 100 * round_number)
        load.wait_some()
        leader.kill()
        load.finish()
    assert load.error is not None
    with LeaderProcess(journal) as leader:
        check_retry(load, leader.wait_ready().address)


def test_sigterm_answers_what_was_accepted_and_says_what_was_not_run(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
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


def test_a_second_leader_says_who_leads_and_leaves_with_exit_code_3(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal, "--node-id", "first") as leader:
        leader.wait_ready()
        with LeaderProcess(journal) as second:
            code, log = second.wait_exit()
        assert code == 3
        assert f"first at {leader.address} leads epoch 1" in log
        [replies] = submit(leader.address, create_account())
        assert replies["status"][0] == Status.OK


def test_a_takeover_under_load_deposes_the_leader_and_no_answer_is_wrong(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
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


def _pause_between_two_appends(leader: LeaderProcess, path: Path) -> None:
    """SIGSTOP where the leader doesn't hold SQLite's lock: nobody could depose it there."""
    deadline = time.monotonic() + DEADLINE_S
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        while time.monotonic() < deadline:
            leader.signal(signal.SIGSTOP)
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                leader.signal(signal.SIGCONT)
    raise AssertionError("the leader never let go of its lock")


def test_a_leader_paused_past_a_takeover_never_answers_again(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        _pause_between_two_appends(leader, tmp_path / "journal.db")
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


def test_a_port_in_use_is_said_before_anybody_is_deposed(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
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


def test_a_full_disk_ends_the_leader_with_one_line_and_loses_no_answer(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account())
        resource.prlimit(leader.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        load = Load(leader.address, batch=500)
        code, log = leader.wait_exit()
        load.finish()
    assert code == 1
    assert "the disk" in log
    assert load.error is not None
    with LeaderProcess(journal) as leader:
        check_retry(load, leader.wait_ready().address)


def test_sigterm_while_waiting_for_silence_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
    with LeaderProcess(journal) as leader:
        leader.wait_ready().kill()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        [before] = database.execute("SELECT next FROM head").fetchone()
        with LeaderProcess(journal, "--election-timeout-s", "600") as waiting:
            assert waiting.process.stderr is not None
            assert b"replayed" in waiting.process.stderr.readline()
            waiting.signal(signal.SIGTERM)
            code, log = waiting.wait_exit()
        assert (code, "Traceback" in log) == (0, False)
        assert "stopped before it led" in log
        assert database.execute("SELECT next FROM head").fetchone() == (before,)


def test_a_journal_under_two_names_is_refused(tmp_path: Path) -> None:
    path = _make_ledger(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "journal.db").hardlink_to(path)
    with LeaderProcess(journal_url(other)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "hard links" in log


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


def _make_ledger(folder: Path) -> Path:
    with LeaderProcess(journal_url(folder)) as leader:
        submit(leader.wait_ready().address, create_account(), deposits(10))
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    return folder / "journal.db"


def _rewrite(path: Path, offset: int, change: "list[tuple[int, int]]") -> None:
    """Overwrite bytes of one stored value."""
    with closing(sqlite3.connect(path)) as database:
        select = "SELECT value FROM batches WHERE offset = ?"
        [value] = database.execute(select, (offset,)).fetchone()
        changed = bytearray(value)
        for index, byte in change:
            changed[index] = byte
        database.execute("UPDATE batches SET value = ? WHERE offset = ?", (bytes(changed), offset))
        database.commit()


def test_a_flipped_byte_in_the_journal_stops_the_start_and_names_the_offset(
    tmp_path: Path,
) -> None:
    path = _make_ledger(tmp_path)
    _rewrite(path, 2, [(200, 0xFF)])
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "journal offset 2: digest does not match" in log
    assert "Traceback" not in log


def test_a_journal_of_a_newer_format_stops_the_start_and_says_so(tmp_path: Path) -> None:
    path = _make_ledger(tmp_path)
    _rewrite(path, 1, [(8, 2)])
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "format version 2" in log
    assert "newer program" in log


def test_a_file_that_is_no_journal_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE recipes(name)")
        database.commit()
    content = path.read_bytes()
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert "another application" in log
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_said_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with LeaderProcess(f"sqlite:///{tmp_path}/file/journal.db") as leader:
        code, log = leader.wait_exit()
    assert code == 1
    assert f"{tmp_path}/file" in log
    assert "Traceback" not in log


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


def test_parameters_are_fixed_by_the_first_start(tmp_path: Path) -> None:
    journal = journal_url(tmp_path)
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
        "from cluster_app.settings import read_settings\n"
        "s = read_settings('leader', ['--node-id', 'flag'],"
        " {'RINGLEDGER_NODE_ID': 'variable', 'RINGLEDGER_LISTEN': '127.0.0.1:1',"
        " 'RINGLEDGER_TAKEOVER': 'true'})\n"
        "print(s.node_id, s.listen, s.takeover)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["flag", "127.0.0.1:1", "True"]


def test_an_idle_leader_appends_heartbeats_and_a_stopped_one_an_epoch_end(
    tmp_path: Path,
) -> None:
    with LeaderProcess(journal_url(tmp_path), "--heartbeat-interval-s", "0.05") as leader:
        leader.wait_ready()
        first = status(leader.address).ledger_time_ns
        deadline = time.monotonic() + DEADLINE_S
        while status(leader.address).ledger_time_ns <= first:
            assert time.monotonic() < deadline
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        values = [value for (value,) in database.execute("SELECT value FROM batches")]
    kinds = [open_batch(value).kind for value in values]
    assert (kinds[0], kinds[1], kinds[-1]) == (Kind.EPOCH_START, Kind.HEARTBEAT, Kind.EPOCH_END)
