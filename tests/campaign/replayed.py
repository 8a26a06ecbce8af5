"""The journal of a campaign, replayed by the kernel: what every command should have been told.

Commands and replies of all sequences go to two files beside the histories and are read from there
as they are needed: twenty million of them are two gigabytes.
"""

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from cluster_app.audit import read_all
from cluster_core.batch import HEADER_BYTES, EpochStart, Kind, open_batch
from cluster_core.journal import Journal, JournalRecord
from cluster_core.reader_rule import Position, Verdict, judge
from cluster_core.record import COMMAND, REPLY
from cluster_core.state_machine import StateMachine
from tests.reference import ReferenceLedger

ORACLE_COMMANDS: Final = 20_000
"""So many from the journal's start are also given to the oracle: it is a thousand times slower."""


class JournalUnsound(Exception):
    """The journal can't be replayed, or kernel and oracle disagree on it."""


@dataclass(frozen=True)
class Replayed:
    """All counted commands and their replies (COMMAND [n], REPLY [n], by sequence).

    `chains` is the chain after each offset. `epochs` are the names of those who led.
    """

    commands: npt.NDArray[Any]
    replies: npt.NDArray[Any]
    state: StateMachine
    position: Position
    chains: npt.NDArray[Any]
    skipped_records: int
    epochs: list[str]

    def accounts(self) -> npt.NDArray[np.uint8]:
        """All ACCOUNT records as bytes [accounts, 128]."""
        rows = self.state.books.accounts[1 : self.state.accounts + 1]
        return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


def replay(journal: Journal, folder: Path) -> Replayed:
    """Replay the whole journal by the reader rule. Raises JournalUnsound or a JournalError."""
    with _Replay(folder) as replaying:
        for record in read_all(journal, journal.end_offset()):
            try:
                replaying.take(record)
            except JournalUnsound as unsound:
                raise JournalUnsound(f"journal offset {record.offset}: {unsound}") from None
    if replaying.state is None:
        raise JournalUnsound("no ledger begins in this journal")
    commands, replies, chains = replaying.paths
    return Replayed(
        _mapped(commands, COMMAND),
        _mapped(replies, REPLY),
        replaying.state,
        replaying.position,
        _mapped(chains, np.dtype("V32")),
        replaying.skipped_records,
        replaying.epochs,
    )


class _Replay:
    """Takes record after record and writes what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.position = Position()
        self.state: StateMachine | None = None
        self.skipped_records = 0
        self.epochs: list[str] = []
        self.paths = [folder / f"{name}.bin" for name in ("commands", "replies", "chains")]
        self._files = [path.open("wb") for path in self.paths]
        self._oracle: ReferenceLedger | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def take(self, record: JournalRecord) -> None:
        """Judge one record and apply it. Raises JournalUnsound."""
        header = open_batch(record.value)
        judgement = judge(self.position, record.offset, header)
        if judgement.verdict is Verdict.STOP:
            raise JournalUnsound(judgement.reason)
        self.position = judgement.position
        self._files[2].write(self.position.chain)
        body = record.value[HEADER_BYTES:]
        if judgement.verdict is Verdict.SKIP:
            self.skipped_records += 1
        elif header.kind is Kind.EPOCH_START:
            start = EpochStart.unpack(body)
            self.epochs.append(start.name)
            if self.state is None:
                self.state = StateMachine(start.parameters, hash_seed=secrets.randbits(64))
                self._oracle = ReferenceLedger(**asdict(start.parameters))
        elif header.kind is Kind.COMMANDS:
            self._apply(body, header.timestamp_ns)

    def _apply(self, packed: bytes, timestamp_ns: int) -> None:
        if self.state is None or self._oracle is None:
            raise JournalUnsound("commands before the first epoch")
        replies = self.state.apply(np.frombuffer(packed, COMMAND), timestamp_ns).tobytes()
        self._files[0].write(packed)
        self._files[1].write(replies)
        if self.state.applied > ORACLE_COMMANDS:
            return
        if b"".join(self._oracle.apply(packed, timestamp_ns)) != replies:
            raise JournalUnsound("the oracle answers otherwise than the kernel")


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")
