"""Candidacies on a journal in memory: signs of life, lost races, and being asked to stop."""

import time

import pytest

from cluster_app.election import JournalFollower, Term, await_silence, take_epoch
from cluster_app.errors import Fault, NotLeading, Stopped
from cluster_core.batch import EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import MemoryJournal
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


def test_records_written_before_the_wait_are_no_sign_of_life() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    waiting = JournalFollower(journal, Replica())
    for _ in range(200):
        term.writer.append(beat(leader.replica.position))
        leader.take_next(1.0)
    await_silence(journal, waiting, 0.1, running)
    assert waiting.replica.position.next_offset == 201
    waiting.close()
    leader.close()


def test_a_record_written_while_waiting_shows_a_living_leader() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, term = lead(journal, b"A" * 16)
    waiting = JournalFollower(journal, Replica())
    looks = 0

    def append_at_the_third_look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            term.writer.append(beat(leader.replica.position))
        return False

    with pytest.raises(NotLeading, match=r"node at 127\.0\.0\.1:1 leads epoch 1"):
        await_silence(journal, waiting, 30.0, append_at_the_third_look)
    waiting.close()
    leader.close()


def test_a_candidate_that_is_asked_to_stop_appends_nothing() -> None:
    journal = MemoryJournal(time.time_ns)
    leader, _ = lead(journal, b"A" * 16)
    waiting = JournalFollower(journal, Replica())
    with pytest.raises(Stopped):
        await_silence(journal, waiting, 30.0, lambda: True)
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


@pytest.mark.parametrize("off_s", [-60, 60])
def test_a_candidate_whose_clock_is_off_gives_the_epoch_back(off_s: int) -> None:
    journal = MemoryJournal(time.time_ns)
    with pytest.raises(Fault, match=rf"clock is {off_s}\.0 s off the journal's: set the clock"):
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

    with pytest.raises(Fault, match="set the clock"):
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
