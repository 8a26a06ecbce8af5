"""Rows about reading: a follower's lag under load, packed reads, ghz on a follower."""

import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import grpc
import numpy as np

from client_app.bench_machine import ROOT, RunFailed, find_ghz, fresh_folder, run_ghz
from client_core.command_stream import CommandStream
from client_core.ledger import Ledger
from proto import ledger_pb2, ledger_pb2_grpc
from tests.bench_drive import drive_messages, open_accounts
from tests.bench_nodes import Node, node
from tests.bench_report import Figure, Options, Outcome, Row
from tests.bench_services import kafka

_QUERY: Final = '{"singleBalanceQuery": {"id": 1, "correlationId": "any"}}'
_PACKED_IDS: Final = 1_000
_REQUESTS: Final = 1_000
"""Different ones, so that no cache of a processor holds all that they ask for."""

_ACCOUNTS: Final = 100_000
_LAG_S: Final = 10


def _measure_lag(options: Options) -> Outcome:
    """From a reply at the leader to the follower's answer that has the command, under load."""
    with fresh_folder() as inside, kafka() as journal, ExitStack() as stack:
        folder = ROOT / inside
        leader = stack.enter_context(node(folder, "leader", "--journal", journal))
        follower = stack.enter_context(node(folder, "follower", "--journal", journal))
        seconds = 1 + options.count(_LAG_S)
        samples = asyncio.run(_sample_lag(leader.address, follower.address, seconds))
    samples.sort()
    values = {
        "p50": statistics.median(samples) * 1e3,
        "p99": samples[int(len(samples) * 0.99)] * 1e3,
    }
    result = {"samples": len(samples), "max_ms": samples[-1] * 1e3}
    commands = (leader.command, follower.command)
    return Outcome(commands, {"rate": 10_000, "seconds": seconds}, values, result | values)


async def _sample_lag(leader: str, follower: str, seconds: int) -> list[float]:
    async with (
        CommandStream(leader) as stream,
        grpc.aio.insecure_channel(follower) as channel,
    ):
        ledger = Ledger(stream)
        pair = [(await ledger.create_account()).entity for _ in range(2)]
        await ledger.deposit(pair[0], 1_000_000)
        query = ledger_pb2_grpc.QueryServiceStub(channel)
        return await _sample_beside_load(leader, ledger, pair, query, seconds)


async def _sample_beside_load(
    leader: str, ledger: Ledger, pair: list[int], query: Any, seconds: int
) -> list[float]:
    samples: list[float] = []
    background = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client_app", "bench", "--target", leader),
        *("--rate", "10000", "--commands", str((seconds + 4) * 10_000)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        await asyncio.sleep(2.0)  # the load has begun
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            reply = await ledger.transfer(pair[0], pair[1], 1)
            begun = time.perf_counter()
            level = ledger_pb2.Consistency(at_least_sequence=reply.sequence)
            await query.GetAccount(
                ledger_pb2.GetAccountRequest(account_id=pair[0], consistency=level)
            )
            samples.append(time.perf_counter() - begun)
            await asyncio.sleep(random.uniform(0.005, 0.015))
        # it counts what the ledger has done, finds our commands too, and says so
        told = (await background.communicate())[1].decode()
        if "another client was at work" not in told:
            raise RunFailed(f"the load of 10,000 commands/s: {told[-500:]}")
    finally:
        if background.returncode is None:
            background.kill()
            await background.wait()
    return samples


@contextmanager
def _replica(options: Options, *flags: str) -> Iterator[tuple[Node, Node]]:
    """A leader with 100,000 accounts, and a follower of it."""
    with fresh_folder() as inside:
        folder = ROOT / inside
        journal = f"sqlite:///{folder}/journal.db"
        with node(folder, "leader", "--journal", journal) as leader:
            accounts = open_accounts(leader, _ACCOUNTS)
            drive_messages(leader, accounts, options.count(1_000_000), batch=1_024)
            with node(folder, "follower", "--journal", journal, *flags) as follower:
                yield leader, follower


def _measure_ghz(options: Options) -> Outcome:
    ghz = find_ghz(options.ghz)
    calls = options.count(60_000)
    with _replica(options, "--workers", "2") as (leader, follower):
        command, result = run_ghz(
            ghz,
            *("--insecure", "--proto", "proto/balance.proto"),
            *("--call", "gc.garcol.bank.proto.BalanceQueryService/sendQuery", "-d", _QUERY),
            *("-c", "200", "--connections", "8", "-n", str(calls), "-O", "json"),
            follower.address,
        )
    values = {"rate": result["rps"]}
    parameters = {"concurrency": 200, "connections": 8, "calls": calls, "workers": 2}
    return Outcome((leader.command, follower.command, command), parameters, values, result)


def _measure_packed(options: Options) -> Outcome:
    calls = options.count(20_000)
    with _replica(options, "--workers", "2") as (leader, follower):
        seconds = asyncio.run(_read_packed(follower.address, calls))
    values = {"rate": calls * _PACKED_IDS / seconds}
    parameters = {"ids": _PACKED_IDS, "calls": calls, "connections": 4, "in_flight": 8}
    return Outcome((leader.command, follower.command), parameters, values, {"seconds": seconds})


async def _read_packed(address: str, calls: int) -> float:
    draw = np.random.default_rng(1)
    chosen = (draw.integers(1, _ACCOUNTS + 1, _PACKED_IDS, np.uint64) for _ in range(_REQUESTS))
    requests = itertools.cycle(
        [
            ledger_pb2.GetAccountsRequest(account_ids=ids.tobytes()).SerializeToString()
            for ids in chosen
        ]
    )
    left = calls

    async def reader(call: Any) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answer = ledger_pb2.GetAccountsResponse.FromString(await call(next(requests)))
            if len(answer.accounts) != _PACKED_IDS * 128:
                raise RunFailed(f"{len(answer.accounts)} bytes of accounts came back")

    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(4)]
    method = "/ringledger.v1.QueryService/GetAccounts"
    try:
        begun = time.perf_counter()
        await asyncio.gather(
            *(reader(channel.unary_unary(method)) for channel in channels for _ in range(2))
        )
        return time.perf_counter() - begun
    finally:
        for channel in channels:
            await channel.close()


LAG_ROW: Final = Row(
    "lag",
    (
        Figure("p50", "follower's lag at 10,000 commands/s, with a call, p50", "ms"),
        Figure("p99", "the same, p99", "ms", 50, 10),
    ),
    _measure_lag,
)
READ_ROWS: Final = (
    Row(
        "ghz-follower",
        (Figure("rate", "ghz, bank query on a follower with 2 workers", "/s", 10e3, 14e3),),
        _measure_ghz,
    ),
    Row(
        "packed",
        (Figure("rate", "packed reads, 1,000 ids a call: accounts", "/s", 1e6, 5e6),),
        _measure_packed,
    ),
)
