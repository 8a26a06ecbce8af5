"""`make overload`: ten times as much is offered as can be served, to a leader and to an admin app.

Two loads, each at its peak first (as many callers as are served at a time, always busy), then with
ten times the peak's rate offered, and then a light one to see how soon
all is well again:

- leader: streams of packed commands. Those beyond `--max-streams` are refused, the others slowed
  by gRPC's flow control.
- admin app: deposits over REST. Those beyond `--max-requests` get 503 and come again as Retry-After
  says.

What is offered falls due by the clock; what could not be sent in time was refused, or held back at
its caller. Load, leader and app share this machine.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import uvloop

from client_app.bench_machine import describe_commit, describe_machine, describe_versions
from client_core.command_stream import SUBMIT_METHOD
from client_core.stream_end import EndOfStream
from client_core.wire import read_response, submit_header
from tests.admin_process import AdminProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.ledger_load import create_account, deposits, submit

SERVED: Final = 16
"""Streams, or requests, that are served at a time."""

TIMES: Final = 10
MESSAGE_COMMANDS: Final = 256
GOODPUT_LEAST: Final = 0.9
RECOVERY_MOST_S: Final = 2.0
MEMORY_MOST_MB: Final = 64.0
"""What the processes may grow by, from the most of the overload's first quarter on."""

_PEAK_IN_FLIGHT: Final = 16
_OVER_IN_FLIGHT: Final = 4_096
"""Messages of a stream: far more than the leader takes, so that flow control alone holds back."""

_MAX_IN_FLIGHT: Final = 16_384
"""Commands of a stream that the leader has taken and not answered, at most."""

_LIGHT_S: Final = 2.5
_RETRY_S: Final = 1.0
_QUICK_S: Final = 0.02
_PROBES: Final = 10
"""All is well again when half of so many probes in a row take no longer than that, and all are
answered."""

_BODY: Final = b'{"id": 1, "amount": 1}'


@dataclass
class Tally:
    """What callers counted in one phase."""

    done: int = 0
    refused: int = 0
    refusal_s: list[float] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Result:
    """One load: rates a second; memory in MB; refusals in ms; recovery in s."""

    name: str
    seconds: float
    peak: float
    offered: float
    goodput: float
    share: float
    refused: int
    refusal_ms_p50: float
    refusal_ms_p99: float
    codes: list[str]
    memory_mb_early: float
    memory_mb_most: float
    recovery_s: float

    @property
    def holds(self) -> bool:
        """Whether it is as good as it must be."""
        return (
            self.share >= GOODPUT_LEAST
            and self.refused > 0
            and self.memory_mb_most - self.memory_mb_early <= MEMORY_MOST_MB
            and self.recovery_s <= RECOVERY_MOST_S
        )


class Memory:
    """The resident memory of some processes, looked at ten times a second."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._over = threading.Event()
        self.most_mb = self.before_mb = 0.0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def now_mb(self) -> float:
        """All of them together, now."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids)
        return sum(pages) * 4096 / 1e6

    def begin_anew(self) -> None:
        """The most up to now becomes `before_mb`."""
        self.before_mb, self.most_mb = self.most_mb, 0.0

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.most_mb = max(self.most_mb, self.now_mb())

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


Caller = Callable[[Tally, float, float], Any]
"""A caller's coroutine: counts into the tally, until a time, with so many seconds a unit of work
(0: as fast as it is answered)."""


