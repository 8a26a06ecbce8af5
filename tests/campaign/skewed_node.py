"""A node of the cluster whose wall clock can be set while it runs.

    python -m tests.campaign.skewed_node CLOCK leader --journal ...

CLOCK is a file of 16 bytes, shared: how far the clock is off (i64, ns), and how often it was read
while it was off (u64). Nothing else is changed: monotonic time is the machine's, as it is when
somebody sets a machine's clock.
"""

import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Final

_CLOCK: Final = struct.Struct("<qQ")


class ClockFile:
    """The shared file, from either side."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_CLOCK.size))
        with path.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), _CLOCK.size)

    def set(self, offset_ns: int) -> None:
        """Set the clock so far off; begins to count reads anew."""
        _CLOCK.pack_into(self._words, 0, offset_ns, 0)

    @property
    def reads(self) -> int:
        """How often the clock was read while it was off."""
        reads: int = _CLOCK.unpack_from(self._words)[1]
        return reads

    def read_offset_ns(self) -> int:
        """For the node: the offset; counted unless it is zero."""
        offset_ns, reads = _CLOCK.unpack_from(self._words)
        if offset_ns:
            _CLOCK.pack_into(self._words, 0, offset_ns, reads + 1)
        return int(offset_ns)


def main() -> int:
    """Run `python -m cluster_app` with the rest of the arguments."""
    clock = ClockFile(Path(sys.argv[1]))
    wall_ns = time.time_ns
    time.time_ns = lambda: wall_ns() + clock.read_offset_ns()
    time.time = lambda: time.time_ns() / 1e9
    from cluster_app.__main__ import main as run

    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
