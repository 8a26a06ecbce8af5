"""The benchmark programs, run as a user runs them, with tiny counts: they work and add up."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_app import bench_suite
from tests.leader_process import LeaderProcess, journal_url

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


def test_measure_refuses_counts_that_make_no_sense() -> None:
    done = run("cluster_app", "measure", "replay", "--batch", "8193")
    assert done.returncode == 2
    assert "--batch is 8193: give 1 to 8192" in done.stderr


def test_the_suite_measures_one_row_and_writes_it_with_machine_and_command(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    done = run("client_app.bench_suite", "--only", "single", "--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "| one command at a time, p99 " in done.stdout
    written = json.loads(path.read_text())
    assert {"machine", "commit", "versions", "quick", "rows"} == set(written)
    [row] = written["rows"]
    assert row["name"] == "single"
    assert row["failed"] is None
    assert row["commands"][0].startswith("python -m cluster_app leader --journal sqlite:///build/")
    assert [figure["floor"] for figure in row["figures"]] == [0.5, 3]
    assert all(figure["measured"] > 0 for figure in row["figures"])


def test_a_missed_floor_is_a_high_time_or_a_low_rate() -> None:
    rate = bench_suite.Figure("rate", "commands", "/s", 1_000, 2_000)
    time_ms = bench_suite.Figure("p99", "latency", "ms", 3, 1)
    assert rate.misses_floor(999)
    assert not rate.misses_floor(1_000)
    assert time_ms.misses_floor(3.1)
    assert not time_ms.misses_floor(3)
