"""`audit --against FOLDER`: another version's kernel on the same journal, command by command.

The other version runs in a process of its own, with FOLDER (a checkout) first on its path; it is
given the batches that count and answers with its replies, at the end with its state digest.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_app.audit import check_not_empty, read_all, reply_difference
from cluster_app.errors import Fault, UsageError
from cluster_app.journals import open_journal
from cluster_app.logs import ReplayProgress, configure_logs
from cluster_app.settings import NodeSettings
from cluster_core.batch import HEADER_BYTES, Kind, LedgerParameters, open_batch
from cluster_core.reader_rule import Verdict
from cluster_core.record import COMMAND, REPLY_BYTES
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine

_BATCH: Final = struct.Struct("<Iq")
_DIGEST_BYTES: Final = 32
_END_TIMEOUT_S: Final = 30.0
_TOLD_BYTES: Final = 2_000

_OTHER: Final = """
import json, struct, sys
import numpy as np
from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND
from cluster_core.state_machine import StateMachine
source, sink = sys.stdin.buffer, sys.stdout.buffer
machine = StateMachine(LedgerParameters(**json.loads(source.readline())))
while True:
    count, timestamp_ns = struct.unpack("<Iq", source.read(12))
    if count == 0:
        break
    commands = np.frombuffer(source.read(64 * count), COMMAND)
    sink.write(machine.apply(commands, timestamp_ns).tobytes())
    sink.flush()
sink.write(machine.digest())
sink.flush()
"""


def main(arguments: Sequence[str]) -> int:
    """Compare and print; returns 0 when both versions do the same.

    Raises Fault, naming the first offset, sequence and field that differ, and UsageError.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster_app audit --against FOLDER")
    parser.add_argument("--against", metavar="FOLDER", required=True)
    parser.add_argument("--journal", metavar="URL", default=os.environ.get("RINGLEDGER_JOURNAL"))
    parser.add_argument("--kafka-properties", metavar="TEXT", default=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.journal:
        raise UsageError("name the journal: --journal sqlite:///PATH")
    folder = Path(given.against).absolute()
    if not (folder / "cluster_core" / "state_machine.py").is_file():
        raise UsageError(f"--against {folder}: no checkout with a cluster_core is there")
    properties = getattr(
        given, "kafka_properties", os.environ.get("RINGLEDGER_KAFKA_PROPERTIES", "")
    )
    node = NodeSettings(journal=given.journal, kafka_properties=properties)
    configure_logs("info")
    check_not_empty(node.journal)
    with closing(open_journal(node.journal, node.kafka(), create=False)) as journal:
        end_offset = journal.end_offset()
        if journal.start_offset() > 0:
            raise Fault("the journal was trimmed: --against needs it from its start")
        replica, other = Replica(), None
        progress = ReplayProgress(0, end_offset)
        machine: StateMachine | None = None
        try:
            for record in read_all(journal, end_offset):
                counts = replica.take(record).verdict is Verdict.COUNTS
                header = open_batch(record.value)
                if machine is None and replica.state is not None:
                    machine = StateMachine(replica.state.parameters)
                    other = OtherVersion(folder, replica.state.parameters)
                if counts and header.kind is Kind.COMMANDS and machine and other:
                    commands = np.frombuffer(record.value, COMMAND, offset=HEADER_BYTES)
                    replies = machine.apply(commands, header.timestamp_ns)
                    expected = other.apply(commands, header.timestamp_ns)
                    if replies.tobytes() != expected:
                        told = reply_difference(commands, replies, expected, other="other version")
                        raise Fault(f"journal offset {record.offset}: {told}")
                progress.update(replica.position.next_offset, replica.position.next_sequence)
            if machine is None or other is None:
                raise Fault(f"no ledger begins in this journal of {end_offset} records")
            if other.digest() != machine.digest():
                raise Fault("all replies are equal, but the state digests at the end differ")
        finally:
            progress.close()
            if other is not None:
                other.close()
    print(f"against={folder} commands={machine.applied} digest={machine.digest().hex()}")
    print("equal", flush=True)
    return 0


class OtherVersion:
    """Another version's state machine, in a process of its own."""

    def __init__(self, folder: Path, parameters: LedgerParameters) -> None:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OTHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment,
        )
        self._write(json.dumps(asdict(parameters)).encode() + b"\n")

    def apply(self, commands: npt.NDArray[Any], timestamp_ns: int) -> bytes:
        """Its replies. Raises Fault when it ends."""
        self._write(_BATCH.pack(len(commands), timestamp_ns) + commands.tobytes())
        return self._read(len(commands) * REPLY_BYTES)

    def digest(self) -> bytes:
        """Its state digest; it ends with that."""
        self._write(_BATCH.pack(0, 0))
        return self._read(_DIGEST_BYTES)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate(timeout=_END_TIMEOUT_S)

    def _write(self, data: bytes) -> None:
        stdin: Any = self._process.stdin
        try:
            stdin.write(data)
            stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def _read(self, count: int) -> bytes:
        stdout: Any = self._process.stdout
        data: bytes = stdout.read(count)
        if len(data) < count:
            raise self._failed()
        return data

    def _failed(self) -> Fault:
        told = b""
        if self._process.stderr is not None:
            told = self._process.stderr.read()[-_TOLD_BYTES:]
        return Fault(f"the other version failed: {told.decode(errors='replace').strip()}")
