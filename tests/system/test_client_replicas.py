"""Client over a real leader and a real follower: who is asked, how new it is, and Watch."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from client_core import Behind, Client, Retryable, at_least, channel
from cluster_app import server
from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess

DEADLINE_S = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def leader(journal: str) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal, "--no-snapshot") as leader:
        yield leader.wait_ready()


@pytest.fixture
def follower(leader: LeaderProcess, tmp_path: Path, journal: str) -> Iterator[FollowerProcess]:
    with FollowerProcess(tmp_path, journal, "--no-snapshot", "--workers", "2") as follower:
        yield follower.wait_ready()


@pytest_asyncio.fixture
async def ledger(leader: LeaderProcess, follower: FollowerProcess) -> AsyncIterator[Client]:
    """A client that is told of both, the follower last."""
    endpoints = [leader.address, follower.address]
    async with Client(endpoints, timeout_s=DEADLINE_S, query_timeout_s=DEADLINE_S) as ledger:
        yield ledger


async def funded(ledger: Client) -> int:
    account = (await ledger.create_account()).entity
    await ledger.deposit(account, "10.00")
    return account


async def test_queries_go_to_the_follower_and_wait_there_for_what_this_client_wrote(
    ledger: Client, follower: FollowerProcess, leader: LeaderProcess
) -> None:
    account = await funded(ledger)
    retries = []
    for _ in range(5):  # a follower that takes a second once is passed over once
        before = ledger.stats.read_retries
        for _ in range(20):
            reply = await ledger.deposit(account, "0.01")
            assert (await ledger.account(account)).posted == reply.credit_balance
        retries.append(ledger.stats.read_retries - before)
    assert reply.credit_balance == 11
    assert 0 in retries
    leader.signal(signal.SIGSTOP)
    # nobody else could answer
    assert (await ledger.account(account)).posted == 11
    assert (await ledger.totals()).assets[0].posted == 11
    leader.signal(signal.SIGCONT)
    assert (await ledger.account(account, consistency="linearizable")).posted == 11
    roles: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while roles != {"leader", "follower"}:
            roles = {status.role for status in await ledger.cluster()}


async def test_a_follower_that_stands_still_is_passed_over_where_it_is_too_old(
    ledger: Client, follower: FollowerProcess
) -> None:
    account = await funded(ledger)
    assert (await ledger.account(account)).posted == 10
    follower.pause()
    try:
        reply = await ledger.deposit(account, 5)
        async with asyncio.timeout(DEADLINE_S):  # once passed over, it is asked again later
            while (await ledger.account(account, consistency="any")).posted != 10:
                pass
        before = ledger.stats.read_retries
        assert (await ledger.account(account)).posted == 15
        assert ledger.stats.read_retries > before
        async with Client([follower.address], query_timeout_s=DEADLINE_S) as other:
            # it knows the leader from the follower, and asks it
            newest = await other.account(account, consistency=at_least(reply.sequence))
            assert newest.posted == 15
    finally:
        follower.resume()


async def test_a_client_that_knows_only_the_follower_finds_the_leader(
    leader: LeaderProcess, follower: FollowerProcess
) -> None:
    async with Client(follower.address) as ledger:
        account = await funded(ledger)
        assert (await ledger.account(account)).posted == 10
        assert (await ledger.wait_for_leader(DEADLINE_S)).address == leader.address


async def test_what_nobody_has_applied_is_behind_at_the_deadline(ledger: Client) -> None:
    account = await funded(ledger)
    async with Client(ledger._cluster.endpoints, query_timeout_s=3) as hasty:
        for _ in range(5):
            with pytest.raises(Retryable) as error:
                await hasty.account(account, consistency=at_least(10**9))
            if error.type is Behind:
                break  # else no node's answer came in time
        assert error.type is Behind


async def test_a_watch_over_a_follower_gives_each_change_and_outlives_the_follower(
    ledger: Client, follower: FollowerProcess
) -> None:
    account = await funded(ledger)
    seen: list[Decimal] = []
    missed: list[int | None] = []

    async def watch() -> None:
        async with aclosing(ledger.watch([account])) as changes:
            async for change in changes:
                missed.append(change.missed_from_sequence)
                seen.extend(changed.posted for changed in change.accounts)

    async def until_seen(amount: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while amount not in seen:  # noqa: ASYNC110 polled with a deadline
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        async with asyncio.timeout(DEADLINE_S):
            while not missed:  # noqa: ASYNC110 polled with a deadline
                await asyncio.sleep(0.01)
        for _ in range(20):
            await ledger.deposit(account, 1)
        await until_seen(30)
        assert [*dict.fromkeys(seen)] == [*range(int(seen[0]), 31)]
        follower.kill()
        await ledger.deposit(account, 1)
        await until_seen(31)
        watching.cancel()
    # what went on between the two nodes is told as a gap
    assert [sequence for sequence in missed if sequence is not None]


def test_nodes_allow_clients_to_ask_as_often_as_they_do() -> None:
    # one that asks more often is thrown out after half a minute without changes
    assert channel._KEEPALIVE_MS >= 2 * server._CLIENT_KEEPALIVE_MS


async def test_a_watch_leaves_workers_that_are_frozen(
    ledger: Client, follower: FollowerProcess
) -> None:
    account = await funded(ledger)
    workers = follower.workers()
    async with aclosing(ledger.watch([account])) as changes, asyncio.timeout(DEADLINE_S):
        await anext(changes)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        await ledger.deposit(account, 1)
        async for change in changes:
            if 11 in [changed.posted for changed in change.accounts]:
                break
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
