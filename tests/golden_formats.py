"""Journals and snapshots as earlier programs wrote them, kept as text: SQL dumps of SQLite files.

    python -m tests.golden_formats      # writes the present formats' files, where there are none

A format's files are never written again: they show that today's program still reads what an older
one wrote. After a change of format `JOURNALS` or `SNAPSHOTS` gets a number, and a file comes
beside the others.
"""

import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cluster_app.journals import open_journal
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import FORMAT_VERSION, EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.snapshot import Snapshotter
from tests.journal_replay import records_of, replay
from tests.property.strategies import NS_PER_S
from tests.random_ledger import RandomJournal

JOURNALS: Final = (1,)
"""The formats of journals; what each is replayed to is pinned."""

SNAPSHOTS: Final = {1: 1, 2: 1}
"""By their format, the journal's that they are of."""

FOLDER: Final = Path(__file__).parent / "golden"
_PARAMETERS: Final = LedgerParameters(64, NS_PER_S, 200, 60)
_SEED: Final = 9
_MIDDLE: Final = 27
"""The offset at which the snapshot is taken."""

_SECOND_LEADER: Final = bytes(range(17, 33))
_TAKEN_NS: Final = 1_700_000_100 * NS_PER_S
_PRAGMAS: Final = ("application_id", "user_version")


def pinned(number: int) -> dict[str, Any]:
    """What replaying the journal of a format must come to: digest, applied, epoch, chain, ..."""
    read: dict[str, Any] = json.loads((FOLDER / f"format-{number}.json").read_text())
    return read


def restored_file(name: str, folder: Path) -> Path:
    """The SQLite file that the dump `name` was made of, made anew in `folder`."""
    path = folder / f"{name.partition('-')[0]}.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_path(name).read_text())
    return path


def described(replica: Replica) -> dict[str, Any]:
    """A replica as the pinned values are written."""
    assert replica.state is not None
    return {
        "state_digest": replica.state.digest().hex(),
        "chain": replica.position.chain.hex(),
        "ledger_id": replica.ledger_id.hex(),
        "applied": replica.state.applied,
        "epoch": replica.position.epoch,
        "next_offset": replica.position.next_offset,
        "accounts": replica.state.accounts,
        "open_holds": replica.state.open_holds,
    }


def _write() -> None:
    """Write the newest formats' files that aren't there."""
    FOLDER.mkdir(exist_ok=True)
    (journal_format, snapshot_format) = (max(JOURNALS), max(SNAPSHOTS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if not _path(f"journal-{journal_format}").exists():
            with closing(open_journal(f"sqlite:///{folder / 'filled.db'}")) as journal:
                _fill(journal)
                replica = replay(journal, Replica(hash_seed=1), journal.end_offset())
            _path(f"journal-{journal_format}").write_text(_dump(folder / "filled.db"))
            text = json.dumps(described(replica), indent=2)
            (FOLDER / f"format-{journal_format}.json").write_text(text + "\n")
        if not _path(f"snapshots-{snapshot_format}").exists():
            path = restored_file(f"journal-{SNAPSHOTS[snapshot_format]}", folder)
            with closing(open_journal(f"sqlite:///{path}")) as journal:
                replica = replay(journal, Replica(hash_seed=1), _MIDDLE)
            store = open_snapshots(f"sqlite:///{folder / 'snapshots.db'}")
            store.save(Snapshotter(replica, None).take(_TAKEN_NS).finish())
            _path(f"snapshots-{snapshot_format}").write_text(_dump(folder / "snapshots.db"))


def _path(name: str) -> Path:
    return FOLDER / f"{name}.sql"


def _fill(journal: Journal) -> None:
    """Every kind of batch, counted and skipped, in two epochs."""
    ledger = RandomJournal(journal, _SEED, _PARAMETERS)
    with closing(ledger):
        for _ in range(12):
            ledger.run_some(24)
            ledger.append(Kind.HEARTBEAT)
        ledger.append(Kind.HEARTBEAT, chain=bytes(32))  # skipped: doesn't chain
        for _ in range(6):
            ledger.run_some(24)
        ledger.append(Kind.EPOCH_END)
        ledger.append(Kind.HEARTBEAT)  # skipped: after the end
        last = replay(journal, Replica(), journal.end_offset()).position
        value, _ = seal(
            Kind.EPOCH_START,
            epoch=2,
            leader_id=_SECOND_LEADER,
            first_sequence=last.next_sequence,
            timestamp_ns=last.timestamp_ns,
            previous_chain=last.chain,
            body=(EpochStart("second", "127.0.0.1:9501", _PARAMETERS).pack(),),
        )
        ledger.append_raw(value)


def _dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        lines = [
            f"PRAGMA {name} = {database.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in _PRAGMAS
        ]
        return "\n".join([*lines, *database.iterdump()]) + "\n"


def newer_record(journal: Journal) -> bytes:
    """A HEARTBEAT that would count, of the format after this program's, its own digest right."""
    from blake3 import blake3

    last = Replica()
    for record in records_of(journal, 0, journal.end_offset()):
        last.take(record)
    position = last.position
    value, _ = seal(
        Kind.HEARTBEAT,
        epoch=position.epoch,
        leader_id=position.leader_id,
        first_sequence=position.next_sequence,
        timestamp_ns=position.timestamp_ns,
        previous_chain=position.chain,
    )
    sealed = value[:8] + (FORMAT_VERSION + 1).to_bytes(2, "little") + value[10:96]
    return sealed + blake3(sealed).digest()


if __name__ == "__main__":
    _write()
