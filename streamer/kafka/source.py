"""Kafka to messages: group membership, polling, seeking, commits. Nothing is fetched from a partition before it is started.

Rebalance callbacks run on the client's own thread. They only pause and take notes: reading progress takes a round trip to
Redis, which may be away, and belongs to the pipeline.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from queue import SimpleQueue

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from streamer.config import KafkaSettings
from streamer.errors import BrokerUnavailable
from streamer.interfaces import PartitionChange, PollResult
from streamer.kafka.client import make_consumer
from streamer.kafka.patches import patch_group_join, patch_record_reading
from streamer.types import FrameMessage, Partition

log = structlog.get_logger("oddsight.consume")

_ANSWER_TIMEOUT_MS = 5_000
"""Without one, kafka-python waits for a dead broker for ever, and the group would take this consumer for stuck."""


class KafkaFrameSource:
    """:class:`~streamer.interfaces.FrameSource` on kafka-python."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._changes: SimpleQueue[PartitionChange] = SimpleQueue()
        patch_record_reading()
        self._consumer: KafkaConsumer = make_consumer(settings)
        patch_group_join(self._consumer)
        self.joined = False
        self._consumer.subscribe([settings.topic], listener=_Listener(self))

    def poll(self, timeout_s: float) -> PollResult:
        """See :meth:`streamer.interfaces.FrameSource.poll`.

        Raises:
            BrokerUnavailable: Kafka answered with an error that waiting does not cure.
        """
        messages: list[FrameMessage] = []
        try:
            for records in self._consumer.poll(timeout_ms=max(0, round(timeout_s * 1000))).values():
                messages += map(_message, records)
        except KafkaError as error:
            if not (error.retriable or isinstance(error, OffsetOutOfRangeError)):
                raise BrokerUnavailable(f"Kafka: {error}") from error
            log.warning("poll failed, reading the progress again", error=str(error))
            messages = []
            self._note_failed_poll(error)
        changes = []
        while not self._changes.empty():
            changes.append(self._changes.get())
        return PollResult(changes, messages)

    def _note_failed_poll(self, error: KafkaError) -> None:
        """Every partition begins again: the failed poll may have swallowed messages of those it does not name."""
        outside = set(error.args[0]) if isinstance(error, OffsetOutOfRangeError) else set()
        for where in self._consumer.assignment():
            self._changes.put(PartitionChange("out_of_range" if where in outside else "assigned", _partition(where)))

    def start(self, partition: Partition, offset: int) -> None:
        """See :meth:`streamer.interfaces.FrameSource.start`."""
        # Revoked a moment ago on the client's thread: the next poll says so.
        with suppress(ValueError, KeyError):
            self._consumer.seek(_topic_partition(partition), offset)
            self._consumer.resume(_topic_partition(partition))

    def pause(self, partition: Partition) -> None:
        """See :meth:`streamer.interfaces.FrameSource.pause`."""
        with suppress(KeyError):  # revoked: nothing is delivered anyway
            self._consumer.pause(_topic_partition(partition))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """See :meth:`streamer.interfaces.FrameSource.bounds`.

        Raises:
            BrokerUnavailable: Kafka did not answer.
        """
        where = _topic_partition(partition)
        try:
            first = self._consumer.beginning_offsets([where], timeout_ms=_ANSWER_TIMEOUT_MS)[where]
            return first, self._consumer.end_offsets([where], timeout_ms=_ANSWER_TIMEOUT_MS)[where]
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not tell its offsets: {error}") from error

    def committed(self, partition: Partition) -> int | None:
        """See :meth:`streamer.interfaces.FrameSource.committed`.

        Raises:
            BrokerUnavailable: Kafka did not answer.
        """
        try:
            offset: int | None = self._consumer.committed(_topic_partition(partition), timeout_ms=_ANSWER_TIMEOUT_MS)
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not tell the group's offset: {error}") from error
        return offset

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """See :meth:`streamer.interfaces.FrameSource.commit`. Never waits; a commit that fails is made good by the next."""
        if offsets:
            self._consumer.commit_async(
                {_topic_partition(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()},
                callback=_log_failed_commit,
            )

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        """See :meth:`streamer.interfaces.FrameSource.lag`. From fetch replies: exact on brokers whose end offsets are not."""
        newest = self._consumer.highwater(_topic_partition(partition))
        return None if newest is None else max(0, newest - next_offset)

    def note_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called on the client's thread."""
        for where in revoked:
            self._changes.put(PartitionChange("revoked", _partition(where)))

    def note_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called on the client's thread."""
        for where in assigned:
            # Any position will do: paused, it fetches nothing, and with one the client asks for no reset policy.
            self._consumer.seek(where, 0)
            self._consumer.pause(where)
            # Not before: the pipeline may start the partition the moment it hears of it.
            self._changes.put(PartitionChange("assigned", _partition(where)))
        self.joined = True

    def close(self) -> None:
        """See :meth:`streamer.interfaces.FrameSource.close`."""
        self._consumer.close(autocommit=False)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no type hints
    def __init__(self, source: KafkaFrameSource) -> None:
        self._source = source

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._source.note_revoked(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._source.note_assigned(assigned)


def _log_failed_commit(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        log.info("commit failed, the next one makes up for it", error=str(response))


def _message(record: object) -> FrameMessage:
    return FrameMessage(
        partition=Partition(record.topic, record.partition),  # type: ignore[attr-defined]  # kafka-python's named tuple, untyped
        offset=record.offset,  # type: ignore[attr-defined]  # likewise
        key=record.key,  # type: ignore[attr-defined]  # likewise
        value=record.value,  # type: ignore[attr-defined]  # likewise
        # Kafka allows a header without a value, and old records without a time.
        headers=tuple((name, value or b"") for name, value in record.headers or ()),  # type: ignore[attr-defined]  # likewise
        timestamp_ms=-1 if record.timestamp is None else record.timestamp,  # type: ignore[attr-defined]  # likewise
    )


def _partition(where: TopicPartition) -> Partition:
    return Partition(where.topic, where.partition)


def _topic_partition(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
