"""Which nodes there are, who leads, and who answers queries.

Any node tells who leads: by GetStatus, and when it refuses commands. A node that says so of itself
is believed before one that is told of, and of two the one with the higher epoch: a deposed leader
that doesn't know it yet can't answer a command, but it can be asked.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from client_core.assets import Asset
from client_core.channel import get_status, open_channel
from client_core.endpoints import is_endpoint
from client_core.errors import RingledgerClientError, Unauthenticated, Unavailable
from client_core.security import Security
from proto import ledger_pb2

PROBE_TIMEOUT_S: Final = 1.0
"""A node that takes longer to tell its status is no leader to wait for."""

REFRESH_INTERVAL_S: Final = 5.0
"""How old a role may be that reads are routed by."""

SUSPECT_S: Final = 1.0
"""A node that failed a read is asked last for so long, and for twice as long each time again."""

SUSPECT_S_MAX: Final = 32.0
"""One that is always behind so costs a read a second now and then, not every other second."""

LEARNED_MAX: Final = 64
"""Nodes that others told of, beside the given ones."""

_SECOND_CLAIM_S: Final = 0.05
"""After one node says that it leads, others get so long to say it of a higher epoch."""

_HASTE_S: Final = 0.05
"""Who looks again soon waits so long for slower nodes: one that is frozen would hold each round."""

_LEADER = ledger_pb2.ROLE_LEADER
_FOLLOWER = ledger_pb2.ROLE_FOLLOWER
_STANDBY = ledger_pb2.ROLE_STANDBY


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What one node says of itself; `error` says why an unreachable one says nothing.

    `role` is "leader", "standby", "follower", "learner", "archiver" or "unknown". Times are ns
    since the Unix epoch; `lag_commands` and `lag_s` tell how far the journal is ahead of the node.
    A leader has `in_flight_commands` of `ring_capacity`, a learner its stored snapshot.
    """

    endpoint: str
    reachable: bool
    error: str = ""
    role: str = "unknown"
    node_id: str = ""
    address: str = ""
    leader: str = ""
    epoch: int = 0
    applied_sequence: int = 0
    ledger_time_ns: int = 0
    accounts: int = 0
    ledger_id: bytes = b""
    chain: bytes = b""
    assets: tuple[Asset, ...] = ()
    lag_commands: int = 0
    lag_s: float = 0.0
    next_offset: int = 0
    in_flight_commands: int = 0
    ring_capacity: int = 0
    snapshot_taken_ns: int = 0
    snapshot_applied_sequence: int = 0


