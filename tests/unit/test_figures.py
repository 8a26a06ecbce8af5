"""Tables and plots from small, made-up figures; and BENCHMARK.md's own are those committed."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from client_app.bench_machine import ROOT, RunFailed
from tests.bench_latency import SERIES, Series, broke, histogram_of, percentiles_ms, sweep
from tests.bench_report import Figure, Options, Outcome, Report, Row, publish, run_rows, shown
from tests.bench_throughput import BATCHES, SETTINGS
from tests.figures.committed import FOLDER, TARGETS, Envelope, Unfit, committed, load, take
from tests.figures.plots import PLOTS, draw_all
from tests.figures.tables import BLOCKS, NoBlock, with_tables

ABOUT = {
    "format": 1,
    "begun": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "CPU", "cores": 2},
    "commit": {"id": "0123456789abcdef", "dirty": False},
    "versions": {},
    "scale": 1.0,
    "only": [],
}


def row(
    name: str, values: Sequence[Mapping[str, float]], units: Mapping[str, str], **axes: str | int
) -> Report:
    """A row that was run once for each of `values`."""
    figures = [Figure(key, f"{name} {key}", unit, *_goals(key)) for key, unit in units.items()]
    left = list(values)
    made = Row(name, figures, lambda _: Outcome(("a command",), {}, left.pop(0)), axes=axes)
    [report] = run_rows([made], Options(runs=len(values)))
    return report


def _goals(key: str) -> tuple[float | None, float | None]:
    return (100.0, 10.0) if key == "p99" else (None, None)


def envelope(target: str, reports: Sequence[Report], path: Path, **about: Any) -> Path:
    """What `make bench-TARGET` would have written."""
    path.mkdir(exist_ok=True)
    file = path / f"bench-{target}.json"
    whole = {**ABOUT, "target": target, **about}
    publish(reports, whole, Options(json=file, scale=whole["scale"]))
    return file


def throughput() -> list[Report]:
    units = {"rate": "/s", "p99": "ms", "leader_cpu": "us", "client_cpu": "us"}
    reports = []
    for place, setting in enumerate(SETTINGS, start=1):
        for batch in BATCHES:
            runs = [
                {"rate": batch * 1e3 / place * run, "p99": 1.0, "leader_cpu": 2, "client_cpu": 3}
                for run in (1.0, 1.1, 0.9)
            ]
            name = f"{setting.name}-batch-{batch}"
            reports.append(row(name, runs, units, journal=setting.name, batch=batch))
        single = [{"p50": 0.5, "p99": 200.0}]
        reports.append(row(f"{setting.name}-single", single, {"p50": "ms", "p99": "ms"}))
    reports.append(row("peer-postgres-set", [{"rate": 51_200.0}], {"rate": "/s"}))
    reports.append(row("kernel", [{"rate": 5e6}], {"rate": "/s"}))
    reports.append(
        row(
            "ratio",
            [{setting.name: 20.0 for setting in SETTINGS}],
            {setting.name: "x" for setting in SETTINGS},
        )
    )
    return reports


def latency() -> list[Report]:
    units = {"rate": "/s", "p50": "ms", "p99": "ms", "p999": "ms", "max": "ms"}
    figures = [Figure(key, f"p of {key}", unit) for key, unit in units.items()]
    offer = Row("rust-40000", figures, _never, axes={"series": "rust", "offered": 40_000})
    refused = Report(offer, not_measured="broken: 3 deposits were refused")
    measured = [
        row(
            f"{series.name}-{offered}",
            [{"rate": served, "p50": 1.0, "p99": 4.25, "p999": 9.0, "max": 12.0}],
            units,
            series=series.name,
            offered=offered,
        )
        for series in SERIES
        for offered, served in ((10_000, 10_000.0), (20_000, 12_000.0))
    ]
    return [*measured, refused]


def _never(_: Options) -> Outcome:
    raise AssertionError


def growth() -> list[Report]:
    units = {"rate": "/s", "p99": "ms", "leader_cpu": "us", "resident": "MB", "account": "bytes"}
    values = {"rate": 1e6, "p99": 5.0, "leader_cpu": 0.5, "resident": 400.0, "account": 130.0}
    rows = [row(f"accounts-{count}", [values], units, accounts=count) for count in (10, 1_000)]
    few = {key: units[key] for key in ("rate", "p99", "leader_cpu")}
    rows += [row(f"followers-{count}", [values], few, followers=count) for count in (0, 1)]
    return [*rows, row("growth", [{"account": 129.8}], {"account": "bytes"})]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Envelope]:
    """All benchmarks, with made-up figures."""
    folder = tmp_path_factory.mktemp("build")
    made = {"throughput": throughput(), "latency": latency(), "growth": growth()}
    others = {name: [row("one", [{"p99": 250.0}], {"p99": "ms"})] for name in TARGETS}
    return {
        name: load(envelope(name, reports, folder)) for name, reports in (others | made).items()
    }


def document(*names: str) -> str:
    return "".join(
        f"before {name}\n<!-- figures: {name} -->\nold {name}\n<!-- end of figures -->\n"
        for name in names
    )


def test_every_block_is_made_of_its_figures(measured: dict[str, Envelope]) -> None:
    text = with_tables(document(*BLOCKS), measured)
    assert "old " not in text
    assert text.count("\nbefore ") + 1 == len(BLOCKS)
    assert (
        "**1.02 M transfers/s** journaled in Kafka, applied and answered (its floor -, aim -), 20 "
        "times" in text
    )
    assert "with each batch synced to the broker's disk, as PostgreSQL's are, 20 times." in text
    assert "**p99 4.25 ms** at 10,000 single commands/s (its floor 100 ms, aim 10 ms; open" in text
    assert "Their runs: 922 k/s to 1.13 M/s (commit 01234567, 2026-01-02), and 4.25 ms" in text
    assert "| accounts (SQLite) |" in text
    assert "| 1,024 | 1.02 M | 512 k | 341 k | 256 k |" in text
    assert "| 20,000, **broken** | 60% |" in text
    assert "| 40,000 | broken: 3 deposits were refused | - | - | - | - |" in text
    assert "rates and ratios of the same row lie 20% apart at most" in text
    assert "commit 01234567, CPU, 2 cores" in text
    assert "| one p99 | **250 ms**, misses the floor | 100 ms | 10 ms |" in text
    assert "| peer-postgres-set rate | 51.2 k/s | 20 |" in text
    assert with_tables(text, measured) == text


def test_a_block_without_figures_stays_as_it_is(measured: dict[str, Envelope]) -> None:
    text = with_tables(document(*BLOCKS), {"throughput": measured["throughput"]})
    assert "old headline" in text
    assert "old latency" in text
    assert "old batch" not in text


def test_a_block_that_is_unknown_or_missing_or_doubled_is_an_error() -> None:
    for names in ([*BLOCKS, "weather"], [*BLOCKS][1:], [*BLOCKS, "batch"]):
        with pytest.raises(NoBlock, match="missing, unknown or there twice"):
            with_tables(document(*names), {})


def test_plots_are_drawn_with_the_same_bytes_each_time(
    measured: dict[str, Envelope], tmp_path: Path
) -> None:
    paths = draw_all(measured, tmp_path)
    assert [path.stem for path in paths] == [*PLOTS]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_all(measured, tmp_path)] == first
    for svg in first:
        assert ET.fromstring(svg).tag.endswith("svg")
    assert b"commands a message" in first[0]
    assert draw_all({}, tmp_path) == []


def test_only_whole_runs_of_committed_code_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    monkeypatch.setattr("tests.figures.committed.FOLDER", folder)
    build = tmp_path / "build"
    good = growth()
    failed = [Report(good[0].row, failed="the leader did not get ready")]
    dirty = {"id": "0123456789abcdef", "dirty": True}
    envelope("growth", good, build)
    envelope("ghz", good, build, scale=0.1)
    envelope("admin", good, build, commit=dirty)
    envelope("pages", failed, build)
    envelope("history", good, build, only=["postgres"])
    told = take(build)
    assert [line.partition(",")[0] for line in told] == [
        "bench-growth.json: taken",
        "bench-history.json: not taken",
        "bench-ghz.json: not taken",
        "bench-admin.json: not taken",
        "bench-pages.json: not taken",
    ]
    assert [path.name for path in folder.iterdir()] == ["growth.json"]
    assert [*committed()] == ["growth"]
    take(build, anyway=True)
    assert len(committed()) == 5


def test_two_whole_runs_are_told_apart(
    measured: dict[str, Envelope], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, build = tmp_path / "figures", tmp_path / "build"
    folder.mkdir()
    monkeypatch.setattr("tests.figures.committed.FOLDER", folder)
    units = {"rate": "/s", "p99": "ms", "p50": "ms"}

    def run(begun: str, commit: str, **values: float) -> str:
        about = {"begun": begun, "commit": {"id": commit * 40, "dirty": False}}
        envelope("growth", [row("one", [values], units)], build, **about)
        for _ in range(2):  # taking it again changes nothing
            take(build)
        return with_tables(document(*BLOCKS), measured | committed())

    assert "Measured once so far." in run("2026-01-02", "a", rate=100.0, p99=6.0, p50=1.0)
    text = run("2026-01-03", "b", rate=125.0, p99=3.0, p50=1.0)
    assert "| `make bench-growth` | 25% / 25% (one rate) | 50% / 100% (one p99) | - | - |" in text
    assert "\nBegun 2026-01-02 (aaaaaaaa), 2026-01-03 (bbbbbbbb), on one machine.\n" in text
    text = run("2026-01-04", "c", rate=125.0, p99=3.0, p50=0.0)
    assert "| `make bench-growth` | 0% / 0% (one rate) | 0% / 0% (one p99) | - | - |" in text
    assert "\nBegun 2026-01-03 (bbbbbbbb), 2026-01-04 (cccccccc), on one machine.\n" in text


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for text in ("no JSON", "[]", json.dumps({"format": 99})):
        path.write_text(text)
        with pytest.raises(Unfit):
            load(path)


def test_the_tables_of_the_benchmarks_are_those_of_the_committed_figures() -> None:
    text = (ROOT / "BENCHMARK.md").read_text()
    assert with_tables(text, committed()) == text


def test_the_committed_figures_name_no_folder_of_the_machine_that_measured() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert files
    # an absolute one has four strokes: what was measured in has been left out
    assert [file.name for file in files if "sqlite:////" in file.read_text()] == []


def test_values_are_shown_with_three_digits() -> None:
    assert [shown(value, "/s") for value in (1_798_000, 36_840, 999.4, 12)] == [
        "1.80 M/s",
        "36.8 k/s",
        "999 /s",
        "12 /s",
    ]
    assert [shown(value, "ms") for value in (0.0412, 4.25, 250.4, 0)] == [
        "0.0412 ms",
        "4.25 ms",
        "250 ms",
        "0 ms",
    ]
    assert shown(None, "s") == "-"


def test_a_rate_is_broken_when_less_is_served_or_p99_is_long() -> None:
    assert not broke({"rate": 9_900, "p99": 900}, 10_000)
    assert broke({"rate": 9_400, "p99": 1}, 10_000)
    assert broke({"rate": 10_000, "p99": 1_001}, 10_000)


def test_a_sweep_ends_after_two_broken_rates_in_a_row() -> None:
    served = {1_000: 500.0, 2_000: 2_000.0, 3_000: 1_000.0, 4_000: 1_000.0, 5_000: 5_000.0}
    series = Series("made-up", "made up", "sqlite", [*served], lambda *_: pytest.fail("unused"))

    def point(rate: int, _: Options) -> Outcome:
        values = dict.fromkeys(("p50", "p99", "p999", "max", "leader_cpu"), 1.0)
        return Outcome((), {}, values | {"rate": served[rate]})

    reports = sweep(series, point, Options())
    assert [report.row.axes["offered"] for report in reports] == [1_000, 2_000, 3_000, 4_000]
    assert reports[0].row.axes["series"] == "made-up"


def test_a_rate_that_is_refused_after_a_broken_one_is_no_failure() -> None:
    series = Series("made-up", "made up", "sqlite", (1, 2, 3), lambda *_: pytest.fail("unused"))

    def point(rate: int, _: Options) -> Outcome:
        if rate > 1:
            raise RunFailed("too many wait already")
        values = dict.fromkeys(("p50", "p99", "p999", "max", "leader_cpu"), 1.0)
        return Outcome((), {}, values | {"rate": 0.5})

    broken, refused = sweep(series, point, Options())
    assert (len(broken.runs), broken.failed) == (1, "")
    assert (refused.failed, refused.not_measured) == ("", "broken: too many wait already")


def test_a_histogram_keeps_three_digits_of_every_latency() -> None:
    latencies_us = [100] * 980 + [5_000] * 15 + [2_000_000] * 5
    found = percentiles_ms(histogram_of(latencies_us))
    assert found["p50"] == pytest.approx(0.1, rel=1e-3)
    assert found["p99"] == pytest.approx(5, rel=1e-3)
    assert found["p999"] == pytest.approx(2_000, rel=1e-3)
    assert found["max"] == pytest.approx(2_000, rel=1e-3)
