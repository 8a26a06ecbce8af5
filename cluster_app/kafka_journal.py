"""The Kafka journal: one topic of one partition; Kafka's offset is the journal's.

Kafka replicates and keeps the order, it fences nobody: an older leader's late writes land in the
log, and the reader rule skips them. What is promised here is that every append is reported once,
in the order of sending, with its offset or with an error; nothing is dropped by a timeout. How
long to wait is the engine's decision (`append_timeout_s`).

Threads: librdkafka's own, and one of Python's a writer, which sleeps in `Producer.poll`.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from cluster_app.errors import JournalUnreachable, UsageError
from cluster_app.kafka_options import (
    MESSAGE_BYTES_MIN,
    KafkaOptions,
    check_properties,
    read_url,
)
from cluster_app.kafka_topic import (
    PARTITION_UNREACHABLE,
    REQUEST_TIMEOUT_S,
    ClientErrors,
    Topic,
    open_topic,
)
from cluster_core.errors import JournalFault, JournalStopped, OffsetTrimmed
from cluster_core.journal import Delivery, DeliveryCallback, JournalRecord, check_trim

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a closing writer waits for what is in flight before it gives it up."""

END_TIMEOUT_S: Final = 10.0
"""How long the end of the log is asked for: a partition's own election takes seconds."""

END_WHEN_STOPPING_S: Final = 2.0
"""Likewise by a node that was asked to stop."""

GONE_AFTER_S: Final = 5.0
"""A topic that is denied for so long is gone: a broker may know a new one only after a moment."""

_POLL_S: Final = 0.05
_TOLD_MAX: Final = 16
_SHOWN_VALUE_MAX: Final = 3
_NS_PER_MS: Final = 1_000_000

_DEFAULTS: Final[Mapping[str, Any]] = {
    "client.id": "ringledger",
    "socket.nagle.disable": True,
    "socket.keepalive.enable": True,
    # a broker that froze or lost its cable says nothing: the others have elected a leader by then
    "socket.timeout.ms": 6_000,
    # a broker that restarts is found again at once, not after librdkafka's 10 s
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    # the topic was seen before: one that is gone is told sooner than after 30 s
    "topic.metadata.propagation.max.ms": int(GONE_AFTER_S * 1_000),
    # librdkafka writes to standard error by itself: what matters comes by `error_cb` instead
    "log_level": 0,
}
"""What a user's properties may override, here and below."""

