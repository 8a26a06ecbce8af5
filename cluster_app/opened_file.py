"""Whether an open file still lies at its path: who goes on with one that doesn't is alone with it.

A journal that is removed, or brought back from a copy, under running nodes stays readable and
writable for them: followers would serve what nobody adds to, a leader answer what nobody will find.
"""

import os
from pathlib import Path


class OpenedFile:
    """The file behind a descriptor, to compare with what lies at `path` later."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """The descriptor may be closed afterwards."""
        self._path = path
        self._identity = _identity(os.fstat(descriptor))

    @property
    def is_replaced(self) -> bool:
        """Whether another file, or none, is at the path now; a microsecond or two."""
        try:
            return _identity(self._path.stat()) != self._identity
        except FileNotFoundError:
            return True

    @property
    def advice(self) -> str:
        """What to tell when it is."""
        return (
            f"{self._path}: the file was removed or replaced under this node: stop all nodes of "
            "this journal, see that the right file is there, and start them again"
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