async def measure(
    name: str,
    unit: int,
    more: int,
    caller: Caller,
    probe: Callable[[], Any],
    pids: Sequence[int],
    s: float,
) -> Result:
    """Peak, overload, recovery.

    `unit` is what a caller does at a time, in commands. There are `more` times as many callers as
    are served, who offer ten times the peak together.
    """
    loop = asyncio.get_running_loop()
    memory = Memory(*pids)
    try:
        peak_s = max(s / 6, 2.0)
        await _run(caller, SERVED, 0.5, 0.0)
        peak = (await _run(caller, SERVED, peak_s, 0.0)).done * unit / peak_s
        gap_s = SERVED * more * unit / (TIMES * peak)
        recovering = asyncio.ensure_future(_recovery(probe, loop.time() + s))
        early = loop.call_later(s / 4, memory.begin_anew)
        over = await _run(caller, SERVED * more, s, gap_s)
        early.cancel()
        early_mb = memory.before_mb
        recovery_s = await recovering
    finally:
        memory.end()
    refusals_ms = np.array(over.refusal_s or [0.0]) * 1e3
    goodput = over.done * unit / s
    return Result(
        name=name,
        seconds=s,
        peak=round(peak),
        offered=round(SERVED * more * unit / gap_s),
        goodput=round(goodput),
        share=round(goodput / peak, 3),
        refused=over.refused,
        refusal_ms_p50=round(float(np.quantile(refusals_ms, 0.5)), 2),
        refusal_ms_p99=round(float(np.quantile(refusals_ms, 0.99)), 2),
        codes=sorted(over.codes),
        memory_mb_early=round(early_mb, 1),
        memory_mb_most=round(max(early_mb, memory.most_mb), 1),
        recovery_s=round(recovery_s, 3),
    )


async def _run(caller: Caller, callers: int, seconds: float, gap_s: float) -> Tally:
    tally = Tally()
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(caller(tally, end, gap_s) for _ in range(callers)))
    return tally


