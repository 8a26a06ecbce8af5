# mypy: disable-error-code="no-any-return,return-value"
# In compiled code numba's integers stand where the annotations say int.
"""A few bytes that one process keeps up to date for others: a sequence lock around them.

Word 0 is the turn, odd while the bytes change; word 1 is their length; then come the bytes.
"""

import mmap
import os
from typing import Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.atomics import fence_acquire, fence_release, load_acquire, store_release
from cluster_core.compiled import array_type, kernel

BLOB_BYTES_MAX: Final = 4_096 - 16
_WORDS: Final = 512
_TRIES: Final = 1_000
_ONE: Final = np.uint64(1)
_U0: Final = np.uint64(0)


@kernel(types.void(array_type(np.uint64), array_type(np.uint64, readonly=True), types.uint64))
def _write(
    words: npt.NDArray[np.uint64], content: npt.NDArray[np.uint64], length: np.uint64
) -> None:
    turn = words[0]
    store_release(words, 0, turn + _ONE)
    fence_release()
    words[1] = length
    for word in range(content.shape[0]):
        words[2 + word] = content[word]
    store_release(words, 0, turn + _ONE + _ONE)


@kernel(types.int64(array_type(np.uint64, readonly=True), array_type(np.uint64)))
def _read(words: npt.NDArray[np.uint64], content: npt.NDArray[np.uint64]) -> int:
    """Length of what was copied into `content`, or -1 when it was being changed."""
    turn = load_acquire(words, 0)
    length = np.int64(words[1])
    if turn & _ONE != _U0 or length > content.shape[0] * 8:
        return -1
    for word in range((length + 7) // 8):
        content[word] = words[2 + word]
    fence_acquire()
    if load_acquire(words, 0) != turn:
        return -1
    return length


class SharedBlob:
    """One side of it. Only one process may write; empty until it does."""

    def __init__(self, file_descriptor: int, *, writable: bool = False) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = mmap.mmap(file_descriptor, _WORDS * 8, flags=mmap.MAP_SHARED, prot=access)
        self._words = np.frombuffer(mapping, np.uint64)
        self._copy = np.zeros(_WORDS - 2, np.uint64)

    def write(self, content: bytes) -> None:
        """Replace the bytes. Raises ValueError over 4,080."""
        if len(content) > BLOB_BYTES_MAX:
            raise ValueError(f"{len(content)} bytes: at most {BLOB_BYTES_MAX}")
        padded = content.ljust(-(-len(content) // 8) * 8, b"\0")
        _write(self._words, np.frombuffer(padded, np.uint64), np.uint64(len(content)))

    def read(self) -> bytes:
        """The newest bytes. Raises TimeoutError when the writer was stopped in the middle."""
        for _ in range(_TRIES):
            length = _read(self._words, self._copy)
            if length >= 0:
                return self._copy.tobytes()[:length]
        raise TimeoutError("the shared bytes are being written all the time")


def new_blob_memory() -> int:
    """A descriptor of memory for one. Raises OSError."""
    descriptor = os.memfd_create("ringledger-blob", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _WORDS * 8)
    return descriptor
