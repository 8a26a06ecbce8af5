"""Who leads: the log decides (design section 5).

A candidate reads to the end of the journal, appends EPOCH_START with a leader id of its own, and
leads only once it has read that record as counted. Everything here blocks: call it in a thread.
"""

import contextlib
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cluster_app.errors import Fault, NotLeading, Stopped
from cluster_core.batch import EpochStart, Header, Kind, open_batch, seal
from cluster_core.errors import JournalFault
from cluster_core.journal import (
    Delivery,
    Journal,
    JournalReader,
    JournalRecord,
    JournalWriter,
)
from cluster_core.reader_rule import Verdict
from cluster_core.replay import Replica

CLOCK_DIFFERENCE_NS_MAX = 5_000_000_000
"""A candidate whose wall clock is farther off the journal's own doesn't lead."""

READ_BACK_TIMEOUT_S = 10.0
_LOOK_S = 0.5
FIRST_APPEND_TIMEOUT_S = 30.0
"""A new producer may ask a frozen broker or two, six seconds each, before one answers."""

STALL_TIMEOUT_S = 30.0
"""A journal that has records and gives none for so long can't be replayed."""

_PREPARED_WRITERS = 3
_FRESH_RECORD_S = 0.5
"""A living leader writes this often at least; its record shows whether the clocks agree."""

_STOP_LOOK_S = 0.05
"""A waiting candidate looks this often whether it was asked to stop."""

Opened = list[tuple[JournalRecord, Header]]


class Deliveries:
    """The journal's reports: queued until somebody takes them, then passed on."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._sink: Callable[[Delivery], None] = self._queue.put

    def __call__(self, delivery: Delivery) -> None:
        self._sink(delivery)

    def take(self, timeout_s: float) -> Delivery:
        """The next queued report. Raises queue.Empty after `timeout_s`."""
        return self._queue.get(timeout=timeout_s)

    def pass_on(self, sink: Callable[[Delivery], None]) -> None:
        """Hand every later report to `sink`, on the journal's thread."""
        self._sink = sink


@dataclass(frozen=True)
class Term:
    """A won candidacy: the writer goes on from the replica's position."""

    writer: JournalWriter
    deliveries: Deliveries


class JournalFollower:
    """A replica and its reader, with the opening of batches one read ahead on another thread."""

    def __init__(self, journal: Journal, replica: Replica) -> None:
        self.replica = replica
        self._reader: JournalReader = journal.reader(replica.position.next_offset)
        self._ahead = ThreadPoolExecutor(1, "journal-reader")
        self._next: Future[Opened] | None = None
        self.appended_ns = 0
        """When the journal stored the record that was taken last."""

    def catch_up(self, end_offset: int, on_progress: Callable[[Replica], None]) -> None:
        """Take every record below `end_offset`; `on_progress` is called at least once a second.

        Raises JournalFault where it must not go on, or gets nothing for 30 s.
        """
        progressed = time.monotonic()
        while self.replica.position.next_offset < end_offset:
            if self.take_next(_LOOK_S, read_ahead=True):
                progressed = time.monotonic()
            elif time.monotonic() - progressed > STALL_TIMEOUT_S:
                raise JournalFault(
                    f"the journal gave nothing for {STALL_TIMEOUT_S:.0f} s, at offset "
                    f"{self.replica.position.next_offset} of {end_offset}: is it still there?"
                )
            on_progress(self.replica)

    def take_next(self, timeout_s: float, *, read_ahead: bool = False) -> list[Verdict]:
        """Take the next records; the verdict on each, or none after `timeout_s` without any."""
        records = self._next.result() if self._next else self._read(timeout_s)
        self._next = None
        if read_ahead and records:
            self._next = self._ahead.submit(self._read, 0.0)
        verdicts = []
        for record, header in records:
            self.appended_ns = record.appended_ns
            try:
                verdicts.append(self.replica.take_opened(record, header).verdict)
            except JournalFault as fault:
                raise JournalFault(f"journal offset {record.offset}: {fault}") from None
        return verdicts

    def _read(self, timeout_s: float) -> Opened:
        opened = []
        for record in self._reader.read(timeout_s):
            try:
                opened.append((record, open_batch(record.value)))
            except JournalFault as fault:
                raise JournalFault(f"journal offset {record.offset}: {fault}") from None
        return opened

    def close(self) -> None:
        """Release reader and thread."""
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


