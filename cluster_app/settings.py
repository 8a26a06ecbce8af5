"""The cluster's settings: each a flag and an environment variable RINGLEDGER_<NAME>.

A flag wins over its variable, the variable over the default. All are checked at start.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, TypeVar

from cluster_app.errors import UsageError
from cluster_app.kafka_options import (
    KafkaOptions,
    check_properties,
    check_topic_properties,
    read_properties,
)
from cluster_core.batch import LedgerParameters
from cluster_core.limits import MAX_READERS

_ENVIRONMENT_PREFIX: Final = "RINGLEDGER_"
Settings = TypeVar("Settings", bound="NodeSettings")
_HTTP_PORT_ABOVE: Final = 100
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):(\d{1,5})")


class TlsFiles(NamedTuple):
    """Paths of PEM files; `client_authority` is empty where clients need no certificate."""

    certificate: str
    key: str
    client_authority: str = ""


def _setting(default: Any, text: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"help": text, "secret": secret})


@dataclass(frozen=True)
class NodeSettings:
    """What every node takes: journal, snapshots, its own address, log. Durations are seconds."""

    listen: str = _setting("127.0.0.1:9500", "HOST:PORT to serve on")
    advertise: str = _setting("", "HOST:PORT that others are told (default: --listen)")
    node_id: str = _setting("leader", "this node's name, in status and journal")
    tls_cert: str = _setting("", "PEM file: certificate, and those between it and its authority")
    tls_key: str = _setting("", "PEM file: the certificate's key, without a passphrase")
    tls_client_ca: str = _setting(
        "", "PEM file: authorities; clients must present a certificate of one of them (mTLS)"
    )
    token: str = _setting(
        "",
        "tokens, one a line, of which every call but health must bear one; better @FILE",
        secret=True,
    )
    max_streams: int = _setting(1_024, "concurrent calls served")
    max_message_bytes: int = _setting(1 << 20, "largest message taken")
    journal: str = _setting(
        "sqlite:///data/journal.db",
        "journal: sqlite:///PATH or kafka://HOST:PORT[,HOST:PORT...]/TOPIC",
    )
    kafka_properties: str = _setting(
        "",
        "librdkafka properties (TLS, SASL, ...): KEY=VALUE;KEY=VALUE or @FILE with one a line",
        secret=True,
    )
    kafka_topic_properties: str = _setting(
        "", "properties of the journal's topic, set when it is created and checked later"
    )
    kafka_replication_factor: int = _setting(
        0, "replicas of the journal's topic; 0: 3, or as many as there are brokers"
    )
    kafka_wait_s: float = _setting(
        0.0, "how long a start waits for a broker that answers; 0: as long as it takes"
    )
    snapshots: str = _setting(
        "",
        "snapshot store: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE; "
        "empty: sqlite:///data/snapshots.db, or beside another journal of that kind",
        secret=True,
    )
    snapshot: bool = _setting(True, "begin from the newest snapshot, not from the journal's start")
    log_level: str = _setting("info", "debug, info, warning or error")
    http_listen: str = _setting(
        "",
        "HOST:PORT for metrics and health, or off; empty: --listen's host, its port and 100 "
        "(port 0: any)",
    )

    def __post_init__(self) -> None:
        for name in ("listen", "advertise"):
            if getattr(self, name):
                split_address(getattr(self, name), name)
        if not 1 <= len(self.node_id.encode()) <= 255:
            raise UsageError("--node-id must be 1 to 255 bytes")
        if not 1 <= self.max_streams <= 1_000_000:
            raise UsageError("--max-streams must be 1 to 1,000,000")
        if not 1_024 <= self.max_message_bytes <= 1 << 26:
            raise UsageError("--max-message-bytes must be 1,024 to 67,108,864")
        if not 0 <= self.kafka_wait_s <= 3_600:
            raise UsageError("--kafka-wait-s must be 0 to 3600 seconds")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise UsageError("--log-level must be debug, info, warning or error")
        self.http_address()
        self.kafka()
        files = self.tls()
        if files is not None:
            from cluster_app.tls import check_tls

            check_tls(files)
        self.tokens()

    def tls(self) -> TlsFiles | None:
        """The files of the server's TLS, None for plain text. Raises UsageError."""
        if bool(self.tls_cert) != bool(self.tls_key):
            raise UsageError("--tls-cert and --tls-key go together: set both, or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise UsageError("--tls-client-ca needs --tls-cert and --tls-key")
        if not self.tls_cert:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    def tokens(self) -> tuple[str, ...]:
        """The tokens that calls must bear, none for no check. Raises UsageError."""
        if not self.token:
            return ()
        from cluster_app.tokens import read_tokens

        return read_tokens(self.token)

    def http_address(self) -> tuple[str, int] | None:
        """Host and port of the HTTP side, None for `off`. Raises UsageError."""
        if self.http_listen == "off":
            return None
        if self.http_listen:
            host, port = split_address(self.http_listen, "http_listen")
        else:
            host, port = split_address(self.listen, "listen")
            port = port and port + _HTTP_PORT_ABOVE
        if port > 65_535:
            raise UsageError(
                f"--listen has port {port - _HTTP_PORT_ABOVE}, and there is none "
                f"{_HTTP_PORT_ABOVE} above it: set --http-listen"
            )
        return host.strip("[]"), port

    def kafka(self) -> KafkaOptions:
        """What a Kafka journal is opened with. Raises UsageError."""
        if not 0 <= self.kafka_replication_factor <= 32_767:
            raise UsageError("--kafka-replication-factor must be 0 to 32,767")
        flag = "--kafka-properties"
        properties = read_properties(flag, self.kafka_properties)
        check_properties(flag, properties)
        flag = "--kafka-topic-properties"
        topic_properties = read_properties(flag, self.kafka_topic_properties)
        check_topic_properties(flag, topic_properties)
        return KafkaOptions(
            properties, topic_properties, self.kafka_replication_factor, self.kafka_wait_s
        )

    def snapshots_url(self) -> str:
        """The snapshot store's address: as set, or by the journal's name.

        So that a learner and a leader of one journal find each other's, and those of two journals
        don't: sqlite:///x/journal.db has sqlite:///x/snapshots.db, a Kafka topic T
        sqlite:///data/T-snapshots.db.
        """
        if self.snapshots:
            return self.snapshots
        scheme, _, path = self.journal.partition(":///")
        if scheme != "sqlite":
            return f"sqlite:///data/{self.journal.rpartition('/')[2]}-snapshots.db"
        folder, slash, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (stem, f".{suffix}") if dot else (name, "")
        stem = "snapshots" if stem == "journal" else f"{stem}-snapshots"
        return f"sqlite:///{folder}{slash}{stem}{suffix}"

    def _check_seconds(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) <= 3_600:
                raise UsageError(f"{_flag(name)} must be above 0 and at most 3600 seconds")


@dataclass(frozen=True)
class LearnerSettings(NodeSettings):
    """What `learner` takes."""

    listen: str = _setting("127.0.0.1:9502", "HOST:PORT to serve on")
    node_id: str = _setting("learner", "this node's name, in status")
    snapshot_interval_s: float = _setting(60.0, "time between two snapshots")
    snapshot_interval_commands: int = _setting(
        0, "commands after which a snapshot is taken before its time; 0: never"
    )
    stop_timeout_s: float = _setting(30.0, "time for the last snapshot at a stop")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds("stop_timeout_s")
        if not 0.1 <= self.snapshot_interval_s <= 86_400:
            raise UsageError("--snapshot-interval-s must be 0.1 to 86,400 seconds")
        if not 0 <= self.snapshot_interval_commands < 1 << 62:
            raise UsageError("--snapshot-interval-commands must be 0 or more")


@dataclass(frozen=True)
class ArchiverSettings(NodeSettings):
    """What `archiver` takes."""

    listen: str = _setting("127.0.0.1:9503", "HOST:PORT to serve on")
    node_id: str = _setting("archiver", "this node's name, in status")
    history: str = _setting(
        "sqlite:///data/history.db",
        "history: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE",
        secret=True,
    )
    refused: bool = _setting(False, "keep refused commands too; fixed by the first start")
    partition_rows: int = _setting(
        0, "commands of a partition; fixed by the first start (0: 2^19 in PostgreSQL, else 2^20)"
    )
    state_interval_s: float = _setting(300.0, "time between two saves of the archiver's own state")
    stop_timeout_s: float = _setting(30.0, "time for the last entries at a stop")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds("stop_timeout_s")
        if not 0.1 <= self.state_interval_s <= 86_400:
            raise UsageError("--state-interval-s must be 0.1 to 86,400 seconds")
        if self.partition_rows and not 1_000 <= self.partition_rows <= 1 << 30:
            raise UsageError("--partition-rows must be 0, or 1,000 to 1,073,741,824")


@dataclass(frozen=True)
class EdgeSettings(NodeSettings):
    """What nodes that serve the hot calls take beside."""

    edge: str = _setting("auto", "what serves gRPC: native, grpcio, or auto: native if it is built")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edge not in ("auto", "native", "grpcio"):
            raise UsageError("--edge must be auto, native or grpcio")


@dataclass(frozen=True)
class FollowerSettings(EdgeSettings):
    """What `follower` takes."""

    listen: str = _setting("127.0.0.1:9501", "HOST:PORT to serve on")
    node_id: str = _setting("follower", "this node's name, in status")
    workers: int = _setting(1, "processes that answer queries, on one port")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.workers <= MAX_READERS:
            raise UsageError(f"--workers must be 1 to {MAX_READERS}")


@dataclass(frozen=True)
class LeaderSettings(EdgeSettings):
    """What `leader` takes. None leaves the choice to the ledger."""

    takeover: bool = _setting(False, "take the epoch from a living leader")
    standby: bool = _setting(
        True, "wait as a standby while another node leads; without it: leave with exit code 3"
    )
    takeover_deadline_s: float = _setting(10.0, "how long --takeover tries")
    heartbeat_interval_s: float = _setting(0.25, "silence after which an idle leader writes")
    election_timeout_s: float = _setting(
        1.0, "silence that shows a dead leader (drawn from 1 to 1.5 times this)"
    )
    drain_timeout_s: float = _setting(10.0, "time for answers in flight at a stop")
    append_timeout_s: float = _setting(30.0, "time after which an unreported append ends the term")
    max_in_flight: int = _setting(65_536, "unanswered commands per stream before it is not read")
    window_capacity: int | None = _setting(
        None, "recent command ids kept, a power of two; fixed by the first start (2^22)"
    )
    id_ahead_ms: int | None = _setting(
        None, "how far a UUIDv7 may be ahead; fixed by the first start (1000)"
    )
    account_capacity: int | None = _setting(
        None, "accounts at most; fixed by the first start (2^26)"
    )
    hold_capacity: int | None = _setting(
        None, "open holds at most; fixed by the first start (2^22)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds(
            "takeover_deadline_s",
            "heartbeat_interval_s",
            "election_timeout_s",
            "drain_timeout_s",
            "append_timeout_s",
        )
        if self.heartbeat_interval_s * 2 > self.election_timeout_s:
            raise UsageError("--election-timeout-s must be at least twice --heartbeat-interval-s")
        if not 1 <= self.max_in_flight <= 1 << 20:
            raise UsageError("--max-in-flight must be 1 to 1,048,576 commands")
        try:
            self.parameters(None)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def parameters(self, ledger: LedgerParameters | None) -> LedgerParameters:
        """The ledger's parameters: its own, or those of a new one.

        Raises UsageError when a setting contradicts the ledger's own.
        """
        wanted = {
            "window_capacity": self.window_capacity,
            "id_ahead_ns": None if self.id_ahead_ms is None else self.id_ahead_ms * 1_000_000,
            "account_capacity": self.account_capacity,
            "hold_capacity": self.hold_capacity,
        }
        chosen = {name: value for name, value in wanted.items() if value is not None}
        if ledger is None:
            return LedgerParameters(**chosen)
        for name, value in chosen.items():
            if getattr(ledger, name) != value:
                raise UsageError(
                    f"{name} is set to {value}, but this ledger was begun with "
                    f"{getattr(ledger, name)}, for ever: leave the setting out"
                )
        return ledger


def split_address(address: str, name: str) -> tuple[str, int]:
    """HOST and PORT of an address. Raises UsageError for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65_535:
        raise UsageError(f"{_flag(name)} must be HOST:PORT, not {address!r}")
    return match[1], int(match[2])


def read_settings(
    settings: type[Settings],
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """A program's settings from flags and environment.

    Raises UsageError for a value that can't be used; argparse itself ends on an unknown flag.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m cluster_app {program}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Each flag is also an environment variable, RINGLEDGER_JOURNAL for --journal.",
    )
    secrets: dict[str, Any] = {}
    for setting in fields(settings):
        text = environment.get(_ENVIRONMENT_PREFIX + setting.name.upper())
        default = setting.default if text is None else _parse(setting.name, setting.type, text)
        options: dict[str, Any] = {"default": default, "help": setting.metadata["help"]}
        if setting.metadata["secret"]:
            # --help shows defaults, and a secret's comes from the environment
            secrets[setting.name] = default
            options["default"] = argparse.SUPPRESS
        if setting.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _metavar(setting.type)
            options["type"] = lambda text, setting=setting: _parse(setting.name, setting.type, text)
        parser.add_argument(_flag(setting.name), **options)
    return settings(**secrets | vars(parser.parse_args(arguments)))


def _parse(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("", "0", "false", "no", "off"):
            return False
        raise UsageError(f"{_flag(name)} must be true or false, not {text!r}")
    number = float if kind is float else int if kind in (int, int | None) else str
    try:
        return number(text)
    except ValueError:
        raise UsageError(f"{_flag(name)} must be a number, not {text!r}") from None


def _metavar(kind: Any) -> str:
    return "SECONDS" if kind is float else "N" if kind in (int, int | None) else "TEXT"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
