"""Reads messages of the topic of frames again, as no member of any group."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable
from streamer.kafka.client import make_consumer
from streamer.kafka.patches import patch_record_reading
from streamer.kafka.topics import to_message
from streamer.types import FrameMessage, Partition

_REQUEST_TIMEOUT_MS = 5_000
_SILENCE_MS = 1_000
"""Where the broker delivers nothing for so long, the partition has ended."""


class MessageHistory:
    """What Kafka still has of the frames. Not thread-safe. Every method raises BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings) -> None:
        patch_record_reading()
        self._topic = settings.topic
        self._consumer: KafkaConsumer = make_consumer(settings, group_id=None)

    def partitions(self) -> list[Partition]:
        """The partitions of the topic as they are now."""
        with _kafka_errors(self._topic):
            numbers = self._consumer.partitions_for_topic(self._topic) or ()
        return [Partition(self._topic, number) for number in sorted(numbers)]

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that Kafka still has, and the offset that the next message will get."""
        where = TopicPartition(*partition)
        with _kafka_errors(partition):
            first = self._consumer.beginning_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]
            return first, self._consumer.end_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]

    def read(self, partition: Partition, offset: int) -> Iterator[FrameMessage]:
        """The messages from ``offset``, or from the first that Kafka still has, up to the newest one."""
        where = TopicPartition(*partition)
        first, _ = self.bounds(partition)
        with _kafka_errors(partition):
            self._consumer.assign([where])
            self._consumer.seek(where, max(offset, first))
            while records := self._poll(where):
                yield from records
                # Of the fetch's answer; end offsets of the embedded broker are not right.
                if self._consumer.position(where) >= (self._consumer.highwater(where) or 0):
                    return

    def _poll(self, where: TopicPartition) -> list[FrameMessage]:
        with suppress(OffsetOutOfRangeError):  # Kafka has deleted them meanwhile
            polled = self._consumer.poll(timeout_ms=_SILENCE_MS)
            return [to_message(record) for record in polled.get(where, ())]
        return []

    def close(self) -> None:
        self._consumer.close(autocommit=False)


@contextmanager
def _kafka_errors(where: object) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise BrokerUnavailable(f"{where}: Kafka does not return its messages: {error}") from error
