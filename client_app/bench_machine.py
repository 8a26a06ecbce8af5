"""What benchmarks run: a leader of their own, bench, measure and ghz; and on which machine.

A leader's journal is SQLite's, in a folder under build/, or a new topic of a Kafka that runs. A
`tree` is a checkout: this one, or another commit's that this one is compared with.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import selectors
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build"
SQLITE: Final = "sqlite"
"""In a journal's place: a new file each time."""

GHZ_PACKAGE: Final = "github.com/bojand/ghz/cmd/ghz@v0.120.0"

_START_TIMEOUT_S: Final = 180.0
"""Compiling the kernels for the first time takes most of it."""

_STOP_TIMEOUT_S: Final = 30.0
_RUN_TIMEOUT_S: Final = 1_800.0
_GO_TIMEOUT_S: Final = 600.0
_DELETE_TIMEOUT_S: Final = 30.0
_READY: Final = re.compile(
    r"ready (?:leader|echo) address=(\S+) epoch=\d+ applied=\d+(?: http=\S+)?"
)
_ERROR_CHARACTERS: Final = 2_000
_KAFKA: Final = re.compile(r"kafka://[^/\s]+/[A-Za-z0-9._-]{1,200}")
"""A topic's name has 249 characters at most, and ours need some."""

_CPU_CLOCK: Final = 2
"""CPUCLOCK_SCHED of Linux: what all threads of a process have run, user and system."""

_PACKAGES: Final = ("numpy", "numba", "blake3", "grpcio", "protobuf", "uvloop")


class RunFailed(Exception):
    """A program of the suite failed; the message says which and why."""


class NotMeasured(Exception):
    """A row can't run here; the message says why. Not a failure."""


@dataclass(frozen=True)
class Leader:
    """A serving leader; `ready_s` is the time from its start to its ready line."""

    process: subprocess.Popen[str]
    address: str
    ready_s: float
    command: str

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of all threads of a process so far; OSError if it is gone.

    Read from the process's own clock, in nanoseconds (clock_getcpuclockid(3)), as its line in
    proc(5) counts in ticks of 10 ms: a short run would seem to cost nothing.
    """
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK)


def resident_mb(pid: int, line: str = "VmRSS") -> float:
    """Resident memory in MB of 10^6 bytes (proc(5), status); `VmHWM` is the most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{line}:\s+(\d+) kB$", status, re.MULTILINE)
    if match is None:
        raise RunFailed(f"the status of process {pid} has no {line}")
    return int(match[1]) * 1_024 / 1e6


@contextmanager
def fresh_folder(tree: Path = ROOT) -> Iterator[Path]:
    """A folder under the tree's build/, relative to the tree; removed afterwards."""
    build = tree / BUILD.name
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
        yield Path(folder).relative_to(tree)


def read_journal(journal: str) -> str:
    """The text of `--journal`: SQLITE or kafka://HOST:PORT[,...]/PREFIX. Raises for any other."""
    if journal != SQLITE and _KAFKA.fullmatch(journal) is None:
        raise argparse.ArgumentTypeError(
            f"{journal!r}: use {SQLITE} or kafka://HOST:PORT[,...]/PREFIX"
        )
    return journal


@contextmanager
def fresh_journal(journal: str, folder: Path) -> Iterator[str]:
    """The URL of an empty journal: a file in `folder`, or a topic PREFIX-<uuid>.

    The topic is deleted afterwards; who can't delete it is told its name, and the run counts.
    """
    if journal == SQLITE:
        yield f"sqlite:///{folder / 'journal.db'}"
        return
    url = f"{journal}-{uuid.uuid4()}"
    try:
        yield url
    finally:
        _delete_topic(url)


@contextmanager
def fresh_leader(
    journal: str = SQLITE, flags: Sequence[str] = (), tree: Path = ROOT
) -> Iterator[Leader]:
    """A leader on an empty journal, stopped cleanly afterwards. Raises RunFailed."""
    with fresh_folder(tree) as folder, fresh_journal(journal, folder) as url:
        arguments = ("--journal", url, "--listen", "127.0.0.1:0", *flags)
        with _server(tree, folder, ("cluster_app", "leader", *arguments)) as leader:
            yield leader


@contextmanager
def fresh_echo() -> Iterator[Leader]:
    """A bare echo of the bank query in a leader's place. Raises RunFailed."""
    arguments = ("cluster_app", "measure", "echo", "--listen", "127.0.0.1:0")
    with fresh_folder() as folder, _server(ROOT, folder, arguments) as echo:
        yield echo


@contextmanager
def _server(tree: Path, folder: Path, arguments: tuple[str, ...]) -> Iterator[Leader]:
    with (tree / folder / "leader.log").open("w") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            (sys.executable, "-m", *arguments),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=_environment(),
            cwd=tree,
        )
        try:
            address = _await_ready(process, log.name)
            ready_s = time.perf_counter() - start
            yield Leader(process, address, ready_s, _shown(arguments))
            _stop(process, log.name)
        finally:
            _end(process)


