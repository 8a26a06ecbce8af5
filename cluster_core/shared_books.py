"""Books in memory that other processes read: one writer, any number of readers.

The memory is a Linux memfd, sparse and at full capacity: it needs no room in /dev/shm, has no name
that could be left behind, and is gone with the last process that holds it. Readers map it
read-only. Beside it lies a page that readers write: who of them wants a pause, and who watches.
"""

import mmap
import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.batch import LedgerParameters
from cluster_core.books import Books, empty_books, map_books
from cluster_core.compiled import MAP_NORESERVE
from cluster_core.limits import MAX_READERS
from cluster_core.reading import set_word

_PAUSE_WANTED: Final = 0
_WATCHERS: Final = 1
_READER_WORDS: Final = 8
"""A cache line for each reader."""

_ALIGNMENT: Final = mmap.PAGESIZE


class _Region:
    """Hands out arrays from one mapping, page by page, always in the same places."""

    def __init__(self, mapping: mmap.mmap | None) -> None:
        self._mapping = mapping
        self.bytes = 0

    def __call__(self, count: int, dtype: Any) -> npt.NDArray[Any]:
        row_bytes = np.dtype(dtype).itemsize
        start = self.bytes
        self.bytes += -(-count * row_bytes // _ALIGNMENT) * _ALIGNMENT
        if self._mapping is None:
            # only measured: nothing is touched
            return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), (count,), (0,))
        return np.frombuffer(self._mapping, dtype, count, start)


def _size_of(parameters: LedgerParameters) -> int:
    measured = _Region(None)
    map_books(parameters, 0, measured)
    return measured.bytes


class ReaderWords:
    """What readers tell the writer: a cache line for each of `MAX_READERS`."""

    def __init__(self, file_descriptor: int) -> None:
        self._mapping = mmap.mmap(file_descriptor, MAX_READERS * _READER_WORDS * 8)
        self._words = np.frombuffer(self._mapping, np.uint64)
        self._by_reader = self._words.reshape(MAX_READERS, _READER_WORDS)

    def want_pause(self, reader: int, wanted: bool) -> None:
        """Ask the writer to wait a little between two batches, or to go on."""
        set_word(self._words, reader * _READER_WORDS + _PAUSE_WANTED, np.uint64(wanted))

    def watch(self, reader: int, watchers: int) -> None:
        """Say how many streams of this reader watch accounts."""
        set_word(self._words, reader * _READER_WORDS + _WATCHERS, np.uint64(watchers))

    def forget(self, reader: int) -> None:
        """A reader is gone: what it wanted isn't wanted any more."""
        self._by_reader[reader] = 0

    @property
    def pause_wanted(self) -> bool:
        """Whether any reader wants the writer to wait."""
        return bool(self._by_reader[:, _PAUSE_WANTED].any())

    @property
    def watched(self) -> bool:
        """Whether any reader watches accounts."""
        return bool(self._by_reader[:, _WATCHERS].any())


class SharedMemory:
    """The writer's side: `make_books` for a StateMachine; then what readers are given."""

    def __init__(self) -> None:
        self.books_fd = -1
        self.words_fd = os.memfd_create("ringledger-readers", os.MFD_CLOEXEC)
        os.ftruncate(self.words_fd, MAX_READERS * _READER_WORDS * 8)
        self.readers = ReaderWords(self.words_fd)

    def make_books(self, parameters: LedgerParameters, hash_seed: int) -> Books:
        """Empty books in new shared memory. Raises OSError when it is refused."""
        self.close_books()
        self.books_fd = os.memfd_create("ringledger-books", os.MFD_CLOEXEC)
        size = _size_of(parameters)
        os.ftruncate(self.books_fd, size)
        mapping = mmap.mmap(self.books_fd, size, flags=mmap.MAP_SHARED | MAP_NORESERVE)
        return empty_books(parameters, hash_seed, _Region(mapping))

    def close_books(self) -> None:
        """Let go of the books' descriptor; mapped memory stays until nobody uses it."""
        if self.books_fd >= 0:
            os.close(self.books_fd)
            self.books_fd = -1

    def close(self) -> None:
        """Let go of both descriptors."""
        self.close_books()
        if self.words_fd >= 0:
            os.close(self.words_fd)
            self.words_fd = -1


def open_shared_books(file_descriptor: int, parameters: LedgerParameters, hash_seed: int) -> Books:
    """The reader's side: the writer's books, read-only. Raises ValueError for another size."""
    size = _size_of(parameters)
    if os.fstat(file_descriptor).st_size != size:
        raise ValueError("the shared memory is of other books")
    mapping = mmap.mmap(
        file_descriptor, size, flags=mmap.MAP_SHARED | MAP_NORESERVE, prot=mmap.PROT_READ
    )
    return map_books(parameters, hash_seed, _Region(mapping))
