"""ClusterReader: each query to the node that can answer it, and to the next one if it doesn't."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from client_core import queries
from client_core.cluster import Cluster, Node
from client_core.consistency import LINEARIZABLE, Consistency, check_consistency
from client_core.errors import (
    Behind,
    NotLeader,
    NotServed,
    RingledgerClientError,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.leader_stream import ClientStats, mark_seen, pauses
from client_core.queries import Query, set_consistency
from client_core.security import Security
from proto import ledger_pb2

ATTEMPT_S: Final = 1.0
"""How long one node may take while another could be asked; a frozen one costs no more than that."""


class ClusterReader:
    """Queries of a cluster. `timeout_s` is each one's deadline over all nodes it is asked of.

    Followers are asked in turn, then the leader. `written` gives the newest sequence that this
    client's commands were answered with.
    """

    def __init__(
        self,
        cluster: Cluster,
        security: Security,
        stats: ClientStats,
        written: Callable[[], int],
        *,
        timeout_s: float,
        consistency: Consistency,
    ) -> None:
        check_consistency(consistency)
        self._cluster = cluster
        self._security = security
        self._stats = stats
        self._written = written
        self._timeout_s = timeout_s
        self._consistency = consistency
        self._newest_read = -1
        self._finding: asyncio.Task[Node | None] | None = None

    @property
    def newest_sequence(self) -> int:
        """The newest sequence that this client was answered, by a reply or a query."""
        return max(self._written(), self._newest_read)

    async def ask(self, query: Query, request: Any, consistency: Consistency | None) -> Any:
        """The first answer that a node gives within the deadline.

        Raises what says something about the request itself at once (NotFound, InvalidRequest);
        Unavailable (Behind) at the deadline; NotServed when every node that answers says so.
        """
        level = self._level(consistency)
        if not self._cluster.is_open:
            raise StreamClosed("the client is not open")
        set_consistency(request, level, self.newest_sequence)
        deadline = time.monotonic() + self._timeout_s
        failure: RingledgerClientError = Unavailable("no node answers queries")
        for pause in pauses():
            if not self._cluster.is_open:
                raise StreamClosed("the client was closed")
            readers, not_served = self._readers(query, level)
            for place, node in enumerate(readers):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise failure
                alone = place == len(readers) - 1
                try:
                    answer = await queries.ask(
                        node.channel,
                        query,
                        request,
                        left_s if alone else min(left_s, ATTEMPT_S),
                        self._security,
                    )
                except (Unavailable, NotLeader, NotServed) as error:
                    if not isinstance(failure, Behind):  # it tells most
                        failure = error
                    not_served = self._failed(node, query, error) or not_served
                    continue
                node.trusted()
                self._newest_read = max(self._newest_read, answer.applied_sequence - 1)
                return answer
            if not_served is not None:
                raise NotServed(not_served)
            if time.monotonic() + pause >= deadline:
                raise failure
            await self._look_again(failure, pause)
        raise AssertionError("pauses never end")

    async def watch(
        self, request: ledger_pb2.WatchRequest, consistency: Consistency | None
    ) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
        """Watch over node after node; what a change of nodes may have left out is told as missed.

        Raises Unavailable when no node serves it for `timeout_s`.
        """
        level = self._level(consistency)
        if not self._cluster.is_open:
            raise StreamClosed("the client is not open")
        set_consistency(request, level, self.newest_sequence)
        seen = 0
        deadline = time.monotonic() + self._timeout_s
        waits = pauses()
        failure: RingledgerClientError = Unavailable("no node answers queries")
        while True:
            if not self._cluster.is_open:
                raise StreamClosed("the client was closed")
            readers, not_served = self._readers(queries.WATCH, level)
            for node in readers:
                again = seen > 0
                try:
                    async with aclosing(
                        queries.watch(node.channel, request, self._security)
                    ) as responses:
                        async for response in responses:
                            if again and not response.HasField("missed_from_sequence"):
                                response.missed_from_sequence = seen
                            again = False
                            seen = max(seen, response.applied_sequence)
                            waits, deadline = pauses(), time.monotonic() + self._timeout_s
                            yield response
                            # its consumer's time is not the nodes'
                            deadline = time.monotonic() + self._timeout_s
                    failure = Unavailable(f"{node.target} ended the watch")
                except (Unavailable, NotLeader, NotServed) as error:
                    if not isinstance(failure, Behind):  # it tells most
                        failure = error
                    not_served = self._failed(node, queries.WATCH, error) or not_served
                if seen:
                    # another node must know at least what was told already
                    request.consistency.at_least_sequence = max(seen - 1, self.newest_sequence)
            if not_served is not None and not seen:
                raise NotServed(not_served)
            pause = next(waits)
            if time.monotonic() + pause >= deadline:
                raise failure
            await self._look_again(failure, pause)

    def _level(self, consistency: Consistency | None) -> Consistency:
        if consistency is None:
            return self._consistency
        check_consistency(consistency)
        return consistency

    def _readers(self, query: Query, level: Consistency) -> tuple[list[Node], str | None]:
        """(whom to ask, what those said who don't know this query: they aren't asked again)."""
        readers = self._cluster.readers(linearizable=level == LINEARIZABLE)
        known = [node for node in readers if query.name not in node.without]
        without = [node.target for node in readers if query.name in node.without]
        return known, f"{query.name} is unknown to {', '.join(without)}" if without else None

    def _failed(self, node: Node, query: Query, error: RingledgerClientError) -> str | None:
        self._stats.read_retries += 1
        if isinstance(error, NotServed):
            node.without.add(query.name)
            return str(error)
        node.suspected()
        return None

    async def _look_again(self, failure: RingledgerClientError, pause: float) -> None:
        """Wait a moment, and ask who leads: one question for all queries that wait."""
        await asyncio.sleep(pause)
        finding = self._finding
        if finding is None or finding.done():
            told = failure.leader if isinstance(failure, NotLeader) else ""
            finding = self._finding = asyncio.create_task(
                self._cluster.find_leader(told, hasty=True)
            )
            finding.add_done_callback(mark_seen)
        await asyncio.wait({finding})
        if not finding.cancelled():
            error = finding.exception()
            if isinstance(error, Unauthenticated):
                raise Unauthenticated(str(error))
            if error is not None:
                raise error
