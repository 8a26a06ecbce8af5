"""Client and SyncClient against fake nodes that fail as they are told."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from decimal import Decimal
from types import SimpleNamespace

import pytest

import client_core
from client_core import (
    LINEARIZABLE,
    Behind,
    Client,
    IdInFuture,
    NodeStatus,
    NotFound,
    OutcomeUnknown,
    OutcomeUnsettled,
    Refused,
    Retryable,
    Status,
    StreamBusy,
    StreamClosed,
    SyncClient,
    Unauthenticated,
    Unavailable,
    at_least,
    cluster,
    cluster_reader,
)
from client_core.testing import FakeLedger, FakeNode

DEAD = "127.0.0.1:1"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


@pytest.fixture
def pair() -> Iterator[tuple[FakeNode, FakeNode]]:
    """A leader and a follower of one ledger."""
    ledger = FakeLedger()
    with (
        FakeNode(ledger) as leader,
        FakeNode(ledger, role="follower", leader=leader.address) as follower,
    ):
        yield leader, follower


async def until(condition: Callable[[], bool]) -> None:
    """Wait till it holds. The client has no events for tests."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def met(ledger: Client, *nodes: FakeNode) -> list[NodeStatus]:
    """Wait until the client has met these: it begins as soon as it has a leader."""
    wanted = {node.address for node in nodes}
    async with asyncio.timeout(30):
        while True:
            told = await ledger.cluster()
            if wanted <= {status.endpoint for status in told if status.reachable}:
                return told


async def two_accounts(ledger: Client, amount: int = 100) -> tuple[int, int]:
    alice, bob = (await ledger.create_account()).entity, (await ledger.create_account()).entity
    await ledger.deposit(alice, amount)
    return alice, bob


async def test_every_operation_and_query_works_over_a_list_with_dead_nodes(node: FakeNode) -> None:
    async with Client([DEAD, node.address]) as ledger:
        await ledger.register_asset(2, "EUR", 3)
        alice, bob = await two_accounts(ledger)
        euro = (await ledger.create_account(2, reference=9, code=4)).entity
        assert (await ledger.transfer(alice, bob, "12.5")).debit_balance == Decimal("87.50")
        held = (await ledger.hold(alice, bob, 5)).entity
        assert (await ledger.hold_of(held)).remaining == 5
        await ledger.release(held, 1)
        await ledger.capture(held)
        await ledger.lock(alice)
        assert [
            one.account_id for one in (await ledger.list_accounts(state="locked")).accounts
        ] == [alice]
        await ledger.unlock(alice)
        await ledger.set_limits(bob, floor=-5, ceiling=500)
        await ledger.close_account(euro)
        [closed] = (
            await ledger.list_accounts(state="closed", asset=2, code=4, reference=9)
        ).accounts
        assert (closed.account_id, closed.closed) == (euro, True)
        known, unknown = await ledger.accounts([bob, 99])
        assert unknown is None
        assert known == await ledger.account(bob)
        assert [known.floor, known.ceiling] == [-5, 500]
        assert known.posted == Decimal("16.50")
        assert [one.account_id async for one in ledger.all_accounts(page_size=1)] == [1, 2, 3]
        assert (await ledger.totals()).accounts == 3
        with pytest.raises(NotFound):
            await ledger.account(99)
        with pytest.raises(Refused) as refused:
            await ledger.transfer(alice, bob, 1_000)
        assert refused.value.status is Status.INSUFFICIENT_FUNDS
        status = await ledger.wait_for_leader(30)
        dead, alive = await met(ledger, node)
        assert (dead.endpoint, dead.reachable, dead.error != "") == (DEAD, False, True)
        assert (alive.role, alive.applied_sequence) == ("leader", status.applied_sequence)


async def test_a_command_whose_reply_was_lost_is_sent_again_and_done_once(node: FakeNode) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        for before_run in (False, True):
            node.drop_replies(1, before_run=before_run)
            reply = await ledger.transfer(alice, bob, 10)
            assert reply.duplicate is not before_run
        assert (await ledger.account(bob)).posted == 20
        assert ledger.stats.retries >= 2


async def test_what_is_unknown_at_the_deadline_is_told_with_its_id_and_can_be_asked_again(
    node: FakeNode,
) -> None:
    async with Client(node.address) as ledger, Client(node.address, timeout_s=1) as hasty:
        alice, bob = await two_accounts(ledger)
        node.drop_replies(1_000)
        with pytest.raises(OutcomeUnknown) as error:
            await hasty.transfer(alice, bob, 10)
        node.drop_replies(0)
        again = await ledger.transfer(alice, bob, 10, command_id=error.value.command_id)
        assert again.duplicate
        assert (await ledger.account(bob)).posted == 10


