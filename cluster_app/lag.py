"""How far the journal is ahead of a node that follows it, looked at about once a second.

A node that has everything costs one question for the journal's end. Only one that is behind reads
the newest records as well: their headers say up to which command and ledger time they go.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import structlog

from cluster_core.batch import open_batch
from cluster_core.errors import JournalError, JournalFault
from cluster_core.journal import Journal
from cluster_core.reader_rule import Position

LOOK_INTERVAL_S: Final = 1.0

_NEWEST_RECORDS: Final = 4
"""Among so many there is one of the present leader, though a deposed one wrote late."""

_READ_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Lag:
    """What a node had not applied yet when it was last looked at; nothing at all: zeros.

    `seconds` is ledger time between what it has applied and the newest record. `end_offset` is
    the journal's end as of then, -1 before the first look.
    """

    commands: int = 0
    seconds: float = 0.0
    end_offset: int = -1


def measure_lag(journal: Journal, position: Callable[[], Position]) -> Lag | None:
    """The lag as of now; None when the newest records can't be read for 2 s.

    It blocks. Raises JournalError, and so OffsetTrimmed, where the journal can't be read.
    """
    end = journal.end_offset()
    here = position()
    if here.next_offset >= end:
        return Lag(end_offset=end)
    sequence, timestamp_ns, read = here.next_sequence, here.timestamp_ns, 0
    first = max(end - _NEWEST_RECORDS, here.next_offset)
    with closing(journal.reader(first)) as reader:
        while first + read < end:
            records = reader.read(_READ_TIMEOUT_S, end - first - read)
            if not records:
                return None
            read += len(records)
            for record in records:
                try:
                    header = open_batch(record.value)
                except JournalFault:
                    continue  # whoever follows the journal says so when it comes there
                if header.epoch >= here.epoch:
                    sequence = max(sequence, header.first_sequence + header.count)
                    timestamp_ns = max(timestamp_ns, header.timestamp_ns)
    here = position()
    return Lag(
        max(sequence - here.next_sequence, 0), max(timestamp_ns - here.timestamp_ns, 0) / 1e9, end
    )


class LagWatch:
    """Looks again and again, on a thread of its own; `lag` is what it saw last.

    `position` gives the node's own position, from any thread. A journal that can't be asked
    leaves `lag` as it was.
    """

    def __init__(
        self,
        journal: Journal,
        position: Callable[[], Position],
        interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        self.lag = Lag()
        self._journal = journal
        self._position = position
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; close it before the journal. Idempotent."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self.lag = measure_lag(self._journal, self._position) or self.lag
            except JournalError as error:
                structlog.get_logger().debug("the lag is unknown", error=str(error))
