"""One suite over every journal: what the protocol promises, whichever journal keeps it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cluster_app.journals import open_journal as open_by_url
from cluster_core.errors import JournalStopped, OffsetTrimmed
from cluster_core.journal import Delivery, Journal, JournalReader, JournalRecord, MemoryJournal
from tests.leader_process import journal_url
from tests.services import KafkaCluster

DEADLINE_S: Final = 30.0

OpenJournal = Callable[[], Journal]


class Deliveries:
    """Collects deliveries and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self._reported: list[Delivery] = []
        self._moved = threading.Condition()

    def __call__(self, delivery: Delivery) -> None:
        with self._moved:
            self._reported.append(delivery)
            self._moved.notify_all()

    def wait(self, count: int) -> list[Delivery]:
        with self._moved:
            done = self._moved.wait_for(lambda: len(self._reported) >= count, DEADLINE_S)
            assert done, f"only {len(self._reported)} of {count} deliveries came"
            return list(self._reported)

    def offsets(self, count: int) -> list[int | None]:
        return [delivery.offset for delivery in self.wait(count)]


@pytest.fixture(params=["memory", "sqlite", "kafka"])
def open_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenJournal]:
    """Opens the same journal each time, as another process would; closes all at the end."""
    opened: list[Journal] = []
    memory = MemoryJournal(clock_ns=time.time_ns)
    url = journal_url(tmp_path)
    if request.param == "kafka":
        kafka: KafkaCluster = request.getfixturevalue("kafka")
        url = f"kafka://{kafka.bootstrap}/{request.getfixturevalue('kafka_topic')}"

    def open_one() -> Journal:
        journal = memory if request.param == "memory" else open_by_url(url)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.close()


def append_all(journal: Journal, values: list[bytes]) -> list[int | None]:
    deliveries = Deliveries()
    writer = journal.writer(journal.end_offset(), deliveries)
    for value in values:
        writer.append(value)
    writer.close()
    return deliveries.offsets(len(values))


def read_all(reader: JournalReader, count: int) -> list[JournalRecord]:
    records: list[JournalRecord] = []
    while len(records) < count:
        more = reader.read(DEADLINE_S)
        assert more, f"only {len(records)} of {count} records came"
        records += more
    return records


def values_upto(count: int) -> list[bytes]:
    return [b"%d " % n * (1 + n * 37 % 500) for n in range(count)]


def test_an_empty_journal_starts_and_ends_at_zero(open_journal: OpenJournal) -> None:
    journal = open_journal()
    assert (journal.start_offset(), journal.end_offset()) == (0, 0)
    assert list(journal.reader(0).read(0.0)) == []


def test_an_append_is_delivered_with_its_offset_and_read_back(open_journal: OpenJournal) -> None:
    journal = open_journal()
    deliveries = Deliveries()
    writer = journal.writer(0, deliveries)
    for offset, value in enumerate([b"one", b"\x00" * 70_000, b""]):
        writer.append(value)
        assert deliveries.wait(offset + 1)[offset] == Delivery(offset)
        assert journal.end_offset() == offset + 1
        [record] = journal.reader(offset).read(DEADLINE_S)
        assert (record.offset, record.value) == (offset, value)
    writer.close()
    assert journal.start_offset() == 0


def test_a_record_tells_when_the_journal_stored_it(open_journal: OpenJournal) -> None:
    journal = open_journal()
    begun_ns = time.time_ns()
    append_all(journal, [b"one"])
    [record] = journal.reader(0).read(DEADLINE_S)
    # Kafka keeps milliseconds, cut off
    assert begun_ns - 1_000_000 <= record.appended_ns <= time.time_ns()


def test_pipelined_appends_are_delivered_in_order_of_sending(open_journal: OpenJournal) -> None:
    journal = open_journal()
    values = values_upto(300)
    assert append_all(journal, values) == list(range(300))
    assert [record.value for record in read_all(journal.reader(0), 300)] == values


def test_another_opening_sees_what_was_appended_and_goes_on(open_journal: OpenJournal) -> None:
    append_all(open_journal(), [b"first", b"second"])
    again = open_journal()
    assert again.end_offset() == 2
    assert append_all(again, [b"third"]) == [2]
    assert [r.value for r in read_all(again.reader(0), 3)] == [b"first", b"second", b"third"]


def test_a_reader_begins_at_any_offset_and_keeps_to_max_records(open_journal: OpenJournal) -> None:
    journal = open_journal()
    values = values_upto(150)
    append_all(journal, values)
    for start in (0, 1, 63, 64, 149):
        records = read_all(journal.reader(start), 150 - start)
        assert [record.offset for record in records] == list(range(start, 150))
        assert [record.value for record in records] == values[start:]
    few = journal.reader(10)
    assert [r.offset for r in few.read(DEADLINE_S, max_records=3)] == [10, 11, 12]
    assert [r.offset for r in few.read(DEADLINE_S, max_records=1)] == [13]


def test_a_reader_at_the_end_waits_and_returns_nothing_in_time(open_journal: OpenJournal) -> None:
    journal = open_journal()
    append_all(journal, [b"one"])
    reader = journal.reader(1)
    assert list(reader.read(0.0)) == []
    assert list(reader.read(0.02)) == []
    append_all(journal, [b"two"])
    assert [record.value for record in reader.read(DEADLINE_S)] == [b"two"]


def test_a_reader_past_the_end_is_refused(open_journal: OpenJournal) -> None:
    journal = open_journal()
    append_all(journal, [b"one"])
    with pytest.raises(OffsetTrimmed, match="offset 2 is"):
        journal.reader(2)