def run_json(module: str, *arguments: str, tree: Path = ROOT) -> tuple[str, dict[str, Any]]:
    """Run `python -m module arguments --json`: its command line and the object of its last line.

    Raises RunFailed.
    """
    whole = (module, *arguments, "--json")
    output = _run((sys.executable, "-m", *whole), _shown(whole), tree)
    try:
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise RunFailed(f"{_shown(whole)}: its last line is no JSON object") from None
    return _shown(whole), result


def run_ghz(ghz: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run ghz: its command line and its report. Raises RunFailed, also when a call failed."""
    shown = shlex.join(("ghz", *arguments))
    try:
        report: dict[str, Any] = json.loads(_run((str(ghz), *arguments), shown))
    except ValueError:
        raise RunFailed(f"{shown}: its report is no JSON") from None
    codes = report.get("statusCodeDistribution")
    if codes != {"OK": report.get("count")}:
        raise RunFailed(f"{shown}: calls ended with {codes}")
    kept = ("count", "total", "average", "fastest", "slowest", "rps")
    result = {name: report[name] for name in kept}
    result["latencyDistribution"] = report["latencyDistribution"]
    return shown, result


def find_ghz(given: Path | None) -> Path:
    """The ghz at `given`, on PATH, in build/bin, or built there with Go. Raises NotMeasured."""
    if given is not None:
        return given.resolve()
    if found := shutil.which("ghz"):
        return Path(found)
    built = BUILD / "bin" / "ghz"
    if built.exists():
        return built
    go = shutil.which("go")
    if go is None:
        raise NotMeasured("neither ghz nor go on PATH: give --ghz PATH")
    print(f"building {GHZ_PACKAGE} into build/bin", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            (go, "install", GHZ_PACKAGE),
            env={**_environment(), "GOBIN": str(built.parent)},
            capture_output=True,
            text=True,
            timeout=_GO_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"building ghz took over {_GO_TIMEOUT_S:.0f} s") from None
    if done.returncode or not built.exists():
        raise NotMeasured(f"go could not build ghz: {_last_line(done.stderr)}")
    return built


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in bytes, system."""
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_commit() -> dict[str, Any]:
    """The git commit and whether the tree differs from it; None outside of a checkout."""
    try:
        return {
            "id": _git("rev-parse", "HEAD").strip(),
            "dirty": bool(_git("status", "--porcelain").strip()),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"id": None, "dirty": None}


def describe_versions() -> dict[str, str]:
    """Versions of Python, SQLite and the packages whose speed shows; Kafka's client if there."""
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    try:
        import confluent_kafka
    except ModuleNotFoundError:
        return versions
    versions["confluent-kafka"] = importlib.metadata.version("confluent-kafka")
    return versions | {"librdkafka": str(confluent_kafka.libversion()[0])}


def _delete_topic(url: str) -> None:
    # Only who measures on Kafka needs its client.
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    brokers, _, topic = url.removeprefix("kafka://").partition("/")
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    asked = admin.delete_topics(
        [topic], operation_timeout=_DELETE_TIMEOUT_S, request_timeout=_DELETE_TIMEOUT_S
    )
    try:
        asked[topic].result(2 * _DELETE_TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        cause = error.args[0] if error.args else "no answer"
        # A leader that never reached Kafka has made none.
        unknown = KafkaError.UNKNOWN_TOPIC_OR_PART
        if not (isinstance(cause, KafkaError) and cause.code() == unknown):
            print(f"the topic {topic} stays, delete it: {cause}", file=sys.stderr, flush=True)


def _await_ready(process: subprocess.Popen[str], log: str) -> str:
    if process.stdout is None:
        raise RunFailed("the leader's standard output is not read")
    line = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(_START_TIMEOUT_S):
            line = process.stdout.readline().strip()
    match = _READY.fullmatch(line)
    if match is None:
        raise RunFailed(f"the leader did not get ready: {line or _last_line(_read(log))}")
    return match[1]


def _stop(process: subprocess.Popen[str], log: str) -> None:
    process.terminate()
    try:
        code = process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the leader did not stop within {_STOP_TIMEOUT_S:.0f} s") from None
    if code:
        raise RunFailed(f"the leader ended with {code}: {_last_line(_read(log))}")


def _end(process: subprocess.Popen[str]) -> None:
    """End it whatever happened, so that its folder can go."""
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _run(command: Sequence[str], shown: str, tree: Path = ROOT) -> str:
    """Standard output of a program that must succeed."""
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunFailed(f"{shown}: {error}") from None
    if done.returncode:
        raise RunFailed(f"{shown}: exit code {done.returncode}: {done.stderr[-_ERROR_CHARACTERS:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    """What a user set for a leader of their own must not reach the suite's."""
    return {name: value for name, value in os.environ.items() if "RINGLEDGER_" not in name}


def _shown(arguments: Sequence[str]) -> str:
    return shlex.join(("python", "-m", *arguments))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
