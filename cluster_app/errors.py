"""How a program ends.

Exit (SystemExit is left to the interpreter)
├── Stopped      exit code 0: a signal asked for it before this node led
├── UsageError   exit code 2: a flag, variable or address is wrong
├── NotLeading   exit code 3: somebody else leads, or this leader was deposed
└── Fault        exit code 1: the journal, the disk or the port doesn't allow going on
    ├── JournalSilent    the journal takes or tells nothing now: a node goes on waiting
    └── ClockOff         this machine's clock is not the journal's: a standby goes on waiting

Below the core's own errors (`cluster_core/errors.py`):

JournalFault
└── JournalUnreachable   the journal doesn't answer now: trying again may help
StoreUnavailable
└── StoreRefuses         the store answers and refuses: trying again hardly helps
"""

from cluster_core.errors import JournalFault, StoreUnavailable


class Exit(Exception):
    """Ends the program with one clear line and `exit_code`."""

    exit_code = 1


class Stopped(Exit):
    """A signal asked for the end before this node led; the journal is as it was."""

    exit_code = 0


class Fault(Exit):
    """Something outside, or a journal whose state is doubtful: stop, never limp on."""


class JournalSilent(Fault):
    """The journal takes no append, or doesn't answer, just now."""


class ClockOff(Fault):
    """This machine's clock is too far off the journal's to lead."""


class UsageError(Exit):
    """The settings can't be used as they are."""

    exit_code = 2


class NotLeading(Exit):
    """Another leader lives, or took the epoch."""

    exit_code = 3


class JournalUnreachable(JournalFault):
    """The journal doesn't answer just now; nothing is known to be wrong with it."""


class StoreRefuses(StoreUnavailable):
    """The store was reached, and refuses this user, database or file."""