def test_a_follower_in_another_thread_sees_later_appends(open_journal: OpenJournal) -> None:
    values = values_upto(200)
    reader = open_journal().reader(0)
    followed: list[bytes] = []

    def follow() -> None:
        followed.extend(record.value for record in read_all(reader, len(values)))

    follower = threading.Thread(target=follow)
    follower.start()
    journal = open_journal()
    for start in range(0, 200, 20):
        append_all(journal, values[start : start + 20])
    follower.join(DEADLINE_S)
    assert followed == values


def test_a_closed_writer_delivers_what_it_took_and_takes_no_more(
    open_journal: OpenJournal,
) -> None:
    journal = open_journal()
    deliveries = Deliveries()
    writer = journal.writer(0, deliveries)
    for value in values_upto(50):
        writer.append(value)
    writer.close()
    writer.close()
    with pytest.raises(JournalStopped, match="closed"):
        writer.append(b"late")
    assert deliveries.offsets(50) == list(range(50))
    assert journal.end_offset() == 50


def shows_foreign_write(deliveries: list[Delivery], expected: int) -> bool:
    """What a leader concludes (design, section 5): an error, or a higher offset than its own."""
    last = deliveries[-1]
    return last.offset is None or last.offset > expected


def test_a_foreign_writer_between_two_appends_is_found(open_journal: OpenJournal) -> None:
    journal, deliveries = open_journal(), Deliveries()
    writer = journal.writer(0, deliveries)
    writer.append(b"own")
    assert deliveries.wait(1) == [Delivery(0)]
    assert append_all(open_journal(), [b"foreign"]) == [1]
    writer.append(b"own again")
    assert shows_foreign_write(deliveries.wait(2), expected=1)
    writer.close()
    assert [r.value for r in journal.reader(0).read(DEADLINE_S)][:2] == [b"own", b"foreign"]


@pytest.mark.parametrize("stale", [0, 2])
def test_a_writer_that_missed_records_is_found_out(open_journal: OpenJournal, stale: int) -> None:
    journal, deliveries = open_journal(), Deliveries()
    values = values_upto(3)
    append_all(journal, values)
    writer = journal.writer(stale, deliveries)
    writer.append(b"stale")
    assert shows_foreign_write(deliveries.wait(1), expected=stale)
    writer.close()
    assert [r.value for r in journal.reader(0).read(DEADLINE_S)][:3] == values


def trimmed(open_journal: OpenJournal, below: int, count: int = 60) -> Journal:
    journal = open_journal()
    append_all(journal, values_upto(count))
    open_journal().trim(below)
    return journal


def test_a_trim_moves_the_start_and_nothing_else(open_journal: OpenJournal) -> None:
    journal, values = trimmed(open_journal, 40), values_upto(60)
    assert (journal.start_offset(), journal.end_offset()) == (40, 60)
    kept = read_all(journal.reader(40), 20)
    assert [(r.offset, r.value) for r in kept] == list(enumerate(values))[40:]
    for below in (0, 10, 40):
        journal.trim(below)
        assert journal.start_offset() == 40
    assert append_all(open_journal(), [b"next"]) == [60]


@pytest.mark.parametrize("below", [-1, 61])
def test_a_trim_beyond_the_end_is_refused(open_journal: OpenJournal, below: int) -> None:
    journal = open_journal()
    append_all(journal, values_upto(60))
    with pytest.raises(ValueError, match="ends at 60"):
        journal.trim(below)
    assert (journal.start_offset(), journal.end_offset()) == (0, 60)


@pytest.mark.parametrize("offset", [0, 39])
def test_a_reader_below_the_start_is_told_that_it_was_trimmed(
    open_journal: OpenJournal, offset: int
) -> None:
    journal = trimmed(open_journal, 40)
    with pytest.raises(OffsetTrimmed, match=f"offset {offset} "):
        read_all(journal.reader(offset), 1)


def test_a_reader_that_a_trim_overtakes_is_told_or_has_it_all_already(
    open_journal: OpenJournal,
) -> None:
    journal = open_journal()
    append_all(journal, values_upto(60))
    waiting, behind = journal.reader(60), journal.reader(0)
    journal.trim(60)
    assert (journal.start_offset(), journal.end_offset()) == (60, 60)
    try:
        assert [record.offset for record in read_all(behind, 60)] == list(range(60))
    except OffsetTrimmed as error:
        assert "offset 0 " in str(error)  # noqa: PT017 - a Kafka consumer may have read ahead
    assert append_all(open_journal(), [b"next"]) == [60]
    assert [record.offset for record in read_all(waiting, 1)] == [60]


def test_a_writer_that_missed_what_was_trimmed_is_found_out(open_journal: OpenJournal) -> None:
    """Its offset is free again: only the journal's own end can tell."""
    journal = trimmed(open_journal, 60)
    deliveries = Deliveries()
    writer = journal.writer(30, deliveries)
    writer.append(b"stale")
    assert shows_foreign_write(deliveries.wait(1), expected=30)
    writer.close()
    assert journal.start_offset() == 60


def test_a_trim_disturbs_neither_appends_nor_readers(open_journal: OpenJournal) -> None:
    journal, deliveries = open_journal(), Deliveries()
    append_all(journal, [b"x" * 20_000] * 1_500)
    reader = open_journal().reader(1_400)
    trimmer = open_journal()
    trim = threading.Thread(target=trimmer.trim, args=(1_400,))
    writer = journal.writer(1_500, deliveries)
    trim.start()
    for number in range(200):
        writer.append(b"%d" % number)
        deliveries.wait(number + 1)
    trim.join(DEADLINE_S)
    assert not trim.is_alive()
    writer.close()
    assert deliveries.offsets(200) == list(range(1_500, 1_700))
    assert [record.offset for record in read_all(reader, 300)] == list(range(1_400, 1_700))
    assert journal.start_offset() == 1_400
