"""What a follower with two workers answers, and that its leader answers the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from cluster_core.record import ACCOUNT
from proto import balance_pb2, balance_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.follower_process import FollowerProcess
from tests.integration.test_leader_contracts import bank, reason
from tests.integration.test_typed_commands import create, done, execute_batch, refusal
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import DEADLINE_S, status
from tests.server_process import poll_until
from tests.system.test_learner_service import check_health_and_reflection

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class Nodes:
    """A leader and a follower of it with two workers, and channels to both."""

    def __init__(self, leader: LeaderProcess, follower: FollowerProcess) -> None:
        self.leader, self.follower = leader, follower
        self.to_leader = grpc.insecure_channel(leader.address)
        self.to_follower = grpc.insecure_channel(follower.address)

    def query(self, method: str, request: Any, node: str = "follower") -> Any:
        """The answer of one node to a query of ringledger.v1."""
        channel = self.to_leader if node == "leader" else self.to_follower
        stub: Any = ledger_pb2_grpc.QueryServiceStub(channel)
        return getattr(stub, method)(request, timeout=DEADLINE_S)

    def both(self, method: str, request: Any) -> Any:
        """The follower's answer, as new as the leader's and compared with it."""
        at_leader = self.query(method, request, "leader")
        request.consistency.at_least_sequence = max(at_leader.applied_sequence - 1, 0)
        answer = self.query(method, request)
        assert answer.applied_sequence == at_leader.applied_sequence
        for compared in (answer, at_leader):
            if method == "GetTotals":  # heartbeats move it
                compared.ledger_time_ns = 0
        assert answer == at_leader
        return answer


@pytest.fixture(scope="module")
def nodes(edge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("follower")
    with (
        LeaderProcess(journal_url(folder), "--no-snapshot") as leader,
        FollowerProcess(folder, journal_url(folder), "--workers", "2") as follower,
    ):
        leader.wait_ready()
        nodes = Nodes(leader, follower.wait_ready())
        yield nodes
        nodes.to_leader.close()
        nodes.to_follower.close()
        follower.stop()


@contextmanager
def refused(code: grpc.StatusCode, why: str) -> Iterator[dict[str, str]]:
    metadata: dict[str, str] = {}
    with pytest.raises(grpc.RpcError) as error:
        yield metadata
    found = reason(error.value)
    assert found[:2] == (code, why)
    metadata.update(found[2])


def packed(*ids: int) -> bytes:
    return np.array(ids, "<u8").tobytes()


def test_the_bank_contract_is_answered_and_its_commands_are_sent_to_the_leader(
    nodes: Nodes,
) -> None:
    account = create(nodes.to_leader, 1_234)
    wait_for_all(nodes)
    stub = balance_pb2_grpc.BalanceQueryServiceStub(nodes.to_follower)
    query = balance_pb2.BalanceQuery()
    query.singleBalanceQuery.id, query.singleBalanceQuery.correlationId = account, "c"
    unknown = balance_pb2.BalanceQuery()
    unknown.singleBalanceQuery.id = 10**9
    found, missing = stub.sendQuery(iter([query, unknown]), timeout=DEADLINE_S)
    single = found.singleBalanceResult
    assert (single.id, single.amount, single.precision, single.active) == (account, 1_234, 2, True)
    assert missing.baseResult.code == 404
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER") as metadata:
        bank(nodes.to_follower, {"createBalanceCommand": {"correlationId": "c"}})
    assert metadata["leader"] == nodes.leader.address


def wait_for_all(nodes: Nodes) -> None:
    """Wait until the follower has applied what the leader has."""
    applied = status(nodes.leader.address).applied_sequence
    request = ledger_pb2.GetTotalsRequest()
    request.consistency.at_least_sequence = applied - 1
    nodes.query("GetTotals", request)


@pytest.mark.parametrize("call", ["Submit", "Execute", "ExecuteBatch"])
def test_commands_are_refused_with_the_leaders_address(nodes: Nodes, call: str) -> None:
    stub = ledger_pb2_grpc.CommandServiceStub(nodes.to_follower)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER") as metadata:
        if call == "Submit":
            list(stub.Submit(iter(()), timeout=DEADLINE_S))
        elif call == "Execute":
            stub.Execute(ledger_pb2.ExecuteRequest(), timeout=DEADLINE_S)
        else:
            stub.ExecuteBatch(ledger_pb2.ExecuteBatchRequest(), timeout=DEADLINE_S)
    assert metadata["leader"] == nodes.leader.address


def test_health_and_reflection_tell_what_a_follower_serves(nodes: Nodes) -> None:
    check_health_and_reflection(nodes.to_follower)


def test_the_status_tells_who_it_is_and_how_far_it_has_come(nodes: Nodes) -> None:
    create(nodes.to_leader)
    wait_for_all(nodes)
    led, told = status(nodes.leader.address), status(nodes.follower.address)
    assert (told.role, told.node_id) == (ledger_pb2.ROLE_FOLLOWER, "follower")
    assert (told.address, told.leader) == (nodes.follower.address, nodes.leader.address)
    assert (told.epoch, told.ledger_id, told.accounts) == (led.epoch, led.ledger_id, led.accounts)
    assert told.applied_sequence == led.applied_sequence
    assert list(told.assets) == list(led.assets)
    assert poll_until(lambda: _keeps_up(nodes), DEADLINE_S)


def _keeps_up(nodes: Nodes) -> bool:
    led, told = status(nodes.leader.address), status(nodes.follower.address)
    if (told.chain, told.next_offset) != (led.chain, led.next_offset):
        return False
    return bool(told.lag_commands == 0 and told.lag_s < 1)  # as of the last look


def test_many_accounts_come_packed_in_the_order_asked_with_zeros_for_unknown_ones(
    nodes: Nodes,
) -> None:
    first, second = create(nodes.to_leader, 10), create(nodes.to_leader, 20)
    ids = [second, 0, first, 10**12, 2**64 - 1, second]
    answer = nodes.both("GetAccounts", ledger_pb2.GetAccountsRequest(account_ids=packed(*ids)))
    rows = np.frombuffer(answer.accounts, ACCOUNT)
    assert rows["account_id"].tolist() == [second, 0, first, 0, 0, second]
    assert rows["posted"].tolist() == [20, 0, 10, 0, 0, 20]
    most = ledger_pb2.GetAccountsRequest(account_ids=packed(*[first] * 8_192))
    assert len(nodes.both("GetAccounts", most).accounts) == 8_192 * 128


@pytest.mark.parametrize("ids", [b"", bytes(7), bytes(12), bytes(8 * 8_193)])
@pytest.mark.parametrize("node", ["leader", "follower"])
def test_too_few_or_too_many_ids_or_odd_bytes_are_refused(
    nodes: Nodes, ids: bytes, node: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        nodes.query("GetAccounts", ledger_pb2.GetAccountsRequest(account_ids=ids), node)


@pytest.fixture(scope="module")
def mixed(nodes: Nodes) -> dict[str, list[int]]:
    """Accounts of two assets with codes, references and states: ids by what they are."""
    channel = nodes.to_leader
    done(channel, register_asset={"asset": 9, "decimals": 3, "symbol": "GOLD"})
    made = [
        done(
            channel,
            code=n % 3,
            create_account={"asset": 9 if n % 2 else 1, "reference": 7_000 + n // 4},
        ).entity
        for n in range(24)
    ]
    debits, creditless, closed, both = made[3], made[4], made[5], made[6]
    done(channel, lock={"account": debits, "debits": True})
    done(channel, lock={"account": creditless, "credits": True})
    done(channel, close={"account": closed})
    done(channel, lock={"account": both, "debits": True, "credits": True})
    done(channel, close={"account": both})
    return {
        "all": made,
        "gold": made[1::2],
        "code 2": made[2::3],
        "reference 7001": made[4:8],
        "open": [n for n in made if n not in (debits, creditless, closed, both)],
        "locked": [debits, creditless],
        "closed": [closed, both],
    }


def pages(nodes: Nodes, after: int, size: int, **filters: Any) -> list[int]:
    """The ids of all pages behind `after`, each compared with the leader's."""
    found: list[int] = []
    while True:
        request = ledger_pb2.ListAccountsRequest(after_account_id=after, page_size=size, **filters)
        answer = nodes.both("ListAccounts", request)
        assert len(answer.accounts) <= size
        found += [account.account_id for account in answer.accounts]
        after = answer.next_after_account_id
        if not after:
            return found


