"""The journal protocol, and the in-memory journal.

A journal is an append-only list of values at offsets 0, 1, 2, ... Implementations: `MemoryJournal`
here, SQLite and Kafka in cluster_app; one shared test-suite runs over all of them.

Appends are pipelined: `append` returns at once, and each value's `Delivery` is reported in the
order of sending. A writer that failed once never appends again.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster_core.errors import JournalStopped, OffsetTrimmed


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One stored value, its offset, and when the journal stored it (ns since the Unix epoch)."""

    offset: int
    value: bytes
    appended_ns: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """The fate of one append: its offset, or an error with what is known.

    With an error the value may or may not have reached the journal; only reading it tells.
    `foreign_writer` says that somebody else appended: another leader, then.
    """

    offset: int | None
    error: str = ""
    foreign_writer: bool = False


DeliveryCallback = Callable[[Delivery], None]
"""Called once an append, in order of sending, from a thread of the journal's choice."""


class JournalWriter(Protocol):
    """The appending end. One leadership, one writer."""

    def append(self, value: bytes) -> None:
        """Queue one value. Raises JournalStopped once the writer was closed."""

    def purge(self) -> None:
        """Give up what is not confirmed yet: it is reported as an error, if at all.

        Some of it may have reached the journal, or still reach it. For a leader that stops.
        """

    def close(self) -> None:
        """Report what is still queued, then release everything. Idempotent."""


class JournalReader(Protocol):
    """The reading end, at a position of its own."""

    def read(self, timeout_s: float, max_records: int = 64) -> Sequence[JournalRecord]:
        """The next records in order: at least one, or none after `timeout_s` without any.

        Raises OffsetTrimmed when the next offset no longer exists and JournalFault when the
        journal's storage is damaged.
        """

    def close(self) -> None:
        """Release everything. Idempotent."""


class Journal(Protocol):
    """A journal at an address."""

    def start_offset(self) -> int:
        """The first offset that is kept."""

    def end_offset(self) -> int:
        """The offset that the next append will get."""

    def reader(self, offset: int) -> JournalReader:
        """A reader that begins at `offset`."""

    def prepare_writers(self, count: int) -> None:
        """Begin to make `count` writers ready, if that takes time: `writer` then takes one."""

    def writer(self, next_offset: int, on_delivery: DeliveryCallback) -> JournalWriter:
        """A fresh writer for a leader that has read everything below `next_offset`."""

    def trim(self, below_offset: int) -> None:
        """Delete the records below `below_offset`, while others read and append.

        `start_offset` is then there, or where it was if that is higher; offsets stay as they are.
        It may take long. Raises ValueError for an offset beyond the end, and JournalFault when
        the storage doesn't do it; a part may be gone then.
        """

    def close(self) -> None:
        """Release everything. Idempotent."""


class MemoryJournal:
    """A journal in this process's memory: for tests, simulation and measurements.

    Like Kafka, it takes appends from anybody; an older writer is fenced by the reader rule only.
    """

    def __init__(self, clock_ns: Callable[[], int] = lambda: 0) -> None:
        self._records: list[JournalRecord] = []
        self._first = 0
        """The first kept offset."""
        self._clock_ns = clock_ns
        self._appended = threading.Condition()

    def start_offset(self) -> int:
        return self._first

    def end_offset(self) -> int:
        with self._appended:
            return self._first + len(self._records)

    def reader(self, offset: int) -> "MemoryReader":
        if not 0 <= offset <= self.end_offset():
            raise OffsetTrimmed(f"offset {offset} is not in 0 .. {self.end_offset()}")
        return MemoryReader(self, offset)

    def prepare_writers(self, count: int) -> None:
        """A writer takes no time here."""

    def writer(self, next_offset: int, on_delivery: DeliveryCallback) -> "MemoryWriter":
        return MemoryWriter(self, on_delivery)

    def trim(self, below_offset: int) -> None:
        check_trim(below_offset, self.end_offset())
        with self._appended:
            del self._records[: max(below_offset - self._first, 0)]
            self._first = max(below_offset, self._first)
            self._appended.notify_all()

    def close(self) -> None:
        """Nothing to release."""

    def _append(self, value: bytes) -> int:
        with self._appended:
            offset = self._first + len(self._records)
            self._records.append(JournalRecord(offset, bytes(value), self._clock_ns()))
            self._appended.notify_all()
            return offset

    def _read(self, offset: int, timeout_s: float, max_records: int) -> list[JournalRecord]:
        with self._appended:
            self._appended.wait_for(
                lambda: not self._first <= offset >= self._first + len(self._records), timeout_s
            )
            if offset < self._first:
                raise OffsetTrimmed(f"offset {offset} was trimmed, the first kept is {self._first}")
            index = offset - self._first
            return self._records[index : index + max_records]


def check_trim(below_offset: int, end_offset: int) -> None:
    """Raises ValueError for an offset that a journal must not be trimmed to."""
    if not 0 <= below_offset <= end_offset:
        raise ValueError(
            f"cannot trim below offset {below_offset}: the journal ends at {end_offset}"
        )


class MemoryWriter:
    """Delivers inside `append`: the caller's thread is the journal's."""

    def __init__(self, journal: MemoryJournal, on_delivery: DeliveryCallback) -> None:
        self._journal = journal
        self._on_delivery = on_delivery
        self._closed = False

    def append(self, value: bytes) -> None:
        if self._closed:
            raise JournalStopped("the journal writer is closed")
        self._on_delivery(Delivery(self._journal._append(value)))

    def purge(self) -> None:
        """Nothing is ever unconfirmed here."""

    def close(self) -> None:
        self._closed = True


class MemoryReader:
    """Reads the list from its own position."""

    def __init__(self, journal: MemoryJournal, offset: int) -> None:
        self._journal = journal
        self._offset = offset

    def read(self, timeout_s: float, max_records: int = 64) -> list[JournalRecord]:
        records = self._journal._read(self._offset, timeout_s, max_records)
        self._offset += len(records)
        return records

    def close(self) -> None:
        """Nothing to release."""
