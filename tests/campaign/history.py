"""What a client did and was told, as it wrote it down itself: an append-only file.

A record is a header, 24 bytes, little-endian, and what belongs to it:

  0 kind   u32   CALL: count commands follow, 64 bytes each, written before they are sent
  4 count  u32   REPLY: count replies follow, 48 bytes each
  8 first  u64   UNKNOWN, NOT_RUN: how an attempt ended without an answer
 16 time_ns u64  AGAIN: the same bytes are sent once more
                 READ: count balances follow, 32 bytes each; first means nothing

`first` counts the commands of one client from 0, over the restarts of its process; times are of
the machine's monotonic clock, which all clients of a campaign share. A record that a killed
process left half written is cut off when the client comes back.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.record import COMMAND, COMMAND_BYTES, REPLY, REPLY_BYTES

_HEADER: Final = struct.Struct("<IIQQ")


class Kind(IntEnum):
    """What a record tells."""

    CALL = 1
    REPLY = 2
    UNKNOWN = 3
    NOT_RUN = 4
    AGAIN = 5
    READ = 6


READ: Final = np.dtype(
    [("known", "<u8"), ("applied", "<u8"), ("account", "<u8"), ("posted", "<i8")]
)
"""One balance that was read: all commands below `applied` are in it, and before it was asked for
the client had been answered (by replies and reads) of commands below `known`.
"""

_ITEMS: Final = {Kind.CALL: COMMAND, Kind.REPLY: REPLY, Kind.READ: READ}


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `items` are COMMAND, REPLY or READ [count], else empty."""

    kind: Kind
    first: int
    count: int
    time_ns: int
    items: npt.NDArray[Any]


class HistoryWriter:
    """Appends to a client's file; each record is with the kernel when the method returns."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self.next_index = 0
        self.open_calls: dict[int, bytes] = {}
        """What was called and never answered, by its first index: to be asked again."""
        end = 0
        for record, record_end in _records(path) if path.exists() else ():
            end = record_end
            if record.kind is Kind.CALL:
                self.next_index = record.first + record.count
                self.open_calls[record.first] = record.items.tobytes()
            elif record.kind is Kind.REPLY:
                self.open_calls.pop(record.first, None)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.ftruncate(self._file, end)

    def call(self, commands: bytes) -> int:
        """Write down what is about to be sent; returns the first command's index."""
        first = self.next_index
        self.next_index += len(commands) // COMMAND_BYTES
        self._write(Kind.CALL, first, len(commands) // COMMAND_BYTES, commands)
        return first

    def reply(self, first: int, replies: bytes) -> None:
        """An answer, whole: one reply for each command of the call."""
        self._write(Kind.REPLY, first, len(replies) // REPLY_BYTES, replies)

    def read(self, balances: npt.NDArray[Any]) -> None:
        """What was read: READ [n]."""
        self._write(Kind.READ, 0, len(balances), balances.tobytes())

    def note(self, kind: Kind, first: int, count: int) -> None:
        """UNKNOWN, NOT_RUN or AGAIN."""
        self._write(kind, first, count)

    def _write(self, kind: Kind, first: int, count: int, items: bytes = b"") -> None:
        os.write(self._file, _HEADER.pack(kind, count, first, self._clock_ns()) + items)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_history(path: Path) -> Iterator[Record]:
    """All whole records, in the order of writing. Items are views of the mapped file."""
    for record, _ in _records(path):
        yield record


def _records(path: Path) -> Iterator[tuple[Record, int]]:
    size = path.stat().st_size
    if not size:
        return
    mapped = memoryview(np.memmap(path, np.uint8, "r"))  # type: ignore[arg-type]
    at = 0
    nothing = np.empty(0, REPLY)
    while at + _HEADER.size <= size:
        number, count, first, time_ns = _HEADER.unpack_from(mapped, at)
        kind = Kind(number)
        dtype = _ITEMS.get(kind)
        end = at + _HEADER.size + (count * dtype.itemsize if dtype is not None else 0)
        if end > size:
            return
        items = nothing
        if dtype is not None:
            items = np.frombuffer(mapped[at + _HEADER.size : end], dtype)
        yield Record(kind, first, count, time_ns, items), end
        at = end
