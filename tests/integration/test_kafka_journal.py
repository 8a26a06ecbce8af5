"""The Kafka journal on real brokers: its topic, its waits, its limits, what a reader is told."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from cluster_app.errors import Stopped, UsageError
from cluster_app.kafka_journal import CLOSE_TIMEOUT_S, KafkaJournal
from cluster_app.kafka_options import MESSAGE_BYTES_MIN, REQUIRED_OF_TOPIC, KafkaOptions
from cluster_core.batch import MAX_BATCH_BYTES
from cluster_core.errors import JournalFault, JournalRefused, JournalStopped, OffsetTrimmed
from tests.integration.test_journals import DEADLINE_S, Deliveries, append_all, read_all
from tests.server_process import HOST, free_ports, poll_until
from tests.services import KafkaCluster

RECORD_BYTES: Final = 72
"""What one record of half a megabyte takes on a topic's limit above its value."""


@pytest.fixture
def url(kafka: KafkaCluster, kafka_topic: str) -> str:
    """A journal's URL on the session's broker; its topic doesn't exist yet."""
    return f"kafka://{kafka.bootstrap}/{kafka_topic}"


@pytest.fixture
def admin(kafka: KafkaCluster) -> AdminClient:
    return _admin(kafka.bootstrap)


@dataclass(frozen=True)
class GuardedKafka:
    """A broker of this module's own, which may be paused and killed if it is left serving."""

    cluster: KafkaCluster
    sasl: str
    tls: str
    certificate: Path


@pytest.fixture(scope="module")
def guarded(
    kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedKafka]:
    """Three listeners: plain text; the user `ledger` with the password `right`; TLS."""
    del kafka  # which skips where Kafka can't run
    folder = tmp_path_factory.mktemp("guarded")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=ringledger", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    store = folder / "store.pem"
    store.write_text(key.read_text() + certificate.read_text())
    plain, sasl, tls, controller = free_ports(4)
    listeners = {"PLAINTEXT": plain, "SASL_PLAINTEXT": sasl, "SSL": tls, "CONTROLLER": controller}
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        "SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{login} required "
        'user_ledger="right";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
    }
    with KafkaCluster(folder / "kafka", properties=properties, ports=[plain]) as cluster:
        yield GuardedKafka(cluster, f"{HOST}:{sasl}", f"{HOST}:{tls}", certificate)


@pytest.fixture
def guarded_url(guarded: GuardedKafka, kafka_topic: str) -> str:
    return f"kafka://{guarded.cluster.bootstrap}/{kafka_topic}"


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def _create(admin: AdminClient, topic: str, config: Mapping[str, str], partitions: int = 1) -> None:
    """A topic as a journal wants it, but for `config`."""
    new = NewTopic(topic, partitions, 1, config={**REQUIRED_OF_TOPIC, **config})
    admin.create_topics([new])[topic].result(DEADLINE_S)


def _properties_of(admin: AdminClient, topic: str) -> dict[str, str | None]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    entries = admin.describe_configs([resource])[resource].result(DEADLINE_S)
    return {key: entry.value for key, entry in entries.items()}


def _raised(kind: type[Exception], action: Callable[[], object], within_s: float) -> str:
    """The text of the error that `action` must raise, and that within `within_s`."""
    begun = time.monotonic()
    with pytest.raises(kind) as raised:
        action()
    assert time.monotonic() - begun < within_s
    return str(raised.value)


# the topic


def test_a_new_topic_keeps_everything_in_one_partition(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    with closing(KafkaJournal(url)):
        topic = admin.list_topics(kafka_topic, DEADLINE_S).topics[kafka_topic]
    assert list(topic.partitions) == [0]
    properties = _properties_of(admin, kafka_topic)
    assert properties.items() >= REQUIRED_OF_TOPIC.items()
    assert REQUIRED_OF_TOPIC["retention.ms"] == REQUIRED_OF_TOPIC["retention.bytes"] == "-1"


def test_topic_properties_are_set_at_creation_and_checked_ever_after(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    wanted = {"max.message.bytes": "700000", "segment.bytes": "20000000"}
    with closing(KafkaJournal(url, KafkaOptions(topic_properties=wanted))):
        assert _properties_of(admin, kafka_topic).items() >= wanted.items()
    KafkaJournal(url).close()
    other = KafkaOptions(topic_properties={"segment.bytes": "30000000"})
    text = _raised(JournalRefused, lambda: KafkaJournal(url, other), 5)
    assert "segment.bytes=20000000, a journal needs 30000000" in text
    assert f"--entity-name {kafka_topic} --add-config segment.bytes=30000000" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
        ("unclean.leader.election.enable", "true"),
        ("max.message.bytes", str(MESSAGE_BYTES_MIN - 1)),
    ],
)
def test_a_topic_that_could_lose_history_is_refused_with_advice(
    url: str, kafka_topic: str, admin: AdminClient, key: str, value: str
) -> None:
    _create(admin, kafka_topic, {key: value})
    text = _raised(JournalRefused, lambda: KafkaJournal(url), 5)
    assert text.startswith(f"{url}: the topic ")
    assert value in text
    assert f"--entity-name {kafka_topic} --add-config {key}=" in text


