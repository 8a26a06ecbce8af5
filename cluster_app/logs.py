"""Logs: key-value lines on standard error, JSON when it is no terminal. Progress of long work."""

import logging
import sys
import time
from typing import Any, Final

import structlog
from tqdm import tqdm

LINE_INTERVAL_S: Final = 2.0
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_level = "info"


def log_level() -> str:
    """The level in force, one of LOG_LEVELS."""
    return _level


def set_log_level(level: str) -> None:
    """Change the level, one of LOG_LEVELS, while the process runs. From any thread."""
    configure_logs(level)


def configure_logs(level: str) -> None:
    """Set level (debug, info, warning, error) and form for the whole process."""
    global _level  # noqa: PLW0603 - structlog's configuration is the process's, and so is this
    _level = level
    terminal = sys.stderr.isatty()
    # on a terminal tracebacks are rendered below the line; JSON needs them as a field's text
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class ReplayProgress:
    """A progress bar with rate and time left on a terminal, a line every 2 s elsewhere.

    Its length is in journal batches, its rate in commands.
    """

    def __init__(self, first_offset: int, end_offset: int, first_sequence: int = 0) -> None:
        self._first_offset = first_offset
        self._end_offset = end_offset
        self._begun = self._said = time.monotonic()
        self._first_sequence = first_sequence
        self._commands = 0
        self._bar = (
            tqdm(total=end_offset - first_offset, desc="replay", unit=" batches")
            if sys.stderr.isatty()
            else None
        )

    def update(self, offset: int, applied: int) -> None:
        """Tell that everything below `offset` and below sequence `applied` is applied."""
        self._commands = applied - self._first_sequence
        now = time.monotonic()
        done = offset - self._first_offset
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix_str(f"{self._rate(now):,.0f} commands/s", refresh=False)
        elif now - self._said >= LINE_INTERVAL_S:
            self._said = now
            left = self._end_offset - offset
            structlog.get_logger().info(
                "replaying",
                offset=offset,
                end_offset=self._end_offset,
                commands_per_second=round(self._rate(now)),
                seconds_left=round((now - self._begun) * left / max(done, 1), 1),
            )

    def close(self) -> None:
        """End the bar and say how long it took."""
        if self._bar is not None:
            self._bar.close()
        now = time.monotonic()
        structlog.get_logger().info(
            "replayed",
            commands=self._commands,
            seconds=round(now - self._begun, 3),
            commands_per_second=round(self._rate(now)),
        )

    def _rate(self, now: float) -> float:
        return self._commands / max(now - self._begun, 1e-9)


class RestoreProgress:
    """A snapshot's rows as they come: a bar on a terminal, a line every 2 s elsewhere."""

    def __init__(self) -> None:
        self._begun = self._said = time.monotonic()
        self._bar: Any = None

    def update(self, rows: int, total_rows: int) -> None:
        """Tell that `rows` of `total_rows` are restored."""
        now = time.monotonic()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total_rows, desc="restore", unit=" rows")
            self._bar.update(rows - self._bar.n)
        elif now - self._said >= LINE_INTERVAL_S:
            self._said = now
            structlog.get_logger().info(
                "restoring",
                rows=rows,
                total_rows=total_rows,
                seconds_left=round((now - self._begun) * (total_rows - rows) / max(rows, 1), 1),
            )

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
