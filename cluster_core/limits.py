"""Limits that settings are checked against: without any import, so that programs start fast."""

from typing import Final

MAX_READERS: Final = 64
"""Processes that read one state in shared memory."""
