"""Clients that move money, and write down what they did: one process of a campaign.

    python -m tests.campaign.clients --endpoints A,B,F --folder F --names c0,c1 --rate 2000

Each name is a client of client_core with a history file of its own (`history.py`) and several
callers, which send single commands, messages and chains, and now and then a command once more that
was answered. A few times a second it reads some balances, from followers above all. A call
that ends without an answer is asked again with the same ids until it has one. SIGTERM: no new
calls; the process ends once everything is answered. A process that was killed asks again, when it
comes back, for all that its files leave open.
"""

import argparse
import asyncio
import mmap
import random
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import uvloop

from client_core.cluster import Cluster
from client_core.cluster_reader import ClusterReader
from client_core.consistency import READ_YOUR_WRITES
from client_core.errors import OutcomeUnknown, Retryable, StreamClosed, Unavailable
from client_core.leader_stream import ClientStats, LeaderStream
from client_core.queries import GET_ACCOUNTS
from client_core.records import COMMAND_BYTES, MAX_MESSAGE_COMMANDS
from client_core.security import PLAIN
from cluster_core.record import ACCOUNT, COMMAND, REPLY, CommandFlag, Operation, Status
from proto import ledger_pb2
from tests.campaign.history import READ, HistoryWriter, Kind

CALLERS: Final = 8
"""Calls that each client has under way."""

TIMEOUT_S: Final = 1.5
"""Of one call: so short that faults leave outcomes unknown, which are then asked for."""

_ASK_AGAIN_S: Final = 0.05
_CONNECT_S: Final = 60.0
_REPEATED: Final = 0.01
"""Answered calls that are sent once more, with the same ids."""

_HOLDS_KEPT: Final = 256
_BACKLOG_S: Final = 0.25
_WEIGHTS: Final = {
    Operation.TRANSFER: 0.80,
    Operation.DEPOSIT: 0.06,
    Operation.WITHDRAW: 0.06,
    Operation.HOLD: 0.04,
    Operation.CAPTURE: 0.03,
    Operation.RELEASE: 0.01,
}
READ_PAUSE_S: Final = 0.25
"""Between two reads of a client: a small share of the load."""

_READ_ACCOUNTS: Final = 8
_STATS: Final = struct.Struct("<6Q")
_WORD: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one process: commands answered, under way, unknown at first and since resolved; calls."""

    answered: int
    in_flight: int
    unknown: int
    resolved: int
    calls: int
    retries: int


class CountsFile:
    """`Counts` that the campaign can see while the process runs, or is stopped."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_STATS.size))
        with path.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), _STATS.size)

    def add(self, place: int, count: int) -> None:
        """Add to the number at a place of `Counts`."""
        (value,) = _WORD.unpack_from(self._words, 8 * place)
        _WORD.pack_into(self._words, 8 * place, value + count)

    def set(self, place: int, value: int) -> None:
        """Set the number at a place."""
        _WORD.pack_into(self._words, 8 * place, value)

    def read(self) -> Counts:
        """All of them."""
        return Counts(*_STATS.unpack_from(self._words))


_ANSWERED, _IN_FLIGHT, _UNKNOWN, _RESOLVED, _CALLS, _RETRIES = range(6)


