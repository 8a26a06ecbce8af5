"""The journal's topic: found, or created, and refused when it could lose or reorder history."""

import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, TopicDescription

from cluster_app.errors import Stopped
from cluster_app.kafka_options import MESSAGE_BYTES_MIN, REQUIRED_OF_TOPIC, KafkaOptions
from cluster_core.errors import JournalFault, JournalRefused

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.25
_LOOK_S: Final = 0.05
_SAY_FIRST_S: Final = 1.0
_SAY_EVERY_S: Final = 5.0
REPLICAS_MAX: Final = 3
"""Copies that a new topic gets where nothing else is set and that many brokers live."""

_UNREACHABLE: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.REQUEST_TIMED_OUT,
    }
)


@dataclass(frozen=True)
class Topic:
    """A topic that was checked: `message_bytes_max` is its limit."""

    name: str
    message_bytes_max: int
    replicas: int


class ClientErrors:
    """librdkafka's `error_cb`: logs each kind every 5 s at most, keeps what explains a failure."""

    def __init__(self) -> None:
        self.reason = ""
        """Why a broker was not reached last, if that is known."""
        self.refusal = ""
        """Why a broker refused the login."""
        self._said: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        """Take one error, on whichever thread polls the client."""
        code, now = error.code(), time.monotonic()
        if code == KafkaError._AUTHENTICATION:
            self.refusal = error.str()
        if code != KafkaError._ALL_BROKERS_DOWN:
            self.reason = error.str()
        if now - self._said.get(code, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[code] = now
            structlog.get_logger().warning("kafka", code=error.name(), reason=error.str())


class _Requests:
    """Waits for answers no longer than `options.wait_s`, a refused login or a stop.

    The client itself notices none of these while it looks for a broker.
    """

    def __init__(
        self,
        admin: AdminClient,
        url: str,
        wait_s: float,
        errors: ClientErrors,
        stopping: Callable[[], bool],
    ) -> None:
        self.admin = admin
        self._url = url
        self._wait_s = wait_s
        self._errors = errors
        self._stopping = stopping
        self._deadline = time.monotonic() + wait_s
        self._say_at = time.monotonic() + _SAY_FIRST_S
        self._failure = "no answer"

    def result(self, asked: "futures.Future[T]") -> T:
        """The answer. Raises KafkaException and what `check` raises."""
        while not futures.wait((asked,), _LOOK_S).done:
            self.check()
        return asked.result()

    def retry_after(self, failure: str) -> None:
        """Wait before the next try. Raises what `check` raises."""
        self._failure = failure
        self.check()
        time.sleep(_RETRY_S)

    def check(self) -> None:
        """Raises Stopped, JournalRefused for a refused login, JournalFault past the deadline."""
        self.admin.poll(0)
        now = time.monotonic()
        reason = self._errors.reason or self._failure
        if self._stopping():
            raise Stopped("stopped before it reached the journal")
        if self._errors.refusal:
            raise JournalRefused(
                f"{self._url}: {self._errors.refusal}: check security.protocol and sasl.* in "
                "--kafka-properties"
            )
        if now > self._deadline:
            raise JournalFault(
                f"{self._url}: no broker answered for {self._wait_s:g} s ({reason}): start Kafka, "
                "or check the address and --kafka-properties"
            )
        if now > self._say_at:
            self._say_at = now + _SAY_EVERY_S
            structlog.get_logger().warning(
                "journal_unreachable",
                journal=self._url,
                reason=reason,
                seconds_left=round(self._deadline - now, 1),
            )


def open_topic(
    admin: AdminClient,
    url: str,
    name: str,
    options: KafkaOptions,
    errors: ClientErrors,
    stopping: Callable[[], bool],
) -> Topic:
    """Find or create the topic and check it; tries for `options.wait_s` to reach a broker.

    `errors` is the `error_cb` of `admin`. Raises JournalFault when no broker answered,
    JournalRefused for a topic that is no journal's and for a refused login, Stopped when
    `stopping` says so.
    """
    requests = _Requests(admin, url, options.wait_s, errors, stopping)
    while True:
        try:
            description = _describe(requests, name) or _create(requests, name, options)
            if description is not None and description.partitions:
                return _check(requests, url, description, options)
            failure = "the topic has just been created"
        except KafkaException as error:
            failure = _reason(error)
            if _code(error) not in _UNREACHABLE:
                raise JournalRefused(f"{url}: {failure}") from None
        requests.retry_after(failure)


def _describe(requests: _Requests, name: str) -> TopicDescription | None:
    """The topic, or None. Unlike a request for metadata this never creates one."""
    asked = requests.admin.describe_topics(
        TopicCollection([name]), request_timeout=REQUEST_TIMEOUT_S
    )
    try:
        found: TopicDescription = requests.result(asked[name])
        return found
    except KafkaException as error:
        if _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def _create(requests: _Requests, name: str, options: KafkaOptions) -> TopicDescription | None:
    """Create the topic, unless another node is just doing so; it may be visible only later."""
    admin = requests.admin
    cluster = requests.result(admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S))
    replicas = options.replication_factor or min(REPLICAS_MAX, len(cluster.nodes))
    properties = {
        **REQUIRED_OF_TOPIC,
        "min.insync.replicas": str(replicas // 2 + 1),
        **options.topic_properties,
    }
    asked = admin.create_topics(
        [NewTopic(name, 1, replicas, config=properties)], request_timeout=REQUEST_TIMEOUT_S
    )
    try:
        requests.result(asked[name])
    except KafkaException as error:
        if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    else:
        structlog.get_logger().info("topic_created", topic=name, replicas=replicas, **properties)
    return _describe(requests, name)


def _check(
    requests: _Requests, url: str, description: TopicDescription, options: KafkaOptions
) -> Topic:
    name, partitions = description.name, description.partitions
    if len(partitions) != 1:
        raise JournalRefused(
            f"{url}: the topic has {len(partitions)} partitions, a journal has one, for only one "
            "keeps the order of all: choose another topic"
        )
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    asked = requests.admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
    present = {key: entry.value for key, entry in requests.result(asked[resource]).items()}
    _check_properties(url, name, present, {**REQUIRED_OF_TOPIC, **options.topic_properties})
    message_bytes_max = int(present["max.message.bytes"])
    if message_bytes_max < MESSAGE_BYTES_MIN:
        raise JournalRefused(
            f"{url}: the topic takes messages of {message_bytes_max} bytes, a batch may need "
            f"{MESSAGE_BYTES_MIN}: {_advice(name, 'max.message.bytes', '1048588')}"
        )
    replicas = len(partitions[0].replicas)
    if replicas < options.replication_factor:
        raise JournalRefused(
            f"{url}: the topic has {replicas} replicas, --kafka-replication-factor is "
            f"{options.replication_factor}: reassign the topic's replicas, or lower the setting"
        )
    if int(present["min.insync.replicas"]) * 2 <= replicas:
        structlog.get_logger().warning(
            "few_insync_replicas",
            replicas=replicas,
            min_insync_replicas=int(present["min.insync.replicas"]),
            meaning="an answered command may be on fewer brokers than half",
        )
    return Topic(name, message_bytes_max, replicas)


def _check_properties(
    url: str, name: str, present: Mapping[str, str | None], required: Mapping[str, str]
) -> None:
    for key, value in required.items():
        if key not in present:
            raise JournalRefused(f"{url}: the broker knows no property {key} of a topic")
        if present[key] != value:
            raise JournalRefused(
                f"{url}: the topic has {key}={present[key]}, a journal needs {value}: "
                f"{_advice(name, key, value)}"
            )


def _advice(name: str, key: str, value: str) -> str:
    return (
        f"choose another topic, or set it: kafka-configs.sh --alter --entity-type topics "
        f"--entity-name {name} --add-config {key}={value}"
    )


def _code(error: KafkaException) -> int:
    cause: Any = error.args[0]
    return int(cause.code())


def _reason(error: KafkaException) -> str:
    cause: Any = error.args[0]
    return str(cause.str())
