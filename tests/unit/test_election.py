"""Candidacies on a journal in memory: signs of life, lost races, and being asked to stop."""

import time

import pytest

from cluster_app.election import (
    JournalFollower,
    Term,
    follow_until_silence,
    open_follower,
    take_epoch,
)
from cluster_app.errors import ClockOff, JournalSilent, NotLeading, Stopped
from cluster_core.batch import EpochStart, Kind, LedgerParameters, seal
from cluster_core.candidacy import Silence, epoch_end
from cluster_core.errors import JournalFault, JournalStopped
from cluster_core.journal import (
    DeliveryCallback,
    JournalRecord,
    MemoryJournal,
    MemoryReader,
    MemoryWriter,
)
from cluster_core.reader_rule import Position
from cluster_core.replay import Replica

START = EpochStart("node", "127.0.0.1:1", LedgerParameters(window_capacity=16, account_capacity=9))


def running() -> bool:
    return False


def lead(
    journal: MemoryJournal, leader_id: bytes, *, clock_ns: int | None = None
) -> tuple[JournalFollower, Term]:
    follower = JournalFollower(journal, Replica())
    term = take_epoch(
        journal,
        follower,
        START,
        new_leader_id=lambda: leader_id,
        clock_ns=time.time_ns if clock_ns is None else lambda: clock_ns,
        deadline_s=None,
        stopping=running,
    )
    return follower, term


def beat(position: Position) -> bytes:
    value, _ = seal(
        Kind.HEARTBEAT,
        epoch=position.epoch,
        leader_id=position.leader_id,
        first_sequence=position.next_sequence,
        timestamp_ns=position.timestamp_ns,
        previous_chain=position.chain,
    )
    return value


def test_the_first_candidate_of_an_empty_journal_leads_epoch_1() -> None:
    follower, _ = lead(MemoryJournal(time.time_ns), b"A" * 16)
    assert (follower.replica.position.epoch, follower.replica.position.leader_id) == (1, b"A" * 16)
    follower.close()


