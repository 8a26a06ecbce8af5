"""The audit: replay a journal, check every sum, and compare each step with the oracle if asked.

What is checked:
  records    each record's own digest, and the chain, by the reader rule
  commands   their structure
  books      `cluster_app.audited_books`: sums, counts and limits, from the arrays themselves
  oracle     with `--reference`: the replies to each batch byte by byte, and the state digest
  chain      with `--chain`: the newest digest, against one noted elsewhere

A journal that lost its tail is sound by itself: only a chain noted elsewhere shows that, or, after
a clean stop, `epoch_ended=false`.

The oracle is the state machine in plain Python, `tests/reference.py` of a checkout, written
independently of the kernel: 20 to 30 us a command, some two hundred times what the kernel takes,
and at each comparison of the states another 10 us for every account.
"""

import argparse
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_app.audited_books import check_books
from cluster_app.election import READ_BACK_TIMEOUT_S, JournalFollower
from cluster_app.errors import Fault, UsageError
from cluster_app.journals import open_journal
from cluster_app.kafka_options import KafkaOptions, check_properties, read_properties
from cluster_app.logs import ReplayProgress, configure_logs
from cluster_app.recovery import recover
from cluster_app.snapshot_store import open_snapshots
from cluster_core.batch import CHAIN_START, HEADER_BYTES, Kind, open_batch
from cluster_core.journal import Journal, JournalRecord
from cluster_core.reader_rule import Verdict
from cluster_core.record import (
    ACCOUNT,
    ASSET,
    COMMAND,
    HOLD,
    HOLD_BYTES,
    REPLY,
    REPLY_BYTES,
    Operation,
    Status,
)
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine

DIGEST_INTERVAL_BATCHES: Final = 256
"""Batches between two comparisons of digests, which take the oracle long."""

_OTHER_AUDITS: Final = (
    (("--at-sequence", "--at-time"), "audit_moment"),
    (("--against",), "audit_against"),
)


@dataclass(frozen=True)
class AuditSettings:
    """What `audit` takes."""

    journal: str
    reference: bool = False
    chain: bytes | None = None
    kafka: KafkaOptions = field(default_factory=KafkaOptions)
    snapshots: str = field(default="", repr=False)


class Difference(Fault):
    """Kernel and oracle disagree. At `equal_offset` they still had the same state."""

    def __init__(self, what: str, equal_offset: int) -> None:
        super().__init__(what)
        self.equal_offset = equal_offset


def main(arguments: Sequence[str]) -> int:
    """Audit the journal that the flags name and print what it holds.

    Returns 0 when all is sound. Raises Fault or a JournalError, naming the offset, when it is
    not, and UsageError.
    """
    for flags, module in _OTHER_AUDITS:
        if any(argument.partition("=")[0] in flags for argument in arguments):
            return int(import_module(f"cluster_app.{module}").main(arguments))
    settings = read_settings(arguments)
    configure_logs("info")
    oracle = import_oracle() if settings.reference else None
    check_not_empty(settings.journal)
    with closing(open_journal(settings.journal, settings.kafka, create=False)) as journal:
        end_offset = journal.end_offset()
        begun = begin(journal, settings)
        first_offset = begun.position.next_offset
        replica = (
            replay(journal, begun, end_offset)
            if oracle is None
            else compare(journal, end_offset, oracle)
        )
    if replica.state is None:
        raise Fault(f"no ledger begins in this journal of {end_offset} records, up to its end")
    print(describe(replica, replica.state, first_offset))
    faults = check_books(replica.state)
    if faults:
        raise Fault(f"books as of journal offset {end_offset - 1}: {'; '.join(faults)}")
    chain = replica.position.chain
    if settings.chain not in (None, chain):
        raise Fault(
            f"the journal's chain is {chain.hex()}, expected was {settings.chain.hex()}: records "
            "are missing at its end or were added, or it is another journal"
        )
    if oracle is not None:
        print("reference=equal")
    print("sound", flush=True)
    return 0