def test_pages_go_through_all_accounts_once_and_every_filter_holds(
    nodes: Nodes, mixed: dict[str, list[int]]
) -> None:
    first = mixed["all"][0] - 1
    for size in (1, 5, 1_000):
        assert pages(nodes, first, size)[:24] == mixed["all"]
    assert pages(nodes, 0, 4, asset=9) == mixed["gold"]
    assert pages(nodes, first, 3, code=2) == mixed["code 2"]
    assert pages(nodes, 0, 3, reference=7_001) == mixed["reference 7001"]
    state = ledger_pb2.AccountStateFilter
    for name in ("open", "locked", "closed"):
        wanted: Any = state.Value(f"ACCOUNT_STATE_FILTER_{name.upper()}")
        found = pages(nodes, first, 3, state=wanted)
        assert [n for n in found if n in mixed["all"]] == mixed[name]
    wanted = state.Value("ACCOUNT_STATE_FILTER_OPEN")
    both = [n for n in mixed["gold"] if n in mixed["open"] and n in mixed["reference 7001"]]
    assert pages(nodes, 0, 2, asset=9, reference=7_001, state=wanted) == both
    assert pages(nodes, 0, 2, reference=1) == []
    assert pages(nodes, 2**64 - 1, 2) == []


def test_a_cursor_stays_good_while_accounts_are_created(
    nodes: Nodes, mixed: dict[str, list[int]]
) -> None:
    found, after, expected = [], mixed["all"][0] - 1, list(mixed["all"])
    while True:
        request = ledger_pb2.ListAccountsRequest(after_account_id=after, page_size=4)
        answer = nodes.both("ListAccounts", request)
        found += [account.account_id for account in answer.accounts]
        after = answer.next_after_account_id
        if len(expected) < 30:
            expected.append(create(nodes.to_leader))
        if not after:
            break
    assert found == sorted(set(found))
    assert [n for n in found if n in expected] == expected


