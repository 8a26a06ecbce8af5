"""What older programs wrote is read as it was: golden journals and snapshots of every format."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cluster_app.journals import open_journal
from cluster_app.recovery import recover
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import FORMAT_VERSION, HEADER_BYTES, Kind, open_batch
from cluster_core.record import COMMAND, Operation
from cluster_core.replay import Replica
from cluster_core.snapshot import READ_FORMATS, SNAPSHOT_FORMAT
from tests.golden_formats import JOURNALS, SNAPSHOTS, described, pinned, restored_file
from tests.journal_replay import records_of, replay


def test_there_are_golden_files_of_the_present_formats() -> None:
    assert (max(JOURNALS), max(SNAPSHOTS)) == (FORMAT_VERSION, SNAPSHOT_FORMAT)
    assert tuple(SNAPSHOTS) == READ_FORMATS


@pytest.mark.parametrize("number", JOURNALS)
def test_a_golden_journal_replays_to_its_pinned_digest(number: int, tmp_path: Path) -> None:
    path = restored_file(f"journal-{number}", tmp_path)
    with closing(open_journal(f"sqlite:///{path}")) as journal:
        replica = replay(journal, Replica(hash_seed=5), journal.end_offset())
    assert described(replica) == pinned(number)
    assert replica.skipped_records == 2


@pytest.mark.parametrize(("number", "of"), SNAPSHOTS.items())
def test_a_golden_snapshot_and_the_journal_s_rest_come_to_the_same(
    number: int, of: int, tmp_path: Path
) -> None:
    path = restored_file(f"journal-{of}", tmp_path)
    store = open_snapshots(f"sqlite:///{restored_file(f'snapshots-{number}', tmp_path)}")
    with closing(open_journal(f"sqlite:///{path}")) as journal:
        replica, base = recover(journal, store, lambda: False)
        assert base is not None
        assert 0 < base.header.applied < pinned(of)["applied"]
        assert described(replay(journal, replica, journal.end_offset())) == pinned(of)


@pytest.mark.parametrize("number", JOURNALS)
def test_a_golden_journal_has_every_kind_of_batch_and_every_operation(
    number: int, tmp_path: Path
) -> None:
    path = restored_file(f"journal-{number}", tmp_path)
    with closing(open_journal(f"sqlite:///{path}")) as journal:
        values = [record.value for record in records_of(journal, 0, journal.end_offset())]
    assert {open_batch(value).kind for value in values} == set(Kind)
    bodies = [v[HEADER_BYTES:] for v in values if open_batch(v).kind is Kind.COMMANDS]
    operations = set(np.frombuffer(b"".join(bodies), COMMAND)["operation"].tolist())
    assert operations == set(map(int, Operation))
