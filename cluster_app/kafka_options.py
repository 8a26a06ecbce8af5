"""What a Kafka journal is opened with: its URL, librdkafka's properties, the topic's own.

Only text is looked at here, so that wrong settings are told before anything is connected.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cluster_app.errors import UsageError
from cluster_core.batch import MAX_BATCH_BYTES

_URL: Final = re.compile(r"kafka://(?P<brokers>[^/\s]+)/(?P<topic>[A-Za-z0-9._-]{1,249})")
_BROKER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:,\[\]]+):[0-9]{1,5}")

RECORD_OVERHEAD_BYTES: Final = 256
"""Above a value's own: Kafka's batch header (61 bytes), the record's lengths, and some room."""

MESSAGE_BYTES_MIN: Final = MAX_BATCH_BYTES + RECORD_OVERHEAD_BYTES
"""The least `max.message.bytes` of a journal's topic."""

_OURS: Final = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "auto.offset.reset",
        "bootstrap.servers",
        "check.crcs",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "isolation.level",
        "message.max.bytes",
        "message.send.max.retries",
        "message.timeout.ms",
        "metadata.broker.list",
        "request.required.acks",
        "retries",
        "transactional.id",
    }
)
"""Properties that the journal's promises rest on (librdkafka's names and their aliases)."""

REQUIRED_OF_TOPIC: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
}
"""Compaction and retention would lose history, an unclean election acknowledged batches; and
candidates compare their clock with the broker's."""


@dataclass(frozen=True)
class KafkaOptions:
    """Settings of a Kafka journal beyond its URL.

    `properties` go to librdkafka as they are. `replication_factor` 0 means 3, or as many as there
    are brokers. `topic_properties` are set when the topic is created and checked ever after.
    `wait_s` 0 means as long as it takes until a broker answers.
    With `create` False an absent topic is refused.
    """

    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    topic_properties: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int = 0
    wait_s: float = 30.0
    create: bool = True


def read_url(url: str) -> tuple[str, str]:
    """(brokers, topic) of `kafka://HOST:PORT[,HOST:PORT...]/TOPIC`. Raises UsageError."""
    if "@" in url:
        # not shown: it may be a password
        raise UsageError("the journal's URL holds no user or password: use --kafka-properties")
    match = _URL.fullmatch(url)
    if match is None or match["topic"] in (".", ".."):
        raise UsageError(f"journal {url!r}: use kafka://HOST:PORT[,HOST:PORT...]/TOPIC")
    for broker in match["brokers"].split(","):
        port = int(broker.rpartition(":")[2]) if _BROKER.fullmatch(broker) else 0
        if not 1 <= port <= 65_535:
            raise UsageError(f"journal {url!r}: a broker is HOST:PORT, not {broker!r}")
    return match["brokers"], match["topic"]


def read_properties(flag: str, text: str) -> dict[str, str]:
    """`key=value` pairs, divided by semicolons or, from a file named `@PATH`, one a line.

    Lines that begin with # are comments. Raises UsageError, never showing a value: some are
    secrets.
    """
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{flag}: cannot read {text[1:]}: {error}") from None
    else:
        lines = text.split(";")
    properties = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{flag}: pair {number} is not KEY=VALUE")
        properties[key.strip()] = value.strip()
    return properties


def check_properties(flag: str, properties: Mapping[str, str]) -> None:
    """Raises UsageError for a property that the journal itself must set."""
    for name in properties:
        if name in _OURS:
            raise UsageError(f"{flag}: {name} is the journal's own: leave it out")


def check_topic_properties(flag: str, properties: Mapping[str, str]) -> None:
    """Raises UsageError for a topic's property that no journal may have."""
    for name, value in REQUIRED_OF_TOPIC.items():
        if properties.get(name, value) != value:
            raise UsageError(f"{flag}: {name} must be {value} on a journal's topic: leave it out")
    size = properties.get("max.message.bytes", str(MESSAGE_BYTES_MIN))
    if not size.isdecimal() or int(size) < MESSAGE_BYTES_MIN:
        raise UsageError(f"{flag}: max.message.bytes must be at least {MESSAGE_BYTES_MIN}")
