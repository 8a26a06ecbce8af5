"""Watch on a leader and on its follower: every change once, in order, or told what was missed."""

from collections.abc import Iterator
from typing import Any, Literal, Self

import grpc
import numpy as np
import pytest

from cluster_core.record import COMMAND, Operation, Status
from proto import ledger_pb2, ledger_pb2_grpc
from tests.follower_process import FollowerProcess
from tests.integration.test_follower_queries import Nodes, refused
from tests.integration.test_typed_commands import create, done, execute_batch
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import DEADLINE_S, submit
from tests.server_process import poll_until

Node = Literal["leader", "follower"]


@pytest.fixture(scope="module")
def nodes(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("watch")
    with (
        LeaderProcess(journal_url(folder), "--no-snapshot") as leader,
        FollowerProcess(folder, journal_url(folder)) as follower,
    ):
        leader.wait_ready()
        nodes = Nodes(leader, follower.wait_ready())
        yield nodes
        nodes.to_leader.close()
        nodes.to_follower.close()
        follower.stop()


@pytest.fixture(params=["leader", "follower"])
def node(request: pytest.FixtureRequest) -> Node:
    which: Node = request.param
    return which


class Watcher:
    """One stream, from its first message on, on a connection of its own."""

    def __init__(self, nodes: Nodes, node: Node, *ids: int, since: int = 0) -> None:
        address = nodes.leader.address if node == "leader" else nodes.follower.address
        self._channel = grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))
        request = ledger_pb2.WatchRequest(account_ids=ids)
        request.consistency.at_least_sequence = since
        stub: Any = ledger_pb2_grpc.QueryServiceStub(self._channel)
        self._stream = stub.Watch(request, timeout=4 * DEADLINE_S)
        self.first: ledger_pb2.WatchResponse = next(self._stream)

    def until(self, sequence: int) -> list[ledger_pb2.WatchResponse]:
        """All further messages up to the one that says this command is in."""
        messages = []
        for message in self._stream:
            messages.append(message)
            if message.applied_sequence > sequence:
                break
        return messages

    def close(self) -> None:
        self._stream.cancel()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def accounts_of(messages: list[ledger_pb2.WatchResponse]) -> list[ledger_pb2.Account]:
    return [account for message in messages for account in message.accounts]


def moves(payer: int, payee: int, count: int) -> np.ndarray[Any, Any]:
    """Transfers of 1 from one to the other."""
    commands = np.zeros(count, COMMAND)
    commands["operation"] = Operation.TRANSFER
    commands["debit_account"], commands["credit_account"] = payer, payee
    commands["amount"] = 1
    return commands


def last_sequence(nodes: Nodes, *accounts: int) -> int:
    """Of the newest change of these accounts."""
    found = 0
    for account in accounts:
        request = ledger_pb2.GetAccountRequest(account_id=account)
        found = max(found, nodes.query("GetAccount", request, "leader").account.last_sequence)
    return found


def test_the_first_message_has_all_states_and_then_every_change_comes_once_in_order(
    nodes: Nodes, node: Node
) -> None:
    hot, other = create(nodes.to_leader, 9_000), create(nodes.to_leader)
    third = create(nodes.to_leader)
    with Watcher(nodes, node, hot, other, since=last_sequence(nodes, third)) as watcher:
        assert [a.account_id for a in watcher.first.accounts] == [hot, other]
        assert [a.posted for a in watcher.first.accounts] == [9_000, 0]
        batch = moves(hot, other, 700)
        batch["credit_account"][::2] = third
        batch["amount"][::7] = 10**12  # refused: no change
        replies = np.concatenate(submit(nodes.leader.address, *[batch] * 5))
        changes = accounts_of(watcher.until(int(replies["sequence"][-1])))
    expected = []
    credited = np.tile(batch["credit_account"], 5)
    for reply, payee in zip(replies, credited, strict=True):
        if reply["status"] == Status.OK:
            expected.append((hot, int(reply["sequence"]), int(reply["debit_balance"])))
            if payee == other:
                expected.append((other, int(reply["sequence"]), int(reply["credit_balance"])))
    assert [(a.account_id, a.last_sequence, a.posted) for a in changes] == expected
    versions = [a.version for a in changes if a.account_id == hot]
    assert versions == list(range(versions[0], versions[0] + 5 * 600))
    assert versions[0] == watcher.first.accounts[0].version + 1


