"""The benchmark programs, run as a user runs them, with tiny counts: they work and add up."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from client_app.bench_commands import FUNDS
from client_app.bench_machine import BUILD, SQLITE, NotMeasured, RunFailed, cpu_s
from cluster_app.journals import open_journal
from cluster_core.batch import HEADER_BYTES, EpochStart, LedgerParameters
from cluster_core.record import COMMAND_BYTES
from tests import bench_engine, bench_peers, bench_postgres, bench_throughput
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, single_report
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import poll_until
from tests.service_programs import demand
from tests.services import KafkaCluster, Postgres

LIMIT_S = 100

FIELDS = {
    "commands",
    "accepted",
    "refused",
    "duplicates",
    "seconds",
    "commands_per_second",
    "latency_ms",
    "parameters",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", *arguments),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=Path(__file__).parent.parent.parent,
        check=False,
    )


def last_object(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    """One leader for all: the bench makes accounts of its own each time."""
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("bench"))) as process:
        yield process.wait_ready()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--batch", "64", "--in-flight", "4"), id="batches"),
        pytest.param(("--batch", "1", "--in-flight", "1"), id="one at a time"),
        pytest.param(("--operation", "deposit"), id="deposits"),
        pytest.param(("--rate", "2000"), id="open loop"),
        pytest.param(("--callers", "8"), id="callers"),
        pytest.param(("--contract", "bank", "--streams", "4"), id="bank contract"),
    ],
)
def test_bench_reports_every_command_and_agrees_with_the_server(
    leader: LeaderProcess, flags: tuple[str, ...]
) -> None:
    result = last_object(
        *("client_app", "bench", "--target", leader.address),
        *("--commands", "200", "--accounts", "10", *flags),
    )
    assert set(result) == FIELDS
    assert (result["commands"], result["accepted"]) == (200, 200)
    assert (result["refused"], result["duplicates"]) == (0, 0)
    assert result["commands_per_second"] == pytest.approx(200 / result["seconds"], rel=0.01)
    latency_ms = result["latency_ms"]
    assert list(latency_ms) == ["p50", "p90", "p99", "p999", "max"]
    assert latency_ms["p50"] > 0
    assert list(latency_ms.values()) == sorted(latency_ms.values())
    parameters = result["parameters"]
    assert (parameters["commands"], parameters["accounts"]) == (200, 10)
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        assert str(parameters[name[2:].replace("-", "_")]).removesuffix(".0") == value


def test_bench_without_a_leader_fails_with_one_line() -> None:
    done = run("client_app", "bench", "--target", "127.0.0.1:1", "--commands", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("bench: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_kernel_is_measured_in_whole_batches() -> None:
    result = last_object(
        *("cluster_app", "measure", "kernel", "--accounts", "100"),
        *("--commands", "2000", "--warm-up", "1000"),
    )
    assert (result["commands"], result["rounds"]) == (2_048, 1)
    assert result["window_entries"] == 100 + 100 + 1_024 + 2_048
    rates = result["commands_per_second"]
    assert 0 < rates["min"] <= rates["median"] <= rates["max"]


@pytest.mark.parametrize(("batch", "batches"), [(1, 302), (64, 9), (8_192, 5)])
def test_replay_reads_every_batch_of_its_journal(batch: int, batches: int, tmp_path: Path) -> None:
    result = last_object(
        *("cluster_app", "measure", "replay", "--accounts", "10", "--commands", "300"),
        *("--batch", str(batch), "--folder", str(tmp_path)),
    )
    assert (result["commands"], result["batches"]) == (300, batches)
    assert result["commands_per_second"] == pytest.approx(300 / result["seconds"], rel=0.01)
    assert list(tmp_path.iterdir()) == []


def test_replay_fills_the_empty_journal_that_it_is_given_and_no_other(journal: str) -> None:
    counts = ("--accounts", "10", "--commands", "300", "--batch", "64")
    result = last_object("cluster_app", "measure", "replay", *counts, "--journal", journal)
    assert (result["commands"], result["batches"]) == (300, 9)
    start = EpochStart("measure", "127.0.0.1:0", LedgerParameters()).pack()
    assert result["journal_bytes"] == 9 * HEADER_BYTES + 300 * COMMAND_BYTES + len(start)
    with closing(open_journal(journal)) as kept:
        assert kept.end_offset() == 9
    again = run("cluster_app", "measure", "replay", *counts, "--journal", journal)
    assert again.returncode == 2
    assert f"--journal {journal} isn't empty" in again.stderr


def test_measure_refuses_counts_that_make_no_sense() -> None:
    done = run("cluster_app", "measure", "replay", "--batch", "8193")
    assert done.returncode == 2
    assert "--batch is 8193: give 1 to 8192" in done.stderr


def test_the_suite_measures_one_row_and_writes_it_with_machine_and_command(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    done = run("tests.bench_engine", "--only", "single", "--scale", "0.1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "| one command at a time, p99 " in done.stdout
    written = json.loads(path.read_text())
    assert (written["format"], written["target"], written["scale"]) == (1, "engine", 0.1)
    assert written["command"].startswith("python -m tests.bench_engine --only single --scale 0.1")
    assert {"machine", "commit", "versions", "begun", "seconds"} <= set(written)
    assert set(written["commit"]) == {"id", "dirty"}
    [row] = written["rows"]
    assert row["name"] == "single"
    assert row["failed"] is None
    assert row["commands"][0].startswith("python -m cluster_app leader --journal sqlite:///build/")
    assert [figure["floor"] for figure in row["figures"]] == [0.5, 3]
    assert all(figure["measured"] > 0 for figure in row["figures"])


def test_a_missed_floor_is_a_high_time_or_a_low_rate() -> None:
    rate = Figure("rate", "commands", "/s", 1_000, 2_000)
    time_ms = Figure("p99", "latency", "ms", 3, 1)
    assert rate.misses_floor(999)
    assert not rate.misses_floor(1_000)
    assert time_ms.misses_floor(3.1)
    assert not time_ms.misses_floor(3)


def test_the_suite_gives_each_leader_a_topic_and_its_flags_and_deletes_the_topic(
    kafka: KafkaCluster, kafka_topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    prefix = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    done = run(
        *("tests.bench_engine", "--only", "single", "--scale", "0.1", "--json", str(path)),
        *("--journal", prefix, "--leader-flag=--max-streams=64", "--leader-flag=--node-id=one"),
    )
    assert done.returncode == 0, done.stderr
    assert "stays" not in done.stderr
    written = json.loads(path.read_text())
    [row] = written["rows"]
    leader = row["commands"][0]
    assert leader.startswith(f"python -m cluster_app leader --journal {prefix}-")
    assert leader.endswith(" --max-streams=64 --node-id=one")
    assert {"confluent-kafka", "librdkafka"} <= set(written["versions"])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def is_gone() -> bool:
        topics = admin.list_topics(timeout=10).topics
        return not any(name.startswith(kafka_topic) for name in topics)

    assert poll_until(is_gone, 30)


def test_the_suite_replays_from_the_journal_that_it_is_given(
    kafka: KafkaCluster, kafka_topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    prefix = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    done = run(
        *("tests.bench_engine", "--only", "replay-1", "--scale", "0.1", "--json", str(path)),
        *("--journal", prefix),
    )
    assert done.returncode == 0, done.stderr
    assert "| replay from Kafka, batches of 1 " in done.stdout
    [row] = json.loads(path.read_text())["rows"]
    assert f" --journal {prefix}-" in row["commands"][0]
    assert row["runs"][0]["result"]["batches"] == 20_000 + 2


def test_a_flag_that_no_leader_takes_fails_the_row(tmp_path: Path) -> None:
    done = run(
        *("tests.bench_engine", "--only", "single", "--json", str(tmp_path / "bench.json")),
        "--leader-flag=--max-streams=0",
    )
    assert done.returncode == 1
    assert "single failed: the leader did not get ready: " in done.stderr
    assert "--max-streams must be 1 to 1,000,000" in done.stderr


@pytest.mark.parametrize("journal", ["kafka://one:9092", "kafka://one:9092/a b", "data.db"])
def test_the_suite_refuses_a_journal_that_it_cannot_make_anew(journal: str) -> None:
    done = run("tests.bench_engine", "--journal", journal)
    assert done.returncode == 2
    assert f"{journal!r}: use sqlite or kafka://HOST:PORT[,...]/PREFIX" in done.stderr


def test_floors_and_words_of_a_row_are_those_of_its_journal() -> None:
    rows = {row.name: row for row in bench_engine.ROWS}

    def goals(name: str, journal: str) -> list[tuple[str, float | None, float | None]]:
        figures = rows[name].on(journal).figures
        return [(figure.what.partition(",")[0], figure.floor, figure.aim) for figure in figures]

    kafka = "kafka://one:9092/journal"
    assert goals("transfers", SQLITE) == [("transfers", 2e6, 4e6)]
    assert goals("transfers", kafka) == [("transfers", 2.5e6, 5e6)]
    assert goals("replay-1024", SQLITE) == [("replay from SQLite", 3e6, 6e6)]
    assert goals("replay-1024", kafka) == [("replay from Kafka", 3e6, 6e6)]
    assert goals("single", kafka) == goals("single", SQLITE)


@pytest.mark.usefixtures("kafka")  # where no Kafka can run there is nothing to measure
def test_a_setting_has_a_cluster_of_its_own_and_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    before = {*BUILD.glob("bench-*/broker-1")}
    chosen = ("--only", "kafka-single", "--only", "kafka-batch-1024")
    small = ("--scale", "0.005", "--runs", "2")
    done = run("tests.bench_throughput", *chosen, *small, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "| Kafka, one broker, acks=all (page cache): one command at a time, p99 " in done.stdout
    written = json.loads(path.read_text())
    assert {"kafka", "java", "postgres", "librdkafka"} <= set(written["versions"])
    batch, single = written["rows"]
    assert (single["name"], single["failed"], single["not_measured"]) == (
        "kafka-single",
        None,
        None,
    )
    assert (batch["name"], batch["axes"]) == (
        "kafka-batch-1024",
        {"journal": "kafka", "batch": 1_024},
    )
    # the headline's row has three whatever is asked
    assert (len(batch["runs"]), len(single["runs"])) == (3, 2)
    for row in written["rows"]:
        for figure in row["figures"]:
            assert 0 < figure["lowest"] <= figure["measured"] <= figure["highest"]
    assert batch["runs"][0]["result"]["commands"] == 50_000
    assert {*BUILD.glob("bench-*/broker-1")} <= before


@pytest.mark.parametrize(
    ("target", "row", "scale"),
    [
        ("latency", "sqlite-1000", "0.05"),
        ("growth", "accounts-10000", "0.001"),
        ("admin", "client-account", "0.02"),
        ("history", "sqlite", "0.002"),
    ],
)
def test_each_benchmark_writes_its_rows(target: str, row: str, scale: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    done = run(f"tests.bench_{target}", "--only", row, "--scale", scale, "--json", str(path))
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert (written["target"], written["only"]) == (target, [row])
    [found] = written["rows"]
    assert (found["name"], len(found["runs"])) == (row, 1)
    assert all(figure["measured"] > 0 for figure in found["figures"] if figure["unit"] == "/s")


def test_the_cpu_of_a_run_shorter_than_a_tick_is_measured() -> None:
    before = time.process_time()
    used_s = cpu_s(os.getpid())
    assert before < used_s < time.process_time()


def test_a_row_that_fails_ends_none_but_itself() -> None:
    def fail(_: Options) -> Outcome:
        raise AssertionError("it did not get ready")

    figures = (Figure("rate", "made up", "/s"),)
    good = Row("good", figures, lambda _: Outcome((), {}, {"rate": 1.0}))
    bad, well = run_rows([Row("bad", figures, fail), good], Options(runs=2))
    assert (bad.failed, bad.runs) == ("it did not get ready", [])
    assert (well.failed, len(well.runs)) == ("", 2)


def test_a_row_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    done = run("tests.bench_growth", "--only", "accounts-7")
    assert done.returncode == 2
    assert "--only accounts-7: there is none; there are accounts-10000, " in done.stderr


def test_ratios_are_to_the_median_of_the_peers_runs() -> None:
    def report(name: str, *rates: float) -> Report:
        row = Row(name, (Figure("rate", name, "/s"),), lambda _: Outcome((), {}, {}))
        reports = [single_report(row, Outcome((), {}, {"rate": rate})) for rate in rates]
        return Report(row, [run for one in reports for run in one.runs])

    ours = [report("kafka-batch-1024", 4_000), report("rf3-batch-1024", 1_000)]
    peers = [report("peer-postgres-set", 100, 300), report("peer-sqlite-one", 50)]
    [ratio] = bench_throughput.ratios([*ours, *peers])
    [run] = ratio.runs
    assert run.outcome.values == {
        "kafka": 20.0,
        "rf3": 5.0,
        "peer-postgres-set": 1.0,
        "peer-sqlite-one": 0.25,
    }
    kafka = ratio.row.figures[0]
    assert (kafka.floor, kafka.aim) == (15, 30)
    assert kafka.misses_floor(14.9)
    assert not kafka.misses_floor(20)
    assert bench_throughput.ratios(ours) == []


@pytest.mark.parametrize("row", bench_peers.PEER_ROWS, ids=lambda row: row.name)
def test_each_peer_books_every_transfer(row: Row) -> None:
    try:
        outcome = row.measure(Options(scale=0.01))
    except NotMeasured as reason:
        demand(str(reason))
        return
    assert all(value > 0 for value in outcome.values.values())


@pytest.fixture
def peer(postgres: Postgres) -> Iterator[str]:
    """The address of a database with the peer's tables and ten funded accounts."""
    name = f"peer_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.conninfo, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name}".encode())
        conninfo = postgres.conninfo.removesuffix("ringledger") + name
        with psycopg.connect(conninfo) as connection:
            connection.execute(bench_postgres.SCHEMA)
            connection.execute("INSERT INTO accounts SELECT id, 100 FROM generate_series(1, 10) id")
        yield conninfo
        owner.execute(f"DROP DATABASE {name}".encode())