class SimulatedClock:
    """Seconds that pass only when somebody looks at them: `step_s` each time."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        self.now_s += self._step_s
        return self.now_s


def test_a_standby_follows_while_somebody_lives_and_stands_after_the_silence() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    standby, signs = JournalFollower(journal, Replica()), 0
    standby.take_next(1.0)
    clock = SimulatedClock(0.1)

    def beat_on() -> None:
        nonlocal signs
        signs += 1
        if signs < 5:
            term.writer.append(beat(leader.replica.position))
            leader.take_next(1.0)

    term.writer.append(beat(leader.replica.position))
    leader.take_next(1.0)
    silence = Silence(lambda: 1.0)
    follow_until_silence(standby, silence, stopping=running, on_living=beat_on, monotonic_s=clock)
    assert signs == 5
    assert standby.replica.position == leader.replica.position
    standby.close()
    leader.close()


def test_after_an_epoch_s_end_a_standby_waits_for_nothing() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    standby = JournalFollower(journal, Replica())
    standby.take_next(1.0)
    term.writer.append(epoch_end(leader.replica.position))
    follow_until_silence(standby, Silence(lambda: 3_600.0), stopping=running)
    assert (standby.replica.position.epoch, standby.replica.position.has_leader) == (1, False)
    standby.close()
    leader.close()


def test_a_living_leader_may_end_the_wait() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    waiting = JournalFollower(journal, Replica())
    waiting.take_next(1.0)
    term.writer.append(beat(leader.replica.position))

    def somebody_leads() -> None:
        raise NotLeading("somebody leads")

    with pytest.raises(NotLeading):
        follow_until_silence(
            waiting, Silence(lambda: 3_600.0), stopping=running, on_living=somebody_leads
        )
    waiting.close()
    leader.close()


def test_a_candidate_that_is_asked_to_stop_appends_nothing() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, _ = lead(journal, b"A" * 16)
    waiting = JournalFollower(journal, Replica())
    waiting.take_next(1.0)
    with pytest.raises(Stopped):
        follow_until_silence(waiting, Silence(lambda: 3_600.0), stopping=lambda: True)
    with pytest.raises(Stopped):
        take_epoch(
            journal,
            waiting,
            START,
            new_leader_id=lambda: b"B" * 16,
            clock_ns=time.time_ns,
            deadline_s=5.0,
            stopping=lambda: True,
        )
    assert journal.end_offset() == 1
    waiting.close()
    leader.close()


def test_a_candidate_whose_race_is_lost_does_not_lead() -> None:
    journal = MemoryJournal(time.time_ns)
    slow = JournalFollower(journal, Replica())

    def somebody_is_faster() -> bytes:
        fast, _ = lead(journal, b"F" * 16)
        fast.close()
        return b"S" * 16

    with pytest.raises(NotLeading, match="was faster, in epoch 1"):
        take_epoch(
            journal,
            slow,
            START,
            new_leader_id=somebody_is_faster,
            clock_ns=time.time_ns,
            deadline_s=None,
            stopping=running,
        )
    assert slow.replica.position.leader_id == b"F" * 16
    assert slow.replica.skipped_records == 1
    slow.close()


def test_a_record_found_on_the_way_ends_the_candidacy() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    candidate = JournalFollower(journal, Replica())
    candidate.catch_up(journal.end_offset(), lambda _: None)
    term.writer.append(beat(leader.replica.position))
    with pytest.raises(NotLeading, match="was faster, in epoch 1"):
        take_epoch(
            journal,
            candidate,
            START,
            new_leader_id=lambda: b"B" * 16,
            clock_ns=time.time_ns,
            deadline_s=None,
            stopping=running,
        )
    assert journal.end_offset() == 2
    candidate.close()
    leader.close()


def about(off_s: int) -> str:
    """What it is told as: the wall clock goes on while the journal is asked."""
    return rf"{'-' if off_s < 0 else ''}(59|60|61)\.\d"


@pytest.mark.parametrize("off_s", [-60, 60])
def test_a_candidate_whose_clock_is_off_gives_the_epoch_back(off_s: int) -> None:
    journal = MemoryJournal(time.time_ns)
    told = rf"clock is {about(off_s)} s off the journal's: set the clock"
    with pytest.raises(ClockOff, match=told):
        lead(journal, b"A" * 16, clock_ns=time.time_ns() + off_s * 1_000_000_000)
    replica = Replica()
    for record in journal.reader(0).read(0):
        replica.take(record)
    assert (replica.position.epoch, replica.position.has_leader) == (1, False)


@pytest.mark.parametrize("off_s", [-60, 60])
def test_a_takeover_with_a_wrong_clock_deposes_nobody(off_s: int) -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    follower = JournalFollower(journal, Replica())
    asked = 0

    def off_clock_ns() -> int:
        nonlocal asked
        asked += 1
        if asked == 1:  # the candidate has caught up and waits for a sign of life
            term.writer.append(beat(leader.replica.position))
        return time.time_ns() + off_s * 1_000_000_000

    with pytest.raises(ClockOff, match="set the clock"):
        take_epoch(
            journal,
            follower,
            START,
            new_leader_id=lambda: b"B" * 16,
            clock_ns=off_clock_ns,
            deadline_s=5.0,
            stopping=running,
        )
    assert journal.end_offset() == 2
    follower.close()
    leader.close()


class OffClock:
    """A wall clock in nanoseconds that is `off_s` seconds off."""

    def __init__(self, off_s: float) -> None:
        self.off_s = off_s

    def __call__(self) -> int:
        return time.time_ns() + int(self.off_s * 1e9)


def stand(journal: MemoryJournal, follower: JournalFollower, clock_ns: OffClock) -> Term:
    return take_epoch(
        journal,
        follower,
        START,
        new_leader_id=lambda: b"B" * 16,
        clock_ns=clock_ns,
        deadline_s=None,
        stopping=running,
    )


def stand_by_until_silence(
    leader: JournalFollower, term: Term, standby: JournalFollower, clock_ns: OffClock
) -> None:
    """The leader beats three times, each time after the standby has found nothing new."""
    beats = 0
    standby.take_next(1.0)

    def beat_on() -> None:
        nonlocal beats
        if beats < 3:
            beats += 1
            term.writer.append(beat(leader.replica.position))
            leader.take_next(1.0)

    follow_until_silence(
        standby,
        Silence(lambda: 1.0),
        stopping=running,
        on_look=beat_on,
        clock_ns=clock_ns,
        monotonic_s=SimulatedClock(0.1),
    )
    assert standby.replica.position == leader.replica.position


@pytest.mark.parametrize("off_s", [-60, 60])
def test_a_standby_whose_clock_is_off_deposes_nobody_and_may_lead_once_it_is_set(
    off_s: int,
) -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    standby, clock = JournalFollower(journal, Replica()), OffClock(off_s)
    stand_by_until_silence(leader, term, standby, clock)
    for _ in range(2):
        with pytest.raises(ClockOff, match=rf"clock is {about(off_s)} s off the journal's"):
            stand(journal, standby, clock)
    assert (standby.replica.position.epoch, standby.replica.position.has_leader) == (1, True)
    # whoever led goes on: what was stored to see the clock counts nowhere
    term.writer.append(beat(leader.replica.position))
    leader.catch_up(journal.end_offset(), lambda _: None)
    assert leader.replica.position.next_offset == journal.end_offset()
    assert leader.replica.counted_offset == journal.end_offset() - 1
    clock.off_s = 0
    standby.catch_up(journal.end_offset(), lambda _: None)
    stand(journal, standby, clock)
    assert (standby.replica.position.epoch, standby.replica.position.leader_id) == (2, b"B" * 16)
    standby.close()
    leader.close()


def test_records_that_came_late_make_no_clock_wrong() -> None:
    journal = MemoryJournal(lambda: time.time_ns() - 60_000_000_000)
    leader, term = lead(journal, b"A" * 16, clock_ns=time.time_ns() - 60_000_000_000)
    standby, clock = JournalFollower(journal, Replica()), OffClock(0)
    stand_by_until_silence(leader, term, standby, clock)
    journal._clock_ns = time.time_ns  # the line is back: what comes now is stored now
    assert standby.clock_doubt
    stand(journal, standby, clock)
    assert (standby.replica.position.leader_id, standby.clock_doubt) == (b"B" * 16, "")
    standby.close()
    leader.close()


class FailingJournal(MemoryJournal):
    """A journal whose writers refuse every append."""

    def writer(self, next_offset: int, on_delivery: DeliveryCallback) -> MemoryWriter:
        return _FailingWriter(self, on_delivery)


class _FailingWriter(MemoryWriter):
    def append(self, value: bytes) -> None:
        raise JournalStopped("no append is taken")


def test_a_writer_that_refuses_the_candidacy_is_a_journal_that_is_silent() -> None:
    follower = JournalFollower(FailingJournal(), Replica())
    with pytest.raises(JournalSilent, match="no append is taken"):
        stand(FailingJournal(), follower, OffClock(0))
    follower.close()


class ForgetfulJournal(MemoryJournal):
    """A journal that confirms appends and gives them to no reader."""

    def _read(self, offset: int, timeout_s: float, max_records: int) -> list[JournalRecord]:
        return []


def test_a_candidacy_that_can_not_be_read_back_is_a_journal_that_is_silent() -> None:
    journal = ForgetfulJournal(time.time_ns)
    follower = JournalFollower(journal, Replica())
    with pytest.raises(JournalSilent, match="stored offset 0 and gave it to no reader"):
        take_epoch(
            journal,
            follower,
            START,
            new_leader_id=lambda: b"B" * 16,
            clock_ns=time.time_ns,
            deadline_s=None,
            stopping=running,
            monotonic_s=SimulatedClock(1.0),
        )
    follower.close()


class SleepyJournal(MemoryJournal):
    """A journal that doesn't answer the first times that a reader is wanted."""

    silent = 2

    def reader(self, offset: int) -> MemoryReader:
        if self.silent:
            self.silent -= 1
            raise JournalFault("the end of the log is unknown: no answer")
        return super().reader(offset)


def test_after_its_term_a_node_waits_for_a_journal_that_tells_nothing_but_not_for_ever() -> None:
    journal = SleepyJournal(time.time_ns)
    open_follower(journal, Replica(), running).close()
    assert journal.silent == 0
    journal.silent = 1_000
    with pytest.raises(JournalFault, match="no answer"):
        open_follower(journal, Replica(), running, SimulatedClock(100.0))
    with pytest.raises(Stopped):
        open_follower(journal, Replica(), lambda: True)
