"""What README.md tells a new user to type does what it says."""

import re
import subprocess
import sys
from pathlib import Path

from tests.leader_process import LeaderProcess, journal_url

ROOT = Path(__file__).parent.parent.parent


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


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
