"""A window whose ring lies in a file is the window, and its pages are let go of."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from blake3 import blake3

from cluster_app.errors import Fault
from cluster_app.window_file import WindowFile
from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND
from cluster_core.snapshot import WindowInPlace
from cluster_core.snapshot_rows import words_of
from cluster_core.state_digest import add_rows
from cluster_core.state_machine import StateMachine
from cluster_core.window_segments import SEGMENT_ENTRIES
from tests.property.strategies import NS_PER_MS, NS_PER_S, first_commands, packed, random_batch
from tests.reference import Command
from tests.server_process import poll_until

PARAMETERS = LedgerParameters(1 << 10, NS_PER_S, 1 << 10, 1 << 10)
DEADLINE_S = 30.0


def test_a_ledger_answers_and_digests_alike_with_its_window_in_a_file() -> None:
    random, now_ns, history = Random(3), 1_700_000_000 * NS_PER_S, list[Command]()
    with WindowFile() as file:
        in_file = StateMachine(PARAMETERS, hash_seed=1, make_window=file.make_window)
        in_memory = StateMachine(PARAMETERS, hash_seed=2)
        batch = first_commands(50, amount=10**6)
        for _ in range(150):
            commands = np.frombuffer(packed(batch), COMMAND)
            answers = [machine.apply(commands, now_ns) for machine in (in_file, in_memory)]
            assert answers[0].tobytes() == answers[1].tobytes()
            now_ns += NS_PER_MS
            batch = random_batch(random, 100, 50, now_ns // NS_PER_MS + 1_000, history)
        assert in_file.window_entries > PARAMETERS.window_capacity
        assert in_file.digest() == in_memory.digest()


def test_what_was_written_to_the_ring_is_soon_no_memory_of_the_process() -> None:
    with WindowFile() as file:
        window = file.make_window(LedgerParameters(1 << 18, NS_PER_S, 1_000, 1_000), 1)
        window.replies.view(np.uint8)[:] = 7
        assert poll_until(lambda: resident_bytes(window.replies.ctypes.data) < 1 << 20, DEADLINE_S)
        assert window.replies.view(np.uint8).min() == 7  # it is all there


def test_a_snapshot_reads_the_ring_without_taking_it_into_memory() -> None:
    entries = 1 << 21
    with WindowFile() as file:
        window = file.make_window(LedgerParameters(entries, NS_PER_S, 1_000, 1_000), 1)
    for number, column in enumerate((window.ids, window.fingerprints, words_of(window.replies))):
        column[:] = number + 1
        file.let_go()  # its own thread has ended: the slices alone must hold the limit
    in_place = WindowInPlace(window)
    sliced = file.in_slices(in_place)
    segment = in_place.segment(0, entries)  # all are alike
    file.let_go()
    hasher = blake3()
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    before = resident_peak_bytes()
    for rows in sliced.filled(entries):
        add_rows(hasher, rows)
    for number in range(entries // SEGMENT_ENTRIES):
        assert sliced.segment(number, entries) == segment
    assert resident_peak_bytes() - before < 48 << 20  # of 144 MiB
    whole = blake3()
    for rows in in_place.filled(entries):
        add_rows(whole, rows)
    assert hasher.digest() == whole.digest()


def resident_peak_bytes() -> int:
    """The largest size of this process since it was last forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def resident_bytes(address: int) -> int:
    """How much of the mapping at an address counts as this process's memory."""
    at, found = f"{address:x}-", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = found or line.startswith(at)
        if found and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("nothing is mapped there")


def test_a_folder_that_cannot_take_the_ring_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with WindowFile() as file, pytest.raises(Fault, match=r"missing .*set TMPDIR to a folder"):
        file.make_window(PARAMETERS, 1)
