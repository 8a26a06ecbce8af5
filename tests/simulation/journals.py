"""The journal in memory, with the semantics of both real ones, and with their faults.

Kafka: an append is a message to the broker; whoever appends, it is stored where the log ends. It
may be lost, late, stored twice, stored without a report, reported without an offset, or reported
as failed and stored all the same. What a dead process has sent may still arrive.

SQLite: an append is a transaction of the process itself, in the order of the queue: it moves the
head from the offset that the writer expects, or tells of a foreign writer. It may be slow, and
fail before it is stored or after.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Final

from cluster_core.errors import JournalStopped, OffsetTrimmed
from cluster_core.journal import Delivery, DeliveryCallback, JournalRecord, check_trim
from tests.simulation.stand_ins import process, world
from tests.simulation.world import NS_PER_S, START_WALL_NS, Process, Thread, World

US: Final = 1_000
MS: Final = 1_000_000


class AppendFate(Enum):
    """What becomes of one append."""

    NORMAL = auto()
    LOST = auto()
    LATE = auto()
    DOUBLED = auto()
    UNREPORTED = auto()
    NO_OFFSET = auto()
    FAILED_BUT_STORED = auto()
    SLOW = auto()


@dataclass
class Log:
    """The stored records, who waits for more, and the fates that are planned for appends."""

    world: World
    is_kafka: bool
    records: list[JournalRecord] = field(default_factory=list)
    first: int = 0
    fates: deque[AppendFate] = field(default_factory=deque)
    on_fate: Callable[[AppendFate, bytes], None] = lambda _fate, _value: None
    on_stored: Callable[[JournalRecord], None] = lambda _record: None
    slow_ns: int = 0
    waiting: list[Thread] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The offset of the next append."""
        return self.first + len(self.records)

    def store(self, value: bytes) -> int:
        """Append, wherever the log ends."""
        offset = self.end
        record = JournalRecord(offset, value, START_WALL_NS + self.world.now_ns)
        self.records.append(record)
        self.world.note(f"stored {offset}", value)
        self.on_stored(record)
        waiting, self.waiting = self.waiting, []
        for thread in waiting:
            thread.unpark()
        return offset

    def next_fate(self, value: bytes) -> AppendFate:
        """The planned fate of the next append, if there is one."""
        if not self.fates:
            return AppendFate.NORMAL
        fate = self.fates.popleft()
        self.on_fate(fate, value)
        return fate

    def latency_ns(self) -> int:
        """How long one way to the log takes now."""
        return self.world.between(100 * US, 2 * MS) + self.slow_ns


