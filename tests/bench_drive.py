"""Load on a leader that runs, phase after phase, with what each cost client and leader.

The load is `python -m client_app bench`'s own; here many phases share a leader and its accounts.
"""

import gc
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import uvloop

from client_app.bench_load import MessageLoad, SingleLoad
from client_app.bench_machine import RunFailed, cpu_s
from client_app.bench_tally import Tally, Totals
from client_core.channel import get_status, open_channel
from client_core.command_stream import CommandStream
from client_core.errors import RingledgerClientError
from client_core.records import Operation

WINDOW: Final = 1 << 22
"""Recent ids that a ledger keeps; figures count with a full window."""

IN_FLIGHT: Final = 16

_Result = TypeVar("_Result")
Accounts = npt.NDArray[np.uint64]


class Serving(Protocol):
    """A leader that runs: where, and whose CPU time counts."""

    @property
    def address(self) -> str:
        """HOST:PORT."""

    @property
    def pid(self) -> int:
        """Its process."""


@dataclass(frozen=True)
class Driven:
    """One phase: all commands accepted, and the leader's totals agree with the replies."""

    commands: int
    seconds: float
    latencies_ns: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    """How many commands each latency stands for."""
    latency_ms: dict[str, float]
    leader_cpu_us: float
    """For each command."""
    client_cpu_us: float

    @property
    def rate(self) -> float:
        """Commands a second."""
        return self.commands / self.seconds

    def as_json(self) -> dict[str, Any]:
        """What a run's result keeps."""
        return {
            "commands": self.commands,
            "seconds": round(self.seconds, 6),
            "latency_ms": self.latency_ms,
            "leader_cpu_us": round(self.leader_cpu_us, 4),
            "client_cpu_us": round(self.client_cpu_us, 4),
        }


def open_accounts(leader: Serving, count: int) -> Accounts:
    """Create and fund so many; their ids. Raises RunFailed."""

    async def ask() -> Accounts:
        async with open_channel(leader.address) as channel:
            clock_ns = (await get_status(channel)).ledger_time_ns
            load = MessageLoad(channel, clock_ns, Operation.TRANSFER, 1_024, IN_FLIGHT, 1)
            await load.prepare(count, lambda _: None)
            return load.accounts

    return _run(ask())


def drive_messages(
    leader: Serving, accounts: Accounts, commands: int, *, batch: int, in_flight: int = IN_FLIGHT
) -> Driven:
    """Transfers between random accounts, in messages of `batch`. Raises RunFailed."""

    async def ask() -> Driven:
        async with open_channel(leader.address) as channel:
            before = await get_status(channel)
            load = MessageLoad(
                channel, before.ledger_time_ns, Operation.TRANSFER, batch, in_flight, seed=2
            )
            load.accounts = accounts
            return await _phase(leader, channel, load, commands, Totals.of(before))

    return _run(ask())


def drive_open_loop(leader: Serving, accounts: Accounts, commands: int, *, rate: float) -> Driven:
    """Single transfers, `rate` a second whatever the answers do; a latency begins when its command
    was due. Raises RunFailed.
    """

    async def ask() -> Driven:
        async with (
            open_channel(leader.address) as channel,
            CommandStream(leader.address) as stream,
        ):
            before = await get_status(channel)
            setup = MessageLoad(channel, before.ledger_time_ns, Operation.TRANSFER, 1, 1, seed=3)
            setup.accounts = accounts
            load = SingleLoad(setup, stream, Operation.TRANSFER, 0, rate, seed=3)
            return await _phase(leader, channel, load, commands, Totals.of(before))

    return _run(ask())


async def _phase(
    leader: Serving, channel: Any, load: MessageLoad | SingleLoad, commands: int, before: Totals
) -> Driven:
    tally = Tally(False)
    # What exists by now stays: a full collection would walk it for milliseconds.
    gc.collect()
    gc.freeze()
    led_s, own_s = cpu_s(leader.pid), time.process_time()
    start = time.perf_counter()
    await load.run(commands, tally)
    seconds = time.perf_counter() - start
    led_s, own_s = cpu_s(leader.pid) - led_s, time.process_time() - own_s
    tally.check_all_accepted("transfers")
    Totals.of(await get_status(channel)).check(before, 0, (tally,))
    return Driven(
        commands,
        seconds,
        np.array(tally.latencies_ns, np.int64),
        np.array(tally.weights, np.int64),
        tally.latency_ms(),
        led_s * 1e6 / commands,
        own_s * 1e6 / commands,
    )


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    try:
        return uvloop.run(work)
    except (RingledgerClientError, ExceptionGroup) as error:
        raise RunFailed(f"the load: {error}") from error
