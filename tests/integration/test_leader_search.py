"""The search for the leader: what slow and frozen nodes may cost those who look again."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from client_core.cluster import Cluster
from client_core.security import PLAIN
from client_core.testing import FakeLedger, FakeNode

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is late by a second on a busy machine is no frozen one."""
    monkeypatch.setattr("client_core.cluster.PROBE_TIMEOUT_S", 20.0)


@pytest.fixture
def frozen() -> Iterator[str]:
    """The address of a node that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def opened(*endpoints: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(endpoints, PLAIN)
    cluster.open()
    try:
        yield cluster
    finally:
        await cluster.close()


async def test_a_hasty_search_is_not_held_by_a_frozen_node(frozen: str) -> None:
    with FakeNode(role="follower", leader=frozen) as node:
        async with opened(frozen, node.address) as cluster:
            assert await cluster.find_leader(hasty=True) is None
            # it has not been waited for: its probe would have ended with an error
            assert (cluster.nodes[0].target, cluster.nodes[0].error) == (frozen, None)
            node.start_leading()
            leader = await cluster.find_leader(hasty=True)
            assert leader is not None
            assert leader.target == node.address


async def test_a_slow_leader_is_found_by_a_hasty_search_in_a_later_round() -> None:
    ledger = FakeLedger()
    with FakeNode(ledger) as leader, FakeNode(ledger, role="follower") as follower:
        leader.delay_s = 0.3  # more than any one round waits
        async with opened(leader.address, follower.address) as cluster:
            async with asyncio.timeout(30):
                while (found := await cluster.find_leader(hasty=True)) is None:
                    pass
            assert found.target == leader.address
            assert leader.calls == ["GetStatus"]  # one question, over all rounds


async def test_a_search_that_is_not_repeated_waits_for_a_slow_leader() -> None:
    ledger = FakeLedger()
    with FakeNode(ledger) as leader, FakeNode(ledger, role="follower") as follower:
        leader.delay_s = 0.3
        async with opened(leader.address, follower.address) as cluster:
            found = await cluster.find_leader()
            assert found is not None
            assert found.target == leader.address


async def test_a_node_is_asked_once_in_a_round_whoever_tells_of_it() -> None:
    with FakeNode(role="follower") as node:
        node.leader = node.address  # it names itself, who was just asked
        async with opened(node.address) as cluster:
            assert await cluster.find_leader() is None
            assert node.calls == ["GetStatus"]
