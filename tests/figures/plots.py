"""BENCHMARK.md's plots as SVG, from the committed JSON: the same figures give the same bytes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter

from tests.bench_latency import SERIES
from tests.bench_throughput import BATCHES, SETTINGS
from tests.figures.committed import Envelope

_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "ringledger",  # ids of elements would be random
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE_INCHES: Final = (7.2, 4.2)


def draw_all(envelopes: Mapping[str, Envelope], folder: Path) -> list[Path]:
    """Draw every plot whose figures are there; the files written."""
    return [
        draw(envelopes[target], folder / f"{name}.svg")
        for name, (target, draw) in PLOTS.items()
        if target in envelopes
    ]


def throughput(envelope: Envelope, path: Path) -> Path:
    """Transfers a second by batch size, a line for each journal."""
    with _drawing(path) as axes:
        for setting in SETTINGS:
            points = sorted(
                (batch, row.measured("rate"))
                for batch, row in envelope.along("batch", journal=setting.name)
            )
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=setting.what)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(*_ticks(BATCHES))
        _name(axes, "commands a message, 16 messages in flight", "transfers/s")
    return path


def latency(envelope: Envelope, path: Path) -> Path:
    """p50 and p99 by offered rate, two lines for each series."""
    with _drawing(path) as axes:
        for number, series in enumerate(SERIES):
            rows = sorted(envelope.along("offered", series=series.name), key=lambda one: one[0])
            for key, style in (("p50", "--"), ("p99", "-")):
                if rows:
                    axes.plot(
                        [offered for offered, _ in rows],
                        [row.measured(key) for _, row in rows],
                        style,
                        marker="o",
                        color=f"C{number}",
                        label=f"{series.what}, {key}",
                    )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(*_ticks((1_000, 10_000, 100_000)))
        ends = "a line ends where it is broken, or with the last rate tried"
        _name(axes, f"offered a second (open loop); {ends}", "ms")
    return path


def growth(axis: str, name: str, *, log: bool) -> Callable[[Envelope, Path], Path]:
    """Transfers a second along an axis of growth."""

    def draw(envelope: Envelope, path: Path) -> Path:
        with _drawing(path) as axes:
            points = sorted((at, row.measured("rate")) for at, row in envelope.along(axis))
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label="transfers/s")
            if log:
                axes.set_xscale("log")
            axes.set_xticks(*_ticks(at for at, _ in points))
            axes.set_ylim(bottom=0)
            _name(axes, name, "transfers/s, batches of 1,024")
        return path

    return draw


PLOTS: Final[Mapping[str, tuple[str, Callable[[Envelope, Path], Path]]]] = {
    "throughput": ("throughput", throughput),
    "latency": ("latency", latency),
    "growth-accounts": ("growth", growth("accounts", "accounts", log=True)),
    "growth-followers": (
        "growth",
        growth("followers", "followers beside the leader, on the same cores", log=False),
    ),
}
"""A plot's file, the benchmark it needs, and how it is drawn."""


@contextmanager
def _drawing(path: Path) -> Iterator[Any]:
    """Axes to draw on, saved afterwards without a date."""
    with mpl.rc_context(_STYLE):
        drawing = Drawing(figsize=_SIZE_INCHES, layout="constrained")
        yield drawing.add_subplot()
        drawing.savefig(path, format="svg", metadata={"Date": None})


def _ticks(values: Iterable[int]) -> tuple[list[int], list[str]]:
    """Where ticks are, and what they say."""
    places = list(values)
    return places, [f"{value:,}" for value in places]


def _name(axes: Any, x: str, y: str) -> None:
    """What the axes mean; numbers as 100 k and 1 M, not as powers."""
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(fontsize=8)
