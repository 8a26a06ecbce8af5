"""A leader's life on Kafka: topics that can't be used, brokers that come, go, stop and die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from cluster_app.journals import open_journal
from cluster_app.kafka_options import MESSAGE_BYTES_MIN, REQUIRED_OF_TOPIC
from cluster_core.batch import Kind, open_batch
from cluster_core.journal import JournalRecord
from cluster_core.record import MAX_MESSAGE_COMMANDS, Status
from cluster_core.replay import Replica
from tests.leader_process import LeaderProcess
from tests.ledger_load import DEADLINE_S, Load, check_retry, create_account, deposits, submit
from tests.server_process import HOST, free_ports, poll_until
from tests.services import KafkaBroker, KafkaCluster

_GROWTH_BYTES_MAX: Final = 64 << 20
_JAVA_FLAGS: Final = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Brokers that share few cores with a leader start sooner when little is optimised."""


@pytest.fixture
def url(kafka: KafkaCluster, kafka_topic: str) -> str:
    """A journal's URL on the session's broker; its topic doesn't exist yet."""
    return f"kafka://{kafka.bootstrap}/{kafka_topic}"


@pytest.fixture(scope="module")
def mortal_cluster(
    kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaCluster]:
    del kafka  # which skips where Kafka can't run
    folder = tmp_path_factory.mktemp("mortal")
    with KafkaCluster(folder, java_flags=_JAVA_FLAGS) as cluster:
        yield cluster


@pytest.fixture
def mortal(mortal_cluster: KafkaCluster) -> Iterator[KafkaBroker]:
    """A broker that a test may pause or kill; the next one finds it serving again."""
    [broker] = mortal_cluster.brokers
    yield broker
    if broker.is_running:
        broker.resume()
    else:
        broker.start()
    broker.wait_ready()


@pytest.fixture
def mortal_url(mortal: KafkaBroker, kafka_topic: str) -> str:
    return f"kafka://{mortal.address}/{kafka_topic}"


def _last_line(log: str) -> str:
    """The one line that says why a leader ended."""
    assert "Traceback" not in log
    [line] = [line for line in log.splitlines() if line.startswith("ringledger leader: ")]
    assert log.splitlines()[-1] == line
    return line


def _wait_logged(leader: LeaderProcess, event: str) -> str:
    """The first line with this event on the leader's standard error."""
    assert leader.process.stderr is not None
    while line := leader.process.stderr.readline().decode():
        if event in line:
            return line
    raise AssertionError(f"the leader ended without {event}")


def _goes_on(load: Load, leader: LeaderProcess) -> bool:
    """Wait until the load gets new answers (True) or its stream has failed."""
    answered = len(load.answered)
    assert poll_until(
        lambda: len(load.answered) > answered + 4 or load.error is not None, 2 * DEADLINE_S
    )
    return load.error is None and leader.process.poll() is None


def _end_and_check(load: Load, leader: LeaderProcess, url: str, never: str = "\n\n") -> None:
    """After a broker's trouble: the leader lives or left cleanly; the next start agrees.

    It leaves, for instance, when Kafka knows a repeated batch but not its offset; `never` is no
    reason to leave.
    """
    if _goes_on(load, leader):
        load.finish()
        assert load.error is None
        check_retry(load, leader.address)
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    else:
        load.finish()
        code, log = leader.wait_exit()
        assert code == 1
        assert _last_line(log)
        assert never not in log
    with LeaderProcess(url) as successor:
        check_retry(load, successor.wait_ready().address)


def _records(url: str) -> list[JournalRecord]:
    records: list[JournalRecord] = []
    with closing(open_journal(url)) as journal, closing(journal.reader(0)) as reader:
        end = journal.end_offset()
        while len(records) < end:
            more = reader.read(DEADLINE_S)
            assert more
            records += more
    return records


