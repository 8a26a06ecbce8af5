"""The journal's topic: found, or created, and refused when it could lose or reorder history."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
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
_REACH_S: Final = 1.0
_SAY_FIRST_S: Final = 1.0
_UNTRUSTED: Final = "certificate"
_SAY_EVERY_S: Final = 5.0
REPLICAS_MAX: Final = 3
"""Copies that a new topic gets where nothing else is set and that many brokers live."""

UNREACHABLE: Final = frozenset(
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
        # a broker may know a new topic only after a moment
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""Errors that pass once the brokers are up; all others are refusals."""

PARTITION_UNREACHABLE: Final = UNREACHABLE | {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
"""Likewise for requests to the one broker that leads the partition."""


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


class _Wait:
    """The wait for a broker: ends at a deadline if there is one, a refused login or a stop."""

    def __init__(
        self, url: str, wait_s: float, errors: ClientErrors, stopping: Callable[[], bool]
    ) -> None:
        self._url = url
        self._wait_s = wait_s
        self._errors = errors
        self._stopping = stopping
        self._deadline = time.monotonic() + (wait_s or math.inf)
        self._say_at = time.monotonic() + _SAY_FIRST_S

    def check(self, failure: str) -> None:
        """Raises Stopped, JournalRefused for a refused login, JournalFault past the deadline."""
        now = time.monotonic()
        reason = self._errors.reason or failure
        if self._stopping():
            raise Stopped("stopped before it reached the journal")
        if self._errors.refusal:
            raise JournalRefused(
                f"{self._url}: {self._errors.refusal}: check security.protocol and sasl.* in "
                "--kafka-properties"
            )
        if now > self._deadline:
            properties = "--kafka-properties"
            if _UNTRUSTED in str(reason):  # librdkafka has two texts, one without a hint
                properties += ", where ssl.ca.location names who signed the broker's certificate"
            raise JournalFault(
                f"{self._url}: no broker answered for {self._wait_s:g} s ({reason}): start Kafka, "
                f"or check the address and {properties}"
            )
        if now > self._say_at:
            self._say_at = now + _SAY_EVERY_S
            left_s = self._deadline - now
            structlog.get_logger().warning(
                "journal_unreachable",
                journal=self._url,
                reason=reason,
                retry_in_s=_RETRY_S,
                **({} if math.isinf(left_s) else {"seconds_left": round(left_s, 1)}),
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

    `errors` is the `error_cb` of `admin`. Raises JournalFault when none answered for so long,
    JournalRefused for a topic that is no journal's and for a refused login, Stopped when
    `stopping` says so.
    """
    wait = _Wait(url, options.wait_s, errors, stopping)
    while True:
        try:
            # The requests below would look for a broker longer, and none may be left unanswered:
            # librdkafka aborts where Python's collector frees a client on that client's thread.
            admin.list_topics(timeout=_REACH_S)
            description = _describe(admin, name) or _create(admin, name, options)
            if description is not None and description.partitions:
                return _check(admin, url, description, options)
            failure = "the topic has just been created"
        except KafkaException as error:
            failure = _reason(error)
            if _code(error) not in UNREACHABLE:
                raise JournalRefused(f"{url}: {failure}") from None
        except TimeoutError:
            failure = "no answer"
        admin.poll(0)  # lets `errors` know
        wait.check(failure)
        time.sleep(_RETRY_S)


def _describe(admin: AdminClient, name: str) -> TopicDescription | None:
    """The topic, or None. Unlike a request for metadata this never creates one."""
    asked = admin.describe_topics(TopicCollection([name]), request_timeout=REQUEST_TIMEOUT_S)
    try:
        found: TopicDescription = _result(asked[name])
        return found
    except KafkaException as error:
        if _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def _create(admin: AdminClient, name: str, options: KafkaOptions) -> TopicDescription | None:
    """Create the topic, unless another node is just doing so; it may be visible only later."""
    if not options.create:
        raise JournalRefused(f"there is no topic {name!r}: name a journal that exists")
    cluster = _result(admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S))
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
        _result(asked[name])
    except KafkaException as error:
        if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    else:
        structlog.get_logger().info("topic_created", topic=name, replicas=replicas, **properties)
    return _describe(admin, name)


def _check(
    admin: AdminClient, url: str, description: TopicDescription, options: KafkaOptions
) -> Topic:
    name, partitions = description.name, description.partitions
    if len(partitions) != 1:
        raise JournalRefused(
            f"{url}: the topic has {len(partitions)} partitions, a journal has one, for only one "
            "keeps the order of all: choose another topic"
        )
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    asked = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
    present = {key: entry.value for key, entry in _result(asked[resource]).items()}
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
    _warn_of_few(admin, replicas, int(present["min.insync.replicas"]))
    return Topic(name, message_bytes_max, replicas)


def _warn_of_few(admin: AdminClient, replicas: int, min_insync_replicas: int) -> None:
    brokers = len(_result(admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)).nodes)
    if replicas < min(REPLICAS_MAX, brokers):
        structlog.get_logger().warning(
            "few_replicas",
            replicas=replicas,
            brokers=brokers,
            advice="reassign the topic's replicas; --kafka-replication-factor demands them",
        )
    if min_insync_replicas * 2 <= replicas:
        structlog.get_logger().warning(
            "few_insync_replicas",
            replicas=replicas,
            min_insync_replicas=min_insync_replicas,
            meaning="an answered command may be on fewer brokers than half",
        )


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


def _result(asked: "Future[T]") -> T:
    # the request's own timeout ends this wait; the other one guards against a lost answer
    return asked.result(2 * REQUEST_TIMEOUT_S)


def _code(error: KafkaException) -> int:
    cause: Any = error.args[0]
    return int(cause.code())


def _reason(error: KafkaException) -> str:
    cause: Any = error.args[0]
    return str(cause.str())