def check_stop(stopping: Callable[[], bool]) -> None:
    """Raises Stopped when a signal has asked for the end."""
    if stopping():
        raise Stopped("stopped before it led")


def await_silence(
    journal: Journal, follower: JournalFollower, timeout_s: float, stopping: Callable[[], bool]
) -> None:
    """Return once nobody leads: the epoch has ended, or nothing counted for `timeout_s`.

    Raises NotLeading as soon as a record that is counted after now shows a living leader, and
    Stopped when `stopping` says so.
    """
    # what was written while this node replayed is no sign of life
    follower.catch_up(journal.end_offset(), lambda _: check_stop(stopping))
    deadline = time.monotonic() + timeout_s
    while follower.replica.position.has_leader:
        check_stop(stopping)
        left = deadline - time.monotonic()
        if left <= 0:
            return
        verdicts = follower.take_next(min(left, _STOP_LOOK_S))
        if Verdict.COUNTS in verdicts and follower.replica.position.has_leader:
            raise NotLeading(
                f"{_leader_of(follower.replica)} leads epoch {follower.replica.position.epoch}; "
                "use --takeover to depose it"
            )


def take_epoch(
    journal: Journal,
    follower: JournalFollower,
    start: EpochStart,
    *,
    new_leader_id: Callable[[], bytes],
    clock_ns: Callable[[], int],
    deadline_s: float | None,
    stopping: Callable[[], bool],
) -> Term:
    """Become the leader of the next epoch.

    With `deadline_s` it tries again until then (takeover), else once. Raises NotLeading when
    somebody else was faster, Fault when the journal takes no append or the clocks disagree, and
    Stopped when `stopping` says so.
    """
    give_up = time.monotonic() + (deadline_s or 0.0)
    if deadline_s is not None:
        _check_clock_by_a_living_leader(journal, follower, clock_ns, stopping)
    candidacy = _Candidacy(journal, follower, start, clock_ns, stopping)
    with ThreadPoolExecutor(1, "journal-closer") as closer:
        while True:
            # several, for the best chance comes right after a lost race: the leader then reads
            # its journal, to see whether it still leads, and appends nothing
            journal.prepare_writers(_PREPARED_WRITERS)
            for _ in range(_PREPARED_WRITERS):
                chain = follower.replica.position.chain
                follower.catch_up(journal.end_offset(), lambda _: check_stop(stopping))
                check_stop(stopping)
                if deadline_s is None and _somebody_lives(follower.replica, chain):
                    raise _faster(follower.replica)
                outcome = candidacy.run(new_leader_id(), give_up, closer)
                if isinstance(outcome, Term):
                    journal.prepare_writers(0)
                    return outcome
                if time.monotonic() >= give_up:
                    if outcome:
                        raise Fault(f"the journal takes no appends: {outcome}")
                    raise _faster(follower.replica)