def _rss_bytes(leader: LeaderProcess) -> int:
    """Resident memory; 0 once the process has ended."""
    try:
        pages = Path(f"/proc/{leader.process.pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# settings


def test_help_shows_no_secret_of_the_environment() -> None:
    environment = os.environ | {"RINGLEDGER_KAFKA_PROPERTIES": "sasl.password=hunter2"}
    shown = subprocess.run(
        [sys.executable, "-m", "cluster_app", "leader", "--help"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--kafka-properties" in shown.stdout
    assert "hunter2" not in shown.stdout + shown.stderr


def test_properties_come_from_a_file_and_its_values_are_never_shown(
    url: str, tmp_path: Path
) -> None:
    file = tmp_path / "kafka.properties"
    flags = ("--kafka-properties", f"@{file}")
    file.write_text("# who we are\nclient.id = ledger; one\n\nsecurity.protocol=hunter2\n")
    with LeaderProcess(url, *flags) as leader:
        code, log = leader.wait_exit()
    assert code == 2
    assert "security.protocol" in _last_line(log)
    assert "hunter2" not in log
    file.write_text("# who we are\nclient.id = ledger; one\n\nsecurity.protocol=PLAINTEXT\n")
    with LeaderProcess(url, *flags) as leader:
        [replies] = submit(leader.wait_ready().address, create_account())
        assert replies["status"][0] == Status.OK


# topics


@pytest.mark.parametrize(
    ("partitions", "config", "said"),
    [
        (2, {}, "has 2 partitions"),
        (1, {"cleanup.policy": "compact"}, "has cleanup.policy=compact"),
        (1, {"retention.ms": "86400000"}, "has retention.ms=86400000"),
        (1, {"max.message.bytes": str(MESSAGE_BYTES_MIN - 1)}, f"{MESSAGE_BYTES_MIN - 1} bytes"),
    ],
)
def test_a_topic_that_is_no_journals_ends_the_start_with_one_line(
    kafka: KafkaCluster,
    kafka_topic: str,
    url: str,
    partitions: int,
    config: dict[str, str],
    said: str,
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    new = NewTopic(kafka_topic, partitions, 1, config={**REQUIRED_OF_TOPIC, **config})
    admin.create_topics([new])[kafka_topic].result(DEADLINE_S)
    with LeaderProcess(url) as leader:
        code, log = leader.wait_exit()
    assert code == 1
    line = _last_line(log)
    assert f"{url}: the topic" in line
    assert said in line
    assert "choose another topic" in line


def test_the_largest_messages_pass_through_a_topic_that_barely_takes_one(url: str) -> None:
    limit = f"max.message.bytes={MESSAGE_BYTES_MIN}"
    with LeaderProcess(url, "--kafka-topic-properties", limit) as leader:
        messages = [deposits(MAX_MESSAGE_COMMANDS) for _ in range(6)]
        answers = submit(leader.wait_ready().address, create_account(), *messages)
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    total = len(messages) * MAX_MESSAGE_COMMANDS
    assert answers[-1]["credit_balance"][-1] == total
    with LeaderProcess(url) as leader:
        assert leader.wait_ready().applied == 1 + total
        again = submit(leader.address, *messages)
    for first, second in zip(answers[1:], again, strict=True):
        assert list(first["credit_balance"]) == list(second["credit_balance"])


def test_a_foreign_record_stops_the_leader_and_every_later_start(
    kafka: KafkaCluster, kafka_topic: str, url: str
) -> None:
    with LeaderProcess(url) as leader:
        submit(leader.wait_ready().address, create_account(), deposits(10))
        foreign: list[int | None] = []
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        producer.produce(
            kafka_topic,
            b"not a batch",
            partition=0,
            on_delivery=lambda _, message: foreign.append(message.offset()),
        )
        assert producer.flush(DEADLINE_S) == 0
        code, log = leader.wait_exit()
    assert code == 1
    said = f"journal offset {foreign[0]}: not a batch of a ringledger journal"
    assert said in _last_line(log)
    for _ in range(2):
        with LeaderProcess(url) as leader:
            code, log = leader.wait_exit()
        assert code == 1
        assert said in _last_line(log)


# brokers


def test_an_absent_broker_is_told_and_waited_for_until_the_deadline() -> None:
    url = f"kafka://{HOST}:{free_ports(1)[0]}/absent"
    with LeaderProcess(url, "--kafka-wait-s", "12") as leader:
        while "Connection refused" not in _wait_logged(leader, "journal_unreachable"):
            pass  # it has not got so far
        code, log = leader.wait_exit()
    assert code == 1
    assert f"{url}: no broker answered for 12 s" in _last_line(log)


def test_sigterm_ends_the_wait_for_an_absent_broker_at_once() -> None:
    url = f"kafka://{HOST}:{free_ports(1)[0]}/absent"
    with LeaderProcess(url, "--kafka-wait-s", "600") as leader:
        _wait_logged(leader, "journal_unreachable")
        leader.signal(signal.SIGTERM)
        code, log = leader.wait_exit()
    assert code == 0
    assert "stopped before it reached the journal" in _last_line(log)


def test_a_broker_that_comes_in_time_is_used(mortal: KafkaBroker, mortal_url: str) -> None:
    mortal.kill()
    with LeaderProcess(mortal_url) as leader:
        _wait_logged(leader, "journal_unreachable")
        mortal.start()
        [replies] = submit(leader.wait_ready().address, create_account())
        assert replies["status"][0] == Status.OK


def test_a_broker_killed_and_restarted_under_load_costs_no_answer(
    mortal: KafkaBroker, mortal_url: str
) -> None:
    with LeaderProcess(mortal_url) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        mortal.kill()
        mortal.start()
        mortal.wait_ready()
        _end_and_check(load, leader, mortal_url)


def test_a_broker_silent_for_a_moment_only_delays_answers(
    mortal: KafkaBroker, mortal_url: str
) -> None:
    with LeaderProcess(mortal_url) as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        mortal.pause()
        answered = len(load.answered)
        assert not poll_until(lambda: len(load.answered) > answered + 4, 2)
        mortal.resume()
        assert _goes_on(load, leader)
        load.finish()
        check_retry(load, leader.address)


def test_a_broker_silent_for_too_long_gives_clients_a_clear_error_in_time_and_memory(
    mortal: KafkaBroker, mortal_url: str
) -> None:
    append_timeout_s = 4
    flags = ("--append-timeout-s", str(append_timeout_s))
    with LeaderProcess(mortal_url, *flags) as leader:
        submit(leader.wait_ready().address, create_account())
        loads = [Load(leader.address, batch=500, in_flight=64) for _ in range(4)]
        for load in loads:
            load.wait_some()
        before = _rss_bytes(leader)
        mortal.pause()
        begun = time.monotonic()
        most = 0

        def told() -> bool:
            nonlocal most
            most = max(most, _rss_bytes(leader))
            return all(load.error is not None for load in loads)

        assert poll_until(told, append_timeout_s + 20)
        assert time.monotonic() - begun >= append_timeout_s - 1
        code, log = leader.wait_exit()
    assert code == 1
    assert f"the journal reported nothing for {append_timeout_s} s" in _last_line(log)
    assert most - before < _GROWTH_BYTES_MAX
    for load in loads:
        load.finish()
        assert load.error is not None
        assert load.error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
        assert "the journal reported nothing" in str(load.error.details())
    mortal.resume()
    mortal.wait_ready()
    with LeaderProcess(mortal_url) as leader:
        check_retry(loads[0], leader.wait_ready().address, *loads[1:])


def test_sigterm_while_the_broker_is_silent_ends_at_the_drains_deadline(
    mortal: KafkaBroker, mortal_url: str
) -> None:
    with LeaderProcess(mortal_url, "--drain-timeout-s", "1") as leader:
        submit(leader.wait_ready().address, create_account())
        load = Load(leader.address)
        load.wait_some()
        mortal.pause()
        leader.signal(signal.SIGTERM)
        code, log = leader.wait_exit()
        load.finish()
    assert code == 1
    assert "did not take what was in flight in 1 s" in _last_line(log)
    mortal.resume()
    mortal.wait_ready()
    with LeaderProcess(mortal_url) as leader:
        check_retry(load, leader.wait_ready().address)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["dies", "freezes"])
def test_the_partitions_leader_may_die_or_freeze_under_load(
    tmp_path: Path, kafka_topic: str, trouble: str
) -> None:
    with KafkaCluster(tmp_path, brokers=3, java_flags=_JAVA_FLAGS) as cluster:
        url = f"kafka://{cluster.bootstrap}/{kafka_topic}"
        with LeaderProcess(url) as leader:
            submit(leader.wait_ready().address, create_account())
            load = Load(leader.address)
            load.wait_some()
            admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})

            def partition() -> Any:
                return admin.list_topics(kafka_topic, DEADLINE_S).topics[kafka_topic].partitions[0]

            assert poll_until(lambda: sorted(partition().isrs) == [1, 2, 3], 2 * DEADLINE_S)
            broker = cluster.brokers[partition().leader - 1]
            if trouble == "dies":
                broker.kill()
            else:
                # no connection ends: only librdkafka's own timeout tells
                broker.pause()
                _goes_on(load, leader)
                broker.resume()
            _end_and_check(load, leader, url, never="reported nothing")


# leaders


def test_late_writes_of_a_deposed_leader_are_skipped_by_every_replay(url: str) -> None:
    with LeaderProcess(url, "--node-id", "older", "--no-standby") as older:
        submit(older.wait_ready().address, create_account())
        load = Load(older.address)
        load.wait_some()
        older.signal(signal.SIGSTOP)
        with LeaderProcess(url, "--takeover") as successor:
            submit(successor.wait_ready().address, create_account())
            older.signal(signal.SIGCONT)
            code, log = older.wait_exit()
            load.finish()
            assert code == 3
            assert "no longer the leader" in _last_line(log)
            check_retry(load, successor.address)
            successor.signal(signal.SIGTERM)
            assert successor.wait_exit()[0] == 0
    headers = [open_batch(record.value) for record in _records(url)]
    [takeover] = [
        offset
        for offset, header in enumerate(headers)
        if header.kind is Kind.EPOCH_START and header.epoch == 2
    ]
    late = [header for header in headers[takeover:] if header.epoch == 1]
    assert late
    replica = Replica()
    for record in _records(url):
        replica.take(record)
    assert replica.skipped_records == len(late)
    assert replica.state is not None
    assert replica.state.applied == replica.position.next_sequence
