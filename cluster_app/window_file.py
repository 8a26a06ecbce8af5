"""The window of recent ids in a file, for a node that has little memory and hardly any duplicates.

The ring is three quarters of the state's memory, 288 MiB by default, and it is written slot after
slot: in a mapped file its pages belong to the system's cache, which takes them back when it needs
them, and only what was touched a moment ago is this process's. The file has no name: it is gone
with the process.
"""

import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from cluster_app.errors import Fault
from cluster_core.batch import LedgerParameters
from cluster_core.recent_commands import RecentCommands, map_window
from cluster_core.snapshot import WindowCopy

_RELEASE_INTERVAL_S: Final = 0.02
"""A restore or a digest goes through the ring at about 2 GB/s: 40 MB in this time."""

_SLICE_BYTES: Final = 16 << 20
"""Of the ring are read at a time for a snapshot: on a busy machine the thread may be too late."""

_DEFAULT_FOLDER: Final = "/var/tmp"  # by convention a disk's; /tmp may be memory


class WindowFile:
    """Makes windows whose ring lies in a file, and lets go of its pages until it is closed."""

    def __init__(self) -> None:
        self._folder = os.environ.get("TMPDIR") or _DEFAULT_FOLDER
        self._pages: list[mmap.mmap] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="window-file", daemon=True)
        self._thread.start()

    def make_window(self, parameters: LedgerParameters, hash_seed: int) -> RecentCommands:
        """A window without entries. Raises Fault when the disk has no room for its ring."""
        pages: list[mmap.mmap] = []

        def in_file(count: int, dtype: Any, columns: int) -> npt.NDArray[Any]:
            pages.append(self._map(max(count * columns * np.dtype(dtype).itemsize, 1)))
            array = np.frombuffer(pages[-1], dtype, count=count * columns)
            return array.reshape(count, columns) if columns > 1 else array

        window = map_window(parameters, hash_seed, in_file)
        self._pages = pages
        return window

    def in_slices(self, window: WindowCopy) -> WindowCopy:
        """The same window for a snapshot, its pages let go of while it is read."""
        return _SlicedWindow(window, self.let_go)

    def let_go(self) -> None:
        """Give the ring's pages to the system's cache. From any thread."""
        for pages in self._pages:
            pages.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """End the thread; a window that was made lives on. Idempotent."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, size: int) -> mmap.mmap:
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                # all of it now: on a disk that is full later, a write to a page would kill us
                os.posix_fallocate(file.fileno(), 0, size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise Fault(
                f"no file of {size >> 20} MiB for the window of recent ids in {self._folder} "
                f"({error.strerror}): make room, or set TMPDIR to a folder on a disk"
            ) from None

    def _run(self) -> None:
        while not self._closed.wait(_RELEASE_INTERVAL_S):
            self.let_go()


class _SlicedWindow(WindowCopy):
    """A window in a file, read as it lies: `let_go` is called after every slice."""

    def __init__(self, window: WindowCopy, let_go: Callable[[], None]) -> None:
        self.entries = window.entries
        self._window = window
        self._let_go = let_go

    def filled(self, count: int) -> Iterator[npt.NDArray[np.uint64]]:
        for column in self._window.filled(count):
            step = _SLICE_BYTES // (column.itemsize * column.shape[1])
            for at in range(0, len(column), step):
                yield column[at : at + step]
                self._let_go()

    def segment(self, number: int, filled: int) -> bytes:
        data = self._window.segment(number, filled)
        self._let_go()
        return data
