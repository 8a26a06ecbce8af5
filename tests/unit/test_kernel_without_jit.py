"""The kernel's Python source does what its compiled form does: nothing relies on the compiler.

Numba reads NUMBA_DISABLE_JIT when it is imported, so the comparison runs in its own process: this
file, as a program.
"""

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import FunctionType
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).parents[2]
BATCHES: Final = 12
BATCH_COMMANDS: Final = 70
"""More than the kernel looks ahead at a time."""


def test_the_interpreted_kernel_agrees_with_the_oracle() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.unit.test_kernel_without_jit"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"{BATCHES * BATCH_COMMANDS} commands agree")


def compare() -> int:
    """Run random batches through kernel and oracle; returns the number of commands."""
    from cluster_core.batch import LedgerParameters
    from cluster_core.recent_commands import hash_id
    from cluster_core.record import COMMAND, Operation
    from cluster_core.snapshot import Snapshotter
    from cluster_core.state_machine import StateMachine, find_malformed
    from tests.property.strategies import NS_PER_MS, packed, random_batch, symbol_number
    from tests.reference import Command, ReferenceLedger
    from tests.snapshot_rows import SnapshotRows, replica_of

    assert isinstance(hash_id, FunctionType)
    parameters = LedgerParameters(64, id_ahead_ns=0, account_capacity=40, hold_capacity=20)
    machine = StateMachine(parameters, hash_seed=2**64 - 1)
    reference = ReferenceLedger(64, 0, 40, 20)
    random, now_ns, history = Random(1), 1_700_000_000 * 10**9, list[Command]()
    eur = symbol_number(b"EUR")
    first = [Command(operation=Operation.REGISTER_ASSET, asset=2, reference=eur)]
    first += [Command(operation=Operation.CREATE_ACCOUNT, asset=1) for _ in range(10)]
    first += [Command(operation=Operation.DEPOSIT, credit_account=5, amount=10**6)]
    for number in range(BATCHES + 1):
        now_ns += random.randrange(5 * NS_PER_MS)
        newest_ms = now_ns // NS_PER_MS
        batch = first
        if number:
            batch = random_batch(
                random, BATCH_COMMANDS, machine.accounts, newest_ms, history, machine.next_hold
            )
        commands = np.frombuffer(packed(batch), COMMAND)
        assert find_malformed(commands, from_client=False) is None
        replies = machine.apply(commands, now_ns)
        assert replies.tobytes() == b"".join(reference.apply(packed(batch), now_ns))
        assert machine.digest() == reference.digest()
        due = [hold for hold in reference.holds.values() if 0 < hold.expires_ns <= now_ns]
        due.sort(key=lambda hold: (hold.expires_ns, hold.hold_id))
        expired = machine.expired_holds(now_ns, BATCH_COMMANDS).tolist()
        assert expired == [hold.hold_id for hold in due]
    rows = SnapshotRows()
    rows.save(Snapshotter(replica_of(machine), None).take(1).finish())
    restored = rows.restore(hash_seed=1).state
    assert restored is not None
    assert restored.digest() == machine.digest()
    nothing = np.frombuffer(packed([Command()]), COMMAND)
    assert find_malformed(nothing, from_client=True) is not None
    return len(history)


if __name__ == "__main__":
    print(f"{compare()} commands agree")
