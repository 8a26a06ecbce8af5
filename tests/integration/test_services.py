"""The servers that other tests rely on: they keep what they took, and leave nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.server_process import (
    HOST,
    ServerProcess,
    command_of,
    free_ports,
    poll_until,
    port_is_free,
)
from tests.service_programs import REPOSITORY, ServiceFailed
from tests.services import KafkaCluster, Postgres

DEADLINE_S = 30.0


def make_topic(bootstrap: str, topic: str, **config: str) -> None:
    copies = bootstrap.count(",") + 1
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    made = admin.create_topics([NewTopic(topic, 1, copies, config=config)])
    made[topic].result(DEADLINE_S)


def append(bootstrap: str, topic: str, value: bytes) -> None:
    settings = {"bootstrap.servers": bootstrap, "acks": "all", "message.max.bytes": 2 * 1024 * 1024}
    producer = Producer({**settings, "log_level": 0})
    errors = []
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(DEADLINE_S) == 0
    assert errors == [None]


def values(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        records = consumer.consume(count, timeout=DEADLINE_S)
    finally:
        consumer.close()
    assert [record.error() for record in records] == [None] * count
    return [record.value() for record in records]


def dev_services(action: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.dev_services", action],
        env=dict(environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def without_program(name: str, folder: Path) -> dict[str, str]:
    """This environment with a PATH that has everything but one program."""
    folder.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).glob("*"):
            link = folder / program.name
            if program.name != name and not link.is_symlink():
                link.symlink_to(program)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    return environment | {"PATH": str(folder)}


@pytest.fixture
def dev_environment(tmp_path: Path) -> dict[str, str]:
    """Development servers of this test's own, without Docker."""
    kafka_port, postgres_port = free_ports(2)
    return without_program("docker", tmp_path / "bin") | {
        "RINGLEDGER_DEV_KAFKA_PORT": str(kafka_port),
        "RINGLEDGER_DEV_POSTGRES_PORT": str(postgres_port),
        "RINGLEDGER_DEV_DATA": str(tmp_path / "dev"),
    }


def test_a_broker_gives_back_the_record_that_it_took(kafka: KafkaCluster, kafka_topic: str) -> None:
    make_topic(kafka.bootstrap, kafka_topic)
    append(kafka.bootstrap, kafka_topic, b"x" * 1_500_000)
    assert values(kafka.bootstrap, kafka_topic, 1) == [b"x" * 1_500_000]


def test_a_record_survives_kill_and_start_of_its_broker(
    kafka: KafkaCluster, kafka_topic: str
) -> None:
    make_topic(kafka.bootstrap, kafka_topic)
    append(kafka.bootstrap, kafka_topic, b"before")
    broker = kafka.brokers[0]
    broker.kill()
    assert port_is_free(broker.port)
    broker.start()
    broker.wait_ready()
    append(kafka.bootstrap, kafka_topic, b"after")
    assert values(kafka.bootstrap, kafka_topic, 2) == [b"before", b"after"]


@pytest.mark.usefixtures("kafka")  # which skips where Kafka can't run
def test_three_brokers_serve_a_topic_with_one_of_them_killed(
    tmp_path: Path, kafka_topic: str
) -> None:
    with KafkaCluster(tmp_path, brokers=3) as cluster:
        make_topic(cluster.bootstrap, kafka_topic, **{"min.insync.replicas": "2"})
        append(cluster.bootstrap, kafka_topic, b"by three")
        topic = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(kafka_topic)
        leader = topic.topics[kafka_topic].partitions[0].leader
        cluster.brokers[leader - 1].kill()
        append(cluster.bootstrap, kafka_topic, b"by two")
        assert values(cluster.bootstrap, kafka_topic, 2) == [b"by three", b"by two"]


def test_a_broker_that_ends_before_it_serves_is_an_error_with_its_log(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    # The port is another cluster's, whose answers are not taken for this one's.
    cluster = KafkaCluster(tmp_path, ports=[kafka.brokers[0].port])
    with pytest.raises(ServiceFailed, match=r"(?s)exit code 1 .*Address already in use"):
        cluster.start()
    assert not cluster.brokers[0].is_running


def test_rows_survive_kill_and_start_of_postgres(postgres: Postgres) -> None:
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
    postgres.kill()
    assert port_is_free(postgres.port)
    postgres.start()
    postgres.wait_ready()
    with psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(42,)]


