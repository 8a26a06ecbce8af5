"""What the nodes hold when a campaign is over: the same history and the same books on each."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt

from cluster_core.snapshot import SnapshotHeader
from proto import ledger_pb2, ledger_pb2_grpc
from tests.campaign.cluster import Cluster
from tests.campaign.findings import Found
from tests.campaign.replayed import Replayed

_PAGE: Final = 8_192
_CALL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class NodeView:
    """A node's own account of itself: position, chain, and all ACCOUNT records [accounts, 128]."""

    name: str
    applied: int
    next_offset: int
    chain: bytes
    accounts: npt.NDArray[np.uint8]


def expected_nodes(cluster: Cluster) -> list[str]:
    """The names of all that answer queries."""
    return [*cluster.leaders, *cluster.followers]


def view_nodes(cluster: Cluster, timeout_s: float) -> list[NodeView]:
    """Every node that answers queries, once it has applied what the leader has."""
    deadline = time.monotonic() + timeout_s
    views: list[NodeView] = []
    names = expected_nodes(cluster)
    while len(views) < len(names) and time.monotonic() < deadline:
        leader = cluster.leader()
        told = cluster.status(leader) if leader else None
        if told is None:
            cluster.wait(0.2)
            continue
        seen = {view.name for view in views}
        for name in names:
            status = cluster.status(name)
            if name in seen or status is None:
                continue
            if status.applied_sequence != told.applied_sequence:
                continue
            try:
                accounts = _accounts(cluster.channel(name), status.accounts)
            except grpc.RpcError:
                continue
            views.append(
                NodeView(name, status.applied_sequence, status.next_offset, status.chain, accounts)
            )
        cluster.wait(0.1)
    return views


def _accounts(channel: grpc.Channel, count: int) -> npt.NDArray[np.uint8]:
    stub = ledger_pb2_grpc.QueryServiceStub(channel)
    pages = [np.empty((0, 128), np.uint8)]
    for first in range(1, count + 1, _PAGE):
        ids = np.arange(first, min(first + _PAGE, count + 1), dtype="<u8")
        request = ledger_pb2.GetAccountsRequest(account_ids=ids.tobytes())
        answer = stub.GetAccounts(request, timeout=_CALL_TIMEOUT_S)
        pages.append(np.frombuffer(answer.accounts, np.uint8).reshape(-1, 128))
    return np.concatenate(pages)


def check_nodes(
    names: Iterable[str],
    views: list[NodeView],
    snapshot: SnapshotHeader | None,
    replayed: Replayed,
    found: Found,
) -> None:
    """Chain, position and books of each node are the replay's; so is the snapshot's digest."""
    books = replayed.accounts()
    for name in set(names) - {view.name for view in views}:
        found.add("nodes", 1, f"{name} did not catch up, or gave no answer")
    for view in views:
        chain: Any = replayed.chains[view.next_offset - 1]
        if view.applied != len(replayed.commands):
            said = f"{view.name} has applied {view.applied} of {len(replayed.commands)}"
            found.add("nodes", 1, said)
        elif view.chain != bytes(chain):
            found.add("nodes", 1, f"{view.name} has another chain at offset {view.next_offset - 1}")
        elif not np.array_equal(view.accounts, books):
            found.add("nodes", 1, f"{view.name} has other accounts than the replay")
    if snapshot is None:
        found.add("nodes", 1, "the learner saved no snapshot")
    elif snapshot.applied != len(replayed.commands):
        said = f"the last snapshot has {snapshot.applied} of {len(replayed.commands)} commands"
        found.add("nodes", 1, said)
    elif snapshot.state_digest != replayed.state.digest():
        found.add("nodes", 1, "the snapshot's state digest is not the replay's")
