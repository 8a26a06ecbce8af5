"""Clients: client_core's own Client on the simulated network, and what each call saw.

Every command has a number of its own, in `code` or `reference`, so that it can be found in the
journal even without an id.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from random import Random
from typing import Any, Final

from client_core import Client, records
from client_core.consistency import LINEARIZABLE, Consistency
from client_core.errors import (
    NotFound,
    OutcomeUnknown,
    Retryable,
    RingledgerClientError,
)
from client_core.messages import link
from client_core.records import COMMAND_BYTES, NO_ID, REPLY_BYTES
from tests.simulation.event_loop import SimLoop
from tests.simulation.nodes import ADDRESSES
from tests.simulation.world import Process, World

ACCOUNTS: Final = 8
CALLERS: Final = 4
CALL_TIMEOUT_S: Final = 6.0


class Outcome(Enum):
    """What a caller knows of its call."""

    RUNNING = auto()
    ANSWERED = auto()
    UNKNOWN = auto()
    NOT_RUN = auto()


@dataclass
class Call:
    """One call: its commands, when it began and ended, and its packed replies."""

    client: str
    commands: bytes
    begun_ns: int
    ended_ns: int = -1
    outcome: Outcome = Outcome.RUNNING
    replies: bytes = b""

    @cached_property
    def sequences(self) -> list[int]:
        """Of its replies; asked once it has ended."""
        return [
            int.from_bytes(self.replies[at : at + 8], "little")
            for at in range(0, len(self.replies), REPLY_BYTES)
        ]

    @property
    def count(self) -> int:
        """Commands in it."""
        return len(self.commands) // COMMAND_BYTES


@dataclass
class Read:
    """One query of an account: what it was told."""

    client: str
    account: int
    linearizable: bool
    begun_ns: int
    ended_ns: int = -1
    applied: int = -1
    posted: int = 0
    held: int = 0


@dataclass
class Clients:
    """All clients of a scenario, and their histories."""

    world: World
    random: Random
    commands_wanted: int
    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    issued: int = 0
    running: int = 0
    stop: bool = False
    number: int = 0

    def start(self, count: int) -> None:
        """Start the clients' processes."""
        for index in range(count):
            process = Process(self.world, f"client-{index + 1}")
            loop = SimLoop(process)
            self.running += 1
            before, self.world.current = self.world.current, process
            loop.call_soon(lambda loop=loop, index=index: self._begin(loop, index))
            self.world.current = before

    def _begin(self, loop: SimLoop, index: int) -> None:
        task = loop.create_task(self._run(loop, f"client-{index + 1}", index))

        def ended(_: Any) -> None:
            self.running -= 1
            if not task.cancelled() and task.exception() is not None:
                self.failures.append(f"client: {task.exception()!r}")
            self.failures += [repr(failure["exception"]) for failure in loop.failures]

        task.add_done_callback(ended)

    async def _run(self, loop: SimLoop, name: str, index: int) -> None:
        addresses = list(ADDRESSES.values())
        client = Client(
            addresses[index % len(addresses) :] + addresses[: index % len(addresses)],
            timeout_s=CALL_TIMEOUT_S,
            query_timeout_s=4.0,
            connect_timeout_s=60.0,
            token="",
        )
        async with client:
            callers = [self._call_on(client, name) for _ in range(CALLERS)]
            if index == 0:
                await self._open_accounts(client, name)
            await asyncio.gather(*callers)

    async def _open_accounts(self, client: Client, name: str) -> None:
        for _ in range(ACCOUNTS):
            command = records.create_account(client.new_id(), code=self._number())
            await self._submit(client, name, command)
        for account in range(1, ACCOUNTS + 1):
            command = records.deposit(client.new_id(), account, 100_000, code=self._number())
            await self._submit(client, name, command)

    async def _call_on(self, client: Client, name: str) -> None:
        draw = self.random
        while not self.stop:
            await asyncio.sleep(draw.uniform(0.002, 0.22))
            kind = draw.random()
            if kind < 0.08:
                await self._read(client, name)
            elif kind < 0.16:
                count = draw.choice((2, 3, 8, 40))
                commands = [self._command(client, with_id=True) for _ in range(count)]
                await self._submit(client, name, b"".join(commands))
            elif kind < 0.22:
                commands = [self._movement(client) for _ in range(draw.randrange(2, 6))]
                await self._submit(client, name, link(commands))
            else:
                await self._submit(client, name, self._command(client, with_id=kind < 0.97))

    # one call

    async def _submit(self, client: Client, name: str, commands: bytes) -> None:
        call = Call(name, commands, self.world.now_ns)
        self.calls.append(call)
        self.issued += call.count
        stream = client._leader_stream
        try:
            if call.count == 1:
                reply = await stream.submit(commands)
                call.replies = records._REPLY.pack(*reply)
            else:
                call.replies = await stream.submit_many(commands)
            call.outcome = Outcome.ANSWERED
        except OutcomeUnknown:
            call.outcome = Outcome.UNKNOWN
        except Retryable:
            call.outcome = Outcome.NOT_RUN
        except RingledgerClientError as error:
            call.outcome = Outcome.UNKNOWN
            self.failures.append(f"{name}: {error!r}")
        call.ended_ns = self.world.now_ns
        self.world.note(f"call {call.outcome.name}", call.replies)

    async def _read(self, client: Client, name: str) -> None:
        account = self.random.randrange(1, ACCOUNTS + 1)
        read = Read(name, account, self.random.random() < 0.5, self.world.now_ns)
        consistency: Consistency | None = LINEARIZABLE if read.linearizable else None
        try:
            found = await client.account(account, consistency=consistency)
        except NotFound:
            return
        except Retryable:
            return
        read.ended_ns, read.applied = self.world.now_ns, found.applied_sequence
        read.posted, read.held = _minor(found)
        self.reads.append(read)
        self.world.note(f"read {account} at {read.applied}")

    # what is sent

    def _number(self) -> int:
        self.number += 1
        return self.number

    def _command(self, client: Client, *, with_id: bool) -> bytes:
        draw = self.random
        command_id = client.new_id() if with_id else NO_ID
        account = draw.randrange(1, ACCOUNTS + 1)
        other = account % ACCOUNTS + 1
        amount, code = draw.randrange(1, 2_000), self._number()
        made: dict[int, Callable[[], bytes]] = {
            0: lambda: records.deposit(command_id, account, amount, code=code),
            1: lambda: records.withdraw(command_id, account, amount, code=code),
            2: lambda: records.hold(
                command_id, account, other, amount, timeout_s=draw.choice((0, 1, 2)), code=code
            ),
            3: lambda: records.capture(command_id, draw.randrange(1, 60), code=code),
            4: lambda: records.release(command_id, draw.randrange(1, 60), code=code),
        }
        choice = draw.randrange(12)
        if choice in made:
            return made[choice]()
        return records.transfer(command_id, account, other, amount, code=code)

    def _movement(self, client: Client) -> bytes:
        account = self.random.randrange(1, ACCOUNTS + 1)
        amount = self.random.randrange(1, 30_000)
        return records.transfer(
            client.new_id(), account, account % ACCOUNTS + 1, amount, code=self._number()
        )


def _minor(account: Any) -> tuple[int, int]:
    """(posted, held) in minor units."""
    scale = 10**account.asset.decimals
    return int(account.posted * scale), int(account.held * scale)
