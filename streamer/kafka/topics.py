"""The topic of frames as a :class:`~streamer.interfaces.FrameSource`.

It does group membership, polling, seeking and commits. Its rebalance callbacks run on the client's own thread. They only
pause partitions and record the change: reading progress takes a round trip to Redis, which may be down, and belongs to the
pipeline.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable, ChangeKind, PartitionChange, PollResult, TopicVersion
from streamer.kafka.client import make_consumer
from streamer.kafka.patches import patch_group_join, patch_record_reading, patch_resuming, topic_id
from streamer.kafka.records import ReadingFault
from streamer.types import FrameMessage, Partition

log = structlog.get_logger("oddsight.consume")

_REQUEST_TIMEOUT_MS = 5_000
"""By default kafka-python waits for a dead broker for ever, and the group would consider this consumer stuck."""


class KafkaFrameSource(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no type hints
    """:class:`~streamer.interfaces.FrameSource` on kafka-python, subscribed from the start.

    Its methods raise BrokerUnavailable if Kafka does not answer, or answers with an error that waiting does not cure.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._changes: SimpleQueue[PartitionChange] = SimpleQueue()
        patch_record_reading()
        self._consumer: KafkaConsumer = make_consumer(settings)
        patch_group_join(self._consumer)
        patch_resuming(self._consumer)
        self.joined = False
        self._consumer.subscribe([settings.topic], listener=self)

    def poll(self, timeout_s: float) -> PollResult:
        messages: list[FrameMessage] = []
        try:
            polled = self._consumer.poll(timeout_ms=max(0, round(timeout_s * 1000)))
            messages = [_message(record) for records in polled.values() for record in records]
        except KafkaError as error:
            if not (error.retriable or isinstance(error, OffsetOutOfRangeError)):
                raise BrokerUnavailable(f"Kafka: {error}") from error
            log.warning("poll failed, reading the progress again", error=str(error))
            self._restart_partitions(error)
        changes = []
        while not self._changes.empty():
            changes.append(self._changes.get())
        return PollResult(changes, messages)

    def _restart_partitions(self, error: KafkaError) -> None:
        """All partitions, because the failed poll may have dropped messages of those that the error does not name."""
        out_of_range = set(error.args[0]) if isinstance(error, OffsetOutOfRangeError) else set()
        for partition in self._consumer.assignment():
            kind: ChangeKind = "out_of_range" if partition in out_of_range else "assigned"
            self._changes.put(PartitionChange(kind, Partition(*partition)))

    def start(self, partition: Partition, offset: int) -> None:
        # It may just have been revoked on the client's thread; the next poll will say so.
        with suppress(ValueError, KeyError):
            self._consumer.seek(TopicPartition(*partition), offset)
            self._consumer.resume(TopicPartition(*partition))

    def pause(self, partition: Partition) -> None:
        with suppress(KeyError):  # revoked: nothing is delivered anyway
            self._consumer.pause(TopicPartition(*partition))

    def resume(self, partition: Partition) -> None:
        # Without a seek, so that what was fetched before the pause is not fetched again.
        with suppress(KeyError):
            self._consumer.resume(TopicPartition(*partition))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        where = TopicPartition(*partition)
        try:
            first = self._consumer.beginning_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]
            return first, self._consumer.end_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return its offsets: {error}") from error

    def topic(self, partition: Partition) -> TopicVersion:
        try:
            partitions = self._consumer.partitions_for_topic(partition.topic)
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return its topic: {error}") from error
        if not partitions:
            raise BrokerUnavailable(f"{partition}: Kafka knows no partitions of its topic at the moment")
        return TopicVersion(topic_id=topic_id(self._consumer, partition.topic), partitions=len(partitions))

    def committed(self, partition: Partition) -> int | None:
        try:
            offset: int | None = self._consumer.committed(TopicPartition(*partition), timeout_ms=_REQUEST_TIMEOUT_MS)
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return the group's offset: {error}") from error
        return offset

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit without waiting; a commit that fails is made up for by the next."""
        if offsets:
            self._consumer.commit_async(
                {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()},
                callback=_log_failed_commit,
            )

    def position(self, partition: Partition) -> int | None:
        with suppress(KafkaError):  # also IllegalStateError: revoked
            # Without time, so that nothing is asked of the broker: every assigned partition has a position.
            offset: int | None = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
            return offset
        return None

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        # From fetch responses, which are right also on the embedded broker, whose end offsets are not.
        newest = self._consumer.highwater(TopicPartition(*partition))
        return None if newest is None else max(0, newest - next_offset)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        for partition in revoked:
            self._changes.put(PartitionChange("revoked", Partition(*partition)))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            # Any position will do: a paused partition is not fetched, and with a position the client needs no reset policy.
            self._consumer.seek(partition, 0)
            self._consumer.pause(partition)
            # Last, because the pipeline may start the partition as soon as it reads this.
            self._changes.put(PartitionChange("assigned", Partition(*partition)))
        self.joined = True

    def close(self) -> None:
        self._consumer.close(autocommit=False)


def _log_failed_commit(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        log.info("commit failed, the next one makes up for it", error=str(response))


def _message(record: Any) -> FrameMessage:
    return FrameMessage(
        partition=Partition(record.topic, record.partition),
        offset=record.offset,
        key=record.key,
        value=record.value,
        # Kafka allows a header without a value, and old records without a timestamp.
        headers=tuple((name, value or b"") for name, value in record.headers or ()),
        timestamp_ms=-1 if record.timestamp is None else record.timestamp,
        first_offset=record.headers.first_offset if isinstance(record.headers, ReadingFault) else None,
    )
