"""The Kafka reader between librdkafka's messages and errors, in orders that brokers rarely give."""

import threading
from collections import deque
from typing import Any, cast

import pytest

kafka = pytest.importorskip("confluent_kafka")

from cluster_app.kafka_journal import KafkaJournal, KafkaReader  # noqa: E402
from cluster_core.errors import JournalFault  # noqa: E402


class Given:
    """One message as librdkafka gives it: a value at an offset, or an error."""

    def __init__(self, offset: int | None, error: int | None = None) -> None:
        self._offset = offset
        self._error = None if error is None else kafka.KafkaError(error)

    def error(self) -> Any:
        return self._error

    def offset(self) -> int | None:
        return self._offset

    def value(self) -> bytes:
        return b"%d" % (self._offset or 0)

    def timestamp(self) -> tuple[int, int]:
        return 2, 1_000


class Scripted:
    """A consumer that gives what the test put into it."""

    def __init__(self, *given: Given) -> None:
        self._given = deque(given)

    def poll(self, timeout_s: float) -> Given | None:
        return self._given.popleft() if self._given else None

    def consume(self, count: int, timeout_s: float) -> list[Given]:
        return [self._given.popleft() for _ in range(min(count, len(self._given)))]

    def close(self) -> None:
        """Nothing to release."""


def reader_of(*given: Given) -> KafkaReader:
    journal = cast(KafkaJournal, type("Journal", (), {"url": "kafka://test"})())
    return KafkaReader(journal, cast(Any, Scripted(*given)), 0, deque())


def test_records_behind_a_passing_error_are_not_lost() -> None:
    passing = kafka.KafkaError.GROUP_AUTHORIZATION_FAILED
    reader = reader_of(
        Given(None, passing), Given(0), Given(1), Given(None, passing), Given(2), Given(3)
    )
    offsets: list[int] = []
    while more := reader.read(0.2):
        offsets += [record.offset for record in more]
    assert offsets == [0, 1, 2, 3]


def test_no_more_records_are_given_than_asked_for() -> None:
    reader = reader_of(Given(None, kafka.KafkaError._TRANSPORT), *map(Given, range(5)))
    offsets: list[int] = []
    while more := reader.read(0.2, max_records=2):
        assert len(more) <= 2
        offsets += [record.offset for record in more]
    assert offsets == [0, 1, 2, 3, 4]


def test_records_before_a_lasting_error_come_first_and_then_the_fault() -> None:
    reader = reader_of(Given(0), Given(None, kafka.KafkaError._BAD_MSG), Given(1))
    assert [record.offset for record in reader.read(0.2)] == [0]
    with pytest.raises(JournalFault, match="offset 1 is damaged"):
        reader.read(0.2)


def test_a_reader_closed_by_another_thread_returns_nothing() -> None:
    reader = reader_of()
    waiting = threading.Thread(target=reader.read, args=(30.0,))
    waiting.start()
    reader.close()
    waiting.join(20.0)
    assert not waiting.is_alive()
