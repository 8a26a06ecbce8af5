"""Who leads: the log decides (design section 5).

A candidate reads to the end of the journal, appends EPOCH_START with a leader id of its own, and
leads only once it has read that record as counted. What is decided, and when, is
`cluster_core/candidacy.py`; here it gets a journal, clocks and threads. Everything here blocks:
call it in a thread. Clocks, randomness and `stopping` are passed in.
"""

import contextlib
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from cluster_app.errors import ClockOff, JournalSilent, JournalUnreachable, NotLeading, Stopped
from cluster_core.batch import EpochStart, Header, open_batch
from cluster_core.candidacy import (
    Candidacy,
    Silence,
    clock_difference,
    epoch_end,
    somebody_lives,
)
from cluster_core.errors import JournalFault, JournalStopped
from cluster_core.journal import (
    Delivery,
    Journal,
    JournalReader,
    JournalRecord,
    JournalWriter,
)
from cluster_core.reader_rule import Position, Verdict
from cluster_core.replay import Replica

READ_BACK_TIMEOUT_S = 10.0
_LOOK_S = 0.5
FIRST_APPEND_TIMEOUT_S = 30.0
"""A new producer may ask a frozen broker or two, six seconds each, before one answers."""

RECORDS_AT_A_TIME = 64
STALL_TIMEOUT_S = 30.0
"""A journal that has records and gives none for so long can't be replayed."""

_PREPARED_WRITERS = 3
_FRESH_RECORD_S = 0.5
"""A living leader writes this often at least; its record shows whether the clocks agree."""

_OPEN_TIMEOUT_S = 120.0
"""A journal whose brokers all restart is back by then."""

_STOP_LOOK_S = 0.05
"""A waiting candidate looks this often whether it was asked to stop."""

Opened = list[tuple[JournalRecord, Header]]


class JournalStalled(JournalUnreachable):
    """The journal has records and gives none."""


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

    def __init__(
        self, journal: Journal, replica: Replica, max_records: int = RECORDS_AT_A_TIME
    ) -> None:
        self.replica = replica
        self._max_records = max_records
        self._reader: JournalReader = journal.reader(replica.position.next_offset)
        self._ahead = ThreadPoolExecutor(1, "journal-reader")
        self._next: Future[Opened] | None = None
        self.appended_ns = 0
        """When the journal stored the record that was taken last."""
        self.clock_doubt = ""
        """Why this machine's clock seems wrong by the newest record that was seen live, else ""."""

    def catch_up(self, end_offset: int, on_progress: Callable[[Replica], None]) -> None:
        """Take every record below `end_offset`; `on_progress` is called at least once a second.

        Raises JournalFault where it must not go on, JournalStalled when it gets nothing for 30 s.
        """
        progressed = time.monotonic()
        while self.replica.position.next_offset < end_offset:
            if self.take_next(_LOOK_S, read_ahead=True):
                progressed = time.monotonic()
            elif time.monotonic() - progressed > STALL_TIMEOUT_S:
                raise JournalStalled(
                    f"the journal gave nothing for {STALL_TIMEOUT_S:.0f} s, at offset "
                    f"{self.replica.position.next_offset} of {end_offset}: is it still there?"
                )
            on_progress(self.replica)

    def take_next(self, timeout_s: float, *, read_ahead: bool = False) -> list[Verdict]:
        """Take the next records; the verdict on each, or none after `timeout_s` without any."""
        # its own future mustn't hold the error that it raises, and by it all callers' frames
        ahead, self._next = self._next, None
        records = ahead.result() if ahead else self._read(timeout_s)
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
        for record in self._reader.read(timeout_s, self._max_records):
            try:
                opened.append((record, open_batch(record.value)))
            except JournalFault as fault:
                raise JournalFault(f"journal offset {record.offset}: {fault}") from None
        return opened

    def close(self) -> None:
        """Release reader and thread."""
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


def open_follower(
    journal: Journal,
    replica: Replica,
    stopping: Callable[[], bool],
    monotonic_s: Callable[[], float] = time.monotonic,
) -> JournalFollower:
    """Follow on from where a term has ended; a journal that tells nothing is waited for.

    Raises OffsetTrimmed, JournalFault after 2 minutes, and Stopped when `stopping` says so.
    """
    give_up = monotonic_s() + _OPEN_TIMEOUT_S
    while True:
        try:
            return JournalFollower(journal, replica)
        except JournalFault:
            if monotonic_s() > give_up:
                raise
        check_stop(stopping)
        time.sleep(_STOP_LOOK_S)