def read_settings(arguments: Sequence[str]) -> AuditSettings:
    """Settings from flags and environment; argparse itself ends on an unknown flag."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app audit",
        description="Replay a whole journal and check it. Exit code 0 only if all is sound.",
        epilog="`--at-sequence N` or `--at-time NS` rebuilds the state of a moment and compares it "
        "with `--history URL`; `--against FOLDER` compares two versions of the program.",
    )
    parser.add_argument(
        "--journal",
        metavar="URL",
        default=os.environ.get("RINGLEDGER_JOURNAL"),
        help="the journal, as for a leader; also RINGLEDGER_JOURNAL",
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="compare each batch with the oracle (slow; from a checkout of the sources)",
    )
    parser.add_argument(
        "--chain",
        metavar="HEX",
        type=_chain,
        help="the chain that the journal must end with, as an earlier audit or the status told it",
    )
    parser.add_argument(
        "--snapshots",
        metavar="URL",
        default="",
        help="begin with this store's snapshot, not with the journal's start: for a journal that "
        "was trimmed",
    )
    flag = "--kafka-properties"
    parser.add_argument(
        flag,
        metavar="TEXT",
        default=argparse.SUPPRESS,
        help="librdkafka properties, as for a leader; also RINGLEDGER_KAFKA_PROPERTIES",
    )
    given = parser.parse_args(arguments)
    if not given.journal:
        raise UsageError("name the journal: --journal sqlite:///PATH")
    text = getattr(given, "kafka_properties", os.environ.get("RINGLEDGER_KAFKA_PROPERTIES", ""))
    properties = read_properties(flag, text)
    check_properties(flag, properties)
    if given.reference and given.snapshots:
        raise UsageError("--reference needs the journal from its start: leave --snapshots out")
    return AuditSettings(
        given.journal, given.reference, given.chain, KafkaOptions(properties), given.snapshots
    )


def _chain(text: str) -> bytes:
    """Argparse names the flag and this function's words when it raises."""
    try:
        chain = bytes.fromhex(text)
    except ValueError:
        chain = b""
    if len(chain) != len(CHAIN_START):
        raise argparse.ArgumentTypeError(f"give {2 * len(CHAIN_START)} hexadecimal digits")
    return chain


def check_not_empty(url: str) -> None:
    """Raises Fault for an empty file: opening it would make a journal of it."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and path.is_file() and path.stat().st_size == 0:
        raise Fault(f"{path} is empty, not a journal")


def import_oracle() -> ModuleType:
    """The oracle's module. Raises UsageError outside a checkout."""
    try:
        from tests import reference
    except ImportError as error:
        raise UsageError(
            f"--reference needs tests/reference.py of a checkout ({error}): run it from there"
        ) from None
    return reference


def describe(replica: Replica, state: StateMachine, first_offset: int) -> str:
    """What the journal holds, one `name=value` or one asset a line; amounts in minor units."""
    position = replica.position
    lines = [
        f"offsets={first_offset}..{position.next_offset - 1}",
        f"skipped_records={replica.skipped_records}",
        f"ledger_id={replica.ledger_id.hex()}",
        f"epoch={position.epoch}",
        f"epoch_ended={str(not position.has_leader).lower()}",
        f"applied={state.applied}",
        f"ledger_time_ns={position.timestamp_ns}",
        f"chain={position.chain.hex()}",
        f"digest={state.digest().hex()}",
        f"accounts={state.accounts}",
        f"open_holds={state.open_holds}",
    ]
    for number in state.asset_numbers():
        asset: Any = state.asset(number)
        symbol = int(asset["symbol"]).to_bytes(8, "little").rstrip(b"\0").decode("ascii")
        lines.append(
            f"asset={number} symbol={symbol} decimals={asset['decimals']} "
            f"posted={-int(asset['external'])} held={asset['held']} "
            f"accounts={asset['accounts']} open_holds={asset['open_holds']}"
        )
    return "\n".join(lines)


