"""`trim`: what it deletes, what it keeps, and when it refuses."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster_app import trim
from cluster_app.__main__ import main
from cluster_app.errors import UsageError
from cluster_app.journals import open_journal
from cluster_app.recovery import recover
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import Kind
from cluster_core.journal import Journal
from cluster_core.replay import Replica
from cluster_core.snapshot import SnapshotHeader, Snapshotter
from tests.journal_replay import SMALL_LEDGER, replay
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.services import Postgres
from tests.store_address import PostgresAddress, SqliteAddress

BATCHES = 40
COMMANDS = 50
NO_MARGIN = ("--margin-commands", "0")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    import structlog

    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'snapshots.db'}"


@pytest.fixture
def ledger(journal: str) -> Iterator[RandomJournal]:
    """An epoch's start, 40 first commands and 40 batches of 50; some late writes among them."""
    with closing(open_journal(journal)) as opened:
        ledger = fill(opened)
        yield ledger
        ledger.close()


def fill(journal: Journal, seed: int = 11) -> RandomJournal:
    ledger = RandomJournal(journal, seed, SMALL_LEDGER)
    for number in range(BATCHES):
        ledger.run_some(COMMANDS)
        if number % 7 == 0:
            ledger.append(Kind.HEARTBEAT)
        if number % 11 == 0:
            ledger.append(Kind.HEARTBEAT, chain=bytes(32))
    return ledger


def save_at(address: str, store_url: str, end: int) -> SnapshotHeader:
    """Replace what is stored by a snapshot of everything below `end`."""
    store = open_snapshots(store_url)
    with closing(open_journal(address)) as journal:
        replica = replay(journal, Replica(), end)
    delta = Snapshotter(replica, None, store.newest()).take(1).finish()
    store.save(delta)
    return delta.header


def bounds(address: str) -> tuple[int, int]:
    with closing(open_journal(address)) as journal:
        return journal.start_offset(), journal.end_offset()


def run(journal: str, *flags: str) -> int:
    return main(["trim", "--journal", journal, *flags])


def check_restores(address: str, store_url: str, ledger: RandomJournal) -> None:
    with closing(open_journal(address)) as journal:
        replica, _ = recover(journal, open_snapshots(store_url), lambda: False)
        replay(journal, replica, journal.end_offset())
    assert replica.state is not None
    assert replica.state.digest() == ledger.machine.digest()


