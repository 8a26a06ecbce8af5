"""What ends a program on the clients' side before it serves.

UsageError      a setting can't be used: exit code 2, one line says which and what to do
"""


class UsageError(Exception):
    """A setting can't be used."""