class SimJournal:
    """One process's connection to the log (`cluster_core.journal.Journal`)."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def start_offset(self) -> int:
        _take_time(self._log.world)
        return self._log.first

    def end_offset(self) -> int:
        _take_time(self._log.world)
        return self._log.end

    def reader(self, offset: int) -> "SimReader":
        if offset > self._log.end:
            raise OffsetTrimmed(f"offset {offset} is beyond the end {self._log.end}")
        return SimReader(self._log, offset)

    def prepare_writers(self, count: int) -> None:
        """A writer takes no time here."""

    def writer(
        self, next_offset: int, on_delivery: DeliveryCallback
    ) -> "KafkaLikeWriter | SqliteLikeWriter":
        if self._log.is_kafka:
            return KafkaLikeWriter(self._log, on_delivery)
        return SqliteLikeWriter(self._log, next_offset, on_delivery)

    def trim(self, below_offset: int) -> None:
        check_trim(below_offset, self._log.end)
        del self._log.records[: max(below_offset - self._log.first, 0)]
        self._log.first = max(below_offset, self._log.first)

    def close(self) -> None:
        """Nothing to release."""


class SimReader:
    """Reads the log from its own position; each read takes some time."""

    def __init__(self, log: Log, offset: int) -> None:
        self._log = log
        self._offset = offset
        self._closed = False

    def read(self, timeout_s: float, max_records: int = 64) -> list[JournalRecord]:
        here = self._log.world
        _take_time(here)
        deadline_ns = here.now_ns + math.ceil(timeout_s * NS_PER_S)
        while self._offset >= self._log.end and not self._closed:
            thread = here.thread
            if here.now_ns >= deadline_ns or thread is None:
                return []
            self._log.waiting.append(thread)
            if not here.park(deadline_ns - here.now_ns):
                self._log.waiting.remove(thread)
        if self._closed:
            return []
        if self._offset < self._log.first:
            raise OffsetTrimmed(
                f"offset {self._offset} was trimmed, the first kept is {self._log.first}"
            )
        at = self._offset - self._log.first
        # what has arrived: not always all that is there
        count = min(here.random.randrange(1, 65), max_records)
        records = self._log.records[at : at + count]
        self._offset += len(records)
        return records

    def close(self) -> None:
        self._closed = True


class KafkaLikeWriter:
    """A producer: appends travel, and reports come back in the order of sending."""

    def __init__(self, log: Log, on_delivery: DeliveryCallback) -> None:
        self._log = log
        self._process: Process = process()
        self._on_delivery = on_delivery
        self._closed = False
        self._arrives_ns = 0
        self._unreported: dict[int, Delivery | None] = {}
        self._sent = 0
        self._reported_ns = 0
        self._waiting: list[Thread] = []

    def append(self, value: bytes) -> None:
        if self._closed:
            raise JournalStopped("the journal writer is closed")
        log, here = self._log, self._log.world
        index, self._sent = self._sent, self._sent + 1
        self._unreported[index] = None
        fate = log.next_fate(value)
        here.note(f"append {fate.name}", value)
        delay_ns = log.latency_ns()
        if fate is AppendFate.SLOW:
            delay_ns += here.between(100 * MS, 900 * MS)
        if fate is AppendFate.LATE:
            # it leaves the order: the broker gets it when nobody waits for it any more
            here.post(here.between(500 * MS, 6_000 * MS), partial(self._arrive, index, value, fate))
            return
        self._arrives_ns = max(self._arrives_ns, here.now_ns + delay_ns)
        if fate is not AppendFate.LOST:
            here.post(self._arrives_ns - here.now_ns, partial(self._arrive, index, value, fate))

    def _arrive(self, index: int, value: bytes, fate: AppendFate) -> None:
        log, here = self._log, self._log.world
        if not self._process.alive and here.random.random() < 0.5:
            return  # it had not left the process
        offset = log.store(value)
        if fate is AppendFate.DOUBLED:
            if here.random.random() < 0.5:
                log.store(value)
            else:
                here.post(here.between(1 * MS, 3_000 * MS), lambda: _store_again(log, value))
        delivery = Delivery(offset)
        if fate is AppendFate.UNREPORTED:
            return
        if fate is AppendFate.NO_OFFSET:
            delivery = Delivery(None, "Kafka confirmed an append without its offset")
        elif fate is AppendFate.FAILED_BUT_STORED:
            delivery = Delivery(None, "Kafka did not confirm an append: timed out")
        here.post(log.latency_ns(), partial(self._report, index, delivery), self._process)

    def _report(self, index: int, delivery: Delivery) -> None:
        if index not in self._unreported:
            return
        self._unreported[index] = delivery
        while self._unreported:
            first, ready = next(iter(self._unreported.items()))
            if ready is None:
                return
            del self._unreported[first]
            self._log.world.note(f"reported {ready.offset}")
            self._on_delivery(ready)
        for thread in self._waiting:
            thread.unpark()

    def purge(self) -> None:
        """What is unconfirmed is reported as failed; it may be stored all the same."""
        for index in self._unreported:
            if self._unreported[index] is None:
                self._unreported[index] = Delivery(None, "Kafka did not confirm an append: purged")
        if self._unreported:
            first = next(iter(self._unreported))
            delivery = self._unreported[first]
            if delivery is not None:
                self._log.world.post(0, partial(self._report, first, delivery), self._process)

    def close(self) -> None:
        self._closed = True
        here = self._log.world
        if self._unreported and here.thread is not None:
            self._waiting.append(here.thread)
            here.park(5 * NS_PER_S)


class SqliteLikeWriter:
    """A thread that takes what is queued into one transaction, which moves the head."""

    def __init__(self, log: Log, next_offset: int, on_delivery: DeliveryCallback) -> None:
        self._log = log
        self._process: Process = process()
        self._on_delivery = on_delivery
        self._next_offset = next_offset
        self._queue: deque[bytes] = deque()
        self._busy = False
        self._closed = False
        self._purged = False
        self._failure: Delivery | None = None
        self._waiting: list[Thread] = []

    def append(self, value: bytes) -> None:
        if self._closed:
            raise JournalStopped("the journal writer is closed")
        self._queue.append(value)
        self._log.world.note("queued", value)
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        self._busy = True
        self._log.world.post(self._log.world.between(0, 200 * US), self._write, self._process)

    def _write(self) -> None:
        values = list(self._queue)
        self._queue.clear()
        log, here = self._log, self._log.world
        fate = log.next_fate(values[0])
        delay_ns = log.latency_ns()
        if fate in (AppendFate.SLOW, AppendFate.LATE):
            delay_ns += here.between(100 * MS, 2_500 * MS)
        here.post(delay_ns, partial(self._commit, values, fate), self._process)

    def _commit(self, values: list[bytes], fate: AppendFate) -> None:
        log = self._log
        if self._purged and self._failure is None:
            self._failure = Delivery(None, "given up before it was appended")
        if self._failure is None and log.end != self._next_offset:
            self._failure = Delivery(
                None,
                f"another writer appended (the journal's next offset is {log.end}, this "
                f"writer's {self._next_offset})",
                foreign_writer=True,
            )
        if self._failure is None and fate is AppendFate.LOST:
            self._failure = Delivery(None, "append failed: disk I/O error")
        deliveries = [self._failure] * len(values)
        if self._failure is None:
            deliveries = [Delivery(log.store(value)) for value in values]
            self._next_offset += len(values)
            if fate in (AppendFate.FAILED_BUT_STORED, AppendFate.NO_OFFSET, AppendFate.UNREPORTED):
                self._failure = Delivery(None, "append failed: the commit was not confirmed")
                deliveries = [self._failure] * len(values)
        # between the commit and the report the process may die
        log.world.post(
            log.world.between(10 * US, 500 * US), partial(self._report, deliveries), self._process
        )

    def _report(self, deliveries: list[Delivery | None]) -> None:
        for delivery in deliveries:
            if delivery is not None:
                self._log.world.note(f"reported {delivery.offset}")
                self._on_delivery(delivery)
        self._busy = False
        if self._queue:
            self._begin()
        else:
            for thread in self._waiting:
                thread.unpark()

    def purge(self) -> None:
        self._purged = True

    def close(self) -> None:
        self._closed = True
        here = self._log.world
        if self._busy and here.thread is not None:
            self._waiting.append(here.thread)
            here.park(10 * NS_PER_S)


def _store_again(log: Log, value: bytes) -> None:
    log.store(value)


def _take_time(here: World) -> None:
    """A look into the journal costs some time, wherever a thread asks."""
    if here.thread is not None:
        here.park(here.between(20 * US, 400 * US))


def open_sim_journal(log: Log) -> Callable[..., SimJournal]:
    """What stands for `cluster_app.journals.open_journal`."""

    def opened(*_: object) -> SimJournal:
        world().note("journal opened")
        return SimJournal(log)

    return opened