def test_holds_captures_locks_and_chains_are_changes_and_an_undone_chain_is_none(
    nodes: Nodes, node: Node
) -> None:
    payer, payee = create(nodes.to_leader, 100), create(nodes.to_leader)
    pair = {"debit_account": payer, "credit_account": payee}
    with Watcher(nodes, node, payer, payee, since=last_sequence(nodes, payer, payee)) as watcher:
        hold = done(nodes.to_leader, hold={**pair, "amount": 60})
        done(nodes.to_leader, capture={"hold_id": hold.entity, "amount": 25})
        done(nodes.to_leader, lock={"account": payee, "debits": True})
        done(nodes.to_leader, set_limits={"account": payer, "floor": -5})
        move = {"transfer": {**pair, "amount": 10}}
        execute_batch(nodes.to_leader, move, move, atomic=True)
        execute_batch(nodes.to_leader, move, {"transfer": {**pair, "amount": 10**6}}, atomic=True)
        end = done(nodes.to_leader, deposit={"credit_account": payer, "amount": 1}).sequence
        changes = accounts_of(watcher.until(end))
    seen = [(a.account_id, a.posted, a.held, a.debits_locked, a.floor) for a in changes]
    assert seen == [
        (payer, 100, 60, False, 0),
        (payer, 75, 0, False, 0),
        (payee, 25, 0, False, 0),
        (payee, 25, 0, True, 0),
        (payer, 75, 0, False, -5),
        (payer, 65, 0, False, -5),
        (payee, 35, 0, True, 0),
        (payer, 55, 0, False, -5),
        (payee, 45, 0, True, 0),
        (payer, 56, 0, False, -5),
    ]
    assert [a.version for a in changes if a.account_id == payer] == list(range(3, 9))


def test_two_watchers_of_one_account_get_the_same_and_one_may_leave(
    nodes: Nodes, node: Node
) -> None:
    hot, other = create(nodes.to_leader, 5_000), create(nodes.to_leader)
    since = last_sequence(nodes, hot, other)
    with Watcher(nodes, node, hot, since=since) as first:
        with Watcher(nodes, node, other, hot, hot, since=since) as second:
            assert [a.account_id for a in second.first.accounts] == [other, hot]
            [replies] = submit(nodes.leader.address, moves(hot, other, 300))
            end = int(replies["sequence"][-1])
            one, two = accounts_of(first.until(end)), accounts_of(second.until(end))
            assert [a for a in two if a.account_id == hot] == one
            assert (len(one), len(two)) == (300, 600)
        [replies] = submit(nodes.leader.address, moves(hot, other, 300))
        assert len(accounts_of(first.until(int(replies["sequence"][-1])))) == 300


def test_a_watcher_hears_of_progress_though_its_accounts_rest(nodes: Nodes, node: Node) -> None:
    quiet, busy = create(nodes.to_leader), create(nodes.to_leader, 100)
    with Watcher(nodes, node, quiet, since=last_sequence(nodes, busy)) as watcher:
        end = done(nodes.to_leader, deposit={"credit_account": busy, "amount": 1}).sequence
        messages = watcher.until(end)
    assert accounts_of(messages) == []
    assert messages[-1].applied_sequence == end + 1