def begin(journal: Journal, settings: AuditSettings) -> Replica:
    """Where the audit begins: an empty replica, or the snapshot's if one is named.

    Raises Fault for a trimmed journal without one, and what `recover` raises.
    """
    if settings.snapshots:
        replica, base = recover(journal, open_snapshots(settings.snapshots), lambda: False)
        if base is None:
            raise Fault("the store that --snapshots names has no snapshot")
        return replica
    start = journal.start_offset()
    if start > 0:
        raise Fault(
            f"the journal begins at offset {start}: what was trimmed can't be audited. Name the "
            "snapshot store with --snapshots to check its snapshot and the rest"
        )
    return Replica(hash_seed=secrets.randbits(64))


def replay(journal: Journal, replica: Replica, end_offset: int) -> Replica:
    """Take everything below `end_offset`. Raises JournalFault with the offset."""
    position = replica.position
    progress = ReplayProgress(position.next_offset, end_offset, position.next_sequence)

    def told(replica: Replica) -> None:
        progress.update(replica.position.next_offset, replica.position.next_sequence)

    try:
        with closing(JournalFollower(journal, replica)) as follower:
            follower.catch_up(end_offset, told)
    finally:
        progress.close()
    return replica


def compare(journal: Journal, end_offset: int, oracle: ModuleType) -> Replica:
    """`replay`, with each batch given to the oracle as well.

    Raises Difference, naming the first offset, and the sequence or record and field, that differ.
    """
    try:
        return _compare(journal, end_offset, oracle, each_batch_from=end_offset)
    except Difference as difference:
        # States may have differed before a reply did, or before the next look at the digests:
        # once more, and look after each batch from where they were surely equal.
        _compare(journal, end_offset, oracle, each_batch_from=difference.equal_offset + 1)
        raise Fault(f"{difference}; but not when it was replayed again") from None


def _compare(
    journal: Journal, end_offset: int, oracle: ModuleType, *, each_batch_from: int
) -> Replica:
    replica = Replica(hash_seed=secrets.randbits(64))
    comparison: Comparison | None = None
    progress = ReplayProgress(0, end_offset)
    batches = 0
    try:
        for record in read_all(journal, end_offset):
            counted = replica.take(record).verdict is Verdict.COUNTS
            if replica.state is not None and comparison is None:
                comparison = Comparison(replica.state, oracle)
            if counted and comparison is not None and comparison.step(record):
                batches += 1
                if record.offset >= each_batch_from or batches % DIGEST_INTERVAL_BATCHES == 0:
                    comparison.check_state(record.offset)
            progress.update(replica.position.next_offset, replica.position.next_sequence)
        if comparison is not None:
            comparison.check_state(end_offset - 1)
    finally:
        progress.close()
    return replica


def read_all(journal: Journal, end_offset: int) -> Iterator[JournalRecord]:
    """The records from the journal's first one on, below an offset. Raises Fault."""
    offset = 0
    with closing(journal.reader(offset)) as reader:
        while offset < end_offset:
            records = reader.read(READ_BACK_TIMEOUT_S, end_offset - offset)
            if not records:
                raise Fault(f"cannot read the journal's offset {offset}")
            yield from records
            offset += len(records)