_PRODUCER_DEFAULTS: Final[Mapping[str, Any]] = {"linger.ms": 0, "compression.type": "none"}
_PRODUCER: Final[Mapping[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,
}

_CONSUMER_DEFAULTS: Final[Mapping[str, Any]] = {
    # required by librdkafka and hardly used: nobody joins it and nothing is stored
    "group.id": "ringledger",
    "fetch.wait.max.ms": 500,
    "fetch.error.backoff.ms": 50,
    "fetch.message.max.bytes": 16 << 20,
    "fetch.max.bytes": 32 << 20,
    "queued.max.messages.kbytes": 64 << 10,
    # after the queue was full librdkafka waits this long, by default a second
    "fetch.queue.backoff.ms": 2,
}
_CONSUMER: Final[Mapping[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "check.crcs": True,
    "isolation.level": "read_uncommitted",
}


class KafkaJournal:
    """A journal in the topic that `url` names; it is created when absent.

    Raises UsageError for a wrong URL or property, JournalFault when no broker answered for
    `options.wait_s`, JournalRefused for a topic that can't be a journal's, and Stopped when
    `stopping` says so meanwhile.
    """

    def __init__(
        self,
        url: str,
        options: KafkaOptions | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        options = options or KafkaOptions()
        brokers, name = read_url(url)
        check_properties("--kafka-properties", options.properties)
        self.url: Final = url
        self._errors = ClientErrors()
        self._stopping = stopping
        self._properties: Final = dict(options.properties)
        self._fixed: Final[dict[str, Any]] = {
            "error_cb": self._errors,
            "bootstrap.servers": brokers,
        }
        admin = self._client(AdminClient)
        self._topic: Final[Topic] = open_topic(admin, url, name, options, self._errors, stopping)
        self._lock = threading.Lock()
        self._consumer = self._client(Consumer, _CONSUMER_DEFAULTS, _CONSUMER)
        self._spares: deque[Producer] = deque()
        """Producers that connect and were never used."""
        self._closed = False

    def start_offset(self) -> int:
        """The first kept offset. Raises JournalUnreachable when no broker answers for 10 s."""
        return self._watermarks()[0]

    def end_offset(self) -> int:
        """The offset after the newest record on all in-sync replicas. Raises JournalUnreachable."""
        return self._watermarks()[1]

    def reader(self, offset: int) -> "KafkaReader":
        """A reader from `offset`. Raises OffsetTrimmed beyond the end, JournalUnreachable."""
        end = self.end_offset()
        if offset > end:
            raise OffsetTrimmed(f"offset {offset} is beyond the end {end} of {self.url}")
        told: deque[KafkaError] = deque(maxlen=_TOLD_MAX)

        def take_error(error: KafkaError) -> None:
            self._errors(error)
            told.append(error)

        consumer = self._client(Consumer, _CONSUMER_DEFAULTS, {**_CONSUMER, "error_cb": take_error})
        consumer.assign([TopicPartition(self._topic.name, 0, offset)])
        return KafkaReader(self, consumer, offset, told)

    def prepare_writers(self, count: int) -> None:
        """Begin to connect `count` producers: each takes half a second to get its Kafka id."""
        with self._lock:
            while len(self._spares) > count:
                self._spares.pop()
            while len(self._spares) < count and not self._closed:
                self._spares.append(self._producer())

    def writer(self, next_offset: int, on_delivery: DeliveryCallback) -> "KafkaWriter":
        """A writer with a producer of its own. Kafka takes an append wherever the log ends."""
        with self._lock:
            producer = self._spares.popleft() if self._spares else self._producer()
        return KafkaWriter(producer, self._topic.name, on_delivery)

    def trim(self, below_offset: int) -> None:
        """Move the log's start; brokers delete whole segments below it in their own time.

        Raises ValueError beyond the end, JournalFault when the brokers refuse or don't answer.
        """
        start, end = self._watermarks()
        check_trim(below_offset, end)
        if below_offset <= start:
            return
        partition = TopicPartition(self._topic.name, 0, below_offset)
        admin = self._client(AdminClient)
        [asked] = admin.delete_records(
            [partition], operation_timeout=END_TIMEOUT_S, request_timeout=END_TIMEOUT_S
        ).values()
        try:
            asked.result(2 * END_TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            reason = _text(error.args[0]) if error.args else "no answer"
            raise JournalFault(
                f"{self.url}: records below offset {below_offset} were not deleted: {reason}: "
                "look at the brokers, and whether this user may delete from the topic"
            ) from None

    def _producer(self) -> Producer:
        # one request, perhaps of two batches, must fit the topic's limit
        limit = min(self._topic.message_bytes_max, 2 * MESSAGE_BYTES_MIN)
        producer: Producer = self._client(
            Producer, _PRODUCER_DEFAULTS, {**_PRODUCER, "message.max.bytes": limit}
        )
        return producer

    def _client(
        self,
        kind: Callable[[dict[str, Any]], Any],
        defaults: Mapping[str, Any] = MappingProxyType({}),
        fixed: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """A librdkafka client: defaults, the user's properties, and what promises rest on.

        Raises UsageError for a property that librdkafka doesn't take.
        """
        chosen = {**_DEFAULTS, **defaults, **self._properties, **self._fixed, **fixed}
        try:
            return kind(chosen)
        except (KafkaException, ValueError, TypeError, AttributeError) as error:
            text = _text(error.args[0])
            for value in self._properties.values():
                # librdkafka repeats some wrong values, and a secret may stand in a wrong place
                if len(value) > _SHOWN_VALUE_MAX:
                    text = text.replace(value, "(not shown)")
            raise UsageError(f"--kafka-properties: {text}") from None

    def close(self) -> None:
        """Release the connections. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._spares.clear()
                self._consumer.close()

    def _watermarks(self) -> tuple[int, int]:
        asked = time.monotonic()
        partition = TopicPartition(self._topic.name, 0)
        while True:
            try:
                with self._lock:
                    found: tuple[int, int] | None = self._consumer.get_watermark_offsets(
                        partition, REQUEST_TIMEOUT_S
                    )
                if found is not None:
                    return found
                reason, passes = "no answer", True
            except KafkaException as error:
                reason = _text(error.args[0])
                passes = error.args[0].code() in PARTITION_UNREACHABLE
                denied = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                if denied and time.monotonic() - asked > GONE_AFTER_S:
                    raise JournalFault(f"{self.url}: the topic is gone: {reason}") from None
                if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                    self._refresh_metadata()
            limit_s = END_WHEN_STOPPING_S if self._stopping() else END_TIMEOUT_S
            if time.monotonic() - asked > limit_s:
                kind = JournalUnreachable if passes else JournalFault
                raise kind(f"{self.url}: the end of the log is unknown: {reason}")
            time.sleep(_POLL_S)

    def _refresh_metadata(self) -> None:
        """Ask brokers for the topic anew.

        What one told while it started, a topic without partitions, is kept for minutes otherwise.
        """
        with self._lock, contextlib.suppress(KafkaException):
            self._consumer.list_topics(self._topic.name, REQUEST_TIMEOUT_S)


class KafkaWriter:
    """Appends through an idempotent producer; reports from a thread of its own.

    What bounds the queue is the caller's own limit of undelivered appends.
    """

    def __init__(self, producer: Producer, topic: str, on_delivery: DeliveryCallback) -> None:
        self._producer: Producer | None = producer
        self._topic = topic
        self._on_delivery = on_delivery
        self._sent = 0
        self._reported = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kafka-journal", daemon=True)
        self._thread.start()

    def append(self, value: bytes) -> None:
        """Hand one value to the producer. Raises JournalStopped once closed or refused."""
        with self._lock:
            producer = self._producer
            if self._closed.is_set() or producer is None:
                raise JournalStopped("the journal writer is closed")
            try:
                producer.produce(
                    self._topic, value, partition=0, on_delivery=partial(self._report, self._sent)
                )
            except (KafkaException, BufferError) as error:
                raise JournalStopped(f"Kafka takes no append: {_text(error.args[0])}") from None
            self._sent += 1

    def purge(self) -> None:
        """Drop what is not confirmed yet; each is reported as an error."""
        with self._lock:
            if self._producer is not None:
                self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def close(self) -> None:
        """Wait up to 5 s for what is in flight, report the rest as errors, and disconnect.

        Idempotent.
        """
        with self._lock:
            self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        producer = self._producer
        if producer is None:
            return
        try:
            while not self._closed.is_set():
                producer.poll(_POLL_S)
        finally:
            # Also after a callback that raised: nobody would ever report again.
            self._closed.set()
            if producer.flush(CLOSE_TIMEOUT_S):
                producer.purge()
                producer.flush(CLOSE_TIMEOUT_S)
            # its threads and connections end with its last reference, and callers may keep this
            with self._lock:
                self._producer = None

    def _report(self, index: int, error: KafkaError | None, message: Message) -> None:
        if index != self._reported:
            delivery = Delivery(None, f"Kafka reported append {index} before {self._reported}")
        elif error is not None:
            delivery = Delivery(None, f"Kafka did not confirm an append: {_text(error)}")
        else:
            offset = message.offset()
            delivery = (
                Delivery(None, "Kafka confirmed an append without its offset")
                if offset is None or offset < 0
                else Delivery(offset)
            )
        self._reported += 1
        self._on_delivery(delivery)


class KafkaReader:
    """Reads the partition from an offset on, from any one thread at a time."""

    def __init__(
        self, journal: KafkaJournal, consumer: Consumer, offset: int, told: deque[KafkaError]
    ) -> None:
        self._journal = journal
        # what the consumer tells beside its messages, filled while it is polled
        self._told = told
        self._consumer = consumer
        self._offset = offset
        self._failed: KafkaError | None = None
        self._left: deque[Message] = deque()
        """What came behind an error: most errors pass."""
        self._lock = threading.Lock()
        self._closed = False

    def read(self, timeout_s: float, max_records: int = 64) -> list[JournalRecord]:
        """The next records in order; none after `timeout_s` without any, or once closed.

        Raises OffsetTrimmed when the next offset isn't kept, JournalFault for a damaged record
        and for a topic that is gone. A broker that can't be reached is waited for.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            with self._lock:
                if self._closed:
                    return []
                records = self._take(min(left_s, _POLL_S), max_records)
            if records or left_s <= 0:
                return records

    def close(self) -> None:
        """Release the connections; a `read` that waits returns without records. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._consumer.close()

    def _take(self, timeout_s: float, max_records: int) -> list[JournalRecord]:
        if self._failed is not None:
            self._raise_if_lasting(self._failed)
            self._failed = None
        if not self._left:
            # `consume` waits until it has all that it was asked for: so one is waited for, and
            # the rest is what has come with it
            first = self._consumer.poll(timeout_s)
            if first is None:
                while self._told:
                    self._raise_if_lasting(self._told.popleft())
                return []
            self._left.append(first)
            if max_records > 1:
                self._left += self._consumer.consume(max_records - 1, 0)
        records: list[JournalRecord] = []
        while self._left and len(records) < max_records:
            message = self._left.popleft()
            self._failed = message.error()
            if self._failed is not None:
                break
            records.append(_record(message))
        if records:
            self._offset = records[-1].offset + 1
        elif self._failed is not None:
            self._raise_if_lasting(self._failed)
        return records

    def _raise_if_lasting(self, error: KafkaError) -> None:
        url, code = self._journal.url, error.code()
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            start, end = self._journal._watermarks()
            raise OffsetTrimmed(
                f"offset {self._offset} of {url} is not kept: the topic has {start} .. {end}"
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            # a broker that has just come back may know the topic only a moment later
            with contextlib.suppress(JournalUnreachable):
                self._journal._watermarks()
        if code in (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION):
            raise JournalFault(f"{url}: offset {self._offset} is damaged: {_text(error)}")
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION):
            raise JournalFault(f"{url}: reading is not allowed: {_text(error)}")


def _record(message: Message) -> JournalRecord:
    offset, value = message.offset(), message.value()
    _, appended_ms = message.timestamp()
    if offset is None:
        raise JournalFault("Kafka delivered a record without its offset")
    # a foreign record without a value is judged like any other foreign record
    return JournalRecord(offset, value or b"", appended_ms * _NS_PER_MS)


def _text(error: object) -> str:
    return error.str() if isinstance(error, KafkaError) else str(error)