def check_stop(stopping: Callable[[], bool]) -> None:
    """Raises Stopped when a signal has asked for the end."""
    if stopping():
        raise Stopped("stopped before it could begin")


def follow_until_silence(
    follower: JournalFollower,
    silence: Silence,
    *,
    stopping: Callable[[], bool],
    on_living: Callable[[], None] = lambda: None,
    on_look: Callable[[], None] = lambda: None,
    clock_ns: Callable[[], int] = time.time_ns,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> None:
    """Follow the journal until this node may stand for the next epoch.

    Live records, those that come after a look that found none, show whether the clocks agree.
    `on_living` is called for each read that shows a living leader, `on_look` after every read, 20
    times a second at least. Raises Stopped when `stopping` says so, and what reading raises.
    """
    replica, quiet_ns = follower.replica, None
    silence.heard(monotonic_s())
    while (wait_s := silence.left_s(replica.position, monotonic_s())) > 0:
        check_stop(stopping)
        began_ns = clock_ns()
        verdicts = follower.take_next(min(wait_s, _STOP_LOOK_S), read_ahead=True)
        if verdicts and quiet_ns is not None:
            follower.clock_doubt = clock_difference(quiet_ns, follower.appended_ns, clock_ns())
        quiet_ns = None if verdicts else began_ns
        if Verdict.COUNTS in verdicts:
            silence.heard(monotonic_s())
            if replica.position.has_leader:
                on_living()
        on_look()


def take_epoch(
    journal: Journal,
    follower: JournalFollower,
    start: EpochStart,
    *,
    new_leader_id: Callable[[], bytes],
    clock_ns: Callable[[], int],
    deadline_s: float | None,
    stopping: Callable[[], bool],
    monotonic_s: Callable[[], float] = time.monotonic,
) -> Term:
    """Become the leader of the next epoch.

    With `deadline_s` it tries again until then (takeover), else once. Raises NotLeading when
    somebody else was faster, JournalSilent when the journal takes no append or doesn't answer,
    ClockOff when the clocks disagree, and Stopped when `stopping` says so.
    """
    give_up = monotonic_s() + (deadline_s or 0.0)
    if deadline_s is not None:
        _check_clock_by_a_living_leader(journal, follower, clock_ns, stopping)
    trial = _Trial(journal, follower, start, clock_ns, monotonic_s, stopping)
    with ThreadPoolExecutor(1, "journal-closer") as closer:
        while True:
            # several, for the best chance comes right after a lost race: the leader then reads
            # its journal, to see whether it still leads, and appends nothing
            journal.prepare_writers(1 if deadline_s is None else _PREPARED_WRITERS)
            for _ in range(_PREPARED_WRITERS):
                before = follower.replica.position
                for look in (trial.catch_up, lambda: trial.clear_doubt(new_leader_id, closer)):
                    look()
                    if deadline_s is None and somebody_lives(before, follower.replica.position):
                        raise _faster(follower.replica)
                outcome = trial.run(new_leader_id(), give_up, closer)
                if isinstance(outcome, Term):
                    journal.prepare_writers(0)
                    return outcome
                if monotonic_s() >= give_up:
                    if outcome:
                        raise JournalSilent(f"the journal takes no appends: {outcome}")
                    raise _faster(follower.replica)


@dataclass(frozen=True)
class _Trial:
    """What one try for the next epoch needs."""

    journal: Journal
    follower: JournalFollower
    start: EpochStart
    clock_ns: Callable[[], int]
    monotonic_s: Callable[[], float]
    stopping: Callable[[], bool]

    def catch_up(self) -> None:
        """Read to the end of the journal as of now."""
        try:
            self.follower.catch_up(_end_offset(self.journal), lambda _: check_stop(self.stopping))
        except JournalStalled as stalled:
            raise JournalSilent(str(stalled)) from None
        check_stop(self.stopping)

    def run(self, leader_id: bytes, give_up: float, closer: ThreadPoolExecutor) -> Term | str:
        """The term; or "" when somebody else was faster; or why the journal took no append."""
        position = self.follower.replica.position
        candidacy = Candidacy(position, self.start, leader_id, self.clock_ns())
        term = None
        writer, deliveries = self._writer(position)
        try:
            delivery = self._append(writer, deliveries, candidacy.value, give_up)
            if delivery.offset is not None and candidacy.has_won(self.follower.replica.position):
                self._check_clock(writer, deliveries, candidacy.sent_ns)
                term = Term(writer, deliveries)
                return term
        finally:
            if term is None:
                self._release(writer, closer)
        if delivery.offset is None and _end_offset(self.journal) == position.next_offset:
            return delivery.error
        return ""

    def clear_doubt(self, new_leader_id: Callable[[], bytes], closer: ThreadPoolExecutor) -> None:
        """If the clock is in doubt, have a record stored that counts nowhere, a candidacy for the
        present epoch: its time tells, before anybody is deposed. Raises ClockOff.
        """
        if not self.follower.clock_doubt:
            return
        position, sent_ns = self.follower.replica.position, self.clock_ns()
        before = replace(position, epoch=position.epoch - 1)
        past = Candidacy(before, self.start, new_leader_id(), sent_ns)
        writer, deliveries = self._writer(position)
        try:
            delivery = self._append(writer, deliveries, past.value, give_up=0.0)
        finally:
            self._release(writer, closer)
        if delivery.offset is None:
            raise JournalSilent(f"the journal takes no appends: {delivery.error}")
        wrong = clock_difference(sent_ns, self.follower.appended_ns, self.clock_ns())
        self.follower.clock_doubt = wrong
        if wrong:
            raise ClockOff(wrong)

    def _writer(self, position: Position) -> tuple[JournalWriter, Deliveries]:
        deliveries = Deliveries()
        return self.journal.writer(position.next_offset, deliveries), deliveries

    def _append(
        self, writer: JournalWriter, deliveries: Deliveries, value: bytes, give_up: float
    ) -> Delivery:
        """The report of an append, after all up to it has been read."""
        try:
            writer.append(value)
        except JournalStopped as stopped:
            raise JournalSilent(str(stopped)) from None
        delivery = self._await_delivery(deliveries, give_up)
        if delivery.offset is not None:
            self._read_back(delivery.offset)
        return delivery

    def _release(self, writer: JournalWriter, closer: ThreadPoolExecutor) -> None:
        # in the background: nothing is awaited any more, and the next race has begun
        writer.purge()
        closer.submit(writer.close)

    def _await_delivery(self, deliveries: Deliveries, give_up: float) -> Delivery:
        begun = self.monotonic_s()
        give_up = max(give_up, begun + FIRST_APPEND_TIMEOUT_S)
        while True:
            check_stop(self.stopping)
            try:
                return deliveries.take(_STOP_LOOK_S)
            except queue.Empty:
                if self.monotonic_s() > give_up:
                    raise JournalSilent(
                        f"the journal took no append for {give_up - begun:.0f} s: look at its "
                        "brokers (enough replicas in sync?) or its disk, then start again"
                    ) from None

    def _check_clock(self, writer: JournalWriter, deliveries: Deliveries, sent_ns: int) -> None:
        """Raises ClockOff, after giving the epoch back, when the clocks disagree."""
        appended_ns = self.follower.appended_ns
        wrong = clock_difference(sent_ns, appended_ns, self.clock_ns())
        if not wrong:
            return
        self.follower.clock_doubt = wrong
        # unsent or unreported, a successor waits for silence
        with contextlib.suppress(queue.Empty, JournalStopped):
            writer.append(epoch_end(self.follower.replica.position))
            deliveries.take(READ_BACK_TIMEOUT_S)
        raise ClockOff(wrong)

    def _read_back(self, offset: int) -> None:
        deadline = self.monotonic_s() + READ_BACK_TIMEOUT_S
        while self.follower.replica.position.next_offset <= offset:
            if not self.follower.take_next(_STOP_LOOK_S) and self.monotonic_s() > deadline:
                raise JournalSilent(
                    f"the journal stored offset {offset} and gave it to no reader for "
                    f"{READ_BACK_TIMEOUT_S:.0f} s"
                )


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
            wrong = clock_difference(before_ns, follower.appended_ns, clock_ns())
            if wrong:
                raise ClockOff(wrong)
            return


def _end_offset(journal: Journal) -> int:
    try:
        return journal.end_offset()
    except JournalFault as fault:
        raise JournalSilent(str(fault)) from None


def _faster(replica: Replica) -> NotLeading:
    return NotLeading(f"{_leader_of(replica)} was faster, in epoch {replica.position.epoch}")


def _leader_of(replica: Replica) -> str:
    if replica.leader is None:
        return "another leader"
    return f"{replica.leader.name} at {replica.leader.address}"
