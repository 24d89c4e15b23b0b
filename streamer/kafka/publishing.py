"""Writes messages to a topic one after the other, each only when Kafka has stored the one before."""

from collections.abc import Mapping
from typing import Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable, MessageRefused
from streamer.kafka.client import check_kafka_settings, ensure_topic, make_producer
from streamer.kafka.patches import close_producer

_CLOSE_S: Final = 1.0


class TopicWriter:
    """Connects when it is needed, and stays connected until something fails."""

    def __init__(self, settings: KafkaSettings, topic: str, timeout_s: float) -> None:
        """Raises ConfigError if no connection can be tried."""
        check_kafka_settings(settings)
        self._settings, self._topic, self._timeout_s = settings, topic, timeout_s
        self._producer: KafkaProducer | None = None

    def write(self, key: str | None, value: bytes, headers: Mapping[str, str]) -> None:
        """Write a message, and wait until all replicas have it.

        Raises:
            BrokerUnavailable: it may be stored or not; what is written later never comes before it.
            MessageRefused: it is too large.
        """
        pairs = [(name, text.encode()) for name, text in headers.items()]
        try:
            sent = self._connected().send(self._topic, key=key and key.encode(), value=value, headers=pairs)
            sent.get(timeout=self._timeout_s)
        except MessageSizeTooLargeError as error:
            raise MessageRefused(f"Kafka topic {self._topic}: {error}") from error
        except (KafkaError, OSError) as error:
            self.close()  # else it might go on trying, and a later message overtake this one
            raise BrokerUnavailable(f"Kafka at {self._settings.bootstrap_servers}, topic {self._topic}: {error}") from error

    def close(self) -> None:
        """Disconnect; what is on its way is left to its fate."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            close_producer(producer, _CLOSE_S)

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            ensure_topic(self._settings, self._topic)
            wait_ms = round(self._timeout_s * 1000)
            self._producer = make_producer(self._settings, linger_ms=0, max_block_ms=wait_ms)
        return self._producer