def test_a_topic_of_two_partitions_is_refused(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    _create(admin, kafka_topic, {}, partitions=2)
    text = _raised(JournalRefused, lambda: KafkaJournal(url), 5)
    assert "the topic has 2 partitions, a journal has one" in text
    assert "choose another topic" in text


def test_fewer_replicas_than_the_setting_are_refused(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    _create(admin, kafka_topic, {})
    options = KafkaOptions(replication_factor=3)
    text = _raised(JournalRefused, lambda: KafkaJournal(url, options), 5)
    assert "the topic has 1 replicas, --kafka-replication-factor is 3" in text
    assert "lower the setting" in text


# properties


@pytest.mark.parametrize("name", ["acks", "enable.idempotence", "bootstrap.servers", "retries"])
def test_a_property_that_promises_rest_on_is_refused(url: str, name: str) -> None:
    options = KafkaOptions(properties={name: "0"})
    text = _raised(UsageError, lambda: KafkaJournal(url, options), 1)
    assert f"{name} is the journal's own: leave it out" in text


@pytest.mark.parametrize("name", ["no.such.property", "linger.ms", "security.protocol"])
def test_a_property_that_librdkafka_does_not_take_is_told_without_its_value(
    url: str, name: str
) -> None:
    options = KafkaOptions(properties={name: "hunter2"})
    text = _raised(UsageError, lambda: KafkaJournal(url, options), 1)
    assert "--kafka-properties: " in text
    assert "configuration property" in text
    assert "hunter2" not in text
    assert "hunter2" not in repr(options)


def test_a_user_with_the_right_password_is_let_in_and_a_wrong_one_is_told_at_once(
    guarded: GuardedKafka, kafka_topic: str
) -> None:
    url = f"kafka://{guarded.sasl}/{kafka_topic}"

    def options(password: str) -> KafkaOptions:
        login = {"sasl.username": "ledger", "sasl.password": password}
        protocol = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
        return KafkaOptions(properties=protocol | login)

    text = _raised(JournalRefused, lambda: KafkaJournal(url, options("wrong")), 5)
    assert "Invalid username or password" in text
    assert "check security.protocol and sasl.*" in text
    with closing(KafkaJournal(url, options("right"))) as journal:
        assert append_all(journal, [b"by ledger"]) == [0]
        assert [r.value for r in read_all(journal.reader(0), 1)] == [b"by ledger"]


def test_a_broker_with_a_trusted_certificate_is_used_and_another_is_told(
    guarded: GuardedKafka, kafka_topic: str
) -> None:
    url = f"kafka://{guarded.tls}/{kafka_topic}"
    tls = {"security.protocol": "SSL"}
    trusted = KafkaOptions(properties=tls | {"ssl.ca.location": str(guarded.certificate)})
    with closing(KafkaJournal(url, trusted)) as journal:
        assert append_all(journal, [b"in secret"]) == [0]
        assert [r.value for r in read_all(journal.reader(0), 1)] == [b"in secret"]
    doubtful = KafkaOptions(properties=tls, wait_s=4)
    text = _raised(JournalFault, lambda: KafkaJournal(url, doubtful), 25)
    assert "ssl.ca.location names who signed the broker's certificate" in text


# waits


def test_an_absent_broker_is_told_in_time_with_its_address_and_what_to_do() -> None:
    url = f"kafka://{HOST}:{free_ports(1)[0]}/absent"
    text = _raised(JournalFault, lambda: KafkaJournal(url, KafkaOptions(wait_s=2)), 20)
    assert f"{url}: no broker answered for 2 s" in text
    assert "Connection refused" in text
    assert "start Kafka, or check the address" in text


def test_a_stop_ends_the_wait_for_a_broker_at_once() -> None:
    stopping = threading.Event()
    url = f"kafka://{HOST}:{free_ports(1)[0]}/absent"
    with ThreadPoolExecutor(1) as opener:
        opening = opener.submit(KafkaJournal, url, None, stopping.is_set)
        assert not opening.done()
        stopping.set()
        assert "stopped before it reached the journal" in _raised(Stopped, opening.result, 20)


def test_a_broker_that_comes_back_is_found_by_a_reader_and_by_an_opening(
    guarded: GuardedKafka, guarded_url: str
) -> None:
    [broker] = guarded.cluster.brokers
    with closing(KafkaJournal(guarded_url)) as journal, ThreadPoolExecutor(1) as opener:
        append_all(journal, [b"before"])
        reader = journal.reader(0)
        assert [r.value for r in reader.read(DEADLINE_S)] == [b"before"]
        broker.kill()
        patient = KafkaOptions(wait_s=2 * DEADLINE_S)
        opening = opener.submit(KafkaJournal, f"{guarded_url}-2", patient)
        assert reader.read(0.5) == []
        assert not opening.done()
        broker.start()
        broker.wait_ready()
        append_all(journal, [b"after"])
        assert [r.value for r in read_all(reader, 1)] == [b"after"]
        with closing(opening.result(DEADLINE_S)) as opened:
            assert append_all(opened, [b"first"]) == [0]


# limits


def test_a_value_may_fill_the_topics_limit_and_one_byte_more_is_never_stored(url: str) -> None:
    limit = MESSAGE_BYTES_MIN
    options = KafkaOptions(topic_properties={"max.message.bytes": str(limit)})
    with closing(KafkaJournal(url, options)) as journal:
        largest = b"x" * (limit - RECORD_BYTES)
        assert append_all(journal, [largest]) == [0]
        assert append_all(journal, [largest + b"x"]) == [None]
        writer = journal.writer(1, Deliveries())
        with pytest.raises(JournalStopped, match="Message size too large"):
            writer.append(b"x" * (limit + 1))
        writer.close()
        assert journal.end_offset() == 1
        assert [r.value for r in read_all(journal.reader(0), 1)] == [largest]


def test_full_batches_in_flight_together_fit_a_limit_of_barely_one(url: str) -> None:
    options = KafkaOptions(topic_properties={"max.message.bytes": str(MESSAGE_BYTES_MIN)})
    # two of the smaller ones are in one request as soon as nothing forbids it
    sizes = [MAX_BATCH_BYTES] * 4 + [MESSAGE_BYTES_MIN // 2] * 4 + [MAX_BATCH_BYTES, 200] * 2
    values = [bytes([n]) * size for n, size in enumerate(sizes)]
    with closing(KafkaJournal(url, options)) as journal:
        assert append_all(journal, values) == list(range(len(values)))
        assert [r.value for r in read_all(journal.reader(0), len(values))] == values


# what a reader and a writer are told


def test_deleted_records_move_the_start_and_reading_there_is_told(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    with closing(KafkaJournal(url)) as journal:
        append_all(journal, [b"%d" % n for n in range(100)])
        deleted = TopicPartition(kafka_topic, 0, 60)
        admin.delete_records([deleted])[deleted].result(DEADLINE_S)
        assert (journal.start_offset(), journal.end_offset()) == (60, 100)
        for offset in (0, 59):
            text = _raised(OffsetTrimmed, partial(journal.reader(offset).read, DEADLINE_S), 10)
            assert f"offset {offset} of {url} is not kept: the topic has 60 .. 100" in text
        assert [r.offset for r in read_all(journal.reader(60), 40)] == list(range(60, 100))


def test_a_foreign_record_without_a_value_is_read_as_an_empty_one(
    kafka: KafkaCluster, url: str, kafka_topic: str
) -> None:
    with closing(KafkaJournal(url)) as journal:
        append_all(journal, [b"own"])
        foreign = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        foreign.produce(kafka_topic, None, key=b"a key", partition=0)
        assert foreign.flush(DEADLINE_S) == 0
        append_all(journal, [b"own again"])
        records = read_all(journal.reader(0), 3)
    assert [r.value for r in records] == [b"own", b"", b"own again"]


def test_a_topic_deleted_under_a_reader_and_a_writer_is_told_to_both(
    url: str, kafka_topic: str, admin: AdminClient
) -> None:
    with closing(KafkaJournal(url)) as journal:
        deliveries = Deliveries()
        writer = journal.writer(0, deliveries)
        writer.append(b"one")
        reader = journal.reader(0)
        assert len(reader.read(DEADLINE_S)) == 1
        admin.delete_topics([kafka_topic])[kafka_topic].result(DEADLINE_S)
        assert "the topic is gone" in _raised(JournalFault, lambda: reader.read(DEADLINE_S), 20)
        assert "the topic is gone" in _raised(JournalFault, journal.end_offset, 20)
        writer.append(b"two")
        assert deliveries.wait(2)[1].offset is None
        writer.close()


def test_the_end_is_exact_while_another_writer_appends(url: str) -> None:
    with closing(KafkaJournal(url)) as journal, closing(KafkaJournal(url)) as other:
        ends: list[int] = []
        with ThreadPoolExecutor(1) as appender:
            appending = appender.submit(append_all, other, [b"theirs"] * 500)
            while not appending.done():
                [own] = append_all(journal, [b"own"])
                ends.append(journal.end_offset())
                assert own is not None
                assert ends[-1] > own
        assert ends == sorted(ends)
        end = journal.end_offset()
        assert end == other.end_offset() == 500 + len(ends)
        read = [r.value for r in read_all(journal.reader(0), end)]
        assert (read.count(b"theirs"), read.count(b"own")) == (500, len(ends))


def test_appends_to_a_paused_broker_are_stored_later_in_order_and_once(
    guarded: GuardedKafka, guarded_url: str
) -> None:
    [broker] = guarded.cluster.brokers
    values = [b"%d" % n for n in range(50)]
    with closing(KafkaJournal(guarded_url)) as journal:
        deliveries = Deliveries()
        writer = journal.writer(0, deliveries)
        writer.append(values[0])
        deliveries.wait(1)
        broker.pause()
        try:
            for value in values[1:]:
                writer.append(value)
            # as long as a broker may be silent before its cluster gives it up
            assert not poll_until(lambda: len(deliveries.wait(1)) > 1, 3.5)
        finally:
            broker.resume()
        assert deliveries.offsets(50) == list(range(50))
        writer.close()
        assert journal.end_offset() == 50
        assert [r.value for r in read_all(journal.reader(0), 50)] == values


def test_a_purge_reports_what_is_in_flight_and_a_close_waits_only_so_long(
    guarded: GuardedKafka, guarded_url: str
) -> None:
    [broker] = guarded.cluster.brokers
    with closing(KafkaJournal(guarded_url)) as journal:
        purged, given_up = Deliveries(), Deliveries()
        first, second = journal.writer(0, purged), journal.writer(0, given_up)
        for writer, deliveries in ((first, purged), (second, given_up)):
            writer.append(b"stored")
            deliveries.wait(1)
        broker.pause()
        try:
            for writer in (first, second):
                for _ in range(20):
                    writer.append(b"in flight")
            first.purge()
            assert purged.offsets(21)[1:] == [None] * 20
            begun = time.monotonic()
            first.close()
            assert time.monotonic() - begun < CLOSE_TIMEOUT_S
            second.close()
            assert time.monotonic() - begun < 4 * CLOSE_TIMEOUT_S
            assert given_up.offsets(21)[1:] == [None] * 20
        finally:
            broker.resume()
        broker.wait_ready()
        assert 2 <= journal.end_offset() <= 42


def test_a_closed_writer_s_threads_and_connections_end_though_somebody_keeps_it(url: str) -> None:
    with closing(KafkaJournal(url)) as journal:
        before = _own_threads()
        writer = journal.writer(0, Deliveries())
        append_all(journal, [b"value"])
        assert _own_threads() > before
        writer.close()
        writer.purge()
        with pytest.raises(JournalStopped):
            writer.append(b"more")
        assert poll_until(lambda: _own_threads() <= before, DEADLINE_S)


def _own_threads() -> int:
    """Threads of this process, librdkafka's among them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
