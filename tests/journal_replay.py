"""Reading a journal to an offset, into a replica."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from cluster_core.batch import LedgerParameters
from cluster_core.journal import Journal, JournalRecord
from cluster_core.replay import Replica
from tests.property.strategies import NS_PER_S

SMALL_LEDGER: Final = LedgerParameters(1_024, NS_PER_S, 1_000, 200)
_READ_TIMEOUT_S: Final = 30.0


def records_of(journal: Journal, first: int, end: int) -> Iterator[JournalRecord]:
    """The records of `[first, end)`."""
    with closing(journal.reader(first)) as reader:
        while first < end:
            records = reader.read(_READ_TIMEOUT_S, end - first)
            assert records, f"nothing came at offset {first} of {end}"
            yield from records
            first += len(records)


def replay(journal: Journal, replica: Replica, end: int) -> Replica:
    """Take everything below `end`; returns the replica."""
    for record in records_of(journal, replica.position.next_offset, end):
        replica.take(record)
    return replica
