"""Client: the whole ledger behind a list of nodes.

    async with Client("10.0.0.1:9500,10.0.0.2:9501") as ledger:
        reply = await ledger.transfer(1, 2, "25.00")

Commands go to the leader, whoever that is now; queries to followers where there are any. Both are
tried again until their deadline. A command so ends in one of three ways: its LedgerReply; Refused,
with the status; or OutcomeUnknown, with the command id to ask again with. (Retryable, at the
deadline, says more than OutcomeUnknown: it was surely not run.)
"""

import asyncio
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from client_core.cluster import Cluster, NodeStatus
from client_core.cluster_reader import ClusterReader
from client_core.consistency import READ_YOUR_WRITES, Consistency
from client_core.endpoints import history_endpoint, parse_endpoints
from client_core.errors import NotServed, OutcomeUnknown, OutcomeUnsettled, Unavailable
from client_core.history import History
from client_core.history_answers import FoundCommand
from client_core.leader_stream import ClientStats, LeaderStream
from client_core.ledger import Ledger
from client_core.security import read_security

Path = str | os.PathLike[str]


class Client(Ledger):
    """Every operation and query of `Ledger`, over a cluster. For one event loop.

    `endpoints` are some of its nodes, `HOST:PORT` each, as a list or with commas; the leader need
    not be among them. What is not given comes from RINGLEDGER_ENDPOINTS, RINGLEDGER_TLS_CA,
    RINGLEDGER_TLS_CERT, RINGLEDGER_TLS_KEY and RINGLEDGER_TOKEN (`client_core.security`).
    `history`, the archiver's `HOST:PORT` (RINGLEDGER_HISTORY_ENDPOINT), is needed for `history` and
    `settle` alone.
    `timeout_s` and `query_timeout_s` are the deadlines of each command and query over all
    attempts, `consistency` the one of queries that name none. Raises ValueError for what can't be
    used.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str] | None = None,
        *,
        history: str | None = None,
        timeout_s: float = 10.0,
        query_timeout_s: float = 5.0,
        connect_timeout_s: float = 5.0,
        consistency: Consistency = READ_YOUR_WRITES,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        token: str | None = None,
        max_in_flight_commands: int = 65_536,
    ) -> None:
        for name, value in (("timeout_s", timeout_s), ("query_timeout_s", query_timeout_s)):
            if not 0 < value < 1e6:
                raise ValueError(f"{name} is {value!r}: give seconds above 0")
        self.stats = ClientStats()
        """Counters: what was retried behind the callers' backs."""
        self._connect_timeout_s = connect_timeout_s
        self._security = read_security(
            tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, token=token
        )
        self._cluster = Cluster(parse_endpoints(endpoints), self._security)
        self._leader_stream = LeaderStream(
            self._cluster,
            self._security,
            self.stats,
            timeout_s=timeout_s,
            max_in_flight_commands=max_in_flight_commands,
        )
        self._cluster_reader = ClusterReader(
            self._cluster,
            self._security,
            self.stats,
            lambda: self._leader_stream.newest_sequence,
            timeout_s=query_timeout_s,
            consistency=consistency,
        )
        archiver = history_endpoint(history)
        self._history = (
            History(
                archiver,
                timeout_s=query_timeout_s,
                tls_ca=tls_ca,
                tls_cert=tls_cert,
                tls_key=tls_key,
                token=token,
            )
            if archiver
            else None
        )
        self._begin(self._leader_stream, self._cluster_reader)

    def __repr__(self) -> str:
        return f"Client({','.join(self._cluster.endpoints)!r})"

    async def __aenter__(self) -> Self:
        """Reach a node, whether anybody leads or not.

        Raises Unavailable when none answers within `connect_timeout_s`, Unauthenticated.
        """
        self._cluster.open()
        if self._history is not None:
            self._history.open()
        try:
            await self._leader_stream.open(self._connect_timeout_s)
        except BaseException:
            await self._disconnect()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Answer what was sent, for 5 s at most, and disconnect. Idempotent."""
        try:
            await self._leader_stream.close()
        finally:
            await self._disconnect()

    @property
    def history(self) -> History:
        """The archiver's questions: statements, past balances, commands by id.

        Raises NotServed when no archiver was named.
        """
        if self._history is None:
            raise NotServed(
                "no archiver is known: give history=HOST:PORT, or RINGLEDGER_HISTORY_ENDPOINT"
            )
        return self._history

    async def settle(self, error: OutcomeUnknown) -> list[FoundCommand]:
        """What became of the commands of an error, by their ids, as history knows it.

        One with an entry was done, or refused. After OutcomeUnsettled history is waited for until
        it has the ledger's answer: what was COMMAND_ID_TOO_OLD and has no entry was never done and
        never will be. Any other without an entry was not done yet: send it again with the same id.
        Raises Behind, what `history` raises, and ValueError for commands without ids.
        """
        newest = None
        if isinstance(error, OutcomeUnsettled):
            newest = max(reply.sequence for reply in error.replies)
        history = self.history
        return [
            await history.command(command_id, at_least=newest) for command_id in error.command_ids
        ]

    async def _disconnect(self) -> None:
        try:
            if self._history is not None:
                await self._history.close()
        finally:
            await self._cluster.close()

    @property
    def newest_sequence(self) -> int:
        """The newest sequence that this client was answered; -1 before the first.

        Give it to another process's query as `at_least(...)`: then it reads what you wrote.
        """
        return self._cluster_reader.newest_sequence

    async def status(self) -> NodeStatus:
        """The leader's status, as it is now. Raises Unavailable when nobody leads."""
        leader = await self._cluster.find_leader()
        for status in self._cluster.statuses():
            if leader is not None and status.endpoint == leader.target:
                return status
        raise Unavailable("no node says that it leads: look at cluster()")

    async def cluster(self) -> list[NodeStatus]:
        """Every known node's status: given ones first; of one that can't be reached, its error."""
        await self._cluster.probe()
        return self._cluster.statuses()

    async def wait_for_leader(self, timeout_s: float = 30.0) -> NodeStatus:
        """The leader's status as soon as there is one. Raises Unavailable after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                return await self.status()
            except Unavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(0.1)
