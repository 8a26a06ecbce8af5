"""`python -m client_app bench`: load on a running leader, with every reply accounted for.

1. read the server's totals  2. create and fund accounts  3. warm up  4. measure
5. read the totals again and compare their change with the sums of the replies.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import grpc
import uvloop
from tqdm import tqdm

from client_app.bench_bank import BankLoad
from client_app.bench_load import MessageLoad, SingleLoad
from client_app.bench_tally import BenchFailed, Load, Progress, Tally, Totals
from client_core.channel import get_status, open_channel
from client_core.command_stream import CommandStream
from client_core.errors import RingledgerClientError
from client_core.records import MAX_MESSAGE_COMMANDS, Operation

DEFAULT_TARGET: Final = "127.0.0.1:9500"
DEFAULT_BATCH: Final = 1_024
DEFAULT_IN_FLIGHT: Final = 16
MAX_IN_FLIGHT: Final = 65_536
MAX_STREAMS: Final = 1_024
MAX_CALLERS: Final = 65_536
MAX_ACCOUNTS: Final = 1 << 26
_WARM_UP_SHARE: Final = 10
"""A tenth of the commands, unless said otherwise."""

_OPERATIONS: Final = {"transfer": Operation.TRANSFER, "deposit": Operation.DEPOSIT}


@dataclass(frozen=True)
class BenchSettings:
    """The command line, checked. `rate` 0 and `callers` 0 mean: not that way of sending."""

    target: str
    commands: int
    accounts: int
    batch: int
    in_flight: int
    rate: float
    operation: str
    contract: str
    streams: int
    callers: int
    warm_up: int
    seed: int
    json: bool


@dataclass(frozen=True)
class BenchResult:
    """What was measured; `tally` counts the measured phase alone."""

    settings: BenchSettings
    tally: Tally
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The object of `--json`."""
        parameters = asdict(self.settings)
        del parameters["json"]
        return {
            "commands": self.tally.commands,
            "accepted": self.tally.accepted,
            "refused": self.tally.refused,
            "duplicates": self.tally.duplicates,
            "seconds": round(self.seconds, 6),
            "commands_per_second": round(self.tally.commands / self.seconds, 1),
            "latency_ms": self.tally.latency_ms(),
            "parameters": parameters,
        }

    def as_text(self) -> str:
        """The same for people."""
        tally = self.tally
        latency = "  ".join(f"{name} {value:.3f}" for name, value in tally.latency_ms().items())
        told = ", ".join(f"{count} {name}" for name, count in tally.refusals.most_common())
        return (
            f"{tally.commands:,} commands in {self.seconds:.3f} s: "
            f"{tally.commands / self.seconds:,.0f} commands/s\n"
            f"accepted {tally.accepted:,}  refused {tally.refused:,}"
            f"{f' ({told})' if told else ''}  duplicates {tally.duplicates:,}\n"
            f"latency ms: {latency}\n"
            "the server's totals agree with the replies"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`."""
    add = parser.add_argument
    target = os.environ.get("RINGLEDGER_TARGET", DEFAULT_TARGET)
    add(
        "--target",
        default=target,
        metavar="HOST:PORT",
        help="leader; RINGLEDGER_TARGET (%(default)s)",
    )
    add("--commands", type=int, default=1_000_000, metavar="N", help="measured (%(default)s)")
    add("--accounts", type=int, default=10_000, metavar="N", help="new ones (%(default)s)")
    add(
        "--batch",
        type=int,
        metavar="N",
        help=f"commands a message ({DEFAULT_BATCH}; 1 for single commands)",
    )
    add(
        "--in-flight",
        type=int,
        metavar="N",
        help=f"unanswered messages a stream ({DEFAULT_IN_FLIGHT}; 1 with the bank contract); "
        "--batch 1 --in-flight 1 is one command at a time",
    )
    add("--rate", type=float, default=0, metavar="R", help="open loop, single commands a second")
    add("--callers", type=int, default=0, metavar="N", help="concurrent callers of single commands")
    add("--operation", choices=sorted(_OPERATIONS), default="transfer", help="(%(default)s)")
    add("--contract", choices=("ringledger", "bank"), default="ringledger", help="(%(default)s)")
    add("--streams", type=int, default=1, metavar="N", help="of the bank contract (%(default)s)")
    add("--warm-up", type=int, metavar="N", help="not counted (a tenth more)")
    add("--seed", type=int, default=1, metavar="N", help="of the random pairs (%(default)s)")
    add("--json", action="store_true", help="one JSON object as the last line")


def read_settings(arguments: argparse.Namespace) -> BenchSettings:
    """Fill defaults in and check. Raises ValueError that says what to change."""
    bank = arguments.contract == "bank"
    single = bank or arguments.rate or arguments.callers
    given = dict(vars(arguments))
    for name, usual in (
        ("batch", 1 if single else DEFAULT_BATCH),
        ("in_flight", 1 if bank else DEFAULT_IN_FLIGHT),
        ("warm_up", arguments.commands // _WARM_UP_SHARE),
    ):
        given[name] = usual if given[name] is None else given[name]
    settings = BenchSettings(**{name: given[name] for name in BenchSettings.__dataclass_fields__})
    for name, least, most in (
        ("commands", 1, 1 << 40),
        ("accounts", 2, MAX_ACCOUNTS),
        ("batch", 1, MAX_MESSAGE_COMMANDS),
        ("in_flight", 1, MAX_IN_FLIGHT),
        ("streams", 1, MAX_STREAMS),
        ("callers", 0, MAX_CALLERS),
        ("rate", 0, 10_000_000),
        ("warm_up", 0, 1 << 40),
        ("seed", 0, 1 << 62),
    ):
        if not least <= getattr(settings, name) <= most:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is {getattr(settings, name)}: give {least} to {most}")
    if single and settings.batch != 1:
        raise ValueError("--rate, --callers and the bank contract send single commands: --batch 1")
    if bool(settings.rate) + bool(settings.callers) + bank > 1:
        raise ValueError("give one of --rate, --callers and --contract bank")
    if settings.streams > 1 and not bank:
        raise ValueError("--streams is for --contract bank")
    return settings


def run(arguments: argparse.Namespace) -> int:
    """The command; its exit code: 0 well, 1 failed or differing sums, 2 wrong flags."""
    try:
        settings = read_settings(arguments)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    try:
        result = uvloop.run(measure(settings))
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except (RingledgerClientError, ExceptionGroup) as error:
        first = _first(error)
        if not isinstance(first, RingledgerClientError):
            raise
        print(f"bench: {first}", file=sys.stderr)
        return 1
    print(result.as_text())
    if settings.json:
        print(json.dumps(result.as_json()))
    return 0


async def measure(settings: BenchSettings) -> BenchResult:
    """One whole run. Raises BenchFailed and what `client_core.errors` lists."""
    brings_in = settings.operation == "deposit"
    async with open_channel(settings.target) as channel, _open_load(settings, channel) as load:
        before = Totals.of(await get_status(channel))
        with _progress("prepare", 2 * settings.accounts) as progress:
            prepared = await load.prepare(settings.accounts, progress)
        warm = Tally(brings_in)
        if settings.warm_up:
            with _progress("warm up", settings.warm_up) as progress:
                warm.progress = progress
                await load.run(settings.warm_up, warm)
        tally = Tally(brings_in)
        with _progress("measure", settings.commands) as progress:
            tally.progress = progress
            # What exists by now stays: a full collection would walk it for milliseconds.
            gc.collect()
            gc.freeze()
            start = time.perf_counter()
            await load.run(settings.commands, tally)
            seconds = time.perf_counter() - start
        for phase, sent in ((warm, settings.warm_up), (tally, settings.commands)):
            if phase.commands != sent:
                raise BenchFailed(f"{sent} commands were sent, {phase.commands} were answered")
        after = Totals.of(await get_status(channel))
        after.check(before, settings.accounts, (*prepared, warm, tally))
    return BenchResult(settings, tally, seconds)


@asynccontextmanager
async def _open_load(settings: BenchSettings, channel: grpc.aio.Channel) -> AsyncIterator[Load]:
    operation = _OPERATIONS[settings.operation]
    status = await get_status(channel)
    load: Load
    if settings.contract == "bank":
        load = BankLoad(channel, operation, settings.streams, settings.in_flight, settings.seed)
    else:
        load = messages = MessageLoad(
            channel,
            status.ledger_time_ns,
            operation,
            settings.batch,
            settings.in_flight,
            settings.seed,
        )
        if settings.rate or settings.callers:
            stream = CommandStream(settings.target)
            await stream.__aenter__()
            load = SingleLoad(
                messages, stream, operation, settings.callers, settings.rate, settings.seed
            )
    try:
        yield load
    finally:
        await load.close()


@contextmanager
def _progress(phase: str, total: int) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    with tqdm(
        total=total, desc=phase, unit=" commands", unit_scale=True, disable=None, leave=False
    ) as bar:
        yield (lambda _: None) if bar.disable else bar.update


def _first(error: BaseException) -> BaseException:
    """The first single exception of a tree of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