@pytest.mark.parametrize("node", ["leader", "follower"])
def test_pages_over_1000_and_unknown_states_are_refused(nodes: Nodes, node: str) -> None:
    for request in (
        ledger_pb2.ListAccountsRequest(page_size=1_001),
        ledger_pb2.ListAccountsRequest.FromString(b"\x20\x07"),  # state = 7
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
            nodes.query("ListAccounts", request, node)


def test_holds_and_totals_are_the_leaders_own(nodes: Nodes) -> None:
    payer, payee = create(nodes.to_leader, 100), create(nodes.to_leader)
    hold = done(
        nodes.to_leader, hold={"debit_account": payer, "credit_account": payee, "amount": 60}
    ).entity
    found = nodes.both("GetHold", ledger_pb2.GetHoldRequest(hold_id=hold)).hold
    assert (found.hold_id, found.debit_account, found.remaining) == (hold, payer, 60)
    totals = nodes.both("GetTotals", ledger_pb2.GetTotalsRequest())
    assert totals.assets[0].open_holds == 1
    done(nodes.to_leader, capture={"hold_id": hold})
    wait_for_all(nodes)
    with refused(grpc.StatusCode.NOT_FOUND, "HOLD_NOT_OPEN"):
        nodes.query("GetHold", ledger_pb2.GetHoldRequest(hold_id=hold))
    with refused(grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND"):
        nodes.query("GetHold", ledger_pb2.GetHoldRequest(hold_id=hold + 1))
    with refused(grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND"):
        nodes.query("GetAccount", ledger_pb2.GetAccountRequest(account_id=10**9))


def test_a_client_reads_its_own_writes_at_the_follower(nodes: Nodes) -> None:
    account = create(nodes.to_leader)
    request = ledger_pb2.GetAccountRequest(account_id=account)
    for amount in range(1, 60):
        reply = done(nodes.to_leader, deposit={"credit_account": account, "amount": amount})
        request.consistency.at_least_sequence = reply.sequence
        answer = nodes.query("GetAccount", request)
        assert answer.account.posted == reply.credit_balance
        assert answer.applied_sequence > reply.sequence


def test_a_sequence_that_does_not_come_is_behind_and_a_linearizable_read_is_the_leaders(
    nodes: Nodes,
) -> None:
    create(nodes.to_leader)
    wait_for_all(nodes)
    applied = status(nodes.follower.address).applied_sequence
    stub = ledger_pb2_grpc.QueryServiceStub(nodes.to_follower)
    request = ledger_pb2.GetTotalsRequest()
    request.consistency.at_least_sequence = applied
    for timeout_s in (2.5, 5, 10, 10):
        with pytest.raises(grpc.RpcError) as error:
            stub.GetTotals(request, timeout=timeout_s)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if rpc_status.from_call(cast(grpc.Call, error.value)) is None:
            continue  # the call's own end came first
        _, why, metadata = reason(error.value)
        assert why == "BEHIND"
        if float(metadata["lag"]) < 1:
            break  # else a heartbeat was late
    assert (metadata["applied_sequence"], metadata["wanted"]) == (str(applied), str(applied))
    assert float(metadata["lag"]) < 1
    request.consistency.linearizable = True
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER") as metadata:
        nodes.query("GetTotals", request)
    assert metadata["leader"] == nodes.leader.address


def test_bytes_that_are_no_request_are_refused(nodes: Nodes) -> None:
    for method in ("GetAccounts", "ListAccounts", "GetHold", "GetTotals"):
        call: Any = nodes.to_follower.unary_unary(f"/ringledger.v1.QueryService/{method}")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
            call(b"\xff\xff\xff", timeout=DEADLINE_S)


def test_a_chain_that_failed_is_seen_nowhere(nodes: Nodes) -> None:
    one, two = create(nodes.to_leader, 50), create(nodes.to_leader)
    before = status(nodes.leader.address).accounts
    statuses = execute_batch(
        nodes.to_leader,
        {"transfer": {"debit_account": one, "credit_account": two, "amount": 40}},
        {"create_account": {"asset": 1}},
        {"transfer": {"debit_account": one, "credit_account": two, "amount": 40}},
        atomic=True,
    )
    assert statuses == ["LINKED_FAILED", "LINKED_FAILED", "INSUFFICIENT_FUNDS"]
    request = ledger_pb2.GetAccountsRequest(account_ids=packed(one, two, before + 1))
    rows = np.frombuffer(nodes.both("GetAccounts", request).accounts, ACCOUNT)
    assert rows["posted"].tolist() == [50, 0, 0]
    assert rows["account_id"].tolist() == [one, two, 0]
    assert refusal(nodes.to_leader, close={"account": one}) == "STATUS_BALANCE_NOT_ZERO"
