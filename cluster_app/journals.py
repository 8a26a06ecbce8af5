"""Opening a journal by its URL."""

from pathlib import Path

from cluster_app.errors import UsageError
from cluster_app.sqlite_journal import SqliteJournal
from cluster_core.journal import Journal

_SQLITE = "sqlite:///"


def open_journal(url: str) -> Journal:
    """The journal at `sqlite:///relative/path` or `sqlite:////absolute/path`.

    Creates the folder and the journal when absent. Raises UsageError for an unknown scheme and
    JournalRefused for a file that is not ours or can't be written.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return SqliteJournal(Path(url[len(_SQLITE) :]))
    raise UsageError(f"journal {url!r}: use sqlite:///PATH")