class Comparison:
    """Kernel and oracle beside each other, both from an empty ledger with the state's parameters.

    The kernel runs a second time here, with another hash seed: its digest must be that of `state`
    too.
    """

    def __init__(self, state: StateMachine, oracle: ModuleType) -> None:
        self._state = state
        self._oracle = oracle
        self._machine = StateMachine(state.parameters, hash_seed=secrets.randbits(64))
        self._reference = oracle.ReferenceLedger(**asdict(state.parameters))
        self._equal_offset = -1

    def step(self, record: JournalRecord) -> bool:
        """Apply a counted record to both; False when it holds no commands. Raises Difference."""
        header = open_batch(record.value)
        if header.kind is not Kind.COMMANDS:
            return False
        packed = record.value[HEADER_BYTES:]
        commands = np.frombuffer(packed, COMMAND)
        replies = self._machine.apply(commands, header.timestamp_ns)
        try:
            expected = b"".join(self._reference.apply(packed, header.timestamp_ns))
        except Exception as error:
            raise self._difference(record.offset, f"the oracle failed: {error!r}") from error
        if replies.tobytes() != expected:
            raise self._difference(record.offset, reply_difference(commands, replies, expected))
        return True

    def check_state(self, offset: int) -> None:
        """Compare the digests after the record at `offset`. Raises Difference."""
        digest = self._machine.digest()
        if digest != self._state.digest():
            raise self._difference(offset, "two runs of the kernel differ")
        if digest != self._reference.digest():
            raise self._difference(offset, self._state_difference())
        self._equal_offset = offset

    def _difference(self, offset: int, what: str) -> Difference:
        return Difference(f"journal offset {offset}: {what}", self._equal_offset)

    def _state_difference(self) -> str:
        """The first record and field that differ, in the digest's order."""
        machine, reference = self._machine, self._reference
        for name, number in (
            ("accounts", len(reference.accounts)),
            ("next_hold", reference.next_hold),
            ("open_holds", len(reference.holds)),
            ("window_entries", reference.window_entries),
        ):
            if getattr(machine, name) != number:
                return f"{name}: kernel {getattr(machine, name)}, oracle {number}"
        accounts = enumerate(reference.accounts, start=1)
        holds = sorted(reference.holds.items())
        layouts = self._oracle
        for name, entries, find, layout, dtype in (
            ("account", accounts, machine.account, layouts.ACCOUNT, ACCOUNT),
            ("asset", sorted(reference.assets.items()), machine.asset, layouts.ASSET, ASSET),
            ("hold", holds, machine.hold, layouts.OPEN_HOLD, HOLD),
        ):
            for number, entry in entries:
                record = find(number)
                if record is None:
                    return f"{name} {number}: the kernel has none"
                packed = layout.pack(*astuple(entry)).ljust(HOLD_BYTES, b"\0")
                if record.tobytes() != packed:
                    expected = np.frombuffer(packed, dtype)[0]
                    return f"{name} {number}, {_field_difference(record, expected)}"
        return "state digest: the assets or the window of recent command ids differ"


def reply_difference(
    commands: npt.NDArray[Any],
    replies: npt.NDArray[Any],
    expected_bytes: bytes,
    other: str = "oracle",
) -> str:
    """The first reply and field that differ from what `other` gave."""
    if len(expected_bytes) != replies.nbytes:
        return f"the {other} gives {len(expected_bytes)} bytes of replies, not {replies.nbytes}"
    expected = np.frombuffer(expected_bytes, REPLY)
    rows = [array.view(np.uint8).reshape(-1, REPLY_BYTES) for array in (replies, expected)]
    index = int(np.flatnonzero((rows[0] != rows[1]).any(axis=1))[0])
    operation = Operation(int(commands[index]["operation"])).name
    return (
        f"command {index} ({operation}), sequence {replies[index]['sequence']}, "
        f"reply's {_field_difference(replies[index], expected[index], other)}"
    )


def _field_difference(record: Any, expected: Any, other: str = "oracle") -> str:
    for name in record.dtype.names:
        found, wanted = int(record[name]), int(expected[name])
        if found != wanted:
            if name == "status":
                return f"field status: kernel {_status(found)}, {other} {_status(wanted)}"
            return f"field {name}: kernel {found}, {other} {wanted}"
    return "reserved bytes"


def _status(number: int) -> str:
    return Status(number).name if number in set(Status) else str(number)
