"""The example questions of ARCHITECTURE.md, run as they stand there, against the oracle."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from cluster_app.journals import open_journal
from tests.archiver_process import ArchiverProcess
from tests.expected_history import expected_of
from tests.integration.test_archiver import history_of
from tests.journal_replay import SMALL_LEDGER
from tests.leader_process import journal_url
from tests.random_ledger import RandomJournal
from tests.store_address import Address

ROOT = Path(__file__).parents[2]


def example_questions() -> list[str]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    lines = [line for line in block.splitlines() if not line.startswith("--")]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


@pytest.fixture(params=["sqlite", "postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return history_of(request, tmp_path)


def test_the_documented_questions_give_what_the_oracle_says(
    history: Address, tmp_path: Path
) -> None:
    url = journal_url(tmp_path)
    with (
        closing(open_journal(url)) as journal,
        closing(RandomJournal(journal, 31, SMALL_LEDGER)) as ledger,
    ):
        for _ in range(30):
            ledger.run_some(50)
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        archiver.wait_ready().stop()
    expected = expected_of(url)
    statement, balance, largest, hold, deposits = (
        history.sql(question) for question in example_questions()
    )
    mine = expected.statement(3)[:10]
    assert [row[0] for row in statement] == [entry.sequence for entry in mine]
    assert statement[0][3] == expected.balance(3, 1 << 62)
    assert balance[0][0] == expected.balance(3, 501)
    transfers = [entry for entry in expected.entries if entry.operation == 4]
    transfers.sort(key=lambda entry: (-entry.amount, entry.sequence))
    assert [row[0] for row in largest] == [entry.sequence for entry in transfers[:5]]
    assert hold == [
        (entry.sequence, entry.operation, entry.amount)
        for entry in expected.entries
        if entry.hold == 2
    ]
    assert hold
    assert sum(int(row[3]) for row in deposits) == sum(
        entry.amount for entry in expected.entries if entry.operation == 2
    )
