"""How new an answer must be: what a reader chooses for one query or for all of a client."""

from dataclasses import dataclass
from typing import Final, Literal

from client_core.records import U64_MAX, check_range
from proto import ledger_pb2


@dataclass(frozen=True, slots=True)
class AtLeast:
    """All commands up to and with this sequence must be in the answer."""

    sequence: int

    def __post_init__(self) -> None:
        check_range("sequence", self.sequence, 0, U64_MAX - 1)


Consistency = Literal["any", "read_your_writes", "linearizable"] | AtLeast
"""`any`: what the node has applied. `read_your_writes`: everything this client was answered, by
replies and by queries. `linearizable`: everything that anybody was answered before the query; only
the leader can tell, and it costs a round through the journal. `at_least(n)`: as named.
"""

ANY: Final = "any"
READ_YOUR_WRITES: Final = "read_your_writes"
LINEARIZABLE: Final = "linearizable"


def at_least(sequence: int) -> AtLeast:
    """The consistency that waits for one sequence: of a reply, perhaps another process's."""
    return AtLeast(sequence)


def check_consistency(given: object) -> None:
    """Raises ValueError for anything that is no Consistency."""
    if not isinstance(given, AtLeast) and given not in (ANY, READ_YOUR_WRITES, LINEARIZABLE):
        raise ValueError(
            f"consistency is {given!r}: give 'any', 'read_your_writes', 'linearizable' or "
            "at_least(sequence)"
        )


def consistency_message(given: Consistency, newest_sequence: int) -> ledger_pb2.Consistency:
    """The contract's message; `newest_sequence` is the highest that this client was answered."""
    if isinstance(given, AtLeast):
        return ledger_pb2.Consistency(at_least_sequence=given.sequence)
    if given == LINEARIZABLE:
        return ledger_pb2.Consistency(linearizable=True)
    if given == READ_YOUR_WRITES and newest_sequence >= 0:
        return ledger_pb2.Consistency(at_least_sequence=newest_sequence)
    return ledger_pb2.Consistency()
