"""Opening a journal by its URL."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster_app.errors import UsageError
from cluster_app.kafka_options import KafkaOptions
from cluster_core.journal import Journal

_SQLITE = "sqlite:///"
_KAFKA = "kafka://"


def open_journal(
    url: str,
    kafka: KafkaOptions | None = None,
    stopping: Callable[[], bool] = lambda: False,
    *,
    create: bool = True,
) -> Journal:
    """The journal at `sqlite:///relative/path`, `sqlite:////absolute/path` or
    `kafka://host:port[,host:port...]/topic`; created when absent, or refused without `create`.

    Raises UsageError for an unknown scheme or an absent file, JournalRefused for what is not ours
    or can't be written, JournalFault when Kafka can't be reached, Stopped when `stopping` says so
    meanwhile.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from cluster_app.sqlite_journal import SqliteJournal

        path = Path(url[len(_SQLITE) :])
        if not create and not path.is_file():
            raise UsageError(f"journal {url!r}: there is no such file")
        return SqliteJournal(path)
    if url.startswith(_KAFKA):
        try:
            from cluster_app.kafka_journal import KafkaJournal
        except ModuleNotFoundError as error:
            raise UsageError(
                f"journal {url!r}: {error}: install the extra, pip install 'ringledger[kafka]'"
            ) from None
        options = replace(kafka or KafkaOptions(), create=create)
        return KafkaJournal(url, options, stopping)
    raise UsageError(f"journal {url!r}: use sqlite:///PATH or kafka://HOST:PORT/TOPIC")
