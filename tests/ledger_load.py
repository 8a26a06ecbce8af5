"""Load on a running leader, and the check that every answer was true."""

import queue
import threading
import uuid
from collections.abc import Iterator
from typing import Any, Final

import grpc
import numpy as np

from cluster_core.record import COMMAND, REPLY, Operation
from proto import ledger_pb2, ledger_pb2_grpc

DEADLINE_S: Final = 30.0


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


def holds(count: int, timeout_s: int) -> np.ndarray[Any, Any]:
    """Holds of 1 from account 1 to account 2."""
    commands = np.zeros(count, COMMAND)
    commands["operation"] = Operation.HOLD
    commands["debit_account"], commands["credit_account"] = 1, 2
    commands["amount"] = 1
    commands["timeout_s"] = timeout_s
    return commands


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


def open_holds(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.QueryServiceStub(channel)
        answer = stub.GetTotals(ledger_pb2.GetTotalsRequest(), timeout=DEADLINE_S)
        return sum(asset.open_holds for asset in answer.assets)


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


def check_retry(load: Load, address: str, *more: Load) -> None:
    """Every answer is found again as it was; every command ran exactly once in the end."""
    loads = (load, *more)
    for one in loads:
        again = one.retry_all(address)
        for first, second in zip(one.answered, again, strict=False):
            assert set(second["flags"]) == {1}
            assert list(first["sequence"]) == list(second["sequence"])
            assert list(first["credit_balance"]) == list(second["credit_balance"])
    assert posted(address) == sum(len(message) for one in loads for message in one.sent)