class Node:
    """One node, its channel for queries, and what it said last."""

    def __init__(self, target: str, security: Security, is_ours: Callable[[bytes], bool]) -> None:
        """`is_ours` says whether a ledger's id is that of the other nodes."""
        self.target = target
        self._is_ours = is_ours
        self.security = security
        self.channel: grpc.aio.Channel = open_channel(target, security)
        self.status: ledger_pb2.GetStatusResponse | None = None
        self.error: RingledgerClientError | None = None
        self.suspect_until = 0.0
        self._suspect_s = SUSPECT_S
        self.is_foreign = False
        """Whether it was of another ledger when it last answered: it is never asked for ours."""
        self.without: set[str] = set()
        """Queries that it doesn't know."""
        self._asking: asyncio.Task[ledger_pb2.GetStatusResponse | None] | None = None

    def ask(self) -> "asyncio.Task[ledger_pb2.GetStatusResponse | None]":
        """The question for its status that is under way, else a new one: for several rounds."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self.probe(PROBE_TIMEOUT_S))
        return self._asking

    async def close(self) -> None:
        """Ask no more, and disconnect."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self.channel.close()

    async def probe(self, timeout_s: float) -> ledger_pb2.GetStatusResponse | None:
        """Ask for its status; None when there is none within `timeout_s`."""
        try:
            status = await get_status(self.channel, timeout_s, self.security)
        except RingledgerClientError as error:
            # kept as it reads: its frames would hold this node and its channel
            self.status, self.error = None, type(error)(str(error))
            # it may come back as another program
            self.without.clear()
            return None
        self.is_foreign = not self._is_ours(status.ledger_id)
        if self.is_foreign:
            self.status, self.error = (
                None,
                Unavailable(
                    f"a node of another ledger ({status.ledger_id.hex()[:16]}...) than the one "
                    "that answered first: take it out of the endpoints, or the others"
                ),
            )
            return None
        if self.status is None:  # it is back
            self.suspect_until = 0.0
            self.trusted()
        self.status, self.error = status, None
        return status

    @property
    def leads(self) -> bool:
        """Whether it said so itself, last."""
        return self.status is not None and self.status.role == _LEADER

    @property
    def follows(self) -> bool:
        """Whether it is a follower that answers."""
        return self.status is not None and self.status.role == _FOLLOWER

    @property
    def stands_by(self) -> bool:
        """Whether it is a standby that answers."""
        return self.status is not None and self.status.role == _STANDBY

    @property
    def suspect(self) -> bool:
        """Whether it failed a read a moment ago."""
        return self.suspect_until > time.monotonic()

    def suspected(self) -> None:
        """It failed a read: it is asked last for a moment."""
        if not self.suspect:  # many reads may fail at once
            self.suspect_until = time.monotonic() + self._suspect_s
            self._suspect_s = min(2 * self._suspect_s, SUSPECT_S_MAX)

    def trusted(self) -> None:
        """It answered a read."""
        self._suspect_s = SUSPECT_S