def test_a_server_is_not_started_on_a_thread_that_it_would_end_with(tmp_path: Path) -> None:
    server = ServerProcess("a server", ["sleep", "60"], tmp_path / "log")
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="start it on the main"):
        pool.submit(server.start).result()
    assert not server.is_running


@pytest.mark.usefixtures("postgres")
def test_a_server_ends_with_a_killed_test_run(tmp_path: Path) -> None:
    run = (
        "import signal, sys; from pathlib import Path; from tests.services import Postgres\n"
        "server = Postgres(Path(sys.argv[1])); server.start(); server.wait_ready()\n"
        "print(server.process.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", run, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert "postgres" in command_of(pid)[0]
        process.kill()
    assert poll_until(lambda: not command_of(pid), DEADLINE_S)


@pytest.mark.usefixtures("kafka", "postgres")
def test_setup_and_down_can_be_run_twice_and_keep_the_data(
    dev_environment: dict[str, str],
) -> None:
    first = dev_services("up", dev_environment)
    try:
        assert first.returncode == 0, first.stderr
        pids = re.findall(r"^\w+: started on .* process (\d+);", first.stdout, re.MULTILINE)
        assert len(pids) == 2
        url = re.search(r"^RINGLEDGER_SNAPSHOTS=(.*)", first.stdout, re.MULTILINE)
        assert url is not None
        conninfo = url[1].replace("+psycopg", "")
        with psycopg.connect(conninfo) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        second = dev_services("up", dev_environment)
        again = re.findall(r": already running on .* process (\d+);", second.stdout)
        assert (second.returncode, again) == (0, pids)
    finally:
        down = dev_services("down", dev_environment)
    assert (down.returncode, down.stdout.count(": stopped;")) == (0, 2)
    assert [command_of(int(pid)) for pid in pids] == [[], []]
    second_down = dev_services("down", dev_environment)
    assert (second_down.returncode, second_down.stdout.count(": not running;")) == (0, 2)
    with (
        Postgres(
            Path(dev_environment["RINGLEDGER_DEV_DATA"], "postgres"),
            port=int(dev_environment["RINGLEDGER_DEV_POSTGRES_PORT"]),
        ),
        psycopg.connect(conninfo) as connection,
    ):
        assert connection.execute("SELECT number FROM kept").fetchall() == [(42,)]


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("java", "Kafka needs Java 17 or newer, and there is no `java` on PATH: install one"),
        ("setpriv", "servers are started by `setpriv`, which is not on PATH: install util-linux"),
    ],
)
def test_setup_says_in_one_sentence_which_program_is_missing(
    name: str, sentence: str, dev_environment: dict[str, str], tmp_path: Path
) -> None:
    if name == "setpriv" and shutil.which("java") is None:
        pytest.skip("without Java, that is what is missing")
    (tmp_path / "bin" / name).unlink()
    try:
        up = dev_services("up", dev_environment | {"JAVA_HOME": ""})
        assert up.returncode == 1
        assert sentence in up.stderr
        assert "Traceback" not in up.stderr
        assert ("postgres: started" in up.stdout) == (name == "java")
    finally:
        dev_services("down", dev_environment)


def test_setup_leaves_other_programs_and_their_ports_alone(
    dev_environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "dev"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, dev_environment["RINGLEDGER_DEV_POSTGRES_PORT"]],
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"listening\n"
        # As after a crash: our pid file is left, and another program has got the number.
        (folder / "postgres.pid").write_text(f"{other.pid} 1\n")
        (tmp_path / "bin" / "java").unlink(missing_ok=True)
        up = dev_services("up", dev_environment | {"JAVA_HOME": ""})
        down = dev_services("down", dev_environment)
        assert other.poll() is None
        other.send_signal(signal.SIGKILL)
    port = dev_environment["RINGLEDGER_DEV_POSTGRES_PORT"]
    assert f"postgres: port {port} of {HOST} is in use by another program" in up.stderr
    assert "postgres: not running" in down.stdout


LISTEN = """
import signal, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("listening", flush=True)
    signal.pause()
"""