def test_a_slow_watcher_is_told_what_it_missed_and_then_gets_the_true_states(
    nodes: Nodes, node: Node
) -> None:
    hot, other = create(nodes.to_leader, 10**9), create(nodes.to_leader)
    ids = [hot, other]
    batch = moves(hot, other, 8_192)
    with Watcher(nodes, node, *ids, since=last_sequence(nodes, *ids)) as watcher:
        replies = submit(nodes.leader.address, *[batch] * 16)  # nobody reads meanwhile
        end = int(replies[-1]["sequence"][-1])
        versions = {a.account_id: a.version for a in watcher.first.accounts}
        gaps = 0
        newest: dict[int, ledger_pb2.Account] = {}
        told = watcher.first.applied_sequence
        for message in watcher.until(end):
            if message.HasField("missed_from_sequence"):
                gaps += 1
                assert message.missed_from_sequence >= told - 1
                assert [a.account_id for a in message.accounts] == ids
                versions = {a.account_id: a.version for a in message.accounts}
            else:
                for account in message.accounts:
                    versions[account.account_id] += 1
                    assert account.version == versions[account.account_id]
            newest |= {account.account_id: account for account in message.accounts}
            assert message.applied_sequence >= told
            told = message.applied_sequence
    assert gaps
    for account_id in ids:
        request = ledger_pb2.GetAccountRequest(account_id=account_id)
        assert newest[account_id] == nodes.query("GetAccount", request, "leader").account


def test_ten_thousand_accounts_come_in_one_first_message(nodes: Nodes, node: Node) -> None:
    opening = np.zeros(5_000, COMMAND)
    opening["operation"], opening["asset"] = Operation.CREATE_ACCOUNT, 1
    replies = submit(nodes.leader.address, opening, opening)
    ids = [int(n) for message in replies for n in message["entity"]]
    sequence = int(replies[-1]["sequence"][-1])
    with Watcher(nodes, node, *ids, since=sequence) as watcher:
        assert [a.account_id for a in watcher.first.accounts] == ids
        end = done(nodes.to_leader, deposit={"credit_account": ids[-1], "amount": 1}).sequence
        [account] = accounts_of(watcher.until(end))
        assert (account.account_id, account.posted) == (ids[-1], 1)


def test_unknown_accounts_and_too_few_or_too_many_are_refused(nodes: Nodes, node: Node) -> None:
    known = create(nodes.to_leader)
    since = last_sequence(nodes, known)
    for unknown in (0, 10**7, 2**64 - 1):
        with refused(grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND") as metadata:
            Watcher(nodes, node, known, unknown, since=since)
        assert metadata["account_id"] == str(unknown)
    for ids in ([], [known] * 10_001):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
            Watcher(nodes, node, *ids)


def test_the_last_watcher_leaves_nothing_behind_at_the_follower(nodes: Nodes) -> None:
    known = create(nodes.to_leader)
    with Watcher(nodes, "follower", known, since=last_sequence(nodes, known)):
        assert nodes.follower.reader_words()[0] == [0, 1]
    assert poll_until(lambda: nodes.follower.reader_words()[0] == [0, 0], DEADLINE_S)


def test_a_watcher_that_comes_and_goes_all_the_time_never_misses_a_change(nodes: Nodes) -> None:
    """Each time the follower begins and ends noting changes, while they happen."""
    hot, other = create(nodes.to_leader, 10**6), create(nodes.to_leader)
    since = last_sequence(nodes, hot, other)
    for _ in range(15):
        with Watcher(nodes, "follower", hot, since=since) as watcher:
            replies = np.concatenate(submit(nodes.leader.address, *[moves(hot, other, 50)] * 5))
            messages = watcher.until(int(replies["sequence"][-1]))
            assert not any(m.HasField("missed_from_sequence") for m in messages)
            changes = accounts_of([watcher.first, *messages])
            versions = [a.version for a in changes]
            assert versions == list(range(versions[0], versions[0] + len(versions)))
            assert changes[-1].last_sequence == replies["sequence"][-1]