def book(connection: psycopg.Connection, *transfers: tuple[uuid.UUID, int, int, int]) -> int:
    columns = list(map(list, zip(*transfers, strict=True)))
    call = "SELECT book_transfers(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[])"
    [[booked]] = connection.execute(call, columns).fetchall()
    return int(booked)


def balances(connection: psycopg.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT balance FROM accounts ORDER BY id")]


def test_the_peer_books_each_transfer_once(peer: str) -> None:
    first, second, third = (uuid.uuid4() for _ in range(3))
    with psycopg.connect(peer, autocommit=True) as connection:
        assert book(connection, (second, 1, 2, 30), (first, 2, 3, 130), (second, 1, 2, 30)) == 2
        assert balances(connection)[:4] == [70, 0, 230, 100]
        assert book(connection, (first, 2, 3, 130), (second, 1, 2, 30)) == 0
        assert book(connection, (first, 2, 3, 130), (third, 3, 1, 30)) == 1
        assert balances(connection)[:4] == [100, 0, 200, 100]


@pytest.mark.parametrize(
    ("debit", "credit", "amount", "reason"),
    [
        pytest.param(1, 2, 71, "never_below_zero", id="overdraft"),
        pytest.param(11, 2, 1, "unknown accounts", id="unknown debit account"),
        pytest.param(1, 11, 1, "unknown accounts", id="unknown credit account"),
        pytest.param(1, 1, 1, "credit_account", id="one account twice"),
        pytest.param(1, 2, 0, "amount", id="nothing"),
    ],
)
def test_the_peer_books_nothing_of_a_call_that_must_not_be(
    peer: str, debit: int, credit: int, amount: int, reason: str
) -> None:
    with psycopg.connect(peer, autocommit=True) as connection:
        good = (uuid.uuid4(), 1, 2, 30)
        with pytest.raises(psycopg.Error, match=reason):
            book(connection, good, (uuid.uuid4(), debit, credit, amount))
        assert balances(connection) == [100] * 10
        assert book(connection, good) == 1


def test_the_peer_is_measured_with_each_number_of_connections(peer: str) -> None:
    result = bench_postgres.measure(peer, transfers=2_500, accounts=100, seed=1)
    attempts = result["attempts"]
    assert tuple(one["connections"] for one in attempts) == bench_postgres.CONNECTIONS
    rates = [one["transfers_per_second"] for one in attempts]
    assert result["transfers_per_second"] == max(rates)
    assert rates[0] == pytest.approx(2_500 / attempts[0]["seconds"], rel=0.01)
    with psycopg.connect(peer) as connection:
        assert balances(connection) != [FUNDS] * 100
        assert sum(balances(connection)) == 100 * FUNDS
        assert connection.execute("SELECT count(*) FROM transfers").fetchall() == [(2_750,)]


def test_a_peer_whose_balances_differ_from_what_was_sent_fails(peer: str) -> None:
    sent = bench_postgres.make_transfers(50, 10, seed=1)
    with psycopg.connect(peer, autocommit=True) as connection:
        connection.execute("UPDATE accounts SET balance = %s", (FUNDS,))
        [call] = sent.calls()
        with pytest.raises(RunFailed, match="50 transfers were sent, 0 booked"):
            bench_postgres.check(connection, [sent], 10, 0)
        result = connection.pgconn.exec_params(
            b"SELECT book_transfers($1, $2, $3, $4)", call, (2951, 1016, 1016, 1016), (1, 1, 1, 1)
        )
        assert result.get_value(0, 0) == b"50"
        bench_postgres.check(connection, [sent], 10, 50)
        connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
        with pytest.raises(RunFailed, match="balances differ"):
            bench_postgres.check(connection, [sent], 10, 50)
