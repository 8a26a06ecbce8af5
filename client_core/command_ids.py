"""Command ids: UUIDv7, drawn from ledger time and not from this machine's clock.

The ledger refuses an id more than a second ahead of it, and one older than what its window has
let go; a wall clock that is off would run into either. So time is learned: on connect, and from
each response. Between two observations the monotonic clock carries it on. A reply that refuses an
id as in the future brings the estimate down at once.

UUIDv7 (RFC 9562), 16 bytes big-endian:
  unix_ms 48 | version 4 = 7 | random 12 | variant 2 = 2 | counter 62
The counter starts at a random point (its top bit clear, as head-room) with each new millisecond
and rises by one within it, so ids rise however many are drawn and never borrow from later
milliseconds. The 73 random bits keep processes apart.
"""

import os
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ID: Final = struct.Struct(">QQ")
_VERSION: Final = 0x7000
_VARIANT: Final = 0x8000_0000_0000_0000
_NS_PER_MS: Final = 1_000_000
_RANDOM_HIGH_MASK: Final = 0xFFF
_RANDOM_COUNTER_MASK: Final = (1 << 61) - 1

_DRIFT_WINDOW_NS: Final = 10_000_000_000
"""Two clocks part by 100 us a second at worst: 1 ms between corrections, of the second allowed."""


class LedgerClock:
    """An estimate of ledger time, in ns since the Unix epoch. For one thread.

    `monotonic_ns` is passed in for tests.
    """

    def __init__(
        self, ledger_time_ns: int, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        now_ns = monotonic_ns()
        self._offset_ns = ledger_time_ns - now_ns
        self._window_end_ns = now_ns + _DRIFT_WINDOW_NS
        self._ahead_least_ns: int | None = None
        self.times_down = 0
        """How often it came down at once; ids then begin anew below earlier ones."""

    def now_ns(self) -> int:
        """The estimate for this moment."""
        return self._monotonic_ns() + self._offset_ns

    def observe(self, ledger_time_ns: int) -> None:
        """Learn from a response's `ledger_time_ns`.

        Time that is ahead of the estimate is taken at once. The other way round a response may
        only have been long under way, so the estimate goes back by the least lead of a window.
        """
        now_ns = self._monotonic_ns()
        ahead_ns = now_ns + self._offset_ns - ledger_time_ns
        if ahead_ns < 0:
            self._offset_ns -= ahead_ns
            ahead_ns = 0
        if self._ahead_least_ns is None or ahead_ns < self._ahead_least_ns:
            self._ahead_least_ns = ahead_ns
        if now_ns >= self._window_end_ns:
            self._offset_ns -= self._ahead_least_ns
            self._ahead_least_ns = None
            self._window_end_ns = now_ns + _DRIFT_WINDOW_NS

    def come_down(self, ledger_time_ns: int) -> None:
        """Learn from a response that refused an id as in the future: the estimate was ahead.

        A new leader's clock may be behind the one before, and ledger time stood still between
        them. A response that was long under way sets the estimate too low, until the next one.
        """
        now_ns = self._monotonic_ns()
        if now_ns + self._offset_ns <= ledger_time_ns:
            return
        self._offset_ns = ledger_time_ns - now_ns
        self._ahead_least_ns = None
        self._window_end_ns = now_ns + _DRIFT_WINDOW_NS
        self.times_down += 1


class CommandIds:
    """Ids that are unique, and rise within this object while its clock doesn't come down.

    For one thread.
    """

    def __init__(self, clock: LedgerClock) -> None:
        self._clock = clock
        self._ms = -1
        self._high = 0
        self._counter = 0
        self._times_down = clock.times_down

    def next_id(self) -> bytes:
        """One id, 16 bytes."""
        high, low = self.reserve(1)
        return _ID.pack(high, low)

    def reserve(self, count: int) -> tuple[int, int]:
        """`count` ids at once: (their common first 8 bytes, the first one's last 8 bytes).

        Both are integers read big-endian; the last 8 bytes rise by one from id to id.
        """
        ms = self._clock.now_ns() // _NS_PER_MS
        if ms > self._ms or self._times_down != self._clock.times_down:
            self._ms, self._times_down = ms, self._clock.times_down
            drawn_high, drawn_counter = _ID.unpack(os.urandom(16))
            self._high = ms << 16 | _VERSION | drawn_high & _RANDOM_HIGH_MASK
            self._counter = drawn_counter & _RANDOM_COUNTER_MASK
        first = self._counter
        self._counter = first + count
        return self._high, _VARIANT | first

    def take(self, count: int) -> "NDArray[np.uint64]":
        """`count` rising ids as an array (count, 2) of big-endian u64: 16 bytes a row."""
        # Only those who draw ids by the thousand need numpy.
        import numpy as np

        high, low = self.reserve(count)
        ids = np.empty((count, 2), dtype=">u8")
        ids[:, 0] = high
        ids[:, 1] = np.arange(low, low + count, dtype=np.uint64)
        return ids
