"""The C library's allocator, set for batches: freed buffers are kept instead of given back.

By default glibc returns each large buffer to the system and gets zeroed pages again for the next
one; at a million commands a second that took a third of the leader's time.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD_BYTES: Final = 32 << 20
_KEEP_BYTES: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Keep up to 256 MiB of freed buffers. False where the C library has no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_TRIM_THRESHOLD, _KEEP_BYTES)
    )