def test_everything_below_the_snapshot_s_last_record_goes_and_the_rest_still_leads_on(
    journal: str, store_url: str, ledger: RandomJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    _, end = bounds(journal)
    header = save_at(journal, store_url, end - 5)
    assert run(journal, "--snapshots", store_url, *NO_MARGIN) == 0
    below = header.counted_offset
    assert bounds(journal) == (below, end)
    said = capsys.readouterr().out
    assert f"verified snapshots={store_url} applied={header.applied} offset={below}" in said
    assert f"trimmed offsets=0..{below - 1} commands=" in said
    assert f"kept offsets={below}..{end - 1}" in said
    check_restores(journal, store_url, ledger)
    assert run(journal, "--snapshots", store_url, *NO_MARGIN) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("nothing to trim: the journal begins")


def test_a_dry_run_tells_the_same_and_deletes_nothing(
    journal: str, store_url: str, ledger: RandomJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    _, end = bounds(journal)
    header = save_at(journal, store_url, end)
    assert run(journal, "--snapshots", store_url, *NO_MARGIN, "--dry-run") == 0
    dry = capsys.readouterr().out.splitlines()
    assert bounds(journal) == (0, end)
    assert run(journal, "--snapshots", store_url, *NO_MARGIN) == 0
    done = capsys.readouterr().out.splitlines()
    assert bounds(journal) == (header.counted_offset, end)
    assert [line.replace("would_trim", "trimmed") for line in dry] == done


def test_the_margin_of_commands_stays(
    journal: str, store_url: str, ledger: RandomJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    _, end = bounds(journal)
    header = save_at(journal, store_url, end)
    for margin in (header.applied, 1 << 40):
        assert run(journal, "--snapshots", store_url, "--margin-commands", str(margin)) == 0
        assert "nothing to trim" in capsys.readouterr().out
    assert bounds(journal) == (0, end)
    assert run(journal, "--snapshots", store_url, "--margin-commands", "500") == 0
    start, _ = bounds(journal)
    with closing(open_journal(journal)) as opened:
        kept_from = trim._header_at(opened, start).first_sequence
    # a batch begins at or below the margin's end, and the one after it above
    assert header.applied - 500 - COMMANDS < kept_from <= header.applied - 500
    check_restores(journal, store_url, ledger)


def test_what_all_stores_have_goes_and_no_more(
    tmp_path: Path, postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    address = journal_url(tmp_path)
    with closing(open_journal(address)) as opened:
        ledger = fill(opened)
        ledger.close()
    first, second = SqliteAddress(tmp_path).url, PostgresAddress(postgres).url
    save_at(address, first, 30)
    least = save_at(address, second, 20)
    assert run(address, "--snapshots", first, "--snapshots", second, *NO_MARGIN) == 0
    assert bounds(address)[0] == least.counted_offset
    assert "ringledger:ringledger" not in capsys.readouterr().out
    for store_url in (first, second):
        check_restores(address, store_url, ledger)


def refused(capsys: pytest.CaptureFixture[str], journal: str, *flags: str) -> str:
    """The one line of a refusal, which left the journal as it was."""
    before = bounds(journal)
    assert run(journal, *flags, *NO_MARGIN) == 1
    assert bounds(journal) == before
    said = capsys.readouterr().err.splitlines()
    return next(line for line in said if line.startswith("ringledger trim: "))


def test_it_refuses_without_a_sound_snapshot_of_this_very_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = journal_url(tmp_path)
    with closing(open_journal(address)) as opened:
        fill(opened).close()
        _, end = bounds(address)
    store = SqliteAddress(tmp_path)
    flags = ("--snapshots", store.url)
    assert "has no snapshot: nothing was trimmed" in refused(capsys, address, *flags)
    save_at(address, store.url, end)
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    assert "empty.db has no snapshot" in refused(capsys, address, *flags, "--snapshots", empty)

    other, shorter = (journal_url(tmp_path / name) for name in ("other", "shorter"))
    for url, seed in ((other, 12), (shorter, 11)):
        with closing(open_journal(url)) as opened:
            made = fill(opened, 12) if seed == 12 else RandomJournal(opened, 11, SMALL_LEDGER)
            made.close()
    assert "of another ledger" in refused(capsys, other, *flags)
    assert "ahead of the journal" in refused(capsys, shorter, *flags)

    store.sql("UPDATE accounts SET posted = posted + 1 WHERE account_id = 3")
    line = refused(capsys, address, *flags)
    assert line.startswith("ringledger trim: nothing was trimmed: the snapshot is damaged: ")
    assert "the row with account_id 3 was changed" in line


def test_it_refuses_an_absent_journal_and_flags_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGLEDGER_JOURNAL", raising=False)
    address = journal_url(tmp_path)
    assert main(["trim", "--journal", address]) == 2
    assert not (tmp_path / "journal.db").exists()
    assert main(["trim"]) == 2
    for margin in ("-1", "many", "1e3", str(1 << 62)):
        assert main(["trim", "--journal", address, f"--margin-commands={margin}"]) == 2
    with pytest.raises(UsageError, match="16 times"):
        trim.read_settings(
            ["--journal", address, *(f"--snapshots=sqlite:///{n}.db" for n in range(17))]
        )
    assert "Traceback" not in capsys.readouterr().err


def test_the_stores_are_the_learner_s_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGLEDGER_SNAPSHOTS", raising=False)
    address = journal_url(tmp_path)
    here = f"sqlite:///{tmp_path / 'snapshots.db'}"
    assert trim.read_settings(["--journal", address]).snapshots == (here,)
    monkeypatch.setenv("RINGLEDGER_SNAPSHOTS", "sqlite:///a.db")
    assert trim.read_settings(["--journal", address]).snapshots == ("sqlite:///a.db",)
    named = ["--snapshots", "sqlite:///b.db", "--snapshots", "sqlite:///c.db"]
    settings = trim.read_settings(["--journal", address, *named])
    assert settings.snapshots == ("sqlite:///b.db", "sqlite:///c.db")


def test_an_audit_of_a_trimmed_journal_begins_with_the_snapshot_or_says_so(
    journal: str, store_url: str, ledger: RandomJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    _, end = bounds(journal)
    header = save_at(journal, store_url, end - 5)
    assert run(journal, "--snapshots", store_url, *NO_MARGIN) == 0
    assert main(["audit", "--journal", journal]) == 1
    assert "Name the snapshot store with --snapshots" in capsys.readouterr().err
    named = ["audit", "--journal", journal, "--snapshots", store_url]
    assert main(named) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"offsets={header.position.next_offset}..{end - 1}"
    assert f"digest={ledger.machine.digest().hex()}" in said
    assert said[-1] == "sound"
    assert main([*named, "--reference"]) == 2
