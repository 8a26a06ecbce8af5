"""The committed figures: one JSON file a benchmark, from build/ by `make figures`.

Only whole runs of committed code are taken: some rows, a smaller scale or a changed tree are not.
What a run's programs reported in full stays in build/, but for the histograms of latency.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import ROOT
from tests.bench_report import FORMAT, shown

FOLDER: Final = Path(__file__).resolve().parent
TARGETS: Final = (
    "throughput",
    "latency",
    "growth",
    "recovery",
    "history",
    "ghz",
    "admin",
    "pages",
)
MAX_BYTES: Final = 32 * 1024 * 1024
_KEPT_OF_RESULTS: Final = "hdr_histogram_us"


class Unfit(Exception):
    """A file of figures can't be taken; the message says why, and what to do."""


@dataclass(frozen=True)
class Row:
    """One row of an envelope (tests/bench_report.py writes it)."""

    json: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return str(self.json["name"])

    @property
    def axes(self) -> Mapping[str, Any]:
        """Where it lies in a sweep."""
        axes: Mapping[str, Any] = self.json["axes"]
        return axes

    @property
    def figures(self) -> list[Mapping[str, Any]]:
        """Each with key, what, unit, floor, aim, measured, lowest, highest, misses_floor."""
        figures: list[Mapping[str, Any]] = self.json["figures"]
        return figures

    def figure(self, key: str) -> Mapping[str, Any]:
        """One of them. Raises KeyError."""
        for figure in self.figures:
            if figure["key"] == key:
                return figure
        raise KeyError(f"the row {self.name} has no figure {key}")

    def measured(self, key: str) -> float | None:
        """The median of a figure; None where the row was not measured."""
        value: float | None = self.figure(key)["measured"]
        return value

    def shown(self, key: str) -> str:
        """The same for people; `-` where the row has no such figure."""
        if key not in {figure["key"] for figure in self.figures}:
            return "-"
        return shown(self.measured(key), str(self.figure(key)["unit"]))

    def spread(self, units: Collection[str]) -> float:
        """How far its runs lie apart at most, of their median; 0 with one run."""
        spans = [
            (figure["highest"] - figure["lowest"]) / figure["measured"]
            for figure in self.figures
            if figure["measured"] and figure["unit"] in units
        ]
        return max(spans, default=0.0)


@dataclass(frozen=True)
class Envelope:
    """What one benchmark measured, where and when."""

    json: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [Row(row) for row in self.json["rows"]]

    def row(self, name: str) -> Row | None:
        """One of them, None if it isn't there or was not measured."""
        for row in self.rows:
            if row.name == name and row.json["runs"]:
                return row
        return None

    def along(self, axis: str, **fixed: Any) -> Iterator[tuple[Any, Row]]:
        """The measured rows of a sweep: (where on the axis, row), as measured."""
        for row in self.rows:
            axes = row.axes
            if axis in axes and row.json["runs"] and fixed.items() <= axes.items():
                yield axes[axis], row

    def twice(self) -> Iterator[tuple[Mapping[str, Any], float, float]]:
        """Each figure that the whole run before had too: (figure, now, then), none of them 0."""
        before = (self.json.get("before") or {}).get("measured", {})
        for row in self.rows:
            for figure in row.figures:
                then = before.get(row.name, {}).get(figure["key"])
                if figure["measured"] and then:
                    yield figure, figure["measured"], then

    @property
    def commit(self) -> str:
        """Eight digits of its name."""
        return str(self.json["commit"]["id"])[:8]


def load(path: Path) -> Envelope:
    """Read and check an envelope. Raises Unfit."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Unfit(f"{path} has over {MAX_BYTES:,} bytes: that is no file of figures")
        whole = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unfit(f"{path} can't be read: {error}") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise Unfit(f"{path} is not of format {FORMAT}: measure again")
    return Envelope(whole)


def committed() -> dict[str, Envelope]:
    """What is there, by target. Raises Unfit."""
    paths = {target: FOLDER / f"{target}.json" for target in TARGETS}
    return {target: load(path) for target, path in paths.items() if path.exists()}


def take(build: Path, *, anyway: bool = False) -> list[str]:
    """Copy what `build` has of whole runs of committed code; one line for each file that it has.

    `anyway` also takes trial runs, for trying this program. Raises Unfit.
    """
    told = []
    for target in TARGETS:
        path = build / f"bench-{target}.json"
        if not path.exists():
            continue
        envelope = load(path)
        why = None if anyway else _unfit(envelope)
        if why:
            told.append(f"{path.name}: not taken, {why}")
            continue
        kept = {
            **envelope.json,
            "before": _before(envelope, FOLDER / f"{target}.json"),
            "rows": [_lean(row) for row in envelope.json["rows"]],
        }
        # commands hold addresses of files: told as from the project that was measured, which
        # may be another checkout than this one
        text = json.dumps(kept, indent=1)
        for root in (ROOT, build.resolve().parent):
            text = text.replace(f"{root}/", "")
        (FOLDER / f"{target}.json").write_text(text + "\n")
        told.append(f"{path.name}: taken, commit {envelope.commit}")
    return told


def _before(envelope: Envelope, path: Path) -> Mapping[str, Any] | None:
    """What the run that is committed so far had measured, to tell how far two runs agree."""
    if not path.exists():
        return None
    last = load(path).json
    if last["begun"] == envelope.json["begun"]:  # taken again
        before: Mapping[str, Any] | None = last.get("before")
        return before
    if last["machine"] != envelope.json["machine"]:
        return None
    measured = {
        row["name"]: {figure["key"]: figure["measured"] for figure in row["figures"]}
        for row in last["rows"]
    }
    return {"commit": last["commit"]["id"], "begun": last["begun"], "measured": measured}


def _unfit(envelope: Envelope) -> str | None:
    if envelope.json["scale"] != 1:
        return f"it is of --scale {envelope.json['scale']}"
    if envelope.json["only"]:
        return "it is of some rows only"
    if envelope.json["commit"]["dirty"] is not False:
        return "the tree was not a commit's: commit, and measure again"
    if failed := [row["name"] for row in envelope.json["rows"] if row["failed"]]:
        return f"these failed: {', '.join(failed)}"
    return None


def _lean(row: Mapping[str, Any]) -> dict[str, Any]:
    runs = []
    for run in row["runs"]:
        result = run["result"] if isinstance(run["result"], dict) else {}
        kept = {key: value for key, value in result.items() if key == _KEPT_OF_RESULTS}
        runs.append({**run, "result": kept})
    return {**row, "runs": runs}
