"""The audit of a journal that a real leader wrote: sound, or the fault named with its offset."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

import client_core
from client_core import Asset, CommandStream, Ledger
from cluster_app import audit
from cluster_app.__main__ import main
from cluster_core.batch import HEADER_BYTES, Kind, open_batch
from cluster_core.record import COMMAND, Operation
from cluster_core.state_machine import StateMachine
from tests import reference
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import create_account, deposits, submit
from tests.services import KafkaCluster

EUR = Asset(2, "EUR", 2)
ROUNDS = 5


async def work(address: str) -> int:
    """Every operation, also refused ones and chains; the number of commands applied."""
    async with CommandStream(address) as stream:
        ledger = Ledger(stream)
        await ledger.register_asset(EUR.number, EUR.symbol, EUR.decimals)
        for _ in range(ROUNDS):
            payer, payee = [(await ledger.create_account(EUR.number)).entity for _ in range(2)]
            await ledger.deposit(payer, "100")
            kept = (await ledger.hold(payer, payee, "10", timeout_s=3_600)).entity
            await ledger.capture(kept, "4", keep_rest_held=True)
            freed = (await ledger.hold(payer, payee, "5")).entity
            await ledger.release(freed)
            await ledger.lock(payee)
            await ledger.unlock(payee)
            await ledger.set_limits(payee, floor="-1")
            moves = [client_core.transfer(ledger.new_id(), payer, payee, 6_000) for _ in range(2)]
            with pytest.raises(client_core.ChainRefused):
                await ledger.execute_all(moves, atomic=True)
            await ledger.execute_all(moves)
            empty = (await ledger.create_account(EUR.number)).entity
            await ledger.close_account(empty)
        return (await ledger.totals()).applied_sequence


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A journal whose leader has ended well, and how many commands it holds."""
    folder = tmp_path_factory.mktemp("journal")
    with LeaderProcess(journal_url(folder), "--account-capacity", "64") as process:
        applied = asyncio.run(work(process.wait_ready().address))
        process.signal(signal.SIGTERM)
        assert process.wait_exit()[0] == 0
    return folder / "journal.db", applied


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """The audit's logs go to a test's own standard error, which ends with the test."""
    yield
    structlog.reset_defaults()


def url(journal: Path) -> str:
    return f"sqlite:///{journal}"


@pytest.fixture
def copied(written: tuple[Path, int], tmp_path: Path) -> Path:
    """A journal of the test's own, to be damaged."""
    copy = tmp_path / "journal.db"
    with closing(sqlite3.connect(written[0])) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def batches_of(journal: Path) -> list[tuple[int, bytes]]:
    """(offset, value) of all batches with commands."""
    with closing(sqlite3.connect(journal)) as connection:
        rows = connection.execute("SELECT offset, value FROM batches ORDER BY offset").fetchall()
    return [(offset, value) for offset, value in rows if open_batch(value).kind is Kind.COMMANDS]


def offset_of(journal: Path, operation: Operation) -> int:
    """Offset of the first batch that holds such a command."""
    for offset, value in batches_of(journal):
        commands = np.frombuffer(value, COMMAND, offset=HEADER_BYTES)
        if operation in commands["operation"]:
            return offset
    raise AssertionError(f"no {operation.name} in the journal")


