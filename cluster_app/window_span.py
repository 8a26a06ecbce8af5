"""How far back in ledger time the window of recent command ids goes.

The window doesn't hold when its entries were made. So marks are noted now and then, (entries
made, ledger time); the oldest mark inside the window says how long it goes back at least.
"""

from collections import deque
from typing import Final

_MARKS: Final = 256
"""Marks over a full window: each may be late by a 256th of it, or by the time between two looks."""

_NS_PER_S: Final = 1e9


class WindowSpan:
    """One thread notes; any thread reads."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()
        self._since_ns: int | None = None

    def note(self, entries: int, capacity: int, ledger_time_ns: int) -> None:
        """At this time `entries` were ever made in a window of `capacity`; call it often."""
        marks = self._marks
        if marks and entries < marks[-1][0]:
            marks.clear()  # another state was restored
        if entries and (not marks or entries - marks[-1][0] > capacity // _MARKS):
            marks.append((entries, ledger_time_ns))
        # entry n was made before the first mark above n
        while len(marks) > 1 and marks[0][0] <= entries - capacity:
            marks.popleft()
        self._since_ns = marks[0][1] if marks else None

    def seconds(self, ledger_time_ns: int) -> float | None:
        """Ledger time since the oldest entry, or less: from a restored snapshot on, since then.

        None while there is no entry.
        """
        since_ns = self._since_ns
        return None if since_ns is None else max(ledger_time_ns - since_ns, 0) / _NS_PER_S
