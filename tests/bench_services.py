"""Kafka and PostgreSQL for benchmarks: their settings are part of what a figure means."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from client_app.bench_machine import ROOT, NotMeasured, RunFailed, fresh_folder
from tests.service_programs import (
    KAFKA_VERSION,
    ServiceFailed,
    java_program,
    missing_for_kafka,
    missing_for_postgres,
    postgres_programs,
)
from tests.services import KafkaCluster, Postgres

BROKER_PROPERTIES: Final = {
    # A deleted topic's files stay a minute by default: with them the disk fills up.
    "log.segment.delete.delay.ms": "1000",
}
HEAP: Final = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")
SMALL_HEAP: Final = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC")
"""Three brokers share the machine with leader and client."""

POSTGRES_SETTINGS: Final = {
    # What everybody raises; fsync, synchronous_commit and full_page_writes stay on.
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
}


@contextmanager
def kafka(brokers: int = 1, java_flags: Sequence[str] = HEAP) -> Iterator[str]:
    """Fresh brokers: what `--journal` takes, kafka://HOST:PORT/bench, with no such topic yet.

    Raises NotMeasured and RunFailed.
    """
    if missing := missing_for_kafka():
        raise NotMeasured(missing)
    with fresh_folder() as folder:
        cluster = KafkaCluster(ROOT / folder, brokers, BROKER_PROPERTIES, java_flags=java_flags)
        try:
            cluster.start()
            yield f"kafka://{cluster.bootstrap}/bench"
        except ServiceFailed as error:
            raise _told(error) from None
        finally:
            cluster.kill()


@contextmanager
def postgres(settings: Mapping[str, str] = POSTGRES_SETTINGS) -> Iterator[Postgres]:
    """A fresh PostgreSQL server. Raises NotMeasured and RunFailed."""
    if missing := missing_for_postgres():
        raise NotMeasured(missing)
    with fresh_folder() as folder:
        try:
            with Postgres(ROOT / folder / "postgres", settings) as server:
                yield server
        except ServiceFailed as error:
            raise _told(error) from None


def _told(error: ServiceFailed) -> RunFailed:
    """Its first line; the end of the server's log, which follows, is told here once."""
    print(error, file=sys.stderr, flush=True)
    return RunFailed(str(error).partition("\n")[0])


def server_versions() -> dict[str, str]:
    """Versions of Kafka, its Java, PostgreSQL and its client, as far as they are here."""
    versions = {"kafka": KAFKA_VERSION, "psycopg": psycopg.__version__}
    programs, java = postgres_programs(), java_program()
    if programs is not None:
        versions["postgres"] = first_line(str(programs / "postgres"), "--version")
    if java is not None:
        versions["java"] = first_line(java, "-version")
    return versions


def first_line(*command: str) -> str:
    """What a program says of its version, or that it says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    found = re.search(r"\S.*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