@dataclass(frozen=True)
class _Candidacy:
    """What one try for the next epoch needs."""

    journal: Journal
    follower: JournalFollower
    start: EpochStart
    clock_ns: Callable[[], int]
    stopping: Callable[[], bool]

    def run(self, leader_id: bytes, give_up: float, closer: ThreadPoolExecutor) -> Term | str:
        """The term; or "" when somebody else was faster; or why the journal took no append."""
        position = self.follower.replica.position
        sent_ns = self.clock_ns()
        value, _ = seal(
            Kind.EPOCH_START,
            epoch=position.epoch + 1,
            leader_id=leader_id,
            first_sequence=position.next_sequence,
            timestamp_ns=max(sent_ns, position.timestamp_ns),
            previous_chain=position.chain,
            body=(self.start.pack(),),
        )
        deliveries = Deliveries()
        writer = self.journal.writer(position.next_offset, deliveries)
        term = None
        try:
            writer.append(value)
            delivery = self._await_delivery(deliveries, give_up)
            if delivery.offset is not None and _reads_as_counted(
                self.follower, leader_id, delivery.offset
            ):
                self._check_clock(writer, deliveries, sent_ns)
                term = Term(writer, deliveries)
                return term
        finally:
            if term is None:
                # in the background: nothing is awaited any more, and the next race has begun
                writer.purge()
                closer.submit(writer.close)
        if delivery.offset is None and self.journal.end_offset() == position.next_offset:
            return delivery.error
        return ""

    def _await_delivery(self, deliveries: Deliveries, give_up: float) -> Delivery:
        begun = time.monotonic()
        give_up = max(give_up, begun + FIRST_APPEND_TIMEOUT_S)
        while True:
            check_stop(self.stopping)
            try:
                return deliveries.take(_STOP_LOOK_S)
            except queue.Empty:
                if time.monotonic() > give_up:
                    raise Fault(
                        f"the journal took no append for {give_up - begun:.0f} s: look at its "
                        "brokers (enough replicas in sync?) or its disk, then start again"
                    ) from None

    def _check_clock(self, writer: JournalWriter, deliveries: Deliveries, sent_ns: int) -> None:
        """Raises Fault, after giving the epoch back, when the clocks disagree."""
        appended_ns = self.follower.appended_ns
        wrong = _clock_difference(sent_ns, appended_ns, self.clock_ns())
        if not wrong:
            return
        position = self.follower.replica.position
        value, _ = seal(
            Kind.EPOCH_END,
            epoch=position.epoch,
            leader_id=position.leader_id,
            first_sequence=position.next_sequence,
            timestamp_ns=position.timestamp_ns,
            previous_chain=position.chain,
        )
        writer.append(value)
        with contextlib.suppress(queue.Empty):  # then a successor waits for silence
            deliveries.take(READ_BACK_TIMEOUT_S)
        raise Fault(wrong)


def _check_clock_by_a_living_leader(
    journal: Journal,
    follower: JournalFollower,
    clock_ns: Callable[[], int],
    stopping: Callable[[], bool],
) -> None:
    """Look at a record just written, before anybody is deposed for nothing."""
    follower.catch_up(journal.end_offset(), lambda _: check_stop(stopping))
    if not follower.replica.position.has_leader:
        return
    before_ns, deadline = clock_ns(), time.monotonic() + _FRESH_RECORD_S
    while time.monotonic() < deadline:
        check_stop(stopping)
        if follower.take_next(_STOP_LOOK_S):
            wrong = _clock_difference(before_ns, follower.appended_ns, clock_ns())
            if wrong:
                raise Fault(wrong)
            return


def _clock_difference(before_ns: int, appended_ns: int, after_ns: int) -> str:
    """Why the clocks disagree, for a record stored between two looks at ours; "" if they agree."""
    if before_ns - CLOCK_DIFFERENCE_NS_MAX <= appended_ns <= after_ns + CLOCK_DIFFERENCE_NS_MAX:
        return ""
    off_ns = before_ns - appended_ns if appended_ns < before_ns else after_ns - appended_ns
    return f"this machine's clock is {off_ns / 1e9:.1f} s off the journal's: set the clock"


def _reads_as_counted(follower: JournalFollower, leader_id: bytes, offset: int) -> bool:
    deadline = time.monotonic() + READ_BACK_TIMEOUT_S
    while follower.replica.position.next_offset <= offset:
        if not follower.take_next(0.1) and time.monotonic() > deadline:
            raise Fault(f"cannot read back the journal's offset {offset}")
    return follower.replica.position.leader_id == leader_id


def _somebody_lives(replica: Replica, chain: bytes) -> bool:
    """Whether a leader has written since the chain stood there."""
    return replica.position.has_leader and replica.position.chain != chain


def _faster(replica: Replica) -> NotLeading:
    return NotLeading(f"{_leader_of(replica)} was faster, in epoch {replica.position.epoch}")


def _leader_of(replica: Replica) -> str:
    if replica.leader is None:
        return "another leader"
    return f"{replica.leader.name} at {replica.leader.address}"
