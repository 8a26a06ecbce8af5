"""Client through crashes, takeovers and pauses of real leaders: each command once, no other sum."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from client_core import Client, LedgerReply, OutcomeUnknown
from tests.leader_process import LeaderProcess
from tests.server_process import free_ports

DEAD = "127.0.0.1:1"
TRANSFERS = 1_000
DEADLINE_S = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def leader(journal: str, ports: list[int]) -> LeaderProcess:
    return started(journal, ports[0])


def started(journal: str, port: int, *flags: str) -> LeaderProcess:
    return LeaderProcess(journal, "--no-snapshot", *flags, listen=f"127.0.0.1:{port}")


@pytest_asyncio.fixture
async def ledger(leader: LeaderProcess, ports: list[int]) -> AsyncIterator[Client]:
    with leader:
        leader.wait_ready()
        endpoints = [DEAD, *(f"127.0.0.1:{port}" for port in ports)]
        async with Client(endpoints, timeout_s=DEADLINE_S, query_timeout_s=DEADLINE_S) as ledger:
            yield ledger


async def two_accounts(ledger: Client) -> tuple[int, int]:
    alice, bob = (await ledger.create_account()).entity, (await ledger.create_account()).entity
    await ledger.deposit(alice, TRANSFERS)
    return alice, bob


class Transfers:
    """1,000 transfers of 1 from 50 callers, the last quarter when told, and what was answered."""

    def __init__(self, ledger: Client, alice: int, bob: int) -> None:
        self.replies: list[LedgerReply] = []
        self._ledger, self._pair = ledger, (alice, bob)
        self._left = TRANSFERS
        self._quarter, self._last_quarter = asyncio.Event(), asyncio.Event()
        self._callers = asyncio.gather(*(self._call() for _ in range(50)))

    async def _call(self) -> None:
        while self._left:
            self._left -= 1
            if self._left < TRANSFERS // 4:
                await self._last_quarter.wait()
            self.replies.append(await self._ledger.transfer(*self._pair, 1))
            if len(self.replies) >= TRANSFERS // 4:
                self._quarter.set()
            await asyncio.sleep(0.001)

    async def under_way(self) -> None:
        """Wait until a quarter of them is done."""
        async with asyncio.timeout(DEADLINE_S):
            await self._quarter.wait()

    def let_finish(self) -> None:
        """What had to happen meanwhile has happened."""
        self._last_quarter.set()

    async def finish_and_check(self) -> None:
        """Every one is done, exactly once: no sequence twice, and the sums are those of 1,000."""
        async with asyncio.timeout(2 * DEADLINE_S):
            await self._callers
        sequences = Counter(reply.sequence for reply in self.replies)
        assert len(sequences) == len(self.replies) == TRANSFERS
        assert sorted(reply.credit_balance for reply in self.replies) == [*range(1, TRANSFERS + 1)]
        alice, bob = [await self._ledger.account(account) for account in self._pair]
        assert alice.posted == 0
        assert bob.posted == bob.credits_total == TRANSFERS
        [totals] = (await self._ledger.totals()).assets
        assert totals.posted == TRANSFERS


async def ready(leader: LeaderProcess) -> None:
    await asyncio.to_thread(leader.wait_ready)


async def test_transfers_go_on_over_a_killed_and_restarted_leader(
    ledger: Client, leader: LeaderProcess, journal: str, ports: list[int]
) -> None:
    transfers = Transfers(ledger, *await two_accounts(ledger))
    await transfers.under_way()
    leader.kill()
    with started(journal, ports[0]) as again:
        await ready(again)
        transfers.let_finish()
        await transfers.finish_and_check()
        assert ledger.stats.retries > 0
        assert ledger.stats.leader_changes >= 1


async def test_transfers_follow_a_takeover_to_another_port(
    ledger: Client, leader: LeaderProcess, journal: str, ports: list[int]
) -> None:
    transfers = Transfers(ledger, *await two_accounts(ledger))
    await transfers.under_way()
    with started(journal, ports[1], "--takeover") as successor:
        await ready(successor)
        transfers.let_finish()
        await transfers.finish_and_check()
        assert (await ledger.wait_for_leader(DEADLINE_S)).address == successor.address
        assert ledger.stats.leader_changes == 1


async def test_a_paused_leader_only_makes_its_callers_wait(
    ledger: Client, leader: LeaderProcess
) -> None:
    transfers = Transfers(ledger, *await two_accounts(ledger))
    await transfers.under_way()
    leader.signal(signal.SIGSTOP)
    for _ in range(2):  # each takes as long as a node may take to answer
        assert not any(status.reachable for status in await ledger.cluster())
    leader.signal(signal.SIGCONT)
    transfers.let_finish()
    await transfers.finish_and_check()
    assert ledger.stats.leader_changes == 0


async def leave_unknown(hasty: Client, leader: LeaderProcess, alice: int, bob: int) -> bytes:
    """Send a transfer of 10 to a leader that is stopped; its id."""
    await hasty.transfer(alice, bob, 1)
    leader.signal(signal.SIGSTOP)
    with pytest.raises(OutcomeUnknown) as unknown:
        await hasty.transfer(alice, bob, 10)
    return unknown.value.command_id


async def test_a_deadline_that_passes_leaves_an_id_that_tells_later(
    ledger: Client, leader: LeaderProcess, ports: list[int]
) -> None:
    alice, bob = await two_accounts(ledger)
    async with Client(f"127.0.0.1:{ports[0]}", timeout_s=2) as hasty:
        command_id = await leave_unknown(hasty, leader, alice, bob)
        leader.signal(signal.SIGCONT)
        # the first sending, not taken back, is run as soon as the leader goes on
        async with asyncio.timeout(DEADLINE_S):
            while (await ledger.account(bob)).posted != 11:  # noqa: ASYNC110 polled with a deadline
                await asyncio.sleep(0.01)
    reply = await ledger.transfer(alice, bob, 10, command_id=command_id)
    assert reply.duplicate
    assert (await ledger.account(bob)).posted == 11


async def test_a_caller_that_leaves_after_its_deadline_may_ask_again_by_the_id(
    ledger: Client, leader: LeaderProcess, ports: list[int]
) -> None:
    alice, bob = await two_accounts(ledger)
    async with Client(f"127.0.0.1:{ports[0]}", timeout_s=2) as hasty:
        command_id = await leave_unknown(hasty, leader, alice, bob)
    # the node meets the command and its caller's leave at once: it may run it, or not
    leader.signal(signal.SIGCONT)
    await ledger.transfer(alice, bob, 10, command_id=command_id)
    assert (await ledger.account(bob)).posted == 11
    reply = await ledger.transfer(alice, bob, 10, command_id=command_id)
    assert reply.duplicate
    assert (await ledger.account(bob)).posted == 11
