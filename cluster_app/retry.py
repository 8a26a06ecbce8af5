"""When to ask again what doesn't answer now: soon at first, then less and less often."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from cluster_app.errors import JournalUnreachable, Stopped, StoreRefuses
from cluster_app.http_side import NodeHealth
from cluster_core.errors import StoreUnavailable

_FIRST_S: Final = 0.5
_MAX_S: Final = 30.0
_STOP_LOOK_S: Final = 0.05

REFUSALS_MAX: Final = 4
"""So many refusals in a row, within 4 s, are believed: a server that has just come back may have
no connection left for a moment."""

T = TypeVar("T")


class Retry:
    """When to try again."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self._at = 0.0

    def failed(self) -> None:
        """Wait, longer than the last time."""
        self.wait_s = min(max(2 * self.wait_s, _FIRST_S), _MAX_S)
        self._at = time.monotonic() + self.wait_s

    def succeeded(self) -> None:
        """Wait no more."""
        self.wait_s = self._at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the wait is over."""
        return time.monotonic() >= self._at


def patiently(read: Callable[[], T], stopping: Callable[[], bool], health: NodeHealth) -> T:
    """What `read` gives, which is called again while the journal or a store can't be reached.

    It blocks; `health` tells meanwhile why the node isn't ready, and afterwards what it told
    before. Raises Stopped when `stopping` says so, StoreRefuses for a store that goes on refusing,
    and whatever else `read` raises.
    """
    retry, refusals, told = Retry(), 0, health.not_ready_because
    while not stopping():
        try:
            found = read()
        except (JournalUnreachable, StoreUnavailable) as error:
            refusals = refusals + 1 if isinstance(error, StoreRefuses) else 0
            if refusals >= REFUSALS_MAX:
                raise
            retry.failed()
            _say_waiting(error, retry.wait_s, health)
        else:
            if retry.wait_s and told:
                health.not_ready(told)
            return found
        # out of there first: the error's frames may hold a whole state
        while not retry.is_due and not stopping():
            time.sleep(_STOP_LOOK_S)
    raise Stopped("stopped before it could begin")


def _say_waiting(error: Exception, retry_in_s: float, health: NodeHealth) -> None:
    what = "the journal" if isinstance(error, JournalUnreachable) else "a store"
    health.not_ready(f"waiting for {what}")
    structlog.get_logger().warning(
        f"{what} gives nothing: waiting for it", error=str(error), retry_in_s=retry_in_s
    )
