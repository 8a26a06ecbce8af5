"""One leadership: from the counted EPOCH_START to the answer of the last command that was taken."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from cluster_app.election import READ_BACK_TIMEOUT_S, Term
from cluster_app.engine import Engine
from cluster_app.errors import Fault
from cluster_app.settings import LeaderSettings
from cluster_core.journal import Journal, JournalRecord
from cluster_core.pipeline import Pipeline
from cluster_core.replay import Replica


class LeaderClock:
    """Ledger time's source: begins at max(wall clock, last counted time), moves monotonically."""

    def __init__(
        self,
        last_counted_ns: int,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._offset_ns = max(wall_ns(), last_counted_ns) - monotonic_ns()

    def __call__(self) -> int:
        """Nanoseconds since the Unix epoch; never goes back."""
        return self._monotonic_ns() + self._offset_ns


class Leadership:
    """The stages of one term, on the running loop. `end` when it is over, whatever ended it.

    `stopped` is done, with the reason, when it ended by itself. The replica must not be touched
    before `end`: the state is the pipeline's.
    """

    def __init__(
        self, settings: LeaderSettings, journal: Journal, replica: Replica, term: Term
    ) -> None:
        if replica.state is None:
            raise Fault("the journal has no first epoch")
        self._term = term
        self._replica = replica
        self.drain_timeout_s = settings.drain_timeout_s
        self.epoch = replica.position.epoch
        self.stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pipeline = Pipeline(
            replica.state,
            term.writer,
            replica.position,
            clock_ns=LeaderClock(replica.position.timestamp_ns),
            read_journal=_journal_between(journal),
        )
        self.engine = Engine(
            self.pipeline,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            append_timeout_s=settings.append_timeout_s,
            on_stopped=self.stopped.set_result,
        )
        term.deliveries.pass_on(self.engine.delivered)

    @property
    def reason(self) -> str:
        """Why it ended by itself; "" when it didn't."""
        return self.stopped.result() if self.stopped.done() else ""

    async def drain(self, *, or_go_on: bool = False) -> bool:
        """Take no more, answer what was taken, end the epoch. False when that didn't work.

        With `or_go_on` the term may then go on: `goes_on` tells.
        """
        return not self.stopped.done() and await self.engine.drain(
            self.drain_timeout_s, or_go_on=or_go_on
        )

    @property
    def goes_on(self) -> bool:
        """Whether commands are taken."""
        return self.engine.accepting

    def end(self) -> None:
        """Give the state back: the replica goes on from the last batch that counted."""
        self.engine.close()
        counted, replica = self.pipeline.counted, self._replica
        if counted.next_offset > replica.position.next_offset:
            replica.counted_offset = counted.next_offset - 1
        replica.position = counted
        replica.skipped_records += self.pipeline.skipped_records

    def close(self) -> None:
        """Release the writer; it may take seconds. What it still reports is nobody's."""
        self._term.deliveries.pass_on(lambda _: None)
        self._term.writer.close()


def _journal_between(journal: Journal) -> Callable[[int, int], Iterable[JournalRecord]]:
    def read_journal(first_offset: int, last_offset: int) -> Iterable[JournalRecord]:
        deadline = time.monotonic() + READ_BACK_TIMEOUT_S
        with closing(journal.reader(first_offset)) as reader:
            while time.monotonic() < deadline:
                for record in reader.read(READ_BACK_TIMEOUT_S):
                    yield record
                    if record.offset >= last_offset:
                        return

    return read_journal