async def test_what_was_surely_not_run_at_the_deadline_is_told_as_such(node: FakeNode) -> None:
    async with Client(node.address) as ledger, Client(node.address, timeout_s=1) as hasty:
        alice, bob = await two_accounts(ledger)
        node.stop_leading()
        with pytest.raises(Unavailable, match=r"no leader|does not lead"):
            await hasty.transfer(alice, bob, 10)
        node.start_leading()
        assert (await ledger.account(bob)).posted == 0


async def test_a_command_without_an_id_is_never_sent_twice(node: FakeNode) -> None:
    async with Client(node.address, timeout_s=5) as ledger:
        alice, bob = await two_accounts(ledger)
        node.drop_replies(1)
        with pytest.raises(OutcomeUnknown):
            await ledger.transfer(alice, bob, 10, command_id=bytes(16))
        assert (await ledger.account(bob)).posted == 10


async def test_the_leader_is_found_from_a_follower_and_followed_when_it_changes(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    first, second = pair
    async with Client(second.address) as ledger:
        alice, bob = await two_accounts(ledger)
        first.stop_leading(second.address)
        second.start_leading()
        second.epoch = 2
        await asyncio.gather(*(ledger.transfer(alice, bob, "0.10") for _ in range(200)))
        assert (await ledger.account(bob)).posted == 20
        assert (await ledger.wait_for_leader(30)).address == second.address
        assert ledger.stats.leader_changes == 1


async def test_a_frozen_leader_is_left_as_soon_as_another_one_leads(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    first, second = pair
    async with Client([first.address, second.address], timeout_s=30) as ledger:
        alice, bob = await two_accounts(ledger)
        first.delay_s = 20.0
        moved = asyncio.ensure_future(ledger.transfer(alice, bob, 1))
        await asyncio.sleep(0)
        second.start_leading()
        async with asyncio.timeout(18):
            await moved
        assert (await ledger.account(bob, consistency=LINEARIZABLE)).posted == 1
        first.delay_s = 0


async def test_a_chain_and_its_replies_survive_a_lost_answer(node: FakeNode) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        chain = [client_core.transfer(ledger.new_id(), alice, bob, 100) for _ in range(5)]
        node.drop_replies(1)
        replies = await ledger.execute_all(chain, atomic=True)
        assert all(reply.accepted and reply.duplicate for reply in replies)
        assert (await ledger.account(bob)).posted == 5


async def test_a_batch_of_one_whose_reply_was_lost_is_answered_as_a_batch(node: FakeNode) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        node.drop_replies(1)
        commands = [client_core.transfer(ledger.new_id(), alice, bob, 100)]
        [reply] = await ledger.execute_all(commands)
        assert reply.accepted
        assert reply.duplicate


async def test_an_id_ahead_of_time_is_put_off_until_it_fits_or_the_deadline_passes() -> None:
    with FakeNode(FakeLedger(id_ahead_ns=200_000_000)) as node:
        async with Client(node.address) as ledger, Client(node.address, timeout_s=3) as hasty:
            alice, bob = await two_accounts(ledger)
            soon = id_ahead(ledger, ms=1_500)
            await ledger.transfer(alice, bob, 1, command_id=soon)
            assert ledger.stats.retries > 0
            never = id_ahead(ledger, ms=10**7)
            chain = [client_core.transfer(never, alice, bob, 1)]
            await raised_once(lambda: hasty.transfer(alice, bob, 1, command_id=never))
            await raised_once(lambda: hasty.execute_all(chain, atomic=True))
            assert (await ledger.account(bob)).posted == 1


def id_ahead(ledger: Client, ms: int) -> bytes:
    time_ms = int.from_bytes(ledger.new_id()[:6], "big") + ms
    return time_ms.to_bytes(6, "big") + ledger.new_id()[6:]


async def raised_once(call: Callable[[], Awaitable[object]]) -> None:
    """It ends with IdInFuture, unless the deadline came with the last attempt under way."""
    for _ in range(8):
        with pytest.raises((IdInFuture, OutcomeUnknown, StreamBusy)) as error:
            await call()
        if error.type is IdInFuture:
            return
    pytest.fail("the deadline always came first")


async def test_an_id_that_became_too_old_while_it_was_retried_is_no_new_command() -> None:
    with FakeNode(FakeLedger(window_capacity=2)) as node:
        async with Client(node.address) as ledger, Client(node.address) as other:
            alice, bob = await two_accounts(ledger)
            node.drop_replies(10**9)
            sent = asyncio.ensure_future(ledger.transfer(alice, bob, 1))
            await until(lambda: ledger.stats.retries >= 2)
            for _ in range(3):
                packed = client_core.deposit(other.new_id(), bob, 100)
                node.ledger.apply(packed)
            node.drop_replies(0)
            with pytest.raises(OutcomeUnsettled):
                await sent
            assert (await ledger.account(bob)).posted == 4


async def test_a_cancelled_caller_disturbs_nobody(node: FakeNode) -> None:
    node.delay_s = 0.05
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        node.drop_replies(1)
        calls = [asyncio.ensure_future(ledger.transfer(alice, bob, 1)) for _ in range(20)]
        await asyncio.sleep(0.01)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert all(not isinstance(result, BaseException) for result in results[1::2])


async def test_reads_go_to_followers_in_turn_and_linearizable_ones_to_the_leader(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, follower = pair
    async with Client([leader.address, follower.address]) as ledger:
        alice, _ = await two_accounts(ledger)
        await met(ledger, leader, follower)
        leader.calls.clear()
        follower.calls.clear()
        assert (await ledger.account(alice)).posted == 100
        await ledger.totals(consistency="any")
        await ledger.totals(consistency=at_least(ledger.newest_sequence))
        assert "GetAccounts" in follower.calls
        assert {"GetAccounts", "GetTotals"}.isdisjoint(leader.calls)
        await ledger.totals(consistency=LINEARIZABLE)
        assert "GetTotals" in leader.calls


async def test_a_follower_that_is_behind_or_gone_is_passed_over(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, follower = pair
    async with Client([leader.address, follower.address]) as ledger:
        alice, _ = await two_accounts(ledger)
        await met(ledger, leader, follower)
        follower.behind = True
        assert (await ledger.account(alice)).posted == 100
        assert ledger.stats.read_retries >= 1
        follower.stop()
        assert (await ledger.account(alice)).posted == 100


async def test_a_follower_that_stays_behind_is_asked_less_and_less_often(
    pair: tuple[FakeNode, FakeNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = pair
    monkeypatch.setattr(cluster_reader, "ATTEMPT_S", 60.0)  # none is asked for another's slowness
    async with Client([leader.address, follower.address], query_timeout_s=60) as ledger:
        alice, _ = await two_accounts(ledger)
        await met(ledger, leader, follower)

        async def asked_at(now_s: float) -> bool:
            monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: now_s))
            follower.calls.clear()
            await asyncio.gather(*(ledger.totals() for _ in range(10)))
            assert (await ledger.account(alice)).posted == 100
            return "GetTotals" in follower.calls

        follower.behind = True
        asked = [now for now in range(1, 40) if await asked_at(now * 1.0001)]
        assert asked == [1, 2, 4, 8, 16, 32]
        follower.behind = False
        assert await asked_at(100)
        follower.behind = True
        assert await asked_at(101)
        assert not await asked_at(101.5)
        assert await asked_at(103)


async def test_a_node_of_another_ledger_is_never_asked_for_ours(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, _ = pair
    foreign = FakeLedger()
    with FakeNode(foreign) as their_leader, FakeNode(foreign, role="follower") as stranger:
        async with Client(leader.address) as ledger, Client(their_leader.address) as theirs:
            alice, _ = await two_accounts(ledger)
            await two_accounts(theirs, amount=7)
        stranger.unavailable = True  # who answers first says which ledger it is
        async with Client([leader.address, stranger.address]) as ledger:
            stranger.unavailable = False
            async with asyncio.timeout(30):
                while True:
                    told = {status.endpoint: status.error for status in await ledger.cluster()}
                    if told[leader.address] == "" and "another ledger" in told[stranger.address]:
                        break
            for _ in range(3):
                assert (await ledger.account(alice, consistency="any")).posted == 100
            leader.stop()
            with pytest.raises(Unavailable):
                await ledger.account(alice, consistency="any")


async def test_a_read_that_nobody_can_answer_ends_at_its_deadline(node: FakeNode) -> None:
    async with Client(node.address) as ledger, Client(node.address, query_timeout_s=3) as hasty:
        alice, _ = await two_accounts(ledger)
        with pytest.raises(Unavailable):
            await hasty.account(alice, consistency=at_least(10**6))
        node.behind = True
        with pytest.raises(Behind):
            await hasty.totals(consistency=at_least(ledger.newest_sequence))
        node.unavailable = True
        with pytest.raises(Unavailable):
            await hasty.account(alice)
        node.unavailable = node.behind = False
        assert (await ledger.account(alice)).posted == 100


async def test_a_node_that_is_behind_is_told_though_the_others_do_not_answer(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, follower = pair
    async with Client([leader.address, follower.address], query_timeout_s=3) as ledger:
        await two_accounts(ledger)
        await met(ledger, leader, follower)
        follower.behind, leader.delay_s = True, 6
        with pytest.raises(Behind):
            await ledger.totals()


async def test_many_look_ups_of_one_turn_are_few_queries(node: FakeNode) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        node.calls.clear()
        found = await asyncio.gather(
            *(ledger.account(one) for one in [alice, bob] * 100 + [77]), return_exceptions=True
        )
        assert node.calls.count("GetAccounts") <= 2
        assert isinstance(found.pop(), NotFound)
        assert {one.account_id for one in found if not isinstance(one, BaseException)} == {1, 2}


async def test_many_transfers_of_one_turn_are_few_messages(node: FakeNode) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        node.calls.clear()
        await asyncio.gather(*(ledger.transfer(alice, bob, "0.01") for _ in range(1_000)))
        assert node.calls.count("Submit") <= 3


async def test_a_watch_gives_every_change_and_tells_what_a_change_of_nodes_left_out(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, follower = pair
    async with Client([leader.address, follower.address]) as ledger:
        alice, bob = await two_accounts(ledger)
        await met(ledger, leader, follower)
        async with asyncio.timeout(20), aclosing(ledger.watch([alice, bob])) as watch:
            first = await anext(watch)
            assert [one.posted for one in first.accounts] == [100, 0]
            await ledger.transfer(alice, bob, 1)
            change = await anext(watch)
            assert [one.posted for one in change.accounts] == [99, 1]
            assert change.missed_from_sequence is None
            follower.stop()
            after = await anext(watch)
            assert after.missed_from_sequence == change.applied_sequence
            assert [one.posted for one in after.accounts] == [99, 1]
        with pytest.raises(NotFound):
            await anext(ledger.watch([alice, 1_000]))


async def test_closing_the_client_ends_waiting_calls_and_refuses_later_ones(
    node: FakeNode,
) -> None:
    async with Client(node.address) as ledger:
        alice, bob = await two_accounts(ledger)
        node.stop_leading()
        waiting = asyncio.ensure_future(ledger.transfer(alice, bob, 1))
        await until(lambda: ledger.stats.retries > 0)
    with pytest.raises((StreamClosed, Unavailable)):
        await waiting
    with pytest.raises(StreamClosed):
        await ledger.transfer(alice, bob, 1)


async def test_queries_that_all_wait_for_a_node_do_not_disturb_each_other(node: FakeNode) -> None:
    async with Client(node.address, query_timeout_s=3) as ledger:
        alice, _ = await two_accounts(ledger)
        node.behind = True
        calls = (
            call() for _ in range(20) for call in (ledger.totals, lambda: ledger.account(alice))
        )
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {Behind}


async def test_queries_under_way_when_the_client_closes_end_with_an_error_of_ours(
    node: FakeNode,
) -> None:
    async with Client(node.address, query_timeout_s=20) as ledger:
        alice, _ = await two_accounts(ledger)
        node.behind = True
        node.delay_s = 5.0
        node.calls.clear()
        watch = ledger.watch([alice], consistency="any")
        calls = [
            asyncio.ensure_future(call)
            for call in (ledger.account(alice), ledger.totals(), ledger.hold_of(1), anext(watch))
        ]
        await until(lambda: {"GetAccounts", "GetTotals", "GetHold", "Watch"} <= set(node.calls))
    async with asyncio.timeout(30):
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [repr(error) for error in errors if not isinstance(error, Retryable)] == []
    await watch.aclose()
    with pytest.raises(StreamClosed):
        await ledger.totals()
    with pytest.raises(StreamClosed):
        await ledger.account(alice)


async def test_connecting_to_nobody_is_unavailable_in_time() -> None:
    took_s = []
    for _ in range(3):
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=DEAD):
            async with Client(DEAD, connect_timeout_s=0.3):
                pass
        took_s.append(time.monotonic() - begun)
    assert min(took_s) < 4  # the default is 5 s


async def test_a_port_that_takes_connections_and_says_nothing_costs_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, FakeNode() as node:
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        async with asyncio.timeout(30), Client([silent, node.address]) as ledger:
            alice, bob = await two_accounts(ledger)
            assert (await ledger.transfer(alice, bob, 1)).accepted


async def test_a_leader_may_be_away_when_the_client_starts(
    pair: tuple[FakeNode, FakeNode],
) -> None:
    leader, follower = pair
    leader.stop_leading()
    follower.leader = ""
    async with Client(follower.address) as ledger:
        opened = asyncio.ensure_future(ledger.create_account())
        await until(lambda: ledger.stats.retries > 0)
        leader.start_leading()
        follower.leader = leader.address
        assert (await opened).entity == 1
        assert (await ledger.wait_for_leader(30)).address == leader.address


@pytest.mark.parametrize("told", ["", "not an address", "127.0.0.1:1", "x" * 10_000])
async def test_what_a_node_tells_of_its_leader_is_only_a_hint(
    pair: tuple[FakeNode, FakeNode], told: str
) -> None:
    leader, follower = pair
    follower.leader = told
    async with Client([follower.address, leader.address]) as ledger:
        assert (await ledger.create_account()).entity == 1


async def test_the_token_is_sent_with_every_call() -> None:
    with FakeNode(token="right") as node:
        async with Client(node.address, token="right") as ledger:
            alice, bob = await two_accounts(ledger)
            assert (await ledger.transfer(alice, bob, 1)).accepted
            async with aclosing(ledger.watch([alice])) as watch:
                await anext(watch)
        with pytest.raises(Unauthenticated) as error:
            async with Client(node.address, token="wrong"):
                pass
        assert "wrong" not in str(error.value).replace("TOKEN_WRONG", "")


async def test_a_token_taken_back_is_told_at_once(node: FakeNode) -> None:
    async with Client(node.address, timeout_s=30) as ledger:
        alice, bob = await two_accounts(ledger)
        node.token = "new"
        node.drop_replies(1, before_run=True)
        async with asyncio.timeout(20):
            with pytest.raises((Unauthenticated, OutcomeUnknown)):
                await ledger.transfer(alice, bob, 1)
            with pytest.raises(Unauthenticated):
                await ledger.totals()


def test_the_sync_client_does_the_same_from_many_threads(node: FakeNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with SyncClient(node.address) as ledger:
        alice, bob = ledger.create_account().entity, ledger.create_account().entity
        ledger.deposit(alice, 100)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: ledger.transfer(alice, bob, "0.10"), range(100)))
        assert all(reply.accepted for reply in replies)
        assert ledger.account(bob).posted == 10
        assert [one.account_id for one in ledger.all_accounts(page_size=1)] == [1, 2]
        for change in ledger.watch([bob]):
            assert change.accounts[0].posted == 10
            break
        with pytest.raises(Refused):
            ledger.transfer(alice, bob, 1_000)
        node.drop_replies(1)
        assert ledger.transfer(alice, bob, 1, command_id=ledger.new_id()).duplicate
    with pytest.raises(StreamClosed):
        ledger.totals()
    ledger.close()


def test_a_sync_client_that_reaches_nobody_leaves_no_thread_behind() -> None:
    import threading

    before = set(threading.enumerate())
    with pytest.raises(Unavailable), SyncClient(DEAD, connect_timeout_s=0.2):
        pass
    assert [one.name for one in threading.enumerate() if one not in before] == []


async def test_one_packed_command_is_submitted_without_a_look_up_and_its_refusal_is_a_value(
    node: FakeNode,
) -> None:
    async with Client(node.address) as ledger:
        account = (await ledger.create_account()).entity
        node.calls.clear()
        node.drop_replies()
        command = client_core.deposit(ledger.new_id(), account, 150)
        reply = await ledger.submit(command)
        assert (reply.status, reply.credit_balance, reply.duplicate) == (Status.OK, 150, True)
        missing = await ledger.submit(client_core.deposit(ledger.new_id(), 999, 1))
        assert missing.status is Status.CREDIT_ACCOUNT_NOT_FOUND
        assert not [call for call in node.calls if call.startswith("Get") and "Status" not in call]
        with pytest.raises(ValueError, match="64 bytes"):
            await ledger.submit(b"short")
