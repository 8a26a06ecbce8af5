"""A moving plot of one number a second, the newest on the right; as SVG, in the page's colours."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from nicegui import ui

from client_app.pages.parts import box, set_text, text
from client_app.pages.texts import grouped

SHOWN: Final = 180
"""Values: of three minutes."""

_WIDTH: Final = 1_000
_HEIGHT: Final = 120
"""The drawing's own units: the browser stretches it, and leaves its lines' width alone."""

_STEPS: Final = (1, 2, 2.5, 5, 10)
_LEAST: Final = 10.0


class Plot:
    """Commands per second. A value that isn't known leaves a gap."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._rates: deque[float | None] = deque(maxlen=SHOWN)
        with box("div", "plot"):
            with box("div", "plot-scale", aria_hidden="true"):
                self._ticks = [text("span", "") for _ in range(3)]
            self._picture = box(
                "svg",
                "plot-picture",
                viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
                preserveAspectRatio="none",
                role="img",
            )
            with self._picture:
                for y in (0, _HEIGHT // 2, _HEIGHT):
                    box("line", "grid", x1=0, x2=_WIDTH, y1=y, y2=y)
                self._area = box("path", "area")
                self._line = box("path", "line")
                self._dot = box("path", "dot")
            with box("div", "plot-times", aria_hidden="true"):
                for when in ("3 min ago", "2 min", "1 min", "now"):
                    text("span", when)
        self.draw()

    def set(self, rates: Sequence[float | None]) -> None:
        """Show these values, and none from before."""
        self._rates = deque(rates, maxlen=SHOWN)
        self.draw()

    def add(self, rate: float | None) -> None:
        """Show one more."""
        self._rates.append(rate)
        self.draw()

    def draw(self) -> None:
        """Draw what there is."""
        known = [rate for rate in self._rates if rate is not None]
        most = ceiling_of(max(known, default=0.0))
        for tick, part in zip(self._ticks, (1.0, 0.5, 0.0), strict=True):
            set_text(tick, _short(part * most))
        line, area, dot = paths_of(list(self._rates), most)
        _set_path(self._line, line)
        _set_path(self._area, area)
        _set_path(self._dot, dot)
        now = f"now {grouped(round(known[-1]))}" if known else "no value yet"
        self._picture.props["aria-label"] = f"{self._label}: {now}, up to {grouped(round(most))}"


def ceiling_of(value: float) -> float:
    """The next round number that is no less than `value`, 10 at least."""
    value = max(value, _LEAST)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _STEPS if step * power >= value)


def paths_of(rates: list[float | None], most: float) -> tuple[str, str, str]:
    """SVG paths of the line, the area below it and the newest value's dot."""
    runs: list[list[tuple[float, float]]] = []
    before: float | None = None
    for place, rate in enumerate(rates):
        if rate is not None:
            x = _WIDTH - (len(rates) - 1 - place) * _WIDTH / (SHOWN - 1)
            if before is None:
                runs.append([])
            runs[-1].append((x, _HEIGHT - rate / most * _HEIGHT))
        before = rate
    lines, areas = [], []
    for run in runs:
        points = "L".join(f"{x:.1f} {y:.1f}" for x, y in run)
        lines.append(f"M{points}")
        areas.append(f"M{run[0][0]:.1f} {_HEIGHT}L{points}L{run[-1][0]:.1f} {_HEIGHT}Z")
    # a line of no length with round ends: a dot that isn't stretched with the picture
    dot = f"M{runs[-1][-1][0]:.1f} {runs[-1][-1][1]:.1f}h0" if runs else ""
    return "".join(lines), "".join(areas), dot


def _set_path(element: ui.element, path: str) -> None:
    if element.props.get("d") != path:
        element.props["d"] = path


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e4 else grouped(f"{value:g}")
