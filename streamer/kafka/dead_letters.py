"""Sends rejected messages unchanged to the dead-letter topic, with headers that say where they came from and why."""

from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from streamer.config import KafkaSettings
from streamer.errors import BrokerUnavailable
from streamer.kafka.client import make_producer
from streamer.types import Rejected

_DETAIL_CHARS = 500


class KafkaDeadLetters:
    """:class:`~streamer.interfaces.DeadLetterSink` on a Kafka topic."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.deadletter_topic
        self._timeout_s = settings.session_timeout_ms / 1000
        self._producer: KafkaProducer = make_producer(settings)
        self._pending: list[Any] = []
        self._failure: KafkaError | None = None

    def send(self, rejected: Rejected) -> None:
        try:
            self._produce(rejected, rejected.message.value, ())
        except MessageSizeTooLargeError:
            # Kafka accepted the message, but this producer's limit is lower: send it without its value.
            self._produce(rejected, None, (("value_dropped", b"larger than this producer may send"),))
        except KafkaError as error:
            self._failure = error

    def flush(self) -> None:
        pending, self._pending = self._pending, []
        failure, self._failure = self._failure, None
        try:
            for future in pending:
                future.get(timeout=self._timeout_s)
        except KafkaError as error:
            failure = error
        if failure is not None:
            raise BrokerUnavailable(f"dead-letter topic {self._topic}: {failure}") from failure

    def close(self) -> None:
        self._producer.close(timeout=self._timeout_s)

    def _produce(self, rejected: Rejected, value: bytes | None, extra_headers: tuple[tuple[str, bytes], ...]) -> None:
        message = rejected.message
        headers = [
            *message.headers,
            ("reason", rejected.reason.encode()),
            ("detail", rejected.detail[:_DETAIL_CHARS].encode()),
            ("topic", message.partition.topic.encode()),
            ("partition", str(message.partition.number).encode()),
            ("offset", str(message.offset).encode()),
            *extra_headers,
        ]
        if message.key is None and value is None:
            value = b""  # the client refuses a record with neither
        self._pending.append(self._producer.send(self._topic, key=message.key, value=value, headers=headers))
