"""Nodes of different versions: what a newer program wrote stops each with one line; a restart of
all nodes, one after the other, is noticed by no client.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cluster_app.journals import open_journal
from cluster_app.snapshot_tables import NEWER_ADVICE
from cluster_core.batch import FORMAT_VERSION
from cluster_core.snapshot import SNAPSHOT_FORMAT
from proto import ledger_pb2
from tests.follower_process import FollowerProcess
from tests.golden_formats import newer_record, pinned, restored_file
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import status
from tests.moving_money import MovingMoney
from tests.server_process import free_ports, poll_until

DEADLINE_S = 60.0
ROLES = ("leader", "follower", "learner")

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return f"sqlite:///{restored_file('journal-1', tmp_path)}"


@pytest.fixture
def snapshots(tmp_path: Path) -> str:
    return f"sqlite:///{restored_file('snapshots-1', tmp_path)}"


def append_newer(journal: str) -> None:
    with closing(open_journal(journal)) as opened:
        value, end = newer_record(opened), opened.end_offset()
    path = journal.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE head SET next = ? WHERE next = ?", (end + 1, end))
        database.execute("INSERT INTO batches VALUES (?, 0, ?)", (end, value))
        database.execute("COMMIT")


def start_all(journal: str, snapshots: str) -> Iterator[tuple[str, int, str]]:
    """(role, exit code, log) of a start of each role, all at once."""
    environment = {name: text for name, text in os.environ.items() if "RINGLEDGER_" not in name}
    processes = {
        role: subprocess.Popen(
            [
                *(sys.executable, "-m", "cluster_app", role, "--journal", journal),
                *("--snapshots", snapshots, "--listen", "127.0.0.1:0"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for role in ROLES
    }
    try:
        for role, process in processes.items():
            _, log = process.communicate(timeout=DEADLINE_S)
            yield role, process.returncode, log
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_a_leader_goes_on_with_an_older_program_s_journal_and_snapshot(
    journal: str, snapshots: str
) -> None:
    with LeaderProcess(journal, "--snapshots", snapshots) as leader:
        leader.wait_ready()
        told = pinned(1)
        assert (leader.epoch, leader.applied) == (told["epoch"] + 1, told["applied"])
        assert status(leader.address).ledger_id.hex() == told["ledger_id"]
        leader.signal(signal.SIGTERM)
        assert "restored a snapshot" in leader.wait_exit()[1]


def test_a_newer_record_stops_a_running_standby_and_every_start_with_one_clear_line(
    journal: str, tmp_path: Path
) -> None:
    newer = FORMAT_VERSION + 1
    said = f"format version {newer}, this program reads {FORMAT_VERSION}: use the newer program"
    flags = ("--no-snapshot", "--election-timeout-s", "600")
    with LeaderProcess(journal, *flags) as standby:
        assert standby.process.stderr is not None
        while b'"replayed"' not in standby.process.stderr.readline():
            pass
        append_newer(journal)
        code, log = standby.wait_exit()
    assert (code, "Traceback" in log) == (1, False)
    assert log.splitlines()[-1].endswith(f"journal offset 36: {said}")
    for role, code, log in start_all(journal, f"sqlite:///{tmp_path / 'none.db'}"):
        assert (role, code, "Traceback" in log) == (role, 1, False), log
        assert log.splitlines()[-1] == f"ringledger {role}: journal offset 36: {said}"


def test_a_newer_snapshot_is_begun_from_by_nobody_and_the_line_says_what_to_do(
    journal: str, snapshots: str
) -> None:
    path = snapshots.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {SNAPSHOT_FORMAT + 1}")
    for role, code, log in start_all(journal, snapshots):
        assert (role, code, "Traceback" in log) == (role, 1, False), log
        assert log.splitlines()[-1] == (
            f"ringledger {role}: {path}: snapshots of format {SNAPSHOT_FORMAT + 1}, this program "
            f"reads {SNAPSHOT_FORMAT} and older: {NEWER_ADVICE}"
        )


async def test_a_rolling_restart_of_all_nodes_under_load_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    journal, store = journal_url(tmp_path), f"sqlite:///{tmp_path / 'snapshots.db'}"
    snapshots = ("--snapshots", store)
    with ExitStack() as stack:

        def leading(listen: str) -> LeaderProcess:
            flags = (*snapshots, "--election-timeout-s", "30")  # each stop is a clean one
            return stack.enter_context(LeaderProcess(journal, *flags, listen=listen))

        def following(listen: str) -> FollowerProcess:
            flags = (*snapshots, "--listen", listen)
            return stack.enter_context(FollowerProcess(tmp_path, journal, *flags))

        def learning() -> LearnerProcess:
            flags = ("--snapshot-interval-s", "0.5")
            return stack.enter_context(LearnerProcess(tmp_path, journal, store, *flags))

        # ports that are listened on again: no outgoing connection may take one meanwhile
        one, two, three = (f"127.0.0.1:{port}" for port in free_ports(3))
        nodes = [leading(one).wait_ready(), leading(two).wait_standby()]
        follower, learner = following(three).wait_ready(), learning().wait_ready()
        addresses = [*(node.address for node in nodes), follower.address]
        async with MovingMoney(addresses) as money:
            await money.answers(200)
            await asyncio.to_thread(learner.wait_snapshots, 1)
            # 1. those that only follow
            await asyncio.to_thread(learner.stop)
            learner = await asyncio.to_thread(learning().wait_ready)
            await asyncio.to_thread(follower.stop)
            follower = await asyncio.to_thread(following(follower.address).wait_ready)
            # 2. the standby, and then the leader: the new standby takes over
            for node in (nodes[1], nodes[0]):
                await money.answers(100)
                node.signal(signal.SIGTERM)
                code, log = await asyncio.to_thread(node.wait_exit)
                assert (code, "Traceback" in log) == (0, False)
                await asyncio.to_thread(leading(node.address).wait_standby)
            await money.answers(200)
            assert status(nodes[1].address).role == ledger_pb2.ROLE_LEADER
            await money.finish()
            applied = status(nodes[1].address).applied_sequence
        assert poll_until(lambda: status(follower.address).applied_sequence == applied, DEADLINE_S)
        assert status(follower.address).assets == status(nodes[1].address).assets
