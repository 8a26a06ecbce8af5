"""The fault campaign and the overload, as short as they still say something.

MINUTES is how long the faults go on. `make campaign` and `make overload` run longer ones and print
their tables; timings are theirs, not these tests'.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.campaign.overload import MEMORY_MOST_MB, run
from tests.service_programs import REPOSITORY, missing_for_kafka, missing_for_postgres

MINUTES = float(os.environ.get("MINUTES", "3"))
FAULTS_A_MINUTE = 6
"""At least; five hundred an hour are 8.3."""


@pytest.mark.campaign
@pytest.mark.timeout(60 * MINUTES + 420)
def test_a_campaign_of_faults_loses_doubles_and_falsifies_nothing(tmp_path: Path) -> None:
    missing = missing_for_kafka() or missing_for_postgres()
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    written = tmp_path / "campaign.json"
    flags = ("--minutes", str(MINUTES), "--folder", str(tmp_path / "run"), "--json", str(written))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(written.read_text())
    values = report["values"]
    assert report["found"] == []
    assert values["faults"] >= FAULTS_A_MINUTE * MINUTES
    assert values["answered"] == values["commands"] > 0
    assert values["balances_read"] > 0
    assert values["unknown_outcomes"] == values["unknown_outcomes_resolved"]


@pytest.mark.timeout(180)
def test_overload_is_refused_and_fills_no_memory(tmp_path: Path) -> None:
    leader, admin = run(tmp_path, seconds=16)  # buffers fill in the first quarter
    # a write that meets the refused stream's end hides the node's status from this side
    assert {"RESOURCE_EXHAUSTED"} <= set(leader.codes) <= {"RESOURCE_EXHAUSTED", "INTERNAL"}
    assert set(admin.codes) == {"503"}
    for result in (leader, admin):
        assert result.goodput > 0
        assert result.refused > 0
        assert result.memory_mb_most - result.memory_mb_early <= MEMORY_MOST_MB