def test_a_sound_journal_is_told_with_its_chain_digest_and_totals(
    written: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    journal, applied = written
    assert main(["audit", "--journal", url(journal)]) == 0
    told = capsys.readouterr().out
    assert f"applied={applied}\n" in told
    assert re.search(r"^chain=[0-9a-f]{64}$", told, re.MULTILINE)
    assert "\nepoch=1\nepoch_ended=true\n" in told
    # 100.00 into each round's payer; 6.00 of each round's first hold stay held
    assert (
        f"asset=2 symbol=EUR decimals=2 posted={10_000 * ROUNDS} held={600 * ROUNDS} "
        f"accounts={3 * ROUNDS} open_holds={ROUNDS}\n"
    ) in told
    assert told.endswith("\nsound\n")
    # the state's digest is the oracle's, from the journal's own bytes
    oracle = reference.ReferenceLedger(1 << 22, 1_000_000_000, 64, 1 << 22)
    for _, value in batches_of(journal):
        oracle.apply(value[HEADER_BYTES:], open_batch(value).timestamp_ns)
    assert f"digest={oracle.digest().hex()}\n" in told


def chain_of(journal: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a whole audit tells."""
    assert main(["audit", "--journal", url(journal)]) == 0
    found = re.search(r"^chain=([0-9a-f]{64})$", capsys.readouterr().out, re.MULTILINE)
    assert found
    return found[1]


def test_a_lost_tail_is_sound_by_itself_and_found_by_the_chain_that_was_noted(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = chain_of(copied, capsys)
    assert main(["audit", "--journal", url(copied), "--chain", noted.upper()]) == 0
    capsys.readouterr()
    with closing(sqlite3.connect(copied)) as connection, connection:
        [[end]] = connection.execute("SELECT next FROM head").fetchall()
        connection.execute("DELETE FROM batches WHERE offset >= ?", (end - 2,))
        connection.execute("UPDATE head SET next = ?", (end - 2,))
    shorter = chain_of(copied, capsys)
    assert shorter != noted
    assert main(["audit", "--journal", url(copied), "--chain", noted]) == 1
    out, error = capsys.readouterr()
    assert f"the journal's chain is {shorter}, expected was {noted}" in error
    assert "\nepoch_ended=false\n" in out
    assert "sound" not in out


@pytest.mark.parametrize("text", ["", "12", "0" * 63, "g" * 64, "0" * 66])
def test_a_chain_that_is_none_is_a_usage_error(
    text: str, written: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "--journal", url(written[0]), "--chain", text])
    assert ended.value.code == 2
    assert "argument --chain: give 64 hexadecimal digits" in capsys.readouterr().err


def test_an_empty_file_is_no_journal_and_stays_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "journal.db"
    empty.touch()
    assert main(["audit", "--journal", url(empty)]) == 1
    assert f"{empty} is empty, not a journal" in capsys.readouterr().err
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("journal.db", 0)]


@pytest.mark.parametrize(("role", "flags"), [("audit", True), ("warmup", False)])
def test_ctrl_c_ends_a_role_with_one_line(
    role: str,
    flags: bool,
    written: tuple[Path, int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    # the signal comes while the role is being imported
    run = f"""import signal, sys
from cluster_app.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
def interrupt(event, arguments):
    if event == "import" and arguments[0] == "numba":
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(interrupt)
sys.exit(main({[role, *(["--journal", url(written[0])] if flags else [])]!r}))"""
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=Path(__file__).parent.parent.parent,
        timeout=60,
        check=False,
    )
    assert (done.returncode, capfd.readouterr().err) == (130, f"ringledger {role}: interrupted\n")


def test_the_program_compares_a_sound_journal_with_the_oracle(written: tuple[Path, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster_app", "audit", "--reference", "--journal", url(written[0])],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["reference=equal", "sound"])


@pytest.mark.parametrize("flags", [[], ["--reference"]])
def test_a_flipped_byte_is_named_by_its_offset(
    copied: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    offset, value = batches_of(copied)[-2]
    flipped = bytearray(value)
    flipped[HEADER_BYTES + 40] ^= 1
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute(
            "UPDATE batches SET value = ? WHERE offset = ?", (bytes(flipped), offset)
        )
    assert main(["audit", "--journal", url(copied), *flags]) == 1
    out, error = capsys.readouterr()
    assert f"ringledger audit: journal offset {offset}: digest does not match" in error
    assert "sound" not in out


def test_a_missing_record_is_named_by_its_offset(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offset = batches_of(copied)[2][0]
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("DELETE FROM batches WHERE offset = ?", (offset,))
    assert main(["audit", "--journal", url(copied)]) == 1
    assert f"offset {offset} is missing" in capsys.readouterr().err


def test_a_reply_that_the_oracle_gives_otherwise_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.ReferenceLedger._capture

    def off_by_one(ledger: reference.ReferenceLedger, command: reference.Command) -> Any:
        reply = right(ledger, command)
        return reply._replace(amount=reply.amount + 1)

    monkeypatch.setattr(reference.ReferenceLedger, "_capture", off_by_one)
    assert main(["audit", "--reference", "--journal", url(copied)]) == 1
    out, error = capsys.readouterr()
    [told] = [line for line in error.splitlines() if line.startswith("ringledger audit")]
    assert f"journal offset {offset_of(copied, Operation.CAPTURE)}: " in told
    assert re.search(
        r"\(CAPTURE\), sequence \d+, reply's field amount: kernel 400, oracle 401", told
    )
    assert "sound" not in out


def test_a_state_that_differs_without_a_reply_is_named_at_the_first_batch(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.ReferenceLedger._set_limits

    def forgotten(ledger: reference.ReferenceLedger, command: reference.Command) -> Any:
        before = ledger.accounts.copy()
        reply = right(ledger, command)
        ledger.accounts = before
        return reply

    monkeypatch.setattr(reference.ReferenceLedger, "_set_limits", forgotten)
    monkeypatch.setattr(audit, "DIGEST_INTERVAL_BATCHES", 40)
    assert main(["audit", "--reference", "--journal", url(copied)]) == 1
    error = capsys.readouterr().err
    offset = offset_of(copied, Operation.SET_LIMITS)
    assert f"journal offset {offset}: account 2, field floor: kernel -100, oracle 0" in error


def test_an_oracle_that_fails_is_a_fault_with_its_offset(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(ledger: reference.ReferenceLedger, command: reference.Command) -> Any:
        raise ArithmeticError("out of money")

    monkeypatch.setattr(reference.ReferenceLedger, "_close", fails)
    assert main(["audit", "--reference", "--journal", url(copied)]) == 1
    offset = offset_of(copied, Operation.CLOSE)
    assert f"journal offset {offset}: the oracle failed: Arith" in capsys.readouterr().err


def test_a_journal_that_is_not_there_is_a_usage_error_and_is_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGLEDGER_JOURNAL", raising=False)
    absent = tmp_path / "absent.db"
    assert main(["audit", "--journal", url(absent)]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not absent.exists()
    assert main(["audit"]) == 2
    assert "name the journal" in capsys.readouterr().err


def test_a_kafka_journal_is_audited_and_an_absent_topic_is_not_created(
    kafka: KafkaCluster, kafka_topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    for _ in range(2):
        assert main(["audit", "--journal", journal]) == 1
        assert f"there is no topic '{kafka_topic}'" in capsys.readouterr().err
    with LeaderProcess(journal) as leader:
        submit(leader.wait_ready().address, create_account(), deposits(50))
        leader.signal(signal.SIGTERM)
        assert leader.wait_exit()[0] == 0
    assert main(["audit", "--reference", "--journal", journal]) == 0
    said = capsys.readouterr().out
    assert "applied=51\n" in said
    assert "posted=50 " in said
    assert said.endswith("reference=equal\nsound\n")


def test_without_a_checkout_the_oracle_is_a_usage_error(
    written: tuple[Path, int], tmp_path: Path
) -> None:
    # `tests` is no part of the wheel: without it on the path the program says so
    run = f"""import sys, types
sys.modules["tests"] = types.ModuleType("tests")
sys.path.insert(0, {str(Path(__file__).parent.parent.parent)!r})
from cluster_app.__main__ import main
sys.exit(main(["audit", "--reference", "--journal", {url(written[0])!r}]))"""
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "of a checkout" in done.stderr) == (2, True)


def test_the_audit_tells_books_that_do_not_add_up(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = StateMachine.apply_into

    def loses_money(state: StateMachine, *arguments: Any) -> None:
        right(state, *arguments)
        if state.accounts:
            state.books.accounts["posted"][1] -= 1

    monkeypatch.setattr(StateMachine, "apply_into", loses_money)
    assert main(["audit", "--journal", url(copied)]) == 1
    out, error = capsys.readouterr()
    assert re.search(r"books as of journal offset \d+: .*sum of posted \+ external", error)
    assert "sound" not in out
