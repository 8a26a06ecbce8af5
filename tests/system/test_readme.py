"""What README.md tells a new user to type does what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.admin_process import AdminProcess
from tests.leader_process import LeaderProcess, journal_url

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_command_in_the_readme_prints_what_it_promises(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    promised = re.findall(r"print\(.*# (.*)", code)
    assert promised
    with LeaderProcess(journal_url(tmp_path)) as leader:
        code = code.replace("127.0.0.1:9500", leader.wait_ready().address)
        said = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert (said.stderr, said.stdout.split("\n")[:-1]) == ("", promised)


def test_the_rest_api_in_the_readme_answers_each_command(tmp_path: Path) -> None:
    [block] = re.findall(r"```\n(RINGLEDGER_DEVELOPMENT=1 make run-admin.*?)```", README, re.DOTALL)
    _, _, commands = block.partition("\n\n")
    with (
        LeaderProcess(journal_url(tmp_path)).wait_ready() as leader,
        AdminProcess(leader.address).wait_ready() as app,
    ):
        typed = commands.replace("127.0.0.1:8900", app.address)
        said = subprocess.run(
            ["bash", "-e", "-c", typed.replace("curl ", "curl -sS --fail-with-body -w '\\n' ")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    answers = [json.loads(line) for line in said.stdout.splitlines()]
    assert (said.stderr, said.returncode, len(answers)) == ("", 0, commands.count("curl ")), said
    assert answers[0]["account"] == 1
    assert answers[3]["debit_balance"] == "75.00"
    assert answers[5]["amount"] == "12.50"


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