class MovingClient:
    """One client: its stream to the leader, its history, its callers."""

    def __init__(
        self, name: str, folder: Path, endpoints: list[str], counts: CountsFile, accounts: int
    ) -> None:
        self.history = HistoryWriter(folder / f"{name}.history")
        self.stats = ClientStats()
        self._accounts = accounts
        self._counts = counts
        self._random = random.Random(f"{name} {self.history.next_index}")
        self._draw = np.random.default_rng(self._random.getrandbits(64))
        self._cluster = Cluster(endpoints, PLAIN)
        self._stream = LeaderStream(
            self._cluster, PLAIN, self.stats, timeout_s=TIMEOUT_S, max_in_flight_commands=65_536
        )
        self._reader = ClusterReader(
            self._cluster,
            PLAIN,
            self.stats,
            lambda: self._stream.newest_sequence,
            timeout_s=TIMEOUT_S,
            consistency=READ_YOUR_WRITES,
        )
        self._holds: list[int] = []
        self._due = 0.0
        self._known = 0
        """All that this process was answered, by replies and reads, lies below this sequence."""

    async def open(self) -> None:
        """Connect. Raises Unavailable when no node answers for a minute."""
        self._cluster.open()
        await self._stream.open(_CONNECT_S)

    async def close(self) -> None:
        """Disconnect."""
        await self._stream.close()
        await self._cluster.close()
        self.history.close()

    async def resume(self) -> None:
        """Ask for all that an earlier process left open."""
        open_calls, self.history.open_calls = self.history.open_calls, {}
        for first, commands in open_calls.items():
            count = len(commands) // COMMAND_BYTES
            self.history.note(Kind.UNKNOWN, first, count)
            self._counts.add(_UNKNOWN, count)
            await self._ask_until_answered(first, commands, unknown=True)

    async def prepare(self, amount: int) -> None:
        """Open the accounts and give each its first money."""
        commands = self._new(self._accounts, Operation.CREATE_ACCOUNT)
        commands["asset"] = 1
        await self._call_in_messages(commands)
        deposits = self._new(self._accounts, Operation.DEPOSIT)
        deposits["credit_account"] = np.arange(1, self._accounts + 1)
        deposits["amount"] = amount
        await self._call_in_messages(deposits)

    async def _call_in_messages(self, commands: npt.NDArray[Any]) -> None:
        for start in range(0, len(commands), MAX_MESSAGE_COMMANDS):
            await self._call(commands[start : start + MAX_MESSAGE_COMMANDS].tobytes())

    async def move(self, rate: float, largest: int, stopping: asyncio.Event) -> None:
        """Send about `rate` commands a second in messages of up to `largest`."""
        self._due = time.monotonic()
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._move(rate, largest, stopping))
            callers.create_task(self._read(stopping))

    async def _read(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await asyncio.sleep(READ_PAUSE_S)
            accounts = self._draw.integers(1, self._accounts + 1, _READ_ACCOUNTS, np.uint64)
            request = ledger_pb2.GetAccountsRequest(account_ids=accounts.tobytes())
            known = self._known
            try:
                answer = await self._reader.ask(GET_ACCOUNTS, request, None)
            except Unavailable:
                continue
            read = np.zeros(_READ_ACCOUNTS, READ)
            read["known"], read["applied"] = known, answer.applied_sequence
            read["account"] = accounts
            read["posted"] = np.frombuffer(answer.accounts, ACCOUNT)["posted"]
            self.history.read(read)
            self._known = max(self._known, answer.applied_sequence)

    async def _move(self, rate: float, largest: int, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            count = 1 if self._random.random() < 0.3 else self._random.randint(2, largest)
            now = time.monotonic()
            self._due = max(self._due, now - _BACKLOG_S) + count / rate
            if self._due > now:
                await asyncio.sleep(self._due - now)
            commands = self._drawn(count).tobytes()
            first, replies = await self._call(commands)
            self._learn_holds(np.frombuffer(replies, REPLY), np.frombuffer(commands, COMMAND))
            if self._random.random() < _REPEATED:
                self.history.note(Kind.AGAIN, first, count)
                await self._ask_until_answered(first, commands, unknown=False)

    # One call

    async def _call(self, commands: bytes) -> tuple[int, bytes]:
        first = self.history.call(commands)
        self._counts.add(_CALLS, 1)
        return first, await self._ask_until_answered(first, commands, unknown=False)

    async def _ask_until_answered(self, first: int, commands: bytes, *, unknown: bool) -> bytes:
        count = len(commands) // COMMAND_BYTES
        self._counts.add(_IN_FLIGHT, count)
        while True:
            try:
                replies = await self._stream.submit_many(commands)
                if not (
                    np.frombuffer(replies, REPLY)["status"] == Status.COMMAND_ID_IN_FUTURE
                ).any():
                    break
                # put off: the same ids fit in a moment, and what has run is answered as it was
                self.history.note(Kind.NOT_RUN, first, count)
            except OutcomeUnknown:
                self.history.note(Kind.UNKNOWN, first, count)
                if not unknown:
                    self._counts.add(_UNKNOWN, count)
                unknown = True
            except StreamClosed:
                raise
            except Retryable:
                self.history.note(Kind.NOT_RUN, first, count)
            await asyncio.sleep(_ASK_AGAIN_S)
            self.history.note(Kind.AGAIN, first, count)
        self.history.reply(first, replies)
        newest = int(np.frombuffer(replies, REPLY)["sequence"].max())
        self._known = max(self._known, newest + 1)
        self._counts.add(_IN_FLIGHT, -count)
        self._counts.add(_ANSWERED, count)
        if unknown:
            self._counts.add(_RESOLVED, count)
        return replies

    # Commands

    def _new(self, count: int, operation: Operation) -> npt.NDArray[Any]:
        commands = np.zeros(count, COMMAND)
        ids = self._stream.command_ids.take(count)
        commands["id_0"] = ids[:, 0].view("<u8")
        commands["id_1"] = ids[:, 1].view("<u8")
        commands["operation"] = operation
        return commands

    def _drawn(self, count: int) -> npt.NDArray[Any]:
        """Commands of all kinds; a twentieth of the messages is a chain."""
        draw = self._draw
        commands = self._new(count, Operation.TRANSFER)
        drawn = draw.choice([int(o) for o in _WEIGHTS], count, p=list(_WEIGHTS.values()))
        commands["operation"] = drawn
        of_holds = (drawn == Operation.CAPTURE) | (drawn == Operation.RELEASE)
        for index in np.flatnonzero(of_holds):
            if self._holds:
                commands[index]["reference"] = self._holds.pop()
            else:
                commands[index]["operation"] = Operation.HOLD
        drawn = commands["operation"]
        of_holds = (drawn == Operation.CAPTURE) | (drawn == Operation.RELEASE)
        debit, credit = draw.integers(1, self._accounts + 1, (2, count), np.uint64)
        commands["debit_account"] = np.where(of_holds | (drawn == Operation.DEPOSIT), 0, debit)
        commands["credit_account"] = np.where(of_holds | (drawn == Operation.WITHDRAW), 0, credit)
        # one in a hundred asks for more than there is
        large = draw.random(count) < 0.01
        amounts = np.where(large, 1 << 50, draw.integers(1, 100, count))
        commands["amount"] = np.where(of_holds, 0, amounts)
        if count > 1 and self._random.random() < 0.05:
            commands["flags"][:-1] = CommandFlag.LINKED
        return commands

    def _learn_holds(self, replies: npt.NDArray[Any], commands: npt.NDArray[Any]) -> None:
        opened = (commands["operation"] == Operation.HOLD) & (replies["status"] == Status.OK)
        self._holds += [int(hold) for hold in replies["entity"][opened]]
        del self._holds[:-_HOLDS_KEPT]


async def _run(options: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    names = options.names.split(",")
    counts = CountsFile(options.folder / f"{names[0]}.counts")
    counts.set(_IN_FLIGHT, 0)
    clients = [
        MovingClient(name, options.folder, options.endpoints.split(","), counts, options.accounts)
        for name in names
    ]
    await asyncio.gather(*(client.open() for client in clients))
    await asyncio.gather(*(client.resume() for client in clients))
    print("ready clients", flush=True)
    if options.prepare:
        await clients[0].prepare(options.prepare)
    else:
        rate = options.rate / len(clients)
        moving = (client.move(rate, options.largest, stopping) for client in clients)
        await asyncio.gather(*moving)
    for client in clients:
        counts.add(_RETRIES, client.stats.retries)
    await asyncio.gather(*(client.close() for client in clients))


def main() -> int:
    """Run the clients of one process until SIGTERM, or only prepare the accounts."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.clients")
    parser.add_argument("--endpoints", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--names", required=True)
    parser.add_argument("--rate", type=float, default=1_000.0, help="commands/s of the process")
    parser.add_argument("--largest", type=int, default=100, help="commands of a message at most")
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--prepare", type=int, default=0, help="only open accounts, so funded")
    uvloop.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
