"""`audit` of a moment, against history, and against another version of the program."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster_app.__main__ import main
from cluster_app.journals import open_journal
from tests.archiver_process import ArchiverProcess
from tests.expected_history import expected_of
from tests.integration.test_archiver import history_of
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.store_address import Address

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    import structlog

    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(params=["sqlite", "postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return history_of(request, tmp_path)


@pytest.fixture
def journal_path(tmp_path: Path) -> str:
    url = journal_url(tmp_path)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 29, SMALL_LEDGER)) as ledger,
    ):
        for _ in range(40):
            ledger.run_some(50)
    return url


def test_any_past_state_is_rebuilt_and_agrees_with_history(
    journal_path: str, history: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ArchiverProcess(tmp_path, journal_path, history.url) as archiver:
        archiver.wait_ready().stop()
    expected = expected_of(journal_path)
    base = ["audit", "--journal", journal_path, "--history", history.url]
    for sequence in (0, 101, 777, expected.batches[20][0] - 1, expected.batches[-1][0]):
        assert main([*base, "--at-sequence", str(sequence)]) == 0
        told = capsys.readouterr().out
        assert "history=equal" in told
        assert "sound" in told
    time_ns = expected.batches[13][1]
    assert main([*base, "--at-time", str(time_ns)]) == 0
    assert "history=equal" in capsys.readouterr().out
    assert main([*base, "--at-sequence", "1000000"]) == 1


def test_a_changed_balance_in_history_is_named(
    journal_path: str, history: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ArchiverProcess(tmp_path, journal_path, history.url) as archiver:
        archiver.wait_ready().stop()
    (table,) = history.sql("SELECT first_sequence FROM partitions ORDER BY first_sequence LIMIT 1")
    history.sql(
        f"UPDATE entries_{table[0]} SET credit_balance = credit_balance + 1 "
        "WHERE credit_account = 3 AND status = 1"
    )
    expected = expected_of(journal_path)
    newest = next(e for e in expected.statement(3) if e.credit_account == 3)
    arguments = ["audit", "--journal", journal_path, "--history", history.url]
    assert main([*arguments, "--at-sequence", str(newest.sequence)]) == 1
    assert "account 3" in capsys.readouterr().err


def test_the_same_version_gives_the_same_and_a_changed_one_is_named(
    journal_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["audit", "--journal", journal_path, "--against"]
    assert main([*arguments, str(ROOT)]) == 0
    assert "equal" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(ROOT / "cluster_core", other / "cluster_core")
    machine = other / "cluster_core" / "state_machine.py"
    text = machine.read_text()
    changed = text.replace(
        "        replies: npt.NDArray[Any] = self._scratch[slots]\n",
        "        replies: npt.NDArray[Any] = self._scratch[slots]\n"
        "        if first <= 700 < self.applied:\n"
        "            replies['amount'][700 - first] += 1\n",
    )
    assert changed != text
    machine.write_text(changed)
    assert main([*arguments, str(other)]) == 1
    told = capsys.readouterr().err
    assert "sequence 700" in told or "field amount" in told
    assert "other version" in told