async def _recovery(probe: Callable[[], Any], ended: float) -> float:
    """Seconds from the overload's end until all is well again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(ended - loop.time())
    probes: list[tuple[float, float]] = []
    while loop.time() < ended + _LIGHT_S:
        begun = loop.time()
        answered = await probe()
        probes.append((begun - ended, loop.time() - begun if answered else math.inf))
        await asyncio.sleep(0.01)
    for index, (since_s, _) in enumerate(probes[:-_PROBES]):
        took = sorted(seconds for _, seconds in probes[index : index + _PROBES])
        if took[_PROBES // 2] <= _QUICK_S and took[-1] < math.inf:
            return since_s
    return math.inf


class _Due:
    """When a caller's next unit falls due; those that pass while it is busy are not made up for."""

    def __init__(self, gap_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._gap_s = gap_s
        self._next = self._loop.time()

    async def wait(self) -> None:
        """Until the next one; at once if it has passed."""
        now = self._loop.time()
        self._next = max(self._next + self._gap_s, now - self._gap_s)
        if self._next > now:
            await asyncio.sleep(self._next - now)


# The leader


class Streams:
    """Callers of a leader: each has a stream, and a few messages under way on it."""

    def __init__(self, address: str) -> None:
        # a few connections: one alone would be the bottleneck
        self._channels = [
            grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(4)
        ]
        self._turn = 0
        commands = deposits(MESSAGE_COMMANDS)
        commands["id_0"], commands["id_1"] = 0, 0  # no ids: the same bytes again and again
        packed = commands.tobytes()
        self._message = submit_header(len(packed)) + packed

    async def call(self, tally: Tally, end: float, gap_s: float) -> None:
        """One caller, until `end`."""
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            self._turn += 1
            begun = loop.time()
            stream: Any = self._channels[self._turn % 4].stream_stream(SUBMIT_METHOD)()
            watch = EndOfStream(stream)
            permits = asyncio.Semaphore(1)  # more once it is served, so that no write fails
            more = (_OVER_IN_FLIGHT if gap_s else _PEAK_IN_FLIGHT) - 1
            writer = asyncio.ensure_future(self._write(stream, permits, end, gap_s))
            try:
                async for response in stream:
                    replies, _ = read_response(response)
                    for _ in range(1 + more):
                        permits.release()
                    more = 0
                    if loop.time() > end:
                        break
                    tally.done += len(replies) > 0
            except grpc.aio.AioRpcError:
                # the node's own status: a write that fails may hide it
                tally.codes.add((await watch.read()).code.name)
                tally.refused += 1
                tally.refusal_s.append(loop.time() - begun)
                await asyncio.sleep(min(_RETRY_S, max(end - loop.time(), 0.0)))
            finally:
                writer.cancel()
                stream.cancel()
                await asyncio.wait({writer})

    async def _write(
        self, stream: Any, permits: asyncio.Semaphore, end: float, gap_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        due = _Due(gap_s)
        try:
            while loop.time() < end:
                await due.wait()
                await permits.acquire()
                await stream.write(self._message)
            await stream.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reading side knows why

    async def probe(self) -> bool:
        """One message on a stream of its own."""
        stream: Any = self._channels[0].stream_stream(SUBMIT_METHOD)()
        try:
            await stream.write(self._message)
            await stream.read()
            await stream.done_writing()
            return bool(await stream.code() is grpc.StatusCode.OK)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False

    async def close(self) -> None:
        """Disconnect."""
        for channel in self._channels:
            await channel.close()


async def overload_leader(address: str, pid: int, seconds: float) -> Result:
    """Twice the streams that are served, each with five times its share of the peak."""
    streams = Streams(address)
    try:
        return await measure(
            "leader, gRPC", MESSAGE_COMMANDS, 2, streams.call, streams.probe, [pid], seconds
        )
    finally:
        await streams.close()


# The admin app


class Requests:
    """Callers of the admin app: each has a connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        head = (
            f"POST /api/v1/balance/command/deposit HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        )
        self._request = head.encode() + _BODY

    async def call(self, tally: Tally, end: float, gap_s: float) -> None:
        """One caller, until `end`; told 503 it comes again in a second."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        due = _Due(gap_s)
        try:
            while loop.time() < end:
                await due.wait()
                begun = loop.time()
                status = await self._ask(reader, writer)
                if status == 200:
                    tally.done += loop.time() < end
                else:
                    tally.codes.add(str(status))
                    tally.refused += 1
                    tally.refusal_s.append(loop.time() - begun)
                    await asyncio.sleep(min(_RETRY_S, max(end - loop.time(), 0.0)))
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return int(head[9:12])

    async def probe(self) -> bool:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            return await self._ask(reader, writer) == 200
        finally:
            writer.close()


async def overload_admin(port: int, pids: Sequence[int], seconds: float) -> Result:
    """Ten times the requests that are served at a time."""
    requests = Requests(port)
    return await measure("admin app, REST", 1, TIMES, requests.call, requests.probe, pids, seconds)


def run(folder: Path, seconds: float) -> list[Result]:
    """Both loads, each on a leader of its own with a SQLite journal."""
    results = []
    flags = ("--max-streams", str(SERVED), "--max-in-flight", str(_MAX_IN_FLIGHT))
    (folder / "leader").mkdir()
    with LeaderProcess(journal_url(folder / "leader"), *flags) as leader:
        submit(leader.wait_ready().address, create_account())
        results.append(uvloop.run(overload_leader(leader.address, leader.process.pid, seconds)))
    (folder / "admin").mkdir()
    with LeaderProcess(journal_url(folder / "admin")) as leader:
        submit(leader.wait_ready().address, create_account())
        limits = ("--max-requests", str(SERVED), "--rate-limit", "0")
        with AdminProcess(leader.address, *limits) as admin:
            admin.wait_ready()
            pids = [leader.process.pid, admin.process.pid]
            results.append(uvloop.run(overload_admin(admin.port, pids, seconds)))
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| load | peak/s | offered/s | done/s | share | refused | ms: p50, p99 | MB | well in s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.name} | {r.peak:,} | {r.offered:,} | {r.goodput:,} | {r.share:.0%} | "
        f"{r.refused:,} {', '.join(r.codes)} | {r.refusal_ms_p50}, {r.refusal_ms_p99} | "
        f"{r.memory_mb_early:.0f} to {r.memory_mb_most:.0f} | {r.recovery_s:.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both; 0 if each holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.overload")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each overload")
    parser.add_argument("--json", type=Path, default=Path("build/overload.json"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        results = run(Path(folder), options.seconds)
    print(table(results))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "results": [asdict(result) for result in results],
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    options.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
