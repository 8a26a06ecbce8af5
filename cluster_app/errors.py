"""How a program ends.

Exit (SystemExit is left to the interpreter)
├── Stopped      exit code 0: a signal asked for it before this node led
├── UsageError   exit code 2: a flag, variable or address is wrong
├── NotLeading   exit code 3: somebody else leads, or this leader was deposed
└── Fault        exit code 1: the journal, the disk or the port doesn't allow going on
"""


class Exit(Exception):
    """Ends the program with one clear line and `exit_code`."""

    exit_code = 1


class Stopped(Exit):
    """A signal asked for the end before this node led; the journal is as it was."""

    exit_code = 0


class Fault(Exit):
    """Something outside, or a journal whose state is doubtful: stop, never limp on."""


class UsageError(Exit):
    """The settings can't be used as they are."""

    exit_code = 2


class NotLeading(Exit):
    """Another leader lives, or took the epoch."""

    exit_code = 3
