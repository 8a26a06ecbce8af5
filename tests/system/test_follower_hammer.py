"""Transfers as fast as they go, and the sum of all balances read meanwhile, in every worker."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from client_core import CommandStream
from cluster_core.record import ACCOUNT, COMMAND, CommandFlag, Operation
from proto import ledger_pb2, ledger_pb2_grpc
from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import DEADLINE_S, status, submit
from tests.server_process import poll_until

ACCOUNTS = 60
POSTED = 1_000_000
BATCH = 1_024
IN_FLIGHT = 4
READS = 2_500
PUSHED = 300_000
WORKERS = 3
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def opened(count: int) -> np.ndarray[Any, Any]:
    """Commands that open so many accounts and fill them."""
    commands = np.zeros(2 * count, COMMAND)
    commands["operation"][:count] = Operation.CREATE_ACCOUNT
    commands["asset"][:count] = 1
    commands["operation"][count:] = Operation.DEPOSIT
    commands["credit_account"][count:] = np.arange(1, count + 1)
    commands["amount"][count:] = POSTED
    return commands


def transfers(random: np.random.Generator, *, chains: bool) -> bytes:
    """A batch of transfers and some holds among all accounts; with `chains` half of it is undone.

    A hold lasts a second; the leader ends it.
    """
    commands = np.zeros(BATCH, COMMAND)
    commands["operation"] = Operation.TRANSFER
    commands["debit_account"] = random.integers(1, ACCOUNTS + 1, BATCH)
    step = random.integers(1, ACCOUNTS, BATCH)
    commands["credit_account"] = (commands["debit_account"] + step - 1) % ACCOUNTS + 1
    commands["amount"] = random.integers(1, 500, BATCH)
    commands["operation"][::128] = Operation.HOLD
    commands["timeout_s"][::128] = 1
    if chains:
        for first in range(0, BATCH, 32):
            commands["flags"][first : first + 15] = CommandFlag.LINKED
            commands["amount"][first + 15] = 10**15
    return commands.tobytes()


class Pusher:
    """A thread that keeps a leader busy until it is closed."""

    def __init__(self, address: str, *, chains: bool) -> None:
        self.commands = 0
        self.failed: BaseException | None = None
        self._address, self._chains = address, chains
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it, with all answers. Raises what it ran into."""
        self._closed.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        try:
            asyncio.run(self._push())
        except BaseException as error:  # noqa: BLE001 - raised again by `close`
            self.failed = error

    async def _push(self) -> None:
        async with CommandStream(self._address) as stream:
            await asyncio.gather(*[self._push_batches(stream, n) for n in range(IN_FLIGHT)])

    async def _push_batches(self, stream: CommandStream, seed: int) -> None:
        random = np.random.default_rng(seed)
        while not self._closed.is_set():
            batch = transfers(random, chains=self._chains)
            await stream.submit_many(batch, DEADLINE_S)
            self.commands += BATCH


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[tuple[LeaderProcess, FollowerProcess]]:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        FollowerProcess(tmp_path, journal, "--workers", str(WORKERS)) as follower,
    ):
        submit(leader.wait_ready().address, opened(ACCOUNTS))
        follower.wait_ready()
        applied = 2 * ACCOUNTS
        assert poll_until(lambda: status(follower.address).applied_sequence >= applied, DEADLINE_S)
        yield leader, follower
        follower.stop()


@pytest.mark.parametrize("chains", [False, True])
def test_the_sum_never_moves_and_the_sequence_never_goes_back_in_any_worker(
    follower: tuple[LeaderProcess, FollowerProcess], chains: bool
) -> None:
    leader, node = follower
    ids = np.arange(1, ACCOUNTS + 1, dtype="<u8").tobytes()
    request = ledger_pb2.GetAccountsRequest(account_ids=ids)
    with ExitStack() as stack:
        stubs: list[Any] = []
        newest: list[int] = []
        while len(stubs) < WORKERS or len(node.connected_workers()) < WORKERS:
            channel = stack.enter_context(grpc.insecure_channel(node.address, OWN_CONNECTION))
            stubs.append(ledger_pb2_grpc.QueryServiceStub(channel))
            newest.append(stubs[-1].GetAccounts(request, timeout=DEADLINE_S).applied_sequence)
        pusher = Pusher(leader.address, chains=chains)
        stack.callback(pusher.close)
        begun = list(newest)
        reads = 0
        while reads < READS or pusher.commands < PUSHED:
            reads += 1
            for number, stub in enumerate(stubs):
                answer = stub.GetAccounts(request, timeout=DEADLINE_S)
                rows = np.frombuffer(answer.accounts, ACCOUNT)
                assert int(rows["posted"].sum()) == ACCOUNTS * POSTED
                assert (rows["held"] >= 0).all()
                assert (rows["posted"] - rows["held"] >= rows["floor"]).all()
                assert ((rows["held"] > 0) == (rows["open_holds"] > 0)).all()
                assert (rows["last_sequence"] < answer.applied_sequence).all()
                assert rows["account_id"].tolist() == list(range(1, ACCOUNTS + 1))
                assert answer.applied_sequence >= newest[number]
                newest[number] = answer.applied_sequence
            assert pusher.failed is None
        assert all(last > first for first, last in zip(begun, newest, strict=True))
