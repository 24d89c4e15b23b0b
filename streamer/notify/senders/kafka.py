"""Messages to a topic of Kafka."""

import json
from typing import Final

from deploy.errors import ConfigError, first_line
from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable, DeliveryFailed
from streamer.kafka.client import silence_kafka_log
from streamer.kafka.publishing import TopicWriter
from streamer.notify.messages import Message
from streamer.receivers import KafkaTopicSettings

KEY_HEADER: Final = "Idempotency-Key"


class Topic:
    """Writes messages to a topic, with the camera's name as key."""

    def __init__(self, name: str, settings: KafkaTopicSettings, kafka: KafkaSettings) -> None:
        """Raises ConfigError."""
        if settings.topic in {kafka.topic, kafka.deadletter_topic}:
            raise ConfigError(
                f"notify.receivers.{name}.topic must be another one than kafka.topic and kafka.deadletter_topic, "
                f"got {settings.topic!r}"
            )
        silence_kafka_log()
        self._writer = TopicWriter(kafka, settings.topic, settings.timeout_s)
        self.place = f"{kafka.bootstrap_servers}, topic {settings.topic}"

    def send(self, message: Message) -> None:
        value = json.dumps(message.content, ensure_ascii=False).encode()
        try:
            self._writer.write(message.camera_id, value, {KEY_HEADER: message.key, "content_type": "application/json"})
        except BrokerUnavailable as error:
            raise DeliveryFailed(first_line(error)) from error

    def lacks(self, message: Message) -> bool:
        return False

    def close(self) -> None:
        self._writer.close()