class Cluster:
    """The nodes behind some endpoints. For one event loop; `open` first, `close` in the end."""

    def __init__(self, endpoints: Iterable[str], security: Security) -> None:
        self.endpoints = tuple(endpoints)
        self._security = security
        self._ledger_id = b""
        self._nodes: dict[str, Node] = {}
        self._turn = 0
        self._refreshing: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Make the channels; nothing is connected yet."""
        for endpoint in self.endpoints:
            self._node(endpoint)
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    @property
    def is_open(self) -> bool:
        """Whether there are channels."""
        return bool(self._nodes)

    async def close(self) -> None:
        """Close the channels."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.close()

    @property
    def nodes(self) -> list[Node]:
        """Given ones first, then learned ones."""
        return list(self._nodes.values())

    async def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        """Ask every node for its status."""
        await asyncio.gather(*(node.probe(timeout_s) for node in self.nodes))

    async def find_leader(self, told: str = "", *, hasty: bool = False) -> Node | None:
        """The node that leads, as far as the nodes know; `told` is an address to ask first.

        A `hasty` caller looks again soon: it doesn't wait for nodes that are slower than others,
        whose answers count in its next round. Raises Unauthenticated when no node lets it in.
        """
        if told:
            self._learn(told)
        asked = self.nodes
        leader = await self._claimant(asked, hasty=hasty)
        if leader is not None:
            return leader
        answers = [node.status for node in self.nodes if node.status is not None]
        newest_first = sorted(answers, key=lambda answer: -answer.epoch)
        told_of = dict.fromkeys(answer.leader for answer in newest_first)
        learned = [node for address in told_of if (node := self._learn(address)) is not None]
        leader = await self._claimant((node for node in learned if node not in asked), hasty=hasty)
        if leader is None and not answers:
            for node in self.nodes:
                if isinstance(node.error, Unauthenticated):
                    raise Unauthenticated(str(node.error))
        return leader

    async def _claimant(self, nodes: Iterable[Node], *, hasty: bool) -> Node | None:
        """Ask these at once; the one of the highest epoch that says it leads."""
        asked = {
            node.ask() if hasty else asyncio.ensure_future(node.probe(PROBE_TIMEOUT_S)): node
            for node in nodes
        }
        pending = set(asked)
        leaders: list[tuple[int, Node]] = []
        wait_s: float | None = None
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for probe in done:
                    status, node = None if probe.cancelled() else probe.result(), asked[probe]
                    if status is not None and status.role == _LEADER:
                        leaders.append((status.epoch, node))
                        wait_s = _SECOND_CLAIM_S
                    elif status is not None and hasty and wait_s is None:
                        wait_s = _HASTE_S
        finally:
            for probe in pending:
                if not hasty:
                    probe.cancel()
        return max(leaders, key=lambda claim: claim[0])[1] if leaders else None

    def readers(self, *, linearizable: bool) -> list[Node]:
        """The nodes to ask a query, the best one first: followers in turn, then the leader, then
        standbys, then those that failed a moment ago; a linearizable one is the leader's.
        """
        nodes = [node for node in self.nodes if not node.is_foreign]
        leaders = sorted(
            (node for node in nodes if node.leads),
            key=lambda node: -(node.status.epoch if node.status else 0),
        )
        if linearizable:
            return leaders or [node for node in nodes if node.status is None]
        followers = [node for node in nodes if node.follows]
        if followers:
            self._turn = (self._turn + 1) % len(followers)
            followers = followers[self._turn :] + followers[: self._turn]
        unknown = [node for node in nodes if node.status is None]
        standbys = [node for node in nodes if node.stands_by]
        ordered = followers + leaders + standbys + unknown
        return [node for node in ordered if not node.suspect] + [
            node for node in ordered if node.suspect
        ]

    def statuses(self) -> list[NodeStatus]:
        """What the last probe of each node said, as values."""
        return [_read_status(node) for node in self.nodes]

    def _learn(self, address: str) -> Node | None:
        """The node of a told address; None for one that is no address, or too many."""
        if address in self._nodes:
            return self._nodes[address]
        if not is_endpoint(address) or len(self._nodes) >= len(self.endpoints) + LEARNED_MAX:
            return None
        return self._node(address)

    def _node(self, target: str) -> Node:
        node = self._nodes.get(target)
        if node is None:
            node = self._nodes[target] = Node(target, self._security, self._is_ours)
        return node

    def _is_ours(self, ledger_id: bytes) -> bool:
        """Whether a node is of the ledger that the first one is of; none, before it has begun."""
        if not any(ledger_id):
            return True
        self._ledger_id = self._ledger_id or ledger_id
        return ledger_id == self._ledger_id

    async def _refresh(self) -> None:
        """Keep roles fresh, for reads: a dead follower's return, a new leader.

        A learned node that is gone is forgotten, so that addresses don't pile up.
        """
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            await self.probe()
            for node in self.nodes:
                if node.status is None and node.target not in self.endpoints:
                    del self._nodes[node.target]
                    await node.close()


def _read_status(node: Node) -> NodeStatus:
    status = node.status
    if status is None:
        return NodeStatus(node.target, reachable=False, error=str(node.error or "not asked yet"))
    role = ledger_pb2.Role.Name(status.role) if status.role in ledger_pb2.Role.values() else ""
    return NodeStatus(
        endpoint=node.target,
        reachable=True,
        role=role.removeprefix("ROLE_").lower().replace("unspecified", "") or "unknown",
        node_id=status.node_id,
        address=status.address,
        leader=status.leader,
        epoch=status.epoch,
        applied_sequence=status.applied_sequence,
        ledger_time_ns=status.ledger_time_ns,
        accounts=status.accounts,
        ledger_id=status.ledger_id,
        chain=status.chain,
        assets=tuple(Asset(asset.asset, asset.symbol, asset.decimals) for asset in status.assets),
        lag_commands=status.lag_commands,
        lag_s=status.lag_s,
        next_offset=status.next_offset,
        in_flight_commands=status.in_flight_commands,
        ring_capacity=status.ring_capacity,
        snapshot_taken_ns=status.snapshot_taken_ns,
        snapshot_applied_sequence=status.snapshot_applied_sequence,
    )
